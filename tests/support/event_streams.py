"""Server-sent events: their format, and a client of an app in the tests' own process."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Scope

from support.service import PATIENCE

STREAM: Final = "/api/tasks/stream"


class Event(NamedTuple):
    """One event. A comment has no name."""

    name: str | None
    data: Any = None
    id: str | None = None
    retry: int | None = None


HELLO: Final = Event("hello", {"change": None})
COMMENT: Final = Event(None)


def parse_event(text: str) -> Event:
    """The event in the lines of one block."""
    fields = dict(line.split(": ", 1) for line in text.splitlines() if not line.startswith(":"))
    data, retry = fields.get("data"), fields.get("retry")
    return Event(
        fields.get("event"),
        data and json.loads(data),
        fields.get("id"),
        int(retry) if retry else None,
    )


class EventStream:
    """The response to a request for a stream."""

    def __init__(self, sent: asyncio.Queue[Message], received: asyncio.Queue[Message]) -> None:
        self.status = 0
        self.headers = Headers()
        self._sent = sent
        self._received = received
        self._text = ""
        self._has_more = True

    async def start(self) -> None:
        """Wait for the status and the header fields."""
        message = await self._next_message()
        self.status = message["status"]
        self.headers = Headers(raw=message["headers"])

    async def next(self) -> Event:
        while "\n\n" not in self._text:
            await self._read()
        event, self._text = self._text.split("\n\n", 1)
        return parse_event(event)

    async def rest(self) -> str:
        """The text until the end of the response."""
        while self._has_more:
            await self._read()
        return self._text

    def disconnect(self) -> None:
        self._received.put_nowait({"type": "http.disconnect"})

    async def _read(self) -> None:
        assert self._has_more, "the response has ended"
        message = await self._next_message()
        self._text += message["body"].decode()
        self._has_more = message.get("more_body", False)

    async def _next_message(self) -> Message:
        async with asyncio.timeout(PATIENCE):
            return await self._sent.get()


@asynccontextmanager
async def opened(
    app: ASGIApp,
    user: str,
    path: str = STREAM,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[EventStream]:
    """A stream of the user. The client disconnects at the end of the block."""
    sent: asyncio.Queue[Message] = asyncio.Queue()
    received: asyncio.Queue[Message] = asyncio.Queue()
    received.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    stream = EventStream(sent, received)
    scope = _scope(path, method, {"Authorization": f"Bearer {user}", **(headers or {})})

    async def respond() -> None:
        await app(scope, received.get, sent.put)

    running = asyncio.create_task(respond())
    try:
        await stream.start()
        yield stream
    finally:
        stream.disconnect()
        async with asyncio.timeout(PATIENCE):
            await running


def _scope(path: str, method: str, headers: Mapping[str, str]) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("todo.test", 80),
    }
