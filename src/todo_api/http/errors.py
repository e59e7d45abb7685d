"""Exception handlers: every exception becomes a problem document here.

An unexpected exception becomes a 500 without details.
"""

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from http import client
from typing import Any, Final

import orjson
import structlog
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from todo_api.http.validation_errors import UNKNOWN, field_errors
from todo_api.problems import (
    PROBLEM_TYPES,
    FieldError,
    ProblemError,
    ProblemType,
    http_problem,
    problem,
    summarize,
    token_challenge,
)
from todo_api.request_state import request_state
from todo_domain.errors import (
    AuthKeysUnavailable,
    DatabaseUnavailable,
    EditConflict,
    IdempotencyKeyReused,
    ImportRefused,
    InvalidTask,
    Overloaded,
    StaleVersion,
    SyncExpired,
    TaskIdTaken,
    TaskNotDeleted,
    TaskNotFound,
    TodoError,
    TokenErrorCode,
    TokenRejected,
    TooManyAffected,
    UserMismatch,
)

_LOGGED_STATUSES: Final = frozenset({400, 406, 408, 413, 414, 415, 422, 431})
_NO_LIFESPAN: Final = "the server did not run the app's lifespan (uvicorn: use --lifespan on)"
_EXCLUDED: Final = (
    "If-None-Match: the task exists in a version that this header excludes; nothing was changed"
)
_DEVELOPMENT: Final = "in development, send the token that `todo-api token alice` prints"
_NOT_IMPORTED: Final = (
    "tasks: other tasks have the ids of tasks in the import, so that nothing was imported"
)
_log = structlog.get_logger()

_CODES: Final[dict[type[TodoError], str]] = {
    AuthKeysUnavailable: "auth_keys_unavailable",
    DatabaseUnavailable: "database_unavailable",
    EditConflict: "conflict",
    IdempotencyKeyReused: "idempotency_key_reused",
    InvalidTask: "validation_failed",
    StaleVersion: "stale_version",
    SyncExpired: "sync_expired",
    TaskIdTaken: "id_taken",
    TaskNotDeleted: "not_deleted",
    TooManyAffected: "too_many_affected",
    UserMismatch: "user_mismatch",
}
_Handler = Callable[[Request, Any], Coroutine[Any, Any, Response]]
_HTTP_CODES: Final = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}


def problem_response(error: Exception, request: Request) -> Response:
    """The problem document for an exception. Logs security-relevant errors."""
    try:
        return _problem_response(error, request)
    except Exception as bug:  # noqa: BLE001 - every bug becomes a 500
        _log.error("internal_error", exc_info=bug)
        return problem(request, "internal_error")


def _problem_response(error: Exception, request: Request) -> Response:
    match error:
        case ProblemError():
            return _problem_error(request, error)
        case TodoError():
            return _todo_error(request, error)
        case HTTPException():
            return _http_exception(request, error)
        case RequestValidationError():
            return _problem_error(request, _validation_failed(error))
        case _ if "adapters" not in _state(request):
            return _not_started(request)
        case _:
            raise error


def _not_started(request: Request) -> Response:
    """The server did not run the app's lifespan, so there are no adapters."""
    _log.error("health.not_ready", part="lifespan", reason="not_run")
    return problem(request, "not_ready", _NO_LIFESPAN)


def _problem_error(request: Request, error: ProblemError) -> Response:
    if PROBLEM_TYPES[error.code].status in _LOGGED_STATUSES:
        codes = [field_error["code"] for field_error in error.errors[:5]]
        _log.info("input.rejected", code=error.code, errors=codes)
    return problem(request, error.code, error.detail, errors=error.errors, headers=error.headers)


def _todo_error(request: Request, error: TodoError) -> Response:
    match error:
        case TokenRejected():
            return _token_rejected(request, error)
        case InvalidTask(violations=violations):
            errors = [
                FieldError(
                    field=v.field,
                    pointer=f"/{v.field.replace('.', '/')}",
                    code=v.code,
                    message=v.message,
                )
                for v in violations
            ]
            return problem(request, "validation_failed", summarize(errors), errors=errors)
        case ImportRefused(numbers=numbers):
            return problem(request, "id_taken", _NOT_IMPORTED, errors=list(_taken_ids(numbers)))
        case TaskNotFound():
            # One such event is normal; many in a row mean that a client guesses ids.
            _log.info("access.denied", reason="no_such_task")
            return problem(request, "not_found")
        case Overloaded():
            _log.warning("overloaded", reason="waited_too_long")
            return problem(request, "overloaded")
        case _:
            return problem(request, _CODES[type(error)], _detail(request, error))


