"""The SQL of the repository except for lists: one statement for each call.

Every statement has the parameter ``owner``, and reads and writes only that user's rows.
"""

from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    CTE,
    ColumnElement,
    FromClause,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.sql.dml import ReturningUpdate

from todo_adapters.postgres.change_numbers import OWNER, take_number
from todo_adapters.postgres.database import Statement
from todo_adapters.postgres.rows import TASK_COLUMNS
from todo_adapters.postgres.tables import IDEMPOTENCY_KEYS, TASKS, USERS

OWNER_SEEN_INTERVAL: Final = timedelta(hours=1)  # between two updates of ``last_seen_at``

IS_LIVE: Final = (TASKS.c.user_id == OWNER, TASKS.c.deleted_at.is_(None))

FOLDED_COLUMNS: Final = (TASKS.c.title_folded, TASKS.c.description_folded)
_ROW: Final = {
    **{c.name: bindparam(c.name, type_=c.type) for c in (*TASK_COLUMNS, *FOLDED_COLUMNS)},
    "user_id": OWNER,
}
_IS_TASK: Final = (TASKS.c.user_id == OWNER, TASKS.c.id == _ROW["id"])
_IS_LIVE_TASK: Final = (*_IS_TASK, TASKS.c.deleted_at.is_(None))
# Of a row that the statement has written.
_CHANGE_NUMBER: Final = TASKS.c.change.label("change_number")
COMPARED: Final = frozenset(column.name for column in TASK_COLUMNS)
_KEY_RESULTS: Final = ("task_id", "outcomes")  # of a new task, and of a batch
NOW: Final = bindparam("now", type_=TASKS.c.updated_at.type)
KEYS_VALID_SINCE: Final = bindparam("keys_valid_since", type_=IDEMPOTENCY_KEYS.c.created_at.type)
RESTORABLE_AFTER: Final = bindparam("restorable_after", type_=TASKS.c.deleted_at.type)
# The columns of ``todo_domain.task.SERIES_MEMBERS``, and the tasks that have a series.
SERIES_COLUMNS: Final = frozenset({"completed_at", "due_at", "repeat", "time_zone"})
HAS_SERIES: Final = or_(TASKS.c.repeat.is_not(None), TASKS.c.next_id.is_not(None))


# --- Add ----------------------------------------------------------------------------------------


def record_owner(*conditions: ColumnElement[bool]) -> CTE:
    """Record that the owner was seen now, unless the recorded time is recent.

    If every new task updated the row, concurrent requests of one user would wait for its lock.
    """
    is_recent = exists().where(
        USERS.c.id == OWNER, USERS.c.last_seen_at > bindparam("owner_seen_after")
    )
    now = _ROW["created_at"]
    owner = upsert(USERS).from_select(
        ["id", "first_seen_at", "last_seen_at"],
        select(OWNER, now, now).where(~is_recent, *conditions),
    )
    latest = func.greatest(USERS.c.last_seen_at, owner.excluded.last_seen_at)
    return owner.on_conflict_do_update(
        index_elements=[USERS.c.id], set_={"last_seen_at": latest}
    ).cte("seen")


KEY_IS_VALID: Final = exists().where(
    IDEMPOTENCY_KEYS.c.user_id == OWNER,
    IDEMPOTENCY_KEYS.c.key == bindparam("key"),
    IDEMPOTENCY_KEYS.c.created_at >= KEYS_VALID_SINCE,
)
_ID_IS_TAKEN: Final = exists().where(
    *_IS_TASK, or_(TASKS.c.deleted_at.is_(None), TASKS.c.deleted_at > RESTORABLE_AFTER)
)


def store_key(
    source: FromClause, *conditions: ColumnElement[bool], **result: ColumnElement[Any]
) -> CTE:
    """Store the idempotency key with the result; no row if the key is in use.

    PostgreSQL evaluates the source first, so that the counter is locked before the key.
    """
    bound = {
        name: bindparam(name, type_=IDEMPOTENCY_KEYS.c[name].type) for name in ("key", "content")
    }
    values = {"user_id": OWNER, **bound, "created_at": _ROW["created_at"], **result}
    key = upsert(IDEMPOTENCY_KEYS).from_select(
        list(values), select(*values.values()).select_from(source).where(*conditions)
    )
    replaced = {name: key.excluded[name] for name in ("content", "created_at", *_KEY_RESULTS)}
    return (
        key.on_conflict_do_update(
            index_elements=[IDEMPOTENCY_KEYS.c.user_id, IDEMPOTENCY_KEYS.c.key],
            set_=replaced,
            where=IDEMPOTENCY_KEYS.c.created_at < KEYS_VALID_SINCE,
        )
        .returning(IDEMPOTENCY_KEYS.c.key)
        .cte("stored_key")
    )


