"""Repeating tasks over HTTP: the rule in JSON, and what completing and reopening answers."""

from typing import Any, Final
from uuid import UUID, uuid5

import httpx
import pytest

from http_contract.sync import pull
from support.tasks import MEMBERS

Json = Any

BATCH: Final = "/api/tasks/batch"
# The dates are far away, so that none of them has passed.
WEEKLY: Final = {
    "title": "Water the plants",
    "due_date": "2096-01-02",
    "repeat": {"unit": "week", "on": ["thu", "mon"]},
}
EVERY_MEMBER: Final = {
    "every": 1,
    "unit": "week",
    "on": ["mon", "thu"],
    "from": "due",
    "until": None,
}
TIMED: Final = {
    "title": "Stand-up",
    "due_date": "2096-03-24T08:00:00Z",
    "repeat": {"every": 1, "unit": "day", "from": "due", "until": "2096-03-25"},
    "timeZone": "Europe/Berlin",
}
# How a client can complete a task: the suffix of the path, the method and the body.
COMPLETIONS: Final = [
    ("/complete", "PATCH", None),
    ("/complete", "PATCH", {"completed": True}),
    ("/toggle", "PATCH", None),
    ("", "PATCH", {"completed": True}),
    ("", "PUT", {"completed": True, "title": "Water the plants"}),
]
every_completion = pytest.mark.parametrize(("suffix", "method", "body"), COMPLETIONS)


async def created(client: httpx.AsyncClient, members: Json) -> Json:
    response = await client.post("/api/tasks", json=members)
    assert response.status_code == 201, response.text
    return response.json()


def at(task: Json) -> str:
    return f"/api/tasks/{task['id']}"


async def complete(client: httpx.AsyncClient, task: Json, *, completed: bool = True) -> Json:
    response = await client.patch(f"{at(task)}/complete", json={"completed": completed})
    assert response.status_code == 200, response.text
    return response.json()


async def listed(client: httpx.AsyncClient) -> Json:
    """The ids of all tasks."""
    return {task["id"] for task in (await client.get("/api/tasks")).json()}


class TestRepeat:
    async def test_has_every_member_in_the_response(self, ada: httpx.AsyncClient) -> None:
        task = await created(ada, WEEKLY)
        assert list(task) == MEMBERS
        assert (task["repeat"], task["time_zone"]) == (EVERY_MEMBER, None)
        assert (await ada.get(at(task))).json() == task

    async def test_accepts_camel_case_and_returns_snake_case(self, ada: httpx.AsyncClient) -> None:
        task = await created(ada, TIMED)
        assert (task["time_zone"], "timeZone" in task) == ("Europe/Berlin", False)

    @pytest.mark.parametrize("method", ["PUT", "PATCH"])
    async def test_is_replaced_as_a_whole(self, ada: httpx.AsyncClient, method: str) -> None:
        task = await created(ada, WEEKLY)
        response = await ada.request(method, at(task), json={"repeat": {"unit": "month"}})
        assert response.json()["repeat"] == EVERY_MEMBER | {"unit": "month", "on": []}
        response = await ada.request(method, at(task), json={"repeat": None})
        assert response.json()["repeat"] is None

    @pytest.mark.parametrize(
        ("members", "pointer", "code"),
        [
            ({"repeat": {}}, "/repeat/unit", "required"),
            ({"repeat": {"unit": "hour"}}, "/repeat/unit", "unknown_value"),
            ({"repeat": {"unit": "day", "every": 0}}, "/repeat/every", "out_of_range"),
            ({"repeat": {"unit": "day", "every": 367}}, "/repeat/every", "out_of_range"),
            ({"repeat": {"unit": "day", "every": 1.5}}, "/repeat/every", "wrong_type"),
            ({"repeat": {"unit": "day", "on": ["mon"]}}, "/repeat/on", "not_allowed"),
            ({"repeat": {"unit": "week", "on": ["mon", "x"]}}, "/repeat/on/1", "unknown_value"),
            ({"repeat": {"unit": "day", "from": "now"}}, "/repeat/from", "unknown_value"),
            ({"repeat": {"unit": "day", "until": "2096"}}, "/repeat/until", "bad_date"),
            ({"repeat": {"unit": "day", "count": 3}}, "/repeat/count", "unknown"),
            ({"repeat": "FREQ=DAILY;INTERVAL=0"}, "/repeat", "wrong_type"),
            ({"time_zone": "Mars/Olympus"}, "/time_zone", "unknown_time_zone"),
            ({"timeZone": 1}, "/timeZone", "wrong_type"),
            ({"due_date": None}, "/due_date", "required"),
            ({"due_date": "2096-01-02T09:00:00Z"}, "/time_zone", "required"),
        ],
    )
    async def test_out_of_the_grammar_is_422_with_a_pointer(
        self, ada: httpx.AsyncClient, members: Json, pointer: str, code: str
    ) -> None:
        task = await created(ada, WEEKLY)
        for response in (
            await ada.post("/api/tasks", json=WEEKLY | members),
            await ada.patch(at(task), json=members),
        ):
            assert response.status_code == 422
            (error,) = response.json()["errors"]
            assert (error["pointer"], error["code"]) == (pointer, code)
        assert (await ada.get("/api/tasks")).json() == [task]


