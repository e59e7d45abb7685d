"""Why a token was refused: every reason code that the log can hold, and what its bearer is told."""

from enum import StrEnum
from typing import Final

from todo_domain.errors import TokenErrorCode, TokenRejected


class RejectionReason(StrEnum):
    """A reason code. A refusal never carries any part of the token."""

    # The text is no signed JWT in compact form.
    TOO_LONG = "too_long"
    NOT_THREE_SEGMENTS = "not_three_segments"
    NOT_BASE64URL = "not_base64url"
    NOT_JSON = "not_json"
    OPAQUE_SESSION = "opaque_session"
    # Its header.
    ALGORITHM = "algorithm"
    TYPE = "type"
    CRITICAL_HEADER = "critical_header"
    KEY_IN_HEADER = "key_in_header"
    KID_MISSING = "kid_missing"
    # Its claims.
    SUBJECT = "subject"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    EXPIRY = "expiry"
    NOT_BEFORE = "not_before"
    ISSUED_AT = "issued_at"
    LIFETIME = "lifetime"
    # Its key and signature.
    KID_UNKNOWN = "kid_unknown"
    ALGORITHM_OF_KEY = "algorithm_of_key"
    SIGNATURE = "signature"
    # Everything about it was right, once.
    EXPIRED = "expired"


_FAULTS: Final = {
    RejectionReason.TOO_LONG: TokenErrorCode.MALFORMED,
    RejectionReason.NOT_THREE_SEGMENTS: TokenErrorCode.MALFORMED,
    RejectionReason.NOT_BASE64URL: TokenErrorCode.MALFORMED,
    RejectionReason.NOT_JSON: TokenErrorCode.MALFORMED,
    RejectionReason.OPAQUE_SESSION: TokenErrorCode.NOT_JWT,
    RejectionReason.EXPIRED: TokenErrorCode.EXPIRED,
}


def rejected(refusal: RejectionReason) -> TokenRejected:
    """The failure to raise for this reason."""
    return TokenRejected(_FAULTS.get(refusal, TokenErrorCode.INVALID), refusal.value)
