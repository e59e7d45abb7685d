"""Users of a real Better Auth before the real service, which an operator has told where it is."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final
from urllib.parse import quote

import pytest

from support import better_auth
from support.better_auth import SECRET, BetterAuth, Session
from support.service import Service, Workplace, refusal
from todo_adapters.postgres.url import DatabaseUrl
from todo_api.server.settings import JwksAuth, Settings

NAME: Final = "http://localhost:3000"

# The code that answers each token of an installation which is not for us.
OTHERS: Final = {
    "session token": "token_not_jwt",
    "signed session token": "token_not_jwt",
    "signed session token as cookies have it": "token_not_jwt",
    "compact session cache": "token_malformed",
    "jwt session cache": "token_invalid",
    "jwt by key session cache": "token_invalid",
    "jwe session cache": "token_malformed",
    "mailed token": "token_invalid",
}
every_other = pytest.mark.parametrize("kind", OTHERS)


@pytest.fixture(scope="module")
async def database_url(branch: Callable[[str], Awaitable[DatabaseUrl]]) -> str:
    address = await branch("better_auth")
    return address.url.set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture(scope="module", autouse=True)
def installed(pytestconfig: pytest.Config) -> None:
    better_auth.install(pytestconfig)


@pytest.fixture(scope="module")
async def issuer() -> AsyncIterator[BetterAuth]:
    async with better_auth.better_auth() as issuer:
        yield issuer


@pytest.fixture(scope="module")
async def fresh_issuer() -> AsyncIterator[BetterAuth]:
    """One to which every test gives a database of its own."""
    async with better_auth.better_auth() as issuer:
        yield issuer


@pytest.fixture
async def as_usual(issuer: BetterAuth) -> AsyncIterator[BetterAuth]:
    """The issuer, whose options are the defaults again in the end."""
    yield issuer
    await issuer.configure()


@pytest.fixture(scope="module")
async def ada(issuer: BetterAuth) -> Session:
    return await issuer.sign_up()


@pytest.fixture(scope="module")
def service(place: Workplace, database_url: str, issuer: BetterAuth) -> Iterator[Service]:
    with place.serving(
        "serve", DATABASE_URL=database_url, BETTER_AUTH_URL=issuer.origin
    ) as service:
        yield service


@pytest.fixture(scope="module")
async def named_issuer() -> AsyncIterator[BetterAuth]:
    """One that names itself otherwise than the service can reach it, as in containers."""
    async with better_auth.better_auth(name=NAME) as issuer:
        yield issuer


@pytest.fixture(scope="module")
async def container_user(named_issuer: BetterAuth) -> Session:
    return await named_issuer.sign_up()


@pytest.fixture(scope="module")
def container(place: Workplace, database_url: str, named_issuer: BetterAuth) -> Iterator[Service]:
    with place.serving(
        "serve",
        DATABASE_URL=database_url,
        BETTER_AUTH_URL=NAME,
        AUTH_JWKS_URL=named_issuer.jwks_url,
        AUTH_AUDIENCE="todo-api",
    ) as service:
        yield service


@pytest.fixture(scope="module")
def secret_service(place: Workplace, database_url: str) -> Iterator[Service]:
    with place.serving(
        "serve", DATABASE_URL=database_url, AUTH_MODE="shared-secret", BETTER_AUTH_SECRET=SECRET
    ) as service:
        yield service


def user_of(service: Service, token: str) -> str:
    """Whose tasks the bearer of the token works with, as a task that they make says."""
    with service.client(token) as bearer:
        made = bearer.post("/api/tasks", json={"title": "Buy milk"})
        assert made.status_code == 201, made.text
        assert made.json() in bearer.get("/api/tasks").json()
    return str(made.json()["user_id"])


def refused(service: Service, token: str) -> str:
    """The code with which the bearer of the token is refused."""
    with service.client(token) as bearer:
        answer = bearer.get("/api/tasks")
    assert answer.status_code == 401, answer.text
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    return str(answer.json()["code"])


# --- A user's first request ---


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
async def test_who_signs_up_and_in_can_work_with_their_tasks(
    place: Workplace,
    database_url: str,
    fresh_issuer: BetterAuth,
    algorithm: str,
    setting: dict[str, str],
) -> None:
    await fresh_issuer.install(algorithm=algorithm)
    user = (await fresh_issuer.sign_up()).user["id"]
    token = await (await fresh_issuer.sign_in()).jwt()
    assert better_auth.header(token)["alg"] == algorithm
    with place.serving(
        "serve", DATABASE_URL=database_url, BETTER_AUTH_URL=fresh_issuer.origin, **setting
    ) as service:
        assert user_of(service, token) == user


async def test_without_auth_algorithms_tokens_by_es512_cannot_be_judged(
    place: Workplace, database_url: str, fresh_issuer: BetterAuth
) -> None:
    await fresh_issuer.install(algorithm="ES512")
    token = await (await fresh_issuer.sign_up()).jwt()
    with (
        place.serving(
            "serve", DATABASE_URL=database_url, BETTER_AUTH_URL=fresh_issuer.origin
        ) as service,
        service.client(token) as bearer,
    ):
        answer = bearer.get("/api/tasks")
        assert (answer.status_code, answer.json()["code"]) == (503, "auth_keys_unavailable")
        assert "algorithm is not allowed here" in service.stdout


async def test_the_metrics_say_how_many_keys_there_are(service: Service, ada: Session) -> None:
    user_of(service, await ada.jwt())
    with service.client() as operator:
        assert "\ntodo_auth_keys 1.0\n" in operator.get("/metrics").text


async def test_users_see_their_own_tasks_alone(service: Service, issuer: BetterAuth) -> None:
    users = [await issuer.sign_up(f"{name}@example.com") for name in ("bob", "eve")]
    for user in users:
        assert user_of(service, await user.jwt()) == user.user["id"]
    for user in users:
        with service.client(await user.jwt()) as bearer:
            assert {t["user_id"] for t in bearer.get("/api/tasks").json()} == {user.user["id"]}


async def test_the_token_in_the_sessions_header_is_as_good(service: Service, ada: Session) -> None:
    assert user_of(service, await ada.jwt_in_header()) == ada.user["id"]


async def test_a_client_without_cookies_gets_as_good_a_token(
    service: Service, issuer: BetterAuth, ada: Session
) -> None:
    for session_token in (ada.token, ada.signed_token):
        assert user_of(service, await issuer.jwt_for(session_token)) == ada.user["id"]


# --- What the user's id can be ---


async def test_an_email_address_can_be_the_subject(
    service: Service, as_usual: BetterAuth, ada: Session
) -> None:
    await as_usual.configure(subject="email")
    assert user_of(service, await ada.jwt()) == "ada@example.com"


async def test_a_number_can_be_the_subject(service: Service, as_usual: BetterAuth) -> None:
    await as_usual.configure(ids="serial")
    first = await as_usual.sign_up("first@example.com")
    assert user_of(service, await first.jwt()) == first.user["id"] == "1"


async def test_a_uuid_can_be_the_subject(service: Service, as_usual: BetterAuth) -> None:
    await as_usual.configure(ids="uuid")
    user = await as_usual.sign_up("uuid@example.com")
    assert user_of(service, await user.jwt()) == user.user["id"]


# --- Names, addresses and audiences ---


@pytest.mark.parametrize("audience", ["todo-api", ["todo-api"], [NAME, "todo-api"]])
async def test_in_containers_the_keys_come_from_another_address_than_the_issuers_name(
    container: Service,
    named_issuer: BetterAuth,
    container_user: Session,
    audience: str | list[str],
) -> None:
    await named_issuer.configure(audience=audience)
    assert user_of(container, await container_user.jwt()) == container_user.user["id"]


@pytest.mark.parametrize("audience", [None, "todo-api-of-others", [NAME, "https://todo-api"]])
async def test_a_token_for_another_audience_is_refused(
    container: Service,
    named_issuer: BetterAuth,
    container_user: Session,
    audience: str | list[str] | None,
) -> None:
    await named_issuer.configure(audience=audience)
    assert refused(container, await container_user.jwt()) == "token_invalid"


@pytest.mark.parametrize(
    "url", ["http://LocalHost:3000/", "http://localhost:80", "https://a.b:443"]
)
async def test_the_auth_servers_url_means_the_same_here_as_there(
    url: str,
) -> None:
    async with better_auth.better_auth(name=url) as issuer:
        claims = better_auth.claims(await issuer.jwt_for((await issuer.sign_up()).token))
    auth = Settings(better_auth_url=url).auth()
    assert isinstance(auth, JwksAuth)
    assert (auth.issuer, auth.audience) == (claims["iss"], claims["aud"])


# --- The other tokens of the installation ---


@pytest.fixture(scope="module")
async def others(issuer: BetterAuth, ada: Session) -> dict[str, str]:
    tokens = {
        "session token": ada.token,
        "signed session token": ada.signed_token,
        "signed session token as cookies have it": quote(ada.signed_token, safe=""),
        "mailed token": await issuer.mailed_token(ada),
    }
    for strategy in ("compact", "jwt", "jwt by key", "jwe"):
        await issuer.configure(cookieCache=strategy)
        tokens[f"{strategy} session cache"] = (await issuer.sign_in()).cached_in_cookie
    await issuer.configure()
    return tokens


@every_other
async def test_no_other_token_of_the_installation_is_taken(
    service: Service, others: dict[str, str], kind: str
) -> None:
    assert refused(service, others[kind]) == OTHERS[kind]


@every_other
async def test_no_other_token_is_taken_where_the_secret_is_shared(
    secret_service: Service, others: dict[str, str], kind: str
) -> None:
    assert refused(secret_service, others[kind]) == OTHERS[kind]


async def test_who_sends_the_session_token_is_told_where_the_right_one_is(
    service: Service, ada: Session
) -> None:
    with service.client(ada.token) as bearer:
        assert "/api/auth/token" in bearer.get("/api/tasks").json()["detail"]


async def test_the_frontends_secret_signs_nothing_for_a_service_that_has_keys(
    service: Service, issuer: BetterAuth, ada: Session
) -> None:
    claims = {"sub": ada.user["id"], "iss": issuer.name, "aud": issuer.name}
    assert refused(service, await issuer.sign(**claims)) == "token_invalid"


async def test_tokens_are_never_logged(
    service: Service, secret_service: Service, others: dict[str, str], ada: Session
) -> None:
    token = await ada.jwt()
    for asked in (service, secret_service):
        for text in (token, *others.values()):
            with asked.client(text) as bearer:
                bearer.get("/api/tasks")
            assert text not in asked.stdout + asked.stderr
            assert text.split(".")[-1] not in asked.stdout + asked.stderr


# --- A secret that the frontend shares ---


async def test_a_token_that_the_frontend_signs_is_accepted(
    secret_service: Service, issuer: BetterAuth, ada: Session
) -> None:
    token = await issuer.sign(sub=ada.user["id"], email="ada@example.com", name="Ada Lovelace")
    assert user_of(secret_service, token) == ada.user["id"]


async def test_a_token_that_may_last_a_week_is_accepted(
    secret_service: Service, issuer: BetterAuth
) -> None:
    assert user_of(secret_service, await issuer.sign("7d", sub="ada")) == "ada"


async def test_a_token_that_may_last_longer_is_refused(
    secret_service: Service, issuer: BetterAuth
) -> None:
    assert refused(secret_service, await issuer.sign("8d", sub="ada")) == "token_invalid"


async def test_the_user_is_in_sub_and_nowhere_else(
    secret_service: Service, issuer: BetterAuth
) -> None:
    token = await issuer.sign(userId="ada", id="ada", email="ada@example.com")
    assert refused(secret_service, token) == "token_invalid"


async def test_the_issuers_own_token_is_refused_where_the_secret_is_shared(
    secret_service: Service, ada: Session
) -> None:
    assert refused(secret_service, await ada.jwt()) == "token_invalid"


@pytest.mark.parametrize(
    ("variables", "complaint"),
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
    ids=["missing", "weak", "beside a key set", "as an algorithm of a key set"],
)
def test_a_secret_that_is_not_safe_is_refused_at_the_start(
    place: Workplace, database_url: str, variables: dict[str, str], complaint: str
) -> None:
    settings = {"AUTH_MODE": "shared-secret", "DATABASE_URL": database_url} | variables
    assert complaint in refusal(place.todo_api("serve", **settings))
