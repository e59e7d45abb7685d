"""Is it running, and can it serve: for load balancers, orchestrators and people."""

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


class Health(TypedDict):
    """That all is well."""

    status: Literal["ok"]


_OK: Final[Health] = {"status": "ok"}


@router.get("/live", operation_id="isLive", response_model=Health, responses=responses(_OK))
async def live() -> Response:
    """The process answers.

    Nothing else is asked, so that an outage behind it is no reason to restart it.
    """
    return JSONResponse(_OK)


@router.get(
    "/ready", operation_id="isReady", response_model=Health, responses=responses(_OK, "not_ready")
)
async def ready(request: Request) -> Response:
    """Everything works that a request needs; 503 names the parts that do not."""
    readiness: Readiness = request.scope["state"]["readiness"]
    errors = [
        FieldError(field=part, code="unavailable", message="does not answer")
        for part in await readiness.missing()
    ]
    if errors:
        raise ProblemError("not_ready", errors=errors)
    return JSONResponse(_OK)


class Readiness:
    """Asks every part; a crowd shares one answer, since nobody needs a token to ask."""

    def __init__(self, checks: Mapping[str, ReadinessCheck]) -> None:
        self._checks = checks
        self._asking: asyncio.Task[list[str]] | None = None

    async def missing(self) -> list[str]:
        """The parts that do not work."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> list[str]:
        try:
            checks = self._checks.items()
            are_well = await asyncio.gather(*(_passes(part, check) for part, check in checks))
        finally:
            self._asking = None
        return [part for part, is_well in zip(self._checks, are_well, strict=True) if not is_well]


async def _passes(part: str, check: ReadinessCheck) -> bool:
    try:
        await check()
    except TodoError as failure:
        _log.warning("health.not_ready", part=part, reason=type(failure).__name__)
        return False
    return True
