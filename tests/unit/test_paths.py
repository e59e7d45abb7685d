"""A trailing slash changes nothing, and HEAD is GET without the body."""

from collections.abc import Mapping
from typing import Final

import httpx
import pytest

from fakes import InMemoryTaskRepository
from tasks import a_task

TASK: Final = a_task()
ONE: Final = f"/api/tasks/{TASK.id}"
GETTABLE: Final = [
    "/api/tasks",
    "/api/tasks?limit=1&sort=title",
    ONE,
    "/api/tasks/nothing",
    "/health/live",
    "/health/ready",
    "/docs",
    "/openapi.json",
    "/problems/not_found",
    "/nowhere",
]


@pytest.fixture(autouse=True)
async def with_tasks(tasks: InMemoryTaskRepository) -> None:
    for task in (TASK, a_task()):
        await tasks.add(task)


def comparable(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "x-request-id"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/tasks/", 200),
        ("GET", "/api/tasks/?limit=1", 200),
        ("POST", "/api/tasks/", 201),
        ("GET", f"{ONE}/", 200),
        ("PUT", f"{ONE}/", 200),
        ("PATCH", f"{ONE}/", 200),
        ("PATCH", f"{ONE}/complete/", 200),
        ("PATCH", f"{ONE}/toggle/", 200),
        ("DELETE", f"{ONE}/", 200),
        ("GET", "/health/live/", 200),
        ("GET", "/health/ready/", 200),
        ("GET", "/docs/", 200),
        ("GET", "/openapi.json/", 200),
    ],
)
async def test_one_trailing_slash_is_served_without_a_redirect(
    ada: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    body = {"title": "Buy oat milk"} if method in {"POST", "PUT", "PATCH"} else None
    assert (await ada.request(method, path, json=body)).status_code == status


@pytest.mark.parametrize("path", ["/api/tasks//", "//api/tasks", "/api//tasks", "/", "//"])
async def test_other_slashes_lead_nowhere(ada: httpx.AsyncClient, path: str) -> None:
    answer = await ada.get(httpx.URL("http://todo.test").copy_with(raw_path=path.encode()))
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", GETTABLE)
async def test_head_tells_what_get_would_without_the_body(
    ada: httpx.AsyncClient, path: str
) -> None:
    got, headed = await ada.get(path), await ada.head(path)
    assert (headed.status_code, headed.content) == (got.status_code, b"")
    assert comparable(headed.headers) == comparable(got.headers)


async def test_head_needs_a_token_where_get_does(stranger: httpx.AsyncClient) -> None:
    assert (await stranger.head("/api/tasks")).status_code == 401
