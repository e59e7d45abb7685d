"""The repository on PostgreSQL directly and through PgBouncer in transaction mode, over TLS.

Run as a program, this file is one of several processes that use the database at the same time.
"""

import asyncio
import os
import sys
from asyncio import Barrier, Event
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from support.ports import own_address
from support.postgres.faults import USER, Network, Server, network_to, server_in
from support.postgres.pgbouncer import PORT, Certificate, operators_url, pgbouncer_before
from support.service import PATIENCE, Sandbox
from support.tasks import LATER, a_task
from todo_adapters.postgres.database import Database, Statement
from todo_adapters.postgres.schema import migrate
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import parse_database_url
from todo_domain.errors import TaskNotFound
from todo_domain.ports import TaskRepository
from todo_domain.queries import TaskQuery
from todo_domain.task import Task

PROCESSES: Final = 2
USERS: Final = 20  # in each process, more than it has connections
CONNECTIONS: Final = 10  # of each process; PgBouncer has fewer for all processes together
OTHER_POOLER_PORT: Final = 6543
STARTED: Final = b"Every user has used a task.\n"

SETTINGS: Final = Statement(
    "SELECT current_setting('transaction_isolation'), current_setting('synchronous_commit')", ()
)

OnTask = Callable[[TaskRepository, Task], Awaitable[object]]
CALLS: Final[dict[str, OnTask]] = {
    "add": lambda tasks, _: tasks.add(a_task()),
    "get": lambda tasks, task: tasks.get("ada", task.id),
    "find": lambda tasks, _: tasks.find("ada", TaskQuery()),
    "save": lambda tasks, task: tasks.save(task.changed(LATER, title="Buy oat milk")),
    "complete": lambda tasks, task: tasks.change("ada", task.id, completed=True, now=LATER),
    "delete": lambda tasks, task: tasks.delete("ada", task.id, now=LATER),
}


# --- One of the processes -----------------------------------------------------------------------


async def use_a_task(tasks: TaskRepository, owner: str) -> None:
    """Add, change, complete and delete a task, and check its state after each step."""
    task = a_task(owner=owner)
    await tasks.add(task)
    assert await tasks.get(owner, task.id) == task
    changed = task.changed(LATER, title=f"{owner} buys milk", tags=[owner])
    await tasks.save(changed)
    assert await tasks.get(owner, task.id) == changed
    completed = changed.changed(LATER, completed=True)
    assert await tasks.change(owner, task.id, completed=True, now=LATER) == completed
    assert (await tasks.find(owner, TaskQuery())).tasks == (completed,)
    assert await tasks.delete(owner, task.id, now=LATER) == completed
    with pytest.raises(TaskNotFound):
        await tasks.get(owner, task.id)


async def use_tasks(tasks: TaskRepository, started: Barrier, is_migrated: Event) -> None:
    """Use one task after another until the schema was migrated, and one more after that."""
    owner = uuid4().hex
    await use_a_task(tasks, owner)
    await started.wait()
    while not is_migrated.is_set():
        await use_a_task(tasks, owner)
    await use_a_task(tasks, owner)


async def work(url: str) -> None:
    """Run many concurrent users. A line on standard input says that the schema was migrated."""
    database = Database(parse_database_url(url), pool_size=CONNECTIONS)
    await database.check()
    # Open every connection first, because users wait for one for a limited time.
    await asyncio.gather(*(database.check() for _ in range(CONNECTIONS)))
    tasks, started, is_migrated = PostgresTaskRepository(database), Barrier(USERS + 1), Event()
    async with asyncio.TaskGroup() as users:
        for _ in range(USERS):
            users.create_task(use_tasks(tasks, started, is_migrated))
        await started.wait()
        sys.stdout.buffer.write(STARTED)
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        is_migrated.set()
    await database.close()


