"""Invalid tokens with one defect each, signed with real keys, and similar tokens that are valid.

The cases come from RFC 8725 (best current practices), RFC 7515, 7517, 7518 and 7519, Wycheproof's
JOSE vectors, and the other tokens that a Better Auth installation issues.
"""

import json
import zlib
from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from support.jose_tokens import (
    ABSENT,
    JWKS_ALGORITHMS,
    ORIGIN,
    SECRET,
    USER,
    Signer,
    b64,
    better_auth_claims,
    frontend_claims,
    hmac_token,
    key_set,
    opaque_session_token,
    raw_ecdsa,
    seconds,
    signer,
    to_json,
    unb64,
)
from support.key_source import InMemoryKeySource
from support.tasks import NOW
from todo_adapters.jose.rejections import RejectionReason
from todo_adapters.jose.verifiers import TOKEN_MAX, JwksTokenVerifier, SharedSecretTokenVerifier
from todo_domain.errors import TokenErrorCode, TokenRejected
from todo_domain.ownership import Principal
from todo_domain.ports import TokenVerifier

ED: Final = signer("EdDSA")
ES: Final = signer("ES256")
RS: Final = signer("RS256")
PS: Final = signer("PS256")
STRANGER: Final = signer("EdDSA", owner="stranger")

VALID: Final = ED.token()
HEADER, CLAIMS, SIGNATURE = VALID.split(".")
SECOND: Final = timedelta(seconds=1)

P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ED25519_ORDER: Final = 2**252 + 27742317777372353535851937790883648493

MALFORMED, NOT_JWT = TokenErrorCode.MALFORMED, TokenErrorCode.NOT_JWT
EXPIRED, INVALID = TokenErrorCode.EXPIRED, TokenErrorCode.INVALID


class Hostile(NamedTuple):
    """An invalid token, the verifier that must reject it, and the expected rejection."""

    code: TokenErrorCode
    reason: str
    token: str
    mode: str = "jwks"


Family = dict[str, Hostile]


@cache
def verifier(mode: str) -> TokenVerifier:
    """One verifier per mode for all tests, so that its cache is tested too."""
    if mode == "jwks":
        keys = InMemoryKeySource(*(signer(algorithm) for algorithm in JWKS_ALGORITHMS))
        return JwksTokenVerifier(keys, issuer=ORIGIN, audience=ORIGIN)
    required = {"issuer": "next", "audience": "todo"} if mode == "secret with issuer" else {}
    return SharedSecretTokenVerifier(SECRET, **required)


def family(code: TokenErrorCode, reason: str, tokens: dict[str, str], mode: str = "jwks") -> Family:
    return {name: Hostile(code, reason, token, mode) for name, token in tokens.items()}


def with_header(**changes: Any) -> str:  # noqa: ANN401 - header members are any JSON
    return ED.token(header=ED.header(**changes))


def with_claims(**changes: Any) -> str:  # noqa: ANN401 - claims are any JSON
    return ED.token(better_auth_claims(**changes))


def with_signature(signature: bytes, owner: Signer = ED) -> str:
    return f"{owner.token().rpartition('.')[0]}.{b64(signature)}"


# --- Structure: not a JWT in compact serialization ---

STRUCTURE: Final = (
    family(
        MALFORMED,
        "not_three_segments",
        {
            "nothing": "",
            "a space": " ",
            "one dot": ".",
            "three dots": "...",
            "header alone": HEADER,
            "header and claims": f"{HEADER}.{CLAIMS}",
            "a fourth segment": f"{VALID}.AAAA",
            "an extra dot at the end": f"{VALID}.",
            "an extra dot at the start": f".{VALID}",
            "two tokens with a comma": f"{VALID},{VALID}",
            "two tokens with a space": f"{VALID} {VALID}",
            "flattened JSON": json.dumps(
                {"protected": HEADER, "payload": CLAIMS, "signature": SIGNATURE}
            ),
            "general JSON": json.dumps(
                {
                    "payload": CLAIMS,
                    "signatures": [{"protected": HEADER, "signature": SIGNATURE}],
                }
            ),
            "dots percent-encoded": VALID.replace(".", "%2E"),
            "full-width dots": VALID.replace(".", "\uff0e"),
            "dots of another script": VALID.replace(".", "\u06d4"),
            "dots as colons": VALID.replace(".", ":"),
            "null": "null",
            "undefined": "undefined",
            "an object as text": "[object Object]",
            "basic credentials": b64encode(b"ada:password").decode(),
            "a UUID": "0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b",
            "a PEM key": ED.pem().decode(),
            "a number": "1",
            "a lone surrogate": "\ud800",
            "a NUL": "\0",
        },
    )
    | family(
        MALFORMED,
        "not_json",
        {
            "two dots": "..",
            "no header": f".{CLAIMS}.{SIGNATURE}",
            "no claims": f"{HEADER}..{SIGNATURE}",
        },
    )
    | family(
        MALFORMED,
        "not_base64url",
        {
            "the scheme in front": f"Bearer {VALID}",
            "in quotes": f'"{VALID}"',
            "in brackets": f"<{VALID}>",
            "a line feed after": f"{VALID}\n",
            "a line feed and more after": f"{VALID}\r\nX-Injected: 1",
            "a space in front": f" {VALID}",
            "a tab after": f"{VALID}\t",
            "a NUL after": f"{VALID}\0",
            "a semicolon after": f"{VALID};",
            "a comment after": f"{VALID}#",
            "a cookie": f"better-auth.session_token={opaque_session_token()}",
        },
    )
    | family(INVALID, "issuer", {"claims before header": ED.signed(f"{CLAIMS}.{HEADER}")})
)

# --- Encoding: the signature is valid, and only the encoding is wrong ---


