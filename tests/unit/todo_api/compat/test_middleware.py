"""The promises of the canonical API through a dialect."""

from collections.abc import AsyncIterator, Callable
from typing import Any, Final
from uuid import UUID

import httpx
import pytest
from starlette.routing import NoMatchFound
from starlette.types import Message, Receive, Scope, Send
from structlog.typing import EventDict

from fakes import InMemoryRateLimiter, InMemoryTaskRepository
from support.http_client import FRONTEND, FailingRepository, UnreadBody, client, served
from support.tasks import a_task
from todo_api.compat.hints import CompatHint
from todo_api.compat.middleware import CompatMiddleware
from todo_api.http.query_params import PARAMETERS_MAX
from todo_api.rate_limits import PER_USER
from todo_domain.errors import DatabaseUnavailable
from todo_domain.queries import TaskQuery

TASK: Final = a_task(id=UUID(int=1))
LIST: Final = "/compat/tasks+camel+status/api/todos"
ONE: Final = f"{LIST}/{TASK.id}"
JSON: Final = {"Content-Type": "application/json"}


@pytest.fixture(autouse=True)
async def with_task(tasks: InMemoryTaskRepository) -> None:
    await tasks.add(TASK)


async def test_a_request_without_the_prefix_is_passed_on_as_it_is() -> None:
    passed = []

    async def app(*arguments: object) -> None:
        passed.append(arguments)

    async def receive() -> Message:
        return {}

    async def send(_message: Message) -> None:
        pass

    for scope in ({"type": "http", "path": "/api/tasks"}, {"type": "lifespan"}):
        unchanged: tuple[Scope, Receive, Send] = (dict(scope), receive, send)
        await CompatMiddleware(app)(*unchanged)
        assert passed.pop() == (scope, receive, send)


