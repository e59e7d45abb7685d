import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import asyncpg
import pytest
from structlog.testing import capture_logs

from support.postgres.round_trips import PostgresProxy, proxy_before
from support.tasks import COMPLETED, LATER, a_task
from todo_adapters.postgres.database import Database, Fetch, Statement, Timeouts
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl
from todo_domain.errors import (
    DatabaseUnavailable,
    Overloaded,
    StaleVersion,
    TaskNotDeleted,
    TaskNotFound,
)
from todo_domain.ports import TaskRepository
from todo_domain.queries import Sort, SortBy, TaskFilter, TaskQuery
from todo_domain.task import Task

DEFAULTS: Final = Timeouts()
SHORT: Final = 0.4  # seconds, enough to connect on a busy machine
PATIENCE: Final = 10  # seconds after which a call that does not fail fails the test
ECHO: Final = Statement("SELECT $1::int AS number", ("number",))
BACKEND: Final = Statement("SELECT pg_backend_pid()", ())

OnTask = Callable[[TaskRepository, Task], Awaitable[object]]
CALLS: Final[dict[str, OnTask]] = {
    "add": lambda tasks, _: tasks.add(a_task()),
    "add for a new user": lambda tasks, task: tasks.add(a_task(owner=f"owner of {task.id}")),
    "add with a new key": lambda tasks, task: tasks.add(a_task(), key=f"key of {task.id}"),
    "get": lambda tasks, task: tasks.get("ada", task.id),
    "find": lambda tasks, _: tasks.find("ada", TaskQuery()),
    "find with total": lambda tasks, _: tasks.find("ada", TaskQuery(with_total=True)),
    "find with filters": lambda tasks, task: tasks.find(
        "ada",
        TaskQuery(
            TaskFilter(completed=False, tags=("home",), due_before=LATER, text="milk"),
            Sort(SortBy.TITLE),
            after=Sort(SortBy.TITLE).position(task),
        ),
    ),
    "save": lambda tasks, task: tasks.save(task.changed(LATER, title="Buy oat milk")),
    "complete": lambda tasks, task: tasks.change("ada", task.id, completed=True, now=LATER),
    "reopen": lambda tasks, task: tasks.change("ada", task.id, completed=False, now=LATER),
    "delete": lambda tasks, task: tasks.delete("ada", task.id, now=LATER),
    "delete a version": lambda tasks, task: tasks.delete("ada", task.id, now=LATER, version=1),
    "delete completed tasks": lambda tasks, _: tasks.delete_matching("ada", COMPLETED, now=LATER),
    "count": lambda tasks, _: tasks.count("ada"),
    "refused get": lambda tasks, task: refused(tasks.get("eve", task.id)),
    "refused save": lambda tasks, task: refused(tasks.save(replace(task, version=9))),
    "refused delete": lambda tasks, task: refused(
        tasks.delete("ada", task.id, now=LATER, version=9)
    ),
    "refused restore": lambda tasks, task: refused(tasks.restore("ada", task.id, now=LATER)),
}


async def refused(call: Awaitable[object]) -> None:
    with pytest.raises((TaskNotFound, TaskNotDeleted, StaleVersion)):
        await call


async def echo(database: Database, number: int) -> int:
    (row,) = await database.fetch(ECHO, number=number)
    return int(row["number"])


async def backend(database: Database) -> int:
    """The process of the server behind a connection."""
    (row,) = await database.fetch(BACKEND)
    return int(row["pg_backend_pid"])


@asynccontextmanager
async def connected(
    database_url: DatabaseUrl, *, pool_size: int = 1, timeouts: Timeouts = DEFAULTS
) -> AsyncIterator[Database]:
    database = Database(database_url, pool_size=pool_size, timeouts=timeouts)
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def proxy(address: DatabaseUrl) -> AsyncIterator[PostgresProxy]:
    async with proxy_before(address) as proxy:
        yield proxy


@pytest.fixture
async def single(proxy: PostgresProxy) -> AsyncIterator[Database]:
    """A database behind the proxy with one open connection."""
    async with connected(proxy.address) as database:
        await database.check()
        yield database


