"""Liveness and readiness checks for load balancers and orchestrators."""

import asyncio
from collections.abc import Mapping
from typing import Final, Literal

import structlog
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response
from typing_extensions import TypedDict

from todo_api.dependencies import ReadinessCheck
from todo_api.http.routing import PublicRoute
from todo_api.openapi import responses
from todo_api.problems import FieldError, ProblemError
from todo_domain.errors import TodoError

router = APIRouter(prefix="/health", tags=["health"], route_class=PublicRoute)
_log = structlog.get_logger()

CHECK_TIMEOUT: Final = 4.0  # seconds, because a probe waits for 5 s (deploy/kubernetes)


class Health(TypedDict):
    """The service is healthy."""

    status: Literal["ok"]


_OK: Final[Health] = {"status": "ok"}


@router.get("/live", operation_id="isLive", response_model=Health, responses=responses(_OK))
async def live() -> Response:
    """The process responds.

    No other part is checked: a restart does not repair the database.
    """
    return JSONResponse(_OK)


@router.get(
    "/ready", operation_id="isReady", response_model=Health, responses=responses(_OK, "not_ready")
)
async def ready(request: Request) -> Response:
    """The database and the token keys are available. A 503 names the unavailable parts."""
    readiness: Readiness = request.scope["state"]["readiness"]
    errors = [
        FieldError(field=part, code="unavailable", message="does not respond")
        for part in await readiness.failing()
    ]
    if errors:
        raise ProblemError("not_ready", errors=errors)
    return JSONResponse(_OK)


class Readiness:
    """Runs the readiness checks. Concurrent requests share one run, because they need no token."""

    def __init__(self, checks: Mapping[str, ReadinessCheck]) -> None:
        self._checks = checks
        self._running: asyncio.Task[list[str]] | None = None

    async def failing(self) -> list[str]:
        """The parts whose check fails."""
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await asyncio.shield(self._running)

    async def _run(self) -> list[str]:
        try:
            checks = self._checks.items()
            results = await asyncio.gather(*(_passes(part, check) for part, check in checks))
        finally:
            self._running = None
        return [part for part, passes in zip(self._checks, results, strict=True) if not passes]


async def _passes(part: str, check: ReadinessCheck) -> bool:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            await check()
    except (TodoError, TimeoutError) as error:
        _log.warning("health.not_ready", part=part, reason=type(error).__name__)
        return False
    return True
