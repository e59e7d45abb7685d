"""Path aliases: other spellings of a path, which frontends use, lead to the same route.

``/api/{user_id}/tasks…`` is ``/api/tasks…``, ``/api/v1/…`` and ``/api/api/…`` are ``/api/…``,
repeated slashes are one slash, one at the end is ignored, HEAD is GET. There is no redirect: it
would cost a round trip, and some browsers drop the Authorization header.

The path prefix of a reverse proxy is removed, if the proxy has not removed it.
"""

import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from todo_api.request_state import quote_path, request_state

# The user id is not "tasks": /api/tasks/tasks is a task with a malformed id.
_USER_PATH: Final = re.compile(rb"/api/(?!tasks/)([^/]+)/tasks(/.*)?", re.DOTALL)
# Base URLs with a version, or with an "/api" that the frontend adds again. A user with the id "v1"
# or "api" loses nothing: the path of tasks without a user id leads to the tasks of the token.
_BASE: Final = re.compile(rb"/api/(?:api/v1/|api/|v1/)")
_ENCODED_SLASH: Final = re.compile(rb"%2f", re.IGNORECASE)
_SLASHES: Final = re.compile(rb"/{2,}")
_OWN: Final = re.compile(rb"/+(?:api|compat|docs|health|metrics|openapi\.json|problems)(?:/|$)")


class PathAliasMiddleware:
    """Rewrites path and method before routing, so that each route is declared once.

    ``scope["path"]`` becomes the path of a route and ``scope["root_path"]`` empty, so that no other
    code sees aliases or the prefix. The request state has the prefix, and the user id of the path;
    authentication compares the latter with the token.
    """

    def __init__(self, app: ASGIApp, root_path: str = "") -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            _rewrite(scope, self._root_path)
        await self._app(scope, receive, send)


def _rewrite(scope: Scope, root_path: str) -> None:
    state = request_state(scope)
    # The path is split before it is decoded, because a user id may contain an encoded slash.
    sent = scope.get("raw_path") or quote_path(scope["path"]).encode()
    relative = sent
    if root_path or scope.get("root_path"):
        prefix = root_path or scope["root_path"]
        relative = _without_prefixes(sent, scope["root_path"], prefix)
        state.root_path = quote_path("/" + prefix.strip("/")).rstrip("/")
        scope["root_path"] = ""
    scope["raw_path"] = relative
    path = _canonical(relative)
    match = _USER_PATH.fullmatch(path)
    if match:
        state.path_user_id = unquote(match[1])
        path = b"/api/tasks" + (match[2] or b"")
    if path != sent or b"%2" in path:
        scope["path"] = decode_path(path)
    if scope["method"] == "HEAD":
        scope["method"] = "GET"  # the server sends no body for HEAD


def decode_path(path: bytes) -> str:
    """The text of a raw path. An encoded slash stays encoded: it must not separate segments."""
    return unquote(_ENCODED_SLASH.sub(b"%252F", path))


def _canonical(path: bytes) -> bytes:
    path = _SLASHES.sub(b"/", path) if b"//" in path else path
    if len(path) > 1 and path.endswith(b"/"):
        path = path[:-1]
    base = _BASE.match(path)
    return b"/api/" + path[base.end() :] if base else path


def _without_prefixes(path: bytes, *prefixes: str) -> bytes:
    """The path relative to the prefix that the server has added, and the one that the proxy keeps.

    With the prefix ``/api``, ``/api/tasks`` is a path whose prefix the proxy has removed.
    """
    for prefix in filter(None, prefixes):
        match = _prefix(prefix).match(path)
        if match:
            rest = path[match.end() :] or b"/"
            path = path if _OWN.match(path) and not _OWN.match(rest) else rest
    return path


@lru_cache
def _prefix(prefix: str) -> re.Pattern[bytes]:
    segments = (re.escape(segment.encode()) for segment in prefix.split("/") if segment)
    return re.compile(b"".join(b"/+" + segment for segment in segments) + rb"(?=/|$)")
