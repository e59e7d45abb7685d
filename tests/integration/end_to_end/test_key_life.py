"""Key rotation, withdrawal and failures of a real Better Auth."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from structlog.testing import capture_logs

from support import better_auth
from support.better_auth import PATIENCE, BetterAuth, Session
from support.jose_tokens import b64, to_json
from support.service import PROGRAM, Sandbox, Service, eventually
from todo_adapters.jose.key_sets import (
    MAX_STALE,
    REFETCH_BURST,
    REFETCH_INTERVAL,
    REFRESH_AFTER,
    RETRY_WITHOUT_KEYS,
    RemoteKeySet,
)
from todo_adapters.jose.verifiers import JwksTokenVerifier
from todo_adapters.postgres.url import DatabaseUrl
from todo_domain.errors import AuthKeysUnavailable, TokenRejected

HOUR: Final = 3600
FAILURES: Final = {
    "down": "unreachable",
    "slow": "timeout",
    "garbage": "no key set: Expecting value",
    "huge": "no key set: too large",
    "empty": "no usable key: empty set",
    "limited": "status 429",
}
every_failure = pytest.mark.parametrize("how", FAILURES)

Log = list[MutableMapping[str, Any]]


class Verifier:
    """The service's token verifier, with a clock for the key set that a test advances."""

    def __init__(self, issuer: BetterAuth, client: httpx.AsyncClient, log: Log) -> None:
        self.time = 1000.0
        self.keys = RemoteKeySet(
            issuer.jwks_url,
            ("EdDSA", "ES256", "RS256"),
            client=client,
            timeout=0.5,
            clock=lambda: self.time,
        )
        self._tokens = JwksTokenVerifier(self.keys, issuer=issuer.name, audience=issuer.name)
        self._log = log

    async def user(self, token: str) -> str:
        """The user id of a valid token."""
        return (await self._tokens.verify(token, datetime.now(UTC))).user_id

    async def refresh_keys(self) -> None:
        """Start the refresh that is due after REFRESH_AFTER, and wait for its end."""
        self.time += REFRESH_AFTER
        events = len(self._log)
        await self.keys.check()
        async with asyncio.timeout(10):
            while len(self._log) == events:  # noqa: ASYNC110 - the refresh sets no event
                await asyncio.sleep(0.005)


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    better_auth.install()


@pytest.fixture(scope="module")
async def node() -> AsyncIterator[BetterAuth]:
    async with better_auth.better_auth() as node:
        yield node


@pytest.fixture
async def issuer(node: BetterAuth) -> BetterAuth:
    """A new installation whose keys sign for one hour and are published for two hours."""
    await node.install(rotationInterval=HOUR, gracePeriod=HOUR)
    return node


@pytest.fixture
async def ada(issuer: BetterAuth) -> Session:
    return await issuer.sign_up()


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
        yield client


@pytest.fixture(autouse=True)
def log() -> Iterator[Log]:
    with capture_logs() as log:
        yield log


@pytest.fixture
async def verifier(
    issuer: BetterAuth, client: httpx.AsyncClient, log: Log
) -> AsyncIterator[Verifier]:
    verifier = Verifier(issuer, client, log)
    yield verifier
    await verifier.keys.aclose()


@pytest.fixture(scope="module")
async def database_url(branch: Callable[[str], Awaitable[DatabaseUrl]]) -> str:
    address = await branch("key_life")
    return address.url.set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture
def service(sandbox: Sandbox, database_url: str, issuer: BetterAuth) -> Iterator[Service]:
    """The service before its first request."""
    with sandbox.start(
        *(PROGRAM, "serve"),
        DATABASE_URL=database_url,
        BETTER_AUTH_URL=issuer.origin,
        RATE_LIMIT_AUTH_FAILURES="off",
    ) as service:
        assert eventually(service.listens)
        yield service


def with_unknown_kid(token: str) -> str:
    """The token with a ``kid`` that is not in the key set."""
    _, claims, signature = token.split(".")
    return f"{b64(to_json(better_auth.header(token) | {'kid': uuid4().hex}))}.{claims}.{signature}"


# --- Rotation ---


