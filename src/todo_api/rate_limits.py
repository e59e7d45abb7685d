"""Rate limits per user, and per client network for failed authentication.

The header fields are those of the IETF draft "RateLimit header fields for HTTP".
"""

from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from todo_api.problems import ProblemError
from todo_api.request_state import RequestState

PER_USER: Final = "user"
PER_FAILING_ADDRESS: Final = "auth-failures"

_log = structlog.get_logger()


class QuotaStatus(Protocol):
    """The state of one quota for a key: ``remaining`` hits, a new window in ``reset`` seconds."""

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
    """Counts hits by policy and key. The count is exact for any number of concurrent calls."""

    async def hit(self, policy: str, key: str, *, count: int = 1) -> Sequence[QuotaStatus]:
        """Count hits and return the status of each quota of the policy, which may have none."""


async def enforce(
    state: RequestState, limiter: RateLimiter, policy: str, key: str, *, count: int = 1
) -> None:
    """Count the requests and store the header fields that tell the client its remaining requests.

    Raises ProblemError (rate_limited) if a quota is exceeded.
    """
    quotas = await limiter.hit(policy, key, count=count)
    if not quotas:
        return
    state.rate_limit_fields = rate_limit_fields(policy, quotas)
    resets = [quota.reset for quota in quotas if quota.is_exceeded]
    if resets:
        _log.warning("rate_limited", policy=policy)
        raise ProblemError("rate_limited", headers={"Retry-After": str(max(resets))})


def rate_limit_fields(policy: str, quotas: Sequence[QuotaStatus]) -> list[tuple[bytes, bytes]]:
    """The raw fields ``RateLimit-Policy`` and ``RateLimit``.

    If a policy has several quotas, their names end with the window.
    """
    policies, remaining = [], []
    for quota in quotas:
        name = policy if len(quotas) == 1 else f"{policy}-{quota.window}"
        policies.append(f'"{name}";q={quota.quota};w={quota.window}')
        remaining.append(f'"{name}";r={quota.remaining};t={quota.reset}')
    return [
        (b"ratelimit-policy", ", ".join(policies).encode()),
        (b"ratelimit", ", ".join(remaining).encode()),
    ]
