"""Every way in which a request can fail, as an RFC 9457 problem: the one table of them all.

``failures.py`` says which failure is which.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NotRequired
from urllib.parse import quote

import orjson
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from todo_domain.errors import InvalidValue, TokenErrorCode

_NAME_MAX: Final = 100
_ERRORS_MAX: Final = 100  # a small request must not have a huge answer
_PATH: Final = "/%:@!$&'()*+,;=~"  # what RFC 3986, section 3.3, lets a path have besides letters

MEDIA_TYPE: Final = "application/problem+json"
_BEARER: Final = 'Bearer realm="todo-api"'
_WHERE_THE_JWT_IS: Final = (
    "send the JWT that your auth server answers at /api/auth/token (authClient.token())"
)


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One code of the contract: its status, its title, and the sentence when nothing says more."""

    status: int
    title: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)


def _token(detail: str) -> ProblemType:
    challenge = f'{_BEARER}, error="invalid_token", error_description="{detail}"'
    return ProblemType(
        401,
        "Not authenticated",
        detail,
        {"WWW-Authenticate": challenge, "Cache-Control": "no-store"},
    )


def _unavailable(title: str, detail: str, seconds: int) -> ProblemType:
    return ProblemType(503, title, detail, {"Retry-After": str(seconds)})


PROBLEM_TYPES: Final[dict[str, ProblemType]] = {
    "malformed_json": ProblemType(400, "Malformed JSON", "the body is not valid JSON"),
    "bad_cursor": ProblemType(
        400, "Bad cursor", "cursor: take it unchanged from the Link header of the same list"
    ),
    "filter_required": ProblemType(
        400, "Filter required", "say status=completed and no other filter; nothing was deleted"
    ),
    "bad_request": ProblemType(400, "Bad request", "the request could not be understood"),
    TokenErrorCode.MISSING: ProblemType(
        401,
        "Not authenticated",
        f"the Authorization header with a bearer token is missing: {_WHERE_THE_JWT_IS}",
        {"WWW-Authenticate": _BEARER, "Cache-Control": "no-store"},
    ),
    TokenErrorCode.MALFORMED: _token(f"the bearer token is not a JWT: {_WHERE_THE_JWT_IS}"),
    TokenErrorCode.NOT_JWT: _token(f"this is a session token, not a JWT: {_WHERE_THE_JWT_IS}"),
    TokenErrorCode.EXPIRED: _token("the token has expired: fetch a fresh one from /api/auth/token"),
    TokenErrorCode.INVALID: _token(f"the token is not valid here: {_WHERE_THE_JWT_IS}"),
    "user_mismatch": ProblemType(
        403, "Another user's", "the user id in the path is not the one that the token speaks for"
    ),
    "not_found": ProblemType(404, "Not found", "there is nothing here"),
    "method_not_allowed": ProblemType(405, "Method not allowed", "this method is not allowed here"),
    "not_acceptable": ProblemType(
        406, "Not acceptable", "Accept: only application/json is served here"
    ),
    "request_timeout": ProblemType(408, "Request timeout", "the body did not arrive in time"),
    "conflict": ProblemType(
        409, "Conflict", "others kept changing this task; nothing was written, try again"
    ),
    "not_deleted": ProblemType(409, "Not deleted", "this task has not been deleted"),
    "stale_version": ProblemType(
        412, "Stale version", "the task has changed since it was read; nothing was written"
    ),
    "body_too_large": ProblemType(413, "Body too large", "the body is larger than 1 MiB"),
    "uri_too_long": ProblemType(414, "URI too long", "path and query are longer than 8 KiB"),
    "unsupported_media_type": ProblemType(
        415, "Unsupported media type", "Content-Type: send the body as application/json"
    ),
    "validation_failed": ProblemType(422, "Validation failed", "the request does not validate"),
    "idempotency_key_reused": ProblemType(
        422,
        "Idempotency key reused",
        "Idempotency-Key: this key was used for another task; make a new one for each",
    ),
    "headers_too_large": ProblemType(
        431, "Headers too large", "the headers are larger than 16 KiB"
    ),
    "rate_limited": ProblemType(
        429, "Too many requests", "too many requests: wait for Retry-After seconds"
    ),
    "internal_error": ProblemType(
        500, "Internal error", "this is a bug of the service: report it with the request_id"
    ),
    "database_unavailable": _unavailable(
        "Database unavailable", "the database does not answer in time: try again", 2
    ),
    "not_ready": _unavailable("Not ready", "a part of the service does not answer", 2),
    "auth_keys_unavailable": _unavailable(
        "Auth keys unavailable", "the auth server's keys cannot be fetched; try again", 5
    ),
    "overloaded": _unavailable("Overloaded", "the service is busy: try again", 1),
}


