"""CORS with an allow-list of exact origins, and a log event for other origins."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Final

import structlog
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

EXPOSED: Final = (
    "ETag",
    "Link",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "X-Request-ID",
    "X-Total-Count",
)
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_FIELD_NAMES: Final = re.compile(
    r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*"
)
_UNPRINTABLE: Final = re.compile(rb"[^!-~]")
_ORIGIN_LOGGED: Final = 100  # bytes
LOG_INTERVAL: Final = 60.0  # seconds between two events about one origin
ORIGINS_MAX: Final = 100  # origins that are logged in that time

_log = structlog.get_logger()


class CorsMiddleware(CORSMiddleware):
    """Adds the CORS fields to responses. Starlette's class responds to preflight requests.

    Credentials are allowed because fetch wrappers of frontends send them. A preflight of an allowed
    origin allows the header fields that it asks for: tracing tools add fields with many names.
    RequestLogMiddleware sets ``Vary``.
    """

    def __init__(
        self, app: ASGIApp, origins: Sequence[str], clock: Callable[[], float] = monotonic
    ) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=["*"],
            allow_credentials=True,
            # A public page calls a service in a private network, such as `todo-api dev`.
            allow_private_network=True,
            expose_headers=EXPOSED,
            max_age=600,
        )
        self._fields = [
            (name.lower().encode(), value.encode()) for name, value in self.simple_headers.items()
        ]
        self._origins = {origin.encode() for origin in origins}
        self._refusals = _Refusals(clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = _field(scope, b"origin") if scope["type"] == "http" else None
        if origin is None:
            await self.app(scope, receive, send)
            return
        if origin not in self._origins and not _is_same_origin(scope, origin):
            self._refusals.log(origin)
        if scope["method"] == "OPTIONS":
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, partial(self._send, send, origin))

    async def _send(self, send: Send, origin: bytes, message: Message) -> None:
        if message["type"] == "http.response.start":
            # A new list: the response object, such as the page of /docs, may be cached.
            fields = [*message["headers"], *self._fields]
            if origin in self._origins:
                fields.append((b"access-control-allow-origin", origin))
            message = {**message, "headers": fields}
        await send(message)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Starlette's response without its text body: 204 if allowed, otherwise 403."""
        response = super().preflight_response(request_headers)
        del response.headers["content-type"], response.headers["content-length"]
        requested = request_headers.get("access-control-request-headers", "").strip()
        is_allowed = (
            response.status_code == 200  # noqa: PLR2004
            and (not requested or _FIELD_NAMES.fullmatch(requested) is not None)
        )
        if not is_allowed:
            del response.headers["access-control-allow-headers"]
        return Response(status_code=204 if is_allowed else 403, headers=response.headers)


class _Refusals:
    """Logs origins that are not allowed, each at most once in ``LOG_INTERVAL``.

    A client can send any number of origins, so the number of origins in that time is limited too.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._logged: dict[bytes, float] = {}  # the oldest first

    def log(self, origin: bytes) -> None:
        shown = _UNPRINTABLE.sub(b"?", origin[:_ORIGIN_LOGGED])
        if self._is_due(shown):
            _log.warning(
                "cors.refused",
                origin=shown.decode(),
                hint="if this is your frontend, add its origin to CORS_ORIGINS",
            )

    def _is_due(self, origin: bytes) -> bool:
        now = self._clock()
        while self._logged and next(iter(self._logged.values())) <= now - LOG_INTERVAL:
            del self._logged[next(iter(self._logged))]
        if origin in self._logged or len(self._logged) >= ORIGINS_MAX:
            return False
        self._logged[origin] = now
        return True


def _is_same_origin(scope: Scope, origin: bytes) -> bool:
    """Whether page and service have one origin; browsers send ``Origin`` with a POST then too.

    The Host field alone decides for old browsers: behind a proxy it may name another host.
    """
    if _field(scope, b"sec-fetch-site") == b"same-origin":
        return True
    host = _field(scope, b"host")
    return bool(host) and origin.partition(b"://")[2] == host


def _field(scope: Scope, wanted: bytes) -> bytes | None:
    for name, value in scope["headers"]:
        if name == wanted:
            return bytes(value)
    return None
