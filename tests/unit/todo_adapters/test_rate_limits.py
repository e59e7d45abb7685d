import asyncio

import pytest
from structlog.testing import capture_logs

from contracts import RateLimiterContract
from todo_adapters.rate_limits import SWEEP_MIN, LimitsRateLimiter
from todo_api.rate_limits import RateLimiter

POLICIES = {"few": "5/hour", "both": "2/minute;5/hour", "none": "off"}
UNREACHABLE = "redis://:hunter2@127.0.0.1:1/0"


class TestLimitsRateLimiter(RateLimiterContract):
    @pytest.fixture
    def limiter(self) -> RateLimiter:
        return LimitsRateLimiter(POLICIES)

    async def test_starts_no_background_task(self, limiter: RateLimiter) -> None:
        before = asyncio.all_tasks()
        for number in range(100):
            await limiter.hit("few", f"user {number}")
        assert asyncio.all_tasks() == before

    @pytest.mark.parametrize(
        ("text", "quotas"),
        [
            ("600/minute", [(600, 60)]),
            ("600 per minute", [(600, 60)]),
            ("1/second", [(1, 1)]),
            ("10/5 minutes", [(10, 300)]),
            ("10/second;600/minute", [(10, 1), (600, 60)]),
            ("off", []),
        ],
    )
    async def test_accepts_the_notation_of_limits(
        self, text: str, quotas: list[tuple[int, int]]
    ) -> None:
        statuses = await LimitsRateLimiter({"policy": text}).hit("policy", "ada")
        assert [(status.quota, status.window) for status in statuses] == quotas

    @pytest.mark.parametrize(
        "text",
        ["", "600", "600/fortnight", "many", "-1/minute", "0/minute", "1/second;0/day", "OFF;"],
    )
    def test_rejects_an_invalid_policy(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"^must be like 600/minute"):
            LimitsRateLimiter({"user": text})

    async def test_keeps_the_counts_of_many_keys(self, limiter: RateLimiter) -> None:
        for remaining in (4, 3):
            for number in range(2 * SWEEP_MIN):
                (status,) = await limiter.hit("few", f"user {number}")
                assert status.remaining == remaining


class TestLimitsRateLimiterWithoutRedis(RateLimiterContract):
    @pytest.fixture
    def limiter(self) -> RateLimiter:
        return LimitsRateLimiter(POLICIES, UNREACHABLE)

    async def test_logs_the_failure_once_and_without_the_url(self, limiter: RateLimiter) -> None:
        with capture_logs() as log:
            for _ in range(10):
                await limiter.hit("few", "ada")
        assert [entry["event"] for entry in log] == ["rate_limit.storage_unavailable"]
        assert "hunter2" not in str(log)

    async def test_does_not_use_redis_for_a_policy_that_is_off(self, limiter: RateLimiter) -> None:
        with capture_logs() as log:
            await limiter.hit("none", "ada")
        assert log == []
