"""Entity tags: no lost update with If-Match, no needless answer with If-None-Match."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from typing import Any, Final, NamedTuple
from uuid import uuid4

import httpx
import pytest

from support.tasks import LATER, NOW, a_task
from todo_domain.ports import TaskRepository
from todo_domain.queries import TaskQuery
from todo_domain.task import Priority, Task


class Edit(NamedTuple):
    """A request that changes the task: what stands behind the task's path, and the body."""

    method: str
    suffix: str = ""
    body: dict[str, Any] | None = None

    async def of(
        self, task: Task, somebody: httpx.AsyncClient, *if_match: str | bytes
    ) -> httpx.Response:
        values = [value if isinstance(value, bytes) else value.encode() for value in if_match]
        fields = [(b"If-Match", value) for value in values]
        path = f"/api/tasks/{task.id}{self.suffix}"
        return await somebody.request(self.method, path, json=self.body, headers=fields)


EDITS: Final = {
    "PUT": Edit("PUT", body={"title": "Buy oat milk"}),
    "PATCH": Edit("PATCH", body={"title": "Buy oat milk"}),
    "complete": Edit("PATCH", "/complete", {"completed": True}),
    "complete, toggling": Edit("PATCH", "/complete"),
    "toggle": Edit("PATCH", "/toggle"),
    "DELETE": Edit("DELETE"),
}
every_edit = pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)


def renamed(opaque: str) -> list[str]:
    """The entity tag with this opaque text as proxies rename it."""
    suffixes = (
        "-gzip",
        "--gzip",
        ";gzip",
        ";gz",
        "-br",
        "--br",
        "-zstd",
        "-deflate",
        "-df",
        "-GZIP",
    )
    tags = [f'"{opaque}{suffix}"' for suffix in (*suffixes, "-gzip-gzip")]
    return [*tags, f'W/"{opaque}-gzip"', f'"{opaque}"-gzip']


async def everything(tasks: TaskRepository) -> tuple[Task, ...]:
    return (await tasks.find("ada", TaskQuery())).tasks


@every_edit
class TestIfMatch:
    @pytest.mark.parametrize(
        "fields",
        [
            ['"3"'],
            ['"1", "3"'],
            ['"1" ,"3","4"'],
            ['"1"', '"3"'],
            ['"unknown", "3"'],
            ["*"],
            [" * "],
            # Proxies that compress rename the tag; it still names the version.
            ['W/"3"'],
            ['W/"1", W/"3"'],
            *([tag] for tag in renamed("3")),
            ['"1-gzip", "3-gzip"'],
            ["", '"3"'],
        ],
        ids=str,
    )
    async def test_that_names_the_version_lets_the_edit_happen(
        self, ada: httpx.AsyncClient, task: Task, edit: Edit, fields: list[str]
    ) -> None:
        answer = await edit.of(task, ada, *fields)
        assert answer.status_code == 200
        assert answer.headers["ETag"] == ('"3"' if edit.method == "DELETE" else '"4"')

    @pytest.mark.parametrize(
        "fields",
        [
            ['"2"'],
            ['"4"'],
            ['"1", "2"'],
            ['"1"', '"2"'],
            ['W/"2"'],
            ['"2-gzip"'],
            ['"3-identity"'],
            ['"gzip"'],
            ['"-gzip"'],
            ['""'],
            ['"0"'],
            ['"-3"'],
            ['"+3"'],
            ['"03"'],
            ['" 3"'],
            ['"3 "'],
            ['"3.0"'],
            ['"3e0"'],
            ['"0x3"'],
            ['"*"'],
            ['"' + "9" * 5000 + '"'],
            [b'"\xb3"'],
        ],
        ids=lambda fields: repr(fields)[:20],
    )
    async def test_that_does_not_is_412_and_changes_nothing(
        self,
        ada: httpx.AsyncClient,
        tasks: TaskRepository,
        task: Task,
        edit: Edit,
        fields: list[str | bytes],
    ) -> None:
        answer = await edit.of(task, ada, *fields)
        assert (answer.status_code, answer.json()["code"]) == (412, "stale_version")
        assert await everything(tasks) == (task,)

    async def test_is_not_needed(self, ada: httpx.AsyncClient, task: Task, edit: Edit) -> None:
        assert (await edit.of(task, ada)).status_code == 200

    async def test_with_the_entity_tag_of_the_last_response_matches(
        self, ada: httpx.AsyncClient, task: Task, edit: Edit
    ) -> None:
        read = await ada.get(f"/api/tasks/{task.id}")
        assert (await edit.of(task, ada, read.headers["ETag"])).status_code == 200

    @pytest.mark.parametrize(
        ("if_match", "detail"),
        [
            ("", "is empty: "),
            (" ", "is empty: "),
            ("3", 'the quotes are missing: send "3" instead of 3'),
            ("W/3", "the quotes are missing: "),
            ("'3'", "the quotes are missing: "),
            ("1, 3", "the quotes are missing: "),
            ("undefined", "the quotes are missing: "),
            ("**", "the quotes are missing: "),
            (b"\xff\x00", "the quotes are missing: "),
            ('"3', "must be * or a list of ETags"),
            ('3"', "must be * or a list of ETags"),
            ('\\"3\\"', "must be * or a list of ETags"),
            ('*, "3"', "must be * or a list of ETags"),
            ('"3", 4', "must be * or a list of ETags"),
        ],
    )
    async def test_that_is_malformed_is_400_and_changes_nothing(
        self,
        ada: httpx.AsyncClient,
        tasks: TaskRepository,
        task: Task,
        edit: Edit,
        if_match: str | bytes,
        detail: str,
    ) -> None:
        answer = await edit.of(task, ada, if_match)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert answer.json()["detail"].startswith(f"If-Match: {detail}")
        assert await everything(tasks) == (task,)

    @pytest.mark.parametrize("if_match", ['"3"', '"1"', "*", '"anything"'])
    async def test_of_a_task_that_is_unknown_foreign_or_deleted_is_404(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, edit: Edit, if_match: str
    ) -> None:
        foreign, deleted = a_task(owner="eve"), a_task()
        for stored in (foreign, deleted):
            await tasks.add(stored)
        await tasks.delete("ada", deleted.id, now=LATER)
        for missing in (a_task(), foreign, deleted):
            answer = await edit.of(missing, ada, if_match)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert await tasks.get("eve", foreign.id) == foreign

    async def test_of_concurrent_edits_lets_exactly_one_succeed(
        self, ada: httpx.AsyncClient, task: Task, edit: Edit
    ) -> None:
        answers = await asyncio.gather(*(edit.of(task, ada, '"3"') for _ in range(10)))
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses[0] == 200
        assert set(statuses[1:]) <= ({404, 412} if edit.method == "DELETE" else {412})