def padded_to(document: bytes, remainder: int) -> bytes:
    """The JSON with spaces appended until its length modulo 3 is the remainder."""
    return document + b" " * ((remainder - len(document)) % 3)


def with_unused_bit(text: str) -> str:
    """The text with one of the unused bits of its last character set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) | 1]


def badly_encoded(document: bytes) -> dict[str, str]:
    """Non-canonical encodings that a lenient decoder accepts."""
    one, two, none = (b64(padded_to(document, remainder)) for remainder in (1, 2, 0))
    return {
        "padded by two": one + "==",
        "padded by one": two + "=",
        "padded by one of two": one + "=",
        "padded unnecessarily": none + "====",
        "unused bits of four": with_unused_bit(one),
        "unused bits of two": with_unused_bit(two),
        "one extra character": none + "A",
        "the other alphabet": none.replace("_", "/").replace("-", "+"),
        "a space inside": f"{none[:8]} {none[8:]}",
        "line feeds as in MIME": "\n".join([none[:20], none[20:]]),
        "a character of neither alphabet": f"{none[:8]}!{none[8:]}",
        "percent-encoded": none[:-4] + "".join(f"%{ord(c):02X}" for c in none[-4:]),
        "an accented letter": f"{none[:8]}é{none[8:]}",
        "a full-width letter": f"{none[:8]}\uff21{none[8:]}",
        "a zero-width space": f"{none[:8]}\u200b{none[8:]}",
        "a byte order mark": f"\ufeff{none}",
        "a lone surrogate": f"{none[:8]}\udc80{none[8:]}",
        "not encoded": '{"alg":"EdDSA"}',
    }


# The encoded question marks contain characters that differ between the two alphabets.
ODD_HEADER: Final = to_json(ED.header(odd="????????"))
ODD_CLAIMS: Final = to_json(better_auth_claims(odd="????????"))

ENCODING: Final = (
    family(
        MALFORMED,
        "not_base64url",
        {
            f"header {name}": ED.signed(f"{encoded}.{CLAIMS}")
            for name, encoded in badly_encoded(ODD_HEADER).items()
        }
        | {
            f"claims {name}": ED.signed(f"{HEADER}.{encoded}")
            for name, encoded in badly_encoded(ODD_CLAIMS).items()
        }
        | {
            f"signature {name}": f"{HEADER}.{CLAIMS}.{encoded}"
            for name, encoded in {
                "padded": SIGNATURE + "==",
                "unused bits": with_unused_bit(SIGNATURE),
                "one extra character": SIGNATURE + "AAA",
                "a line feed inside": f"{SIGNATURE[:43]}\n{SIGNATURE[43:]}",
                "a space inside": f"{SIGNATURE[:43]} {SIGNATURE[43:]}",
                "the other alphabet": "/" * 85 + "A",
                "a character of neither alphabet": SIGNATURE[:-1] + "!",
            }.items()
        },
    )
    | family(
        MALFORMED,
        "not_json",
        {
            "header encoded twice": ED.token(header=HEADER.encode()),
            "claims encoded twice": ED.token(CLAIMS.encode()),
            "header deflated": ED.token(header=zlib.compress(to_json(ED.header()))),
            "claims deflated": ED.token(zlib.compress(to_json(better_auth_claims()))),
        },
    )
    | family(
        INVALID,
        "signature",
        {"signature in hexadecimal": f"{HEADER}.{CLAIMS}.{unb64(SIGNATURE).hex()}"},
    )
)

# --- JSON: documents that parsers disagree about ---


def invalid_json(document: bytes) -> dict[str, bytes]:
    """Variations of a JSON object that are invalid or ambiguous."""
    inside = document[1:-1]
    deep = b"[" * 32 + b"]" * 32
    return {
        "is empty": b"",
        "is white space": b" \t\r\n",
        "is null": b"null",
        "is true": b"true",
        "is a number": b"1",
        "is text": json.dumps(document.decode()).encode(),
        "is in an array": b"[%s]" % document,
        "is cut off": document[:-1],
        "has an extra comma": b"{%s,}" % inside,
        "has a comment": b"{%s/* */}" % inside,
        "has single quotes": document.replace(b'"', b"'"),
        "has bare names": b"{%s,x:1}" % inside,
        "is repeated": document + document,
        "has text after it": document + b"x",
        "has a NUL after it": document + b"\0",
        "has a byte order mark": b"\xef\xbb\xbf" + document,
        "is in UTF-16": document.decode().encode("utf-16"),
        "is in UTF-16 without a mark": document.decode().encode("utf-16-be"),
        "is in UTF-32": document.decode().encode("utf-32"),
        "has a byte of Latin-1": b'{%s,"x":"\xe9"}' % inside,
        "has an overlong sequence": b'{%s,"x":"\xc0\xaf"}' % inside,
        "has an encoded surrogate": b'{%s,"x":"\xed\xa0\x80"}' % inside,
        "has a control character": b'{%s,"x":"\n"}' % inside,
        "has an unknown escape": b'{%s,"x":"\\x41"}' % inside,
        "has half an escape": b'{%s,"x":"\\u00"}' % inside,
        "has a NaN": b'{%s,"x":NaN}' % inside,
        "has an infinity": b'{%s,"x":Infinity}' % inside,
        "has a negative infinity": b'{%s,"x":[-Infinity]}' % inside,
        "has a hexadecimal number": b'{%s,"x":0x10}' % inside,
        "has a leading zero": b'{%s,"x":01}' % inside,
        "has a leading plus": b'{%s,"x":+1}' % inside,
        "has a number of 5000 digits": b'{%s,"x":%s}' % (inside, b"1" * 5000),
        "has a member twice": b'{%s,"x":1,"x":1}' % inside,
        "has a member twice, once escaped": b'{%s,"x":1,"\\u0078":1}' % inside,
        "has a member twice deep inside": b'{%s,"x":[{"y":1,"y":2}]}' % inside,
        "has all members twice": b"{%s,%s}" % (inside, inside),
        "is 33 deep": b'{%s,"x":%s}' % (inside, deep),
        "is 33 objects deep": b'{%s,"x":%s1%s}' % (inside, b'{"x":' * 32, b"}" * 32),
        "is 5000 deep": b'{%s,"x":%s' % (inside, b"[" * 5000),
    }


JSON: Final = family(
    MALFORMED,
    "not_json",
    {
        f"header {name}": ED.token(header=document)
        for name, document in invalid_json(to_json(ED.header())).items()
    }
    | {
        f"claims {name}": ED.token(document)
        for name, document in invalid_json(to_json(better_auth_claims())).items()
    },
)

# --- Algorithm (RFC 8725, section 3.1) ---

OTHER_ALGORITHMS: Final[dict[str, object]] = {
    **{name: name for name in ("none", "None", "NONE", "nOnE", "HS256", "HS384", "HS512")},
    **{name: name for name in ("eddsa", "EDDSA", "Ed25519", "Ed448", "ES256K", "RS1", "rs256")},
    **{name: name for name in ("dir", "A128KW", "RSA-OAEP", "ECDH-ES", "PBES2-HS256+A128KW")},
    "missing": ABSENT,
    "null": None,
    "empty": "",
    "true": True,
    "a number": 256,
    "a list": ["EdDSA"],
    "an object": {"EdDSA": True},
    "a space after": "EdDSA ",
    "a NUL after": "EdDSA\0",
    "with a full-width letter": "\uff25dDSA",
    "with a letter of another script": "\u0415dDSA",
    "a lone surrogate": "\ud800",
    "very long": "EdDSA" * 500,
}

ALGORITHM: Final = family(
    INVALID,
    "algorithm",
    {name: with_header(alg=other) for name, other in OTHER_ALGORITHMS.items()}
    | {
        f"{name} without a signature": with_header(alg=name).rpartition(".")[0] + "."
        for name in ("none", "None", "NONE", "nOnE")
    }
    | {
        "alg in capitals": with_header(alg=ABSENT, ALG="EdDSA"),
        "alg in the claims": ED.token(
            better_auth_claims(alg="EdDSA"), header=ED.header(alg=ABSENT)
        ),
    },
) | family(
    INVALID,
    "algorithm_of_key",
    {
        f"{other} under the kid of an EdDSA key": signer(other, ED.kid).token()
        for other in ("ES256", "ES512", "RS256", "PS256")
    }
    | {
        f"{other} in the header, EdDSA signature": with_header(alg=other)
        for other in ("ES256", "ES512", "RS256", "PS256")
    }
    | {
        "PS256 by a key for RS256": signer("PS256", RS.kid).token(),
        "RS256 by a key for PS256": signer("RS256", PS.kid).token(),
        "RS512 by a key for RS256": signer("RS512", RS.kid).token(),
        "PS512 by a key for PS256": signer("PS512", PS.kid).token(),
        "ES512 by a P-256 key": ES.token(header=ES.header(alg="ES512")),
    },
)

# --- Key confusion: a public key used as a secret, or another key than the issuer's ---


def octets_of(owner: Signer) -> dict[str, bytes]:
    """Representations of a public key that a verifier could use as an HMAC secret."""
    return {
        "PEM": owner.pem(),
        "PEM without its last line feed": owner.pem().rstrip(),
        "JWK": json.dumps(owner.jwk()).encode(),
        "key set": key_set(owner.jwk()),
        "number": unb64(owner.jwk().get("x") or owner.jwk()["n"]),
    }


KEY_CONFUSION: Final = (
    family(
        INVALID,
        "algorithm",
        {
            f"HS256 under the {form} of the {owner.algorithm} key": hmac_token(
                better_auth_claims(), owner.header(alg="HS256"), secret=secret
            )
            for owner in (ED, ES, RS)
            for form, secret in octets_of(owner).items()
        }
        | {
            f"HS256 under {name}": hmac_token(
                better_auth_claims(), ED.header(alg="HS256"), secret=secret
            )
            for name, secret in {
                "no secret": b"",
                "a NUL": b"\0",
                "the frontend's secret": SECRET.encode(),
                "the kid": ED.kid.encode(),
            }.items()
        },
    )
    | family(
        INVALID,
        "signature",
        {
            f"a stranger's {algorithm} key": signer(algorithm, owner="stranger").token()
            for algorithm in JWKS_ALGORITHMS
        }
        | {
            "the issuer's key of another kid": Signer(
                "EdDSA", ED.kid, signer("EdDSA", "2", "second").private
            ).token(),
            "an HMAC under the PEM, declared as EdDSA": hmac_token(
                better_auth_claims(), ED.header(), secret=ED.pem()
            ),
            "an HMAC under the PEM, declared as RS256": hmac_token(
                better_auth_claims(), RS.header(), secret=RS.pem()
            ),
        },
    )
    | family(
        INVALID,
        "key_in_header",
        {
            f"{member} of a stranger's key": STRANGER.token(header=STRANGER.header(**{member: key}))
            for member, key in {
                "jwk": STRANGER.jwk(),
                "jku": "https://evil.example/jwks.json",
                "x5u": "https://evil.example/chain.pem",
                "x5c": [b64encode(STRANGER.pem()).decode()],
            }.items()
        }
        | {
            f"{member} with a valid signature": with_header(**{member: value})
            for member, value in {
                "jwk": ED.jwk(),
                "jku": f"{ORIGIN}/api/auth/jwks",
                "x5u": ORIGIN,
                "x5c": [],
            }.items()
        }
        | {"jwk null": with_header(jwk=None)},
    )
)

# --- Header ---

HEADERS: Final = (
    family(
        INVALID,
        "type",
        {
            f"typ {name}": with_header(typ=typ)
            for name, typ in {
                **{name: name for name in ("at+jwt", "JWE", "JOSE", "application/jwt", "JWS")},
                **{name: name for name in ("logout+jwt", "dpop+jwt", "secevent+jwt", "kb+jwt")},
                "of the session cache": "better-auth.session-cache+jwt",
                "empty": "",
                "null": None,
                "a number": 1,
                "a list": ["JWT"],
                "with a space": "JWT ",
                "with a full-width letter": "\uff2aWT",
            }.items()
        },
    )
    | family(
        INVALID,
        "critical_header",
        {
            "crit of exp": with_header(crit=["exp"], exp=seconds(NOW) + 1),
            "crit of an unknown extension": with_header(crit=["http://evil.example/x"]),
            "crit empty": with_header(crit=[]),
            "crit null": with_header(crit=None),
            "crit of alg": with_header(crit=["alg"]),
            "b64 false": with_header(crit=["b64"], b64=False),
            "b64 false, not critical": with_header(b64=False),
            "b64 true": with_header(b64=True),
            "zip": with_header(zip="DEF"),
        },
    )
    | family(
        INVALID,
        "kid_missing",
        {
            "no kid": with_header(kid=ABSENT),
            "kid empty": with_header(kid=""),
            "kid null": with_header(kid=None),
            "kid a number": with_header(kid=1),
            "kid true": with_header(kid=True),
            "kid a list": with_header(kid=[ED.kid]),
            "kid an object": with_header(kid={"kid": ED.kid}),
            "kid in capitals": with_header(kid=ABSENT, KID=ED.kid),
        },
    )
    | family(
        INVALID,
        "kid_unknown",
        {
            f"kid {name}": with_header(kid=kid)
            for name, kid in {
                "that does not exist": "nobody",
                "in another case": ED.kid.upper(),
                "with a space": f"{ED.kid} ",
                "with a NUL": f"{ED.kid}\0",
                "cut off": ED.kid[:-1],
                "a path": "../../../../dev/null",
                "a query": "' OR '1'='1",
                "a command": "key;sleep 10",
                "a URL": "https://evil.example/key",
                "an attribute": "__class__",
                "a line feed": f"x\n{ED.kid}",
                "a lone surrogate": "\ud800",
                "very long": "k" * 4000,
            }.items()
        },
    )
)

# --- Signature ---


def ecdsa(r: int, s: int) -> bytes:
    return r.to_bytes(32) + s.to_bytes(32)


def numbers_of(signature: bytes) -> tuple[int, int]:
    return int.from_bytes(signature[:32]), int.from_bytes(signature[32:])


def signing_input(owner: Signer) -> bytes:
    return owner.token().rpartition(".")[0].encode()


def rsa_signature(
    owner: Signer, digest: hashes.HashAlgorithm, scheme: padding.AsymmetricPadding
) -> bytes:
    """A signature of the owner's token with another scheme or hash."""
    assert isinstance(owner.private, rsa.RSAPrivateKey)
    return owner.private.sign(signing_input(owner), scheme, digest)


