import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final
from uuid import UUID, uuid4

import asyncpg
import pytest

from contracts import TaskRepositoryContract
from support.tasks import NOW, a_task
from todo_adapters.postgres.database import Database, Statement
from todo_adapters.postgres.tasks import SEEN_GRANULARITY, PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl
from todo_domain.errors import TaskNotFound
from todo_domain.ports import KEY_LIFETIME, RETENTION, TaskRepository
from todo_domain.task import Task

INSTANT: Final = timedelta(microseconds=1)

Removal = Callable[[TaskRepository, Task, datetime], Awaitable[object]]
REMOVALS: Final[dict[str, Removal]] = {
    "remove": lambda tasks, task, now: tasks.delete("ada", task.id, now=now),
    "remove the version": lambda tasks, task, now: tasks.delete("ada", task.id, now=now, version=1),
    "remove what is completed": lambda tasks, _, now: tasks.delete_completed("ada", now=now),
}


@pytest.fixture
def database(target_database: Database) -> Database:
    """On each kind of server in turn."""
    return target_database


class TestPostgresTaskRepository(TaskRepositoryContract):
    @pytest.fixture
    def tasks(self, database: Database) -> TaskRepository:
        return PostgresTaskRepository(database)


@pytest.fixture(scope="module")
async def unindexed(
    branch: Callable[[str], Awaitable[DatabaseUrl]],
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
        await tasks.add(a_task(created_at=NOW + timedelta(hours=1) - INSTANT))
        assert await seen(database) == [("ada", NOW, NOW)]

    async def test_that_come_back_later_are_noted_again(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database)
        await tasks.add(a_task())
        later = NOW + timedelta(hours=1)
        await tasks.add(a_task(created_at=later))
        assert await seen(database) == [("ada", NOW, later)]

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


class TestPurge:
    """What was removed too long ago to be restored goes with the owner's next removal."""

    @pytest.mark.parametrize("removal", REMOVALS.values(), ids=REMOVALS)
    async def test_happens_once_the_retention_has_ended(
        self, database: Database, removal: Removal
    ) -> None:
        tasks = PostgresTaskRepository(database)
        expired, expiring, live, next_one = (
            *(a_task(), a_task(completed_at=NOW), a_task(), a_task(completed_at=NOW)),
        )
        for task in (expired, expiring, live, next_one):
            await tasks.add(task)
        await tasks.delete("ada", expired.id, now=NOW)
        await tasks.delete("ada", expiring.id, now=NOW + INSTANT)
        await removal(tasks, next_one, NOW + RETENTION - INSTANT)
        assert await ids(database) == {expired.id, expiring.id, live.id, next_one.id}
        await tasks.restore("ada", next_one.id, now=NOW + RETENTION)
        await removal(tasks, next_one, NOW + RETENTION)
        assert await ids(database) == {expiring.id, live.id, next_one.id}

    async def test_happens_even_if_there_is_nothing_else_to_remove(
        self, database: Database
    ) -> None:
        tasks = PostgresTaskRepository(database)
        task = a_task()
        await tasks.add(task)
        await tasks.delete("ada", task.id, now=NOW)
        with pytest.raises(TaskNotFound):
            await tasks.delete("ada", task.id, now=NOW + RETENTION)
        assert await ids(database) == set()

    async def test_leaves_other_owners_tasks_to_them(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database)
        adas, eves = a_task(), a_task(owner="eve")
        for task in (adas, eves):
            await tasks.add(task)
        await tasks.delete("eve", eves.id, now=NOW)
        await tasks.delete("ada", adas.id, now=NOW + 2 * RETENTION)
        assert await ids(database) == {adas.id, eves.id}

    async def test_by_rivals_leaves_nothing_of_what_has_expired(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database)
        old, new = [a_task() for _ in range(10)], [a_task() for _ in range(10)]
        for task in old + new:
            await tasks.add(task)
        for task in old:
            await tasks.delete("ada", task.id, now=NOW)
        now = NOW + RETENTION
        await asyncio.gather(*(tasks.delete("ada", task.id, now=now) for task in new))
        assert await ids(database) == {task.id for task in new}

    async def test_does_not_wait_for_a_rival_at_the_same_work(
        self, embedded_database: Database, server_url: str
    ) -> None:
        tasks = PostgresTaskRepository(embedded_database)
        old, new = a_task(), a_task()
        for task in (old, new):
            await tasks.add(task)
        await tasks.delete("ada", old.id, now=NOW)
        async with rows_locked(server_url, old.id):
            assert await tasks.delete("ada", new.id, now=NOW + RETENTION) == new
        assert await ids(embedded_database) == {old.id, new.id}

    async def test_comes_after_the_retention_that_is_configured(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database, retention=timedelta(days=1))
        task = a_task()
        await tasks.add(task)
        await tasks.delete("ada", task.id, now=NOW)
        with pytest.raises(TaskNotFound):
            await tasks.restore("ada", task.id, now=NOW + timedelta(days=1))
        assert await tasks.restore("ada", task.id, now=NOW + timedelta(days=1) - INSTANT) == task


class TestIdempotencyKeys:
    async def test_that_are_forgotten_go_with_the_owners_next_key(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database)
        await tasks.add(a_task(), key="forgotten")
        await tasks.add(a_task(created_at=NOW + INSTANT), key="remembered")
        await tasks.add(a_task(owner="eve"), key="eve's")
        await tasks.add(a_task(created_at=NOW + KEY_LIFETIME + INSTANT))
        assert await keys(database) == {"forgotten", "remembered", "eve's"}
        await tasks.add(a_task(created_at=NOW + KEY_LIFETIME + INSTANT), key="new")
        assert await keys(database) == {"remembered", "eve's", "new"}

    async def test_are_for_what_was_said_so_that_an_older_version_agrees(
        self, database: Database
    ) -> None:
        await PostgresTaskRepository(database).add(a_task(), key="k")
        rows = await database.fetch(Statement("SELECT content FROM todo.idempotency_keys", ()))
        assert [row["content"] for row in rows] == [sha256(b'{"title":"Buy milk"}').digest()]

    async def test_that_another_owner_has_forgotten_are_remembered(
        self, database: Database
    ) -> None:
        tasks = PostgresTaskRepository(database)
        later = NOW + KEY_LIFETIME + INSTANT
        await tasks.add(a_task(owner="eve"), key="k")
        first = a_task(created_at=later, updated_at=later)
        await tasks.add(first, key="k")
        await tasks.add(a_task(created_at=later), key="new")
        assert await tasks.add(replace(first, id=uuid4()), key="k") == first

    async def test_that_are_forgotten_and_used_again_at_once_do_not_wait_for_each_other(
        self, embedded_database: Database, server_url: str
    ) -> None:
        tasks = PostgresTaskRepository(embedded_database)
        for key in ("one", "two"):
            await tasks.add(a_task(), key=key)
        new = [a_task(created_at=NOW + 2 * KEY_LIFETIME) for _ in range(2)]
        async with ids_taken(server_url, *(task.id for task in new)) as taken:
            adding = [
                asyncio.create_task(tasks.add(task, key=key))
                for task, key in zip(new, ("one", "two"), strict=True)
            ]
            await waiting(taken, 2)
        assert await asyncio.gather(*adding) == new

    async def test_are_free_again_if_the_task_could_not_be_added(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database)
        task, other = a_task(), a_task()
        await tasks.add(task)
        with pytest.raises(asyncpg.UniqueViolationError, match="tasks_pkey"):
            await tasks.add(a_task(id=task.id), key="k")
        assert await keys(database) == set()
        assert await tasks.add(other, key="k") == other

    async def test_outlive_their_task(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database, retention=timedelta(hours=1))
        first, later = a_task(), NOW + timedelta(hours=2)
        await tasks.add(first, key="k")
        await tasks.delete("ada", first.id, now=NOW)
        await tasks.delete_completed("ada", now=later)
        assert await ids(database) == set()
        assert await tasks.add(a_task(created_at=later, updated_at=later), key="k") == first
        assert await ids(database) == set()


async def ids(database: Database) -> set[object]:
    """The ids of all stored rows, the removed ones included."""
    return {row["id"] for row in await database.fetch(Statement("SELECT id FROM todo.tasks", ()))}


async def keys(database: Database) -> set[object]:
    rows = await database.fetch(Statement("SELECT key FROM todo.idempotency_keys", ()))
    return {row["key"] for row in rows}


@asynccontextmanager
async def ids_taken(server_url: str, *ids: UUID) -> AsyncIterator[asyncpg.Connection]:
    """A connection that has others wait before they store these ids, and then lets them."""
    connection = await asyncpg.connect(server_url, database="tests")
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.executemany(
            "INSERT INTO todo.tasks (id, user_id, title, due_all_day, tags, created_at, updated_at,"
            " version) VALUES ($1, 'ada', '', false, '{}', now(), now(), 1)",
            [[task_id] for task_id in ids],
        )
        yield connection
        await transaction.rollback()
    finally:
        await connection.close()


@asynccontextmanager
async def rows_locked(server_url: str, *ids: UUID) -> AsyncIterator[None]:
    """Have others wait before they change the tasks of these ids."""
    connection = await asyncpg.connect(server_url, database="tests")
    try:
        async with connection.transaction():
            lock = "SELECT FROM todo.tasks WHERE id = ANY($1) FOR UPDATE"
            await connection.execute(lock, ids)
            yield
    finally:
        await connection.close()


async def waiting(connection: asyncpg.Connection, others: int) -> None:
    """Return once so many other connections to the database wait for a lock."""
    waiting_now = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(10):
        while await connection.fetchval(waiting_now) < others:
            await connection.execute("SELECT pg_stat_clear_snapshot()")


async def seen(database: Database) -> list[tuple[str, datetime, datetime]]:
    """Each user with when they were first and last seen."""
    statement = Statement("SELECT id, first_seen_at, last_seen_at FROM todo.users ORDER BY id", ())
    return [tuple(row) for row in await database.fetch(statement)]
