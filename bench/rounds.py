"""Service and floor in turn, round after round: what a ratio is worth shows in its spread."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

from bench.load import CONNECTIONS, OPERATIONS, User, drive, requests_of
from bench.progress import Progress
from bench.stage import ASKING, FLOOR, SERVER_CORES, SERVICE, Database, Server, serving

AA_TOLERANCE: Final = 0.05
TARGETS: Final = {"GET": 0.40, "LIST": 0.50, "POST": 0.50, "PATCH": 0.50}
_LINE: Final = b'"event":"request"'
_ROWS: Final = "SELECT count(*) FROM todo.tasks"


class WrongAnswers(Exception):
    """What was measured is not what was meant, so that its figures mean nothing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One load on one server: requests each second, milliseconds, CPU µs per request, MiB."""

    rate: float
    p50: float
    p99: float
    cpu: float
    memory: float


Samples = Mapping[str, Mapping[str, Sequence[Sample]]]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Service to floor: the median of the rounds, the least and the greatest."""

    middle: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Ratio":
        return cls(median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.least:.2f} to {self.greatest:.2f})"


async def measure(place: Database, rounds: int, seconds: float, progress: Progress) -> Samples:
    """Samples by operation of ``floor``, ``service`` and ``again``, which is the floor once more.

    Raises WrongAnswers.
    """
    users = await place.users("user", ASKING)
    samples: dict[str, dict[str, list[Sample]]] = {
        operation: {"floor": [], "service": [], "again": []} for operation in OPERATIONS
    }
    variables = place.variables()
    async with serving(FLOOR, variables) as floor, serving(SERVICE, variables) as service:
        if any(server.cores() != SERVER_CORES for server in (floor, service)):
            raise WrongAnswers("the servers are not kept on the core that is theirs")
        await _require_same_answers(floor, service, users)
        for server in (floor, service):
            mixed = [one for operation in OPERATIONS for one in requests_of(operation, users[:20])]
            await drive(server.port, mixed, seconds)
        turns = [("floor", floor), ("service", service), ("again", floor)]
        for number in range(rounds):
            for operation in OPERATIONS:
                for name, server in turns:
                    progress.step(f"round {number + 1}, {operation}, {name}")
                    sample = await _sample(place, server, operation, users, seconds)
                    samples[operation][name].append(sample)
    return samples


def rate_ratios(of: Mapping[str, Sequence[Sample]]) -> Ratio:
    """The service's throughput to that of the floor before and after it."""
    turns = zip(of["service"], of["floor"], of["again"], strict=True)
    return Ratio.of([s.rate / ((f.rate + a.rate) / 2) for s, f, a in turns])


def control(of: Mapping[str, Sequence[Sample]]) -> Ratio:
    """The floor's throughput to its own: how far it is from 1 is how little the rest can tell."""
    return Ratio.of([a.rate / f.rate for f, a in zip(of["floor"], of["again"], strict=True)])


def is_conclusive(samples: Samples) -> bool:
    """Whether the floor was like itself."""
    return all(abs(control(of).middle - 1) <= AA_TOLERANCE for of in samples.values())


async def _sample(
    place: Database, server: Server, operation: str, users: Sequence[User], seconds: float
) -> Sample:
    rows, cpu, _ = await _rows(place), server.cpu(), server.new_log()
    load = await drive(server.port, requests_of(operation, users), seconds)
    cpu = server.cpu() - cpu
    if load.refused or load.broken or load.timeouts:
        raise WrongAnswers(f"{operation}: {json.dumps(asdict(load))}")
    written = await _rows(place) - rows
    done = range(load.requests, load.requests + CONNECTIONS + 1)
    if server.logs_requests and server.new_log().count(_LINE) not in done:
        raise WrongAnswers(f"{operation}: not every request has its log line")
    if written not in (done if operation == "POST" else (0,)):
        raise WrongAnswers(f"{operation}: {load.requests} answers, but {written} new rows")
    each = cpu / load.requests * 1e6
    return Sample(load.rate, load.p50, load.p99, each, server.memory())


async def _rows(place: Database) -> int:
    """How many tasks there are once what was under way when a load ended has been done."""
    rows, before = 0, -1
    while rows != before:
        await asyncio.sleep(0.1)
        rows, before = (await place.fetch(_ROWS))[0]["count"], rows
    return rows


async def _require_same_answers(floor: Server, service: Server, users: Sequence[User]) -> None:
    for operation in OPERATIONS:
        raw = requests_of(operation, users)[0]
        ours, theirs = await answer(service.port, raw), await answer(floor.port, raw)
        if operation == "LIST":
            is_same = len(ours) == 20 and [t["id"] for t in ours] == [t["id"] for t in theirs]  # noqa: PLR2004 - asked for
        else:
            is_same = {ours["title"]} == {theirs["title"]} and set(ours) == set(theirs)
        if not is_same:
            raise WrongAnswers(f"{operation}: service and floor do not answer the same")


async def answer(port: int, raw: bytes) -> Any:  # noqa: ANN401 - JSON
    """The document that the server answers the raw request with. Raises WrongAnswers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        status, length = head.split()[1], head.partition("content-length:")[2].split()[0]
        body = await reader.readexactly(int(length))
    finally:
        writer.close()
    if not status.startswith("2"):
        raise WrongAnswers(f"{status}: {body.decode()}")
    return json.loads(body)