def ecdsa_signature(owner: Signer, digest: hashes.HashAlgorithm) -> bytes:
    assert isinstance(owner.private, ec.EllipticCurvePrivateKey)
    der = owner.private.sign(signing_input(owner), ec.ECDSA(digest))
    return raw_ecdsa(der, owner.private.key_size)


ED_SIGNATURE: Final = unb64(SIGNATURE)
ES_SIGNATURE: Final = ES.signature(signing_input(ES))
RS_SIGNATURE: Final = RS.signature(signing_input(RS))
R, S = numbers_of(ES_SIGNATURE)
ED_S: Final = int.from_bytes(ED_SIGNATURE[32:], "little")
RSA_MODULUS: Final = int.from_bytes(unb64(RS.jwk()["n"]))

SHA1, SHA256, SHA512 = hashes.SHA1(), hashes.SHA256(), hashes.SHA512()  # noqa: S303 - for invalid tokens
PKCS1: Final = padding.PKCS1v15()

SIGNATURES: Final = family(
    INVALID,
    "signature",
    {
        f"EdDSA {name}": with_signature(signature)
        for name, signature in {
            "empty": b"",
            "of zeros": bytes(64),
            "of ones": b"\xff" * 64,
            "cut by a byte": ED_SIGNATURE[:-1],
            "longer by a byte": ED_SIGNATURE + b"\0",
            "with swapped halves": ED_SIGNATURE[32:] + ED_SIGNATURE[:32],
            "with the order added to S": ED_SIGNATURE[:32]
            + (ED_S + ED25519_ORDER).to_bytes(32, "little"),
            "with S of zero": ED_SIGNATURE[:32] + bytes(32),
            "with R the neutral point": b"\x01" + bytes(31) + ED_SIGNATURE[32:],
            "with the lowest bit changed": bytes([ED_SIGNATURE[0] ^ 1]) + ED_SIGNATURE[1:],
            "with the highest bit changed": ED_SIGNATURE[:-1] + bytes([ED_SIGNATURE[-1] ^ 128]),
            "of another token": ED.signature(b"another"),
            "of the claims alone": ED.signature(CLAIMS.encode()),
            "of the header alone": ED.signature(HEADER.encode()),
            "of the decoded text": ED.signature(unb64(HEADER) + b"." + unb64(CLAIMS)),
            "of the whole token": ED.signature(VALID.encode()),
            "of the text without its dot": ED.signature(f"{HEADER}{CLAIMS}".encode()),
        }.items()
    }
    | {
        f"ES256 {name}": with_signature(signature, ES)
        for name, signature in {
            "empty": b"",
            "of zeros": ecdsa(0, 0),
            "with r of zero": ecdsa(0, S),
            "with s of zero": ecdsa(R, 0),
            "with r and s of one": ecdsa(1, 1),
            "with r of the order": ecdsa(P256_ORDER, S),
            "with s of the order": ecdsa(R, P256_ORDER),
            "with both of the order": ecdsa(P256_ORDER, P256_ORDER),
            "with r negated": ecdsa(P256_ORDER - R, S),
            "with swapped halves": ecdsa(S, R),
            "in DER": encode_dss_signature(R, S),
            "cut by a byte": ES_SIGNATURE[:-1],
            "longer by a byte": ES_SIGNATURE + b"\0",
            "with zeros in front of both": b"\0" + R.to_bytes(32) + b"\0" + S.to_bytes(32),
            "of the length of P-521": bytes(34) + R.to_bytes(32) + bytes(34) + S.to_bytes(32),
            "by SHA-512": ecdsa_signature(ES, SHA512),
        }.items()
    }
    | {
        f"RS256 {name}": with_signature(signature, RS)
        for name, signature in {
            "empty": b"",
            "of zeros": bytes(256),
            "that is one": (1).to_bytes(256),
            "that is the modulus": RSA_MODULUS.to_bytes(256),
            "that is the modulus less one": (RSA_MODULUS - 1).to_bytes(256),
            "with a zero in front": b"\0" + RS_SIGNATURE,
            "with a zero after": RS_SIGNATURE + b"\0",
            "cut by a byte": RS_SIGNATURE[:-1],
            "by SHA-1": rsa_signature(RS, SHA1, PKCS1),
            "by SHA-512": rsa_signature(RS, SHA512, PKCS1),
            "by PSS": rsa_signature(RS, SHA256, padding.PSS(padding.MGF1(SHA256), 32)),
        }.items()
    }
    | {
        f"PS256 {name}": with_signature(signature, PS)
        for name, signature in {
            "empty": b"",
            "of zeros": bytes(256),
            "by PKCS 1": rsa_signature(PS, SHA256, PKCS1),
            "by SHA-512": rsa_signature(PS, SHA512, padding.PSS(padding.MGF1(SHA512), 64)),
            "with a mask by SHA-1": rsa_signature(PS, SHA256, padding.PSS(padding.MGF1(SHA1), 32)),
            "without salt": rsa_signature(PS, SHA256, padding.PSS(padding.MGF1(SHA256), 0)),
            "with the longest salt": rsa_signature(
                PS, SHA256, padding.PSS(padding.MGF1(SHA256), padding.PSS.MAX_LENGTH)
            ),
        }.items()
    },
)

