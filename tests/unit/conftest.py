"""The running app on fakes, its clients, and one response of every status."""

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
class Situation:
    """A request of ada's, and the state of the adapters, that lead to the status."""

    status: int
    method: str = "GET"
    path: str = "/api/tasks"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    failure: Exception | None = None
    has_keys: bool = True
    quota: int = 600
    concurrency: int = 1000


SITUATIONS: Final = {
    "200": Situation(200),
    "201": Situation(201, "POST", headers=JSON, body=b'{"title": "Buy milk"}'),
    "204": Situation(204, "DELETE", ONE, {"Prefer": "return=minimal"}),
    "304": Situation(304, path=ONE, headers={"If-None-Match": "*"}),
    "304 list": Situation(304, headers={"If-None-Match": "*"}),
    "400": Situation(400, "POST", headers=JSON, body=b"{"),
    "400 filter": Situation(400, "DELETE"),
    "401": Situation(401, headers={"Authorization": "Bearer nobody"}),
    "403": Situation(403, path="/api/eve/tasks"),
    "404": Situation(404, path="/api/tasks/nothing"),
    "404 off the map": Situation(404, path="/api/lists"),
    "405": Situation(405, "TRACE"),
    "406": Situation(406, headers={"Accept": "text/html"}),
    "409": Situation(409, "PATCH", f"{ONE}/toggle", failure=StaleVersion()),
    "409 restore": Situation(409, "POST", f"{ONE}/restore"),
    "412": Situation(412, "DELETE", ONE, {"If-Match": '"9"'}),
    "413": Situation(413, "POST", headers=JSON, body=b" " * (1024 * 1024 + 1)),
    "414": Situation(414, path=f"/api/tasks?q={'x' * 8192}"),
    "415": Situation(415, "POST", headers={"Content-Type": "text/plain"}, body=b"Buy milk"),
    "422": Situation(422, path="/api/tasks?limit=0"),
    "429": Situation(429, quota=0),
    "431": Situation(431, headers={"X-Filler": "x" * 16384}),
    "500": Situation(500, failure=RuntimeError("a bug")),
    "503 database": Situation(503, failure=DatabaseUnavailable()),
    "503 keys": Situation(503, has_keys=False),
    "503 overloaded": Situation(503, concurrency=0),
}


@pytest.fixture(params=SITUATIONS.values(), ids=list(SITUATIONS))
async def any_answer(
    request: pytest.FixtureRequest, log: list[EventDict]
) -> AsyncIterator[httpx.Response]:
    """A response of each status, to a browser at FRONTEND."""
    del log
    situation: Situation = request.param
    tasks = FailingRepository(situation.failure) if situation.failure else InMemoryTaskRepository()
    await tasks.add(TASK)
    tokens = FakeTokenVerifier("ada", has_keys=situation.has_keys)
    limiter = InMemoryRateLimiter({PER_USER: {60: situation.quota}})
    serving = served(tasks, tokens, limiter=limiter, concurrency=situation.concurrency)
    async with serving as app, client(app, "ada") as ada:
        headers = {"Origin": FRONTEND, **situation.headers}
        answer = await ada.request(
            situation.method, situation.path, headers=headers, content=situation.body
        )
        assert answer.status_code == situation.status
        yield answer


@pytest.fixture
def log() -> Iterator[list[EventDict]]:
    """The log entries, before they are rendered."""
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
