import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta

import pytest

from contracts import TaskRepositoryContract
from tasks import NOW, a_task
from todo_adapters.postgres.engine import Database, Statement
from todo_adapters.postgres.tasks import SEEN_GRANULARITY, PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseAddress
from todo_domain.ports import TaskRepository

INSTANT = timedelta(microseconds=1)


class TestPostgresTaskRepository(TaskRepositoryContract):
    @pytest.fixture
    def tasks(self, database: Database) -> TaskRepository:
        return PostgresTaskRepository(database)


@pytest.fixture(scope="module")
async def unindexed(
    branch: Callable[[str], Awaitable[DatabaseAddress]],
) -> AsyncIterator[Database]:
    """A database with ten connections whose plans use no index."""
    database = Database(await branch("unindexed"), pool_size=10)
    for scan in ("indexscan", "indexonlyscan", "bitmapscan"):
        await database.fetch(Statement(f"ALTER DATABASE unindexed SET enable_{scan} = off", ()))
    await database.close()  # the settings are those of new connections
    yield database
    await database.close()


class TestPostgresTaskRepositoryWithoutIndexes(TaskRepositoryContract):
    """No index scan brings rows in an order that a statement forgot to ask for."""

    @pytest.fixture
    async def tasks(
        self, unindexed: Database, erase: Callable[[Database], Awaitable[object]]
    ) -> AsyncIterator[TaskRepository]:
        yield PostgresTaskRepository(unindexed)
        await erase(unindexed)

    async def test_runs_without_index_scans(self, unindexed: Database) -> None:
        plan = await unindexed.fetch(
            Statement("EXPLAIN SELECT * FROM todo.tasks ORDER BY user_id, created_at DESC", ())
        )
        assert "Index" not in str(plan)


class TestUsers:
    async def test_are_noted_with_their_first_task(self, database: Database) -> None:
        await PostgresTaskRepository(database).add(a_task())
        assert await seen(database) == [("ada", NOW, NOW)]

    async def test_that_were_seen_within_the_hour_keep_their_row(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database)
        await tasks.add(a_task())
        await tasks.add(a_task(created_at=NOW + SEEN_GRANULARITY - INSTANT))
        assert await seen(database) == [("ada", NOW, NOW)]

    async def test_that_come_back_later_are_noted_again(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database)
        await tasks.add(a_task())
        await tasks.add(a_task(created_at=NOW + SEEN_GRANULARITY))
        assert await seen(database) == [("ada", NOW, NOW + SEEN_GRANULARITY)]

    async def test_are_not_made_older_by_a_clock_set_back(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database)
        await tasks.add(a_task())
        await tasks.add(a_task(created_at=NOW - 2 * SEEN_GRANULARITY))
        assert await seen(database) == [("ada", NOW, NOW)]

    async def test_are_last_seen_at_the_latest_of_tasks_that_come_at_once(
        self, database: Database
    ) -> None:
        tasks = PostgresTaskRepository(database)
        moments = [NOW - 2 * hours * SEEN_GRANULARITY for hours in range(10)]
        await asyncio.gather(*(tasks.add(a_task(created_at=moment)) for moment in moments))
        ((_, _, last_seen_at),) = await seen(database)
        assert last_seen_at == NOW

    async def test_are_not_noted_for_a_task_that_could_not_be_added(
        self, database: Database
    ) -> None:
        tasks = PostgresTaskRepository(database)
        task = a_task()
        await tasks.add(task)
        with pytest.raises(Exception, match="tasks_pkey"):
            await tasks.add(a_task(id=task.id, owner="eve"))
        assert await seen(database) == [("ada", NOW, NOW)]


async def seen(database: Database) -> list[tuple[str, datetime, datetime]]:
    """Each user with when they were first and last seen."""
    statement = Statement("SELECT id, first_seen_at, last_seen_at FROM todo.users ORDER BY id", ())
    return [tuple(row) for row in await database.fetch(statement)]
