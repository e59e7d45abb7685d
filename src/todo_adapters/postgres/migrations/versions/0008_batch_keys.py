"""The key of a batch has the outcomes of the batch instead of a task's id."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '1s'")
    op.execute(
        "ALTER TABLE todo.idempotency_keys ALTER COLUMN task_id DROP NOT NULL,"
        " ADD COLUMN IF NOT EXISTS outcomes jsonb"
    )
