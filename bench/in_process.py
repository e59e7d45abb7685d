"""Runs requests through one app in this process, for cachegrind.

``guard.py`` starts this module under valgrind. Each measurement is a fork, so that the imports,
which take most of the time, run once.
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

from bench.baseline import build as build_baseline
from bench.load import SEPARATOR
from todo_api.main import build_app as build_service
from todo_api.server.granian import GC_THRESHOLD
from todo_api.server.settings import Settings

APPS: Final = {"service": build_service, "baseline": build_baseline}


def main() -> None:
    """Arguments: the app, a directory with one file of raw requests per operation, request counts.

    Writes one line per measurement to stderr: process id, operation, request count.
    """
    name, directory, *counts = sys.argv[1:]
    app = APPS[name](Settings.read())
    gc.collect()
    gc.freeze()  # otherwise a full collection can fall into one measurement and not into another
    gc.set_threshold(GC_THRESHOLD)  # as in the server
    for file in sorted(Path(directory).iterdir()):
        requests = cycle([_scope(raw) for raw in file.read_bytes().split(SEPARATOR)])
        for count in map(int, counts):
            batch = list(islice(requests, count))
            if (child := os.fork()) == 0:
                uvloop.run(_run(app, batch))
                os._exit(0)
            if os.waitpid(child, 0)[1]:
                raise RuntimeError(f"{name} failed at {file.name}")
            print(child, file.name, count, file=sys.stderr)  # noqa: T201 - read by guard.py


async def _run(app: ASGIApp, requests: list[tuple[dict[str, Any], bytes]]) -> None:
    state: dict[str, Any] = {}
    started, stopping = asyncio.Event(), asyncio.Event()
    messages = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive_lifespan() -> dict[str, Any]:
        message = next(messages)
        if message == "lifespan.shutdown":
            await stopping.wait()
        return {"type": message}

    async def send_lifespan(_: Any) -> None:  # noqa: ANN401 - ASGI's message
        started.set()

    async def lifespan() -> None:
        await app({"type": "lifespan", "state": state}, receive_lifespan, send_lifespan)

    running = asyncio.create_task(lifespan())
    await started.wait()
    for scope, body in requests:
        await _request(app, scope | {"state": dict(state)}, body)
    stopping.set()
    await running


async def _request(app: ASGIApp, scope: dict[str, Any], body: bytes) -> None:
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:  # noqa: ANN401 - ASGI's message
        nonlocal status
        status = message.get("status", status)

    await app(scope, receive, send)
    if status not in {200, 201}:
        raise RuntimeError(f"{scope['method']} {scope['path']}: status {status}")


def _scope(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """The ASGI scope and the body of a raw HTTP request."""
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
