"""The service with tokens of a real Better Auth."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx
import pytest

from support import better_auth
from support.better_auth import SECRET, BetterAuth, Session
from support.service import Sandbox, Service, refusal
from todo_adapters.postgres.url import DatabaseUrl
from todo_api.server.settings import JwksAuth, Settings

DOCS: Final = Path(__file__).parents[3] / "docs"
NAME: Final = "http://localhost:3000"

# Other tokens of a Better Auth installation, and the error code for each
OTHER_TOKENS: Final = {
    "session token": "token_not_jwt",
    "signed session token": "token_not_jwt",
    "signed session token, percent-encoded": "token_not_jwt",
    "compact session cache": "token_malformed",
    "jwt session cache": "token_invalid",
    "jwt by key session cache": "token_invalid",
    "jwe session cache": "token_malformed",
    "verification mail token": "token_invalid",
}
every_other_token = pytest.mark.parametrize("kind", OTHER_TOKENS)


@pytest.fixture(scope="module")
async def database_url(branch: Callable[[str], Awaitable[DatabaseUrl]]) -> str:
    address = await branch("better_auth")
    return address.url.set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    better_auth.install()


@pytest.fixture(scope="module")
async def issuer() -> AsyncIterator[BetterAuth]:
    async with better_auth.better_auth() as issuer:
        yield issuer


@pytest.fixture(scope="module")
async def fresh_issuer() -> AsyncIterator[BetterAuth]:
    """An issuer whose database every test resets."""
    async with better_auth.better_auth() as issuer:
        yield issuer


@pytest.fixture
async def configurable_issuer(issuer: BetterAuth) -> AsyncIterator[BetterAuth]:
    """The issuer. Its default options are restored after the test."""
    yield issuer
    await issuer.configure()


@pytest.fixture(scope="module")
async def ada(issuer: BetterAuth) -> Session:
    return await issuer.sign_up()


@pytest.fixture(scope="module")
def service(sandbox: Sandbox, database_url: str, issuer: BetterAuth) -> Iterator[Service]:
    with sandbox.serving(
        "serve", DATABASE_URL=database_url, BETTER_AUTH_URL=issuer.origin
    ) as service:
        yield service


@pytest.fixture(scope="module")
async def named_issuer() -> AsyncIterator[BetterAuth]:
    """An issuer whose name in tokens is not its address, as with containers."""
    async with better_auth.better_auth(name=NAME) as issuer:
        yield issuer


@pytest.fixture(scope="module")
async def named_issuer_user(named_issuer: BetterAuth) -> Session:
    return await named_issuer.sign_up()


@pytest.fixture(scope="module")
def audience_service(
    sandbox: Sandbox, database_url: str, named_issuer: BetterAuth
) -> Iterator[Service]:
    with sandbox.serving(
        "serve",
        DATABASE_URL=database_url,
        BETTER_AUTH_URL=NAME,
        AUTH_JWKS_URL=named_issuer.jwks_url,
        AUTH_AUDIENCE="todo-api",
    ) as service:
        yield service


@pytest.fixture(scope="module")
def secret_service(sandbox: Sandbox, database_url: str) -> Iterator[Service]:
    with sandbox.serving(
        "serve", DATABASE_URL=database_url, AUTH_MODE="shared-secret", BETTER_AUTH_SECRET=SECRET
    ) as service:
        yield service


def user_id_of(service: Service, token: str) -> str:
    """The user id of a task that is created with the token."""
    with service.client(token) as client:
        created = client.post("/api/tasks", json={"title": "Buy milk"})
        assert created.status_code == 201, created.text
        assert created.json() in client.get("/api/tasks").json()
    return str(created.json()["user_id"])


def rejection_of(service: Service, token: str) -> str:
    """The error code with which the service rejects the token."""
    with service.client(token) as client:
        response = client.get("/api/tasks")
    assert response.status_code == 401, response.text
    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]
    return str(response.json()["code"])


# --- First request ---


@pytest.mark.parametrize(
    ("algorithm", "setting"),
    [
        ("EdDSA", {}),
        ("ES256", {}),
        ("RS256", {}),
        ("ES512", {"AUTH_ALGORITHMS": "ES512"}),
        ("PS256", {"AUTH_ALGORITHMS": "EdDSA,PS256"}),
    ],
)
async def test_a_user_who_signed_in_can_use_their_tasks(
    sandbox: Sandbox,
    database_url: str,
    fresh_issuer: BetterAuth,
    algorithm: str,
    setting: dict[str, str],
) -> None:
    await fresh_issuer.install(algorithm=algorithm)
    user = (await fresh_issuer.sign_up()).user["id"]
    token = await (await fresh_issuer.sign_in()).jwt()
    assert better_auth.header(token)["alg"] == algorithm
    with sandbox.serving(
        "serve", DATABASE_URL=database_url, BETTER_AUTH_URL=fresh_issuer.origin, **setting
    ) as service:
        assert user_id_of(service, token) == user


async def test_without_auth_algorithms_es512_keys_are_unusable(
    sandbox: Sandbox, database_url: str, fresh_issuer: BetterAuth
) -> None:
    await fresh_issuer.install(algorithm="ES512")
    token = await (await fresh_issuer.sign_up()).jwt()
    with (
        sandbox.serving(
            "serve", DATABASE_URL=database_url, BETTER_AUTH_URL=fresh_issuer.origin
        ) as service,
        service.client(token) as client,
    ):
        response = client.get("/api/tasks")
        assert (response.status_code, response.json()["code"]) == (503, "auth_keys_unavailable")
        assert "algorithm is not allowed here" in service.stdout


async def test_the_metrics_have_the_number_of_keys(service: Service, ada: Session) -> None:
    user_id_of(service, await ada.jwt())
    with service.client() as operator:
        assert "\ntodo_auth_keys 1.0\n" in operator.get("/metrics").text


def test_doctor_counts_the_keys_by_algorithm(
    sandbox: Sandbox, database_url: str, issuer: BetterAuth
) -> None:
    result = sandbox.todo_api("doctor", DATABASE_URL=database_url, BETTER_AUTH_URL=issuer.origin)
    assert "1 EdDSA" in result.stdout


async def test_users_see_only_their_own_tasks(service: Service, issuer: BetterAuth) -> None:
    users = [await issuer.sign_up(f"{name}@example.com") for name in ("bob", "eve")]
    for user in users:
        assert user_id_of(service, await user.jwt()) == user.user["id"]
    for user in users:
        with service.client(await user.jwt()) as client:
            assert {t["user_id"] for t in client.get("/api/tasks").json()} == {user.user["id"]}


async def test_the_token_in_the_header_of_get_session_is_accepted(
    service: Service, ada: Session
) -> None:
    assert user_id_of(service, await ada.jwt_in_header()) == ada.user["id"]


async def test_a_token_for_a_client_without_cookies_is_accepted(
    service: Service, issuer: BetterAuth, ada: Session
) -> None:
    for session_token in (ada.token, ada.signed_token):
        assert user_id_of(service, await issuer.jwt_for(session_token)) == ada.user["id"]


# --- User ids ---


async def test_an_email_address_can_be_the_subject(
    service: Service, configurable_issuer: BetterAuth, ada: Session
) -> None:
    await configurable_issuer.configure(subject="email")
    assert user_id_of(service, await ada.jwt()) == "ada@example.com"


async def test_a_number_can_be_the_subject(
    service: Service, configurable_issuer: BetterAuth
) -> None:
    await configurable_issuer.configure(ids="serial")
    first = await configurable_issuer.sign_up("first@example.com")
    assert user_id_of(service, await first.jwt()) == first.user["id"] == "1"


async def test_a_uuid_can_be_the_subject(service: Service, configurable_issuer: BetterAuth) -> None:
    await configurable_issuer.configure(ids="uuid")
    user = await configurable_issuer.sign_up("uuid@example.com")
    assert user_id_of(service, await user.jwt()) == user.user["id"]


# --- Deleting an account ---


async def test_deleting_an_account_erases_its_tasks_first(
    service: Service, configurable_issuer: BetterAuth
) -> None:
    await configurable_issuer.configure(todoApi=service.url)
    user = await configurable_issuer.sign_up("leaving@example.com")
    token = await user.jwt()
    user_id_of(service, token)
    assert (await user.delete_account()).json()["success"] is True
    with service.client(token) as client:  # a token stays valid until it expires
        assert client.get("/api/me/export").json()["user"]["first_seen_at"] is None
        assert client.get("/api/tasks").json() == []
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        await configurable_issuer.sign_in("leaving@example.com")


async def test_no_account_is_deleted_if_its_tasks_cannot_be_erased(
    service: Service, configurable_issuer: BetterAuth
) -> None:
    user = await configurable_issuer.sign_up("staying@example.com")
    token = await user.jwt()
    user_id_of(service, token)
    await configurable_issuer.configure(todoApi="http://127.0.0.1:1")
    response = await user.delete_account()
    assert (response.status_code, response.json()["code"]) == (503, "TASKS_NOT_ERASED")
    await configurable_issuer.sign_in("staying@example.com")
    with service.client(token) as client:
        assert len(client.get("/api/tasks").json()) == 1


def test_the_documented_hook_is_the_one_that_is_tested() -> None:
    hook = (better_auth.PACKAGE / "erase-tasks.mjs").read_text()
    assert f"```js\n{hook}```" in (DOCS / "better-auth.md").read_text()


# --- Issuer, key set URL and audience ---


@pytest.mark.parametrize("audience", ["todo-api", ["todo-api"], [NAME, "todo-api"]])
async def test_the_key_set_url_may_differ_from_the_issuer(
    audience_service: Service,
    named_issuer: BetterAuth,
    named_issuer_user: Session,
    audience: str | list[str],
) -> None:
    await named_issuer.configure(audience=audience)
    assert (
        user_id_of(audience_service, await named_issuer_user.jwt()) == named_issuer_user.user["id"]
    )


@pytest.mark.parametrize("audience", [None, "todo-api-of-others", [NAME, "https://todo-api"]])
async def test_a_token_for_another_audience_is_rejected(
    audience_service: Service,
    named_issuer: BetterAuth,
    named_issuer_user: Session,
    audience: str | list[str] | None,
) -> None:
    await named_issuer.configure(audience=audience)
    assert rejection_of(audience_service, await named_issuer_user.jwt()) == "token_invalid"


@pytest.mark.parametrize(
    "url", ["http://LocalHost:3000/", "http://localhost:80", "https://a.b:443"]
)
async def test_better_auth_url_gives_the_issuer_and_audience_of_the_tokens(
    url: str,
) -> None:
    async with better_auth.better_auth(name=url) as issuer:
        claims = better_auth.claims(await issuer.jwt_for((await issuer.sign_up()).token))
    auth = Settings(better_auth_url=url).auth()
    assert isinstance(auth, JwksAuth)
    assert (auth.issuer, auth.audience) == (claims["iss"], claims["aud"])


# --- The other tokens of the installation ---


@pytest.fixture(scope="module")
async def other_tokens(issuer: BetterAuth, ada: Session) -> dict[str, str]:
    tokens = {
        "session token": ada.token,
        "signed session token": ada.signed_token,
        "signed session token, percent-encoded": quote(ada.signed_token, safe=""),
        "verification mail token": await issuer.verification_mail_token(ada),
    }
    for strategy in ("compact", "jwt", "jwt by key", "jwe"):
        await issuer.configure(cookieCache=strategy)
        tokens[f"{strategy} session cache"] = (await issuer.sign_in()).cached_in_cookie
    await issuer.configure()
    return tokens


@every_other_token
async def test_other_tokens_of_the_installation_are_rejected(
    service: Service, other_tokens: dict[str, str], kind: str
) -> None:
    assert rejection_of(service, other_tokens[kind]) == OTHER_TOKENS[kind]


@every_other_token
async def test_with_a_shared_secret_other_tokens_of_the_installation_are_rejected(
    secret_service: Service, other_tokens: dict[str, str], kind: str
) -> None:
    assert rejection_of(secret_service, other_tokens[kind]) == OTHER_TOKENS[kind]


async def test_the_response_to_a_session_token_names_the_url_of_the_jwt(
    service: Service, ada: Session
) -> None:
    with service.client(ada.token) as client:
        assert "/api/auth/token" in client.get("/api/tasks").json()["detail"]


async def test_with_a_key_set_tokens_signed_with_the_secret_are_rejected(
    service: Service, issuer: BetterAuth, ada: Session
) -> None:
    claims = {"sub": ada.user["id"], "iss": issuer.name, "aud": issuer.name}
    assert rejection_of(service, await issuer.sign(**claims)) == "token_invalid"


async def test_tokens_are_never_logged(
    service: Service, secret_service: Service, other_tokens: dict[str, str], ada: Session
) -> None:
    token = await ada.jwt()
    for target in (service, secret_service):
        for text in (token, *other_tokens.values()):
            with target.client(text) as client:
                client.get("/api/tasks")
            assert text not in target.stdout + target.stderr
            assert text.split(".")[-1] not in target.stdout + target.stderr


# --- Shared secret ---


async def test_a_token_that_the_frontend_signs_is_accepted(
    secret_service: Service, issuer: BetterAuth, ada: Session
) -> None:
    token = await issuer.sign(sub=ada.user["id"], email="ada@example.com", name="Ada Lovelace")
    assert user_id_of(secret_service, token) == ada.user["id"]


async def test_a_token_that_is_valid_for_a_week_is_accepted(
    secret_service: Service, issuer: BetterAuth
) -> None:
    assert user_id_of(secret_service, await issuer.sign("7d", sub="ada")) == "ada"


async def test_a_token_that_is_valid_for_longer_is_rejected(
    secret_service: Service, issuer: BetterAuth
) -> None:
    assert rejection_of(secret_service, await issuer.sign("8d", sub="ada")) == "token_invalid"


async def test_no_other_claim_replaces_sub(secret_service: Service, issuer: BetterAuth) -> None:
    token = await issuer.sign(userId="ada", id="ada", email="ada@example.com")
    assert rejection_of(secret_service, token) == "token_invalid"


async def test_with_a_shared_secret_tokens_of_the_key_set_are_rejected(
    secret_service: Service, ada: Session
) -> None:
    assert rejection_of(secret_service, await ada.jwt()) == "token_invalid"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "BETTER_AUTH_SECRET is missing"),
        ({"BETTER_AUTH_SECRET": "s" * 31}, "BETTER_AUTH_SECRET of at least 32 bytes"),
        (
            {"BETTER_AUTH_SECRET": SECRET, "AUTH_JWKS_URL": f"{NAME}/api/auth/jwks"},
            "exclude each other",
        ),
        (
            {"AUTH_MODE": "jwks", "BETTER_AUTH_URL": NAME, "AUTH_ALGORITHMS": "EdDSA,HS256"},
            "AUTH_ALGORITHMS cannot be HS256",
        ),
    ],
    ids=["missing", "weak", "with a key set", "as an algorithm of a key set"],
)
def test_the_service_does_not_start_with_an_unsafe_secret(
    sandbox: Sandbox, database_url: str, variables: dict[str, str], message: str
) -> None:
    settings = {"AUTH_MODE": "shared-secret", "DATABASE_URL": database_url} | variables
    assert message in refusal(sandbox.todo_api("serve", **settings))
