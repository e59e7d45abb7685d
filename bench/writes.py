"""Times the repository's writes, counts their write-ahead log, and runs concurrent batches."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median
from typing import Final
from uuid import uuid4

from bench.environment import database
from bench.report import markdown
from bench.rounds import InvalidRun
from todo_adapters.postgres.database import Database, Statement
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import parse_database_url
from todo_domain.batch import Batch, ChangeTask, CreateTask, DeleteTask, Operation
from todo_domain.queries import TaskQuery
from todo_domain.task import Task

OWNER: Final = "user-0"
CALLS: Final = 300
WRITERS: Final = 8
CONCURRENT_SECONDS: Final = 5
SIZES: Final = (1, 20, 100)

_WAL: Final = Statement("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0') AS bytes", ())
_DEADLOCKS: Final = Statement(
    "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()", ()
)

Write = Callable[[], Awaitable[object]]


async def writes() -> str:
    """The time and write-ahead log of each write, and the outcomes of concurrent batches."""
    async with database() as filled:
        db = Database(parse_database_url(filled.url), pool_size=WRITERS)
        tasks = PostgresTaskRepository(db)
        in_transactions = PostgresTaskRepository(db, batches_in_transactions=True)
        rows = [await _single(name, db, write) for name, write in _calls(tasks).items()]
        for size in SIZES:
            rows.append(await _batch(f"batch of {size}", db, tasks, size))
            rows.append(await _batch(f"batch of {size}, transaction", db, in_transactions, size))
        writers = await _concurrent(db, tasks)
        await db.close()
    header = ["write", "p50 ms", "longest ms", "WAL bytes"]
    return f"{markdown([header, *rows])}\n\n{writers}"


def _calls(tasks: PostgresTaskRepository) -> dict[str, Write]:
    stored: list[Task] = []

    async def create() -> None:
        stored.append(await tasks.add(_new()))

    async def change() -> None:
        stored.append(stored.pop(0))
        await tasks.change(OWNER, stored[-1].id, now=_now(), title=uuid4().hex)

    async def complete() -> None:
        stored.append(stored.pop(0))
        await tasks.change(OWNER, stored[-1].id, now=_now(), completed=True)

    async def delete() -> None:
        await tasks.delete(OWNER, stored.pop(0).id, now=_now())

    return {"create": create, "change of the title": change, "complete": complete, "delete": delete}


async def _single(name: str, db: Database, write: Write, calls: int = CALLS) -> list[str]:
    before = (await db.fetch(_WAL))[0]["bytes"]
    series = []
    for _ in range(calls):
        begin = time.perf_counter()
        await write()
        series.append((time.perf_counter() - begin) * 1000)
    wal = int((await db.fetch(_WAL))[0]["bytes"] - before) // calls
    return [name, f"{median(series):.2f}", f"{max(series):.1f}", f"{wal:,}"]


async def _batch(name: str, db: Database, tasks: PostgresTaskRepository, size: int) -> list[str]:
    """Batches of which a third each creates, changes and deletes tasks."""
    live: list[Task] = []

    async def write() -> None:
        new = [_new() for _ in range(max(1, size // 3))]
        changed, deleted = live[: size // 3], live[size // 3 : 2 * (size // 3)]
        operations: tuple[Operation, ...] = (
            *map(CreateTask, new),
            *(ChangeTask(task.id, {"title": uuid4().hex}) for task in changed),
            *(DeleteTask(task.id) for task in deleted),
        )
        if not (await tasks.apply(OWNER, Batch(operations), now=_now())).is_applied:
            raise InvalidRun("a batch was refused")
        live[:] = [*new, *changed]

    return await _single(name, db, write, max(20, CALLS // size))


async def _concurrent(db: Database, tasks: PostgresTaskRepository) -> str:
    """Writers that change the same tasks at the versions that they have read, in any order."""
    stored = [await tasks.add(replace(_new(), owner="writers")) for _ in range(10)]
    deadlocks = (await db.fetch(_DEADLOCKS))[0]["deadlocks"]
    outcomes: Counter[bool] = Counter()
    end = time.monotonic() + CONCURRENT_SECONDS

    async def write_batches(number: int) -> None:
        order = stored[number:] + stored[:number]
        while time.monotonic() < end:
            versions = {task.id: task.version for task in await _listed(tasks)}
            batch = Batch(
                tuple(
                    ChangeTask(task.id, {"title": uuid4().hex}, versions[task.id]) for task in order
                )
            )
            outcomes[(await tasks.apply("writers", batch, now=_now())).is_applied] += 1

    await asyncio.gather(*map(write_batches, range(WRITERS)))
    versions = {task.version for task in await _listed(tasks)}
    deadlocks = (await db.fetch(_DEADLOCKS))[0]["deadlocks"] - deadlocks
    row = [WRITERS, outcomes[True], outcomes[False], sorted(versions), deadlocks]
    header = ["writers", "applied", "refused", "versions in the end", "deadlocks"]
    return markdown([header, list(map(str, row))])


async def _listed(tasks: PostgresTaskRepository) -> tuple[Task, ...]:
    return (await tasks.find("writers", TaskQuery())).tasks


def _new() -> Task:
    return Task.new(uuid4(), OWNER, _now(), title="Buy milk", description="two litres")


def _now() -> datetime:
    return datetime.now(UTC)
