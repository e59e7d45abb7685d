"""The Prefer field: `return=minimal` and `handling=strict`."""

import json
from typing import Any, Final, NamedTuple

import httpx
import pytest

from fakes import InMemoryTaskRepository
from support.tasks import NOW, a_task
from todo_domain.queries import TaskQuery
from todo_domain.task import Task

MINIMAL: Final = {"Prefer": "return=minimal"}
STRICT: Final = {"Prefer": "handling=strict"}
JSON: Final = {"Content-Type": "application/json"}


class Change(NamedTuple):
    """A request that changes a task or, without ``suffix``, creates one."""

    method: str
    suffix: str | None = None
    body: dict[str, Any] | None = None

    async def of(
        self, task: Task, user: httpx.AsyncClient, fields: dict[str, str], query: str = ""
    ) -> httpx.Response:
        one = "" if self.suffix is None else f"/{task.id}{self.suffix}"
        path = f"/api/tasks{one}{query}"
        return await user.request(self.method, path, json=self.body, headers=fields)


CREATE: Final = Change("POST", body={"title": "Buy milk"})
CHANGES: Final = {
    "PUT": Change("PUT", "", {"title": "Buy oat milk"}),
    "PATCH": Change("PATCH", "", {"title": "Buy oat milk"}),
    "complete": Change("PATCH", "/complete", {"completed": True}),
    "toggle": Change("PATCH", "/toggle"),
    "DELETE": Change("DELETE", ""),
}
every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
WITH_BODY: Final = {
    "POST": CREATE,
    **{name: CHANGES[name] for name in ("PUT", "PATCH", "complete")},
}
every_body = pytest.mark.parametrize("change", WITH_BODY.values(), ids=WITH_BODY)


@pytest.fixture
async def task(tasks: InMemoryTaskRepository) -> Task:
    return await tasks.add(a_task(version=3))


async def all_tasks(tasks: InMemoryTaskRepository) -> tuple[Task, ...]:
    return (await tasks.find("ada", TaskQuery())).tasks


class TestReturnMinimal:
    @every_change
    async def test_return_minimal_makes_a_change_a_204_with_its_entity_tag(
        self, ada: httpx.AsyncClient, task: Task, change: Change
    ) -> None:
        response = await change.of(task, ada, MINIMAL)
        assert (response.status_code, response.content) == (204, b"")
        assert response.headers["Preference-Applied"] == "return=minimal"
        assert response.headers["ETag"] == ('"3"' if change.method == "DELETE" else '"4"')
        assert not {"content-type", "content-length"} & set(response.headers)

    @every_change
    async def test_return_minimal_makes_the_same_change(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository, task: Task, change: Change
    ) -> None:
        other = await tasks.add(a_task(version=3))
        minimal, whole = await change.of(task, ada, MINIMAL), await change.of(other, ada, {})
        assert minimal.headers["ETag"] == whole.headers["ETag"]
        members = {(t.title, t.completed, t.version) for t in await all_tasks(tasks)}
        assert len(members) == (0 if change.method == "DELETE" else 1)

    async def test_return_minimal_makes_a_creation_a_201_with_location_and_entity_tag(
        self, ada: httpx.AsyncClient
    ) -> None:
        response = await CREATE.of(a_task(), ada, MINIMAL)
        assert (response.status_code, response.content) == (201, b"")
        assert response.headers["Preference-Applied"] == "return=minimal"
        assert response.headers["ETag"] == '"1"'
        assert "Content-Type" not in response.headers
        created = await ada.get(response.headers["Location"])
        assert (created.status_code, created.json()["title"]) == (200, "Buy milk")

    async def test_return_minimal_makes_a_restore_a_204(
        self, ada: httpx.AsyncClient, task: Task
    ) -> None:
        await ada.delete(f"/api/tasks/{task.id}")
        response = await ada.post(f"/api/tasks/{task.id}/restore", headers=MINIMAL)
        assert (response.status_code, response.headers["ETag"]) == (204, '"3"')
        assert (await ada.get(f"/api/tasks/{task.id}")).status_code == 200

    @pytest.mark.parametrize(
        "fields",
        [
            ["return=minimal"],
            ["Return=Minimal"],
            ['return="minimal"'],
            ["return = minimal"],
            ["return=minimal; why=not"],
            ["respond-async, wait=10,return=minimal"],
            ["handling=lenient", "return=minimal"],
        ],
        ids=str,
    )
    async def test_return_minimal_is_read_in_every_spelling_of_rfc_7240(
        self, ada: httpx.AsyncClient, fields: list[str]
    ) -> None:
        headers = [("Prefer", field) for field in fields]
        response = await ada.post("/api/tasks", json={"title": "x"}, headers=headers)
        assert response.content == b""

    @pytest.mark.parametrize(
        "prefer",
        ["", "return=representation", "minimal", "return", "return=", "x-return=minimal", "\xff"],
    )
    async def test_without_return_minimal_the_response_has_the_task(
        self, ada: httpx.AsyncClient, prefer: str
    ) -> None:
        headers = [(b"Content-Type", b"application/json"), (b"Prefer", prefer.encode("latin-1"))]
        response = await ada.post("/api/tasks", content=b'{"title": "x"}', headers=headers)
        assert response.json()["title"] == "x"
        assert "Preference-Applied" not in response.headers

    @every_body
    async def test_an_error_response_has_its_body_with_return_minimal(
        self, ada: httpx.AsyncClient, task: Task, change: Change
    ) -> None:
        wrong = change._replace(body={"title": "", "completed": None})
        response = await wrong.of(task, ada, MINIMAL)
        assert (response.status_code, response.json()["code"]) == (422, "validation_failed")
        assert "Preference-Applied" not in response.headers

    async def test_return_minimal_does_not_affect_reads_and_bulk_deletes(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository, task: Task
    ) -> None:
        await tasks.add(a_task(completed_at=NOW))
        for method, path in (
            ("GET", "/api/tasks"),
            ("GET", f"/api/tasks/{task.id}"),
            ("GET", "/api/me"),
            ("DELETE", "/api/tasks?status=completed"),
        ):
            response = await ada.request(method, path, headers=MINIMAL)
            assert (response.status_code, response.json() != {}) == (200, True)


