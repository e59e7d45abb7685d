"""Synchronisation over HTTP: the feed of changes, and ids that clients choose."""

from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest

from http_contract.tasks import everything
from support.tasks import LATER, a_task
from todo_domain.ports import TaskRepository

Json = Any

FEED: Final = "/api/tasks/changes"
CREATE: Final = {"If-None-Match": "*"}
TAKEN: Final = (409, "id_taken")


async def pull(client: httpx.AsyncClient, since: str | None = None, **query: int | str) -> Json:
    """One page of the feed."""
    if since is not None:
        query["since"] = since
    response = await client.get(FEED, params=query)
    assert response.status_code == 200, response.text
    return response.json()


async def pull_all(client: httpx.AsyncClient, copy: dict[str, Json], since: str | None) -> str:
    """Bring the copy up to date, and return the next token."""
    page: Json = {"more": True, "next": since}
    while page["more"]:
        page = await pull(client, page["next"], limit=2)
        for change in page["changes"]:
            if change.get("deleted"):
                copy.pop(change["id"], None)
            else:
                copy[change["id"]] = change
    return str(page["next"])


def refusal(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


class TestChanges:
    async def test_begin_with_all_live_tasks(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        live, gone = a_task(), a_task()
        for task in (live, gone, a_task(owner="eve")):
            await tasks.add(task)
        await tasks.delete("ada", gone.id, now=LATER)
        page = await pull(ada)
        listed = (await ada.get("/api/tasks")).json()
        assert (page["changes"], page["more"], page["change"]) == (listed, False, 3)

    async def test_of_nothing_are_empty(self, ada: httpx.AsyncClient) -> None:
        first = await pull(ada)
        second = await pull(ada, first["next"])
        assert first["changes"] == second["changes"] == []
        assert first["next"] == second["next"]
        assert first["change"] == second["change"] == 0

    async def test_keep_a_copy_equal_to_the_list(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        stored = [await tasks.add(a_task(title=str(number))) for number in range(5)]
        copy: dict[str, Json] = {}
        token = await pull_all(ada, copy, None)
        await tasks.change("ada", stored[0].id, now=LATER, title="changed")
        await tasks.delete("ada", stored[1].id, now=LATER)
        await tasks.delete("ada", stored[2].id, now=LATER)
        await tasks.restore("ada", stored[2].id, now=LATER)
        await ada.post("/api/tasks", json={"title": "new"})
        await pull_all(ada, copy, token)
        assert copy == {task["id"]: task for task in (await ada.get("/api/tasks")).json()}

    async def test_name_a_deleted_task_by_its_id(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        task = await tasks.add(a_task())
        token = (await pull(ada))["next"]
        await tasks.delete("ada", task.id, now=LATER)
        page = await pull(ada, token)
        assert page["changes"] == [{"id": str(task.id), "deleted": True}]

    async def test_come_in_pages(self, ada: httpx.AsyncClient, tasks: TaskRepository) -> None:
        for _ in range(3):
            await tasks.add(a_task())
        first = await pull(ada, limit=2)
        second = await pull(ada, first["next"], limit=2)
        assert [len(page["changes"]) for page in (first, second)] == [2, 1]
        assert [page["more"] for page in (first, second)] == [True, False]

    @pytest.mark.parametrize("damage", ["{}x", "x{}", "{}=", "%00", "AAAA", "null"])
    async def test_of_a_damaged_token_are_400(self, ada: httpx.AsyncClient, damage: str) -> None:
        token = (await pull(ada))["next"]
        response = await ada.get(FEED, params={"since": damage.replace("{}", token)})
        assert refusal(response) == (400, "bad_cursor")
        assert response.json()["detail"].startswith("since: ")

    async def test_of_another_users_token_are_400(
        self, ada: httpx.AsyncClient, eve: httpx.AsyncClient
    ) -> None:
        token = (await pull(ada))["next"]
        assert refusal(await eve.get(FEED, params={"since": token})) == (400, "bad_cursor")

    async def test_with_empty_parameters_begin_with_all_tasks(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        await tasks.add(a_task())
        assert (await ada.get(f"{FEED}?since=&limit=")).json() == await pull(ada)

    @pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "1_0", "5.0", "%2B5", "%EF%BC%95"])
    async def test_with_a_limit_out_of_range_are_422(
        self, ada: httpx.AsyncClient, limit: str
    ) -> None:
        response = await ada.get(f"{FEED}?limit={limit}")
        assert refusal(response) == (422, "validation_failed")

    async def test_can_be_read_at_the_path_with_the_user_id(self, ada: httpx.AsyncClient) -> None:
        assert (await ada.get("/api/ada/tasks/changes")).status_code == 200


class TestIdsOfClients:
    @pytest.fixture
    def new(self) -> Json:
        return {"id": "0198F3C2-7d1e-4c3a-9b1f-5a0f6f1d2c3b", "title": "Buy milk"}

    async def test_are_kept_in_their_canonical_form(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, new: Json
    ) -> None:
        response = await ada.post("/api/tasks", json=new)
        assert (response.status_code, response.json()["id"]) == (201, new["id"].lower())
        assert response.headers["Location"] == f"/api/tasks/{new['id'].lower()}"
        assert [task.id for task in await everything(tasks)] == [UUID(new["id"])]

    async def test_make_a_repeated_request_safe(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, new: Json
    ) -> None:
        first = await ada.post("/api/tasks", json=new)
        again = await ada.post("/api/tasks", json=new)
        assert (again.status_code, again.json()) == (200, first.json())
        assert len(await everything(tasks)) == 1

    async def test_of_another_task_are_409(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, new: Json
    ) -> None:
        await ada.post("/api/tasks", json=new)
        response = await ada.post("/api/tasks", json={**new, "title": "Buy oat milk"})
        assert refusal(response) == TAKEN
        assert [task.title for task in await everything(tasks)] == ["Buy milk"]

    async def test_of_a_deleted_task_are_409(self, ada: httpx.AsyncClient, new: Json) -> None:
        await ada.post("/api/tasks", json=new)
        await ada.delete(f"/api/tasks/{new['id']}")
        assert refusal(await ada.post("/api/tasks", json=new)) == TAKEN

    async def test_of_another_user_are_free(
        self, ada: httpx.AsyncClient, eve: httpx.AsyncClient, new: Json
    ) -> None:
        await eve.post("/api/tasks", json={**new, "title": "Read a book"})
        assert (await ada.post("/api/tasks", json=new)).status_code == 201

    async def test_under_one_key_are_one_id(self, ada: httpx.AsyncClient, new: Json) -> None:
        headers = {"Idempotency-Key": "k"}
        first = await ada.post("/api/tasks", json=new, headers=headers)
        again = await ada.post("/api/tasks", json=new, headers=headers)
        other = await ada.post("/api/tasks", json={**new, "id": str(uuid4())}, headers=headers)
        assert (again.status_code, again.json()) == (201, first.json())
        assert refusal(other) == (422, "idempotency_key_reused")

    @pytest.mark.parametrize("no_uuid", [None, 7, "", "1700000000000", "{}", ["x"], "0198f3c2"])
    async def test_that_are_no_uuid_are_ignored_unless_strict(
        self, ada: httpx.AsyncClient, no_uuid: Json
    ) -> None:
        new = {"id": no_uuid, "title": "Buy milk"}
        assert UUID((await ada.post("/api/tasks", json=new)).json()["id"]).version == 7
        strict = await ada.post("/api/tasks", json=new, headers={"Prefer": "handling=strict"})
        assert refusal(strict) == (422, "validation_failed")
        assert [error["pointer"] for error in strict.json()["errors"]] == ["/id"]

    async def test_can_be_put(self, ada: httpx.AsyncClient, tasks: TaskRepository) -> None:
        path = f"/api/tasks/{uuid4()}"
        response = await ada.put(path, json={"title": "Buy milk"}, headers=CREATE)
        assert (response.status_code, response.headers["Location"]) == (201, path)
        assert [task.title for task in await everything(tasks)] == ["Buy milk"]

    async def test_that_exist_are_412_when_they_are_put(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        task = await tasks.add(a_task())
        for title in (task.title, "Buy oat milk"):
            response = await ada.put(f"/api/tasks/{task.id}", json={"title": title}, headers=CREATE)
            assert refusal(response) == (412, "stale_version")
        await ada.delete(f"/api/tasks/{task.id}")
        response = await ada.put(f"/api/tasks/{task.id}", json={"title": "x"}, headers=CREATE)
        assert refusal(response) == TAKEN

    async def test_that_are_put_need_a_title(self, ada: httpx.AsyncClient) -> None:
        response = await ada.put(f"/api/tasks/{uuid4()}", json={}, headers=CREATE)
        assert refusal(response) == (422, "validation_failed")
        assert response.json()["detail"] == "title: is required"
