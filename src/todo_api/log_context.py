"""Fields that every log event of a request has."""

from contextvars import ContextVar
from typing import Final

from structlog.typing import EventDict

# One variable for all fields: structlog.contextvars has one per field and costs 2.7 µs more per
# event (docs/decisions/0011-logs.md).
_context: Final[ContextVar[dict[str, object]]] = ContextVar("log_context")


def set_context(**fields: object) -> None:
    """Start a context: events of this task and of tasks that it starts get these fields."""
    _context.set(fields)


def extend_context(**fields: object) -> None:
    """Add fields to the context of this task and of all tasks that share the context."""
    _context.get({}).update(fields)


def merge_context(_logger: object, _level: str, event: EventDict) -> EventDict:
    """A structlog processor that adds the context to an event. Fields of the event win."""
    for name, value in _context.get({}).items():
        event.setdefault(name, value)
    return event
