"""What each statement of the repository reads, for owners with few and with very many tasks.

The repository itself is asked; its statements are explained instead of run.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn
from uuid import UUID, uuid4

import asyncpg

from bench.report import markdown
from bench.stage import database
from todo_adapters.postgres.database import Database, Statement
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import parse_database_url
from todo_domain.queries import Sort, SortBy, TaskFilter, TaskQuery
from todo_domain.task import Priority, Task

OWNERS: Final = {"hundred": 100, "ten thousand": 10_000, "million": 1_000_000}
PAGE: Final = 20
FLAT: Final = 100  # pages of 8 KiB, for a page of tasks and for one task alike
_GENERIC_AFTER: Final = 6  # executions: then PostgreSQL may plan once for all values


@dataclass(frozen=True, slots=True)
class Cost:
    """Pages that a statement touches, bytes it writes ahead, milliseconds, and where it looks."""

    pages: int
    wal: int
    milliseconds: float
    scans: tuple[str, ...]

    @property
    def is_flat(self) -> bool:
        return self.pages <= FLAT


class _Explained(Exception):
    def __init__(self, cost: Cost) -> None:
        super().__init__(cost)
        self.cost = cost


class _Explaining(Database):
    """Explains every statement as it is planned after some executions, and runs none for good."""

    def __init__(self, url: str, connection: Any) -> None:  # noqa: ANN401 - asyncpg's
        super().__init__(parse_database_url(url), pool_size=1)
        self._connection = connection

    async def fetch(self, statement: Statement, **values: object) -> NoReturn:
        run = f"EXECUTE asked({', '.join(map(_literal, statement.arguments(values)))})"
        await self._connection.execute("DEALLOCATE ALL")
        await self._connection.execute(f"PREPARE asked AS {statement.sql}")
        for _ in range(_GENERIC_AFTER):
            await self._connection.execute(f"EXPLAIN {run}")
        await self._explained(run)  # the first one may have to fetch pages and set hints
        found = await self._explained(run)
        plan = found["Plan"]
        pages = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        raise _Explained(
            Cost(pages, plan["WAL Bytes"], found["Execution Time"], tuple(_scans(plan)))
        )

    async def _explained(self, run: str) -> dict[str, Any]:
        transaction = self._connection.transaction()
        await transaction.start()
        try:
            explain = f"EXPLAIN (ANALYZE, BUFFERS, WAL, FORMAT JSON) {run}"
            found: dict[str, Any] = json.loads(await self._connection.fetchval(explain))[0]
        finally:
            await transaction.rollback()
        return found


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
    """The indexes and whole tables that a plan looks at, and whether it sorts."""
    found = [scan for part in plan.get("Plans", ()) for scan in _scans(part)]
    if "Index Name" in plan:
        found.append(plan["Index Name"])
    elif plan["Node Type"] in {"Seq Scan", "Sort", "Incremental Sort"}:
        found.append(plan["Node Type"].lower())
    return list(dict.fromkeys(found))


Question = Callable[[PostgresTaskRepository, Task], Awaitable[object]]


def questions() -> dict[str, Question]:
    """Everything that the repository can be asked, about a task in the middle of its list."""
    now = datetime.now(UTC)
    asked: dict[str, Question] = {
        "get": lambda tasks, task: tasks.get(task.owner, task.id),
        "add": lambda tasks, task: tasks.add(replace(task, id=uuid4(), created_at=now)),
        "add, with a key": lambda tasks, task: tasks.add(replace(task, id=uuid4()), key="k"),
        "save": lambda tasks, task: tasks.save(
            replace(task, title="Other", updated_at=now, version=task.version + 1)
        ),
        "change": lambda tasks, task: tasks.change(task.owner, task.id, title="Other", now=now),
        "complete": lambda tasks, task: tasks.change(task.owner, task.id, completed=True, now=now),
        "remove": lambda tasks, task: tasks.delete(task.owner, task.id, now=now),
        "restore": lambda tasks, task: tasks.restore(task.owner, task.id, now=now),
    }
    for by in SortBy:
        for descending in (True, False):
            sort = Sort(by, descending=descending)
            name = f"{'-' if descending else ''}{by}"
            asked[f"list, sort={name}"] = _found(TaskQuery(sort=sort, limit=PAGE))
            asked[f"list, sort={name}, from the middle"] = _found_after(sort)
    month = timedelta(days=30)
    for name, wanted in {
        "status=pending": TaskFilter(completed=False),
        "status=completed": TaskFilter(completed=True),
        "priority": TaskFilter(priority=Priority.HIGH),
        "tag, rare": TaskFilter(tags=("tag70",)),
        "tag, of nothing": TaskFilter(tags=("none",)),
        "due within a month": TaskFilter(due_after=now + month, due_before=now + 2 * month),
        "q, frequent": TaskFilter(text="words"),
        "q, rare": TaskFilter(text="zzz"),
    }.items():
        asked[f"list, {name}"] = _found(TaskQuery(filter=wanted, limit=PAGE))
    asked["list, status=pending, 1000"] = _found(TaskQuery(TaskFilter(completed=False)))
    asked["list, counted"] = _found(TaskQuery(limit=PAGE, with_total=True))
    asked["counts (/api/me)"] = lambda tasks, task: tasks.count(task.owner)
    return asked


def _found(query: TaskQuery) -> Question:
    return lambda tasks, task: tasks.find(task.owner, query)


def _found_after(sort: Sort) -> Question:
    return lambda tasks, task: tasks.find(
        task.owner, TaskQuery(sort=sort, limit=PAGE, after=sort.position(task))
    )


async def costs(url: str, owner: str) -> dict[str, Cost]:
    """The cost of each question about the owner's tasks."""
    connection: Any = await asyncpg.connect(url, statement_cache_size=0)
    try:
        task = await _middle(connection, owner)
        tasks = PostgresTaskRepository(_Explaining(url, connection))
        return {name: await _cost(ask(tasks, task)) for name, ask in questions().items()}
    finally:
        await connection.close()


async def _cost(asked: Awaitable[object]) -> Cost:
    try:
        await asked
    except _Explained as explained:
        return explained.cost
    raise AssertionError("a question without a statement")


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
    """Markdown: pages for each size of owner. ``indexes`` are created before, to be judged."""
    found: dict[str, dict[str, Cost]] = {}
    async with database() as place:
        for name, count in OWNERS.items():
            await place.fill(name, 1, count)
        for index in indexes:
            await place.fetch(index)
        await place.fetch("VACUUM ANALYZE todo.tasks")
        for name in OWNERS:
            owner = (await place.fetch("SELECT md5($1)", f"{name}1"))[0]["md5"]
            found[name] = await costs(place.url, owner)
    rows = [("statement", *(f"{n:,} tasks" for n in OWNERS.values()), "ms", "WAL", "", "looks at")]
    for name in questions():
        each = [found[owner][name] for owner in OWNERS]
        last = each[-1]
        rows.append(
            (
                *(name, *(f"{cost.pages:,}" for cost in each), f"{last.milliseconds:,.1f}"),
                *(f"{last.wal:,}" if last.wal else "", "flat" if last.is_flat else "**grows**"),
                ", ".join(last.scans),
            )
        )
    return markdown(rows)
