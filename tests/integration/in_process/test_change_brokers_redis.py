"""Changes through a real Redis: its failures, its return, and other services that share it."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs
from structlog.typing import EventDict

from change_broker_contract import ChangeBrokerContract, Recorder
from support.redis_server import RedisServer, redis_server
from todo_adapters import change_brokers
from todo_adapters.change_brokers import RedisChangeBroker
from todo_api.change_streams import ChangeBroker

CHANGE = (1, b"{}")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def redis(server: RedisServer) -> Iterator[RedisServer]:
    """The server, which the test may stop."""
    yield server
    server.kill()
    server.start()


@pytest.fixture(autouse=True)
def log() -> Iterator[list[EventDict]]:
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def channel() -> str:
    return f"changes of {uuid4()}"


@asynccontextmanager
async def connected(server: RedisServer, channel: str) -> AsyncIterator[RedisChangeBroker]:
    """A broker that is connected to Redis."""
    broker, recorder = RedisChangeBroker(server.url, channel), Recorder()
    with broker.subscription("a probe", recorder):
        async with broker.connected():
            assert await recorder.next() is None
            yield broker


@pytest.fixture
async def brokers(server: RedisServer, channel: str) -> AsyncIterator[Sequence[RedisChangeBroker]]:
    """The brokers of two processes of one service."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connected(server, channel)) for _ in range(2)]


class TestRedisChangeBroker(ChangeBrokerContract):
    async def test_another_services_changes_do_not_come(
        self, server: RedisServer, brokers: Sequence[ChangeBroker]
    ) -> None:
        recorder = Recorder()
        with brokers[0].subscription("ada", recorder):
            async with connected(server, "another channel") as other:
                other_recorder = Recorder()
                with other.subscription("ada", other_recorder):
                    other.publish("ada", 1, b"{}")
                    assert await other_recorder.numbers(1) == [1]
            brokers[1].publish("ada", 2, b"{}")
            assert await recorder.numbers(1) == [2]

    @pytest.mark.parametrize("message", [b"", b"\n", b"[]\n{}", b'{"a": 1}\n', b"\xff\n{}", b"1\n"])
    async def test_a_message_of_another_version_is_a_loss(
        self,
        server: RedisServer,
        brokers: Sequence[RedisChangeBroker],
        channel: str,
        message: bytes,
    ) -> None:
        recorder = Recorder()
        with brokers[0].subscription("ada", recorder):
            async with Redis.from_url(server.url) as client:
                await client.publish(channel, message)
            assert await recorder.next() is None
            brokers[1].publish("ada", 1, b"{}")
            assert await recorder.next() == CHANGE


class TestLossOfRedis:
    async def test_is_a_loss_for_every_subscriber_until_redis_returns(
        self, redis: RedisServer, brokers: Sequence[RedisChangeBroker], log: list[EventDict]
    ) -> None:
        recorders = [Recorder() for _ in brokers]
        with (
            brokers[0].subscription("ada", recorders[0]),
            brokers[1].subscription("ada", recorders[1]),
        ):
            brokers[0].publish("ada", 1, b"{}")
            assert [await recorder.next() for recorder in recorders] == [CHANGE] * 2
            redis.kill()
            assert [await recorder.next() for recorder in recorders] == [None] * 2
            with brokers[0].subscription("ada", Recorder()) as number:
                assert number is None
            redis.start()
            for broker, recorder in zip(brokers, recorders, strict=True):
                while not broker.is_shared():
                    assert await recorder.next() is None
            brokers[0].publish("ada", 2, b"{}")
            for recorder in recorders:
                while (got := await recorder.next()) is None:
                    pass
                assert got == (2, b"{}")
        assert [entry["event"] for entry in log] == [
            *["changes.redis_unavailable"] * 2,
            *["changes.redis_recovered"] * 2,
        ]

    async def test_leaves_changes_of_the_own_process(
        self, redis: RedisServer, brokers: Sequence[RedisChangeBroker]
    ) -> None:
        recorder = Recorder()
        with brokers[0].subscription("ada", recorder):
            redis.kill()
            assert await recorder.next() is None
            brokers[0].publish("ada", 1, b"{}")
            while (got := await recorder.next()) is None:
                pass
            assert got == CHANGE

    async def test_is_noticed_if_redis_only_stops_to_respond(
        self,
        redis: RedisServer,
        channel: str,
        monkeypatch: pytest.MonkeyPatch,
        log: list[EventDict],
    ) -> None:
        monkeypatch.setattr(change_brokers, "PING_INTERVAL", 0.05)
        async with connected(redis, channel) as broker:
            recorder = Recorder()
            with broker.subscription("ada", recorder):
                redis.pause()
                assert await recorder.next() is None
                assert not broker.is_shared()
                redis.resume()
                assert await recorder.next() is None
        assert {entry["reason"] for entry in log if entry["log_level"] == "error"} == {
            "TimeoutError"
        }


async def test_changes_before_the_connection_are_a_loss_for_other_processes(
    server: RedisServer, brokers: Sequence[RedisChangeBroker], channel: str
) -> None:
    recorder, late = Recorder(), RedisChangeBroker(server.url, channel)
    with brokers[0].subscription("ada", recorder):
        late.publish("ada", 1, b"{}")
        async with late.connected():
            assert await recorder.next() is None


async def test_a_service_starts_without_redis(channel: str, log: list[EventDict]) -> None:
    broker, recorder = RedisChangeBroker("redis://:hunter2@127.0.0.1:1", channel), Recorder()
    with broker.subscription("ada", recorder):
        async with broker.connected():
            assert await recorder.next() is None
            broker.publish("ada", 1, b"{}")
            assert await recorder.next() == CHANGE
    assert [entry["event"] for entry in log] == ["changes.redis_unavailable"]
    assert "hunter2" not in str(log)


async def test_a_broker_leaves_no_task_behind(server: RedisServer, channel: str) -> None:
    before = asyncio.all_tasks()
    async with connected(server, channel):
        pass
    assert asyncio.all_tasks() == before
