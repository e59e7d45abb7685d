"""Opaque cursors of lists and tokens of the feed, bound to the user and the list.

The checksum is not a secret. A forged cursor only leads to another position in the user's own list;
the checksum makes a damaged cursor, or one of another list or user, a 400 instead of a wrong page.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import asdict
from datetime import date, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

import orjson

from todo_api.problems import ProblemError
from todo_domain.queries import SeekPosition, Sort, SortBy, SortValue, TaskFilter, TaskQuery
from todo_domain.sync import Epoch, FeedPosition, SyncToken
from todo_domain.task import Description, Priority, clean_position, in_utc

_CHECKSUM_SIZE: Final = 8  # bytes


def encode_cursor(owner: str, query: TaskQuery, position: SeekPosition) -> str:
    """The cursor for this position in the owner's list."""
    return _encode(_list_key(owner, query.sort, query.filter), [position.value, position.id.hex])


def decode_cursor(owner: str, query: TaskQuery, cursor: str) -> SeekPosition:
    """The position in the list that ``query`` describes. Raises ProblemError (bad_cursor)."""
    try:
        value, task_id = _decode(cursor)
        position = SeekPosition(_sort_value(query.sort, value), UUID(task_id))
    except (ValueError, TypeError, AttributeError):
        raise ProblemError("bad_cursor") from None
    # Compared as text: base64 and JSON have several spellings of the same position.
    if encode_cursor(owner, query, position) != cursor:
        raise ProblemError("bad_cursor")
    return position


def encode_sync_token(owner: str, token: SyncToken) -> str:
    """The text of a token of the owner's feed."""
    epoch, position = token.epoch, token.position
    return _encode(
        repr((owner, "changes")).encode(),
        [
            epoch.history,
            epoch.began_at,
            position.change,
            position.id.hex,
            token.floor,
            token.issued_on,
        ],
    )


def decode_sync_token(owner: str, text: str) -> SyncToken:
    """The token of the owner's feed. Raises ProblemError (bad_cursor)."""
    try:
        history, began_at, change, task_id, floor, issued_on = _decode(text)
        token = SyncToken(
            Epoch(str(history), began_at and in_utc(datetime.fromisoformat(began_at))),
            FeedPosition(int(change), UUID(task_id)),
            int(floor),
            date.fromisoformat(issued_on),
        )
        is_intact = encode_sync_token(owner, token) == text
    except (ValueError, TypeError, AttributeError, OverflowError):
        is_intact = False
    if not is_intact:
        detail = "since: take it unchanged from `next` of the previous response"
        raise ProblemError("bad_cursor", detail)
    return token


def _encode(key: bytes, values: list[object]) -> str:
    """The values with a checksum over them and the key, in base64."""
    encoded = orjson.dumps(values)
    checksum = blake2b(key + encoded, digest_size=_CHECKSUM_SIZE).digest()
    return urlsafe_b64encode(checksum + encoded).decode().rstrip("=")


def _decode(text: str) -> Any:  # noqa: ANN401 - anything that JSON can be
    """The values, not checked in any way. Raises ValueError."""
    data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    return orjson.loads(data[_CHECKSUM_SIZE:])


def _sort_value(sort: Sort, value: object) -> SortValue:
    """The value, if a task can have it. Raises ValueError."""
    match sort.by, value:
        case SortBy.TITLE, str():
            # Only refuses what PostgreSQL cannot compare: a stored title may be older than a rule.
            return Description(value)
        case SortBy.PRIORITY, int() | None:
            return value if value is None else Priority.of_rank(value).rank
        case SortBy.POSITION, str():
            return clean_position(value)
        case SortBy.DUE_DATE | SortBy.POSITION, None:
            return None
        case SortBy.CREATED_AT | SortBy.UPDATED_AT | SortBy.DUE_DATE, str():
            return in_utc(datetime.fromisoformat(value))
        case _:
            raise ValueError(value)


@lru_cache(maxsize=1024)
def _list_key(owner: str, sort: Sort, task_filter: TaskFilter) -> bytes:
    """Bytes that identify a list. Cached, because ``asdict`` takes most of the time of a cursor."""
    # Only filters that are set, so that a version with more filters computes the same key.
    filters = {
        name: value for name, value in asdict(task_filter).items() if value not in {None, ()}
    }
    return repr((owner, sort, filters)).encode()
