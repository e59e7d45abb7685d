"""Positions and repeating tasks, without blocking writes.

Each step is done at most once, so that an interrupted migration can be repeated. Version 0.1 keeps
writing during a rolling deployment and knows nothing of the new columns. Its inserts leave them
null, and its updates leave them as they are. The trigger ends the repetition of a task from which
version 0.1 removes the due date, because a repeating task must have one.
"""

from alembic import op
from sqlalchemy import text

revision = "0007"
down_revision = "0006"

_COLUMNS = (
    'position text COLLATE "C"',
    "repeat text",
    "time_zone text",
    "anchor timestamp",
    "next_id uuid",
)
_TRIGGER_FUNCTION = """
CREATE OR REPLACE FUNCTION todo.end_repetition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.repeat := NULL;
  RETURN NEW;
END
$$
"""
_TRIGGER = """
CREATE OR REPLACE TRIGGER end_repetition BEFORE UPDATE ON todo.tasks FOR EACH ROW
WHEN (NEW.repeat IS NOT NULL
  AND (NEW.due_at IS NULL OR (NOT NEW.due_all_day AND NEW.time_zone IS NULL)))
EXECUTE FUNCTION todo.end_repetition()
"""
_INDEX = """
CREATE INDEX CONCURRENTLY tasks_position_idx
ON todo.tasks (user_id, coalesce(position, '~'), id) WHERE deleted_at IS NULL
"""
_IS_VALID = text(
    "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('todo.tasks_position_idx')"
)


def upgrade() -> None:
    # This lock blocks reads of the tasks. A statement that waits for it blocks all later ones, so
    # it gives up after a second, and ``migrate`` tries again.
    op.execute("SET LOCAL lock_timeout = '1s'")
    columns = ", ".join(f"ADD COLUMN IF NOT EXISTS {column}" for column in _COLUMNS)
    op.execute(f"ALTER TABLE todo.tasks {columns}")
    op.execute(_TRIGGER_FUNCTION)
    op.execute(_TRIGGER)
    with op.get_context().autocommit_block():
        is_valid = op.get_bind().scalar(_IS_VALID)
        if is_valid is False:  # left by an interrupted migration
            op.execute("DROP INDEX CONCURRENTLY todo.tasks_position_idx")
        if not is_valid:
            op.execute(_INDEX)
