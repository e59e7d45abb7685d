"""Entity tags (RFC 9110, sections 8.8.3 and 13): a task's is its version in quotes."""

import re
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Annotated, Final

from fastapi import Header

from todo_api.problems import ProblemError
from todo_domain.task import Task

IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="An `ETag`: change the task only if it is still that."),
]
IfNoneMatch = Annotated[
    str | None,
    Header(alias="If-None-Match", description="An `ETag`: answer 304 if it is still that."),
]

_TAG: Final = re.compile(r'(?:W/)?"([^"]*)"')
_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


def version_etag(version: int) -> str:
    return f'"{version}"'


def list_etag(tasks: Iterable[Task], headers: Mapping[str, str]) -> str:
    """The tag of a list: it changes whenever one of its tasks, their order or the headers do."""
    listed = blake2b(b"".join([task.id.bytes for task in tasks]), digest_size=12)
    listed.update(repr(([task.version for task in tasks], headers)).encode())
    return f'"{listed.hexdigest()}"'


def parse_if_match(if_match: str | None) -> frozenset[int] | None:
    """The versions that a change is meant for; None if any will do.

    A tag that a proxy has made weak (``W/``) by compressing the answer still names its version.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    return frozenset(int(tag) for tag in _TAG.findall(if_match) if _VERSION.fullmatch(tag))


def matches_if_none_match(etag: str, if_none_match: str | None) -> bool:
    """Whether the client has the representation with this tag already."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag.strip('"') in _TAG.findall(if_none_match)


Prefer = Annotated[
    str | None,
    Header(
        alias="Prefer",
        description="`count=exact` for `X-Total-Count`, `return=minimal` for an answer without a "
        "body (204 instead of 200), `handling=strict` for a 422 on unknown members and "
        "parameters; several are separated by commas.",
    ),
]


def prefers(prefer: str | None, preference: str) -> bool:
    """Whether the preference, such as ``return=minimal``, is among the preferred ones."""
    if prefer is None:
        return False
    wanted = prefer.lower().replace(" ", "").replace('"', "").split(",")
    return preference in {part.partition(";")[0] for part in wanted}


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1 to 255 visible ASCII characters that are new for each task, such as a UUID; "
        "remembered for 24 hours.",
    ),
]

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")


def checked_key(key: str | None) -> str | None:
    """The key, bare or in the quotes that the draft asks for. Raises ProblemError."""
    if key is None:
        return None
    bare = key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key
    if not _KEY.fullmatch(bare):
        raise ProblemError(
            "bad_request", "Idempotency-Key: must be 1 to 255 visible ASCII characters"
        )
    return bare