def via_pooler(database_url: DatabaseUrl) -> DatabaseUrl:
    """The same URL as if a transaction pooler were there."""
    return replace(database_url, via_pooler=True)


@pytest.mark.usefixtures("database")  # empties the tables
class TestRoundTrips:
    @pytest.fixture(params=["direct", "via pooler"])
    async def tasks(
        self, request: pytest.FixtureRequest, proxy: PostgresProxy
    ) -> AsyncIterator[TaskRepository]:
        database_url = proxy.address if request.param == "direct" else via_pooler(proxy.address)
        async with connected(database_url) as database:
            yield PostgresTaskRepository(database)

    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    async def test_each_call_of_the_repository_takes_one(
        self, tasks: TaskRepository, proxy: PostgresProxy, call: OnTask
    ) -> None:
        first, second = a_task(), a_task()
        await tasks.add(first)
        await tasks.add(second)
        await call(tasks, first)
        assert await proxy.cost(call(tasks, second)) == 1

    async def test_restore_takes_one(self, tasks: TaskRepository, proxy: PostgresProxy) -> None:
        for task in (first := a_task(), second := a_task()):
            await tasks.add(task)
            await tasks.delete("ada", task.id, now=LATER)
        await tasks.restore("ada", first.id, now=LATER)
        assert await proxy.cost(tasks.restore("ada", second.id, now=LATER)) == 1

    async def test_add_with_a_repeated_key_takes_two(
        self, tasks: TaskRepository, proxy: PostgresProxy
    ) -> None:
        for _ in range(2):
            await tasks.add(a_task(), key="k")
        assert await proxy.cost(tasks.add(a_task(), key="k")) == 2

    async def test_a_call_after_the_server_closed_the_connection_takes_those_of_a_new_one(
        self, tasks: TaskRepository, proxy: PostgresProxy
    ) -> None:
        task = a_task()
        await tasks.add(task)
        await proxy.disconnect()
        connect, prepare, run = 1, 1, 1
        assert await proxy.cost(tasks.get("ada", task.id)) == connect + prepare + run
        assert await proxy.cost(tasks.get("ada", task.id)) == run


class TestPool:
    async def test_serves_more_concurrent_calls_than_it_has_connections(
        self, address: DatabaseUrl
    ) -> None:
        async with connected(address, pool_size=2) as database:
            numbers = await asyncio.gather(*(echo(database, number) for number in range(50)))
        assert numbers == list(range(50))

    async def test_refuses_a_call_if_no_connection_becomes_free_in_time(
        self, proxy: PostgresProxy
    ) -> None:
        async with connected(proxy.address, timeouts=Timeouts(acquire=0.01)) as database:
            await database.check()
            proxy.freeze()
            first = asyncio.create_task(echo(database, 1))
            await proxy.message_held()
            with pytest.raises(Overloaded):
                await echo(database, 2)
            proxy.thaw()
            assert await first == 1
            assert await echo(database, 3) == 3

    @pytest.mark.parametrize("is_pooled", [False, True])
    async def test_limits_the_prepared_statements_of_a_connection(
        self, proxy: PostgresProxy, *, is_pooled: bool
    ) -> None:
        database_url = replace(proxy.address, via_pooler=is_pooled)
        database = Database(database_url, pool_size=1, max_prepared_statements=1)
        close = 0 if is_pooled else 1  # a statement without a name is replaced
        await echo(database, 1)
        assert await proxy.cost(echo(database, 2)) == 1
        assert await proxy.cost(backend(database)) == 2 + close
        assert await proxy.cost(echo(database, 3)) == 2 + close
        await database.close()

    async def test_survives_calls_that_are_cancelled_while_they_run(
        self, single: Database, proxy: PostgresProxy
    ) -> None:
        proxy.freeze()
        call = asyncio.create_task(echo(single, 1))
        await proxy.message_held()
        await cancelled(call)
        proxy.thaw()
        assert await echo(single, 2) == 2

    async def test_survives_calls_that_are_cancelled_while_they_wait_for_a_connection(
        self, single: Database, proxy: PostgresProxy
    ) -> None:
        proxy.freeze()
        running = asyncio.create_task(echo(single, 1))
        await proxy.message_held()
        waiting = asyncio.create_task(echo(single, 2))
        await asyncio.sleep(0)
        await cancelled(waiting)
        proxy.thaw()
        assert await running == 1
        assert await echo(single, 3) == 3

    async def test_survives_calls_that_are_cancelled_while_they_connect(
        self, proxy: PostgresProxy
    ) -> None:
        async with connected(proxy.address) as database:
            proxy.freeze()
            call = asyncio.create_task(echo(database, 1))
            await proxy.message_held()
            await cancelled(call)
            proxy.thaw()
            assert await echo(database, 2) == 2


