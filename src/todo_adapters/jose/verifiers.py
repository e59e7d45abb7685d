"""Verifies bearer tokens with an issuer's key set, or with a secret shared with a frontend.

python-jose checks a signature with one prepared key and one algorithm. What python-jose does not
check (encoding, header and claims) is checked here, before the key is looked up, so that a token
which would be rejected anyway causes no fetch.
"""

import re
from abc import ABC, abstractmethod
from contextlib import suppress
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, NamedTuple, Protocol

from jose import jwk, jws
from jose.exceptions import JWKError

from todo_adapters.jose.claims import ClaimsPolicy
from todo_adapters.jose.encoding import JsonObject, decode_base64url, parse_json_object
from todo_adapters.jose.keys import PUBLIC_KEY_ALGORITHMS, VerificationKey
from todo_adapters.jose.rejections import RejectionReason, rejected
from todo_domain.errors import TokenErrorCode
from todo_domain.ownership import Principal

TOKEN_MAX: Final = 8 * 1024
SECRET_MIN: Final = 32
SHARED_SECRET_LIFETIME: Final = timedelta(days=7)
CACHE_SIZE: Final = 10_000
CACHE_TTL: Final = timedelta(minutes=5)

_SEGMENTS: Final = 3  # RFC 7515, section 7.1. An encrypted token has five.
_EXTENSIONS: Final = frozenset({"crit", "b64", "zip"})
_KEY_MEMBERS: Final = frozenset({"jku", "jwk", "x5u", "x5c"})

# The session token of Better Auth. In a cookie and from the bearer plugin the token has its
# HMAC-SHA256 in base64 after a dot. Cookies are percent-encoded.
_OPAQUE_SESSION: Final = re.compile(
    r"[A-Za-z0-9]{32}(\.([A-Za-z0-9+/_-]|%2[BbFf]){43}(=|%3[Dd])?)?", re.ASCII
)

_PUBLIC_SECRET: Final = "better-auth-secret-12345678901234567890"  # noqa: S105 - a known default


class KeySource(Protocol):
    """The keys of an issuer."""

    async def find(self, kid: str, skip: VerificationKey | None = None) -> VerificationKey | None:
        """The key with this ``kid`` if it is not ``skip``. Raises AuthKeysUnavailable."""

    def is_active(self, key: VerificationKey) -> bool:
        """Whether the issuer still uses the key: not withdrawn and not replaced."""


class _CacheEntry(NamedTuple):
    principal: Principal
    key: VerificationKey
    valid_from: datetime
    valid_until: datetime


class _JwtVerifier(ABC):
    """A TokenVerifier for signed JWTs in compact serialization.

    Verified tokens are cached by SHA-256, and the signature of a cached token is not checked again.
    An entry is valid until the token expires, for at most CACHE_TTL, and while its key is active.
    The cache has ``cache_size`` entries; the oldest entry is evicted first.
    """

    def __init__(self, policy: ClaimsPolicy, cache_size: int = CACHE_SIZE) -> None:
        self._policy = policy
        self._cache_size = cache_size
        self._cache: dict[bytes, _CacheEntry] = {}

    async def verify(self, token: str, now: datetime) -> Principal:
        if len(token) > TOKEN_MAX:
            raise rejected(RejectionReason.TOO_LONG, TokenErrorCode.MALFORMED)
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        entry = self._cache.get(digest)
        if entry and entry.valid_from <= now < entry.valid_until and self._is_active(entry.key):
            return entry.principal
        entry = await self._verify_uncached(token, now)
        self._cache.pop(digest, None)
        if len(self._cache) >= self._cache_size:
            del self._cache[next(iter(self._cache))]
        self._cache[digest] = entry
        return entry.principal

    async def _verify_uncached(self, token: str, now: datetime) -> _CacheEntry:
        header, claims = parse_token(token)
        _check_header(header)
        principal = self._policy.read_principal(claims, now)
        key = await self._find_signing_key(token, header)
        # The last check: ``expired`` implies a valid signature. A token expires at its ``exp``.
        if now >= principal.expires_at:
            raise rejected(RejectionReason.EXPIRED, TokenErrorCode.EXPIRED)
        return _CacheEntry(principal, key, now, min(principal.expires_at, now + CACHE_TTL))

    @abstractmethod
    async def _find_signing_key(self, token: str, header: JsonObject) -> VerificationKey:
        """The key that signed the token. Raises TokenRejected."""

    @abstractmethod
    def _is_active(self, key: VerificationKey) -> bool:
        """Whether the key still verifies tokens."""


