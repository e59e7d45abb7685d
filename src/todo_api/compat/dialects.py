"""The options of a dialect, and how they are written in a base path: ``/compat/tasks+camel``."""

import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote

from todo_api.problems import ProblemError, printable

PREFIX: Final = "/compat/"

# What each option does; docs/frontends.md has the same table.
OPTIONS: Final = {
    "plain": "nothing: the same as no option",
    "tasks": "a list is `{tasks, items, todos, total, count, total_count, completed_count, "
    "pending_count, page, limit, totalPages}`; a single task has itself also as `task`",
    "data": "a list is `{data: […]}`; a single task has itself also as `data`",
    "success": "a response with tasks is `{success: true, data: …}`; a problem has "
    "`success: false`",
    "camel": "members are in camelCase: `dueDate`, `createdAt`, `isCompleted`",
    "snake": "with `camel`: members are in both spellings",
    "status": "a task has `status`: `pending` or `completed`",
    "uppercase-status": "a task has `status`: `PENDING` or `COMPLETED`",
    "only-completed": "a task has no second spelling of `completed`",
    "only-is_completed": "a task has `is_completed` instead of `completed`",
    "only-status": "a task has `status` instead of `completed`",
    "errors": "a problem has `error: {code, message}`",
    "recurring": "a task has `is_recurring`, `recurrence_pattern` and `recurrence_interval` "
    "instead of `repeat`",
    "order": "a task has `order`, a whole number, instead of `position`",
    "todobackend": "the API of todobackend.com: `order` and `url`; `DELETE` of the list clears it",
}
_IMPLIED: Final = {"todobackend": {"order"}, "only-status": {"status"}}

Dialect = frozenset[str]

# The first segment of a path without options.
_NO_OPTIONS: Final = frozenset({b"api", b"health"})
_SLASHES: Final = re.compile(rb"/{2,}")


class BasePath(NamedTuple):
    """The base path of a request, the options that it names, and the raw path below it."""

    text: str
    dialect: Dialect
    rest: bytes


def split_base_path(raw: bytes) -> BasePath:
    """The parts of a raw path that begins with PREFIX.

    Raises ProblemError (not_found) for an unknown option.
    """
    below = _SLASHES.sub(b"/", raw).split(b"/", 2)[2]
    segment, slash, rest = below.partition(b"/")
    if not segment or segment in _NO_OPTIONS:
        return BasePath(PREFIX.rstrip("/"), frozenset(), b"/" + below)
    options = unquote(segment, errors="replace")
    return BasePath(PREFIX + options, _dialect(options), slash + rest)


@lru_cache(maxsize=256)
def _dialect(options: str) -> Dialect:
    named = options.split("+")
    unknown = next((name for name in named if name not in OPTIONS), None)
    if unknown is not None:
        raise ProblemError(
            "not_found",
            f"{PREFIX}{printable(options)}: there is no option {printable(unknown)!r}. "
            f"Options: {', '.join(OPTIONS)}. Combine them with +, as in {PREFIX}tasks+camel/api",
        )
    return frozenset(named).union(*(_IMPLIED.get(name, ()) for name in named))
