"""A proxy in front of PostgreSQL that counts round trips and fails on demand.

It parses just enough of the protocol (PostgreSQL manual, "Frontend/Backend Protocol") to see where
a client stops sending and waits for the server.
"""

import asyncio
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from todo_adapters.postgres.url import DatabaseUrl

START: Final = b""  # a connection's first message has no type
# The messages after which a client waits: the first one, those of authentication, simple query,
# Sync and Flush.
AWAITED: Final = frozenset({START, b"p", b"Q", b"S", b"H"})


class PostgresProxy:
    """A proxy for clients that connect to ``address`` instead of to the server.

    ``trips`` counts how often a client has waited for the server.
    """

    def __init__(self, server: DatabaseUrl, directory: str) -> None:
        self.address = replace(server, url=server.url.set(query={"host": directory}))
        self.trips = 0
        self._server_socket = _socket(server)
        self._own_socket = _socket(self.address)
        self._listener: asyncio.Server | None = None
        self._writers: set[StreamWriter] = set()
        self._lasting: int | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._held = asyncio.Event()

    async def cost(self, call: Awaitable[object]) -> int:
        """The number of round trips that the call takes."""
        before = self.trips
        await call
        return self.trips - before

    async def listen(self) -> None:
        """Accept connections, also after ``leave``."""
        self._lasting = None
        self._listener = await asyncio.start_unix_server(self._serve, self._own_socket)

    async def leave(self) -> None:
        """Stop listening and close every connection, as a server does that was stopped."""
        if self._listener:
            self._listener.close()
        await self.disconnect()

    def leave_after(self, trips: int) -> None:
        """Stop as ``leave`` does, after the given number of further round trips."""
        self._lasting = trips

    async def disconnect(self) -> None:
        """Close every connection, as an idle server does, and wait until clients have noticed."""
        while self._writers:
            self._writers.pop().close()
        for _ in range(10):  # their event loop is this one
            await asyncio.sleep(0)

    def freeze(self) -> None:
        """Accept everything and forward nothing."""
        self._held.clear()
        self._flowing.clear()

    async def message_held(self) -> None:
        """Wait until a client is waiting for the frozen server."""
        await self._held.wait()

    def thaw(self) -> None:
        self._flowing.set()

    async def _serve(self, client: StreamReader, to_client: StreamWriter) -> None:
        server, to_server = await asyncio.open_unix_connection(self._server_socket)
        writers = {to_client, to_server}
        self._writers |= writers
        with suppress(ConnectionError, IncompleteReadError):
            await asyncio.gather(
                self._requests(client, to_server), self._answers(server, to_client)
            )
        self._writers -= writers
        for writer in writers:
            writer.close()

    async def _requests(self, client: StreamReader, to_server: StreamWriter) -> None:
        kind, message = START, await _message(client)
        while True:
            if kind in AWAITED:
                await self._count()
            to_server.write(message)
            kind = await client.readexactly(1)
            message = kind + await _message(client)

    async def _count(self) -> None:
        if not self._flowing.is_set():
            self._held.set()
            await self._flowing.wait()
        if self._lasting == 0:
            await self.leave()
            raise ConnectionResetError
        if self._lasting:
            self._lasting -= 1
        self.trips += 1

    async def _answers(self, server: StreamReader, to_client: StreamWriter) -> None:
        while chunk := await server.read(65536):
            to_client.write(chunk)
        raise ConnectionResetError


async def _message(stream: StreamReader) -> bytes:
    length = await stream.readexactly(4)
    return length + await stream.readexactly(int.from_bytes(length) - 4)


def _socket(address: DatabaseUrl) -> Path:
    return Path(str(address.url.query["host"]), ".s.PGSQL.5432")


@asynccontextmanager
async def proxy_before(server: DatabaseUrl) -> AsyncIterator[PostgresProxy]:
    """A proxy for a server with a Unix socket. It listens until the end of the block."""
    with TemporaryDirectory(prefix="todo-proxy-") as directory:
        proxy = PostgresProxy(server, directory)
        await proxy.listen()
        try:
            yield proxy
        finally:
            proxy.thaw()
            await proxy.leave()
