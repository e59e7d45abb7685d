"""Repeating tasks as frontends spell them, and the canonical ``repeat``.

Frontends know a word for the unit, often a flag, and sometimes a number of units. A rule that they
cannot express is shown as ``custom``, so that a task that is sent back keeps its rule.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from todo_domain.errors import InvalidValue

Json = dict[str, Any]

ABSENT: Final = object()  # the client has sent nothing about repetition

_UNITS: Final = {
    **dict.fromkeys(("daily", "day", "days"), "day"),
    **dict.fromkeys(("weekly", "week", "weeks"), "week"),
    **dict.fromkeys(("monthly", "month", "months"), "month"),
    **dict.fromkeys(("yearly", "annually", "year", "years"), "year"),
}
_PATTERNS: Final = {"day": "daily", "week": "weekly", "month": "monthly", "year": "yearly"}
_NEVER: Final = frozenset({"", "none", "never", "no"})
_CUSTOM: Final = "custom"
# A frontend may call a word "interval", so that each of these can have any of the three values.
RECURRENCE_SPELLINGS: Final = frozenset(
    {
        *("recurring", "is_recurring", "isRecurring", "recurrence", "repeat_type", "repeatType"),
        *("recurrence_pattern", "recurrencePattern", "recurring_pattern", "recurringPattern"),
        *("recurrence_interval", "recurrenceInterval", "recurring_interval", "recurringInterval"),
    }
)


def canonical_repeat(sent: Mapping[str, object]) -> object:
    """The ``repeat`` of a body with these spellings; ABSENT if they say nothing.

    Raises InvalidValue, with the spelling in its path, for any other word or value.
    """
    if not sent:
        return ABSENT
    words = {spelling: v.lower() for spelling, v in sent.items() if isinstance(v, str)}
    for spelling, word in words.items():
        if word not in _UNITS and word not in _NEVER and word != _CUSTOM:
            message = f"must be one of {', '.join(_PATTERNS.values())}"
            raise InvalidValue("unknown_value", message, spelling)
    others = [value for value in sent.values() if not isinstance(value, str)]
    is_ended = any(value is False for value in others) or not _NEVER.isdisjoint(words.values())
    if is_ended or all(value is None for value in sent.values()):
        return None
    return _rule(sent, [_UNITS[word] for word in words.values() if word in _UNITS])


def _rule(sent: Mapping[str, object], units: Sequence[str]) -> object:
    counts = {name: v for name, v in sent.items() if isinstance(v, int) and not isinstance(v, bool)}
    if _CUSTOM in sent.values():
        return ABSENT
    if units:
        every = next(iter(counts.values()), 1)
        return {"every": every, "unit": units[0], "on": [], "from": "due", "until": None}
    for spelling in (*counts, *(name for name, value in sent.items() if value is True)):
        raise InvalidValue("required", "needs a recurrence_pattern such as weekly", spelling)
    return ABSENT


def recurrence_members(repeat: Mapping[str, Any] | None) -> Json:
    """The members that show a rule to a frontend."""
    if repeat is None:
        return {"is_recurring": False, "recurrence_pattern": None, "recurrence_interval": None}
    is_simple = not repeat["on"] and repeat["from"] == "due" and repeat["until"] is None
    return {
        "is_recurring": True,
        "recurrence_pattern": _PATTERNS[repeat["unit"]] if is_simple else _CUSTOM,
        "recurrence_interval": repeat["every"],
    }
