import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest

from batch_contract import BatchContract
from contracts import TaskRepositoryContract
from support.postgres.round_trips import proxy_before
from support.tasks import COMPLETED, NOW, a_task
from todo_adapters.postgres.batch_statements import TAKE_NUMBER
from todo_adapters.postgres.database import Database, Fetch, Statement
from todo_adapters.postgres.statements import OWNER_SEEN_INTERVAL
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl
from todo_adapters.postgres.user_data import ERASE
from todo_domain.batch import Batch, CreateTask, DeleteTask
from todo_domain.errors import DatabaseUnavailable, TaskIdTaken, TaskNotFound
from todo_domain.ports import KEY_LIFETIME, RETENTION, TaskRepository
from todo_domain.sync import Change
from todo_domain.task import Task

INSTANT: Final = timedelta(microseconds=1)

Delete = Callable[[TaskRepository, Task, datetime], Awaitable[object]]
DELETES: Final[dict[str, Delete]] = {
    "delete": lambda tasks, task, now: tasks.delete("ada", task.id, now=now),
    "delete a version": lambda tasks, task, now: tasks.delete("ada", task.id, now=now, version=1),
    "delete completed tasks": lambda tasks, _, now: tasks.delete_matching(
        "ada", COMPLETED, now=now
    ),
}


@pytest.fixture
def database(target_database: Database) -> Database:
    """A database on each kind of server in turn."""
    return target_database


class TestPostgresTaskRepository(TaskRepositoryContract):
    @pytest.fixture
    def tasks(self, database: Database, reported: list[Change]) -> TaskRepository:
        return PostgresTaskRepository(database, on_change=reported.append)


class TestErasure:
    async def test_leaves_no_row_of_the_owner_in_any_table(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database)
        for owner in ("ada", "eve"):
            await tasks.add(a_task(owner=owner), key="k")
        before = await rows_of_users(database)
        await tasks.erase("ada")
        left = await rows_of_users(database)
        assert before == {table: ["ada", "eve"] for table in USER_COLUMNS}
        assert left == {table: ["eve"] for table in USER_COLUMNS}

    async def test_waits_for_a_write_and_erases_what_it_has_stored(
        self, database: Database
    ) -> None:
        tasks = PostgresTaskRepository(database)
        await tasks.add(a_task())

        async def write_slowly(fetch: Fetch) -> asyncio.Task[int]:
            await fetch(TAKE_NUMBER, owner="ada")
            erasure = asyncio.create_task(tasks.erase("ada"))
            await until_waiting(fetch, 1)
            await fetch(STORE_KEY, owner="ada")
            return erasure

        assert await (await database.transact("ada", write_slowly)) == 1
        assert await rows_of_users(database) == {table: [] for table in USER_COLUMNS}

    async def test_lets_a_waiting_creation_record_its_owner_again(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database)
        await tasks.add(a_task())
        one, batch = a_task(), Batch((CreateTask(a_task()),))

        async def erase_slowly(fetch: Fetch) -> list[asyncio.Task[object]]:
            await fetch(TAKE_NUMBER, owner="ada")
            writes: list[Coroutine[Any, Any, object]] = [
                tasks.add(one),
                tasks.apply("ada", batch, now=NOW),
            ]
            waiting = [asyncio.create_task(write) for write in writes]
            await until_waiting(fetch, len(waiting))
            await fetch(ERASE, owner="ada")
            return waiting

        await asyncio.gather(*await database.transact("ada", erase_slowly))
        assert (await tasks.count("ada")).total == 2
        assert await rows_of_users(database) == {
            **{table: ["ada"] for table in USER_COLUMNS},
            "idempotency_keys": [],
        }


# The column with the user of each table.
USER_COLUMNS: Final = {
    "tasks": "user_id",
    "idempotency_keys": "user_id",
    "changes": "user_id",
    "users": "id",
}
# How many connections wait for a lock.
WAITING: Final = Statement("SELECT count(*) AS waiting FROM pg_locks WHERE NOT granted", ())
STORE_KEY: Final = Statement(
    "INSERT INTO todo.idempotency_keys (user_id, key, content, created_at)"
    " VALUES ($1, 'k', '', now())",
    ("owner",),
)


