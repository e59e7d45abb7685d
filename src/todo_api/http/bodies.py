"""Reads a JSON body: limits its size, parses strict JSON, and validates it."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NoReturn

from pydantic.fields import FieldInfo
from starlette.requests import ClientDisconnect, Request

from todo_api.http.field_names import (
    COMPLETION_FLAGS,
    COMPLETION_STATUSES,
    closest_name,
    field_names,
)
from todo_api.http.validation_errors import field_errors, json_pointer
from todo_api.problems import (
    ERRORS_MAX,
    FieldError,
    ProblemError,
    printable,
    refuse_unknown,
    summarize,
)
from todo_api.schemas import Task, TaskChanges

BODY_MAX: Final = 1024 * 1024  # bytes
_LENGTH_DIGITS_MAX: Final = 18  # int() refuses text of more than 4,300 digits
_MEDIA_TYPES: Final = frozenset({"application/json", "application/merge-patch+json"})
# A client may send a task as it read it; the members that a body does not declare are ignored.
_TASK_MEMBERS: Final = frozenset(Task.__annotations__).union(*field_names(TaskChanges).values())
_READ_ONLY: Final = Task.__annotations__.keys() - TaskChanges.__annotations__.keys()
_DIALECT_NAMES: Final = frozenset((*COMPLETION_FLAGS, *COMPLETION_STATUSES))

Validate = Callable[[object], tuple[Any, Sequence[Mapping[str, Any]]]]


class JsonBody:
    """Reads the body parameter of an endpoint. ``validate`` returns the value and its errors."""

    def __init__(self, declared: FieldInfo, validate: Validate) -> None:
        self._declared = declared
        self._validate = validate
        self._is_optional = not declared.is_required()
        self._names = field_names(declared.annotation)
        known = _TASK_MEMBERS.union(*self._names.values())
        self._known = known if self._names else frozenset()

    async def read(self, request: Request, *, is_strict: bool) -> Any:  # noqa: ANN401 - what the endpoint declares
        """The validated body. If strict, a body with unknown members is refused.

        A body that has members, but none that is declared, is refused as well: the client intends a
        change that would be lost. Raises ProblemError with status 400, 413, 415 or 422.
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
            invalid = field_errors(errors, value, root="body")
            raise ProblemError(
                "validation_failed", errors=[self._explain(error, value) for error in invalid]
            )
        if isinstance(value, dict) and value and validated == {}:
            unchangeable = [_unchangeable(name, self._names) for name in islice(value, ERRORS_MAX)]
            detail = summarize(unchangeable) + _other_base_path(value)
            raise ProblemError("nothing_to_change", detail, errors=unchangeable)
        return validated

    def _explain(self, error: FieldError, sent: object) -> FieldError:
        """The error; if a member is missing, with the unknown member that was sent instead."""
        missing = error["field"]
        if error["code"] == "required" and isinstance(sent, dict):
            for name in islice(sent, ERRORS_MAX):
                if name not in self._known and closest_name(name, (missing,)):
                    instead = f"use {missing} instead of {printable(name)}"
                    return {**error, "message": f"{error['message']}: {instead}"}
        return error


def _other_base_path(sent: Mapping[str, object]) -> str:
    """The base path that understands a member of the body, as the end of a sentence."""
    understood = next((name for name in sent if name in _DIALECT_NAMES), None)
    return f"; or use the base path /compat, which understands {understood}" if understood else ""


def _unchangeable(name: str, known: Collection[str]) -> FieldError:
    """The error for a member that a route does not change, with the closest one that it does."""
    code, message = "unknown", "is not a member of this route"
    if name in _READ_ONLY:
        code, message = "read_only", "is read-only"
    closest = closest_name(name, known)
    return FieldError(
        field=printable(name),
        pointer=json_pointer([printable(name)]),
        code=code,
        message=f"{message}: use {closest}" if closest else message,
    )


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
