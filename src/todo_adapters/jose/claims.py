"""What a token's claims (RFC 7519, section 4.1) have to say before they speak for a user."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from todo_adapters.jose.encoding import JsonObject
from todo_adapters.jose.rejections import RejectionReason, rejected
from todo_domain.ownership import Principal

SUBJECT_MAX: Final = 255
DISPLAY_MAX: Final = 255
LEEWAY: Final = timedelta(seconds=30)
LEEWAY_MAX: Final = timedelta(seconds=60)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CONTROL_OR_SURROGATE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class ClaimsPolicy:
    """Whom tokens have to come from and be meant for, and how long they may last.

    ``leeway`` bears with an issuer's clock that is ahead of ours: a token may have been issued, or
    become valid, that far in the future. An end is an end: no leeway prolongs a token.

    Without an ``issuer`` any is believed. Without an ``audience`` a token that names one is
    somebody else's (RFC 7519, section 4.1.3). ``lifetime`` is the longest one, from ``iat`` or,
    if that is missing, from now. Raises ValueError for a rule that cannot be meant.
    """

    issuer: str | None
    audience: str | None
    leeway: timedelta = LEEWAY
    lifetime: timedelta | None = None

    def __post_init__(self) -> None:
        if self.issuer == "" or self.audience == "":
            raise ValueError("AUTH_ISSUER and AUTH_AUDIENCE must not be empty")
        if not timedelta(0) <= self.leeway <= LEEWAY_MAX:
            raise ValueError("the leeway must be from 0 to 60 seconds")

    def principal(self, claims: JsonObject, now: datetime) -> Principal:
        """The user of whom the claims speak, whose token may have ended. Raises TokenRejected."""
        self._check_parties(claims)
        expires_at = self._end(claims, now)
        return Principal(
            user_id=_subject(claims),
            expires_at=expires_at,
            name=_display_text(claims.get("name")),
            email=_display_text(claims.get("email")),
        )

    def _check_parties(self, claims: JsonObject) -> None:
        if self.issuer is not None and claims.get("iss") != self.issuer:
            raise rejected(RejectionReason.ISSUER)
        if not self._is_addressed(claims):
            raise rejected(RejectionReason.AUDIENCE)

    def _is_addressed(self, claims: JsonObject) -> bool:
        if self.audience is None:
            return "aud" not in claims
        audience = claims.get("aud")
        if isinstance(audience, list):
            return self.audience in audience and all(isinstance(name, str) for name in audience)
        return bool(audience == self.audience)

    def _end(self, claims: JsonObject, now: datetime) -> datetime:
        expires_at = _instant(claims, "exp", RejectionReason.EXPIRY)
        begun = self._begun(claims, "iat", RejectionReason.ISSUED_AT, now) or now
        self._begun(claims, "nbf", RejectionReason.NOT_BEFORE, now)
        if self.lifetime is not None and expires_at - begun > self.lifetime + self.leeway:
            raise rejected(RejectionReason.LIFETIME)
        return expires_at

    def _begun(
        self, claims: JsonObject, name: str, refusal: RejectionReason, now: datetime
    ) -> datetime | None:
        if name not in claims:
            return None
        instant = _instant(claims, name, refusal)
        if instant - now > self.leeway:
            raise rejected(refusal)
        return instant


def is_subject(text: object) -> bool:
    """Whether the value can be a user's id: printable text, not blank, at most SUBJECT_MAX long."""
    return (
        isinstance(text, str)
        and len(text) <= SUBJECT_MAX
        and text.isprintable()
        and not text.isspace()
        and text != ""
    )


def _subject(claims: JsonObject) -> str:
    subject = claims.get("sub")
    if not isinstance(subject, str) or not is_subject(subject):
        raise rejected(RejectionReason.SUBJECT)
    return subject


def _instant(claims: JsonObject, name: str, refusal: RejectionReason) -> datetime:
    """The claim's NumericDate: seconds since 1970, a fraction allowed, within the years 1 to 9999.

    A boolean is no number, though Python says so; infinity comes in as ``1e999``.
    """
    seconds = claims.get(name)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise rejected(refusal)
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        raise rejected(refusal) from None


def _display_text(value: object) -> str | None:
    """The value, if it is text that can be shown: the user chose it, so it proves nothing."""
    if not isinstance(value, str) or len(value) > DISPLAY_MAX:
        return None
    return None if _CONTROL_OR_SURROGATE.search(value) else value
