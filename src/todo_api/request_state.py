"""The state of the current request, which middleware, routes and log events share."""

import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import quote

import uuid_utils
from starlette.types import Receive, Scope, Send
from structlog.typing import EventDict

_KEY: Final = "todo_api.request_state"
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_PATH: Final = (
    "/%:@!$&'()*+,;=~"  # the characters of a path besides letters (RFC 3986, section 3.3)
)


@dataclass(slots=True)
class RequestState:
    """The state of one request.

    ``user_id`` is the authenticated user, ``path_user_id`` the user that the path names.
    ``method`` and ``path`` are those of the client, ``root_path`` the path prefix under which the
    client sees the service, ``rate_limit_fields`` the header fields with its remaining requests.
    ``stream`` sends a response without an end, after the request has ceased to count as one that is
    under way.
    """

    request_id: str
    client: str | None
    method: str
    path: str
    root_path: str = ""
    user_id: str | None = None
    path_user_id: str | None = None
    rate_limit_fields: Sequence[tuple[bytes, bytes]] = ()
    stream: Callable[[Receive, Send], Awaitable[None]] | None = None


# One variable for all fields: structlog.contextvars has one per field and costs 2.7 µs more per
# event (docs/decisions/0011-logs.md).
_current: Final[ContextVar[RequestState]] = ContextVar("request_state")


def request_state(scope: Scope) -> RequestState:
    """The state of this request. The first call makes it and gives its fields to log events."""
    state: RequestState | None = scope.get(_KEY)
    if state is None:
        client = scope.get("client")
        address = client and unmapped_address(client[0])
        state = scope[_KEY] = RequestState(
            _request_id(scope), address, scope["method"], scope["path"]
        )
        _current.set(state)
    return state


def original_path(scope: Scope) -> str:
    """The path as the client sent it, with the prefix of the proxy, as a URI reference.

    It begins with one slash: a reference that begins with two names a host.
    """
    path = quote_path(scope.get("raw_path") or scope["path"])
    return f"{request_state(scope).root_path}/{path.lstrip('/')}"


def quote_path(path: str | bytes) -> str:
    """The path with all other characters than those of a URI percent-encoded."""
    if isinstance(path, bytes):
        return quote(path, safe=_PATH)
    return quote(path, errors="replace")


def unmapped_address(address: str) -> str:
    """The IPv4 address of a client that a dual-stack socket shows as an IPv6 address."""
    if not address.lower().startswith("::ffff:"):
        return address
    with suppress(ValueError):
        return str(IPv6Address(address).ipv4_mapped or address)
    return address


def current_path() -> str:
    """The path of the current request as a URI reference, which is safe to print."""
    return quote_path(_current.get().path)


def merge_context(_logger: object, _level: str, event: EventDict) -> EventDict:
    """A structlog processor that adds the request's fields to an event. Fields of the event win."""
    state = _current.get(None)
    if state is not None:
        event.setdefault("request_id", state.request_id)
        event.setdefault("client", state.client)
        if state.user_id is not None:
            event.setdefault("user", state.user_id)
    return event


def _request_id(scope: Scope) -> str:
    """The client's request id if it is safe to log, so that both logs have the same id."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return uuid_utils.uuid7().hex
