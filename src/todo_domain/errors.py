"""The errors of the application. The API maps each to a problem document."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class TodoError(Exception):
    """Base class of all expected errors. Any other exception that reaches the API is a bug.

    ``detail`` is for people, if there is more to say than the class does.
    """

    detail: str | None = None


class InvalidValue(ValueError):
    """A value that a task cannot have: ``code`` is for programs, ``message`` for people.

    ``path`` has the names of members that lead to the wrong part of the value.
    """

    def __init__(self, code: str, message: str, *path: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.path = path


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule and the field whose value breaks it, like ``title`` or ``repeat.every``."""

    field: str
    code: str
    message: str


class InvalidTask(TodoError):
    """A new or changed task would break its rules. ``violations`` has every broken rule."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.message}" for v in violations))
        self.violations = tuple(violations)


class TaskNotFound(TodoError):
    """The task is missing, deleted or owned by another user; a client cannot tell which."""


class StaleVersion(TodoError):
    """The task was changed or deleted after it was read. Nothing was written."""


class TaskNotDeleted(TodoError):
    """The task to restore is not deleted."""


class IdempotencyKeyReused(TodoError):
    """An idempotency key was sent again, but with different content."""


class TaskIdTaken(TodoError):
    """Another task of the user, live or restorable, has the id of the new task."""


class SyncExpired(TodoError):
    """The feed cannot continue from this token: the client must start over without one."""


class TooManyAffected(TodoError):
    """More tasks match than the client allows to be changed. ``count`` of them do."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


class ImportRefused(TodoError):
    """Imported tasks have the ids of other tasks. ``numbers`` are their positions in the import."""

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__(numbers)
        self.numbers = tuple(numbers)


class UserMismatch(TodoError):
    """The user id in the path is not the authenticated user's."""

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail


class EditConflict(TodoError):
    """Every attempt of this edit met a concurrent edit. Nothing was written."""


class TokenErrorCode(StrEnum):
    """Codes that tell the client why a token was rejected."""

    MISSING = "token_missing"
    MALFORMED = "token_malformed"
    NOT_JWT = "token_not_jwt"
    EXPIRED = "token_expired"
    INVALID = "token_invalid"


class TokenRejected(TodoError):
    """The token is invalid. ``reason`` is a code for the log and contains no part of the token."""

    def __init__(self, code: TokenErrorCode, reason: str, detail: str | None = None) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.detail = detail


class AuthKeysUnavailable(TodoError):
    """There is no key to verify tokens with, so no token can be accepted or rejected."""


class DatabaseUnavailable(TodoError):
    """The database cannot be reached or does not respond in time."""


class Overloaded(TodoError):
    """Too many requests are waiting. This request was refused before it changed anything."""
