"""Opaque cursors: the position where a page of a list ends, bound to the user and the list.

The checksum is not a secret. A forged cursor only leads to another position in the user's own list;
the checksum makes a damaged cursor, or one of another list or user, a 400 instead of a wrong page.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Final
from uuid import UUID

import orjson

from todo_api.problems import ProblemError
from todo_domain.queries import SeekPosition, Sort, SortBy, SortValue, TaskFilter, TaskQuery
from todo_domain.task import Priority, Title, in_utc

_CHECKSUM_SIZE: Final = 8  # bytes


def encode_cursor(owner: str, query: TaskQuery, position: SeekPosition) -> str:
    """The cursor for this position in the owner's list."""
    encoded = orjson.dumps([position.value, position.id.hex])
    return urlsafe_b64encode(_checksum(owner, query, encoded) + encoded).decode().rstrip("=")


def decode_cursor(owner: str, query: TaskQuery, cursor: str) -> SeekPosition:
    """The position in the list that ``query`` describes. Raises ProblemError (bad_cursor)."""
    try:
        data = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        value, task_id = orjson.loads(data[_CHECKSUM_SIZE:])
        position = SeekPosition(_sort_value(query.sort, value), UUID(task_id))
    except (ValueError, TypeError, AttributeError):
        raise ProblemError("bad_cursor") from None
    # Compared as text: base64 and JSON have several spellings of the same position.
    if encode_cursor(owner, query, position) != cursor:
        raise ProblemError("bad_cursor")
    return position


def _sort_value(sort: Sort, value: object) -> SortValue:
    """The value, if a task can have it. Raises ValueError."""
    match sort.by, value:
        case SortBy.TITLE, str():
            return Title(value)
        case SortBy.PRIORITY, int() | None:
            return value if value is None else Priority.of_rank(value).rank
        case SortBy.DUE_DATE, None:
            return None
        case SortBy.CREATED_AT | SortBy.UPDATED_AT | SortBy.DUE_DATE, str():
            return in_utc(datetime.fromisoformat(value))
        case _:
            raise ValueError(value)


def _checksum(owner: str, query: TaskQuery, position: bytes) -> bytes:
    data = _list_key(owner, query.sort, query.filter) + position
    return blake2b(data, digest_size=_CHECKSUM_SIZE).digest()


@lru_cache(maxsize=1024)
def _list_key(owner: str, sort: Sort, task_filter: TaskFilter) -> bytes:
    """Bytes that identify a list. Cached, because ``asdict`` takes most of the time of a cursor."""
    # Only filters that are set, so that a version with more filters computes the same key.
    filters = {
        name: value for name, value in asdict(task_filter).items() if value not in {None, ()}
    }
    return repr((owner, sort, filters)).encode()
