from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any, Final

import pytest

from contracts import TokenVerifierContract
from support.jose_tokens import (
    ABSENT,
    JWKS_ALGORITHMS,
    MINUTES_15,
    ORIGIN,
    SECRET,
    USER,
    Signer,
    better_auth_claims,
    frontend_claims,
    hmac_token,
    seconds,
    signer,
)
from support.key_source import InMemoryKeySource
from support.tasks import NOW
from todo_adapters.jose.key_sets import RemoteKeySet
from todo_adapters.jose.verifiers import (
    CACHE_TTL,
    TOKEN_MAX,
    JwksTokenVerifier,
    SharedSecretTokenVerifier,
)
from todo_domain.errors import TokenErrorCode, TokenRejected
from todo_domain.ownership import Principal
from todo_domain.ports import TokenVerifier

ED: Final = signer("EdDSA")
INSTANT: Final = timedelta(microseconds=1)
LEEWAY: Final = timedelta(seconds=30)
END: Final = NOW + timedelta(seconds=MINUTES_15)

SUBJECTS: Final = (
    USER,
    "1",
    "ada@example.com",
    "0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b",
    " ada ",
    "'; DROP TABLE todo.tasks; --",
    "用户 🙂",
    "e\u0301",
    "\u00e9",
    "s" * 255,
)


def verifier_of(*signers: Signer) -> JwksTokenVerifier:
    return JwksTokenVerifier(InMemoryKeySource(*signers), issuer=ORIGIN, audience=ORIGIN)


def token_of(**changes: Any) -> str:  # noqa: ANN401 - claims are any JSON
    return ED.token(better_auth_claims(**changes))


async def verified(token: str, now: datetime = NOW) -> Principal:
    return await verifier_of(ED).verify(token, now)


async def rejection(verifier: TokenVerifier, token: str, now: datetime = NOW) -> tuple[str, str]:
    with pytest.raises(TokenRejected) as caught:
        await verifier.verify(token, now)
    return caught.value.code, caught.value.reason


def test_the_error_codes_are_the_documented_ones() -> None:
    assert list(TokenErrorCode) == [
        *("token_missing", "token_malformed", "token_not_jwt", "token_expired", "token_invalid")
    ]


async def test_a_rejection_has_an_error_code_and_a_reason() -> None:
    with pytest.raises(TokenRejected, match=r"^token_malformed: not_three_segments$"):
        await verified("nothing")


class TestJwksTokenVerifier(TokenVerifierContract):
    @pytest.fixture
    def verifier(self) -> TokenVerifier:
        return verifier_of(ED)

    @pytest.fixture
    def user_id(self) -> str:
        return USER

    @pytest.fixture
    def token(self) -> str:
        return token_of()

    @pytest.fixture
    async def keyless_verifier(self) -> AsyncIterator[TokenVerifier]:
        keys = RemoteKeySet("http://127.0.0.1:1/api/auth/jwks", ["EdDSA"])
        yield JwksTokenVerifier(keys, issuer=ORIGIN, audience=ORIGIN)
        await keys.aclose()


# --- Claims of a Better Auth token ---


@pytest.mark.parametrize("algorithm", JWKS_ALGORITHMS)
async def test_a_token_of_every_algorithm_is_accepted(algorithm: str) -> None:
    owner = signer(algorithm)
    assert await verifier_of(owner).verify(owner.token(), NOW) == Principal(
        USER, expires_at=END, name="Ada Lovelace", email="ada@example.com"
    )


async def test_one_verifier_accepts_tokens_of_every_algorithm() -> None:
    owners = [signer(algorithm) for algorithm in JWKS_ALGORITHMS]
    verifier = verifier_of(*owners)
    for owner in owners:
        assert (await verifier.verify(owner.token(), NOW)).user_id == USER


@pytest.mark.parametrize("typ", ["JWT", "jwt", "Jwt"])
async def test_the_type_may_be_jwt_in_any_case(typ: str) -> None:
    token = ED.token(header=ED.header(typ=typ))
    assert (await verified(token)).user_id == USER


async def test_unknown_header_members_are_ignored() -> None:
    token = ED.token(header=ED.header(x5t="AAAA", iat=1, cty="json"))
    assert (await verified(token)).user_id == USER


@pytest.mark.parametrize("subject", SUBJECTS)
async def test_the_user_id_is_the_unchanged_subject(subject: str) -> None:
    assert (await verified(token_of(sub=subject))).user_id == subject


@pytest.mark.parametrize("audience", [[ORIGIN], ["https://other.example", ORIGIN], [ORIGIN] * 2])
async def test_a_list_of_audiences_with_the_required_one_is_accepted(audience: list[str]) -> None:
    assert (await verified(token_of(aud=audience))).user_id == USER


async def test_issuer_and_audience_may_differ() -> None:
    verifier = JwksTokenVerifier(
        InMemoryKeySource(ED), issuer="https://auth.example", audience="todo"
    )
    token = token_of(iss="https://auth.example", aud="todo")
    assert (await verifier.verify(token, NOW)).user_id == USER


