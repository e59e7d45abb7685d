"""The contract suite of todo_api.change_streams.ChangeBroker."""

import asyncio
from collections.abc import Sequence
from typing import Final

import pytest

from support.service import PATIENCE
from support.tasks import HOSTILE_TEXTS
from todo_api.change_streams import ChangeBroker

Delivered = tuple[int, bytes]
DOCUMENT: Final = '{"title":"é\\n"}'.encode()


class Recorder:
    """A subscriber that keeps what it gets. None stands for a loss."""

    def __init__(self) -> None:
        self._got: asyncio.Queue[Delivered | None] = asyncio.Queue()

    def on_change(self, number: int, document: bytes) -> None:
        self._got.put_nowait((number, document))

    def on_loss(self) -> None:
        self._got.put_nowait(None)

    async def next(self) -> Delivered | None:
        async with asyncio.timeout(PATIENCE):
            return await self._got.get()

    async def numbers(self, count: int) -> list[int | None]:
        """The numbers of the next changes."""
        return [got and got[0] for got in [await self.next() for _ in range(count)]]


class ChangeBrokerContract:
    """Fixture: ``brokers``, of two processes of one service if they can see each other's changes.

    The first changes of all users are published in the tests.
    """

    @pytest.mark.parametrize("owner", ["ada", *HOSTILE_TEXTS])
    async def test_a_change_of_any_process_reaches_the_subscribers_of_its_owner(
        self, brokers: Sequence[ChangeBroker], owner: str
    ) -> None:
        for publishing in brokers:
            for receiving in brokers:
                first, second = Recorder(), Recorder()
                with receiving.subscription(owner, first), receiving.subscription(owner, second):
                    publishing.publish(owner, 1, DOCUMENT)
                    assert await first.next() == await second.next() == (1, DOCUMENT)

    async def test_changes_come_in_the_order_of_their_publication(
        self, brokers: Sequence[ChangeBroker]
    ) -> None:
        recorder = Recorder()
        with brokers[0].subscription("ada", recorder):
            for number in range(200):
                brokers[-1].publish("ada", number, DOCUMENT)
                if number % 10 == 0:
                    await asyncio.sleep(0)
            assert await recorder.numbers(200) == list(range(200))

    @pytest.mark.parametrize("other", ["eve", "Ada", "ada ", "", "ad*", "*"])
    async def test_no_change_of_another_user_comes(
        self, brokers: Sequence[ChangeBroker], other: str
    ) -> None:
        ada, eve = Recorder(), Recorder()
        with brokers[0].subscription("ada", ada), brokers[0].subscription(other, eve):
            brokers[-1].publish(other, 1, DOCUMENT)
            brokers[-1].publish("ada", 2, DOCUMENT)
            brokers[-1].publish(other, 3, DOCUMENT)
            assert await ada.numbers(1) == [2]
            assert await eve.numbers(2) == [1, 3]

    async def test_nothing_comes_after_the_subscription(
        self, brokers: Sequence[ChangeBroker]
    ) -> None:
        former, present = Recorder(), Recorder()
        with brokers[0].subscription("ada", former):
            pass
        with brokers[0].subscription("ada", present):
            brokers[-1].publish("ada", 1, DOCUMENT)
            assert await present.numbers(1) == [1]
            former.on_change(9, b"")
            assert await former.numbers(1) == [9]

    async def test_the_highest_number_that_has_come_is_known_until_a_change_may_be_lost(
        self, brokers: Sequence[ChangeBroker]
    ) -> None:
        recorder = Recorder()
        with brokers[0].subscription("ada", recorder) as number:
            assert number is None
            for published in (4, 6, 5):
                brokers[-1].publish("ada", published, DOCUMENT)
            await recorder.numbers(3)
        with brokers[0].subscription("ada", recorder) as number:
            assert number == 6
            brokers[-1].publish("ada", None, b"")
            assert await recorder.next() is None
        with brokers[0].subscription("ada", recorder) as number:
            assert number is None
        with brokers[0].subscription("eve", Recorder()) as number:
            assert number is None
