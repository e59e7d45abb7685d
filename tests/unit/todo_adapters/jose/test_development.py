import json
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from support.jose_tokens import better_auth_claims, signer, unb64
from support.tasks import NOW
from todo_adapters.jose.development import KEY_FILE, DevelopmentIssuer
from todo_adapters.jose.verifiers import JwksTokenVerifier
from todo_domain.errors import TokenErrorCode, TokenRejected
from todo_domain.ownership import Principal

HOUR = timedelta(hours=1)


@pytest.fixture
def issuer(tmp_path: Path) -> DevelopmentIssuer:
    return DevelopmentIssuer(tmp_path / "issuer")


def verifier_of(issuer: DevelopmentIssuer) -> JwksTokenVerifier:
    return JwksTokenVerifier(issuer, issuer=issuer.name, audience=issuer.name)


async def test_a_verifier_accepts_and_caches_its_tokens(issuer: DevelopmentIssuer) -> None:
    verifier, token = verifier_of(issuer), issuer.token("ada", NOW, HOUR)
    principal = await verifier.verify(token, NOW)
    assert principal == Principal("ada", expires_at=NOW + HOUR)
    assert await verifier.verify(token, NOW) is principal


async def test_its_tokens_expire(issuer: DevelopmentIssuer) -> None:
    token = issuer.token("ada", NOW, HOUR)
    with pytest.raises(TokenRejected) as caught:
        await verifier_of(issuer).verify(token, NOW + HOUR)
    assert caught.value.code is TokenErrorCode.EXPIRED


@pytest.mark.parametrize("user_id", ["", " ", "a\nb", "\0", "s" * 256])
def test_it_issues_no_token_for_an_invalid_user_id(user_id: str, issuer: DevelopmentIssuer) -> None:
    with pytest.raises(ValueError, match="printable text of 1 to 255 characters"):
        issuer.token(user_id, NOW, HOUR)


async def test_the_key_is_kept_in_the_directory(tmp_path: Path) -> None:
    token = DevelopmentIssuer(tmp_path).token("ada", NOW, HOUR)
    actor = await verifier_of(DevelopmentIssuer(tmp_path)).verify(token, NOW)
    assert actor.user_id == "ada"


async def test_another_directory_has_another_key(tmp_path: Path) -> None:
    token = DevelopmentIssuer(tmp_path / "first").token("ada", NOW, HOUR)
    with pytest.raises(TokenRejected, match="kid_unknown"):
        await verifier_of(DevelopmentIssuer(tmp_path / "second")).verify(token, NOW)


async def test_a_forged_token_with_the_kid_of_the_key_is_rejected(
    issuer: DevelopmentIssuer,
) -> None:
    header = json.loads(unb64(issuer.token("ada", NOW, HOUR).split(".")[0]))
    forger = signer("EdDSA", header["kid"], "forger")
    forged = forger.token(better_auth_claims(iss=issuer.name, aud=issuer.name))
    with pytest.raises(TokenRejected, match="signature"):
        await verifier_of(issuer).verify(forged, NOW)


def test_only_the_owner_can_read_the_key_file(tmp_path: Path) -> None:
    directory = tmp_path / "made" / "as needed"
    DevelopmentIssuer(directory)
    assert stat.S_IMODE((directory / KEY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_the_directory_has_no_other_file(tmp_path: Path) -> None:
    DevelopmentIssuer(tmp_path)
    DevelopmentIssuer(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


def test_processes_that_start_at_once_use_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        issuers = pool.map(lambda _: DevelopmentIssuer(tmp_path), range(64))
    assert len({issuer.token("ada", NOW, HOUR) for issuer in issuers}) == 1
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not a key", id="garbage"),
        pytest.param(signer("EdDSA").pem(), id="a public key"),
        pytest.param(signer("ES256").private_pem(), id="a key of another type"),
        pytest.param(signer("EdDSA").private_pem(b"a password"), id="an encrypted key"),
    ],
)
def test_an_unusable_key_file_is_named_and_kept(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{KEY_FILE} has no Ed25519 key: delete the file"):
        DevelopmentIssuer(tmp_path)
    assert path.read_bytes() == content


def test_a_directory_that_cannot_hold_the_key_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match=f"^{file} cannot hold the development key .*DATA_DIR"):
        DevelopmentIssuer(file)