class TestRefusals:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", f"{LIST}?page=none"),
            ("POST", LIST),
            ("PUT", ONE),
            ("POST", f"{ONE}/toggle"),
            ("DELETE", "/compat/todobackend"),
        ],
    )
    async def test_a_request_without_a_token_is_refused_before_the_body_is_read(
        self, stranger: httpx.AsyncClient, method: str, path: str
    ) -> None:
        unread = UnreadBody(b'{"completed": true, "isCompleted": false}')
        refused = await stranger.request(method, path, content=unread, headers=JSON)
        assert (refused.status_code, refused.json()["code"]) == (401, "token_missing")
        assert not unread.was_read

    async def test_a_clear_without_a_token_deletes_nothing(
        self, stranger: httpx.AsyncClient, tasks: InMemoryTaskRepository
    ) -> None:
        await stranger.delete("/compat/todobackend")
        assert (await tasks.find("ada", TaskQuery())).tasks == (TASK,)

    @pytest.mark.parametrize(
        ("content", "status", "code"),
        [
            (b'{"isCompleted": true', 400, "malformed_json"),
            (b'{"isCompleted": NaN}', 400, "malformed_json"),
            (b"\xff", 400, "malformed_json"),
            (b'{"isCompleted": true, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, None),
            (b'{"isCompleted": ' + b"9" * 5000 + b"}", 400, "malformed_json"),
            (b'{"isCompleted": true}' + b" " * 1024 * 1024, 413, "body_too_large"),
            (b"[]", 422, "validation_failed"),
            (b'{"isCompleted": true, "title": "\\ud800"}', 422, "validation_failed"),
            (b"", 415, "unsupported_media_type"),
        ],
        ids=lambda value: repr(value)[:30],
    )
    async def test_a_body_that_the_api_refuses_is_refused_in_the_same_way(
        self, ada: httpx.AsyncClient, content: bytes, status: int, code: str | None
    ) -> None:
        headers = JSON if content else {}
        refused = await ada.patch(ONE, content=content, headers=headers)
        assert refused.status_code == status
        assert code in {None, refused.json()["code"]}

    async def test_a_body_may_arrive_in_parts(self, ada: httpx.AsyncClient) -> None:
        class Parts(httpx.AsyncByteStream):
            async def __aiter__(self) -> AsyncIterator[bytes]:
                for part in (b'{"isComp', b'leted": ', b"true}"):
                    yield part

        changed = await ada.patch(ONE, content=Parts(), headers=JSON)
        assert changed.json()["isCompleted"] is True

    async def test_the_user_of_the_path_must_be_the_user_of_the_token(
        self, ada: httpx.AsyncClient
    ) -> None:
        refused = await ada.get("/compat/tasks/api/eve/todos")
        assert (refused.status_code, refused.json()["code"]) == (403, "user_mismatch")

    async def test_too_long_a_query_is_414(self, ada: httpx.AsyncClient) -> None:
        assert (await ada.get(f"{LIST}?search={'x' * 8192}")).status_code == 414

    async def test_too_many_parameters_are_400(self, ada: httpx.AsyncClient) -> None:
        assert (await ada.get(f"{LIST}?{'a=1&' * PARAMETERS_MAX}x=1")).status_code == 400

    @pytest.mark.parametrize(
        "path", ["/compat/plain/nothing", "/compat/api/tasks/tasks", "/compat"]
    )
    async def test_an_unknown_path_is_404(self, ada: httpx.AsyncClient, path: str) -> None:
        refused = await ada.get(path)
        assert (refused.status_code, refused.json()["code"]) == (404, "not_found")

    async def test_an_unknown_option_is_404_without_a_token_too(
        self, stranger: httpx.AsyncClient
    ) -> None:
        refused = await stranger.get("/compat/v1/api/tasks", headers={"Origin": FRONTEND})
        assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
        assert refused.headers["Access-Control-Allow-Origin"] == FRONTEND
        assert refused.json()["instance"] == "/compat/v1/api/tasks"

    @pytest.mark.parametrize(
        ("method", "path", "body", "names"),
        [
            ("POST", LIST, {"title": "x", "dueDate": "tomorrow"}, ["dueDate"]),
            ("PATCH", ONE, {"isCompleted": "yes", "tags": [1]}, ["isCompleted", "tags.0"]),
            ("PATCH", f"{ONE}/complete", {"done": 1}, ["done"]),
            ("GET", f"{LIST}?sortBy=colour&pageSize=0", None, ["sortBy", "pageSize"]),
            ("GET", f"{LIST}?page=0", None, ["page"]),
            ("GET", f"{LIST}?page=3&limit=500", None, ["page * limit"]),
        ],
    )
    async def test_a_problem_has_the_clients_names(
        self, ada: httpx.AsyncClient, method: str, path: str, body: object, names: list[str]
    ) -> None:
        refused = (await ada.request(method, path, json=body)).json()
        assert [error["field"] for error in refused["errors"]] == names
        assert refused["detail"].startswith(f"{names[0]}: ")
        assert refused["message"] == refused["detail"]
        if body:
            pointers = [f"/{name.replace('.', '/')}" for name in names]
            assert [error["pointer"] for error in refused["errors"]] == pointers

    @pytest.mark.parametrize(
        ("options", "members"),
        [
            ("tasks", {}),
            (
                "errors",
                {"error": {"code": "not_found", "message": "there is nothing at this path"}},
            ),
            ("success", {"success": False}),
        ],
    )
    async def test_a_problem_has_an_error_object_only_if_it_was_chosen(
        self, ada: httpx.AsyncClient, options: str, members: dict[str, object]
    ) -> None:
        refused = await ada.get(f"/compat/{options}/api/tasks/{UUID(int=2)}")
        canonical = await ada.get(f"/api/tasks/{UUID(int=2)}")
        own = {name: refused.json()[name] for name in ("instance", "request_id")}
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert refused.json() == canonical.json() | own | members

    async def test_a_refused_clear_says_so(self, log: list[EventDict]) -> None:
        del log
        limiter = InMemoryRateLimiter({PER_USER: {60: 1}})
        async with served(limiter=limiter) as app, client(app, "ada") as ada:
            assert (await ada.delete("/compat/todobackend")).status_code == 429

    async def test_a_clear_whose_first_part_is_refused_does_no_more(
        self, log: list[EventDict]
    ) -> None:
        del log
        limiter = InMemoryRateLimiter({PER_USER: {60: 0}})
        tasks = InMemoryTaskRepository()
        await tasks.add(TASK)
        async with served(tasks, limiter=limiter) as app, client(app, "ada") as ada:
            assert (await ada.delete("/compat/todobackend")).status_code == 429
        assert (await tasks.find("ada", TaskQuery())).tasks == (TASK,)

    async def test_a_delete_of_the_list_clears_it_in_one_dialect_only(
        self, ada: httpx.AsyncClient
    ) -> None:
        for path in (LIST, "/compat/order/api/tasks", "/compat/todobackend?status=all"):
            assert (await ada.delete(path)).json()["code"] == "filter_required"
        assert len((await ada.get("/api/tasks")).json()) == 1

    @pytest.mark.parametrize("query", ["status=in_progress", "priority=urgent", "search=milk"])
    async def test_the_filter_of_a_delete_is_never_translated(
        self, ada: httpx.AsyncClient, query: str
    ) -> None:
        await ada.put(f"/api/tasks/{TASK.id}", json={"priority": "high"})
        canonical = await ada.delete(f"/api/tasks?{query}")
        assert canonical.is_client_error
        assert (await ada.delete(f"{LIST}?{query}")).json()["code"] == canonical.json()["code"]


class TestHeaders:
    @pytest.mark.parametrize(
        ("method", "path", "body", "status"),
        [
            ("GET", LIST, None, 200),
            ("POST", LIST, {"title": "Buy milk"}, 201),
            ("POST", f"{ONE}/toggle", None, 200),
            ("GET", f"{LIST}/nothing", None, 404),
            ("GET", "/compat/tasks/api/eve/tasks", None, 403),
            ("POST", LIST, {}, 422),
        ],
    )
    async def test_a_response_has_the_fields_of_the_api(
        self, ada: httpx.AsyncClient, method: str, path: str, body: object, status: int
    ) -> None:
        headers = {"Origin": FRONTEND, "X-Request-ID": "r1"}
        response = await ada.request(method, path, json=body, headers=headers)
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] == FRONTEND
        assert response.headers["X-Request-ID"] == "r1"
        assert response.headers["Cache-Control"] == "private, no-cache"
        assert response.headers["Vary"] == "Origin, Authorization"
        assert int(response.headers["Content-Length"]) == len(response.content)

    async def test_a_problem_of_the_database_has_retry_after_and_cors(
        self, log: list[EventDict]
    ) -> None:
        del log
        failing = FailingRepository(DatabaseUnavailable())
        async with served(failing) as app, client(app, "ada") as ada:
            response = await ada.get(LIST, headers={"Origin": FRONTEND})
        assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
        assert response.headers["Access-Control-Allow-Origin"] == FRONTEND

    async def test_a_preflight_is_allowed(self, stranger: httpx.AsyncClient) -> None:
        headers = {"Origin": FRONTEND, "Access-Control-Request-Method": "POST"}
        assert (await stranger.options(LIST, headers=headers)).status_code == 204

    async def test_location_leads_to_the_task_in_the_same_dialect(
        self, ada: httpx.AsyncClient
    ) -> None:
        created = await ada.post(f"{LIST}/", json={"title": "Buy oat milk"})
        assert created.headers["Location"].startswith(f"{LIST}/")
        assert (await ada.get(created.headers["Location"])).json() == created.json()

    @pytest.mark.parametrize(
        ("query", "read"),
        [
            ("/compat/api/ada/todos?limit=2&sortBy=title", lambda tasks: tasks),
            ("/compat/api/todos?page=1&limit=2&sortBy=title", lambda tasks: tasks),
            ("/compat/tasks/api/todos?pageSize=2&sortBy=title", lambda answer: answer["items"]),
        ],
    )
    async def test_links_lead_through_all_pages(
        self, ada: httpx.AsyncClient, query: str, read: Callable[[Any], Any]
    ) -> None:
        titles = ["Buy milk", "Buy oats", "Call Eve", "Dust", "Eat"]
        for title in titles[1:]:
            await ada.post("/api/tasks", json={"title": title})
        found, path = [], query
        while path:
            response = await ada.get(path)
            page = [task["title"] for task in read(response.json())]
            assert len(page) <= 2
            found += page
            path = response.links.get("next", {}).get("url", "")
            assert path.startswith(query.partition("?")[0]) or not path
        assert found == titles

    async def test_entity_tags_work_in_both_directions(self, ada: httpx.AsyncClient) -> None:
        task = await ada.get(ONE)
        etag = task.headers["ETag"]
        known = await ada.get(ONE, headers={"If-None-Match": etag})
        assert (known.status_code, known.content) == (304, b"")
        changed = await ada.patch(ONE, json={"done": True}, headers={"If-Match": etag})
        assert changed.status_code == 200
        stale = await ada.patch(ONE, json={"done": False}, headers={"If-Match": etag})
        assert stale.json()["code"] == "stale_version"

    async def test_an_unchanged_list_is_304(self, ada: httpx.AsyncClient) -> None:
        path = f"{LIST}?page=1&limit=10&status=incomplete"
        etag = (await ada.get(path)).headers["ETag"]
        assert (await ada.get(path, headers={"If-None-Match": etag})).status_code == 304
        await ada.patch(ONE, json={"title": "Buy oat milk"})
        assert (await ada.get(path, headers={"If-None-Match": etag})).status_code == 200

    async def test_a_repeated_idempotency_key_returns_the_first_response(
        self, ada: httpx.AsyncClient
    ) -> None:
        key = {"Idempotency-Key": "k"}
        body = {"title": "Buy oat milk", "dueDate": "2026-01-31", "isCompleted": False}
        first, again = [await ada.post(LIST, json=body, headers=key) for _ in range(2)]
        assert again.content == first.content
        other = await ada.post(LIST, json={**body, "isCompleted": True}, headers=key)
        assert other.json()["code"] == "idempotency_key_reused"

    async def test_an_id_of_the_client_is_kept(self, ada: httpx.AsyncClient) -> None:
        body = {"id": str(UUID(int=7)), "title": "Buy oat milk"}
        first, again = [await ada.post(LIST, json=body) for _ in range(2)]
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json()["id"] == body["id"]

    async def test_prefer_minimal_returns_no_body(self, ada: httpx.AsyncClient) -> None:
        response = await ada.post(f"{ONE}/toggle", headers={"Prefer": "return=minimal"})
        assert (response.status_code, response.content) == (204, b"")

    async def test_strict_handling_knows_the_spellings(self, ada: httpx.AsyncClient) -> None:
        ada.headers["Prefer"] = "handling=strict"
        body = {"title": "x", "isCompleted": True, "dueDate": None, "userId": "ada"}
        assert (await ada.post(LIST, json=body)).status_code == 201
        refused = await ada.post(LIST, json={**body, "colour": "red"})
        assert [error["field"] for error in refused.json()["errors"]] == ["colour"]

    @pytest.mark.parametrize("path", [LIST, ONE, f"{LIST}/nothing"])
    async def test_head_has_the_fields_of_get(self, ada: httpx.AsyncClient, path: str) -> None:
        ada.headers["X-Request-ID"] = "r1"
        assert (await ada.head(path)).headers == (await ada.get(path)).headers


