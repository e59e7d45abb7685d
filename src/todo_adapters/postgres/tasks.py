"""The task repository on PostgreSQL."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
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
from todo_adapters.postgres.database import Database, Statement
from todo_adapters.postgres.rows import columns_of, row_from_task, set_members, task_from_row
from todo_adapters.postgres.statements import OWNER_SEEN_INTERVAL
from todo_domain.batch import Batch, BatchResult, StoredTask
from todo_domain.errors import (
    DatabaseUnavailable,
    EditConflict,
    IdempotencyKeyReused,
    StaleVersion,
    TaskIdTaken,
    TaskNotDeleted,
    TaskNotFound,
    TooManyAffected,
)
from todo_domain.ports import KEY_LIFETIME, RETENTION, ChangeListener
from todo_domain.queries import TaskCounts, TaskFilter, TaskPage, TaskQuery
from todo_domain.sync import Change, FeedPage, FeedPosition
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
        on_change: ChangeListener = lambda _: None,
    ) -> None:
        """With ``batches_in_transactions`` a batch is several statements in one transaction."""
        self._database = database
        self._retention = retention
        self._batches_in_transactions = batches_in_transactions
        self._on_change = on_change

    @_repeated_after_erasure
    async def add(self, task: Task, *, key: str | None = None) -> Task:
        values = row_from_task(task) | {
            "owner_seen_after": task.created_at - OWNER_SEEN_INTERVAL,
            "restorable_after": task.created_at - self._retention,
        }
        if key is None:
            rows = await self._write(task.owner, statements.ADD, **values)
            if not rows:
                raise TaskIdTaken
            self._report(rows[0], task.owner, task.id, task)
            return task
        content = _hash_content(task)
        values |= {
            "key": key,
            "content": content,
            "keys_valid_since": task.created_at - KEY_LIFETIME,
        }
        rows = await self._write(task.owner, statements.ADD_WITH_KEY, **values)
        if not rows:
            return await self._first_added(task, key, content)
        self._report(rows[0], task.owner, task.id, task)
        return task

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
        rows = await self._write(task.owner, statement, **values)
        if not rows:
            raise StaleVersion
        if statement is statements.SAVE:
            self._report(rows[0], task.owner, task.id, task)
        else:
            self._report(rows[0], task.owner)
        return None if successor is None else task_from_row(rows[0])

    async def change(
        self, owner: str, task_id: UUID, *, now: datetime, **changes: Unpack[TaskChanges]
    ) -> Task:
        if not changes or changes.get("repeat") is not None:
            return await self.get(owner, task_id)
        columns = columns_of(clean_changes(changes), now=now)
        statement = statements.change(frozenset(columns))
        rows = await self._write(owner, statement, owner=owner, id=task_id, now=now, **columns)
        task = _first_task(rows)
        self._report(rows[0], owner, task_id, task)
        return task

    async def delete(
        self, owner: str, task_id: UUID, *, now: datetime, version: int | None = None
    ) -> Task:
        rows = await self._write(
            owner,
            statements.DELETE if version is None else statements.DELETE_VERSION,
            owner=owner,
            id=task_id,
            version=version,
            now=now,
            restorable_after=now - self._retention,
        )
        if version is not None and not rows:
            raise StaleVersion
        task = _first_task(rows)
        self._report(rows[0], owner, task_id)
        return task

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
        with self._reporting_doubt(owner):
            ids, number = await bulk_changes.apply(self._database, call)
        if number is not None:
            self._on_change(Change(owner, number))
        return ids

    async def delete_matching(
        self, owner: str, wanted: TaskFilter, *, now: datetime, max_affected: int | None = None
    ) -> tuple[UUID, ...]:
        rows = await self._write(
            owner,
            bulk_statements.delete(filters.shape_of(wanted)),
            owner=owner,
            max_affected=max_affected,
            now=now,
            restorable_after=now - self._retention,
            **filters.parameters_of(wanted),
        )
        if max_affected is not None and rows[0]["affected"] > max_affected:
            raise TooManyAffected(rows[0]["affected"])
        self._report(rows[0], owner)
        return tuple(rows[0]["ids"] or ())

    async def apply(
        self, owner: str, batch: Batch, *, now: datetime, key: str | None = None
    ) -> BatchResult:
        call = BatchCall(owner, batch, now, key, self._retention)
        with self._reporting_doubt(owner):
            result, number = await batches.apply(
                self._database, call, in_transaction=self._batches_in_transactions
            )
        if number is not None:
            self._on_change(Change(owner, number))
        return result

    async def restore(self, owner: str, task_id: UUID, *, now: datetime) -> Task:
        restorable_after = now - self._retention
        rows = await self._write(
            owner, statements.RESTORE, owner=owner, id=task_id, restorable_after=restorable_after
        )
        if not rows or (rows[0]["was_deleted_at"] or now) <= restorable_after:
            raise TaskNotFound
        if rows[0]["id"] is None:
            raise TaskNotDeleted
        task = task_from_row(rows[0])
        self._report(rows[0], owner, task_id, task)
        return task

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
        with self._reporting_doubt(owner):
            result, number = await user_data.import_tasks(self._database, call)
        if number is not None:
            self._on_change(Change(owner, number))
        return result

    async def erase(self, owner: str) -> int:
        with self._reporting_doubt(owner):
            erased = await user_data.erase(self._database, owner)
        self._on_change(Change(owner, None))  # another history of changes begins
        return erased

    async def _write(
        self, owner: str, statement: Statement, /, **values: object
    ) -> list[asyncpg.Record]:
        with self._reporting_doubt(owner):
            return await self._database.fetch(statement, **values)

    @contextmanager
    def _reporting_doubt(self, owner: str) -> Iterator[None]:
        """Report a write whose response is missing: it may have been committed."""
        try:
            yield
        except (DatabaseUnavailable, asyncio.CancelledError):
            self._on_change(Change(owner, None))
            raise

    def _report(
        self,
        row: asyncpg.Record,
        owner: str,
        task_id: UUID | None = None,
        task: Task | None = None,
    ) -> None:
        """Report the change if the statement has taken a number."""
        if row["change_number"] is not None:
            self._on_change(Change(owner, row["change_number"], task_id, task))


def _first_task(rows: Sequence[asyncpg.Record]) -> Task:
    """The task in the first row. Raises TaskNotFound if there is no row."""
    if not rows:
        raise TaskNotFound
    return task_from_row(rows[0])


def _hash_content(task: Task) -> bytes:
    content = set_members(task.content)
    return sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()
