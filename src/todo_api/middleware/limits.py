"""Limits on the size of a request's head and on the number of concurrent requests."""

from typing import Final

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from todo_api.problems import ProblemError
from todo_api.request_state import request_state

HEADERS_MAX: Final = 16 * 1024  # bytes
TARGET_MAX: Final = 8 * 1024  # bytes of path and query

_log = structlog.get_logger()


class LimitsMiddleware:
    """Refuses requests with an oversized head, and requests beyond ``concurrency``.

    ``concurrency`` is the number of requests that this process handles at the same time. Health
    checks are not counted: an overloaded process is alive. Streams, which have limits of their own,
    are counted until they begin.
    """

    def __init__(self, app: ASGIApp, concurrency: int) -> None:
        self._app = app
        self._available = concurrency

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        slots = 0 if scope["path"].startswith("/health/") else 1
        _refuse_oversized(scope)
        if self._available < slots:
            _log.warning("overloaded", reason="too_many_requests_under_way")
            raise ProblemError("overloaded")
        self._available -= slots
        try:
            await self._app(scope, receive, send)
        finally:
            self._available += slots
        stream = request_state(scope).stream
        if stream is not None:
            await stream(receive, send)


def _refuse_oversized(scope: Scope) -> None:
    size = 0
    for name, value in scope["headers"]:
        size += len(name) + len(value)
    if size > HEADERS_MAX:
        raise ProblemError("headers_too_large")
    path = scope.get("raw_path") or scope["path"]
    if len(path) + len(scope["query_string"]) > TARGET_MAX:
        raise ProblemError("uri_too_long")
