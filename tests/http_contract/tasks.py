"""The task routes over HTTP: what each answers, and what it leaves behind."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, date, datetime, timedelta
from itertools import combinations
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest

from fakes import FakeTokenVerifier
from support.http_client import client, served
from support.tasks import HOSTILE_TEXTS, LATER, MEMBERS, NOW, OPTIONAL_MEMBERS, a_task, mixed_tasks
from todo_domain.ports import RETENTION, TaskRepository
from todo_domain.queries import Sort, SortBy, TaskQuery
from todo_domain.task import Priority, Task

Json = Any

TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
EVERY_ROUTE_OF_ONE: Final = [
    ("GET", ""),
    ("PUT", ""),
    ("PATCH", ""),
    ("PATCH", "/complete"),
    ("PATCH", "/toggle"),
    ("DELETE", ""),
    ("POST", "/restore"),
]
every_route_of_one = pytest.mark.parametrize(
    ("method", "suffix"), EVERY_ROUTE_OF_ONE, ids=map("".join, EVERY_ROUTE_OF_ONE)
)
either_edit = pytest.mark.parametrize("method", ["PUT", "PATCH"])
either_spelling = pytest.mark.parametrize("suffix", ["complete", "toggle"])


def at(task: Task, suffix: str = "") -> str:
    return f"/api/tasks/{task.id}{suffix}"


async def everything(tasks: TaskRepository, owner: str = "ada") -> tuple[Task, ...]:
    return (await tasks.find(owner, TaskQuery())).tasks


@pytest.fixture
async def task(tasks: TaskRepository) -> Task:
    """A stored task of ada's in which everything is set."""
    task = a_task(
        description="2 litres",
        priority=Priority.HIGH,
        due_date=date(2026, 1, 31),
        tags=("home", "food"),
        position="a",
        version=3,
    )
    await tasks.add(task)
    return task


