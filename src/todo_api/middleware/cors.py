"""CORS with an allow-list of exact origins."""

from collections.abc import Sequence
from functools import partial
from typing import Final

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
_ACCEPTED: Final = (
    "Accept",
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Prefer",
    "X-Request-ID",
)
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class CorsMiddleware(CORSMiddleware):
    """Adds the CORS fields to responses. Starlette's class responds to preflight requests.

    Credentials are allowed because fetch wrappers of frontends send them. RequestLogMiddleware
    sets ``Vary``.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=_ACCEPTED,
            allow_credentials=True,
            expose_headers=EXPOSED,
            max_age=600,
        )
        self._fields = [
            (name.lower().encode(), value.encode()) for name, value in self.simple_headers.items()
        ]
        self._origins = {origin.encode() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = _origin(scope) if scope["type"] == "http" else None
        if origin is None:
            await self.app(scope, receive, send)
        elif scope["method"] == "OPTIONS":
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
        is_allowed = response.status_code == 200  # noqa: PLR2004
        return Response(status_code=204 if is_allowed else 403, headers=response.headers)


def _origin(scope: Scope) -> bytes | None:
    for name, value in scope["headers"]:
        if name == b"origin":
            return bytes(value)
    return None
