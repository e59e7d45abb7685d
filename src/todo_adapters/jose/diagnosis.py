"""Explains to an operator why a token is rejected, and which setting to change."""

from collections import Counter
from contextlib import aclosing
from typing import Final

from todo_adapters.jose.key_sets import RemoteKeySet
from todo_adapters.jose.keys import PUBLIC_KEY_ALGORITHMS
from todo_adapters.jose.rejections import RejectionReason as Reason
from todo_adapters.jose.verifiers import parse_token
from todo_domain.errors import TokenRejected

_DAMAGED: Final = "it is damaged: copy the whole token, without quotes"
_OTHER_PURPOSE: Final = "it is a JWT for another purpose: send the token from /api/auth/token"
_CLOCK: Final = "its iat or nbf is in the future or no number: compare the clocks of both machines"
_OTHER_KEY: Final = "its key is not (or no longer) in the auth server's key set: sign in again"
_EXPLANATIONS: Final = {
    Reason.TOO_LONG: "it is longer than 8 KiB: Better Auth's jwt() plugin sends the whole user row"
    " by default; select the members with definePayload",
    Reason.NOT_THREE_SEGMENTS: "it is not a JWT: send the token from /api/auth/token",
    Reason.NOT_BASE64URL: _DAMAGED,
    Reason.NOT_JSON: _DAMAGED,
    Reason.OPAQUE_SESSION: "it is Better Auth's session token: send the JWT from /api/auth/token"
    " (authClient.token()), which needs the jwt() plugin",
    Reason.ALGORITHM: "its algorithm is {alg}, which is not accepted: add it to AUTH_ALGORITHMS,"
    " or set another keyPairConfig in the jwt() plugin; HS256 needs AUTH_MODE=shared-secret",
    Reason.TYPE: _OTHER_PURPOSE,
    Reason.CRITICAL_HEADER: _OTHER_PURPOSE,
    Reason.KEY_IN_HEADER: _OTHER_PURPOSE,
    Reason.KID_MISSING: "its header has no key id (kid): tokens that a frontend signs with"
    " BETTER_AUTH_SECRET need AUTH_MODE=shared-secret here",
    Reason.SUBJECT: "its sub is not a user id: set getSubject in the jwt() plugin",
    Reason.ISSUER: "its issuer is {iss}, but this service accepts {issuer}: set BETTER_AUTH_URL (or"
    " AUTH_ISSUER) here to the token's issuer, or baseURL of Better Auth to {issuer}",
    Reason.AUDIENCE: "its audience is {aud}, but this service accepts {audience}: set AUTH_AUDIENCE"
    " here to the token's audience, or jwt.audience of the jwt() plugin to {audience}",
    Reason.EXPIRY: "its expiry time (exp) is missing or is not a number of seconds",
    Reason.NOT_BEFORE: _CLOCK,
    Reason.ISSUED_AT: _CLOCK,
    Reason.LIFETIME: "it is valid for more than seven days: sign it with an earlier exp",
    Reason.KID_UNKNOWN: _OTHER_KEY,
    Reason.ALGORITHM_OF_KEY: _OTHER_KEY,
    Reason.SIGNATURE: "its signature does not match: it was changed, or was signed with another"
    " key or secret",
    Reason.EXPIRED: "it has expired: fetch a new token (Better Auth's tokens last 15 minutes)",
}


def explain_rejection(reason: str, token: str, *, issuer: str | None, audience: str | None) -> str:
    """What is wrong with a token that was rejected for this reason, and what to change."""
    try:
        header, claims = parse_token(token)
    except TokenRejected:
        header, claims = {}, {}
    return _EXPLANATIONS[Reason(reason)].format(
        alg=header.get("alg", "missing"),
        iss=claims.get("iss", "missing"),
        aud=claims.get("aud", "missing"),
        issuer=issuer,
        audience=audience or "only tokens without aud",
    )


async def count_algorithms(url: str) -> Counter[str]:
    """How many keys of each algorithm the key set has. Raises AuthKeysUnavailable, ValueError."""
    async with aclosing(RemoteKeySet(url, PUBLIC_KEY_ALGORITHMS)) as keys:
        await keys.check()
        return Counter(keys.algorithms())