# --- Claims ---

OTHER_TYPES: Final[dict[str, object]] = {
    "missing": ABSENT,
    "null": None,
    "empty": "",
    "zero": 0,
    "a number": 1,
    "true": True,
    "false": False,
    "a list": [],
    "an object": {},
}

WRONG_CLAIMS: Final = (
    family(
        INVALID,
        "subject",
        {
            f"sub {name}": with_claims(sub=sub)
            for name, sub in {
                **OTHER_TYPES,
                "in a list": [USER],
                "blank": " ",
                "an ideographic space": "\u3000",
                "a line feed": "\n",
                "with a line feed": f"{USER}\n",
                "with a NUL": f"{USER}\0",
                "with a tab": f"ada\t{USER}",
                "with DEL": f"{USER}\x7f",
                "with a C1 control": f"{USER}\x85",
                "with a line separator": f"{USER}\u2028",
                "with a zero-width space": f"{USER}\u200b",
                "with a direction override": f"\u202e{USER}",
                "with a no-break space": f"{USER}\u00a0",
                "with a byte order mark": f"\ufeff{USER}",
                "with a lone surrogate": f"{USER}\ud800",
                "with a private-use character": f"{USER}\ue000",
                "with a noncharacter": f"{USER}\uffff",
                "one character too long": "s" * 256,
            }.items()
        }
        | {
            "sub in capitals": with_claims(sub=ABSENT, SUB=USER),
            "id instead of sub": with_claims(sub=ABSENT, id=USER),
            "userId instead of sub": with_claims(sub=ABSENT, userId=USER, user_id=USER),
        },
    )
    | family(
        INVALID,
        "issuer",
        {
            f"iss {name}": with_claims(iss=iss)
            for name, iss in {
                **OTHER_TYPES,
                "in a list": [ORIGIN],
                "of another server": "https://evil.example",
                "with a slash": f"{ORIGIN}/",
                "with a path": f"{ORIGIN}/api/auth",
                "in capitals": ORIGIN.upper(),
                "over TLS": ORIGIN.replace("http:", "https:"),
                "on another port": ORIGIN.replace("3000", "3001"),
                "without a port": ORIGIN.removesuffix(":3000"),
                "as a prefix": f"{ORIGIN}.evil.example",
                "as a suffix": f"https://evil.example/?{ORIGIN}",
                "as user name": f"{ORIGIN}@evil.example",
                "with a space": f" {ORIGIN}",
                "with a NUL": f"{ORIGIN}\0",
                "of the development issuer": "todo-api-dev",
            }.items()
        },
    )
    | family(
        INVALID,
        "audience",
        {
            f"aud {name}": with_claims(aud=aud)
            for name, aud in {
                **OTHER_TYPES,
                "of another service": "https://evil.example",
                "with a slash": f"{ORIGIN}/",
                "in capitals": ORIGIN.upper(),
                "as a prefix": f"{ORIGIN}.evil.example",
                "as a part": ORIGIN[:-1],
                "as one of several in a text": f"{ORIGIN} https://other.example",
                "a list of other services": ["https://evil.example", "https://other.example"],
                "in a list in a list": [[ORIGIN]],
                "in a list with a number": [ORIGIN, 1],
                "in a list with null": [None, ORIGIN],
                "as a member": {ORIGIN: True},
                "a wildcard": "*",
                "a list with a part of it": [ORIGIN[:-1]],
            }.items()
        },
    )
)