@every_edit
class TestIfNoneMatchOfAnEdit:
    @pytest.mark.parametrize("field", ["*", " * ", '"3"', 'W/"3"', '"3-gzip"', '"1", "3"'])
    async def test_that_names_the_version_is_412_and_changes_nothing(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, task: Task, edit: Edit, field: str
    ) -> None:
        ada.headers["If-None-Match"] = field
        answer = await edit.of(task, ada)
        assert (answer.status_code, answer.json()["code"]) == (412, "stale_version")
        assert answer.json()["detail"].startswith("If-None-Match: ")
        assert await everything(tasks) == (task,)

    @pytest.mark.parametrize("field", ['"2"', '"2", "4"', '"33"', '"anything"'])
    async def test_that_names_another_version_lets_the_edit_happen(
        self, ada: httpx.AsyncClient, task: Task, edit: Edit, field: str
    ) -> None:
        ada.headers["If-None-Match"] = field
        assert (await edit.of(task, ada)).status_code == 200

    @pytest.mark.parametrize("field", ["", "3", '"3', "undefined"])
    async def test_that_is_malformed_is_400_and_changes_nothing(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, task: Task, edit: Edit, field: str
    ) -> None:
        ada.headers["If-None-Match"] = field
        answer = await edit.of(task, ada)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert answer.json()["detail"].startswith("If-None-Match: ")
        assert await everything(tasks) == (task,)

    @pytest.mark.parametrize(
        ("if_match", "if_none_match", "status"),
        [
            ('"3"', '"2"', 200),
            ('"3"', '"3"', 412),
            ('"3"', "*", 412),
            ("*", '"3"', 412),
            ("*", '"2"', 200),
            ('"2"', '"1"', 412),
        ],
    )
    async def test_holds_together_with_if_match(
        self,
        ada: httpx.AsyncClient,
        task: Task,
        edit: Edit,
        if_match: str,
        if_none_match: str,
        status: int,
    ) -> None:
        ada.headers["If-None-Match"] = if_none_match
        assert (await edit.of(task, ada, if_match)).status_code == status

    async def test_of_a_missing_task_is_404(self, ada: httpx.AsyncClient, edit: Edit) -> None:
        ada.headers["If-None-Match"] = "*" if edit.method != "PUT" else '"3"'
        assert (await edit.of(a_task(), ada)).status_code == 404


