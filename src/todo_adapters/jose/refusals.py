"""Why a token was refused: every reason code that the log can hold, and what its bearer is told."""

from enum import StrEnum
from typing import Final

from todo_domain.errors import TokenFault, TokenRejected


class Refusal(StrEnum):
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
    Refusal.TOO_LONG: TokenFault.MALFORMED,
    Refusal.NOT_THREE_SEGMENTS: TokenFault.MALFORMED,
    Refusal.NOT_BASE64URL: TokenFault.MALFORMED,
    Refusal.NOT_JSON: TokenFault.MALFORMED,
    Refusal.OPAQUE_SESSION: TokenFault.NOT_JWT,
    Refusal.EXPIRED: TokenFault.EXPIRED,
}


def rejected(refusal: Refusal) -> TokenRejected:
    """The failure to raise for this reason."""
    return TokenRejected(_FAULTS.get(refusal, TokenFault.INVALID), refusal.value)
