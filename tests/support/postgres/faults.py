"""Fault injection for databases: a PostgreSQL server and a network that fail on demand."""

import asyncio
import os
import signal
import ssl
from asyncio import StreamReader, StreamWriter, Task
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import asyncpg

from support.postgres.clusters import copy_cluster
from support.service import PATIENCE
from todo_adapters.embedded_postgres.server import embedded_postgres
from todo_adapters.postgres.schema import migrate
from todo_adapters.postgres.url import parse_database_url

USER: Final = "todo"
PASSWORD: Final = "npg_Xk2mVq8RtLw5"

# What a client that wants TLS sends first (PostgreSQL manual, "Message Formats").
_SSL_REQUEST: Final = bytes.fromhex("0000000804d2162f")
_YES: Final = b"S"

Connect = Callable[[], Awaitable[tuple[StreamReader, StreamWriter]]]


def error_response(severity: str, sqlstate: str, message: str) -> bytes:
    """An ErrorResponse message (PostgreSQL manual, "Error and Notice Message Fields")."""
    fields = f"S{severity}\0V{severity}\0C{sqlstate}\0M{message}\0\0".encode()
    return b"E" + (len(fields) + 4).to_bytes(4) + fields


class Server:
    """An embedded PostgreSQL that can be stopped, killed, paused and restarted.

    Its database is migrated and owned by the user ``todo``, who needs a password. ``url`` is the
    superuser's, without a password, and bypasses every network and pooler.
    """

    def __init__(self, directory: Path) -> None:
        self.url = ""
        self._directory = directory
        self._running = ExitStack()
        # On Linux the server ends when the thread that started it ends.
        self._thread = ThreadPoolExecutor(max_workers=1)

    @property
    def socket(self) -> Path:
        return self._directory / ".s.PGSQL.5432"

    async def create(self) -> None:
        """Start it for the first time, and migrate its database."""
        await self._in_thread(lambda: copy_cluster(self._directory))
        await self.start()
        async with self.session() as session:
            await session.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
            await session.execute(f"ALTER DATABASE todo OWNER TO {USER}")
            access = self._directory / "data" / "pg_hba.conf"
            access.write_text(f"local all {USER} scram-sha-256\nlocal all all trust\n")
            await session.execute("SELECT pg_reload_conf()")
        url = f"postgresql://{USER}:{PASSWORD}@/todo?host={self.socket.parent}"
        await migrate(parse_database_url(url))

    async def start(self) -> None:
        """Return once it accepts connections."""
        self.url = await self._in_thread(
            lambda: self._running.enter_context(embedded_postgres(self._directory))
        )

    async def stop(self) -> None:
        """Disconnect the clients and shut down, as PostgreSQL's fast mode does."""
        await self._in_thread(self._running.close)

    async def kill(self) -> None:
        """Kill all of its processes at once, as a power failure does."""
        self._signal(signal.SIGKILL)
        await self.stop()

    def pause(self) -> None:
        """Suspend its processes: connections are accepted, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    async def remove(self) -> None:
        await self.stop()
        self._thread.shutdown()

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        async with self.session() as session:
            return list(await session.fetch(query, *arguments))

    async def becomes(self, query: str) -> None:
        """Wait until the query returns true."""
        async with self.session() as session, asyncio.timeout(PATIENCE):
            while not await session.fetchval(query):
                await session.execute("SELECT pg_sleep(0.01)")

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection]:
        session = await asyncpg.connect(self.url)
        try:
            yield session
        finally:
            await session.close()

    async def _in_thread(self, call: Callable[[], Any]) -> Any:  # noqa: ANN401 - what it returns
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _signal(self, number: signal.Signals) -> None:
        """Signal the postmaster first, because it starts the other processes."""
        pid = int((self._directory / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, number)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), number)


@asynccontextmanager
async def server_in(directory: Path) -> AsyncIterator[Server]:
    """A new server that runs until the end of the block."""
    server = Server(directory)
    await server.create()
    try:
        yield server
    finally:
        await server.remove()


class _Link:
    """The streams of a client's connection and of the server connection opened for it."""

    def __init__(self, to_client: StreamWriter) -> None:
        self.writers = [to_client]
        self.client_talks = False


class Network:
    """A TCP proxy at ``host`` and ``port`` in front of the server that ``connect`` connects to.

    With ``tls`` it terminates TLS. ``turns`` counts how often a client began to send, which is once
    per round trip; the proxy does not parse the protocol.
    """

    def __init__(
        self, connect: Connect, host: str, port: int, tls: ssl.SSLContext | None = None
    ) -> None:
        self.host = host
        self.port = port
        self.turns = 0
        self._connect = connect
        self._tls = tls
        self._is_dead = False
        self._listener: asyncio.Server | None = None
        self._links: dict[Task[None], _Link] = {}
        self._forgotten: list[_Link] = []

    async def listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, self.host, self.port)

    async def close(self) -> None:
        """Close every connection and stop listening."""
        if self._listener:
            self._listener.close()
        self.die()
        await self.idle()
        for writer in (writer for link in self._forgotten for writer in link.writers):
            writer.transport.abort()

    def die(self) -> None:
        """Drop all traffic silently. Connections stay open."""
        self._is_dead = True
        for carrying in self._links:
            carrying.cancel()

    def revive(self) -> None:
        """Forward the traffic of new connections. Earlier connections stay dead."""
        self._is_dead = False

    def tell_clients(self, message: bytes) -> None:
        """Send a message to every client as if the server had sent it."""
        for link in self._links.values():
            link.writers[0].write(message)

    async def idle(self) -> None:
        """Wait until no connection forwards traffic."""
        while self._links:
            await asyncio.wait(self._links)

    async def cost(self, call: Awaitable[object]) -> int:
        """The number of round trips that the call takes."""
        before = self.turns
        await call
        return self.turns - before

    async def _accept(self, client: StreamReader, to_client: StreamWriter) -> None:
        link = _Link(to_client)
        carrying = asyncio.create_task(self._carry(link, client))
        self._links[carrying] = link
        if self._is_dead:
            carrying.cancel()
        await asyncio.wait([carrying])
        del self._links[carrying]
        if carrying.cancelled():
            self._forgotten.append(link)
            return
        for writer in link.writers:
            writer.close()

    async def _carry(self, link: _Link, client: StreamReader) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            (to_client,) = link.writers
            if self._tls and await client.readexactly(len(_SSL_REQUEST)) == _SSL_REQUEST:
                to_client.write(_YES)
                await to_client.start_tls(self._tls)
            server, to_server = await self._connect()
            link.writers.append(to_server)
            await asyncio.gather(
                self._pass(client, to_server, link, is_client=True),
                self._pass(server, to_client, link, is_client=False),
            )

    async def _pass(
        self, source: StreamReader, sink: StreamWriter, link: _Link, *, is_client: bool
    ) -> None:
        while chunk := await source.read(65536):
            if is_client and not link.client_talks:
                self.turns += 1
            link.client_talks = is_client
            sink.write(chunk)
        raise ConnectionResetError  # which ends the other direction too


@asynccontextmanager
async def network_to(
    connect: Connect, host: str, port: int, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Network]:
    """A network that forwards traffic until the end of the block."""
    network = Network(connect, host, port, tls)
    await network.listen()
    try:
        yield network
    finally:
        await network.close()
