import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import httpx
import pytest
from structlog.testing import capture_logs

from support.jose_tokens import JWKS_ALGORITHMS, ORIGIN, USER, Signer, key_set, signer
from support.tasks import NOW
from todo_adapters.jose.key_sets import (
    MAX_STALE,
    REDIRECTS_MAX,
    REFETCH_INTERVAL,
    REFETCHES,
    REFRESH_AFTER,
    RETRY_WITH_KEYS,
    RETRY_WITHOUT_KEYS,
    RemoteKeySet,
    StaticKeySet,
)
from todo_adapters.jose.keys import DOCUMENT_MAX, VerificationKey, parse_key_set
from todo_adapters.jose.verifiers import JwksTokenVerifier
from todo_domain.errors import AuthKeysUnavailable, TokenRejected

PATH: Final = "/api/auth/jwks"
OLD: Final = signer("EdDSA", "old")
NEW: Final = signer("ES256", "new")
INSTANT: Final = 0.001

Log = list[MutableMapping[str, Any]]


def answer(body: bytes = b"", status: str = "200 OK", *headers: str) -> bytes:
    """An HTTP response, from its status line to its last byte."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def publishing(*signers: Signer) -> bytes:
    return answer(key_set(*(each.jwk() for each in signers)))


class Issuer:
    """An auth server on loopback that says what a test wants, and counts how often it is asked.

    It answers with what it published when the question came, once ``gate`` is open.
    """

    def __init__(self) -> None:
        self.url = ""
        self.pages = {PATH: publishing(OLD)}
        self.fetches = 0
        self.last_request = b""
        self.gate = asyncio.Event()
        self.gate.set()
        self.first_answers: list[bytes] = []

    def publish(self, *signers: Signer) -> None:
        self.pages[PATH] = publishing(*signers)

    def say(self, response: bytes) -> None:
        self.pages[PATH] = response

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await reader.readuntil(b"\r\n\r\n")
            self.fetches += 1
            self.last_request = request
            page = self.pages[request.split()[1].decode()]
            response = self.first_answers.pop(0) if self.first_answers else page
            await self.gate.wait()
            writer.write(response)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def running_issuer() -> AsyncIterator[Issuer]:
    running = Issuer()
    server = await asyncio.start_server(running.serve, "127.0.0.1", 0)
    running.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{PATH}"
    try:
        yield running
    finally:
        running.gate.set()
        server.close()
        await server.wait_closed()


class Clock:
    """A monotonic clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with running_issuer() as issuer:
        yield issuer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    # One that would follow any redirect if it were let.
    async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as client:
        yield client


@pytest.fixture
async def keys(
    issuer: Issuer, clock: Clock, client: httpx.AsyncClient
) -> AsyncIterator[RemoteKeySet]:
    keys = RemoteKeySet(issuer.url, client=client, clock=clock)
    yield keys
    await keys.aclose()


@pytest.fixture(autouse=True)
def log() -> Iterator[Log]:
    with capture_logs() as log:
        yield log


