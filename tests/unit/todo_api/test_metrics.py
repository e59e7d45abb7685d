"""Prometheus metrics: what happened, by labels of which there are only so many."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Final

import httpx
import pytest
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.parser import text_string_to_metric_families

from fakes import InMemoryTaskRepository
from support.http_client import FRONTEND, FailingRepository, client, served
from support.tasks import a_task
from todo_api.metrics import MULTIPROCESS, workers_registry

REQUESTS: Final = "todo_requests_total"
SECONDS: Final = "todo_request_seconds_count"


async def families(somebody: httpx.AsyncClient) -> dict[str, Metric]:
    answer = await somebody.get("/metrics")
    assert answer.status_code == 200
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


async def series(somebody: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    """How often each kind of request was answered, by method, route and status."""
    return {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for sample in (await families(somebody))["todo_requests"].samples
        if sample.name == REQUESTS
    }


async def timed(somebody: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    """How often each kind of request was timed, by method and route."""
    return {
        (sample.labels["method"], sample.labels["route"]): sample.value
        for sample in (await families(somebody))["todo_request_seconds"].samples
        if sample.name == SECONDS
    }


class TestTheRoute:
    async def test_is_prometheus_text_that_needs_no_token(
        self, stranger: httpx.AsyncClient
    ) -> None:
        answer = await stranger.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        assert list(text_string_to_metric_families(answer.text))

    @pytest.mark.usefixtures("log")
    async def test_can_be_switched_off(self) -> None:
        async with served(shows_metrics=False) as app, client(app) as stranger:
            answer = await stranger.get("/metrics")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")

    async def test_is_not_in_the_schema(self, stranger: httpx.AsyncClient) -> None:
        assert "/metrics" not in (await stranger.get("/openapi.json")).json()["paths"]


class TestARequest:
    @pytest.mark.parametrize(
        ("asked", "counted"),
        [
            ("GET /api/tasks", ("GET", "/api/tasks", "200")),
            ("GET /api/tasks/?limit=1", ("GET", "/api/tasks", "200")),
            ("GET /api/ada/tasks", ("GET", "/api/tasks", "200")),
            ("GET /api/eve/tasks", ("GET", "/api/tasks", "403")),
            ("POST /api/tasks", ("POST", "/api/tasks", "415")),
            ("DELETE /api/tasks", ("DELETE", "/api/tasks", "400")),
            ("GET /api/tasks/secret", ("GET", "/api/tasks/{task_id}", "404")),
            ("PATCH /api/tasks/secret/toggle", ("PATCH", "/api/tasks/{task_id}/toggle", "404")),
            ("POST /api/tasks/secret/restore", ("POST", "/api/tasks/{task_id}/restore", "404")),
            ("GET /api/me", ("GET", "/api/me", "200")),
            ("GET /health/live", ("GET", "/health/live", "200")),
            ("GET /problems/secret", ("GET", "/problems/{code}", "404")),
            ("GET /docs/secret", ("GET", "/docs/{asset}", "404")),
            ("GET /secret", ("GET", "none", "404")),
        ],
    )
    async def test_is_counted_and_timed_by_method_route_template_and_status(
        self, ada: httpx.AsyncClient, asked: str, counted: tuple[str, str, str]
    ) -> None:
        method, path = asked.split()
        for _ in range(3):
            await ada.request(method, path)
        assert (await series(ada))[counted] == 3
        assert (await timed(ada))[counted[:2]] == 3

    async def test_of_a_browser_that_asks_first_is_counted_too(
        self, stranger: httpx.AsyncClient
    ) -> None:
        headers = {"Origin": FRONTEND, "Access-Control-Request-Method": "GET"}
        await stranger.options("/api/tasks", headers=headers)
        assert (await series(stranger))["OPTIONS", "none", "204"] == 1

    async def test_for_the_head_alone_is_counted_by_that(self, ada: httpx.AsyncClient) -> None:
        await ada.head("/api/tasks")
        assert (await series(ada))["HEAD", "/api/tasks", "200"] == 1

    @pytest.mark.usefixtures("log")
    async def test_that_meets_a_bug_is_counted_too(self) -> None:
        tasks = FailingRepository(RuntimeError("a bug"))
        async with served(tasks) as app, client(app, "ada") as ada:
            await ada.get("/api/tasks")
            assert (await series(ada))["GET", "/api/tasks", "500"] == 1


def strange_requests() -> Iterator[tuple[str, str]]:
    """Requests of which no two are alike in anything that a client can choose."""
    for number in range(50):
        for method in ("GET", f"BREW{number}", f"get{number}"):
            yield method, f"/nowhere/{number}"
            yield method, f"/api/tasks/{number}"
            yield method, f"/api/user{number}/tasks"
            yield method, f"/docs/{number}?{number}={number}"


class TestTheSeries:
    async def test_are_not_multiplied_by_paths_methods_or_users(
        self, ada: httpx.AsyncClient
    ) -> None:
        for method, path in strange_requests():
            await ada.request(method, path)
        once = set(await series(ada))
        for method, path in strange_requests():
            await ada.request(method, f"{path}again".replace("/tasks/", "/tasks/x"))
        # But for the scrape in between, which is counted itself.
        again = set(await series(ada))
        assert again - once <= {("GET", "/metrics", "200")}
        assert {method for method, _, _ in again} == {"GET", "other"}
        assert len(again) < 20

    async def test_have_nothing_private_in_them(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository
    ) -> None:
        task = await tasks.add(a_task())
        await ada.get(f"/api/ada/tasks/{task.id}?q=milk")
        await ada.get("/api/tasks", headers={"User-Agent": "milk"})
        text = (await ada.get("/metrics")).text
        for private in ("ada", "milk", str(task.id)):
            assert private not in text

    async def test_have_types_and_descriptions(self, stranger: httpx.AsyncClient) -> None:
        found = await families(stranger)
        assert {name: family.type for name, family in found.items() if "created" not in name} == {
            "todo_requests": "counter",
            "todo_request_seconds": "histogram",
            "todo_build_info": "gauge",
        }
        assert all(family.documentation for family in found.values())


@pytest.mark.usefixtures("log")
class TestReadings:
    async def test_are_gauges_read_at_each_scrape(self) -> None:
        values = iter([1.0, 2.5])
        gauges = {"todo_level": ("How high it is.", lambda: next(values))}
        async with served(gauges=gauges) as app, client(app) as stranger:
            found = [(await families(stranger))["todo_level"] for _ in range(2)]
        assert [family.samples[0].value for family in found] == [1.0, 2.5]
        assert (found[0].type, found[0].documentation) == ("gauge", "How high it is.")

    async def test_of_one_app_are_not_another_apps(self) -> None:
        async with served() as app, client(app, "ada") as ada:
            await ada.get("/api/tasks")
        async with served() as app, client(app, "ada") as ada:
            assert await series(ada) == {}


def test_gauges_of_workers_that_ended_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MULTIPROCESS, str(tmp_path))
    ended = Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid in (ended.pid, os.getpid()):
        MmapedDict(str(tmp_path / f"gauge_livesum_{pid}.db")).close()
    generate_latest(workers_registry())
    assert [path.name for path in tmp_path.iterdir()] == [f"gauge_livesum_{os.getpid()}.db"]
