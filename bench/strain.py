"""What throughput does not show: too many clients, a slow network, starting, resting, workers."""

import time
from typing import Final

import asyncpg

from bench.load import OPERATIONS, Load, drive, requests_of
from bench.pace import pace
from bench.proxy import network
from bench.report import markdown
from bench.rounds import answer
from bench.stage import (
    ASKING,
    FLOOR,
    OTHER_CORES,
    SERVER_CORES,
    SERVICE,
    Database,
    Server,
    database,
    serving,
)

CROWDS: Final = (32, 128, 512)
SHARES: Final = (0.5, 0.9)  # of what can be done
DELAYS: Final = (0.005, 0.020)  # seconds
SECONDS: Final = 5


async def round_trips(place: Database) -> dict[str, int]:
    """How often the service waits for the database for one request of each operation."""
    users = await place.users("user", 2)
    found = {}
    async with network(place.url) as between:
        variables = place.variables(DATABASE_URL=between.url, DATABASE_POOL_SIZE="1")
        async with serving(SERVICE, variables) as service:
            for operation in OPERATIONS:
                first, second, *_ = requests_of(operation, users)
                await answer(service.port, first)  # connects, and prepares the statements
                before = between.trips
                await answer(service.port, second)
                found[operation] = between.trips - before
    return found


async def overload() -> str:
    """Markdown: more and more connections at once, on reads and on writes."""
    rows: list[tuple[str, ...]] = [
        ("", "connections", "answered/s", "p50 ms", "p99", "p99.9", "slowest", "503", "lost", "MiB")
    ]
    async with database() as place:
        users = await place.users("user", ASKING)
        async with serving(SERVICE, place.variables()) as service:
            for operation in ("GET", "POST"):
                requests = requests_of(operation, users)
                for crowd in CROWDS:
                    load = await drive(service.port, requests, SECONDS, crowd)
                    rows.append((operation, str(crowd), *_printable(load, service)))
    return markdown(rows)


async def steady() -> str:
    """Markdown: a steady rate, as parts of what 32 connections that wait for answers get done."""
    rows: list[tuple[str, ...]] = [
        ("", "of capacity", "asked/s", "p50 ms", "p99", "p99.9", "slowest", "not 2xx")
    ]
    async with database() as place:
        users = await place.users("user", ASKING)
        async with serving(SERVICE, place.variables()) as service:
            for operation in ("GET", "LIST", "POST", "PATCH"):
                requests = requests_of(operation, users)
                capacity = (await drive(service.port, requests, SECONDS)).rate
                for share in SHARES:
                    load = await pace(service.port, requests, share * capacity, SECONDS)
                    times = (load.p50, load.p99, load.p999, load.slowest)
                    shown = [f"{value:,.1f}" for value in times]
                    asked = f"{load.requests / SECONDS:,.0f}"
                    rows.append((operation, f"{share:.0%}", asked, *shown, str(load.refused)))
    return markdown(rows)


async def latency_over_network() -> str:
    """Markdown: one request at a time over a network, in multiples of its round trip."""
    rows: list[tuple[str, ...]] = [
        ("operation", "service ms", "in round trips", "floor ms", "in round trips")
    ]
    async with database() as place:
        users = await place.users("user", ASKING)
        async with network(place.url) as between:
            variables = place.variables(DATABASE_URL=between.url)
            async with serving(SERVICE, variables) as ours, serving(FLOOR, variables) as theirs:
                for delay in DELAYS:
                    between.delay = delay
                    trip = await _round_trip(between.url)
                    rows.append((f"**round trip {trip:.1f} ms**", "", "", "", ""))
                    for operation in OPERATIONS:
                        requests = requests_of(operation, users)
                        shown = []
                        for server in (ours, theirs):
                            await drive(server.port, requests, 1, 1)
                            load = await drive(server.port, requests, 3, 1)
                            shown += [f"{load.p50:.1f}", f"{load.p50 / trip:.2f}"]
                        rows.append((operation, *shown))
    return markdown(rows)


async def rest() -> str:
    """Markdown: from the command to the first answer, and memory before and after work."""
    async with database() as place:
        users = await place.users("user", ASKING)
        starts = []
        for _ in range(3):
            began = time.monotonic()
            async with serving(SERVICE, place.variables()) as service:
                starts.append(time.monotonic() - began)
                resting = service.memory()
                await drive(service.port, requests_of("GET", users), SECONDS)
                worked = service.memory()
    rows = [
        ("first answer after s", "MiB at rest", "MiB after load"),
        (f"{sorted(starts)[1]:.2f}", f"{resting:.0f}", f"{worked:.0f}"),
    ]
    return markdown(rows)


async def workers() -> str:
    """Markdown: one worker and two, both free to use every core beside database and load."""
    rows: list[tuple[str, ...]] = [("workers", "GET/s", "LIST/s", "POST/s", "MiB")]
    async with database() as place:
        users = await place.users("user", ASKING)
        for number in (1, 2):
            variables = place.variables(WORKERS=str(number))
            async with serving(SERVICE, variables, SERVER_CORES | OTHER_CORES) as service:
                rates = []
                for operation in ("GET", "LIST", "POST"):
                    load = await drive(service.port, requests_of(operation, users), SECONDS)
                    rates.append(f"{load.rate:,.0f}")
                rows.append((str(number), *rates, f"{service.memory():.0f}"))
    return markdown(rows)


async def _round_trip(url: str) -> float:
    """Milliseconds that one statement takes on an open connection."""
    connection = await asyncpg.connect(url)
    try:
        times = []
        for _ in range(21):
            began = time.perf_counter()
            await connection.fetchval("SELECT 1")
            times.append(time.perf_counter() - began)
    finally:
        await connection.close()
    return sorted(times)[10] * 1000


def _printable(load: Load, service: Server) -> tuple[str, ...]:
    times = (f"{value:,.0f}" for value in (load.p50, load.p99, load.p999, load.slowest))
    lost = load.broken + load.timeouts
    return (f"{load.rate:,.0f}", *times, str(load.refused), str(lost), f"{service.memory():.0f}")
