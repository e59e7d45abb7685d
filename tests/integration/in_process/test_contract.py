"""The HTTP contract row by row: the real app with real tokens on the real PostgreSQL.

What each feature does in every case is specified in ``tests/unit``; this is the page that the
frontends were promised, from its first row to its last.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Unpack
from uuid import UUID, uuid4

import httpx
import pytest
from starlette.types import ASGIApp
from structlog.testing import capture_logs
from structlog.typing import EventDict

from support.frontend import token_of
from support.http_client import FRONTEND, Parts, client, served
from support.jose_tokens import SECRET, seconds
from support.round_trips import PostgresProxy, proxy_before
from support.tasks import HOSTILE_TEXTS, MEMBERS, UNSAID
from todo_adapters.jose.development import DevelopmentIssuer
from todo_adapters.jose.key_sets import RemoteKeySet
from todo_adapters.jose.verifiers import JwksTokenVerifier, SharedSecretTokenVerifier
from todo_adapters.postgres.database import Database, Statement
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl
from todo_adapters.rate_limits import LimitsRateLimiter
from todo_api.rate_limits import PER_FAILING_ADDRESS, PER_USER
from todo_domain.ownership import Principal
from todo_domain.ports import RETENTION, TaskRepository, TokenVerifier
from todo_domain.task import Task

Json = Any

ADA: Final = "dlMsxWRCI2eyTUbIQ9DUoaji4ROD9Eqh"
EVE: Final = "eve@example.com"
MILK: Final = {"title": "Buy milk"}
JSON: Final = {"Content-Type": "application/json"}
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
NOBODY_LISTENS: Final = "http://127.0.0.1:1/api/auth/jwks"


# --- The service and who asks it ------------------------------------------------------------------


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> DevelopmentIssuer:
    return DevelopmentIssuer(tmp_path_factory.mktemp("issuer"))


@pytest.fixture(autouse=True)
def log() -> Iterator[list[EventDict]]:
    with capture_logs() as entries:
        yield entries


@dataclass(frozen=True)
class Service:
    """Starts the app on a database, and gives its users tokens."""

    issuer: DevelopmentIssuer
    database: Database

    def token(self, user_id: str) -> str:
        return self.issuer.token(user_id, datetime.now(UTC), timedelta(hours=1))

    def verifier(self) -> TokenVerifier:
        name = self.issuer.name
        return JwksTokenVerifier(self.issuer, issuer=name, audience=name)

    @asynccontextmanager
    async def running(
        self,
        tasks: TaskRepository | None = None,
        tokens: TokenVerifier | None = None,
        **parts: Unpack[Parts],
    ) -> AsyncIterator[ASGIApp]:
        policies = {PER_USER: "600/minute", PER_FAILING_ADDRESS: "60/minute"}
        chosen: Parts = {
            "limiter": LimitsRateLimiter(policies),
            "checks": {"database": self.database.check},
        }
        chosen.update(parts)
        tasks = tasks or PostgresTaskRepository(self.database)
        async with served(tasks, tokens or self.verifier(), **chosen) as app:
            yield app

    @asynccontextmanager
    async def asked_by_ada(
        self,
        tasks: TaskRepository | None = None,
        tokens: TokenVerifier | None = None,
        **parts: Unpack[Parts],
    ) -> AsyncIterator[httpx.AsyncClient]:
        running = self.running(tasks, tokens, **parts)
        async with running as app, client(app, self.token(ADA)) as ada:
            yield ada


@pytest.fixture
def service(issuer: DevelopmentIssuer, database: Database) -> Service:
    return Service(issuer, database)


@pytest.fixture
async def app(service: Service) -> AsyncIterator[ASGIApp]:
    async with service.running() as app:
        yield app


@pytest.fixture
async def ada(app: ASGIApp, service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with client(app, service.token(ADA)) as ada:
        yield ada


@pytest.fixture
async def eve(app: ASGIApp, service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with client(app, service.token(EVE)) as eve:
        yield eve


@pytest.fixture
async def stranger(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    async with client(app) as stranger:
        yield stranger


@pytest.fixture
async def proxy(address: DatabaseUrl) -> AsyncIterator[PostgresProxy]:
    async with proxy_before(address) as proxy:
        yield proxy


@pytest.fixture
async def proxied(
    issuer: DevelopmentIssuer,
    proxy: PostgresProxy,
    database: Database,
) -> AsyncIterator[Service]:
    """A service whose one connection to the database goes through the proxy and is open."""
    del database  # which leaves empty tables
    single = Database(proxy.address, pool_size=1)
    await single.check()
    yield Service(issuer, single)
    await single.close()


async def created(somebody: httpx.AsyncClient, **members: Json) -> Json:
    answer = await somebody.post("/api/tasks", json=MILK | members)
    assert answer.status_code == 201, answer.text
    return answer.json()


def at(task: Json, suffix: str = "") -> str:
    return f"/api/tasks/{task['id']}{suffix}"


async def rows(database: Database) -> list[tuple[object, ...]]:
    """All that is stored, deleted tasks and keys included."""
    tables = ("tasks", "idempotency_keys")
    found = [
        await database.fetch(Statement(f"SELECT * FROM todo.{table} ORDER BY 1, 2", ()))  # noqa: S608 - the two above
        for table in tables
    ]
    return [tuple(row) for table in found for row in table]


# --- Routes ---------------------------------------------------------------------------------------


class TestRoutes:
    async def test_get_tasks_is_a_bare_array_newest_first(self, ada: httpx.AsyncClient) -> None:
        first, second = await created(ada, title="first"), await created(ada, title="second")
        answer = await ada.get("/api/tasks")
        assert (answer.status_code, answer.json()) == (200, [second, first])

    async def test_post_tasks_is_201_with_the_task_its_location_and_its_etag(
        self, ada: httpx.AsyncClient
    ) -> None:
        answer = await ada.post("/api/tasks", json=MILK)
        assert (answer.status_code, answer.headers["ETag"]) == (201, '"1"')
        assert answer.headers["Location"] == at(answer.json())
        assert (await ada.get(answer.headers["Location"])).content == answer.content

    async def test_get_a_task_is_200_with_its_etag_and_304_on_a_matching_if_none_match(
        self, ada: httpx.AsyncClient
    ) -> None:
        task = await created(ada)
        answer = await ada.get(at(task))
        assert (answer.status_code, answer.json()) == (200, task)
        known = await ada.get(at(task), headers={"If-None-Match": answer.headers["ETag"]})
        assert (known.status_code, known.content) == (304, b"")

    async def test_put_keeps_absent_members_and_ignores_read_only_and_unknown_ones(
        self, ada: httpx.AsyncClient
    ) -> None:
        task = await created(ada, description="2 litres", priority="low", tags=["home"])
        foreign = {"id": str(uuid4()), "user_id": EVE, "version": 9, "created_at": "x", "x": 1}
        answer = await ada.put(at(task), json={"priority": "high"} | foreign)
        assert answer.status_code == 200
        changed = {"priority": "high", "version": 2, "updated_at": answer.json()["updated_at"]}
        assert answer.json() == task | changed

    async def test_put_takes_the_whole_task_back(self, ada: httpx.AsyncClient) -> None:
        task = await created(ada, due_date="2026-01-31T09:30:00+02:00", tags=["home"])
        answer = await ada.put(at(task), json=task | {"title": "Buy oat milk"})
        assert (answer.json()["title"], answer.json()["version"]) == ("Buy oat milk", 2)
        assert answer.json()["due_date"] == task["due_date"]

    @pytest.mark.parametrize("content_type", ["application/merge-patch+json", "application/json"])
    async def test_patch_is_a_merge_patch_in_which_null_clears_and_absent_keeps(
        self, ada: httpx.AsyncClient, content_type: str
    ) -> None:
        task = await created(ada, description="2 litres", priority="low", due_date="2026-01-31")
        headers = {"Content-Type": content_type}
        body = b'{"description": null, "priority": "high"}'
        changed = (await ada.patch(at(task), content=body, headers=headers)).json()
        assert (changed["description"], changed["priority"]) == (None, "high")
        assert (changed["title"], changed["due_date"]) == ("Buy milk", "2026-01-31")

    @pytest.mark.parametrize("name", ["complete", "toggle"])
    async def test_complete_toggles_when_empty_and_else_sets_under_both_its_names(
        self, ada: httpx.AsyncClient, name: str
    ) -> None:
        task = await created(ada)
        bodies = [None, {}, {"completed": True}, {"completed": True}, {"completed": False}]
        answers = [await ada.patch(at(task, f"/{name}"), json=body) for body in bodies]
        assert {answer.status_code for answer in answers} == {200}
        told = [answer.json()["completed"] for answer in answers]
        assert told == [True, False, True, True, False]

    async def test_delete_is_200_with_the_deleted_task_and_a_repeat_is_404(
        self, ada: httpx.AsyncClient
    ) -> None:
        task = await created(ada)
        answer = await ada.delete(at(task))
        assert (answer.status_code, answer.json()) == (200, task)
        assert (await ada.delete(at(task))).status_code == 404

    async def test_restore_undoes_a_delete_within_the_retention_time(
        self, ada: httpx.AsyncClient, database: Database
    ) -> None:
        task = await created(ada)
        await ada.delete(at(task))
        answer = await ada.post(at(task, "/restore"))
        assert (answer.status_code, answer.json()) == (200, task)
        tasks = PostgresTaskRepository(database)
        await tasks.delete(ADA, UUID(task["id"]), now=datetime.now(UTC) - RETENTION)
        assert (await ada.post(at(task, "/restore"))).status_code == 404

    async def test_delete_of_the_completed_clears_and_counts_them(
        self, ada: httpx.AsyncClient, eve: httpx.AsyncClient
    ) -> None:
        pending = await created(ada)
        for somebody in (ada, ada, eve):
            await created(somebody, completed=True)
        answer = await ada.delete("/api/tasks?status=completed")
        assert (answer.status_code, answer.json()) == (200, {"deleted": 2})
        assert (await ada.get("/api/tasks")).json() == [pending]
        assert len((await eve.get("/api/tasks")).json()) == 1

    async def test_delete_without_a_filter_is_400_and_deletes_nothing(
        self, ada: httpx.AsyncClient
    ) -> None:
        await created(ada, completed=True)
        assert (await ada.delete("/api/tasks")).status_code == 400
        assert len((await ada.get("/api/tasks")).json()) == 1

    async def test_me_is_the_user_the_tokens_end_and_the_counts(self, service: Service) -> None:
        end = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        token = token_of(ADA, exp=seconds(end), name="Ada Lovelace", email="ada@example.com")
        running = service.running(tokens=SharedSecretTokenVerifier(SECRET))
        async with running as app, client(app, token) as ada:
            await created(ada)
            await created(ada, completed=True)
            answer = await ada.get("/api/me")
        assert (answer.status_code, answer.json()) == (
            200,
            {
                "user_id": ADA,
                "name": "Ada Lovelace",
                "email": "ada@example.com",
                "token_expires_at": f"{end:%Y-%m-%dT%H:%M:%S}.000000Z",
                "tasks": {"total": 2, "pending": 1, "completed": 1},
            },
        )

    async def test_live_is_200_and_touches_no_database(
        self, proxied: Service, proxy: PostgresProxy
    ) -> None:
        async with proxied.asked_by_ada() as ada:
            await proxy.leave()
            trips = proxy.trips
            assert (await ada.get("/health/live")).status_code == 200
        assert proxy.trips == trips

    async def test_ready_is_200_only_while_the_database_answers(
        self, proxied: Service, proxy: PostgresProxy
    ) -> None:
        async with proxied.asked_by_ada() as ada:
            assert (await ada.get("/health/ready")).status_code == 200
            await proxy.leave()
            answer = await ada.get("/health/ready")
            assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
            assert [error["field"] for error in answer.json()["errors"]] == ["database"]
            await proxy.listen()
            assert (await ada.get("/health/ready")).status_code == 200

    async def test_ready_is_200_only_while_there_are_usable_token_keys(
        self, service: Service
    ) -> None:
        keys = RemoteKeySet(NOBODY_LISTENS, ("EdDSA",))
        checks = {"database": service.database.check, "auth_keys": keys.check}
        async with service.asked_by_ada(checks=checks) as ada:
            answer = await ada.get("/health/ready")
        await keys.aclose()
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert [error["field"] for error in answer.json()["errors"]] == ["auth_keys"]

    async def test_metrics_is_prometheus_text(
        self, ada: httpx.AsyncClient, stranger: httpx.AsyncClient
    ) -> None:
        await ada.get("/api/tasks")
        answer = await stranger.get("/metrics")
        assert (answer.status_code, answer.headers["Content-Type"][:10]) == (200, "text/plain")
        assert 'todo_requests_total{method="GET",route="/api/tasks",status="200"}' in answer.text

    async def test_docs_and_openapi_json_are_there_without_the_internet(
        self, stranger: httpx.AsyncClient
    ) -> None:
        page, schema = await stranger.get("/docs"), await stranger.get("/openapi.json")
        assert (page.status_code, schema.status_code) == (200, 200)
        assert not re.search(r"(src|href)=.https?://", page.text)
        assert schema.json()["openapi"].startswith("3.1")

    async def test_all_but_health_metrics_and_documentation_need_a_token(
        self, stranger: httpx.AsyncClient
    ) -> None:
        schema = (await stranger.get("/openapi.json")).json()
        for path, methods in schema["paths"].items():
            for method in methods:
                answer = await stranger.request(method, path)
                assert (answer.status_code == 401) == path.startswith("/api/"), (method, path)


# Every task route: its method, what stands behind ``/tasks``, and a body.
TASK_ROUTES: Final[list[tuple[str, str, Json]]] = [
    ("GET", "", None),
    ("POST", "", MILK),
    ("GET", "/{id}", None),
    ("PUT", "/{id}", MILK),
    ("PATCH", "/{id}", MILK),
    ("PATCH", "/{id}/complete", None),
    ("PATCH", "/{id}/toggle", None),
    ("DELETE", "/{id}", None),
    ("POST", "/{id}/restore", None),
    ("DELETE", "?status=completed", None),
]


class TestAliases:
    @pytest.mark.parametrize(
        ("user_id", "spelt"), [(ADA, ADA), (EVE, EVE), (EVE, "eve%40example.com")]
    )
    async def test_every_task_route_is_also_under_the_path_of_its_user(
        self, app: ASGIApp, service: Service, user_id: str, spelt: str
    ) -> None:
        async with client(app, service.token(user_id)) as user:
            task = await created(user)
            for method, rest, body in TASK_ROUTES:
                path = f"/api/{spelt}/tasks{rest.replace('{id}', task['id'])}"
                answer = await user.request(method, path, json=body)
                assert answer.status_code in {200, 201}, (method, path)

    async def test_another_users_path_is_403_user_mismatch_on_every_task_route(
        self, ada: httpx.AsyncClient, eve: httpx.AsyncClient, database: Database
    ) -> None:
        task = await created(eve, completed=True)
        before = await rows(database)
        for method, rest, body in TASK_ROUTES:
            path = f"/api/{EVE}/tasks{rest.replace('{id}', task['id'])}"
            answer = await ada.request(method, path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (403, "user_mismatch")
        assert await rows(database) == before

    async def test_one_trailing_slash_is_served_without_a_redirect_on_any_route(
        self, ada: httpx.AsyncClient
    ) -> None:
        task = await created(ada)
        for prefix in ("/api", f"/api/{ADA}"):
            for method, rest, body in TASK_ROUTES:
                path, question, query = rest.replace("{id}", task["id"]).partition("?")
                url = f"{prefix}/tasks{path}/{question}{query}"
                answer = await ada.request(method, url, json=body)
                assert answer.status_code in {200, 201}, (method, url)
        for path in ("/api/me/", "/health/live/", "/health/ready/", "/metrics/", "/docs/"):
            assert (await ada.get(path)).status_code == 200, path


# --- The query of the list ------------------------------------------------------------------------

# Four tasks, made in this order and called by their first letters.
LISTED: Final[list[Json]] = [
    {"title": "Apple pie", "priority": "low", "due_date": "2026-01-19", "tags": ["home"]},
    {
        "title": "banana",
        "priority": "high",
        "due_date": "2026-01-20T12:00:00Z",
        "tags": ["home", "work"],
        "completed": True,
    },
    {"title": "Cherry 100%", "description": "with MILK"},
    {
        "title": "drink milk",
        "priority": "medium",
        "due_date": "2026-01-21",
        "tags": ["work"],
        "completed": True,
    },
]


@pytest.fixture
async def listed(ada: httpx.AsyncClient) -> list[Json]:
    made = [await created(ada, **members) for members in LISTED]
    # The update that makes updated_at an order of its own.
    await ada.patch(at(made[0]), json={"description": "touched"})
    return made


def initials(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return "".join(task["title"][0].lower() for task in answer.json())


@pytest.mark.usefixtures("listed")
class TestTheQueryOfTheList:
    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("status=all", "dcba"),
            ("status=pending", "ca"),
            ("status=completed", "db"),
            ("completed=true", "db"),
            ("completed=false", "ca"),
            ("priority=high", "b"),
            ("priority=LOW", "a"),
            ("tag=home", "ba"),
            ("tag=home&tag=work", "b"),
            ("due_before=2026-01-20T12:00:00Z", "a"),
            ("due_after=2026-01-19", "db"),
            ("q=MILK", "dc"),
            ("q=100%25", "c"),
            ("q=", "dcba"),
            ("sort=created_at", "abcd"),
            ("sort=-created_at", "dcba"),
            ("sort=updated_at", "bcda"),
            ("sort=-updated_at", "adcb"),
            ("sort=title", "abcd"),
            ("sort=-title", "dcba"),
            ("sort=due_date", "abdc"),
            ("sort=-due_date", "dbac"),
            ("sort=priority", "adbc"),
            ("sort=-priority", "bdac"),
            ("order=asc", "abcd"),
            ("sort=title&order=desc", "dcba"),
            ("limit=1", "d"),
            ("limit=1000", "dcba"),
            ("colour=red", "dcba"),
        ],
    )
    async def test_gives_what_is_asked_for(
        self, ada: httpx.AsyncClient, query: str, expected: str
    ) -> None:
        assert initials(await ada.get(f"/api/tasks?{query}")) == expected

    @pytest.mark.parametrize(
        "query",
        [
            *("status=done", "completed=1", "priority=urgent", "tag=", "due_before=today"),
            *("due_after=2026-02-30", "sort=colour", "order=up", "limit=0", "limit=1001"),
            *("limit=ten", "q=%00"),
        ],
    )
    async def test_of_an_unknown_value_for_a_known_parameter_is_422(
        self, ada: httpx.AsyncClient, query: str
    ) -> None:
        answer = await ada.get(f"/api/tasks?{query}")
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
        (error,) = answer.json()["errors"]
        assert error["field"].split(".")[0] == query.partition("=")[0]

    @pytest.mark.parametrize("sort", ["title", "-due_date", "priority", "-updated_at"])
    async def test_with_a_link_leads_through_all_pages(
        self, ada: httpx.AsyncClient, sort: str
    ) -> None:
        whole = initials(await ada.get(f"/api/tasks?sort={sort}"))
        walked, following = "", f"/api/tasks?sort={sort}&limit=1"
        while following:
            page = await ada.get(following)
            walked += initials(page)
            following = page.links.get("next", {}).get("url", "")
        assert walked == whole

    async def test_tells_the_total_when_it_costs_nothing_or_when_asked(
        self, ada: httpx.AsyncClient
    ) -> None:
        exact = {"Prefer": "count=exact"}
        assert (await ada.get("/api/tasks")).headers["X-Total-Count"] == "4"
        assert "X-Total-Count" not in (await ada.get("/api/tasks?limit=1")).headers
        asked = await ada.get("/api/tasks?limit=1&status=pending", headers=exact)
        assert asked.headers["X-Total-Count"] == "2"

    async def test_with_a_tampered_cursor_is_400(
        self, ada: httpx.AsyncClient, eve: httpx.AsyncClient
    ) -> None:
        link = httpx.URL((await ada.get("/api/tasks?limit=1")).links["next"]["url"])
        for somebody, cursor in (
            (ada, link.params["cursor"][:-1]),
            (ada, "anything"),
            (eve, link.params["cursor"]),
        ):
            answer = await somebody.get("/api/tasks", params={"limit": "1", "cursor": cursor})
            assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor")

    async def test_without_a_limit_is_everything_up_to_1000(
        self, ada: httpx.AsyncClient, database: Database
    ) -> None:
        more = (
            "INSERT INTO todo.tasks (id, user_id, title, due_all_day, tags, created_at, updated_at,"
            " version) SELECT gen_random_uuid(), $1, 'x', false, '{}', now(), now(), 1"
            " FROM generate_series(1, $2::int)"
        )
        statement = Statement(more, ("owner", "number"))
        await database.fetch(statement, owner=ADA, number=996)
        answer = await ada.get("/api/tasks")
        assert (len(answer.json()), answer.headers["X-Total-Count"]) == (1000, "1000")
        assert "Link" not in answer.headers
        await database.fetch(statement, owner=ADA, number=1)
        answer = await ada.get("/api/tasks")
        assert (len(answer.json()), "next" in answer.links) == (1000, True)
        assert "X-Total-Count" not in answer.headers
        assert len((await ada.get(answer.links["next"]["url"])).json()) == 1


# --- The task -------------------------------------------------------------------------------------


class TestTheTask:
    async def test_has_these_members_in_this_order(self, ada: httpx.AsyncClient) -> None:
        task = await created(ada)
        assert list(task) == MEMBERS
        new = {"user_id": ADA, "title": "Buy milk", "completed_at": None, "version": 1}
        assert task == task | UNSAID | new

    async def test_has_an_id_of_uuid_version_7(self, ada: httpx.AsyncClient) -> None:
        assert UUID((await created(ada))["id"]).version == 7

    @pytest.mark.parametrize(
        "user_id", [ADA, EVE, "1", "0198F3C2-7D1E-7C3A-9B1F-5A0F6F1D2C3B", "x" * 255]
    )
    async def test_has_the_tokens_subject_as_it_came_for_its_user(
        self, app: ASGIApp, service: Service, user_id: str
    ) -> None:
        async with client(app, service.token(user_id)) as user:
            assert (await created(user))["user_id"] == user_id

    @pytest.mark.parametrize(
        ("members", "status"),
        [
            ({"title": " \n x \t"}, 201),
            ({"title": "x" * 200}, 201),
            ({"title": "😀" * 200}, 201),
            ({"title": f" {'x' * 200} "}, 201),
            ({"title": ""}, 422),
            ({"title": " \u00a0\u3000"}, 422),
            ({"title": "x" * 201}, 422),
            ({"title": None}, 422),
            ({"description": ""}, 201),
            ({"description": "é" * 2000}, 201),
            ({"description": "x" * 2001}, 422),
            ({"tags": ["x" * 50] * 30}, 201),
            ({"tags": [str(number) for number in range(20)]}, 201),
            ({"tags": [str(number) for number in range(21)]}, 422),
            ({"tags": ["x" * 51]}, 422),
            ({"tags": [" "]}, 422),
            ({"title": "a\0b"}, 422),
            ({"title": "\ud800"}, 422),
            ({"description": "\udfff"}, 422),
            ({"tags": ["\0"]}, 422),
            ({"priority": "HIGH"}, 201),
            ({"priority": "urgent"}, 422),
            ({"due_date": "2026-02-29"}, 422),
            ({"due_date": "2026-01-31T09:30:00"}, 422),
        ],
        ids=lambda value: repr(value)[:40],
    )
    async def test_keeps_the_bounds(
        self, ada: httpx.AsyncClient, members: Json, status: int
    ) -> None:
        body = json.dumps(MILK | members)
        answer = await ada.post("/api/tasks", content=body, headers=JSON)
        assert answer.status_code == status

    async def test_has_its_title_and_tags_trimmed_and_each_tag_once(
        self, ada: httpx.AsyncClient
    ) -> None:
        task = await created(ada, title=" Buy milk\n", tags=["home", " home", "food "])
        assert (task["title"], task["tags"]) == ("Buy milk", ["home", "food"])

    @pytest.mark.parametrize("text", HOSTILE_TEXTS)
    async def test_is_stored_and_returned_exactly_as_sent_otherwise(
        self, ada: httpx.AsyncClient, text: str
    ) -> None:
        sent = {"title": text, "description": f" {text}\r\n", "tags": [text[:50]]}
        task = await created(ada, **sent)
        assert (await ada.get(at(task))).json() == task == task | sent

    @pytest.mark.parametrize(
        ("sent", "kept"),
        [
            ("2026-01-31", "2026-01-31"),
            ("2026-01-31T09:30:00Z", "2026-01-31T09:30:00.000000Z"),
            ("2026-01-31T00:30:00.5+02:00", "2026-01-30T22:30:00.500000Z"),
            ("0001-01-01", "0001-01-01"),
            ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ],
    )
    async def test_has_a_date_as_a_date_and_a_date_time_in_utc(
        self, ada: httpx.AsyncClient, sent: str, kept: str
    ) -> None:
        task = await created(ada, due_date=sent)
        assert (await ada.get(at(task))).json()["due_date"] == task["due_date"] == kept

    async def test_is_snake_case_and_may_be_sent_in_camel_case(
        self, ada: httpx.AsyncClient
    ) -> None:
        task = await created(ada, dueDate="2026-01-31")
        assert (task["due_date"], list(task)) == ("2026-01-31", MEMBERS)

    async def test_has_times_in_utc_with_z(self, ada: httpx.AsyncClient) -> None:
        task = await created(ada, completed=True)
        for name in ("created_at", "updated_at", "completed_at"):
            assert TIME.fullmatch(task[name])


# --- Concurrency ----------------------------------------------------------------------------------


class TestConcurrency:
    async def test_the_etag_is_the_quoted_version(self, ada: httpx.AsyncClient) -> None:
        task = await created(ada)
        answer = await ada.patch(at(task), json={"title": "Buy oat milk"})
        assert answer.headers["ETag"] == f'"{answer.json()["version"]}"' == '"2"'

    @pytest.mark.parametrize(
        ("method", "suffix", "body"),
        [
            ("PUT", "", {"title": "Mine"}),
            ("PATCH", "", {"title": "Mine"}),
            ("PATCH", "/complete", {"completed": True}),
            ("PATCH", "/complete", None),
            ("PATCH", "/toggle", None),
            ("DELETE", "", None),
        ],
    )
    async def test_a_stale_if_match_is_412_and_nothing_is_changed(
        self, ada: httpx.AsyncClient, database: Database, method: str, suffix: str, body: Json
    ) -> None:
        task = await created(ada)
        await ada.patch(at(task), json={"title": "Buy oat milk"})
        before = await rows(database)
        stale = {"If-Match": '"1"'}
        answer = await ada.request(method, at(task, suffix), json=body, headers=stale)
        assert (answer.status_code, answer.json()["code"]) == (412, "stale_version")
        assert await rows(database) == before
        fresh = {"If-Match": '"2"'}
        answer = await ada.request(method, at(task, suffix), json=body, headers=fresh)
        assert answer.status_code == 200

    async def test_of_rivals_with_the_same_if_match_exactly_one_wins(
        self, ada: httpx.AsyncClient
    ) -> None:
        task = await created(ada)
        headers = {"If-Match": '"1"'}
        rivals = [
            ada.patch(at(task), json={"title": f"rival {number}"}, headers=headers)
            for number in range(10)
        ]
        statuses = [answer.status_code for answer in await asyncio.gather(*rivals)]
        assert sorted(statuses) == [200] + [412] * 9

    async def test_without_if_match_members_that_were_not_sent_are_never_reverted(
        self, ada: httpx.AsyncClient
    ) -> None:
        task = await created(ada)
        changes = [{"title": "Buy oat milk"}, {"priority": "low"}, {"tags": ["work"]}]
        edits = [ada.patch(at(task), json=change) for change in changes]
        completion = ada.patch(at(task, "/complete"), json={"completed": True})
        await asyncio.gather(*edits, completion)
        merged = (await ada.get(at(task))).json()
        assert (merged["title"], merged["priority"]) == ("Buy oat milk", "low")
        assert (merged["tags"], merged["completed"], merged["version"]) == (["work"], True, 5)

    async def test_the_list_has_an_etag_that_changes_with_its_tasks(
        self, ada: httpx.AsyncClient
    ) -> None:
        task = await created(ada)
        tag = (await ada.get("/api/tasks")).headers["ETag"]
        assert (await ada.get("/api/tasks", headers={"If-None-Match": tag})).status_code == 304
        await ada.patch(at(task, "/toggle"))
        assert (await ada.get("/api/tasks", headers={"If-None-Match": tag})).status_code == 200

    async def test_the_same_idempotency_key_and_body_give_the_first_answer_again(
        self, ada: httpx.AsyncClient
    ) -> None:
        key = {"Idempotency-Key": str(uuid4())}
        first = await ada.post("/api/tasks", json=MILK, headers=key)
        await ada.delete(at(first.json()))
        again = await ada.post("/api/tasks", json=MILK, headers=key)
        assert (again.status_code, again.content) == (201, first.content)
        assert (await ada.get("/api/tasks")).json() == []

    async def test_the_same_idempotency_key_with_another_body_is_422(
        self, ada: httpx.AsyncClient
    ) -> None:
        key = {"Idempotency-Key": str(uuid4())}
        first = (await ada.post("/api/tasks", json=MILK, headers=key)).json()
        answer = await ada.post("/api/tasks", json={"title": "x"}, headers=key)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
        assert (await ada.get("/api/tasks")).json() == [first]

    async def test_an_idempotency_key_survives_a_restart(
        self, service: Service, address: DatabaseUrl
    ) -> None:
        key, bodies = {"Idempotency-Key": str(uuid4())}, []
        for _ in range(2):
            database = Database(address, pool_size=1)
            async with replace(service, database=database).asked_by_ada() as ada:
                bodies.append((await ada.post("/api/tasks", json=MILK, headers=key)).content)
            await database.close()
        assert bodies[0] == bodies[1]

    async def test_an_idempotency_key_works_across_replicas_for_simultaneous_duplicates(
        self, service: Service, address: DatabaseUrl
    ) -> None:
        key, other = {"Idempotency-Key": str(uuid4())}, Database(address, pool_size=5)
        replica = replace(service, database=other)
        async with service.asked_by_ada() as one, replica.asked_by_ada() as two:
            asked = [
                somebody.post("/api/tasks", json=MILK, headers=key) for somebody in (one, two) * 10
            ]
            answers = await asyncio.gather(*asked)
            stored = (await one.get("/api/tasks")).json()
        await other.close()
        assert {(answer.status_code, answer.content) for answer in answers} == {
            (201, answers[0].content)
        }
        assert stored == [answers[0].json()]


# --- Errors ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refused:
    """A request of ada's and the problem that it gets; ``{…}`` in it stands for a task's id.

    There are ada's ``{task}`` and ``{deleted}``, and ``{foreign}`` of eve's.
    """

    status: int
    code: str
    method: str = "GET"
    path: str = "/api/tasks"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


VALID: Final = b'{"title": "Buy milk"}'
NOT_JWT: Final = "x" * 32
REFUSED: Final = {
    "malformed JSON": Refused(400, "malformed_json", "POST", headers=JSON, body=b"{"),
    "no filter": Refused(400, "filter_required", "DELETE"),
    "bad cursor": Refused(400, "bad_cursor", path="/api/tasks?cursor=x"),
    "bad key": Refused(
        400, "bad_request", "POST", headers=JSON | {"Idempotency-Key": "a b"}, body=VALID
    ),
    "no token": Refused(401, "token_missing", headers={"Authorization": ""}),
    "another scheme": Refused(401, "token_missing", headers={"Authorization": "Basic eDp4"}),
    "no segments": Refused(401, "token_malformed", headers={"Authorization": "Bearer x.y"}),
    "session token": Refused(401, "token_not_jwt", headers={"Authorization": f"Bearer {NOT_JWT}"}),
    "another user": Refused(403, "user_mismatch", path=f"/api/{EVE}/tasks"),
    "unknown task": Refused(404, "not_found", path=f"/api/tasks/{uuid4()}"),
    "deleted task": Refused(404, "not_found", path="/api/tasks/{deleted}"),
    "foreign task": Refused(404, "not_found", path="/api/tasks/{foreign}"),
    "malformed id": Refused(404, "not_found", path="/api/tasks/1"),
    "no such route": Refused(404, "not_found", path="/nowhere"),
    "no such method": Refused(405, "method_not_allowed", "TRACE"),
    "no JSON wanted": Refused(406, "not_acceptable", headers={"Accept": "text/html"}),
    "not deleted": Refused(409, "not_deleted", "POST", "/api/tasks/{task}/restore"),
    "stale": Refused(412, "stale_version", "DELETE", "/api/tasks/{task}", {"If-Match": '"9"'}),
    "large body": Refused(
        413, "body_too_large", "POST", headers=JSON, body=b" " * (1024 * 1024 + 1)
    ),
    "long path": Refused(414, "uri_too_long", path=f"/api/tasks?q={'x' * 8192}"),
    "no JSON sent": Refused(
        415, "unsupported_media_type", "POST", headers={"Content-Type": "text/plain"}
    ),
    "invalid task": Refused(422, "validation_failed", "POST", headers=JSON, body=b'{"title": ""}'),
    "invalid change": Refused(
        422, "validation_failed", "PATCH", "/api/tasks/{task}", JSON, b'{"title": null}'
    ),
    "invalid query": Refused(422, "validation_failed", path="/api/tasks?limit=0"),
    "large head": Refused(431, "headers_too_large", headers={"X-Filler": "x" * 16384}),
}
every_refusal = pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)


@pytest.fixture
async def ids(ada: httpx.AsyncClient, eve: httpx.AsyncClient) -> dict[str, str]:
    task, deleted, foreign = await created(ada), await created(ada), await created(eve)
    await ada.delete(at(deleted))
    return {"task": task["id"], "deleted": deleted["id"], "foreign": foreign["id"]}


def is_the_problem(answer: httpx.Response, status: int, code: str) -> None:
    """Check that the answer is that problem, whole and as the contract shows it."""
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["detail"] == problem["message"] != ""
    errors = problem.pop("errors", [])
    assert all({"field", "code", "message"} <= set(error) for error in errors)
    assert problem == {
        "type": f"/problems/{code}",
        "title": problem["title"],
        "status": status,
        "detail": problem["detail"],
        "message": problem["detail"],
        "code": code,
        "instance": answer.request.url.raw_path.decode().partition("?")[0],
        "request_id": answer.headers["X-Request-ID"],
    }


class TestErrors:
    @every_refusal
    async def test_are_problems_that_a_browser_can_read_and_change_nothing(
        self,
        ada: httpx.AsyncClient,
        ids: dict[str, str],
        database: Database,
        refused: Refused,
    ) -> None:
        before = await rows(database)
        answer = await ada.request(
            refused.method,
            refused.path.format(**ids),
            headers={"Origin": FRONTEND, **refused.headers},
            content=refused.body,
        )
        is_the_problem(answer, refused.status, refused.code)
        assert answer.headers["Access-Control-Allow-Origin"] == FRONTEND
        assert (await ada.get(answer.json()["type"])).json()["code"] == refused.code
        assert await rows(database) == before

    async def test_name_each_wrong_field_with_a_pointer(self, ada: httpx.AsyncClient) -> None:
        answer = await ada.post("/api/tasks", json={"title": "", "tags": ["x", 1]})
        is_the_problem(answer, 422, "validation_failed")
        assert answer.json()["errors"] == [
            {
                "field": "title",
                "pointer": "/title",
                "code": "blank",
                "message": "must not be empty",
            },
            {
                "field": "tags.1",
                "pointer": "/tags/1",
                "code": "wrong_type",
                "message": "must be a string",
            },
        ]

    async def test_of_a_missing_token_challenge_without_an_error(
        self, stranger: httpx.AsyncClient
    ) -> None:
        answer = await stranger.get("/api/tasks")
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="todo-api"'

    @pytest.mark.parametrize(
        ("tampering", "code"),
        [
            (lambda token: token[:-4] + "AAAA", "token_invalid"),
            (lambda token: f"{token}.{token}", "token_malformed"),
            (lambda _: NOT_JWT, "token_not_jwt"),
        ],
    )
    async def test_of_a_token_that_was_sent_challenge_with_the_error_and_its_description(
        self, app: ASGIApp, service: Service, tampering: Callable[[str], str], code: str
    ) -> None:
        async with client(app, tampering(service.token(ADA))) as nobody:
            answer = await nobody.get("/api/tasks")
        is_the_problem(answer, 401, code)
        assert re.fullmatch(
            r'Bearer realm="todo-api", error="invalid_token", error_description="[^"]+"',
            answer.headers["WWW-Authenticate"],
        )

    async def test_of_a_session_token_say_where_the_jwt_comes_from(self, app: ASGIApp) -> None:
        async with client(app, NOT_JWT) as nobody:
            assert "/api/auth/token" in (await nobody.get("/api/tasks")).json()["detail"]

    async def test_of_a_token_that_has_expired_are_401_token_expired(
        self, app: ASGIApp, service: Service
    ) -> None:
        yesterday = datetime.now(UTC) - timedelta(days=1)
        token = service.issuer.token(ADA, yesterday, lifetime=timedelta(hours=1))
        async with client(app, token) as ada:
            is_the_problem(await ada.get("/api/tasks"), 401, "token_expired")

    async def test_of_a_task_missing_deleted_foreign_or_malformed_are_the_same_bytes(
        self, ada: httpx.AsyncClient, ids: dict[str, str]
    ) -> None:
        ada.headers["X-Request-ID"] = "r1"
        seen = set()
        for task_id in (str(uuid4()), ids["deleted"], ids["foreign"], f"no{uuid4()}"[:36]):
            answer = await ada.get(f"/api/tasks/{task_id}")
            fields = {field for field in answer.headers.items() if field[0] != "ratelimit"}
            told = answer.content.replace(task_id.encode(), b"")
            seen.add((answer.status_code, told, frozenset(fields)))
        assert len(seen) == 1

    async def test_of_retries_that_are_exhausted_are_409_conflict(self, service: Service) -> None:
        tasks = ContestedRepository(service.database)
        async with service.asked_by_ada(tasks) as ada:
            task = await created(ada)
            is_the_problem(await ada.patch(at(task, "/toggle")), 409, "conflict")
            assert not (await ada.get(at(task))).json()["completed"]

    async def test_beyond_the_rate_limit_are_429_with_its_fields(self, service: Service) -> None:
        limiter = LimitsRateLimiter({PER_USER: "2/minute", PER_FAILING_ADDRESS: "off"})
        async with service.asked_by_ada(limiter=limiter) as ada:
            for remaining in (1, 0):
                answer = await ada.get("/api/tasks")
                assert answer.headers["RateLimit-Policy"] == '"user";q=2;w=60'
                assert re.fullmatch(rf'"user";r={remaining};t=\d+', answer.headers["RateLimit"])
            answer = await ada.get("/api/tasks")
        is_the_problem(answer, 429, "rate_limited")
        assert 0 < int(answer.headers["Retry-After"]) <= 60
        assert answer.headers["RateLimit"] == f'"user";r=0;t={answer.headers["Retry-After"]}'

    async def test_while_the_database_is_away_are_503_with_retry_after(
        self, proxied: Service, proxy: PostgresProxy
    ) -> None:
        async with proxied.asked_by_ada() as ada:
            task = await created(ada)
            await proxy.leave()
            answers = [
                await ada.request(method, f"/api/tasks{rest.format(id=task['id'])}", json=body)
                for method, rest, body in TASK_ROUTES
            ]
            await proxy.listen()
            assert (await ada.get("/api/tasks")).json() == [task]
        for answer in answers:
            is_the_problem(answer, 503, "database_unavailable")
            assert int(answer.headers["Retry-After"]) > 0

    async def test_while_no_keys_can_be_had_are_503_and_never_401(self, service: Service) -> None:
        keys = RemoteKeySet(NOBODY_LISTENS, ("EdDSA",))
        issuer = service.issuer.name
        verifier = JwksTokenVerifier(keys, issuer=issuer, audience=issuer)
        async with service.asked_by_ada(tokens=verifier) as ada:
            answer = await ada.get("/api/tasks")
        await keys.aclose()
        is_the_problem(answer, 503, "auth_keys_unavailable")
        assert int(answer.headers["Retry-After"]) > 0

    async def test_of_more_than_can_be_done_are_503_overloaded(self, service: Service) -> None:
        async with service.asked_by_ada(concurrency=0) as ada:
            answer = await ada.get("/api/tasks")
        is_the_problem(answer, 503, "overloaded")
        assert int(answer.headers["Retry-After"]) > 0

    async def test_of_a_bug_are_a_500_without_internals(self, service: Service) -> None:
        async with service.asked_by_ada(BrokenRepository(service.database)) as ada:
            answer = await ada.get("/api/me", headers={"Origin": FRONTEND})
        is_the_problem(answer, 500, "internal_error")
        assert "hunter2" not in f"{answer.text} {answer.headers}"
        assert answer.headers["Access-Control-Allow-Origin"] == FRONTEND

    async def test_of_a_token_are_found_once_when_the_request_arrives(
        self, service: Service
    ) -> None:
        tokens = CountingVerifier(service.verifier())
        async with service.asked_by_ada(tokens=tokens) as ada:
            task = await created(ada)
            await ada.patch(at(task), json={"title": "Buy oat milk"})
        assert tokens.judged == 2


class ContestedRepository(PostgresTaskRepository):
    """Somebody else saves the task just before each save."""

    async def save(self, task: Task) -> None:
        latest = await self.get(task.owner, task.id)
        await super().save(latest.changed(task.updated_at, description=f"{latest.version}"))
        await super().save(task)


class BrokenRepository(PostgresTaskRepository):
    async def count(self, _owner: str) -> Any:  # noqa: ANN401 - it never returns
        raise RuntimeError("at postgresql://ada:hunter2@db/todo")


class CountingVerifier:
    def __init__(self, verifier: TokenVerifier) -> None:
        self.judged = 0
        self._verifier = verifier

    async def verify(self, token: str, now: datetime) -> Principal:
        self.judged += 1
        return await self._verifier.verify(token, now)


# --- Headers --------------------------------------------------------------------------------------


class TestHeaders:
    async def test_x_request_id_is_on_every_response_and_a_sane_inbound_one_is_kept(
        self, ada: httpx.AsyncClient
    ) -> None:
        for path in ("/api/tasks", "/health/live", "/nowhere", "/docs", "/metrics"):
            assert (await ada.get(path)).headers["X-Request-ID"]
            kept = await ada.get(path, headers={"X-Request-ID": "mine"})
            assert kept.headers.get_list("X-Request-ID") == ["mine"]

    async def test_api_answers_are_private_and_vary_and_are_not_sniffed(
        self, ada: httpx.AsyncClient
    ) -> None:
        for path in ("/api/tasks", "/api/me", "/api/tasks/1", f"/api/{EVE}/tasks"):
            headers = (await ada.get(path, headers={"Origin": FRONTEND})).headers
            assert headers.get_list("Cache-Control") == ["private, no-cache"]
            assert headers.get_list("Vary", split_commas=True) == ["Origin", "Authorization"]
            assert headers.get_list("X-Content-Type-Options") == ["nosniff"]

    async def test_rate_limit_fields_are_on_answers_of_users(self, ada: httpx.AsyncClient) -> None:
        headers = (await ada.get("/api/tasks")).headers
        assert headers["RateLimit-Policy"] == '"user";q=600;w=60'
        assert headers["RateLimit"].startswith('"user";r=')

    async def test_these_are_exposed_to_browsers(self, ada: httpx.AsyncClient) -> None:
        answer = await ada.get("/api/tasks", headers={"Origin": FRONTEND})
        exposed = answer.headers.get_list("Access-Control-Expose-Headers", split_commas=True)
        assert set(exposed) >= {
            *("ETag", "Location", "Link", "X-Total-Count", "X-Request-ID"),
            *("RateLimit", "RateLimit-Policy", "Retry-After"),
        }

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def test_preflights_are_allowed_with_every_field_that_the_contract_names(
        self, stranger: httpx.AsyncClient, method: str
    ) -> None:
        fields = "authorization,content-type,if-match,if-none-match,idempotency-key,prefer"
        asked = {
            "Origin": FRONTEND,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": fields,
        }
        for path in ("/api/tasks", "/api/me", f"/api/{ADA}/tasks/1/complete/"):
            answer = await stranger.options(path, headers=asked)
            assert (answer.status_code, answer.content) == (204, b"")
            assert answer.headers["Access-Control-Allow-Origin"] == FRONTEND

    async def test_other_origins_can_read_nothing(self, ada: httpx.AsyncClient) -> None:
        answer = await ada.get("/api/tasks", headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in answer.headers


# --- Preferences ----------------------------------------------------------------------------------


class TestPreferences:
    async def test_return_minimal_is_an_answer_without_a_body(self, ada: httpx.AsyncClient) -> None:
        minimal = {"Prefer": "return=minimal"}
        new = await ada.post("/api/tasks", json=MILK, headers=minimal)
        assert (new.status_code, new.content, new.headers["ETag"]) == (201, b"", '"1"')
        changed = await ada.patch(
            new.headers["Location"], json={"title": "Buy oat milk"}, headers=minimal
        )
        assert (changed.status_code, changed.content, changed.headers["ETag"]) == (204, b"", '"2"')

    async def test_handling_strict_refuses_unknown_members_and_parameters(
        self, ada: httpx.AsyncClient
    ) -> None:
        strict = {"Prefer": "handling=strict"}
        body = await ada.post("/api/tasks", json=MILK | {"colour": "red"}, headers=strict)
        query = await ada.get("/api/tasks?colour=red", headers=strict)
        for answer in (body, query):
            is_the_problem(answer, 422, "validation_failed")
            assert [error["field"] for error in answer.json()["errors"]] == ["colour"]


# --- Principles -----------------------------------------------------------------------------------

NASTY: Final = [
    *HOSTILE_TEXTS,
    *(
        "",
        " ",
        "\0",
        "\ud800",
        "null",
        "undefined",
        "NaN",
        "-1",
        "1e400",
        "[]",
        "{}",
        "../..",
        "%00",
    ),
    *("x" * 5000, "'", '"', "\\", "$1", "${7*7}", "{{7*7}}", "\r\nSet-Cookie: a=b"),
]


class TestPrinciples:
    async def test_what_is_acknowledged_is_stored(
        self, ada: httpx.AsyncClient, service: Service, address: DatabaseUrl
    ) -> None:
        task = await created(ada)
        for method, rest, body in (
            ("PATCH", "", {"title": "Buy oat milk"}),
            ("PATCH", "/complete", {"completed": True}),
            ("PATCH", "/toggle", None),
            ("DELETE", "", None),
            ("POST", "/restore", None),
        ):
            answer = await ada.request(method, at(task, rest), json=body)
            another = Database(address, pool_size=1)
            async with replace(service, database=another).asked_by_ada() as elsewhere:
                seen = await elsewhere.get(at(task))
            await another.close()
            assert (seen.status_code == 404) == (method == "DELETE")
            assert method == "DELETE" or seen.content == answer.content

    @pytest.mark.parametrize("nasty", NASTY, ids=lambda text: f"{len(text)} {ascii(text)[:20]}")
    async def test_nothing_that_a_client_sends_causes_a_5xx(
        self, ada: httpx.AsyncClient, nasty: str
    ) -> None:
        task = await created(ada)
        members = ("title", *UNSAID, nasty)
        bodies = [
            json.dumps({**MILK, member: value})
            for member in members
            for value in (nasty, [nasty], {nasty: nasty})
        ]
        sendable = nasty.encode(errors="replace")
        parameters = (
            *("status", "completed", "priority", "tag", "due_before", "due_after", "q"),
            *("sort", "order", "limit", "cursor"),
        )
        fields = (
            *("If-Match", "If-None-Match", "Prefer", "Idempotency-Key", "Accept"),
            *("X-Request-ID", "Content-Type", "Origin"),
        )
        heads = [[(b"Content-Type", b"application/json"), (f.encode(), sendable)] for f in fields]
        answers = [
            *[await ada.post("/api/tasks", content=body, headers=JSON) for body in bodies],
            *[await ada.patch(at(task), content=body, headers=JSON) for body in bodies],
            *[await ada.get("/api/tasks", params={name: sendable}) for name in parameters],
            *[await ada.get("/api/tasks", headers=head) for head in heads],
            *[await ada.post("/api/tasks", content=VALID, headers=head) for head in heads],
            *[await ada.put(at(task), content=VALID, headers=head) for head in heads],
        ]
        assert max(answer.status_code for answer in answers) < 500


# --- Round trips ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A request that is measured; ``{id}`` stands for a task and ``{n}`` for a number of its own.

    ``before`` are requests that have to come before it.
    """

    trips: int
    method: str
    path: str
    body: Json = None
    headers: Mapping[str, str] = field(default_factory=dict)
    before: Sequence["Asked"] = ()

    async def by(self, somebody: httpx.AsyncClient, task: Json, number: int) -> httpx.Response:
        def filled(text: str) -> str:
            return text.replace("{id}", task["id"]).replace("{n}", str(number))

        headers = {name: filled(value) for name, value in self.headers.items()}
        return await somebody.request(
            self.method, filled(self.path), json=self.body, headers=headers
        )


