"""The real service at its end, at its renewal and after long work: nothing is lost or piled up.

``MEMORY_REQUESTS=100000 pytest test_shutdown.py`` has it work for longer.
"""

import asyncio
import json
import os
import signal
import sys
from asyncio import StreamReader, StreamWriter
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx
import pytest

from support.faults import network_to
from support.frontend import BELIEVED, as_user
from support.service import PATIENCE, Service, Workplace, eventually, free_port, workplace
from todo_adapters.postgres.url import DatabaseUrl

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a process has")

Settings = dict[str, str]
Json = dict[str, Any]

HOST: Final = "127.0.0.1"
USERS: Final = 6  # at work while services come and go

REQUESTS: Final = int(os.environ.get("MEMORY_REQUESTS", "10000"))
WARM_UP: Final = 3000  # requests after which every cache and pool is full
CONNECTIONS: Final = 4  # at a time; each is used by one user and closed
POOL: Final = 4  # connections to the database
GROWTH: Final = 4.0  # MiB; a leak of 512 bytes a request would be 5


# --- The service and its database ---------------------------------------------------------------


@pytest.fixture(scope="module")
async def database_url(server_url: str, branch: Callable[[str], Awaitable[DatabaseUrl]]) -> str:
    await branch("stopped")
    return urlsplit(server_url)._replace(path="/stopped").geturl()


@pytest.fixture(scope="module")
def variables(database_url: str) -> Settings:
    return {"DATABASE_URL": database_url, "RATE_LIMIT": "off", **BELIEVED}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of somebody else's to the service's database."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@asynccontextmanager
async def serving(place: Workplace, variables: Settings, **more: str) -> AsyncIterator[Service]:
    """The service, while other things go on in this thread."""
    running = ExitStack()
    service = place.serving("serve", **variables, **more)
    try:
        yield await asyncio.to_thread(running.enter_context, service)
    finally:
        await asyncio.to_thread(running.close)


# --- Requests under way when the signal comes ---------------------------------------------------


class HalfSent:
    """A request for a new task, of which the service has all but the end."""

    def __init__(self, stream: tuple[StreamReader, StreamWriter], rest: bytes) -> None:
        self._answer, self._request = stream
        self._rest = rest

    @classmethod
    async def to(cls, service: Service, user: str, title: str) -> "HalfSent":
        body = json.dumps({"title": title}).encode()
        head = (
            "POST /api/tasks HTTP/1.1",
            "Host: todo.test",
            f"Authorization: {as_user(user)['Authorization']}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Expect: 100-continue",
        )
        reader, writer = await asyncio.open_connection(HOST, service.port)
        writer.write("\r\n".join((*head, "", "")).encode() + body[:-1])
        # Comes when the application asks for the body (RFC 9110, section 10.1.1).
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        return cls((reader, writer), body[-1:])

    async def finished(self) -> int:
        """The answer's status once the rest has been sent."""
        self._request.write(self._rest)
        status = int((await self._answer.readline()).split()[1])
        await self._answer.read()  # to the end, which is the connection's
        self._request.close()
        return status

    def abandon(self) -> None:
        self._request.close()


async def waiting_for_a_lock(database: asyncpg.Connection, number: int) -> None:
    """Return once so many statements in the database wait for somebody else's lock."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(PATIENCE):
        while await database.fetchval(waiting) < number:
            await database.execute("SELECT pg_stat_clear_snapshot()")


class TestSigterm:
    async def test_lets_what_was_accepted_end_well_and_refuses_the_rest(
        self, place: Workplace, variables: Settings, database: asyncpg.Connection
    ) -> None:
        user = f"stopped {uuid4().hex}"
        async with serving(place, variables) as service, client(service.url, user) as frontend:
            made = await frontend.post("/api/tasks", json={"title": "new"})
            address = made.headers["location"]
            sent = [await HalfSent.to(service, user, f"sent {number}") for number in range(3)]
            async with database.transaction():
                await database.execute("SELECT FROM todo.tasks WHERE user_id = $1 FOR UPDATE", user)
                held = [
                    asyncio.create_task(frontend.patch(address, json={"title": "changed"})),
                    asyncio.create_task(
                        frontend.patch(f"{address}/complete", json={"completed": True})
                    ),
                ]
                await waiting_for_a_lock(database, len(held))
                service.send(signal.SIGTERM)
                assert eventually(lambda: not service.listens())
            assert [await request.finished() for request in sent] == [201] * len(sent)
            assert [answer.status_code for answer in await asyncio.gather(*held)] == [200, 200]
            assert await asyncio.to_thread(service.exit_code) == 0
        assert await stored(database, user) == Counter(
            {("changed", True): 1, **{(f"sent {number}", False): 1 for number in range(3)}}
        )

    async def test_is_not_put_off_by_a_client_that_never_ends_its_request(
        self, variables: Settings
    ) -> None:
        with workplace() as place:
            async with serving(place, variables) as service:
                request = await HalfSent.to(service, "ada", "never sent")
                service.send(signal.SIGTERM)
                assert await asyncio.to_thread(service.exit_code) == 0
                request.abandon()
            assert place.remaining() == {}


def client(url: str, user: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, headers=as_user(user), timeout=PATIENCE, trust_env=False)


async def stored(database: asyncpg.Connection, user: str) -> Counter[tuple[str, bool]]:
    """The user's tasks that are there, by title and completion."""
    rows = await database.fetch(
        "SELECT title, completed_at IS NOT NULL FROM todo.tasks"
        " WHERE user_id = $1 AND deleted_at IS NULL",
        user,
    )
    return Counter((title, completed) for title, completed in rows)


