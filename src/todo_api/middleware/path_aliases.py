"""Path aliases: other spellings of a path, which frontends use, lead to the same route.

``/api/{user_id}/tasks…`` is ``/api/tasks…``, one trailing slash is ignored, HEAD is GET. There is
no redirect: it would cost a round trip, and some browsers drop the Authorization header.
"""

import re
from typing import Final
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from todo_api.request_state import request_state

# The user id is not "tasks": /api/tasks/tasks is a task with a malformed id.
_USER_PATH: Final = re.compile(rb"/api/(?!tasks/)([^/]+)/tasks(/.*)?", re.DOTALL)


class PathAliasMiddleware:
    """Rewrites path and method before routing, so that each route is declared once.

    Stores the user id of the path in the request state; authentication compares it with the token.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            _rewrite(scope)
        await self._app(scope, receive, send)


def _rewrite(scope: Scope) -> None:
    # The path is split before it is decoded, because a user id may contain an encoded slash.
    match = _USER_PATH.fullmatch(scope.get("raw_path") or scope["path"].encode())
    if match:
        request_state(scope).path_user_id = unquote(match[1])
        scope["path"] = "/api/tasks" + unquote(match[2] or b"")
    path = scope["path"]
    if len(path) > 1 and path.endswith("/"):
        scope["path"] = path[:-1]
    if scope["method"] == "HEAD":
        scope["method"] = "GET"  # the server sends no body for HEAD
