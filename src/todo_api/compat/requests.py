"""Spellings of members and parameters in frontends, and their canonical form."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from todo_api.compat.dialects import Dialect
from todo_api.compat.orders import ORDER_MAX, ORDER_MIN, encode_order
from todo_api.compat.recurrence import ABSENT, RECURRENCE_SPELLINGS, canonical_repeat
from todo_api.http.field_names import COMPLETION_FLAGS, COMPLETION_STATUSES
from todo_api.problems import FieldError, ProblemError
from todo_api.schemas import Task
from todo_domain.errors import InvalidValue
from todo_domain.queries import PAGE_MAX

# --- Members of a body ---

_WORDS: Final = {
    **dict.fromkeys(("pending", "incomplete", "active", "open", "todo"), False),
    **dict.fromkeys(("in_progress", "in-progress", "inprogress", "uncompleted"), False),
    **dict.fromkeys(("completed", "complete", "done", "finished"), True),
}
_PRIORITIES: Final = {
    **{word: word for word in ("low", "medium", "high")},
    **dict.fromkeys(("minor", "lowest"), "low"),
    **dict.fromkeys(("normal", "moderate"), "medium"),
    **dict.fromkeys(("urgent", "critical", "highest"), "high"),
    **dict.fromkeys(("", "none"), None),
}
COMPLETION_WORDS: Final = {False: "pending", True: "completed"}
_DATE_LENGTH: Final = len("2026-01-31")


@lru_cache(maxsize=64)  # without it, a list of 20 tasks in camelCase takes 250 µs more
def camel(name: str) -> str:
    """The name in camelCase."""
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


# Each spelling with the canonical member.
_MEMBERS: Final = {
    **{camel(name): name for name in Task.__annotations__},
    **dict.fromkeys((*COMPLETION_FLAGS, *COMPLETION_STATUSES), "completed"),
}


class CanonicalMembers(NamedTuple):
    """The members of a canonical body, and the client's spelling of each."""

    members: dict[str, object]
    spellings: dict[str, str]


def canonical_members(sent: Mapping[str, Any], dialect: Dialect) -> CanonicalMembers:
    """The canonical members of a body. Raises ProblemError (validation_failed).

    It does so for a word that is no status, an order that is no whole number, and spellings of one
    member with different values.
    """
    found: dict[str, dict[str, object]] = {}
    errors = []
    recurrence = {name: value for name, value in sent.items() if name in RECURRENCE_SPELLINGS}
    try:
        repeat = canonical_repeat(recurrence)
    except InvalidValue as invalid:
        (spelling,) = invalid.path
        errors.append(_error(spelling, invalid.code, invalid.message))
    else:
        if repeat is not ABSENT:
            found["repeat"] = {next(iter(recurrence)): repeat}
    for spelling, raw in sent.items():
        if spelling in recurrence:
            continue
        name, read = _reader(spelling, dialect)
        try:
            value = read(raw)
        except InvalidValue as invalid:
            errors.append(_error(spelling, invalid.code, invalid.message))
            continue
        if value is not ABSENT:
            found.setdefault(name, {})[spelling] = value
    errors += [error for values in found.values() for error in _contradictions(values)]
    if errors:
        raise ProblemError("validation_failed", errors=errors)
    if _needs_time_zone(found):
        found["time_zone"] = {"time_zone": "UTC"}
    first = {name: next(iter(values.items())) for name, values in found.items()}
    return CanonicalMembers(
        {name: value for name, (_, value) in first.items()},
        {name: spelling for name, (spelling, _) in first.items()},
    )


def _needs_time_zone(found: Mapping[str, Mapping[str, object]]) -> bool:
    """Whether a frontend without time zones repeats a task whose due date has a time."""
    due, rule = (next(iter(found.get(name, {}).values()), None) for name in ("due_date", "repeat"))
    has_time = isinstance(due, str) and len(due) > _DATE_LENGTH
    return rule is not None and has_time and "time_zone" not in found


def _reader(spelling: str, dialect: Dialect) -> tuple[str, Any]:
    """The canonical member of a spelling, and the function that reads its value."""
    if spelling == "order" and "order" in dialect:
        return "position", _read_order
    if spelling in COMPLETION_STATUSES:
        return "completed", _read_status
    if spelling == "priority":
        return spelling, _read_priority
    return _MEMBERS.get(spelling, spelling), _unchanged