# --- Times ---

INVALID_TIMES: Final[dict[str, object]] = {
    "null": None,
    "empty": "",
    "text": str(seconds(NOW + SECOND)),
    "a date": "2026-01-18T10:30:00Z",
    "true": True,
    "false": False,
    "a list": [seconds(NOW + SECOND)],
    "an object": {"$date": seconds(NOW + SECOND)},
    "after the year 9999": 253402300800,
    "in milliseconds": seconds(NOW + SECOND) * 1000,
    "in nanoseconds": seconds(NOW + SECOND) * 10**9,
    "very large": 1e300,
    "very small": -1e300,
    "of 400 digits": 10**400,
    "before the year 1": -62135596801,
}


def infinite(claim: str) -> str:
    """A token with 1e999, which is valid JSON and infinite as a float."""
    claims = to_json(better_auth_claims(**{claim: ABSENT}))
    return ED.token(b'%s,"%s":1e999}' % (claims[:-1], claim.encode()))


TIMES: Final = (
    family(
        INVALID,
        "expiry",
        {f"exp {name}": with_claims(exp=exp) for name, exp in INVALID_TIMES.items()}
        | {
            "exp missing": with_claims(exp=ABSENT),
            "exp infinite": infinite("exp"),
            "exp in capitals": with_claims(exp=ABSENT, EXP=seconds(NOW + SECOND)),
            "expiresAt in its place": with_claims(exp=ABSENT, expiresAt=seconds(NOW + SECOND)),
        },
    )
    | family(
        EXPIRED,
        "expired",
        {
            f"exp {name}": with_claims(exp=exp)
            for name, exp in {
                "now": seconds(NOW),
                "a second ago": seconds(NOW - SECOND),
                "a millisecond ago": seconds(NOW) - 0.001,
                "within the leeway": seconds(NOW) - 29,
                "an hour ago": seconds(NOW) - 3600,
                "in 1970": 0,
                "before 1970": -1,
                "negative zero": -0.0,
            }.items()
        }
        | {
            f"{algorithm} a second ago": signer(algorithm).token(
                better_auth_claims(exp=seconds(NOW - SECOND))
            )
            for algorithm in JWKS_ALGORITHMS
        },
    )
    | family(
        INVALID,
        "not_before",
        {f"nbf {name}": with_claims(nbf=nbf) for name, nbf in INVALID_TIMES.items()}
        | {
            "nbf infinite": infinite("nbf"),
            "nbf beyond the leeway": with_claims(nbf=seconds(NOW) + 31),
            "nbf a millisecond beyond the leeway": with_claims(nbf=seconds(NOW) + 30.001),
            "nbf next year": with_claims(nbf=seconds(NOW) + 365 * 86400),
        },
    )
    | family(
        INVALID,
        "issued_at",
        {f"iat {name}": with_claims(iat=iat) for name, iat in INVALID_TIMES.items()}
        | {
            "iat infinite": infinite("iat"),
            "iat beyond the leeway": with_claims(iat=seconds(NOW) + 31),
            "iat next year": with_claims(iat=seconds(NOW) + 365 * 86400),
        },
    )
    | family(
        INVALID,
        "signature",
        {
            "expired and forged": STRANGER.token(better_auth_claims(exp=seconds(NOW - SECOND))),
        },
    )
    | family(
        INVALID,
        "audience",
        {
            "expired and for another service": with_claims(exp=0, aud="https://other.example"),
        },
    )
)