@asynccontextmanager
async def worker(url: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=os.environ | {"DATABASE_URL": url, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


# --- Routes to the database ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Route:
    """A route to the database, with a second URL through a network that counts round trips.

    ``via_pooler`` says whether the URL shows a pooler.
    """

    url: str
    via_pooler: bool
    network: Network
    counted_url: str


@pytest.fixture(scope="module")
async def server(sandbox: Sandbox) -> AsyncIterator[Server]:
    async with server_in(sandbox.root / "database") as server:
        yield server


@pytest.fixture(scope="module")
async def direct(server: Server, sandbox: Sandbox) -> AsyncIterator[Route]:
    """The server itself; the network terminates TLS."""
    certificate = Certificate.issued(sandbox.root / "direct", own_address())
    url = operators_url(certificate, 5432)
    connect = partial(asyncio.open_unix_connection, server.socket)
    async with network_to(connect, certificate.host, 5432, certificate.context()) as network:
        yield Route(url, False, network, url)


@pytest.fixture(scope="module")
def pooler(server: Server, sandbox: Sandbox) -> Iterator[Certificate]:
    """PgBouncer at the host of this certificate."""
    certificate = Certificate.issued(sandbox.root / "pooler", own_address())
    with pgbouncer_before(server, certificate):
        yield certificate


@pytest.fixture(scope="module")
async def via_pooler(pooler: Certificate) -> AsyncIterator[Route]:
    """PgBouncer; TLS passes through the network unchanged."""
    connect = partial(asyncio.open_connection, pooler.host, PORT)
    async with network_to(connect, pooler.host, OTHER_POOLER_PORT) as network:
        yield Route(operators_url(pooler, PORT), True, network, operators_url(pooler, network.port))


@pytest.fixture(scope="module")
async def via_hidden_pooler(pooler: Certificate) -> AsyncIterator[Route]:
    """PgBouncer at PostgreSQL's own port."""
    connect = partial(asyncio.open_connection, pooler.host, PORT)
    async with network_to(connect, pooler.host, 5432) as network:
        url = operators_url(pooler, network.port)
        yield Route(url, False, network, url)


@pytest.fixture(params=["direct", "via_pooler", "via_hidden_pooler"])
def route(request: pytest.FixtureRequest) -> Route:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Route)
    return found


@pytest.fixture
async def isolated(server: Server, request: pytest.FixtureRequest) -> str:
    """The name of a migrated database with another isolation level, and without durability."""
    name = f"isolated_{uuid4().hex}"
    await server.fetch(f"CREATE DATABASE {name} OWNER {USER}")
    await migrate(
        parse_database_url(urlsplit(server.url)._replace(path=f"/{name}").geturl()), role=USER
    )
    await server.fetch(
        f"ALTER DATABASE {name} SET default_transaction_isolation = '{request.param}'"
    )
    await server.fetch(f"ALTER DATABASE {name} SET synchronous_commit = off")
    return name


async def add_columns(server: Server) -> None:
    """Change the schema as a later migration may: by adding columns."""
    for kind in ("text", "integer NOT NULL DEFAULT 0", "timestamptz"):
        await server.fetch(f"ALTER TABLE todo.tasks ADD COLUMN added_{uuid4().hex} {kind}")


async def test_a_url_shows_whether_it_leads_to_a_pooler(route: Route) -> None:
    database_url = parse_database_url(route.url)
    assert database_url.via_pooler == route.via_pooler
    assert database_url.tls == "verified"


async def test_many_users_of_several_processes_are_served_while_columns_are_added(
    route: Route, server: Server
) -> None:
    async with AsyncExitStack() as opened, asyncio.timeout(PATIENCE):
        workers = [await opened.enter_async_context(worker(route.url)) for _ in range(PROCESSES)]
        for process in workers:
            assert process.stdout
            assert await process.stdout.readline() == STARTED, await process.communicate()
        await add_columns(server)
        outputs = await asyncio.gather(*(process.communicate(b"\n") for process in workers))
        assert outputs == [(b"", b"")] * PROCESSES
        assert [process.returncode for process in workers] == [0] * PROCESSES


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_call_takes_one_round_trip_before_and_after_columns_are_added(
    route: Route, server: Server, call: OnTask
) -> None:
    database = Database(parse_database_url(route.counted_url), pool_size=1)
    tasks = PostgresTaskRepository(database)
    first, second, third = a_task(), a_task(), a_task()
    for task in (first, second, third):
        await tasks.add(task)
    await call(tasks, first)
    before = await route.network.cost(call(tasks, second))
    await add_columns(server)
    after = await route.network.cost(call(tasks, third))
    await database.close()
    assert (before, after) == (1, 1)


async def test_a_pooler_that_the_url_does_not_show_is_reported_once(
    via_hidden_pooler: Route,
) -> None:
    with capture_logs() as log:
        database = Database(parse_database_url(via_hidden_pooler.url), pool_size=2)
        await asyncio.gather(*(database.check() for _ in range(4)))
        await database.close()
    assert [entry["event"] for entry in log] == ["database.pooler_detected"]
    assert "pgbouncer=true" in log[0]["hint"]


@pytest.mark.parametrize("isolated", ["repeatable read", "serializable"], indirect=True)
async def test_concurrent_edits_succeed_and_are_durable_whatever_the_database_sets(
    route: Route, isolated: str
) -> None:
    database_url = parse_database_url(route.url.replace("/todo?", f"/{isolated}?"))
    database = Database(database_url, pool_size=CONNECTIONS)
    tasks = PostgresTaskRepository(database)
    task = await tasks.add(a_task())
    titles = [f"Title {number}" for number in range(20)]
    await asyncio.gather(
        *(tasks.change("ada", task.id, now=LATER, title=title) for title in titles),
        *(tasks.add(a_task()) for _ in titles),
        *(tasks.find("ada", TaskQuery()) for _ in titles),
    )
    assert (await tasks.get("ada", task.id)).version == 1 + len(titles)
    assert [tuple(row) for row in await database.fetch(SETTINGS)] == [("read committed", "on")]
    await database.close()


@pytest.mark.parametrize("isolated", ["repeatable read"], indirect=True)
async def test_settings_that_cost_round_trips_behind_a_pooler_are_reported_once(
    via_pooler: Route, isolated: str
) -> None:
    with capture_logs() as log:
        database_url = parse_database_url(via_pooler.url.replace("/todo?", f"/{isolated}?"))
        database = Database(database_url, pool_size=2)
        await asyncio.gather(*(database.check() for _ in range(4)))
        await database.close()
    assert [entry["event"] for entry in log] == ["database.configuration"]


if __name__ == "__main__":
    with capture_logs() as log:
        asyncio.run(work(os.environ["DATABASE_URL"]))
    if {entry["event"] for entry in log} - {"database.pooler_detected"}:
        sys.exit(str(log))
