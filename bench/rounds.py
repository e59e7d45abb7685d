"""Measures service and baseline in turn, in several rounds."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

from bench.environment import BASELINE, CLIENTS, SERVER_CORES, SERVICE, Database, Server, serve
from bench.load import CONNECTIONS, OPERATIONS, User, drive, requests_of
from bench.progress import Progress

AA_TOLERANCE: Final = 0.05
TARGETS: Final = {"GET": 0.40, "LIST": 0.50, "POST": 0.50, "PATCH": 0.50}
_LINE: Final = b'"event":"request"'
_ROWS: Final = "SELECT count(*) FROM todo.tasks"


class InvalidRun(Exception):
    """The servers did not do what was to be measured, so that the figures are worthless."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One load on one server: requests per second, milliseconds, CPU µs per request, MiB."""

    rate: float
    p50: float
    p99: float
    cpu: float
    memory: float


Samples = Mapping[str, Mapping[str, Sequence[Sample]]]


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratio of the service to the baseline over all rounds."""

    median: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Ratio":
        return cls(median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.minimum:.2f} to {self.maximum:.2f})"


async def measure(db: Database, rounds: int, seconds: float, progress: Progress) -> Samples:
    """Samples by operation of ``baseline``, ``service`` and ``again``, a second baseline.

    Raises InvalidRun.
    """
    users = await db.users("user", CLIENTS)
    samples: dict[str, dict[str, list[Sample]]] = {
        operation: {"baseline": [], "service": [], "again": []} for operation in OPERATIONS
    }
    variables = db.variables()
    async with serve(BASELINE, variables) as baseline, serve(SERVICE, variables) as service:
        if any(server.cores() != SERVER_CORES for server in (baseline, service)):
            raise InvalidRun("the servers use other cores than SERVER_CORES")
        await _compare_responses(baseline, service, users)
        for server in (baseline, service):
            mixed = [raw for operation in OPERATIONS for raw in requests_of(operation, users[:20])]
            await drive(server.port, mixed, seconds)
        turns = [("baseline", baseline), ("service", service), ("again", baseline)]
        for number in range(rounds):
            for operation in OPERATIONS:
                for name, server in turns:
                    progress.step(f"round {number + 1}, {operation}, {name}")
                    sample = await _sample(db, server, operation, users, seconds)
                    samples[operation][name].append(sample)
    return samples


def rate_ratios(by_app: Mapping[str, Sequence[Sample]]) -> Ratio:
    """The service's throughput divided by the mean of the baseline before and after it."""
    turns = zip(by_app["service"], by_app["baseline"], by_app["again"], strict=True)
    return Ratio.of([s.rate / ((b.rate + a.rate) / 2) for s, b, a in turns])


def control(by_app: Mapping[str, Sequence[Sample]]) -> Ratio:
    """The ratio of the baseline to itself. The distance from 1 is the error of the run."""
    pairs = zip(by_app["baseline"], by_app["again"], strict=True)
    return Ratio.of([a.rate / b.rate for b, a in pairs])


def is_conclusive(samples: Samples) -> bool:
    """Whether the two measurements of the baseline agree within AA_TOLERANCE."""
    return all(abs(control(by_app).median - 1) <= AA_TOLERANCE for by_app in samples.values())


async def _sample(
    db: Database, server: Server, operation: str, users: Sequence[User], seconds: float
) -> Sample:
    rows, cpu, _ = await _count_rows(db), server.cpu(), server.new_log()
    load = await drive(server.port, requests_of(operation, users), seconds)
    cpu = server.cpu() - cpu
    if load.errors or load.broken or load.timeouts:
        raise InvalidRun(f"{operation}: {json.dumps(asdict(load))}")
    new_rows = await _count_rows(db) - rows
    # The requests of all connections that were running when the load ended are not in the count.
    done = range(load.requests, load.requests + CONNECTIONS + 1)
    if server.logs_requests and server.new_log().count(_LINE) not in done:
        raise InvalidRun(f"{operation}: not every request has a log line")
    if new_rows not in (done if operation == "POST" else (0,)):
        raise InvalidRun(f"{operation}: {load.requests} responses, but {new_rows} new rows")
    cpu_per_request = cpu / load.requests * 1e6
    return Sample(load.rate, load.p50, load.p99, cpu_per_request, server.memory())


async def _count_rows(db: Database) -> int:
    """The number of tasks when the last requests of a load have ended."""
    rows, before = 0, -1
    while rows != before:
        await asyncio.sleep(0.1)
        rows, before = (await db.fetch(_ROWS))[0]["count"], rows
    return rows


async def _compare_responses(baseline: Server, service: Server, users: Sequence[User]) -> None:
    for operation in OPERATIONS:
        raw = requests_of(operation, users)[0]
        ours, theirs = await fetch_json(service.port, raw), await fetch_json(baseline.port, raw)
        if operation == "LIST":
            is_same = len(ours) == 20 and [t["id"] for t in ours] == [t["id"] for t in theirs]  # noqa: PLR2004 - the limit in the query
        else:
            is_same = {ours["title"]} == {theirs["title"]} and set(ours) == set(theirs)
        if not is_same:
            raise InvalidRun(f"{operation}: the responses of service and baseline differ")


async def fetch_json(port: int, raw: bytes) -> Any:  # noqa: ANN401 - JSON
    """Send a raw request and return the JSON of the response. Raises InvalidRun."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        status, length = head.split()[1], head.partition("content-length:")[2].split()[0]
        body = await reader.readexactly(int(length))
    finally:
        writer.close()
    if not status.startswith("2"):
        raise InvalidRun(f"{status}: {body.decode()}")
    return json.loads(body)
