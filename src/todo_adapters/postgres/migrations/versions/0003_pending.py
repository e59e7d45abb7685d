"""An index for lists of pending tasks."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index(
        "tasks_pending_newest_idx",
        "tasks",
        ["user_id", sa.text("created_at DESC"), sa.text("id DESC")],
        schema="todo",
        postgresql_where=sa.text("deleted_at IS NULL AND completed_at IS NULL"),
    )
