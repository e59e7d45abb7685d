"""The task repository on PostgreSQL."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, Unpack
from uuid import UUID

import asyncpg
import orjson

from todo_adapters.postgres import change_numbers, list_statements, statements
from todo_adapters.postgres.database import Database
from todo_adapters.postgres.rows import columns_of, row_from_task, task_from_row
from todo_domain.errors import (
    IdempotencyKeyReused,
    StaleVersion,
    TaskIdTaken,
    TaskNotDeleted,
    TaskNotFound,
)
from todo_domain.ports import KEY_LIFETIME, RETENTION
from todo_domain.queries import TaskCounts, TaskPage, TaskQuery
from todo_domain.sync import FeedPage, FeedPosition
from todo_domain.task import Task, TaskChanges, clean_changes

OWNER_SEEN_INTERVAL: Final = timedelta(
    hours=1
)  # between two updates of an owner's ``last_seen_at``
_UNSET: Final = (None, False, ())


class PostgresTaskRepository:
    """todo_domain.ports.TaskRepository on PostgreSQL. Each call runs one statement.

    Only ``add`` runs two if its idempotency key is in use.
    """

    def __init__(self, database: Database, *, retention: timedelta = RETENTION) -> None:
        self._database = database
        self._retention = retention

    async def add(self, task: Task, *, key: str | None = None) -> Task:
        values = row_from_task(task) | {
            "owner_seen_after": task.created_at - OWNER_SEEN_INTERVAL,
            "restorable_after": task.created_at - self._retention,
        }
        if key is None:
            if await self._database.fetch(statements.ADD, **values):
                return task
            raise TaskIdTaken
        content = _hash_content(task)
        values |= {
            "key": key,
            "content": content,
            "keys_valid_since": task.created_at - KEY_LIFETIME,
        }
        if await self._database.fetch(statements.ADD_WITH_KEY, **values):
            return task
        return await self._first_added(task, key, content)

    async def _first_added(self, task: Task, key: str, content: bytes) -> Task:
        """The task that was added with the key, as it was added. Raises IdempotencyKeyReused."""
        rows = await self._database.fetch(statements.GET_KEY, owner=task.owner, key=key)
        if not rows:
            raise TaskIdTaken
        if rows[0]["content"] != content:
            raise IdempotencyKeyReused
        added_at = rows[0]["created_at"]
        return replace(
            task,
            id=rows[0]["task_id"],
            created_at=added_at,
            updated_at=added_at,
            completed_at=added_at if task.completed else None,
        )

    async def get(self, owner: str, task_id: UUID) -> Task:
        return _first_task(await self._database.fetch(statements.GET, owner=owner, id=task_id))

    async def find(self, owner: str, query: TaskQuery) -> TaskPage:
        rows = await self._database.fetch(
            list_statements.find(query), owner=owner, **list_statements.parameters_of(query)
        )
        state = change_numbers.state_from_row(rows[0])
        if state.last == query.unless_change:
            return TaskPage((), has_more=False, total=None, state=state)
        tasks = tuple(task_from_row(row) for row in rows[: query.limit] if row["id"] is not None)
        has_more = len(rows) > query.limit
        total = rows[0]["total"] if query.with_total else None
        if query.after is None and not has_more:
            total = len(tasks)
        return TaskPage(tasks, has_more, total, state)

    async def save(self, task: Task) -> None:
        values = row_from_task(task) | {"read_version": task.version - 1}
        if not await self._database.fetch(statements.SAVE, **values):
            raise StaleVersion

    async def change(
        self, owner: str, task_id: UUID, *, now: datetime, **changes: Unpack[TaskChanges]
    ) -> Task:
        if not changes:
            return await self.get(owner, task_id)
        columns = columns_of(clean_changes(changes), now=now)
        statement = statements.change(frozenset(columns))
        return _first_task(
            await self._database.fetch(statement, owner=owner, id=task_id, now=now, **columns)
        )

    async def delete(
        self, owner: str, task_id: UUID, *, now: datetime, version: int | None = None
    ) -> Task:
        rows = await self._database.fetch(
            statements.DELETE if version is None else statements.DELETE_VERSION,
            owner=owner,
            id=task_id,
            version=version,
            now=now,
            restorable_after=now - self._retention,
        )
        if version is not None and not rows:
            raise StaleVersion
        return _first_task(rows)

    async def delete_completed(self, owner: str, *, now: datetime) -> tuple[UUID, ...]:
        rows = await self._database.fetch(
            statements.DELETE_COMPLETED,
            owner=owner,
            now=now,
            restorable_after=now - self._retention,
        )
        return tuple(row["id"] for row in rows)

    async def restore(self, owner: str, task_id: UUID, *, now: datetime) -> Task:
        restorable_after = now - self._retention
        rows = await self._database.fetch(
            statements.RESTORE, owner=owner, id=task_id, restorable_after=restorable_after
        )
        if not rows or (rows[0]["was_deleted_at"] or now) <= restorable_after:
            raise TaskNotFound
        if rows[0]["id"] is None:
            raise TaskNotDeleted
        return task_from_row(rows[0])

    async def changes(
        self, owner: str, *, after: FeedPosition, floor: int | None, limit: int
    ) -> FeedPage:
        rows = await self._database.fetch(
            change_numbers.FEED,
            owner=owner,
            after_change=after.change,
            after_id=after.id,
            floor=floor,
            limit=limit + 1,
        )
        return change_numbers.page_from_rows(rows, limit)

    async def count(self, owner: str) -> TaskCounts:
        row = (await self._database.fetch(statements.COUNT, owner=owner))[0]
        return TaskCounts(pending=row["pending"], completed=row["completed"])


def _first_task(rows: Sequence[asyncpg.Record]) -> Task:
    """The task in the first row. Raises TaskNotFound if there is no row."""
    if not rows:
        raise TaskNotFound
    return task_from_row(rows[0])


def _hash_content(task: Task) -> bytes:
    """A hash of the members that are set.

    Members that are not set are left out, so that the hash stays the same when a later version of
    this code adds members.
    """
    content = {name: value for name, value in task.content.items() if value not in _UNSET}
    return sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()