class JwksTokenVerifier(_JwtVerifier):
    """Verifies tokens of an issuer that publishes its keys, like Better Auth's ``jwt`` plugin.

    The token must have exactly this issuer, and this audience or a list with this audience.
    """

    def __init__(
        self, keys: KeySource, *, issuer: str, audience: str, cache_size: int = CACHE_SIZE
    ) -> None:
        super().__init__(ClaimsPolicy(issuer, audience), cache_size)
        self._keys = keys

    async def _find_signing_key(self, token: str, header: JsonObject) -> VerificationKey:
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in PUBLIC_KEY_ALGORITHMS:
            raise rejected(RejectionReason.ALGORITHM)
        if not isinstance(kid, str) or not kid:
            raise rejected(RejectionReason.KID_MISSING)
        key = await self._keys.find(kid)
        if key is None:
            raise rejected(RejectionReason.KID_UNKNOWN)
        if _is_signed(token, key):
            return key
        # After a reset of its database, an issuer can use the same ``kid`` for another key.
        new_key = await self._keys.find(kid, skip=key)
        if new_key is not None and _is_signed(token, new_key):
            return new_key
        is_pinned = key.algorithm == algorithm
        raise rejected(RejectionReason.SIGNATURE if is_pinned else RejectionReason.ALGORITHM_OF_KEY)

    def _is_active(self, key: VerificationKey) -> bool:
        return self._keys.is_active(key)


class SharedSecretTokenVerifier(_JwtVerifier):
    """Verifies HS256 tokens that a frontend signs with a secret that this service knows too.

    Better Auth signs other tokens with the same secret. They are rejected because they have no
    ``sub``, another ``typ``, or an ``aud`` of their own. ``kid`` is ignored: there is one key.
    Raises ValueError for a secret that can be guessed.
    """

    def __init__(
        self, secret: str, *, issuer: str | None = None, audience: str | None = None
    ) -> None:
        super().__init__(ClaimsPolicy(issuer, audience, SHARED_SECRET_LIFETIME))
        self._key = _prepare_secret(secret)

    async def _find_signing_key(self, token: str, header: JsonObject) -> VerificationKey:
        if header.get("alg") != self._key.algorithm:
            raise rejected(RejectionReason.ALGORITHM)
        if not _is_signed(token, self._key):
            raise rejected(RejectionReason.SIGNATURE)
        return self._key

    def _is_active(self, key: VerificationKey) -> bool:
        return key is self._key


def _prepare_secret(secret: str) -> VerificationKey:
    octets = secret.encode("utf-8", "surrogateescape")
    with suppress(JWKError):  # for a key in PEM or a public SSH key
        if len(octets) >= SECRET_MIN and secret != _PUBLIC_SECRET:
            return VerificationKey("", "HS256", None, jwk.construct(octets, "HS256"))
    raise ValueError(
        f"AUTH_MODE=shared-secret needs a BETTER_AUTH_SECRET of at least {SECRET_MIN} bytes that"
        " cannot be guessed and is not a public key, the same as the frontend's: create one with"
        " `openssl rand -base64 32`"
    )


def parse_token(token: str) -> tuple[JsonObject, JsonObject]:
    """The header and the claims of a token that is not verified yet."""
    segments = token.split(".")
    if len(segments) != _SEGMENTS:
        if _OPAQUE_SESSION.fullmatch(token):
            raise rejected(RejectionReason.OPAQUE_SESSION, TokenErrorCode.NOT_JWT)
        raise rejected(RejectionReason.NOT_THREE_SEGMENTS, TokenErrorCode.MALFORMED)
    try:
        header, claims, _ = [decode_base64url(segment) for segment in segments]
    except ValueError:
        raise rejected(RejectionReason.NOT_BASE64URL, TokenErrorCode.MALFORMED) from None
    try:
        return parse_json_object(header), parse_json_object(claims)
    except ValueError:
        raise rejected(RejectionReason.NOT_JSON, TokenErrorCode.MALFORMED) from None


def _check_header(header: JsonObject) -> None:
    """Reject what changes the meaning of the token or names a key for its verification."""
    typ = header.get("typ", "JWT")
    if not isinstance(typ, str) or typ.upper() != "JWT":
        raise rejected(RejectionReason.TYPE)
    if _EXTENSIONS & header.keys():
        raise rejected(RejectionReason.CRITICAL_HEADER)
    if _KEY_MEMBERS & header.keys():
        raise rejected(RejectionReason.KEY_IN_HEADER)


def _is_signed(token: str, key: VerificationKey) -> bool:
    """Whether the key signed the token, and with the key's algorithm."""
    # python-jose raises JWSError, TypeError and others. None of them verifies the token.
    with suppress(Exception):
        jws.verify(token, key.key, [key.algorithm])
        return True
    return False
