"""Rate limits: header fields, 429, and what is counted."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import httpx
import pytest
from starlette.requests import Request
from structlog.typing import EventDict

from fakes import FakeTokenVerifier, InMemoryRateLimiter, InMemoryTaskRepository
from support.http_client import FRONTEND, client, served
from todo_adapters.rate_limits import LimitsRateLimiter
from todo_api.dependencies import client_network
from todo_api.rate_limits import PER_FAILING_ADDRESS, PER_USER
from todo_domain.queries import TaskQuery


@asynccontextmanager
async def limited(
    per_user: Mapping[int, int] | None = None,
    per_failing_address: Mapping[int, int] | None = None,
    tasks: InMemoryTaskRepository | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app with these quotas: the window in seconds, and the number of requests."""
    limiter = InMemoryRateLimiter(
        {PER_USER: per_user or {}, PER_FAILING_ADDRESS: per_failing_address or {}}
    )
    async with served(tasks, limiter=limiter) as app, client(app, "ada") as ada:
        yield ada


EVE: Final = {"Authorization": "Bearer eve"}
NOBODY: Final = {"Authorization": "Bearer nobody"}


@pytest.mark.usefixtures("log")
class TestUserQuota:
    async def test_the_response_has_the_remaining_requests(self) -> None:
        async with limited({60: 3}) as ada:
            responses = [await ada.get("/api/tasks") for _ in range(3)]
        assert [response.headers["RateLimit"] for response in responses] == [
            *('"user";r=2;t=60', '"user";r=1;t=60', '"user";r=0;t=60'),
        ]
        assert {response.headers["RateLimit-Policy"] for response in responses} == {
            '"user";q=3;w=60'
        }

    async def test_the_response_has_each_of_several_quotas(self) -> None:
        async with limited({1: 10, 60: 600}) as ada:
            response = await ada.get("/api/tasks")
        assert response.headers["RateLimit-Policy"] == '"user-1";q=10;w=1, "user-60";q=600;w=60'
        assert response.headers["RateLimit"] == '"user-1";r=9;t=1, "user-60";r=599;t=60'

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/api/me", 200),
            ("GET", "/api/tasks/nothing", 404),
            ("GET", "/api/tasks?limit=0", 422),
            ("POST", "/api/tasks", 415),
            ("GET", "/api/eve/tasks", 403),
        ],
    )
    async def test_error_responses_have_the_remaining_requests(
        self, method: str, path: str, status: int
    ) -> None:
        async with limited({60: 3}) as ada:
            response = await ada.request(method, path)
        assert (response.status_code, response.headers["RateLimit"]) == (status, '"user";r=2;t=60')

    async def test_a_request_beyond_the_quota_is_429_with_retry_after(self) -> None:
        async with limited({60: 2}) as ada:
            statuses = [(await ada.get("/api/tasks")).status_code for _ in range(3)]
            response = await ada.get("/api/tasks", headers={"Origin": FRONTEND})
        assert statuses == [200, 200, 429]
        assert (response.status_code, response.json()["code"]) == (429, "rate_limited")
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.headers["Retry-After"] == "60"
        assert response.headers.get_list("RateLimit") == ['"user";r=0;t=60']
        assert response.headers.get_list("RateLimit-Policy") == ['"user";q=2;w=60']
        assert response.headers["Access-Control-Allow-Origin"] == FRONTEND

    async def test_retry_after_is_the_longest_of_the_exceeded_quotas(self) -> None:
        async with limited({1: 1, 60: 1, 3600: 9}) as ada:
            for _ in range(2):
                response = await ada.get("/api/tasks")
        assert (response.status_code, response.headers["Retry-After"]) == (429, "60")

    async def test_a_request_beyond_the_quota_changes_nothing(self) -> None:
        tasks = InMemoryTaskRepository()
        async with limited({60: 1}, tasks=tasks) as ada:
            for _ in range(3):
                await ada.post("/api/tasks", json={"title": "x"})
        assert len((await tasks.find("ada", TaskQuery())).tasks) == 1

    async def test_each_user_has_a_separate_quota(self) -> None:
        async with limited({60: 1}) as ada:
            statuses = [
                (await ada.get("/api/tasks", headers=headers)).status_code
                for headers in ({}, EVE, {}, EVE)
            ]
        assert statuses == [200, 200, 429, 429]

    @pytest.mark.parametrize("concurrent", [1, 2, 50])
    async def test_concurrent_requests_get_exactly_the_quota(self, concurrent: int) -> None:
        async with limited({60: 25}) as ada:
            asked = [ada.get("/api/tasks") for _ in range(concurrent)]
            statuses = [response.status_code for response in await asyncio.gather(*asked)]
        assert statuses.count(200) == min(concurrent, 25)
        assert statuses.count(429) == max(0, concurrent - 25)


