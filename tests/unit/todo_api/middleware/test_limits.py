"""What one client, and all of them together, can make the service hold is bounded."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx
import pytest
from structlog.typing import EventDict

from fakes import InMemoryTaskRepository
from support.http_client import FRONTEND, FailingRepository, client, served
from support.tasks import a_task
from todo_api.http.timeouts import Timeouts
from todo_api.middleware.limits import HEADERS_MAX, TARGET_MAX
from todo_domain.queries import TaskPage, TaskQuery

AT_ONCE: Final = 0.01  # seconds: a deadline that passes while the test waits for it


class HeldRepository(InMemoryTaskRepository):
    """A fake in which every search waits until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = asyncio.Semaphore(0)
        self._released = asyncio.Event()

    async def find(self, owner: str, query: TaskQuery) -> TaskPage:
        self._begun.release()
        await self._released.wait()
        return await super().find(owner, query)

    async def searching(self) -> None:
        """Wait until a search has begun that nobody has waited for."""
        await self._begun.acquire()

    def let_go(self) -> None:
        self._released.set()


def of_size(request: httpx.Request, size: int) -> httpx.Request:
    """The request, with a header field that brings all of them to that many bytes."""
    request.headers["X-Filler"] = ""
    taken = sum(len(name) + len(value) for name, value in request.headers.raw)
    request.headers["X-Filler"] = "x" * (size - taken)
    return request


class TestTheHead:
    async def test_may_have_sixteen_kibibytes_of_header_fields(
        self, ada: httpx.AsyncClient
    ) -> None:
        request = of_size(ada.build_request("GET", "/api/tasks"), HEADERS_MAX)
        assert HEADERS_MAX == 16 * 1024
        assert (await ada.send(request)).status_code == 200

    async def test_with_a_byte_more_is_431(self, ada: httpx.AsyncClient) -> None:
        request = of_size(ada.build_request("GET", "/api/tasks"), HEADERS_MAX + 1)
        answer = await ada.send(request)
        assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")

    async def test_may_not_be_split_into_many_fields_either(self, ada: httpx.AsyncClient) -> None:
        fields = [(f"X-{number}", "x") for number in range(5000)]
        assert (await ada.get("/api/tasks", headers=fields)).status_code == 431

    @pytest.mark.parametrize("path", ["/api/tasks?q=", "/nowhere/"])
    async def test_may_ask_for_a_path_and_query_of_eight_kibibytes(
        self, ada: httpx.AsyncClient, path: str
    ) -> None:
        assert TARGET_MAX == 8 * 1024
        separator = path.count("?")
        longest = path + "x" * (TARGET_MAX + separator - len(path))
        assert (await ada.get(longest)).status_code in {404, 422}
        answer = await ada.get(f"{longest}x")
        assert (answer.status_code, answer.json()["code"]) == (414, "uri_too_long")

    async def test_is_measured_as_it_was_sent(self, ada: httpx.AsyncClient) -> None:
        assert (await ada.get(f"/api/tasks/{'%41' * 4000}")).status_code == 414

    @pytest.mark.parametrize("path", ["/health/live", "/metrics", "/docs", "/nowhere"])
    async def test_is_bounded_on_every_route(self, stranger: httpx.AsyncClient, path: str) -> None:
        filler = {"X-Filler": "x" * HEADERS_MAX}
        assert (await stranger.get(path, headers=filler)).status_code == 431
        assert (await stranger.get(f"{path}?q={'x' * TARGET_MAX}")).status_code == 414

    async def test_that_is_too_large_changes_nothing(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository
    ) -> None:
        filler = {"X-Filler": "x" * HEADERS_MAX}
        await ada.post("/api/tasks", json={"title": "x"}, headers=filler)
        await ada.post(f"/api/tasks?q={'x' * TARGET_MAX}", json={"title": "x"})
        assert (await tasks.find("ada", TaskQuery())).tasks == ()


@asynccontextmanager
async def busy(concurrency: int) -> AsyncIterator[tuple[httpx.AsyncClient, HeldRepository]]:
    """An app at its limit: every request that it can hold is waiting for the database."""
    tasks = HeldRepository()
    serving = served(tasks, concurrency=concurrency)
    async with serving as app, client(app, "ada") as ada, asyncio.TaskGroup() as held:
        for _ in range(concurrency):
            held.create_task(ada.get("/api/tasks"))
            await tasks.searching()
        yield ada, tasks
        tasks.let_go()


