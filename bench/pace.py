"""Load at a constant rate that does not depend on the responses, like that of independent users.

The time of a request starts when the request is due, so that waiting for a busy server counts. wrk
sends the next request only after the response, and so does not measure that waiting.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from itertools import count
from typing import Final

from bench.environment import OTHER_CORES, on_cores
from bench.load import Load

CONNECTIONS: Final = 128
_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)")


async def pace(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Load:
    """Send ``rate`` of the requests per second, repeatedly."""
    return await asyncio.to_thread(_pace, port, requests, rate, seconds)


def _pace(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Load:
    with on_cores(OTHER_CORES):
        return asyncio.run(_paced(port, requests, rate, seconds))


async def _paced(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Load:
    numbers = count()
    times: list[float] = []
    errors = 0

    async def send_requests() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await connected.wait()
        while (due := start + next(numbers) / rate) < start + seconds:
            await asyncio.sleep(due - time.perf_counter())
            writer.write(requests[round((due - start) * rate) % len(requests)])
            errors += not await _read_response(reader)
            times.append((time.perf_counter() - due) * 1000)
        writer.close()
        await writer.wait_closed()

    connected = asyncio.Barrier(CONNECTIONS)
    start = time.perf_counter() + 0.5  # all connections are open by then
    await asyncio.gather(*(send_requests() for _ in range(CONNECTIONS)))
    times.sort()
    p50, p99, p999 = (times[int(len(times) * part)] for part in (0.5, 0.99, 0.999))
    spent = time.perf_counter() - start
    return Load(len(times), spent, errors, 0, 0, p50, p99, p999, times[-1])


async def _read_response(reader: asyncio.StreamReader) -> bool:
    """Read a response to its end. Whether its status is 2xx."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head.lower())
    await reader.readexactly(int(length[1]) if length else 0)
    return head.split(b" ", 2)[1].startswith(b"2")