def _unchanged(value: object) -> object:
    return value


def _read_status(value: object) -> object:
    if value is None:
        return ABSENT
    if not isinstance(value, str):
        return value
    completed = _WORDS.get(value.lower())
    if completed is None:
        raise InvalidValue("unknown_value", f"must be one of {', '.join(_WORDS)}")
    return completed


def _read_priority(value: object) -> object:
    """The priority; absent if the frontend has priorities of its own, so that its form works."""
    if value is None:
        return None
    return _PRIORITIES.get(value.lower(), ABSENT) if isinstance(value, str) else ABSENT


def _read_order(value: object) -> object:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidValue("wrong_type", "must be a whole number")
    if not ORDER_MIN <= value <= ORDER_MAX:
        raise InvalidValue("out_of_range", f"must be from {ORDER_MIN} to {ORDER_MAX}")
    return encode_order(value)


def _contradictions(values: Mapping[str, object]) -> Iterator[FieldError]:
    """An error for each spelling, if the spellings of one member have different values."""
    for spelling, value in values.items():
        others = (name for name in values if name != spelling and values[name] != value)
        other = next(others, None)
        if other is not None:
            message = f"differs from {other}, which is the same member: send one of them"
            yield _error(spelling, "contradictory", message)


def _error(spelling: str, code: str, message: str) -> FieldError:
    return FieldError(field=spelling, pointer=f"/{spelling}", code=code, message=message)


# --- Parameters of a list ---

# The API has aliases of its own for parameters (schemas.FilterQuery); these are the others.
_PARAMETERS: Final = {
    **dict.fromkeys(("completion_status", "completionStatus"), "status"),
    **dict.fromkeys(("per_page", "perPage", "page_size", "pageSize"), "limit"),
}
_STATUS: Final = ("status", "filter")
_NUMBER: Final = re.compile(r"[1-9]\d{0,8}", re.ASCII)

Parameters = list[tuple[str, str]]


class Window(NamedTuple):
    """The part of a list that a page with this size is."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


class CanonicalQuery(NamedTuple):
    """The parameters of a canonical list, the client's spellings, and the page of the response."""

    parameters: Parameters
    spellings: dict[str, str]
    window: Window | None


def canonical_query(sent: Iterable[tuple[str, str]], *, counts: bool) -> CanonicalQuery:
    """The canonical parameters of a list.

    With ``counts``, the response needs all tasks that match, not only those of its page.
    """
    parameters: Parameters = []
    spellings: dict[str, str] = {}
    last: dict[str, str] = {}
    for spelling, text in sent:
        name = _PARAMETERS.get(spelling, spelling)
        if text:
            value = _parameter(name, text)
            spellings[name] = spelling
            last[name] = value
            parameters.append((name, value))
    return _paged(parameters, spellings, last, counts=counts)


def _parameter(name: str, text: str) -> str:
    """The canonical value of a word, and any other text as it is."""
    word = text.lower()
    if name in _STATUS and word in _WORDS:
        return COMPLETION_WORDS[_WORDS[word]]
    return (name == "priority" and _PRIORITIES.get(word)) or text


def _paged(
    parameters: Parameters, spellings: dict[str, str], last: Mapping[str, str], *, counts: bool
) -> CanonicalQuery:
    """The query with ``page`` and ``limit`` as one ``limit``, because the API has only cursors.

    An invalid page becomes an invalid ``limit``, so that it is refused after authentication.
    """
    page, limit = last.get("page"), last.get("limit")
    if "cursor" in last or (page is None and (limit is None or not counts)):
        return CanonicalQuery(parameters, spellings, None)
    others = [(name, value) for name, value in parameters if name not in {"page", "limit"}]
    if limit is not None and not _NUMBER.fullmatch(limit):
        return CanonicalQuery([*others, ("limit", limit)], spellings, None)
    if page is not None and not _NUMBER.fullmatch(page):
        return CanonicalQuery([*others, ("limit", page)], {**spellings, "limit": "page"}, None)
    size = int(limit or PAGE_MAX)
    window = Window((int(page or 1) - 1) * size, int(page or 1) * size)
    if counts and window.stop <= PAGE_MAX:
        return CanonicalQuery(others, spellings, window)
    if page is not None:
        spellings = {**spellings, "limit": "page * limit"}
    return CanonicalQuery([*others, ("limit", str(window.stop))], spellings, window)
