"""Interactive documentation without internet access: Swagger UI from an installed package."""

import re
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from todo_api.bearer_tokens import DEVELOPMENT_USER, DevelopmentTokens
from todo_api.http.responses import json_response
from todo_api.http.routing import PublicRoute
from todo_api.problems import PROBLEM_TYPES, ProblemError
from todo_api.request_state import request_state

router = APIRouter(include_in_schema=False, route_class=PublicRoute)
problems = APIRouter(include_in_schema=False, route_class=PublicRoute)

_SWAGGER_UI: Final = ("fastapi_offline", "static")  # package and directory
_PAGES: Final = ("todo_api.routes", "pages")
_ASSETS: Final = {
    "swagger-ui-bundle.js": (_SWAGGER_UI, "text/javascript"),
    "swagger-ui.css": (_SWAGGER_UI, "text/css"),
    "docs.js": (_PAGES, "text/javascript"),
    "docs.css": (_PAGES, "text/css"),
}
# No other scripts and no frames, because users enter tokens in the page.
_POLICY: Final = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src 'self'; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
)
_LOCAL_HOST: Final = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]+)?")
_PROXY_FIELDS: Final = frozenset({"forwarded", "via", "x-forwarded-for", "x-forwarded-host"})


@router.get("/openapi.json")
async def show_schema(request: Request) -> Response:
    """The OpenAPI document, whose server is the path prefix of the proxy."""
    root_path = request_state(request.scope).root_path
    servers = {"servers": [{"url": root_path}]} if root_path else {}
    return json_response({**request.app.openapi(), **servers})


@router.get("/docs")
async def show_docs(request: Request) -> Response:
    root_path = request_state(request.scope).root_path
    page = Template(_content("docs.html", _PAGES).decode()).substitute(
        root=escape(root_path), token=_development_token(request)
    )
    headers = {"Cache-Control": "no-store", "Content-Security-Policy": _POLICY}
    return HTMLResponse(page, headers=headers)


def _development_token(request: Request) -> str:
    """A token for the page, empty unless a browser of this machine requests it from ``dev``."""
    tokens: DevelopmentTokens | None = request.scope["state"]["development_tokens"]
    if tokens is None or tokens.issue is None or not _is_local(request.headers):
        return ""
    return tokens.issue(DEVELOPMENT_USER)


def _is_local(headers: Mapping[str, str]) -> bool:
    """Whether the request came through no tunnel and no proxy, and names this machine.

    A page of another site can let its own host name resolve to 127.0.0.1 (DNS rebinding).
    """
    is_direct = not any(name in headers for name in _PROXY_FIELDS)
    return is_direct and _LOCAL_HOST.fullmatch(headers.get("host", "")) is not None


@router.get("/docs/{asset}")
async def show_asset(asset: str) -> Response:
    if asset not in _ASSETS:
        raise ProblemError("not_found")
    directory, media_type = _ASSETS[asset]
    headers = {"Cache-Control": "public, max-age=86400"}
    return Response(_content(asset, directory), headers=headers, media_type=media_type)


@cache
def _content(name: str, directory: tuple[str, str]) -> bytes:
    """The whole file: FileResponse would send ranges, and plain text for a malformed Range."""
    package, path = directory
    return files(package).joinpath(path, name).read_bytes()


@problems.get("/problems/{code}")
async def show_problem(code: str) -> dict[str, object]:
    """What the error code in a problem's ``type`` means."""
    if code not in PROBLEM_TYPES:
        raise ProblemError("not_found")
    found = PROBLEM_TYPES[code]
    return {"code": code, "status": found.status, "title": found.title, "detail": found.detail}
