"""Export, import and erasure of a user's data over HTTP."""

import csv
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest

from http_contract.sync import pull, refusal
from http_contract.tasks import everything
from support.tasks import MEMBERS, NOW, a_task, mixed_tasks
from todo_domain.ports import TaskRepository

Json = Any

EXPORT: Final = "/api/me/export"
IMPORT: Final = "/api/me/import"
ID: Final = "0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b"
NEW: Final = {"id": ID, "title": "Buy milk"}
ALL: Final = len(mixed_tasks())


async def exported(client: httpx.AsyncClient) -> Json:
    response = await client.get(EXPORT)
    assert response.status_code == 200, response.text
    return response.json()


async def restored(client: httpx.AsyncClient, document: Json) -> Json:
    """The response to the import of an export."""
    response = await client.post(IMPORT, json=document)
    assert response.status_code == 200, response.text
    return response.json()


async def erase(client: httpx.AsyncClient, confirm: object = "ada") -> httpx.Response:
    return await client.request("DELETE", "/api/me", json={"confirm": confirm})


def pointers(response: httpx.Response) -> list[tuple[str, str]]:
    return [(error["pointer"], error["code"]) for error in response.json()["errors"]]


@pytest.fixture
async def stored(tasks: TaskRepository) -> None:
    """Tasks of ada, one of them deleted, and a task of eve."""
    for task in mixed_tasks():
        await tasks.add(task)
    await tasks.add(a_task(owner="eve", title="Eve's"))
    await tasks.delete("ada", mixed_tasks()[0].id, now=datetime.now(UTC))


