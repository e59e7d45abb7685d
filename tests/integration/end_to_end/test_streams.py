"""Streams of the real service: changes of every worker reach them, and a signal ends them."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from support.event_streams import STREAM, Event, parse_event
from support.frontend import AUTH_SETTINGS, as_user
from support.redis_server import RedisServer, redis_server
from support.service import PATIENCE, Sandbox, Service, eventually
from todo_adapters.postgres.url import DatabaseUrl

USERS: Final = 6
PER_USER: Final = 5
Send = Callable[[Service, signal.Signals], None]


@pytest.fixture(scope="module")
async def variables(
    server_url: str, branch: Callable[[str], Awaitable[DatabaseUrl]]
) -> dict[str, str]:
    await branch("streamed")
    url = urlsplit(server_url)._replace(path="/streamed").geturl()
    return {"DATABASE_URL": url, "RATE_LIMIT": "off", **AUTH_SETTINGS}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(params=[1, 2])
def settings(
    request: pytest.FixtureRequest, variables: dict[str, str], redis: RedisServer
) -> dict[str, str]:
    """One worker without Redis, or two with it."""
    workers: int = request.param
    shared = {} if workers == 1 else {"REDIS_URL": redis.url}
    return variables | shared | {"WORKERS": str(workers)}


class Stream:
    """An open stream of a user."""

    def __init__(self, user: str, response: httpx.Response) -> None:
        self.user = user
        self._lines = response.iter_lines()

    def next(self) -> Event:
        block = []
        for line in self._lines:
            if not line:
                break
            block.append(line)
        return parse_event("\n".join(block))

    def bye(self) -> Event:
        """The last event. Asserts that the response ends after it."""
        while (event := self.next()).name != "bye":
            assert event.name
        assert list(self._lines) == []
        return event


@contextmanager
def opened(service: Service) -> Iterator[list[Stream]]:
    """Several streams of several users, each with its hello."""
    with ExitStack() as stack, httpx.Client(base_url=service.url, timeout=PATIENCE) as client:
        streams = []
        for user in [f"user {uuid4()}" for _ in range(USERS)]:
            for _ in range(PER_USER):
                response = stack.enter_context(client.stream("GET", STREAM, headers=as_user(user)))
                assert response.status_code == 200
                streams.append(Stream(user, response))
        assert {stream.next().name for stream in streams} == {"hello"}
        yield streams


def create(service: Service, user: str) -> Any:  # noqa: ANN401 - JSON
    with service.client() as client:
        response = client.post("/api/tasks", json={"title": "Buy milk"}, headers=as_user(user))
        assert response.status_code == 201
        return response.json()


def test_a_change_reaches_every_stream_of_its_user(
    sandbox: Sandbox, settings: dict[str, str]
) -> None:
    with sandbox.serving("serve", **settings) as service, opened(service) as streams:
        for user in {stream.user for stream in streams}:
            task = create(service, user)
            for stream in streams:
                if stream.user == user:
                    while (event := stream.next()).name == "hello":
                        pass  # a worker has connected to Redis
                    assert event.data == {"change": 1, "task": task}


@pytest.mark.parametrize("send", [Service.send, Service.send_to_group])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_every_stream_and_the_service(
    sandbox: Sandbox, settings: dict[str, str], number: signal.Signals, send: Send
) -> None:
    with sandbox.serving("serve", **settings) as service, opened(service) as streams:
        send(service, number)
        assert {stream.bye().data["reason"] for stream in streams} == {"shutdown"}
        assert service.exit_code() == 0


def test_sighup_ends_the_streams_of_replaced_workers(
    sandbox: Sandbox, variables: dict[str, str]
) -> None:
    with sandbox.serving("serve", **variables) as service, opened(service) as streams:
        before = service.workers()
        service.send(signal.SIGHUP)
        assert {stream.bye().data["reason"] for stream in streams} == {"shutdown"}
        assert eventually(lambda: not before & service.workers())
        with opened(service) as again:
            service.send(signal.SIGTERM)
            assert {stream.bye().data["reason"] for stream in again} == {"shutdown"}
        assert service.exit_code() == 0


class Copy:
    """A client that keeps a copy of its user's tasks, as docs/api.md says."""

    def __init__(self, url: str, user: str) -> None:
        self.user = user
        self.tasks: dict[str, Any] = {}
        self.changed = asyncio.Event()
        self._client = httpx.AsyncClient(
            base_url=url, headers=as_user(user), timeout=PATIENCE, trust_env=False
        )
        self._number: int | None = None
        self._since = ""

    async def follow(self) -> None:
        """Follow streams, each after the end of the one before. Never pulls without a reason."""
        async with self._client:
            while True:
                with suppress(httpx.TransportError):
                    await self._follow_one_stream()

    async def _follow_one_stream(self) -> None:
        async with self._client.stream("GET", STREAM) as response:
            block: list[str] = []
            async for line in response.aiter_lines():
                if line:
                    block.append(line)
                    continue
                await self._handle(parse_event("\n".join(block)))
                block.clear()

    async def _handle(self, event: Event) -> None:
        match event:
            case Event("hello", {"change": number}) if number != self._number:
                await self._pull()
            case Event("change", {"change": number, **change}):
                if self._number is None or number != self._number + 1 or not change:
                    await self._pull()
                else:
                    self._number = number
                    self._apply(change.get("task", change))
        self.changed.set()

    async def _pull(self) -> None:
        has_more = True
        while has_more:
            page = (await self._client.get(f"/api/tasks/changes?since={self._since}")).json()
            for change in page["changes"]:
                self._apply(change)
            self._since, self._number, has_more = page["next"], page["change"], page["more"]

    def _apply(self, change: Any) -> None:  # noqa: ANN401 - JSON
        if "deleted" in change:
            self.tasks.pop(change["id"], None)
        else:
            self.tasks[change["id"]] = change