class TestEnvelopes:
    async def test_the_totals_are_those_of_all_pages(self, ada: httpx.AsyncClient) -> None:
        for number in range(6):
            await ada.post("/api/tasks", json={"title": "x", "completed": number < 2})
        listed = (await ada.get("/compat/tasks/api/tasks?page=2&limit=3")).json()
        assert len(listed["tasks"]) == len(listed["items"]) == len(listed["todos"]) == 3
        del listed["tasks"], listed["items"], listed["todos"]
        assert listed == {
            **dict.fromkeys(("total", "count", "total_count"), 7),
            **dict.fromkeys(("page", "completed_count"), 2),
            **dict.fromkeys(("limit", "totalPages"), 3),
            "pending_count": 5,
        }

    async def test_beyond_a_thousand_tasks_the_total_is_exact_and_other_counts_are_absent(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository
    ) -> None:
        for _ in range(1000):
            await tasks.add(a_task())
        listed = await ada.get("/compat/tasks/api/tasks?limit=10")
        assert (listed.json()["total"], listed.json()["totalPages"]) == (1001, 101)
        assert "completed_count" not in listed.json()

    @pytest.mark.parametrize(
        ("options", "of_a_list", "of_a_task"),
        [
            ("plain", None, set()),
            ("data", {"data"}, {"data"}),
            ("success", {"success", "data"}, {"success", "data"}),
        ],
    )
    async def test_an_envelope_has_the_members_of_its_options(
        self,
        ada: httpx.AsyncClient,
        options: str,
        of_a_list: set[str] | None,
        of_a_task: set[str],
    ) -> None:
        plain = (await ada.get(f"/compat/plain/api/tasks/{TASK.id}")).json()
        listed = (await ada.get(f"/compat/{options}/api/tasks")).json()
        assert (listed if of_a_list is None else listed["data"]) == [plain]
        assert of_a_list is None or set(listed) == of_a_list
        one = (await ada.get(f"/compat/{options}/api/tasks/{TASK.id}")).json()
        assert set(one) - set(plain) == of_a_task
        assert one.get("data", plain) == plain

    @pytest.mark.parametrize(
        ("options", "added", "removed"),
        [
            ("plain", {"is_completed": False}, set()),
            ("status", {"is_completed": False, "status": "pending"}, set()),
            ("uppercase-status", {"is_completed": False, "status": "PENDING"}, set()),
            ("order", {"is_completed": False, "order": None}, {"position"}),
        ],
    )
    async def test_a_task_has_the_members_of_its_options(
        self,
        ada: httpx.AsyncClient,
        options: str,
        added: dict[str, object],
        removed: set[str],
    ) -> None:
        canonical = (await ada.get(f"/api/tasks/{TASK.id}")).json()
        task = (await ada.get(f"/compat/{options}/api/tasks/{TASK.id}")).json()
        assert task == {n: v for n, v in canonical.items() if n not in removed} | added

    @pytest.mark.parametrize(
        ("options", "spelling", "value"),
        [
            ("only-completed", "completed", True),
            ("only-is_completed", "is_completed", True),
            ("only-is_completed+camel", "isCompleted", True),
            ("only-status", "status", "completed"),
            ("only-status+uppercase-status", "status", "COMPLETED"),
        ],
    )
    async def test_a_whole_task_may_be_sent_back_with_its_only_completion_changed(
        self, ada: httpx.AsyncClient, options: str, spelling: str, value: object
    ) -> None:
        path = f"/compat/{options}/api/tasks/{TASK.id}"
        task = (await ada.get(path)).json()
        spellings = {"completed", "is_completed", "isCompleted", "status"} & task.keys()
        assert spellings == {spelling}
        changed = (await ada.put(path, json=task | {spelling: value})).json()
        assert changed[spelling] == value
        assert (await ada.get(f"/api/tasks/{TASK.id}")).json()["completed"] is True

    async def test_camel_replaces_the_spelling_and_with_snake_adds_one(
        self, ada: httpx.AsyncClient
    ) -> None:
        plain = (await ada.get(f"/compat/plain/api/tasks/{TASK.id}")).json()
        camel = (await ada.get(f"/compat/camel/api/tasks/{TASK.id}")).json()
        both = (await ada.get(f"/compat/camel+snake/api/tasks/{TASK.id}")).json()
        assert {"userId", "dueDate", "createdAt", "completedAt", "isCompleted"} <= set(camel)
        assert not any("_" in name for name in camel)
        assert both == plain | camel

    async def test_documents_that_are_no_tasks_are_not_changed(
        self, ada: httpx.AsyncClient
    ) -> None:
        for path in ("/api/me", "/api/tasks/changes", "/openapi.json", "/health/ready"):
            canonical = (await ada.get(path)).json()
            translated = (await ada.get(f"/compat/tasks+camel{path}")).json()
            assert translated.keys() == canonical.keys()

    @pytest.mark.parametrize("root_path", ["/backend", "/api"])
    async def test_references_resolve_below_the_prefix_of_a_proxy(
        self, log: list[EventDict], root_path: str
    ) -> None:
        del log
        async with served(root_path=root_path) as app, client(app, "ada") as ada:
            created = await ada.post(f"{root_path}/compat/todobackend", json={"title": "x"})
            assert created.headers["Location"].startswith(f"{root_path}/compat/todobackend/")
            for reference in (created.headers["Location"], created.json()["url"]):
                assert (await ada.get(reference)).json() == created.json()

    async def test_the_url_of_a_task_names_the_host_of_the_request(
        self, ada: httpx.AsyncClient
    ) -> None:
        (todo,) = (await ada.get("/compat/todobackend")).json()
        assert todo["url"] == f"http://todo.test/compat/todobackend/api/tasks/{TASK.id}"


