"""Prometheus metrics: what is counted, and that the number of series is bounded."""

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
from todo_api.metrics import MULTIPROCESS_DIR, all_workers_registry

REQUESTS: Final = "todo_requests_total"
SECONDS: Final = "todo_request_seconds_count"


async def families(client: httpx.AsyncClient) -> dict[str, Metric]:
    response = await client.get("/metrics")
    assert response.status_code == 200
    return {family.name: family for family in text_string_to_metric_families(response.text)}


async def series(client: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    """The request counter, by method, route and status."""
    return {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for sample in (await families(client))["todo_requests"].samples
        if sample.name == REQUESTS
    }


async def timed(client: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    """The number of timed requests, by method and route."""
    return {
        (sample.labels["method"], sample.labels["route"]): sample.value
        for sample in (await families(client))["todo_request_seconds"].samples
        if sample.name == SECONDS
    }


class TestTheRoute:
    async def test_is_prometheus_text_that_needs_no_token(
        self, stranger: httpx.AsyncClient
    ) -> None:
        response = await stranger.get("/metrics")
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        assert list(text_string_to_metric_families(response.text))

    @pytest.mark.usefixtures("log")
    async def test_can_be_disabled(self) -> None:
        async with served(shows_metrics=False) as app, client(app) as stranger:
            response = await stranger.get("/metrics")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")

    async def test_is_not_in_the_schema(self, stranger: httpx.AsyncClient) -> None:
        assert "/metrics" not in (await stranger.get("/openapi.json")).json()["paths"]


class TestARequest:
    @pytest.mark.parametrize(
        ("request_line", "labels"),
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
        self, ada: httpx.AsyncClient, request_line: str, labels: tuple[str, str, str]
    ) -> None:
        method, path = request_line.split()
        for _ in range(3):
            await ada.request(method, path)
        assert (await series(ada))[labels] == 3
        assert (await timed(ada))[labels[:2]] == 3

    async def test_that_is_a_cors_preflight_is_counted(self, stranger: httpx.AsyncClient) -> None:
        headers = {"Origin": FRONTEND, "Access-Control-Request-Method": "GET"}
        await stranger.options("/api/tasks", headers=headers)
        assert (await series(stranger))["OPTIONS", "none", "204"] == 1

    async def test_with_the_method_head_is_counted_as_head(self, ada: httpx.AsyncClient) -> None:
        await ada.head("/api/tasks")
        assert (await series(ada))["HEAD", "/api/tasks", "200"] == 1

    @pytest.mark.usefixtures("log")
    async def test_that_fails_with_a_bug_is_counted(self) -> None:
        tasks = FailingRepository(RuntimeError("a bug"))
        async with served(tasks) as app, client(app, "ada") as ada:
            await ada.get("/api/tasks")
            assert (await series(ada))["GET", "/api/tasks", "500"] == 1


def unique_requests() -> Iterator[tuple[str, str]]:
    """Requests that all differ in method, path, user and query."""
    for number in range(50):
        for method in ("GET", f"BREW{number}", f"get{number}"):
            yield method, f"/nowhere/{number}"
            yield method, f"/api/tasks/{number}"
            yield method, f"/api/user{number}/tasks"
            yield method, f"/docs/{number}?{number}={number}"


class TestTheSeries:
    async def test_do_not_grow_with_paths_methods_or_users(self, ada: httpx.AsyncClient) -> None:
        for method, path in unique_requests():
            await ada.request(method, path)
        before = set(await series(ada))
        for method, path in unique_requests():
            await ada.request(method, f"{path}again".replace("/tasks/", "/tasks/x"))
        after = set(await series(ada))
        assert after - before <= {("GET", "/metrics", "200")}  # the scrape above
        assert {method for method, _, _ in after} == {"GET", "other"}
        assert len(after) < 20

    async def test_contain_no_user_data(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository
    ) -> None:
        task = await tasks.add(a_task())
        await ada.get(f"/api/ada/tasks/{task.id}?q=milk")
        await ada.get("/api/tasks", headers={"User-Agent": "milk"})
        text = (await ada.get("/metrics")).text
        for user_data in ("ada", "milk", str(task.id)):
            assert user_data not in text

    async def test_have_types_and_descriptions(self, stranger: httpx.AsyncClient) -> None:
        found = await families(stranger)
        assert {name: family.type for name, family in found.items() if "created" not in name} == {
            "todo_requests": "counter",
            "todo_request_seconds": "histogram",
            "todo_build_info": "gauge",
            "todo_streams": "gauge",
        }
        assert all(family.documentation for family in found.values())


@pytest.mark.usefixtures("log")
class TestGauges:
    async def test_are_read_at_each_scrape(self) -> None:
        values = iter([1.0, 2.5])
        gauges = {"todo_level": ("The level.", lambda: next(values))}
        async with served(gauges=gauges) as app, client(app) as stranger:
            found = [(await families(stranger))["todo_level"] for _ in range(2)]
        assert [family.samples[0].value for family in found] == [1.0, 2.5]
        assert (found[0].type, found[0].documentation) == ("gauge", "The level.")


@pytest.mark.usefixtures("log")
async def test_metrics_of_one_app_are_not_in_those_of_another() -> None:
    async with served() as app, client(app, "ada") as ada:
        await ada.get("/api/tasks")
    async with served() as app, client(app, "ada") as ada:
        assert await series(ada) == {}


def test_gauges_of_dead_workers_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MULTIPROCESS_DIR, str(tmp_path))
    dead = Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        MmapedDict(str(tmp_path / f"gauge_livesum_{pid}.db")).close()
    generate_latest(all_workers_registry())
    assert [path.name for path in tmp_path.iterdir()] == [f"gauge_livesum_{os.getpid()}.db"]
