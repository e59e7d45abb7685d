"""The SQL of the repository except for lists: one statement for each call.

Every statement has the parameter ``owner``, and reads and writes only that user's rows.
"""

from functools import cache
from typing import Any, Final

from sqlalchemy import (
    CTE,
    ColumnElement,
    Update,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal_column,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from todo_adapters.postgres.database import Statement
from todo_adapters.postgres.rows import TASK_COLUMNS
from todo_adapters.postgres.tables import IDEMPOTENCY_KEYS, TASKS, USERS

OWNER: Final = bindparam("owner", type_=TASKS.c.user_id.type)
IS_LIVE: Final = (TASKS.c.user_id == OWNER, TASKS.c.deleted_at.is_(None))

_ROW: Final = {c.name: bindparam(c.name, type_=c.type) for c in TASK_COLUMNS} | {"user_id": OWNER}
_IS_TASK: Final = (TASKS.c.user_id == OWNER, TASKS.c.id == _ROW["id"])
_IS_LIVE_TASK: Final = (*_IS_TASK, TASKS.c.deleted_at.is_(None))
_NOW: Final = bindparam("now", type_=TASKS.c.updated_at.type)
_KEYS_VALID_SINCE: Final = bindparam("keys_valid_since", type_=IDEMPOTENCY_KEYS.c.created_at.type)
_RESTORABLE_AFTER: Final = bindparam("restorable_after", type_=TASKS.c.deleted_at.type)


# --- Add ----------------------------------------------------------------------------------------


def _record_owner() -> CTE:
    """Record that the owner was seen now, unless the recorded time is recent.

    If every new task updated the row, concurrent requests of one user would wait for its lock.
    """
    is_recent = exists().where(
        USERS.c.id == OWNER, USERS.c.last_seen_at > bindparam("owner_seen_after")
    )
    now = _ROW["created_at"]
    owner = upsert(USERS).from_select(
        ["id", "first_seen_at", "last_seen_at"], select(OWNER, now, now).where(~is_recent)
    )
    latest = func.greatest(USERS.c.last_seen_at, owner.excluded.last_seen_at)
    return owner.on_conflict_do_update(
        index_elements=[USERS.c.id], set_={"last_seen_at": latest}
    ).cte("seen")


def _take_key() -> CTE:
    """Store the idempotency key and return one row; return no row if the key is in use.

    Concurrent calls with the same key wait for each other here.
    """
    key = upsert(IDEMPOTENCY_KEYS).values(
        user_id=OWNER,
        key=bindparam("key"),
        content=bindparam("content"),
        task_id=_ROW["id"],
        created_at=_ROW["created_at"],
    )
    return (
        key.on_conflict_do_update(
            index_elements=[IDEMPOTENCY_KEYS.c.user_id, IDEMPOTENCY_KEYS.c.key],
            set_={name: key.excluded[name] for name in ("content", "task_id", "created_at")},
            where=IDEMPOTENCY_KEYS.c.created_at < _KEYS_VALID_SINCE,
        )
        .returning(IDEMPOTENCY_KEYS.c.key)
        .cte("taken")
    )


def _delete_expired_keys() -> CTE:
    """Delete the owner's other expired keys, so that no separate clean-up is needed.

    Keys that a concurrent call has locked are skipped, because waiting could be a deadlock.
    """
    expired = (
        select(IDEMPOTENCY_KEYS.c.key)
        .where(
            IDEMPOTENCY_KEYS.c.user_id == OWNER,
            IDEMPOTENCY_KEYS.c.created_at < _KEYS_VALID_SINCE,
            IDEMPOTENCY_KEYS.c.key != bindparam("key"),
        )
        .with_for_update(skip_locked=True)
    )
    return (
        delete(IDEMPOTENCY_KEYS)
        .where(IDEMPOTENCY_KEYS.c.user_id == OWNER, IDEMPOTENCY_KEYS.c.key.in_(expired))
        .cte("expired_keys")
    )


def _add_with_key() -> Statement:
    """Add the task and return its id, if the idempotency key is not in use."""
    row = select(*_ROW.values()).select_from(_take_key())
    task = insert(TASKS).from_select(list(_ROW), row)
    return Statement.compiled(
        task.add_cte(_record_owner(), _delete_expired_keys()).returning(TASKS.c.id)
    )


ADD: Final = Statement.compiled(insert(TASKS).values(_ROW).add_cte(_record_owner()))
ADD_WITH_KEY: Final = _add_with_key()
GET_KEY: Final = Statement.compiled(
    select(
        IDEMPOTENCY_KEYS.c.content, IDEMPOTENCY_KEYS.c.task_id, IDEMPOTENCY_KEYS.c.created_at
    ).where(IDEMPOTENCY_KEYS.c.user_id == OWNER, IDEMPOTENCY_KEYS.c.key == bindparam("key"))
)


# --- Read ---------------------------------------------------------------------------------------

GET: Final = Statement.compiled(select(*TASK_COLUMNS).where(*_IS_LIVE_TASK))
COUNT: Final = Statement.compiled(
    select(
        func.count().filter(TASKS.c.completed_at.is_(None)).label("pending"),
        func.count(TASKS.c.completed_at).label("completed"),
    ).where(*IS_LIVE)
)


# --- Change -------------------------------------------------------------------------------------


def _save() -> Statement:
    """Replace the row and return its id, if it still has the version that was read."""
    values = {
        name: value for name, value in _ROW.items() if name not in {"id", "user_id", "created_at"}
    }
    return Statement.compiled(
        update(TASKS)
        .where(*_IS_LIVE_TASK, TASKS.c.version == bindparam("read_version"))
        .values(values)
        .returning(TASKS.c.id)
    )


@cache
def change(columns: frozenset[str]) -> Statement:
    """``Task.changed`` in SQL for these columns: version and times stay if no value differs.

    It is one UPDATE without a SELECT before it: if a concurrent statement changes the row,
    PostgreSQL evaluates the expressions of an UPDATE again on the newest version.
    """
    values: dict[str, ColumnElement[Any]] = {name: _ROW[name] for name in sorted(columns)}
    is_idle = and_(*(_is_same(TASKS.c[name], value) for name, value in values.items()))
    if "completed_at" in values:
        first_completed = func.coalesce(TASKS.c.completed_at, values["completed_at"])
        values["completed_at"] = case((values["completed_at"].is_not(None), first_completed))
    # The clock may have been set back; ``updated_at`` never decreases.
    updated_at = case((is_idle, TASKS.c.updated_at), else_=func.greatest(TASKS.c.updated_at, _NOW))
    increment = case((is_idle, literal_column("0")), else_=literal_column("1"))
    return Statement.compiled(
        update(TASKS)
        .where(*_IS_LIVE_TASK)
        .values(**values, updated_at=updated_at, version=TASKS.c.version + increment)
        .returning(*TASK_COLUMNS)
    )


def _is_same(column: ColumnElement[Any], value: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether the column has the value already.

    All times of completion count as the same value: a completed task keeps its first one.
    """
    if column is TASKS.c.completed_at:
        return column.is_(None) == value.is_(None)
    return column.is_not_distinct_from(value)


SAVE: Final = _save()


# --- Delete and restore -------------------------------------------------------------------------


def _delete(*conditions: ColumnElement[bool]) -> Update:
    """Mark tasks as deleted, and purge the owner's tasks that can no longer be restored."""
    expired = (
        select(TASKS.c.id)
        .where(TASKS.c.user_id == OWNER, TASKS.c.deleted_at <= _RESTORABLE_AFTER)
        .with_for_update(skip_locked=True)  # a concurrent statement may be purging them
    )
    purge = delete(TASKS).where(TASKS.c.user_id == OWNER, TASKS.c.id.in_(expired))
    return update(TASKS).where(*conditions).values(deleted_at=_NOW).add_cte(purge.cte("purged"))


def _delete_completed() -> Statement:
    """Delete every completed task; return how many."""
    deleted = (
        _delete(*IS_LIVE, TASKS.c.completed_at.is_not(None)).returning(TASKS.c.id).cte("deleted")
    )
    return Statement.compiled(select(func.count().label("deleted")).select_from(deleted))


def _restore() -> Statement:
    """Undelete a task.

    The row also has ``was_deleted_at``, so that the caller can distinguish a task that is not
    deleted from one that was deleted too long ago.
    """
    found = select(TASKS.c.deleted_at.label("was_deleted_at")).where(*_IS_TASK).cte("found")
    restored = (
        update(TASKS)
        .where(*_IS_TASK, TASKS.c.deleted_at > _RESTORABLE_AFTER)
        .values(deleted_at=null())
        .returning(*TASK_COLUMNS)
        .cte("restored")
    )
    return Statement.compiled(
        select(*restored.c, found.c.was_deleted_at).select_from(found.outerjoin(restored, true()))
    )


DELETE: Final = Statement.compiled(_delete(*_IS_LIVE_TASK).returning(*TASK_COLUMNS))
DELETE_VERSION: Final = Statement.compiled(
    _delete(*_IS_LIVE_TASK, TASKS.c.version == _ROW["version"]).returning(*TASK_COLUMNS)
)
DELETE_COMPLETED: Final = _delete_completed()
RESTORE: Final = _restore()
