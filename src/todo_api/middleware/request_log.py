"""A request id and common header fields on every response; one log line for every request."""

from time import perf_counter
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from todo_api.metrics import Metrics
from todo_api.request_state import RequestState, request_state

_NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
_PRIVATE: Final = (b"cache-control", b"private, no-cache")
_VARY_BY_USER: Final = (b"vary", b"Origin, Authorization")
_VARY: Final = (b"vary", b"Origin")


class RequestLogMiddleware:
    """Completes the header fields of each response, counts the request and logs it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._log = structlog.get_logger().bind()  # a bound logger keeps its methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        state = request_state(scope)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _completed(message["headers"], scope["path"], state)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            seconds = perf_counter() - started
            route = getattr(scope.get("route"), "path_format", None)
            self._metrics.count_request(
                state.method, route, status, None if state.stream else seconds
            )
            self._log.info(
                "request",
                method=state.method,
                route=route,
                status=status,
                ms=round(seconds * 1000, 1),
                user=state.user_id,
            )


def _completed(
    fields: list[tuple[bytes, bytes]], path: str, state: RequestState
) -> list[tuple[bytes, bytes]]:
    """The header fields of a response and those that every response has."""
    completed = []
    is_private = is_api = path.startswith("/api/")
    for field in fields:
        if field[0] == b"cache-control":
            is_private = False  # the route has its own
        if field[0] != b"vary":
            completed.append(field)
    completed += ((b"x-request-id", state.request_id.encode()), _NOSNIFF, *state.rate_limit_fields)
    completed.append(_VARY_BY_USER if is_api else _VARY)
    if is_private:
        completed.append(_PRIVATE)
    return completed
