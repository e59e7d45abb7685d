"""Limits: size of the head, concurrent requests, time, and size of error responses."""

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
from todo_api.http.routing import Timeouts
from todo_api.middleware.limits import HEADERS_MAX, TARGET_MAX
from todo_domain.queries import TaskPage, TaskQuery

SHORT: Final = 0.01  # seconds: a time-out that expires while the test waits


class BlockingRepository(InMemoryTaskRepository):
    """A fake whose ``find`` blocks until ``release``."""

    def __init__(self) -> None:
        super().__init__()
        self._started = asyncio.Semaphore(0)
        self._released = asyncio.Event()

    async def find(self, owner: str, query: TaskQuery) -> TaskPage:
        self._started.release()
        await self._released.wait()
        return await super().find(owner, query)

    async def searching(self) -> None:
        """Wait for the start of one more ``find``."""
        await self._started.acquire()

    def release(self) -> None:
        self._released.set()


def with_head_size(request: httpx.Request, size: int) -> httpx.Request:
    """The request with header fields of this size together, in bytes."""
    request.headers["X-Filler"] = ""
    taken = sum(len(name) + len(value) for name, value in request.headers.raw)
    request.headers["X-Filler"] = "x" * (size - taken)
    return request


class TestHead:
    async def test_header_fields_of_16_kib_are_accepted(self, ada: httpx.AsyncClient) -> None:
        request = with_head_size(ada.build_request("GET", "/api/tasks"), HEADERS_MAX)
        assert HEADERS_MAX == 16 * 1024
        assert (await ada.send(request)).status_code == 200

    async def test_header_fields_of_one_byte_more_are_431(self, ada: httpx.AsyncClient) -> None:
        request = with_head_size(ada.build_request("GET", "/api/tasks"), HEADERS_MAX + 1)
        response = await ada.send(request)
        assert (response.status_code, response.json()["code"]) == (431, "headers_too_large")

    async def test_many_small_header_fields_are_431(self, ada: httpx.AsyncClient) -> None:
        fields = [(f"X-{number}", "x") for number in range(5000)]
        assert (await ada.get("/api/tasks", headers=fields)).status_code == 431

    @pytest.mark.parametrize("path", ["/api/tasks?q=", "/nowhere/"])
    async def test_path_and_query_of_8_kib_are_accepted_and_of_one_byte_more_are_414(
        self, ada: httpx.AsyncClient, path: str
    ) -> None:
        assert TARGET_MAX == 8 * 1024
        separator = path.count("?")
        longest = path + "x" * (TARGET_MAX + separator - len(path))
        assert (await ada.get(longest)).status_code in {404, 422}
        response = await ada.get(f"{longest}x")
        assert (response.status_code, response.json()["code"]) == (414, "uri_too_long")

    async def test_the_path_is_measured_percent_encoded(self, ada: httpx.AsyncClient) -> None:
        assert (await ada.get(f"/api/tasks/{'%41' * 4000}")).status_code == 414

    @pytest.mark.parametrize("path", ["/health/live", "/metrics", "/docs", "/nowhere"])
    async def test_the_head_is_limited_on_every_route(
        self, stranger: httpx.AsyncClient, path: str
    ) -> None:
        filler = {"X-Filler": "x" * HEADERS_MAX}
        assert (await stranger.get(path, headers=filler)).status_code == 431
        assert (await stranger.get(f"{path}?q={'x' * TARGET_MAX}")).status_code == 414

    async def test_a_request_with_an_oversized_head_changes_nothing(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository
    ) -> None:
        filler = {"X-Filler": "x" * HEADERS_MAX}
        await ada.post("/api/tasks", json={"title": "x"}, headers=filler)
        await ada.post(f"/api/tasks?q={'x' * TARGET_MAX}", json={"title": "x"})
        assert (await tasks.find("ada", TaskQuery())).tasks == ()


@asynccontextmanager
async def busy(concurrency: int) -> AsyncIterator[tuple[httpx.AsyncClient, BlockingRepository]]:
    """An app at its limit: as many requests as it allows are waiting for the database."""
    tasks = BlockingRepository()
    serving = served(tasks, concurrency=concurrency)
    async with serving as app, client(app, "ada") as ada, asyncio.TaskGroup() as requests:
        for _ in range(concurrency):
            requests.create_task(ada.get("/api/tasks"))
            await tasks.searching()
        yield ada, tasks
        tasks.release()


