"""What a client would rather have: no body after a change, or to be told of every slip."""

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
    """A request that changes something: of one task what stands behind its path, and the body."""

    method: str
    suffix: str | None = None
    body: dict[str, Any] | None = None

    async def of(
        self, task: Task, somebody: httpx.AsyncClient, fields: dict[str, str], query: str = ""
    ) -> httpx.Response:
        one = "" if self.suffix is None else f"/{task.id}{self.suffix}"
        path = f"/api/tasks{one}{query}"
        return await somebody.request(self.method, path, json=self.body, headers=fields)


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


async def everything(tasks: InMemoryTaskRepository) -> tuple[Task, ...]:
    return (await tasks.find("ada", TaskQuery())).tasks


class TestMinimal:
    @every_change
    async def test_of_a_change_is_204_with_the_entity_tag_alone(
        self, ada: httpx.AsyncClient, task: Task, change: Change
    ) -> None:
        answer = await change.of(task, ada, MINIMAL)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["Preference-Applied"] == "return=minimal"
        assert answer.headers["ETag"] == ('"3"' if change.method == "DELETE" else '"4"')
        assert not {"content-type", "content-length"} & set(answer.headers)

    @every_change
    async def test_of_a_change_does_what_it_does_with_a_body(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository, task: Task, change: Change
    ) -> None:
        twin = await tasks.add(a_task(version=3))
        minimal, whole = await change.of(task, ada, MINIMAL), await change.of(twin, ada, {})
        assert minimal.headers["ETag"] == whole.headers["ETag"]
        members = {(t.title, t.completed, t.version) for t in await everything(tasks)}
        assert len(members) == (0 if change.method == "DELETE" else 1)

    async def test_of_a_new_task_is_201_with_its_place_and_its_entity_tag(
        self, ada: httpx.AsyncClient
    ) -> None:
        answer = await CREATE.of(a_task(), ada, MINIMAL)
        assert (answer.status_code, answer.content) == (201, b"")
        assert answer.headers["Preference-Applied"] == "return=minimal"
        assert answer.headers["ETag"] == '"1"'
        assert "Content-Type" not in answer.headers
        created = await ada.get(answer.headers["Location"])
        assert (created.status_code, created.json()["title"]) == (200, "Buy milk")

    async def test_of_a_restored_task_is_204(self, ada: httpx.AsyncClient, task: Task) -> None:
        await ada.delete(f"/api/tasks/{task.id}")
        answer = await ada.post(f"/api/tasks/{task.id}/restore", headers=MINIMAL)
        assert (answer.status_code, answer.headers["ETag"]) == (204, '"3"')
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
    async def test_may_be_said_in_any_way_of_rfc_7240(
        self, ada: httpx.AsyncClient, fields: list[str]
    ) -> None:
        headers = [("Prefer", field) for field in fields]
        answer = await ada.post("/api/tasks", json={"title": "x"}, headers=headers)
        assert answer.content == b""

    @pytest.mark.parametrize(
        "prefer",
        ["", "return=representation", "minimal", "return", "return=", "x-return=minimal", "\xff"],
    )
    async def test_that_is_not_said_gets_the_task(
        self, ada: httpx.AsyncClient, prefer: str
    ) -> None:
        headers = [(b"Content-Type", b"application/json"), (b"Prefer", prefer.encode("latin-1"))]
        answer = await ada.post("/api/tasks", content=b'{"title": "x"}', headers=headers)
        assert answer.json()["title"] == "x"
        assert "Preference-Applied" not in answer.headers

    @every_body
    async def test_of_what_is_refused_says_why_all_the_same(
        self, ada: httpx.AsyncClient, task: Task, change: Change
    ) -> None:
        wrong = change._replace(body={"title": "", "completed": None})
        answer = await wrong.of(task, ada, MINIMAL)
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
        assert "Preference-Applied" not in answer.headers

    async def test_of_what_is_read_or_counted_changes_nothing(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository, task: Task
    ) -> None:
        await tasks.add(a_task(completed_at=NOW))
        for method, path in (
            ("GET", "/api/tasks"),
            ("GET", f"/api/tasks/{task.id}"),
            ("GET", "/api/me"),
            ("DELETE", "/api/tasks?status=completed"),
        ):
            answer = await ada.request(method, path, headers=MINIMAL)
            assert (answer.status_code, answer.json() != {}) == (200, True)


