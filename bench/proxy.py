"""A network between service and database: a proxy that delays, and counts the round trips."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit

_SOCKET = ".s.PGSQL.5432"


class Network:
    """Adds ``delay`` seconds to each round trip on its way to the database behind ``url``.

    ``trips`` counts how often a client spoke after the server had; exact while each client waits
    for its answer.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.delay = 0.0
        self.trips = 0


@asynccontextmanager
async def network(database_url: str) -> AsyncIterator[Network]:
    """A network in front of the embedded database with this URL."""
    server = Path(parse_qs(urlsplit(database_url).query)["host"][0], _SOCKET)
    with TemporaryDirectory(prefix="todo-bench-") as directory:
        between = Network(f"postgresql://postgres@/todo?host={directory}")
        pairs: set[asyncio.Task[None]] = set()

        async def serve(reader: StreamReader, writer: StreamWriter) -> None:
            pair = asyncio.create_task(_connect(between, server, reader, writer))
            pairs.add(pair)
            pair.add_done_callback(pairs.discard)

        listener = await asyncio.start_unix_server(serve, Path(directory, _SOCKET))
        try:
            yield between
        finally:
            listener.close()
            for pair in list(pairs):
                pair.cancel()
            await asyncio.gather(*pairs, return_exceptions=True)


async def _connect(
    between: Network, server: Path, reader: StreamReader, writer: StreamWriter
) -> None:
    answers, asked = await asyncio.open_unix_connection(server)
    loop = asyncio.get_running_loop()
    is_answered = True

    async def there() -> None:
        nonlocal is_answered
        while data := await reader.read(65536):
            if is_answered:
                is_answered = False
                between.trips += 1
            if between.delay:
                loop.call_later(between.delay, asked.write, data)
            else:
                asked.write(data)
        asked.close()

    async def back() -> None:
        nonlocal is_answered
        while data := await answers.read(65536):
            is_answered = True
            writer.write(data)
        writer.close()

    try:
        with suppress(ConnectionError):
            await asyncio.gather(there(), back())
    finally:
        asked.close()
        writer.close()
