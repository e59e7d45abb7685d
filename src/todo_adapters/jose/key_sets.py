"""Fetches the JWK set of a token issuer and caches the keys."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final

import httpx
import structlog

from todo_adapters.jose.http_client import new_client, proxy_variable
from todo_adapters.jose.keys import VerificationKey, check_algorithms, parse_key_set
from todo_domain.errors import AuthKeysUnavailable

# In seconds
FETCH_TIMEOUT: Final = 2.5
REFRESH_AFTER: Final = 300
MAX_STALE: Final = 6 * 3600
RETRY_WITH_KEYS: Final = 10
RETRY_WITHOUT_KEYS: Final = 1
REFETCH_INTERVAL: Final = 10

REFETCH_BURST: Final = 3
DOCUMENT_MAX: Final = 512 * 1024  # bytes
REDIRECTS_MAX: Final = 3
REASON_MAX: Final = 200  # characters

# An uncompressed body, so that DOCUMENT_MAX limits the memory too.
_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity"}

_log = structlog.get_logger()


class RemoteKeySet:
    """A KeySource that caches the JWK set (RFC 7517) at a URL, for one event loop.

    One fetch runs at a time, and all callers wait for the same fetch. Without usable keys, a failed
    fetch is repeated once, immediately; then calls fail until RETRY_WITHOUT_KEYS has passed.

    The first call after REFRESH_AFTER starts a refresh in the background. A failed refresh is
    repeated after RETRY_WITH_KEYS. The keys stay in use until MAX_STALE after the last success.

    An unknown ``kid`` causes a fetch, because Better Auth publishes a new key only when it signs
    with the key. A client can send any ``kid``, so a token bucket limits these fetches.
    """

    def __init__(
        self,
        url: str,
        algorithms: Iterable[str],
        *,
        client: httpx.AsyncClient | None = None,
        timeout: float = FETCH_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises ValueError for an invalid URL or algorithm. ``aclose`` leaves ``client`` open."""
        self._url = parse_url(url)
        self._algorithms = check_algorithms(algorithms)
        self._client = client or new_client(self._url)
        self._owns_client = client is None
        self._timeout = timeout
        self._clock = clock
        self._keys: Mapping[str, VerificationKey] = {}
        self._refresh_at = self._expires_at = clock()
        self._refetches = _TokenBucket(clock)
        self._fetch: asyncio.Task[None] | None = None
        self._fetch_count = 0
        self._failure: Exception | None = None

    async def find(self, kid: str, skip: VerificationKey | None = None) -> VerificationKey | None:
        fetches_before = self._fetch_count
        await self.check()
        while (key := self._keys.get(kid)) is None or key == skip:
            is_up_to_date = self._fetch_count > fetches_before
            if self._fetch is None and (is_up_to_date or not self._refetches.take()):
                return None
            # Unlike awaiting the task, a cancelled caller does not cancel the fetch for others.
            await asyncio.wait([self._start_fetch()])
        return key

    def is_active(self, key: VerificationKey) -> bool:
        self._refresh_if_due()
        return self._is_usable() and self._keys.get(key.kid) == key

    async def check(self) -> None:
        """Return when there are usable keys. Raises AuthKeysUnavailable."""
        self._refresh_if_due()
        if self._fetch is not None and not self._is_usable():
            await asyncio.wait([self._fetch])
        if not self._is_usable():
            reason = self._describe(self._failure)
            raise AuthKeysUnavailable(f"no keys from {self._url.host}: {reason}") from self._failure

    def algorithms(self) -> list[str]:
        """The algorithm of each usable key."""
        return [key.algorithm for key in self._keys.values()] if self._is_usable() else []

    async def aclose(self) -> None:
        """Cancel a running fetch and close the connection."""
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.wait([self._fetch])
        if self._owns_client:
            await self._client.aclose()

    def _is_usable(self) -> bool:
        return self._clock() < self._expires_at

    def _refresh_if_due(self) -> None:
        if self._clock() >= self._refresh_at:
            self._start_fetch()

    def _start_fetch(self) -> asyncio.Task[None]:
        """The running fetch, or a new one."""
        if self._fetch is None:
            self._fetch_count += 1
            self._fetch = asyncio.create_task(self._refresh())
        return self._fetch

    async def _refresh(self) -> None:
        delay = RETRY_WITH_KEYS if self._is_usable() else RETRY_WITHOUT_KEYS
        try:
            async with asyncio.timeout(self._timeout):
                self._keys = await self._fetch_keys()
            self._expires_at = self._clock() + MAX_STALE
            delay = REFRESH_AFTER
        except (_FetchFailed, httpx.HTTPError, OSError, ValueError) as error:
            self._failure = error
            _log.warning("auth.keys_unavailable", reason=self._describe(error), host=self._url.host)
        finally:
            self._refresh_at = self._clock() + delay
            self._fetch = None

    async def _fetch_keys(self) -> Mapping[str, VerificationKey]:
        try:
            return self._parse(await self._fetch_document())
        except (_FetchFailed, httpx.HTTPError):
            if self._is_usable():
                raise
        return self._parse(await self._fetch_document())

    async def _fetch_document(self) -> bytes:
        url = self._url
        for _ in range(REDIRECTS_MAX + 1):
            request = self._client.stream("GET", url, headers=_HEADERS, follow_redirects=False)
            async with request as response:
                if response.next_request is None:
                    return await _read_body(response)
                url = response.next_request.url
            if (url.scheme, url.netloc) != (self._url.scheme, self._url.netloc):
                break
        raise _FetchFailed("redirected")

    def _describe(self, failure: Exception | None) -> str:
        if isinstance(failure, _FetchFailed):
            return str(failure)
        proxy = proxy_variable(self._url)
        route = f" through the proxy of {proxy}" if proxy else ""
        if isinstance(failure, TimeoutError | httpx.TimeoutException):
            return f"timeout{route}"
        return f"unreachable{route}: {failure}"[:REASON_MAX]

    def _parse(self, document: bytes) -> Mapping[str, VerificationKey]:
        try:
            keys, skipped = parse_key_set(document, self._algorithms)
        except ValueError as error:
            raise _FetchFailed(f"no key set: {error}") from None
        reasons = sorted(set(skipped))
        if not keys:
            raise _FetchFailed(f"no usable key: {', '.join(reasons) or 'empty set'}")
        _log.info(
            "auth.keys_refreshed",
            host=self._url.host,
            keys=len(keys),
            algorithms=sorted({key.algorithm for key in keys.values()}),
            skipped=reasons,
        )
        return keys


class _FetchFailed(Exception):
    """The response has no usable keys. The message may be logged."""


class _TokenBucket:
    """Limits fetches to REFETCH_BURST in a row, and one more per REFETCH_INTERVAL."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._full_at = clock()

    def take(self) -> bool:
        """Take a token. False if there is none."""
        now = self._clock()
        full_at = max(self._full_at, now) + REFETCH_INTERVAL
        if full_at - now > REFETCH_BURST * REFETCH_INTERVAL:
            return False
        self._full_at = full_at
        return True


def parse_url(text: str) -> httpx.URL:
    """The URL of a key set. Raises ValueError."""
    with suppress(httpx.InvalidURL, UnicodeError):
        url = httpx.URL(text)
        if url.scheme in {"http", "https"} and url.host:
            return url
    raise ValueError("AUTH_JWKS_URL must be a URL like https://app.example/api/auth/jwks")


async def _read_body(response: httpx.Response) -> bytes:
    if response.status_code != httpx.codes.OK:
        raise _FetchFailed(f"status {response.status_code}")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > DOCUMENT_MAX:
            raise _FetchFailed("no key set: too large")
    return bytes(body)
