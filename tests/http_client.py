"""The app in process: started through its lifespan on fakes, and asked over HTTP."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from fakes import FakeTokenVerifier, InMemoryTaskRepository, UnlimitedRateLimiter
from todo_api.app import create_app
from todo_api.dependencies import Adapters, Check
from todo_api.rate_limits import RateLimiter
from todo_domain.ports import TaskRepository, TokenVerifier
from todo_domain.queries import TaskPage, TaskQuery
from todo_domain.task import Task

FRONTEND: Final = "http://localhost:3000"


class FailingRepository(InMemoryTaskRepository):
    """A fake that fails whenever it has to find or to save."""

    def __init__(self, failure: Exception) -> None:
        super().__init__()
        self._failure = failure

    async def find(self, _owner: str, _query: TaskQuery) -> TaskPage:
        raise self._failure

    async def save(self, _task: Task) -> None:
        raise self._failure


@asynccontextmanager
async def served(
    tasks: TaskRepository | None = None,
    tokens: TokenVerifier | None = None,
    checks: Mapping[str, Check] | None = None,
    limiter: RateLimiter | None = None,
) -> AsyncIterator[ASGIApp]:
    """The app as a server holds it, for browsers at FRONTEND; its fake users are ada and eve."""

    @asynccontextmanager
    async def open_adapters() -> AsyncIterator[Adapters]:
        verifier = tokens or FakeTokenVerifier("ada", "eve")
        yield Adapters(
            tasks=tasks or InMemoryTaskRepository(),
            tokens=verifier,
            limiter=limiter or UnlimitedRateLimiter(),
            checks=checks or {},
        )

    app = create_app(open_adapters, cors_origins=[FRONTEND])
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": dict(state or {})}, receive, send)

        yield with_state


def client(app: ASGIApp, user: str | None = None) -> httpx.AsyncClient:
    """Somebody who asks the app: the user, or a stranger without a token."""
    headers = {"Authorization": f"Bearer {user}"} if user else {}
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://todo.test", headers=headers)
