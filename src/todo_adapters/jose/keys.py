# python-jose has no type hints, so its class ``Key`` is Any for mypy.
# mypy: allow-subclassing-any
"""Parses JWK sets (RFC 7517) strictly and prepares each public key for one algorithm.

python-jose tries every key of a set with any algorithm that fits, whatever ``alg`` and ``use`` the
JWK has. Here a key verifies only the algorithm that the issuer published the key for. EdDSA and
PS256 to PS512, which python-jose does not support, are added with the cryptography library.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jose import jwk
from jose.backends.base import Key

from todo_adapters.jose.encoding import JsonObject, decode_base64url, parse_json_object

KEYS_MAX: Final = 500
KID_MAX: Final = 255
RSA_BITS: Final = range(2048, 8192 + 1)
RSA_EXPONENTS: Final = range(65537, 2**32, 2)

PublicKey = Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_Reader = Callable[[JsonObject], PublicKey]

# The ``kty`` and ``crv`` of each algorithm's keys
_KEY_TYPES: Final[dict[str, tuple[str, str | None]]] = {
    "EdDSA": ("OKP", "Ed25519"),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
} | {f"{scheme}{bits}": ("RSA", None) for scheme in ("RS", "PS") for bits in (256, 384, 512)}
PUBLIC_KEY_ALGORITHMS: Final = frozenset(_KEY_TYPES)

_CURVES: Final = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_PSS_HASHES: Final = {"PS256": hashes.SHA256(), "PS384": hashes.SHA384(), "PS512": hashes.SHA512()}
_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

_ED25519_PRIME: Final = 2**255 - 19
_ED25519_ORDER_8: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
# The y coordinates of the points whose order divides 8: such a key verifies forged signatures.
_ED25519_SMALL_ORDER: Final = frozenset(
    {0, 1, _ED25519_PRIME - 1, _ED25519_ORDER_8, _ED25519_PRIME - _ED25519_ORDER_8}
)


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key, prepared for python-jose as ``key``, and the one algorithm that the key verifies."""

    kid: str
    algorithm: str
    public: PublicKey | None = field(repr=False)
    key: Any = field(compare=False, repr=False)


class _CryptographyKey(Key):
    """Adapts ``verify`` of a key of the cryptography library to python-jose."""

    def __init__(self, verify: Callable[[bytes, bytes], None]) -> None:
        self._verify = verify

    def verify(self, msg: bytes, sig: bytes) -> bool:
        with suppress(InvalidSignature):
            self._verify(sig, msg)
            return True
        return False


def verification_key(kid: str, algorithm: str, public: PublicKey) -> VerificationKey:
    """Prepare a public key for an algorithm that fits the key."""
    return VerificationKey(kid, algorithm, public, _prepare(algorithm, public))


def _prepare(algorithm: str, public: PublicKey) -> Key:
    if isinstance(public, Ed25519PublicKey):
        return _CryptographyKey(public.verify)
    if isinstance(public, rsa.RSAPublicKey) and algorithm in _PSS_HASHES:
        digest = _PSS_HASHES[algorithm]
        # RFC 7518, section 3.5: the salt is as long as the hash.
        scheme = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
        return _CryptographyKey(lambda sig, msg: public.verify(sig, msg, scheme, digest))
    return jwk.construct(public, algorithm)


def check_algorithms(names: Iterable[str]) -> frozenset[str]:
    """The names, if each one is a signature algorithm of public keys. Raises ValueError."""
    algorithms = frozenset(names)
    wrong = sorted(algorithms - PUBLIC_KEY_ALGORITHMS)
    if wrong or not algorithms:
        raise ValueError(
            f"AUTH_ALGORITHMS cannot be {', '.join(wrong) or 'empty'}: choose from"
            f" {', '.join(_KEY_TYPES)} (HS256 needs AUTH_MODE=shared-secret)"
        )
    return algorithms


