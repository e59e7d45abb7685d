"""Existing frontends through their dialects: a user's work with one task, and the shown error."""

from datetime import datetime

import httpx
import pytest

from support.frontends import FRONTENDS, Frontend

every_frontend = pytest.mark.parametrize(
    "frontend", FRONTENDS, ids=[frontend.number for frontend in FRONTENDS]
)
NEW = {"title": "Buy milk", "description": "2 litres"}


@every_frontend
class TestFrontend:
    async def test_creates_lists_completes_edits_reopens_and_deletes_a_task(
        self, ada: httpx.AsyncClient, frontend: Frontend
    ) -> None:
        body = {**NEW, frontend.due: "2026-01-31", "priority": frontend.priority}
        task = frontend.task(await ada.post(frontend.list_path, json=body))
        assert await frontend.list(ada) == [task]
        assert await frontend.list(ada, f"?{frontend.pending_filter}") == [task]
        assert [task["title"], task[frontend.due], task[frontend.owner]] == [
            *("Buy milk", "2026-01-31", "ada")
        ]
        assert frontend.completed(task) is False

        done = await frontend.set_completed(ada, task, completed=True)
        assert frontend.completed(done) is True
        assert await frontend.list(ada) == [done]
        assert await frontend.list(ada, f"?{frontend.pending_filter}") == []

        path = frontend.at(task)
        edited = await ada.request(frontend.edit, path, json={"title": "Buy oat milk"})
        (listed,) = await frontend.list(ada)
        assert listed == frontend.task(edited)
        assert listed["title"] == "Buy oat milk"
        assert frontend.completed(listed) is True

        reopened = await frontend.set_completed(ada, task, completed=False)
        assert frontend.completed(reopened) is False
        created_at, updated_at = (datetime.fromisoformat(reopened[name]) for name in frontend.times)
        assert created_at < updated_at

        deleted = await ada.delete(path)
        assert frontend.task(deleted)["id"] == task["id"]
        assert await frontend.list(ada) == []

    async def test_sends_back_what_it_has_read_without_changing_the_task(
        self, ada: httpx.AsyncClient, frontend: Frontend
    ) -> None:
        body = {**NEW, frontend.due: "2026-01-31T09:30:00.000Z", "tags": ["home"]}
        task = frontend.task(await ada.post(frontend.list_path, json=body))
        done = await frontend.set_completed(ada, task, completed=True)
        sent_back = await ada.request(frontend.edit, frontend.at(task), json=done)
        assert frontend.task(sent_back) == done

    async def test_shows_a_readable_error(self, ada: httpx.AsyncClient, frontend: Frontend) -> None:
        refused = await ada.post(frontend.list_path, json={"title": " "})
        assert refused.status_code == 422
        assert frontend.error(refused.json()) == "title: must not be empty"


@pytest.mark.parametrize(
    "frontend",
    [frontend for frontend in FRONTENDS if frontend.totals],
    ids=lambda frontend: frontend.number,
)
async def test_a_frontend_reads_its_totals(ada: httpx.AsyncClient, frontend: Frontend) -> None:
    await ada.post(frontend.list_path, json=NEW)
    listed = (await ada.get(f"{frontend.list_path}?{frontend.pending_filter}")).json()
    assert {name: listed[name] for name in frontend.totals} == frontend.totals


async def test_frontend_09_whose_token_is_in_a_cookie_gets_a_readable_401(
    stranger: httpx.AsyncClient,
) -> None:
    stranger.cookies["better-auth.session_token"] = "a.b.c"
    refused = await stranger.get("/api/tasks")
    assert refused.status_code == 401
    assert refused.json()["detail"].startswith("the Authorization header with a bearer token is ")


async def test_the_next_task_of_a_series_is_in_the_dialect(ada: httpx.AsyncClient) -> None:
    body = {"title": "Water", "due_date": "2026-01-31", "recurrence_pattern": "weekly"}
    task = (await ada.post("/compat/recurring/api/tasks", json=body)).json()
    assert (task["is_recurring"], task["recurrence_interval"]) == (True, 1)
    path = f"/compat/recurring+camel/api/tasks/{task['id']}/toggle"
    following = (await ada.post(path)).json()["next"]
    assert (following["recurrencePattern"], following["isCompleted"]) == ("weekly", False)


async def test_frontend_13_reads_the_health(stranger: httpx.AsyncClient) -> None:
    health = await stranger.get("/compat/api/health")
    assert (health.status_code, health.json()) == (200, {"status": "ok"})