@pytest.mark.parametrize("member", ["name", "email"])
@pytest.mark.parametrize(
    "text", ["Zoë", "👩‍👩‍👧‍👦", "می‌خواهم", "<script>alert(1)</script>", "", "n" * 255]
)
async def test_display_text_is_unchanged(member: str, text: str) -> None:
    assert getattr(await verified(token_of(**{member: text})), member) == text


@pytest.mark.parametrize("member", ["name", "email"])
@pytest.mark.parametrize(
    "value",
    [ABSENT, None, 7, True, ["Ada"], {"first": "Ada"}, "n" * 256, "a\nb", "\0", "\x85", "\ud800"],
)
async def test_text_that_cannot_be_displayed_is_left_out(member: str, value: object) -> None:
    assert getattr(await verified(token_of(**{member: value})), member) is None


async def test_a_token_of_the_maximum_length_is_accepted() -> None:
    spare = TOKEN_MAX - len(token_of(image=""))
    longest = token_of(image="x" * (spare * 3 // 4))
    assert TOKEN_MAX - 4 < len(longest) <= TOKEN_MAX == 8192
    assert (await verified(longest)).user_id == USER


# --- Time ---


@pytest.mark.parametrize("end", [seconds(NOW) + 1, seconds(NOW) + 1.5, float(seconds(NOW) + 1)])
async def test_a_token_is_valid_until_exactly_its_exp(end: float) -> None:
    verifier, token = verifier_of(ED), token_of(exp=end)
    expires_at = NOW + timedelta(seconds=end - seconds(NOW))
    assert (await verifier.verify(token, expires_at - INSTANT)).expires_at == expires_at
    assert await rejection(verifier, token, expires_at) == (TokenErrorCode.EXPIRED, "expired")


@pytest.mark.parametrize("claim", ["iat", "nbf"])
async def test_the_issuers_clock_may_be_ahead_by_at_most_the_leeway(claim: str) -> None:
    token = token_of(**{claim: seconds(NOW + LEEWAY)})
    assert (await verified(token)).user_id == USER
    code, reason = await rejection(verifier_of(ED), token, NOW - INSTANT)
    assert (code, reason) == (
        TokenErrorCode.INVALID,
        {"iat": "issued_at", "nbf": "not_before"}[claim],
    )


async def test_iat_is_optional() -> None:
    assert (await verified(token_of(iat=ABSENT))).user_id == USER


# --- Cache ---


async def test_a_cached_token_is_verified_without_awaiting_anything() -> None:
    keys = InMemoryKeySource(ED)
    verifier = JwksTokenVerifier(keys, issuer=ORIGIN, audience=ORIGIN)
    first = await verifier.verify(token_of(), NOW)
    with pytest.raises(StopIteration) as returned:
        verifier.verify(token_of(), NOW).send(None)
    assert returned.value.value is first
    assert keys.find_count == 1


async def test_a_cache_entry_expires_after_its_ttl() -> None:
    keys = InMemoryKeySource(ED)
    verifier = JwksTokenVerifier(keys, issuer=ORIGIN, audience=ORIGIN)
    for moment in (NOW, NOW + CACHE_TTL - INSTANT, NOW + CACHE_TTL):
        await verifier.verify(token_of(), moment)
    assert keys.find_count == 2


async def test_a_cached_token_is_verified_again_when_the_clock_was_set_back() -> None:
    verifier, token = verifier_of(ED), token_of()
    await verifier.verify(token, NOW)
    earlier = NOW - timedelta(hours=1)
    assert await rejection(verifier, token, earlier) == (TokenErrorCode.INVALID, "issued_at")


async def test_a_cached_token_is_rejected_when_its_key_is_withdrawn() -> None:
    keys = InMemoryKeySource(ED)
    verifier = JwksTokenVerifier(keys, issuer=ORIGIN, audience=ORIGIN)
    await verifier.verify(token_of(), NOW)
    keys.publish(signer("ES256"))
    assert await rejection(verifier, token_of()) == (TokenErrorCode.INVALID, "kid_unknown")


async def test_a_cached_token_is_rejected_when_its_kid_has_another_key() -> None:
    keys = InMemoryKeySource(ED)
    verifier = JwksTokenVerifier(keys, issuer=ORIGIN, audience=ORIGIN)
    await verifier.verify(token_of(), NOW)
    keys.publish(signer("EdDSA", owner="stranger"))
    assert await rejection(verifier, token_of()) == (TokenErrorCode.INVALID, "signature")


async def test_a_rejection_is_not_cached() -> None:
    keys = InMemoryKeySource()
    verifier = JwksTokenVerifier(keys, issuer=ORIGIN, audience=ORIGIN)
    assert await rejection(verifier, token_of()) == (TokenErrorCode.INVALID, "kid_unknown")
    keys.publish(ED)
    assert (await verifier.verify(token_of(), NOW)).user_id == USER


async def test_the_oldest_entry_of_a_full_cache_is_evicted() -> None:
    keys = InMemoryKeySource(ED)
    verifier = JwksTokenVerifier(keys, issuer=ORIGIN, audience=ORIGIN, cache_size=2)
    first, second, third = (token_of(sub=user) for user in ("1", "2", "3"))
    for token in (first, second, third, third, second):
        await verifier.verify(token, NOW)
    assert keys.find_count == 3
    await verifier.verify(first, NOW)
    assert keys.find_count == 4


async def test_verifying_a_cached_token_again_evicts_no_other_entry() -> None:
    keys = InMemoryKeySource(ED)
    verifier = JwksTokenVerifier(keys, issuer=ORIGIN, audience=ORIGIN, cache_size=2)
    first, second, earlier = token_of(sub="1"), token_of(sub="2"), NOW - LEEWAY
    for token, moment in ((first, earlier), (second, NOW), (second, earlier), (first, earlier)):
        await verifier.verify(token, moment)
    assert keys.find_count == 3


async def test_a_token_signed_with_the_shared_secret_is_cached_too() -> None:
    verifier = SharedSecretTokenVerifier(SECRET)
    first = await verifier.verify(hmac_token(), NOW)
    assert await verifier.verify(hmac_token(), NOW) is first


# --- Shared secret ---


async def test_a_token_that_the_frontend_signed_is_accepted() -> None:
    assert await SharedSecretTokenVerifier(SECRET).verify(hmac_token(), NOW) == Principal(
        USER, expires_at=NOW + timedelta(minutes=30), name="Ada Lovelace"
    )


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "HS256", "typ": "JWT"},
        {"alg": "HS256", "kid": "anything"},
        {"alg": "HS256", "kid": None},
    ],
)
async def test_with_a_shared_secret_the_kid_is_ignored(header: dict[str, Any]) -> None:
    token = hmac_token(header=header)
    assert (await SharedSecretTokenVerifier(SECRET).verify(token, NOW)).user_id == USER


