"""LimitsMiddleware on what one client, and all of them together, can make the service hold."""

from typing import Final

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from todo_api.problems import ProblemError

HEADERS_MAX: Final = 16 * 1024  # bytes
TARGET_MAX: Final = 8 * 1024  # bytes of path and query

_log = structlog.get_logger()


class LimitsMiddleware:
    """Pure ASGI. Refuses oversized heads, and work beyond what can be done in time.

    ``concurrency`` is the number of requests that may be under way in this process. Health checks
    do not count: an overloaded process is alive.
    """

    def __init__(self, app: ASGIApp, concurrency: int) -> None:
        self._app = app
        self._available = concurrency

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        work = 0 if scope["path"].startswith("/health/") else 1
        _refuse_oversized(scope)
        if self._available < work:
            _log.warning("overloaded", reason="too_many_requests_under_way")
            raise ProblemError("overloaded")
        self._available -= work
        try:
            await self._app(scope, receive, send)
        finally:
            self._available += work


def _refuse_oversized(scope: Scope) -> None:
    if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADERS_MAX:
        raise ProblemError("headers_too_large")
    path = scope.get("raw_path") or scope["path"]
    if len(path) + len(scope["query_string"]) > TARGET_MAX:
        raise ProblemError("uri_too_long")
