"""Reads a JSON body: limits its size, parses strict JSON, and validates it."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

from pydantic.fields import FieldInfo
from starlette.requests import ClientDisconnect, Request

from todo_api.http.field_names import field_names
from todo_api.http.validation_errors import field_errors
from todo_api.problems import ProblemError, refuse_unknown
from todo_api.schemas import Task, TaskChanges

BODY_MAX: Final = 1024 * 1024  # bytes
_LENGTH_DIGITS_MAX: Final = 18  # int() refuses text of more than 4,300 digits
_MEDIA_TYPES: Final = frozenset({"application/json", "application/merge-patch+json"})
# A client may send a task as it read it; the members that a body does not declare are ignored.
_TASK_MEMBERS: Final = frozenset(Task.__annotations__).union(*field_names(TaskChanges).values())

Validate = Callable[[object], tuple[Any, Sequence[Mapping[str, Any]]]]


class JsonBody:
    """Reads the body parameter of an endpoint. ``validate`` returns the value and its errors."""

    def __init__(self, declared: FieldInfo, validate: Validate) -> None:
        self._declared = declared
        self._validate = validate
        self._is_optional = not declared.is_required()
        names = field_names(declared.annotation).values()
        self._known = _TASK_MEMBERS.union(*names) if names else None

    async def read(self, request: Request, *, is_strict: bool) -> Any:  # noqa: ANN401 - what the endpoint declares
        """The validated body. If strict, a body with unknown members is refused.

        Raises ProblemError with status 400, 413, 415 or 422.
        """
        _require_uncompressed(request)
        _require_whole(request)
        body = await _read(request)
        if self._is_optional and not body:
            return self._declared.get_default(call_default_factory=True)
        _require_json(request)
        value = _parse(body)
        if is_strict and self._known and isinstance(value, dict):
            refuse_unknown(value, self._known, "member")
        validated, errors = self._validate(value)
        if errors:
            raise ProblemError("validation_failed", errors=field_errors(errors, value, root="body"))
        return validated


def _require_uncompressed(request: Request) -> None:
    codings = ",".join(request.headers.getlist("content-encoding")).lower().split(",")
    if {coding.strip() for coding in codings} - {"", "identity"}:
        raise ProblemError(
            "unsupported_media_type",
            "Content-Encoding: send the body without compression",
            headers={"Accept-Encoding": "identity"},  # RFC 9110, section 15.5.16
        )


def _require_whole(request: Request) -> None:
    """Refuse a part of a representation (RFC 9110, section 14.5): it is not a whole JSON body."""
    if "content-range" in request.headers:
        raise ProblemError("bad_request", "Content-Range: send the whole body, without this header")


def _require_json(request: Request) -> None:
    media_type, *parameters = request.headers.get("content-type", "").lower().split(";")
    named = dict(part.strip().split("=", 1) for part in parameters if "=" in part)
    is_utf8 = named.get("charset", "utf-8").strip('"') in {"utf-8", "utf8"}
    if media_type.strip() not in _MEDIA_TYPES or not is_utf8:
        raise ProblemError("unsupported_media_type")


async def _read(request: Request) -> bytes:
    """The whole body. An oversized body is refused as soon as its size is known."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > _LENGTH_DIGITS_MAX or int(length) > BODY_MAX):
        raise ProblemError("body_too_large")
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_MAX:
                raise ProblemError("body_too_large")
    except ClientDisconnect:
        raise ProblemError("bad_request", "the body is incomplete") from None
    return bytes(body)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def _parse(body: bytes) -> object:
    try:
        return _DECODER.decode(body.decode())
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise ProblemError("malformed_json", f"the body is not valid JSON: {position}") from None
    except UnicodeDecodeError:
        raise ProblemError("malformed_json", "the body is not UTF-8") from None
    except (ValueError, RecursionError):
        # NaN or Infinity, a number of more than 4,300 digits, or about 1,000 nested arrays.
        raise ProblemError("malformed_json") from None
