"""Fields that every log event of a request carries."""

from contextvars import ContextVar
from typing import Final

from structlog.typing import EventDict

_context: Final[ContextVar[dict[str, object]]] = ContextVar("log_context")


def set_context(**fields: object) -> None:
    """Have every event from here on, in this task and in those that it starts, say this.

    One variable for all: structlog's own, one for each field, take longer to read than an event
    to write.
    """
    _context.set(fields)


def extend_context(**fields: object) -> None:
    """Have every event of the present context say this as well.

    That is, also those of outer functions, and of tasks that were started before.
    """
    _context.get({}).update(fields)


def merge_context(_logger: object, _level: str, event: EventDict) -> EventDict:
    """A processor of structlog's: the event, and what its context says."""
    for name, value in _context.get({}).items():
        event.setdefault(name, value)
    return event