# --- Size ---

SIZES: Final = family(
    MALFORMED,
    "too_long",
    {
        "one character too long": VALID + "A" * (TOKEN_MAX + 1 - len(VALID)),
        "an avatar in the claims": with_claims(image="data:image/png;base64," + "A" * 100_000),
        "a long header": with_header(x="A" * TOKEN_MAX),
        "a megabyte of one letter": "A" * 2**20,
        "a megabyte of dots": "." * 2**20,
        "many segments": "A." * TOKEN_MAX,
        "a megabyte of digits": f"{HEADER}.{'MTEx' * 2**18}.{SIGNATURE}",
    },
) | family(
    MALFORMED,
    "not_three_segments",
    {"as many dots as allowed": "." * TOKEN_MAX},
)

# --- Other tokens of a Better Auth installation ---

MAIL_TOKEN: Final = hmac_token(
    {"email": "ada@example.com", "userId": USER, "iat": seconds(NOW), "exp": seconds(NOW) + 3600}
)
SESSION_CACHE: Final = frontend_claims(
    session={"id": "1", "userId": USER}, user={"id": USER}, aud="better-auth.session-cache"
)
SESSION_CACHE_HEADER: Final = {"alg": "HS256", "typ": "better-auth.session-cache+jwt"}
ENCRYPTED_HEADER: Final = b64(to_json({"alg": "dir", "enc": "A256CBC-HS512", "kid": ED.kid}))

INSTALLATION: Final = (
    family(
        NOT_JWT,
        "opaque_session",
        {
            "session token": USER,
            "session token of digits": "0123456789" * 3 + "01",
            "signed session token": opaque_session_token(),
            "signed session token, as in a cookie": quote(opaque_session_token(), safe=""),
            "signed session token, half encoded": opaque_session_token().replace("=", "%3d"),
            "signed session token without padding": opaque_session_token().rstrip("="),
            "signed session token in the other alphabet": opaque_session_token()
            .replace("+", "-")
            .replace("/", "_"),
        },
    )
    | family(
        MALFORMED,
        "not_three_segments",
        {
            "31 characters": USER[:-1],
            "33 characters": USER + "A",
            "a session token with a short signature": f"{USER}.AAAA",
            "a session token with a line feed": f"{USER}\n",
            "a session token in another script": "\u0660" * 32,
        },
    )
    | family(
        INVALID,
        "algorithm",
        {
            "mail verification token": hmac_token(
                better_auth_claims(), {"alg": "HS256", "kid": ED.kid}
            ),
            "session cache cookie": hmac_token(better_auth_claims()),
        },
    )
    | family(
        INVALID,
        "type",
        {"session cache cookie with its type": hmac_token(SESSION_CACHE, SESSION_CACHE_HEADER)},
    )
)

