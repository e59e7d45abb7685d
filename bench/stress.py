"""Measures overload, a constant rate, a slow network, start-up, memory and two workers."""

import time
from typing import Final

import asyncpg

from bench.environment import (
    BASELINE,
    CLIENTS,
    OTHER_CORES,
    SERVER_CORES,
    SERVICE,
    Database,
    Server,
    database,
    serve,
)
from bench.load import OPERATIONS, Load, drive, requests_of
from bench.pace import pace
from bench.proxy import proxy_for
from bench.report import markdown
from bench.rounds import fetch_json

CONNECTIONS: Final = (32, 128, 512)
SHARES: Final = (0.5, 0.9)  # of the throughput with 32 connections
DELAYS: Final = (0.005, 0.020)  # seconds
SECONDS: Final = 5


async def round_trips(db: Database) -> dict[str, int]:
    """The database round trips of one request of each operation."""
    users = await db.users("user", 2)
    counts = {}
    async with proxy_for(db.url) as proxy:
        variables = db.variables(DATABASE_URL=proxy.url, DATABASE_POOL_SIZE="1")
        async with serve(SERVICE, variables) as service:
            for operation in OPERATIONS:
                first, second, *_ = requests_of(operation, users)
                await fetch_json(service.port, first)  # connects and prepares the statements
                before = proxy.round_trips
                await fetch_json(service.port, second)
                counts[operation] = proxy.round_trips - before
    return counts


async def overload() -> str:
    """A Markdown table of reads and writes over more and more connections."""
    rows: list[tuple[str, ...]] = [
        ("", "connections", "2xx/s", "p50 ms", "p99", "p99.9", "slowest", "503", "lost", "MiB")
    ]
    async with database() as db:
        users = await db.users("user", CLIENTS)
        async with serve(SERVICE, db.variables()) as service:
            for operation in ("GET", "POST"):
                requests = requests_of(operation, users)
                for connections in CONNECTIONS:
                    load = await drive(service.port, requests, SECONDS, connections)
                    rows.append((operation, str(connections), *_printable(load, service)))
    return markdown(rows)


async def constant_rate() -> str:
    """A Markdown table of response times at shares of the throughput with 32 connections."""
    rows: list[tuple[str, ...]] = [
        ("", "of capacity", "requests/s", "p50 ms", "p99", "p99.9", "slowest", "not 2xx")
    ]
    async with database() as db:
        users = await db.users("user", CLIENTS)
        async with serve(SERVICE, db.variables()) as service:
            for operation in ("GET", "LIST", "POST", "PATCH"):
                requests = requests_of(operation, users)
                capacity = (await drive(service.port, requests, SECONDS)).rate
                for share in SHARES:
                    load = await pace(service.port, requests, share * capacity, SECONDS)
                    times = (load.p50, load.p99, load.p999, load.slowest)
                    cells = [f"{value:,.1f}" for value in times]
                    rate = f"{load.requests / SECONDS:,.0f}"
                    rows.append((operation, f"{share:.0%}", rate, *cells, str(load.errors)))
    return markdown(rows)


async def latency_over_network() -> str:
    """A Markdown table of sequential requests over a slow network to the database."""
    rows: list[tuple[str, ...]] = [
        ("operation", "service ms", "in round trips", "baseline ms", "in round trips")
    ]
    async with database() as db:
        users = await db.users("user", CLIENTS)
        async with proxy_for(db.url) as proxy:
            variables = db.variables(DATABASE_URL=proxy.url)
            async with serve(SERVICE, variables) as ours, serve(BASELINE, variables) as theirs:
                for delay in DELAYS:
                    proxy.delay = delay
                    trip = await _round_trip(proxy.url)
                    rows.append((f"**round trip {trip:.1f} ms**", "", "", "", ""))
                    for operation in OPERATIONS:
                        requests = requests_of(operation, users)
                        cells = []
                        for server in (ours, theirs):
                            await drive(server.port, requests, 1, 1)
                            load = await drive(server.port, requests, 3, 1)
                            cells += [f"{load.p50:.1f}", f"{load.p50 / trip:.2f}"]
                        rows.append((operation, *cells))
    return markdown(rows)


async def startup() -> str:
    """A Markdown table of the time to the first response, and memory before and after load."""
    async with database() as db:
        users = await db.users("user", CLIENTS)
        times = []
        for _ in range(3):
            started = time.monotonic()
            async with serve(SERVICE, db.variables()) as service:
                times.append(time.monotonic() - started)
                memory_before = service.memory()
                await drive(service.port, requests_of("GET", users), SECONDS)
                memory_after = service.memory()
    rows = [
        ("first response after s", "MiB before load", "MiB after load"),
        (f"{sorted(times)[1]:.2f}", f"{memory_before:.0f}", f"{memory_after:.0f}"),
    ]
    return markdown(rows)


async def workers() -> str:
    """A Markdown table of one and two workers that share all cores with database and load."""
    rows: list[tuple[str, ...]] = [("workers", "GET/s", "LIST/s", "POST/s", "MiB")]
    async with database() as db:
        users = await db.users("user", CLIENTS)
        for number in (1, 2):
            variables = db.variables(WORKERS=str(number))
            async with serve(SERVICE, variables, SERVER_CORES | OTHER_CORES) as service:
                rates = []
                for operation in ("GET", "LIST", "POST"):
                    load = await drive(service.port, requests_of(operation, users), SECONDS)
                    rates.append(f"{load.rate:,.0f}")
                rows.append((str(number), *rates, f"{service.memory():.0f}"))
    return markdown(rows)


async def _round_trip(url: str) -> float:
    """The milliseconds of one statement on an open connection."""
    connection = await asyncpg.connect(url)
    try:
        times = []
        for _ in range(21):
            started = time.perf_counter()
            await connection.fetchval("SELECT 1")
            times.append(time.perf_counter() - started)
    finally:
        await connection.close()
    return sorted(times)[10] * 1000


def _printable(load: Load, service: Server) -> tuple[str, ...]:
    times = (f"{value:,.0f}" for value in (load.p50, load.p99, load.p999, load.slowest))
    lost = load.broken + load.timeouts
    return (f"{load.rate:,.0f}", *times, str(load.errors), str(lost), f"{service.memory():.0f}")
