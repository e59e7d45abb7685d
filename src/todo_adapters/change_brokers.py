"""Deliver changes to subscribers: of this process, or through Redis of all processes.

Redis sends each published change to every worker, in one order, so that each worker knows the last
number of each user. Redis keeps no message: a worker that was disconnected notifies its subscribers
that changes are lost.
"""

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from random import uniform
from time import monotonic
from typing import Any, Final, Protocol

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as RedisTimeoutError

NUMBERS_MAX: Final = 10_000  # users whose last change number is known
# In seconds
OVERLAP: Final = 60.0  # how long a process that this one replaces may still write
SPREAD: Final = 5.0  # over which subscribers learn of the end of the overlap
REDIS_TIMEOUT: Final = 1.0  # longer than the lag of a busy event loop
PING_INTERVAL: Final = 5.0  # a connection without a message for this time is tested
RECONNECT_MIN: Final = 0.2
RECONNECT_MAX: Final = 5.0

_LOST: Final = b""  # the message to all workers that changes of one worker are lost

_log = structlog.get_logger()


class Subscriber(Protocol):
    """todo_api.change_streams.Subscriber."""

    def on_change(self, number: int, document: bytes) -> None: ...
    def on_loss(self) -> None: ...


class InProcessChangeBroker:
    """Delivers changes to the subscribers of this process.

    While a deployment replaces a process, the old one still writes, and this one does not see those
    changes. So changes of the first ``overlap`` seconds do not count as a user's last, and their
    end is a loss for each subscriber that was there before.
    """

    def __init__(self, *, overlap: float = OVERLAP) -> None:
        self._numbers_since = monotonic() + overlap
        self._numbers: dict[str, int] = {}
        self._subscribers: defaultdict[str, list[Subscriber]] = defaultdict(list)

    def publish(self, owner: str, number: int | None, document: bytes) -> None:
        if number is None:
            self._numbers.pop(owner, None)
        else:
            self._remember(owner, number)
        for subscriber in self._subscribers.get(owner, ()):
            if number is None:
                subscriber.on_loss()
            else:
                subscriber.on_change(number, document)

    @contextmanager
    def subscription(self, owner: str, subscriber: Subscriber) -> Iterator[int | None]:
        subscribers = self._subscribers[owner]
        subscribers.append(subscriber)
        timer = self._overlap_timer(subscriber)
        try:
            yield self._numbers.get(owner)
        finally:
            if timer:
                timer.cancel()
            subscribers.remove(subscriber)
            if not subscribers:
                self._subscribers.pop(owner, None)

    def _overlap_timer(self, subscriber: Subscriber) -> asyncio.TimerHandle | None:
        seconds = self._numbers_since - monotonic()
        if seconds <= 0:
            return None
        delay = seconds + uniform(0, SPREAD)  # noqa: S311 - not for security
        return asyncio.get_running_loop().call_later(delay, subscriber.on_loss)

    def lose_changes(self) -> None:
        """Forget the last numbers and tell all subscribers that changes may be lost."""
        self._numbers.clear()
        for subscribers in self._subscribers.values():
            for subscriber in subscribers:
                subscriber.on_loss()

    def _remember(self, owner: str, number: int) -> None:
        """Remember the number, and forget the user whose last change is the oldest."""
        if monotonic() < self._numbers_since:
            return
        # Responses of two database connections may arrive in another order than their commits.
        self._numbers[owner] = max(number, self._numbers.pop(owner, 0))
        if len(self._numbers) > NUMBERS_MAX:
            del self._numbers[next(iter(self._numbers))]