# --- Encrypted tokens (RFC 7516) ---

ENCRYPTED: Final = family(
    MALFORMED,
    "not_three_segments",
    {
        "direct encryption": f"{ENCRYPTED_HEADER}..{b64(bytes(16))}.{CLAIMS}.{b64(bytes(32))}",
        "a wrapped key": ".".join([ENCRYPTED_HEADER, *(b64(b"x" * 32) for _ in range(4))]),
        "four dots": "....",
        "a signed token with two empty segments": f"{VALID}..",
    },
) | family(
    INVALID,
    "algorithm",
    {
        "an encrypted token's header on a signed one": ED.signed(f"{ENCRYPTED_HEADER}.{CLAIMS}"),
    },
)

# --- Shared secret ---

WEEK: Final = 7 * 86400


def with_secret(**changes: Any) -> str:  # noqa: ANN401 - claims are any JSON
    return hmac_token(frontend_claims(**changes))


def for_todo(**changes: Any) -> str:  # noqa: ANN401 - claims are any JSON
    return with_secret(**({"iss": "next", "aud": "todo"} | changes))


SHARED_SECRET: Final = (
    family(
        INVALID,
        "subject",
        {
            "mail verification token": MAIL_TOKEN,
            "id instead of sub": with_secret(sub=ABSENT, id=USER),
            "userId instead of sub": with_secret(sub=ABSENT, userId=USER),
            "user instead of sub": with_secret(sub=ABSENT, user={"id": USER}),
            "e-mail instead of sub": with_secret(sub=ABSENT, email="ada@example.com"),
            "empty sub": with_secret(sub=""),
            "sub a number": with_secret(sub=1),
        },
        "secret",
    )
    | family(
        INVALID,
        "type",
        {"session cache cookie": hmac_token(SESSION_CACHE, SESSION_CACHE_HEADER)},
        "secret",
    )
    | family(
        INVALID,
        "audience",
        {
            "session cache without its type": hmac_token(SESSION_CACHE),
            "for another service": with_secret(aud="another"),
            "for an empty list": with_secret(aud=[]),
        },
        "secret",
    )
    | family(
        INVALID,
        "algorithm",
        {
            "HS384": hmac_token(algorithm="HS384"),
            "HS512": hmac_token(algorithm="HS512"),
            "none": hmac_token(header={"alg": "none"}),
            "none without a signature": hmac_token(header={"alg": "none"}).rpartition(".")[0] + ".",
            "no algorithm": hmac_token(header={"typ": "JWT"}),
            "a list": hmac_token(header={"alg": ["HS256"]}),
            "a token of the issuer's key": ED.token(frontend_claims()),
        },
        "secret",
    )
    | family(
        INVALID,
        "signature",
        {
            "another secret": hmac_token(secret=b"another" * 8),
            "no secret": hmac_token(secret=b""),
            "a part of the secret": hmac_token(secret=SECRET.encode()[:-1]),
            "the secret and a line feed": hmac_token(secret=SECRET.encode() + b"\n"),
            "the secret decoded": hmac_token(secret=unb64(SECRET[:40])),
            "a hash of zeros": hmac_token().rpartition(".")[0] + "." + b64(bytes(32)),
            "half a hash": hmac_token().rpartition(".")[0] + "." + b64(bytes(16)),
            "no hash": hmac_token().rpartition(".")[0] + ".",
        },
        "secret",
    )
    | family(
        INVALID,
        "expiry",
        {"no exp": with_secret(exp=ABSENT), "exp as text": with_secret(exp="tomorrow")},
        "secret",
    )
    | family(EXPIRED, "expired", {"expired": with_secret(exp=seconds(NOW))}, "secret")
    | family(
        INVALID,
        "lifetime",
        {
            "eight days": with_secret(exp=seconds(NOW) + WEEK + 86400),
            "eight days from now": with_secret(iat=ABSENT, exp=seconds(NOW) + WEEK + 86400),
            "ten years": with_secret(exp=seconds(NOW) + 520 * WEEK),
            "half an hour left of a month": with_secret(iat=seconds(NOW) - 4 * WEEK),
        },
        "secret",
    )
    | family(
        INVALID,
        "issued_at",
        {"from the future": with_secret(iat=seconds(NOW) + WEEK, exp=seconds(NOW) + WEEK)},
        "secret",
    )
    | family(
        INVALID,
        "issuer",
        {
            "no issuer": for_todo(iss=ABSENT),
            "another issuer": for_todo(iss="another"),
        },
        "secret with issuer",
    )
    | family(
        INVALID,
        "audience",
        {
            "no audience": for_todo(aud=ABSENT),
            "another audience": for_todo(aud="another"),
        },
        "secret with issuer",
    )
)

FAMILIES: Final[dict[str, Family]] = {
    "structure": STRUCTURE,
    "encoding": ENCODING,
    "JSON": JSON,
    "algorithm": ALGORITHM,
    "key confusion": KEY_CONFUSION,
    "header": HEADERS,
    "signature": SIGNATURES,
    "claims": WRONG_CLAIMS,
    "times": TIMES,
    "size": SIZES,
    "installation": INSTALLATION,
    "encrypted": ENCRYPTED,
    "shared secret": SHARED_SECRET,
}