class TestStrict:
    @every_body
    @pytest.mark.parametrize(
        "name", ["colour", "userId", "dueDate ", "Title", "createdAt", "done", "due-date"]
    )
    async def test_refuses_a_member_that_is_unknown_and_changes_nothing(
        self,
        ada: httpx.AsyncClient,
        tasks: InMemoryTaskRepository,
        task: Task,
        change: Change,
        name: str,
    ) -> None:
        slipped = change._replace(body={**(change.body or {}), name: "x"})
        answer = await slipped.of(task, ada, STRICT)
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
        (error,) = answer.json()["errors"]
        assert (error["field"], error["code"]) == (name, "unknown")
        assert answer.json()["detail"] == f"{name}: is not a member of this route"
        assert await everything(tasks) == (task,)

    async def test_names_every_unknown_member_at_once(self, ada: httpx.AsyncClient) -> None:
        body = {"title": "x", "colour": 1, "size": 2}
        answer = await ada.post("/api/tasks", json=body, headers=STRICT)
        assert [error["field"] for error in answer.json()["errors"]] == ["colour", "size"]

    async def test_takes_the_whole_task_back_with_its_read_only_members(
        self, ada: httpx.AsyncClient, task: Task
    ) -> None:
        whole = (await ada.get(f"/api/tasks/{task.id}")).json()
        answer = await ada.put(f"/api/tasks/{task.id}", json=whole, headers=STRICT)
        assert (answer.status_code, answer.json()) == (200, whole)

    async def test_takes_camel_case(self, ada: httpx.AsyncClient) -> None:
        body = {"title": "x", "dueDate": "2026-01-31"}
        answer = await ada.post("/api/tasks", json=body, headers=STRICT)
        assert (answer.status_code, answer.json()["due_date"]) == (201, "2026-01-31")

    async def test_toggles_without_a_body(self, ada: httpx.AsyncClient, task: Task) -> None:
        answer = await ada.patch(f"/api/tasks/{task.id}/complete", headers=STRICT)
        assert answer.status_code == 200

    @pytest.mark.parametrize("body", [[], ["colour"], "colour", None, 1])
    async def test_of_what_is_no_object_says_so(self, ada: httpx.AsyncClient, body: object) -> None:
        answer = await ada.post("/api/tasks", content=json.dumps(body), headers=STRICT | JSON)
        assert [error["code"] for error in answer.json()["errors"]] == ["wrong_type"]

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
    async def test_refuses_a_parameter_that_is_unknown_on_any_route_and_changes_nothing(
        self,
        ada: httpx.AsyncClient,
        tasks: InMemoryTaskRepository,
        task: Task,
        method: str,
        path: str,
    ) -> None:
        url = httpx.URL(path.replace("{id}", str(task.id))).copy_add_param("colour", "red")
        body = {"title": "Buy oat milk"} if method in {"POST", "PUT", "PATCH"} else None
        answer = await ada.request(method, url, json=body, headers=STRICT)
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
        (error,) = answer.json()["errors"]
        assert error == {
            "field": "colour",
            "code": "unknown",
            "message": "is not a parameter of this route",
        }
        assert await everything(tasks) == (task,)

    async def test_takes_every_parameter_of_the_list(self, ada: httpx.AsyncClient) -> None:
        query = (
            "status=all&completed=true&priority=low&tag=a&tag=b&due_before=2026-01-31"
            "&due_after=2026-01-01&q=milk&sort=title&order=asc&limit=1"
        )
        assert (await ada.get(f"/api/tasks?{query}", headers=STRICT)).status_code == 200

    async def test_follows_the_link_of_a_page(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository
    ) -> None:
        for _ in range(2):
            await tasks.add(a_task())
        first = await ada.get("/api/tasks?limit=1", headers=STRICT)
        second = await ada.get(first.links["next"]["url"], headers=STRICT)
        assert (second.status_code, len(second.json())) == (200, 1)

    @pytest.mark.parametrize("prefer", ["handling=lenient", "strict", "return=minimal", ""])
    async def test_that_is_not_asked_for_lets_what_is_unknown_pass(
        self, ada: httpx.AsyncClient, prefer: str
    ) -> None:
        body = {"title": "x", "colour": "red"}
        answer = await ada.post("/api/tasks?page=2", json=body, headers={"Prefer": prefer})
        assert answer.status_code == 201


# Names of the client's own, as JSON and in a query: what an answer says of them can be shown.
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
    async def test_of_members_are_told_in_text_that_any_client_can_read(
        self, ada: httpx.AsyncClient, name: str
    ) -> None:
        body = f'{{"title": "x", {name}: 1}}'
        answer = await ada.post("/api/tasks", content=body, headers=STRICT | JSON)
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error["code"] == "unknown"
        assert len(error["field"]) <= 100
        assert error["field"].encode().decode() == error["field"]

    @pytest.mark.parametrize(
        "name",
        [
            *("%ed%a0%80", "%00", "%0d%0a", "%22%3cscript%3e", "%e2%80%ae", "%ff", "%", "%zz"),
            *("", "__proto__", "tag[]", "a.b", "x" * 7000),
        ],
        ids=lambda name: name[:20],
    )
    async def test_of_parameters_are_told_in_text_that_any_client_can_read(
        self, ada: httpx.AsyncClient, name: str
    ) -> None:
        url = httpx.URL("http://todo.test").copy_with(raw_path=f"/api/tasks?{name}=1".encode())
        answer = await ada.get(url, headers=STRICT)
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error["code"] == "unknown"
        assert len(error["field"]) <= 100

    async def test_of_a_body_full_of_them_do_not_swell_the_answer(
        self, ada: httpx.AsyncClient
    ) -> None:
        body = {"title": "x"} | {f"m{number}": 0 for number in range(50_000)}
        answer = await ada.post("/api/tasks", json=body, headers=STRICT)
        assert answer.status_code == 422
        assert len(answer.content) < 64 * 1024