@pytest.mark.parametrize("issued_at", [seconds(NOW), ABSENT])
async def test_with_a_shared_secret_a_token_is_valid_for_at_most_a_week(issued_at: object) -> None:
    verifier = SharedSecretTokenVerifier(SECRET)
    week = seconds(NOW + timedelta(days=7) + LEEWAY)
    token = hmac_token(frontend_claims(iat=issued_at, exp=week))
    assert (await verifier.verify(token, NOW)).user_id == USER
    too_long = hmac_token(frontend_claims(iat=issued_at, exp=week + 1))
    assert await rejection(verifier, too_long) == (TokenErrorCode.INVALID, "lifetime")


async def test_with_a_shared_secret_a_configured_issuer_and_audience_are_required() -> None:
    verifier = SharedSecretTokenVerifier(SECRET, issuer="next", audience="todo")
    good = hmac_token(frontend_claims(iss="next", aud="todo"))
    assert (await verifier.verify(good, NOW)).user_id == USER
    assert await rejection(verifier, hmac_token()) == (TokenErrorCode.INVALID, "issuer")


async def test_with_a_shared_secret_any_issuer_is_accepted_if_none_is_configured() -> None:
    token = hmac_token(frontend_claims(iss="next"))
    assert (await SharedSecretTokenVerifier(SECRET).verify(token, NOW)).user_id == USER


async def test_with_a_shared_secret_a_cached_token_expires() -> None:
    verifier, end = SharedSecretTokenVerifier(SECRET), NOW + timedelta(minutes=30)
    for moment in (end - INSTANT, end - INSTANT):
        assert (await verifier.verify(hmac_token(), moment)).user_id == USER
    assert await rejection(verifier, hmac_token(), end) == (TokenErrorCode.EXPIRED, "expired")


@pytest.mark.parametrize("secret", ["s" * 32, "é" * 16, "\udcff" * 32])
async def test_a_secret_of_32_bytes_is_enough(secret: str) -> None:
    token = hmac_token(secret=secret.encode("utf-8", "surrogateescape"))
    assert (await SharedSecretTokenVerifier(secret).verify(token, NOW)).user_id == USER


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param("", id="empty"),
        pytest.param("s" * 31, id="31 bytes"),
        pytest.param("better-auth-secret-12345678901234567890", id="Better Auth's own default"),
        pytest.param(signer("RS256").pem().decode(), id="a public key"),
    ],
)
def test_an_unsafe_secret_is_rejected_and_not_repeated_in_the_message(secret: str) -> None:
    with pytest.raises(ValueError, match="BETTER_AUTH_SECRET") as caught:
        SharedSecretTokenVerifier(secret)
    assert not secret or secret not in str(caught.value)


def test_the_message_about_an_unsafe_secret_names_the_mode() -> None:
    with pytest.raises(ValueError, match="AUTH_MODE=shared-secret"):
        SharedSecretTokenVerifier("weak")