# --- Users at work while services come and go ---------------------------------------------------


class User:
    """Somebody who makes tasks, and reads and completes each, on connections that are kept."""

    def __init__(self, url: str, tell: Callable[[], None]) -> None:
        self.id = f"user {uuid4().hex}"
        self.made: list[str] = []  # titles of tasks that were acknowledged to be made and completed
        self.repeated = 0  # requests
        self._frontend = client(url, self.id)
        self._tell = tell

    async def work(self, is_over: asyncio.Event) -> None:
        async with self._frontend:
            while not is_over.is_set():
                await self._use_a_task()
                self._tell()

    async def _use_a_task(self) -> None:
        title = uuid4().hex
        task = await self._ask("POST", "/api/tasks", {"title": title}, key=title)
        address = f"/api/tasks/{task['id']}"
        assert await self._ask("GET", address) == task
        done = await self._ask("PATCH", f"{address}/complete", {"completed": True})
        assert (done["completed"], done["version"]) == (True, 2)
        self.made.append(title)

    async def _ask(
        self, method: str, path: str, body: Json | None = None, *, key: str = ""
    ) -> Json:
        """The answer to a request that can be sent again if its connection ends without one."""
        headers = {"Idempotency-Key": key} if key else {}
        while True:
            # A refused connection is no such end: somebody always has to be there.
            with suppress(httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                answer = await self._frontend.request(method, path, json=body, headers=headers)
                assert answer.is_success, answer.text
                document: Json = answer.json()
                return document
            self.repeated += 1


class Load:
    """Users at work."""

    def __init__(self, url: str) -> None:
        self._news = asyncio.Event()
        self.users = [User(url, self._news.set) for _ in range(USERS)]

    async def goes_on(self) -> None:
        """Return once everybody has used some more tasks."""
        goals = [len(user.made) + 3 for user in self.users]
        async with asyncio.timeout(PATIENCE):
            while any(len(u.made) < goal for u, goal in zip(self.users, goals, strict=True)):
                self._news.clear()
                await self._news.wait()

    def acknowledged(self) -> list[Counter[tuple[str, bool]]]:
        """What has to be there of each user, and nothing else."""
        return [Counter((title, True) for title in user.made) for user in self.users]

    async def stored(self, database: asyncpg.Connection) -> list[Counter[tuple[str, bool]]]:
        return [await stored(database, user.id) for user in self.users]


@asynccontextmanager
async def load_on(url: str) -> AsyncIterator[Load]:
    """Load that goes on to the end of the block, and is over then."""
    load, is_over = Load(url), asyncio.Event()
    async with asyncio.TaskGroup() as everybody:
        for user in load.users:
            everybody.create_task(user.work(is_over))
        await load.goes_on()
        yield load
        await load.goes_on()
        is_over.set()


class Balancer:
    """Leads each connection to the next service that takes it. One always has to."""

    def __init__(self, *ports: int) -> None:
        self.has_failed = False
        self._ports = deque(ports)

    async def connect(self) -> tuple[StreamReader, StreamWriter]:
        self._ports.rotate()
        for port in tuple(self._ports):
            with suppress(ConnectionRefusedError):
                return await asyncio.open_connection(HOST, port)
        self.has_failed = True
        raise ConnectionRefusedError


async def end(service: Service) -> int:
    service.send(signal.SIGTERM)
    return await asyncio.to_thread(service.exit_code)


class TestRenewal:
    async def test_of_one_process_after_the_other_loses_no_request(
        self, place: Workplace, variables: Settings, database: asyncpg.Connection
    ) -> None:
        ports = free_port(), free_port()
        balancer, public = Balancer(*ports), free_port()
        async with AsyncExitStack() as running:
            old = [
                await running.enter_async_context(serving(place, variables, PORT=str(port)))
                for port in ports
            ]
            await running.enter_async_context(network_to(balancer.connect, HOST, public))
            async with load_on(f"http://{HOST}:{public}") as load:
                for service in old:
                    assert await end(service) == 0
                    await load.goes_on()
                    again = serving(place, variables, PORT=str(service.port))
                    await running.enter_async_context(again)
                    await load.goes_on()
        assert not balancer.has_failed
        assert await load.stored(database) == load.acknowledged()

    async def test_of_workers_by_sighup_loses_no_request(
        self, variables: Settings, database: asyncpg.Connection
    ) -> None:
        with workplace() as place:
            async with serving(place, variables, WORKERS="2") as service:
                async with load_on(service.url) as load:
                    before = workers(place)
                    service.send(signal.SIGHUP)
                    while before & workers(place):
                        await load.goes_on()
                    assert len(workers(place)) == len(before) == 2
                assert await end(service) == 0
                assert await load.stored(database) == load.acknowledged()


def workers(place: Workplace) -> set[int]:
    return {pid for pid, command in place.processes().items() if "spawn_main" in command}


# --- Long work ----------------------------------------------------------------------------------


class Visitor:
    """A new user, who does a bit of everything on a connection, some of it wrong."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection(HOST, port, timeout=PATIENCE)
        self._headers = as_user(f"visitor {uuid4().hex}")
        self.requests = 0

    def visit(self) -> int:
        """The number of requests that it took."""
        with closing(self._connection):
            for number in range(3):
                self._use_a_task({"title": f"Buy milk {number}", "tags": ["home"]})
            self._ask(200, "GET", "/api/tasks?q=milk&sort=title&limit=2")
            self._ask(200, "DELETE", "/api/tasks?status=completed")
            self._ask(200, "GET", "/api/me")
            self._ask(200, "GET", "/metrics")
            self._ask(404, "GET", f"/{uuid4().hex}")
            self._ask(401, "GET", "/api/tasks", Authorization=f"Bearer {uuid4().hex}")
        return self.requests

    def _use_a_task(self, task: Json) -> None:
        made = self._ask(201, "POST", "/api/tasks", task, **{"Idempotency-Key": uuid4().hex})
        address = f"/api/tasks/{made['id']}"
        self._ask(200, "GET", "/api/tasks")
        self._ask(200, "PATCH", address, {"description": "2 litres"})
        self._ask(412, "PUT", address, {"title": "x"}, **{"If-Match": '"1"'})
        self._ask(422, "PATCH", address, {"title": ""})
        self._ask(200, "PATCH", f"{address}/toggle")
        self._ask(200, "DELETE", address)
        self._ask(404, "GET", address)
        self._ask(200, "POST", f"{address}/restore")

    def _ask(
        self, status: int, method: str, path: str, body: Json | None = None, **headers: str
    ) -> Any:  # noqa: ANN401 - JSON
        fields = self._headers | {"Content-Type": "application/json"} | headers
        self._connection.request(method, path, json.dumps(body) if body else None, fields)
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status == status, content
        self.requests += 1
        return json.loads(content) if path.startswith("/api/") else None


def work(service: Service, requests: int) -> None:
    """Have the service answer so many requests, and few more, of ever new users."""

    def visit_in_turn(_: int) -> None:
        left = requests // CONNECTIONS
        while left > 0:
            left -= Visitor(service.port).visit()

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(visit_in_turn, range(CONNECTIONS)))


def resident_memory(place: Workplace) -> float:
    """MiB that the processes of the place have in memory."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in place.processes())
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files(place: Workplace) -> int:
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in place.processes())


def test_long_work_leaves_no_memory_and_no_files_behind(
    variables: Settings, record_property: Callable[[str, object], None]
) -> None:
    limits = {"RATE_LIMIT": "1000000/minute", "RATE_LIMIT_AUTH_FAILURES": "1000000/minute"}
    pool = {"DATABASE_POOL_SIZE": str(POOL)}
    with workplace() as place, place.serving("serve", **variables | limits | pool) as service:
        files = open_files(place)
        work(service, WARM_UP)
        before = resident_memory(place)
        work(service, REQUESTS)
        after = resident_memory(place)
        record_property("resident memory, MiB", f"{before:.1f} to {after:.1f}")
        assert after - before < GROWTH
        assert eventually(lambda: open_files(place) <= files + POOL)
