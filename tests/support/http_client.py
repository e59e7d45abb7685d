"""The app in the tests' own process: started on fakes, and HTTP clients for it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final, TypedDict, Unpack

import httpx
from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from fakes import FakeTokenVerifier, InMemoryTaskRepository, UnlimitedRateLimiter
from todo_api.app import Limits, create_app
from todo_api.bearer_tokens import DevelopmentTokens
from todo_api.change_streams import ChangeBroker, StreamLimits
from todo_api.dependencies import Adapters, ReadinessCheck
from todo_api.http.errors import EXCEPTION_HANDLERS
from todo_api.http.routing import Timeouts
from todo_api.metrics import GaugeSource
from todo_api.rate_limits import RateLimiter
from todo_domain.ownership import Principal
from todo_domain.ports import TaskRepository, TokenVerifier
from todo_domain.queries import TaskPage, TaskQuery
from todo_domain.task import Task

FRONTEND: Final = "http://localhost:3000"
TOKEN_EXPIRY: Final = datetime(2038, 1, 19, 3, 14, 7, tzinfo=UTC)


class FailingRepository(InMemoryTaskRepository):
    """A fake whose ``find`` and ``save`` fail."""

    def __init__(self, failure: Exception) -> None:
        super().__init__()
        self._failure = failure

    async def find(self, _owner: str, _query: TaskQuery) -> TaskPage:
        raise self._failure

    async def save(self, _task: Task, *, successor: Task | None = None) -> Task | None:
        del successor
        raise self._failure


class StaticVerifier:
    """A verifier that accepts every token as the token of one user."""

    def __init__(self, user_id: str, *, name: str | None = None, email: str | None = None) -> None:
        self._principal = Principal(user_id, TOKEN_EXPIRY, name=name, email=email)

    async def verify(self, _token: str, _now: datetime) -> Principal:
        return self._principal


class UnreadBody(httpx.AsyncByteStream):
    """A body that records whether it was read."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.was_read = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.was_read = True
        yield self._body


class AppOptions(TypedDict, total=False):
    """The adapters and options of the app that a test can choose."""

    checks: Mapping[str, ReadinessCheck]
    limiter: RateLimiter
    gauges: Mapping[str, GaugeSource]
    cors_origins: Sequence[str]
    root_path: str
    concurrency: int
    shows_metrics: bool
    shows_docs: bool
    development_tokens: DevelopmentTokens
    timeouts: Timeouts
    broker: ChangeBroker | None
    stream_limits: StreamLimits


@asynccontextmanager
async def served(
    tasks: TaskRepository | None = None,
    tokens: TokenVerifier | None = None,
    **options: Unpack[AppOptions],
) -> AsyncIterator[ASGIApp]:
    """The app as a server runs it. By default it has the users ada and eve, and one CORS origin."""

    @asynccontextmanager
    async def open_adapters() -> AsyncIterator[Adapters]:
        yield Adapters(
            tasks=tasks or InMemoryTaskRepository(),
            tokens=tokens or FakeTokenVerifier("ada", "eve"),
            limiter=options.get("limiter", UnlimitedRateLimiter()),
            checks=options.get("checks", {}),
            broker=options.get("broker"),
            gauges=options.get("gauges", {}),
        )

    app = create_app(
        open_adapters,
        cors_origins=options.get("cors_origins", [FRONTEND]),
        root_path=options.get("root_path", ""),
        shows_metrics=options.get("shows_metrics", True),
        shows_docs=options.get("shows_docs", True),
        development_tokens=options.get("development_tokens"),
        limits=Limits(
            concurrency=options.get("concurrency", 1000),
            timeouts=options.get("timeouts", Timeouts()),
            streams=options.get("stream_limits", StreamLimits()),
        ),
    )
    async with started(app) as served:
        yield served


def plain_app(router: APIRouter, *, timeouts: Timeouts | None = None) -> FastAPI:
    """A FastAPI app with FastAPI's own middleware, which includes the router under /v1."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, object]]:
        adapters = Adapters(
            InMemoryTaskRepository(), FakeTokenVerifier("ada"), UnlimitedRateLimiter(), {}
        )
        yield {"adapters": adapters, "timeouts": timeouts or Timeouts()}

    app = FastAPI(lifespan=lifespan, exception_handlers=EXCEPTION_HANDLERS)
    app.include_router(router, prefix="/v1")
    return app


@asynccontextmanager
async def started(app: FastAPI) -> AsyncIterator[ASGIApp]:
    """An app whose lifespan has started. Like a server, it gives each request the state."""
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": dict(state or {})}, receive, send)

        yield with_state


def client(app: ASGIApp, user: str | None = None) -> httpx.AsyncClient:
    """A client of the app with the token of a user, or without a token."""
    headers = {"Authorization": f"Bearer {user}"} if user else {}
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://todo.test", headers=headers)
