"""The stream of changes over HTTP: its events, its refusals, and what it does not count as."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from starlette.types import ASGIApp
from structlog.typing import EventDict

from fakes import InMemoryTaskRepository
from support.event_streams import COMMENT, HELLO, STREAM, Event, opened
from support.http_client import FRONTEND, client, served
from todo_adapters.change_brokers import InProcessChangeBroker
from todo_api.change_streams import StreamLimits
from todo_api.http.event_streams import publisher
from todo_domain.ownership import Principal

pytestmark = pytest.mark.usefixtures("log")

MILK: Final = {"title": "Buy milk"}


@pytest.fixture
def broker() -> InProcessChangeBroker:
    return InProcessChangeBroker(overlap=0)


@pytest.fixture
def tasks(broker: InProcessChangeBroker) -> InMemoryTaskRepository:
    return InMemoryTaskRepository(publisher(broker))


@pytest.fixture
async def app(
    tasks: InMemoryTaskRepository, broker: InProcessChangeBroker, log: list[EventDict]
) -> AsyncIterator[ASGIApp]:
    del log
    async with served(tasks, broker=broker) as app:
        yield app


async def created(user: httpx.AsyncClient, **members: object) -> dict[str, Any]:
    response = await user.post("/api/tasks", json=MILK | members)
    assert response.status_code == 201, response.text
    task: dict[str, Any] = response.json()
    return task


def change(number: int, **members: object) -> Event:
    return Event("change", {"change": number, **members}, str(number))


class TestEvents:
    async def test_each_write_of_one_task_is_sent_with_its_number_and_the_task(
        self, app: ASGIApp, ada: httpx.AsyncClient
    ) -> None:
        async with opened(app, "ada") as stream:
            assert await stream.next() == HELLO
            task = await created(ada)
            path = f"/api/tasks/{task['id']}"
            assert await stream.next() == change(1, task=task)
            changed = (await ada.patch(path, json={"title": "Buy oat milk"})).json()
            assert await stream.next() == change(2, task=changed)
            toggled = (await ada.patch(f"{path}/toggle")).json()
            assert await stream.next() == change(3, task=toggled)
            replaced = (await ada.put(path, json=MILK)).json()
            assert await stream.next() == change(4, task=replaced)
            await ada.delete(path)
            assert await stream.next() == change(5, id=task["id"], deleted=True)
            restored = (await ada.post(f"{path}/restore")).json()
            assert await stream.next() == change(6, task=restored)

    async def test_each_write_of_several_tasks_is_sent_with_its_number_alone(
        self, app: ASGIApp, ada: httpx.AsyncClient
    ) -> None:
        task = await created(ada)
        create = {"op": "create", "id": str(uuid4()), "task": MILK}
        async with opened(app, "ada") as stream:
            await stream.next()
            await ada.post("/api/tasks/batch", json={"operations": [create]})
            await ada.patch("/api/tasks?status=pending", json={"priority": "high"})
            await ada.delete("/api/tasks?status=pending")
            await ada.post(f"/api/tasks/restore?id={task['id']}")
            assert [await stream.next() for _ in range(4)] == [change(n) for n in (2, 3, 4, 5)]

    async def test_a_write_that_alters_nothing_is_not_sent(
        self, app: ASGIApp, ada: httpx.AsyncClient
    ) -> None:
        task = await created(ada)
        async with opened(app, "ada") as stream:
            await stream.next()
            await ada.patch(f"/api/tasks/{task['id']}", json=MILK)
            await ada.delete(f"/api/tasks/{uuid4()}")
            await ada.delete("/api/tasks?status=completed")
            task = await created(ada)
            assert await stream.next() == change(2, task=task)

    async def test_changes_of_another_user_are_not_sent(
        self, app: ASGIApp, ada: httpx.AsyncClient, eve: httpx.AsyncClient
    ) -> None:
        async with opened(app, "ada") as stream:
            await stream.next()
            await created(eve)
            task = await created(ada)
            assert await stream.next() == change(1, task=task)

    async def test_every_stream_of_the_user_gets_each_change(
        self, app: ASGIApp, ada: httpx.AsyncClient
    ) -> None:
        async with opened(app, "ada") as first, opened(app, "ada") as second:
            await first.next()
            await second.next()
            task = await created(ada)
            assert await first.next() == await second.next() == change(1, task=task)

    @pytest.mark.parametrize("headers", [{}, {"Last-Event-ID": "1"}])
    async def test_hello_has_the_number_of_the_last_change_if_it_is_known(
        self, app: ASGIApp, ada: httpx.AsyncClient, headers: dict[str, str]
    ) -> None:
        await created(ada)
        await created(ada)
        async with opened(app, "ada", headers=headers) as stream:
            assert await stream.next() == Event("hello", {"change": 2})
        async with opened(app, "eve") as stream:
            assert await stream.next() == HELLO

    async def test_hello_comes_again_if_changes_may_be_lost(
        self, app: ASGIApp, broker: InProcessChangeBroker
    ) -> None:
        async with opened(app, "ada") as stream:
            await stream.next()
            broker.lose_changes()
            assert await stream.next() == HELLO


class TestResponse:
    async def test_has_the_fields_that_keep_proxies_from_delaying_events(
        self, app: ASGIApp
    ) -> None:
        async with opened(app, "ada", headers={"Origin": FRONTEND}) as stream:
            assert stream.status == 200
            assert stream.headers["Content-Type"] == "text/event-stream"
            assert stream.headers.getlist("Cache-Control") == ["no-store"]
            assert stream.headers["X-Accel-Buffering"] == "no"
            assert stream.headers["Access-Control-Allow-Origin"] == FRONTEND
            assert stream.headers["X-Request-ID"]

    @pytest.mark.parametrize(
        "path", ["/api/ada/tasks/stream", f"{STREAM}/", "/api/v1/tasks/stream"]
    )
    async def test_is_the_same_at_every_alias_of_the_path(self, app: ASGIApp, path: str) -> None:
        async with opened(app, "ada", path) as stream:
            assert await stream.next() == HELLO

    @pytest.mark.parametrize(
        "accept", ["", "*/*", "text/*", "text/event-stream", "application/json, */*;q=0.1"]
    )
    async def test_is_sent_to_every_client_that_accepts_events(
        self, app: ASGIApp, accept: str
    ) -> None:
        async with opened(app, "ada", headers={"Accept": accept}) as stream:
            assert stream.status == 200

    @pytest.mark.parametrize("accept", ["application/json", "text/html", "text/event-stream;q=0"])
    async def test_is_406_for_other_clients(self, ada: httpx.AsyncClient, accept: str) -> None:
        response = await ada.get(STREAM, headers={"Accept": accept})
        assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")
        assert "text/event-stream" in response.json()["detail"]

    async def test_to_head_has_the_fields_and_ends(self, app: ASGIApp) -> None:
        async with opened(app, "ada", method="HEAD") as stream:
            assert (stream.status, await stream.rest()) == (200, "")
            assert stream.headers["Content-Type"] == "text/event-stream"

    async def test_is_403_at_the_path_of_another_user(self, ada: httpx.AsyncClient) -> None:
        response = await ada.get("/api/eve/tasks/stream")
        assert (response.status_code, response.json()["code"]) == (403, "user_mismatch")

    async def test_is_401_without_a_token_in_the_header(self, stranger: httpx.AsyncClient) -> None:
        response = await stranger.get(f"{STREAM}?token=ada&access_token=ada")
        assert (response.status_code, response.json()["code"]) == (401, "token_missing")


class ExpiredTokens:
    """Accepts every token as a token of ada that expires now."""

    async def verify(self, _token: str, now: datetime) -> Principal:
        return Principal("ada", now - timedelta(seconds=1))


class TestEnd:
    async def test_is_announced_when_the_token_expires(self) -> None:
        broker = InProcessChangeBroker()
        async with (
            served(tokens=ExpiredTokens(), broker=broker) as app,
            opened(app, "ada") as stream,
        ):
            assert await stream.next() == HELLO
            bye = await stream.next()
            assert (bye.name, bye.data) == ("bye", {"reason": "token_expired"})
            assert bye.retry in range(500, 3001)
            assert await stream.rest() == ""

    async def test_by_the_client_is_noticed_and_logged(
        self, app: ASGIApp, ada: httpx.AsyncClient, log: list[EventDict]
    ) -> None:
        async with opened(app, "ada") as stream:
            await stream.next()
            assert "todo_streams 1.0" in (await ada.get("/metrics")).text
        assert "todo_streams 0.0" in (await ada.get("/metrics")).text
        (closed,) = [entry for entry in log if entry["event"] == "stream.closed"]
        assert (closed["reason"], closed["user"]) == ("disconnected", "ada")


class TestBounds:
    async def test_of_one_user_are_429(self) -> None:
        limits = StreamLimits(per_user=1)
        broker = InProcessChangeBroker()
        async with served(broker=broker, stream_limits=limits) as app, client(app, "ada") as ada:
            async with opened(app, "ada"):
                for method in ("GET", "HEAD"):
                    response = await ada.request(method, STREAM)
                    assert response.status_code == 429
                assert response.headers["Retry-After"] == "30"
                async with opened(app, "eve") as other:
                    assert other.status == 200
            async with opened(app, "ada") as again:
                assert again.status == 200

    async def test_of_one_worker_are_503(self) -> None:
        limits = StreamLimits(per_worker=1)
        broker = InProcessChangeBroker()
        async with (
            served(broker=broker, stream_limits=limits) as app,
            client(app, "eve") as eve,
            opened(app, "ada"),
        ):
            response = await eve.get(STREAM)
        assert (response.status_code, response.json()["code"]) == (503, "stream_unavailable")

    async def test_are_503_with_the_reason_where_workers_do_not_see_each_others_changes(
        self,
    ) -> None:
        async with served(broker=None) as app, client(app, "ada") as ada:
            response = await ada.get(STREAM)
        assert (response.status_code, response.json()["code"]) == (503, "stream_unavailable")
        assert "REDIS_URL" in response.json()["detail"]
        assert "/api/tasks/changes" in response.json()["detail"]


class TestWhatAStreamDoesNotCountAs:
    async def test_a_request_that_is_under_way(self) -> None:
        broker = InProcessChangeBroker()
        async with (
            served(broker=broker, concurrency=1) as app,
            client(app, "ada") as ada,
            opened(app, "ada") as first,
            opened(app, "ada") as second,
        ):
            assert [await first.next(), await second.next()] == [HELLO, HELLO]
            assert (await ada.get("/api/tasks")).status_code == 200

    async def test_a_slow_request(self, app: ASGIApp, ada: httpx.AsyncClient) -> None:
        async with opened(app, "ada") as stream:
            await stream.next()
        text = (await ada.get("/metrics")).text
        labels = f'{{method="GET",route="{STREAM}"'
        assert f'todo_requests_total{labels},status="200"}} 1.0' in text
        assert f"todo_request_seconds_count{labels}}} 0.0" in text


async def test_a_silent_stream_sends_comments() -> None:
    limits = StreamLimits(heartbeat=0.001)
    broker = InProcessChangeBroker()
    async with served(broker=broker, stream_limits=limits) as app, opened(app, "ada") as stream:
        assert [await stream.next() for _ in range(3)] == [HELLO, COMMENT, COMMENT]
