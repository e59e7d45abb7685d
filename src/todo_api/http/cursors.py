"""Opaque cursors: the place where a page of one user's list ends, bound to that user and that list.

The checksum is no secret's: whoever forges one reaches another place in their own list, no more.
It makes a damaged cursor, or one from another list or user, a clear 400 instead of a wrong page.
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

_CHECKSUM: Final = 8  # bytes


def encode_cursor(owner: str, query: TaskQuery, position: SeekPosition) -> str:
    place = orjson.dumps([position.value, position.id.hex])
    return urlsafe_b64encode(_checksum(owner, query, place) + place).decode().rstrip("=")


def decode_cursor(owner: str, query: TaskQuery, cursor: str) -> SeekPosition:
    """The place in the list that ``query`` describes. Raises ProblemError (bad_cursor)."""
    try:
        data = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        place = data[_CHECKSUM:]
        value, task_id = orjson.loads(place)
        position = SeekPosition(_sort_value(query.sort, value), UUID(task_id))
    except (ValueError, TypeError, AttributeError):
        raise ProblemError("bad_cursor") from None
    # Written anew it must be the same text: base64 has several spellings for the same bytes.
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


def _checksum(owner: str, query: TaskQuery, place: bytes) -> bytes:
    return blake2b(_listed(owner, query.sort, query.filter) + place, digest_size=_CHECKSUM).digest()


@lru_cache(maxsize=1024)
def _listed(owner: str, sort: Sort, wanted: TaskFilter) -> bytes:
    """What is listed, in bytes; remembered, because to write it takes longer than all the rest."""
    # Only what is set, so that a version which knows more filters agrees.
    said = {name: value for name, value in asdict(wanted).items() if value not in {None, ()}}
    return repr((owner, sort, said)).encode()
