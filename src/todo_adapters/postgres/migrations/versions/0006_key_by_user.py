"""The tasks' primary key becomes (user_id, id): the ids of different users never conflict."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '1s'")
    op.execute(
        "ALTER TABLE todo.tasks DROP CONSTRAINT tasks_pkey,"
        " ADD CONSTRAINT tasks_pkey PRIMARY KEY USING INDEX tasks_user_id_id_idx"
    )
