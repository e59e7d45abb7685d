import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from support.jose_tokens import signer
from support.tasks import NOW
from todo_adapters.jose.development import KEY_FILE, DevelopmentIssuer
from todo_domain.errors import TokenErrorCode, TokenRejected
from todo_domain.ownership import Principal

HOUR = timedelta(hours=1)


@pytest.fixture
def issuer(tmp_path: Path) -> DevelopmentIssuer:
    return DevelopmentIssuer(tmp_path / "issuer")


async def test_its_tokens_speak_for_whom_they_are_made(issuer: DevelopmentIssuer) -> None:
    token = issuer.token("ada", NOW, lifetime=HOUR, name="Ada", email="ada@example.com")
    assert await issuer.verifier().verify(token, NOW) == Principal(
        "ada", expires_at=NOW + HOUR, name="Ada", email="ada@example.com"
    )


async def test_name_and_email_may_be_left_out(issuer: DevelopmentIssuer) -> None:
    actor = await issuer.verifier().verify(issuer.token("ada", NOW), NOW)
    assert (actor.user_id, actor.name, actor.email) == ("ada", None, None)


async def test_its_tokens_end(issuer: DevelopmentIssuer) -> None:
    token = issuer.token("ada", NOW, lifetime=HOUR)
    with pytest.raises(TokenRejected) as caught:
        await issuer.verifier().verify(token, NOW + HOUR)
    assert caught.value.code is TokenErrorCode.EXPIRED


@pytest.mark.parametrize("user_id", ["", " ", "a\nb", "\0", "s" * 256])
def test_it_makes_no_token_that_would_be_refused(user_id: str, issuer: DevelopmentIssuer) -> None:
    with pytest.raises(ValueError, match="printable text of 1 to 255 characters"):
        issuer.token(user_id, NOW)


async def test_the_key_outlives_the_process(tmp_path: Path) -> None:
    token = DevelopmentIssuer(tmp_path).token("ada", NOW)
    actor = await DevelopmentIssuer(tmp_path).verifier().verify(token, NOW)
    assert actor.user_id == "ada"


async def test_another_directory_has_another_key(tmp_path: Path) -> None:
    token = DevelopmentIssuer(tmp_path / "mine").token("ada", NOW)
    with pytest.raises(TokenRejected, match="kid_unknown"):
        await DevelopmentIssuer(tmp_path / "yours").verifier().verify(token, NOW)


def test_only_the_owner_can_read_the_key(tmp_path: Path) -> None:
    directory = tmp_path / "made" / "as needed"
    DevelopmentIssuer(directory)
    assert stat.S_IMODE((directory / KEY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_nothing_but_the_key_is_left_behind(tmp_path: Path) -> None:
    DevelopmentIssuer(tmp_path)
    DevelopmentIssuer(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


def test_all_who_start_at_once_have_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        issuers = pool.map(lambda _: DevelopmentIssuer(tmp_path), range(64))
    assert len({issuer.token("ada", NOW) for issuer in issuers}) == 1
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not a key", id="garbage"),
        pytest.param(signer("EdDSA").pem(), id="a public key"),
        pytest.param(signer("ES256").private_pem(), id="a key of another kind"),
        pytest.param(signer("EdDSA").private_pem(b"a password"), id="a locked key"),
    ],
)
def test_a_key_that_cannot_be_used_is_named_and_kept(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{KEY_FILE} holds no Ed25519 key; delete it"):
        DevelopmentIssuer(tmp_path)
    assert path.read_bytes() == content


def test_believing_it_is_announced(issuer: DevelopmentIssuer) -> None:
    with capture_logs() as log:
        issuer.verifier()
    assert [(entry["event"], entry["log_level"]) for entry in log] == [("config.unsafe", "warning")]
