"""The app in process: started through its lifespan on fakes, and asked over HTTP."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final, TypedDict, Unpack

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from fakes import FakeTokenVerifier, InMemoryTaskRepository, UnlimitedRateLimiter
from todo_api.app import create_app
from todo_api.dependencies import Adapters, ReadinessCheck
from todo_api.metrics import GaugeSource
from todo_api.rate_limits import RateLimiter
from todo_domain.ownership import Principal
from todo_domain.ports import TaskRepository, TokenVerifier
from todo_domain.queries import TaskPage, TaskQuery
from todo_domain.task import Task

FRONTEND: Final = "http://localhost:3000"
TOKENS_END: Final = datetime(2038, 1, 19, 3, 14, 7, tzinfo=UTC)


class FailingRepository(InMemoryTaskRepository):
    """A fake that fails whenever it has to find or to save."""

    def __init__(self, failure: Exception) -> None:
        super().__init__()
        self._failure = failure

    async def find(self, _owner: str, _query: TaskQuery) -> TaskPage:
        raise self._failure

    async def save(self, _task: Task) -> None:
        raise self._failure


class Parts(TypedDict, total=False):
    """What of the adapters and of the app's options a test chooses by itself."""

    checks: Mapping[str, ReadinessCheck]
    limiter: RateLimiter
    gauges: Mapping[str, GaugeSource]
    cors_origins: Sequence[str]
    concurrency: int
    shows_metrics: bool


class Introducing:
    """A verifier for which any token speaks for one user, whom it describes."""

    def __init__(self, user_id: str, *, name: str | None = None, email: str | None = None) -> None:
        self._introduced = Principal(user_id, TOKENS_END, name=name, email=email)

    async def verify(self, _token: str, _now: datetime) -> Principal:
        return self._introduced


@asynccontextmanager
async def served(
    tasks: TaskRepository | None = None,
    tokens: TokenVerifier | None = None,
    **parts: Unpack[Parts],
) -> AsyncIterator[ASGIApp]:
    """The app as a server holds it, for browsers at FRONTEND; its fake users are ada and eve."""

    @asynccontextmanager
    async def open_adapters() -> AsyncIterator[Adapters]:
        yield Adapters(
            tasks=tasks or InMemoryTaskRepository(),
            tokens=tokens or FakeTokenVerifier("ada", "eve"),
            limiter=parts.get("limiter", UnlimitedRateLimiter()),
            checks=parts.get("checks", {}),
            gauges=parts.get("gauges", {}),
        )

    app = create_app(
        open_adapters,
        cors_origins=parts.get("cors_origins", [FRONTEND]),
        concurrency=parts.get("concurrency", 1000),
        shows_metrics=parts.get("shows_metrics", True),
    )
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": dict(state or {})}, receive, send)

        yield with_state


def client(app: ASGIApp, user: str | None = None) -> httpx.AsyncClient:
    """Somebody who asks the app: the user, or a stranger without a token."""
    headers = {"Authorization": f"Bearer {user}"} if user else {}
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://todo.test", headers=headers)
