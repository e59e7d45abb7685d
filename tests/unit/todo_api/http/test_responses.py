"""Successful answers: which header fields each of them has, and what they mean."""

import httpx
import pytest

from fakes import InMemoryTaskRepository
from support.tasks import a_task
from todo_domain.task import Task


@pytest.fixture
async def task(tasks: InMemoryTaskRepository) -> Task:
    """A task of ada's at version 3."""
    return await tasks.add(a_task(version=3))


class TestAnswersWithATask:
    """Have its version as their entity tag, whatever they are the answer to."""

    @pytest.mark.parametrize(
        ("method", "suffix", "body", "version"),
        [
            ("GET", "", None, 3),
            ("PUT", "", {"title": "Buy oat milk"}, 4),
            ("PUT", "", {"title": "Buy milk"}, 3),
            ("PATCH", "", {"title": "Buy oat milk"}, 4),
            ("PATCH", "", {}, 3),
            ("PATCH", "/complete", {"completed": True}, 4),
            ("PATCH", "/complete", {"completed": False}, 3),
            ("PATCH", "/toggle", None, 4),
            ("DELETE", "", None, 3),
        ],
    )
    async def test_of_any_route(
        self,
        ada: httpx.AsyncClient,
        task: Task,
        method: str,
        suffix: str,
        body: dict[str, object] | None,
        version: int,
    ) -> None:
        answer = await ada.request(method, f"/api/tasks/{task.id}{suffix}", json=body)
        assert (answer.status_code, answer.json()["version"]) == (200, version)
        assert answer.headers["ETag"] == f'"{version}"'
        assert not {"location", "link", "x-total-count"} & set(answer.headers)


class TestALocation:
    @pytest.mark.parametrize(
        ("path", "place"),
        [
            ("/api/tasks", "/api/tasks"),
            ("/api/tasks/", "/api/tasks"),
            ("/api/ada/tasks", "/api/ada/tasks"),
            ("/api/ada/tasks/", "/api/ada/tasks"),
            ("/api/%61da/tasks", "/api/%61da/tasks"),
        ],
    )
    async def test_stands_under_the_path_that_was_asked(
        self, ada: httpx.AsyncClient, path: str, place: str
    ) -> None:
        answer = await ada.post(path, json={"title": "x"})
        assert answer.headers["Location"] == f"{place}/{answer.json()['id']}"
        assert (await ada.get(answer.headers["Location"])).content == answer.content


class TestAnswersWithoutATask:
    @pytest.mark.parametrize(
        ("method", "path"), [("GET", "/api/me"), ("DELETE", "/api/tasks?status=completed")]
    )
    async def test_have_no_entity_tag(self, ada: httpx.AsyncClient, method: str, path: str) -> None:
        answer = await ada.request(method, path)
        assert answer.status_code == 200
        assert not {"etag", "location", "link"} & set(answer.headers)

    async def test_of_a_task_that_is_not_there_have_none_either(
        self, ada: httpx.AsyncClient
    ) -> None:
        answer = await ada.get(f"/api/tasks/{a_task().id}")
        assert (answer.status_code, "ETag" in answer.headers) == (404, False)
