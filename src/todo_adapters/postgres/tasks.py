"""The task repository on PostgreSQL."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import wraps
from hashlib import sha256
from typing import Any, ParamSpec, TypeVar, Unpack
from uuid import UUID

import asyncpg
import orjson

from todo_adapters.postgres import (
    batches,
    bulk_changes,
    bulk_statements,
    change_numbers,
    filters,
    list_statements,
    statements,
    user_data,
)
from todo_adapters.postgres.batches import BatchCall
from todo_adapters.postgres.database import Database
from todo_adapters.postgres.rows import columns_of, row_from_task, set_members, task_from_row
from todo_adapters.postgres.statements import OWNER_SEEN_INTERVAL
from todo_domain.batch import Batch, BatchResult, StoredTask
from todo_domain.errors import (
    EditConflict,
    IdempotencyKeyReused,
    StaleVersion,
    TaskIdTaken,
    TaskNotDeleted,
    TaskNotFound,
    TooManyAffected,
)
from todo_domain.ports import KEY_LIFETIME, RETENTION
from todo_domain.queries import TaskCounts, TaskFilter, TaskPage, TaskQuery
from todo_domain.sync import FeedPage, FeedPosition
from todo_domain.task import Task, TaskChanges, clean_changes
from todo_domain.user_data import ImportResult, StoredPage, UserRecord

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def _repeated_after_erasure(
    call: Callable[_Parameters, Coroutine[Any, Any, _Result]],
) -> Callable[_Parameters, Coroutine[Any, Any, _Result]]:
    """Repeat a call whose owner was erased while it waited for the counter.

    Its snapshot still has the owner's row, so it does not record the owner again, and the new task
    has no owner. Nothing was written. Raises EditConflict if every attempt fails.
    """

    @wraps(call)
    async def repeated(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        for _ in range(batches.ATTEMPTS):
            try:
                return await call(*args, **kwargs)
            except asyncpg.ForeignKeyViolationError:
                continue
        raise EditConflict

    return repeated


class PostgresTaskRepository:
    """todo_domain.ports.TaskRepository on PostgreSQL. Each call runs one statement.

    ``add`` and ``apply`` run two if their idempotency key is in use; ``import_tasks`` and ``erase``
    run several in one transaction.
    """

    def __init__(
        self,
        database: Database,
        *,
        retention: timedelta = RETENTION,
        batches_in_transactions: bool = False,
    ) -> None:
        """With ``batches_in_transactions`` a batch is several statements in one transaction."""
        self._database = database
        self._retention = retention
        self._batches_in_transactions = batches_in_transactions

    @_repeated_after_erasure
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

    async def save(self, task: Task, *, successor: Task | None = None) -> Task | None:
        values = row_from_task(task) | {"read_version": task.version - 1}
        statement = statements.SAVE
        if successor is not None:
            statement = statements.SAVE_COMPLETED
            values |= statements.successor_parameters(row_from_task(successor))
        elif not task.completed and task.next_id is not None:
            statement = statements.SAVE_REOPENED
        rows = await self._database.fetch(statement, **values)
        if not rows:
            raise StaleVersion
        return None if successor is None else task_from_row(rows[0])

    async def change(
        self, owner: str, task_id: UUID, *, now: datetime, **changes: Unpack[TaskChanges]
    ) -> Task:
        if not changes or changes.get("repeat") is not None:
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

    async def change_matching(
        self,
        owner: str,
        wanted: TaskFilter,
        *,
        now: datetime,
        max_affected: int | None = None,
        **changes: Unpack[TaskChanges],
    ) -> tuple[UUID, ...]:
        if not changes:
            return ()
        call = bulk_changes.BulkChange(owner, wanted, clean_changes(changes), now, max_affected)
        return await bulk_changes.apply(self._database, call)

    async def delete_matching(
        self, owner: str, wanted: TaskFilter, *, now: datetime, max_affected: int | None = None
    ) -> tuple[UUID, ...]:
        rows = await self._database.fetch(
            bulk_statements.delete(filters.shape_of(wanted)),
            owner=owner,
            max_affected=max_affected,
            now=now,
            restorable_after=now - self._retention,
            **filters.parameters_of(wanted),
        )
        if max_affected is not None and rows[0]["affected"] > max_affected:
            raise TooManyAffected(rows[0]["affected"])
        return tuple(rows[0]["ids"] or ())

    async def apply(
        self, owner: str, batch: Batch, *, now: datetime, key: str | None = None
    ) -> BatchResult:
        call = BatchCall(owner, batch, now, key, self._retention)
        return await batches.apply(
            self._database, call, in_transaction=self._batches_in_transactions
        )

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

    async def find_user(self, owner: str) -> UserRecord | None:
        return await user_data.find_user(self._database, owner)

    async def read_stored(
        self, owner: str, *, after: UUID | None, limit: int, now: datetime
    ) -> StoredPage:
        restorable_after = now - self._retention
        return await user_data.read_page(
            self._database, owner, after=after, limit=limit, restorable_after=restorable_after
        )

    async def import_tasks(
        self, owner: str, imported: Sequence[StoredTask], *, now: datetime
    ) -> ImportResult:
        call = user_data.ImportCall(owner, imported, now, self._retention)
        return await user_data.import_tasks(self._database, call)

    async def erase(self, owner: str) -> int:
        return await user_data.erase(self._database, owner)


def _first_task(rows: Sequence[asyncpg.Record]) -> Task:
    """The task in the first row. Raises TaskNotFound if there is no row."""
    if not rows:
        raise TaskNotFound
    return task_from_row(rows[0])


def _hash_content(task: Task) -> bytes:
    content = set_members(task.content)
    return sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()