class TestCreate:
    async def test_returns_201_with_the_task_as_the_contract_shows_it(
        self, ada: httpx.AsyncClient
    ) -> None:
        answer = await ada.post("/api/tasks", json={"title": " Buy milk "})
        assert (answer.status_code, answer.headers["Content-Type"]) == (201, "application/json")
        created = answer.json()
        assert list(created) == MEMBERS
        assert TIME.fullmatch(created["created_at"])
        assert created == {
            "id": created["id"],
            "user_id": "ada",
            "title": "Buy milk",
            **OPTIONAL_MEMBERS,
            "created_at": created["created_at"],
            "updated_at": created["created_at"],
            "completed_at": None,
            "version": 1,
        }

    async def test_keeps_every_member_that_is_sent(self, ada: httpx.AsyncClient) -> None:
        sent = {
            "title": "Buy milk",
            "description": "2 litres",
            "completed": True,
            "priority": "HIGH",
            "due_date": "2026-01-31T11:30:00+02:00",
            "tags": ["home", " food", "home"],
            "position": "a1",
        }
        created = (await ada.post("/api/tasks", json=sent)).json()
        assert created == {
            **created,
            **sent,
            "priority": "high",
            "due_date": "2026-01-31T09:30:00.000000Z",
            "tags": ["home", "food"],
            "completed_at": created["created_at"],
        }

    async def test_accepts_camel_case_and_returns_snake_case(self, ada: httpx.AsyncClient) -> None:
        sent = {"title": "Buy milk", "dueDate": "2026-01-31"}
        created = (await ada.post("/api/tasks", json=sent)).json()
        assert (created["due_date"], "dueDate" in created) == ("2026-01-31", False)

    async def test_returns_the_location_and_entity_tag_of_the_task(
        self, ada: httpx.AsyncClient
    ) -> None:
        answer = await ada.post("/api/tasks", json={"title": "Buy milk"})
        assert answer.headers["Location"] == f"/api/tasks/{answer.json()['id']}"
        assert answer.headers["ETag"] == '"1"'
        assert (await ada.get(answer.headers["Location"])).content == answer.content

    async def test_gives_ids_of_version_7_in_order(self, ada: httpx.AsyncClient) -> None:
        bodies = [await ada.post("/api/tasks", json={"title": "x"}) for _ in range(5)]
        ids = [UUID(body.json()["id"]) for body in bodies]
        assert {task_id.version for task_id in ids} == {7}
        assert sorted(ids) == ids

    async def test_gives_the_time_of_the_request(self, ada: httpx.AsyncClient) -> None:
        before = datetime.now(UTC)
        created = (await ada.post("/api/tasks", json={"title": "x"})).json()
        assert before <= datetime.fromisoformat(created["created_at"]) <= datetime.now(UTC)

    async def test_stores_what_it_acknowledges(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        created = (await ada.post("/api/tasks", json={"title": "Buy milk"})).json()
        (stored,) = await everything(tasks)
        assert (str(stored.id), stored.title, stored.owner) == (created["id"], "Buy milk", "ada")

    async def test_ignores_members_that_are_read_only_or_unknown(
        self, ada: httpx.AsyncClient
    ) -> None:
        foreign = {
            "id": "no UUID",
            "user_id": "eve",
            "userId": "eve",
            "created_at": "2000-01-01T00:00:00Z",
            "updated_at": None,
            "completed_at": "2000-01-01T00:00:00Z",
            "version": 99,
            "colour": "red",
        }
        created = (await ada.post("/api/tasks", json={"title": "x", **foreign})).json()
        assert created["id"] != foreign["id"]
        assert (created["user_id"], created["version"]) == ("ada", 1)
        assert created["completed_at"] is None
        assert not created["created_at"].startswith("2000")
        assert "colour" not in created

    @pytest.mark.parametrize("text", HOSTILE_TEXTS)
    async def test_returns_any_text_unchanged(self, ada: httpx.AsyncClient, text: str) -> None:
        sent = {"title": text, "description": f" {text}\n", "tags": [text[:50]]}
        created = (await ada.post("/api/tasks", json=sent)).json()
        (listed,) = (await ada.get("/api/tasks")).json()
        assert created == listed == {**created, **sent}

    @pytest.mark.parametrize("name", ["name", "text", "Title", "task"])
    async def test_without_a_title_names_the_member_that_was_sent_instead(
        self, ada: httpx.AsyncClient, name: str
    ) -> None:
        answer = await ada.post("/api/tasks", json={name: "Buy milk", "description": "2 litres"})
        assert answer.json()["code"] == "validation_failed"
        assert answer.json()["detail"] == f"title: is required: use title instead of {name}"

    @pytest.mark.parametrize("body", [{}, {"title": " "}, {"title": "x", "completed": "yes"}, []])
    async def test_with_an_invalid_body_stores_nothing(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, body: Json
    ) -> None:
        answer = await ada.post("/api/tasks", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
        assert await everything(tasks) == ()


class TestGet:
    async def test_returns_exactly_the_bytes_of_the_task(
        self, tasks: TaskRepository, ada: httpx.AsyncClient
    ) -> None:
        task = a_task(id=UUID("0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b"))
        await tasks.add(task)
        answer = await ada.get(at(task))
        assert answer.status_code == 200
        assert answer.content == (
            b'{"id":"0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b","user_id":"ada","title":"Buy milk",'
            b'"description":null,"completed":false,"priority":null,"due_date":null,"tags":[],'
            b'"position":null,"repeat":null,"time_zone":null,'
            b'"created_at":"2026-01-18T09:30:00.000000Z",'
            b'"updated_at":"2026-01-18T09:30:00.000000Z","completed_at":null,"version":1}'
        )

    async def test_returns_the_quoted_version_as_entity_tag(
        self, ada: httpx.AsyncClient, task: Task
    ) -> None:
        assert (await ada.get(at(task))).headers["ETag"] == '"3"'

    async def test_accepts_an_id_in_capitals(self, ada: httpx.AsyncClient, task: Task) -> None:
        # RFC 9562, section 4: UUIDs are read without regard to case.
        assert (await ada.get(f"/api/tasks/{str(task.id).upper()}")).status_code == 200

    @pytest.mark.parametrize("user_id", ["1", "a@b.example", str(UUID(int=1)), "x" * 255])
    async def test_returns_the_user_id_as_the_token_has_it(
        self, tasks: TaskRepository, user_id: str
    ) -> None:
        async with served(tasks, FakeTokenVerifier(user_id)) as app, client(app, user_id) as user:
            created = (await user.post("/api/tasks", json={"title": "x"})).json()
        assert created["user_id"] == user_id


@either_edit
class TestEdit:
    async def test_returns_the_changed_task_with_its_new_entity_tag(
        self, ada: httpx.AsyncClient, task: Task, method: str
    ) -> None:
        answer = await ada.request(method, at(task), json={"title": "Buy oat milk"})
        assert (answer.status_code, answer.headers["ETag"]) == (200, '"4"')
        changed = answer.json()
        assert list(changed) == MEMBERS
        assert (changed["title"], changed["version"]) == ("Buy oat milk", 4)
        assert (await ada.get(at(task))).content == answer.content

    @pytest.mark.parametrize(
        ("sent", "expected"),
        [
            ({"title": " Buy oat milk"}, "Buy oat milk"),
            ({"description": "3 litres"}, "3 litres"),
            ({"description": ""}, ""),
            ({"description": None}, None),
            ({"completed": True}, True),
            ({"priority": "Low"}, "low"),
            ({"priority": None}, None),
            ({"due_date": "2026-02-01"}, "2026-02-01"),
            ({"due_date": "2026-02-01T00:00:00Z"}, "2026-02-01T00:00:00.000000Z"),
            ({"due_date": None}, None),
            ({"tags": ["work"]}, ["work"]),
            ({"tags": []}, []),
            ({"tags": None}, []),
            ({"position": "a1"}, "a1"),
            ({"position": None}, None),
        ],
    )
    async def test_changes_the_member_that_is_sent_and_keeps_the_absent_ones(
        self, ada: httpx.AsyncClient, task: Task, method: str, sent: Json, expected: Json
    ) -> None:
        (member,) = sent
        before = (await ada.get(at(task))).json()
        after = (await ada.request(method, at(task), json=sent)).json()
        assert after[member] == expected
        assert after["version"] == before["version"] + 1
        assert after["updated_at"] > before["updated_at"]
        assert (after["completed_at"] is not None) == after["completed"]
        for other in set(MEMBERS) - {member, "version", "updated_at", "completed_at"}:
            assert after[other] == before[other]

    @pytest.mark.parametrize(("sent", "kept"), [("2026-02-01", "2026-02-01"), (None, None)])
    async def test_accepts_camel_case_and_returns_snake_case(
        self, ada: httpx.AsyncClient, task: Task, method: str, sent: Json, kept: Json
    ) -> None:
        changed = (await ada.request(method, at(task), json={"dueDate": sent})).json()
        assert changed["due_date"] == kept
        assert "dueDate" not in changed

    @pytest.mark.parametrize(
        "idle",
        [
            {},
            {"title": "Buy milk"},
            {"title": " Buy milk ", "priority": "High", "tags": ["home ", "food", "home"]},
            {"completed": False, "due_date": "2026-01-31", "description": "2 litres"},
            {"title": "Buy milk", "version": 99, "user_id": "eve", "id": "x", "colour": "red"},
        ],
    )
    async def test_that_alters_nothing_keeps_version_and_time(
        self, ada: httpx.AsyncClient, task: Task, method: str, idle: Json
    ) -> None:
        before = await ada.get(at(task))
        after = await ada.request(method, at(task), json=idle)
        assert (after.status_code, after.content) == (200, before.content)
        assert after.headers["ETag"] == '"3"'

    async def test_with_the_whole_task_as_it_was_read_alters_nothing(
        self, ada: httpx.AsyncClient, task: Task, method: str
    ) -> None:
        before = await ada.get(at(task))
        after = await ada.request(method, at(task), json=before.json())
        assert after.content == before.content

    @pytest.mark.parametrize(
        "invalid",
        [
            {"title": None},
            {"title": ""},
            {"completed": None},
            {"priority": "urgent"},
            {"due_date": "soon"},
            {"tags": [None]},
            {"position": "a0"},
        ],
    )
    async def test_with_an_invalid_member_changes_nothing(
        self, ada: httpx.AsyncClient, task: Task, method: str, invalid: Json
    ) -> None:
        before = await ada.get(at(task))
        body = {"title": "Buy oat milk", "description": "3 litres", **invalid}
        answer = await ada.request(method, at(task), json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
        assert (await ada.get(at(task))).content == before.content

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("is_completed", "is not a member of this route: use completed"),
            ("isCompleted", "is not a member of this route: use completed"),
            ("status", "is not a member of this route: use completed"),
            ("completed_at", "is read-only: use completed"),
            ("name", "is not a member of this route: use title"),
            ("Title", "is not a member of this route: use title"),
            ("descripton", "is not a member of this route: use description"),
            ("due-date", "is not a member of this route: use due_date"),
            ("labels", "is not a member of this route: use tags"),
            ("order", "is not a member of this route: use position"),
            ("colour", "is not a member of this route"),
            ("", "is not a member of this route"),
            ("version", "is read-only"),
        ],
    )
    async def test_without_a_known_member_is_422_and_names_the_closest(
        self, ada: httpx.AsyncClient, task: Task, method: str, name: str, message: str
    ) -> None:
        before = await ada.get(at(task))
        answer = await ada.request(method, at(task), json={name: True})
        assert (answer.status_code, answer.json()["code"]) == (422, "nothing_to_change")
        (error,) = answer.json()["errors"]
        assert (error["pointer"], error["message"]) == (f"/{name}", message)
        assert answer.json()["detail"].startswith(f"{name}: {message}")
        assert (await ada.get(at(task))).content == before.content

    async def test_without_a_known_member_names_every_member(
        self, ada: httpx.AsyncClient, task: Task, method: str
    ) -> None:
        answer = await ada.request(method, at(task), json={"id": "x", "a/b": 1, "status": "done"})
        errors = [(error["pointer"], error["code"]) for error in answer.json()["errors"]]
        assert errors == [("/id", "read_only"), ("/a~1b", "unknown"), ("/status", "unknown")]

    async def test_keeps_concurrent_changes_of_other_members(
        self, ada: httpx.AsyncClient, task: Task, method: str
    ) -> None:
        changes = [{"title": "Buy oat milk"}, {"priority": "low"}, {"tags": ["work"]}]
        edits = [ada.request(method, at(task), json=change) for change in changes]
        completion = ada.patch(at(task, "/complete"), json={"completed": True})
        await asyncio.gather(*edits, completion)
        merged = (await ada.get(at(task))).json()
        assert (merged["title"], merged["priority"], merged["tags"]) == (
            "Buy oat milk",
            "low",
            ["work"],
        )
        assert (merged["completed"], merged["version"]) == (True, 7)


@either_spelling
class TestComplete:
    @pytest.mark.parametrize(
        "form",
        [
            {},
            {"content": b""},
            {"content": b"", "headers": {"Content-Type": "application/json"}},
            {"content": b"", "headers": {"Content-Type": "text/plain;charset=UTF-8"}},
            {"json": {}},
        ],
        ids=["nothing", "empty", "empty JSON", "empty text", "{}"],
    )
    async def test_toggles_without_the_member_completed(
        self, ada: httpx.AsyncClient, task: Task, suffix: str, form: Mapping[str, Any]
    ) -> None:
        answers = [await ada.patch(at(task, f"/{suffix}"), **form) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert [answer.json()["completed"] for answer in answers] == [True, False, True]
        assert [answer.headers["ETag"] for answer in answers] == ['"4"', '"5"', '"6"']

    @pytest.mark.parametrize("completed", [True, False])
    async def test_sets_the_completion_that_is_sent(
        self, ada: httpx.AsyncClient, task: Task, suffix: str, *, completed: bool
    ) -> None:
        for _ in range(2):
            answer = await ada.patch(at(task, f"/{suffix}"), json={"completed": completed})
            assert answer.json()["completed"] == completed
            assert list(answer.json()) == MEMBERS
        assert (await ada.get(at(task))).content == answer.content

    async def test_sets_completed_at_and_clears_it_when_reopened(
        self, ada: httpx.AsyncClient, task: Task, suffix: str
    ) -> None:
        completed = (await ada.patch(at(task, f"/{suffix}"))).json()
        assert TIME.fullmatch(completed["completed_at"])
        assert completed["completed_at"] == completed["updated_at"]
        assert (await ada.patch(at(task, f"/{suffix}"))).json()["completed_at"] is None

    async def test_of_a_completed_task_keeps_the_first_time_and_the_version(
        self, ada: httpx.AsyncClient, task: Task, suffix: str
    ) -> None:
        first, again = [
            await ada.patch(at(task, f"/{suffix}"), json={"completed": True}) for _ in range(2)
        ]
        assert again.content == first.content

    @pytest.mark.parametrize("value", [None, "true", 1, {}])
    async def test_accepts_only_true_and_false(
        self, ada: httpx.AsyncClient, task: Task, suffix: str, value: Json
    ) -> None:
        answer = await ada.patch(at(task, f"/{suffix}"), json={"completed": value})
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/completed"]
        assert not (await ada.get(at(task))).json()["completed"]

    @pytest.mark.parametrize(
        "refused",
        [
            ("text/plain", b"{}", 415),
            ("application/json", b"{", 400),
            ("application/json", b"null", 422),
            ("application/json", b"true", 422),
            ("application/json", b'{"is_completed": true}', 422),
            ("application/json", b'{"status": "completed", "title": "Mine"}', 422),
        ],
    )
    async def test_refuses_any_other_body_and_changes_nothing(
        self,
        ada: httpx.AsyncClient,
        tasks: TaskRepository,
        task: Task,
        suffix: str,
        refused: tuple[str, bytes, int],
    ) -> None:
        content_type, body, status = refused
        headers = {"Content-Type": content_type}
        answer = await ada.patch(at(task, f"/{suffix}"), content=body, headers=headers)
        assert answer.status_code == status
        assert await everything(tasks) == (task,)

    @pytest.mark.parametrize("name", ["is_completed", "done", "status", "completion_status"])
    async def test_without_a_known_member_names_completed_and_the_base_path(
        self, ada: httpx.AsyncClient, task: Task, suffix: str, name: str
    ) -> None:
        answer = await ada.patch(at(task, f"/{suffix}"), json={name: True})
        assert answer.json()["code"] == "nothing_to_change"
        assert answer.json()["detail"] == (
            f"{name}: is not a member of this route: use completed; "
            f"or use the base path /compat, which understands {name}"
        )
        understood = await ada.patch(f"/compat{at(task, f'/{suffix}')}", json={name: True})
        assert understood.json()["completed"] is True

    async def test_applies_every_one_of_several_concurrent_toggles(
        self, ada: httpx.AsyncClient, task: Task, suffix: str
    ) -> None:
        answers = await asyncio.gather(*(ada.patch(at(task, f"/{suffix}")) for _ in range(4)))
        assert sorted(answer.json()["version"] for answer in answers) == [4, 5, 6, 7]


class TestDelete:
    async def test_returns_the_task_as_it_was(self, ada: httpx.AsyncClient, task: Task) -> None:
        before = await ada.get(at(task))
        answer = await ada.delete(at(task))
        assert (answer.status_code, answer.content) == (200, before.content)

    async def test_makes_the_task_missing_for_get_list_and_delete(
        self, ada: httpx.AsyncClient, task: Task
    ) -> None:
        await ada.delete(at(task))
        assert (await ada.get(at(task))).status_code == 404
        assert (await ada.get("/api/tasks")).json() == []
        assert (await ada.delete(at(task))).status_code == 404

    async def test_changes_no_other_task(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, task: Task
    ) -> None:
        other = a_task()
        await tasks.add(other)
        await ada.delete(at(task))
        assert await everything(tasks) == (other,)


class TestClearCompleted:
    async def test_deletes_all_completed_tasks_and_returns_their_number(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        pending, eves = a_task(), a_task(owner="eve", completed_at=NOW)
        for task in (pending, eves, a_task(completed_at=NOW), a_task(completed_at=LATER)):
            await tasks.add(task)
        answers = [await ada.delete("/api/tasks?status=completed") for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert [answer.json()["deleted"] for answer in answers] == [2, 0]
        for task_id in answers[0].json()["ids"]:
            assert (await ada.post(f"/api/tasks/{task_id}/restore")).json()["completed"]
            await tasks.delete("ada", UUID(task_id), now=NOW)
        assert await everything(tasks) == (pending,)
        assert await everything(tasks, "eve") == (eves,)

    async def test_can_be_undone_task_by_task(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        task = await tasks.add(a_task(completed_at=NOW))
        await ada.delete("/api/tasks?status=completed")
        assert (await ada.post(at(task, "/restore"))).status_code == 200
        assert await everything(tasks) == (task,)


class TestRestore:
    async def test_returns_the_task_as_it_was_before_it_was_deleted(
        self, ada: httpx.AsyncClient, task: Task
    ) -> None:
        before = await ada.get(at(task))
        await ada.delete(at(task))
        answer = await ada.post(at(task, "/restore"))
        assert (answer.status_code, answer.content) == (200, before.content)
        assert answer.headers["ETag"] == before.headers["ETag"]

    async def test_returns_the_task_to_its_position_in_the_list(
        self, ada: httpx.AsyncClient, task: Task
    ) -> None:
        listed = await ada.get("/api/tasks")
        await ada.delete(at(task))
        await ada.post(at(task, "/restore"))
        assert (await ada.get("/api/tasks")).content == listed.content
        assert (await ada.get(at(task))).status_code == 200

    async def test_of_a_task_that_is_not_deleted_is_409(
        self, ada: httpx.AsyncClient, task: Task
    ) -> None:
        answer = await ada.post(at(task, "/restore"))
        assert (answer.status_code, answer.json()["code"]) == (409, "not_deleted")

    async def test_of_a_restored_task_is_409(self, ada: httpx.AsyncClient, task: Task) -> None:
        await ada.delete(at(task))
        statuses = [(await ada.post(at(task, "/restore"))).status_code for _ in range(2)]
        assert statuses == [200, 409]

    async def test_is_404_after_the_retention_time(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, task: Task
    ) -> None:
        await tasks.delete("ada", task.id, now=datetime.now(UTC) - RETENTION)
        answer = await ada.post(at(task, "/restore"))
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")

    async def test_of_another_users_deleted_task_is_404_and_restores_nothing(
        self, ada: httpx.AsyncClient, eve: httpx.AsyncClient, task: Task
    ) -> None:
        await ada.delete(at(task))
        assert (await eve.post(at(task, "/restore"))).status_code == 404
        assert (await ada.get(at(task))).status_code == 404

    @pytest.mark.parametrize("body", [b"", b"{}", b"null", b"{"])
    async def test_needs_no_body_and_reads_none(
        self, ada: httpx.AsyncClient, task: Task, body: bytes
    ) -> None:
        await ada.delete(at(task))
        headers = {"Content-Type": "application/json"}
        answer = await ada.post(at(task, "/restore"), content=body, headers=headers)
        assert answer.status_code == 200


class TestWhatIsNotThere:
    @every_route_of_one
    async def test_is_404_with_the_same_bytes_for_every_reason(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, method: str, suffix: str
    ) -> None:
        foreign, deleted = a_task(owner="eve"), a_task()
        for stored in (foreign, deleted):
            await tasks.add(stored)
        await tasks.delete("ada", deleted.id, now=datetime.now(UTC) - RETENTION)
        body = {"title": "Mine", "completed": True} if method in {"PUT", "PATCH"} else None
        malformed = ["1", "null", "undefined", "%00", "%F0%9F", f"{foreign.id}0"]
        ids = [uuid4(), foreign.id, deleted.id, *malformed]
        seen = set()
        for task_id in ids:
            path = f"/api/tasks/{task_id}{suffix}"
            headers = {"X-Request-ID": "r1"}
            answer = await ada.request(method, path, json=body, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
            document = [member for member in answer.json().items() if member[0] != "instance"]
            fields = [field for field in answer.headers.items() if field[0] != "content-length"]
            seen.add((tuple(document), tuple(fields)))
        assert len(seen) == 1

    @every_route_of_one
    async def test_stays_unchanged_if_it_is_another_users_task(
        self, eve: httpx.AsyncClient, tasks: TaskRepository, method: str, suffix: str
    ) -> None:
        task = a_task()
        await tasks.add(task)
        body = {"title": "Mine", "completed": True} if method != "DELETE" else None
        assert (await eve.request(method, at(task, suffix), json=body)).status_code == 404
        assert await everything(tasks) == (task,)

    async def test_is_not_in_another_users_list(
        self, ada: httpx.AsyncClient, eve: httpx.AsyncClient
    ) -> None:
        created = (await ada.post("/api/tasks", json={"title": "Buy milk"})).json()
        assert (await ada.get("/api/tasks")).json() == [created]
        answer = await eve.get("/api/tasks", headers={"Prefer": "count=exact"})
        assert (answer.json(), answer.headers["X-Total-Count"]) == ([], "0")


# Four tasks of ada's, made in this order and called by their first letters.
LISTED: Final = (
    a_task(
        title="Apple pie",
        priority=Priority.LOW,
        due_date=date(2026, 1, 19),
        tags=("home",),
        position="b",
        created_at=NOW,
        updated_at=LATER,
    ),
    a_task(
        id=UUID(int=1),
        title="banana",
        priority=Priority.HIGH,
        due_date=datetime(2026, 1, 20, 12, tzinfo=UTC),
        tags=("home", "work"),
        created_at=NOW + timedelta(seconds=1),
        updated_at=LATER + timedelta(hours=1),
        completed_at=LATER,
    ),
    a_task(
        id=UUID(int=2),
        title="Cherry 100%",
        description="with MILK",
        created_at=NOW + timedelta(seconds=2),
        updated_at=LATER - timedelta(seconds=1),
    ),
    a_task(
        title="drink milk",
        priority=Priority.MEDIUM,
        due_date=date(2026, 1, 21),
        tags=("work",),
        position="Z",
        created_at=NOW + timedelta(seconds=3),
        updated_at=LATER + timedelta(seconds=1),
        completed_at=LATER,
    ),
)
FILTERS: Final = [
    ("status=pending", "ca"),
    ("status=completed", "db"),
    ("completed=true", "db"),
    ("completed=false", "ca"),
    ("priority=high", "b"),
    ("priority=Medium", "d"),
    ("tag=home", "ba"),
    ("tag=work", "db"),
    ("tag=home&tag=work", "b"),
    ("tag=%20home%20", "ba"),
    ("due_before=2026-01-20", "a"),
    ("due_before=2026-01-20T12:00:00Z", "a"),
    ("due_before=2026-01-20T12:00:00.000001Z", "ba"),
    ("due_before=2026-01-20T14:00:00.000001%2B02:00", "ba"),
    ("due_after=2026-01-19", "db"),
    ("due_after=2026-01-20T12:00:00Z", "d"),
    ("due_after=2026-01-19&due_before=2026-01-21", "b"),
    ("q=milk", "dc"),
    ("q=MiLk", "dc"),
    ("q=%25", "c"),
    ("q=_", ""),
    ("q=%20apple", "a"),
]


# Spellings that other APIs have shaped, and values that mean no filter.
ALIASES: Final = [
    ("search=milk", "dc"),
    ("query=milk", "dc"),
    ("keyword=milk", "dc"),
    ("q=milk&search=milk", "dc"),
    ("sort_by=title", "abcd"),
    ("sortBy=title", "abcd"),
    ("order_by=-title", "dcba"),
    ("sort=dueDate", "abdc"),
    ("sort=-UPDATED_AT", "bdac"),
    ("sort_by=title&sort_order=desc", "dcba"),
    ("sortBy=dueDate&sortOrder=DESC", "dbac"),
    ("sort_by=title&sortDir=desc", "dcba"),
    ("sort_by=title&sort_direction=desc", "dcba"),
    ("tag[]=home", "ba"),
    ("tag%5B%5D=home&tag%5B%5D=work", "b"),
    ("tags=home&tags=work", "b"),
    ("tags[]=home&tag=work", "b"),
    ("tag[0]=home&tag[1]=work", "b"),
    ("dueBefore=2026-01-20", "a"),
    ("due_before=2026-01-20&dueBefore=2026-01-20", "a"),
    ("dueAfter=2026-01-19", "db"),
    ("dueDateAfter=2026-01-19&due_date_before=2026-01-21", "b"),
    ("filter=active", "ca"),
    ("done=true", "db"),
    ("is_completed=true", "db"),
    ("isCompleted=False", "ca"),
    *((f"status={word}", "ca") for word in ("active", "incomplete", "open", "TODO", "Pending")),
    *((f"status={word}", "db") for word in ("done", "complete", "COMPLETED")),
    ("status=ALL", "dcba"),
    ("priority=all", "dcba"),
    ("priority=ALL&completed=all", "dcba"),
    ("completed=all&status=done", "db"),
    ("status=&priority=&completed=&tag=&due_before=&due_after=&q=", "dcba"),
    ("sort=&order=&limit=&cursor=", "dcba"),
    ("tag[]=&tag[]=home", "ba"),
    ("search=&q=milk", "dc"),
    ("status=pending&status=", "ca"),
    ("q=%E2%80%8B%EF%BB%BF", "dcba"),
]


def initials(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return "".join(task["title"][0].lower() for task in answer.json())


class TestList:
    @pytest.fixture(autouse=True)
    async def _listed(self, tasks: TaskRepository) -> None:
        for task in (*LISTED, a_task(owner="eve", title="eve's")):
            await tasks.add(task)

    async def test_is_a_bare_array_of_whole_tasks_newest_first(
        self, ada: httpx.AsyncClient
    ) -> None:
        answer = await ada.get("/api/tasks")
        assert [task["id"] for task in answer.json()] == [str(t.id) for t in reversed(LISTED)]
        assert all(list(task) == MEMBERS for task in answer.json())
        assert (await ada.get(at(LISTED[1]))).json() in answer.json()

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            *FILTERS,
            ("", "dcba"),
            ("q=", "dcba"),
            ("q=%20%09", "dcba"),
            ("q=&status=pending", "ca"),
            ("status=all", "dcba"),
            ("sort=created_at", "abcd"),
            ("sort=-created_at", "dcba"),
            ("sort=updated_at", "cadb"),
            ("sort=-updated_at", "bdac"),
            ("sort=title", "abcd"),
            ("sort=-title", "dcba"),
            ("sort=due_date", "abdc"),
            ("sort=-due_date", "dbac"),
            ("sort=priority", "adbc"),
            ("sort=-priority", "bdac"),
            ("sort=position", "dabc"),
            ("sort=-position", "adcb"),
            ("order=asc", "abcd"),
            ("order=desc", "dcba"),
            ("sort=title&order=desc", "dcba"),
            ("sort=-title&order=asc", "abcd"),
            ("limit=1", "d"),
            ("limit=4", "dcba"),
            ("limit=1000", "dcba"),
            ("status=completed&tag=work&sort=title&limit=1", "b"),
            ("status=pending&q=milk&due_before=2026-02-01", ""),
            ("status=completed&completed=false", "db"),
            ("status=all&completed=false", "dcba"),
            ("_=1768728600&colour=red&page=2", "dcba"),
            *ALIASES,
        ],
    )
    async def test_has_the_tasks_that_the_query_selects(
        self, ada: httpx.AsyncClient, query: str, expected: str
    ) -> None:
        assert initials(await ada.get(f"/api/tasks?{query}")) == expected

    async def test_with_two_filters_has_the_tasks_that_match_both(
        self, ada: httpx.AsyncClient
    ) -> None:
        for (one, matching_one), (two, matching_two) in combinations(FILTERS, 2):
            names = [{part.partition("=")[0] for part in q.split("&")} for q in (one, two)]
            if names[0] & names[1] or {"status", "completed"} <= names[0] | names[1]:
                continue  # the same parameter twice means something else
            expected = "".join(i for i in matching_one if i in matching_two)
            assert initials(await ada.get(f"/api/tasks?{one}&{two}")) == expected, (one, two)

    @pytest.mark.parametrize(
        ("parameter", "value", "code"),
        [
            *(("status", value, "unknown_value") for value in ("in_progress", " ", "true")),
            *(("completed", value, "unknown_value") for value in ("1", "yes", "on", "null")),
            ("isCompleted", "1", "unknown_value"),
            *(("priority", value, "unknown_value") for value in ("urgent", " ", "1")),
            *(("sort", value, "unknown_value") for value in ("colour", "--title", "+title")),
            ("sort_by", "colour", "unknown_value"),
            *(("order", value, "unknown_value") for value in ("up", "ascending", "all")),
            *(("limit", value, "out_of_range") for value in ("0", "-1", "1001", "9" * 30)),
            ("limit", "9" * 5000, "out_of_range"),
            *(("limit", value, "wrong_type") for value in ("ten", "1.5", "1e2", "NaN")),
            *(("limit", value, "wrong_type") for value in ("1_0", "5.0", "+5", " 5", "5\n", "0x5")),
            *(("limit", value, "wrong_type") for value in ("\uff15", "\u0665", "null", " ")),
            *(("due_before", value, "bad_date") for value in ("today", " ", "2026-02-30")),
            ("dueBefore", "today", "bad_date"),
            *(("due_after", value, "bad_date") for value in ("2026-01-31T09:30:00", "1769817600")),
            ("due_after", "0001-01-01T00:00:00+01:00", "out_of_range"),
            ("tag", " ", "blank"),
            ("tag", "\u200b", "blank"),
            ("tag", "x" * 51, "too_long"),
            ("tag", "a\0b", "bad_character"),
            ("q", "x" * 201, "too_long"),
            ("q", "a\0b", "bad_character"),
        ],
    )
    async def test_refuses_an_unknown_value_naming_its_parameter(
        self, ada: httpx.AsyncClient, parameter: str, value: str, code: str
    ) -> None:
        answer = await ada.get("/api/tasks", params={parameter: value})
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
        (error,) = answer.json()["errors"]
        assert (error["field"].split(".")[0], error["code"]) == (parameter, code)
        assert "pointer" not in error
        assert answer.json()["detail"] == f"{error['field']}: {error['message']}"

    @pytest.mark.parametrize(
        ("query", "names"),
        [
            ("q=milk&search=oat", ("search", "q")),
            ("sort_by=title&sort=-title", ("sort", "sort_by")),
            ("dueBefore=2026-01-20&due_before=2026-01-21", ("due_before", "dueBefore")),
            ("completed=true&isCompleted=false", ("isCompleted", "completed")),
        ],
    )
    async def test_refuses_two_values_under_two_spellings_of_a_parameter(
        self, ada: httpx.AsyncClient, query: str, names: tuple[str, str]
    ) -> None:
        answer = await ada.get(f"/api/tasks?{query}")
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
        (error,) = answer.json()["errors"]
        assert (error["field"], error["code"]) == (names[0], "contradictory")
        assert error["message"].startswith(f"differs from {names[1]},")

    async def test_names_every_bad_parameter_at_once(self, ada: httpx.AsyncClient) -> None:
        bad = {"status": "x", "limit": "0", "sort": "x", "priority": "x", "due_after": "x"}
        errors = (await ada.get("/api/tasks", params=bad)).json()["errors"]
        assert {error["field"] for error in errors} == set(bad)

    async def test_survives_any_bytes_in_its_query(self, ada: httpx.AsyncClient) -> None:
        for query in (
            b"%",
            b"%zz",
            b"%ff%fe",
            b"q=%ed%a0%80",
            b"&&&==",
            b"q",
            b"tag[]=x",
            b"q=%00",
        ):
            url = httpx.URL("http://todo.test").copy_with(raw_path=b"/api/tasks?" + query)
            assert (await ada.get(url)).status_code in {200, 422}

    async def test_has_an_entity_tag_and_no_location(self, ada: httpx.AsyncClient) -> None:
        headers = (await ada.get("/api/tasks")).headers
        assert re.fullmatch(r'"[\w-]+"', headers["ETag"])
        assert "Location" not in headers


class TestTotal:
    @pytest.fixture(autouse=True)
    async def _listed(self, tasks: TaskRepository) -> None:
        for task in LISTED:
            await tasks.add(task)

    @pytest.mark.parametrize(
        ("query", "total"), [("", "4"), ("limit=4", "4"), ("status=pending", "2"), ("q=none", "0")]
    )
    async def test_is_sent_when_the_response_has_every_match(
        self, ada: httpx.AsyncClient, query: str, total: str
    ) -> None:
        assert (await ada.get(f"/api/tasks?{query}")).headers["X-Total-Count"] == total

    @pytest.mark.parametrize("prefer", ["", "return=minimal", "count=planned", "count", "exact"])
    async def test_is_not_sent_with_an_incomplete_page_by_default(
        self, ada: httpx.AsyncClient, prefer: str
    ) -> None:
        answer = await ada.get("/api/tasks?limit=3", headers={"Prefer": prefer})
        assert "X-Total-Count" not in answer.headers

    @pytest.mark.parametrize(
        "fields",
        [
            ["count=exact"],
            ["Count=Exact"],
            ["return=minimal, count=exact"],
            ["count=exact,handling=lenient"],
            ["return=minimal", "count=exact"],
        ],
    )
    async def test_is_sent_on_request(self, ada: httpx.AsyncClient, fields: list[str]) -> None:
        headers = [("Prefer", field) for field in fields]
        answer = await ada.get("/api/tasks?limit=1&status=completed", headers=headers)
        assert answer.headers["X-Total-Count"] == "2"


async def pages(client: httpx.AsyncClient, url: str) -> AsyncIterator[httpx.Response]:
    """The page at the address and every one that Link leads to from there."""
    following: str | None = url
    while following:
        page = await client.get(following)
        assert page.status_code == 200, page.text
        yield page
        following = page.links.get("next", {}).get("url")


class TestPages:
    @pytest.fixture(autouse=True)
    async def _mixed(self, tasks: TaskRepository) -> None:
        for task in (*mixed_tasks(), *mixed_tasks("eve")):
            await tasks.add(task)

    @pytest.mark.parametrize(
        ("sort", "limit"),
        [
            *((sort, 7) for by in SortBy for sort in (by, f"-{by}")),
            *(("due_date", limit) for limit in (1, 29, 30, 31)),
        ],
    )
    async def test_give_every_task_once_and_in_order(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, sort: str, limit: int
    ) -> None:
        found = [page async for page in pages(ada, f"/api/tasks?sort={sort}&limit={limit}")]
        wanted = Sort(SortBy(sort.removeprefix("-")), descending=sort.startswith("-"))
        expected = (await tasks.find("ada", TaskQuery(sort=wanted))).tasks
        listed = [task["id"] for page in found for task in page.json()]
        assert listed == [str(task.id) for task in expected]
        assert len(found) == -(-30 // limit)

    @pytest.mark.parametrize(
        "query",
        [
            "status=pending&q=%C3%A9&sort=-title&tag=home&tag=work&limit=1&_=a%26b",
            "status=Active&search=%C3%A9&sortBy=title&sortOrder=DESC&tag[]=home&limit=1&priority=",
        ],
    )
    async def test_keep_the_whole_query(self, ada: httpx.AsyncClient, query: str) -> None:
        whole = (await ada.get(f"/api/tasks?{query.replace('&limit=1', '')}")).json()
        found = [page async for page in pages(ada, f"/api/tasks?{query}")]
        assert [page.json() for page in found] == [[task] for task in whole]
        assert len(found) > 1
        for page in found[:-1]:
            url = httpx.URL(page.links["next"]["url"])
            assert url.params.remove("cursor") == httpx.QueryParams(query)

    @pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/", "/api/ada/tasks"])
    async def test_are_linked_by_a_relative_reference_to_the_requested_path(
        self, ada: httpx.AsyncClient, path: str
    ) -> None:
        link = (await ada.get(f"{path}?limit=1")).headers["Link"]
        assert re.fullmatch(rf'<{path}\?limit=1&cursor=[\w-]+>; rel="next"', link)

    @pytest.mark.parametrize("query", ["", "limit=30", "limit=1000", "q=nothing&limit=1"])
    async def test_have_no_link_on_the_last_page(self, ada: httpx.AsyncClient, query: str) -> None:
        assert "Link" not in (await ada.get(f"/api/tasks?{query}")).headers

    async def test_have_the_total_on_each_page_on_request(self, ada: httpx.AsyncClient) -> None:
        ada.headers["Prefer"] = "count=exact"
        found = [page async for page in pages(ada, "/api/tasks?limit=10")]
        assert [page.headers["X-Total-Count"] for page in found] == ["30", "30", "30"]

    async def test_may_differ_in_size(self, ada: httpx.AsyncClient) -> None:
        whole = (await ada.get("/api/tasks")).json()
        first = await ada.get("/api/tasks?limit=2")
        cursor = httpx.URL(first.links["next"]["url"]).params["cursor"]
        rest = await ada.get("/api/tasks", params={"cursor": cursor, "limit": "5"})
        assert first.json() + rest.json() == whole[:7]

    @pytest.mark.parametrize(
        "other", ["sort=title", "order=asc", "status=pending", "q=milk", "tag=home"]
    )
    async def test_of_one_list_reject_the_cursor_of_another_list(
        self, ada: httpx.AsyncClient, other: str
    ) -> None:
        link = (await ada.get("/api/tasks?limit=2")).links["next"]["url"]
        answer = await ada.get(f"{link}&{other}")
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor")

    async def test_of_one_user_reject_the_cursor_of_another_user(
        self, ada: httpx.AsyncClient, eve: httpx.AsyncClient
    ) -> None:
        link = (await ada.get("/api/tasks?limit=2")).links["next"]["url"]
        answer = await eve.get(link)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor")

    async def test_are_not_reached_by_a_tampered_cursor(self, ada: httpx.AsyncClient) -> None:
        link = httpx.URL((await ada.get("/api/tasks?limit=2")).links["next"]["url"])
        cursor = link.params["cursor"]
        for tampered in (cursor[:-1], f"{cursor}A", cursor.swapcase(), "1", "0", " "):
            answer = await ada.get("/api/tasks", params={"limit": "2", "cursor": tampered})
            assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor")


async def test_a_list_without_a_limit_holds_a_thousand(
    ada: httpx.AsyncClient, tasks: TaskRepository
) -> None:
    for _ in range(1000):
        await tasks.add(a_task())
    answer = await ada.get("/api/tasks")
    assert (len(answer.json()), answer.headers["X-Total-Count"]) == (1000, "1000")
    assert "Link" not in answer.headers
    await tasks.add(a_task())
    answer = await ada.get("/api/tasks")
    assert (len(answer.json()), "X-Total-Count" in answer.headers) == (1000, False)
    assert len((await ada.get(answer.links["next"]["url"])).json()) == 1
