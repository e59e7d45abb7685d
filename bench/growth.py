"""Counts the pages that each statement reads, for owners with 100 to 1,000,000 tasks.

The statements come from the repository itself and are run with EXPLAIN ANALYZE, then rolled back.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn
from uuid import UUID, uuid4

import asyncpg

from bench.environment import database
from bench.report import markdown
from todo_adapters.postgres.database import Database, Statement
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import parse_database_url
from todo_domain.queries import Sort, SortBy, TaskFilter, TaskQuery
from todo_domain.task import Priority, Task

OWNERS: Final = {"hundred": 100, "ten thousand": 10_000, "million": 1_000_000}
PAGE: Final = 20
FLAT: Final = 100  # pages of 8 KiB that a flat statement reads at most
_GENERIC_AFTER: Final = 6  # executions, after which PostgreSQL may use a generic plan


@dataclass(frozen=True, slots=True)
class Cost:
    """Pages, bytes of write-ahead log, milliseconds and scans of a statement."""

    pages: int
    wal: int
    milliseconds: float
    scans: tuple[str, ...]

    @property
    def is_flat(self) -> bool:
        return self.pages <= FLAT


class _Explained(Exception):
    """Carries the cost of a statement out of the repository."""

    def __init__(self, cost: Cost) -> None:
        super().__init__(cost)
        self.cost = cost


class _ExplainingDatabase(Database):
    """Explains every statement with the plan that it has after some executions."""

    def __init__(self, url: str, connection: Any) -> None:  # noqa: ANN401 - asyncpg's
        super().__init__(parse_database_url(url), pool_size=1)
        self._connection = connection

    async def fetch(self, statement: Statement, **values: object) -> NoReturn:
        run = f"EXECUTE statement({', '.join(map(_literal, statement.arguments(values)))})"
        await self._connection.execute("DEALLOCATE ALL")
        await self._connection.execute(f"PREPARE statement AS {statement.sql}")
        for _ in range(_GENERIC_AFTER):
            await self._connection.execute(f"EXPLAIN {run}")
        await self._explain(run)  # the first run can read pages from disk and set hint bits
        result = await self._explain(run)
        plan = result["Plan"]
        pages = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        raise _Explained(
            Cost(pages, plan["WAL Bytes"], result["Execution Time"], tuple(_scans(plan)))
        )

    async def _explain(self, run: str) -> dict[str, Any]:
        transaction = self._connection.transaction()
        await transaction.start()
        try:
            explain = f"EXPLAIN (ANALYZE, BUFFERS, WAL, FORMAT JSON) {run}"
            result: dict[str, Any] = json.loads(await self._connection.fetchval(explain))[0]
        finally:
            await transaction.rollback()
        return result


def _literal(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'"
    if isinstance(value, tuple):
        return f"ARRAY[{', '.join(map(_literal, value))}]::text[]"
    return "'" + str(value).replace("'", "''") + "'"


def _scans(plan: Mapping[str, Any]) -> list[str]:
    """The indexes, sequential scans and sorts of a plan."""
    scans = [scan for part in plan.get("Plans", ()) for scan in _scans(part)]
    if "Index Name" in plan:
        scans.append(plan["Index Name"])
    elif plan["Node Type"] in {"Seq Scan", "Sort", "Incremental Sort"}:
        scans.append(plan["Node Type"].lower())
    return list(dict.fromkeys(scans))


Call = Callable[[PostgresTaskRepository, Task], Awaitable[object]]


def calls() -> dict[str, Call]:
    """Every call of the repository, for a task in the middle of its list."""
    now = datetime.now(UTC)
    named: dict[str, Call] = {
        "get": lambda tasks, task: tasks.get(task.owner, task.id),
        "add": lambda tasks, task: tasks.add(replace(task, id=uuid4(), created_at=now)),
        "add, with a key": lambda tasks, task: tasks.add(replace(task, id=uuid4()), key="k"),
        "save": lambda tasks, task: tasks.save(
            replace(task, title="Other", updated_at=now, version=task.version + 1)
        ),
        "change": lambda tasks, task: tasks.change(task.owner, task.id, title="Other", now=now),
        "complete": lambda tasks, task: tasks.change(task.owner, task.id, completed=True, now=now),
        "delete": lambda tasks, task: tasks.delete(task.owner, task.id, now=now),
        "restore": lambda tasks, task: tasks.restore(task.owner, task.id, now=now),
    }
    for by in SortBy:
        for descending in (True, False):
            sort = Sort(by, descending=descending)
            name = f"{'-' if descending else ''}{by}"
            named[f"list, sort={name}"] = _find(TaskQuery(sort=sort, limit=PAGE))
            named[f"list, sort={name}, from the middle"] = _find_after(sort)
    month = timedelta(days=30)
    for name, task_filter in {
        "status=pending": TaskFilter(completed=False),
        "status=completed": TaskFilter(completed=True),
        "priority": TaskFilter(priority=Priority.HIGH),
        "tag, rare": TaskFilter(tags=("tag70",)),
        "tag, of nothing": TaskFilter(tags=("none",)),
        "due within a month": TaskFilter(due_after=now + month, due_before=now + 2 * month),
        "q, frequent": TaskFilter(text="words"),
        "q, rare": TaskFilter(text="zzz"),
    }.items():
        named[f"list, {name}"] = _find(TaskQuery(filter=task_filter, limit=PAGE))
    named["list, status=pending, 1000"] = _find(TaskQuery(TaskFilter(completed=False)))
    named["list, counted"] = _find(TaskQuery(limit=PAGE, with_total=True))
    named["counts (/api/me)"] = lambda tasks, task: tasks.count(task.owner)
    return named


def _find(query: TaskQuery) -> Call:
    return lambda tasks, task: tasks.find(task.owner, query)


def _find_after(sort: Sort) -> Call:
    return lambda tasks, task: tasks.find(
        task.owner, TaskQuery(sort=sort, limit=PAGE, after=sort.position(task))
    )


async def costs(url: str, owner: str) -> dict[str, Cost]:
    """The cost of each call for the owner's tasks."""
    connection: Any = await asyncpg.connect(url, statement_cache_size=0)
    try:
        task = await _middle(connection, owner)
        tasks = PostgresTaskRepository(_ExplainingDatabase(url, connection))
        return {name: await _cost(call(tasks, task)) for name, call in calls().items()}
    finally:
        await connection.close()


