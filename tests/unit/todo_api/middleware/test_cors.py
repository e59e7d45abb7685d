"""Browsers of the allowed origins can read every answer; those of others can read none."""

from typing import Final

import httpx
import pytest
from structlog.typing import EventDict

from support.http_client import FRONTEND, client, served

EXPOSED: Final = {
    "ETag",
    "Link",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "X-Request-ID",
    "X-Total-Count",
}
FOREIGN: Final = [
    "http://evil.example",
    "http://localhost:3001",
    "https://localhost:3000",
    "http://localhost:3000.evil.example",
    "http://localhost",
    "HTTP://LOCALHOST:3000",
    "null",
    "*",
    "",
]


def preflight(**changes: str) -> dict[str, str]:
    """The header fields of a browser that asks whether it may create a task."""
    return {
        "Origin": FRONTEND,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }


class TestAnyAnswer:
    def test_may_be_read_by_the_frontend(self, any_answer: httpx.Response) -> None:
        assert any_answer.headers.get_list("Access-Control-Allow-Origin") == [FRONTEND]

    def test_may_be_read_by_a_frontend_that_sends_its_cookies(
        self, any_answer: httpx.Response
    ) -> None:
        assert any_answer.headers["Access-Control-Allow-Credentials"] == "true"

    def test_exposes_the_contracts_header_fields(self, any_answer: httpx.Response) -> None:
        exposed = any_answer.headers.get_list("Access-Control-Expose-Headers", split_commas=True)
        assert set(exposed) >= EXPOSED


@pytest.mark.usefixtures("log")
async def test_an_answer_that_is_kept_tells_nobody_of_those_who_asked_before() -> None:
    async with served() as app, client(app) as somebody:
        for _ in range(2):
            await somebody.get("/docs", headers={"Origin": FRONTEND})
        answer = await somebody.get("/docs")
    assert not [name for name in answer.headers if name.startswith("access-control-")]


class TestAnotherOrigin:
    @pytest.mark.parametrize("origin", FOREIGN)
    @pytest.mark.parametrize("path", ["/api/tasks", "/health/live", "/nowhere"])
    async def test_may_read_nothing(
        self, stranger: httpx.AsyncClient, origin: str, path: str
    ) -> None:
        answer = await stranger.get(path, headers={"Origin": origin})
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Origin" in answer.headers.get_list("Vary", split_commas=True)

    @pytest.mark.parametrize("origin", FOREIGN)
    async def test_is_refused_its_preflight(self, stranger: httpx.AsyncClient, origin: str) -> None:
        answer = await stranger.options("/api/tasks", headers=preflight(Origin=origin))
        assert (answer.status_code, answer.content) == (403, b"")
        assert "Access-Control-Allow-Origin" not in answer.headers


class TestNoOrigin:
    async def test_is_needed_outside_a_browser(self, ada: httpx.AsyncClient) -> None:
        answer = await ada.get("/api/tasks")
        assert answer.status_code == 200
        assert "Access-Control-Allow-Origin" not in answer.headers

    async def test_that_is_configured_means_that_no_browser_may_read(
        self, log: list[EventDict]
    ) -> None:
        del log
        async with served(cors_origins=[]) as app, client(app) as stranger:
            answer = await stranger.get("/health/live", headers={"Origin": FRONTEND})
            refusal = await stranger.options("/api/tasks", headers=preflight())
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert refusal.status_code == 403


class TestAPreflight:
    @pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/1/complete", "/api/none", "/docs"])
    async def test_is_allowed_without_a_token_and_a_body(
        self, stranger: httpx.AsyncClient, path: str
    ) -> None:
        answer = await stranger.options(path, headers=preflight())
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["Access-Control-Allow-Origin"] == FRONTEND
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert "Content-Type" not in answer.headers
        assert "Content-Length" not in answer.headers

    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
    async def test_allows_every_method_of_the_api(
        self, stranger: httpx.AsyncClient, method: str
    ) -> None:
        headers = preflight(Access_Control_Request_Method=method)
        answer = await stranger.options("/api/tasks", headers=headers)
        assert answer.status_code == 204
        allowed = answer.headers.get_list("Access-Control-Allow-Methods", split_commas=True)
        assert method in allowed

    @pytest.mark.parametrize(
        "name",
        [
            "authorization",
            "Authorization, Content-Type",
            "content-type,if-match",
            "if-none-match",
            "idempotency-key",
            "prefer",
            "x-request-id",
            "accept",
        ],
    )
    async def test_allows_every_header_field_of_the_contract(
        self, stranger: httpx.AsyncClient, name: str
    ) -> None:
        headers = preflight(Access_Control_Request_Headers=name)
        answer = await stranger.options("/api/tasks", headers=headers)
        assert answer.status_code == 204

    @pytest.mark.parametrize(
        "asked",
        [
            {"Access_Control_Request_Method": "TRACE"},
            {"Access_Control_Request_Headers": "authorization,x-anything"},
        ],
        ids=["method", "header field"],
    )
    async def test_refuses_what_the_api_does_not_know(
        self, stranger: httpx.AsyncClient, asked: dict[str, str]
    ) -> None:
        answer = await stranger.options("/api/tasks", headers=preflight(**asked))
        assert (answer.status_code, answer.content) == (403, b"")

    async def test_may_be_remembered_for_minutes(self, stranger: httpx.AsyncClient) -> None:
        answer = await stranger.options("/api/tasks", headers=preflight())
        assert answer.headers["Access-Control-Max-Age"] == "600"

    async def test_has_a_request_id_like_every_answer(self, stranger: httpx.AsyncClient) -> None:
        answer = await stranger.options("/api/tasks", headers=preflight())
        assert answer.headers["X-Request-ID"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
