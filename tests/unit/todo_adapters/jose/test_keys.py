import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from jose import jws

from support.jose_tokens import (
    ABSENT,
    JWKS_ALGORITHMS,
    b64,
    key_set,
    public_members,
    signer,
    unb64,
)
from todo_adapters.jose.keys import (
    KEYS_MAX,
    VerificationKey,
    check_algorithms,
    parse_key_set,
)

ALL: Final = frozenset(JWKS_ALGORITHMS)
ED25519_PRIME: Final = 2**255 - 19
ED25519_ORDER_8: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826

P256: Final = signer("ES256").jwk()
ED25519: Final = signer("EdDSA").jwk()
RSA: Final = signer("RS256").jwk()


def rsa_entry(bits: int) -> dict[str, Any]:
    return RSA | public_members(rsa.generate_private_key(65537, bits))


def ed25519_entry(y: int, sign: int = 0) -> dict[str, Any]:
    return ED25519 | {"x": b64((y | sign << 255).to_bytes(32, "little"))}


def other_coordinate(entry: dict[str, Any]) -> str:
    """The coordinate with its lowest bit changed, which is off the curve."""
    octets = unb64(entry["y"])
    return b64(octets[:-1] + bytes([octets[-1] ^ 1]))


def usable(*entries: object) -> set[str]:
    return set(parse_key_set(key_set(*entries), ALL)[0])


def reasons(*entries: object) -> list[str]:
    return parse_key_set(key_set(*entries), ALL)[1]


def parsed(entry: dict[str, Any]) -> VerificationKey:
    (key,) = parse_key_set(key_set(entry), ALL)[0].values()
    return key


@pytest.mark.parametrize("algorithm", JWKS_ALGORITHMS)
def test_a_key_of_every_algorithm_verifies_what_its_owner_signed(algorithm: str) -> None:
    owner = signer(algorithm)
    key = parsed(owner.jwk())
    assert key.algorithm == algorithm
    assert key.key.verify(b"a message", owner.signature(b"a message"))
    assert not key.key.verify(b"another message", owner.signature(b"a message"))


@pytest.mark.parametrize("algorithm", JWKS_ALGORITHMS)
def test_a_key_rejects_the_signature_of_another_key(algorithm: str) -> None:
    stranger = signer(algorithm, owner="stranger")
    key = parsed(signer(algorithm).jwk())
    assert not key.key.verify(b"a message", stranger.signature(b"a message"))


def test_the_example_of_rfc_8037_verifies() -> None:
    x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    token = (
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09P"
        "GcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )
    key = parsed(ED25519 | {"x": x})
    assert jws.verify(token, key.key, ["EdDSA"]) == b"Example of Ed25519 signing"


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "ES384", "ES512"])
def test_the_curve_implies_a_missing_algorithm(algorithm: str) -> None:
    entry = signer(algorithm).jwk(alg=ABSENT)
    assert parsed(entry).algorithm == algorithm


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(ED25519 | {"use": "sig"}, id="use sig"),
        pytest.param(ED25519 | {"key_ops": ["verify"]}, id="key_ops verify"),
        pytest.param(ED25519 | {"kid": "1"}, id="kid 1"),
        pytest.param(ED25519 | {"kid": "k" * 255}, id="kid of 255"),
        pytest.param(ED25519 | {"x5t": "AAAA", "anything": [1]}, id="unknown members"),
        pytest.param(rsa_entry(3072), id="RSA 3072"),
        pytest.param(RSA | {"n": b64(b"\xff" * 1024)}, id="RSA 8192"),
        pytest.param(RSA | {"e": b64((65539).to_bytes(3))}, id="RSA exponent 65539"),
        pytest.param(RSA | {"e": b64((2**32 - 1).to_bytes(4))}, id="RSA exponent of 32 bits"),
    ],
)
def test_an_entry_is_usable(entry: dict[str, Any]) -> None:
    assert usable(entry) == {entry["kid"]}


