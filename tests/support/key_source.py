"""A fake of the JOSE adapter's KeySource."""

from support.jose_tokens import JWKS_ALGORITHMS, Signer, key_set
from todo_adapters.jose.keys import VerificationKey, parse_key_set


class InMemoryKeySource:
    """Has the keys of the signers that a test publishes, and counts the calls of ``find``."""

    def __init__(self, *signers: Signer) -> None:
        self.find_count = 0
        self.publish(*signers)

    def publish(self, *signers: Signer) -> None:
        """Replace all keys."""
        document = key_set(*(signer.jwk() for signer in signers))
        self._keys, _ = parse_key_set(document, frozenset(JWKS_ALGORITHMS))

    async def find(self, kid: str, skip: VerificationKey | None = None) -> VerificationKey | None:
        self.find_count += 1
        key = self._keys.get(kid)
        return None if key == skip else key

    def is_active(self, key: VerificationKey) -> bool:
        return self._keys.get(key.kid) == key
