"""Batches, and writes of every task that matches, over HTTP."""

from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest

from fakes import FakeTokenVerifier, InMemoryRateLimiter
from http_contract.tasks import everything
from support.http_client import client, served
from support.tasks import LATER, NOW, a_task
from todo_api.rate_limits import PER_USER
from todo_domain.batch import OPERATIONS_MAX
from todo_domain.ports import TaskRepository
from todo_domain.task import Task

Json = Any

BATCH: Final = "/api/tasks/batch"
ID: Final = "0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b"


def create(task_id: object = None, **members: object) -> Json:
    return {"op": "create", "id": str(task_id or uuid4()), "task": {"title": "New", **members}}


def change(task: Task, if_version: int | None = None, **members: object) -> Json:
    return {"op": "change", "id": str(task.id), "task": members, "if_version": if_version}


async def apply(
    ada: httpx.AsyncClient, *operations: Json, atomic: bool = True, key: str | None = None
) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    body = {"atomic": atomic, "operations": operations}
    return await ada.post(BATCH, json=body, headers=headers)


async def write(
    ada: httpx.AsyncClient, method: str, query: str, prefer: str = ""
) -> httpx.Response:
    """Change or delete the tasks that match."""
    body = b'{"title": "x"}' if method == "patch" else None
    headers = {"Prefer": prefer, "Content-Type": "application/json"}
    return await ada.request(method, f"/api/tasks{query}", content=body, headers=headers)


