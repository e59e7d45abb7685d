"""Idempotency-Key: what a client asks for again because it got no answer happens once."""

import asyncio
from collections.abc import Mapping
from typing import Final

import httpx
import pytest

from todo_domain.ports import TaskRepository
from todo_domain.queries import TaskQuery
from todo_domain.task import Task

Members = Mapping[str, object]

MILK: Final = {"title": "Buy milk", "priority": "high", "tags": ["home"], "due_date": "2026-01-31"}
NONE: Final[Members] = {}


async def create(
    somebody: httpx.AsyncClient, key: str, changes: Members = NONE, path: str = "/api/tasks"
) -> httpx.Response:
    body = {**MILK, **changes}
    return await somebody.post(path, json=body, headers={"Idempotency-Key": key})


async def everything(tasks: TaskRepository, owner: str = "ada") -> tuple[Task, ...]:
    return (await tasks.find(owner, TaskQuery())).tasks


class TestARepeatedRequest:
    async def test_gets_the_first_response_again_and_creates_nothing(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        first, again = await create(ada, "k"), await create(ada, "k")
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.content == first.content
        for name in ("Location", "ETag", "Content-Type"):
            assert again.headers[name] == first.headers[name]
        assert len(await everything(tasks)) == 1

    @pytest.mark.parametrize(
        ("method", "suffix", "body"),
        [
            ("PATCH", "", {"title": "Buy oat milk", "tags": []}),
            ("PATCH", "/complete", {"completed": True}),
            ("DELETE", "", None),
        ],
        ids=["changed", "completed", "deleted"],
    )
    async def test_gets_the_first_response_after_the_task_was_changed_or_deleted(
        self, ada: httpx.AsyncClient, method: str, suffix: str, body: dict[str, object] | None
    ) -> None:
        first = await create(ada, "k")
        path = f"/api/tasks/{first.json()['id']}"
        await ada.request(method, path + suffix, json=body)
        after = await ada.get(path)
        assert (await create(ada, "k")).content == first.content
        assert (await ada.get(path)).status_code == after.status_code

    @pytest.mark.parametrize(
        "changes",
        [
            {"title": " Buy milk "},
            {"priority": "HIGH"},
            {"tags": ["home", "home "]},
            {"completed": False, "description": None},
            {"id": "x", "version": 9, "colour": "red"},
        ],
        ids=str,
    )
    async def test_may_spell_the_same_task_another_way(
        self, ada: httpx.AsyncClient, changes: Members
    ) -> None:
        first = await create(ada, "k")
        assert (await create(ada, "k", changes)).content == first.content

    async def test_may_come_at_the_same_time_as_the_first(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        answers = await asyncio.gather(*(create(ada, "k") for _ in range(20)))
        assert {(answer.status_code, answer.content) for answer in answers} == {
            (201, answers[0].content)
        }
        assert len(await everything(tasks)) == 1

    async def test_may_come_by_the_path_with_the_users_id(self, ada: httpx.AsyncClient) -> None:
        first = await create(ada, "k")
        again = await create(ada, "k", path="/api/ada/tasks/")
        assert (again.status_code, again.content) == (201, first.content)

    async def test_may_prefer_no_body(self, ada: httpx.AsyncClient) -> None:
        first = await create(ada, "k")
        ada.headers["Prefer"] = "return=minimal"
        again = await create(ada, "k")
        assert (again.status_code, again.content) == (201, b"")
        assert again.headers["Location"] == first.headers["Location"]


class TestAKey:
    @pytest.mark.parametrize(
        "changes",
        [
            {"title": "Buy oat milk"},
            {"description": ""},
            {"completed": True},
            {"priority": None},
            {"due_date": "2026-01-31T00:00:00Z"},
            {"tags": ["home", "food"]},
        ],
        ids=str,
    )
    async def test_of_another_task_is_422_and_creates_nothing(
        self,
        ada: httpx.AsyncClient,
        tasks: TaskRepository,
        changes: Members,
    ) -> None:
        first = await create(ada, "k")
        answer = await create(ada, "k", changes)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
        assert [str(task.id) for task in await everything(tasks)] == [first.json()["id"]]

    async def test_is_valid_for_its_user_only(
        self, ada: httpx.AsyncClient, eve: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        adas, eves = await create(ada, "k"), await create(eve, "k", {"title": "Buy oat milk"})
        assert (adas.status_code, eves.status_code) == (201, 201)
        assert adas.json()["id"] != eves.json()["id"]
        assert len(await everything(tasks, "eve")) == 1

    async def test_is_not_taken_by_a_request_that_is_refused(self, ada: httpx.AsyncClient) -> None:
        assert (await create(ada, "k", {"title": ""})).status_code == 422
        created = await create(ada, "k")
        assert (created.status_code, created.json()["title"]) == (201, "Buy milk")

    async def test_that_is_new_creates_another_task(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        for key in ("one", "two", "ONE"):
            await create(ada, key)
        assert len(await everything(tasks)) == 3

    async def test_is_not_needed(self, ada: httpx.AsyncClient, tasks: TaskRepository) -> None:
        for _ in range(2):
            await ada.post("/api/tasks", json=MILK)
        assert len(await everything(tasks)) == 2

    async def test_is_ignored_by_routes_that_create_nothing(self, ada: httpx.AsyncClient) -> None:
        task = (await create(ada, "k")).json()
        ada.headers["Idempotency-Key"] = "k"
        path = f"/api/tasks/{task['id']}"
        for title in ("Buy oat milk", "Buy milk"):
            changed = await ada.patch(path, json={"title": title})
            assert changed.json()["title"] == title


class TestTheForm:
    @pytest.mark.parametrize(
        "key",
        [
            *("k", "0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b", "a,b;c=d", "!#$%&'*+-.^_`|~/:@\\"),
            *("x" * 255, '"', 'a"b', '"a', 'a"'),
        ],
        ids=lambda key: key[:20],
    )
    async def test_is_any_visible_ascii(self, ada: httpx.AsyncClient, key: str) -> None:
        first, again = await create(ada, key), await create(ada, key)
        assert (first.status_code, again.content) == (201, first.content)

    @pytest.mark.parametrize("key", ["k", "x" * 255])
    async def test_in_the_quotes_of_the_draft_names_the_same(
        self, ada: httpx.AsyncClient, key: str
    ) -> None:
        first = await create(ada, key)
        assert (await create(ada, f'"{key}"')).content == first.content

    @pytest.mark.parametrize(
        "fields",
        [
            [b"x" * 256],
            [b'"' + b"x" * 256 + b'"'],
            [b'""'],
            [b"two words"],
            [b'"two words"'],
            [b"a\tb"],
            ["é".encode()],
            [b"\xff"],
            [b"a\x00b"],
            [b"a\x7fb"],
            [b"k", b"k"],
            [b"one", b"two"],
        ],
        ids=lambda fields: repr(fields)[:20],
    )
    async def test_that_is_another_is_400_and_creates_nothing(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, fields: list[bytes]
    ) -> None:
        headers = [(b"Idempotency-Key", field) for field in fields]
        answer = await ada.post("/api/tasks", json=MILK, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert answer.json()["detail"].startswith("Idempotency-Key: must be ")
        assert await everything(tasks) == ()
