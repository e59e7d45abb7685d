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
    key_set,
    seconds,
    signer,
)
from support.tasks import NOW
from todo_adapters.jose import verifiers as tokens
from todo_adapters.jose.key_sets import RemoteKeySet
from todo_adapters.jose.keys import VerificationKey, parse_key_set
from todo_adapters.jose.verifiers import (
    REMEMBERED_FOR,
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

# Written as a frontend's user would see it, compared as it came.
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


class KeyRing:
    """A source of keys that counts how often it is asked for one."""

    def __init__(self, *signers: Signer) -> None:
        self.keys: dict[str, VerificationKey] = {}
        self.finds = 0
        self.publish(*signers)

    def publish(self, *signers: Signer) -> None:
        document = key_set(*(each.jwk() for each in signers))
        self.keys = dict(parse_key_set(document, frozenset(JWKS_ALGORITHMS)))

    async def find(
        self, kid: str, *, other_than: VerificationKey | None = None
    ) -> VerificationKey | None:
        self.finds += 1
        key = self.keys.get(kid)
        return None if key is other_than else key

    def holds(self, key: VerificationKey) -> bool:
        return self.keys.get(key.kid) is key


def verifier_of(*signers: Signer) -> JwksTokenVerifier:
    return JwksTokenVerifier(KeyRing(*signers), issuer=ORIGIN, audience=ORIGIN)


def token_of(**changes: Any) -> str:  # noqa: ANN401 - claims are any JSON
    return ED.token(better_auth_claims(**changes))


async def judged(token: str, now: datetime = NOW) -> Principal:
    return await verifier_of(ED).verify(token, now)


async def refusal(verifier: TokenVerifier, token: str, now: datetime = NOW) -> tuple[str, str]:
    with pytest.raises(TokenRejected) as caught:
        await verifier.verify(token, now)
    return caught.value.code, caught.value.reason


def test_faults_are_named_as_is_promised() -> None:
    assert list(TokenErrorCode) == [
        *("token_missing", "token_malformed", "token_not_jwt", "token_expired", "token_invalid")
    ]


async def test_a_refusal_says_its_fault_and_its_reason() -> None:
    with pytest.raises(TokenRejected, match=r"^token_malformed: not_three_segments$"):
        await judged("nobody")


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
        keys = RemoteKeySet("http://127.0.0.1:1/api/auth/jwks")
        yield JwksTokenVerifier(keys, issuer=ORIGIN, audience=ORIGIN)
        await keys.aclose()


# --- What a token of Better Auth says ---


@pytest.mark.parametrize("algorithm", JWKS_ALGORITHMS)
async def test_a_token_of_every_algorithm_speaks_for_its_user(algorithm: str) -> None:
    owner = signer(algorithm)
    assert await verifier_of(owner).verify(owner.token(), NOW) == Principal(
        USER, expires_at=END, name="Ada Lovelace", email="ada@example.com"
    )


async def test_keys_of_every_algorithm_live_side_by_side() -> None:
    owners = [signer(algorithm) for algorithm in JWKS_ALGORITHMS]
    verifier = verifier_of(*owners)
    for owner in owners:
        assert (await verifier.verify(owner.token(), NOW)).user_id == USER


@pytest.mark.parametrize("typ", ["JWT", "jwt", "Jwt"])
async def test_the_type_may_be_jwt_in_any_case(typ: str) -> None:
    token = ED.token(header=ED.header(typ=typ))
    assert (await judged(token)).user_id == USER


async def test_header_members_of_no_concern_are_ignored() -> None:
    token = ED.token(header=ED.header(x5t="AAAA", iat=1, cty="json"))
    assert (await judged(token)).user_id == USER


@pytest.mark.parametrize("subject", SUBJECTS)
async def test_the_subject_is_kept_byte_for_byte(subject: str) -> None:
    assert (await judged(token_of(sub=subject))).user_id == subject


@pytest.mark.parametrize("audience", [[ORIGIN], ["https://other.example", ORIGIN], [ORIGIN] * 2])
async def test_one_of_several_audiences_is_enough(audience: list[str]) -> None:
    assert (await judged(token_of(aud=audience))).user_id == USER


async def test_issuer_and_audience_may_differ() -> None:
    verifier = JwksTokenVerifier(KeyRing(ED), issuer="https://auth.example", audience="todo")
    token = token_of(iss="https://auth.example", aud="todo")
    assert (await verifier.verify(token, NOW)).user_id == USER


@pytest.mark.parametrize("member", ["name", "email"])
@pytest.mark.parametrize(
    "shown", ["Zoë", "👩‍👩‍👧‍👦", "می‌خواهم", "<script>alert(1)</script>", "", "n" * 255]
)
async def test_text_to_show_is_kept_as_it_is(member: str, shown: str) -> None:
    assert getattr(await judged(token_of(**{member: shown})), member) == shown


@pytest.mark.parametrize("member", ["name", "email"])
@pytest.mark.parametrize(
    "unfit",
    [ABSENT, None, 7, True, ["Ada"], {"first": "Ada"}, "n" * 256, "a\nb", "\0", "\x85", "\ud800"],
)
async def test_what_cannot_be_shown_is_left_out(member: str, unfit: object) -> None:
    assert getattr(await judged(token_of(**{member: unfit})), member) is None


async def test_a_token_may_be_as_long_as_the_limit() -> None:
    spare = TOKEN_MAX - len(token_of(image=""))
    longest = token_of(image="x" * (spare * 3 // 4))
    assert TOKEN_MAX - 4 < len(longest) <= TOKEN_MAX == 8192
    assert (await judged(longest)).user_id == USER


# --- Time ---


@pytest.mark.parametrize("end", [seconds(NOW) + 1, seconds(NOW) + 1.5, float(seconds(NOW) + 1)])
async def test_a_token_is_good_until_the_instant_it_ends(end: float) -> None:
    verifier, token = verifier_of(ED), token_of(exp=end)
    expires_at = NOW + timedelta(seconds=end - seconds(NOW))
    assert (await verifier.verify(token, expires_at - INSTANT)).expires_at == expires_at
    assert await refusal(verifier, token, expires_at) == (TokenErrorCode.EXPIRED, "expired")


@pytest.mark.parametrize("claim", ["iat", "nbf"])
async def test_an_issuers_clock_may_be_ahead_by_the_leeway_and_no_more(claim: str) -> None:
    token = token_of(**{claim: seconds(NOW + LEEWAY)})
    assert (await judged(token)).user_id == USER
    fault, reason = await refusal(verifier_of(ED), token, NOW - INSTANT)
    assert (fault, reason) == (
        TokenErrorCode.INVALID,
        {"iat": "issued_at", "nbf": "not_before"}[claim],
    )


async def test_a_token_need_not_say_when_it_was_issued() -> None:
    assert (await judged(token_of(iat=ABSENT))).user_id == USER


@pytest.mark.parametrize("leeway", [timedelta(0), timedelta(seconds=60)])
async def test_the_leeway_can_be_chosen(leeway: timedelta) -> None:
    verifier = JwksTokenVerifier(KeyRing(ED), issuer=ORIGIN, audience=ORIGIN, leeway=leeway)
    token = token_of(iat=seconds(NOW + leeway))
    assert (await verifier.verify(token, NOW)).user_id == USER
    assert await refusal(verifier, token, NOW - INSTANT) == (TokenErrorCode.INVALID, "issued_at")


@pytest.mark.parametrize("leeway", [timedelta(seconds=-1), timedelta(seconds=61)])
def test_a_leeway_over_a_minute_is_refused(leeway: timedelta) -> None:
    with pytest.raises(ValueError, match="0 to 60 seconds"):
        JwksTokenVerifier(KeyRing(ED), issuer=ORIGIN, audience=ORIGIN, leeway=leeway)


@pytest.mark.parametrize("parties", [("", ORIGIN), (ORIGIN, "")])
def test_issuer_and_audience_cannot_be_empty(parties: tuple[str, str]) -> None:
    issuer, audience = parties
    with pytest.raises(ValueError, match="AUTH_ISSUER and AUTH_AUDIENCE"):
        JwksTokenVerifier(KeyRing(ED), issuer=issuer, audience=audience)


# --- Remembered tokens ---


async def test_a_verified_token_is_known_again_without_waiting_for_anything() -> None:
    ring = KeyRing(ED)
    verifier = JwksTokenVerifier(ring, issuer=ORIGIN, audience=ORIGIN)
    first = await verifier.verify(token_of(), NOW)
    with pytest.raises(StopIteration) as returned:
        verifier.verify(token_of(), NOW).send(None)
    assert returned.value.value is first
    assert ring.finds == 1


async def test_a_token_is_verified_anew_after_a_while() -> None:
    ring = KeyRing(ED)
    verifier = JwksTokenVerifier(ring, issuer=ORIGIN, audience=ORIGIN)
    for moment in (NOW, NOW + REMEMBERED_FOR - INSTANT, NOW + REMEMBERED_FOR):
        await verifier.verify(token_of(), moment)
    assert ring.finds == 2


async def test_a_remembered_token_is_judged_anew_by_a_clock_that_was_set_back() -> None:
    verifier, token = verifier_of(ED), token_of()
    await verifier.verify(token, NOW)
    earlier = NOW - timedelta(hours=1)
    assert await refusal(verifier, token, earlier) == (TokenErrorCode.INVALID, "issued_at")


async def test_a_remembered_token_is_worth_nothing_once_its_key_is_withdrawn() -> None:
    ring = KeyRing(ED)
    verifier = JwksTokenVerifier(ring, issuer=ORIGIN, audience=ORIGIN)
    await verifier.verify(token_of(), NOW)
    ring.publish(signer("ES256"))
    assert await refusal(verifier, token_of()) == (TokenErrorCode.INVALID, "kid_unknown")


async def test_a_remembered_token_is_worth_nothing_once_its_kid_names_another_key() -> None:
    ring = KeyRing(ED)
    verifier = JwksTokenVerifier(ring, issuer=ORIGIN, audience=ORIGIN)
    await verifier.verify(token_of(), NOW)
    ring.publish(signer("EdDSA", owner="stranger"))
    assert await refusal(verifier, token_of()) == (TokenErrorCode.INVALID, "signature")


async def test_a_refusal_is_not_remembered() -> None:
    ring = KeyRing()
    verifier = JwksTokenVerifier(ring, issuer=ORIGIN, audience=ORIGIN)
    assert await refusal(verifier, token_of()) == (TokenErrorCode.INVALID, "kid_unknown")
    ring.publish(ED)
    assert (await verifier.verify(token_of(), NOW)).user_id == USER


async def test_the_oldest_of_too_many_tokens_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "CACHE_SIZE", 2)
    ring = KeyRing(ED)
    verifier = JwksTokenVerifier(ring, issuer=ORIGIN, audience=ORIGIN)
    first, second, third = (token_of(sub=user) for user in ("1", "2", "3"))
    for token in (first, second, third, third, second):
        await verifier.verify(token, NOW)
    assert ring.finds == 3
    await verifier.verify(first, NOW)
    assert ring.finds == 4


async def test_a_token_that_is_verified_anew_has_no_other_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokens, "CACHE_SIZE", 2)
    ring = KeyRing(ED)
    verifier = JwksTokenVerifier(ring, issuer=ORIGIN, audience=ORIGIN)
    first, second, earlier = token_of(sub="1"), token_of(sub="2"), NOW - LEEWAY
    for token, moment in ((first, earlier), (second, NOW), (second, earlier), (first, earlier)):
        await verifier.verify(token, moment)
    assert ring.finds == 3


async def test_a_token_under_a_shared_secret_is_known_again_too() -> None:
    verifier = SharedSecretTokenVerifier(SECRET)
    first = await verifier.verify(hmac_token(), NOW)
    assert await verifier.verify(hmac_token(), NOW) is first


# --- Under a shared secret ---


async def test_a_frontends_own_token_speaks_for_its_user() -> None:
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
async def test_under_a_shared_secret_a_kid_means_nothing(header: dict[str, Any]) -> None:
    token = hmac_token(header=header)
    assert (await SharedSecretTokenVerifier(SECRET).verify(token, NOW)).user_id == USER


@pytest.mark.parametrize("issued_at", [seconds(NOW), ABSENT])
async def test_under_a_shared_secret_a_token_lasts_a_week_at_most(issued_at: object) -> None:
    verifier = SharedSecretTokenVerifier(SECRET)
    week = seconds(NOW + timedelta(days=7) + LEEWAY)
    token = hmac_token(frontend_claims(iat=issued_at, exp=week))
    assert (await verifier.verify(token, NOW)).user_id == USER
    too_long = hmac_token(frontend_claims(iat=issued_at, exp=week + 1))
    assert await refusal(verifier, too_long) == (TokenErrorCode.INVALID, "lifetime")


async def test_under_a_shared_secret_issuer_and_audience_are_exact_where_they_are_set() -> None:
    verifier = SharedSecretTokenVerifier(SECRET, issuer="next", audience="todo")
    good = hmac_token(frontend_claims(iss="next", aud="todo"))
    assert (await verifier.verify(good, NOW)).user_id == USER
    assert await refusal(verifier, hmac_token()) == (TokenErrorCode.INVALID, "issuer")


async def test_under_a_shared_secret_any_issuer_is_believed_where_none_is_set() -> None:
    token = hmac_token(frontend_claims(iss="next"))
    assert (await SharedSecretTokenVerifier(SECRET).verify(token, NOW)).user_id == USER


async def test_under_a_shared_secret_a_remembered_token_still_ends() -> None:
    verifier, end = SharedSecretTokenVerifier(SECRET), NOW + timedelta(minutes=30)
    for moment in (end - INSTANT, end - INSTANT):
        assert (await verifier.verify(hmac_token(), moment)).user_id == USER
    assert await refusal(verifier, hmac_token(), end) == (TokenErrorCode.EXPIRED, "expired")


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
def test_a_secret_that_protects_nothing_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="BETTER_AUTH_SECRET") as caught:
        SharedSecretTokenVerifier(secret)
    assert not secret or secret not in str(caught.value)


def test_a_weak_secrets_refusal_says_in_which_mode_it_matters() -> None:
    with pytest.raises(ValueError, match="AUTH_MODE=shared-secret"):
        SharedSecretTokenVerifier("weak")