async def test_the_first_token_of_a_new_key_is_accepted(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    old = await ada.jwt()
    await verifier.user(old)
    await issuer.age_keys(HOUR)
    new = await ada.jwt()
    assert better_auth.header(new)["kid"] != better_auth.header(old)["kid"]
    assert await verifier.user(new) == ada.user["id"]
    assert await issuer.fetches() == 2


async def test_a_token_of_a_cached_key_needs_no_fetch(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    await verifier.user(await ada.jwt())
    bob = await issuer.sign_up("bob@example.com")
    assert await verifier.user(await bob.jwt()) == bob.user["id"]
    assert await issuer.fetches() == 1


async def test_an_old_key_is_accepted_during_its_grace_period(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    old = await ada.jwt()
    await issuer.age_keys(2 * HOUR - 60)
    await ada.jwt()
    assert await verifier.user(old) == ada.user["id"]


async def test_an_old_key_is_rejected_after_its_grace_period(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    old = await ada.jwt()
    await verifier.user(old)
    await issuer.age_keys(2 * HOUR)
    await verifier.user(await ada.jwt())
    with pytest.raises(TokenRejected, match="kid_unknown"):
        await verifier.user(old)


async def test_a_cached_token_is_rejected_after_a_refresh_without_its_key(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    old = await ada.jwt()
    await verifier.user(old)
    await issuer.age_keys(2 * HOUR)
    await ada.jwt()
    await verifier.refresh_keys()
    with pytest.raises(TokenRejected, match="kid_unknown"):
        await verifier.user(old)


async def test_tokens_of_many_keys_need_one_fetch(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    await issuer.configure(rotationInterval=HOUR, gracePeriod=100 * HOUR)
    tokens = []
    for _ in range(24):
        tokens.append(await ada.jwt())
        await issuer.age_keys(HOUR)
    assert len({better_auth.header(token)["kid"] for token in tokens}) == 24
    assert {await verifier.user(token) for token in tokens} == {ada.user["id"]}
    assert await issuer.fetches() == 1


async def test_the_keys_of_a_cold_start_race_of_the_issuer_are_accepted(
    issuer: BetterAuth, verifier: Verifier, client: httpx.AsyncClient
) -> None:
    await issuer.install(algorithm="RS256")
    await asyncio.gather(*(client.get(issuer.jwks_url) for _ in range(8)))
    assert len((await client.get(issuer.jwks_url)).json()["keys"]) > 1
    ada = await issuer.sign_up()
    assert await verifier.user(await ada.jwt()) == ada.user["id"]


# --- Change of algorithm or database ---


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
async def test_after_a_change_of_algorithm_old_and_new_tokens_are_accepted(
    issuer: BetterAuth, ada: Session, verifier: Verifier, algorithm: str
) -> None:
    old = await ada.jwt()
    await verifier.user(old)
    await issuer.configure(algorithm=algorithm, rotationInterval=HOUR)
    await issuer.age_keys(HOUR)
    new = await ada.jwt()
    assert (better_auth.header(old)["alg"], better_auth.header(new)["alg"]) == ("EdDSA", algorithm)
    assert await verifier.user(new) == ada.user["id"]
    assert await verifier.user(old) == ada.user["id"]


async def test_a_change_of_algorithm_takes_effect_at_the_next_rotation(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    await ada.jwt()
    await issuer.configure(algorithm="ES256", rotationInterval=HOUR)
    token = await ada.jwt()
    assert better_auth.header(token)["alg"] == "EdDSA"
    assert await verifier.user(token) == ada.user["id"]


async def test_after_a_change_to_an_algorithm_that_is_not_allowed_the_old_key_is_accepted(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    old = await ada.jwt()
    await issuer.configure(algorithm="ES512", rotationInterval=HOUR)
    await issuer.age_keys(HOUR)
    with pytest.raises(TokenRejected, match="kid_unknown"):
        await verifier.user(await ada.jwt())
    assert await verifier.user(old) == ada.user["id"]


@pytest.mark.parametrize("algorithm", ["ES512", "PS256"])
async def test_a_key_set_without_an_allowed_algorithm_has_no_usable_key(
    issuer: BetterAuth, verifier: Verifier, algorithm: str
) -> None:
    await issuer.install(algorithm=algorithm)
    ada = await issuer.sign_up()
    with pytest.raises(AuthKeysUnavailable, match="no usable key: algorithm is not allowed here"):
        await verifier.user(await ada.jwt())


async def test_after_a_database_reset_new_tokens_are_accepted_and_old_ones_rejected(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    old = await ada.jwt()
    await verifier.user(old)
    await issuer.install()
    ada = await issuer.sign_up()
    assert await verifier.user(await ada.jwt()) == ada.user["id"]
    with pytest.raises(TokenRejected, match="kid_unknown"):
        await verifier.user(old)


async def first_token(issuer: BetterAuth, **options: str) -> str:
    """The token of the first user of a new database with serial ids: its ``kid`` is 1."""
    await issuer.install(ids="serial", **options)
    token = await (await issuer.sign_up()).jwt()
    assert better_auth.header(token)["kid"] == "1"
    return token


async def test_a_new_key_under_a_used_kid_is_accepted(
    issuer: BetterAuth, verifier: Verifier
) -> None:
    await verifier.user(await first_token(issuer))
    assert await verifier.user(await first_token(issuer)) == "1"


async def test_a_new_key_under_a_used_kid_replaces_the_old_one(
    issuer: BetterAuth, verifier: Verifier
) -> None:
    old = await first_token(issuer)
    await verifier.user(old)
    new = await first_token(issuer)
    await verifier.refresh_keys()
    assert await verifier.user(new) == "1"
    with pytest.raises(TokenRejected, match="signature"):
        await verifier.user(old)


async def test_a_key_of_another_algorithm_under_a_used_kid_replaces_the_old_one(
    issuer: BetterAuth, verifier: Verifier
) -> None:
    old = await first_token(issuer)
    await verifier.user(old)
    new = await first_token(issuer, algorithm="RS256")
    await verifier.refresh_keys()
    assert await verifier.user(new) == "1"
    with pytest.raises(TokenRejected, match="algorithm_of_key"):
        await verifier.user(old)


# --- Unknown kid ---


async def test_three_hundred_unknown_kids_cause_at_most_the_burst_of_fetches(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    token = await ada.jwt()
    await verifier.user(token)
    for _ in range(300):
        with pytest.raises(TokenRejected, match="kid_unknown"):
            await verifier.user(with_unknown_kid(token))
    assert await verifier.user(token) == ada.user["id"]
    assert await issuer.fetches() == 1 + REFETCH_BURST


async def test_after_a_flood_a_new_key_is_found_after_the_interval(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    token = await ada.jwt()
    for _ in range(10):
        with pytest.raises(TokenRejected, match="kid_unknown"):
            await verifier.user(with_unknown_kid(token))
    await issuer.age_keys(HOUR)
    verifier.time += REFETCH_INTERVAL
    assert await verifier.user(await ada.jwt()) == ada.user["id"]


# --- Failures of the issuer ---


@every_failure
async def test_cached_keys_are_used_while_the_issuer_fails(
    how: str, issuer: BetterAuth, ada: Session, verifier: Verifier, log: Log
) -> None:
    await verifier.user(await ada.jwt())
    bob = await issuer.sign_up("bob@example.com")
    await issuer.fail(how)
    await verifier.refresh_keys()
    assert log[-1]["reason"].startswith(FAILURES[how])
    assert await verifier.user(await bob.jwt()) == bob.user["id"]


@every_failure
async def test_without_keys_verification_is_unavailable_until_the_issuer_recovers(
    how: str, issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    token = await ada.jwt()
    await issuer.fail(how)
    with pytest.raises(AuthKeysUnavailable, match=FAILURES[how]):
        await verifier.user(token)
    await issuer.configure()
    verifier.time += RETRY_WITHOUT_KEYS
    assert await verifier.user(token) == ada.user["id"]


async def test_cached_keys_are_not_used_after_max_stale(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    token = await ada.jwt()
    await verifier.user(token)
    await issuer.fail("down")
    verifier.time += MAX_STALE
    with pytest.raises(AuthKeysUnavailable, match="unreachable"):
        await verifier.user(token)


async def test_the_rate_limit_of_better_auth_is_a_failed_fetch(
    issuer: BetterAuth, verifier: Verifier, client: httpx.AsyncClient
) -> None:
    await issuer.install(jwksPerMinute=1)
    token = await (await issuer.sign_up()).jwt()
    statuses = [(await client.get(issuer.jwks_url)).status_code for _ in range(2)]
    assert statuses == [200, 429]
    with pytest.raises(AuthKeysUnavailable, match="status 429"):
        await verifier.user(token)


async def test_connection_and_keys_survive_a_restart_of_the_issuer(
    client: httpx.AsyncClient, log: Log
) -> None:
    async with better_auth.better_auth() as issuer:
        verifier = Verifier(issuer, client, log)
        old = await (await issuer.sign_up()).jwt()
        await verifier.user(old)
    await verifier.refresh_keys()
    await verifier.user(old)
    async with better_auth.better_auth(port=issuer.port) as issuer:
        ada = await issuer.sign_up()
        assert await verifier.user(await ada.jwt()) == ada.user["id"]
        with pytest.raises(TokenRejected, match="kid_unknown"):
            await verifier.user(old)


# --- The service ---


async def get_tasks(service: Service, *tokens: str) -> list[httpx.Response]:
    """The responses to concurrent requests, one per token."""
    async with httpx.AsyncClient(base_url=service.url, timeout=PATIENCE, trust_env=False) as client:
        return await asyncio.gather(
            *(
                client.get("/api/tasks", headers={"Authorization": f"Bearer {token}"})
                for token in tokens
            )
        )


async def test_fifty_concurrent_first_requests_cause_one_fetch(
    service: Service, issuer: BetterAuth, ada: Session
) -> None:
    responses = await get_tasks(service, *[await ada.jwt()] * 50)
    assert {response.status_code for response in responses} == {200}
    assert await issuer.fetches() == 1


async def test_a_rotation_fails_no_request(
    service: Service, issuer: BetterAuth, ada: Session
) -> None:
    old = await ada.jwt()
    await get_tasks(service, old)
    await issuer.age_keys(HOUR)
    responses = await get_tasks(service, old, *[await ada.jwt()] * 9)
    assert {response.status_code for response in responses} == {200}
    assert await issuer.fetches() == 2


async def test_a_flood_of_unknown_kids_fails_no_valid_request_and_causes_few_fetches(
    service: Service, issuer: BetterAuth, ada: Session
) -> None:
    token = await ada.jwt()
    await get_tasks(service, token)
    started = time.monotonic()
    responses = await get_tasks(
        service, *(with_unknown_kid(token) for _ in range(300)), *[token] * 10
    )
    intervals = (time.monotonic() - started) / REFETCH_INTERVAL
    assert [response.status_code for response in responses] == [401] * 300 + [200] * 10
    assert await issuer.fetches() <= 1 + REFETCH_BURST + intervals


async def test_a_slow_fetch_is_ended_by_the_timeout_and_repeated_later(
    service: Service, issuer: BetterAuth, ada: Session
) -> None:
    token = await ada.jwt()
    await issuer.fail("slow")
    (response,) = await get_tasks(service, token)
    assert (response.status_code, response.json()["code"]) == (503, "auth_keys_unavailable")
    await issuer.configure()
    with service.client(token) as client:
        assert eventually(lambda: client.get("/api/tasks").is_success)


async def test_the_service_works_while_its_issuer_is_down(
    sandbox: Sandbox, database_url: str
) -> None:
    async with better_auth.better_auth() as issuer:
        token = await (await issuer.sign_up()).jwt()
    with sandbox.serving(
        "serve",
        DATABASE_URL=database_url,
        BETTER_AUTH_URL=issuer.origin,
        RATE_LIMIT_AUTH_FAILURES="off",
    ) as service:
        (response,) = await get_tasks(service, token)
        assert (response.status_code, response.json()["code"]) == (503, "auth_keys_unavailable")
        assert int(response.headers["Retry-After"]) > 0
        assert service.health().status_code == 503

        async with better_auth.better_auth(port=issuer.port) as issuer:
            seen = await (await issuer.sign_up()).jwt()
            unseen = await (await issuer.sign_up("bob@example.com")).jwt()
            with service.client(seen) as client:
                assert eventually(lambda: client.get("/api/tasks").is_success)

        assert {response.status_code for response in await get_tasks(service, seen, unseen)} == {
            200
        }
        assert service.health().is_success
