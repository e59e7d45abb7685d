"""Spellings of paths in frontends, and the canonical path of each."""

import re
from typing import Final, NamedTuple
from urllib.parse import unquote

from todo_api.middleware.path_aliases import decode_path

# /api/todos, /api/v1/tasks, /api/{user_id}/tasks, /tasks, and the same with more behind it.
_TASKS: Final = re.compile(
    rb"(?:/api){0,2}(?:/v1)?(?:/(?!(?:tasks|todos)/)(?P<user>[^/]+))?/(?:tasks|todos)(?P<rest>/.*)?",
    re.DOTALL,
)
# The base path itself is the list, and a task is directly below it.
_ROOT: Final = re.compile(rb"(/[0-9A-Fa-f-]{36})?")
_HEALTH: Final = re.compile(rb"/api(?:/v1)?/health")

_TOGGLE: Final = re.compile(r"(/api/tasks/[^/]+)/(?:complete|toggle|toggle-status)")
_TASK: Final = re.compile(r"/api/tasks/[0-9A-Fa-f-]{36}(?:/(?:complete|restore))?")

LIST: Final = "/api/tasks"


class CanonicalPath(NamedTuple):
    """The path and method of the canonical API, and the user id in the client's path."""

    path: str
    method: str
    user_id: str | None

    @property
    def is_of_tasks(self) -> bool:
        """Whether the route returns tasks: the list, or a single task."""
        return self.path == LIST or _TASK.fullmatch(self.path) is not None


def canonical_path(raw: bytes, method: str) -> CanonicalPath:
    """The canonical form of a raw path below the base path."""
    # The path is split before it is decoded, because a user id may contain an encoded slash.
    path = raw.removesuffix(b"/")
    if _ROOT.fullmatch(path):
        path = b"/tasks" + path
    if _HEALTH.fullmatch(path):
        # Not /health/ready: a frontend that polls it would keep a serverless database awake.
        return CanonicalPath("/health/live", method, None)
    match = _TASKS.fullmatch(path)
    if match is None:
        return CanonicalPath(decode_path(path), method, None)
    decoded = LIST + decode_path(match["rest"] or b"")
    user_id = None if match["user"] is None else unquote(match["user"])
    toggle = _TOGGLE.fullmatch(decoded)
    if toggle and method in {"POST", "PUT", "PATCH"}:
        return CanonicalPath(f"{toggle[1]}/complete", "PATCH", user_id)
    return CanonicalPath(decoded, method, user_id)
