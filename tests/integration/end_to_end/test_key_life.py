"""The life of an auth server's keys, as a real Better Auth leads it."""

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
from support.jose_tokens import b64, written
from support.service import PROGRAM, Service, Workplace, eventually
from todo_adapters.jose.key_sets import (
    MAX_STALE,
    REFETCH_INTERVAL,
    REFETCHES,
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
    """The service's judge of tokens, with a clock for its keys that a test moves on."""

    def __init__(self, issuer: BetterAuth, client: httpx.AsyncClient, log: Log) -> None:
        self.time = 1000.0
        self.keys = RemoteKeySet(
            issuer.jwks_url, client=client, timeout=0.5, clock=lambda: self.time
        )
        self._tokens = JwksTokenVerifier(self.keys, issuer=issuer.name, audience=issuer.name)
        self._log = log

    async def user(self, token: str) -> str:
        """For whom the token speaks."""
        return (await self._tokens.verify(token, datetime.now(UTC))).user_id

    async def renew_keys(self) -> None:
        """Let the keys come of age, and the fetch end that this begins."""
        self.time += REFRESH_AFTER
        events = len(self._log)
        await self.keys.check()
        async with asyncio.timeout(10):
            while len(self._log) == events:  # noqa: ASYNC110 - its end has no event
                await asyncio.sleep(0.005)


@pytest.fixture(scope="module", autouse=True)
def installed(pytestconfig: pytest.Config) -> None:
    better_auth.install(pytestconfig)


@pytest.fixture(scope="module")
async def node() -> AsyncIterator[BetterAuth]:
    async with better_auth.better_auth() as node:
        yield node


@pytest.fixture
async def issuer(node: BetterAuth) -> BetterAuth:
    """A new installation whose keys sign for an hour and are published for one more."""
    await node.install(rotationInterval=HOUR, gracePeriod=HOUR)
    return node


@pytest.fixture
async def ada(issuer: BetterAuth) -> Session:
    return await issuer.sign_up()


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
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
def service(place: Workplace, database_url: str, issuer: BetterAuth) -> Iterator[Service]:
    """The service, of which nobody has asked anything yet."""
    with place.start(
        *(PROGRAM, "serve"),
        DATABASE_URL=database_url,
        BETTER_AUTH_URL=issuer.origin,
        RATE_LIMIT_AUTH_FAILURES="off",
    ) as service:
        assert eventually(service.listens)
        yield service


def of_unknown_key(token: str) -> str:
    """The token as if a key that nobody has published had signed it."""
    _, claims, signature = token.split(".")
    return f"{b64(written(better_auth.header(token) | {'kid': uuid4().hex}))}.{claims}.{signature}"


# --- Rotation ---


async def test_the_first_token_of_an_unseen_key_is_accepted_at_once(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    old = await ada.jwt()
    await verifier.user(old)
    await issuer.age_keys(HOUR)
    new = await ada.jwt()
    assert better_auth.header(new)["kid"] != better_auth.header(old)["kid"]
    assert await verifier.user(new) == ada.user["id"]
    assert await issuer.fetches() == 2


async def test_a_token_of_a_known_key_needs_no_fetch(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    await verifier.user(await ada.jwt())
    bob = await issuer.sign_up("bob@example.com")
    assert await verifier.user(await bob.jwt()) == bob.user["id"]
    assert await issuer.fetches() == 1


async def test_an_old_key_serves_within_its_grace(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    old = await ada.jwt()
    await issuer.age_keys(2 * HOUR - 60)
    await ada.jwt()
    assert await verifier.user(old) == ada.user["id"]


async def test_an_old_key_is_gone_after_its_grace(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    old = await ada.jwt()
    await verifier.user(old)
    await issuer.age_keys(2 * HOUR)
    await verifier.user(await ada.jwt())
    with pytest.raises(TokenRejected, match="kid_unknown"):
        await verifier.user(old)


async def test_a_remembered_token_ends_with_the_renewal_after_its_keys_grace(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    old = await ada.jwt()
    await verifier.user(old)
    await issuer.age_keys(2 * HOUR)
    await ada.jwt()
    await verifier.renew_keys()
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


async def test_the_keys_that_an_issuer_makes_in_its_own_cold_start_race_are_all_good(
    issuer: BetterAuth, verifier: Verifier, client: httpx.AsyncClient
) -> None:
    await issuer.install(algorithm="RS256")
    await asyncio.gather(*(client.get(issuer.jwks_url) for _ in range(8)))
    assert len((await client.get(issuer.jwks_url)).json()["keys"]) > 1
    ada = await issuer.sign_up()
    assert await verifier.user(await ada.jwt()) == ada.user["id"]


# --- Another algorithm, another database ---


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


async def test_a_change_of_algorithm_waits_for_the_next_rotation(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    await ada.jwt()
    await issuer.configure(algorithm="ES256", rotationInterval=HOUR)
    token = await ada.jwt()
    assert better_auth.header(token)["alg"] == "EdDSA"
    assert await verifier.user(token) == ada.user["id"]


async def test_a_change_to_an_algorithm_that_is_not_allowed_leaves_the_old_key_in_use(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    old = await ada.jwt()
    await issuer.configure(algorithm="ES512", rotationInterval=HOUR)
    await issuer.age_keys(HOUR)
    with pytest.raises(TokenRejected, match="kid_unknown"):
        await verifier.user(await ada.jwt())
    assert await verifier.user(old) == ada.user["id"]


@pytest.mark.parametrize("algorithm", ["ES512", "PS256"])
async def test_keys_of_an_algorithm_that_is_not_allowed_are_no_keys(
    issuer: BetterAuth, verifier: Verifier, algorithm: str
) -> None:
    await issuer.install(algorithm=algorithm)
    ada = await issuer.sign_up()
    with pytest.raises(AuthKeysUnavailable, match="no usable key: algorithm is not allowed here"):
        await verifier.user(await ada.jwt())


async def test_after_a_new_database_its_tokens_are_accepted_at_once_and_the_old_ones_no_more(
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
    """The token of the first user of a new database that counts, under the first key's name."""
    await issuer.install(ids="serial", **options)
    token = await (await issuer.sign_up()).jwt()
    assert better_auth.header(token)["kid"] == "1"
    return token


async def test_a_new_key_under_an_old_name_is_accepted_at_once(
    issuer: BetterAuth, verifier: Verifier
) -> None:
    await verifier.user(await first_token(issuer))
    assert await verifier.user(await first_token(issuer)) == "1"


async def test_a_new_key_under_an_old_name_replaces_the_old_one(
    issuer: BetterAuth, verifier: Verifier
) -> None:
    old = await first_token(issuer)
    await verifier.user(old)
    new = await first_token(issuer)
    await verifier.renew_keys()
    assert await verifier.user(new) == "1"
    with pytest.raises(TokenRejected, match="signature"):
        await verifier.user(old)


async def test_a_key_of_another_algorithm_under_an_old_name_replaces_the_old_one(
    issuer: BetterAuth, verifier: Verifier
) -> None:
    old = await first_token(issuer)
    await verifier.user(old)
    new = await first_token(issuer, algorithm="RS256")
    await verifier.renew_keys()
    assert await verifier.user(new) == "1"
    with pytest.raises(TokenRejected, match="algorithm_of_key"):
        await verifier.user(old)


# --- Strangers ---


async def test_three_hundred_unknown_keys_cost_the_issuer_a_few_fetches(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    token = await ada.jwt()
    await verifier.user(token)
    for _ in range(300):
        with pytest.raises(TokenRejected, match="kid_unknown"):
            await verifier.user(of_unknown_key(token))
    assert await verifier.user(token) == ada.user["id"]
    assert await issuer.fetches() == 1 + REFETCHES


async def test_even_after_a_flood_a_new_key_is_known_when_the_interval_is_over(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    token = await ada.jwt()
    for _ in range(10):
        with pytest.raises(TokenRejected, match="kid_unknown"):
            await verifier.user(of_unknown_key(token))
    await issuer.age_keys(HOUR)
    verifier.time += REFETCH_INTERVAL
    assert await verifier.user(await ada.jwt()) == ada.user["id"]


# --- When the issuer fails ---


@every_failure
async def test_known_keys_serve_while_the_issuer_fails(
    how: str, issuer: BetterAuth, ada: Session, verifier: Verifier, log: Log
) -> None:
    await verifier.user(await ada.jwt())
    bob = await issuer.sign_up("bob@example.com")
    await issuer.fail(how)
    await verifier.renew_keys()
    assert log[-1]["reason"].startswith(FAILURES[how])
    assert await verifier.user(await bob.jwt()) == bob.user["id"]


@every_failure
async def test_without_keys_nobody_is_refused_and_the_service_recovers_by_itself(
    how: str, issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    token = await ada.jwt()
    await issuer.fail(how)
    with pytest.raises(AuthKeysUnavailable, match=FAILURES[how]):
        await verifier.user(token)
    await issuer.configure()
    verifier.time += RETRY_WITHOUT_KEYS
    assert await verifier.user(token) == ada.user["id"]


async def test_known_keys_do_not_outlive_an_issuer_by_more_than_hours(
    issuer: BetterAuth, ada: Session, verifier: Verifier
) -> None:
    token = await ada.jwt()
    await verifier.user(token)
    await issuer.fail("down")
    verifier.time += MAX_STALE
    with pytest.raises(AuthKeysUnavailable, match="unreachable"):
        await verifier.user(token)


async def test_better_auths_own_rate_limit_is_a_failure_like_any_other(
    issuer: BetterAuth, verifier: Verifier, client: httpx.AsyncClient
) -> None:
    await issuer.install(jwksPerMinute=1)
    token = await (await issuer.sign_up()).jwt()
    strangers = [(await client.get(issuer.jwks_url)).status_code for _ in range(2)]
    assert strangers == [200, 429]
    with pytest.raises(AuthKeysUnavailable, match="status 429"):
        await verifier.user(token)


async def test_a_restart_of_the_issuer_is_survived_by_connection_and_keys(
    client: httpx.AsyncClient, log: Log
) -> None:
    async with better_auth.better_auth() as issuer:
        verifier = Verifier(issuer, client, log)
        old = await (await issuer.sign_up()).jwt()
        await verifier.user(old)
    await verifier.renew_keys()
    await verifier.user(old)
    async with better_auth.better_auth(port=issuer.port) as issuer:
        ada = await issuer.sign_up()
        assert await verifier.user(await ada.jwt()) == ada.user["id"]
        with pytest.raises(TokenRejected, match="kid_unknown"):
            await verifier.user(old)


# --- The service itself ---


async def asked(service: Service, *tokens: str) -> list[httpx.Response]:
    """What the bearers are answered who ask for their tasks at the same time."""
    async with httpx.AsyncClient(base_url=service.url, timeout=PATIENCE, trust_env=False) as client:
        return await asyncio.gather(
            *(
                client.get("/api/tasks", headers={"Authorization": f"Bearer {token}"})
                for token in tokens
            )
        )


async def test_fifty_first_requests_at_once_make_one_fetch(
    service: Service, issuer: BetterAuth, ada: Session
) -> None:
    answers = await asked(service, *[await ada.jwt()] * 50)
    assert {answer.status_code for answer in answers} == {200}
    assert await issuer.fetches() == 1


async def test_users_notice_nothing_of_a_rotation(
    service: Service, issuer: BetterAuth, ada: Session
) -> None:
    old = await ada.jwt()
    await asked(service, old)
    await issuer.age_keys(HOUR)
    answers = await asked(service, old, *[await ada.jwt()] * 9)
    assert {answer.status_code for answer in answers} == {200}
    assert await issuer.fetches() == 2


async def test_users_and_issuer_notice_little_of_a_flood_of_unknown_keys(
    service: Service, issuer: BetterAuth, ada: Session
) -> None:
    token = await ada.jwt()
    await asked(service, token)
    begun = time.monotonic()
    answers = await asked(service, *(of_unknown_key(token) for _ in range(300)), *[token] * 10)
    intervals = (time.monotonic() - begun) / REFETCH_INTERVAL
    assert [answer.status_code for answer in answers] == [401] * 300 + [200] * 10
    assert await issuer.fetches() <= 1 + REFETCHES + intervals


async def test_an_issuer_that_dribbles_is_given_up_in_time_and_asked_again(
    service: Service, issuer: BetterAuth, ada: Session
) -> None:
    token = await ada.jwt()
    await issuer.fail("slow")
    (answer,) = await asked(service, token)
    assert (answer.status_code, answer.json()["code"]) == (503, "auth_keys_unavailable")
    await issuer.configure()
    with service.client(token) as bearer:
        assert eventually(lambda: bearer.get("/api/tasks").is_success)


async def test_a_service_lives_through_the_absence_of_its_issuer(
    place: Workplace, database_url: str
) -> None:
    async with better_auth.better_auth() as issuer:
        token = await (await issuer.sign_up()).jwt()
    with place.serving(
        "serve",
        DATABASE_URL=database_url,
        BETTER_AUTH_URL=issuer.origin,
        RATE_LIMIT_AUTH_FAILURES="off",
    ) as service:
        (answer,) = await asked(service, token)
        assert (answer.status_code, answer.json()["code"]) == (503, "auth_keys_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert service.health().status_code == 503

        async with better_auth.better_auth(port=issuer.port) as issuer:
            seen = await (await issuer.sign_up()).jwt()
            unseen = await (await issuer.sign_up("bob@example.com")).jwt()
            with service.client(seen) as bearer:
                assert eventually(lambda: bearer.get("/api/tasks").is_success)

        assert {answer.status_code for answer in await asked(service, seen, unseen)} == {200}
        assert service.health().is_success
