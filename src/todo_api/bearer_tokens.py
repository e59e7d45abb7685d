"""The bearer token of a request (RFC 6750, section 2.1), and what frontends send instead of one."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.types import Scope

from todo_domain.errors import TokenErrorCode, TokenRejected

DEVELOPMENT_USER: Final = "alice"  # in commands and pages of `todo-api dev`

_EXPECTED: Final = "Authorization: must be the word Bearer, a space and the token"
_FETCH: Final = "fetch it (await authClient.token(), then data.token) before the request"
# The texts of values of JavaScript, Python and other languages that are no token and no user id.
_NO_VALUE: Final = re.compile(r"undefined|null|none|nan|true|false|", re.IGNORECASE)
# Each mistake: a reason code for the log, how to recognise it, and what to do.
_MISTAKES: Final[tuple[tuple[str, re.Pattern[str], str], ...]] = (
    (
        "repeated_scheme",
        re.compile(r"bearer\b.*", re.IGNORECASE),
        "the word Bearer is there twice: send it once",
    ),
    (
        "object_as_token",
        re.compile(r"\[?(?:object|promise|function)\b.*|<coroutine .*", re.IGNORECASE),
        f"the frontend sent an object or a promise instead of the token's text: {_FETCH}",
    ),
    (
        "json_as_token",
        re.compile(r"\{\s*[\"'].*|\{\s*\}"),
        "the frontend sent a JSON object as the token: send only the text of its member token",
    ),
    (
        "placeholder_as_token",
        re.compile(r"[$<{%].*|(?:your|my)[-_ ].*|(?:jwt|token|access_token)", re.IGNORECASE),
        "the client sent a placeholder: replace it with the token",
    ),
    (
        "quoted_token",
        re.compile(r"[\"'`].*|.*[\"'`]|%22.*"),
        "the token is in quotation marks: send it without them",
    ),
)


@dataclass(frozen=True, slots=True)
class DevelopmentTokens:
    """The service accepts tokens of the development issuer.

    ``issue`` makes a token for a user id. It is None if other machines can reach the service.
    """

    issue: Callable[[str], str] | None = None


def bearer_token(scope: Scope) -> str:
    """The token in the Authorization field. Raises TokenRejected; it names common mistakes."""
    fields = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(fields) > 1:
        raise TokenRejected(
            TokenErrorCode.MALFORMED,
            "several_authorization_fields",
            "the request has several Authorization headers: send one",
        )
    field = fields[0].decode("latin-1").strip() if fields else ""
    scheme, _, token = field.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise TokenRejected(TokenErrorCode.MISSING, "no_bearer_token", _EXPECTED if field else None)
    if not token.startswith("eyJ"):  # as every JWT of a JSON object without white space does
        _refuse_mistakes(token)
    return token


def no_value(text: str) -> str | None:
    """What the client sent instead of a value, such as ``undefined``; None if it sent a value."""
    value = text.strip("\"'` ").lower()
    return (value or "an empty text") if _NO_VALUE.fullmatch(value) else None


def _refuse_mistakes(token: str) -> None:
    sent = no_value(token)
    if sent:
        detail = f"the frontend has no token yet and sent {sent} instead: {_FETCH}"
        raise TokenRejected(TokenErrorCode.MALFORMED, "no_value_as_token", detail)
    for reason, pattern, detail in _MISTAKES:
        if pattern.fullmatch(token):
            raise TokenRejected(TokenErrorCode.MALFORMED, reason, detail)
