"""Rate limits with the ``limits`` library: counted in this process, or in Redis for all of them.

Windows are fixed and begin with a key's first hit: exact, and one atomic increment per hit.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import structlog
from limits import RateLimitItem, parse_many
from limits.aio.storage import RedisStorage
from limits.errors import StorageError
from redis.asyncio import BlockingConnectionPool

OFF: Final = "off"
SWEEP_MIN: Final = 1024  # keys

# A burst queues for a few connections that are open: to open one for each of its requests would
# keep Redis busier than to count them.
REDIS_CONNECTIONS: Final = 8
# In seconds. Longer than a busy event loop lags, or what is only slow would be taken for away.
REDIS_TIMEOUT: Final = 1.0
REDIS_RETRY: Final = 5.0  # in which nobody tries again after a failure

_log = structlog.get_logger()


class QuotaStatus(NamedTuple):
    """Where a key stands with one quota: ``remaining`` hits for the next ``reset`` seconds."""

    quota: int
    window: int
    remaining: int
    reset: int
    is_exceeded: bool


class LimitsRateLimiter:
    """Counts hits by policy and key.

    While Redis is away the count goes on in this process, from its own numbers: a limit that is
    too generous for a moment is better than a service that is down with its limiter.
    """

    def __init__(self, policies: Mapping[str, str], redis_url: str | None = None) -> None:
        """``policies`` in the notation of ``limits``, several with ``;``, or ``off``.

        Raises ValueError for a notation or a URL that cannot be read.
        """
        self._policies = {name: _parsed(name, text) for name, text in policies.items()}
        self._redis = _redis(redis_url) if redis_url else None
        self._shared = _shared_counts(self._redis) if self._redis else None
        self._own = _LocalCounter()
        self._retry_at = 0.0

    async def hit(self, policy: str, key: str) -> Sequence[QuotaStatus]:
        """Count one hit and tell where the key stands with each quota of the policy."""
        quotas = self._policies[policy]
        if self._shared and quotas and self._is_redis_due():
            try:
                return [
                    await _hit(self._shared, quota, quota.key_for(policy, key)) for quota in quotas
                ]
            except StorageError as failure:
                self._back_off(failure)
        return [self._own.hit(quota, quota.key_for(policy, key)) for quota in quotas]

    def is_shared(self) -> bool:
        """Whether Redis keeps the count at present."""
        return self._shared is not None and self._is_redis_due()

    async def close(self) -> None:
        """Let go of the connections to Redis."""
        if self._redis:
            await self._redis.aclose()

    def _is_redis_due(self) -> bool:
        return time.monotonic() >= self._retry_at

    def _back_off(self, failure: StorageError) -> None:
        """Have nobody try again for a while; said once, however many were waiting."""
        if self._is_redis_due():
            self._retry_at = time.monotonic() + REDIS_RETRY
            cause = type(failure.storage_error).__name__
            _log.error("rate_limit.storage_unavailable", reason=cause)


def _redis(url: str) -> BlockingConnectionPool:
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=REDIS_CONNECTIONS,
            timeout=REDIS_TIMEOUT,
            socket_timeout=REDIS_TIMEOUT,
            socket_connect_timeout=REDIS_TIMEOUT,
        )
        pool.connection_class(**pool.connection_kwargs)  # reads the options; connects to nothing
    except (ValueError, TypeError):
        raise ValueError(
            "REDIS_URL must be like redis://user:password@host:6379/0 or rediss://host:6379"
        ) from None
    return pool


def _shared_counts(redis: BlockingConnectionPool) -> RedisStorage:
    # The connections are the pool's; of the URL only the scheme counts here.
    pool: Any = redis  # which the library passes on, but does not declare
    return RedisStorage(
        "async+redis://", wrap_exceptions=True, implementation="redispy", connection_pool=pool
    )


class _LocalCounter:
    """Counts in this process.

    The library's own storage looks through all of its keys after each hit; this one does so when
    as many have come as were there the last time.
    """

    def __init__(self) -> None:
        self._windows: dict[str, tuple[int, float]] = {}
        self._sweep_at = SWEEP_MIN

    def hit(self, quota: RateLimitItem, key: str) -> QuotaStatus:
        """Count one hit."""
        now = time.time()
        count, end = self._windows.get(key, (0, 0.0))
        if end <= now:
            count, end = 0, now + quota.get_expiry()
        self._windows[key] = (count + 1, end)
        if len(self._windows) >= self._sweep_at:
            self._sweep(now)
        return _standing(quota, count + 1, end - now)

    def _sweep(self, now: float) -> None:
        self._windows = {key: window for key, window in self._windows.items() if window[1] > now}
        self._sweep_at = max(SWEEP_MIN, 2 * len(self._windows))


def _parsed(name: str, text: str) -> Sequence[RateLimitItem]:
    if text == OFF:
        return ()
    try:
        return parse_many(text)
    except ValueError:
        raise ValueError(
            f"the rate limit {name!r} must be like 600/minute or 10/second;600/minute, or off"
        ) from None


async def _hit(counts: RedisStorage, quota: RateLimitItem, key: str) -> QuotaStatus:
    count = await counts.incr(key, quota.get_expiry())
    return _standing(quota, count, await counts.get_expiry(key) - time.time())


def _standing(quota: RateLimitItem, count: int, seconds_left: float) -> QuotaStatus:
    return QuotaStatus(
        quota=quota.amount,
        window=quota.get_expiry(),
        remaining=max(0, quota.amount - count),
        reset=max(1, math.ceil(seconds_left)),
        is_exceeded=count > quota.amount,
    )
