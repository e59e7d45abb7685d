"""CORS: only the configured origins can read responses, including error responses."""

from typing import Final

import httpx
import pytest
from starlette.types import Receive, Scope, Send
from structlog.typing import EventDict

from support.http_client import FRONTEND, client, served
from todo_api.middleware.cors import LOG_INTERVAL, ORIGINS_MAX, CorsMiddleware

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
            # of tracing and monitoring tools
            "traceparent,tracestate",
            "baggage, sentry-trace",
            "x-datadog-trace-id,x-datadog-parent-id,x-datadog-origin",
            "b3",
            "newrelic",
            "x-requested-with",
            "ngrok-skip-browser-warning",
            "x-any!#$%&'*+-.^_`|~",
        ],
    )
    async def test_a_preflight_allows_the_header_fields_that_it_asks_for(
        self, stranger: httpx.AsyncClient, name: str
    ) -> None:
        headers = preflight(Access_Control_Request_Headers=name)
        response = await stranger.options("/api/tasks", headers=headers)
        assert response.status_code == 204
        assert response.headers["Access-Control-Allow-Headers"] == name

    async def test_a_preflight_may_ask_for_no_header_field(
        self, stranger: httpx.AsyncClient
    ) -> None:
        headers = preflight(Access_Control_Request_Headers="")
        assert (await stranger.options("/api/tasks", headers=headers)).status_code == 204

    async def test_a_preflight_may_ask_for_access_to_a_private_network(
        self, stranger: httpx.AsyncClient
    ) -> None:
        headers = preflight(Access_Control_Request_Private_Network="true")
        response = await stranger.options("/api/tasks", headers=headers)
        assert response.status_code == 204
        assert response.headers["Access-Control-Allow-Private-Network"] == "true"

    @pytest.mark.parametrize(
        "changes",
        [
            {"Access_Control_Request_Method": "TRACE"},
            {"Access_Control_Request_Headers": "authorization, two words"},
            {"Access_Control_Request_Headers": "x-a,,x-b"},
            {"Access_Control_Request_Headers": "x:y"},
            {"Access_Control_Request_Headers": "<script>"},
        ],
        ids=str,
    )
    async def test_a_preflight_for_another_method_or_no_field_name_is_403(
        self, stranger: httpx.AsyncClient, changes: dict[str, str]
    ) -> None:
        response = await stranger.options("/api/tasks", headers=preflight(**changes))
        assert (response.status_code, response.content) == (403, b"")
        assert "Access-Control-Allow-Headers" not in response.headers

    async def test_a_preflight_may_be_cached_for_ten_minutes(
        self, stranger: httpx.AsyncClient
    ) -> None:
        response = await stranger.options("/api/tasks", headers=preflight())
        assert response.headers["Access-Control-Max-Age"] == "600"

    async def test_a_preflight_has_a_request_id(self, stranger: httpx.AsyncClient) -> None:
        response = await stranger.options("/api/tasks", headers=preflight())
        assert response.headers["X-Request-ID"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"


def refused(log: list[EventDict]) -> list[str]:
    """The origins of the events about refused origins."""
    return [entry["origin"] for entry in log if entry["event"] == "cors.refused"]


class TestRefusedOrigin:
    @pytest.mark.parametrize("origin", ["https://app.example.com", "null", "http://localhost:3001"])
    @pytest.mark.parametrize("method", ["OPTIONS", "GET", "POST"])
    async def test_a_refused_origin_is_logged_with_the_setting(
        self, stranger: httpx.AsyncClient, log: list[EventDict], origin: str, method: str
    ) -> None:
        await stranger.request(method, "/api/tasks", headers=preflight(Origin=origin))
        (entry,) = [entry for entry in log if entry["event"] == "cors.refused"]
        assert (entry["log_level"], entry["origin"]) == ("warning", origin)
        assert "CORS_ORIGINS" in entry["hint"]

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": FRONTEND},
            {},
            {"Origin": "http://todo.test"},
            {"Origin": "https://app.example.com", "Sec-Fetch-Site": "same-origin"},
        ],
        ids=str,
    )
    async def test_an_allowed_origin_and_the_origin_of_the_service_are_not_logged(
        self, stranger: httpx.AsyncClient, log: list[EventDict], headers: dict[str, str]
    ) -> None:
        await stranger.post("/api/tasks", headers=headers)
        assert refused(log) == []

    async def test_an_origin_is_logged_printable_and_shortened(
        self, stranger: httpx.AsyncClient, log: list[EventDict]
    ) -> None:
        origin = b'\x1b[31m\xff {"' + b"x" * 5000
        await stranger.get("/api/tasks", headers=[(b"Origin", origin)])
        assert refused(log) == ['?[31m??{"' + "x" * 91]

    async def test_each_origin_is_logged_at_most_once_a_minute(self, log: list[EventDict]) -> None:
        now = 0.0
        async with client(CorsMiddleware(nothing, [], lambda: now)) as browser:
            for moment in (1000.0, 1059.9, 1060.0, 1060.1, 1119.9, 1120.0):
                now = moment
                for origin in ("https://a.example", "https://b.example"):
                    await browser.get("/", headers={"Origin": origin})
        assert refused(log) == ["https://a.example", "https://b.example"] * 3

    async def test_a_flood_of_origins_is_logged_in_part_and_forgotten(
        self, log: list[EventDict]
    ) -> None:
        now = 1000.0
        async with client(CorsMiddleware(nothing, [], lambda: now)) as browser:
            for number in range(ORIGINS_MAX + 10):
                await browser.get("/", headers={"Origin": f"https://{number}.example"})
            assert len(refused(log)) == ORIGINS_MAX
            now += LOG_INTERVAL
            await browser.get("/", headers={"Origin": FRONTEND})
        assert refused(log)[-1] == FRONTEND


async def nothing(_scope: Scope, _receive: Receive, send: Send) -> None:
    """An app whose every response is empty."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})
