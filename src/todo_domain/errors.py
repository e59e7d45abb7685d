"""Everything the application can refuse or fail at, as facts.

What each becomes on the wire is the affair of the API.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class TodoError(Exception):
    """The root of the family: anything else that escapes is a bug."""


class InvalidValue(ValueError):
    """One value that a task cannot have: a code for programs, a sentence for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule and the field that broke it."""

    field: str
    code: str
    message: str


class InvalidTask(TodoError):
    """A task was about to break its own rules; ``violations`` names every one."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.message}" for v in violations))
        self.violations = tuple(violations)


class TaskNotFound(TodoError):
    """The task is missing, deleted or somebody else's: the three are not told apart."""


class StaleVersion(TodoError):
    """The task has changed, or gone, since it was read; nothing was written."""


class TaskNotDeleted(TodoError):
    """A task that was to be restored has not been deleted."""


class IdempotencyKeyReused(TodoError):
    """An idempotency key came back with another task than it was first used for."""


class UserMismatch(TodoError):
    """Somebody asked for another user's tasks by that user's id."""


class EditConflict(TodoError):
    """Others kept changing the task while this edit was tried; nothing was written."""


class TokenErrorCode(StrEnum):
    """What is wrong with a token, as far as its bearer is told."""

    MISSING = "token_missing"
    MALFORMED = "token_malformed"
    NOT_JWT = "token_not_jwt"
    EXPIRED = "token_expired"
    INVALID = "token_invalid"


class TokenRejected(TodoError):
    """A token proves nothing. ``reason`` is a short code for the log, never a part of the token."""

    def __init__(self, code: TokenErrorCode, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class AuthKeysUnavailable(TodoError):
    """No key to verify tokens with can be had, so no token can be judged either way."""


class DatabaseUnavailable(TodoError):
    """The database cannot be reached or does not answer in time."""


class Overloaded(TodoError):
    """More work is waiting than can be done in time; this piece was refused before it began."""
