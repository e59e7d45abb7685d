"""Load with wrk, which sends prepared requests and is not the bottleneck itself."""

import asyncio
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from subprocess import PIPE, run
from tempfile import TemporaryDirectory
from typing import Final

SCRIPT: Final = Path(__file__).with_name("load.lua")
CONNECTIONS: Final = 32
OPERATIONS: Final = ("GET", "LIST", "POST", "PATCH", "COMPLETE")
SEPARATOR: Final = b"\x1e"  # between raw requests in a file
ORIGIN: Final = "http://localhost:3000"
_editions: Final = count(1)


class MissingProgram(Exception):
    """A program is not installed. The message says how to install it."""


@dataclass(frozen=True, slots=True)
class User:
    """A user with a token and some tasks."""

    token: str
    tasks: Sequence[str]


@dataclass(frozen=True, slots=True)
class Load:
    """The result of a load. ``errors`` counts responses other than 2xx. Times are milliseconds."""

    requests: int
    seconds: float
    errors: int
    broken: int
    timeouts: int
    p50: float
    p99: float
    p999: float
    slowest: float

    @property
    def rate(self) -> float:
        """Responses with 2xx per second."""
        return (self.requests - self.errors) / self.seconds


def require(program: str) -> str:
    """The program's path. Raises MissingProgram."""
    path = shutil.which(program)
    if path is None:
        raise MissingProgram(
            f"{program} is missing: install it, on Debian and Ubuntu with `apt install {program}`"
        )
    return path


def requests_of(operation: str, users: Sequence[User]) -> list[bytes]:
    """Raw requests of the users in turn.

    In this order, every PATCH and COMPLETE request changes its task.
    """
    if operation == "LIST":
        return [_request("GET", "/api/tasks?limit=20", user) for user in users]
    pairs = list(_in_turn(users))
    if operation == "GET":
        return [_request("GET", f"/api/tasks/{task}", user) for user, task in pairs]
    if operation == "POST":
        return [
            _request("POST", "/api/tasks", user, {"title": f"Buy milk for {number}"})
            for number, user in enumerate(users)
        ]
    requests = []
    for is_second in (False, True):
        edition = next(_editions)
        for user, task in pairs:
            if operation == "PATCH":
                path, body = f"/api/tasks/{task}", {"title": f"Buy milk, edition {edition}"}
                requests.append(_request("PATCH", path, user, body))
            else:
                path = f"/api/tasks/{task}/complete"
                requests.append(_request("PATCH", path, user, {"completed": not is_second}))
    return requests


def _in_turn(users: Sequence[User]) -> Iterator[tuple[User, str]]:
    for tasks in zip(*(user.tasks for user in users), strict=True):
        yield from zip(users, tasks, strict=True)


def _request(method: str, path: str, user: User, body: Mapping[str, object] | None = None) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    fields = {"Host": "127.0.0.1", "Authorization": f"Bearer {user.token}", "Origin": ORIGIN}
    if body is not None:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + content


def write_requests(requests: Mapping[str, Sequence[bytes]], directory: Path) -> None:
    """Write one file per name, for wrk's script and the in-process driver."""
    for name, raw in requests.items():
        (directory / name).write_bytes(SEPARATOR.join(raw))


async def drive(
    port: int, requests: Sequence[bytes], seconds: float, connections: int = CONNECTIONS
) -> Load:
    """Send the requests repeatedly over the connections. Raises MissingProgram."""
    return await asyncio.to_thread(_drive, port, requests, seconds, connections)


def _drive(port: int, requests: Sequence[bytes], seconds: float, connections: int) -> Load:
    with TemporaryDirectory(prefix="todo-bench-") as directory:
        write_requests({"requests": requests}, Path(directory))
        threads = f"-t1 -c{connections} -d{max(1, round(seconds))}s --timeout 20s".split()
        script = ("-s", str(SCRIPT), f"http://127.0.0.1:{port}", f"{directory}/requests")
        result = run((require("wrk"), *threads, *script), stdout=PIPE, check=True, text=True)
    report = result.stdout.partition("REPORT ")[2]
    return Load(**json.loads(report))