class TestConcurrency:
    @pytest.mark.usefixtures("log")
    async def test_a_request_beyond_the_limit_is_503_overloaded(self) -> None:
        async with busy(3) as (ada, _):
            response = await ada.get("/api/tasks", headers={"Origin": FRONTEND})
        assert (response.status_code, response.json()["code"]) == (503, "overloaded")
        assert int(response.headers["Retry-After"]) > 0
        assert response.headers["Access-Control-Allow-Origin"] == FRONTEND

    @pytest.mark.usefixtures("log")
    async def test_a_request_beyond_the_limit_changes_nothing(self) -> None:
        async with busy(1) as (ada, tasks):
            assert (await ada.post("/api/tasks", json={"title": "x"})).status_code == 503
        assert (await tasks.count("ada")).total == 0

    @pytest.mark.usefixtures("log")
    @pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
    async def test_health_checks_are_served_at_the_limit(self, path: str) -> None:
        async with busy(1) as (ada, _):
            assert (await ada.get(path)).status_code == 200

    @pytest.mark.usefixtures("log")
    async def test_health_checks_do_not_count(self) -> None:
        started, release = asyncio.Event(), asyncio.Event()

        async def check() -> None:
            started.set()
            await release.wait()

        async with (
            served(concurrency=1, checks={"database": check}) as app,
            client(app, "ada") as ada,
        ):
            requests = asyncio.create_task(ada.get("/health/ready"))
            await started.wait()
            assert (await ada.get("/api/tasks")).status_code == 200
            release.set()
            assert (await requests).status_code == 200

    @pytest.mark.usefixtures("log")
    async def test_a_finished_request_frees_its_slot(self) -> None:
        tasks = BlockingRepository()
        async with served(tasks, concurrency=1) as app, client(app, "ada") as ada:
            requests = asyncio.create_task(ada.get("/api/tasks"))
            await tasks.searching()
            tasks.release()
            await requests
            assert (await ada.get("/api/tasks")).status_code == 200

    @pytest.mark.usefixtures("log")
    async def test_refused_and_failed_requests_free_their_slots(self) -> None:
        tasks = FailingRepository(RuntimeError("a bug"))
        async with served(tasks, concurrency=1) as app, client(app, "ada") as ada:
            statuses = [
                (await ada.get(path)).status_code
                for path in ("/api/tasks", "/nowhere", "/api/tasks?limit=0", "/api/me") * 3
            ]
        assert statuses == [500, 404, 422, 200] * 3

    @pytest.mark.usefixtures("log")
    async def test_a_cancelled_request_frees_its_slot(self) -> None:
        tasks = BlockingRepository()
        async with served(tasks, concurrency=1) as app, client(app, "ada") as ada:
            request = asyncio.create_task(ada.get("/api/tasks"))
            await tasks.searching()
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
            assert (await ada.get("/api/me")).status_code == 200

    async def test_a_request_beyond_the_limit_is_logged(self, log: list[EventDict]) -> None:
        async with busy(1) as (ada, _):
            await ada.get("/api/tasks")
        (entry,) = [entry for entry in log if entry["event"] == "overloaded"]
        assert entry["log_level"] == "warning"


@pytest.mark.usefixtures("log")
class TestTimeouts:
    async def test_an_endpoint_that_takes_too_long_is_503(self) -> None:
        tasks = BlockingRepository()
        timeouts = Timeouts(endpoint=SHORT)
        async with served(tasks, timeouts=timeouts) as app, client(app, "ada") as ada:
            response = await ada.get("/api/tasks")
        assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")

    async def test_a_body_that_takes_too_long_is_408(self) -> None:
        async def never_ending() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.Event().wait()

        tasks = InMemoryTaskRepository()
        timeouts = Timeouts(body=SHORT)
        async with served(tasks, timeouts=timeouts) as app, client(app, "ada") as ada:
            headers = {"Content-Type": "application/json"}
            response = await ada.post("/api/tasks", content=never_ending(), headers=headers)
        assert (response.status_code, response.json()["code"]) == (408, "request_timeout")
        assert (await tasks.count("ada")).total == 0


class TestSizeOfErrorResponses:
    @pytest.mark.parametrize("method", ["POST", "PATCH"])
    @pytest.mark.parametrize("wrong", ["", 1, None, "x" * 51], ids=repr)
    async def test_too_many_tags_are_one_error(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository, method: str, wrong: object
    ) -> None:
        task = await tasks.add(a_task())
        path = "/api/tasks" if method == "POST" else f"/api/tasks/{task.id}"
        response = await ada.request(method, path, json={"title": "x", "tags": [wrong] * 5000})
        assert (response.status_code, response.json()["code"]) == (422, "validation_failed")
        # One error: validating thousands of tags would block the event loop for seconds.
        (error,) = response.json()["errors"]
        assert (error["field"], error["code"]) == ("tags", "too_many")

    async def test_many_parameters_do_not_make_a_large_response(
        self, ada: httpx.AsyncClient
    ) -> None:
        response = await ada.get("/api/tasks?" + "tag=&" * 1600)
        assert response.status_code in {400, 422}
        assert len(response.content) < 64 * 1024