UNUSABLE: Final[dict[str, tuple[object, str]]] = {
    "null": (None, "not a public key"),
    "text": ("key", "not a public key"),
    "a list": ([ED25519], "not a public key"),
    "no members": ({}, "kty is missing or not text"),
    # Secret, private or not for signatures
    "oct": (
        {"kty": "oct", "k": b64(b"s" * 32), "kid": "1", "alg": "HS256"},
        "not a public key",
    ),
    "private EdDSA": (ED25519 | {"d": b64(b"s" * 32)}, "not a public key"),
    "private EC": (P256 | {"d": b64(b"s" * 32)}, "not a public key"),
    "private RSA": (RSA | {"d": "AQAB"}, "not a public key"),
    "half private RSA": (RSA | {"p": "AQAB"}, "not a public key"),
    "multi-prime RSA": (RSA | {"oth": []}, "not a public key"),
    "use enc": (ED25519 | {"use": "enc"}, "not for signatures"),
    "use null": (ED25519 | {"use": None}, "not for signatures"),
    "use in capitals": (ED25519 | {"use": "SIG"}, "not for signatures"),
    "key_ops sign": (ED25519 | {"key_ops": ["sign"]}, "not for signatures"),
    "key_ops empty": (ED25519 | {"key_ops": []}, "not for signatures"),
    "key_ops text": (ED25519 | {"key_ops": "verify"}, "not for signatures"),
    # Without a usable kid
    "no kid": (signer().jwk(kid=ABSENT), "kid is missing or too long"),
    "kid null": (ED25519 | {"kid": None}, "kid is missing or too long"),
    "kid empty": (ED25519 | {"kid": ""}, "kid is missing or too long"),
    "kid a number": (ED25519 | {"kid": 1}, "kid is missing or too long"),
    "kid too long": (ED25519 | {"kid": "k" * 256}, "kid is missing or too long"),
    # The algorithm does not fit the key
    "RSA without alg": (signer("RS256").jwk(alg=ABSENT), "alg is missing or not text"),
    "RS256 on OKP": (ED25519 | {"alg": "RS256"}, "algorithm and key type do not fit"),
    "EdDSA on EC": (P256 | {"alg": "EdDSA"}, "algorithm and key type do not fit"),
    "ES256 on RSA": (RSA | {"alg": "ES256"}, "algorithm and key type do not fit"),
    "ES256 on P-384": (
        signer("ES384").jwk(alg="ES256"),
        "algorithm and key type do not fit",
    ),
    "ES512 on P-256": (P256 | {"alg": "ES512"}, "algorithm and key type do not fit"),
    "HS256 on RSA": (RSA | {"alg": "HS256"}, "algorithm and key type do not fit"),
    "none": (ED25519 | {"alg": "none"}, "algorithm and key type do not fit"),
    "RSA-OAEP": (RSA | {"alg": "RSA-OAEP"}, "algorithm and key type do not fit"),
    "ECDH-ES": (P256 | {"alg": "ECDH-ES"}, "algorithm and key type do not fit"),
    "alg null": (ED25519 | {"alg": None}, "alg is missing or not text"),
    "alg a list": (ED25519 | {"alg": ["EdDSA"]}, "alg is missing or not text"),
    "alg in lower case": (ED25519 | {"alg": "eddsa"}, "algorithm and key type do not fit"),
    "unknown kty": (ED25519 | {"kty": "AKP"}, "algorithm and key type do not fit"),
    "kty in lower case": (ED25519 | {"kty": "okp"}, "algorithm and key type do not fit"),
    "kty null": (ED25519 | {"kty": None}, "kty is missing or not text"),
    # Unsupported curves
    "Ed448": (ED25519 | {"crv": "Ed448"}, "algorithm and key type do not fit"),
    "X25519": (
        ED25519
        | {
            "crv": "X25519",
            "x": b64(X25519PrivateKey.generate().public_key().public_bytes_raw()),
        },
        "algorithm and key type do not fit",
    ),
    "secp256k1": (
        P256 | public_members(ec.generate_private_key(ec.SECP256K1())) | {"crv": "secp256k1"},
        "algorithm and key type do not fit",
    ),
    "no crv": (signer("ES256").jwk(crv=ABSENT), "crv is missing or not text"),
    "crv a list": (P256 | {"crv": ["P-256"]}, "crv is missing or not text"),
    # Invalid points, and points of small order
    "x missing": (signer().jwk(x=ABSENT), "x is missing or not text"),
    "x a number": (ED25519 | {"x": 1}, "x is missing or not text"),
    "x padded": (ED25519 | {"x": ED25519["x"] + "="}, "not canonical base64url"),
    "x in another alphabet": (ED25519 | {"x": "+/" * 21 + "A"}, "not canonical base64url"),
    "x not ASCII": (ED25519 | {"x": "é" * 43}, "only ASCII characters"),
    "y missing": (signer("ES256").jwk(y=ABSENT), "y is missing or not text"),
    "EC off the curve": (P256 | {"y": other_coordinate(P256)}, "Invalid EC key"),
    "EC at infinity": (
        P256 | {"x": b64(bytes(32)), "y": b64(bytes(32))},
        "Invalid EC key",
    ),
    "EC coordinate too short": (P256 | {"x": b64(b"x" * 31)}, "coordinates of the wrong length"),
    "EC coordinate too long": (
        P256 | {"x": b64(b"\0" + unb64(P256["x"]))},
        "coordinates of the wrong length",
    ),
    "EC point of another curve": (
        P256 | {"x": signer("ES384").jwk()["x"], "y": signer("ES384").jwk()["y"]},
        "coordinates of the wrong length",
    ),
    # RSA keys that are weak or expensive to use
    "RSA 1024": (rsa_entry(1024), "RSA modulus or exponent out of bounds"),
    "RSA 2040": (rsa_entry(2040), "RSA modulus or exponent out of bounds"),
    "RSA 8200": (
        RSA | {"n": b64(b"\xff" * 1025)},
        "RSA modulus or exponent out of bounds",
    ),
    "RSA exponent 1": (RSA | {"e": "AQ"}, "RSA modulus or exponent out of bounds"),
    "RSA exponent 3": (RSA | {"e": "Aw"}, "RSA modulus or exponent out of bounds"),
    "RSA exponent even": (
        RSA | {"e": b64((65540).to_bytes(3))},
        "RSA modulus or exponent out of bounds",
    ),
    "RSA exponent of 33 bits": (
        RSA | {"e": b64((2**32 + 1).to_bytes(5))},
        "RSA modulus or exponent out of bounds",
    ),
    "RSA 2047": (
        RSA | {"n": b64(b"\x7f" + b"\xff" * 255)},
        "RSA modulus or exponent out of bounds",
    ),
    "RSA 8193": (
        RSA | {"n": b64(b"\x01" + b"\xff" * 1024)},
        "RSA modulus or exponent out of bounds",
    ),
    "RSA exponent huge": (
        RSA | {"e": b64((2**64 + 1).to_bytes(9))},
        "RSA modulus or exponent out of bounds",
    ),
    "RSA modulus empty": (RSA | {"n": ""}, "RSA modulus or exponent out of bounds"),
    "RSA exponent a number": (RSA | {"e": 65537}, "e is missing or not text"),
    "RSA modulus missing": (signer("RS256").jwk(n=ABSENT), "n is missing or not text"),
} | {
    f"Ed25519 y {y:x}, sign {sign}": (
        ed25519_entry(y, sign),
        "not a point of full order",
    )
    for sign in (0, 1)
    for y in (
        *(0, 1, ED25519_PRIME - 1, ED25519_ORDER_8, ED25519_PRIME - ED25519_ORDER_8),
        *(ED25519_PRIME, ED25519_PRIME + 1, 2**255 - 1),
    )
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_entry_is_skipped_with_its_reason(name: str) -> None:
    entry, reason = UNUSABLE[name]
    (actual,) = reasons(entry)
    assert reason in actual


@pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
def test_a_key_with_any_private_member_is_skipped(member: str) -> None:
    assert reasons(RSA | {member: "AQAB"}) == ["not a public key"]


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_an_ed25519_key_of_another_length_is_skipped(length: int) -> None:
    assert reasons(ED25519 | {"x": b64(b"\x09" * length)})


def test_usable_entries_among_unusable_ones_are_kept() -> None:
    unusable = [entry for entry, _ in UNUSABLE.values()]
    good = [ED25519 | {"kid": "first"}, *unusable, P256 | {"kid": "last"}]
    assert usable(*good) == {"first", "last"}
    assert len(reasons(*good)) == len(unusable)


def test_an_entry_for_an_algorithm_that_is_not_configured_is_skipped() -> None:
    keys, skipped = parse_key_set(key_set(ED25519, RSA), frozenset({"EdDSA"}))
    assert set(keys) == {"kid-EdDSA"}
    assert skipped == ["algorithm is not allowed here"]


@pytest.mark.parametrize("times", [2, 3])
def test_keys_with_the_same_kid_are_skipped(times: int) -> None:
    entries = [signer("EdDSA", "1").jwk(), signer("ES256", "1").jwk(), signer("RS256", "1").jwk()]
    assert usable(*entries[:times], ED25519) == {"kid-EdDSA"}
    assert reasons(*entries[:times]) == ["kid is given twice"]


def test_an_unusable_entry_with_the_same_kid_does_not_matter() -> None:
    assert usable(ED25519, RSA | {"kid": "kid-EdDSA", "use": "enc"}) == {"kid-EdDSA"}


def test_a_set_may_have_many_keys() -> None:
    entries = [ED25519 | {"kid": f"key {number}"} for number in range(100)]
    assert len(usable(*entries)) == 100


def test_a_set_may_be_empty() -> None:
    assert usable() == set()


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        pytest.param(b"", "Expecting value", id="empty"),
        pytest.param(b"<html>502 Bad Gateway</html>", "Expecting value", id="HTML"),
        pytest.param(b"null", "not a JSON object", id="null"),
        pytest.param(json.dumps([ED25519]).encode(), "not a JSON object", id="an array"),
        pytest.param(json.dumps(ED25519).encode(), 'no array "keys"', id="a single key"),
        pytest.param(b'{"keys": null}', 'no array "keys"', id="keys null"),
        pytest.param(b'{"keys": {"1": {}}}', 'no array "keys"', id="keys an object"),
        pytest.param(b'{"keys": [], "keys": []}', "given twice", id="keys twice"),
        pytest.param(b'{"keys": [NaN]}', "not a JSON number", id="NaN"),
        pytest.param(key_set(ED25519)[:-1], "Expecting", id="cut off"),
        pytest.param(key_set().decode().encode("utf-16"), "can't decode", id="UTF-16"),
        pytest.param(b"\xef\xbb\xbf" + key_set(), "Expecting value", id="byte order mark"),
        pytest.param(b'{"keys": ' + b"[" * 100_000, "nested too deep", id="nested without end"),
        pytest.param(
            b'{"keys": [' + b"[" * 40 + b"]" * 40 + b"]}", "bounded depth", id="nested too deep"
        ),
        pytest.param(key_set(*[None] * (KEYS_MAX + 1)), 'no array "keys"', id="too many keys"),
    ],
)
def test_a_document_that_is_not_a_key_set_is_rejected(document: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_key_set(document, ALL)


def test_a_set_may_have_the_maximum_number_of_keys() -> None:
    entries = [ED25519 | {"kid": f"key {number}"} for number in range(KEYS_MAX)]
    assert len(usable(*entries)) == KEYS_MAX


@pytest.mark.parametrize(
    "name", ["none", "None", "HS256", "HS384", "HS512", "eddsa", "ES256K", "dir", ""]
)
def test_an_algorithm_without_public_keys_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match="AUTH_ALGORITHMS cannot be"):
        check_algorithms(["EdDSA", name])


def test_the_algorithms_cannot_be_empty() -> None:
    with pytest.raises(ValueError, match="AUTH_ALGORITHMS cannot be empty"):
        check_algorithms([])


def test_every_algorithm_with_public_keys_is_accepted() -> None:
    assert check_algorithms(JWKS_ALGORITHMS) == ALL


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: signer("RS256", "another").jwk(), id="another kid"),
        pytest.param(lambda: signer("PS256", "kid-RS256").jwk(), id="another algorithm"),
        pytest.param(lambda: signer("RS256", owner="stranger").jwk(), id="another key"),
    ],
)
def test_keys_are_equal_if_kid_algorithm_and_public_key_are_equal(
    other: Callable[[], dict[str, Any]],
) -> None:
    assert parsed(RSA) == parsed(dict(RSA))
    assert parsed(RSA) != parsed(other())


def test_a_key_is_immutable_and_shows_only_kid_and_algorithm() -> None:
    key = parsed(ED25519)
    assert repr(key) == "VerificationKey(kid='kid-EdDSA', algorithm='EdDSA')"
    for member in fields(key):
        with pytest.raises(FrozenInstanceError):
            setattr(key, member.name, None)
