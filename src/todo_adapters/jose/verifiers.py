"""The judges of bearer tokens: under an issuer's key set, or under a secret shared with a frontend.

python-jose checks one signature with one prepared key and one algorithm. What it would take on
trust (the form of the text, the header, the claims) is checked here, before any key is looked for:
a token that could not be accepted in any case costs the issuer nothing.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, Protocol

from jose import jwk, jws
from jose.exceptions import JWKError

from todo_adapters.jose.claims import LEEWAY, ClaimsPolicy
from todo_adapters.jose.encoding import JsonObject, decode_base64url, parse_json_object
from todo_adapters.jose.keys import PUBLIC_KEY_ALGORITHMS, VerificationKey
from todo_adapters.jose.rejections import RejectionReason, rejected
from todo_domain.ownership import Principal

TOKEN_MAX: Final = 8 * 1024
SECRET_MIN: Final = 32
SHARED_SECRET_LIFETIME: Final = timedelta(days=7)
CACHE_SIZE: Final = 10_000
REMEMBERED_FOR: Final = timedelta(minutes=5)

_SEGMENTS: Final = 3  # RFC 7515, section 7.1; an encrypted token has five
_EXTENSIONS: Final = frozenset({"crit", "b64", "zip"})
_KEYS_IN_HEADER: Final = frozenset({"jku", "jwk", "x5u", "x5c"})

# What Better Auth's session cookie and its bearer plugin hand out: the session's token, with or
# without its HMAC-SHA256 in base64, which cookies carry percent-encoded.
_OPAQUE_SESSION: Final = re.compile(
    r"[A-Za-z0-9]{32}(\.([A-Za-z0-9+/_-]|%2[BbFf]){43}(=|%3[Dd])?)?", re.ASCII
)

# What Better Auth falls back to where nobody has set a secret: known to everyone.
_PUBLIC_SECRET: Final = "better-auth-secret-12345678901234567890"  # noqa: S105 - it is no secret


class KeySource(Protocol):
    """Where the keys of an issuer are found, and whether they are still in use."""

    async def find(
        self, kid: str, *, other_than: VerificationKey | None = None
    ) -> VerificationKey | None:
        """The key of that name, if it is another than one that will not do.

        Raises AuthKeysUnavailable when there is no key at all.
        """

    def holds(self, key: VerificationKey) -> bool:
        """Whether this very key is still in use."""


@dataclass(frozen=True, slots=True)
class _CacheEntry:
    """What a verification showed, and for how long that needs no showing again."""

    principal: Principal
    key: VerificationKey
    since: datetime
    until: datetime


class _JwtVerifier(ABC):
    """A TokenVerifier for signed JWTs in compact form.

    A token that was verified is remembered by its SHA-256: until it ends, for REMEMBERED_FOR, or
    until ``trusted`` drops its key, it costs a hash and a look-up, and nothing is awaited. At most
    CACHE_SIZE are remembered; the oldest go first.
    """

    def __init__(self, rules: ClaimsPolicy, trusted: Callable[[VerificationKey], bool]) -> None:
        self._rules = rules
        self._trusted = trusted
        self._remembered: dict[bytes, _CacheEntry] = {}

    async def verify(self, token: str, now: datetime) -> Principal:
        """The user for whom the token speaks. Raises TokenRejected, AuthKeysUnavailable.

        A token has ended when ``now`` is its ``exp`` or later (RFC 7519, section 4.1.4).
        """
        if len(token) > TOKEN_MAX:
            raise rejected(RejectionReason.TOO_LONG)
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._remembered.get(digest)
        if known and known.since <= now < known.until and self._trusted(known.key):
            return known.principal
        known = await self._judge(token, now)
        self._remember(digest, known)
        return known.principal

    async def _judge(self, token: str, now: datetime) -> _CacheEntry:
        header, claims = _parse(token)
        _check_header(header)
        principal = self._rules.principal(claims, now)
        key = await self._signing_key(token, header)
        if now >= principal.expires_at:
            raise rejected(RejectionReason.EXPIRED)
        return _CacheEntry(principal, key, now, min(principal.expires_at, now + REMEMBERED_FOR))

    def _remember(self, digest: bytes, known: _CacheEntry) -> None:
        self._remembered.pop(digest, None)
        while len(self._remembered) >= CACHE_SIZE:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = known

    @abstractmethod
    async def _signing_key(self, token: str, header: JsonObject) -> VerificationKey:
        """The key that the token is signed by. Raises TokenRejected."""


class JwksTokenVerifier(_JwtVerifier):
    """Tokens signed by an issuer that publishes its keys, as Better Auth's ``jwt`` plugin does.

    Issuer and audience have to be exactly these; an array of audiences has to name ours. Raises
    ValueError when one of them is empty or the leeway is over a minute.
    """

    def __init__(
        self, keys: KeySource, *, issuer: str, audience: str, leeway: timedelta = LEEWAY
    ) -> None:
        super().__init__(ClaimsPolicy(issuer, audience, leeway), keys.holds)
        self._keys = keys

    async def _signing_key(self, token: str, header: JsonObject) -> VerificationKey:
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in PUBLIC_KEY_ALGORITHMS:
            raise rejected(RejectionReason.ALGORITHM)
        if not isinstance(kid, str) or not kid:
            raise rejected(RejectionReason.KID_MISSING)
        key = await self._keys.find(kid)
        if key is None:
            raise rejected(RejectionReason.KID_UNKNOWN)
        misfit = _check_signature(token, algorithm, key)
        if misfit:
            # The name may be another key's by now: a reset issuer counts from 1 again.
            key = await self._keys.find(kid, other_than=key)
            if key is None or _check_signature(token, algorithm, key):
                raise rejected(misfit)
        return key


class SharedSecretTokenVerifier(_JwtVerifier):
    """Tokens that a frontend signs itself, with HS256 under the secret it shares with us.

    The user is in ``sub`` and nowhere else; a token may last SHARED_SECRET_LIFETIME. The same
    secret signs other tokens of a Better Auth installation, told apart by their lack of ``sub``,
    their ``typ``, or an ``aud`` that is not ours. There is but one key, so a ``kid`` means nothing.

    Raises ValueError for a secret that could be guessed.
    """

    def __init__(
        self, secret: str, *, issuer: str | None = None, audience: str | None = None
    ) -> None:
        rules = ClaimsPolicy(issuer, audience, lifetime=SHARED_SECRET_LIFETIME)
        super().__init__(rules, lambda _: True)
        self._key = _secret_key(secret)

    async def _signing_key(self, token: str, header: JsonObject) -> VerificationKey:
        if header.get("alg") != self._key.algorithm:
            raise rejected(RejectionReason.ALGORITHM)
        if not _is_signed(token, self._key):
            raise rejected(RejectionReason.SIGNATURE)
        return self._key


def _secret_key(secret: str) -> VerificationKey:
    octets = secret.encode("utf-8", "surrogateescape")
    if len(octets) < SECRET_MIN or secret == _PUBLIC_SECRET:
        raise ValueError(
            "AUTH_MODE=shared-secret needs a BETTER_AUTH_SECRET of at least"
            f" {SECRET_MIN} bytes that nobody can guess, the same as the frontend's;"
            " `openssl rand -base64 32` makes one"
        )
    try:
        prepared = jwk.construct(octets, "HS256")
    except JWKError:
        raise ValueError("BETTER_AUTH_SECRET is a public or private key, not a secret") from None
    return VerificationKey("", "HS256", prepared, sha256(octets).digest())


def _parse(token: str) -> tuple[JsonObject, JsonObject]:
    """The token's header and claims, neither of them verified."""
    segments = token.split(".")
    if len(segments) != _SEGMENTS:
        is_session = _OPAQUE_SESSION.fullmatch(token)
        raise rejected(
            RejectionReason.OPAQUE_SESSION if is_session else RejectionReason.NOT_THREE_SEGMENTS
        )
    try:
        header, claims, _ = [decode_base64url(segment) for segment in segments]
    except ValueError:
        raise rejected(RejectionReason.NOT_BASE64URL) from None
    try:
        return parse_json_object(header), parse_json_object(claims)
    except ValueError:
        raise rejected(RejectionReason.NOT_JSON) from None


def _check_header(header: JsonObject) -> None:
    """Refuse what would change the meaning of the token, or choose the key it is checked with."""
    typ = header.get("typ", "JWT")
    if not isinstance(typ, str) or typ.upper() != "JWT":
        raise rejected(RejectionReason.TYPE)
    if _EXTENSIONS & header.keys():
        raise rejected(RejectionReason.CRITICAL_HEADER)
    if _KEYS_IN_HEADER & header.keys():
        raise rejected(RejectionReason.KEY_IN_HEADER)


def _check_signature(token: str, algorithm: object, key: VerificationKey) -> RejectionReason | None:
    """Why the token is not signed by this key with this algorithm; None if it is."""
    if key.algorithm != algorithm:
        return RejectionReason.ALGORITHM_OF_KEY
    return None if _is_signed(token, key) else RejectionReason.SIGNATURE


def _is_signed(token: str, key: VerificationKey) -> bool:
    # Whatever python-jose stumbles over, it has not verified the signature.
    with suppress(Exception):
        jws.verify(token, key.key, [key.algorithm])
        return True
    return False
