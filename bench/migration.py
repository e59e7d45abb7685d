"""Times the migration of many tasks from version 0.1, and the waits of its clients meanwhile."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from bench.report import markdown
from todo_adapters.embedded_postgres.server import embedded_postgres
from todo_adapters.postgres.schema import migrate
from todo_adapters.postgres.url import parse_database_url

TASKS: Final = 1_000_000
OWNERS: Final = 1000
RELEASED: Final = "0003"  # the revision of version 0.1
_PAUSE: Final = 0.005  # seconds between two statements of a client

_OWNERS_SQL: Final = """
INSERT INTO todo.users SELECT 'owner ' || nr, now(), now() FROM generate_series(0, $1::int - 1) nr
"""
# One title in ten is not ASCII.
_TASKS_SQL: Final = """
INSERT INTO todo.tasks (id, user_id, title, description, due_all_day, tags, created_at, updated_at,
                        completed_at, version)
SELECT gen_random_uuid(), 'owner ' || nr % $1::int,
       CASE WHEN nr % 10 = 0 THEN 'Straße kehren ' ELSE 'Buy milk ' END || nr,
       CASE WHEN nr % 3 = 0 THEN 'two litres, and bread ' || nr END, false, '{home}', now(), now(),
       CASE WHEN nr % 2 = 0 THEN now() END, 1
FROM generate_series(1, $2::int) nr
"""
_READ: Final = """
SELECT * FROM todo.tasks WHERE user_id = $1 AND deleted_at IS NULL
ORDER BY created_at DESC, id DESC LIMIT 20
"""
_WRITE: Final = """
UPDATE todo.tasks SET title = title || '.', version = version + 1
WHERE id = (SELECT id FROM todo.tasks WHERE user_id = $1 ORDER BY created_at LIMIT 1)
"""


async def migration() -> str:
    """The duration of the migration, and the waits of a reading and a writing client."""
    with (
        TemporaryDirectory(prefix="todo-bench-") as directory,
        embedded_postgres(Path(directory)) as url,
    ):
        await _run_sync(url, _migrate_to_released)
        await _load(url)
        is_done = asyncio.Event()
        clients = [asyncio.create_task(_waits(url, sql, is_done)) for sql in (_READ, _WRITE)]
        begin = time.perf_counter()
        await migrate(parse_database_url(url))
        duration = time.perf_counter() - begin
        is_done.set()
        waits = await asyncio.gather(*clients)
    rows = [
        [name, f"{len(series):,}", f"{median(series):.1f}", f"{max(series):.0f}"]
        for name, series in zip(("list", "change"), waits, strict=True)
    ]
    table = markdown([["client", "statements", "p50 ms", "longest ms"], *rows])
    return f"{TASKS:,} tasks migrated in {duration:.1f} s\n\n{table}"


async def _load(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(_OWNERS_SQL, OWNERS)
    await connection.execute(_TASKS_SQL, OWNERS, TASKS)
    await connection.execute("VACUUM ANALYZE todo.tasks")
    await connection.close()


async def _waits(url: str, sql: str, is_done: asyncio.Event) -> list[float]:
    """The milliseconds of each statement of a client with varying owners."""
    connection = await asyncpg.connect(url, statement_cache_size=0)
    waits: list[float] = []
    while not is_done.is_set():
        begin = time.perf_counter()
        await connection.execute(sql, f"owner {len(waits) % OWNERS}")
        waits.append((time.perf_counter() - begin) * 1000)
        await asyncio.sleep(_PAUSE)
    await connection.close()
    return waits


def _migrate_to_released(connection: Connection) -> None:
    connection.execute(text("CREATE SCHEMA todo"))
    connection.commit()
    config = Config()
    config.set_main_option("script_location", "todo_adapters.postgres:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, RELEASED)


async def _run_sync(url: str, work: Callable[[Connection], None]) -> None:
    engine = create_async_engine(parse_database_url(url).url)
    async with engine.connect() as connection:
        await connection.run_sync(work)
        await connection.commit()
    await engine.dispose()