@pytest.mark.usefixtures("log")
class TestFailedAuthentication:
    async def test_a_failed_authentication_has_the_remaining_attempts(self) -> None:
        async with limited(per_failing_address={60: 2}) as ada:
            response = await ada.get("/api/tasks", headers=NOBODY)
        assert response.status_code == 401
        assert response.headers["RateLimit"] == '"auth-failures";r=1;t=60'
        assert response.headers["RateLimit-Policy"] == '"auth-failures";q=2;w=60'

    @pytest.mark.parametrize("authorization", ["Bearer nobody", "", "Basic x"])
    async def test_too_many_failed_authentications_are_429(self, authorization: str) -> None:
        async with limited(per_failing_address={60: 2}) as ada:
            headers = {"Authorization": authorization}
            responses = [await ada.get("/api/tasks", headers=headers) for _ in range(4)]
        assert [response.status_code for response in responses] == [401, 401, 429, 429]
        assert responses[-1].headers["Retry-After"] == "60"
        assert "WWW-Authenticate" not in responses[-1].headers

    async def test_a_valid_token_is_accepted_after_too_many_failures(self) -> None:
        async with limited(per_failing_address={60: 0}) as ada:
            assert (await ada.get("/api/tasks", headers=NOBODY)).status_code == 429
            assert (await ada.get("/api/tasks")).status_code == 200

    async def test_a_successful_authentication_is_not_counted(self) -> None:
        async with limited({60: 1000}, {60: 1}) as ada:
            for _ in range(5):
                await ada.get("/api/tasks")
            assert (await ada.get("/api/tasks", headers=NOBODY)).status_code == 401

    async def test_forwarded_fields_do_not_change_the_counted_address(self) -> None:
        async with limited(per_failing_address={60: 1}) as ada:
            statuses = [
                (
                    await ada.get(
                        "/api/tasks",
                        headers={
                            **NOBODY,
                            "X-Forwarded-For": f"10.0.0.{n}",
                            "Forwarded": f"for={n}",
                        },
                    )
                ).status_code
                for n in range(3)
            ]
        assert statuses == [401, 429, 429]

    async def test_a_token_that_cannot_be_verified_is_not_counted(self) -> None:
        limiter = InMemoryRateLimiter({PER_FAILING_ADDRESS: {60: 0}})
        tokens = FakeTokenVerifier("ada", has_keys=False)
        async with served(tokens=tokens, limiter=limiter) as app, client(app, "ada") as ada:
            assert (await ada.get("/api/tasks")).status_code == 503


@pytest.mark.usefixtures("log")
class TestUnlimitedRequests:
    @pytest.mark.parametrize(
        "path", ["/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json", "/nowhere"]
    )
    async def test_public_routes_are_not_limited(self, path: str) -> None:
        async with limited({60: 0}, {60: 0}) as ada:
            for _ in range(3):
                response = await ada.get(path)
                assert response.status_code in {200, 404}
                assert "RateLimit" not in response.headers

    async def test_preflights_are_not_limited(self) -> None:
        asked = {"Origin": FRONTEND, "Access-Control-Request-Method": "POST"}
        async with limited({60: 0}, {60: 0}) as ada:
            assert (await ada.options("/api/tasks", headers=asked)).status_code == 204

    async def test_without_quotas_nothing_is_limited(self) -> None:
        async with limited() as ada:
            responses = [await ada.get("/api/tasks") for _ in range(50)]
        assert {response.status_code for response in responses} == {200}
        assert not any("RateLimit" in response.headers for response in responses)


class TestLog:
    async def test_the_exceeded_policy_is_logged(self, log: list[EventDict]) -> None:
        async with limited({60: 0}, {60: 0}) as ada:
            await ada.get("/api/tasks")
            await ada.get("/api/tasks", headers=NOBODY)
        entries = [entry for entry in log if entry["event"] == "rate_limited"]
        assert [(entry["log_level"], entry["policy"]) for entry in entries] == [
            ("warning", "user"),
            ("warning", "auth-failures"),
        ]


async def test_the_fields_are_structured_lists_of_strings_with_integers() -> None:
    item = r'"[a-z0-9-]+"(;[a-z]=\d{1,15})+'
    limiter = LimitsRateLimiter({PER_USER: "10/second;600/minute"})
    async with served(limiter=limiter) as app, client(app, "ada") as ada:
        response = await ada.get("/api/tasks")
    for name in ("RateLimit", "RateLimit-Policy"):
        assert re.fullmatch(f"{item}(, {item})*", response.headers[name])


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "unknown"),
    ],
)
def test_failures_are_counted_by_ipv4_address_or_ipv6_network(address: str, network: str) -> None:
    assert client_network(Request({"type": "http", "client": (address, 1)})) == network