class FieldError(TypedDict):
    """One thing that is wrong with the request, and where: ``pointer`` as in RFC 6901."""

    field: str
    pointer: NotRequired[str]
    code: str
    message: str


class Problem(TypedDict):
    """An RFC 9457 problem. ``message`` repeats ``detail`` for frontends that read that."""

    type: str
    title: str
    status: int
    detail: str
    message: str
    code: str
    instance: str
    request_id: str
    errors: NotRequired[list[FieldError]]


def field_errors(
    errors: Iterable[Any], *, root: str = "", has_pointers: bool = True
) -> list[FieldError]:
    """Pydantic's errors in the contract's words, never with the input in them.

    ``root`` names the field of an error that concerns the whole. Pointers lead into a body.
    """
    return [_field_error(error, root, has_pointers=has_pointers) for error in errors]


def _field_error(error: Any, root: str, *, has_pointers: bool) -> FieldError:  # noqa: ANN401 - Pydantic's
    broken = error.get("ctx", {}).get("error")
    if isinstance(broken, InvalidValue):
        code, message = broken.code, broken.message
    else:
        code, message = _VALIDATION[error["type"]]
        message = message.format(**error.get("ctx", {}))
    field = ".".join(map(str, error["loc"])) or root
    if not has_pointers:
        return FieldError(field=field, code=code, message=message)
    pointer = "".join(f"/{part}" for part in error["loc"])
    return FieldError(field=field, pointer=pointer, code=code, message=message)


_VALIDATION: Final = {
    "missing": ("required", "is required"),
    "bool_type": ("wrong_type", "must be true or false"),
    "list_type": ("wrong_type", "must be an array"),
    "dict_type": ("wrong_type", "must be a JSON object"),
    "literal_error": ("unknown_value", "must be {expected}"),
    "int_parsing": ("wrong_type", "must be a whole number"),
    "int_parsing_size": ("out_of_range", "must be a number of reasonable size"),
    "int_from_float": ("wrong_type", "must be a whole number"),
    "greater_than_equal": ("out_of_range", "must be {ge} or more"),
    "less_than_equal": ("out_of_range", "must be {le} or less"),
}


def refuse_unknown(names: Iterable[str], known: Collection[str], what: str) -> None:
    """What ``Prefer: handling=strict`` asks for. Raises ProblemError naming each unknown one."""
    errors = [
        FieldError(field=_printable(name), code="unknown", message=f"is no {what} of this route")
        for name in names
        if name not in known
    ]
    if errors:
        raise ProblemError("validation_failed", errors=errors)


def _printable(name: str) -> str:
    """A name of the client's own, such that any client can be shown it."""
    return name[:_NAME_MAX].encode(errors="replace").decode()


class ProblemError(Exception):
    """A request that HTTP or the contract refuses before the domain hears of it."""

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code)
        self.headers = headers
        self.code = code
        self.detail = detail or (summarize(errors) if errors else None)
        self.errors = errors


def problem(
    request: Request,
    code: str,
    detail: str | None = None,
    *,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The problem document for a code of the contract."""
    kind = PROBLEM_TYPES[code]
    sentence = detail or kind.detail
    document: dict[str, Any] = {
        "type": f"/problems/{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": sentence,
        "message": sentence,
        "code": code,
        "instance": original_path(request),
        "request_id": request.scope["request_id"],
    }
    if errors:
        document["errors"] = errors[:_ERRORS_MAX]
    return Response(
        orjson.dumps(document),
        kind.status,
        {**kind.headers, **(headers or {})},
        MEDIA_TYPE,
    )


def original_path(request: Request) -> str:
    """The path that the client asked for, as a URI reference, whatever it was rewritten to."""
    raw = request.scope.get("raw_path")
    return quote(raw, safe=_PATH) if raw else quote(request.scope["path"], errors="replace")


def summarize(errors: Sequence[FieldError]) -> str:
    """The errors in one readable line, the first few of them if there are many."""
    shown = "; ".join(f"{error['field']}: {error['message']}" for error in errors[:5])
    return f"{shown}; and {len(errors) - 5} more" if len(errors) > 5 else shown  # noqa: PLR2004
