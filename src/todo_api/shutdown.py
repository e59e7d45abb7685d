"""The event by which responses that do not end by themselves learn that the process stops."""

import asyncio
import signal
from threading import current_thread, main_thread
from types import FrameType


def stopping_event() -> asyncio.Event:
    """An event that SIGTERM sets, for the lifespan state of an app.

    A server that stops waits for open responses, and ends the lifespan after that. So a response
    without an end has to wait for this event.

    The server must have installed its SIGTERM handler before the lifespan. The server's handler
    still runs: this function's handler calls it, and a handler that the server added to the event
    loop gets signals through ``signal.set_wakeup_fd``.
    """
    stopping = asyncio.Event()
    servers_handler = signal.getsignal(signal.SIGTERM)
    if callable(servers_handler) and current_thread() is main_thread():
        loop = asyncio.get_running_loop()

        def stop(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(stopping.set)
            servers_handler(number, frame)

        signal.signal(signal.SIGTERM, stop)
        signal.siginterrupt(signal.SIGTERM, False)
    return stopping
