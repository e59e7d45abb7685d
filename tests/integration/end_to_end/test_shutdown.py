"""The real service: shutdown and worker renewal lose no request, long use leaks no memory.

``MEMORY_REQUESTS=100000 pytest test_shutdown.py`` sends more requests to find smaller leaks.
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

from support.frontend import AUTH_SETTINGS, as_user
from support.ports import free_port
from support.postgres.faults import network_to
from support.service import PATIENCE, Sandbox, Service, eventually, new_sandbox
from todo_adapters.postgres.url import DatabaseUrl

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

Settings = dict[str, str]
Json = dict[str, Any]

HOST: Final = "127.0.0.1"
USERS: Final = 6  # concurrent users while services are replaced

REQUESTS: Final = int(os.environ.get("MEMORY_REQUESTS", "10000"))
WARM_UP: Final = 3000  # requests that fill all caches and pools
CONNECTIONS: Final = 4  # concurrent; one for each user
POOL: Final = 4  # database connections
GROWTH: Final = 4.0  # MiB; a leak of 512 bytes a request would be 5


# --- The service and its database ---------------------------------------------------------------


@pytest.fixture(scope="module")
async def database_url(server_url: str, branch: Callable[[str], Awaitable[DatabaseUrl]]) -> str:
    await branch("stopped")
    return urlsplit(server_url)._replace(path="/stopped").geturl()


@pytest.fixture(scope="module")
def variables(database_url: str) -> Settings:
    return {"DATABASE_URL": database_url, "RATE_LIMIT": "off", **AUTH_SETTINGS}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A separate connection to the service's database."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@asynccontextmanager
async def serving(sandbox: Sandbox, variables: Settings, **more: str) -> AsyncIterator[Service]:
    """The service, started and stopped without blocking the event loop."""
    running = ExitStack()
    service = sandbox.serving("serve", **variables, **more)
    try:
        yield await asyncio.to_thread(running.enter_context, service)
    finally:
        await asyncio.to_thread(running.close)


# --- Requests in flight at the signal -----------------------------------------------------------


class IncompleteRequest:
    """A request that creates a task; the last byte of its body is not sent yet."""

    def __init__(self, stream: tuple[StreamReader, StreamWriter], rest: bytes) -> None:
        self._response, self._request = stream
        self._rest = rest

    @classmethod
    async def start(cls, service: Service, user: str, title: str) -> "IncompleteRequest":
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
        # It arrives when the application reads the body (RFC 9110, section 10.1.1).
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        return cls((reader, writer), body[-1:])

    async def finish(self) -> int:
        """Send the rest; return the status of the response."""
        self._request.write(self._rest)
        status = int((await self._response.readline()).split()[1])
        await self._response.read()  # until the service closes the connection
        self._request.close()
        return status

    def abandon(self) -> None:
        self._request.close()


async def wait_for_lock_waiters(database: asyncpg.Connection, number: int) -> None:
    """Return when this number of statements wait for a lock."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(PATIENCE):
        while await database.fetchval(waiting) < number:
            await database.execute("SELECT pg_stat_clear_snapshot()")


class TestSigterm:
    async def test_finishes_accepted_requests_and_accepts_no_more(
        self, sandbox: Sandbox, variables: Settings, database: asyncpg.Connection
    ) -> None:
        user = f"stopped {uuid4().hex}"
        async with serving(sandbox, variables) as service, client(service.url, user) as frontend:
            created = await frontend.post("/api/tasks", json={"title": "new"})
            address = created.headers["location"]
            sent = [
                await IncompleteRequest.start(service, user, f"sent {number}")
                for number in range(3)
            ]
            async with database.transaction():
                await database.execute("SELECT FROM todo.tasks WHERE user_id = $1 FOR UPDATE", user)
                blocked = [
                    asyncio.create_task(frontend.patch(address, json={"title": "changed"})),
                    asyncio.create_task(
                        frontend.patch(f"{address}/complete", json={"completed": True})
                    ),
                ]
                await wait_for_lock_waiters(database, len(blocked))
                service.send(signal.SIGTERM)
                assert eventually(lambda: not service.listens())
            assert [await request.finish() for request in sent] == [201] * len(sent)
            assert [response.status_code for response in await asyncio.gather(*blocked)] == [
                200,
                200,
            ]
            assert await asyncio.to_thread(service.exit_code) == 0
        assert await stored(database, user) == Counter(
            {("changed", True): 1, **{(f"sent {number}", False): 1 for number in range(3)}}
        )

    async def test_stops_although_a_client_never_finishes_its_request(
        self, variables: Settings
    ) -> None:
        with new_sandbox() as sandbox:
            async with serving(sandbox, variables) as service:
                request = await IncompleteRequest.start(service, "ada", "never sent")
                service.send(signal.SIGTERM)
                assert await asyncio.to_thread(service.exit_code) == 0
                request.abandon()
            assert sandbox.remaining() == {}