def delete_expired_keys() -> CTE:
    """Delete the owner's other expired keys, so that no separate clean-up is needed.

    Keys that a concurrent call has locked are skipped, because waiting could be a deadlock.
    """
    expired = (
        select(IDEMPOTENCY_KEYS.c.key)
        .where(
            IDEMPOTENCY_KEYS.c.user_id == OWNER,
            IDEMPOTENCY_KEYS.c.created_at < KEYS_VALID_SINCE,
            IDEMPOTENCY_KEYS.c.key != bindparam("key"),
        )
        .with_for_update(skip_locked=True)
    )
    return (
        delete(IDEMPOTENCY_KEYS)
        .where(IDEMPOTENCY_KEYS.c.user_id == OWNER, IDEMPOTENCY_KEYS.c.key.in_(expired))
        .cte("expired_keys")
    )


def _add(*, with_key: bool) -> Statement:
    """Add the task and return its number; no row if its id is taken or the key is in use.

    Concurrent calls of one user wait for each other at the counter. The conditions are tested
    before that, and by ON CONFLICT after it.
    """
    is_taken = or_(_ID_IS_TAKEN, KEY_IS_VALID) if with_key else _ID_IS_TAKEN
    number = take_number(~is_taken)
    source: FromClause = number
    if with_key:
        source = number.join(store_key(number, task_id=_ROW["id"]), true())
    row = {**_ROW, "change": number.c.last}
    task = upsert(TASKS).from_select(list(row), select(*row.values()).select_from(source))
    added = task.on_conflict_do_update(
        index_elements=[TASKS.c.user_id, TASKS.c.id],
        # The task with this id was deleted too long ago to be restored, but is not purged yet.
        set_={**{name: task.excluded[name] for name in row}, "deleted_at": null()},
        where=TASKS.c.deleted_at <= RESTORABLE_AFTER,
    )
    expired_keys = (delete_expired_keys(),) if with_key else ()
    return Statement.compiled(
        added.add_cte(record_owner(), *expired_keys).returning(_CHANGE_NUMBER)
    )


ADD: Final = _add(with_key=False)
ADD_WITH_KEY: Final = _add(with_key=True)
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


_IS_AS_READ: Final = (*_IS_LIVE_TASK, TASKS.c.version == bindparam("read_version"))
_SAVED: Final = {
    name: value for name, value in _ROW.items() if name not in {"id", "user_id", "created_at"}
}


def _save(number: CTE, **values: ColumnElement[Any]) -> ReturningUpdate[Any]:
    """Replace the row if it still has the version that was read; return its number then."""
    return (
        update(TASKS)
        .where(*_IS_AS_READ)
        .values(**_SAVED | values, change=number.c.last)
        .returning(_CHANGE_NUMBER)
    )


def successor_parameters(values: Mapping[str, object]) -> dict[str, object]:
    """The parameters of SAVE_COMPLETED for the values of the successor's row."""
    return {f"successor_{name}": value for name, value in values.items()}


def _save_completed() -> Statement:
    """Save a completed task, add its successor, and return the stored successor and the number.

    No row if the task was not saved. A successor that was removed is stored again. A live task with
    the successor's id stays as it is.
    """
    number = take_number(exists().where(*_IS_AS_READ))
    saved = _save(number).cte("saved")
    row = {
        name: bindparam(f"successor_{name}", type_=TASKS.c[name].type)
        for name in _ROW
        if name != "user_id"
    }
    values = {**row, "user_id": OWNER, "change": number.c.last}
    task = upsert(TASKS).from_select(
        list(values), select(*values.values()).select_from(number.join(saved, true()))
    )
    added = (
        task.on_conflict_do_update(
            index_elements=[TASKS.c.user_id, TASKS.c.id],
            set_={**{name: task.excluded[name] for name in values}, "deleted_at": null()},
            where=TASKS.c.deleted_at.is_not(None),
        )
        .returning(*TASK_COLUMNS, _CHANGE_NUMBER)
        .cte("added")
    )
    present = select(*TASK_COLUMNS, select(saved.c.change_number).scalar_subquery()).where(
        *IS_LIVE, TASKS.c.id == row["id"], exists(select(saved)), ~exists(select(added))
    )
    return Statement.compiled(union_all(select(added), present))


def _save_reopened() -> Statement:
    """Save a reopened task, and remove the successor that its completion has made.

    The successor stays if it was changed since, and the task keeps its ``next_id`` then.
    """
    number = take_number(exists().where(*_IS_AS_READ))
    # Locked, so that the successor is removed only if the task is saved.
    task = (
        select(TASKS.c.completed_at, number.c.last)
        .where(*_IS_AS_READ)
        .with_for_update(of=TASKS)
        .cte("task")
    )
    removed = (
        update(TASKS)
        .where(
            *IS_LIVE,
            TASKS.c.id == _ROW["next_id"],
            TASKS.c.version == literal_column("1"),
            TASKS.c.completed_at.is_(None),
            TASKS.c.created_at == task.c.completed_at,
        )
        .values(deleted_at=_ROW["updated_at"], change=task.c.last)
        .returning(TASKS.c.id)
        .cte("removed")
    )
    next_id = case((~exists(select(removed)), _ROW["next_id"]))
    saved = _save(number, next_id=next_id).where(exists(select(task)))
    return Statement.compiled(saved)


