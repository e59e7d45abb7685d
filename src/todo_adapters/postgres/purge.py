"""Purges what has expired: tasks that can no longer be restored, and idempotency keys.

A user's own deletes and creations do this for the user. ``todo-api purge`` does it for all users,
also for those who never return (docs/decisions/0013-other-peoples-databases.md).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import CTE, ColumnElement, Table, bindparam, delete, func, select

from todo_adapters.postgres.change_numbers import OWNER
from todo_adapters.postgres.database import Database, Statement
from todo_adapters.postgres.tables import IDEMPOTENCY_KEYS, TASKS
from todo_adapters.postgres.user_data import LIST_USERS
from todo_domain.ports import KEY_LIFETIME

BATCH: Final = 1000  # rows that one statement deletes at most


@dataclass(frozen=True, slots=True)
class Purged:
    """The numbers of rows that were purged."""

    tasks: int = 0
    keys: int = 0

    def __add__(self, other: "Purged") -> "Purged":
        return Purged(self.tasks + other.tasks, self.keys + other.keys)


def _expired(table: Table, key: str, expiry: ColumnElement[bool]) -> CTE:
    """Delete a batch of the owner's expired rows.

    The rows of concurrent statements are skipped, and no change number is taken, so a purge neither
    waits for a request nor can it be part of a deadlock.
    """
    batch = (
        select(table.c[key])
        .where(table.c.user_id == OWNER, expiry)
        .limit(bindparam("limit"))
        .with_for_update(skip_locked=True)
    )
    rows = delete(table).where(table.c.user_id == OWNER, table.c[key].in_(batch))
    return rows.returning(table.c[key]).cte(f"purged_{table.name}")


def _purge() -> Statement:
    tasks = _expired(TASKS, "id", TASKS.c.deleted_at <= bindparam("restorable_after"))
    keys = _expired(
        IDEMPOTENCY_KEYS, "key", IDEMPOTENCY_KEYS.c.created_at < bindparam("keys_valid_since")
    )
    return Statement.compiled(
        select(
            select(func.count()).select_from(tasks).scalar_subquery().label("tasks"),
            select(func.count()).select_from(keys).scalar_subquery().label("keys"),
        )
    )


PURGE: Final = _purge()


async def purge(database: Database, *, now: datetime, retention: timedelta) -> Purged:
    """Purge the expired rows of all users. Raises DatabaseUnavailable and Overloaded.

    A tombstone is purged when ``SyncToken.require_valid`` refuses every token that was issued
    before the deletion. Each statement names its owner, so row-level security allows it.
    """
    purged, after = Purged(), ""
    while users := await database.fetch(LIST_USERS, after=after, limit=BATCH):
        for user in users:
            purged += await _purge_user(database, user["id"], now=now, retention=retention)
        after = users[-1]["id"]
    return purged


async def _purge_user(
    database: Database, owner: str, *, now: datetime, retention: timedelta
) -> Purged:
    purged, is_complete = Purged(), False
    while not is_complete:
        (row,) = await database.fetch(
            PURGE,
            owner=owner,
            restorable_after=now - retention,
            keys_valid_since=now - KEY_LIFETIME,
            limit=BATCH,
        )
        purged += Purged(**row)
        is_complete = max(row) < BATCH
    return purged
