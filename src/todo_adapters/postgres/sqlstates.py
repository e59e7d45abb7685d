"""What each SQLSTATE of PostgreSQL means for a statement of this service.

The classes and conditions are those of appendix A of PostgreSQL's manual. A server, an extension or
a proxy may send others.
"""

import re
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Final

import asyncpg

from todo_domain.errors import InvalidTask, Violation


class Outcome(Enum):
    """What to do about an error of the server."""

    INPUT = auto()  # the client sent a text that the database cannot store
    RETRY = auto()  # nothing was changed, and the same statement can succeed now
    PREPARE_AGAIN = auto()  # the prepared statement is outdated; nothing was run
    POOLED = auto()  # the name of a prepared statement belongs to another server connection
    UNAVAILABLE = auto()  # the server cannot run even a correct statement
    BUG = auto()  # this service sent a wrong statement


# By condition (5 characters) or class (2 characters). The condition has precedence.
OUTCOMES: Final[Mapping[str, Outcome]] = {
    "22021": Outcome.INPUT,  # invalid in the encoding of the database
    "22P05": Outcome.INPUT,  # no such character in the encoding of the database
    "40001": Outcome.RETRY,  # a concurrent change, under REPEATABLE READ or SERIALIZABLE
    "40P01": Outcome.RETRY,  # deadlock
    "26000": Outcome.POOLED,  # no such prepared statement
    "42P05": Outcome.POOLED,  # a prepared statement with this name exists
    # An older or incomplete schema, or missing rights: `todo-api migrate` was not run.
    "42501": Outcome.UNAVAILABLE,  # insufficient privilege
    "42703": Outcome.UNAVAILABLE,  # undefined column
    "42704": Outcome.UNAVAILABLE,  # undefined object
    "42883": Outcome.UNAVAILABLE,  # undefined function
    "42P01": Outcome.UNAVAILABLE,  # undefined table
    "42P10": Outcome.UNAVAILABLE,  # no unique index for ON CONFLICT
    # Classes whose other conditions only a wrong statement causes.
    **dict.fromkeys(
        ("03", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "22", "23", "24", "26", "27"),
        Outcome.BUG,
    ),
    **dict.fromkeys(("2B", "2D", "2F", "34", "3B", "42", "44"), Outcome.BUG),
    # Classes whose conditions depend on the server, its settings or its operator.
    "08": Outcome.UNAVAILABLE,  # connection
    "25": Outcome.UNAVAILABLE,  # transaction state: a standby, a read-only database, a time-out
    "28": Outcome.UNAVAILABLE,  # wrong credentials in DATABASE_URL
    "3D": Outcome.UNAVAILABLE,  # no such database
    "3F": Outcome.UNAVAILABLE,  # no such schema: not migrated
    "40": Outcome.UNAVAILABLE,  # transaction rollback
    "53": Outcome.UNAVAILABLE,  # disk full, out of memory, too many connections
    "54": Outcome.UNAVAILABLE,  # a limit of the server
    "55": Outcome.UNAVAILABLE,  # lock time-out, object in use
    "57": Outcome.UNAVAILABLE,  # shutdown, restart, cancelled statement
    "58": Outcome.UNAVAILABLE,  # I/O error
    "72": Outcome.UNAVAILABLE,  # snapshot too old
    "F0": Outcome.UNAVAILABLE,  # configuration file
    "XX": Outcome.UNAVAILABLE,  # internal error, corrupted data; also errors of some proxies
    # Triggers, functions and foreign tables that the operator has added.
    **dict.fromkeys(("09", "38", "39", "HV", "P0"), Outcome.UNAVAILABLE),
}
# The function of PostgreSQL that refuses a row because of row-level security.
_ROW_SECURITY_FUNCTION: Final = "ExecWithCheckOptions"
# Classes after which the state of the connection is unknown.
_UNKNOWN_STATE: Final = ("08", "25", "XX")

# The fields of a request from which the parameters of statements come.
_FIELDS: Final = {
    "title": "title",
    "title_folded": "title",
    "description": "description",
    "description_folded": "description",
    "tags": "tags",
    "wanted_tags": "tag",
    "operations": "operations",
    "text": "q",
}
_BYTES: Final = re.compile(r"0x[0-9a-f]{2}(?: 0x[0-9a-f]{2})*")


def outcome_of(error: asyncpg.PostgresError) -> Outcome:
    """What to do about the error. A class that PostgreSQL does not have is not our mistake."""
    if isinstance(error, asyncpg.InvalidCachedStatementError):  # 0A000, known by its message
        return Outcome.PREPARE_AGAIN
    if getattr(error, "server_source_function", None) == _ROW_SECURITY_FUNCTION:
        return Outcome.BUG  # 42501, because a statement names another owner
    state = error.sqlstate or ""
    return OUTCOMES.get(state) or OUTCOMES.get(state[:2], Outcome.UNAVAILABLE)


def breaks_connection(error: asyncpg.PostgresError) -> bool:
    """Whether the connection cannot be used after the error."""
    severity = getattr(error, "severity_en", None) or "ERROR"
    return severity != "ERROR" or (error.sqlstate or "").startswith(_UNKNOWN_STATE)


def invalid_text(error: asyncpg.PostgresError, values: Mapping[str, object]) -> InvalidTask:
    """The domain's error for ``Outcome.INPUT``. It names the fields that contain the character.

    PostgreSQL names the bytes of the character, in every language of its messages.
    """
    found = _BYTES.search(str(error))
    character = bytes.fromhex(found[0].replace("0x", "")).decode(errors="ignore") if found else ""
    fields = sorted(set(_fields_with(character, values))) if character else []
    shown = f"U+{ord(character[0]):04X}" if character else "a character"
    return InvalidTask(
        [
            Violation(field, "unsupported_character", f"the database cannot store {shown}")
            for field in fields or ["body"]
        ]
    )


def _fields_with(character: str, values: Mapping[str, object]) -> Iterator[str]:
    for name, field in _FIELDS.items():
        value = values.get(name) or ""
        texts = value if isinstance(value, list | tuple) else (value,)
        if any(character in str(text) for text in texts):
            yield field
