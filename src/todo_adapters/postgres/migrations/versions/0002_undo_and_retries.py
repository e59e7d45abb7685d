"""Soft deletes and idempotency keys."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("deleted_at", sa.DateTime(timezone=True)), schema="todo")
    op.create_index(
        "tasks_live_newest_idx",
        "tasks",
        ["user_id", sa.text("created_at DESC"), sa.text("id DESC")],
        schema="todo",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "tasks_deleted_idx",
        "tasks",
        ["user_id", "deleted_at"],
        schema="todo",
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.drop_index("tasks_newest_idx", "tasks", schema="todo")
    op.create_table(
        "idempotency_keys",
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("task_id", sa.Uuid, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        schema="todo",
    )
