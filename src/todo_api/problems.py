"""Problem documents (RFC 9457), and the table of all error codes with their status and text.

``http/errors.py`` maps exceptions to these codes.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, NotRequired

import orjson
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from todo_api.request_state import original_path, request_state
from todo_domain.errors import TokenErrorCode

_NAME_MAX: Final = 100  # characters of a client's own name in an error
ERRORS_MAX: Final = 100  # a small request must not cause a huge response

MEDIA_TYPE: Final = "application/problem+json"
_WWW_AUTHENTICATE: Final = 'Bearer realm="todo-api"'
_GET_A_JWT: Final = (
    "send the JWT that your auth server returns at /api/auth/token (authClient.token())"
)


@dataclass(frozen=True, slots=True)
class ProblemType:
    """The status and title of an error code, and the detail when an error has no other."""

    status: int
    title: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)


def token_challenge(detail: str) -> dict[str, str]:
    """The header field that says why a token was rejected (RFC 6750, section 3)."""
    challenge = f'{_WWW_AUTHENTICATE}, error="invalid_token", error_description="{detail}"'
    return {"WWW-Authenticate": challenge}


def _unauthorized(detail: str) -> ProblemType:
    headers = {**token_challenge(detail), "Cache-Control": "no-store"}
    return ProblemType(401, "Not authenticated", detail, headers)


def _unavailable(title: str, detail: str, seconds: int) -> ProblemType:
    return ProblemType(503, title, detail, {"Retry-After": str(seconds)})


PROBLEM_TYPES: Final[dict[str, ProblemType]] = {
    "malformed_json": ProblemType(400, "Malformed JSON", "the body is not valid JSON"),
    "bad_cursor": ProblemType(
        400, "Bad cursor", "cursor: use it unchanged as in the Link header of the same list"
    ),
    "filter_required": ProblemType(
        400,
        "Filter required",
        "name the tasks by a filter, such as status=completed, or by id; no task was changed",
    ),
    "bad_request": ProblemType(400, "Bad request", "the request is malformed"),
    TokenErrorCode.MISSING: ProblemType(
        401,
        "Not authenticated",
        f"the Authorization header with a bearer token is missing: {_GET_A_JWT}",
        {"WWW-Authenticate": _WWW_AUTHENTICATE, "Cache-Control": "no-store"},
    ),
    TokenErrorCode.MALFORMED: _unauthorized(f"the bearer token is not a JWT: {_GET_A_JWT}"),
    TokenErrorCode.NOT_JWT: _unauthorized(f"this is a session token, not a JWT: {_GET_A_JWT}"),
    TokenErrorCode.EXPIRED: _unauthorized(
        "the token has expired: fetch a new one from /api/auth/token"
    ),
    TokenErrorCode.INVALID: _unauthorized(f"the token is not valid here: {_GET_A_JWT}"),
    "user_mismatch": ProblemType(
        403, "Wrong user", "the user id in the path is not the user id of the token"
    ),
    "not_found": ProblemType(404, "Not found", "there is nothing at this path"),
    "method_not_allowed": ProblemType(
        405, "Method not allowed", "this path does not support this method"
    ),
    "not_acceptable": ProblemType(
        406, "Not acceptable", "Accept: this API returns only application/json"
    ),
    "request_timeout": ProblemType(408, "Request timeout", "the body did not arrive in time"),
    "conflict": ProblemType(
        409,
        "Conflict",
        "other requests kept changing this task; this change was not made, try again",
    ),
    "not_deleted": ProblemType(409, "Not deleted", "this task is not deleted"),
    "id_taken": ProblemType(
        409, "Id taken", "id: another task has this id, or a deleted task that can be restored"
    ),
    "sync_expired": ProblemType(
        410, "Sync token expired", "since: drop your copy of the tasks and start over without since"
    ),
    "batch_rejected": ProblemType(
        409, "Batch rejected", "operations of the batch were refused, so that none was applied"
    ),
    "too_many_affected": ProblemType(
        409,
        "Too many affected",
        "Prefer: more tasks match than max-affected allows; no task was changed",
    ),
    "stale_version": ProblemType(
        412,
        "Stale version",
        "the task has changed since it was read; this change was not made",
    ),
    "body_too_large": ProblemType(413, "Body too large", "the body is larger than 1 MiB"),
    "uri_too_long": ProblemType(
        414, "URI too long", "path and query together are longer than 8 KiB"
    ),
    "unsupported_media_type": ProblemType(
        415, "Unsupported media type", "Content-Type: send the body as application/json"
    ),
    "validation_failed": ProblemType(422, "Validation failed", "the request is not valid"),
    "nothing_to_change": ProblemType(
        422, "Nothing to change", "the body names no member that can be changed"
    ),
    "idempotency_key_reused": ProblemType(
        422,
        "Idempotency key reused",
        "Idempotency-Key: this key was used for another task; use a new key for each task",
    ),
    "headers_too_large": ProblemType(
        431, "Headers too large", "the header fields together are larger than 16 KiB"
    ),
    "too_many_streams": ProblemType(
        429,
        "Too many streams",
        "this user has too many open streams: close one, or share one among the browser's tabs",
    ),
    "rate_limited": ProblemType(
        429, "Too many requests", "too many requests: wait as many seconds as Retry-After says"
    ),
    "internal_error": ProblemType(
        500, "Internal error", "this is a bug in the service: report it with the request_id"
    ),
    "database_unavailable": _unavailable(
        "Database unavailable", "the database does not respond in time: try again", 2
    ),
    "not_ready": _unavailable("Not ready", "a part of the service does not respond", 2),
    "auth_keys_unavailable": _unavailable(
        "Auth keys unavailable", "the keys of the auth server cannot be fetched: try again", 5
    ),
    "stream_unavailable": _unavailable(
        "Stream unavailable",
        "this service has several workers and no REDIS_URL, so that a stream would miss changes: "
        "poll GET /api/tasks/changes",
        60,
    ),
    "overloaded": _unavailable("Overloaded", "the service is overloaded: try again", 1),
}


class FieldError(TypedDict):
    """One invalid value of the request: where it is (`pointer`: RFC 6901) and why."""

    field: str
    pointer: NotRequired[str]
    code: str
    message: str


class Problem(TypedDict):
    """An RFC 9457 problem. `message` repeats `detail` for frontends that read `message`."""

    type: str
    title: str
    status: int
    detail: str
    message: str
    code: Annotated[str, Field(json_schema_extra={"enum": [str(code) for code in PROBLEM_TYPES]})]
    instance: str
    request_id: str
    errors: NotRequired[list[FieldError]]


class ProblemError(Exception):
    """The request is refused with an error code of the table."""

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail or (summarize(errors) if errors else None)
        self.errors = errors
        self.headers = headers


def problem_document(request: Request, code: str, detail: str | None = None) -> dict[str, Any]:
    """The members of the problem document for an error code of the table."""
    return _members(request, _type(request, code), code, PROBLEM_TYPES[code], detail)


def problem(
    request: Request,
    code: str,
    detail: str | None = None,
    *,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The problem document for an error code of the table."""
    document = problem_document(request, code, detail)
    if errors:
        document["errors"] = errors[:ERRORS_MAX]
    return _response(document, {**PROBLEM_TYPES[code].headers, **(headers or {})})


