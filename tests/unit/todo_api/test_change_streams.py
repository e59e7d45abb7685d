"""A stream by itself: why it ends, and what it sends last."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from starlette.types import Message
from structlog.testing import capture_logs

from support.event_streams import Event, parse_event
from todo_adapters.change_brokers import InProcessChangeBroker
from todo_api.change_streams import ChangeStream, ChangeStreams, StreamLimits
from todo_domain.ownership import Principal

TOMORROW: Final = datetime.now(UTC) + timedelta(days=1)
ADA: Final = Principal("ada", TOMORROW)


async def never() -> Message:
    """A client that stays connected."""
    await asyncio.Event().wait()
    raise AssertionError


class Client:
    """Keeps what it gets. After ``reads`` messages it reads no more."""

    def __init__(self, reads: int = 1000) -> None:
        self.bodies: list[bytes] = []
        self.has_read = asyncio.Event()
        self.has_ended = False
        self._left = reads

    async def send(self, message: Message) -> None:
        if not self._left:
            await asyncio.Event().wait()
        self._left -= 1
        if message["type"] == "http.response.body":
            self.bodies.append(message["body"])
            self.has_read.set()
        self.has_ended = not message.get("more_body", True)

    def events(self) -> list[Event]:
        blocks = b"".join(self.bodies).decode().split("\n\n")
        return [parse_event(block) for block in blocks if block]


def a_stream(broker: InProcessChangeBroker, limits: StreamLimits) -> ChangeStream:
    return ChangeStreams(broker, limits).new(ADA)


class TestSlowClient:
    async def test_that_does_not_read_is_closed(self) -> None:
        broker, client = InProcessChangeBroker(), Client(reads=1)
        with capture_logs() as log:
            await a_stream(broker, StreamLimits(send=0)).run(never, client.send)
        assert [entry["reason"] for entry in log] == ["too_slow"]

    async def test_for_which_too_many_changes_wait_gets_them_and_is_closed(self) -> None:
        broker, client = InProcessChangeBroker(), Client()
        running = asyncio.create_task(
            a_stream(broker, StreamLimits(queue=3)).run(never, client.send)
        )
        await client.has_read.wait()
        for number in range(5):
            broker.publish("ada", number, b"{}")
        await running
        assert [event.id for event in client.events()] == [None, "0", "1", "2", None]
        assert client.events()[-1].data == {"reason": "too_slow"}
        assert client.has_ended


class TestStop:
    @pytest.mark.parametrize("opened_before", [True, False])
    async def test_of_the_process_ends_every_stream(self, *, opened_before: bool) -> None:
        broker, client, stopping = InProcessChangeBroker(), Client(), asyncio.Event()
        streams = ChangeStreams(broker, StreamLimits())
        with streams.ended_by(stopping):
            if not opened_before:
                stopping.set()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            running = asyncio.create_task(streams.new(ADA).run(never, client.send))
            if opened_before:
                await client.has_read.wait()
            stopping.set()
            await running
        names = [event.name for event in client.events()]
        assert names == ["hello", "bye"]
        assert client.events()[-1].data == {"reason": "shutdown"}
        assert client.has_ended
        assert streams.count() == 0

    async def test_sends_the_changes_that_wait_first(self) -> None:
        broker, client, stopping = InProcessChangeBroker(), Client(), asyncio.Event()
        streams = ChangeStreams(broker, StreamLimits())
        with streams.ended_by(stopping):
            running = asyncio.create_task(streams.new(ADA).run(never, client.send))
            await client.has_read.wait()
            stopping.set()
            await asyncio.sleep(0)
            broker.publish("ada", 1, b"{}")
            await running
        assert [event.name for event in client.events()] == ["hello", "change", "bye"]
