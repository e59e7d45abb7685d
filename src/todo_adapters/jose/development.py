"""An issuer of tokens for trying things out: the stand-in for Better Auth in ``todo-api dev``."""

import os
import secrets
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jose import jwk, jws

from todo_adapters.jose.claims import is_subject
from todo_adapters.jose.key_sets import StaticKeySet
from todo_adapters.jose.keys import fingerprint, verification_key
from todo_adapters.jose.verifiers import JwksTokenVerifier
from todo_domain.ports import TokenVerifier

LIFETIME: Final = timedelta(days=1)
KEY_FILE: Final = "development-key.pem"

_log = structlog.get_logger()


class DevelopmentIssuer:
    """Signs tokens for anybody, with an Ed25519 key that lives in a directory.

    Whoever can read the directory can be any user: never for more than one person's own machine.
    ``name`` is the tokens' issuer and audience.
    """

    name: Final = "todo-api-dev"

    def __init__(self, directory: Path) -> None:
        """Read the key in the directory, or make both. Raises ValueError for an unreadable key."""
        self._private = _load(_ensured(directory / KEY_FILE))
        public = self._private.public_key()
        self._key = verification_key(fingerprint(public).hex()[:16], "EdDSA", public)

    def token(
        self,
        user_id: str,
        now: datetime,
        *,
        lifetime: timedelta = LIFETIME,
        name: str | None = None,
        email: str | None = None,
    ) -> str:
        """A token with which the bearer is that user from ``now`` on.

        Raises ValueError for an id that no user can have.
        """
        if not is_subject(user_id):
            raise ValueError("a user id is printable text of 1 to 255 characters")
        issued_at = int(now.timestamp())
        claims = {
            "sub": user_id,
            "iss": self.name,
            "aud": self.name,
            "iat": issued_at,
            "exp": issued_at + int(lifetime.total_seconds()),
        }
        display = {"name": name, "email": email}
        claims |= {member: text for member, text in display.items() if text is not None}
        signer = jwk.construct(self._private, "EdDSA")
        token: str = jws.sign(claims, signer, headers={"kid": self._key.kid}, algorithm="EdDSA")
        return token

    def verifier(self) -> TokenVerifier:
        """The judge that believes this issuer, and says so in the log."""
        _log.warning("config.unsafe", reason="tokens of the development issuer are believed")
        return JwksTokenVerifier(StaticKeySet([self._key]), issuer=self.name, audience=self.name)


def _ensured(path: Path) -> Path:
    """The path, with a new key in it if there was none.

    The file appears whole or not at all and only its owner can read it. Of several processes that
    make it at the same time one wins, and all use its key.
    """
    if path.exists():
        return path
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(_new_key())
        with suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _new_key() -> bytes:
    private = Ed25519PrivateKey.generate()
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load(path: Path) -> Ed25519PrivateKey:
    with suppress(TypeError, ValueError, UnsupportedAlgorithm):
        private = load_pem_private_key(path.read_bytes(), password=None)
        if isinstance(private, Ed25519PrivateKey):
            return private
    raise ValueError(f"{path} holds no Ed25519 key; delete it, and a new one is made")
