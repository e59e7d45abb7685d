# python-jose ships no types, so that its ``Key`` is Any to the type checker.
# mypy: allow-subclassing-any
"""The keys that verify tokens: each read strictly, fit for one algorithm, prepared once.

python-jose tries any key of a set with any algorithm that fits it, whatever the key says of itself.
Here every key is pinned to the algorithm that its issuer published it for, and the algorithms that
python-jose does not know (EdDSA, PS256 and its kin) are added to it.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jose import jwk
from jose.backends.base import Key

from todo_adapters.jose.encoding import JsonObject, decode_base64url, parse_json_object

DOCUMENT_MAX: Final = 512 * 1024
KEYS_MAX: Final = 500
KID_MAX: Final = 255
RSA_BITS: Final = range(2048, 8192 + 1)
RSA_EXPONENTS: Final = range(65537, 2**32, 2)

PublicKey = Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class Ed25519Key(Key):
    """EdDSA over Ed25519 (RFC 8037) for python-jose; a private key can also sign."""

    def __init__(self, key: Ed25519PublicKey | Ed25519PrivateKey, _algorithm: str) -> None:
        self._private = key if isinstance(key, Ed25519PrivateKey) else None
        self._public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key

    def sign(self, msg: bytes) -> bytes:
        if self._private is None:
            raise NotImplementedError("a public key does not sign")
        return self._private.sign(msg)

    def verify(self, msg: bytes, sig: bytes) -> bool:
        try:
            self._public.verify(sig, msg)
        except InvalidSignature:
            return False
        return True


class RsaPssKey(Key):
    """RSASSA-PSS with a salt as long as the hash (RFC 7518, section 3.5) for python-jose."""

    _HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
        "PS256": hashes.SHA256(),
        "PS384": hashes.SHA384(),
        "PS512": hashes.SHA512(),
    }

    def __init__(self, key: rsa.RSAPublicKey, algorithm: str) -> None:
        self._public = key
        self._hash = self._HASHES[algorithm]
        self._padding = padding.PSS(padding.MGF1(self._hash), padding.PSS.DIGEST_LENGTH)

    def verify(self, msg: bytes, sig: bytes) -> bool:
        try:
            self._public.verify(sig, msg, self._padding, self._hash)
        except InvalidSignature:
            return False
        return True


jwk.register_key("EdDSA", Ed25519Key)
jwk.register_key("PS256", RsaPssKey)
jwk.register_key("PS384", RsaPssKey)
jwk.register_key("PS512", RsaPssKey)

# The kind of key (kty, crv) that each algorithm needs. HS256 has no place among public keys.
_KINDS: Final[dict[str, tuple[str, str | None]]] = {
    "EdDSA": ("OKP", "Ed25519"),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
} | {f"{scheme}{bits}": ("RSA", None) for scheme in ("RS", "PS") for bits in (256, 384, 512)}

PUBLIC_KEY_ALGORITHMS: Final = frozenset(_KINDS)

# Where a key names no algorithm, as with old issuers, its curve does; RSA leaves it open.
_ALGORITHM_OF_KIND: Final = {kind: name for name, kind in _KINDS.items() if kind[0] != "RSA"}

_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}

_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

_ED25519_PRIME: Final = 2**255 - 19
_ED25519_ORDER_8: Final = (
    2707385501144840649318225287225658788936804267575313519463743609750303402022
)
# The y of every point whose order divides 8: signatures under such a key prove nothing.
_ED25519_SMALL_ORDER: Final = frozenset(
    {0, 1, _ED25519_PRIME - 1, _ED25519_ORDER_8, _ED25519_PRIME - _ED25519_ORDER_8}
)


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key, prepared for python-jose, and the one algorithm that it verifies.

    Two are equal when ``kid``, algorithm and key are the same.
    """

    kid: str
    algorithm: str
    key: Any = field(compare=False, repr=False)
    fingerprint: bytes = field(repr=False)


def verification_key(kid: str, algorithm: str, public: PublicKey) -> VerificationKey:
    """The public key, prepared for the algorithm."""
    return VerificationKey(kid, algorithm, jwk.construct(public, algorithm), fingerprint(public))


def fingerprint(public: PublicKey) -> bytes:
    """The SHA-256 of the public key's DER form (SubjectPublicKeyInfo): other for another key."""
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).digest()


def checked_algorithms(names: Iterable[str]) -> frozenset[str]:
    """The names, if each is a signature algorithm of public keys. Raises ValueError."""
    algorithms = frozenset(names)
    wrong = sorted(algorithms - PUBLIC_KEY_ALGORITHMS)
    if wrong or not algorithms:
        raise ValueError(
            f"AUTH_ALGORITHMS cannot be {', '.join(wrong) or 'empty'}: with a key set, tokens are"
            f" signed by one of {', '.join(_KINDS)}"
            " (HS256 has a mode of its own, AUTH_MODE=shared-secret)"
        )
    return algorithms


