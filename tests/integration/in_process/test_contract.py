"""The HTTP contract of tasks with real tokens on the real PostgreSQL, and its round trips."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Unpack
from uuid import uuid4

import httpx
import pytest
from starlette.types import ASGIApp
from structlog.testing import capture_logs
from structlog.typing import EventDict

from http_contract import *  # noqa: F403 - its suites, for pytest to collect
from support.event_streams import HELLO, opened
from support.frontend import token_of
from support.http_client import AppOptions, client, served
from support.jose_tokens import SECRET, seconds
from support.postgres.round_trips import PostgresProxy, proxy_before
from support.tasks import HOSTILE_TEXTS, OPTIONAL_MEMBERS, a_task
from todo_adapters.change_brokers import InProcessChangeBroker
from todo_adapters.jose.development import DevelopmentIssuer
from todo_adapters.jose.key_sets import RemoteKeySet
from todo_adapters.jose.verifiers import JwksTokenVerifier, SharedSecretTokenVerifier
from todo_adapters.postgres.database import Database, Timeouts
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl
from todo_api.http.event_streams import publisher
from todo_api.http.responses import serialize_task, to_json
from todo_api.http.routing import Timeouts as RequestTimeouts
from todo_domain.ports import TaskRepository, TokenVerifier
from todo_domain.task import Task

Json = Any

ADA: Final = "ada"
EVE: Final = "eve"
NOT_JWT: Final = "x" * 32
MILK: Final = {"title": "Buy milk"}
JSON: Final = {"Content-Type": "application/json"}
VALID: Final = b'{"title": "Buy milk"}'
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
        **parts: Unpack[AppOptions],
    ) -> AsyncIterator[ASGIApp]:
        chosen: AppOptions = {"checks": {"database": self.database.check}}
        chosen.update(parts)
        tasks = tasks or PostgresTaskRepository(self.database)
        async with served(tasks, tokens or self.verifier(), **chosen) as app:
            yield app

    @asynccontextmanager
    async def asked_by_ada(
        self,
        tasks: TaskRepository | None = None,
        tokens: TokenVerifier | None = None,
        **parts: Unpack[AppOptions],
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
def tasks(database: Database) -> TaskRepository:
    return PostgresTaskRepository(database)


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


# Every task route: its method, what follows ``/tasks`` in its path, and a body.
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


# --- Routes ---------------------------------------------------------------------------------------


class TestRoutes:
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


# --- Concurrency ----------------------------------------------------------------------------------


class TestConcurrency:
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

    def test_a_request_may_last_until_a_suspended_database_has_started(self) -> None:
        database = Timeouts()
        assert RequestTimeouts().endpoint > database.connect + database.statement

    async def test_while_no_keys_can_be_had_are_503_and_never_401(self, service: Service) -> None:
        keys = RemoteKeySet(NOBODY_LISTENS, ("EdDSA",))
        issuer = service.issuer.name
        verifier = JwksTokenVerifier(keys, issuer=issuer, audience=issuer)
        async with service.asked_by_ada(tokens=verifier) as ada:
            answer = await ada.get("/api/tasks")
        await keys.aclose()
        is_the_problem(answer, 503, "auth_keys_unavailable")
        assert int(answer.headers["Retry-After"]) > 0


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
        members = ("title", *OPTIONAL_MEMBERS, nasty)
        bodies = [
            json.dumps({**MILK, member: value})
            for member in members
            for value in (nasty, [nasty], {nasty: nasty})
        ]
        sendable = nasty.encode(errors="replace")
        parameters = (
            *("id", "status", "completed", "priority", "tag", "due_before", "due_after", "q"),
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
            *[await ada.delete("/api/tasks", params={name: sendable}) for name in parameters],
            *[await ada.post("/api/tasks/batch", content=body, headers=JSON) for body in bodies],
            *[await ada.get("/api/tasks", headers=head) for head in heads],
            *[await ada.post("/api/tasks", content=VALID, headers=head) for head in heads],
            *[await ada.put(at(task), content=VALID, headers=head) for head in heads],
        ]
        assert max(answer.status_code for answer in answers) < 500


class TestStreams:
    async def test_touch_no_database(
        self, proxied: Service, proxy: PostgresProxy, address: DatabaseUrl
    ) -> None:
        broker = InProcessChangeBroker()
        elsewhere = Database(address, pool_size=1)
        tasks = PostgresTaskRepository(elsewhere, on_change=publisher(broker))
        trips = proxy.trips
        async with proxied.running(broker=broker) as app, AsyncExitStack() as stack:
            streams = [
                await stack.enter_async_context(opened(app, proxied.token(user)))
                for user in (ADA, EVE)
                for _ in range(5)
            ]
            assert [await stream.next() for stream in streams] == [HELLO] * 10
            task = await tasks.add(a_task(owner=ADA))
            for stream in streams[:5]:
                event = await stream.next()
                assert event.data == {"change": 1, "task": serialized(task)}
        await elsewhere.close()
        assert proxy.trips == trips


def serialized(task: Task) -> Json:
    return json.loads(to_json(serialize_task(task)))


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
        body = None if self.body is None else json.loads(filled(json.dumps(self.body)))
        return await somebody.request(self.method, filled(self.path), json=body, headers=headers)


TASKS: Final = "/api/tasks"
ONE: Final = "/api/tasks/{id}"
OAT: Final = {"title": "Buy oat milk"}
FIRST: Final = {"If-Match": '"1"'}
KEY: Final = {"Idempotency-Key": "key-{n}"}
DELETED: Final = Asked(1, "DELETE", ONE)
BATCH: Final = {
    "operations": [
        {"op": "create", "id": "0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b", "task": MILK},
        {"op": "change", "id": "{id}", "task": {"completed": True}},
    ]
}
DAILY: Final = {"due_date": "2096-01-02", "repeat": {"unit": "day"}}
DONE: Final = {"completed": True}
REPEATING: Final = Asked(2, "PATCH", ONE, DAILY)
COMPLETED: Final = Asked(2, "PATCH", f"{ONE}/complete", DONE)
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
    "PATCH /api/tasks/{id}, making it repeat": Asked(2, "PATCH", ONE, DAILY),
    "PATCH /api/tasks/{id}/complete, repeating": Asked(
        2, "PATCH", f"{ONE}/complete", DONE, before=[REPEATING]
    ),
    "PATCH /api/tasks/{id}/complete, repeating, toggling": Asked(
        2, "PATCH", f"{ONE}/complete", before=[REPEATING]
    ),
    "PATCH /api/tasks/{id}/complete, repeating, completed before": Asked(
        2, "PATCH", f"{ONE}/complete", DONE, before=[REPEATING, COMPLETED]
    ),
    "PATCH /api/tasks/{id}/complete, repeating, reopening": Asked(
        2, "PATCH", f"{ONE}/complete", {"completed": False}, before=[REPEATING, COMPLETED]
    ),
    "DELETE /api/tasks/{id}": DELETED,
    "DELETE /api/tasks/{id}, If-Match": Asked(2, "DELETE", ONE, headers=FIRST),
    "POST /api/tasks/{id}/restore": Asked(1, "POST", f"{ONE}/restore", before=[DELETED]),
    "DELETE /api/tasks?status=completed": Asked(1, "DELETE", f"{TASKS}?status=completed"),
    "PATCH /api/tasks?status=pending": Asked(1, "PATCH", f"{TASKS}?status=pending", OAT),
    "POST /api/tasks/restore?id={id}": Asked(
        1, "POST", f"{TASKS}/restore?id={{id}}", before=[DELETED]
    ),
    "POST /api/tasks/batch": Asked(1, "POST", f"{TASKS}/batch", BATCH),
    "POST /api/tasks/batch, new Idempotency-Key": Asked(1, "POST", f"{TASKS}/batch", BATCH, KEY),
    "POST /api/tasks/batch, repeated Idempotency-Key": Asked(
        2,
        "POST",
        f"{TASKS}/batch",
        BATCH,
        KEY,
        before=[Asked(1, "POST", f"{TASKS}/batch", BATCH, KEY)],
    ),
    "GET /api/tasks/changes": Asked(1, "GET", f"{TASKS}/changes"),
    "GET /api/me": Asked(1, "GET", "/api/me"),
    "GET /api/me/export, one page": Asked(2, "GET", "/api/me/export"),
    "POST /api/me/import": Asked(
        7, "POST", "/api/me/import", {"tasks": [{"id": f"{uuid4()}"[:-1] + "{n}", "title": "x"}]}
    ),
    "DELETE /api/me": Asked(4, "DELETE", "/api/me", {"confirm": ADA}),
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
