"""Tokens that a frontend signs with a shared secret, and the settings that accept them."""

from datetime import UTC, datetime
from typing import Final

from support.jose_tokens import (
    MINUTES_15,
    SECRET,
    Json,
    changed,
    frontend_claims,
    hmac_token,
    seconds,
)

AUTH_SETTINGS: Final = {"AUTH_MODE": "shared-secret", "BETTER_AUTH_SECRET": SECRET}


def token_of(user: str, **changes: Json) -> str:
    """A token that is valid now, apart from the changed claims."""
    now = seconds(datetime.now(UTC))
    claims = frontend_claims(sub=user, iat=now, exp=now + MINUTES_15)
    return hmac_token(changed(claims, changes))


def as_user(user: str) -> dict[str, str]:
    """The header fields that the frontend sends for the user."""
    return {"Authorization": f"Bearer {token_of(user)}"}
