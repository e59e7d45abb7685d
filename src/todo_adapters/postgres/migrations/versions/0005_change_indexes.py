"""Indexes, a counter for each user, and folded texts of existing tasks, without blocking writes.

Each step is done at most once, so that an interrupted migration can be repeated.
"""

from unicodedata import normalize

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
_NOT_FOLDED = text(
    "SELECT user_id, id, title, description FROM todo.tasks"
    " WHERE (user_id, id) > (:user_id, :id)"
    " AND ((title ~ '[^[:ascii:]]' AND title_folded IS NULL)"
    " OR (description ~ '[^[:ascii:]]' AND description_folded IS NULL))"
    " ORDER BY user_id, id LIMIT :batch"
)
# A text that has changed since it was read was folded by the trigger.
_FOLD = text(
    "UPDATE todo.tasks SET title_folded = :title_folded, description_folded = :description_folded"
    " WHERE user_id = :user_id AND id = :id AND title = :title"
    " AND description IS NOT DISTINCT FROM :description"
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, statement in _INDEXES.items():
            is_valid = op.get_bind().scalar(_IS_VALID, {"name": f"todo.{name}"})
            if is_valid is False:  # left by an interrupted migration
                op.execute(f"DROP INDEX CONCURRENTLY todo.{name}")
            if not is_valid:
                op.execute(statement.format(name=name))
        # Existing tasks keep the change number 0: every later change has a higher number.
        op.execute(
            "INSERT INTO todo.changes (user_id, last) SELECT id, 0 FROM todo.users"
            " ON CONFLICT DO NOTHING"
        )
        _fold_texts()


def _fold_texts() -> None:
    """Fold the texts that are not ASCII, as ``todo_domain.task.fold`` does."""
    connection = op.get_bind()
    last = {"user_id": "", "id": "00000000-0000-0000-0000-000000000000"}
    while rows := connection.execute(_NOT_FOLDED, {**last, "batch": _BATCH}).mappings().all():
        folded = [
            {f"{name}_folded": _fold(row[name]) for name in ("title", "description")}
            for row in rows
        ]
        connection.execute(
            _FOLD, [{**row, **texts} for row, texts in zip(rows, folded, strict=True)]
        )
        last = {"user_id": rows[-1]["user_id"], "id": rows[-1]["id"]}


def _fold(value: str | None) -> str | None:
    if value is None or value.isascii():
        return None
    return normalize("NFC", normalize("NFD", value).casefold())
