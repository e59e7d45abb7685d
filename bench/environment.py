"""The environment of the benchmarks: a database with data, servers, and CPU cores."""

import asyncio
import os
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import STDOUT, Popen, TimeoutExpired
from tempfile import TemporaryDirectory
from typing import Any, Final

import asyncpg
import httpx
from jose import jwt

from bench.load import ORIGIN, User
from todo_adapters.embedded_postgres.server import embedded_postgres
from todo_adapters.postgres.schema import migrate
from todo_adapters.postgres.url import parse_database_url

OWNERS: Final = 1000
TASKS_EACH: Final = 100
CLIENTS: Final = 100  # owners whose tokens send the requests
SERVICE: Final = (str(Path(sys.executable).with_name("todo-api")), "serve")
BASELINE: Final = (sys.executable, "-m", "bench.baseline")
_TIMEOUT: Final = 30.0  # seconds
_TICKS: Final = os.sysconf("SC_CLK_TCK")

_CORES: Final = sorted(os.sched_getaffinity(0))
# The measured server has one core. The database and the load share the others.
SERVER_CORES: Final = set(_CORES[:1])
OTHER_CORES: Final = set(_CORES[1:]) or SERVER_CORES

_OWNERS_SQL: Final = """
INSERT INTO todo.users SELECT md5($1 || owner), now(), now() FROM generate_series(1, $2::int) owner
"""
# The tasks have change numbers, or the trigger for version 0.1 would take one for each of them.
_COUNTERS_SQL: Final = """
INSERT INTO todo.changes (user_id, last)
SELECT md5($1 || owner), $3::int FROM generate_series(1, $2::int) owner
"""
_TASKS_SQL: Final = """
INSERT INTO todo.tasks (id, user_id, title, description, priority, due_at, due_all_day, tags,
                        created_at, updated_at, completed_at, version, deleted_at, change)
SELECT uuidv7(-age), md5($1 || owner),
       (ARRAY['Buy','Call','Write','Fix','Read'])[1 + nr % 5] || ' ' || md5(nr::text || owner),
       CASE WHEN nr % 2 = 0 THEN repeat('some words ', 8) || nr END,
       nullif(nr % 4, 0), CASE WHEN nr % 3 = 0 THEN now() + nr % 365 * interval '1 day' END,
       nr % 2 = 0, CASE WHEN nr % 10 = 0 THEN ARRAY['home', 'tag' || nr % 100] ELSE '{}' END,
       now() - age, now() - age / 2,
       CASE WHEN nr % 3 = 0 OR (nr > 300 AND nr % 5000 <> 1) THEN now() - age / 2 END, 1 + nr % 3,
       CASE WHEN nr % 50 = 0 THEN now() - interval '1 day' END, nr
FROM generate_series(1, $2::int) owner, generate_series(1, $3::int) nr,
     LATERAL (SELECT nr * interval '53 seconds' AS age) AS shift
"""


@dataclass(frozen=True, slots=True)
class Database:
    """A PostgreSQL with default durability, the schema and data."""

    url: str
    secret: str

    async def fetch(self, sql: str, *arguments: object) -> list[Any]:
        """Execute SQL on a new connection and return the rows."""
        connection = await asyncpg.connect(self.url)
        try:
            rows: list[Any] = await connection.fetch(sql, *arguments, timeout=600)
            return rows
        finally:
            await connection.close()

    async def fill(self, prefix: str, owners: int, tasks: int) -> None:
        """Add ``owners`` new owners with ``tasks`` tasks each."""
        await self.fetch(_OWNERS_SQL, prefix, owners)
        await self.fetch(_COUNTERS_SQL, prefix, owners, tasks)
        await self.fetch(_TASKS_SQL, prefix, owners, tasks)
        await self.fetch("VACUUM ANALYZE todo.tasks")

    async def users(self, prefix: str, owners: int, tasks: int = 10) -> list[User]:
        """The first owners, with a token and some tasks each."""
        return [await self._user(prefix, owner, tasks) for owner in range(1, owners + 1)]

    async def _user(self, prefix: str, number: int, tasks: int) -> User:
        rows = await self.fetch(
            "SELECT md5($1) AS owner, id FROM todo.tasks"
            " WHERE user_id = md5($1) AND deleted_at IS NULL ORDER BY id LIMIT $2",
            f"{prefix}{number}",
            tasks,
        )
        now = datetime.now(UTC)
        claims = {"sub": rows[0]["owner"], "iat": now, "exp": now + timedelta(days=1)}
        return User(jwt.encode(claims, self.secret), [str(row["id"]) for row in rows])

    def variables(self, **others: str) -> dict[str, str]:
        """The environment variables of a server with all features on this database."""
        return os.environ | {
            "DATABASE_URL": self.url,
            "AUTH_MODE": "shared-secret",
            "BETTER_AUTH_SECRET": self.secret,
            "CORS_ORIGINS": ORIGIN,
            "RATE_LIMIT": "1000000000/minute",
            "LOG_FORMAT": "json",
            **others,
        }