def client(url: str, user: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, headers=as_user(user), timeout=PATIENCE, trust_env=False)


async def stored(database: asyncpg.Connection, user: str) -> Counter[tuple[str, bool]]:
    """The user's live tasks, by title and completion."""
    rows = await database.fetch(
        "SELECT title, completed_at IS NOT NULL FROM todo.tasks"
        " WHERE user_id = $1 AND deleted_at IS NULL",
        user,
    )
    return Counter((title, completed) for title, completed in rows)


# --- Users that work while services are replaced ------------------------------------------------


class User:
    """A user that creates, reads and completes tasks on persistent connections."""

    def __init__(self, url: str, report: Callable[[], None]) -> None:
        self.id = f"user {uuid4().hex}"
        self.completed: list[str] = []  # titles of tasks whose completion was acknowledged
        self.retries = 0
        self._frontend = client(url, self.id)
        self._report = report

    async def work(self, stop: asyncio.Event) -> None:
        async with self._frontend:
            while not stop.is_set():
                await self._use_task()
                self._report()

    async def _use_task(self) -> None:
        title = uuid4().hex
        task = await self._send("POST", "/api/tasks", {"title": title}, key=title)
        address = f"/api/tasks/{task['id']}"
        assert await self._send("GET", address) == task
        done = await self._send("PATCH", f"{address}/complete", {"completed": True})
        assert (done["completed"], done["version"]) == (True, 2)
        self.completed.append(title)

    async def _send(
        self, method: str, path: str, body: Json | None = None, *, key: str = ""
    ) -> Json:
        """Send a repeatable request; repeat it if the connection ends without a response."""
        headers = {"Idempotency-Key": key} if key else {}
        while True:
            # A refused connection is an error: one service must listen at any time.
            with suppress(httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                response = await self._frontend.request(method, path, json=body, headers=headers)
                assert response.is_success, response.text
                document: Json = response.json()
                return document
            self.retries += 1


class Load:
    """Several users that work at the same time."""

    def __init__(self, url: str) -> None:
        self._progress = asyncio.Event()
        self.users = [User(url, self._progress.set) for _ in range(USERS)]

    async def progress(self) -> None:
        """Return when every user has completed three more tasks."""
        goals = [len(user.completed) + 3 for user in self.users]
        async with asyncio.timeout(PATIENCE):
            while any(len(u.completed) < goal for u, goal in zip(self.users, goals, strict=True)):
                self._progress.clear()
                await self._progress.wait()

    def acknowledged(self) -> list[Counter[tuple[str, bool]]]:
        """The tasks that must be stored for each user, and no others."""
        return [Counter((title, True) for title in user.completed) for user in self.users]

    async def stored(self, database: asyncpg.Connection) -> list[Counter[tuple[str, bool]]]:
        return [await stored(database, user.id) for user in self.users]


@asynccontextmanager
async def load_on(url: str) -> AsyncIterator[Load]:
    """Load from the start to the end of the block."""
    load, stop = Load(url), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for user in load.users:
            group.create_task(user.work(stop))
        await load.progress()
        yield load
        await load.progress()
        stop.set()


class Balancer:
    """Connects to the services in turn and skips those that do not listen. One must listen."""

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


async def stop_service(service: Service) -> int:
    service.send(signal.SIGTERM)
    return await asyncio.to_thread(service.exit_code)


class TestRenewal:
    async def test_of_one_service_after_the_other_loses_no_request(
        self, sandbox: Sandbox, variables: Settings, database: asyncpg.Connection
    ) -> None:
        ports = free_port(), free_port()
        balancer, public = Balancer(*ports), free_port()
        async with AsyncExitStack() as running:
            old = [
                await running.enter_async_context(serving(sandbox, variables, PORT=str(port)))
                for port in ports
            ]
            await running.enter_async_context(network_to(balancer.connect, HOST, public))
            async with load_on(f"http://{HOST}:{public}") as load:
                for service in old:
                    assert await stop_service(service) == 0
                    await load.progress()
                    again = serving(sandbox, variables, PORT=str(service.port))
                    await running.enter_async_context(again)
                    await load.progress()
        assert not balancer.has_failed
        assert await load.stored(database) == load.acknowledged()

    async def test_of_workers_by_sighup_loses_no_request(
        self, variables: Settings, database: asyncpg.Connection
    ) -> None:
        with new_sandbox() as sandbox:
            async with serving(sandbox, variables, WORKERS="2") as service:
                async with load_on(service.url) as load:
                    before = workers(sandbox)
                    service.send(signal.SIGHUP)
                    while before & workers(sandbox):
                        await load.progress()
                    assert len(workers(sandbox)) == len(before) == 2
                assert await stop_service(service) == 0
                assert await load.stored(database) == load.acknowledged()


def workers(sandbox: Sandbox) -> set[int]:
    return {pid for pid, command in sandbox.processes().items() if "spawn_main" in command}


# --- Long use -----------------------------------------------------------------------------------


class Visitor:
    """A new user that sends every kind of request on one connection, also invalid ones."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection(HOST, port, timeout=PATIENCE)
        self._headers = as_user(f"visitor {uuid4().hex}")
        self.requests = 0

    def visit(self) -> int:
        """Send the requests; return their number."""
        with closing(self._connection):
            for number in range(3):
                self._use_task({"title": f"Buy milk {number}", "tags": ["home"]})
            self._send(200, "GET", "/api/tasks?q=milk&sort=title&limit=2")
            self._send(200, "DELETE", "/api/tasks?status=completed")
            self._send(200, "GET", "/api/me")
            self._send(200, "GET", "/metrics")
            self._send(404, "GET", f"/{uuid4().hex}")
            self._send(401, "GET", "/api/tasks", Authorization=f"Bearer {uuid4().hex}")
        return self.requests

    def _use_task(self, task: Json) -> None:
        created = self._send(201, "POST", "/api/tasks", task, **{"Idempotency-Key": uuid4().hex})
        address = f"/api/tasks/{created['id']}"
        self._send(200, "GET", "/api/tasks")
        self._send(200, "PATCH", address, {"description": "2 litres"})
        self._send(412, "PUT", address, {"title": "x"}, **{"If-Match": '"1"'})
        self._send(422, "PATCH", address, {"title": ""})
        self._send(200, "PATCH", f"{address}/toggle")
        self._send(200, "DELETE", address)
        self._send(404, "GET", address)
        self._send(200, "POST", f"{address}/restore")

    def _send(
        self, status: int, method: str, path: str, body: Json | None = None, **headers: str
    ) -> Any:  # noqa: ANN401 - JSON
        fields = self._headers | {"Content-Type": "application/json"} | headers
        self._connection.request(method, path, json.dumps(body) if body else None, fields)
        response = self._connection.getresponse()
        content = response.read()
        assert response.status == status, content
        self.requests += 1
        return json.loads(content) if path.startswith("/api/") else None


def work(service: Service, requests: int) -> None:
    """Send at least this number of requests, from new users all the time."""

    def visit_repeatedly(_: int) -> None:
        left = requests // CONNECTIONS
        while left > 0:
            left -= Visitor(service.port).visit()

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(visit_repeatedly, range(CONNECTIONS)))


def resident_memory(sandbox: Sandbox) -> float:
    """The resident memory of the service's processes in MiB."""
    pages = sum(
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in sandbox.processes()
    )
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files(sandbox: Sandbox) -> int:
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in sandbox.processes())


def test_long_use_leaks_no_memory_and_no_file_descriptors(
    variables: Settings, record_property: Callable[[str, object], None]
) -> None:
    limits = {"RATE_LIMIT": "1000000/minute", "RATE_LIMIT_AUTH_FAILURES": "1000000/minute"}
    pool = {"DATABASE_POOL_SIZE": str(POOL)}
    with new_sandbox() as sandbox, sandbox.serving("serve", **variables | limits | pool) as service:
        files = open_files(sandbox)
        work(service, WARM_UP)
        before = resident_memory(sandbox)
        work(service, REQUESTS)
        after = resident_memory(sandbox)
        record_property("resident memory, MiB", f"{before:.1f} to {after:.1f}")
        assert after - before < GROWTH
        assert eventually(lambda: open_files(sandbox) <= files + POOL)