class TestObservation:
    async def test_metrics_and_log_have_the_canonical_route(
        self, ada: httpx.AsyncClient, log: list[EventDict]
    ) -> None:
        await ada.post(f"/compat/camel/api/ada/todos/{TASK.id}/toggle")
        (line,) = [entry for entry in log if entry["event"] == "request"]
        assert line["route"] == "/api/tasks/{task_id}/complete"
        metrics = (await ada.get("/metrics")).text
        assert 'route="/api/tasks/{task_id}/complete"' in metrics
        assert "compat" not in metrics

    async def test_requests_of_all_dialects_count_to_one_limit(self, log: list[EventDict]) -> None:
        del log
        limiter = InMemoryRateLimiter({PER_USER: {60: 2}})
        async with served(limiter=limiter) as app, client(app, "ada") as ada:
            paths = ("/api/tasks", "/compat/api/tasks", "/compat/camel/api/todos")
            statuses = [(await ada.get(path)).status_code for path in paths]
        assert statuses == [200, 200, 429]


class TestHints:
    @pytest.mark.parametrize(
        "path",
        ["/api/todos", "/api/todos/1", "/api/ada/todos", "/todos", "/tasks/1", "/api/health"],
    )
    @pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
    async def test_a_path_that_only_dialects_understand_is_404_with_the_base_path(
        self, stranger: httpx.AsyncClient, method: str, path: str
    ) -> None:
        refused = await stranger.request(method, path)
        assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
        assert f"/compat/plain{path}," in refused.json()["detail"]

    async def test_the_path_of_a_hint_leads_to_the_tasks(self, ada: httpx.AsyncClient) -> None:
        assert len((await ada.get("/compat/plain/todos")).json()) == 1
        assert (await ada.get("/compat/plain/api/health")).json() == {"status": "ok"}

    async def test_other_unknown_paths_have_no_hint(self, stranger: httpx.AsyncClient) -> None:
        assert "/compat" not in (await stranger.get("/api/lists")).json()["detail"]

    def test_a_hint_has_no_name(self) -> None:
        with pytest.raises(NoMatchFound):
            CompatHint().url_path_for("listTasks")