class TestIfMatchOfAnEdit:
    async def test_that_would_alter_nothing_is_stale_too(
        self, ada: httpx.AsyncClient, task: Task
    ) -> None:
        answer = await Edit("PATCH", body={"title": task.title}).of(task, ada, '"2"')
        assert answer.status_code == 412

    async def test_that_is_invalid_is_422_whatever_the_version(
        self, ada: httpx.AsyncClient, task: Task
    ) -> None:
        answer = await Edit("PATCH", body={"title": ""}).of(task, ada, '"2"')
        assert answer.json()["code"] == "validation_failed"

    async def test_is_ignored_for_create_and_restore(
        self, ada: httpx.AsyncClient, task: Task
    ) -> None:
        fields = {"If-Match": '"9"'}
        created = await ada.post("/api/tasks", json={"title": "x"}, headers=fields)
        await ada.delete(f"/api/tasks/{task.id}")
        restored = await ada.post(f"/api/tasks/{task.id}/restore", headers=fields)
        assert (created.status_code, restored.status_code) == (201, 200)


class TestIfNoneMatchOfATask:
    @pytest.mark.parametrize(
        "fields",
        [
            ['"3"'],
            ['W/"3"'],
            ["*"],
            ['"2", "3"'],
            ['"2","3" , W/"4"'],
            ['"2"', '"3"'],
            *([tag] for tag in renamed("3")),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_that_is_known_is_304_without_the_task(
        self, ada: httpx.AsyncClient, task: Task, method: str, fields: list[str]
    ) -> None:
        headers = [("If-None-Match", value) for value in fields]
        answer = await ada.request(method, f"/api/tasks/{task.id}", headers=headers)
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["ETag"] == '"3"'

    @pytest.mark.parametrize(
        "value", ['"2"', '"33"', "3", '"3', "W/3", '""', '"*"', "anything", b"\xff"], ids=repr
    )
    async def test_of_another_version_gets_the_task(
        self, ada: httpx.AsyncClient, task: Task, value: str | bytes
    ) -> None:
        field = value if isinstance(value, bytes) else value.encode()
        answer = await ada.get(f"/api/tasks/{task.id}", headers=[(b"If-None-Match", field)])
        assert (answer.status_code, answer.json()["version"]) == (200, 3)

    async def test_that_was_known_gets_the_task_once_it_has_changed(
        self, ada: httpx.AsyncClient, task: Task
    ) -> None:
        path, known = f"/api/tasks/{task.id}", {"If-None-Match": '"3"'}
        assert (await ada.get(path, headers=known)).status_code == 304
        await ada.patch(path, json={"title": "Buy oat milk"})
        answer = await ada.get(path, headers=known)
        assert (answer.status_code, answer.headers["ETag"]) == (200, '"4"')

    @pytest.mark.parametrize("value", ["*", '"1"'])
    async def test_of_a_missing_task_is_404(self, ada: httpx.AsyncClient, value: str) -> None:
        answer = await ada.get(f"/api/tasks/{uuid4()}", headers={"If-None-Match": value})
        assert answer.status_code == 404

    async def test_without_a_token_is_401(self, stranger: httpx.AsyncClient, task: Task) -> None:
        for path in ("/api/tasks", f"/api/tasks/{task.id}"):
            answer = await stranger.get(path, headers={"If-None-Match": "*"})
            assert answer.status_code == 401


# What happens between two readings of the list of pending tasks; each concerns one of them.
Happening = Callable[[TaskRepository, Task], Awaitable[object]]


def changed(**changes: Any) -> Happening:  # noqa: ANN401 - any member
    return lambda tasks, task: tasks.save(task.changed(LATER, **changes))


async def idle_change(tasks: TaskRepository, task: Task) -> None:
    await tasks.change("ada", task.id, completed=False, now=LATER)


async def removed_and_restored(tasks: TaskRepository, task: Task) -> None:
    await tasks.delete("ada", task.id, now=LATER)
    await tasks.restore("ada", task.id, now=LATER)


THAT_SHOW: Final[dict[str, Happening]] = {
    "title": changed(title="Buy oat milk"),
    "description": changed(description=""),
    "priority": changed(priority=Priority.LOW),
    "due date": changed(due_date=date(2026, 1, 20)),
    "tags": changed(tags=["home"]),
    "completion": changed(completed=True),
    "removal": lambda tasks, task: tasks.delete("ada", task.id, now=LATER),
    "an older one more": lambda tasks, _: tasks.add(a_task(created_at=NOW - timedelta(days=9))),
    "a newer one more": lambda tasks, _: tasks.add(a_task(created_at=LATER)),
    "a removal that is undone": removed_and_restored,
    "a task that does not match": lambda tasks, _: tasks.add(a_task(completed_at=NOW)),
}
THAT_DO_NOT: Final[dict[str, Happening]] = {
    "nothing": lambda tasks, task: tasks.get("ada", task.id),
    "an idle change": idle_change,
    "somebody else's new task": lambda tasks, _: tasks.add(a_task(owner="eve")),
}


class TestIfNoneMatchOfAList:
    @pytest.mark.parametrize("query", ["?status=pending", "?status=pending&limit=1"])
    @pytest.mark.parametrize("happening", THAT_SHOW.values(), ids=THAT_SHOW)
    async def test_gets_the_list_once_any_task_of_the_user_has_changed(
        self,
        ada: httpx.AsyncClient,
        tasks: TaskRepository,
        task: Task,
        happening: Happening,
        query: str,
    ) -> None:
        before = await ada.get(f"/api/tasks{query}")
        await happening(tasks, task)
        known = {"If-None-Match": before.headers["ETag"]}
        after = await ada.get(f"/api/tasks{query}", headers=known)
        assert after.status_code == 200
        assert after.headers["ETag"] != before.headers["ETag"]

    @pytest.mark.parametrize("happening", THAT_DO_NOT.values(), ids=THAT_DO_NOT)
    async def test_is_304_without_the_list_while_no_task_of_the_user_has(
        self,
        ada: httpx.AsyncClient,
        tasks: TaskRepository,
        task: Task,
        happening: Happening,
    ) -> None:
        before = await ada.get("/api/tasks?status=pending")
        await happening(tasks, task)
        known = {"If-None-Match": before.headers["ETag"]}
        after = await ada.get("/api/tasks?status=pending", headers=known)
        assert (after.status_code, after.content) == (304, b"")
        assert after.headers["ETag"] == before.headers["ETag"]

    @pytest.mark.parametrize(
        "form", ['"{}"', 'W/"{}"', '"1", "{}"', '"{}", W/"{}"', "*", *renamed("{}")]
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_may_name_several_and_weak_ones(
        self, ada: httpx.AsyncClient, task: Task, method: str, form: str
    ) -> None:
        del task
        etag = (await ada.get("/api/tasks")).headers["ETag"]
        headers = {"If-None-Match": form.replace("{}", etag.strip('"'))}
        answer = await ada.request(method, "/api/tasks", headers=headers)
        assert (answer.status_code, answer.content) == (304, b"")

    async def test_a_304_has_the_entity_tag_and_no_link(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, task: Task
    ) -> None:
        await tasks.add(a_task(created_at=task.created_at - timedelta(days=1)))
        ada.headers["Prefer"] = "count=exact"
        before = await ada.get("/api/tasks?limit=1")
        known = {"If-None-Match": before.headers["ETag"]}
        after = await ada.get("/api/tasks?limit=1", headers=known)
        assert (after.status_code, after.headers["ETag"]) == (304, before.headers["ETag"])
        assert not {"link", "x-total-count"} & set(after.headers)

    @pytest.mark.parametrize(
        "other", ["?limit=1", "?sort=created_at", "?status=completed", "?q=oat"]
    )
    async def test_of_another_list_gets_this_one(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, task: Task, other: str
    ) -> None:
        await tasks.add(a_task(created_at=task.created_at - timedelta(days=1)))
        known = {"If-None-Match": (await ada.get("/api/tasks")).headers["ETag"]}
        assert (await ada.get(f"/api/tasks{other}", headers=known)).status_code == 200

    async def test_of_an_empty_list_is_known_too(self, ada: httpx.AsyncClient) -> None:
        known = {"If-None-Match": (await ada.get("/api/tasks")).headers["ETag"]}
        assert (await ada.get("/api/tasks", headers=known)).status_code == 304

    async def test_is_the_same_for_the_same_list_each_time(
        self, ada: httpx.AsyncClient, task: Task
    ) -> None:
        del task
        tags = {(await ada.get("/api/tasks")).headers["ETag"] for _ in range(3)}
        assert len(tags) == 1