def parse_key_set(
    document: bytes, algorithms: frozenset[str]
) -> tuple[dict[str, VerificationKey], list[str]]:
    """The usable keys of a JWK set by ``kid``, and why each of the other entries was skipped.

    Keys with the same ``kid`` are skipped. Raises ValueError if the document is not a JWK set of at
    most KEYS_MAX entries.
    """
    usable: list[VerificationKey] = []
    skipped: list[str] = []
    for entry in _read_entries(document):
        try:
            usable.append(_parse_key(entry, algorithms))
        except (ValueError, UnsupportedAlgorithm) as error:
            skipped.append(str(error))
    counts = Counter(key.kid for key in usable)
    skipped += ["kid is given twice" for count in counts.values() if count > 1]
    return {key.kid: key for key in usable if counts[key.kid] == 1}, skipped


def _read_entries(document: bytes) -> list[Any]:
    entries = parse_json_object(document).get("keys")
    if not isinstance(entries, list) or len(entries) > KEYS_MAX:
        raise ValueError(f'no array "keys" of at most {KEYS_MAX}')
    return entries


def _parse_key(entry: object, algorithms: frozenset[str]) -> VerificationKey:
    if not isinstance(entry, dict) or _PRIVATE_MEMBERS & entry.keys():
        raise ValueError("not a public key")
    operations = entry.get("key_ops", ["verify"])
    is_for_verifying = isinstance(operations, list) and "verify" in operations
    if entry.get("use", "sig") != "sig" or not is_for_verifying:
        raise ValueError("not for signatures")
    algorithm = _read_algorithm(entry)
    if algorithm not in algorithms:
        raise ValueError("algorithm is not allowed here")
    kid = entry.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= KID_MAX:
        raise ValueError("kid is missing or too long")
    return verification_key(kid, algorithm, _READERS[entry["kty"]](entry))


def _read_algorithm(entry: JsonObject) -> str:
    """``alg``, which must fit the key. If ``alg`` is missing, an OKP or EC curve implies it."""
    kty = _read_text(entry, "kty")
    key_type = (kty, None if kty == "RSA" else _read_text(entry, "crv"))
    fitting = [name for name, needed in _KEY_TYPES.items() if needed == key_type]
    if "alg" not in entry and len(fitting) == 1:  # Better Auth up to 1.2
        return fitting[0]
    algorithm = _read_text(entry, "alg")
    if algorithm not in fitting:
        raise ValueError("algorithm and key type do not fit")
    return algorithm


def _read_ed25519(entry: JsonObject) -> Ed25519PublicKey:
    octets = _read_octets(entry, "x")
    y = int.from_bytes(octets, "little") % 2**255
    if y >= _ED25519_PRIME or y in _ED25519_SMALL_ORDER:
        raise ValueError("not a point of full order")
    return Ed25519PublicKey.from_public_bytes(octets)


def _read_elliptic(entry: JsonObject) -> ec.EllipticCurvePublicKey:
    curve, x, y = _CURVES[entry["crv"]], _read_octets(entry, "x"), _read_octets(entry, "y")
    if not len(x) == len(y) == (curve.key_size + 7) // 8:  # RFC 7518, section 6.2.1.2
        raise ValueError("coordinates of the wrong length")
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + x + y)


def _read_rsa(entry: JsonObject) -> rsa.RSAPublicKey:
    modulus, exponent = (int.from_bytes(_read_octets(entry, member)) for member in ("n", "e"))
    if modulus.bit_length() not in RSA_BITS or exponent not in RSA_EXPONENTS:
        raise ValueError("RSA modulus or exponent out of bounds")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


_READERS: Final[dict[str, _Reader]] = {"OKP": _read_ed25519, "EC": _read_elliptic, "RSA": _read_rsa}


def _read_octets(entry: JsonObject, member: str) -> bytes:
    return decode_base64url(_read_text(entry, member))


def _read_text(entry: JsonObject, member: str) -> str:
    match entry.get(member):
        case str(text):
            return text
    raise ValueError(f"{member} is missing or not text")
