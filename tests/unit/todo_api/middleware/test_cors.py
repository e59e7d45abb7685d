"""CORS: only the configured origins can read responses, including error responses."""

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
    """The header fields of the preflight request for creating a task."""
    return {
        "Origin": FRONTEND,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }


class TestEveryResponse:
    def test_every_response_allows_the_frontends_origin(self, any_response: httpx.Response) -> None:
        assert any_response.headers.get_list("Access-Control-Allow-Origin") == [FRONTEND]

    def test_every_response_allows_credentials(self, any_response: httpx.Response) -> None:
        assert any_response.headers["Access-Control-Allow-Credentials"] == "true"

    def test_every_response_exposes_the_header_fields_of_the_contract(
        self, any_response: httpx.Response
    ) -> None:
        exposed = any_response.headers.get_list("Access-Control-Expose-Headers", split_commas=True)
        assert set(exposed) >= EXPOSED


@pytest.mark.usefixtures("log")
async def test_a_cached_page_has_no_cors_fields_of_earlier_requests() -> None:
    async with served() as app, client(app) as browser:
        for _ in range(2):
            await browser.get("/docs", headers={"Origin": FRONTEND})
        response = await browser.get("/docs")
    assert not [name for name in response.headers if name.startswith("access-control-")]


class TestOtherOrigin:
    @pytest.mark.parametrize("origin", FOREIGN)
    @pytest.mark.parametrize("path", ["/api/tasks", "/health/live", "/nowhere"])
    async def test_a_response_does_not_allow_another_origin(
        self, stranger: httpx.AsyncClient, origin: str, path: str
    ) -> None:
        response = await stranger.get(path, headers={"Origin": origin})
        assert "Access-Control-Allow-Origin" not in response.headers
        assert "Origin" in response.headers.get_list("Vary", split_commas=True)

    @pytest.mark.parametrize("origin", FOREIGN)
    async def test_the_preflight_of_another_origin_is_403(
        self, stranger: httpx.AsyncClient, origin: str
    ) -> None:
        response = await stranger.options("/api/tasks", headers=preflight(Origin=origin))
        assert (response.status_code, response.content) == (403, b"")
        assert "Access-Control-Allow-Origin" not in response.headers


class TestWithoutOrigin:
    async def test_a_request_without_origin_gets_no_cors_fields(
        self, ada: httpx.AsyncClient
    ) -> None:
        response = await ada.get("/api/tasks")
        assert response.status_code == 200
        assert "Access-Control-Allow-Origin" not in response.headers

    async def test_without_configured_origins_no_origin_is_allowed(
        self, log: list[EventDict]
    ) -> None:
        del log
        async with served(cors_origins=[]) as app, client(app) as stranger:
            response = await stranger.get("/health/live", headers={"Origin": FRONTEND})
            rejected = await stranger.options("/api/tasks", headers=preflight())
        assert "Access-Control-Allow-Origin" not in response.headers
        assert rejected.status_code == 403


class TestPreflight:
    @pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/1/complete", "/api/none", "/docs"])
    async def test_a_preflight_needs_no_token_and_has_no_body(
        self, stranger: httpx.AsyncClient, path: str
    ) -> None:
        response = await stranger.options(path, headers=preflight())
        assert (response.status_code, response.content) == (204, b"")
        assert response.headers["Access-Control-Allow-Origin"] == FRONTEND
        assert response.headers["Access-Control-Allow-Credentials"] == "true"
        assert "Content-Type" not in response.headers
        assert "Content-Length" not in response.headers

    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
    async def test_a_preflight_allows_every_method_of_the_api(
        self, stranger: httpx.AsyncClient, method: str
    ) -> None:
        headers = preflight(Access_Control_Request_Method=method)
        response = await stranger.options("/api/tasks", headers=headers)
        assert response.status_code == 204
        allowed = response.headers.get_list("Access-Control-Allow-Methods", split_commas=True)
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
    async def test_a_preflight_allows_every_header_field_of_the_contract(
        self, stranger: httpx.AsyncClient, name: str
    ) -> None:
        headers = preflight(Access_Control_Request_Headers=name)
        response = await stranger.options("/api/tasks", headers=headers)
        assert response.status_code == 204

    @pytest.mark.parametrize(
        "changes",
        [
            {"Access_Control_Request_Method": "TRACE"},
            {"Access_Control_Request_Headers": "authorization,x-anything"},
        ],
        ids=["method", "header field"],
    )
    async def test_a_preflight_for_another_method_or_header_field_is_403(
        self, stranger: httpx.AsyncClient, changes: dict[str, str]
    ) -> None:
        response = await stranger.options("/api/tasks", headers=preflight(**changes))
        assert (response.status_code, response.content) == (403, b"")

    async def test_a_preflight_may_be_cached_for_ten_minutes(
        self, stranger: httpx.AsyncClient
    ) -> None:
        response = await stranger.options("/api/tasks", headers=preflight())
        assert response.headers["Access-Control-Max-Age"] == "600"

    async def test_a_preflight_has_a_request_id(self, stranger: httpx.AsyncClient) -> None:
        response = await stranger.options("/api/tasks", headers=preflight())
        assert response.headers["X-Request-ID"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
