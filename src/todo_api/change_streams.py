"""Streams of changes: the port that delivers changes, and the open streams of this worker.

A stream never asks the database. A client that has change n applies change n + 1; after anything
else it reads the feed. So a lost event costs a request, and no data.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from secrets import randbelow
from typing import Final, Protocol

import orjson
import structlog
from starlette.types import Receive, Send

from todo_api.problems import ProblemError
from todo_domain.ownership import Principal

MEDIA_TYPE: Final = "text/event-stream"
HEADERS: Final = (
    (b"content-type", MEDIA_TYPE.encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would keep events until its buffer is full
)
_RETRY_AFTER: Final = 30  # seconds until a stream may have ended
_COMMENT: Final = b":\n\n"
_RETRY: Final = range(500, 3001)  # milliseconds; random, so that clients do not return at once

_log = structlog.get_logger()


class Subscriber(Protocol):
    """Gets the changes of one user. Its methods neither wait nor raise."""

    def on_change(self, number: int, document: bytes) -> None: ...
    def on_loss(self) -> None: ...


class ChangeBroker(Protocol):
    """Delivers changes to subscribers, if possible of all processes of the service."""

    def publish(self, owner: str, number: int | None, document: bytes) -> None:
        """Deliver the owner's change with this number. Neither waits nor raises.

        Without a number the owner may have a change that is not known: ``on_loss`` is called.

        Subscribers of the owner, and no others, get the changes that a process publishes in the
        order of publication. If a change may not have been delivered, ``on_loss`` of each
        subscriber that may have missed it is called, at the latest when changes can be delivered
        again.
        """

    def subscription(
        self, owner: str, subscriber: Subscriber
    ) -> AbstractContextManager[int | None]:
        """Deliver the owner's changes to the subscriber within the block.

        The value is the number of the owner's last change, or None if this process does not know
        it.
        """


class EndReason(StrEnum):
    """Why a stream has ended."""

    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - no secret
    SHUTDOWN = "shutdown"
    TOO_SLOW = "too_slow"
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """The limits on streams. The numbers of streams are per worker, the times in seconds.

    A stream ends if more than ``queue`` changes wait to be sent, or if sending takes longer than
    ``send``. A comment is sent after each ``heartbeat`` without a change: proxies close silent
    connections, nginx after 60 seconds.
    """

    per_user: int = 10
    per_worker: int = 2000
    queue: int = 64
    heartbeat: float = 25.0
    send: float = 5.0  # shorter than the time that the server has to shut down


class ChangeStreams:
    """The open streams of this worker."""

    def __init__(self, broker: ChangeBroker | None, limits: StreamLimits) -> None:
        """Without a broker, streams are refused: this worker does not see all changes."""
        self.limits = limits
        self._broker = broker
        self._streams: set[ChangeStream] = set()
        self._per_user: Counter[str] = Counter()
        self._is_stopping = False

    def count(self) -> int:
        """The number of open streams."""
        return len(self._streams)

    @contextmanager
    def ended_by(self, stopping: asyncio.Event) -> Iterator[None]:
        """End all streams when the event is set within the block."""
        waiting = asyncio.create_task(self._end_all_after(stopping))
        try:
            yield
        finally:
            waiting.cancel()

    def new(self, actor: Principal) -> "ChangeStream":
        """A stream for this user. Raises ProblemError if there are too many."""
        if self._broker is None:
            raise ProblemError("stream_unavailable")
        if self._per_user[actor.user_id] >= self.limits.per_user:
            raise ProblemError("too_many_streams", headers={"Retry-After": str(_RETRY_AFTER)})
        if len(self._streams) >= self.limits.per_worker:
            raise ProblemError("stream_unavailable", "this server has no room for another stream")
        return ChangeStream(self, self._broker, actor)

    @contextmanager
    def counting(self, stream: "ChangeStream") -> Iterator[None]:
        """Count the stream as open within the block."""
        self._streams.add(stream)
        self._per_user[stream.owner] += 1
        if self._is_stopping:
            stream.end(EndReason.SHUTDOWN)
        try:
            yield
        finally:
            self._streams.remove(stream)
            self._per_user[stream.owner] -= 1
            if not self._per_user[stream.owner]:
                del self._per_user[stream.owner]

    async def _end_all_after(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._is_stopping = True
        for stream in self._streams:
            stream.end(EndReason.SHUTDOWN)


class ChangeStream:
    """One stream of server-sent events to a client, until the client's token expires."""

    def __init__(self, streams: ChangeStreams, broker: ChangeBroker, actor: Principal) -> None:
        self.owner = actor.user_id
        self._streams = streams
        self._limits = streams.limits
        self._broker = broker
        self._expires_at = actor.expires_at
        self._events: deque[bytes] = deque()
        self._is_due = asyncio.Event()  # something is to be sent
        self._end_reason: EndReason | None = None

    def on_change(self, number: int, document: bytes) -> None:
        self._put(b"id: %d\nevent: change\ndata: %s\n\n" % (number, document))

    def on_loss(self) -> None:
        self._put(_hello(None))

    def end(self, reason: EndReason) -> None:
        """Send what waits to be sent and a last event, and close the stream."""
        self._end_reason = self._end_reason or reason
        self._is_due.set()

    async def run(self, receive: Receive, send: Send) -> None:
        """Send the response. Returns when the stream has ended."""
        seconds = (self._expires_at - datetime.now(UTC)).total_seconds()
        expiry = asyncio.get_running_loop().call_later(seconds, self.end, EndReason.TOKEN_EXPIRED)
        watching = asyncio.create_task(self._end_at_disconnect(receive))
        try:
            with (
                self._streams.counting(self),
                self._broker.subscription(self.owner, self) as last,
            ):
                self._events.appendleft(_hello(last))
                self._is_due.set()
                await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
                await self._send_events(send)
        finally:
            expiry.cancel()
            watching.cancel()
            _log.info("stream.closed", reason=self._end_reason)

    async def _send_events(self, send: Send) -> None:
        try:
            while (events := await self._next_events()) is not None:
                await self._send(send, events)
            if self._end_reason is not None and self._end_reason is not EndReason.DISCONNECTED:
                last = self._take_events() + _bye(self._end_reason)
                await self._send(send, last, more_body=False)
        except TimeoutError:
            self.end(EndReason.TOO_SLOW)

    async def _next_events(self) -> bytes | None:
        """Wait for what is to be sent next; None if the stream has to end."""
        try:
            async with asyncio.timeout(self._limits.heartbeat):
                await self._is_due.wait()
        except TimeoutError:
            return _COMMENT
        self._is_due.clear()
        return None if self._end_reason else self._take_events()

    async def _send(self, send: Send, body: bytes, *, more_body: bool = True) -> None:
        """Raises TimeoutError if the client does not read."""
        async with asyncio.timeout(self._limits.send):
            await send({"type": "http.response.body", "body": body, "more_body": more_body})

    def _put(self, event: bytes) -> None:
        if len(self._events) < self._limits.queue:
            self._events.append(event)
            self._is_due.set()
        else:
            self.end(EndReason.TOO_SLOW)

    def _take_events(self) -> bytes:
        events = b"".join(self._events)
        self._events.clear()
        return events

    async def _end_at_disconnect(self, receive: Receive) -> None:
        # ``send`` neither waits nor raises when the client has gone.
        while (await receive())["type"] != "http.disconnect":
            pass
        self.end(EndReason.DISCONNECTED)


def _hello(number: int | None) -> bytes:
    return b"event: hello\ndata: %s\n\n" % orjson.dumps({"change": number})


def _bye(reason: EndReason) -> bytes:
    retry = _RETRY[randbelow(len(_RETRY))]
    return b"retry: %d\nevent: bye\ndata: %s\n\n" % (retry, orjson.dumps({"reason": reason}))
