"""The outermost layer: a request id and safe headers on every answer, one log line per request."""

import re
from time import perf_counter
from typing import Final

import structlog
import uuid_utils
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from todo_api.log_context import set_context
from todo_api.metrics import Metrics

_SANE_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class RequestLogMiddleware:
    """Pure ASGI. Sets ``scope["request_id"]``, completes every answer's fields, counts and logs."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._log = (
            structlog.get_logger().bind()
        )  # unbound, it would look for its method anew each time

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        method = scope["method"]  # before it is rewritten
        request_id = scope["request_id"] = _request_id(scope)
        client = scope.get("client")
        set_context(request_id=request_id, client=client and client[0])
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _complete_headers(message, scope)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            seconds = perf_counter() - started
            route = getattr(scope.get("route"), "path_format", None)
            self._metrics.count_request(method, route, status, seconds)
            self._log.info(
                "request",
                method=method,
                route=route,
                status=status,
                ms=round(seconds * 1000, 1),
                user=scope.get("user"),
            )


def _request_id(scope: Scope) -> str:
    """The client's id if it is a sane one, so that its log and ours can be joined."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return str(value, "ascii")
    return uuid_utils.uuid7().hex


def _complete_headers(message: Message, scope: Scope) -> None:
    """Add what every answer has; raw fields, since this runs for each."""
    fields = [field for field in message["headers"] if field[0] != b"vary"]
    fields.append((b"x-request-id", scope["request_id"].encode()))
    fields.append((b"x-content-type-options", b"nosniff"))
    fields += scope.get("rate_limit", ())
    if scope["path"].startswith("/api/"):
        fields.append((b"vary", b"Origin, Authorization"))
        if not any(name == b"cache-control" for name, _ in fields):
            fields.append((b"cache-control", b"private, no-cache"))
    else:
        fields.append((b"vary", b"Origin"))
    message["headers"] = fields
