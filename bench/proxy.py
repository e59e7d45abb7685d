"""A proxy in front of the database that adds a delay and counts the round trips."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit

_SOCKET = ".s.PGSQL.5432"


class Proxy:
    """Adds ``delay`` seconds to each round trip. Clients connect to ``url``.

    ``round_trips`` counts the first message of a client after a message of the server. The count is
    exact while every client waits for its responses.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.delay = 0.0
        self.round_trips = 0


@asynccontextmanager
async def proxy_for(database_url: str) -> AsyncIterator[Proxy]:
    """A proxy for the embedded database with this URL."""
    server = Path(parse_qs(urlsplit(database_url).query)["host"][0], _SOCKET)
    with TemporaryDirectory(prefix="todo-bench-") as directory:
        proxy = Proxy(f"postgresql://postgres@/todo?host={directory}")
        pairs: set[asyncio.Task[None]] = set()

        async def serve(reader: StreamReader, writer: StreamWriter) -> None:
            pair = asyncio.create_task(_connect(proxy, server, reader, writer))
            pairs.add(pair)
            pair.add_done_callback(pairs.discard)

        listener = await asyncio.start_unix_server(serve, Path(directory, _SOCKET))
        try:
            yield proxy
        finally:
            listener.close()
            for pair in list(pairs):
                pair.cancel()
            await asyncio.gather(*pairs, return_exceptions=True)


async def _connect(proxy: Proxy, server: Path, reader: StreamReader, writer: StreamWriter) -> None:
    responses, requests = await asyncio.open_unix_connection(server)
    loop = asyncio.get_running_loop()
    server_sent_last = True

    async def forward() -> None:
        nonlocal server_sent_last
        while data := await reader.read(65536):
            if server_sent_last:
                server_sent_last = False
                proxy.round_trips += 1
            if proxy.delay:
                loop.call_later(proxy.delay, requests.write, data)
            else:
                requests.write(data)
        requests.close()

    async def backward() -> None:
        nonlocal server_sent_last
        while data := await responses.read(65536):
            server_sent_last = True
            writer.write(data)
        writer.close()

    try:
        with suppress(ConnectionError):
            await asyncio.gather(forward(), backward())
    finally:
        requests.close()
        writer.close()