@every_completion
class TestCompletionOfARepeatingTask:
    async def test_returns_the_completed_task_and_the_next_one(
        self, ada: httpx.AsyncClient, suffix: str, method: str, body: Json
    ) -> None:
        task = await created(ada, WEEKLY)
        response = await ada.request(method, at(task) + suffix, json=body)
        completed = response.json()
        following = completed.pop("next")
        assert response.headers["ETag"] == '"2"'
        assert completed == (await ada.get(at(task))).json()
        assert (completed["completed"], completed["due_date"]) == (True, "2096-01-02")
        assert following == task | {
            "id": str(uuid5(UUID(task["id"]), "2096-01-05")),
            "due_date": "2096-01-05",
            "created_at": completed["completed_at"],
            "updated_at": completed["completed_at"],
        }
        assert (await ada.get(at(following))).json() == following

    async def test_and_its_successor_come_together_in_the_feed(
        self, ada: httpx.AsyncClient, suffix: str, method: str, body: Json
    ) -> None:
        task = await created(ada, WEEKLY)
        since = (await pull(ada))["next"]
        completed = (await ada.request(method, at(task) + suffix, json=body)).json()
        following = completed.pop("next")
        page = await pull(ada, since)
        assert sorted(page["changes"], key=lambda change: change["due_date"]) == [
            completed,
            following,
        ]

    async def test_is_undone_by_reopening_it(
        self, ada: httpx.AsyncClient, suffix: str, method: str, body: Json
    ) -> None:
        task = await created(ada, WEEKLY)
        following = (await ada.request(method, at(task) + suffix, json=body)).json()["next"]
        reopened = await complete(ada, task, completed=False)
        assert (reopened["completed"], "next" in reopened) == (False, False)
        assert await listed(ada) == {task["id"]}
        assert (await ada.get(at(following))).status_code == 404


