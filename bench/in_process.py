"""One app in this process, asked one request after another: what cachegrind counts.

Started under valgrind by ``guard.py``. Each measurement is a fork, so that the imports, which cost
the most, happen once.
"""

import asyncio
import gc
import os
import sys
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import uvloop
from starlette.types import ASGIApp

from bench.floor import build as build_floor
from bench.load import SEPARATOR
from todo_api.main import build_app as build_service
from todo_api.server.granian import GC_THRESHOLD
from todo_api.server.settings import Settings

APPS: Final = {"service": build_service, "floor": build_floor}


def main() -> None:
    """Arguments: the app, a file of raw requests for each operation, and request counts.

    Writes a line for each measurement: the id of its process, the operation and the count.
    """
    name, directory, *counts = sys.argv[1:]
    app = APPS[name](Settings.read())
    gc.collect()
    gc.freeze()  # else a collection of everything falls into one count and not into another
    gc.set_threshold(GC_THRESHOLD)  # as where they are served
    for file in sorted(Path(directory).iterdir()):
        requests = cycle([_scope(raw) for raw in file.read_bytes().split(SEPARATOR)])
        for count in map(int, counts):
            asked = list(islice(requests, count))
            if (child := os.fork()) == 0:
                uvloop.run(_ask(app, asked))
                os._exit(0)
            if os.waitpid(child, 0)[1]:
                raise RuntimeError(f"{name} failed at {file.name}")
            print(child, file.name, count, file=sys.stderr)  # noqa: T201 - read by guard.py


async def _ask(app: ASGIApp, requests: list[tuple[dict[str, Any], bytes]]) -> None:
    state: dict[str, Any] = {}
    started, stopping = asyncio.Event(), asyncio.Event()
    messages = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive_life() -> dict[str, Any]:
        message = next(messages)
        if message == "lifespan.shutdown":
            await stopping.wait()
        return {"type": message}

    async def send_life(_: Any) -> None:  # noqa: ANN401 - ASGI's message
        started.set()

    async def live() -> None:
        await app({"type": "lifespan", "state": state}, receive_life, send_life)

    life = asyncio.create_task(live())
    await started.wait()
    for scope, body in requests:
        await _one(app, scope | {"state": dict(state)}, body)
    stopping.set()
    await life


async def _one(app: ASGIApp, scope: dict[str, Any], body: bytes) -> None:
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:  # noqa: ANN401 - ASGI's message
        nonlocal status
        status = message.get("status", status)

    await app(scope, receive, send)
    if status not in {200, 201}:
        raise RuntimeError(f"{scope['method']} {scope['path']} was answered {status}")


def _scope(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """A raw HTTP request as a server passes it on."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *fields = head.split(b"\r\n")
    method, target, _ = first.split(b" ")
    path, _, query = target.partition(b"?")
    headers = [(name.lower(), value) for name, _, value in (f.partition(b": ") for f in fields)]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "method": method.decode(),
        "root_path": "",
        "path": path.decode(),
        "raw_path": path,
        "query_string": query,
        "headers": headers,
        "extensions": {},
    }
    return scope, body


if __name__ == "__main__":
    main()
