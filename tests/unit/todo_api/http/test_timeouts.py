"""``within``: the result in time, otherwise TimeoutError; other cancellations pass through."""

import asyncio

import pytest

from todo_api.http.routing import within


async def block() -> None:
    await asyncio.Event().wait()


async def test_the_result_is_returned() -> None:
    assert await within(60, asyncio.sleep(0, "result")) == "result"


async def test_an_error_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await within(60, fail())


async def test_work_that_takes_too_long_is_cancelled_with_timeout_error() -> None:
    with pytest.raises(TimeoutError):
        await within(0, block())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancellation_from_outside_is_not_a_timeout_error() -> None:
    task = asyncio.create_task(within(60, block()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_from_outside_wins_over_the_time_out() -> None:
    task = asyncio.create_task(within(0, block()))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
