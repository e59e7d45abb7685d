"""The header fields of successful responses: entity tags and Location."""

import httpx
import pytest

from fakes import InMemoryTaskRepository
from support.tasks import a_task
from todo_domain.task import Task


@pytest.fixture
async def task(tasks: InMemoryTaskRepository) -> Task:
    """A task of ada at version 3."""
    return await tasks.add(a_task(version=3))


class TestTaskResponse:
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
    async def test_the_entity_tag_of_every_task_response_is_its_version(
        self,
        ada: httpx.AsyncClient,
        task: Task,
        method: str,
        suffix: str,
        body: dict[str, object] | None,
        version: int,
    ) -> None:
        response = await ada.request(method, f"/api/tasks/{task.id}{suffix}", json=body)
        assert (response.status_code, response.json()["version"]) == (200, version)
        assert response.headers["ETag"] == f'"{version}"'
        assert not {"location", "link", "x-total-count"} & set(response.headers)


class TestLocation:
    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("/api/tasks", "/api/tasks"),
            ("/api/tasks/", "/api/tasks"),
            ("/api/ada/tasks", "/api/ada/tasks"),
            ("/api/ada/tasks/", "/api/ada/tasks"),
            ("/api/%61da/tasks", "/api/%61da/tasks"),
        ],
    )
    async def test_location_extends_the_path_of_the_request(
        self, ada: httpx.AsyncClient, path: str, expected: str
    ) -> None:
        response = await ada.post(path, json={"title": "x"})
        assert response.headers["Location"] == f"{expected}/{response.json()['id']}"
        assert (await ada.get(response.headers["Location"])).content == response.content


class TestOtherResponses:
    @pytest.mark.parametrize(
        ("method", "path"), [("GET", "/api/me"), ("DELETE", "/api/tasks?status=completed")]
    )
    async def test_a_response_without_a_task_has_no_entity_tag(
        self, ada: httpx.AsyncClient, method: str, path: str
    ) -> None:
        response = await ada.request(method, path)
        assert response.status_code == 200
        assert not {"etag", "location", "link"} & set(response.headers)

    async def test_a_404_has_no_entity_tag(self, ada: httpx.AsyncClient) -> None:
        response = await ada.get(f"/api/tasks/{a_task().id}")
        assert (response.status_code, "ETag" in response.headers) == (404, False)
