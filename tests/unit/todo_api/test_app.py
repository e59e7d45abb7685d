"""The app as a whole: its lifespan, and what is true for every response and every route."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import EventDict

from fakes import FakeTokenVerifier, InMemoryTaskRepository, UnlimitedRateLimiter
from support.http_client import UnreadBody, client
from todo_api.app import create_app
from todo_api.dependencies import Adapters
from todo_api.http.routing import ApiRoute, PublicRoute

PUBLIC: Final = {
    "/",
    "/openapi.json",
    "/docs",
    "/docs/{asset}",
    "/problems/{code}",
    "/health/live",
    "/health/ready",
    "/metrics",
}


class RecordedAdapters:
    """Adapters that record when they are opened and closed."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.events: list[str] = []
        self._failure = failure

    @asynccontextmanager
    async def adapters(self) -> AsyncIterator[Adapters]:
        self.events.append("recorded")
        if self._failure:
            raise self._failure
        yield Adapters(InMemoryTaskRepository(), FakeTokenVerifier(), UnlimitedRateLimiter(), {})
        self.events.append("closed")


ROUTES: Final = [
    (route.path, method)
    for route in create_app(RecordedAdapters().adapters).routes
    if isinstance(route, Route)
    for method in sorted(route.methods or ())
]
every_protected_route = pytest.mark.parametrize(
    ("path", "method"),
    [pytest.param(*route, id=" ".join(route[::-1])) for route in ROUTES if route[0] not in PUBLIC],
)


def test_every_route_is_an_api_route_or_declared_public() -> None:
    routes = [
        route
        for route in create_app(RecordedAdapters().adapters).routes
        if isinstance(route, APIRoute)
    ]
    assert [route.path for route in routes if not isinstance(route, ApiRoute | PublicRoute)] == []


async def lifespan_events(app: ASGIApp) -> list[str]:
    """The messages of the app when a server starts and stops it."""
    received: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = []

    async def receive() -> Message:
        return received.pop(0)

    async def send(message: Message) -> None:
        sent.append(message["type"])

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return sent


class TestLifespan:
    async def test_create_app_opens_no_adapters(self) -> None:
        recorded = RecordedAdapters()
        create_app(recorded.adapters)
        assert recorded.events == []

    async def test_adapters_are_opened_at_start_and_closed_at_stop(self) -> None:
        recorded = RecordedAdapters()
        sent = await lifespan_events(create_app(recorded.adapters))
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert recorded.events == ["recorded", "closed"]

    async def test_responses_can_wait_until_the_process_has_to_stop(self) -> None:
        app = create_app(RecordedAdapters().adapters)
        async with app.router.lifespan_context(app) as state:
            assert state
            assert not state["stopping"].is_set()

    async def test_the_app_does_not_start_if_its_adapters_cannot_be_opened(self) -> None:
        recorded = RecordedAdapters(RuntimeError("no such database"))
        with pytest.raises(RuntimeError, match="no such database"):
            await lifespan_events(create_app(recorded.adapters))

    @pytest.mark.parametrize("state", [{}, {"state": {}}], ids=["no state", "empty state"])
    @pytest.mark.parametrize("path", ["/api/tasks", "/health/ready", "/metrics"])
    async def test_without_the_lifespan_the_response_is_503_with_the_reason(
        self, path: str, state: Scope, log: list[EventDict]
    ) -> None:
        app = create_app(RecordedAdapters().adapters)

        async def without_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, **state}, receive, send)

        async with client(without_lifespan, "ada") as ada:
            response = await ada.get(path)
        assert (response.status_code, response.json()["code"]) == (503, "not_ready")
        assert "uvicorn: use --lifespan on" in response.json()["detail"]
        assert [(entry["event"], entry.get("part")) for entry in log] == [
            ("health.not_ready", "lifespan"),
            ("request", None),
        ]


class TestEveryResponse:
    def test_every_response_has_a_request_id(self, any_response: httpx.Response) -> None:
        assert re.fullmatch("[0-9a-f]{32}", any_response.headers["X-Request-ID"])

    def test_every_response_forbids_content_sniffing(self, any_response: httpx.Response) -> None:
        assert any_response.headers["X-Content-Type-Options"] == "nosniff"

    def test_every_response_varies_by_origin_and_authorization(
        self, any_response: httpx.Response
    ) -> None:
        assert any_response.headers.get_list("Vary", split_commas=True) == [
            "Origin",
            "Authorization",
        ]

    def test_every_response_is_private_and_must_be_revalidated(
        self, any_response: httpx.Response
    ) -> None:
        refused = any_response.status_code == 401
        expected = "no-store" if refused else "private, no-cache"
        assert any_response.headers.get_list("Cache-Control") == [expected]

    def test_every_body_is_json_and_every_error_is_a_problem(
        self, any_response: httpx.Response
    ) -> None:
        if any_response.status_code in {204, 304}:
            assert any_response.content == b""
            assert "Content-Type" not in any_response.headers
        else:
            media_type = "application/problem+json" if any_response.is_error else "application/json"
            assert any_response.headers["Content-Type"] == media_type
            assert any_response.json() is not None

    def test_429_and_503_have_retry_after(self, any_response: httpx.Response) -> None:
        will_help = any_response.status_code in {429, 503}
        assert ("Retry-After" in any_response.headers) == will_help
        assert int(any_response.headers.get("Retry-After", "1")) > 0

    def test_every_problem_has_its_status_path_and_request_id(
        self, any_response: httpx.Response
    ) -> None:
        if any_response.is_error:
            problem = any_response.json()
            assert problem["status"] == any_response.status_code
            assert problem["instance"] == any_response.request.url.path
            assert problem["request_id"] == any_response.headers["X-Request-ID"]


class TestEveryRoute:
    def test_public_routes_are_in_the_list(self) -> None:
        assert {path for path, _ in ROUTES} >= PUBLIC

    @every_protected_route
    @pytest.mark.parametrize("body", [b"{", b" " * 2 * 1024 * 1024], ids=["malformed", "2 MiB"])
    async def test_a_request_without_a_token_is_refused_before_the_body_is_read(
        self, stranger: httpx.AsyncClient, path: str, method: str, body: bytes
    ) -> None:
        unread = UnreadBody(body)
        response = await stranger.request(
            method,
            re.sub(r"\{\w+\}", "malformed", path) + "?limit=none&cursor=none",
            headers={"Accept": "text/html", "Content-Encoding": "br", "Content-Type": "text/plain"},
            content=unread,
        )
        assert (response.status_code, response.json()["code"]) == (401, "token_missing")
        assert response.headers["WWW-Authenticate"].startswith("Bearer ")
        assert not unread.was_read

    @every_protected_route
    async def test_a_request_with_a_bad_token_is_refused_before_the_body_is_read(
        self, stranger: httpx.AsyncClient, path: str, method: str
    ) -> None:
        unread = UnreadBody(b"{")
        response = await stranger.request(
            method, path, headers={"Authorization": "Bearer nobody"}, content=unread
        )
        assert (response.status_code, response.json()["code"]) == (401, "token_invalid")
        assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]
        assert not unread.was_read
