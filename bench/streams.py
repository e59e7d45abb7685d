"""Measures streams: memory, the time from a write to its events, CPU time, and the shutdown."""

import asyncio
import json
import resource
import time
from asyncio import StreamReader, StreamWriter
from dataclasses import dataclass
from typing import Final

from bench.environment import SERVICE, Server, database, serve
from bench.load import User
from bench.report import markdown
from bench.rounds import InvalidRun

USERS: Final = 200
PER_USER: Final = 10
WRITES: Final = 400
CONCURRENT: Final = 20  # writers at a time in the second part
HOST: Final = "127.0.0.1"
OPEN_FILES: Final = 8192


@dataclass(frozen=True, slots=True)
class _Streams:
    """The open streams of a user. The writers keep the connections open."""

    user: User
    readers: list[StreamReader]
    writers: list[StreamWriter]


async def streams() -> str:
    """The results for one worker with ``USERS`` times ``PER_USER`` streams."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, most), most))
    async with (
        database(owners=USERS, tasks=1) as db,
        serve(SERVICE, db.variables(LOG_LEVEL="warning")) as server,
    ):
        users = await db.users("user", USERS, tasks=1)
        await asyncio.gather(*(_write(server, user) for user in users[:CONCURRENT]))
        before = server.memory()
        opened = [await _open(server, user) for user in users]
        kib = (server.memory() - before) * 1024 / (USERS * PER_USER)
        rows = [await _events(server, opened, concurrent) for concurrent in (1, CONCURRENT)]
        ended = await _shutdown(server, opened)
    header = ["writers at a time", "p50 ms", "p99 ms", "CPU µs per event"]
    memory = f"{USERS * PER_USER} streams, {kib:.0f} KiB each."
    table = markdown([header, *rows])
    return f"{memory} From a write to its {PER_USER} events:\n\n{table}\n\nSIGTERM: {ended}"


async def _open(server: Server, user: User) -> _Streams:
    connections = await asyncio.gather(
        *(_request(server, user, "GET", "/stream") for _ in range(PER_USER))
    )
    for reader, _ in connections:
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head:
            raise InvalidRun(f"a stream was refused: {head.decode()}")
        await reader.readuntil(b"\n\n")  # hello
    readers, writers = zip(*connections, strict=True)
    return _Streams(user, list(readers), list(writers))


async def _request(
    server: Server, user: User, method: str, path: str, body: bytes = b""
) -> tuple[StreamReader, StreamWriter]:
    reader, writer = await asyncio.open_connection(HOST, server.port)
    head = (
        f"{method} /api/tasks{path} HTTP/1.1",
        f"Host: {HOST}",
        f"Authorization: Bearer {user.token}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    writer.write("\r\n".join((*head, "", "")).encode() + body)
    return reader, writer


async def _write(server: Server, user: User) -> None:
    body = json.dumps({"title": "Buy milk"}).encode()
    reader, writer = await _request(server, user, "POST", "", body)
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    if b" 201 " not in head:
        raise InvalidRun(f"a write failed: {head.decode()}")


async def _events(server: Server, opened: list[_Streams], concurrent: int) -> list[str]:
    """Write ``WRITES`` times, each time for another user; time every event."""
    cpu, times = server.cpu(), list[float]()
    for start in range(0, WRITES, concurrent):
        some = [opened[number % USERS] for number in range(start, start + concurrent)]
        for measured in await asyncio.gather(*(_write_and_wait(server, each) for each in some)):
            times += measured
    cpu = (server.cpu() - cpu) / len(times)
    times.sort()
    p50, p99 = (times[int(len(times) * part)] * 1e3 for part in (0.5, 0.99))
    return [str(concurrent), f"{p50:.1f}", f"{p99:.1f}", f"{cpu * 1e6:.0f}"]


async def _write_and_wait(server: Server, streams: _Streams) -> list[float]:
    """Seconds from the request of a write to each of its events."""
    waiting = [asyncio.create_task(_next(reader)) for reader in streams.readers]
    start = time.perf_counter()
    await _write(server, streams.user)
    return [end - start for end in await asyncio.gather(*waiting)]


async def _next(reader: StreamReader) -> float:
    while b"event: change" not in await reader.readuntil(b"\n\n"):
        pass  # a comment
    return time.perf_counter()


async def _shutdown(server: Server, opened: list[_Streams]) -> str:
    """Stop the server; count the streams that get the last event, and the time to the end."""
    reading = [
        asyncio.create_task(reader.read()) for streams in opened for reader in streams.readers
    ]
    start = time.perf_counter()
    await asyncio.to_thread(server.stop)
    seconds = time.perf_counter() - start
    rests = await asyncio.gather(*reading)
    ended = sum(b"event: bye" in rest for rest in rests)
    return f"{ended} of {len(rests)} streams got bye; the service ended after {seconds:.1f} s"
