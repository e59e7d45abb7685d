"""Checks the claims of a token (RFC 7519, section 4.1) and reads the user from them."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from todo_adapters.jose.encoding import JsonObject
from todo_adapters.jose.rejections import RejectionReason, rejected
from todo_domain.ownership import Principal

SUBJECT_MAX: Final = 255
DISPLAY_TEXT_MAX: Final = 255
# The issuer's clock may be this much ahead. The leeway does not apply to ``exp``.
LEEWAY: Final = timedelta(seconds=30)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CONTROL_OR_SURROGATE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class ClaimsPolicy:
    """The issuer and audience that a token must have, and its longest lifetime.

    Without an ``issuer``, any issuer is accepted. Without an ``audience``, only tokens without
    ``aud`` are accepted (RFC 7519, section 4.1.3). ``max_lifetime`` starts at ``iat``, or now.
    """

    issuer: str | None
    audience: str | None
    max_lifetime: timedelta | None = None

    def read_principal(self, claims: JsonObject, now: datetime) -> Principal:
        """Check every claim, except whether the token has expired. Raises TokenRejected."""
        if self.issuer is not None and claims.get("iss") != self.issuer:
            raise rejected(RejectionReason.ISSUER)
        if not self._accepts_audience(claims):
            raise rejected(RejectionReason.AUDIENCE)
        expires_at = self._read_expiry(claims, now)
        return Principal(
            user_id=_read_subject(claims),
            expires_at=expires_at,
            name=_display_text(claims.get("name")),
            email=_display_text(claims.get("email")),
        )

    def _accepts_audience(self, claims: JsonObject) -> bool:
        if self.audience is None:
            return "aud" not in claims
        audience = claims.get("aud")
        names = audience if isinstance(audience, list) else [audience]
        return self.audience in names and all(isinstance(name, str) for name in names)

    def _read_expiry(self, claims: JsonObject, now: datetime) -> datetime:
        expires_at = _read_time(claims, "exp", RejectionReason.EXPIRY)
        issued_at = _read_start(claims, "iat", RejectionReason.ISSUED_AT, now)
        _read_start(claims, "nbf", RejectionReason.NOT_BEFORE, now)
        if self.max_lifetime is not None and expires_at - issued_at > self.max_lifetime + LEEWAY:
            raise rejected(RejectionReason.LIFETIME)
        return expires_at


def is_user_id(text: str) -> bool:
    """Whether the text can be a user's id: printable, not blank, at most SUBJECT_MAX characters."""
    return len(text) <= SUBJECT_MAX and text.isprintable() and text.strip() != ""


def _read_subject(claims: JsonObject) -> str:
    subject = claims.get("sub")
    if not isinstance(subject, str) or not is_user_id(subject):
        raise rejected(RejectionReason.SUBJECT)
    return subject


def _read_start(claims: JsonObject, name: str, reason: RejectionReason, now: datetime) -> datetime:
    """The time of ``iat`` or ``nbf``, which must not be in the future; now if it is missing."""
    time = _read_time(claims, name, reason) if name in claims else now
    if time - now > LEEWAY:
        raise rejected(reason)
    return time


def _read_time(claims: JsonObject, name: str, reason: RejectionReason) -> datetime:
    """The time of a NumericDate claim: seconds since 1970, within the years 1 to 9999."""
    seconds = claims.get(name)
    # A bool is an int for Python. JSON's 1e999 is an infinite float.
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise rejected(reason)
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        raise rejected(reason) from None


def _display_text(value: object) -> str | None:
    """The value if it is text that can be displayed. The user chose the text: never trust it."""
    if not isinstance(value, str) or len(value) > DISPLAY_TEXT_MAX:
        return None
    return None if _CONTROL_OR_SURROGATE.search(value) else value