@pytest.mark.usefixtures("stored")
class TestExport:
    async def test_has_the_user_and_all_tasks(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        document = await exported(ada)
        assert set(document) == {"user", "exported_at", "tasks"}
        user = await tasks.find_user("ada")
        assert user is not None
        assert document["user"]["id"] == "ada"
        assert document["user"]["first_seen_at"] == f"{user.first_seen_at:%Y-%m-%dT%H:%M:%S.%fZ}"
        live = {each["id"]: each for each in document["tasks"] if each["deleted_at"] is None}
        listed = (await ada.get("/api/tasks")).json()
        assert live == {task["id"]: {**task, "deleted_at": None} for task in listed}

    async def test_has_deleted_tasks_with_the_time(self, ada: httpx.AsyncClient) -> None:
        deleted = [each for each in (await exported(ada))["tasks"] if each["deleted_at"]]
        assert [each["id"] for each in deleted] == [str(mixed_tasks()[0].id)]
        age = datetime.now(UTC) - datetime.fromisoformat(deleted[0]["deleted_at"])
        assert timedelta(0) < age < timedelta(days=1)
        assert list(deleted[0]) == [*MEMBERS, "deleted_at"]

    async def test_is_a_file_that_is_not_cached(self, ada: httpx.AsyncClient) -> None:
        headers = (await ada.get(EXPORT)).headers
        assert headers["Content-Type"] == "application/json"
        assert headers["Content-Disposition"].startswith('attachment; filename="tasks-')
        assert headers["Content-Disposition"].endswith('.json"')
        assert headers["Cache-Control"] == "no-store"

    async def test_as_icalendar_has_a_todo_for_each_task(self, ada: httpx.AsyncClient) -> None:
        response = await ada.get(EXPORT, headers={"Accept": "text/calendar"})
        assert response.headers["Content-Type"] == "text/calendar; charset=utf-8"
        assert response.headers["Content-Disposition"].endswith('.ics"')
        lines = response.text.split("\r\n")
        assert (lines[0], lines[-2], lines[-1]) == ("BEGIN:VCALENDAR", "END:VCALENDAR", "")
        identifiers = {line.removeprefix("UID:") for line in lines if line.startswith("UID:")}
        assert identifiers == {str(task.id) for task in mixed_tasks()}

    async def test_as_csv_has_a_row_for_each_task(self, ada: httpx.AsyncClient) -> None:
        response = await ada.get(EXPORT, headers={"Accept": "text/csv"})
        assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert response.headers["Content-Disposition"].endswith('.csv"')
        rows = list(csv.DictReader(StringIO(response.content.decode("utf-8-sig"), newline="")))
        assert {row["id"] for row in rows} == {str(task.id) for task in mixed_tasks()}

    @pytest.mark.parametrize(
        ("accept", "media_type"),
        [
            ("", "application/json"),
            ("*/*", "application/json"),
            ("application/json, text/csv", "application/json"),
            ("text/*", "text/calendar"),
            ("text/csv, text/calendar;q=0.9", "text/csv"),
            ("text/calendar;component=VTODO", "text/calendar"),
            ("*/*;q=0.1, text/csv", "text/csv"),
        ],
    )
    async def test_has_the_format_that_is_accepted(
        self, ada: httpx.AsyncClient, accept: str, media_type: str
    ) -> None:
        response = await ada.get(EXPORT, headers={"Accept": accept})
        assert response.headers["Content-Type"].partition(";")[0] == media_type

    @pytest.mark.parametrize("accept", ["text/html", "application/pdf", "*/*;q=0"])
    async def test_in_another_format_is_406(self, ada: httpx.AsyncClient, accept: str) -> None:
        response = await ada.get(EXPORT, headers={"Accept": accept})
        assert refusal(response) == (406, "not_acceptable")
        assert "text/calendar, text/csv" in response.json()["detail"]


class TestImport:
    @pytest.mark.usefixtures("stored")
    async def test_of_an_export_restores_everything_after_an_erasure(
        self, ada: httpx.AsyncClient
    ) -> None:
        before = await exported(ada)
        await erase(ada)
        assert await restored(ada, before) == {"created": ALL, "present": 0}
        after = await exported(ada)
        assert after["tasks"] == [{**task, "version": 1} for task in before["tasks"]]

    @pytest.mark.usefixtures("stored")
    async def test_of_what_is_stored_changes_nothing(self, ada: httpx.AsyncClient) -> None:
        before = await exported(ada)
        token = (await pull(ada))["next"]
        for _ in range(2):
            assert await restored(ada, before) == {"created": 0, "present": ALL}
        assert (await exported(ada))["tasks"] == before["tasks"]
        assert (await pull(ada, token))["changes"] == []

    @pytest.mark.usefixtures("stored")
    async def test_of_another_users_export_gives_the_user_copies(
        self, ada: httpx.AsyncClient, eve: httpx.AsyncClient
    ) -> None:
        before = await exported(ada)
        assert await restored(eve, before) == {"created": ALL, "present": 0}
        copies = [task for task in (await exported(eve))["tasks"] if task["title"] != "Eve's"]
        assert {task["user_id"] for task in copies} == {"eve"}
        assert (await exported(ada))["tasks"] == before["tasks"]

    async def test_of_a_task_without_times_creates_it_now(self, ada: httpx.AsyncClient) -> None:
        created = (await ada.post("/api/tasks", json={"title": "now"})).json()
        await restored(ada, {"tasks": [{**NEW, "completed": True}]})
        task = (await ada.get(f"/api/tasks/{ID}")).json()
        assert task["created_at"] >= created["created_at"]
        assert task["created_at"] == task["updated_at"] == task["completed_at"]

    async def test_bounds_times_to_the_past(self, ada: httpx.AsyncClient) -> None:
        times = dict.fromkeys(("created_at", "updated_at", "completed_at"), "2999-01-01T00:00:00Z")
        await restored(ada, {"tasks": [{**NEW, **times, "completed": True}]})
        created = (await ada.post("/api/tasks", json={"title": "now"})).json()
        task = (await ada.get(f"/api/tasks/{ID}")).json()
        assert {task[name] for name in times} < {task["created_at"], created["created_at"]}
        assert task["created_at"] <= created["created_at"]

    @pytest.mark.parametrize("body", [{"tasks": []}, {"user": 7, "exported_at": [], "tasks": []}])
    async def test_of_no_tasks_creates_none(self, ada: httpx.AsyncClient, body: Json) -> None:
        response = await ada.post(IMPORT, json=body, headers={"Prefer": "handling=strict"})
        assert response.json() == {"created": 0, "present": 0}

    @pytest.mark.parametrize(
        ("entry", "expected"),
        [
            ({"title": "Buy milk"}, [("/tasks/1/id", "required")]),
            ({**NEW, "id": "17"}, [("/tasks/1/id", "bad_id")]),
            ({**NEW, "id": None}, [("/tasks/1/id", "wrong_type")]),
            ({"id": ID}, [("/tasks/1/title", "required")]),
            (
                {**NEW, "title": " ", "priority": "urgent", "completed": 1},
                [
                    ("/tasks/1/completed", "wrong_type"),
                    ("/tasks/1/priority", "unknown_value"),
                    ("/tasks/1/title", "blank"),
                ],
            ),
            ({**NEW, "created_at": "2026-01-18"}, [("/tasks/1/created_at", "bad_date")]),
            ({**NEW, "created_at": None}, [("/tasks/1/created_at", "wrong_type")]),
            ({**NEW, "deleted_at": "x"}, [("/tasks/1/deleted_at", "bad_date")]),
            (
                {**NEW, "deleted_at": "1969-12-31T00:00:00Z"},
                [("/tasks/1/deleted_at", "out_of_range")],
            ),
            ("Buy milk", [("/tasks/1", "wrong_type")]),
            (None, [("/tasks/1", "wrong_type")]),
        ],
    )
    async def test_of_a_wrong_task_is_422_and_stores_nothing(
        self, ada: httpx.AsyncClient, tasks: TaskRepository, entry: Json, expected: Json
    ) -> None:
        other = {"id": str(uuid4()), "title": "Buy bread"}
        response = await ada.post(IMPORT, json={"tasks": [other, entry]})
        assert refusal(response) == (422, "validation_failed")
        assert sorted(pointers(response)) == expected
        assert await everything(tasks) == ()

    async def test_of_a_repeated_id_is_422(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        again = {**NEW, "id": ID.upper()}
        response = await ada.post(IMPORT, json={"tasks": [NEW, again]})
        assert pointers(response) == [("/tasks/1/id", "repeated")]
        assert await everything(tasks) == ()

    @pytest.mark.parametrize("body", [{}, {"tasks": None}, {"tasks": {}}, [], "x"])
    async def test_of_something_else_is_422(self, ada: httpx.AsyncClient, body: Json) -> None:
        assert refusal(await ada.post(IMPORT, json=body)) == (422, "validation_failed")

    async def test_of_a_taken_id_is_409_and_stores_nothing(
        self, ada: httpx.AsyncClient, tasks: TaskRepository
    ) -> None:
        taken = await tasks.add(a_task(id=UUID(ID), title="Another task"))
        deleted = await tasks.add(a_task(created_at=NOW))
        await ada.delete(f"/api/tasks/{deleted.id}")
        imported = [
            {"id": str(uuid4()), "title": "Buy bread"},
            NEW,
            {"id": str(deleted.id), "title": deleted.title},
        ]
        response = await ada.post(IMPORT, json={"tasks": imported})
        assert refusal(response) == (409, "id_taken")
        assert pointers(response) == [("/tasks/1/id", "id_taken"), ("/tasks/2/id", "id_taken")]
        assert await everything(tasks) == (taken,)

    async def test_of_more_than_the_limit_is_422(self, ada: httpx.AsyncClient) -> None:
        response = await ada.post(IMPORT, json={"tasks": [7] * 5001})
        assert pointers(response) == [("/tasks", "too_many")]

    async def test_of_more_than_1_mib_is_413(self, ada: httpx.AsyncClient) -> None:
        body = b'{"tasks": [' + b" " * 2**20 + b"]}"
        response = await ada.post(
            IMPORT, content=body, headers={"Content-Type": "application/json"}
        )
        assert refusal(response) == (413, "body_too_large")


@pytest.mark.usefixtures("stored")
class TestErase:
    async def test_removes_everything_of_the_user(
        self, ada: httpx.AsyncClient, eve: httpx.AsyncClient
    ) -> None:
        hers = (await exported(eve))["tasks"]
        response = await erase(ada)
        assert (response.status_code, response.json()) == (200, {"erased": {"tasks": ALL}})
        assert (await ada.get("/api/tasks")).json() == []
        document = await exported(ada)
        assert document["user"] == {"id": "ada", "first_seen_at": None, "last_seen_at": None}
        assert document["tasks"] == []
        assert (await exported(eve))["tasks"] == hers

    async def test_cannot_be_undone(self, ada: httpx.AsyncClient) -> None:
        await erase(ada)
        response = await ada.post(f"/api/tasks/{mixed_tasks()[0].id}/restore")
        assert refusal(response) == (404, "not_found")

    async def test_again_finds_nothing(self, ada: httpx.AsyncClient) -> None:
        await erase(ada)
        assert (await erase(ada)).json() == {"erased": {"tasks": 0}}

    @pytest.mark.parametrize("starts_again", [False, True])
    async def test_makes_clients_start_over(
        self, ada: httpx.AsyncClient, *, starts_again: bool
    ) -> None:
        token = (await pull(ada))["next"]
        await erase(ada)
        if starts_again:
            await ada.post("/api/tasks", json={"title": "new"})
        response = await ada.get("/api/tasks/changes", params={"since": token})
        assert refusal(response) == (410, "sync_expired")
        assert len((await pull(ada))["changes"]) == starts_again

    async def test_makes_entity_tags_of_lists_stale(self, ada: httpx.AsyncClient) -> None:
        known = (await ada.get("/api/tasks")).headers["ETag"]
        await erase(ada)
        for _ in range(ALL + 1):  # as many changes as the known tag counts
            response = await ada.get("/api/tasks", headers={"If-None-Match": known})
            assert response.status_code == 200
            await ada.post("/api/tasks", json={"title": "new"})
        response = await ada.get("/api/tasks", headers={"If-None-Match": known})
        assert (response.status_code, len(response.json())) == (200, ALL + 1)

    @pytest.mark.parametrize("confirm", ["eve", "ADA", " ada", "", None, True, ["ada"]])
    async def test_without_the_users_own_id_is_422_and_erases_nothing(
        self, ada: httpx.AsyncClient, confirm: Json
    ) -> None:
        before = (await exported(ada))["tasks"]
        response = await erase(ada, confirm)
        assert refusal(response) == (422, "validation_failed")
        code = "mismatch" if isinstance(confirm, str) else "wrong_type"
        assert pointers(response) == [("/confirm", code)]
        assert (await exported(ada))["tasks"] == before

    async def test_without_a_body_erases_nothing(self, ada: httpx.AsyncClient) -> None:
        before = (await exported(ada))["tasks"]
        assert (await ada.delete("/api/me")).status_code == 415
        assert (await ada.request("DELETE", "/api/me", json={})).status_code == 422
        assert (await exported(ada))["tasks"] == before


@pytest.mark.parametrize(
    ("method", "path"), [("GET", EXPORT), ("POST", IMPORT), ("DELETE", "/api/me")]
)
async def test_the_data_of_a_user_needs_the_users_token(
    stranger: httpx.AsyncClient, method: str, path: str
) -> None:
    response = await stranger.request(method, path, json={"confirm": "ada", "tasks": []})
    assert refusal(response) == (401, "token_missing")
