"""Nothing secret leaks: a tour of all that can be asked and can fail, and then a search.

The service runs with secrets and is told texts that are like nothing else. Afterwards none of them
may be in what it wrote, in what it answered to anybody but the owner, and in what its parts show of
themselves.
"""

import json
import re
import socket
import sys
import traceback
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import quote, quote_plus

import httpx
import pytest

from support.faults import USER, Server, server_in
from support.jose_tokens import (
    ABSENT,
    ORIGIN,
    Json,
    Members,
    b64,
    better_auth_claims,
    changed,
    hmac_token,
    key_set,
    opaque_session_token,
    seconds,
    signer,
    to_json,
)
from support.service import PATIENCE, Service, Workplace, eventually, free_port
from support.tasks import a_task
from todo_adapters.jose.key_sets import RemoteKeySet
from todo_adapters.jose.verifiers import SharedSecretTokenVerifier
from todo_adapters.postgres.database import Database
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl, parse_database_url
from todo_adapters.rate_limits import LimitsRateLimiter
from todo_api.problems import MEDIA_TYPE, PROBLEM_TYPES
from todo_api.server.settings import ConfigurationError, Settings
from todo_domain.errors import TodoError
from todo_domain.ownership import Principal

UNDER_WAY: Final = 3
REFUSALS: Final = 40  # tokens that one address may have refused
NOBODY: Final = "127.0.0.1:1"  # an address at which nothing listens

# --- What is secret ---

# In each it comes after a word that no encoding but base64 and hexadecimal changes.
MARK: Final = "7c1d9e"
ODD: Final = '"/+%@\\'
TEXT: Final = f"{MARK} {ODD} é☃!"


class Secret(StrEnum):
    """Secrets, and texts that only their owner may see."""

    DATABASE_PASSWORD = f"DatabasePassword{MARK}{ODD}"
    WRONG_PASSWORD = f"WrongPassword{MARK}{ODD}"
    REDIS_PASSWORD = f"RedisPassword{MARK}{ODD}"
    SHARED_SECRET = f"SecretOfTheFrontendAndOfNobodyElse{MARK}{ODD}"
    WEAK_SECRET = f"WeakSecret{MARK}"
    JWKS_PASSWORD = f"JwksPassword{MARK}"
    PRIVATE_KEY = f"PrivateKey{MARK}"
    TITLE = f"Title{TEXT}"
    DESCRIPTION = f"Description{TEXT}"
    TAG = f"Tag{TEXT}"
    SEARCH = f"Search{TEXT}"
    MEETS_A_BUG = f"MeetsABug{TEXT}"
    NAME = f"Name{TEXT}"
    EMAIL = f"email{MARK}+todo@example.com"
    IDEMPOTENCY_KEY = f"IdempotencyKey{MARK}/+%@"
    CURSOR = f"Cursor{MARK}"
    BROKEN = f"Broken{MARK}{ODD}"
    SESSION = f"Session{MARK}0000000000000000000"
    COOKIE = f"Cookie{MARK}"
    ORIGIN = f"origin{MARK}"
    REFERER = f"Referer{MARK}"
    USER_AGENT = f"UserAgent{MARK}"
    API_KEY = f"ApiKey{MARK}"

    @property
    def word(self) -> str:
        return self[: self.index(MARK)] + MARK


# What comes along with every request.
BAGGAGE: Final = {
    "Cookie": f"better-auth.session_token={Secret.COOKIE}",
    "Origin": f"https://{Secret.ORIGIN}.example",
    "Referer": f"https://app.example/?code={Secret.REFERER}",
    "User-Agent": Secret.USER_AGENT,
    "X-Api-Key": Secret.API_KEY,
}


def claims(**changes: Json) -> Members:
    now = datetime.now(UTC)  # when the tests are collected, which may be long before they run
    about = {"sub": "ada", "name": Secret.NAME, "email": Secret.EMAIL}
    times = {"iat": seconds(now), "exp": seconds(now + timedelta(days=1))}
    return changed(better_auth_claims(**about, **times), changes)


def from_frontend(**changes: Json) -> str:
    """A token that the frontend signs: it names no audience."""
    secret = Secret.SHARED_SECRET.encode()
    return hmac_token(claims(**{"aud": ABSENT} | changes), secret=secret)