async def until(condition: Callable[[], bool]) -> None:
    """Let the others run until it is so."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the end of a background task has no event
            await asyncio.sleep(0)


async def found(keys: RemoteKeySet, kid: str) -> VerificationKey:
    key = await keys.find(kid)
    assert key is not None
    return key


async def renewed(issuer: Issuer, keys: RemoteKeySet, log: Log) -> None:
    """Ask for keys that are due, and wait until the renewal that this begins has ended."""
    fetches, events = issuer.fetches, len(log)
    await keys.check()
    await until(lambda: len(log) > events)
    assert issuer.fetches == fetches + 1


# --- Finding a key ---


async def test_nothing_is_fetched_before_it_is_needed(issuer: Issuer, keys: RemoteKeySet) -> None:
    assert (issuer.fetches, (await found(keys, "old")).algorithm) == (0, "EdDSA")


async def test_keys_that_were_fetched_are_not_fetched_again(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock
) -> None:
    first = await found(keys, "old")
    clock.now += REFRESH_AFTER - INSTANT
    assert await found(keys, "old") is first
    assert issuer.fetches == 1


async def test_a_cold_start_with_many_requests_makes_one_fetch_and_answers_all(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    answers = await asyncio.gather(*(found(keys, "old") for _ in range(100)))
    assert {key.kid for key in answers} == {"old"}
    assert issuer.fetches == 1


async def test_a_key_set_may_be_as_large_as_the_limit(issuer: Issuer, keys: RemoteKeySet) -> None:
    issuer.say(answer(key_set(OLD.jwk()).ljust(DOCUMENT_MAX)))
    await found(keys, "old")


async def test_only_keys_for_the_chosen_algorithms_are_known(
    issuer: Issuer, client: httpx.AsyncClient
) -> None:
    issuer.publish(OLD, NEW)
    keys = RemoteKeySet(issuer.url, ["ES256"], client=client)
    assert await keys.find("new")
    assert await keys.find("old") is None


async def test_keys_for_the_algorithms_of_better_auth_are_known_unless_others_are_chosen(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    issuer.publish(*(signer(algorithm) for algorithm in JWKS_ALGORITHMS))
    await keys.check()
    assert sorted(keys.algorithms()) == ["ES256", "EdDSA", "RS256"]


async def test_keys_are_asked_for_as_json_that_is_not_compressed(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    await keys.check()
    request, *headers = issuer.last_request.decode().split("\r\n")
    assert request == f"GET {PATH} HTTP/1.1"
    assert {"accept: application/json", "accept-encoding: identity"} <= {
        header.lower() for header in headers
    }


@pytest.mark.parametrize("algorithm", ["HS256", "none", "RS1"])
def test_an_algorithm_that_no_public_key_has_is_refused(algorithm: str) -> None:
    with pytest.raises(ValueError, match="AUTH_ALGORITHMS"):
        RemoteKeySet("https://app.example/api/auth/jwks", [algorithm])


@pytest.mark.parametrize(
    "url",
    [
        "",
        "app.example",
        "file:///etc/passwd",
        "https://",
        "http://host:port",
        "http://xn--a",
        "ftp://app.example",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="AUTH_JWKS_URL must be an address like https://"):
        RemoteKeySet(url)


# --- Unknown names ---


async def test_the_first_token_of_a_new_key_is_accepted_at_once(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    verifier = JwksTokenVerifier(keys, issuer=ORIGIN, audience=ORIGIN)
    assert (await verifier.verify(OLD.token(), NOW)).user_id == USER
    issuer.publish(OLD, NEW)
    assert (await verifier.verify(NEW.token(), NOW)).user_id == USER
    assert issuer.fetches == 2


async def test_the_first_token_of_a_key_that_takes_over_a_name_is_accepted_at_once(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    verifier = JwksTokenVerifier(keys, issuer=ORIGIN, audience=ORIGIN)
    await verifier.verify(OLD.token(), NOW)
    after_reset = signer("EdDSA", "old", "stranger")
    issuer.publish(after_reset)
    assert (await verifier.verify(after_reset.token(), NOW)).user_id == USER
    assert issuer.fetches == 2


@pytest.mark.parametrize(
    ("forged", "reason"),
    [
        pytest.param(signer("EdDSA", "old", "forger"), "signature", id="another key's"),
        pytest.param(signer("ES256", "old"), "algorithm_of_key", id="another algorithm's"),
    ],
)
async def test_a_key_that_takes_over_a_name_does_not_vouch_for_others(
    issuer: Issuer, keys: RemoteKeySet, forged: Signer, reason: str
) -> None:
    verifier = JwksTokenVerifier(keys, issuer=ORIGIN, audience=ORIGIN)
    await verifier.verify(OLD.token(), NOW)
    issuer.publish(signer("EdDSA", "old", "stranger"))
    with pytest.raises(TokenRejected, match=rf"^token_invalid: {reason}$"):
        await verifier.verify(forged.token(), NOW)
    assert issuer.fetches == 2


async def test_a_stray_token_does_not_keep_a_new_key_from_being_found(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock
) -> None:
    await found(keys, "old")
    assert await keys.find("a stranger's") is None
    clock.now += 1
    issuer.publish(OLD, NEW)
    await found(keys, "new")


async def test_a_flood_of_unknown_names_costs_the_issuer_a_few_fetches(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    await found(keys, "old")
    for number in range(300):
        assert await keys.find(f"unknown {number}") is None
    assert issuer.fetches == 1 + REFETCHES


async def test_a_flood_at_the_same_time_costs_no_more(issuer: Issuer, keys: RemoteKeySet) -> None:
    await found(keys, "old")
    names = [f"unknown {number}" for number in range(300)]
    assert await asyncio.gather(*map(keys.find, names)) == [None] * 300
    assert issuer.fetches <= 1 + REFETCHES


async def test_a_flood_on_a_cold_start_costs_no_more(issuer: Issuer, keys: RemoteKeySet) -> None:
    names = [f"unknown {number}" for number in range(300)]
    assert await asyncio.gather(*map(keys.find, names)) == [None] * 300
    assert issuer.fetches <= 1 + REFETCHES


async def test_even_in_a_flood_a_new_key_is_known_after_the_interval(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock
) -> None:
    for number in range(10):
        await keys.find(f"unknown {number}")
    issuer.publish(OLD, NEW)
    assert await keys.find("new") is None
    clock.now += REFETCH_INTERVAL
    assert await keys.find("a stranger's") is None
    await found(keys, "new")
    assert issuer.fetches == 1 + REFETCHES + 1


async def test_a_quiet_time_restores_the_allowance_and_no_more(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock
) -> None:
    for number in range(10):
        await keys.find(f"unknown {number}")
    clock.now += REFRESH_AFTER - 1
    fetches = issuer.fetches
    for number in range(10):
        await keys.find(f"unknown {number}")
    assert issuer.fetches == fetches + REFETCHES


async def test_many_first_tokens_of_a_new_key_make_one_fetch(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    await found(keys, "old")
    issuer.publish(OLD, NEW)
    await asyncio.gather(*(found(keys, "new") for _ in range(50)))
    assert issuer.fetches == 2


async def test_an_answer_that_was_on_its_way_before_the_key_existed_does_not_settle_it(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    issuer.gate.clear()
    first = asyncio.create_task(found(keys, "old"))
    await until(lambda: issuer.fetches == 1)
    issuer.publish(OLD, NEW)
    second = asyncio.create_task(found(keys, "new"))
    await asyncio.sleep(0)
    issuer.gate.set()
    assert [key.kid for key in await asyncio.gather(first, second)] == ["old", "new"]
    assert issuer.fetches == 2


# --- Ageing ---


async def test_ageing_keys_are_renewed_while_they_serve(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock, log: Log
) -> None:
    await found(keys, "old")
    issuer.publish(NEW)
    issuer.gate.clear()
    clock.now += REFRESH_AFTER
    await found(keys, "old")
    issuer.gate.set()
    await until(lambda: len(log) == 2)
    await found(keys, "new")
    assert issuer.fetches == 2


async def test_asking_whether_a_key_is_in_use_renews_it_too(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock, log: Log
) -> None:
    key = await found(keys, "old")
    issuer.publish(NEW)
    clock.now += REFRESH_AFTER
    assert keys.holds(key)
    await until(lambda: len(log) == 2)
    assert not keys.holds(key)


async def test_a_key_that_is_still_published_stays_in_use(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock, log: Log
) -> None:
    key = await found(keys, "old")
    issuer.publish(NEW, OLD)
    clock.now += REFRESH_AFTER
    await renewed(issuer, keys, log)
    assert keys.holds(key)


async def test_a_key_replaced_under_its_name_is_not_in_use(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock, log: Log
) -> None:
    key = await found(keys, "old")
    issuer.publish(signer("EdDSA", "old", "stranger"))
    clock.now += REFRESH_AFTER
    await renewed(issuer, keys, log)
    assert not keys.holds(key)


async def test_a_remembered_token_ends_with_its_key(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock, log: Log
) -> None:
    verifier = JwksTokenVerifier(keys, issuer=ORIGIN, audience=ORIGIN)
    await verifier.verify(OLD.token(), NOW)
    issuer.publish(NEW)
    clock.now += REFRESH_AFTER
    await verifier.verify(OLD.token(), NOW)
    await until(lambda: len(log) == 2)
    with pytest.raises(TokenRejected, match="kid_unknown"):
        await verifier.verify(OLD.token(), NOW)


# --- When the issuer fails ---

FAILURES: Final = {
    "status 500": answer(b"oops", "500 Internal Server Error"),
    "status 404": answer(b"<html>", "404 Not Found"),
    "status 429": answer(b"{}", "429 Too Many Requests", "Retry-After: 10"),
    "status 204": answer(b"", "204 No Content"),
    "unreachable": b"",
    "no key set: Expecting value": answer(b"<html>Sign in</html>"),
    "no key set: not a JSON object": answer(b"[]"),
    "no key set: too large": answer(key_set(OLD.jwk()) + b" " * DOCUMENT_MAX),
    "no usable key: empty set": answer(key_set()),
    "no usable key: not for signatures": answer(key_set(OLD.jwk(use="enc"))),
    "redirected": answer(b"", "302 Found", "Location: https://evil.example/api/auth/jwks"),
}
every_failure = pytest.mark.parametrize("reason", FAILURES)


@every_failure
async def test_known_keys_serve_while_the_issuer_fails(
    reason: str, issuer: Issuer, keys: RemoteKeySet, clock: Clock, log: Log
) -> None:
    key = await found(keys, "old")
    issuer.say(FAILURES[reason])
    clock.now += REFRESH_AFTER
    await renewed(issuer, keys, log)
    assert await found(keys, "old") is key
    assert keys.holds(key)
    assert log[-1]["event"] == "auth.keys_unavailable"
    assert log[-1]["reason"].startswith(reason)


@every_failure
async def test_without_keys_no_token_can_be_judged_until_the_issuer_is_well(
    reason: str, issuer: Issuer, keys: RemoteKeySet, clock: Clock
) -> None:
    issuer.say(FAILURES[reason])
    with pytest.raises(AuthKeysUnavailable, match=reason):
        await keys.find("old")
    issuer.publish(OLD)
    clock.now += RETRY_WITHOUT_KEYS
    await found(keys, "old")


async def test_an_issuer_that_is_not_there_is_a_failure(
    client: httpx.AsyncClient, clock: Clock
) -> None:
    async with running_issuer() as gone:
        url = gone.url
    with pytest.raises(AuthKeysUnavailable, match="unreachable"):
        await RemoteKeySet(url, client=client, clock=clock).find("old")


async def test_an_answer_that_takes_too_long_is_a_failure(
    issuer: Issuer, client: httpx.AsyncClient, clock: Clock
) -> None:
    issuer.gate.clear()
    keys = RemoteKeySet(issuer.url, client=client, clock=clock, timeout=0.02)
    with pytest.raises(AuthKeysUnavailable, match="timeout"):
        await keys.find("old")
    assert issuer.fetches <= 1


async def test_a_clients_own_timeout_is_a_failure_too(issuer: Issuer, clock: Clock) -> None:
    issuer.gate.clear()
    async with httpx.AsyncClient(trust_env=False, timeout=0.02) as client:
        with pytest.raises(AuthKeysUnavailable, match="timeout"):
            await RemoteKeySet(issuer.url, client=client, clock=clock).find("old")


async def test_the_first_fetch_is_tried_twice(issuer: Issuer, keys: RemoteKeySet) -> None:
    issuer.first_answers = [FAILURES["no usable key: empty set"]]
    await found(keys, "old")
    assert issuer.fetches == 2


async def test_without_keys_a_failing_issuer_is_not_hammered(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock
) -> None:
    issuer.say(FAILURES["status 429"])
    clock.now += 0.5
    for ask in [lambda: keys.find("old"), keys.check] * 50:
        with pytest.raises(AuthKeysUnavailable):
            await ask()
    assert issuer.fetches == 2


async def test_with_keys_a_failing_issuer_is_not_hammered(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock, log: Log
) -> None:
    await found(keys, "old")
    issuer.say(FAILURES["status 429"])
    clock.now += REFRESH_AFTER
    await renewed(issuer, keys, log)
    clock.now += RETRY_WITH_KEYS - INSTANT
    for _ in range(100):
        await found(keys, "old")
    assert issuer.fetches == 2
    clock.now += INSTANT
    await renewed(issuer, keys, log)


async def test_an_unknown_name_is_unknown_while_the_issuer_fails(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    await found(keys, "old")
    issuer.say(FAILURES["status 500"])
    assert await keys.find("new") is None


async def test_known_keys_do_not_serve_for_ever(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock, log: Log
) -> None:
    key = await found(keys, "old")
    issuer.say(FAILURES["status 500"])
    clock.now += MAX_STALE - INSTANT
    await renewed(issuer, keys, log)
    assert keys.holds(key)
    assert keys.algorithms() == ["EdDSA"]
    clock.now += INSTANT
    assert not keys.holds(key)
    assert keys.algorithms() == []
    with pytest.raises(AuthKeysUnavailable, match="status 500"):
        await keys.find("old")


async def test_who_asks_when_keys_have_ended_waits_for_the_fetch_that_is_under_way(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock, log: Log
) -> None:
    await found(keys, "old")
    issuer.say(FAILURES["status 500"])
    clock.now += MAX_STALE - INSTANT
    await renewed(issuer, keys, log)
    issuer.publish(OLD, NEW)
    issuer.gate.clear()
    first = asyncio.create_task(found(keys, "new"))
    await until(lambda: issuer.fetches == 3)
    clock.now += INSTANT
    second = asyncio.create_task(found(keys, "old"))
    await asyncio.sleep(0)
    issuer.gate.set()
    assert [key.kid for key in await asyncio.gather(first, second)] == ["new", "old"]
    assert issuer.fetches == 3


async def test_an_issuer_that_is_well_again_is_found_out_in_the_background(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock, log: Log
) -> None:
    await found(keys, "old")
    issuer.say(FAILURES["status 500"])
    clock.now += REFRESH_AFTER
    await renewed(issuer, keys, log)
    issuer.publish(OLD, NEW)
    clock.now += RETRY_WITH_KEYS
    await renewed(issuer, keys, log)
    await found(keys, "new")
    assert issuer.fetches == 3


# --- Readiness ---


async def test_ready_means_that_there_are_keys(issuer: Issuer, keys: RemoteKeySet) -> None:
    await keys.check()
    issuer.say(FAILURES["status 500"])
    await keys.check()
    assert issuer.fetches == 1


async def test_not_ready_names_the_host_and_the_reason(issuer: Issuer, keys: RemoteKeySet) -> None:
    issuer.say(FAILURES["status 500"])
    with pytest.raises(AuthKeysUnavailable, match=r"^no keys from 127\.0\.0\.1: status 500$"):
        await keys.check()


# --- Redirects ---


async def test_a_redirect_within_the_origin_is_followed(issuer: Issuer, keys: RemoteKeySet) -> None:
    issuer.pages[f"{PATH}/"] = publishing(OLD)
    issuer.say(answer(b"", "308 Permanent Redirect", f"Location: {PATH}/"))
    await found(keys, "old")


async def test_a_redirect_to_another_origin_is_not_followed(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    async with running_issuer() as other:
        issuer.say(answer(b"", "307 Temporary Redirect", f"Location: {other.url}"))
        with pytest.raises(AuthKeysUnavailable, match="redirected"):
            await keys.find("old")
        assert other.fetches == 0


async def test_redirects_do_not_go_round_for_ever(issuer: Issuer, keys: RemoteKeySet) -> None:
    issuer.say(answer(b"", "302 Found", f"Location: {PATH}"))
    with pytest.raises(AuthKeysUnavailable, match="redirected"):
        await keys.find("old")
    assert issuer.fetches == 2 * (1 + REDIRECTS_MAX)


@pytest.mark.parametrize("nowhere", ["http://host:port/", "http://xn--a/"])
async def test_a_redirect_to_nowhere_is_a_failure(
    nowhere: str, issuer: Issuer, keys: RemoteKeySet
) -> None:
    issuer.say(answer(b"", "302 Found", f"Location: {nowhere}"))
    with pytest.raises(AuthKeysUnavailable, match="unreachable"):
        await keys.find("old")


# --- The log ---


async def test_the_log_says_what_keys_there_are(
    issuer: Issuer, keys: RemoteKeySet, log: Log
) -> None:
    issuer.say(answer(key_set(OLD.jwk(), NEW.jwk(), NEW.jwk(kid="enc", use="enc"))))
    await keys.check()
    assert log == [
        {
            "event": "auth.keys_refreshed",
            "log_level": "info",
            "host": "127.0.0.1",
            "keys": 2,
            "algorithms": ["ES256", "EdDSA"],
            "skipped": ["not for signatures"],
        }
    ]


async def test_the_log_shows_nothing_of_the_address_but_the_host(
    issuer: Issuer, client: httpx.AsyncClient, clock: Clock, log: Log
) -> None:
    issuer.pages[f"{PATH}?api_key=sesame"] = FAILURES["status 500"]
    url = issuer.url.replace("://", "://user:sesame@") + "?api_key=sesame"
    with pytest.raises(AuthKeysUnavailable) as caught:
        await RemoteKeySet(url, client=client, clock=clock).check()
    assert log == [
        {
            "event": "auth.keys_unavailable",
            "log_level": "warning",
            "reason": "status 500",
            "host": "127.0.0.1",
        }
    ]
    assert "sesame" not in str(caught.value)


# --- Ending ---


async def test_one_who_stops_waiting_does_not_end_the_fetch_for_the_others(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    issuer.gate.clear()
    impatient = asyncio.create_task(found(keys, "old"))
    patient = asyncio.create_task(found(keys, "old"))
    await until(lambda: issuer.fetches == 1)
    impatient.cancel()
    await asyncio.wait([impatient])
    issuer.gate.set()
    assert (await patient).kid == "old"
    assert issuer.fetches == 1


async def test_closing_ends_a_fetch_that_is_under_way(issuer: Issuer, keys: RemoteKeySet) -> None:
    issuer.gate.clear()
    waiting = asyncio.create_task(keys.find("old"))
    await until(lambda: issuer.fetches == 1)
    await keys.aclose()
    with pytest.raises(AuthKeysUnavailable) as caught:
        await waiting
    assert "timeout" not in str(caught.value)


async def test_a_client_that_was_given_stays_open(
    keys: RemoteKeySet, client: httpx.AsyncClient
) -> None:
    await keys.aclose()
    assert not client.is_closed


async def test_no_client_need_be_given(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    keys = RemoteKeySet(issuer.url)
    await found(keys, "old")
    await keys.aclose()


# --- Keys given once ---


async def test_given_keys_are_found_and_in_use_for_ever() -> None:
    document = key_set(OLD.jwk(), NEW.jwk())
    old, new = parse_key_set(document, frozenset({"EdDSA", "ES256"})).values()
    keys = StaticKeySet([old])
    await keys.check()
    assert await keys.find("old") is old
    assert await keys.find("old", other_than=old) is None
    assert await keys.find("old", other_than=new) is old
    assert await keys.find("new") is None
    assert keys.holds(old)
    assert not keys.holds(new)