async def until_waiting(fetch: Fetch, count: int) -> None:
    """Return when so many connections wait for a lock."""
    waiting = 0
    while waiting < count:
        ((waiting,),) = await fetch(WAITING)


async def rows_of_users(database: Database) -> dict[str, list[str]]:
    """The users who have rows in each table."""
    found = {}
    for table, column in USER_COLUMNS.items():
        sql = f"SELECT DISTINCT {column} AS owner FROM todo.{table} ORDER BY 1"  # noqa: S608
        found[table] = [row["owner"] for row in await database.fetch(Statement(sql, ()))]
    return found


class TestBatchesInTransactions(BatchContract):
    @pytest.fixture
    def tasks(self, database: Database, reported: list[Change]) -> TaskRepository:
        return PostgresTaskRepository(
            database, batches_in_transactions=True, on_change=reported.append
        )


class TestAWriteThatMayHaveBeenCommitted:
    async def test_is_reported_without_a_number_if_the_server_does_not_respond(
        self, address: DatabaseUrl
    ) -> None:
        reported: list[Change] = []
        async with proxy_before(address) as proxy:
            database = Database(proxy.address, pool_size=1)
            tasks = PostgresTaskRepository(database, on_change=reported.append)
            await proxy.leave()
            with pytest.raises(DatabaseUnavailable):
                await tasks.add(a_task())
            await database.close()
        assert reported == [Change("ada", None)]

    @pytest.mark.parametrize("in_transactions", [False, True])
    async def test_is_reported_without_a_number_if_its_request_is_cancelled(
        self, address: DatabaseUrl, *, in_transactions: bool
    ) -> None:
        reported: list[Change] = []
        async with proxy_before(address) as proxy:
            database = Database(proxy.address, pool_size=1)
            await database.check()
            tasks = PostgresTaskRepository(
                database, batches_in_transactions=in_transactions, on_change=reported.append
            )
            for write in (
                tasks.delete("ada", uuid4(), now=NOW),
                tasks.apply("ada", Batch((DeleteTask(uuid4()),)), now=NOW),
            ):
                proxy.freeze()
                writing = asyncio.create_task(write)
                await proxy.message_held()
                writing.cancel()
                await asyncio.wait([writing])
                proxy.thaw()
            await database.close()
        assert reported == [Change("ada", None)] * 2


@pytest.fixture(scope="module")
async def unindexed(
    branch: Callable[[str], Awaitable[DatabaseUrl]],
) -> AsyncIterator[Database]:
    """A database with ten connections whose query plans use no index."""
    database = Database(await branch("unindexed"), pool_size=10)
    for scan in ("indexscan", "indexonlyscan", "bitmapscan"):
        await database.fetch(Statement(f"ALTER DATABASE unindexed SET enable_{scan} = off", ()))
    await database.close()  # new connections have the settings
    yield database
    await database.close()


class TestPostgresTaskRepositoryWithoutIndexes(TaskRepositoryContract):
    """Shows that no statement relies on the order in which an index scan returns rows."""

    @pytest.fixture
    async def tasks(
        self,
        unindexed: Database,
        erase: Callable[[Database], Awaitable[object]],
        reported: list[Change],
    ) -> AsyncIterator[TaskRepository]:
        yield PostgresTaskRepository(unindexed, on_change=reported.append)
        await erase(unindexed)

    async def test_query_plans_have_no_index_scan(self, unindexed: Database) -> None:
        plan = await unindexed.fetch(
            Statement("EXPLAIN SELECT * FROM todo.tasks ORDER BY user_id, created_at DESC", ())
        )
        assert "Index" not in str(plan)