class TestHandlingStrict:
    @every_body
    @pytest.mark.parametrize(
        "name", ["colour", "userId", "dueDate ", "Title", "createdAt", "done", "due-date"]
    )
    async def test_strict_handling_refuses_an_unknown_member_and_changes_nothing(
        self,
        ada: httpx.AsyncClient,
        tasks: InMemoryTaskRepository,
        task: Task,
        change: Change,
        name: str,
    ) -> None:
        unknown = change._replace(body={**(change.body or {}), name: "x"})
        response = await unknown.of(task, ada, STRICT)
        assert (response.status_code, response.json()["code"]) == (422, "validation_failed")
        (error,) = response.json()["errors"]
        assert (error["field"], error["code"]) == (name, "unknown")
        assert response.json()["detail"] == f"{name}: is not a member of this route"
        assert await all_tasks(tasks) == (task,)

    async def test_strict_handling_names_every_unknown_member(self, ada: httpx.AsyncClient) -> None:
        body = {"title": "x", "colour": 1, "size": 2}
        response = await ada.post("/api/tasks", json=body, headers=STRICT)
        assert [error["field"] for error in response.json()["errors"]] == ["colour", "size"]

    async def test_strict_handling_accepts_a_task_as_it_was_returned(
        self, ada: httpx.AsyncClient, task: Task
    ) -> None:
        whole = (await ada.get(f"/api/tasks/{task.id}")).json()
        response = await ada.put(f"/api/tasks/{task.id}", json=whole, headers=STRICT)
        assert (response.status_code, response.json()) == (200, whole)

    async def test_strict_handling_accepts_camel_case(self, ada: httpx.AsyncClient) -> None:
        body = {"title": "x", "dueDate": "2026-01-31"}
        response = await ada.post("/api/tasks", json=body, headers=STRICT)
        assert (response.status_code, response.json()["due_date"]) == (201, "2026-01-31")

    async def test_strict_handling_toggles_without_a_body(
        self, ada: httpx.AsyncClient, task: Task
    ) -> None:
        response = await ada.patch(f"/api/tasks/{task.id}/complete", headers=STRICT)
        assert response.status_code == 200

    @pytest.mark.parametrize("body", [[], ["colour"], "colour", None, 1])
    async def test_strict_handling_of_a_body_that_is_not_an_object_is_wrong_type(
        self, ada: httpx.AsyncClient, body: object
    ) -> None:
        response = await ada.post("/api/tasks", content=json.dumps(body), headers=STRICT | JSON)
        assert [error["code"] for error in response.json()["errors"]] == ["wrong_type"]

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/api/tasks"),
            ("POST", "/api/tasks"),
            ("DELETE", "/api/tasks?status=completed"),
            ("GET", "/api/tasks/{id}"),
            ("PUT", "/api/tasks/{id}"),
            ("PATCH", "/api/tasks/{id}"),
            ("PATCH", "/api/tasks/{id}/complete"),
            ("PATCH", "/api/tasks/{id}/toggle"),
            ("DELETE", "/api/tasks/{id}"),
            ("POST", "/api/tasks/{id}/restore"),
            ("GET", "/api/me"),
        ],
    )
    async def test_strict_handling_refuses_an_unknown_parameter_on_every_route_and_changes_nothing(
        self,
        ada: httpx.AsyncClient,
        tasks: InMemoryTaskRepository,
        task: Task,
        method: str,
        path: str,
    ) -> None:
        url = httpx.URL(path.replace("{id}", str(task.id))).copy_add_param("colour", "red")
        body = {"title": "Buy oat milk"} if method in {"POST", "PUT", "PATCH"} else None
        response = await ada.request(method, url, json=body, headers=STRICT)
        assert (response.status_code, response.json()["code"]) == (422, "validation_failed")
        (error,) = response.json()["errors"]
        assert error == {
            "field": "colour",
            "code": "unknown",
            "message": "is not a parameter of this route",
        }
        assert await all_tasks(tasks) == (task,)

    async def test_strict_handling_accepts_every_parameter_of_the_list(
        self, ada: httpx.AsyncClient
    ) -> None:
        query = (
            "status=all&completed=true&priority=low&tag=a&tag=b&due_before=2026-01-31"
            "&due_after=2026-01-01&q=milk&sort=title&order=asc&limit=1"
        )
        assert (await ada.get(f"/api/tasks?{query}", headers=STRICT)).status_code == 200

    async def test_strict_handling_accepts_every_alias_of_a_parameter(
        self, ada: httpx.AsyncClient
    ) -> None:
        query = "search=milk&sortBy=title&sort_order=asc&tag[]=a&tags[0]=b&dueBefore=2026-01-31"
        assert (await ada.get(f"/api/tasks?{query}", headers=STRICT)).status_code == 200

    async def test_strict_handling_accepts_the_link_to_the_next_page(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository
    ) -> None:
        for _ in range(2):
            await tasks.add(a_task())
        first = await ada.get("/api/tasks?limit=1", headers=STRICT)
        second = await ada.get(first.links["next"]["url"], headers=STRICT)
        assert (second.status_code, len(second.json())) == (200, 1)

    @pytest.mark.parametrize("prefer", ["handling=lenient", "strict", "return=minimal", ""])
    async def test_without_strict_handling_unknown_names_are_ignored(
        self, ada: httpx.AsyncClient, prefer: str
    ) -> None:
        body = {"title": "x", "colour": "red"}
        response = await ada.post("/api/tasks?page=2", json=body, headers={"Prefer": prefer})
        assert response.status_code == 201


