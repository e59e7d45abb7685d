"""ASGI middleware that translates requests below ``/compat/`` and their responses."""

from collections.abc import Awaitable
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from todo_api.compat.dialects import PREFIX, split_base_path
from todo_api.compat.exchanges import PROBLEM_STATUS, Exchange
from todo_api.compat.paths import LIST, CanonicalPath, canonical_path
from todo_api.http.errors import problem_response
from todo_api.middleware.limits import TARGET_MAX
from todo_api.problems import ProblemError
from todo_api.request_state import request_state

_PROFILE_THAT_CLEARS: Final = "todobackend"


class CompatMiddleware:
    """Translates requests below ``/compat/`` to the canonical API, and the responses back.

    It is outside of ExceptionMiddleware, because it translates problems too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    # Not async: other requests would pay for a coroutine.
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            return self._translate(scope, receive, send)
        return self._app(scope, receive, send)

    async def _translate(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw: bytes = scope.get("raw_path") or scope["path"].encode(errors="replace")
        if len(raw) + len(scope["query_string"]) > TARGET_MAX:
            await self._app(scope, receive, send)  # LimitsMiddleware refuses it
            return
        try:
            base = split_base_path(raw)
        except ProblemError as unknown:
            await problem_response(unknown, Request(scope))(scope, receive, send)
            return
        path = canonical_path(base.rest, scope["method"])
        exchange = Exchange(scope, receive, send, base, path)
        _rewrite_path(scope, path)
        exchange.rewrite_query()
        clears = path[:2] == (LIST, "DELETE") and _PROFILE_THAT_CLEARS in base.dialect
        if clears and not scope["query_string"]:
            await self._clear(scope, exchange)
        else:
            await self._app(scope, exchange.receive, exchange.send)

    async def _clear(self, scope: Scope, exchange: Exchange) -> None:
        """Delete the completed tasks, then all others. A problem ends it, and is the response."""
        first = _Response()
        await self._app({**scope, "query_string": b"status=completed"}, _no_body, first.send)
        if first.is_problem:
            for message in first.messages:
                await exchange.send(message)
        else:
            scope["query_string"] = b"status=pending"
            await self._app(scope, exchange.receive, exchange.send)


def _rewrite_path(scope: Scope, path: CanonicalPath) -> None:
    """Set the canonical path. ``raw_path`` stays: links and problems have the client's path."""
    scope["path"], scope["method"] = path.path, path.method
    if path.user_id is not None:
        request_state(scope).path_user_id = path.user_id


async def _no_body() -> Message:
    return {"type": "http.request"}


class _Response:
    """The response of the canonical API to a request that the middleware makes."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def is_problem(self) -> bool:
        return bool(self.messages[0]["status"] >= PROBLEM_STATUS)
