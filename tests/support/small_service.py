"""A service without a database, which ``todo_api.server.granian`` runs. Starts in a second.

``python -m support.small_service [stop-on-sighup] [renew-at-once] [fail]``. ``POST`` answers 201
when the body is complete. ``GET`` answers the worker's process id; the response to ``GET /stream``
ends when the worker has to stop.
"""

import os
import sys

from starlette.types import ASGIApp, Receive, Scope, Send

from todo_api.server import granian
from todo_api.server.settings import Settings
from todo_api.shutdown import stopping_event


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        scope["state"]["stopping"] = stopping_event()
        await _run_lifespan(receive, send)
    elif scope["method"] == "POST":
        while (await receive()).get("more_body"):
            pass
        await _send(send, 201, b"created")
    else:
        await _send(send, 200, b"%d\n" % os.getpid(), more_body=True)
        if scope["path"] == "/stream":
            await scope["state"]["stopping"].wait()
        await send({"type": "http.response.body", "body": b"bye\n"})


async def _run_lifespan(receive: Receive, send: Send) -> None:
    for event in ("startup", "shutdown"):
        assert (await receive())["type"] == f"lifespan.{event}"
        await send({"type": f"lifespan.{event}.complete"})


async def _send(send: Send, status: int, body: bytes, *, more_body: bool = False) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": more_body})


def load_app() -> ASGIApp:
    if "fail" in sys.argv:
        raise SystemExit(1)
    return app


if __name__ == "__main__":
    if "renew-at-once" in sys.argv:
        granian.RESPAWN_INTERVAL = 0  # type: ignore[misc]
    granian.serve(Settings.read(), load_app, stop_on_sighup="stop-on-sighup" in sys.argv)
