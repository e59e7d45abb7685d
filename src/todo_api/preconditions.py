"""Entity tags (RFC 9110, sections 8.8.3 and 13): a task's is its version in quotes."""

import re
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Annotated, Final

from fastapi import Header

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


def meant_versions(if_match: str | None) -> frozenset[int] | None:
    """The versions that a change is meant for; None if any will do.

    A tag that a proxy has made weak (``W/``) by compressing the answer still names its version.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    return frozenset(int(tag) for tag in _TAG.findall(if_match) if _VERSION.fullmatch(tag))


def is_known(etag: str, if_none_match: str | None) -> bool:
    """Whether the client has the representation with this tag already."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag.strip('"') in _TAG.findall(if_none_match)
