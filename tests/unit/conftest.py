"""The app on fakes, clients of its users, and one response of every status."""

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import httpx
import pytest
from starlette.types import ASGIApp
from structlog.testing import capture_logs
from structlog.typing import EventDict

from fakes import FakeTokenVerifier, InMemoryRateLimiter, InMemoryTaskRepository
from support.http_client import FRONTEND, FailingRepository, client, served
from support.tasks import a_task
from todo_api.rate_limits import PER_USER
from todo_api.request_state import merge_context
from todo_domain.errors import DatabaseUnavailable, StaleVersion

TASK: Final = a_task(id=UUID(int=1))
JSON: Final = {"Content-Type": "application/json"}
ONE: Final = f"/api/tasks/{TASK.id}"


@dataclass(frozen=True)
class Case:
    """A request of ada, and the state of the app, that lead to this status."""

    status: int
    method: str = "GET"
    path: str = "/api/tasks"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    failure: Exception | None = None
    has_keys: bool = True
    quota: int = 600
    concurrency: int = 1000


CASES: Final = {
    "200": Case(200),
    "201": Case(201, "POST", headers=JSON, body=b'{"title": "Buy milk"}'),
    "204": Case(204, "DELETE", ONE, {"Prefer": "return=minimal"}),
    "304": Case(304, path=ONE, headers={"If-None-Match": "*"}),
    "304 list": Case(304, headers={"If-None-Match": "*"}),
    "400": Case(400, "POST", headers=JSON, body=b"{"),
    "400 filter": Case(400, "DELETE"),
    "401": Case(401, headers={"Authorization": "Bearer nobody"}),
    "403": Case(403, path="/api/eve/tasks"),
    "404": Case(404, path="/api/tasks/nothing"),
    "404 unknown path": Case(404, path="/api/lists"),
    "405": Case(405, "TRACE"),
    "406": Case(406, headers={"Accept": "text/html"}),
    "409": Case(409, "PATCH", f"{ONE}/toggle", failure=StaleVersion()),
    "409 restore": Case(409, "POST", f"{ONE}/restore"),
    "412": Case(412, "DELETE", ONE, {"If-Match": '"9"'}),
    "413": Case(413, "POST", headers=JSON, body=b" " * (1024 * 1024 + 1)),
    "414": Case(414, path=f"/api/tasks?q={'x' * 8192}"),
    "415": Case(415, "POST", headers={"Content-Type": "text/plain"}, body=b"Buy milk"),
    "422": Case(422, path="/api/tasks?limit=0"),
    "429": Case(429, quota=0),
    "431": Case(431, headers={"X-Filler": "x" * 16384}),
    "500": Case(500, failure=RuntimeError("a bug")),
    "503 database": Case(503, failure=DatabaseUnavailable()),
    "503 keys": Case(503, has_keys=False),
    "503 overloaded": Case(503, concurrency=0),
}


@pytest.fixture(params=CASES.values(), ids=list(CASES))
async def any_response(
    request: pytest.FixtureRequest, log: list[EventDict]
) -> AsyncIterator[httpx.Response]:
    """A response of each status in turn, to a browser at FRONTEND."""
    del log
    case: Case = request.param
    tasks = FailingRepository(case.failure) if case.failure else InMemoryTaskRepository()
    await tasks.add(TASK)
    tokens = FakeTokenVerifier("ada", has_keys=case.has_keys)
    limiter = InMemoryRateLimiter({PER_USER: {60: case.quota}})
    serving = served(tasks, tokens, limiter=limiter, concurrency=case.concurrency)
    async with serving as app, client(app, "ada") as ada:
        headers = {"Origin": FRONTEND, **case.headers}
        response = await ada.request(case.method, case.path, headers=headers, content=case.body)
        assert response.status_code == case.status
        yield response


@pytest.fixture
def log() -> Iterator[list[EventDict]]:
    """The log events, with the fields of their request."""
    with capture_logs([merge_context]) as entries:
        yield entries


@pytest.fixture
def tasks() -> InMemoryTaskRepository:
    return InMemoryTaskRepository()


@pytest.fixture
async def app(tasks: InMemoryTaskRepository, log: list[EventDict]) -> AsyncIterator[ASGIApp]:
    del log
    async with served(tasks) as app:
        yield app


@pytest.fixture
async def ada(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    async with client(app, "ada") as ada:
        yield ada


@pytest.fixture
async def eve(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    async with client(app, "eve") as eve:
        yield eve


@pytest.fixture
async def stranger(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a token."""
    async with client(app) as stranger:
        yield stranger
