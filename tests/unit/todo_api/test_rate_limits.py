"""How much one may ask, told before it is too much: exact, whoever asks and however often."""

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
    """Ada, where users and failing addresses have these quotas by their windows' seconds."""
    limiter = InMemoryRateLimiter(
        {PER_USER: per_user or {}, PER_FAILING_ADDRESS: per_failing_address or {}}
    )
    async with served(tasks, limiter=limiter) as app, client(app, "ada") as ada:
        yield ada


EVE: Final = {"Authorization": "Bearer eve"}
NOBODY: Final = {"Authorization": "Bearer nobody"}


@pytest.mark.usefixtures("log")
class TestAUser:
    async def test_is_told_how_many_requests_are_left(self) -> None:
        async with limited({60: 3}) as ada:
            answers = [await ada.get("/api/tasks") for _ in range(3)]
        assert [answer.headers["RateLimit"] for answer in answers] == [
            *('"user";r=2;t=60', '"user";r=1;t=60', '"user";r=0;t=60'),
        ]
        assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"user";q=3;w=60'}

    async def test_is_told_of_each_of_several_quotas(self) -> None:
        async with limited({1: 10, 60: 600}) as ada:
            answer = await ada.get("/api/tasks")
        assert answer.headers["RateLimit-Policy"] == '"user-1";q=10;w=1, "user-60";q=600;w=60'
        assert answer.headers["RateLimit"] == '"user-1";r=9;t=1, "user-60";r=599;t=60'

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
    async def test_is_told_on_every_status(self, method: str, path: str, status: int) -> None:
        async with limited({60: 3}) as ada:
            answer = await ada.request(method, path)
        assert (answer.status_code, answer.headers["RateLimit"]) == (status, '"user";r=2;t=60')

    async def test_gets_429_beyond_the_quota_and_is_told_when_to_try_again(self) -> None:
        async with limited({60: 2}) as ada:
            statuses = [(await ada.get("/api/tasks")).status_code for _ in range(3)]
            answer = await ada.get("/api/tasks", headers={"Origin": FRONTEND})
        assert statuses == [200, 200, 429]
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["Retry-After"] == "60"
        assert answer.headers.get_list("RateLimit") == ['"user";r=0;t=60']
        assert answer.headers.get_list("RateLimit-Policy") == ['"user";q=2;w=60']
        assert answer.headers["Access-Control-Allow-Origin"] == FRONTEND

    async def test_is_told_to_wait_for_the_last_of_the_quotas_that_are_exceeded(self) -> None:
        async with limited({1: 1, 60: 1, 3600: 9}) as ada:
            for _ in range(2):
                answer = await ada.get("/api/tasks")
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "60")

    async def test_changes_nothing_beyond_the_quota(self) -> None:
        tasks = InMemoryTaskRepository()
        async with limited({60: 1}, tasks=tasks) as ada:
            for _ in range(3):
                await ada.post("/api/tasks", json={"title": "x"})
        assert len((await tasks.find("ada", TaskQuery())).tasks) == 1

    async def test_has_a_quota_of_their_own(self) -> None:
        async with limited({60: 1}) as ada:
            statuses = [
                (await ada.get("/api/tasks", headers=headers)).status_code
                for headers in ({}, EVE, {}, EVE)
            ]
        assert statuses == [200, 200, 429, 429]

    @pytest.mark.parametrize("rivals", [1, 2, 50])
    async def test_gets_exactly_the_quota_of_requests_that_come_at_once(self, rivals: int) -> None:
        async with limited({60: 25}) as ada:
            asked = [ada.get("/api/tasks") for _ in range(rivals)]
            statuses = [answer.status_code for answer in await asyncio.gather(*asked)]
        assert statuses.count(200) == min(rivals, 25)
        assert statuses.count(429) == max(0, rivals - 25)


