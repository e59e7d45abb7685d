"""Why a token is refused, in a sentence for the person who holds it and can change either side."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from todo_adapters.jose.encoding import JsonObject, decode_base64url, parse_json_object
from todo_adapters.jose.key_sets import RemoteKeySet
from todo_adapters.jose.keys import PUBLIC_KEY_ALGORITHMS
from todo_adapters.jose.rejections import RejectionReason

_SENTENCES: Final[Mapping[RejectionReason, str]] = {
    RejectionReason.TOO_LONG: "it is longer than 8 KiB: slim it with definePayload in Better Auth's jwt() "
    "plugin, which sends the whole user with avatar and all by default",
    RejectionReason.NOT_THREE_SEGMENTS: "it is no JWT: send what /api/auth/token answers",
    RejectionReason.NOT_BASE64URL: "it is damaged: copy it again, whole and without quotes",
    RejectionReason.NOT_JSON: "it is damaged: copy it again, whole and without quotes",
    RejectionReason.OPAQUE_SESSION: "it is Better Auth's session token: send the JWT that /api/auth/token "
    "answers for it (authClient.token()), which needs the jwt() plugin",
    RejectionReason.ALGORITHM: "it is signed with {alg}, which is not accepted: add it to AUTH_ALGORITHMS "
    "here, or set another keyPairConfig in the jwt() plugin; HS256 needs AUTH_MODE=shared-secret",
    RejectionReason.TYPE: "it is a JWT for another purpose, such as the session cookie's: send what "
    "/api/auth/token answers",
    RejectionReason.CRITICAL_HEADER: "its header asks for an extension that is not supported",
    RejectionReason.KEY_IN_HEADER: "its header brings a key of its own, which is never believed",
    RejectionReason.KID_MISSING: "it names no key (kid): tokens that a frontend signs itself with "
    "BETTER_AUTH_SECRET need AUTH_MODE=shared-secret here",
    RejectionReason.SUBJECT: "it has no user id in sub: set one with getSubject in the jwt() plugin",
    RejectionReason.ISSUER: "its issuer is {iss}, but this service believes {issuer}: set BETTER_AUTH_URL "
    "(or AUTH_ISSUER) here to the former, or baseURL of Better Auth to the latter",
    RejectionReason.AUDIENCE: "it is meant for {aud}, but this service is {audience}: set AUTH_AUDIENCE "
    "here to the former, or jwt.audience of the jwt() plugin to the latter",
    RejectionReason.EXPIRY: "it does not say when it ends (exp)",
    RejectionReason.NOT_BEFORE: "it is not valid yet: compare the clocks of both machines",
    RejectionReason.ISSUED_AT: "it comes from the future: compare the clocks of both machines",
    RejectionReason.LIFETIME: "it is valid for longer than seven days: sign it for less",
    RejectionReason.KID_UNKNOWN: "its key is not in the key set: it comes from another installation, or "
    "from before its database was reset; sign in again",
    RejectionReason.ALGORITHM_OF_KEY: "it claims another algorithm than its key is for",
    RejectionReason.SIGNATURE: "its signature is not that of the key it names: it was changed on the way, "
    "or comes from another installation",
    RejectionReason.EXPIRED: "it has expired: fetch a fresh one, they last 15 minutes by default",
}


def why_refused(reason: str, token: str, *, issuer: str | None, audience: str | None) -> str:
    """What is wrong with a token that was refused for this reason, and what to change where."""
    header, claims = _unverified(token)
    return _SENTENCES[RejectionReason(reason)].format(
        alg=header.get("alg"),
        iss=claims.get("iss"),
        aud=claims.get("aud"),
        issuer=issuer,
        audience=audience,
    )


async def usable_algorithms(url: str) -> Counter[str]:
    """How many keys of each supported algorithm an issuer publishes.

    Raises AuthKeysUnavailable, and ValueError for an address that will not do.
    """
    keys = RemoteKeySet(url, PUBLIC_KEY_ALGORITHMS)
    try:
        await keys.check()
        return Counter(keys.algorithms())
    finally:
        await keys.aclose()


def _unverified(token: str) -> tuple[JsonObject, JsonObject]:
    """Header and claims as far as they can be read; nothing of them is believed."""
    with suppress(ValueError):
        header, claims, _ = (decode_base64url(part) for part in token.split("."))
        return parse_json_object(header), parse_json_object(claims)
    return {}, {}