ADA: Final = from_frontend()
BOB: Final = signer().token(claims(sub="bob"))
EVE: Final = from_frontend(sub="eve")
REFUSED: Final = {
    "expired": from_frontend(iat=0, exp=1),
    "under another secret": hmac_token(claims(aud=ABSENT)),
    "under another issuer's key": signer(owner="eve").token(claims()),
    "under an unknown key": signer(kid=f"Kid{MARK}").token(claims()),
    "of another issuer": signer().token(claims(iss=f"https://{Secret.EMAIL}")),
    "without a signature": f"{b64(to_json({'alg': 'none'}))}.{b64(to_json(claims()))}.",
    "cut off": BOB[:-9],
    "with an odd claim": from_frontend(sub=[Secret.EMAIL]),
    "of a session": opaque_session_token(Secret.SESSION),
    "that is none": f"NoToken{MARK}",
    "encrypted": ".".join([b64(f"Encrypted{MARK}".encode())] * 5),
    "too long": f"LongToken{MARK}" * 600,
}


def secrets() -> dict[str, list[str]]:
    """Every secret by its name, with those parts of it that say as much."""
    tokens = {"of Ada": ADA, "of Bob": BOB, "of Eve": EVE} | REFUSED
    return {secret.name: [secret.value, secret.word] for secret in Secret} | {
        f"the token {name}": [token, *signed_parts(token)] for name, token in tokens.items()
    }


def signed_parts(token: str) -> list[str]:
    """Payload and signature of a JWT. The header is no secret."""
    _, *parts = token.split(".")
    return [part for part in parts if len(parts) == 2 and part]


# --- The search ---


def forms(secret: str) -> set[str]:
    """The secret as it is, and what becomes of it where text is quoted, escaped or encoded."""
    return {
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        json.dumps(json.dumps(secret))[3:-3],
        repr(secret)[1:-1],
        ascii(secret)[1:-1],
        secret.encode().hex(),
        *in_base64(secret.encode()),
    }


