"""The repository on a server itself and on the hardest pooler, by the URL that an operator writes.

Run as a program this file is one of several processes that use the database at the same time.
"""

import asyncio
import os
import sys
from asyncio import Barrier, Event
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

from support.faults import Network, Server, network_to, server_in
from support.pgbouncer import PORT, Certificate, operators_url, own_address, pgbouncer_before
from support.service import PATIENCE, Workplace
from support.tasks import LATER, a_task
from todo_adapters.postgres.database import Database
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import parse_database_url
from todo_domain.errors import TaskNotFound
from todo_domain.ports import TaskRepository
from todo_domain.queries import TaskQuery
from todo_domain.task import Task

PROCESSES: Final = 3
USERS: Final = 50  # at the same time in each process
CONNECTIONS: Final = 10  # of each process; the pooler has fewer for all of them
OTHER_POOLER_PORT: Final = 6543
STARTED: Final = b"Every user has used a task.\n"

OnTask = Callable[[TaskRepository, Task], Awaitable[object]]
CALLS: Final[dict[str, OnTask]] = {
    "add": lambda tasks, _: tasks.add(a_task()),
    "get": lambda tasks, task: tasks.get("ada", task.id),
    "find": lambda tasks, _: tasks.find("ada", TaskQuery()),
    "save": lambda tasks, task: tasks.save(task.changed(LATER, title="Buy oat milk")),
    "complete": lambda tasks, task: tasks.change("ada", task.id, completed=True, now=LATER),
    "remove": lambda tasks, task: tasks.delete("ada", task.id, now=LATER),
}


# --- One of the processes -----------------------------------------------------------------------


async def use_a_task(tasks: TaskRepository, owner: str) -> None:
    """Lead a task through its life, and find it at each point as it has to be."""
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


async def use_tasks(tasks: TaskRepository, started: Barrier, has_grown: Event) -> None:
    """Use one task after the other until the schema has grown, and one more after that."""
    owner = uuid4().hex
    await use_a_task(tasks, owner)
    await started.wait()
    while not has_grown.is_set():
        await use_a_task(tasks, owner)
    await use_a_task(tasks, owner)


async def work(url: str) -> None:
    """Have many users use tasks. A line on the standard input says that the schema has grown."""
    database = Database(parse_database_url(url), pool_size=CONNECTIONS)
    await database.check()
    # All are there before the users come, who do not wait long for one.
    await asyncio.gather(*(database.check() for _ in range(CONNECTIONS)))
    tasks, started, has_grown = PostgresTaskRepository(database), Barrier(USERS + 1), Event()
    async with asyncio.TaskGroup() as users:
        for _ in range(USERS):
            users.create_task(use_tasks(tasks, started, has_grown))
        await started.wait()
        sys.stdout.buffer.write(STARTED)
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        has_grown.set()
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


# --- The ways to a database ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Way:
    """A way to the database, and the network in which what clients say there is counted."""

    url: str
    is_pooled: bool
    network: Network
    counted_url: str


@pytest.fixture(scope="module")
async def server(place: Workplace) -> AsyncIterator[Server]:
    async with server_in(place.root / "database") as server:
        yield server


@pytest.fixture(scope="module")
async def direct(server: Server, place: Workplace) -> AsyncIterator[Way]:
    """Through a network that speaks TLS in the server's place."""
    certificate = Certificate.issued(place.root / "direct", own_address())
    url = operators_url(certificate, 5432)
    connect = partial(asyncio.open_unix_connection, server.socket)
    async with network_to(connect, certificate.host, 5432, certificate.context()) as network:
        yield Way(url, False, network, url)


@pytest.fixture(scope="module")
async def pooled(server: Server, place: Workplace) -> AsyncIterator[Way]:
    """To a pooler, whose TLS nothing ends on the way."""
    certificate = Certificate.issued(place.root / "pooled", own_address())
    connect = partial(asyncio.open_connection, certificate.host, PORT)
    with pgbouncer_before(server, certificate) as pooler:
        async with network_to(connect, certificate.host, OTHER_POOLER_PORT) as network:
            yield Way(pooler.url, True, network, operators_url(certificate, network.port))


@pytest.fixture(params=["direct", "pooled"])
def way(request: pytest.FixtureRequest) -> Way:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Way)
    return found


async def grow(server: Server) -> None:
    """Migrate the tasks as a later version of this project may: by adding."""
    for kind in ("text", "integer NOT NULL DEFAULT 0", "timestamptz"):
        await server.fetch(f"ALTER TABLE todo.tasks ADD COLUMN grown_{uuid4().hex} {kind}")


async def test_its_url_tells_what_it_is(way: Way) -> None:
    address = parse_database_url(way.url)
    assert address.via_pooler == way.is_pooled
    assert address.tls == "verified"


async def test_it_serves_many_users_of_several_processes_while_the_schema_grows(
    way: Way, server: Server
) -> None:
    async with AsyncExitStack() as opened, asyncio.timeout(PATIENCE):
        workers = [await opened.enter_async_context(worker(way.url)) for _ in range(PROCESSES)]
        for process in workers:
            assert process.stdout
            assert await process.stdout.readline() == STARTED, await process.communicate()
        await grow(server)
        said = await asyncio.gather(*(process.communicate(b"\n") for process in workers))
        assert said == [(b"", b"")] * PROCESSES
        assert [process.returncode for process in workers] == [0] * PROCESSES


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_it_takes_one_round_trip_for_a_call_before_and_after_the_schema_has_grown(
    way: Way, server: Server, call: OnTask
) -> None:
    database = Database(parse_database_url(way.counted_url), pool_size=1)
    tasks = PostgresTaskRepository(database)
    first, second, third = a_task(), a_task(), a_task()
    for task in (first, second, third):
        await tasks.add(task)
    await call(tasks, first)
    before = await way.network.cost(call(tasks, second))
    await grow(server)
    after = await way.network.cost(call(tasks, third))
    await database.close()
    assert (before, after) == (1, 1)


if __name__ == "__main__":
    asyncio.run(work(os.environ["DATABASE_URL"]))