@asynccontextmanager
async def database(owners: int = OWNERS, tasks: int = TASKS_EACH) -> AsyncIterator[Database]:
    """A new database. The prefix "user" has ``owners`` owners with ``tasks`` tasks each."""
    with (
        TemporaryDirectory(prefix="todo-bench-") as directory,
        on_cores(OTHER_CORES),
        embedded_postgres(Path(directory)) as url,
    ):
        await migrate(parse_database_url(url))
        db = Database(url, secrets.token_urlsafe(32))
        await db.fill("user", owners, tasks)
        yield db


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """Restrict this thread and the programs that it starts to these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Server:
    """A running server with its processes and its log."""

    def __init__(
        self, command: tuple[str, ...], variables: Mapping[str, str], directory: Path
    ) -> None:
        self.port = _free_port()
        self.log = directory / "log"
        self.logs_requests = command == SERVICE
        with self.log.open("wb") as output:
            self._process = Popen(
                command,
                cwd=directory,
                env={**variables, "PORT": str(self.port), "PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=output,
                stderr=STDOUT,
            )
        self._read = 0  # bytes of the log that were read

    async def wait_until_ready(self) -> None:
        """Return after the first response."""
        deadline = time.monotonic() + _TIMEOUT
        async with httpx.AsyncClient(trust_env=False) as client:
            while self._process.poll() is None and time.monotonic() < deadline:
                with suppress(httpx.TransportError):
                    await client.get(f"http://127.0.0.1:{self.port}/health/live")
                    return
                await asyncio.sleep(0.01)
        raise RuntimeError(f"the server does not respond: {self.log.read_text()}")

    def stop(self) -> None:
        """Terminate the server; kill it after a time-out."""
        self._process.terminate()
        with suppress(TimeoutExpired):
            self._process.wait(_TIMEOUT)
        self._process.kill()
        self._process.wait()

    def cpu(self) -> float:
        """Seconds of CPU time of its processes."""
        return sum(_ticks(pid) for pid in self._tree()) / _TICKS

    def memory(self) -> float:
        """MiB of memory of its processes (proportional set size)."""
        return sum(_proportional_kib(pid) for pid in self._tree()) / 1024

    def cores(self) -> set[int]:
        """The cores that its processes may use."""
        return set().union(*(os.sched_getaffinity(pid) for pid in self._tree()))

    def new_log(self) -> bytes:
        """The part of the log since the last call."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        self._read += len(new)
        return new

    def _tree(self) -> list[int]:
        pids, new = [], [self._process.pid]
        while new:
            pid = new.pop()
            pids.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                new += map(int, children.read_text().split())
        return pids


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))  # user and system time, with those of ended children


def _proportional_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@asynccontextmanager
async def serve(
    command: tuple[str, ...], variables: Mapping[str, str], cores: set[int] = SERVER_CORES
) -> AsyncIterator[Server]:
    """A ready server at a free port, restricted to the cores, and stopped at the end."""
    with TemporaryDirectory(prefix="todo-bench-") as directory:
        with on_cores(cores):
            server = Server(command, variables, Path(directory))
        try:
            await server.wait_until_ready()
            yield server
        finally:
            server.stop()


def _free_port() -> int:
    """A free port below the ephemeral ports."""
    while True:
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
