"""Path aliases: slashes, versions, prefixes, user ids and HEAD lead to the same route."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote
from uuid import UUID

import httpx
import pytest
from structlog.typing import EventDict

from fakes import FakeTokenVerifier, InMemoryTaskRepository
from support.http_client import StaticVerifier, client, served
from support.tasks import a_task
from todo_domain.queries import TaskQuery

TASK: Final = a_task(id=UUID(int=1))
ONE: Final = f"/api/tasks/{TASK.id}"
GETTABLE: Final = [
    "/api/tasks",
    "/api/tasks?limit=1&sort=title",
    "/api/me",
    "/api/ada/tasks",
    "/api/eve/tasks",
    ONE,
    "/api/tasks/nothing",
    "/health/live",
    "/health/ready",
    "/docs",
    "/openapi.json",
    "/problems/not_found",
    "/nowhere",
]


@pytest.fixture(autouse=True)
async def with_tasks(tasks: InMemoryTaskRepository) -> None:
    for task in (TASK, a_task()):
        await tasks.add(task)


def raw_url(path: bytes) -> httpx.URL:
    """A URL with exactly these bytes as its path."""
    return httpx.URL("http://todo.test").copy_with(raw_path=path)


def comparable(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "x-request-id"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/tasks/", 200),
        ("GET", "/api/tasks/?limit=1", 200),
        ("POST", "/api/tasks/", 201),
        ("GET", f"{ONE}/", 200),
        ("PUT", f"{ONE}/", 200),
        ("PATCH", f"{ONE}/", 200),
        ("PATCH", f"{ONE}/complete/", 200),
        ("PATCH", f"{ONE}/toggle/", 200),
        ("DELETE", f"{ONE}/", 200),
        ("DELETE", "/api/tasks/?status=completed", 200),
        ("POST", f"{ONE}/restore/", 409),
        ("GET", "/api/me/", 200),
        ("GET", "/metrics/", 200),
        ("GET", "/health/live/", 200),
        ("GET", "/health/ready/", 200),
        ("GET", "/docs/", 200),
        ("GET", "/openapi.json/", 200),
    ],
)
async def test_one_trailing_slash_is_served_without_a_redirect(
    ada: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    body = {"title": "Buy oat milk", "completed": True} if method[0] == "P" else None
    assert (await ada.request(method, path, json=body)).status_code == status


BASES: Final = [
    "//api",
    "///api",
    "/api/",
    "/api//",
    "/api/v1",
    "/api/v1/",
    "//api//v1",
    "/api/api",
    "/api/api/v1",
]
every_base = pytest.mark.parametrize("base", BASES)


class TestBaseUrl:
    """Other spellings of the base URL that a frontend is configured with."""

    @every_base
    @pytest.mark.parametrize(
        ("method", "rest", "status"),
        [
            ("GET", "/tasks", 200),
            ("GET", "/tasks//?limit=1", 200),
            ("GET", "/me", 200),
            ("POST", "/tasks/", 201),
            ("PATCH", f"/tasks//{TASK.id}//complete", 200),
            ("DELETE", f"/tasks/{TASK.id}/", 200),
            ("GET", "/ada/tasks/", 200),
            ("GET", "/ada//tasks", 200),
            ("GET", "/eve/tasks", 403),
            ("GET", "/tasks/tasks", 404),
        ],
    )
    async def test_another_spelling_is_served_without_a_redirect(
        self, ada: httpx.AsyncClient, base: str, method: str, rest: str, status: int
    ) -> None:
        body = (
            {"title": "Buy oat milk"} if method in {"POST", "PATCH"} and "/c" not in rest else None
        )
        response = await ada.request(method, raw_url((base + rest).encode()), json=body)
        assert response.status_code == status
        if status != 404:
            assert response.headers["Cache-Control"] == "private, no-cache"

    @every_base
    async def test_references_keep_the_spelling_and_name_no_other_host(
        self, ada: httpx.AsyncClient, base: str
    ) -> None:
        url = raw_url(f"{base}/tasks?limit=1".encode())
        spelled = "/" + base.lstrip("/")
        created = await ada.post(url, json={"title": "Buy oat milk"})
        assert created.headers["Location"] == f"{spelled}/tasks/{created.json()['id']}"
        first = await ada.get(url)
        assert first.links["next"]["url"].startswith(f"{spelled}/tasks?")
        problem = await ada.get(raw_url(f"{base}/tasks/nothing".encode()))
        assert problem.json()["instance"] == f"{spelled}/tasks/nothing"
        for reference in (created.headers["Location"], first.links["next"]["url"]):
            assert (await ada.get(url.join(reference))).status_code == 200

    @pytest.mark.parametrize(
        "path",
        [
            *("/api%2Ftasks", "/api/tasks%2F", "/api%2F%2Ftasks", "/%2Fapi/tasks", "/api/%2Ftasks"),
            f"/api/tasks%2f{TASK.id}",
            *("/api/v1%2Ftasks", "/v1/tasks", "/api/v2/tasksx", "/api/v1", "/api/api"),
        ],
    )
    async def test_an_encoded_slash_is_data_and_other_spellings_are_404(
        self, ada: httpx.AsyncClient, path: str
    ) -> None:
        response = await ada.get(raw_url(path.encode()))
        assert (response.status_code, response.json()["code"]) == (404, "not_found")

    @pytest.mark.parametrize("user_id", ["v1", "api"])
    async def test_a_user_whose_id_is_such_a_segment_sees_only_the_own_tasks(
        self, tasks: InMemoryTaskRepository, user_id: str
    ) -> None:
        own = await tasks.add(a_task(owner=user_id))
        tokens = FakeTokenVerifier("ada", user_id)
        async with served(tasks, tokens) as app, client(app, user_id) as user:
            for path in (f"/api/{user_id}/tasks", f"/api/v1/{user_id}/tasks", "/api/v1/tasks"):
                assert [task["id"] for task in (await user.get(path)).json()] == [str(own.id)]
            user.headers["Authorization"] = "Bearer ada"
            seen = (await user.get(f"/api/{user_id}/tasks")).json()
            assert {task["user_id"] for task in seen} == {"ada"}


@pytest.mark.parametrize("path", GETTABLE)
async def test_head_has_the_status_and_header_fields_of_get(
    ada: httpx.AsyncClient, path: str
) -> None:
    got, headed = await ada.get(path), await ada.head(path)
    assert (headed.status_code, headed.content) == (got.status_code, b"")
    assert comparable(headed.headers) == comparable(got.headers)


async def test_head_needs_a_token(stranger: httpx.AsyncClient) -> None:
    assert (await stranger.head("/api/tasks")).status_code == 401


MILK: Final = {"title": "Buy oat milk"}
# Every task route: its method, the rest of the path after ``/tasks``, a body, and the status.
ROUTES: Final[list[tuple[str, str, dict[str, Any] | None, int]]] = [
    ("GET", "", None, 200),
    ("GET", "?limit=1", None, 200),
    ("POST", "", MILK, 201),
    ("DELETE", "?status=completed", None, 200),
    ("DELETE", "", None, 400),
    ("GET", f"/{TASK.id}", None, 200),
    ("PUT", f"/{TASK.id}", MILK, 200),
    ("PATCH", f"/{TASK.id}", MILK, 200),
    ("PATCH", f"/{TASK.id}/complete", None, 200),
    ("PATCH", f"/{TASK.id}/complete", {"completed": True}, 200),
    ("PATCH", f"/{TASK.id}/toggle", None, 200),
    ("DELETE", f"/{TASK.id}", None, 200),
    ("POST", f"/{TASK.id}/restore", None, 409),
    ("GET", "/malformed", None, 404),
    ("TRACE", "", None, 405),
]
every_route = pytest.mark.parametrize(
    ("method", "rest", "body", "status"), ROUTES, ids=[f"{r[0]} {r[1]} {r[2]}" for r in ROUTES]
)
# User ids of auth servers (random text, UUIDs, numbers, e-mail addresses), and unusual ones.
USER_IDS: Final = [
    *("dlMsxWRCI2eyTUbIQ9DUoaji4ROD9Eqh", "0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b", "1"),
    *("ada@example.com", "ada+todo@example.com", "auth0|5f7c8ec7", "Ada Lovelace", "ада", "👩"),
    *("a/b", "a%2Fb", "a?b#c", "...", "me", "{user_id}", "a;b=c", "a\\b"),
]
every_user_id = pytest.mark.parametrize("user_id", USER_IDS)


class TestUserPath:
    @every_route
    @pytest.mark.parametrize("slash", ["", "/"])
    async def test_a_user_path_reaches_every_task_route(
        self,
        ada: httpx.AsyncClient,
        method: str,
        rest: str,
        body: dict[str, Any] | None,
        status: int,
        slash: str,
    ) -> None:
        path, question, query = rest.partition("?")
        url = f"/api/ada/tasks{path}{slash}{question}{query}"
        assert (await ada.request(method, url, json=body)).status_code == status

    @every_route
    async def test_a_user_path_has_the_same_response_as_the_path_without_the_user(
        self, method: str, rest: str, body: dict[str, Any] | None, status: int
    ) -> None:
        responses = []
        for prefix in ("/api/tasks", "/api/ada/tasks"):
            tasks = InMemoryTaskRepository()
            await tasks.add(TASK)
            async with served(tasks) as app, client(app, "ada") as ada:
                responses.append(await ada.request(method, prefix + rest, json=body))
        assert responses[0].status_code == responses[1].status_code == status
        shapes = [
            (sorted(response.headers), sorted(response.json()) if method != "GET" else None)
            for response in responses
        ]
        assert shapes[0] == shapes[1]

    @every_user_id
    async def test_a_user_path_may_have_any_percent_encoded_user_id(self, user_id: str) -> None:
        path = f"/api/{quote(user_id, safe='')}/tasks"
        async with served(tokens=StaticVerifier(user_id)) as app, client(app, "any") as user:
            created = await user.post(raw_url(path.encode()), json=MILK)
            assert (created.status_code, created.json()["user_id"]) == (201, user_id)
            location = created.headers["Location"]
            assert location == f"{path}/{created.json()['id']}"
            found = await user.get(raw_url(location.encode()))
        assert found.content == created.content

    @pytest.mark.parametrize("user_id", ["ada@example.com", "a+b", "a:b", "a!$&'()*,;=~-._b"])
    async def test_a_user_path_may_have_unencoded_characters_that_a_path_allows(
        self, user_id: str
    ) -> None:
        async with served(tokens=StaticVerifier(user_id)) as app, client(app, "any") as user:
            response = await user.get(raw_url(f"/api/{user_id}/tasks".encode()))
        assert response.status_code == 200

    async def test_a_user_path_may_encode_more_than_necessary(self, ada: httpx.AsyncClient) -> None:
        assert (await ada.get(raw_url(b"/api/%61%64%61/tasks"))).status_code == 200

    async def test_the_next_page_has_the_same_user_path(self, ada: httpx.AsyncClient) -> None:
        first = await ada.get("/api/ada/tasks?limit=1")
        assert first.links["next"]["url"].startswith("/api/ada/tasks?")
        second = await ada.get(first.links["next"]["url"])
        assert (second.status_code, len(second.json())) == (200, 1)

    async def test_the_instance_of_a_problem_is_the_user_path(self, ada: httpx.AsyncClient) -> None:
        response = await ada.get("/api/ada/tasks/nothing/")
        assert response.json()["instance"] == "/api/ada/tasks/nothing/"


class TestPathOfAnotherUser:
    @every_route
    async def test_another_users_path_is_403_on_every_route_and_changes_nothing(
        self,
        ada: httpx.AsyncClient,
        tasks: InMemoryTaskRepository,
        method: str,
        rest: str,
        body: dict[str, Any] | None,
        status: int,
    ) -> None:
        before = (await tasks.find("ada", TaskQuery())).tasks
        response = await ada.request(method, f"/api/eve/tasks{rest}", json=body)
        if status == 405:
            assert response.status_code == 405
        else:
            assert (response.status_code, response.json()["code"]) == (403, "user_mismatch")
        assert (await tasks.find("ada", TaskQuery())).tasks == before
        assert (await tasks.find("eve", TaskQuery())).tasks == ()

    @pytest.mark.parametrize(
        "user_id",
        ["eve", "Ada", "ADA", "ada%20", "%20ada", "ad", "ada%00", "ada%2f", "%ff", "null"],
    )
    async def test_every_user_id_except_exactly_the_tokens_is_403(
        self, ada: httpx.AsyncClient, user_id: str
    ) -> None:
        response = await ada.get(raw_url(f"/api/{user_id}/tasks".encode()))
        assert (response.status_code, response.json()["code"]) == (403, "user_mismatch")

    async def test_the_403_is_the_same_whether_or_not_the_user_exists(
        self, ada: httpx.AsyncClient
    ) -> None:
        ada.headers["X-Request-ID"] = "r1"
        responses = [await ada.get(f"/api/{name}/tasks") for name in ("eve", "nil")]
        assert responses[0].content.replace(b"eve", b"nil") == responses[1].content

    async def test_the_user_path_is_checked_before_the_rest_of_the_request(
        self, ada: httpx.AsyncClient
    ) -> None:
        response = await ada.post(
            "/api/eve/tasks?limit=none", content=b"{", headers={"Accept": "text/html"}
        )
        assert response.status_code == 403

    async def test_the_token_is_checked_before_the_user_path(
        self, stranger: httpx.AsyncClient
    ) -> None:
        response = await stranger.get("/api/eve/tasks")
        assert (response.status_code, response.json()["code"]) == (401, "token_missing")

    async def test_another_users_path_is_logged_as_access_denied(
        self, ada: httpx.AsyncClient, log: list[EventDict]
    ) -> None:
        await ada.get("/api/eve/tasks")
        (denied,) = [entry for entry in log if entry["event"] == "access.denied"]
        assert (denied["log_level"], denied["reason"]) == ("warning", "user_mismatch")
        (line,) = [entry for entry in log if entry["event"] == "request"]
        assert (line["user"], line["status"]) == ("ada", 403)
        assert denied["request_id"] == line["request_id"]


@pytest.mark.parametrize("user_id", ["undefined", "null", "None", "NaN", "%22undefined%22"])
async def test_a_path_of_a_frontend_without_a_user_id_is_403_and_says_so(
    ada: httpx.AsyncClient, user_id: str
) -> None:
    response = await ada.get(f"/api/{user_id}/tasks")
    assert (response.status_code, response.json()["code"]) == (403, "user_mismatch")
    assert "has no user id yet" in response.json()["detail"]


class TestOtherPaths:
    @pytest.mark.parametrize(
        "path",
        [
            *("/api/ada", "/api/ada/", "/api/ada/me", "/api/ada/health/live", "/ada/tasks"),
            *(
                "/api/ada/eve/tasks",
                "/api/ada/tasksx",
                "/api/ada/Tasks",
                f"/api/ada/tasks/{TASK.id}/nothing",
            ),
            *("/api/users/ada/tasks", "/API/ada/tasks"),
        ],
    )
    async def test_other_paths_are_404(self, ada: httpx.AsyncClient, path: str) -> None:
        response = await ada.get(raw_url(path.encode()))
        assert (response.status_code, response.json()["code"]) == (404, "not_found")

    @pytest.mark.parametrize("path", ["/api/tasks/tasks", "/api/tasks/tasks/"])
    async def test_tasks_is_not_a_user_id(self, ada: httpx.AsyncClient, path: str) -> None:
        response = await ada.get(path)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")

    @pytest.mark.parametrize(
        "path",
        [
            *(b"/api/%ff/tasks", b"/api/ada/tasks/%ff%fe", b"/api/%/tasks", b"/api/%zz/tasks"),
            *(b"/api/ada/tasks/%00", b"/api/ada/tasks/%0a", b"/api/a%00/tasks", b"/%ed%a0%80"),
            *(b"/api/%ed%a0%80/tasks", b"/api/ada/tasks/..%2f..%2fme", b"/api/%2e%2e/tasks"),
        ],
    )
    async def test_paths_of_any_bytes_are_403_or_404(
        self, ada: httpx.AsyncClient, path: bytes
    ) -> None:
        assert (await ada.get(raw_url(path))).status_code in {403, 404}


class Prefix(NamedTuple):
    """How a path prefix reaches the app: from the setting, from the server, and in the path."""

    setting: str
    server: str
    sent: str


PREFIXES: Final = {
    "the proxy strips it": Prefix("/backend", "", ""),
    "the proxy keeps it": Prefix("/backend", "", "/backend"),
    "uvicorn --root-path, the proxy strips it": Prefix("", "/backend", "/backend"),
    "uvicorn --root-path, the proxy keeps it": Prefix("", "/backend", "/backend/backend"),
    "the server strips it": Prefix("", "/backend", ""),
    "both, the proxy strips it": Prefix("/backend", "/backend", "/backend"),
    "both, the proxy keeps it": Prefix("/backend", "/backend", "/backend/backend"),
    "extra slashes": Prefix("/backend", "", "//backend/"),
    "uvicorn --root-path with a slash at the end": Prefix("", "/backend/", "/backend/"),
}


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
class TestPathPrefix:
    @pytest.fixture
    async def ada(
        self, tasks: InMemoryTaskRepository, log: list[EventDict], prefix: Prefix
    ) -> AsyncIterator[httpx.AsyncClient]:
        del log
        async with served(tasks, root_path=prefix.setting) as app:
            transport = httpx.ASGITransport(app, root_path=prefix.server)
            headers = {"Authorization": "Bearer ada"}
            async with httpx.AsyncClient(transport=transport, headers=headers) as ada:
                yield ada

    def url(self, prefix: Prefix, path: str) -> httpx.URL:
        return raw_url(f"{prefix.sent}{path}".encode())

    @pytest.mark.parametrize("path", ["/api/tasks", "/api/ada/tasks", "/api/v1/tasks/"])
    async def test_references_resolve_under_the_prefix(
        self, ada: httpx.AsyncClient, prefix: Prefix, path: str
    ) -> None:
        url = self.url(prefix, f"{path}?limit=1")
        created = await ada.post(url, json={"title": "Buy oat milk"})
        location = created.headers["Location"]
        assert location == f"/backend{path.rstrip('/')}/{created.json()['id']}"
        listed = await ada.get(url)
        assert listed.links["next"]["url"].startswith(f"/backend{path}?")

    async def test_a_problem_refers_to_paths_under_the_prefix(
        self, ada: httpx.AsyncClient, prefix: Prefix
    ) -> None:
        problem = (await ada.get(self.url(prefix, "/api/tasks/nothing"))).json()
        assert problem["instance"] == "/backend/api/tasks/nothing"
        assert problem["type"] == "/backend/problems/not_found"
        unknown = (await ada.get(self.url(prefix, "/nowhere"))).json()
        assert unknown["instance"] == "/backend/nowhere"

    async def test_the_path_of_another_user_is_403(
        self, ada: httpx.AsyncClient, prefix: Prefix
    ) -> None:
        response = await ada.get(self.url(prefix, "/api/eve/tasks"))
        assert (response.status_code, response.json()["code"]) == (403, "user_mismatch")

    async def test_header_fields_and_log_are_those_of_the_route(
        self, ada: httpx.AsyncClient, log: list[EventDict], prefix: Prefix
    ) -> None:
        response = await ada.get(self.url(prefix, f"/api/ada/tasks/{TASK.id}"))
        assert response.headers["Cache-Control"] == "private, no-cache"
        assert response.headers["Vary"] == "Origin, Authorization"
        assert [entry["route"] for entry in log] == ["/api/tasks/{task_id}"]

    async def test_health_checks_are_served_at_the_limit_of_requests(self, prefix: Prefix) -> None:
        async with served(root_path=prefix.setting, concurrency=0) as app:
            transport = httpx.ASGITransport(app, root_path=prefix.server)
            async with httpx.AsyncClient(transport=transport) as probe:
                statuses = [
                    (await probe.get(self.url(prefix, path))).status_code
                    for path in ("/health/live", "/metrics")
                ]
        assert statuses == [200, 503]

    async def test_the_documentation_loads_its_parts_under_the_prefix(
        self, ada: httpx.AsyncClient, prefix: Prefix
    ) -> None:
        page = (await ada.get(self.url(prefix, "/docs"))).text
        for part in ("/openapi.json", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"):
            assert f"/backend{part}" in page
            assert (await ada.get(self.url(prefix, part))).status_code == 200

    async def test_the_schema_names_the_prefix_as_server(
        self, ada: httpx.AsyncClient, prefix: Prefix
    ) -> None:
        schema = (await ada.get(self.url(prefix, "/openapi.json"))).json()
        assert schema["servers"] == [{"url": "/backend"}]
        assert "/api/tasks" in schema["paths"]


class TestAmbiguousPrefix:
    @pytest.mark.parametrize("path", ["/api/tasks", "/api/api/tasks", "/docs", "/api/docs"])
    async def test_the_prefix_api_is_served_with_and_without_stripping(self, path: str) -> None:
        async with served(root_path="/api") as app, client(app, "ada") as ada:
            assert (await ada.get(path)).status_code == 200

    @pytest.mark.parametrize("path", ["/backends/api/tasks", "/api/backend/tasks", "/back/api/me"])
    async def test_a_path_that_only_resembles_the_prefix_keeps_it(self, path: str) -> None:
        async with served(root_path="/backend") as app, client(app, "ada") as ada:
            assert (await ada.get(path)).status_code in {403, 404}

    async def test_a_prefix_of_any_text_is_encoded(self) -> None:
        async with served() as app:
            transport = httpx.ASGITransport(app, root_path='/a "b"/ä')
            async with httpx.AsyncClient(transport=transport) as stranger:
                problem = (await stranger.get(raw_url(b"/nowhere"))).json()
        assert problem["instance"] == "/a%20%22b%22/%C3%A4/nowhere"

    async def test_a_prefix_that_equals_the_start_of_a_route_does_not_hide_the_route(
        self, log: list[EventDict]
    ) -> None:
        async with served() as app, client(app) as stranger:
            paths = (await stranger.get("/openapi.json")).json()["paths"]
        for path in (*paths, "/docs", "/openapi.json", "/problems/not_found", "/metrics"):
            prefix = "/" + path.split("/")[1]
            async with served(root_path=prefix) as app, client(app) as stranger:
                await stranger.get(path)
        assert None not in [entry["route"] for entry in log if entry["event"] == "request"]
