import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import httpx
import pytest
from structlog.testing import capture_logs

from support.jose_tokens import ORIGIN, USER, Signer, key_set, signer
from support.tasks import NOW
from todo_adapters.jose.key_sets import (
    DOCUMENT_MAX,
    MAX_STALE,
    REDIRECTS_MAX,
    REFETCH_BURST,
    REFETCH_INTERVAL,
    REFRESH_AFTER,
    RETRY_WITH_KEYS,
    RETRY_WITHOUT_KEYS,
    RemoteKeySet,
)
from todo_adapters.jose.keys import VerificationKey
from todo_adapters.jose.verifiers import JwksTokenVerifier
from todo_domain.errors import AuthKeysUnavailable, TokenRejected

PATH: Final = "/api/auth/jwks"
OLD: Final = signer("EdDSA", "old")
NEW: Final = signer("ES256", "new")
INSTANT: Final = 0.001
ALGORITHMS: Final = ("EdDSA", "ES256", "RS256")

Log = list[MutableMapping[str, Any]]


def response(body: bytes = b"", status: str = "200 OK", *headers: str) -> bytes:
    """An HTTP response, from its status line to its last byte."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def publishing(*signers: Signer) -> bytes:
    return response(key_set(*(each.jwk() for each in signers)))


class Issuer:
    """An auth server on loopback that sends what a test publishes, and counts the requests.

    A response has the content of the time of its request, and is sent when ``gate`` is open.
    """

    def __init__(self) -> None:
        self.url = ""
        self.pages = {PATH: publishing(OLD)}
        self.fetches = 0
        self.last_request = b""
        self.gate = asyncio.Event()
        self.gate.set()
        self.first_responses: list[bytes] = []

    def publish(self, *signers: Signer) -> None:
        self.pages[PATH] = publishing(*signers)

    def respond(self, page: bytes) -> None:
        self.pages[PATH] = page

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await reader.readuntil(b"\r\n\r\n")
            self.fetches += 1
            self.last_request = request
            page = self.pages[request.split()[1].decode()]
            content = self.first_responses.pop(0) if self.first_responses else page
            await self.gate.wait()
            writer.write(content)
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
    """A monotonic clock that a test advances."""

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
    # By its own settings, this client would follow any redirect.
    async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as client:
        yield client


@pytest.fixture
async def keys(
    issuer: Issuer, clock: Clock, client: httpx.AsyncClient
) -> AsyncIterator[RemoteKeySet]:
    keys = RemoteKeySet(issuer.url, ALGORITHMS, client=client, clock=clock)
    yield keys
    await keys.aclose()


@pytest.fixture(autouse=True)
def log() -> Iterator[Log]:
    with capture_logs() as log:
        yield log


async def until(condition: Callable[[], bool]) -> None:
    """Run the other tasks until the condition is true."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a background task sets no event
            await asyncio.sleep(0)


async def found(keys: RemoteKeySet, kid: str) -> VerificationKey:
    key = await keys.find(kid)
    assert key is not None
    return key


async def refresh(issuer: Issuer, keys: RemoteKeySet, log: Log) -> None:
    """Start the refresh that is due, and wait for its end."""
    fetches, events = issuer.fetches, len(log)
    await keys.check()
    await until(lambda: len(log) > events)
    assert issuer.fetches == fetches + 1


# --- Fetch ---


async def test_nothing_is_fetched_before_it_is_needed(issuer: Issuer, keys: RemoteKeySet) -> None:
    assert (issuer.fetches, (await found(keys, "old")).algorithm) == (0, "EdDSA")


async def test_keys_are_not_fetched_again_before_refresh_after(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock
) -> None:
    first = await found(keys, "old")
    clock.now += REFRESH_AFTER - INSTANT
    assert await found(keys, "old") is first
    assert issuer.fetches == 1


