"""Tells the app when its process has to stop."""

import asyncio
import signal
from threading import current_thread, main_thread
from types import FrameType

from starlette.types import ASGIApp, Receive, Scope, Send


def with_stopping_event(app: ASGIApp) -> ASGIApp:
    """Wrap the app: ``stopping`` in its lifespan state is an asyncio.Event that SIGTERM sets.

    A server waits for open responses when it stops. A response that does not end by itself has to
    end when this event is set.
    """

    async def with_event(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" and "state" in scope:
            scope["state"]["stopping"] = stopping = asyncio.Event()
            _set_on_sigterm(stopping)
        await app(scope, receive, send)

    return with_event


def _set_on_sigterm(stopping: asyncio.Event) -> None:
    """Let SIGTERM set the event and then run the server's own handler.

    The server must have installed its handler before the lifespan. A handler that it added to the
    event loop runs too, because the loop gets signals through ``signal.set_wakeup_fd``.
    """
    loop = asyncio.get_running_loop()
    servers_handler = signal.getsignal(signal.SIGTERM)
    if not callable(servers_handler) or current_thread() is not main_thread():
        return  # the server does not handle SIGTERM in this process

    def stop(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stopping.set)
        servers_handler(number, frame)

    signal.signal(signal.SIGTERM, stop)
    signal.siginterrupt(signal.SIGTERM, False)
