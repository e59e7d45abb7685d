"""An issuer's published keys: fetched when needed, kept while it is away, never asked too often."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final

import httpx
import structlog

from todo_adapters.jose.keys import (
    DOCUMENT_MAX,
    VerificationKey,
    checked_algorithms,
    parse_key_set,
)
from todo_domain.errors import AuthKeysUnavailable

DEFAULT_ALGORITHMS: Final = frozenset({"EdDSA", "ES256", "RS256"})

# All in seconds.
TIMEOUT: Final = 2.5
REFRESH_AFTER: Final = 300
MAX_STALE: Final = 6 * 3600
RETRY_WITH_KEYS: Final = 10
RETRY_WITHOUT_KEYS: Final = 1
REFETCH_INTERVAL: Final = 10

REFETCHES: Final = 3
REDIRECTS_MAX: Final = 3
REASON_MAX: Final = 200

# Uncompressed, so that the limit on what is read is the limit on what is held.
_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity"}

_log = structlog.get_logger()


class StaticKeySet:
    """Keys that are given once and never change."""

    def __init__(self, keys: Iterable[VerificationKey]) -> None:
        self._keys = {key.kid: key for key in keys}

    async def find(
        self, kid: str, *, other_than: VerificationKey | None = None
    ) -> VerificationKey | None:
        """The key of that name, unless it is the one that will not do."""
        key = self._keys.get(kid)
        return None if key is other_than else key

    def holds(self, key: VerificationKey) -> bool:
        """Whether the key is one of these."""
        return self._keys.get(key.kid) == key

    async def check(self) -> None:
        """Nothing: the keys are there."""


class RemoteKeySet:
    """The keys at an issuer's JWKS address (RFC 7517), for one event loop.

    *Fetching.* One fetch is under way at a time and answers everyone who waits for it. It ends
    after ``timeout`` seconds, reads DOCUMENT_MAX at most and follows redirects only within the
    address's own origin. While there is no key at all, a fetch that fails is repeated once at once.

    *Ageing.* Keys are renewed in the background by the first who asks after REFRESH_AFTER. While
    that fails (no answer, any status but 200, no usable key) the old ones serve, until MAX_STALE after
    the last success, and the next try is RETRY_WITH_KEYS later. Without keys it is
    RETRY_WITHOUT_KEYS later, and who asks in between learns of the failure at once.

    *Unknown names.* Better Auth signs with a new key before anybody can have seen it, so an unknown
    ``kid`` is worth a fetch that begins after it was asked for. But strangers can make names up: so
    each process has an allowance of REFETCHES in a row, one more each REFETCH_INTERVAL. A stray
    token does not use it up, so a moment later the first token of a new key is still accepted at
    once; a flood costs the issuer six fetches a minute, and even then a new key is known to all
    within REFETCH_INTERVAL, for every fetch brings the whole set.
    """

    def __init__(
        self,
        url: str,
        algorithms: Iterable[str] = DEFAULT_ALGORITHMS,
        *,
        client: httpx.AsyncClient | None = None,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """The keys there that are for one of the algorithms; nothing is fetched yet.

        A ``client`` that is given stays its giver's to close. Raises ValueError for an address or
        an algorithm that will not do.
        """
        self._url = _checked_url(url)
        self._algorithms = checked_algorithms(algorithms)
        self._client = client or httpx.AsyncClient()
        self._owns_client = client is None
        self._timeout = timeout
        self._clock = clock
        self._keys: Mapping[str, VerificationKey] = {}
        self._refresh_at = self._kept_until = clock()
        self._refetches = _TokenBucket(clock)
        self._fetch: asyncio.Task[None] | None = None
        self._begun = 0
        self._failure = ""

    async def find(
        self, kid: str, *, other_than: VerificationKey | None = None
    ) -> VerificationKey | None:
        """The key of that name; None if the issuer has none, or cannot be asked any more just now.

        ``other_than`` is a key that will not do though it has the name: an issuer whose database
        was reset may use the name anew. Raises AuthKeysUnavailable when there is no usable key and
        none can be fetched.
        """
        begun_before = self._begun
        await self.check()
        while (key := self._keys.get(kid)) is other_than or key is None:
            was_asked = self._begun > begun_before
            if self._fetch is None and (was_asked or not self._refetches.take()):
                return None
            await _ended(self._fetch_begun())
        return key

    def holds(self, key: VerificationKey) -> bool:
        """Whether this very key is in use: one that was withdrawn or replaced is not."""
        self._renew_if_due()
        return self._keys.get(key.kid) is key and self._is_usable()

    async def check(self) -> None:
        """Return once there are usable keys. Raises AuthKeysUnavailable.

        May be called as often as one likes: see *Ageing* for what the issuer sees of it.
        """
        if self._is_usable():
            self._renew_if_due()
            return
        if self._fetch is not None or self._is_due():
            await _ended(self._fetch_begun())
        if not self._is_usable():
            raise AuthKeysUnavailable(f"no keys from {self._url.host}: {self._failure}")

    def algorithms(self) -> list[str]:
        """The algorithm of each usable key."""
        keys = self._keys.values() if self._is_usable() else ()
        return [key.algorithm for key in keys]

    async def aclose(self) -> None:
        """End a fetch that is under way and let go of the connection."""
        if self._fetch is not None:
            self._fetch.cancel()
            await _ended(self._fetch)
        if self._owns_client:
            await self._client.aclose()

    def _is_usable(self) -> bool:
        return self._clock() < self._kept_until

    def _is_due(self) -> bool:
        return self._clock() >= self._refresh_at

    def _renew_if_due(self) -> None:
        if self._is_due():
            self._fetch_begun()

    def _fetch_begun(self) -> asyncio.Task[None]:
        """The fetch that is under way, begun now if there was none."""
        if self._fetch is None:
            self._begun += 1
            self._fetch = asyncio.create_task(self._renew())
        return self._fetch

    async def _renew(self) -> None:
        fresh_for = RETRY_WITH_KEYS if self._is_usable() else RETRY_WITHOUT_KEYS
        try:
            async with asyncio.timeout(self._timeout):
                self._keys = await self._fetched()
            self._kept_until = self._clock() + MAX_STALE
            fresh_for = REFRESH_AFTER
        except _FetchFailed as failure:
            self._note(str(failure))
        except (TimeoutError, httpx.TimeoutException):
            self._note("timeout")
        except (httpx.HTTPError, OSError, ValueError) as failure:
            self._note(f"unreachable: {failure}"[:REASON_MAX])
        finally:
            self._refresh_at = self._clock() + fresh_for
            self._fetch = None

    def _note(self, failure: str) -> None:
        self._failure = failure
        _log.warning("auth.keys_unavailable", reason=failure, host=self._url.host)

    async def _fetched(self) -> Mapping[str, VerificationKey]:
        try:
            return self._usable_keys(await self._document())
        except (_FetchFailed, httpx.HTTPError):
            if self._is_usable():
                raise
        return self._usable_keys(await self._document())

    async def _document(self) -> bytes:
        url = self._url
        for _ in range(REDIRECTS_MAX + 1):
            async with self._client.stream(
                "GET", url, headers=_HEADERS, follow_redirects=False
            ) as response:
                if response.next_request is None:
                    return await _body(response)
                url = response.next_request.url
            if _origin(url) != _origin(self._url):
                break
        raise _FetchFailed("redirected")

    def _usable_keys(self, document: bytes) -> Mapping[str, VerificationKey]:
        skipped: list[str] = []
        try:
            keys = parse_key_set(document, self._algorithms, skipped.append)
        except ValueError as error:
            raise _FetchFailed(f"no key set: {error}") from None
        if not keys:
            raise _FetchFailed(f"no usable key: {', '.join(sorted(set(skipped))) or 'empty set'}")
        _log.info(
            "auth.keys_refreshed",
            host=self._url.host,
            keys=len(keys),
            algorithms=sorted({key.algorithm for key in keys.values()}),
            skipped=sorted(set(skipped)),
        )
        return {kid: self._same(key) for kid, key in keys.items()}

    def _same(self, key: VerificationKey) -> VerificationKey:
        """The key as it is in use already, if it is: ``holds`` tells keys apart by identity."""
        known = self._keys.get(key.kid)
        return known if known is not None and known == key else key


class _FetchFailed(Exception):
    """An answer that holds no keys for us; its text is fit for the log."""


class _TokenBucket:
    """Permission to refetch: REFETCHES at most in a row, a further one every REFETCH_INTERVAL."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left: float = REFETCHES
        self._counted_at = clock()

    def take(self) -> bool:
        """Whether there was one left to take."""
        now = self._clock()
        gained = (now - self._counted_at) / REFETCH_INTERVAL
        self._left = min(REFETCHES, self._left + gained)
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


async def _ended(fetch: asyncio.Task[None]) -> None:
    # Unlike awaiting the task, this leaves it alone when the one who waits is cancelled.
    await asyncio.wait([fetch])


def _checked_url(text: str) -> httpx.URL:
    with suppress(httpx.InvalidURL, UnicodeError):
        url = httpx.URL(text)
        if url.scheme in {"http", "https"} and url.host:
            return url
    raise ValueError("AUTH_JWKS_URL must be an address like https://app.example/api/auth/jwks")


def _origin(url: httpx.URL) -> tuple[str, bytes]:
    return url.scheme, url.netloc


async def _body(response: httpx.Response) -> bytes:
    if response.status_code != httpx.codes.OK:
        raise _FetchFailed(f"status {response.status_code}")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > DOCUMENT_MAX:
            raise _FetchFailed("no key set: too large")
    return bytes(body)
