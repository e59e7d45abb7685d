"""Liberal addresses: the spellings that real frontends use are served like the route they mean.

``/api/{user_id}/tasks…`` is ``/api/tasks…``, one trailing slash is none, HEAD is GET. No redirect:
it would cost a round trip, and browsers drop the Authorization header on some.
"""

import re
from typing import Final
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

# "tasks" itself is no user here: /api/tasks/tasks is the task with that (malformed) id.
_OF_USER: Final = re.compile(rb"/api/(?!tasks/)([^/]+)/tasks(/.*)?", re.DOTALL)


class PathAliasMiddleware:
    """Pure ASGI. Rewrites the request before it is routed, so that there is one route for each.

    Sets ``scope["path_user_id"]`` where the path names a user; authentication compares it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            _rewrite(scope)
        await self._app(scope, receive, send)


def _rewrite(scope: Scope) -> None:
    # Split before decoding: an id may contain an encoded slash.
    of_user = _OF_USER.fullmatch(scope.get("raw_path") or scope["path"].encode())
    if of_user:
        scope["path_user_id"] = unquote(of_user[1])
        scope["path"] = "/api/tasks" + unquote(of_user[2] or b"")
    path = scope["path"]
    if len(path) > 1 and path.endswith("/"):
        scope["path"] = path[:-1]
    if scope["method"] == "HEAD":
        scope["method"] = "GET"  # the server leaves the body out
