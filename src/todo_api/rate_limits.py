"""How much one user, and one address without a valid token, may ask: 429 beyond, told before.

The header fields are those of the IETF draft "RateLimit header fields for HTTP".
"""

from collections.abc import Sequence
from typing import Final, Protocol

import structlog
from fastapi import Request

from todo_api.problems import ProblemError

PER_USER: Final = "user"
PER_FAILING_ADDRESS: Final = "auth-failures"

_log = structlog.get_logger()


class QuotaStatus(Protocol):
    """Where a key stands with one quota: ``remaining`` hits for the next ``reset`` seconds."""

    @property
    def quota(self) -> int: ...
    @property
    def window(self) -> int: ...
    @property
    def remaining(self) -> int: ...
    @property
    def reset(self) -> int: ...
    @property
    def is_exceeded(self) -> bool: ...


class RateLimiter(Protocol):
    """Counts hits by policy and key, exactly, however many rivals there are."""

    async def hit(self, policy: str, key: str) -> Sequence[QuotaStatus]:
        """Count one hit; return the standing with each quota of the policy, if it has any."""


async def enforce(request: Request, limiter: RateLimiter, policy: str, key: str) -> None:
    """Count a request, and have its answer say how many are left.

    Raises ProblemError (rate_limited) beyond the quota.
    """
    standings = await limiter.hit(policy, key)
    if not standings:
        return
    request.scope["rate_limit"] = rate_limit_fields(policy, standings)
    exceeded = [standing.reset for standing in standings if standing.is_exceeded]
    if exceeded:
        _log.warning("rate_limited", policy=policy)
        raise ProblemError("rate_limited", headers={"Retry-After": str(max(exceeded))})


def rate_limit_fields(policy: str, standings: Sequence[QuotaStatus]) -> list[tuple[bytes, bytes]]:
    """``RateLimit-Policy`` and ``RateLimit`` as raw fields.

    Of several quotas each has its window in the name.
    """
    quotas, left = [], []
    for standing in standings:
        name = policy if len(standings) == 1 else f"{policy}-{standing.window}"
        quotas.append(f'"{name}";q={standing.quota};w={standing.window}')
        left.append(f'"{name}";r={standing.remaining};t={standing.reset}')
    return [
        (b"ratelimit-policy", ", ".join(quotas).encode()),
        (b"ratelimit", ", ".join(left).encode()),
    ]