class TestSuccessor:
    async def test_is_returned_again_by_a_repeated_completion(self, ada: httpx.AsyncClient) -> None:
        task = await created(ada, WEEKLY)
        assert await complete(ada, task) == await complete(ada, task)
        assert len(await listed(ada)) == 2

    async def test_stays_when_it_was_changed_before_the_task_is_reopened(
        self, ada: httpx.AsyncClient
    ) -> None:
        task = await created(ada, WEEKLY)
        following = (await complete(ada, task))["next"]
        await ada.patch(at(following), json={"title": "Water the palms"})
        await complete(ada, task, completed=False)
        again = await complete(ada, task)
        assert "next" not in again
        assert await listed(ada) == {task["id"], following["id"]}

    async def test_keeps_the_local_time_of_day_and_ends_after_until(
        self, ada: httpx.AsyncClient
    ) -> None:
        task = await created(ada, TIMED)
        following = (await complete(ada, task))["next"]
        assert following["due_date"] == "2096-03-25T07:00:00.000000Z"  # an hour earlier in UTC
        assert "next" not in await complete(ada, following)

    async def test_keeps_the_day_of_the_month(self, ada: httpx.AsyncClient) -> None:
        monthly = {"title": "x", "due_date": "2097-01-31", "repeat": {"unit": "month"}}
        second = (await complete(ada, await created(ada, monthly)))["next"]
        third = (await complete(ada, second))["next"]
        assert (second["due_date"], third["due_date"]) == ("2097-02-28", "2097-03-31")

    async def test_is_not_in_a_minimal_response(self, ada: httpx.AsyncClient) -> None:
        task = await created(ada, WEEKLY)
        minimal = {"Prefer": "return=minimal"}
        response = await ada.patch(f"{at(task)}/complete", headers=minimal)
        assert (response.status_code, response.content) == (204, b"")
        assert len(await listed(ada)) == 2

    async def test_is_not_made_by_a_stale_completion(self, ada: httpx.AsyncClient) -> None:
        task = await created(ada, WEEKLY)
        response = await ada.patch(f"{at(task)}/complete", headers={"If-Match": '"7"'})
        assert response.status_code == 412
        assert await listed(ada) == {task["id"]}

    async def test_is_made_by_a_conditional_completion(self, ada: httpx.AsyncClient) -> None:
        task = await created(ada, WEEKLY)
        response = await ada.patch(f"{at(task)}/complete", headers={"If-Match": '"1"'})
        assert response.json()["next"]["due_date"] == "2096-01-05"

    async def test_belongs_to_its_user(
        self, ada: httpx.AsyncClient, eve: httpx.AsyncClient
    ) -> None:
        following = (await complete(ada, await created(ada, WEEKLY)))["next"]
        assert (await eve.get(at(following))).status_code == 404

    async def test_is_not_made_for_a_task_that_is_created_as_completed(
        self, ada: httpx.AsyncClient
    ) -> None:
        task = await created(ada, WEEKLY | {"completed": True})
        assert await listed(ada) == {task["id"]}


class TestRepeatingTasksInBatches:
    async def test_are_completed_by_a_filter(self, ada: httpx.AsyncClient) -> None:
        task = await created(ada, WEEKLY)
        body = {"completed": True}
        response = await ada.patch("/api/tasks?status=pending", json=body)
        assert response.json() == {"changed": 1, "ids": [task["id"]]}
        following = str(uuid5(UUID(task["id"]), "2096-01-05"))
        assert await listed(ada) == {task["id"], following}

    async def test_are_completed_by_an_operation(self, ada: httpx.AsyncClient) -> None:
        task = await created(ada, WEEKLY)
        operation = {"op": "change", "id": task["id"], "task": {"completed": True}}
        response = await ada.post(BATCH, json={"operations": [operation]})
        (result,) = response.json()["results"]
        assert (result["status"], result["task"]["completed"]) == (200, True)
        following = str(uuid5(UUID(task["id"]), "2096-01-05"))
        assert await listed(ada) == {task["id"], following}

    async def test_that_lack_a_due_date_are_422_with_a_pointer(
        self, ada: httpx.AsyncClient
    ) -> None:
        new = {"op": "create", "id": str(UUID(int=1)), "task": WEEKLY | {"due_date": None}}
        response = await ada.post(BATCH, json={"operations": [new]})
        (error,) = response.json()["errors"]
        assert (response.status_code, error["pointer"]) == (422, "/operations/0/task/due_date")
        assert await listed(ada) == set()

    async def test_keep_their_due_date(self, ada: httpx.AsyncClient) -> None:
        task = await created(ada, WEEKLY)
        operation = {"op": "change", "id": task["id"], "task": {"due_date": None}}
        response = await ada.post(BATCH, json={"operations": [operation]})
        (error,) = response.json()["errors"]
        assert (response.status_code, error["code"]) == (409, "validation_failed")
        response = await ada.patch(f"/api/tasks?id={task['id']}", json={"due_date": None})
        (error,) = response.json()["errors"]
        assert (response.status_code, error["pointer"]) == (422, "/due_date")
        assert (await ada.get(at(task))).json() == task
