"""Reading a JSON body: bounded, strict about JSON, and validated with errors for people."""

import asyncio
import json
from typing import Any, Final, NoReturn, cast

from fastapi._compat import ModelField  # what Dependant.body_params holds; it has no other name
from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request

from todo_api.problems import ProblemError, field_errors, refuse_unknown
from todo_api.schemas import KNOWN_MEMBERS

BODY_MAX: Final = 1024 * 1024  # bytes
BODY_TIMEOUT: Final = 20.0  # seconds
_DIGITS_MAX: Final = 18  # more than any length has, fewer than Python refuses to read
_MEDIA_TYPES: Final = frozenset({"application/json", "application/merge-patch+json"})


class JsonBody:
    """How one body parameter of an endpoint is read from requests.

    A body that has a default may be left out, which counts as an empty object.
    """

    def __init__(self, param: ModelField) -> None:
        self._is_optional = not param.field_info.is_required()
        self._adapter: TypeAdapter[Any] = TypeAdapter(
            cast("type[Any]", param.field_info.annotation)
        )

    async def read(self, request: Request, *, is_strict: bool) -> Any:  # noqa: ANN401 - what the endpoint declares
        """The validated body; if strict, one without unknown members.

        Raises ProblemError with the contract's 400, 413, 415 and 422.
        """
        _require_plain(request)
        body = await _bytes(request)
        if self._is_optional and not body:
            return self._validated({})
        _require_json(request)
        members = _parsed(body)
        if is_strict and isinstance(members, dict):
            refuse_unknown(members, KNOWN_MEMBERS, "member")
        return self._validated(members)

    def _validated(self, value: object) -> Any:  # noqa: ANN401
        try:
            return self._adapter.validate_python(value)
        except ValidationError as invalid:
            found = invalid.errors(include_url=False, include_input=False)
            raise ProblemError(
                "validation_failed", errors=field_errors(found, root="body")
            ) from None


def _require_plain(request: Request) -> None:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ProblemError(
            "unsupported_media_type", "Content-Encoding: send the body without compression"
        )


def _require_json(request: Request) -> None:
    media_type, *parameters = request.headers.get("content-type", "").lower().split(";")
    named = dict(part.strip().split("=", 1) for part in parameters if "=" in part)
    is_utf8 = named.get("charset", "utf-8").strip('"') in {"utf-8", "utf8"}
    if media_type.strip() not in _MEDIA_TYPES or not is_utf8:
        raise ProblemError("unsupported_media_type")


async def _bytes(request: Request) -> bytes:
    """The whole body, or a refusal as soon as it is known to be too large."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > _DIGITS_MAX or int(declared) > BODY_MAX):
        raise ProblemError("body_too_large")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_MAX:
                    raise ProblemError("body_too_large")
    except TimeoutError:
        raise ProblemError("request_timeout") from None
    except ClientDisconnect:
        raise ProblemError("bad_request", "the body ended early") from None
    return bytes(body)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def _parsed(body: bytes) -> object:
    try:
        return _DECODER.decode(body.decode())
    except json.JSONDecodeError as malformed:
        place = f"line {malformed.lineno}, column {malformed.colno}"
        raise ProblemError("malformed_json", f"the body is not valid JSON: {place}") from None
    except UnicodeDecodeError:
        raise ProblemError("malformed_json", "the body is not UTF-8") from None
    except (ValueError, RecursionError):
        # A number of thousands of digits, NaN or Infinity, thousands of nested arrays.
        raise ProblemError("malformed_json") from None
