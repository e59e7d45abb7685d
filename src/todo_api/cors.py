"""CORS by allow-list: Starlette's middleware, with answers to preflights that have no body."""

from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

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


class Cors(CORSMiddleware):
    """Exact origins only; credentials are allowed because frontends' fetch wrappers send them."""

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

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        del answer.headers["content-type"], answer.headers["content-length"]
        is_allowed = answer.status_code == 200  # noqa: PLR2004
        return Response(status_code=204 if is_allowed else 403, headers=answer.headers)