def parse_key_set(
    document: bytes,
    algorithms: frozenset[str],
    skipped: Callable[[str], object] = lambda _reason: None,
) -> Mapping[str, VerificationKey]:
    """The usable keys of a JWK set (RFC 7517) by their ``kid``.

    Each entry is judged on its own; ``skipped`` is called with the reason for every one that is of
    no use here. A ``kid`` that two usable keys have is ambiguous and names neither.

    Raises ValueError when the document is no key set, over DOCUMENT_MAX or of more than KEYS_MAX.
    """
    keys: dict[str, VerificationKey] = {}
    repeated: set[str] = set()
    for entry in _entries(document):
        try:
            key = _parse_key(entry, algorithms)
        except (ValueError, UnsupportedAlgorithm) as unusable:
            skipped(str(unusable))
        else:
            if key.kid in keys:
                repeated.add(key.kid)
            keys[key.kid] = key
    for kid in repeated:
        del keys[kid]
        skipped("kid is given twice")
    return keys


def _entries(document: bytes) -> list[Any]:
    if len(document) > DOCUMENT_MAX:
        raise ValueError("too large")
    entries = parse_json_object(document).get("keys")
    if not isinstance(entries, list) or len(entries) > KEYS_MAX:
        raise ValueError(f'no array "keys" of at most {KEYS_MAX}')
    return entries


def _parse_key(entry: object, algorithms: frozenset[str]) -> VerificationKey:
    if not isinstance(entry, dict) or _PRIVATE_MEMBERS & entry.keys():
        raise ValueError("not a public key")
    if entry.get("use", "sig") != "sig" or "verify" not in _operations(entry):
        raise ValueError("not for signatures")
    algorithm = _algorithm(entry)
    if algorithm not in algorithms:
        raise ValueError("algorithm is not allowed here")
    return verification_key(_kid(entry), algorithm, _public_key(entry))


def _operations(entry: JsonObject) -> list[Any]:
    operations = entry.get("key_ops", ["verify"])
    return operations if isinstance(operations, list) else []


def _kid(entry: JsonObject) -> str:
    kid = entry.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= KID_MAX:
        raise ValueError("kid is missing or too long")
    return kid


def _algorithm(entry: JsonObject) -> str:
    """The algorithm that the entry names, or that its curve implies, if it fits the key."""
    kind = (_text(entry, "kty"), None if entry.get("kty") == "RSA" else _text(entry, "crv"))
    algorithm = _text(entry, "alg") if "alg" in entry else _ALGORITHM_OF_KIND.get(kind)
    if algorithm is None or _KINDS.get(algorithm) != kind:
        raise ValueError("algorithm and kind of key do not fit")
    return algorithm


def _public_key(entry: JsonObject) -> PublicKey:
    match entry["kty"]:
        case "OKP":
            return _ed25519(_octets(entry, "x"))
        case "EC":
            return _elliptic(_CURVES[entry["crv"]], _octets(entry, "x"), _octets(entry, "y"))
        case _:
            return _rsa(_octets(entry, "n"), _octets(entry, "e"))


def _ed25519(x: bytes) -> Ed25519PublicKey:
    y = int.from_bytes(x, "little") % 2**255
    if y >= _ED25519_PRIME or y in _ED25519_SMALL_ORDER:
        raise ValueError("not a point of full order")
    return Ed25519PublicKey.from_public_bytes(x)


def _elliptic(curve: ec.EllipticCurve, x: bytes, y: bytes) -> ec.EllipticCurvePublicKey:
    """The public key at a point given in full-length coordinates (RFC 7518, section 6.2.1)."""
    length = (curve.key_size + 7) // 8
    if not len(x) == len(y) == length:
        raise ValueError("coordinates of the wrong length")
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + x + y)


def _rsa(n: bytes, e: bytes) -> rsa.RSAPublicKey:
    modulus, exponent = int.from_bytes(n), int.from_bytes(e)
    if modulus.bit_length() not in RSA_BITS or exponent not in RSA_EXPONENTS:
        raise ValueError("RSA modulus or exponent out of bounds")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _octets(entry: JsonObject, member: str) -> bytes:
    return decode_base64url(_text(entry, member))


def _text(entry: JsonObject, member: str) -> str:
    match entry.get(member):
        case str(text):
            return text
    raise ValueError(f"{member} is missing or not text")
