"""Issues tokens for ``todo-api dev``, in place of Better Auth."""

import json
from contextlib import suppress
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from todo_adapters.jose.claims import is_user_id
from todo_adapters.jose.encoding import encode_base64url
from todo_adapters.jose.keys import VerificationKey, verification_key

KEY_FILE: Final = "development-key.pem"


class DevelopmentIssuer:
    """Signs tokens for any user with an Ed25519 key in a directory. The KeySource of that key.

    A person who can read the directory can act as any user: only for development on one machine.
    ``name`` is the issuer and the audience of the tokens.
    """

    name: Final = "todo-api-dev"

    def __init__(self, directory: Path) -> None:
        """Read the key file, or create it. Raises ValueError if that is impossible."""
        try:
            self._private_key = _read_key(directory / KEY_FILE)
        except OSError as error:
            raise ValueError(
                f"{directory} cannot hold the development key ({error.strerror}): set DATA_DIR to"
                " another directory"
            ) from None
        public = self._private_key.public_key()
        der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._key = verification_key(sha256(der).hexdigest()[:16], "EdDSA", public)

    def token(self, user_id: str, now: datetime, lifetime: timedelta) -> str:
        """Issue a token for a user. Raises ValueError for an invalid user id."""
        if not is_user_id(user_id):
            raise ValueError("a user id is printable text of 1 to 255 characters")
        issued_at = int(now.timestamp())
        claims = {
            "sub": user_id,
            "iss": self.name,
            "aud": self.name,
            "iat": issued_at,
            "exp": issued_at + int(lifetime.total_seconds()),
        }
        header = {"alg": "EdDSA", "kid": self._key.kid, "typ": "JWT"}
        parts = (json.dumps(part, separators=(",", ":")).encode() for part in (header, claims))
        signing_input = ".".join(map(encode_base64url, parts))
        signature = self._private_key.sign(signing_input.encode())
        return f"{signing_input}.{encode_base64url(signature)}"

    async def find(self, kid: str, skip: VerificationKey | None = None) -> VerificationKey | None:
        return self._key if kid == self._key.kid and skip is None else None

    def is_active(self, key: VerificationKey) -> bool:
        return key == self._key


def _create_key(path: Path) -> None:
    """Create a key file that only its owner can read, and that is complete once it exists.

    If several processes create the file at once, all of them use the first one.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    private_key = Ed25519PrivateKey.generate()
    with NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.") as draft:
        draft.write(private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        draft.flush()
        with suppress(FileExistsError):
            path.hardlink_to(draft.name)


def _read_key(path: Path) -> Ed25519PrivateKey:
    if not path.exists():
        _create_key(path)
    with suppress(TypeError, ValueError, UnsupportedAlgorithm):
        private_key = load_pem_private_key(path.read_bytes(), password=None)
        if isinstance(private_key, Ed25519PrivateKey):
            return private_key
    raise ValueError(f"{path} has no Ed25519 key: delete the file, and a new key is created")
