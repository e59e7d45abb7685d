"""Is it running, and can it serve: for load balancers, orchestrators and people."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from todo_api.dependencies import adapters
from todo_domain.errors import TodoError

router = APIRouter(prefix="/health", tags=["health"])
_log = structlog.get_logger()


@router.get("/live", operation_id="isLive")
async def live() -> Response:
    """The process answers.

    Nothing else is asked, so that an outage behind it is no reason to restart it.
    """
    return JSONResponse({"status": "ok"})


@router.get("/ready", operation_id="isReady")
async def ready(request: Request) -> Response:
    """The parts that a request needs work; 503 names the ones that do not."""
    checks = adapters(request).checks
    states = await asyncio.gather(*(_state(check) for check in checks.values()))
    parts = dict(zip(checks, states, strict=True))
    is_ready = all(state == "ok" for state in states)
    document = {"status": "ok" if is_ready else "unavailable", "parts": parts}
    if is_ready:
        return JSONResponse(document)
    return JSONResponse(document, 503, {"Retry-After": "2"})


async def _state(check: Callable[[], Awaitable[None]]) -> str:
    try:
        await check()
    except TodoError as failure:
        _log.warning("health.not_ready", reason=type(failure).__name__)
        return "unavailable"
    return "ok"
