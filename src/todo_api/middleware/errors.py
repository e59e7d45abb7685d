"""Whatever fails behind a request becomes a problem here, and nowhere else."""

from typing import Final

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from todo_api.problems import PROBLEM_TYPES, FieldError, ProblemError, problem, summarize
from todo_domain.errors import (
    AuthKeysUnavailable,
    DatabaseUnavailable,
    EditConflict,
    IdempotencyKeyReused,
    InvalidTask,
    Overloaded,
    StaleVersion,
    TaskNotDeleted,
    TaskNotFound,
    TodoError,
    TokenRejected,
    UserMismatch,
)

_REJECTED: Final = frozenset({400, 406, 408, 413, 414, 415, 422, 431})
_log = structlog.get_logger()

_FAILURES: Final[dict[type[TodoError], str]] = {
    AuthKeysUnavailable: "auth_keys_unavailable",
    DatabaseUnavailable: "database_unavailable",
    EditConflict: "conflict",
    IdempotencyKeyReused: "idempotency_key_reused",
    TaskNotDeleted: "not_deleted",
    UserMismatch: "user_mismatch",
    InvalidTask: "validation_failed",
    StaleVersion: "stale_version",
}


class ErrorMiddleware:
    """Pure ASGI. Answers what the app raises with a problem; of a bug that tells no internals."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def watched_send(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception as failure:
            if scope["type"] != "http" or has_begun:
                raise
            answer = answer_to(failure, Request(scope))
            await answer(scope, receive, send)


def answer_to(failure: Exception, request: Request) -> Response:
    """The problem document that answers the request; logs what somebody may look for."""
    try:
        return _answer_to(failure, request)
    except Exception as bug:  # noqa: BLE001 - the last resort
        _log.error("internal_error", exc_info=bug)
        return problem(request, "internal_error")


def _answer_to(failure: Exception, request: Request) -> Response:
    match failure:
        case ProblemError():
            return _refusal(request, failure)
        case TodoError():
            return _failure(request, failure)
        case HTTPException(status_code=status):
            return _no_route(request, status)
        case _:
            raise failure


def _refusal(request: Request, refusal: ProblemError) -> Response:
    if PROBLEM_TYPES[refusal.code].status in _REJECTED:
        wrong = [error["code"] for error in refusal.errors[:5]]
        _log.info("input.rejected", code=refusal.code, errors=wrong)
    return problem(
        request, refusal.code, refusal.detail, errors=refusal.errors, headers=refusal.headers
    )


def _failure(request: Request, failure: TodoError) -> Response:
    match failure:
        case TokenRejected(code=code):
            return problem(request, code)
        case InvalidTask(violations=violations):
            errors = [
                FieldError(field=v.field, pointer=f"/{v.field}", code=v.code, message=v.message)
                for v in violations
            ]
            return problem(request, "validation_failed", summarize(errors), errors=errors)
        case TaskNotFound():
            # Alone it is nothing; many in a row are somebody who tries ids.
            _log.info("access.denied", reason="no_such_task")
            return problem(request, "not_found")
        case Overloaded():
            _log.warning("overloaded", reason="waited_too_long")
            return problem(request, "overloaded")
        case _:
            return problem(request, _FAILURES[type(failure)])


def _no_route(request: Request, status: int) -> Response:
    """The answer to what Starlette refuses by itself: no such route, no such method."""
    if status == 405:  # noqa: PLR2004
        return problem(request, "method_not_allowed", headers={"Allow": _allowed(request)})
    return problem(request, "not_found" if status == 404 else "bad_request")  # noqa: PLR2004


def _allowed(request: Request) -> str:
    """Every method of this path; Starlette names those of the first route alone."""
    routes = request.app.router.routes
    here = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in here for method in route.methods}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))
