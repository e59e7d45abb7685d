"""Rate limits with the ``limits`` library: counted in this process, or in Redis for all processes.

A window is fixed and starts with the first hit of its key. Every hit is one atomic increment.
"""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import structlog
from limits import RateLimitItem, parse_many
from limits.aio.storage import RedisStorage
from limits.errors import StorageError
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

OFF: Final = "off"
SWEEP_MIN: Final = 1024  # keys

# Requests of a burst wait for a few open connections: opening one connection per request costs
# Redis more than the increments.
REDIS_CONNECTIONS: Final = 8
# In seconds
REDIS_TIMEOUT: Final = 1.0  # longer than the lag of a busy event loop
REDIS_RETRY: Final = 5.0  # after a failure, hits are counted locally for this time

_REDIS_EXPLANATIONS: Final[tuple[tuple[type[Exception], str], ...]] = (  # subclasses come first
    (AuthenticationError, "it refuses the user or the password: correct them in REDIS_URL"),
    (NoPermissionError, "its user may not run INFO: allow the command with ACL SETUSER"),
    (RedisTimeoutError, "it does not respond in time: check host, port and redis:// or rediss://"),
    (RedisConnectionError, "it cannot be reached: check host and port of REDIS_URL"),
    (OSError, "it cannot be reached: check host and port of REDIS_URL"),
)

_log = structlog.get_logger()


class QuotaStatus(NamedTuple):
    """The state of one quota for a key: ``remaining`` hits within the next ``reset`` seconds."""

    quota: int
    window: int
    remaining: int
    reset: int
    is_exceeded: bool


class LimitsRateLimiter:
    """Counts hits by policy and key.

    While Redis is unavailable, each process counts its own hits. The limits are less strict then,
    but requests do not fail.
    """

    def __init__(self, policies: Mapping[str, str], redis_url: str | None = None) -> None:
        """A policy is ``off``, or one or more quotas in the notation of ``limits``.

        Raises ValueError for an invalid policy or URL.
        """
        self._policies = {name: parse_policy(text) for name, text in policies.items()}
        self._redis = _redis_pool(redis_url) if redis_url else None
        self._shared = _redis_storage(self._redis) if self._redis else None
        self._local = _LocalCounter()
        self._retry_at = 0.0

    async def hit(self, policy: str, key: str, *, count: int = 1) -> Sequence[QuotaStatus]:
        quotas = self._policies[policy]
        if self._shared and quotas and self._uses_redis():
            try:
                return [
                    await _hit(self._shared, quota, quota.key_for(policy, key), count)
                    for quota in quotas
                ]
            except StorageError as error:
                self._back_off(error)
        return [self._local.hit(quota, quota.key_for(policy, key), count) for quota in quotas]

    def is_shared(self) -> bool:
        """Whether hits are counted in Redis at present."""
        return self._shared is not None and self._uses_redis()

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._redis:
            await self._redis.aclose()

    def _uses_redis(self) -> bool:
        return time.monotonic() >= self._retry_at

    def _back_off(self, error: StorageError) -> None:
        """Count locally for REDIS_RETRY. Concurrent failures are logged once."""
        if self._uses_redis():
            self._retry_at = time.monotonic() + REDIS_RETRY
            reason = type(error.storage_error).__name__
            _log.error("rate_limit.storage_unavailable", reason=reason)


async def inspect_redis(url: str) -> str:
    """The version of the Redis server. Changes nothing.

    Raises ValueError with the explanation if hits cannot be counted there.
    """
    pool = _redis_pool(url)
    try:
        info: dict[str, Any] = await Redis(connection_pool=pool).info()
    except (OSError, RedisError) as error:
        raise ValueError(_explain_redis(error)) from None
    finally:
        await pool.aclose()
    if info.get("role") != "master":
        raise ValueError("it is a read-only replica: write the host of the primary in REDIS_URL")
    return str(info.get("redis_version", "unknown"))


def _explain_redis(error: Exception) -> str:
    text = str(error).lower()
    if "certificate verify failed" in text:
        return "its certificate is not valid: write ssl_ca_certs=FILE in REDIS_URL"
    if "ssl" in text:
        return "TLS with it fails: write redis:// instead of rediss:// if it has no TLS"
    for kind, explanation in _REDIS_EXPLANATIONS:
        if isinstance(error, kind):
            return explanation
    return f"it returns an error ({type(error).__name__}): check REDIS_URL"


class _LocalCounter:
    """Counts in this process.

    ``limits.aio.storage.MemoryStorage`` scans all keys after every hit, which costs 120 µs per hit
    with 1,000 keys and 1.2 ms with 10,000. Here a hit costs 4 µs: expired windows are removed when
    the number of keys has doubled.
    """

    def __init__(self) -> None:
        self._windows: dict[str, tuple[int, float]] = {}  # count and end by key
        self._sweep_at = SWEEP_MIN

    def hit(self, quota: RateLimitItem, key: str, count: int) -> QuotaStatus:
        now = time.time()
        hits, end = self._windows.get(key, (0, 0.0))
        if end <= now:
            hits, end = 0, now + quota.get_expiry()
        hits += count
        self._windows[key] = (hits, end)
        if len(self._windows) >= self._sweep_at:
            self._remove_expired(now)
        return _status(quota, hits, end - now)

    def _remove_expired(self, now: float) -> None:
        self._windows = {key: window for key, window in self._windows.items() if window[1] > now}
        self._sweep_at = max(SWEEP_MIN, 2 * len(self._windows))


def parse_policy(text: str) -> Sequence[RateLimitItem]:
    """The quotas of a policy; none for ``off``. Raises ValueError."""
    if text == OFF:
        return ()
    with suppress(ValueError):
        quotas = parse_many(text)
        if all(quota.amount for quota in quotas):
            return quotas
    raise ValueError("must be like 600/minute or 10/second;600/minute, or off")


def _redis_pool(url: str) -> BlockingConnectionPool:
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=REDIS_CONNECTIONS,
            timeout=REDIS_TIMEOUT,
            socket_timeout=REDIS_TIMEOUT,
            socket_connect_timeout=REDIS_TIMEOUT,
        )
        pool.connection_class(**pool.connection_kwargs)  # checks the options without connecting
    except (ValueError, TypeError):
        raise ValueError(
            "REDIS_URL must be like redis://user:password@host:6379/0 or rediss://host:6379"
        ) from None
    return pool


def _redis_storage(pool: BlockingConnectionPool) -> RedisStorage:
    # The library passes ``connection_pool`` on to redis-py, but its type hints do not declare it.
    # The pool connects, so the URL only selects the driver.
    untyped_pool: Any = pool
    return RedisStorage(
        "async+redis://",
        wrap_exceptions=True,
        implementation="redispy",
        connection_pool=untyped_pool,
    )


async def _hit(storage: RedisStorage, quota: RateLimitItem, key: str, count: int) -> QuotaStatus:
    hits = await storage.incr(key, quota.get_expiry(), amount=count)
    return _status(quota, hits, await storage.get_expiry(key) - time.time())


def _status(quota: RateLimitItem, count: int, seconds_left: float) -> QuotaStatus:
    return QuotaStatus(
        quota=quota.amount,
        window=quota.get_expiry(),
        remaining=max(0, quota.amount - count),
        reset=max(1, math.ceil(seconds_left)),
        is_exceeded=count > quota.amount,
    )
