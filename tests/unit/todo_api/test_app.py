"""What holds for the app as a whole: its life, every answer, and every route of its table."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from fakes import FakeTokenVerifier, InMemoryTaskRepository, UnlimitedRateLimiter
from todo_api.app import create_app
from todo_api.dependencies import Adapters
from todo_api.http.routing import ApiRoute, PublicRoute

PUBLIC: Final = {
    "/openapi.json",
    "/docs",
    "/docs/{asset}",
    "/problems/{code}",
    "/health/live",
    "/health/ready",
    "/metrics",
}


class Opened:
    """Adapters that remember what became of them."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.events: list[str] = []
        self._failure = failure

    @asynccontextmanager
    async def adapters(self) -> AsyncIterator[Adapters]:
        self.events.append("opened")
        if self._failure:
            raise self._failure
        yield Adapters(InMemoryTaskRepository(), FakeTokenVerifier(), UnlimitedRateLimiter(), {})
        self.events.append("closed")


ROUTES: Final = [
    (route.path, method)
    for route in create_app(Opened().adapters).routes
    if isinstance(route, Route)
    for method in sorted(route.methods or ())
]
every_protected_route = pytest.mark.parametrize(
    ("path", "method"),
    [pytest.param(*route, id=" ".join(route[::-1])) for route in ROUTES if route[0] not in PUBLIC],
)


def test_every_route_is_served_without_fastapis_own_layers() -> None:
    routes = [
        route for route in create_app(Opened().adapters).routes if isinstance(route, APIRoute)
    ]
    assert [route.path for route in routes if not isinstance(route, ApiRoute | PublicRoute)] == []


async def lived(app: ASGIApp) -> list[str]:
    """What the app says when a server starts it and stops it."""
    told: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    said = []

    async def receive() -> Message:
        return told.pop(0)

    async def send(message: Message) -> None:
        said.append(message["type"])

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return said


class UnreadBody(httpx.AsyncByteStream):
    """A body that notes whether any of it was taken."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.was_read = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.was_read = True
        yield self._body


class TestLifespan:
    async def test_creating_the_app_opens_nothing(self) -> None:
        opened = Opened()
        create_app(opened.adapters)
        assert opened.events == []

    async def test_adapters_are_opened_at_the_start_and_closed_at_the_end(self) -> None:
        opened = Opened()
        said = await lived(create_app(opened.adapters))
        assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert opened.events == ["opened", "closed"]

    async def test_an_app_whose_adapters_cannot_be_opened_does_not_start(self) -> None:
        opened = Opened(RuntimeError("no such database"))
        with pytest.raises(RuntimeError, match="no such database"):
            await lived(create_app(opened.adapters))


class TestEveryAnswer:
    def test_has_a_request_id(self, any_answer: httpx.Response) -> None:
        assert re.fullmatch("[0-9a-f]{32}", any_answer.headers["X-Request-ID"])

    def test_is_not_to_be_sniffed(self, any_answer: httpx.Response) -> None:
        assert any_answer.headers["X-Content-Type-Options"] == "nosniff"

    def test_varies_with_origin_and_user(self, any_answer: httpx.Response) -> None:
        assert any_answer.headers.get_list("Vary", split_commas=True) == ["Origin", "Authorization"]

    def test_is_for_its_user_alone_and_never_reused_unasked(
        self, any_answer: httpx.Response
    ) -> None:
        refused = any_answer.status_code == 401
        expected = "no-store" if refused else "private, no-cache"
        assert any_answer.headers.get_list("Cache-Control") == [expected]

    def test_that_has_a_body_is_json_and_a_problem_if_it_is_an_error(
        self, any_answer: httpx.Response
    ) -> None:
        if any_answer.status_code in {204, 304}:
            assert any_answer.content == b""
            assert "Content-Type" not in any_answer.headers
        else:
            media_type = "application/problem+json" if any_answer.is_error else "application/json"
            assert any_answer.headers["Content-Type"] == media_type
            assert any_answer.json() is not None

    def test_says_when_to_try_again_if_that_will_help(self, any_answer: httpx.Response) -> None:
        will_help = any_answer.status_code in {429, 503}
        assert ("Retry-After" in any_answer.headers) == will_help
        assert int(any_answer.headers.get("Retry-After", "1")) > 0

    def test_that_is_a_problem_has_its_status_its_path_and_its_request_id_in_it(
        self, any_answer: httpx.Response
    ) -> None:
        if any_answer.is_error:
            problem = any_answer.json()
            assert problem["status"] == any_answer.status_code
            assert problem["instance"] == any_answer.request.url.path
            assert problem["request_id"] == any_answer.headers["X-Request-ID"]


class TestEveryRoute:
    def test_that_is_public_is_meant_to_be(self) -> None:
        assert {path for path, _ in ROUTES} >= PUBLIC

    @every_protected_route
    @pytest.mark.parametrize("body", [b"{", b" " * 2 * 1024 * 1024], ids=["malformed", "2 MiB"])
    async def test_but_the_public_ones_refuses_a_stranger_before_anything_else_is_looked_at(
        self, stranger: httpx.AsyncClient, path: str, method: str, body: bytes
    ) -> None:
        unread = UnreadBody(body)
        answer = await stranger.request(
            method,
            re.sub(r"\{\w+\}", "malformed", path) + "?limit=none&cursor=none",
            headers={"Accept": "text/html", "Content-Encoding": "br", "Content-Type": "text/plain"},
            content=unread,
        )
        assert (answer.status_code, answer.json()["code"]) == (401, "token_missing")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
        assert not unread.was_read

    @every_protected_route
    async def test_but_the_public_ones_refuses_a_bad_token_before_anything_else_is_looked_at(
        self, stranger: httpx.AsyncClient, path: str, method: str
    ) -> None:
        unread = UnreadBody(b"{")
        answer = await stranger.request(
            method, path, headers={"Authorization": "Bearer nobody"}, content=unread
        )
        assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
        assert not unread.was_read