# Names that a client chooses, as JSON texts; the response must be able to repeat them.
HOSTILE_NAMES: Final = {
    "lone surrogate": '"\\ud800"',
    "surrogates": '"\\udfff\\ud800"',
    "NUL": '"\\u0000"',
    "control": '"\\r\\n\\u001b[31m"',
    "empty": '""',
    "quotes": '"\\"\'<script>"',
    "separators": '"\\u2028\\u2029"',
    "right to left": '"\\u202e"',
    "emoji": '"👩‍👩‍👧‍👦"',
    "prototype": '"__proto__"',
    "format": '"%s{0}{expected}"',
    "10 kB": f'"{"x" * 10_000}"',
    "10 kB of emoji": f'"{"😀" * 2_500}"',
}


class TestHostileNames:
    @pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
    async def test_an_unknown_member_is_named_in_short_valid_utf_8(
        self, ada: httpx.AsyncClient, name: str
    ) -> None:
        body = f'{{"title": "x", {name}: 1}}'
        response = await ada.post("/api/tasks", content=body, headers=STRICT | JSON)
        assert response.status_code == 422
        (error,) = response.json()["errors"]
        assert error["code"] == "unknown"
        assert len(error["field"]) <= 100
        assert error["field"].encode().decode() == error["field"]

    @pytest.mark.parametrize(
        "name",
        [
            *("%ed%a0%80", "%00", "%0d%0a", "%22%3cscript%3e", "%e2%80%ae", "%ff", "%", "%zz"),
            *("", "__proto__", "q[]", "tag[x]", "a.b", "x" * 7000),
        ],
        ids=lambda name: name[:20],
    )
    async def test_an_unknown_parameter_is_named_in_short_valid_utf_8(
        self, ada: httpx.AsyncClient, name: str
    ) -> None:
        url = httpx.URL("http://todo.test").copy_with(raw_path=f"/api/tasks?{name}=1".encode())
        response = await ada.get(url, headers=STRICT)
        assert response.status_code == 422
        (error,) = response.json()["errors"]
        assert error["code"] == "unknown"
        assert len(error["field"]) <= 100

    async def test_many_unknown_members_do_not_make_a_large_response(
        self, ada: httpx.AsyncClient
    ) -> None:
        body = {"title": "x"} | {f"m{number}": 0 for number in range(50_000)}
        response = await ada.post("/api/tasks", json=body, headers=STRICT)
        assert response.status_code == 422
        assert len(response.content) < 64 * 1024
