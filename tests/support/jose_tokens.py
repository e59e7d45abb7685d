"""Builds tokens and key sets for tests: those of Better Auth, and invalid variants.

This module uses neither the code under test nor python-jose, and signs any text with real keys. The
defaults are valid at NOW; a test specifies only the differences.
"""

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from support.tasks import NOW

ORIGIN: Final = "http://localhost:3000"
USER: Final = "dlMsxWRCI2eyTUbIQ9DUoaji4ROD9Eqh"
SECRET: Final = "a-secret-of-the-frontend-and-of-nobody-else"
MINUTES_15: Final = 900

JWKS_ALGORITHMS: Final = (
    *("EdDSA", "ES256", "ES384", "ES512"),
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
)

Json = Any
Members = dict[str, Json]
PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

ABSENT: Final = object()

_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "ES256": ec.SECP256R1(),
    "ES384": ec.SECP384R1(),
    "ES512": ec.SECP521R1(),
}
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}


def b64(octets: bytes) -> str:
    """Base64url without padding."""
    return urlsafe_b64encode(octets).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def changed(members: Members, changes: Members) -> Members:
    """The members with the changes applied. The change ABSENT removes a member."""
    return {name: value for name, value in (members | changes).items() if value is not ABSENT}


def seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def better_auth_claims(**changes: Json) -> Members:
    """The claims of Better Auth's ``jwt`` plugin: the user row and the registered claims."""
    claims = {
        "id": USER,
        "name": "Ada Lovelace",
        "email": "ada@example.com",
        "emailVerified": False,
        "createdAt": "2026-01-18T09:00:00.000Z",
        "updatedAt": "2026-01-18T09:00:00.000Z",
        "image": None,
        "iat": seconds(NOW),
        "exp": seconds(NOW) + MINUTES_15,
        "sub": USER,
        "iss": ORIGIN,
        "aud": ORIGIN,
    }
    return changed(claims, changes)


def frontend_claims(**changes: Json) -> Members:
    """The claims of a token that a frontend signs with the shared secret."""
    claims = {"sub": USER, "iat": seconds(NOW), "exp": seconds(NOW) + 1800, "name": "Ada Lovelace"}
    return changed(claims, changes)


@dataclass(frozen=True)
class Signer:
    """A private key with its algorithm and its ``kid``."""

    algorithm: str
    kid: str
    private: PrivateKey

    def signature(self, message: bytes) -> bytes:
        return sign(self.private, self.algorithm, message)

    def token(
        self, claims: Members | bytes | None = None, header: Members | bytes | None = None
    ) -> str:
        """A token with these claims and this header, as members or as bytes."""
        claims = better_auth_claims() if claims is None else claims
        header = self.header() if header is None else header
        return self.signed(f"{b64(to_json(header))}.{b64(to_json(claims))}")

    def signed(self, signing_input: str) -> str:
        """The text and its signature."""
        signature = self.signature(signing_input.encode("utf-8", "surrogatepass"))
        return f"{signing_input}.{b64(signature)}"

    def header(self, **changes: Json) -> Members:
        """The header of Better Auth's tokens."""
        return changed({"alg": self.algorithm, "kid": self.kid}, changes)

    def jwk(self, **changes: Json) -> Members:
        """The public key in Better Auth's key set."""
        members = {"alg": self.algorithm, "kid": self.kid, **public_members(self.private)}
        return changed(members, changes)

    def private_pem(self, password: bytes | None = None) -> bytes:
        encryption = BestAvailableEncryption(password) if password else NoEncryption()
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)

    def pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )


@cache
def signer(algorithm: str = "EdDSA", kid: str = "", owner: str = "issuer") -> Signer:
    """The owner's signer for the algorithm. An owner has one key per key type, for every kid."""
    return Signer(algorithm, kid or f"kid-{algorithm}", private_key(algorithm, owner))


def private_key(algorithm: str, owner: str = "issuer") -> PrivateKey:
    if algorithm == "EdDSA":
        return _ed25519_key(owner)
    return (
        _rsa_key(owner)
        if algorithm[1] == "S" and algorithm[0] != "E"
        else _ec_key(algorithm, owner)
    )


@cache
def _ed25519_key(_owner: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@cache
def _ec_key(algorithm: str, _owner: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(_CURVES[algorithm])


@cache
def _rsa_key(_owner: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def sign(private: PrivateKey, algorithm: str, message: bytes) -> bytes:
    """A signature by RFC 7518 or RFC 8037."""
    if isinstance(private, Ed25519PrivateKey):
        return private.sign(message)
    digest = _HASHES[algorithm[2:]]
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return raw_ecdsa(private.sign(message, ec.ECDSA(digest)), private.key_size)
    if algorithm.startswith("PS"):
        pss = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
        return private.sign(message, pss, digest)
    return private.sign(message, padding.PKCS1v15(), digest)


def raw_ecdsa(der: bytes, bits: int) -> bytes:
    """The two numbers of a DER signature, concatenated."""
    length = (bits + 7) // 8
    return b"".join(number.to_bytes(length) for number in decode_dss_signature(der))


def public_members(private: PrivateKey) -> Members:
    """The members of the public key's JWK."""
    public = private.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        n = numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8)
        return {"kty": "RSA", "n": b64(n), "e": b64(numbers.e.to_bytes(3))}
    if isinstance(public, ec.EllipticCurvePublicKey):
        length = (public.key_size + 7) // 8
        x, y = public.public_numbers().x, public.public_numbers().y
        curve = f"P-{public.key_size}"
        return {
            "kty": "EC",
            "crv": curve,
            "x": b64(x.to_bytes(length)),
            "y": b64(y.to_bytes(length)),
        }
    return {"kty": "OKP", "crv": "Ed25519", "x": b64(public.public_bytes_raw())}


def hmac_token(
    claims: Members | None = None,
    header: Members | None = None,
    *,
    secret: bytes = SECRET.encode(),
    algorithm: str = "HS256",
) -> str:
    """A token signed with a secret, like those of a frontend."""
    claims = frontend_claims() if claims is None else claims
    header = {"alg": algorithm} if header is None else header
    signing_input = f"{b64(to_json(header))}.{b64(to_json(claims))}"
    digest = hmac.new(secret, signing_input.encode(), f"sha{algorithm[2:]}").digest()
    return f"{signing_input}.{b64(digest)}"


def key_set(*entries: Json) -> bytes:
    """A JWK set document."""
    return json.dumps({"keys": list(entries)}).encode()


def to_json(value: Members | bytes) -> bytes:
    """Compact JSON. Bytes are returned unchanged."""
    return value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()


def opaque_session_token(text: str = USER) -> str:
    """The session token of Better Auth's cookie: the text and its HMAC in base64."""
    digest = hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).digest()
    return f"{text}.{urlsafe_b64encode(digest).decode().replace('-', '+').replace('_', '/')}"