class TestUsers:
    async def test_are_recorded_with_their_first_task(self, database: Database) -> None:
        await PostgresTaskRepository(database).add(a_task())
        assert await seen_users(database) == [("ada", NOW, NOW)]

    async def test_that_were_seen_within_the_last_hour_are_not_updated(
        self, database: Database
    ) -> None:
        tasks = PostgresTaskRepository(database)
        await tasks.add(a_task())
        await tasks.add(a_task(created_at=NOW + timedelta(hours=1) - INSTANT))
        assert await seen_users(database) == [("ada", NOW, NOW)]

    async def test_that_were_seen_an_hour_ago_are_updated(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database)
        await tasks.add(a_task())
        later = NOW + timedelta(hours=1)
        await tasks.add(a_task(created_at=later))
        assert await seen_users(database) == [("ada", NOW, later)]

    async def test_are_not_updated_to_an_earlier_time(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database)
        await tasks.add(a_task())
        await tasks.add(a_task(created_at=NOW - 2 * OWNER_SEEN_INTERVAL))
        assert await seen_users(database) == [("ada", NOW, NOW)]

    async def test_are_last_seen_at_the_latest_of_concurrently_added_tasks(
        self, database: Database
    ) -> None:
        tasks = PostgresTaskRepository(database)
        moments = [NOW - 2 * hours * OWNER_SEEN_INTERVAL for hours in range(10)]
        await asyncio.gather(*(tasks.add(a_task(created_at=moment)) for moment in moments))
        ((_, _, last_seen_at),) = await seen_users(database)
        assert last_seen_at == NOW