async def test_many_calls_on_a_cold_start_share_one_fetch(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    results = await asyncio.gather(*(found(keys, "old") for _ in range(100)))
    assert {key.kid for key in results} == {"old"}
    assert issuer.fetches == 1


async def test_a_document_of_the_maximum_size_is_accepted(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    issuer.respond(response(key_set(OLD.jwk()).ljust(DOCUMENT_MAX)))
    await found(keys, "old")


async def test_keys_of_other_algorithms_are_not_found(
    issuer: Issuer, client: httpx.AsyncClient
) -> None:
    issuer.publish(OLD, NEW)
    keys = RemoteKeySet(issuer.url, ["ES256"], client=client)
    assert await keys.find("new")
    assert await keys.find("old") is None


async def test_the_request_accepts_uncompressed_json(issuer: Issuer, keys: RemoteKeySet) -> None:
    await keys.check()
    request, *headers = issuer.last_request.decode().split("\r\n")
    assert request == f"GET {PATH} HTTP/1.1"
    assert {"accept: application/json", "accept-encoding: identity"} <= {
        header.lower() for header in headers
    }


@pytest.mark.parametrize("algorithm", ["HS256", "none", "RS1"])
def test_an_algorithm_without_public_keys_is_rejected(algorithm: str) -> None:
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
def test_an_invalid_url_is_rejected(url: str) -> None:
    with pytest.raises(ValueError, match="AUTH_JWKS_URL must be a URL like https://"):
        RemoteKeySet(url, ALGORITHMS)


# --- Unknown kid ---


async def test_the_first_token_of_a_new_key_is_accepted(issuer: Issuer, keys: RemoteKeySet) -> None:
    verifier = JwksTokenVerifier(keys, issuer=ORIGIN, audience=ORIGIN)
    assert (await verifier.verify(OLD.token(), NOW)).user_id == USER
    issuer.publish(OLD, NEW)
    assert (await verifier.verify(NEW.token(), NOW)).user_id == USER
    assert issuer.fetches == 2


async def test_the_first_token_of_a_new_key_under_a_used_kid_is_accepted(
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
        pytest.param(signer("EdDSA", "old", "forger"), "signature", id="another key"),
        pytest.param(signer("ES256", "old"), "algorithm_of_key", id="another algorithm"),
    ],
)
async def test_a_token_of_neither_the_old_nor_the_new_key_under_a_kid_is_rejected(
    issuer: Issuer, keys: RemoteKeySet, forged: Signer, reason: str
) -> None:
    verifier = JwksTokenVerifier(keys, issuer=ORIGIN, audience=ORIGIN)
    await verifier.verify(OLD.token(), NOW)
    issuer.publish(signer("EdDSA", "old", "stranger"))
    with pytest.raises(TokenRejected, match=rf"^token_invalid: {reason}$"):
        await verifier.verify(forged.token(), NOW)
    assert issuer.fetches == 2


async def test_a_new_key_is_found_after_an_unknown_kid(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock
) -> None:
    await found(keys, "old")
    assert await keys.find("unknown") is None
    clock.now += 1
    issuer.publish(OLD, NEW)
    await found(keys, "new")


async def test_a_flood_of_unknown_kids_causes_at_most_the_burst_of_fetches(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    await found(keys, "old")
    for number in range(300):
        assert await keys.find(f"unknown {number}") is None
    assert issuer.fetches == 1 + REFETCH_BURST


async def test_a_concurrent_flood_causes_at_most_the_burst_of_fetches(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    await found(keys, "old")
    kids = [f"unknown {number}" for number in range(300)]
    assert await asyncio.gather(*map(keys.find, kids)) == [None] * 300
    assert issuer.fetches <= 1 + REFETCH_BURST


async def test_a_flood_on_a_cold_start_causes_at_most_the_burst_of_fetches(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    kids = [f"unknown {number}" for number in range(300)]
    assert await asyncio.gather(*map(keys.find, kids)) == [None] * 300
    assert issuer.fetches <= 1 + REFETCH_BURST


async def test_during_a_flood_a_new_key_is_found_after_the_interval(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock
) -> None:
    for number in range(10):
        await keys.find(f"unknown {number}")
    issuer.publish(OLD, NEW)
    assert await keys.find("new") is None
    clock.now += REFETCH_INTERVAL
    assert await keys.find("unknown") is None
    await found(keys, "new")
    assert issuer.fetches == 1 + REFETCH_BURST + 1


async def test_a_pause_refills_the_burst_and_no_more(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock
) -> None:
    for number in range(10):
        await keys.find(f"unknown {number}")
    clock.now += REFRESH_AFTER - 1
    fetches = issuer.fetches
    for number in range(10):
        await keys.find(f"unknown {number}")
    assert issuer.fetches == fetches + REFETCH_BURST


async def test_many_calls_for_a_new_key_share_one_fetch(issuer: Issuer, keys: RemoteKeySet) -> None:
    await found(keys, "old")
    issuer.publish(OLD, NEW)
    await asyncio.gather(*(found(keys, "new") for _ in range(50)))
    assert issuer.fetches == 2


async def test_a_fetch_that_started_before_the_call_is_followed_by_another(
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


# --- Refresh ---


async def test_keys_stay_in_use_during_their_refresh(
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


async def test_is_active_starts_a_refresh_that_is_due(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock, log: Log
) -> None:
    key = await found(keys, "old")
    issuer.publish(NEW)
    clock.now += REFRESH_AFTER
    assert keys.is_active(key)
    await until(lambda: len(log) == 2)
    assert not keys.is_active(key)


async def test_a_key_that_is_still_published_stays_active(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock, log: Log
) -> None:
    key = await found(keys, "old")
    issuer.publish(NEW, OLD)
    clock.now += REFRESH_AFTER
    await refresh(issuer, keys, log)
    assert keys.is_active(key)


async def test_a_key_that_is_replaced_under_its_kid_is_not_active(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock, log: Log
) -> None:
    key = await found(keys, "old")
    issuer.publish(signer("EdDSA", "old", "stranger"))
    clock.now += REFRESH_AFTER
    await refresh(issuer, keys, log)
    assert not keys.is_active(key)


async def test_a_cached_token_is_rejected_when_its_key_is_withdrawn(
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


# --- Failures of the issuer ---

FAILURES: Final = {
    "status 500": response(b"oops", "500 Internal Server Error"),
    "status 404": response(b"<html>", "404 Not Found"),
    "status 429": response(b"{}", "429 Too Many Requests", "Retry-After: 10"),
    "status 204": response(b"", "204 No Content"),
    "unreachable": b"",
    "no key set: Expecting value": response(b"<html>Sign in</html>"),
    "no key set: not a JSON object": response(b"[]"),
    "no key set: too large": response(key_set(OLD.jwk()) + b" " * DOCUMENT_MAX),
    "no usable key: empty set": response(key_set()),
    "no usable key: not for signatures": response(key_set(OLD.jwk(use="enc"))),
    "redirected": response(b"", "302 Found", "Location: https://evil.example/api/auth/jwks"),
}
every_failure = pytest.mark.parametrize("reason", FAILURES)


@every_failure
async def test_cached_keys_stay_in_use_while_the_issuer_fails(
    reason: str, issuer: Issuer, keys: RemoteKeySet, clock: Clock, log: Log
) -> None:
    key = await found(keys, "old")
    issuer.respond(FAILURES[reason])
    clock.now += REFRESH_AFTER
    await refresh(issuer, keys, log)
    assert await found(keys, "old") is key
    assert keys.is_active(key)
    assert log[-1]["event"] == "auth.keys_unavailable"
    assert log[-1]["reason"].startswith(reason)


@every_failure
async def test_without_keys_find_raises_until_the_issuer_recovers(
    reason: str, issuer: Issuer, keys: RemoteKeySet, clock: Clock
) -> None:
    issuer.respond(FAILURES[reason])
    with pytest.raises(AuthKeysUnavailable, match=reason):
        await keys.find("old")
    issuer.publish(OLD)
    clock.now += RETRY_WITHOUT_KEYS
    await found(keys, "old")


async def test_an_issuer_that_does_not_listen_is_unreachable(
    client: httpx.AsyncClient, clock: Clock
) -> None:
    async with running_issuer() as gone:
        url = gone.url
    with pytest.raises(AuthKeysUnavailable, match="unreachable"):
        await RemoteKeySet(url, ALGORITHMS, client=client, clock=clock).find("old")


async def test_a_fetch_ends_after_the_timeout(
    issuer: Issuer, client: httpx.AsyncClient, clock: Clock
) -> None:
    issuer.gate.clear()
    keys = RemoteKeySet(issuer.url, ALGORITHMS, client=client, clock=clock, timeout=0.02)
    with pytest.raises(AuthKeysUnavailable, match="timeout"):
        await keys.find("old")
    assert issuer.fetches <= 1


async def test_a_timeout_of_the_http_client_is_a_timeout_too(issuer: Issuer, clock: Clock) -> None:
    issuer.gate.clear()
    async with httpx.AsyncClient(trust_env=False, timeout=0.02) as client:
        with pytest.raises(AuthKeysUnavailable, match="timeout"):
            await RemoteKeySet(issuer.url, ALGORITHMS, client=client, clock=clock).find("old")


async def test_without_keys_a_failed_fetch_is_repeated_once(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    issuer.first_responses = [FAILURES["no usable key: empty set"]]
    await found(keys, "old")
    assert issuer.fetches == 2


async def test_without_keys_a_failing_issuer_gets_two_requests_per_retry_interval(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock
) -> None:
    issuer.respond(FAILURES["status 429"])
    clock.now += 0.5
    for call in [lambda: keys.find("old"), keys.check] * 50:
        with pytest.raises(AuthKeysUnavailable):
            await call()
    assert issuer.fetches == 2


async def test_with_keys_a_failing_issuer_gets_one_request_per_retry_interval(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock, log: Log
) -> None:
    await found(keys, "old")
    issuer.respond(FAILURES["status 429"])
    clock.now += REFRESH_AFTER
    await refresh(issuer, keys, log)
    clock.now += RETRY_WITH_KEYS - INSTANT
    for _ in range(100):
        await found(keys, "old")
    assert issuer.fetches == 2
    clock.now += INSTANT
    await refresh(issuer, keys, log)


async def test_an_unknown_kid_is_not_found_while_the_issuer_fails(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    await found(keys, "old")
    issuer.respond(FAILURES["status 500"])
    assert await keys.find("new") is None


async def test_cached_keys_are_not_used_after_max_stale(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock, log: Log
) -> None:
    key = await found(keys, "old")
    issuer.respond(FAILURES["status 500"])
    clock.now += MAX_STALE - INSTANT
    await refresh(issuer, keys, log)
    assert keys.is_active(key)
    assert keys.algorithms() == ["EdDSA"]
    clock.now += INSTANT
    assert not keys.is_active(key)
    assert keys.algorithms() == []
    with pytest.raises(AuthKeysUnavailable, match="status 500"):
        await keys.find("old")


async def test_a_call_after_max_stale_waits_for_the_running_fetch(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock, log: Log
) -> None:
    await found(keys, "old")
    issuer.respond(FAILURES["status 500"])
    clock.now += MAX_STALE - INSTANT
    await refresh(issuer, keys, log)
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


async def test_a_recovered_issuer_is_noticed_in_the_background(
    issuer: Issuer, keys: RemoteKeySet, clock: Clock, log: Log
) -> None:
    await found(keys, "old")
    issuer.respond(FAILURES["status 500"])
    clock.now += REFRESH_AFTER
    await refresh(issuer, keys, log)
    issuer.publish(OLD, NEW)
    clock.now += RETRY_WITH_KEYS
    await refresh(issuer, keys, log)
    await found(keys, "new")
    assert issuer.fetches == 3


# --- Check ---


async def test_check_passes_while_there_are_keys(issuer: Issuer, keys: RemoteKeySet) -> None:
    await keys.check()
    issuer.respond(FAILURES["status 500"])
    await keys.check()
    assert issuer.fetches == 1


async def test_check_raises_with_the_host_and_the_reason(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    issuer.respond(FAILURES["status 500"])
    with pytest.raises(AuthKeysUnavailable, match=r"^no keys from 127\.0\.0\.1: status 500$"):
        await keys.check()


# --- Redirects ---


async def test_a_redirect_within_the_origin_is_followed(issuer: Issuer, keys: RemoteKeySet) -> None:
    issuer.pages[f"{PATH}/"] = publishing(OLD)
    issuer.respond(response(b"", "308 Permanent Redirect", f"Location: {PATH}/"))
    await found(keys, "old")


async def test_a_redirect_to_another_origin_is_not_followed(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    async with running_issuer() as other:
        issuer.respond(response(b"", "307 Temporary Redirect", f"Location: {other.url}"))
        with pytest.raises(AuthKeysUnavailable, match="redirected"):
            await keys.find("old")
        assert other.fetches == 0


async def test_the_number_of_redirects_is_limited(issuer: Issuer, keys: RemoteKeySet) -> None:
    issuer.respond(response(b"", "302 Found", f"Location: {PATH}"))
    with pytest.raises(AuthKeysUnavailable, match="redirected"):
        await keys.find("old")
    assert issuer.fetches == 2 * (1 + REDIRECTS_MAX)


@pytest.mark.parametrize("location", ["http://host:port/", "http://xn--a/"])
async def test_a_redirect_to_an_invalid_url_is_a_failure(
    location: str, issuer: Issuer, keys: RemoteKeySet
) -> None:
    issuer.respond(response(b"", "302 Found", f"Location: {location}"))
    with pytest.raises(AuthKeysUnavailable, match="unreachable"):
        await keys.find("old")


# --- Log ---


async def test_a_refresh_is_logged_with_the_algorithms_and_the_skipped_entries(
    issuer: Issuer, keys: RemoteKeySet, log: Log
) -> None:
    issuer.respond(response(key_set(OLD.jwk(), NEW.jwk(), NEW.jwk(kid="enc", use="enc"))))
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


async def test_log_and_message_have_no_part_of_the_url_but_the_host(
    issuer: Issuer, client: httpx.AsyncClient, clock: Clock, log: Log
) -> None:
    issuer.pages[f"{PATH}?api_key=sesame"] = FAILURES["status 500"]
    url = issuer.url.replace("://", "://user:sesame@") + "?api_key=sesame"
    with pytest.raises(AuthKeysUnavailable) as caught:
        await RemoteKeySet(url, ALGORITHMS, client=client, clock=clock).check()
    assert log == [
        {
            "event": "auth.keys_unavailable",
            "log_level": "warning",
            "reason": "status 500",
            "host": "127.0.0.1",
        }
    ]
    assert "sesame" not in str(caught.value)


# --- Close ---


async def test_a_cancelled_caller_does_not_cancel_the_fetch_for_the_others(
    issuer: Issuer, keys: RemoteKeySet
) -> None:
    issuer.gate.clear()
    cancelled = asyncio.create_task(found(keys, "old"))
    waiting = asyncio.create_task(found(keys, "old"))
    await until(lambda: issuer.fetches == 1)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    issuer.gate.set()
    assert (await waiting).kid == "old"
    assert issuer.fetches == 1


async def test_closing_cancels_a_running_fetch(issuer: Issuer, keys: RemoteKeySet) -> None:
    issuer.gate.clear()
    waiting = asyncio.create_task(keys.find("old"))
    await until(lambda: issuer.fetches == 1)
    await keys.aclose()
    with pytest.raises(AuthKeysUnavailable) as caught:
        await waiting
    assert "timeout" not in str(caught.value)


async def test_closing_leaves_a_passed_client_open(
    keys: RemoteKeySet, client: httpx.AsyncClient
) -> None:
    await keys.aclose()
    assert not client.is_closed


async def test_the_client_is_optional(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    keys = RemoteKeySet(issuer.url, ALGORITHMS)
    await found(keys, "old")
    await keys.aclose()