async def _cost(statement: Awaitable[object]) -> Cost:
    try:
        await statement
    except _Explained as explained:
        return explained.cost
    raise AssertionError("the call executed no statement")


async def _middle(connection: Any, owner: str) -> Task:  # noqa: ANN401 - asyncpg's
    row = await connection.fetchrow(
        "SELECT * FROM todo.tasks WHERE user_id = $1 AND deleted_at IS NULL AND due_at IS NOT NULL"
        " AND priority IS NOT NULL ORDER BY created_at"
        " OFFSET (SELECT count(*) / 8 FROM todo.tasks WHERE user_id = $1) LIMIT 1",
        owner,
    )
    return Task(
        id=UUID(str(row["id"])),
        owner=owner,
        title=row["title"],
        priority=Priority.of_rank(row["priority"]),
        due_date=row["due_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        version=row["version"],
    )


async def growth(indexes: Sequence[str] = ()) -> str:
    """A Markdown table of pages per size of owner. ``indexes`` is SQL to run before."""
    measured: dict[str, dict[str, Cost]] = {}
    async with database() as db:
        for name, count in OWNERS.items():
            await db.fill(name, 1, count)
        for index in indexes:
            await db.fetch(index)
        await db.fetch("VACUUM ANALYZE todo.tasks")
        for name in OWNERS:
            owner = (await db.fetch("SELECT md5($1)", f"{name}1"))[0]["md5"]
            measured[name] = await costs(db.url, owner)
    rows = [("statement", *(f"{n:,} tasks" for n in OWNERS.values()), "ms", "WAL", "", "scans")]
    for name in calls():
        costs_by_size = [measured[owner][name] for owner in OWNERS]
        last = costs_by_size[-1]
        rows.append(
            (
                *(
                    name,
                    *(f"{cost.pages:,}" for cost in costs_by_size),
                    f"{last.milliseconds:,.1f}",
                ),
                *(f"{last.wal:,}" if last.wal else "", "flat" if last.is_flat else "**grows**"),
                ", ".join(last.scans),
            )
        )
    return markdown(rows)