class TestBatch:
    async def test_applies_every_kind_of_operation_and_returns_the_tasks(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        changed, deleted, restored = [await tasks.add(a_task()) for _ in range(3)]
        await ada.delete(f"/api/tasks/{restored.id}")
        before = (await ada.get(f"/api/tasks/{deleted.id}")).json()
        answer = await apply(
            ada,
            create(ID, dueDate="2026-01-31", priority="HIGH"),
            change(changed, 1, completed=True),
            {"op": "delete", "id": str(deleted.id)},
            {"op": "restore", "id": str(restored.id)},
        )
        assert answer.status_code == 200
        results = answer.json()["results"]
        assert [result["status"] for result in results] == [201, 200, 200, 200]
        assert [result["id"] for result in results] == [
            ID,
            *(str(task.id) for task in (changed, deleted, restored)),
        ]
        assert results[0]["task"]["due_date"] == "2026-01-31"
        assert (results[1]["task"]["completed"], results[1]["task"]["version"]) == (True, 2)
        assert results[2]["task"] == before
        live = {task["id"]: task for task in (await ada.get("/api/tasks")).json()}
        assert live == {
            result["id"]: result["task"] for result in results if result["task"] != before
        }

    async def test_that_is_refused_names_every_failing_operation_and_changes_nothing(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        task = await tasks.add(a_task())
        answer = await apply(
            ada,
            create(),
            change(task, 7, title="x"),
            {"op": "delete", "id": str(uuid4())},
            {"op": "restore", "id": str(uuid4()).upper()},
        )
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (409, "batch_rejected")
        assert [(error["pointer"], error["code"]) for error in problem["errors"]] == [
            ("/operations/1", "stale_version"),
            ("/operations/2", "not_found"),
            ("/operations/3", "not_found"),
        ]
        assert await everything(tasks) == (task,)

    async def test_that_is_not_atomic_has_a_result_for_each_operation(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        task = await tasks.add(a_task())
        answer = await apply(
            ada,
            create(task.id, title="Other"),
            {"op": "restore", "id": ID},
            create(),
            atomic=False,
        )
        assert answer.status_code == 200
        taken, missing, new = answer.json()["results"]
        stored = (await ada.get(f"/api/tasks/{task.id}")).json()
        assert (taken["status"], taken["problem"]["code"], taken["task"]) == (
            409,
            "id_taken",
            stored,
        )
        assert (missing["status"], missing["problem"]["code"], missing["task"]) == (
            404,
            "not_found",
            None,
        )
        assert (new["status"], "problem" in new) == (201, False)

    async def test_of_a_stale_version_has_the_task_as_it_is_now(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        task = await tasks.add(a_task())
        answer = await apply(ada, change(task, 9, title="x"), atomic=False)
        (result,) = answer.json()["results"]
        assert (result["status"], result["problem"]["code"]) == (412, "stale_version")
        assert result["task"] == (await ada.get(f"/api/tasks/{task.id}")).json()

    async def test_of_another_users_task_is_like_one_of_no_task(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        of_eve = await tasks.add(a_task(owner="eve"))
        answers = [
            await apply(ada, {"op": "delete", "id": str(task_id)}, atomic=False)
            for task_id in (of_eve.id, uuid4())
        ]
        theirs, missing = (answer.json()["results"][0] for answer in answers)
        for each in (theirs, missing):
            del each["id"], each["problem"]["request_id"]
        assert theirs == missing

    async def test_may_spell_the_version_in_camel_case(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        task = await tasks.add(a_task())
        answer = await apply(ada, {"op": "delete", "id": str(task.id), "ifVersion": 7})
        assert answer.json()["errors"][0]["code"] == "stale_version"

    async def test_creates_the_same_task_once(self, ada: httpx.AsyncClient) -> None:
        answers = [await apply(ada, create(ID)) for _ in range(2)]
        assert [answer.json()["results"][0]["status"] for answer in answers] == [201, 200]
        assert answers[0].json()["results"][0]["task"] == answers[1].json()["results"][0]["task"]

    async def test_with_a_repeated_key_returns_the_first_results(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        task = await tasks.add(a_task())
        first = await apply(ada, change(task, 1, title="x"), create(ID), key="k")
        await tasks.change("ada", task.id, now=LATER, title="y")
        again = await apply(ada, change(task, 1, title="x"), create(ID), key="k")
        assert (again.status_code, again.json()) == (200, first.json())
        other = await apply(ada, create(ID), key="k")
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")

    @pytest.mark.parametrize(
        ("operations", "pointers"),
        [
            ([], ["/operations"]),
            ([create() for _ in range(OPERATIONS_MAX + 1)], ["/operations"]),
            ({}, ["/operations"]),
            (None, ["/operations"]),
            ([1, None, []], [f"/operations/{number}" for number in range(3)]),
            ([{"op": "move", "id": ID}, {"op": None}], ["/operations/0", "/operations/1"]),
            ([create(ID), create(ID.upper())], ["/operations/1/id"]),
            (
                [{"op": "delete"}, {"op": "delete", "id": "7"}, {"op": "restore", "id": None}],
                [f"/operations/{number}/id" for number in range(3)],
            ),
            (
                [create(title=" ", due_date="tomorrow"), {"op": "create", "id": ID}, create(ID)],
                [
                    *("/operations/0/task/title", "/operations/0/task/due_date"),
                    *("/operations/1/task", "/operations/2/id"),
                ],
            ),
            (
                [{"op": "change", "id": ID, "task": {"completed": "yes"}, "if_version": 0}],
                ["/operations/0/task/completed", "/operations/0/if_version"],
            ),
            (
                [{"op": "change", "id": ID, "task": {"is_completed": True, "id": ID}}],
                ["/operations/0/task/is_completed", "/operations/0/task/id"],
            ),
            ([{"op": "delete", "id": ID, "if_versoin": 1}], ["/operations/0/if_versoin"]),
            ([{"op": "delete", "id": ID, "if_version": "1"}], ["/operations/0/if_version"]),
            ([{"op": "delete", "id": ID, "if_version": 2**31}], ["/operations/0/if_version"]),
        ],
    )
    async def test_that_is_invalid_is_422_with_every_pointer_and_changes_nothing(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, operations: Json, pointers: list[str]
    ) -> None:
        answer = await ada.post(BATCH, json={"operations": operations})
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (422, "validation_failed")
        assert [error["pointer"] for error in problem["errors"]] == pointers
        assert await everything(tasks) == ()

    async def test_counts_as_a_request_for_every_ten_operations(
        self, tasks: TaskRepository
    ) -> None:
        limiter = InMemoryRateLimiter({PER_USER: {60: 4}})
        serving = served(tasks, FakeTokenVerifier("ada"), limiter=limiter)
        async with serving as app, client(app, "ada") as ada:
            first = await apply(ada, *(create() for _ in range(21)))
            assert (first.status_code, first.headers["RateLimit"]) == (200, '"user";r=1;t=60')
            second = await apply(ada, *(create() for _ in range(11)))
        assert (second.status_code, second.headers["Retry-After"]) == (429, "60")
        assert len(await everything(tasks)) == 21


class TestEveryTaskThatMatches:
    async def test_is_changed_and_the_answer_has_the_ids(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        home, done, _ = [
            await tasks.add(task)
            for task in (
                a_task(tags=("home",)),
                a_task(tags=("home",), completed_at=NOW),
                a_task(),
            )
        ]
        answer = await ada.patch("/api/tasks?tag=home", json={"completed": True, "title": "x"})
        ids = sorted(str(task.id) for task in (home, done))
        assert (answer.status_code, answer.json()) == (200, {"changed": 2, "ids": ids})
        again = await ada.patch("/api/tasks?tag=home", json={"completed": True})
        assert again.json() == {"changed": 0, "ids": []}
        assert [task.title for task in await everything(tasks)].count("x") == 2

    async def test_is_deleted_by_its_id_and_restored(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        stored = [await tasks.add(a_task()) for _ in range(3)]
        chosen = sorted(str(task.id) for task in stored[:2])
        query = {"id": [*chosen, chosen[0], str(uuid4())]}
        deleted = await ada.delete("/api/tasks", params=query)
        assert (deleted.status_code, deleted.json()) == (200, {"deleted": 2, "ids": chosen})
        assert await everything(tasks) == (stored[2],)
        restored = await ada.post("/api/tasks/restore", params=query)
        assert (restored.status_code, restored.json()) == (200, {"restored": 2, "ids": chosen})
        assert set(await everything(tasks)) == set(stored)

    async def test_is_listed_by_its_id(self, ada: httpx.AsyncClient, tasks: TaskRepository) -> None:
        stored = [await tasks.add(a_task()) for _ in range(3)]
        query = {"id": [str(task.id) for task in stored[:2]]}
        listed = (await ada.get("/api/tasks", params=query)).json()
        assert {task["id"] for task in listed} == {str(task.id) for task in stored[:2]}

    async def test_is_left_alone_if_no_member_is_known(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        task = await tasks.add(a_task())
        answer = await ada.patch("/api/tasks?status=pending", json={"is_completed": True})
        assert (answer.status_code, answer.json()["code"]) == (422, "nothing_to_change")
        assert await everything(tasks) == (task,)

    @pytest.mark.parametrize("guard", ["max-affected=1", 'handling=strict, max-affected="1"'])
    @pytest.mark.parametrize("send", ["patch", "delete"])
    async def test_is_left_alone_if_more_match_than_the_client_allows(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, send: str, guard: str
    ) -> None:
        stored = {await tasks.add(a_task()) for _ in range(2)}
        answer = await write(ada, send, "?status=pending", guard)
        assert (answer.status_code, answer.json()["code"]) == (409, "too_many_affected")
        assert set(await everything(tasks)) == stored

    @pytest.mark.parametrize("value", ["", "=", "=x", "=-1", "=1.5"])
    async def test_is_left_alone_if_the_guard_is_not_a_number(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, value: str
    ) -> None:
        task = await tasks.add(a_task(completed_at=NOW))
        headers = {"Prefer": f"max-affected{value}"}
        answer = await ada.delete("/api/tasks?status=completed", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert await everything(tasks) == (task,)

    @pytest.mark.parametrize("send", ["patch", "delete"])
    @pytest.mark.parametrize(
        "query",
        [
            *("", "?", "?status=all", "?status=completed&colour=red", "?Status=completed"),
            *("?status=completed&limit=1", "?status=completed&cursor=x", "?sort=title"),
            *("?q=", "?id=", "?status=completed&tag[]=home", "?search=milk", "?done=true"),
            *("?status=pending&status=completed", "?status=pending&completed=true"),
            *("?status=", "?status=completed&tag=", "?status=completed&id="),
        ],
    )
    async def test_needs_a_filter_and_no_unknown_parameter(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, send: str, query: str
    ) -> None:
        task = await tasks.add(a_task(completed_at=NOW))
        answer = await write(ada, send, query)
        assert (answer.status_code, answer.json()["code"]) == (400, "filter_required")
        assert await everything(tasks) == (task,)

    @pytest.mark.parametrize("query", ["id=7", f"id={ID}&id=x", "priority=no"])
    async def test_is_left_alone_if_the_filter_is_invalid(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, query: str
    ) -> None:
        task = await tasks.add(a_task(id=UUID(ID)))
        answer = await ada.delete(f"/api/tasks?{query}")
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
        assert await everything(tasks) == (task,)

    async def test_of_a_list_of_more_ids_than_allowed_is_left_alone(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        task = await tasks.add(a_task())
        query = {"id": [str(task.id), *(str(uuid4()) for _ in range(OPERATIONS_MAX))]}
        answer = await ada.delete("/api/tasks", params=query)
        assert answer.status_code == 422
        assert await everything(tasks) == (task,)
