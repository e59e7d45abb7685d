"""Indexes, a counter for each user, and folded texts of existing tasks, without blocking writes.

Each step is done at most once, so that an interrupted migration can be repeated.
"""

from uuid import UUID

from alembic import op
from sqlalchemy import text

revision = "0005"
down_revision = "0004"

_INDEXES = {
    "tasks_feed_idx": "CREATE INDEX CONCURRENTLY {name} ON todo.tasks (user_id, change, id)",
    "tasks_user_id_id_idx": "CREATE UNIQUE INDEX CONCURRENTLY {name} ON todo.tasks (user_id, id)",
}
_IS_VALID = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
_BATCH = 1000  # rows; a batch locks its rows for some milliseconds
_ADD_COUNTERS = text(
    "WITH batch AS (SELECT id FROM todo.users WHERE id > :user_id ORDER BY id LIMIT :batch),"
    " counters AS (INSERT INTO todo.changes (user_id, last) SELECT id, 0 FROM batch"
    " ON CONFLICT DO NOTHING)"
    " SELECT max(id) FROM batch"
)
# Rows that are locked are left for the next pass, because waiting could be a deadlock.
_FOLD = text(
    "WITH batch AS (SELECT user_id, id FROM todo.tasks WHERE (user_id, id) > (:user_id, :id)"
    " AND ((title ~ '[^[:ascii:]]' AND title_folded IS NULL)"
    " OR (description ~ '[^[:ascii:]]' AND description_folded IS NULL))"
    " ORDER BY user_id, id LIMIT :batch FOR UPDATE SKIP LOCKED),"
    " folded AS (UPDATE todo.tasks SET"
    " title_folded = CASE WHEN title ~ '[^[:ascii:]]' THEN todo.fold(title) END,"
    " description_folded = CASE WHEN description ~ '[^[:ascii:]]' THEN todo.fold(description) END"
    " FROM batch WHERE tasks.user_id = batch.user_id AND tasks.id = batch.id)"
    " SELECT user_id, id FROM batch ORDER BY user_id DESC, id DESC LIMIT 1"
)
# The policy shows the rows of one user.
_IS_BEHIND_RLS = text("SELECT row_security_active('todo.tasks')")
_SET_OWNER = text("SELECT set_config('app.user_id', :user_id, false)")


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, statement in _INDEXES.items():
            is_valid = op.get_bind().scalar(_IS_VALID, {"name": f"todo.{name}"})
            if is_valid is False:  # left by an interrupted migration
                op.execute(f"DROP INDEX CONCURRENTLY todo.{name}")
            if not is_valid:
                op.execute(statement.format(name=name))
        _add_counters()
        _fold_texts()


def _add_counters() -> None:
    """Give every user a counter, which makes later histories of the user differ from this one.

    Existing tasks keep the change number 0: every later change has a higher number.
    """
    last = ""
    while last is not None:
        last = op.get_bind().scalar(_ADD_COUNTERS, {"user_id": last, "batch": _BATCH})


def _fold_texts() -> None:
    """Fold the texts that are not ASCII."""
    connection = op.get_bind()
    if not connection.scalar(_IS_BEHIND_RLS):
        _fold_visible_texts()
        return
    for owner in connection.scalars(text("SELECT id FROM todo.users")).all():
        connection.execute(_SET_OWNER, {"user_id": owner})
        _fold_visible_texts()
    connection.execute(_SET_OWNER, {"user_id": ""})


def _fold_visible_texts() -> None:
    """Repeat passes over the tasks until one finds nothing to fold."""
    while _fold_in_one_pass():
        pass


def _fold_in_one_pass() -> bool:
    """Fold the texts in batches; return whether there were any."""
    start = {"user_id": "", "id": UUID(int=0)}
    last = start
    while row := op.get_bind().execute(_FOLD, {**last, "batch": _BATCH}).mappings().first():
        last = dict(row)
    return last is not start
