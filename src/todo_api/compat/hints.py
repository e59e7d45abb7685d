"""Paths that other to-do APIs have: the 404 names the base path that understands them."""

import re
from typing import Final

from starlette.datastructures import URLPath
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from todo_api.compat.dialects import PREFIX
from todo_api.problems import ProblemError, printable

_UNDERSTOOD: Final = re.compile(
    r"(?:/api(?:/[^/]+)?)?/todos(?:/.*)?|/tasks(?:/.*)?|/api/health", re.DOTALL
)


class CompatHint(BaseRoute):
    """Refuses paths that only the dialects understand. It must be the last route."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        is_understood = _UNDERSTOOD.fullmatch(scope["path"])
        return (Match.FULL if is_understood else Match.NONE), {}

    async def handle(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        """Raise ProblemError (not_found) with the path to use instead."""
        path = printable(f"{PREFIX}plain{scope['path']}")
        raise ProblemError(
            "not_found",
            f"there is nothing at this path: use /api/tasks, or {path}, whose base path "
            f"{PREFIX}plain understands other spellings of paths and members",
        )

    def url_path_for(self, name: str, /, **path_params: object) -> URLPath:
        """Raise NoMatchFound: this route has no name."""
        raise NoMatchFound(name, path_params)
