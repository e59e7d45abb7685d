"""Interactive documentation without internet access: Swagger UI from an installed package."""

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import Response

from todo_api.http.responses import json_response
from todo_api.http.routing import PublicRoute
from todo_api.problems import PROBLEM_TYPES, ProblemError
from todo_api.request_state import request_state

router = APIRouter(include_in_schema=False, route_class=PublicRoute)

_ASSETS: Final = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


@router.get("/openapi.json")
async def show_schema(request: Request) -> Response:
    """The OpenAPI document, whose server is the path prefix of the proxy."""
    root_path = request_state(request.scope).root_path
    servers = {"servers": [{"url": root_path}]} if root_path else {}
    return json_response({**request.app.openapi(), **servers})


@router.get("/docs")
async def show_docs(request: Request) -> Response:
    return _docs_page(request_state(request.scope).root_path)


@cache
def _docs_page(root_path: str) -> Response:
    """The page. Its policy forbids other scripts and frames, because users enter tokens there."""
    page = get_swagger_ui_html(
        openapi_url=f"{root_path}/openapi.json",
        title="todo-api",
        swagger_js_url=f"{root_path}/docs/swagger-ui-bundle.js",
        swagger_css_url=f"{root_path}/docs/swagger-ui.css",
        swagger_favicon_url="data:,",
        swagger_ui_parameters={"persistAuthorization": True, "tryItOutEnabled": True},
    )
    (script,) = re.findall(rb"<script>(.*?)</script>", bytes(page.body), re.DOTALL)
    page.headers["Content-Security-Policy"] = (
        "default-src 'none'; connect-src 'self'; img-src 'self' data:; "
        f"script-src 'self' 'sha256-{b64encode(sha256(script).digest()).decode()}'; "
        "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
    )
    return page


@router.get("/docs/{asset}")
async def show_asset(asset: str) -> Response:
    if asset not in _ASSETS:
        raise ProblemError("not_found")
    headers = {"Cache-Control": "public, max-age=86400"}
    return Response(_content(asset), headers=headers, media_type=_ASSETS[asset])


@cache
def _content(asset: str) -> bytes:
    """The whole file: FileResponse would send ranges, and plain text for a malformed Range."""
    return files("fastapi_offline").joinpath("static", asset).read_bytes()


@router.get("/problems/{code}")
async def show_problem(code: str) -> dict[str, object]:
    """What the error code in a problem's ``type`` means."""
    if code not in PROBLEM_TYPES:
        raise ProblemError("not_found")
    found = PROBLEM_TYPES[code]
    return {"code": code, "status": found.status, "title": found.title, "detail": found.detail}
