"""Request header parameters (Prefer, preconditions, Idempotency-Key), and entity tags.

The entity tag of a task is its version in quotes (RFC 9110, sections 8.8.3 and 13). That of a list
begins with the user's last change number, so that a 304 needs no tasks.

Proxies that compress a response rename its entity tag: nginx sends ``W/"1"``, Apache ``"1-gzip"``,
Jetty ``"1--gzip"``, LiteSpeed ``"1;gz"``, Traffic Server ``"1-df"``; most of them do not restore it
in requests. All these tags name version 1, in If-Match too: its strong comparison (section 13.1.1)
would refuse every edit behind such a proxy, and a version is exact however a response is encoded.
"""

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Final

from fastapi import Header

from todo_api.problems import ProblemError
from todo_domain.sync import ChangeState

_ENTITY_TAGS: Final = r'^(\*|(W/)?"[!#-~]*"(, (W/)?"[!#-~]*")*)$'

JSON: Final = "application/json"

# For an endpoint with several media types. OpenAPI ignores a parameter of this name.
Accept = Annotated[str | None, Header(alias="Accept", include_in_schema=False)]
IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description="An `ETag`: change the task only if its `ETag` is still this one.",
        json_schema_extra={"pattern": _ENTITY_TAGS},
    ),
]
IfNoneMatch = Annotated[
    str | None,
    Header(
        alias="If-None-Match",
        description="An `ETag`: return 304 if the `ETag` is still this one.",
    ),
]
UnlessMatch = Annotated[
    str | None,
    Header(
        alias="If-None-Match",
        description="An `ETag`: change the task only if its `ETag` is another one. `*`: only if "
        "the task does not exist.",
        json_schema_extra={"pattern": _ENTITY_TAGS},
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
        json_schema_extra={"pattern": "^[!-~]+$", "minLength": 1, "maxLength": 255},
    ),
]

_QUALITY: Final = re.compile(r"q\s*=\s*([01](?:\.[0-9]{0,3})?)", re.ASCII)
# "text/json", "*/json" of some clients, and every media type that is JSON.
_JSON_TYPE: Final = re.compile(r"[^/]+/(?:[^/]*\+|x-)?json")

# At most two separators: with "+" the time would grow with the square of the field's length.
_CODINGS: Final = r"(?:[-;:.]{1,2}(?:x-)?(?:gzip|gz|brotli|br|zstd|zst|deflate|df|compress))*"
_TAG: Final = re.compile(rf'(?:W/)?"([^"]*?){_CODINGS}"{_CODINGS}', re.IGNORECASE)
_CHANGE: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_DIGEST_SIZE: Final = 8  # bytes
_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_MAX_AFFECTED: Final = re.compile(r'\bmax-affected\b\s*=?\s*"?([^",;]*)', re.IGNORECASE)
_COUNT: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")


@lru_cache(maxsize=256)
def choose_media_type(accept: str | None, offered: tuple[str, ...] = (JSON,)) -> str | None:
    """The offered media type that the Accept field prefers (RFC 9110, section 12.5.1), or None.

    Of equally preferred types it is the first one. A field without a media range, such as
    ``undefined``, counts as absent.
    """
    ranges = list(_media_ranges(accept or ""))
    if not ranges:
        return offered[0]
    best = max(offered, key=lambda media_type: _quality(media_type, ranges))
    return best if _quality(best, ranges) > 0 else None


def _media_ranges(accept: str) -> Iterator[tuple[str, float]]:
    """Each media range with its quality."""
    for field in accept.lower().split(","):
        name, *parameters = (part.strip() for part in field.split(";"))
        if "/" in name or name == "*":
            qualities = [match[1] for part in parameters if (match := _QUALITY.fullmatch(part))]
            yield name, float(qualities[0]) if qualities else 1.0


def _quality(media_type: str, ranges: list[tuple[str, float]]) -> float:
    """The quality of the range that matches most precisely; the highest of several, 0 of none."""
    major = media_type.partition("/")[0]
    precisions = {"*": 0, "*/*": 0, f"{major}/*": 1, media_type: 2}
    found = [
        (precisions.get(name, 2), quality)
        for name, quality in ranges
        if name in precisions or (media_type == JSON and _JSON_TYPE.fullmatch(name))
    ]
    return max(found, default=(0, 0.0))[1]


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


@dataclass(frozen=True, slots=True)
class AllExcept(Container[int]):
    """Every version except these."""

    excluded: frozenset[int]

    def __contains__(self, version: object) -> bool:
        return version not in self.excluded


def allowed_versions(if_match: str | None, if_none_match: str | None) -> Container[int] | None:
    """The versions of an existing task that a write may change; None for any version.

    Raises ProblemError for a field that is not a list of entity tags.
    """
    allowed = None if if_match is None else _versions("If-Match", if_match)
    if if_none_match is None:
        return allowed
    excluded = _versions("If-None-Match", if_none_match)
    if excluded is None:
        return frozenset()
    return AllExcept(excluded) if allowed is None else allowed - excluded


def _versions(name: str, field: str) -> frozenset[int] | None:
    """The versions that the field names; None for ``*``, which names any version."""
    if field.strip() == "*":
        return None
    if not field.strip() or _TAG.sub("", field).strip(" \t,"):
        raise ProblemError("bad_request", f"{name}: {_mistake(field.strip())}")
    return frozenset(int(tag) for tag in _TAG.findall(field) if _VERSION.fullmatch(tag))


def _mistake(field: str) -> str:
    if not field:
        return "is empty: send the ETag, or leave the header out"
    if _VERSION.fullmatch(field):
        return f'the quotes are missing: send "{field}" instead of {field}'
    if '"' not in field:
        return 'the quotes are missing: send the ETag unchanged, such as "2"'
    return 'must be * or a list of ETags, such as "2" or "1", "2"'


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
    if not key:
        return None
    bare = key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key
    if not _KEY.fullmatch(bare):
        raise ProblemError(
            "bad_request", "Idempotency-Key: must be 1 to 255 visible ASCII characters"
        )
    return bare
