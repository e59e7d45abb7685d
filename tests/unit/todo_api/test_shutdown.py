"""The event that SIGTERM sets."""

import asyncio
import signal
from collections.abc import Iterator

import pytest

from todo_api.shutdown import stopping_event


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """The signals that a server's SIGTERM handler has handled."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


async def test_sigterm_sets_the_event_and_runs_the_servers_handler(handled: list[int]) -> None:
    stopping = stopping_event()
    assert not stopping.is_set()
    signal.raise_signal(signal.SIGTERM)
    await stopping.wait()
    assert handled == [signal.SIGTERM]


async def test_sigterm_runs_a_handler_that_the_server_added_to_the_event_loop() -> None:
    handled = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, handled.set)
    stopping = stopping_event()
    signal.raise_signal(signal.SIGTERM)
    await asyncio.gather(stopping.wait(), handled.wait())
    loop.remove_signal_handler(signal.SIGTERM)


async def test_without_a_servers_handler_sigterm_keeps_its_default_action() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stopping_event()
    assert signal.getsignal(signal.SIGTERM) is before is signal.SIG_DFL