TASKS: Final = "/api/tasks"
ONE: Final = "/api/tasks/{id}"
OAT: Final = {"title": "Buy oat milk"}
FIRST: Final = {"If-Match": '"1"'}
KEY: Final = {"Idempotency-Key": "key-{n}"}
DELETED: Final = Asked(1, "DELETE", ONE)
ROUND_TRIPS: Final = {
    "GET /api/tasks": Asked(1, "GET", TASKS),
    "GET /api/tasks, filtered, sorted, counted": Asked(
        1, "GET", f"{TASKS}?status=pending&q=milk&sort=title", headers={"Prefer": "count=exact"}
    ),
    "GET /api/tasks, known: 304": Asked(1, "GET", TASKS, headers={"If-None-Match": "*"}),
    "POST /api/tasks": Asked(1, "POST", TASKS, MILK),
    "POST /api/tasks, new Idempotency-Key": Asked(1, "POST", TASKS, MILK, KEY),
    "POST /api/tasks, repeated Idempotency-Key": Asked(
        2, "POST", TASKS, MILK, KEY, before=[Asked(1, "POST", TASKS, MILK, KEY)]
    ),
    "GET /api/tasks/{id}": Asked(1, "GET", ONE),
    "GET /api/tasks/{id}, known: 304": Asked(1, "GET", ONE, headers={"If-None-Match": "*"}),
    "PUT /api/tasks/{id}": Asked(1, "PUT", ONE, OAT),
    "PUT /api/tasks/{id}, If-Match": Asked(2, "PUT", ONE, OAT, FIRST),
    "PATCH /api/tasks/{id}": Asked(1, "PATCH", ONE, OAT),
    "PATCH /api/tasks/{id}, If-Match": Asked(2, "PATCH", ONE, OAT, FIRST),
    "PATCH /api/tasks/{id}, nothing altered": Asked(1, "PATCH", ONE, {}),
    "PATCH /api/tasks/{id}/complete with a value": Asked(
        1, "PATCH", f"{ONE}/complete", {"completed": True}
    ),
    "PATCH /api/tasks/{id}/complete with a value, If-Match": Asked(
        2, "PATCH", f"{ONE}/complete", {"completed": True}, FIRST
    ),
    "PATCH /api/tasks/{id}/complete, toggling": Asked(2, "PATCH", f"{ONE}/complete"),
    "PATCH /api/tasks/{id}/toggle": Asked(2, "PATCH", f"{ONE}/toggle"),
    "DELETE /api/tasks/{id}": DELETED,
    "DELETE /api/tasks/{id}, If-Match": Asked(2, "DELETE", ONE, headers=FIRST),
    "POST /api/tasks/{id}/restore": Asked(1, "POST", f"{ONE}/restore", before=[DELETED]),
    "DELETE /api/tasks?status=completed": Asked(1, "DELETE", f"{TASKS}?status=completed"),
    "GET /api/me": Asked(1, "GET", "/api/me"),
    "GET /health/live": Asked(0, "GET", "/health/live"),
    "GET /health/ready": Asked(1, "GET", "/health/ready"),
    "GET /metrics": Asked(0, "GET", "/metrics"),
    "any task that is not there: 404": Asked(1, "GET", f"{TASKS}/{uuid4()}"),
    "any malformed id: 404": Asked(0, "DELETE", f"{TASKS}/malformed"),
    "any invalid body: 422": Asked(0, "PATCH", ONE, {"title": ""}),
    "any bad token: 401": Asked(0, "GET", TASKS, headers={"Authorization": "Bearer x.y.z"}),
    "another user's path: 403": Asked(0, "GET", f"/api/{EVE}/tasks"),
}


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[dict[str, int]]:
    """What was measured, shown when all of it was."""
    measured: dict[str, int] = {}
    yield measured
    plugins = request.config.pluginmanager
    terminal, capture = map(plugins.get_plugin, ("terminalreporter", "capturemanager"))
    if terminal is None or capture is None:
        return
    with capture.global_and_fixture_disabled():
        terminal.write_line("\nRound trips to the database")
        for route, trips in measured.items():
            terminal.write_line(f"  {trips}  {route}")


class TestRoundTrips:
    @pytest.mark.parametrize("route", ROUND_TRIPS)
    async def test_of_a_request_are_as_few_as_promised(
        self, proxied: Service, proxy: PostgresProxy, table: dict[str, int], route: str
    ) -> None:
        asked = ROUND_TRIPS[route]
        async with proxied.asked_by_ada() as ada:
            for number in (1, 2):  # the first time the statements are prepared
                task = await created(ada)
                for before in asked.before:
                    await before.by(ada, task, number)
                table[route] = await proxy.cost(asked.by(ada, task, number))
        assert table[route] == asked.trips
