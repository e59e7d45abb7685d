"""The rate limiter by itself: with a real Redis, without one, and as time passes."""

import asyncio
from collections.abc import Iterator
from typing import Final

import pytest

from support.redis_server import RedisServer, redis_server
from support.service import PATIENCE
from todo_adapters.rate_limits import LimitsRateLimiter, inspect_redis

QUOTA: Final = 10
RIVALS: Final = 50


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


class TestLimiter:
    @pytest.mark.parametrize(
        "url",
        ["redis://127.0.0.1:1", "redis://:no-such-password@{}", "rediss://{}"],
    )
    async def test_counts_by_itself_where_redis_cannot_be_used(
        self, redis: RedisServer, url: str
    ) -> None:
        limiter = LimitsRateLimiter(
            {"user": f"{QUOTA}/hour"}, url.format(f"127.0.0.1:{redis.port}")
        )
        assert await served(limiter, "ada", QUOTA + 1) == QUOTA
        await limiter.close()

    async def test_begins_again_with_the_next_window(self) -> None:
        limiter = LimitsRateLimiter({"user": "1/second"})
        assert await served(limiter, "ada", RIVALS) == 1
        async with asyncio.timeout(PATIENCE):
            while await served(limiter, "ada", 1) == 0:
                pass

    async def test_keeps_every_quota_of_several(self) -> None:
        limiter = LimitsRateLimiter({"user": "100/day;7/hour;50/hour"})
        assert await served(limiter, "ada", RIVALS) == 7


async def served(limiter: LimitsRateLimiter, key: str, hits: int) -> int:
    """How many of so many hits at once are within the key's quotas."""
    standings = await asyncio.gather(*(limiter.hit("user", key) for _ in range(hits)))
    return sum(not any(each.is_exceeded for each in standing) for standing in standings)


class TestInspection:
    async def test_returns_the_version(self, redis: RedisServer) -> None:
        assert (await inspect_redis(redis.url))[0].isdigit()

    @pytest.mark.parametrize(
        ("url", "explanation"),
        [
            ("redis://127.0.0.1:1", "cannot be reached: check host and port"),
            ("redis://no-such-host.invalid", "cannot be reached: check host and port"),
            ("redis://ada:hunter2@{}", "refuses the user or the password"),
            ("rediss://:hunter2@{}", "redis:// or rediss://"),
            ("redis://{}/99", "returns an error"),
        ],
    )
    async def test_explains_why_redis_cannot_be_used(
        self, redis: RedisServer, url: str, explanation: str
    ) -> None:
        with pytest.raises(ValueError, match=explanation) as error:
            await inspect_redis(url.format(f"127.0.0.1:{redis.port}"))
        assert "hunter2" not in str(error.value)
