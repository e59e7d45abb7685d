"""``GET /``: what this service is and where its parts are, for people and for programs."""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from todo_api.http.responses import json_response
from todo_api.http.routing import PublicRoute
from todo_api.request_state import request_state

router = APIRouter(include_in_schema=False, route_class=PublicRoute)

_NO_STORE: Final = {"Cache-Control": "no-store"}  # the response depends on Accept
_LABELS: Final = {
    "tasks": "Tasks",
    "docs": "Documentation",
    "openapi": "OpenAPI document",
    "health": "Health",
}
_AUTH_SERVER: Final = (
    "<p>Send the JWT that your auth server returns at <code>/api/auth/token</code> as "
    "<code>Authorization: Bearer …</code>.</p>"
)
_DEVELOPMENT: Final = Template(
    "<p>In the directory where you started the service (in a checkout, "
    "<code>.venv/bin/todo-api</code>):</p>\n"
    "<pre><code>todo-api token alice</code></pre>\n"
    "<p>Send the token in each request:</p>\n"
    "<pre><code>curl $tasks -H &quot;Authorization: Bearer $$(todo-api token alice)&quot;"
    "</code></pre>"
)


@router.get("/")
async def show_start(request: Request) -> Response:
    """The page for a client that accepts HTML, else the same links as JSON."""
    state = request.scope["state"]
    links = _links(request_state(request.scope).root_path, shows_docs=state["shows_docs"])
    if "text/html" not in request.headers.get("accept", ""):
        return json_response({"name": "todo-api", **links}, headers=_NO_STORE)
    tasks = str(request.base_url).rstrip("/") + links["tasks"]
    token = _DEVELOPMENT.substitute(tasks=escape(tasks))
    page = Template(_template()).substitute(
        links="\n".join(_link(_LABELS[name], path) for name, path in links.items()),
        token=token if state["development_tokens"] else _AUTH_SERVER,
    )
    return HTMLResponse(page, headers={**_NO_STORE, "Content-Security-Policy": _policy()})


def _links(root_path: str, *, shows_docs: bool) -> dict[str, str]:
    docs = {"docs": f"{root_path}/docs", "openapi": f"{root_path}/openapi.json"}
    return {
        "tasks": f"{root_path}/api/tasks",
        **(docs if shows_docs else {}),
        "health": f"{root_path}/health/ready",
    }


def _link(label: str, path: str) -> str:
    return f'<dt>{label}</dt><dd><a href="{escape(path)}">{escape(path)}</a></dd>'


@cache
def _template() -> str:
    return files("todo_api.routes").joinpath("pages", "start.html").read_text("utf-8")


@cache
def _policy() -> str:
    """The policy allows the page's style, and neither scripts nor frames."""
    style = _template().partition("<style>")[2].partition("</style>")[0]
    digest = b64encode(sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; "
        "frame-ancestors 'none'; base-uri 'none'"
    )
