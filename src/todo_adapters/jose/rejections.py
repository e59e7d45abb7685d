"""The reasons for which tokens are rejected."""

from enum import StrEnum

from todo_domain.errors import TokenErrorCode, TokenRejected


class RejectionReason(StrEnum):
    """A reason code for the log. A rejection never contains a part of the token."""

    # The compact serialization
    TOO_LONG = "too_long"
    NOT_THREE_SEGMENTS = "not_three_segments"
    NOT_BASE64URL = "not_base64url"
    NOT_JSON = "not_json"
    OPAQUE_SESSION = "opaque_session"
    # The header
    ALGORITHM = "algorithm"
    TYPE = "type"
    CRITICAL_HEADER = "critical_header"
    KEY_IN_HEADER = "key_in_header"
    KID_MISSING = "kid_missing"
    # The claims
    SUBJECT = "subject"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    EXPIRY = "expiry"
    NOT_BEFORE = "not_before"
    ISSUED_AT = "issued_at"
    LIFETIME = "lifetime"
    # The key and the signature
    KID_UNKNOWN = "kid_unknown"
    ALGORITHM_OF_KEY = "algorithm_of_key"
    SIGNATURE = "signature"
    EXPIRED = "expired"  # and valid in every other respect


def rejected(
    reason: RejectionReason, code: TokenErrorCode = TokenErrorCode.INVALID
) -> TokenRejected:
    """The exception to raise: ``reason`` is for the log, ``code`` for the client."""
    return TokenRejected(code, reason.value)