class RedisChangeBroker:
    """Delivers changes to the subscribers of all processes that use the same channel.

    While Redis is unavailable, changes reach the subscribers of this process only.
    """

    def __init__(self, url: str, channel: str) -> None:
        """The channel must belong to one database: its changes are those of one set of users."""
        self._url = url
        self._channel = channel
        self._local = InProcessChangeBroker(overlap=0)
        self._outbox: deque[bytes] = deque()
        self._has_mail = asyncio.Event()
        self._is_connected = False
        self._is_failing = False
        self._has_lost_changes = False  # which other processes do not know

    def publish(self, owner: str, number: int | None, document: bytes) -> None:
        if self._is_connected:
            self._post(_encode(owner, number, document))
        else:
            self._has_lost_changes = True
            self._local.publish(owner, number, document)

    @contextmanager
    def subscription(self, owner: str, subscriber: Subscriber) -> Iterator[int | None]:
        with self._local.subscription(owner, subscriber) as number:
            yield number if self._is_connected else None

    def is_shared(self) -> bool:
        """Whether changes are exchanged through Redis at present."""
        return self._is_connected

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Be connected to Redis within the block, and connect again after each failure."""
        connecting = asyncio.create_task(self._connect_repeatedly())
        try:
            yield
        finally:
            connecting.cancel()
            with suppress(asyncio.CancelledError):
                await connecting

    async def _connect_repeatedly(self) -> None:
        delay = RECONNECT_MIN
        while True:
            was_connected = False
            try:
                async with self._client() as redis, asyncio.TaskGroup() as connection:
                    connection.create_task(self._receive(redis))
                    connection.create_task(self._send(redis))
            except* Exception as failures:  # noqa: BLE001 - whatever fails, connect again
                was_connected = self._is_connected
                self._disconnect(failures.exceptions[0])
            delay = RECONNECT_MIN if was_connected else min(2 * delay, RECONNECT_MAX)
            # Random, so that not all workers connect and their clients pull at the same moment.
            await asyncio.sleep(uniform(delay / 2, delay))  # noqa: S311 - not for security

    def _client(self) -> Redis:
        """A client whose connections are new: those of a client before it may be broken."""
        return Redis.from_url(
            self._url,
            socket_timeout=REDIS_TIMEOUT,
            socket_connect_timeout=REDIS_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )

    async def _receive(self, redis: Redis) -> None:
        """Deliver messages. Raises RedisTimeoutError if Redis does not respond."""
        async with redis.pubsub() as pubsub:
            await pubsub.subscribe(self._channel)
            is_tested = False
            while True:
                message = await pubsub.get_message(timeout=PING_INTERVAL)
                if message is not None:
                    is_tested = False
                    self._handle(message)
                elif is_tested:
                    raise RedisTimeoutError
                else:
                    await pubsub.ping()
                    is_tested = True

    def _handle(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "subscribe":  # the connection is new, maybe again
            self._become_connected()
        elif message["type"] == "message":
            try:
                self._local.publish(*_decode(message["data"]))
            except ValueError:  # _LOST, or the message of another version
                self._local.lose_changes()

    def _become_connected(self) -> None:
        self._is_connected = True
        self._local.lose_changes()
        if self._has_lost_changes:
            self._post(_LOST)
        self._has_lost_changes = False
        if self._is_failing:
            _log.info("changes.redis_recovered")
        self._is_failing = False

    def _disconnect(self, failure: Exception) -> None:
        self._has_lost_changes |= bool(self._outbox)
        self._outbox.clear()
        self._is_connected = False
        self._local.lose_changes()
        if not self._is_failing:
            _log.error("changes.redis_unavailable", reason=type(failure).__name__)
        self._is_failing = True

    def _post(self, message: bytes) -> None:
        self._outbox.append(message)
        self._has_mail.set()

    async def _send(self, redis: Redis) -> None:
        """Publish the messages of the outbox, several in one round trip."""
        while True:
            await self._has_mail.wait()
            self._has_mail.clear()
            messages = tuple(self._outbox)
            pipeline = redis.pipeline(transaction=False)
            for message in messages:
                pipeline.publish(self._channel, message)
            await pipeline.execute()
            for _ in messages:
                self._outbox.popleft()


def _encode(owner: str, number: int | None, document: bytes) -> bytes:
    return json.dumps([owner, number]).encode() + b"\n" + document


def _decode(message: bytes) -> tuple[str, int | None, bytes]:
    """Raises ValueError for a message that ``_encode`` has not made."""
    head, _, document = message.partition(b"\n")
    match json.loads(head):
        case [str(owner), int() | None as number]:
            return owner, number, document
    raise ValueError("not a change")
