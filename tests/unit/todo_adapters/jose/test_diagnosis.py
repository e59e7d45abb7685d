import pytest

from support.jose_tokens import ABSENT, ORIGIN, better_auth_claims, signer
from todo_adapters.jose.diagnosis import explain_rejection
from todo_adapters.jose.rejections import RejectionReason


def explained(reason: str, token: str, audience: str | None = ORIGIN) -> str:
    return explain_rejection(reason, token, issuer=ORIGIN, audience=audience)


@pytest.mark.parametrize("reason", RejectionReason)
def test_every_reason_has_an_explanation(reason: RejectionReason) -> None:
    assert explained(reason, "not a token").startswith("it")


def test_a_wrong_issuer_is_named_with_the_accepted_one() -> None:
    token = signer().token(better_auth_claims(iss="https://other.example"))
    explanation = explained("issuer", token)
    assert f"is https://other.example, but this service accepts {ORIGIN}:" in explanation


@pytest.mark.parametrize("reason", ["issuer", "audience"])
def test_a_missing_claim_is_named_as_missing(reason: str) -> None:
    token = signer().token(better_auth_claims(iss=ABSENT, aud=ABSENT))
    assert f"its {reason} is missing" in explained(reason, token)


def test_without_a_configured_audience_the_accepted_tokens_are_described() -> None:
    assert "accepts only tokens without aud:" in explained("audience", signer().token(), None)