def changed_values(
    columns: frozenset[str],
) -> tuple[ColumnElement[bool], dict[str, ColumnElement[Any]]]:
    """``Task.changed`` in SQL: whether a row has these values already, and its new values.

    A task for which the change ``needs_save`` is returned as it is.

    PostgreSQL evaluates the expressions of the UPDATE on the latest version of the row. If a
    concurrent statement has just made the same change, the version and times stay as they are.
    """
    values: dict[str, ColumnElement[Any]] = {name: _ROW[name] for name in sorted(columns)}
    is_same: ColumnElement[bool] = and_(
        *(is_equal(TASKS.c[name], value) for name, value in values.items() if name in COMPARED)
    )
    if "completed_at" in values:
        first_completed = func.coalesce(TASKS.c.completed_at, values["completed_at"])
        values["completed_at"] = case((values["completed_at"].is_not(None), first_completed))
    if columns & SERIES_COLUMNS:
        is_same = or_(HAS_SERIES, is_same)
        values = {
            name: case((HAS_SERIES, TASKS.c[name]), else_=value) for name, value in values.items()
        }
    # The clock may have been set back; ``updated_at`` never decreases.
    updated_at = case((is_same, TASKS.c.updated_at), else_=func.greatest(TASKS.c.updated_at, NOW))
    increment = case((is_same, literal_column("0")), else_=literal_column("1"))
    return is_same, values | {"updated_at": updated_at, "version": TASKS.c.version + increment}


@cache
def change(columns: frozenset[str]) -> Statement:
    """Change these columns of the task; nothing is written if no value differs.

    The row also has ``change_number``, null if nothing was written.
    """
    is_same, values = changed_values(columns)
    number = take_number(exists().where(*_IS_LIVE_TASK, ~is_same))
    changed = (
        update(TASKS)
        .where(*_IS_LIVE_TASK)
        .values(**values, change=number.c.last)
        .returning(*TASK_COLUMNS, _CHANGE_NUMBER)
        .cte("changed")
    )
    unchanged = select(*TASK_COLUMNS, null()).where(*_IS_LIVE_TASK, ~exists(select(number.c.last)))
    return Statement.compiled(union_all(select(changed), unchanged))


def is_equal(column: ColumnElement[Any], value: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether the column has the value already.

    All times of completion count as the same value: a completed task keeps its first one.
    """
    if column.key == "completed_at":
        return column.is_(None) == value.is_(None)
    return column.is_not_distinct_from(value)


SAVE: Final = Statement.compiled(_save(take_number(exists().where(*_IS_AS_READ))))
SAVE_COMPLETED: Final = _save_completed()
SAVE_REOPENED: Final = _save_reopened()


# --- Delete and restore -------------------------------------------------------------------------


def purge_deleted() -> CTE:
    """Purge the owner's tasks that can no longer be restored."""
    expired = (
        select(TASKS.c.id)
        .where(TASKS.c.user_id == OWNER, TASKS.c.deleted_at <= RESTORABLE_AFTER)
        .with_for_update(skip_locked=True)  # a concurrent statement may be purging them
    )
    purge = delete(TASKS).where(TASKS.c.user_id == OWNER, TASKS.c.id.in_(expired))
    return purge.cte("purged")


def _delete(*conditions: ColumnElement[bool]) -> Statement:
    """Mark the task as deleted, and purge what can no longer be restored.

    The row also has ``change_number``.
    """
    number = take_number(exists().where(*conditions))
    return Statement.compiled(
        update(TASKS)
        .where(*conditions)
        .values(deleted_at=NOW, change=number.c.last)
        .add_cte(purge_deleted())
        .returning(*TASK_COLUMNS, _CHANGE_NUMBER)
    )


def _restore() -> Statement:
    """Undelete a task.

    The row also has ``change_number``, and ``was_deleted_at``, so that the caller can distinguish a
    task that is not deleted from one that was deleted too long ago.
    """
    is_restorable = (*_IS_TASK, TASKS.c.deleted_at > RESTORABLE_AFTER)
    number = take_number(exists().where(*is_restorable))
    found = select(TASKS.c.deleted_at.label("was_deleted_at")).where(*_IS_TASK).cte("found")
    restored = (
        update(TASKS)
        .where(*is_restorable)
        .values(deleted_at=null(), change=number.c.last)
        .returning(*TASK_COLUMNS, _CHANGE_NUMBER)
        .cte("restored")
    )
    return Statement.compiled(
        select(*restored.c, found.c.was_deleted_at).select_from(found.outerjoin(restored, true()))
    )


DELETE: Final = _delete(*_IS_LIVE_TASK)
DELETE_VERSION: Final = _delete(*_IS_LIVE_TASK, TASKS.c.version == _ROW["version"])
RESTORE: Final = _restore()
