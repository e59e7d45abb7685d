"""Reads, imports and erases everything that is stored about a user, and lists the users.

An import and an erasure are several statements in one transaction. Its first statement locks the
user's counter, so that the others see what every earlier write of the user has stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson
from sqlalchemy import ColumnElement, bindparam, column, delete, func, or_, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert

from todo_adapters.postgres.batch_statements import (
    LOCK_COUNTER,
    LOCK_TASKS,
    RECORD_OWNER,
    TAKE_NUMBER,
)
from todo_adapters.postgres.change_numbers import OWNER
from todo_adapters.postgres.database import Database, Fetch, Statement
from todo_adapters.postgres.rows import TASK_COLUMNS, json_values, row_from_task, task_from_row
from todo_adapters.postgres.statements import (
    FOLDED_COLUMNS,
    OWNER_SEEN_INTERVAL,
    RESTORABLE_AFTER,
)
from todo_adapters.postgres.tables import CHANGES, IDEMPOTENCY_KEYS, TASKS, USERS
from todo_domain.batch import StoredTask
from todo_domain.errors import EditConflict
from todo_domain.user_data import ImportResult, StoredPage, UserRecord, tasks_to_store

ATTEMPTS: Final = 3  # an attempt fails if another call has just created one of the tasks

_AFTER: Final = bindparam("after", type_=TASKS.c.id.type)
FIND_USER: Final = Statement.compiled(
    select(USERS.c.first_seen_at, USERS.c.last_seen_at).where(USERS.c.id == OWNER)
)
COUNT_STORED: Final = Statement.compiled(
    select(
        func.count().filter(TASKS.c.deleted_at.is_(None)).label("live"),
        func.count(TASKS.c.deleted_at).label("deleted"),
    ).where(TASKS.c.user_id == OWNER)
)
LIST_USERS: Final = Statement.compiled(
    select(USERS)
    .where(USERS.c.id > bindparam("after", type_=USERS.c.id.type))
    .order_by(USERS.c.id)
    .limit(bindparam("limit"))
)


def _read(*conditions: ColumnElement[bool]) -> Statement:
    is_restorable = or_(TASKS.c.deleted_at.is_(None), TASKS.c.deleted_at > RESTORABLE_AFTER)
    return Statement.compiled(
        select(*TASK_COLUMNS, TASKS.c.deleted_at)
        .where(TASKS.c.user_id == OWNER, is_restorable, *conditions)
        .order_by(TASKS.c.id)
        .limit(bindparam("limit"))
    )


def _insert() -> Statement:
    """Insert the rows of a JSON array; return the ids of those that were inserted."""
    columns = (*TASK_COLUMNS, *FOLDED_COLUMNS, TASKS.c.deleted_at)
    rows = (
        func.jsonb_to_recordset(bindparam("rows", type_=JSONB))
        .table_valued(*(column(c.name, c.type) for c in columns), name="imported")
        .render_derived(with_types=True)
    )
    values: dict[str, ColumnElement[Any]] = {
        **{c.name: rows.c[c.name] for c in columns},
        "user_id": OWNER,
        "change": bindparam("change", type_=TASKS.c.change.type),
    }
    task = upsert(TASKS).from_select(list(values), select(*values.values()))
    return Statement.compiled(
        task.on_conflict_do_update(
            index_elements=[TASKS.c.user_id, TASKS.c.id],
            # The stored task was deleted too long ago to be restored, but is not purged yet.
            set_={name: task.excluded[name] for name in values},
            where=TASKS.c.deleted_at <= RESTORABLE_AFTER,
        ).returning(TASKS.c.id)
    )


def _erase() -> Statement:
    """Delete every row of the owner; return the number of tasks."""
    tasks = delete(TASKS).where(TASKS.c.user_id == OWNER).returning(TASKS.c.id).cte("tasks")
    others = (
        delete(table).where(owner == OWNER).cte(f"erased_{table.name}")
        for table, owner in (
            (IDEMPOTENCY_KEYS, IDEMPOTENCY_KEYS.c.user_id),
            (USERS, USERS.c.id),
            (CHANGES, CHANGES.c.user_id),
        )
    )
    return Statement.compiled(
        select(func.count().label("tasks")).select_from(tasks).add_cte(*others)
    )


READ_FIRST: Final = _read()
READ_NEXT: Final = _read(TASKS.c.id > _AFTER)
INSERT_ROWS: Final = _insert()
ERASE: Final = _erase()


class _LostRace(Exception):
    """Another call has created one of the tasks since this one looked for it."""


@dataclass(frozen=True, slots=True)
class ImportCall:
    """One call of ``TaskRepository.import_tasks``."""

    owner: str
    imported: Sequence[StoredTask]
    now: datetime
    retention: timedelta


class UserSummary(NamedTuple):
    """A user, and the numbers of live and of deleted tasks."""

    id: str
    record: UserRecord
    live: int
    deleted: int


async def find_user(database: Database, owner: str) -> UserRecord | None:
    rows = await database.fetch(FIND_USER, owner=owner)
    return UserRecord(**rows[0]) if rows else None


async def read_page(
    database: Database, owner: str, *, after: UUID | None, limit: int, restorable_after: datetime
) -> StoredPage:
    rows = await database.fetch(
        READ_FIRST if after is None else READ_NEXT,
        owner=owner,
        after=after,
        limit=limit + 1,
        restorable_after=restorable_after,
    )
    tasks = tuple(StoredTask(task_from_row(row), row["deleted_at"]) for row in rows[:limit])
    return StoredPage(tasks, has_more=len(rows) > limit)


async def import_tasks(database: Database, call: ImportCall) -> tuple[ImportResult, int | None]:
    """Import the tasks; also return the change number if it took one.

    Raises ImportRefused, and EditConflict if every attempt failed.
    """
    for _ in range(ATTEMPTS):
        try:
            created, number = await database.transact(
                call.owner, lambda fetch: _import(fetch, call)
            )
        except _LostRace:
            continue
        return ImportResult(created, len(call.imported) - created), number
    raise EditConflict


async def _import(fetch: Fetch, call: ImportCall) -> tuple[int, int | None]:
    await fetch(LOCK_COUNTER, owner=call.owner)
    ids = [each.task.id for each in call.imported]
    rows = await fetch(LOCK_TASKS, owner=call.owner, ids=ids)
    stored = {row["id"]: StoredTask(task_from_row(row), row["deleted_at"]) for row in rows}
    new = tasks_to_store(call.imported, stored, call.now, call.retention)
    return len(new), await _store(fetch, call, new) if new else None


async def _store(fetch: Fetch, call: ImportCall, new: Sequence[StoredTask]) -> int:
    """Store the tasks and return their change number."""
    number: int = (await fetch(TAKE_NUMBER, owner=call.owner))[0]["last"]
    await fetch(
        RECORD_OWNER,
        owner=call.owner,
        created_at=call.now,
        owner_seen_after=call.now - OWNER_SEEN_INTERVAL,
    )
    rows = [json_values(row_from_task(task) | {"deleted_at": at}) for task, at in new]
    inserted = await fetch(
        INSERT_ROWS,
        owner=call.owner,
        # The driver's UUIDs are a class of its own, which orjson encodes only with a default.
        rows=orjson.dumps(rows, default=str).decode(),
        change=number,
        restorable_after=call.now - call.retention,
    )
    if len(inserted) < len(new):
        raise _LostRace
    return number


async def erase(database: Database, owner: str) -> int:
    """Delete every row of the owner; return the number of tasks."""

    async def work(fetch: Fetch) -> int:
        # Locks the counter, also that of an owner who has none yet.
        await fetch(TAKE_NUMBER, owner=owner)
        return int((await fetch(ERASE, owner=owner))[0]["tasks"])

    return await database.transact(owner, work)


async def list_users(database: Database, *, after: str, limit: int) -> list[UserSummary]:
    """The users whose ids follow ``after``, in the order of their ids.

    One statement counts the tasks of one user, because with row-level security no statement sees
    the tasks of all users. Raises DatabaseUnavailable and Overloaded.
    """
    users = []
    for row in await database.fetch(LIST_USERS, after=after, limit=limit):
        (counts,) = await database.fetch(COUNT_STORED, owner=row["id"])
        record = UserRecord(row["first_seen_at"], row["last_seen_at"])
        users.append(UserSummary(row["id"], record, **counts))
    return users