def in_base64(octets: bytes) -> Iterator[str]:
    """What the base64 of any text has in it if the octets are in the text, wherever they stand."""
    for before in range(3):
        encoded = b64encode(bytes(before) + octets).decode()
        own = encoded[-(-before * 8 // 6) : (before + len(octets)) * 8 // 6]
        yield from (own, own.replace("+", "-").replace("/", "_"))


FORMS: Final = {
    name: {form.casefold() for part in parts for form in forms(part)}
    for name, parts in secrets().items()
}


def leaks(text: str) -> set[str]:
    """The names of the secrets that the text has in it in any form, capital letters or not."""
    text = text.casefold()
    return {name for name, looks in FORMS.items() if any(look in text for look in looks)}


# --- The tour ---


class Tour:
    """What was answered to whom, and what the services wrote."""

    def __init__(self) -> None:
        self.answers: list[httpx.Response] = []
        self.written: dict[str, str] = {}

    @contextmanager
    def visitor(self, service: Service, token: str | None = None) -> Iterator[httpx.Client]:
        """Somebody who comes with baggage, and whose answers are kept."""
        with service.client(token) as visitor:
            visitor.headers.update(BAGGAGE)
            visitor.event_hooks = {"response": [self._keep]}
            yield visitor

    def keep_log(self, name: str, service: Service) -> None:
        self.written[name] = service.stdout + service.stderr

    def codes(self) -> set[str]:
        """The codes of the problems that were met."""
        problems = [a for a in self.answers if a.headers.get("Content-Type") == MEDIA_TYPE]
        return {answer.json()["code"] for answer in problems}

    def disclosed(self) -> Iterator[tuple[str, str]]:
        """Each request, and what others than the owner of the texts can see of the answer."""
        for answer in self.answers:
            asked = answer.request
            is_owners = asked.headers.get("Authorization", "")[7:] in {ADA, BOB}
            if not (answer.is_success and is_owners):
                yield f"{asked.method} {asked.url}: {answer.status_code}", disclosed(answer)

    def _keep(self, answer: httpx.Response) -> None:
        answer.read()
        self.answers.append(answer)


def disclosed(answer: httpx.Response) -> str:
    """Headers and body, but for the path that was asked for: the contract wants that repeated."""
    body = answer.text
    if answer.headers.get("Content-Type") == MEDIA_TYPE:
        body = body.replace(answer.json()["instance"], "")
    return f"{answer.headers.multi_items()}\n{body}"


@pytest.fixture(scope="module")
async def server(place: Workplace) -> AsyncIterator[Server]:
    """A database that asks for the password, and in which some changes meet a bug or a rival."""
    async with server_in(place.root / "database") as server:
        for statement in PREPARATIONS:
            await server.fetch(statement)
        yield server


PREPARATIONS: Final = (
    f"ALTER ROLE {USER} PASSWORD '{Secret.DATABASE_PASSWORD}'",
    f"ALTER TABLE todo.tasks ADD CONSTRAINT bug CHECK (title <> '{Secret.MEETS_A_BUG}')",
    "CREATE FUNCTION todo.lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    """CREATE TRIGGER rivals BEFORE UPDATE ON todo.tasks FOR EACH ROW
    WHEN (NEW.completed_at IS NOT NULL) EXECUTE FUNCTION todo.lose()""",
)


def database_url(server: Server, password: str = Secret.DATABASE_PASSWORD) -> str:
    return f"postgresql://{USER}:{quote(password, safe='')}@/todo?host={server.socket.parent}"


def redis_url() -> str:
    return f"redis://todo:{quote(Secret.REDIS_PASSWORD, safe='')}@{NOBODY}"


@pytest.fixture(scope="module")
async def tour(place: Workplace, server: Server) -> Tour:
    """The whole tour: it is over when the first test begins."""
    tour = Tour()
    believing_frontends = {
        "DATABASE_URL": database_url(server),
        "REDIS_URL": redis_url(),
        "AUTH_MODE": "shared-secret",
        "BETTER_AUTH_SECRET": Secret.SHARED_SECRET,
        "RATE_LIMIT_AUTH_FAILURES": f"{REFUSALS}/hour",
        "MAX_CONCURRENT_REQUESTS": str(UNDER_WAY),
        "LOG_LEVEL": "debug",
    }
    with place.serving("serve", **believing_frontends) as service:
        with tour.visitor(service, ADA) as ada, tour.visitor(service, EVE) as eve:
            with crowded(tour, service, ada):
                visit_tasks(ada, eve)
                visit_refusals(ada)
                visit_doors(tour, service)
                await server.stop()
                visit_outage(ada)
                await server.start()
                assert eventually(lambda: ada.get("/health/ready").is_success)
            ada.get("/metrics")
        tour.keep_log("a service that believes a frontend", service)

    believing_keys = {
        "DATABASE_URL": database_url(server),
        "BETTER_AUTH_URL": ORIGIN,
        "LOG_LEVEL": "debug",
    }
    with (
        issuer(place) as (url, keys),
        place.serving("serve", **believing_keys, AUTH_JWKS_URL=url) as service,
    ):
        visit_issuer(tour, service, keys)
        tour.keep_log("a service that fetches keys", service)
        with tour.visitor(service, BOB) as bob:
            bob.post("/api/tasks", json={"title": Secret.MEETS_A_BUG, "tags": [Secret.TAG]})
        tour.keep_log("a service that meets a bug", service)

    nothing_works = {
        "DATABASE_URL": database_url(server, Secret.WRONG_PASSWORD),
        "BETTER_AUTH_URL": ORIGIN,
        "AUTH_JWKS_URL": f"http://{NOBODY}/jwks?key={Secret.JWKS_PASSWORD}",
        "LOG_FORMAT": "console",
        "LOG_LEVEL": "debug",
    }
    with place.serving("serve", **nothing_works) as service:
        with tour.visitor(service, BOB) as bob:
            visit_outage(bob)
        tour.keep_log("a service behind which nothing works", service)
    return tour


@contextmanager
def crowded(tour: Tour, service: Service, ada: httpx.Client) -> Iterator[None]:
    """So many requests under way that one more is refused; then one, which never goes on."""
    with ExitStack() as opened:
        stalled: list[socket.socket] = []

        def begin_one_more() -> bool:
            stalled.append(opened.enter_context(stalling(service)))
            return ada.get("/api/me").status_code == 503

        assert eventually(begin_one_more)
        for connection in stalled[1:]:
            connection.close()
        assert eventually(lambda: ada.get("/api/me").is_success)
        yield
        tour.answers.append(the_answer(stalled[0]))


@contextmanager
def stalling(service: Service) -> Iterator[socket.socket]:
    """A connection of Ada's on which the rest of a task never comes."""
    head = (
        "POST /api/tasks HTTP/1.1\r\nHost: todo\r\nConnection: close\r\nContent-Length: 999\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer {ADA}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port), PATIENCE) as connection:
        connection.sendall(f'{head}{{"title":{json.dumps(Secret.BROKEN)},'.encode())
        yield connection


def the_answer(connection: socket.socket) -> httpx.Response:
    head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    headers = [field.split(": ", 1) for field in fields]
    request = httpx.Request("POST", "http://todo/api/tasks")
    return httpx.Response(
        int(status.split()[1]),
        headers=[(name, value) for name, value in headers],
        content=body,
        request=request,
    )


TASK: Final[Members] = {
    "title": Secret.TITLE,
    "description": Secret.DESCRIPTION,
    "tags": [Secret.TAG],
}


def visit_tasks(ada: httpx.Client, eve: httpx.Client) -> None:
    """A task's life, and what its owner and others can do wrong with it."""
    keyed = {"Idempotency-Key": Secret.IDEMPOTENCY_KEY}
    task = ada.post("/api/tasks", json=TASK, headers=keyed).headers["Location"]
    ada.post("/api/tasks", json=TASK | {"title": Secret.SEARCH}, headers=keyed)
    ada.patch(task, json={"title": Secret.SEARCH}, headers={"If-Match": f'"{Secret.CURSOR}"'})
    ada.patch(f"{task}/toggle")  # the rivals win
    ada.post(f"{task}/restore")
    listed = {"q": "7c1d9e", "tag": Secret.TAG, "sort": "title", "limit": "1"}
    ada.post("/api/tasks", json=TASK)
    cursor = ada.get("/api/tasks", params=listed).links["next"]["url"].partition("cursor=")[2]
    eve.get("/api/tasks", params=listed | {"cursor": cursor})
    for method in ("GET", "PUT", "DELETE"):
        eve.request(method, task, json=TASK)
    ada.get(f"/api/{quote(Secret.EMAIL)}/tasks")
    ada.get("/api/me")
    ada.delete(task)
    ada.get(task)


def visit_refusals(ada: httpx.Client) -> None:
    """Whatever is refused, with texts in it."""
    strict = {"Prefer": "handling=strict"}
    for body in (
        f'{{"title": "{Secret.BROKEN}',
        f'["{Secret.TITLE}',
        Secret.TITLE.encode("utf-16"),
    ):
        ada.post("/api/tasks", content=body, headers={"Content-Type": "application/json"})
    for member in ("title", "description", "completed", "priority", "due_date", "tags", "tag"):
        for value in (Secret.TITLE * 99, {Secret.TITLE: 1}, [Secret.TITLE + "\0", [Secret.TAG]]):
            ada.post("/api/tasks", json=TASK | {member: value}, headers=strict)
    for name in ("status", "priority", "due_before", "sort", "order", "limit", "completed", "x"):
        ada.get("/api/tasks", params={name: Secret.SEARCH}, headers=strict)
    ada.get("/api/tasks", params={"q": Secret.SEARCH * 99})
    ada.get("/api/tasks", params={"cursor": Secret.CURSOR})
    ada.get("/api/tasks", params=[("tag", Secret.TAG)] * 101)
    ada.delete("/api/tasks", params={"q": Secret.SEARCH})
    ada.post("/api/tasks", json=TASK, headers={"Idempotency-Key": f"{Secret.IDEMPOTENCY_KEY} x"})
    ada.get("/api/tasks", headers={"Accept": f"text/{Secret.CURSOR}"})
    ada.post("/api/tasks", content=b"x", headers={"Content-Type": Secret.CURSOR})
    ada.post("/api/tasks", json=TASK, headers={"Content-Encoding": Secret.CURSOR})
    ada.post("/api/tasks", json=TASK | {"description": Secret.DESCRIPTION * 99_999})
    ada.get("/api/tasks", params={"q": Secret.SEARCH * 999})
    ada.get("/api/tasks", headers={"X": Secret.CURSOR * 2000})
    ada.request("TRACE", f"/api/tasks?q={quote(Secret.SEARCH)}")
    ada.get(f"/{quote(Secret.TITLE)}")
    ada.get(f"/api/tasks/{quote(Secret.TITLE)}", headers={"X-Request-ID": f"{Secret.CURSOR} x"})
    ada.options("/api/tasks", headers={"Access-Control-Request-Method": "GET"})


def visit_doors(tour: Tour, service: Service) -> None:
    """Those who may not come in, as long as they are told why, and those who need not."""
    for token in REFUSED.values():
        with tour.visitor(service, token) as stranger:
            stranger.get("/api/tasks", params={"q": Secret.SEARCH})
    with tour.visitor(service) as stranger:
        stranger.get("/api/tasks", params={"access_token": ADA, "token": EVE})
        fields = [("Authorization", f"Bearer {token}") for token in (ADA, EVE)]
        stranger.get("/api/tasks", headers=[*stranger.headers.items(), *fields])
        assert eventually(lambda: stranger.get("/api/tasks").status_code == 429)
        for path in ("/health/live", "/health/ready", "/docs", "/openapi.json"):
            assert stranger.get(path).is_success


def visit_issuer(tour: Tour, service: Service, keys: Path) -> None:
    """An issuer that publishes what it should not, and then a key."""
    with tour.visitor(service, BOB) as bob:
        for document in (f"{{{Secret.PRIVATE_KEY}".encode(), key_set(Secret.PRIVATE_KEY)):
            keys.write_bytes(document)
            assert eventually(lambda: bob.get("/api/me").status_code == 503)
        private = signer("ES256").jwk(d=Secret.PRIVATE_KEY, kid=Secret.PRIVATE_KEY)
        keys.write_bytes(key_set(private, signer().jwk()))
        assert eventually(lambda: bob.get("/api/me").is_success)
        bob.post("/api/tasks", json=TASK)
        for token in REFUSED.values():
            bob.get("/api/tasks", headers={"Authorization": f"Bearer {token}"})


def visit_outage(visitor: httpx.Client) -> None:
    """What is asked when nothing can be done."""
    assert visitor.get("/health/ready").status_code == 503
    assert visitor.get("/api/tasks", params={"q": Secret.SEARCH}).status_code == 503
    assert visitor.post("/api/tasks", json=TASK).status_code == 503


@contextmanager
def issuer(place: Workplace) -> Iterator[tuple[str, Path]]:
    """The address of an auth server's key set, and the file that it is."""
    port, keys = str(free_port()), place.root / "issuer" / "jwks"
    keys.parent.mkdir()
    command = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", port)
    with place.start(*command, "--directory", str(keys.parent), PORT=port) as server:
        assert eventually(server.listens)
        yield f"{server.url}/{keys.name}", keys


# --- The commands, each with something that makes it fail ---

BELIEVING: Final = {"AUTH_MODE": "shared-secret", "BETTER_AUTH_SECRET": Secret.SHARED_SECRET}
WEAK: Final = BELIEVING | {"BETTER_AUTH_SECRET": Secret.WEAK_SECRET}
COMMANDS: Final[Mapping[str, tuple[Sequence[str], Mapping[str, str]]]] = {
    "doctor, of a password": (["doctor"], BELIEVING),
    "doctor, of a weak secret": (["doctor"], WEAK),
    "doctor, of an address": (["doctor"], {"AUTH_JWKS_URL": f"http://:{Secret.JWKS_PASSWORD}@[/"}),
    "doctor, of an issuer": (["doctor"], {"BETTER_AUTH_URL": f"http://{NOBODY}"}),
    **{
        f"doctor, of a token {name}": (["doctor", "--token", token], BELIEVING)
        for name, token in REFUSED.items()
        if name in {"expired", "of a session", "with an odd claim"}
    },
    "doctor, of every variable": (
        ["doctor"],
        {
            name.upper(): Secret.WEAK_SECRET
            for name in Settings.model_fields
            if name not in {"data_dir", "host", "auth_issuer", "auth_audience"}
        },
    ),
    "migrate": (["migrate"], {}),
    "migrate, by an address": (
        ["migrate"],
        {"DATABASE_URL": f"postgresql://todo:{Secret.WRONG_PASSWORD}@localhost/todo"},
    ),
    "migrate, by options": (
        ["migrate"],
        {"DATABASE_URL": f"postgresql://todo@localhost/todo?password={Secret.WEAK_SECRET}"},
    ),
    "seed": (["seed", "ada"], {}),
    "token": (["token", f"{Secret.EMAIL}\n"], {}),
    "token, where it is not believed": (["token", Secret.EMAIL], BELIEVING),
    "serve, with a weak secret": (["serve"], WEAK),
    "serve, with another Redis": (
        ["serve"],
        BELIEVING | {"REDIS_URL": f"redis://:{Secret.REDIS_PASSWORD}@localhost:port"},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def said(place: Workplace, server: Server) -> dict[str, str]:
    """What each command said before it failed, tried two at a time to save time."""
    wrong = {"DATABASE_URL": database_url(server, Secret.WRONG_PASSWORD)}

    def fail(command: tuple[Sequence[str], Mapping[str, str]]) -> str:
        arguments, variables = command
        result = place.todo_api(*arguments, **wrong | dict(variables))
        assert result.returncode == 1, (arguments, result)
        return result.stdout + result.stderr

    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(COMMANDS, pool.map(fail, COMMANDS.values()), strict=True))


# --- What was found ---


class TestSearch:
    @pytest.mark.parametrize("name", secrets())
    def test_finds_a_secret_in_every_form(self, name: str) -> None:
        looks = [form for part in secrets()[name] for form in forms(part)]
        assert [look for look in looks if name not in leaks(f'{{"a": "{look.upper()}\\n"}}')] == []

    def test_finds_a_secret_in_the_base64_of_what_surrounds_it(self) -> None:
        for before in ("", "a", "ab", "abc"):
            for after in ("", "z", "zy", "zyx"):
                text = f"{before}{Secret.TITLE}{after}"
                assert "TITLE" in leaks(b64encode(text.encode()).decode())

    def test_finds_nothing_where_nothing_is(self) -> None:
        innocent = {name: kind.detail for name, kind in PROBLEM_TYPES.items()}
        assert leaks(json.dumps(innocent) + (MARK * 9)) == set()

    def test_finds_what_a_service_was_made_to_write(self, place: Workplace, server: Server) -> None:
        settings = BELIEVING | {"DATABASE_URL": database_url(server)}
        with place.serving("serve", **settings) as service, service.client(ADA) as ada:
            ada.get("/api/me", headers={"X-Request-ID": Secret.TITLE.word})
            assert eventually(lambda: "/api/me" in service.stdout)
            assert leaks(service.stdout) == {"TITLE"}

    def test_finds_what_an_answer_to_its_owner_has(self, tour: Tour) -> None:
        own = [answer.text for answer in tour.answers if answer.is_success]
        assert {"TITLE", "DESCRIPTION", "TAG", "NAME", "EMAIL"} <= leaks("\n".join(own))


class TestTour:
    def test_met_every_problem_that_there_is(self, tour: Tour) -> None:
        assert tour.codes() == set(PROBLEM_TYPES)

    def test_left_what_could_be_searched(self, tour: Tour) -> None:
        assert all("request" in written for written in tour.written.values())
        events = set(re.findall(r'"event":"([\w.]+)"', "".join(tour.written.values())))
        assert events >= {"auth.rejected", "input.rejected", "rate_limit.storage_unavailable"}
        assert events >= {"auth.keys_unavailable", "auth.keys_refreshed", "database.unavailable"}


LOGS: Final = (
    "a service that believes a frontend",
    "a service that fetches keys",
    "a service that meets a bug",
    "a service behind which nothing works",
)


class TestNothingLeaks:
    @pytest.mark.parametrize("name", LOGS)
    def test_from_the_log_of(self, tour: Tour, name: str) -> None:
        found = {line: leaks(line) for line in tour.written[name].splitlines()}
        assert {line: names for line, names in found.items() if names} == {}

    def test_from_answers_to_others_than_the_owner(self, tour: Tour) -> None:
        found = {asked: leaks(text) for asked, text in tour.disclosed()}
        assert {asked: names for asked, names in found.items() if names} == {}

    def test_from_metrics_and_schema(self, tour: Tour) -> None:
        public = {a.request.url.path: a.text for a in tour.answers if a.is_success}
        for path in ("/metrics", "/openapi.json", "/docs", "/health/ready"):
            assert leaks(public[path]) == set()

    @pytest.mark.parametrize("command", COMMANDS)
    def test_from_what_is_said_by(self, said: dict[str, str], command: str) -> None:
        assert said[command]
        assert leaks(said[command]) == set()


# --- What parts show of themselves, as a debugger or an error tracker asks them to ---


@pytest.fixture
def settings(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    variables = BELIEVING | {"DATABASE_URL": database_url(server), "REDIS_URL": redis_url()}
    variables |= {"DATABASE_URL_DIRECT": database_url(server)}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Settings.read()


def configured_url(settings: Settings) -> DatabaseUrl:
    assert settings.database_url
    return parse_database_url(settings.database_url.get_secret_value())


SHOWN: Final[dict[str, Callable[[Settings], object]]] = {
    "the settings": lambda settings: settings,
    "the settings as a dictionary": Settings.model_dump,
    "the settings for tokens": Settings.auth,
    "the address of the database": configured_url,
    "the URL of the database": lambda settings: configured_url(settings).url,
    "the database": lambda settings: Database(configured_url(settings), pool_size=1),
    "the engine": lambda settings: vars(Database(configured_url(settings), pool_size=1)),
    "the repository": lambda settings: PostgresTaskRepository(
        Database(configured_url(settings), pool_size=1)
    ),
    "the verifier": lambda _: SharedSecretTokenVerifier(Secret.SHARED_SECRET),
    "what the verifier is made of": lambda _: vars(SharedSecretTokenVerifier(Secret.SHARED_SECRET)),
    "the limiter": lambda _: LimitsRateLimiter({"user": "1/hour"}, redis_url()),
    "what the limiter is made of": lambda _: vars(
        LimitsRateLimiter({"user": "1/hour"}, redis_url())
    ),
    "a user": lambda _: Principal("ada", datetime.now(UTC), name=Secret.NAME, email=Secret.EMAIL),
    "a task": lambda _: a_task(title=Secret.TITLE, description=Secret.DESCRIPTION),
}


class TestNothingIsShown:
    @pytest.mark.parametrize("part", SHOWN)
    def test_by(self, settings: Settings, part: str) -> None:
        thing = SHOWN[part](settings)
        assert leaks(f"{thing!r} {thing!s} {thing}") == set()

    @pytest.mark.parametrize("token", REFUSED.values(), ids=[*REFUSED])
    async def test_by_the_refusal_of_a_token(self, token: str) -> None:
        verifier = SharedSecretTokenVerifier(Secret.SHARED_SECRET)
        with pytest.raises(TodoError) as refusal:
            await verifier.verify(token, datetime.now(UTC))
        assert leaks(traced(refusal.value)) == set()

    async def test_by_the_failure_of_a_database(self, server: Server) -> None:
        url = database_url(server, Secret.WRONG_PASSWORD)
        database = Database(parse_database_url(url), pool_size=1)
        with pytest.raises(TodoError) as failure:
            await database.check()
        await database.close()
        assert "InvalidPasswordError" in traced(failure.value)
        assert leaks(traced(failure.value)) == set()

    async def test_by_the_failure_of_an_issuer(self) -> None:
        keys = RemoteKeySet(f"http://{NOBODY}/jwks?key={Secret.JWKS_PASSWORD}", ("EdDSA",))
        with pytest.raises(TodoError) as failure:
            await keys.check()
        await keys.aclose()
        assert leaks(traced(failure.value) + repr(keys)) == set()

    def test_of_credentials_in_web_addresses_because_there_are_none(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        del settings  # but its environment
        for credentials in (f"ada:{Secret.JWKS_PASSWORD}", f":{Secret.JWKS_PASSWORD}"):
            address = f"http://{credentials}@localhost:3000"
            for name in ("BETTER_AUTH_URL", "AUTH_JWKS_URL", "CORS_ORIGINS"):
                with monkeypatch.context() as changed_environment:
                    changed_environment.setenv(name, address)
                    with pytest.raises(ConfigurationError) as refusal:
                        Settings.read()
                    assert leaks(traced(refusal.value)) == set()


def traced(failure: BaseException) -> str:
    """All that a traceback would show of the failure, and the failure by itself."""
    return "".join(traceback.format_exception(failure)) + repr(failure)