@pytest.mark.usefixtures("log")
class TestAnAddress:
    async def test_that_fails_to_authenticate_is_told_how_often_it_may(self) -> None:
        async with limited(per_failing_address={60: 2}) as ada:
            answer = await ada.get("/api/tasks", headers=NOBODY)
        assert answer.status_code == 401
        assert answer.headers["RateLimit"] == '"auth-failures";r=1;t=60'
        assert answer.headers["RateLimit-Policy"] == '"auth-failures";q=2;w=60'

    @pytest.mark.parametrize("authorization", ["Bearer nobody", "", "Basic x"])
    async def test_that_fails_too_often_gets_429(self, authorization: str) -> None:
        async with limited(per_failing_address={60: 2}) as ada:
            headers = {"Authorization": authorization}
            answers = [await ada.get("/api/tasks", headers=headers) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [401, 401, 429, 429]
        assert answers[-1].headers["Retry-After"] == "60"
        assert "WWW-Authenticate" not in answers[-1].headers

    async def test_that_fails_too_often_is_heard_with_a_valid_token(self) -> None:
        async with limited(per_failing_address={60: 0}) as ada:
            assert (await ada.get("/api/tasks", headers=NOBODY)).status_code == 429
            assert (await ada.get("/api/tasks")).status_code == 200

    async def test_that_succeeds_is_not_counted(self) -> None:
        async with limited({60: 1000}, {60: 1}) as ada:
            for _ in range(5):
                await ada.get("/api/tasks")
            assert (await ada.get("/api/tasks", headers=NOBODY)).status_code == 401

    async def test_cannot_choose_what_it_is_counted_by(self) -> None:
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

    async def test_is_not_counted_while_no_token_can_be_judged(self) -> None:
        limiter = InMemoryRateLimiter({PER_FAILING_ADDRESS: {60: 0}})
        tokens = FakeTokenVerifier("ada", has_keys=False)
        async with served(tokens=tokens, limiter=limiter) as app, client(app, "ada") as ada:
            assert (await ada.get("/api/tasks")).status_code == 503


@pytest.mark.usefixtures("log")
class TestWhatIsNotLimited:
    @pytest.mark.parametrize(
        "path", ["/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json", "/nowhere"]
    )
    async def test_is_what_needs_no_token(self, path: str) -> None:
        async with limited({60: 0}, {60: 0}) as ada:
            for _ in range(3):
                answer = await ada.get(path)
                assert answer.status_code in {200, 404}
                assert "RateLimit" not in answer.headers

    async def test_are_preflights(self) -> None:
        asked = {"Origin": FRONTEND, "Access-Control-Request-Method": "POST"}
        async with limited({60: 0}, {60: 0}) as ada:
            assert (await ada.options("/api/tasks", headers=asked)).status_code == 204

    async def test_is_anything_where_limits_are_off(self) -> None:
        async with limited() as ada:
            answers = [await ada.get("/api/tasks") for _ in range(50)]
        assert {answer.status_code for answer in answers} == {200}
        assert not any("RateLimit" in answer.headers for answer in answers)


class TestTheLog:
    async def test_tells_which_limit_was_reached(self, log: list[EventDict]) -> None:
        async with limited({60: 0}, {60: 0}) as ada:
            await ada.get("/api/tasks")
            await ada.get("/api/tasks", headers=NOBODY)
        told = [entry for entry in log if entry["event"] == "rate_limited"]
        assert [(entry["log_level"], entry["policy"]) for entry in told] == [
            ("warning", "user"),
            ("warning", "auth-failures"),
        ]


async def test_the_fields_are_the_drafts_structured_lists_of_strings_with_integers() -> None:
    item = r'"[a-z0-9-]+"(;[a-z]=\d{1,15})+'
    limiter = LimitsRateLimiter({PER_USER: "10/second;600/minute"})
    async with served(limiter=limiter) as app, client(app, "ada") as ada:
        answer = await ada.get("/api/tasks")
    for name in ("RateLimit", "RateLimit-Policy"):
        assert re.fullmatch(f"{item}(, {item})*", answer.headers[name])


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("testclient", "unknown"),
    ],
)
def test_failures_are_counted_by_what_a_stranger_cannot_choose(address: str, network: str) -> None:
    assert client_network(Request({"type": "http", "client": (address, 1)})) == network
