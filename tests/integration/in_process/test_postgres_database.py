import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import asyncpg
import pytest
from structlog.testing import capture_logs

from support.round_trips import PostgresProxy, proxy_before
from support.tasks import LATER, a_task
from todo_adapters.postgres import database as engine
from todo_adapters.postgres.database import Database, Statement
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

SHORT: Final = 0.4  # seconds, in which a busy machine still connects
HANGING: Final = 10  # seconds after which something that should have failed has not
ECHO: Final = Statement("SELECT $1::int AS said", ("said",))
WHO: Final = Statement("SELECT pg_backend_pid()", ())

OnTask = Callable[[TaskRepository, Task], Awaitable[object]]
CALLS: Final[dict[str, OnTask]] = {
    "add": lambda tasks, _: tasks.add(a_task()),
    "add for a new user": lambda tasks, task: tasks.add(a_task(owner=f"owner of {task.id}")),
    "add with a new key": lambda tasks, task: tasks.add(a_task(), key=f"key of {task.id}"),
    "get": lambda tasks, task: tasks.get("ada", task.id),
    "find": lambda tasks, _: tasks.find("ada", TaskQuery()),
    "find, counted": lambda tasks, _: tasks.find("ada", TaskQuery(with_total=True)),
    "find, filtered": lambda tasks, task: tasks.find(
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
    "remove": lambda tasks, task: tasks.delete("ada", task.id, now=LATER),
    "remove a version": lambda tasks, task: tasks.delete("ada", task.id, now=LATER, version=1),
    "remove what is completed": lambda tasks, _: tasks.delete_completed("ada", now=LATER),
    "count": lambda tasks, _: tasks.count("ada"),
    "get in vain": lambda tasks, task: refused(tasks.get("eve", task.id)),
    "save in vain": lambda tasks, task: refused(tasks.save(replace(task, version=9))),
    "remove in vain": lambda tasks, task: refused(
        tasks.delete("ada", task.id, now=LATER, version=9)
    ),
    "restore in vain": lambda tasks, task: refused(tasks.restore("ada", task.id, now=LATER)),
}


async def refused(call: Awaitable[object]) -> None:
    with pytest.raises((TaskNotFound, TaskNotDeleted, StaleVersion)):
        await call


async def said(database: Database, number: int) -> int:
    (row,) = await database.fetch(ECHO, said=number)
    return int(row["said"])


async def backend(database: Database) -> int:
    (row,) = await database.fetch(WHO)
    return int(row["pg_backend_pid"])


@asynccontextmanager
async def connected(address: DatabaseUrl, *, pool_size: int) -> AsyncIterator[Database]:
    database = Database(address, pool_size=pool_size)
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
    """A database behind the proxy with one connection, which is open already."""
    async with connected(proxy.address, pool_size=1) as database:
        await database.check()
        yield database


def as_pooled(address: DatabaseUrl) -> DatabaseUrl:
    """The address as one of a transaction pooler would be."""
    arguments = {**address.connect_args, "statement_cache_size": 0}
    return replace(address, via_pooler=True, connect_args=arguments)


@pytest.mark.usefixtures("database")  # which leaves empty tables
class TestRoundTrips:
    @pytest.fixture(params=["direct", "pooled"])
    async def tasks(
        self, request: pytest.FixtureRequest, proxy: PostgresProxy
    ) -> AsyncIterator[TaskRepository]:
        address = as_pooled(proxy.address) if request.param == "pooled" else proxy.address
        async with connected(address, pool_size=1) as database:
            yield PostgresTaskRepository(database)

    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    async def test_a_call_of_the_repository_costs_one(
        self, tasks: TaskRepository, proxy: PostgresProxy, call: OnTask
    ) -> None:
        first, second = a_task(), a_task()
        await tasks.add(first)
        await tasks.add(second)
        await call(tasks, first)
        assert await proxy.cost(call(tasks, second)) == 1

    async def test_to_restore_costs_one(self, tasks: TaskRepository, proxy: PostgresProxy) -> None:
        for task in (first := a_task(), second := a_task()):
            await tasks.add(task)
            await tasks.delete("ada", task.id, now=LATER)
        await tasks.restore("ada", first.id, now=LATER)
        assert await proxy.cost(tasks.restore("ada", second.id, now=LATER)) == 1

    async def test_to_add_with_a_key_again_costs_two(
        self, tasks: TaskRepository, proxy: PostgresProxy
    ) -> None:
        for _ in range(2):
            await tasks.add(a_task(), key="k")
        assert await proxy.cost(tasks.add(a_task(), key="k")) == 2

    async def test_a_call_after_idle_connections_were_closed_costs_those_of_a_new_connection(
        self, tasks: TaskRepository, proxy: PostgresProxy
    ) -> None:
        task = a_task()
        await tasks.add(task)
        await proxy.disconnect()
        to_connect, to_prepare, to_run = 1, 1, 1
        assert await proxy.cost(tasks.get("ada", task.id)) == to_connect + to_prepare + to_run
        assert await proxy.cost(tasks.get("ada", task.id)) == to_run


class TestPool:
    async def test_serves_more_calls_at_once_than_it_has_connections(
        self, address: DatabaseUrl
    ) -> None:
        async with connected(address, pool_size=2) as database:
            answers = await asyncio.gather(*(said(database, number) for number in range(50)))
        assert answers == list(range(50))

    async def test_refuses_a_call_that_no_connection_comes_free_for(
        self, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "ACQUIRE_TIMEOUT", 0.01)
        async with connected(proxy.address, pool_size=1) as database:
            await database.check()
            proxy.freeze()
            first = asyncio.create_task(said(database, 1))
            await proxy.message_held()
            with pytest.raises(Overloaded):
                await said(database, 2)
            proxy.thaw()
            assert await first == 1
            assert await said(database, 3) == 3

    async def test_forgets_statements_of_a_pooled_connection_before_they_become_too_many(
        self, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "STATEMENTS_KEPT", 1)
        async with connected(as_pooled(proxy.address), pool_size=1) as database:
            await said(database, 1)
            assert await proxy.cost(said(database, 2)) == 1
            assert await proxy.cost(backend(database)) == 2
            assert await proxy.cost(said(database, 3)) == 2

    async def test_survives_calls_that_are_cancelled_while_they_run(
        self, single: Database, proxy: PostgresProxy
    ) -> None:
        proxy.freeze()
        call = asyncio.create_task(said(single, 1))
        await proxy.message_held()
        await cancelled(call)
        proxy.thaw()
        assert await said(single, 2) == 2

    async def test_survives_calls_that_are_cancelled_while_they_wait_for_a_connection(
        self, single: Database, proxy: PostgresProxy
    ) -> None:
        proxy.freeze()
        running = asyncio.create_task(said(single, 1))
        await proxy.message_held()
        waiting = asyncio.create_task(said(single, 2))
        await asyncio.sleep(0)
        await cancelled(waiting)
        proxy.thaw()
        assert await running == 1
        assert await said(single, 3) == 3

    async def test_survives_calls_that_are_cancelled_while_they_connect(
        self, proxy: PostgresProxy
    ) -> None:
        async with connected(proxy.address, pool_size=1) as database:
            proxy.freeze()
            call = asyncio.create_task(said(database, 1))
            await proxy.message_held()
            await cancelled(call)
            proxy.thaw()
            assert await said(database, 2) == 2


class TestFailure:
    async def test_of_a_server_that_is_gone_is_told_and_mends_itself(
        self, single: Database, proxy: PostgresProxy
    ) -> None:
        await proxy.leave()
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                await said(single, 1)
        await proxy.listen()
        assert await said(single, 2) == 2

    async def test_of_a_server_that_goes_during_a_call_is_told_and_mends_itself(
        self, single: Database, proxy: PostgresProxy
    ) -> None:
        proxy.leave_after(trips=0)
        with pytest.raises(DatabaseUnavailable):
            await said(single, 1)
        await proxy.listen()
        assert await said(single, 2) == 2

    async def test_of_a_server_that_goes_at_any_point_of_the_first_call_is_told_and_mends_itself(
        self, proxy: PostgresProxy
    ) -> None:
        async with connected(proxy.address, pool_size=1) as database:
            trips = await proxy.cost(said(database, 1))
        for lasting in range(trips):
            async with connected(proxy.address, pool_size=1) as database:
                proxy.leave_after(lasting)
                with pytest.raises(DatabaseUnavailable):
                    await said(database, 1)
                await proxy.listen()
                assert await said(database, 2) == 2

    async def test_of_a_backend_that_is_terminated_is_told_and_mends_itself(
        self, single: Database
    ) -> None:
        last_call = Statement("SELECT pg_terminate_backend(pg_backend_pid())", ())
        with pytest.raises(DatabaseUnavailable):
            await single.fetch(last_call)
        assert await said(single, 2) == 2

    async def test_of_a_server_that_answers_nothing_is_told_and_mends_itself(
        self, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "STATEMENT_TIMEOUT", SHORT)
        async with connected(proxy.address, pool_size=1) as database:
            await database.check()
            proxy.freeze()
            with pytest.raises(DatabaseUnavailable):
                await asyncio.wait_for(said(database, 1), HANGING)
            proxy.thaw()
            assert await said(database, 2) == 2

    async def test_of_a_connection_that_cannot_be_made_in_time_is_told_and_mends_itself(
        self, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "CONNECT_TIMEOUT", SHORT)
        async with connected(proxy.address, pool_size=1) as database:
            proxy.freeze()
            with pytest.raises(DatabaseUnavailable):
                await asyncio.wait_for(said(database, 1), HANGING)
            proxy.thaw()
            assert await said(database, 2) == 2

    async def test_of_a_statement_that_takes_too_long_ends_its_connection(
        self, address: DatabaseUrl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "STATEMENT_TIMEOUT", SHORT)
        async with connected(address, pool_size=1) as database:
            before = await backend(database)
            with pytest.raises(DatabaseUnavailable):
                await asyncio.wait_for(
                    database.fetch(Statement("SELECT pg_sleep(60)", ())), HANGING
                )
            assert await backend(database) != before

    async def test_of_a_database_that_does_not_exist_is_told(self, address: DatabaseUrl) -> None:
        nowhere = replace(address, url=address.url.set(database="nowhere"))
        async with connected(nowhere, pool_size=1) as database:
            with pytest.raises(DatabaseUnavailable, match=r"^InvalidCatalogNameError 3D000$"):
                await said(database, 1)

    async def test_of_a_schema_that_is_not_there_is_told(self, empty_database: DatabaseUrl) -> None:
        async with connected(empty_database, pool_size=1) as database:
            with pytest.raises(DatabaseUnavailable):
                await PostgresTaskRepository(database).find("ada", TaskQuery())

    async def test_of_our_own_sql_is_not_taken_for_the_databases(self, single: Database) -> None:
        before = await backend(single)
        with pytest.raises(asyncpg.PostgresSyntaxError):
            await single.fetch(Statement("SELEKT", ()))
        assert await backend(single) == before

    async def test_is_logged_once_and_so_is_the_recovery(
        self, single: Database, proxy: PostgresProxy
    ) -> None:
        with capture_logs() as logs:
            await proxy.leave()
            for _ in range(3):
                with pytest.raises(DatabaseUnavailable):
                    await said(single, 1)
            await proxy.listen()
            for _ in range(3):
                await said(single, 2)
        assert [entry["event"] for entry in logs] == ["database.unavailable", "database.recovered"]

    async def test_never_tells_the_address(self, address: DatabaseUrl) -> None:
        url = address.url.set(username="somebody", password="secret", query={"host": "/nowhere"})
        async with connected(replace(address, url=url), pool_size=1) as database:
            with pytest.raises(DatabaseUnavailable) as caught:
                await said(database, 1)
        assert str(caught.value) == "FileNotFoundError"


async def cancelled(call: "asyncio.Task[int]") -> None:
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