class TestConcurrency:
    @pytest.mark.usefixtures("log")
    async def test_beyond_the_limit_is_503_overloaded(self) -> None:
        async with busy(3) as (ada, _):
            answer = await ada.get("/api/tasks", headers={"Origin": FRONTEND})
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.headers["Access-Control-Allow-Origin"] == FRONTEND

    @pytest.mark.usefixtures("log")
    async def test_beyond_the_limit_changes_nothing(self) -> None:
        async with busy(1) as (ada, tasks):
            assert (await ada.post("/api/tasks", json={"title": "x"})).status_code == 503
        assert (await tasks.count("ada")).total == 0

    @pytest.mark.usefixtures("log")
    @pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
    async def test_beyond_the_limit_leaves_health_checks_alone(self, path: str) -> None:
        async with busy(1) as (ada, _):
            assert (await ada.get(path)).status_code == 200

    @pytest.mark.usefixtures("log")
    async def test_is_not_taken_up_by_health_checks(self) -> None:
        begun, let_go = asyncio.Event(), asyncio.Event()

        async def check() -> None:
            begun.set()
            await let_go.wait()

        async with (
            served(concurrency=1, checks={"database": check}) as app,
            client(app, "ada") as ada,
        ):
            held = asyncio.create_task(ada.get("/health/ready"))
            await begun.wait()
            assert (await ada.get("/api/tasks")).status_code == 200
            let_go.set()
            assert (await held).status_code == 200

    @pytest.mark.usefixtures("log")
    async def test_of_what_was_held_is_free_again_afterwards(self) -> None:
        tasks = HeldRepository()
        async with served(tasks, concurrency=1) as app, client(app, "ada") as ada:
            held = asyncio.create_task(ada.get("/api/tasks"))
            await tasks.searching()
            tasks.let_go()
            await held
            assert (await ada.get("/api/tasks")).status_code == 200

    @pytest.mark.usefixtures("log")
    async def test_of_what_was_refused_or_failed_is_free_again_afterwards(self) -> None:
        tasks = FailingRepository(RuntimeError("a bug"))
        async with served(tasks, concurrency=1) as app, client(app, "ada") as ada:
            statuses = [
                (await ada.get(path)).status_code
                for path in ("/api/tasks", "/nowhere", "/api/tasks?limit=0", "/api/me") * 3
            ]
        assert statuses == [500, 404, 422, 200] * 3

    @pytest.mark.usefixtures("log")
    async def test_of_a_client_who_has_gone_is_free_again_afterwards(self) -> None:
        tasks = HeldRepository()
        async with served(tasks, concurrency=1) as app, client(app, "ada") as ada:
            request = asyncio.create_task(ada.get("/api/tasks"))
            await tasks.searching()
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
            assert (await ada.get("/api/me")).status_code == 200

    async def test_beyond_the_limit_is_logged(self, log: list[EventDict]) -> None:
        async with busy(1) as (ada, _):
            await ada.get("/api/tasks")
        (told,) = [entry for entry in log if entry["event"] == "overloaded"]
        assert told["log_level"] == "warning"


@pytest.mark.usefixtures("log")
class TestTime:
    async def test_for_what_stands_behind_a_request_is_bounded(self) -> None:
        tasks = HeldRepository()
        timeouts = Timeouts(endpoint=AT_ONCE)
        async with served(tasks, timeouts=timeouts) as app, client(app, "ada") as ada:
            answer = await ada.get("/api/tasks")
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")

    async def test_for_a_body_to_arrive_is_bounded(self) -> None:
        async def never_ending() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.Event().wait()

        tasks = InMemoryTaskRepository()
        timeouts = Timeouts(body=AT_ONCE)
        async with served(tasks, timeouts=timeouts) as app, client(app, "ada") as ada:
            headers = {"Content-Type": "application/json"}
            answer = await ada.post("/api/tasks", content=never_ending(), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (408, "request_timeout")
        assert (await tasks.count("ada")).total == 0


class TestAnAnswer:
    """Stays small however much is wrong with the request."""

    @pytest.mark.parametrize("method", ["POST", "PATCH"])
    @pytest.mark.parametrize("wrong", ["", 1, None, "x" * 51], ids=repr)
    async def test_to_tags_that_are_all_wrong(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository, method: str, wrong: object
    ) -> None:
        task = await tasks.add(a_task())
        path = "/api/tasks" if method == "POST" else f"/api/tasks/{task.id}"
        answer = await ada.request(method, path, json={"title": "x", "tags": [wrong] * 5000})
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
        # One error: to look at thousands of them one by one would take seconds of everybody's.
        (error,) = answer.json()["errors"]
        assert (error["field"], error["code"]) == ("tags", "too_many")

    async def test_to_parameters_that_are_all_wrong(self, ada: httpx.AsyncClient) -> None:
        answer = await ada.get("/api/tasks?" + "tag=&" * 1600)
        assert answer.status_code in {400, 422}
        assert len(answer.content) < 64 * 1024