async def write(url: str, user: str, seed: int, stop: asyncio.Event) -> None:
    """Write until the event, whatever happens to the connections."""
    random = Random(seed)  # noqa: S311 - repeatable on purpose
    ids = [str(uuid4()) for _ in range(5)]
    async with httpx.AsyncClient(
        base_url=url, headers=as_user(user), timeout=PATIENCE, trust_env=False
    ) as client:
        while not stop.is_set():
            path = f"/api/tasks/{random.choice(ids)}"
            with suppress(httpx.TransportError):
                match random.randrange(5):
                    case 0:
                        await client.delete(path)
                    case 1:
                        await client.post(f"{path}/restore")
                    case 2:
                        await client.patch(f"{path}/toggle")
                    case 3:
                        await client.patch("/api/tasks?status=pending", json={"priority": "low"})
                    case _:
                        headers = {"If-None-Match": "*"}
                        title = {"title": f"{seed} {random.random()}"}
                        await client.put(path, json=title, headers=headers)
                        await client.patch(path, json=title)


async def test_copies_of_clients_are_right_after_a_renewal_under_load(
    sandbox: Sandbox, settings: dict[str, str]
) -> None:
    stop = asyncio.Event()
    with sandbox.serving("serve", **settings) as service:
        users = [f"user {uuid4()}" for _ in range(3)]
        copies = [Copy(service.url, user) for user in users for _ in range(2)]
        following = [asyncio.create_task(copy.follow()) for copy in copies]
        writing = [
            asyncio.create_task(write(service.url, user, seed, stop))
            for seed, user in enumerate(users * 2)
        ]
        before = service.workers()
        service.send(signal.SIGHUP)
        while before & service.workers():
            copies[0].changed.clear()
            await copies[0].changed.wait()
        stop.set()
        await asyncio.gather(*writing)
        for user in users:
            create(service, user)  # without Redis, the last changes of the old worker are not seen
        for copy in copies:
            with service.client() as client:
                listed = client.get("/api/tasks", headers=as_user(copy.user)).json()
            async with asyncio.timeout(PATIENCE):
                while copy.tasks != {task["id"]: task for task in listed}:
                    copy.changed.clear()
                    await copy.changed.wait()
        for task in following:
            task.cancel()
        await asyncio.wait(following)


def test_several_workers_without_redis_refuse_streams(
    sandbox: Sandbox, variables: dict[str, str]
) -> None:
    with sandbox.serving("serve", **variables, WORKERS="2") as service, service.client() as client:
        response = client.get(STREAM, headers=as_user("ada"))
        assert (response.status_code, response.json()["code"]) == (503, "stream_unavailable")
        assert eventually(lambda: "streams.unavailable" in service.stdout + service.stderr)
