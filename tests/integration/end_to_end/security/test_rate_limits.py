"""Rate limits of the running service: the same in one process, and in Redis for all of them."""

import asyncio
import itertools
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from support.frontend import AUTH_SETTINGS, as_user
from support.redis_server import RedisServer, redis_server
from support.service import Sandbox, Service, eventually
from todo_adapters.postgres.url import DatabaseUrl

QUOTA: Final = 10
WINDOW: Final = 3600  # seconds, longer than any test
LIMITS: Final = {
    "RATE_LIMIT": f"{QUOTA}/hour",
    "RATE_LIMIT_AUTH_FAILURES": f"{QUOTA}/hour",
    "FORWARDED_ALLOW_IPS": "127.0.0.1",
}
RIVALS: Final = 50
BURST: Final = 24 * QUOTA
GOOD: Final = "/api/me"


@pytest.fixture(scope="module")
async def settings(
    server_url: str, branch: Callable[[str], Awaitable[DatabaseUrl]]
) -> dict[str, str]:
    await branch("limited")
    return {
        "DATABASE_URL": urlsplit(server_url)._replace(path="/limited").geturl(),
        **AUTH_SETTINGS,
        **LIMITS,
    }


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def alone(sandbox: Sandbox, settings: dict[str, str]) -> Iterator[Service]:
    """One process that counts for itself."""
    with sandbox.serving("serve", **settings) as service:
        yield service


@pytest.fixture(scope="module")
def together(
    sandbox: Sandbox, settings: dict[str, str], redis: RedisServer
) -> Iterator[list[Service]]:
    """Two services, one of them with two workers, that count in Redis."""
    shared = settings | {"REDIS_URL": redis.url}
    with ExitStack() as running:
        yield [
            running.enter_context(sandbox.serving("serve", **shared, WORKERS=workers))
            for workers in ("2", "1")
        ]


@pytest.fixture(params=["one process", "Redis, two services, three workers"])
def services(request: pytest.FixtureRequest) -> list[Service]:
    if request.param == "one process":
        return [request.getfixturevalue("alone")]
    together: list[Service] = request.getfixturevalue("together")
    return together


@pytest.fixture
def user() -> dict[str, str]:
    """The headers of somebody who has never asked before."""
    return as_user(uuid4().hex)


@pytest.fixture
def stranger() -> dict[str, str]:
    """The headers of somebody without a token, behind the proxy, at an address of their own."""
    return {"X-Forwarded-For": str(IPv6Address(uuid4().int))}


async def rush(services: list[Service], headers: dict[str, str], requests: int) -> Counter[int]:
    """How often each status was answered to so many requests at once."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"GET {GOOD} HTTP/1.1\r\nHost: todo\r\nConnection: close\r\n{fields}\r\n".encode()
    ports = [services[number % len(services)].port for number in range(requests)]
    return Counter(await asyncio.gather(*(status_of(port, request) for port in ports)))


async def status_of(port: int, request: bytes) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(answer.split(maxsplit=2)[1])


def ask(service: Service, headers: dict[str, str], path: str = GOOD) -> httpx.Response:
    with service.client() as client:
        return client.get(path, headers=headers)


def exhaust(service: Service, headers: dict[str, str]) -> list[int]:
    """The statuses of one request more than the quota allows."""
    with service.client() as client:
        return [client.get(GOOD, headers=headers).status_code for _ in range(QUOTA + 1)]


def events(service: Service, name: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in service.stdout.splitlines()]
    return [line for line in lines if line["event"] == name]


def metric(service: Service, name: str) -> float:
    text = ask(service, {}, "/metrics").text
    return float(re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)[0])


class TestBoundary:
    @pytest.mark.parametrize("requests", [RIVALS, BURST])
    async def test_of_a_users_rivals_exactly_the_quota_is_served(
        self, services: list[Service], user: dict[str, str], requests: int
    ) -> None:
        assert await rush(services, user, requests) == {200: QUOTA, 429: requests - QUOTA}

    @pytest.mark.parametrize("requests", [RIVALS, BURST])
    async def test_of_an_addresss_failures_exactly_the_quota_is_told_why(
        self, services: list[Service], stranger: dict[str, str], requests: int
    ) -> None:
        assert await rush(services, stranger, requests) == {401: QUOTA, 429: requests - QUOTA}


class TestAddress:
    def test_is_the_last_one_that_no_believed_proxy_has(
        self, alone: Service, stranger: dict[str, str]
    ) -> None:
        own = stranger["X-Forwarded-For"]
        for number in range(QUOTA):
            invented = {"X-Forwarded-For": f"192.0.2.{number}, {own}, 127.0.0.1"}
            assert ask(alone, invented).status_code == 401
        assert ask(alone, stranger).status_code == 429

    def test_is_the_peers_where_no_proxy_is_believed(
        self, sandbox: Sandbox, settings: dict[str, str]
    ) -> None:
        claims = itertools.cycle(["X-Forwarded-For", "X-Real-IP", "Forwarded", "Client-IP"])
        with sandbox.serving("serve", **settings | {"FORWARDED_ALLOW_IPS": ""}) as service:
            spoofed = [ask(service, {next(claims): f"192.0.2.{n}"}) for n in range(QUOTA + 1)]
            assert [answer.status_code for answer in spoofed] == [*[401] * QUOTA, 429]
            assert {line["client"] for line in events(service, "request")} == {"127.0.0.1"}


class TestRedis:
    def test_may_go_and_come_back_while_the_service_goes_on(
        self, sandbox: Sandbox, settings: dict[str, str]
    ) -> None:
        with (
            redis_server() as redis,
            sandbox.serving("serve", **settings, REDIS_URL=redis.url) as service,
        ):
            assert ask(service, as_user("before")).status_code == 200
            assert redis.keys() == 1

            assert metric(service, "todo_rate_limit_shared") == 1

            redis.kill()
            assert exhaust(service, as_user("during")) == [*[200] * QUOTA, 429]
            assert metric(service, "todo_rate_limit_shared") == 0
            told = events(service, "rate_limit.storage_unavailable")
            assert [line["level"] for line in told] == ["error"]

            redis.start()
            assert eventually(
                lambda: ask(service, as_user(uuid4().hex)).is_success and redis.keys()
            )

            redis.pause()
            assert exhaust(service, as_user("silence")) == [*[200] * QUOTA, 429]
            assert len(events(service, "rate_limit.storage_unavailable")) == 2

    @pytest.mark.parametrize(
        "url",
        ["redis://127.0.0.1:port", "redis://127.0.0.1?no_such=option", "memcached://127.0.0.1"],
    )
    def test_whose_url_cannot_be_meant_keeps_the_service_from_starting(
        self, sandbox: Sandbox, settings: dict[str, str], alone: Service, url: str
    ) -> None:
        taken = {"PORT": str(alone.port)}  # so that it does not start either way
        result = sandbox.todo_api("serve", **settings, **taken, REDIS_URL=url)
        assert result.returncode == 1
        assert "REDIS_URL" in result.stderr
        assert "Traceback" not in result.stderr
