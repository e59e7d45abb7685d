"""Load at a steady rate, whether or not answers come: what people do who do not know each other.

A time counts from when its request was due, so that nothing is left out because the server was
busy; wrk, which waits for an answer before it asks again, cannot tell that.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from itertools import count
from typing import Final

from bench.load import Load
from bench.stage import OTHER_CORES, on_cores

CONNECTIONS: Final = 128
_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)")


async def pace(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Load:
    """Send the requests over and over, ``rate`` of them each second, and tell what came of it."""
    return await asyncio.to_thread(_pace, port, requests, rate, seconds)


def _pace(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Load:
    with on_cores(OTHER_CORES):
        return asyncio.run(_paced(port, requests, rate, seconds))


async def _paced(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Load:
    numbers = count()
    times: list[float] = []
    refused = 0

    async def ask_in_turn() -> None:
        nonlocal refused
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await connected.wait()
        while (due := began + next(numbers) / rate) < began + seconds:
            await asyncio.sleep(due - time.perf_counter())
            writer.write(requests[round((due - began) * rate) % len(requests)])
            refused += not await _is_answered(reader)
            times.append((time.perf_counter() - due) * 1000)
        writer.close()
        await writer.wait_closed()

    connected = asyncio.Barrier(CONNECTIONS)
    began = time.perf_counter() + 0.5  # by then all have connected
    await asyncio.gather(*(ask_in_turn() for _ in range(CONNECTIONS)))
    times.sort()
    p50, p99, p999 = (times[int(len(times) * part)] for part in (0.5, 0.99, 0.999))
    spent = time.perf_counter() - began
    return Load(len(times), spent, refused, 0, 0, p50, p99, p999, times[-1])


async def _is_answered(reader: asyncio.StreamReader) -> bool:
    """Whether the answer, which is read to its end, is a 2xx."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head.lower())
    await reader.readexactly(int(length[1]) if length else 0)
    return head.split(b" ", 2)[1].startswith(b"2")