class TestFailure:
    async def test_of_a_stopped_server_is_reported_until_it_is_back(
        self, single: Database, proxy: PostgresProxy
    ) -> None:
        await proxy.leave()
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                await echo(single, 1)
        await proxy.listen()
        assert await echo(single, 2) == 2

    async def test_of_a_server_that_stops_during_a_call_is_reported_until_it_is_back(
        self, single: Database, proxy: PostgresProxy
    ) -> None:
        proxy.leave_after(trips=0)
        with pytest.raises(DatabaseUnavailable):
            await echo(single, 1)
        await proxy.listen()
        assert await echo(single, 2) == 2

    async def test_of_a_server_that_stops_during_the_first_call_is_reported_until_it_is_back(
        self, proxy: PostgresProxy
    ) -> None:
        async with connected(proxy.address) as database:
            trips = await proxy.cost(echo(database, 1))
        for trip in range(trips):
            async with connected(proxy.address) as database:
                proxy.leave_after(trip)
                with pytest.raises(DatabaseUnavailable):
                    await echo(database, 1)
                await proxy.listen()
                assert await echo(database, 2) == 2

    async def test_of_a_terminated_backend_is_reported_once(self, single: Database) -> None:
        terminate = Statement("SELECT pg_terminate_backend(pg_backend_pid())", ())
        with pytest.raises(DatabaseUnavailable):
            await single.fetch(terminate)
        assert await echo(single, 2) == 2

    async def test_of_a_server_that_does_not_answer_in_time_is_reported_until_it_answers(
        self, proxy: PostgresProxy
    ) -> None:
        async with connected(proxy.address, timeouts=Timeouts(statement=SHORT)) as database:
            await database.check()
            proxy.freeze()
            with pytest.raises(DatabaseUnavailable):
                await asyncio.wait_for(echo(database, 1), PATIENCE)
            proxy.thaw()
            assert await echo(database, 2) == 2

    async def test_of_a_server_that_needs_time_to_start_is_no_failure_for_any_call(
        self, proxy: PostgresProxy
    ) -> None:
        timeouts = Timeouts(acquire=0.0)  # a running statement may keep its connection for as long
        async with connected(proxy.address, timeouts=timeouts) as database:
            proxy.freeze()
            calls = [asyncio.create_task(echo(database, number)) for number in range(3)]
            await proxy.message_held()
            proxy.thaw()
            assert await asyncio.gather(*calls) == [0, 1, 2]

    async def test_of_a_server_that_responded_lately_is_reported_sooner_than_of_others(
        self, proxy: PostgresProxy
    ) -> None:
        async with connected(proxy.address, timeouts=Timeouts(reconnect=SHORT)) as database:
            await database.check()
            await proxy.disconnect()
            proxy.freeze()
            with pytest.raises(DatabaseUnavailable, match="TimeoutError"):
                await asyncio.wait_for(echo(database, 1), DEFAULTS.connect)
            proxy.thaw()

    async def test_of_a_server_is_reported_after_the_time_that_the_url_allows_to_connect(
        self, proxy: PostgresProxy
    ) -> None:
        address = replace(proxy.address, connect_timeout=1)
        async with connected(address) as database:
            proxy.freeze()
            with pytest.raises(DatabaseUnavailable, match="TimeoutError"):
                await asyncio.wait_for(echo(database, 1), DEFAULTS.connect)
            proxy.thaw()

    async def test_of_a_server_that_does_not_connect_in_time_is_reported_until_it_does(
        self, proxy: PostgresProxy
    ) -> None:
        async with connected(proxy.address, timeouts=Timeouts(connect=SHORT)) as database:
            proxy.freeze()
            with pytest.raises(DatabaseUnavailable):
                await asyncio.wait_for(echo(database, 1), PATIENCE)
            proxy.thaw()
            assert await echo(database, 2) == 2

    async def test_of_a_statement_that_takes_too_long_closes_its_connection(
        self, address: DatabaseUrl
    ) -> None:
        async with connected(address, timeouts=Timeouts(statement=SHORT)) as database:
            before = await backend(database)
            with pytest.raises(DatabaseUnavailable):
                await asyncio.wait_for(
                    database.fetch(Statement("SELECT pg_sleep(60)", ())), PATIENCE
                )
            assert await backend(database) != before

    async def test_of_a_missing_database_is_reported_by_its_sqlstate(
        self, address: DatabaseUrl
    ) -> None:
        missing = replace(address, url=address.url.set(database="missing"))
        async with connected(missing) as database:
            with pytest.raises(DatabaseUnavailable, match=r"^InvalidCatalogNameError 3D000$"):
                await echo(database, 1)

    async def test_of_a_missing_schema_is_reported(self, empty_database: DatabaseUrl) -> None:
        async with connected(empty_database) as database:
            with pytest.raises(DatabaseUnavailable):
                await PostgresTaskRepository(database).find("ada", TaskQuery())

    async def test_of_a_prepared_statement_that_is_gone_changes_to_statements_without_a_name(
        self, address: DatabaseUrl
    ) -> None:
        async with connected(address) as database:
            await echo(database, 1)
            with capture_logs() as logs:
                await database.fetch(Statement("DEALLOCATE ALL", ()))
                assert await echo(database, 2) == 2
                await database.fetch(Statement("DEALLOCATE ALL", ()))
                assert await echo(database, 3) == 3
        assert [entry["event"] for entry in logs] == ["database.pooler_detected"]

    async def test_of_one_statement_repeats_the_whole_transaction(
        self, address: DatabaseUrl
    ) -> None:
        calls = 0

        async def work(fetch: Fetch) -> int:
            nonlocal calls
            calls += 1
            await fetch(BACKEND)
            ((number,),) = await fetch(ECHO, number=calls)
            return int(number)

        async with connected(address) as database:
            await echo(database, 1)
            await database.fetch(Statement("DEALLOCATE ALL", ()))
            assert await database.transact("ada", work) == 2

    async def test_of_a_plan_whose_columns_have_changed_is_repeated(self, single: Database) -> None:
        everything = Statement("SELECT * FROM changing", ())
        await single.fetch(Statement("CREATE TEMPORARY TABLE changing AS SELECT 1 AS a", ()))
        assert [tuple(row) for row in await single.fetch(everything)] == [(1,)]
        await single.fetch(Statement("ALTER TABLE changing ADD b text DEFAULT 'new'", ()))
        assert [tuple(row) for row in await single.fetch(everything)] == [(1, "new")]

    async def test_of_our_sql_is_raised_as_it_is_and_keeps_the_connection(
        self, single: Database
    ) -> None:
        before = await backend(single)
        with pytest.raises(asyncpg.PostgresSyntaxError):
            await single.fetch(Statement("SELEKT", ()))
        assert await backend(single) == before

    async def test_is_logged_once_as_is_the_recovery(
        self, single: Database, proxy: PostgresProxy
    ) -> None:
        with capture_logs() as logs:
            await proxy.leave()
            for _ in range(3):
                with pytest.raises(DatabaseUnavailable):
                    await echo(single, 1)
            await proxy.listen()
            for _ in range(3):
                await echo(single, 2)
        assert [entry["event"] for entry in logs] == ["database.unavailable", "database.recovered"]

    async def test_is_reported_without_the_address(self, address: DatabaseUrl) -> None:
        url = address.url.set(username="somebody", password="secret", query={"host": "/missing"})
        async with connected(replace(address, url=url)) as database:
            with pytest.raises(DatabaseUnavailable) as caught:
                await echo(database, 1)
        assert str(caught.value) == "FileNotFoundError"


async def cancelled(call: "asyncio.Task[int]") -> None:
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