def _taken_ids(numbers: Iterable[int]) -> Iterator[FieldError]:
    message = "is the id of a stored task with another content, or of a deleted task"
    for number in numbers:
        field, pointer = f"tasks.{number}.id", f"/tasks/{number}/id"
        yield FieldError(field=field, pointer=pointer, code="id_taken", message=message)


def _detail(request: Request, error: TodoError) -> str | None:
    """The detail of the problem if it differs from the table's."""
    match error:
        case StaleVersion() if _has_only_if_none_match(request):
            return _EXCLUDED
        case TooManyAffected(count=count):
            return f"Prefer: {count} tasks match, more than max-affected allows; none was changed"
        case _:
            return error.detail


def _has_only_if_none_match(request: Request) -> bool:
    return "if-none-match" in request.headers and "if-match" not in request.headers


def _token_rejected(request: Request, error: TokenRejected) -> Response:
    detail = error.detail
    headers = token_challenge(detail) if detail and error.code != TokenErrorCode.MISSING else None
    if _state(request).get("development_tokens"):
        detail = f"{detail or PROBLEM_TYPES[error.code].detail}; {_DEVELOPMENT}"
    return problem(request, error.code, detail, headers=headers)


def _state(request: Request) -> Mapping[str, Any]:
    """The state of the app's lifespan, empty if the server did not run it."""
    state: Mapping[str, Any] = request.scope.get("state", {})
    return state


def _http_exception(request: Request, error: HTTPException) -> Response:
    """An exception of Starlette's router or of an endpoint: keeps status, detail and headers."""
    status = error.status_code
    headers = dict(error.headers or {})
    if status in {204, 304}:
        return Response(status_code=status, headers=headers)
    detail = _text(error.detail)
    phrase = client.responses.get(status, "Error")
    if status not in _HTTP_CODES:
        return http_problem(request, ProblemType(status, phrase, detail, headers))
    if status == 405:  # noqa: PLR2004
        headers["Allow"] = _allowed_methods(request)
    if detail == phrase:  # Starlette's own, which says less than the table
        detail = _unknown_path(request) if status == 404 else ""  # noqa: PLR2004
    return problem(request, _HTTP_CODES[status], detail, headers=headers)


def _unknown_path(request: Request) -> str:
    """The detail of a path without a route: where the tasks and the documentation are."""
    root_path = request_state(request.scope).root_path
    docs = (
        f", the documentation is at {root_path}/docs" if _state(request).get("shows_docs") else ""
    )
    return f"there is nothing at this path: the tasks are at {root_path}/api/tasks{docs}"


def _text(detail: object) -> str:
    """The detail as text that JSON can encode; FastAPI allows any JSON value."""
    text = detail if isinstance(detail, str) else orjson.dumps(detail).decode()
    return text.encode(errors="replace").decode()


def _allowed_methods(request: Request) -> str:
    """Every method of this path. Starlette names only those of the first route that matches."""
    methods: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def _validation_failed(error: RequestValidationError) -> ProblemError:
    """FastAPI's own error for a route that is not an ``ApiRoute``."""
    errors: list[FieldError] = []
    for found in error.errors():
        source, *loc = found["loc"]
        is_body = source == "body"
        sent = error.body if is_body else UNKNOWN
        errors += field_errors([{**found, "loc": loc}], sent, root=source, has_pointers=is_body)
    return ProblemError("validation_failed", errors=errors)


async def _handle(request: Request, error: Any) -> Response:  # noqa: ANN401 - FastAPI's type
    return problem_response(error, request)


# For FastAPI's ``exception_handlers`` and Starlette's ExceptionMiddleware.
EXCEPTION_HANDLERS: Final[dict[int | type[Exception], _Handler]] = dict.fromkeys(
    (ProblemError, TodoError, HTTPException, RequestValidationError, Exception), _handle
)