CASES: Final = [
    pytest.param(hostile, id=f"{name}: {case}")
    for name, cases in FAMILIES.items()
    for case, hostile in cases.items()
]

# Valid tokens that are similar to the invalid ones: each rejection above has another cause.
CONTROLS: Final = {
    **{algorithm: signer(algorithm).token() for algorithm in JWKS_ALGORITHMS},
    "header with spaces after it": ED.token(header=padded_to(to_json(ED.header()), 1)),
    "claims with spaces after them": ED.token(padded_to(ODD_CLAIMS, 2)),
    "odd header": ED.token(header=ODD_HEADER),
    "32 deep": with_claims(x=json.loads("[" * 31 + "]" * 31)),
    "32 objects deep": with_claims(x=json.loads('{"x":' * 31 + "1" + "}" * 31)),
    "many digits": with_claims(x=10**1000),
    "brackets in text": with_claims(name="[{" * 100),
    "a member of the same name deeper": with_claims(user={"sub": "another", "exp": 0}),
    "escapes": ED.token(to_json(better_auth_claims()).replace(b'"sub"', b'"\\u0073ub"')),
}


@pytest.mark.parametrize("hostile", CASES)
async def test_an_invalid_token_is_rejected_for_its_defect(hostile: Hostile) -> None:
    with pytest.raises(TokenRejected) as caught:
        await verifier(hostile.mode).verify(hostile.token, NOW)
    assert (caught.value.code, caught.value.reason) == (hostile.code, hostile.reason)


@pytest.mark.parametrize("hostile", CASES)
async def test_a_rejection_contains_no_part_of_the_token(hostile: Hostile) -> None:
    with pytest.raises(TokenRejected) as caught:
        await verifier(hostile.mode).verify(hostile.token, NOW)
    text = f"{caught.value!s} {caught.value!r} {caught.value.__cause__!r}"
    assert not any(part in text for part in hostile.token.split(".") if len(part) > 24)


def test_the_cases_cover_every_reason() -> None:
    assert {each.reason for cases in FAMILIES.values() for each in cases.values()} == set(
        RejectionReason
    )


@pytest.mark.parametrize("name", CONTROLS)
async def test_a_valid_token_that_is_similar_to_an_invalid_one_is_accepted(name: str) -> None:
    assert (await verifier("jwks").verify(CONTROLS[name], NOW)).user_id == USER


@pytest.mark.parametrize("mode", ["secret", "secret with issuer"])
async def test_a_token_that_the_frontend_signed_is_accepted(mode: str) -> None:
    token = for_todo() if mode == "secret with issuer" else hmac_token()
    assert (await verifier(mode).verify(token, NOW)).user_id == USER


# --- Generated tokens ---


async def outcome(token: str, mode: str = "jwks") -> Principal | TokenErrorCode:
    try:
        return await verifier(mode).verify(token, NOW)
    except TokenRejected as rejection:
        return rejection.code


VALID_TOKENS: Final = [(signer(algorithm).token(), "jwks") for algorithm in JWKS_ALGORITHMS] + [
    (hmac_token(), "secret")
]
BASE64URL: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
characters: Final = st.sampled_from(BASE64URL) | st.sampled_from("=+/. \n") | st.characters()
any_json: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)
Edit = Callable[[str, int, str], str]
EDITS: Final[dict[str, Edit]] = {
    "changed": lambda token, at, character: token[:at] + character + token[at + 1 :],
    "inserted": lambda token, at, character: token[:at] + character + token[at:],
    "deleted": lambda token, at, _: token[:at] + token[at + 1 :],
    "repeated": lambda token, at, _: token[: at + 1] + token[at:],
    "truncated": lambda token, at, _: token[:at],
    "swapped": lambda token, at, _: (
        token[:at] + token[at + 1 : at + 2] + token[at:][:1] + token[at + 2 :]
    ),
}


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(VALID_TOKENS),
    st.sampled_from(sorted(EDITS)),
    st.integers(0, 2**16),
    characters,
)
async def test_a_valid_token_with_one_change_is_rejected(
    valid: tuple[str, str], edit: str, position: int, character: str
) -> None:
    token, mode = valid
    mutant = EDITS[edit](token, position % len(token), character)
    assert mutant == token or isinstance(await outcome(mutant, mode), TokenErrorCode)


@pytest.mark.parametrize("valid", VALID_TOKENS, ids=[*JWKS_ALGORITHMS, "HS256"])
async def test_every_other_last_character_is_rejected(valid: tuple[str, str]) -> None:
    token, mode = valid
    for character in BASE64URL.replace(token[-1], ""):
        assert isinstance(await outcome(token[:-1] + character, mode), TokenErrorCode)


@settings(max_examples=200, deadline=None)
@given(st.text() | st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*", fullmatch=True))
async def test_any_text_is_rejected(text: str) -> None:
    assert isinstance(await outcome(text), TokenErrorCode)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "x"]), any_json),
    st.dictionaries(
        st.sampled_from(["sub", "iss", "aud", "exp", "nbf", "iat", "name", "email", "x"]), any_json
    ),
)
async def test_signed_claims_are_rejected_or_give_their_subject_as_user_id(
    header: dict[str, Any], claims: dict[str, Any]
) -> None:
    claims = better_auth_claims(**claims)
    result = await outcome(ED.token(claims, ED.header(**header)))
    assert isinstance(result, TokenErrorCode) or result.user_id == claims["sub"]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200))
async def test_signed_bytes_are_rejected(header: bytes, claims: bytes) -> None:
    assert isinstance(await outcome(ED.token(claims, header)), TokenErrorCode)
    assert isinstance(await outcome(ED.token(claims)), TokenErrorCode)