class TestTodoBackend:
    """The statements of todobackend.com, with a token."""

    ROOT = "/compat/todobackend"

    async def create(self, ada: httpx.AsyncClient, **members: object) -> dict[str, object]:
        created = await ada.post(self.ROOT, json={"title": "Buy milk", **members})
        todo: dict[str, object] = created.json()
        return todo

    async def test_the_root_responds_to_a_get(self, ada: httpx.AsyncClient) -> None:
        assert (await ada.get(self.ROOT)).status_code == 200

    async def test_a_post_to_the_root_returns_the_todo(self, ada: httpx.AsyncClient) -> None:
        assert (await self.create(ada, title="a todo"))["title"] == "a todo"

    async def test_a_delete_of_the_root_succeeds(self, ada: httpx.AsyncClient) -> None:
        assert (await ada.delete(self.ROOT)).is_success

    async def test_after_a_delete_of_the_root_the_list_is_empty(
        self, ada: httpx.AsyncClient, eve: httpx.AsyncClient
    ) -> None:
        for completed in (True, False, False):
            await self.create(ada, completed=completed)
        of_eve = await self.create(eve)
        await ada.delete(self.ROOT)
        assert (await ada.get(self.ROOT)).json() == []
        assert (await eve.get(self.ROOT)).json() == [of_eve]

    async def test_a_new_todo_is_in_the_list(self, ada: httpx.AsyncClient) -> None:
        todo = await self.create(ada, title="walk the dog")
        assert (await ada.get(self.ROOT)).json() == [todo]

    async def test_a_new_todo_is_not_completed(self, ada: httpx.AsyncClient) -> None:
        assert (await self.create(ada))["completed"] is False

    async def test_a_new_todo_has_a_url(self, ada: httpx.AsyncClient) -> None:
        assert isinstance((await self.create(ada))["url"], str)

    async def test_the_url_of_a_new_todo_returns_it(self, ada: httpx.AsyncClient) -> None:
        todo = await self.create(ada)
        assert (await ada.get(str(todo["url"]))).json() == todo

    async def test_the_list_leads_to_a_todo_by_its_url(self, ada: httpx.AsyncClient) -> None:
        todo = await self.create(ada)
        (listed,) = (await ada.get(self.ROOT)).json()
        assert (await ada.get(listed["url"])).json()["title"] == todo["title"]

    async def test_patch_changes_the_title(self, ada: httpx.AsyncClient) -> None:
        todo = await self.create(ada)
        changed = await ada.patch(str(todo["url"]), json={"title": "bathe the cat"})
        assert changed.json()["title"] == "bathe the cat"

    async def test_patch_changes_the_completion(self, ada: httpx.AsyncClient) -> None:
        todo = await self.create(ada)
        changed = await ada.patch(str(todo["url"]), json={"completed": True})
        assert changed.json()["completed"] is True

    async def test_changes_are_stored(self, ada: httpx.AsyncClient) -> None:
        todo = await self.create(ada)
        url = str(todo["url"])
        changed = await ada.patch(url, json={"title": "changed", "completed": True})
        assert (await ada.get(url)).json() == changed.json()
        assert (await ada.get(self.ROOT)).json() == [changed.json()]

    async def test_delete_removes_a_todo(self, ada: httpx.AsyncClient) -> None:
        todo = await self.create(ada)
        assert (await ada.delete(str(todo["url"]))).is_success
        assert (await ada.get(self.ROOT)).json() == []

    async def test_a_new_todo_has_the_order_that_was_sent(self, ada: httpx.AsyncClient) -> None:
        assert (await self.create(ada, order=523))["order"] == 523

    async def test_patch_changes_the_order(self, ada: httpx.AsyncClient) -> None:
        todo = await self.create(ada, order=10)
        changed = await ada.patch(str(todo["url"]), json={"order": 95})
        assert changed.json()["order"] == 95

    async def test_changes_of_the_order_are_stored(self, ada: httpx.AsyncClient) -> None:
        todo = await self.create(ada, order=10)
        await ada.patch(str(todo["url"]), json={"order": 95})
        assert (await ada.get(str(todo["url"]))).json()["order"] == 95


async def test_orders_sort_as_numbers(ada: httpx.AsyncClient) -> None:
    orders = [0, -(2**63), 62, -1, 9, 2**63 - 1, -62, 61, 10, -61, 1]
    for order in orders:
        await ada.post("/compat/order/api/tasks", json={"title": "Buy milk", "order": order})
    listed = await ada.get("/compat/order/api/tasks?sort=position")
    assert [task["order"] for task in listed.json()] == sorted(orders)
