"""Request header parameters (Prefer, preconditions, Idempotency-Key), and entity tags.

The entity tag of a task is its version in quotes (RFC 9110, sections 8.8.3 and 13). That of a list
begins with the user's last change number, so that a 304 needs no tasks.
"""

import re
from hashlib import blake2b
from typing import Annotated, Final

from fastapi import Header

from todo_api.problems import ProblemError
from todo_domain.sync import ChangeState

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description="An `ETag`: change the task only if its `ETag` is still this one.",
    ),
]
IfNoneMatch = Annotated[
    str | None,
    Header(
        alias="If-None-Match",
        description="An `ETag`: return 304 if the `ETag` is still this one.",
    ),
]
Prefer = Annotated[
    str | None,
    Header(
        alias="Prefer",
        description="`count=exact`: send `X-Total-Count`. `return=minimal`: no body in the "
        "response (204 instead of 200). `handling=strict`: 422 for unknown members and "
        "parameters. `max-affected=50`: 409 if more tasks match. Separate several preferences by "
        "commas.",
    ),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1 to 255 visible ASCII characters, for example a UUID. Use a new key for "
        "each task. The service remembers a key for 24 hours.",
    ),
]

_TAG: Final = re.compile(r'(?:W/)?"([^"]*)"')
_CHANGE: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_DIGEST_SIZE: Final = 8  # bytes
_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_MAX_AFFECTED: Final = re.compile(r'\bmax-affected\b\s*=?\s*"?([^",;]*)', re.IGNORECASE)
_COUNT: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")


def version_etag(version: int) -> str:
    """The entity tag of a task at this version."""
    return f'"{version}"'


def list_etag(query: str, state: ChangeState) -> str:
    """The entity tag of the list that the query selects in this state of the user's tasks.

    ``query`` identifies everything in the request that the response depends on.
    """
    epoch = blake2b(repr(state.epoch).encode(), digest_size=_DIGEST_SIZE).hexdigest()
    return f'"{state.last}-{_query_digest(query)}-{epoch}"'


def known_change(query: str, if_none_match: str | None) -> int | None:
    """The change number in If-None-Match, if the field has an entity tag of this list."""
    for tag in _TAG.findall(if_none_match or ""):
        number, _, rest = tag.partition("-")
        if _CHANGE.fullmatch(number) and rest.startswith(f"{_query_digest(query)}-"):
            return int(number)
    return None


def _query_digest(query: str) -> str:
    return blake2b(query.encode(errors="surrogateescape"), digest_size=_DIGEST_SIZE).hexdigest()


def parse_if_match(if_match: str | None) -> frozenset[int] | None:
    """The versions that If-Match allows; None if it allows any version.

    Weak tags count as well: proxies that compress a response add ``W/`` to its tag.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    return frozenset(int(tag) for tag in _TAG.findall(if_match) if _VERSION.fullmatch(tag))


def matches_if_none_match(etag: str, if_none_match: str | None) -> bool:
    """Whether If-None-Match names this entity tag, so that the client needs no body."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag.strip('"') in _TAG.findall(if_none_match)


def prefers(prefer: str | None, preference: str) -> bool:
    """Whether the Prefer field has this preference, for example ``return=minimal``."""
    if prefer is None:
        return False
    preferences = prefer.lower().replace(" ", "").replace('"', "").split(",")
    return preference in {part.partition(";")[0] for part in preferences}


def max_affected(prefer: str | None) -> int | None:
    """The most tasks that ``max-affected`` in Prefer allows to be changed; None for any number.

    Raises ProblemError for a value that is not a number: a guard must not be ignored.
    """
    match = _MAX_AFFECTED.search(prefer or "")
    if match is None:
        return None
    if not _COUNT.fullmatch(match[1]):
        raise ProblemError("bad_request", "Prefer: max-affected must be a number, like 50")
    return int(match[1])


def parse_idempotency_key(key: str | None) -> str | None:
    """The key without the quotes that the IETF draft puts around it. Raises ProblemError."""
    if key is None:
        return None
    bare = key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key
    if not _KEY.fullmatch(bare):
        raise ProblemError(
            "bad_request", "Idempotency-Key: must be 1 to 255 visible ASCII characters"
        )
    return bare