def _type(request: Request, code: str) -> str:
    """The path of the route that explains the error code."""
    return f"{request_state(request.scope).root_path}/problems/{code}"


def http_problem(request: Request, problem_type: ProblemType) -> Response:
    """The problem document for an HTTP status that has no error code in the table."""
    code = f"http_{problem_type.status}"
    document = _members(request, "about:blank", code, problem_type)
    return _response(document, problem_type.headers)


def _members(
    request: Request, uri: str, code: str, problem_type: ProblemType, detail: str | None = None
) -> dict[str, Any]:
    detail = detail or problem_type.detail
    return {
        "type": uri,
        "title": problem_type.title,
        "status": problem_type.status,
        "detail": detail,
        "message": detail,
        "code": code,
        "instance": original_path(request.scope),
        "request_id": request_state(request.scope).request_id,
    }


def _response(document: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    return Response(orjson.dumps(document), document["status"], headers, MEDIA_TYPE)


def refuse_unknown(names: Iterable[str], known: Collection[str], what: str) -> None:
    """Check names for ``Prefer: handling=strict``. Raises ProblemError with each unknown name."""
    errors = [
        FieldError(field=printable(name), code="unknown", message=f"is not a {what} of this route")
        for name in names
        if name not in known
    ]
    if errors:
        raise ProblemError("validation_failed", errors=errors)


def printable(text: str) -> str:
    """A client's own text, shortened and without lone surrogates, which JSON cannot encode."""
    return text[:_NAME_MAX].encode(errors="replace").decode()


def summarize(errors: Sequence[FieldError]) -> str:
    """The first five errors in one line."""
    shown = "; ".join(f"{error['field']}: {error['message']}" for error in errors[:5])
    return f"{shown}; and {len(errors) - 5} more" if len(errors) > 5 else shown  # noqa: PLR2004