class TestPurge:
    """Tasks that can no longer be restored are purged with the owner's next delete."""

    @pytest.mark.parametrize("delete", DELETES.values(), ids=DELETES)
    async def test_removes_tasks_after_the_retention_time(
        self, database: Database, delete: Delete
    ) -> None:
        tasks = PostgresTaskRepository(database)
        first, second, live, third = (
            *(a_task(), a_task(completed_at=NOW), a_task(), a_task(completed_at=NOW)),
        )
        for task in (first, second, live, third):
            await tasks.add(task)
        await tasks.delete("ada", first.id, now=NOW)
        await tasks.delete("ada", second.id, now=NOW + INSTANT)
        await delete(tasks, third, NOW + RETENTION - INSTANT)
        assert await ids(database) == {first.id, second.id, live.id, third.id}
        await tasks.restore("ada", third.id, now=NOW + RETENTION)
        await delete(tasks, third, NOW + RETENTION)
        assert await ids(database) == {second.id, live.id, third.id}

    async def test_happens_even_if_there_is_no_task_to_delete(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database)
        task = a_task()
        await tasks.add(task)
        await tasks.delete("ada", task.id, now=NOW)
        with pytest.raises(TaskNotFound):
            await tasks.delete("ada", task.id, now=NOW + RETENTION)
        assert await ids(database) == set()

    async def test_leaves_tasks_of_other_users_alone(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database)
        adas, eves = a_task(), a_task(owner="eve")
        for task in (adas, eves):
            await tasks.add(task)
        await tasks.delete("eve", eves.id, now=NOW)
        await tasks.delete("ada", adas.id, now=NOW + 2 * RETENTION)
        assert await ids(database) == {adas.id, eves.id}

    async def test_by_concurrent_deletes_removes_every_expired_task(
        self, database: Database
    ) -> None:
        tasks = PostgresTaskRepository(database)
        old, new = [a_task() for _ in range(10)], [a_task() for _ in range(10)]
        for task in old + new:
            await tasks.add(task)
        for task in old:
            await tasks.delete("ada", task.id, now=NOW)
        now = NOW + RETENTION
        await asyncio.gather(*(tasks.delete("ada", task.id, now=now) for task in new))
        assert await ids(database) == {task.id for task in new}

    async def test_does_not_wait_for_a_concurrent_purge(
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

    async def test_happens_after_the_configured_retention_time(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database, retention=timedelta(days=1))
        task = a_task()
        await tasks.add(task)
        await tasks.delete("ada", task.id, now=NOW)
        with pytest.raises(TaskNotFound):
            await tasks.restore("ada", task.id, now=NOW + timedelta(days=1))
        assert await tasks.restore("ada", task.id, now=NOW + timedelta(days=1) - INSTANT) == task


class TestIdempotencyKeys:
    async def test_that_have_expired_are_deleted_with_the_owners_next_key(
        self, database: Database
    ) -> None:
        tasks = PostgresTaskRepository(database)
        await tasks.add(a_task(), key="expired")
        await tasks.add(a_task(created_at=NOW + INSTANT), key="valid")
        await tasks.add(a_task(owner="eve"), key="eve's")
        await tasks.add(a_task(created_at=NOW + KEY_LIFETIME + INSTANT))
        assert await keys(database) == {"expired", "valid", "eve's"}
        await tasks.add(a_task(created_at=NOW + KEY_LIFETIME + INSTANT), key="new")
        assert await keys(database) == {"valid", "eve's", "new"}

    async def test_are_stored_with_a_hash_of_the_members_that_are_set(
        self, database: Database
    ) -> None:
        await PostgresTaskRepository(database).add(a_task(), key="k")
        rows = await database.fetch(Statement("SELECT content FROM todo.idempotency_keys", ()))
        assert [row["content"] for row in rows] == [sha256(b'{"title":"Buy milk"}').digest()]

    async def test_are_kept_if_an_equal_key_of_another_user_has_expired(
        self, database: Database
    ) -> None:
        tasks = PostgresTaskRepository(database)
        later = NOW + KEY_LIFETIME + INSTANT
        await tasks.add(a_task(owner="eve"), key="k")
        first = a_task(created_at=later, updated_at=later)
        await tasks.add(first, key="k")
        await tasks.add(a_task(created_at=later), key="new")
        assert await tasks.add(replace(first, id=uuid4()), key="k") == first

    async def test_that_have_expired_can_be_used_again_concurrently_without_a_deadlock(
        self, embedded_database: Database, server_url: str
    ) -> None:
        tasks = PostgresTaskRepository(embedded_database)
        for key in ("one", "two"):
            await tasks.add(a_task(), key=key)
        new = [a_task(created_at=NOW + 2 * KEY_LIFETIME) for _ in range(2)]
        async with ids_locked(server_url, *(task.id for task in new)) as holder:
            adding = [
                asyncio.create_task(tasks.add(task, key=key))
                for task, key in zip(new, ("one", "two"), strict=True)
            ]
            await wait_for_locks(holder, 2)
        assert await asyncio.gather(*adding) == new

    async def test_are_not_stored_if_the_task_cannot_be_added(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database)
        task, other = a_task(), a_task()
        await tasks.add(task)
        with pytest.raises(TaskIdTaken):
            await tasks.add(a_task(id=task.id), key="k")
        assert await keys(database) == set()
        assert await tasks.add(other, key="k") == other

    async def test_stay_valid_after_their_task_was_purged(self, database: Database) -> None:
        tasks = PostgresTaskRepository(database, retention=timedelta(hours=1))
        first, later = a_task(), NOW + timedelta(hours=2)
        await tasks.add(first, key="k")
        await tasks.delete("ada", first.id, now=NOW)
        await tasks.delete_matching("ada", COMPLETED, now=later)
        assert await ids(database) == set()
        assert await tasks.add(a_task(created_at=later, updated_at=later), key="k") == first
        assert await ids(database) == set()


async def ids(database: Database) -> set[object]:
    """The ids of all stored tasks, including deleted ones."""
    return {row["id"] for row in await database.fetch(Statement("SELECT id FROM todo.tasks", ()))}


async def keys(database: Database) -> set[object]:
    rows = await database.fetch(Statement("SELECT key FROM todo.idempotency_keys", ()))
    return {row["key"] for row in rows}


@asynccontextmanager
async def ids_locked(server_url: str, *ids: UUID) -> AsyncIterator[asyncpg.Connection]:
    """Make other connections wait before they insert these ids. Yields the lock's connection."""
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
    """Make other connections wait before they change the tasks with these ids."""
    connection = await asyncpg.connect(server_url, database="tests")
    try:
        async with connection.transaction():
            lock = "SELECT FROM todo.tasks WHERE id = ANY($1) FOR UPDATE"
            await connection.execute(lock, ids)
            yield
    finally:
        await connection.close()


async def wait_for_locks(connection: asyncpg.Connection, others: int) -> None:
    """Wait until this number of other connections to the database wait for a lock."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(10):
        while await connection.fetchval(waiting) < others:
            await connection.execute("SELECT pg_stat_clear_snapshot()")


async def seen_users(database: Database) -> list[tuple[str, datetime, datetime]]:
    """Each user, with the times when they were first and last seen."""
    statement = Statement("SELECT id, first_seen_at, last_seen_at FROM todo.users ORDER BY id", ())
    return [tuple(row) for row in await database.fetch(statement)]
