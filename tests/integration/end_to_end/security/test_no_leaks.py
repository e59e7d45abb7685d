"""No secret leaks: requests of every kind and failure, and then a search for the secrets.

The service runs with recognisable secrets and receives recognisable texts. Afterwards none of them
may be in its log, in responses to others than the owner, or in the ``repr`` of its objects.
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
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import quote, quote_plus

import httpx
import pytest

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
from support.ports import free_port
from support.postgres.faults import USER, Server, server_in
from support.service import PATIENCE, Sandbox, Service, eventually
from support.tasks import a_task
from todo_adapters.jose.key_sets import RemoteKeySet
from todo_adapters.jose.verifiers import SharedSecretTokenVerifier
from todo_adapters.postgres.database import Database
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl, parse_database_url
from todo_adapters.rate_limits import LimitsRateLimiter
from todo_api.http.cursors import encode_sync_token
from todo_api.problems import MEDIA_TYPE, PROBLEM_TYPES
from todo_api.server.settings import ConfigurationError, Settings
from todo_domain.errors import TodoError
from todo_domain.ownership import Principal
from todo_domain.sync import Epoch, FeedPosition, SyncToken

CONCURRENT: Final = 3
AUTH_FAILURES: Final = 40  # allowed for one address
UNREACHABLE: Final = "127.0.0.1:1"  # nothing listens there

# --- The secrets ---

# Each secret starts with a word and this mark, which only base64 and hexadecimal change.
MARK: Final = "7c1d9e"
ODD: Final = '"/+%@\\'
TEXT: Final = f"{MARK} {ODD} é☃!"


class Secret(StrEnum):
    """Secrets, and texts that only their owner may see."""

    DATABASE_PASSWORD = f"DatabasePassword{MARK}{ODD}"
    WRONG_PASSWORD = f"WrongPassword{MARK}{ODD}"
    REDIS_PASSWORD = f"RedisPassword{MARK}{ODD}"
    SHARED_SECRET = f"SharedSecretOfTheFrontend{MARK}{ODD}"
    WEAK_SECRET = f"WeakSecret{MARK}"
    JWKS_PASSWORD = f"JwksPassword{MARK}"
    PRIVATE_KEY = f"PrivateKey{MARK}"
    TITLE = f"Title{TEXT}"
    DESCRIPTION = f"Description{TEXT}"
    TAG = f"Tag{TEXT}"
    SEARCH = f"Search{TEXT}"
    CAUSES_A_BUG = f"CausesABug{TEXT}"
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


# Headers of every request.
HEADERS: Final = {
    "Cookie": f"better-auth.session_token={Secret.COOKIE}",
    "Origin": f"https://{Secret.ORIGIN}.example",
    "Referer": f"https://app.example/?code={Secret.REFERER}",
    "User-Agent": Secret.USER_AGENT,
    "X-Api-Key": Secret.API_KEY,
}


def claims(**changes: Json) -> Members:
    now = datetime.now(UTC)  # the time of collection, possibly long before the test
    about = {"sub": "ada", "name": Secret.NAME, "email": Secret.EMAIL}
    times = {"iat": seconds(now), "exp": seconds(now + timedelta(days=1))}
    return changed(better_auth_claims(**about, **times), changes)


def from_frontend(**changes: Json) -> str:
    """A token that the frontend signs. It has no audience."""
    secret = Secret.SHARED_SECRET.encode()
    return hmac_token(claims(**{"aud": ABSENT} | changes), secret=secret)


ADA: Final = from_frontend()
BOB: Final = signer().token(claims(sub="bob"))
EVE: Final = from_frontend(sub="eve")
REJECTED_TOKENS: Final = {
    "expired": from_frontend(iat=0, exp=1),
    "under another secret": hmac_token(claims(aud=ABSENT)),
    "under another issuer's key": signer(owner="eve").token(claims()),
    "under an unknown key": signer(kid=f"Kid{MARK}").token(claims()),
    "of another issuer": signer().token(claims(iss=f"https://{Secret.EMAIL}")),
    "without a signature": f"{b64(to_json({'alg': 'none'}))}.{b64(to_json(claims()))}.",
    "truncated": BOB[:-9],
    "with an odd claim": from_frontend(sub=[Secret.EMAIL]),
    "of a session": opaque_session_token(Secret.SESSION),
    "that is not a JWT": f"NoToken{MARK}",
    "encrypted": ".".join([b64(f"Encrypted{MARK}".encode())] * 5),
    "too long": f"LongToken{MARK}" * 600,
}


def secrets() -> dict[str, list[str]]:
    """Each secret by name, with its parts that are secret too."""
    tokens = {"of Ada": ADA, "of Bob": BOB, "of Eve": EVE} | REJECTED_TOKENS
    return {secret.name: [secret.value, secret.word] for secret in Secret} | {
        f"the token {name}": [token, *signed_parts(token)] for name, token in tokens.items()
    }


def signed_parts(token: str) -> list[str]:
    """Payload and signature of a JWT. The header is not secret."""
    _, *parts = token.split(".")
    return [part for part in parts if len(parts) == 2 and part]


# --- The search ---


def forms(secret: str) -> set[str]:
    """The secret and its quoted, escaped and encoded forms."""
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
    """The base64 forms of the octets at every alignment in a longer text."""
    for before in range(3):
        encoded = b64encode(bytes(before) + octets).decode()
        own = encoded[-(-before * 8 // 6) : (before + len(octets)) * 8 // 6]
        yield from (own, own.replace("+", "-").replace("/", "_"))


FORMS: Final = {
    name: {form.casefold() for part in parts for form in forms(part)}
    for name, parts in secrets().items()
}


def leaks(text: str) -> set[str]:
    """The names of the secrets that the text contains in any form, ignoring case."""
    text = text.casefold()
    return {
        name
        for name, forms_of_secret in FORMS.items()
        if any(form in text for form in forms_of_secret)
    }


# --- The tour ---


class Tour:
    """The responses with their requests, and the logs of the services."""

    def __init__(self) -> None:
        self.responses: list[httpx.Response] = []
        self.logs: dict[str, str] = {}

    @contextmanager
    def visitor(self, service: Service, token: str | None = None) -> Iterator[httpx.Client]:
        """A client that sends HEADERS and whose responses are recorded."""
        with service.client(token) as visitor:
            visitor.headers.update(HEADERS)
            visitor.event_hooks = {"response": [self._record]}
            yield visitor

    def record_log(self, name: str, service: Service) -> None:
        self.logs[name] = service.stdout + service.stderr

    def codes(self) -> set[str]:
        """The codes of all problem documents."""
        problems = [r for r in self.responses if r.headers.get("Content-Type") == MEDIA_TYPE]
        return {response.json()["code"] for response in problems}

    def disclosed(self) -> Iterator[tuple[str, str]]:
        """The requests and responses, except successful ones of the owners of the texts."""
        for response in self.responses:
            request = response.request
            is_owners = request.headers.get("Authorization", "")[7:] in {ADA, BOB}
            if not (response.is_success and is_owners):
                yield f"{request.method} {request.url}: {response.status_code}", disclosed(response)

    def _record(self, response: httpx.Response) -> None:
        response.read()
        self.responses.append(response)


def disclosed(response: httpx.Response) -> str:
    """Headers and body without ``instance``, which repeats the path of the request."""
    body = response.text
    if response.headers.get("Content-Type") == MEDIA_TYPE:
        body = body.replace(response.json()["instance"], "")
    return f"{response.headers.multi_items()}\n{body}"


@pytest.fixture(scope="module")
async def server(sandbox: Sandbox) -> AsyncIterator[Server]:
    """A database with a password, in which some changes fail with a bug or a lost update."""
    async with server_in(sandbox.root / "database") as server:
        for statement in PREPARATIONS:
            await server.fetch(statement)
        yield server


PREPARATIONS: Final = (
    f"ALTER ROLE {USER} PASSWORD '{Secret.DATABASE_PASSWORD}'",
    f"ALTER TABLE todo.tasks ADD CONSTRAINT bug CHECK (title <> '{Secret.CAUSES_A_BUG}')",
    "CREATE FUNCTION todo.discard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    """CREATE TRIGGER lost_update BEFORE UPDATE ON todo.tasks FOR EACH ROW
    WHEN (NEW.completed_at IS NOT NULL) EXECUTE FUNCTION todo.discard()""",
)


def database_url(server: Server, password: str = Secret.DATABASE_PASSWORD) -> str:
    return f"postgresql://{USER}:{quote(password, safe='')}@/todo?host={server.socket.parent}"


def redis_url() -> str:
    return f"redis://todo:{quote(Secret.REDIS_PASSWORD, safe='')}@{UNREACHABLE}"


@pytest.fixture(scope="module")
async def tour(sandbox: Sandbox, server: Server) -> Tour:
    """The tour, complete before the first test starts."""
    tour = Tour()
    shared_secret = {
        "DATABASE_URL": database_url(server),
        "REDIS_URL": redis_url(),
        "AUTH_MODE": "shared-secret",
        "BETTER_AUTH_SECRET": Secret.SHARED_SECRET,
        "RATE_LIMIT_AUTH_FAILURES": f"{AUTH_FAILURES}/hour",
        "MAX_CONCURRENT_REQUESTS": str(CONCURRENT),
        "LOG_LEVEL": "debug",
    }
    with sandbox.serving("serve", **shared_secret) as service:
        with tour.visitor(service, ADA) as ada, tour.visitor(service, EVE) as eve:
            with overloaded(tour, service, ada):
                visit_tasks(ada, eve)
                visit_rejections(ada)
                visit_authentication(tour, service)
                await server.stop()
                visit_outage(ada)
                await server.start()
                assert eventually(lambda: ada.get("/health/ready").is_success)
            ada.get("/metrics")
        tour.record_log("shared secret", service)

    jwks = {
        "DATABASE_URL": database_url(server),
        "BETTER_AUTH_URL": ORIGIN,
        "LOG_LEVEL": "debug",
    }
    with (
        issuer(sandbox) as (url, keys),
        sandbox.serving("serve", **jwks, AUTH_JWKS_URL=url) as service,
    ):
        visit_issuer(tour, service, keys)
        tour.record_log("key set", service)
        with tour.visitor(service, BOB) as bob:
            bob.post("/api/tasks", json={"title": Secret.CAUSES_A_BUG, "tags": [Secret.TAG]})
        tour.record_log("bug", service)

    unreachable = {
        "DATABASE_URL": database_url(server, Secret.WRONG_PASSWORD),
        "BETTER_AUTH_URL": ORIGIN,
        "AUTH_JWKS_URL": f"http://{UNREACHABLE}/jwks?key={Secret.JWKS_PASSWORD}",
        "LOG_FORMAT": "console",
        "LOG_LEVEL": "debug",
    }
    with sandbox.serving("serve", **unreachable) as service:
        with tour.visitor(service, BOB) as bob:
            visit_outage(bob)
        tour.record_log("outage", service)
    return tour


@contextmanager
def overloaded(tour: Tour, service: Service, ada: httpx.Client) -> Iterator[None]:
    """Overload the service for one request; then keep one incomplete request open."""
    with ExitStack() as opened:
        incomplete: list[socket.socket] = []

        def start_another() -> bool:
            incomplete.append(opened.enter_context(incomplete_request(service)))
            return ada.get("/api/me").status_code == 503

        assert eventually(start_another)
        for connection in incomplete[1:]:
            connection.close()
        assert eventually(lambda: ada.get("/api/me").is_success)
        yield
        tour.responses.append(read_response(incomplete[0]))


@contextmanager
def incomplete_request(service: Service) -> Iterator[socket.socket]:
    """A connection of Ada with a request whose body never ends."""
    head = (
        "POST /api/tasks HTTP/1.1\r\nHost: todo\r\nConnection: close\r\nContent-Length: 999\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer {ADA}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port), PATIENCE) as connection:
        connection.sendall(f'{head}{{"title":{json.dumps(Secret.BROKEN)},'.encode())
        yield connection


def read_response(connection: socket.socket) -> httpx.Response:
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


# Of a database that was restored.
FOREIGN_TOKEN: Final = encode_sync_token(
    "ada", SyncToken(Epoch("restored", None), FeedPosition(0), 0, date(2026, 1, 18))
)
TASK: Final[Members] = {
    "title": Secret.TITLE,
    "description": Secret.DESCRIPTION,
    "tags": [Secret.TAG],
}


def visit_tasks(ada: httpx.Client, eve: httpx.Client) -> None:
    """Create, change and delete a task, with conflicts and foreign users."""
    keyed = {"Idempotency-Key": Secret.IDEMPOTENCY_KEY}
    task = ada.post("/api/tasks", json=TASK, headers=keyed).headers["Location"]
    ada.post("/api/tasks", json=TASK | {"title": Secret.SEARCH}, headers=keyed)
    ada.patch(task, json={"title": Secret.SEARCH}, headers={"If-Match": f'"{Secret.CURSOR}"'})
    ada.patch(f"{task}/toggle")  # the trigger discards the update
    ada.patch(task, json={"name": Secret.TITLE})
    deletion = {"op": "delete", "id": "0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b"}
    ada.post("/api/tasks/batch", json={"operations": [deletion]})
    ada.delete("/api/tasks", params={"search": Secret.SEARCH})
    ada.delete("/api/tasks?status=pending", headers={"Prefer": "max-affected=0"})
    ada.post(f"{task}/restore")
    listed = {"q": "7c1d9e", "tag": Secret.TAG, "sort": "title", "limit": "1"}
    ada.post("/api/tasks", json=TASK)
    cursor = ada.get("/api/tasks", params=listed).links["next"]["url"].partition("cursor=")[2]
    eve.get("/api/tasks", params=listed | {"cursor": cursor})
    for method in ("GET", "PUT", "DELETE"):
        eve.request(method, task, json=TASK)
    ada.post("/api/tasks", json=TASK | {"id": task.rpartition("/")[2], "title": Secret.SEARCH})
    ada.get("/api/tasks/changes", params={"since": FOREIGN_TOKEN})
    ada.get("/api/tasks/changes", params={"since": Secret.CURSOR})
    ada.get("/api/tasks/changes")
    ada.get(f"/api/{quote(Secret.EMAIL)}/tasks")
    ada.get("/api/me")
    ada.delete(task)
    ada.get(task)


def visit_rejections(ada: httpx.Client) -> None:
    """Send every kind of rejected input, with secrets in it."""
    strict = {"Prefer": "handling=strict"}
    for body in (
        f'{{"title": "{Secret.BROKEN}',
        f'["{Secret.TITLE}',
        Secret.TITLE.encode("utf-16"),
    ):
        ada.post("/api/tasks", content=body, headers={"Content-Type": "application/json"})
    for member in (
        "title",
        "description",
        "completed",
        "priority",
        "due_date",
        "repeat",
        "time_zone",
        "position",
        "tags",
        "tag",
    ):
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


def visit_authentication(tour: Tour, service: Service) -> None:
    """Send rejected tokens until the rate limit, and requests to public routes."""
    for token in REJECTED_TOKENS.values():
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
    """Serve invalid key sets, one with a private key, and then a valid one."""
    with tour.visitor(service, BOB) as bob:
        for document in (f"{{{Secret.PRIVATE_KEY}".encode(), key_set(Secret.PRIVATE_KEY)):
            keys.write_bytes(document)
            assert eventually(lambda: bob.get("/api/me").status_code == 503)
        private = signer("ES256").jwk(d=Secret.PRIVATE_KEY, kid=Secret.PRIVATE_KEY)
        keys.write_bytes(key_set(private, signer().jwk()))
        assert eventually(lambda: bob.get("/api/me").is_success)
        bob.post("/api/tasks", json=TASK)
        for token in REJECTED_TOKENS.values():
            bob.get("/api/tasks", headers={"Authorization": f"Bearer {token}"})


def visit_outage(visitor: httpx.Client) -> None:
    """Send requests while the database or the auth server is unavailable."""
    assert visitor.get("/health/ready").status_code == 503
    assert visitor.get("/api/tasks", params={"q": Secret.SEARCH}).status_code == 503
    assert visitor.post("/api/tasks", json=TASK).status_code == 503


@contextmanager
def issuer(sandbox: Sandbox) -> Iterator[tuple[str, Path]]:
    """The URL of a key set and the file with its content."""
    port, keys = str(free_port()), sandbox.root / "issuer" / "jwks"
    keys.parent.mkdir()
    command = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", port)
    with sandbox.start(*command, "--directory", str(keys.parent), PORT=port) as server:
        assert eventually(server.listens)
        yield f"{server.url}/{keys.name}", keys


# --- The commands, each with a setting that makes it fail ---

SHARED_SECRET: Final = {"AUTH_MODE": "shared-secret", "BETTER_AUTH_SECRET": Secret.SHARED_SECRET}
WEAK: Final = SHARED_SECRET | {"BETTER_AUTH_SECRET": Secret.WEAK_SECRET}
COMMANDS: Final[Mapping[str, tuple[Sequence[str], Mapping[str, str]]]] = {
    "doctor, wrong password": (["doctor"], SHARED_SECRET),
    "doctor, weak secret": (["doctor"], WEAK),
    "doctor, key set URL": (["doctor"], {"AUTH_JWKS_URL": f"http://:{Secret.JWKS_PASSWORD}@[/"}),
    "doctor, unreachable issuer": (["doctor"], {"BETTER_AUTH_URL": f"http://{UNREACHABLE}"}),
    **{
        f"doctor, token {name}": (["doctor", "--token", token], SHARED_SECRET)
        for name, token in REJECTED_TOKENS.items()
        if name in {"expired", "of a session", "with an odd claim"}
    },
    "doctor, every variable": (
        ["doctor"],
        {
            name.upper(): Secret.WEAK_SECRET
            for name in Settings.model_fields
            if name not in {"data_dir", "host", "auth_issuer", "auth_audience"}
        },
    ),
    "migrate": (["migrate"], {}),
    "migrate, password in the URL": (
        ["migrate"],
        {"DATABASE_URL": f"postgresql://todo:{Secret.WRONG_PASSWORD}@localhost/todo"},
    ),
    "migrate, password in the options": (
        ["migrate"],
        {"DATABASE_URL": f"postgresql://todo@localhost/todo?password={Secret.WEAK_SECRET}"},
    ),
    "seed": (["seed", "ada"], {}),
    "token": (["token", f"{Secret.EMAIL}\n"], {}),
    "token, not accepted": (["token", Secret.EMAIL], SHARED_SECRET),
    "serve, weak secret": (["serve"], WEAK),
    "serve, invalid Redis URL": (
        ["serve"],
        SHARED_SECRET | {"REDIS_URL": f"redis://:{Secret.REDIS_PASSWORD}@localhost:port"},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def outputs(sandbox: Sandbox, server: Server) -> dict[str, str]:
    """The output of each failing command. Two run at a time to save time."""
    wrong = {"DATABASE_URL": database_url(server, Secret.WRONG_PASSWORD)}

    def fail(command: tuple[Sequence[str], Mapping[str, str]]) -> str:
        arguments, variables = command
        result = sandbox.todo_api(*arguments, **wrong | dict(variables))
        assert result.returncode == 1, (arguments, result)
        return result.stdout + result.stderr

    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(COMMANDS, pool.map(fail, COMMANDS.values()), strict=True))


# --- The search ---


class TestSearch:
    @pytest.mark.parametrize("name", secrets())
    def test_finds_a_secret_in_every_form(self, name: str) -> None:
        found = [form for part in secrets()[name] for form in forms(part)]
        assert [form for form in found if name not in leaks(f'{{"a": "{form.upper()}\\n"}}')] == []

    def test_finds_a_secret_in_the_base64_of_a_longer_text(self) -> None:
        for before in ("", "a", "ab", "abc"):
            for after in ("", "z", "zy", "zyx"):
                text = f"{before}{Secret.TITLE}{after}"
                assert "TITLE" in leaks(b64encode(text.encode()).decode())

    def test_finds_nothing_in_text_without_secrets(self) -> None:
        innocent = {name: kind.detail for name, kind in PROBLEM_TYPES.items()}
        assert leaks(json.dumps(innocent) + (MARK * 9)) == set()

    def test_finds_a_secret_in_the_log_of_a_service(self, sandbox: Sandbox, server: Server) -> None:
        settings = SHARED_SECRET | {"DATABASE_URL": database_url(server)}
        with sandbox.serving("serve", **settings) as service, service.client(ADA) as ada:
            ada.get("/api/me", headers={"X-Request-ID": Secret.TITLE.word})
            assert eventually(lambda: "/api/me" in service.stdout)
            assert leaks(service.stdout) == {"TITLE"}

    def test_finds_the_texts_in_responses_to_their_owner(self, tour: Tour) -> None:
        own = [response.text for response in tour.responses if response.is_success]
        assert {"TITLE", "DESCRIPTION", "TAG", "NAME", "EMAIL"} <= leaks("\n".join(own))


class TestTour:
    def test_caused_every_problem(self, tour: Tour) -> None:
        # The limits of streams: test_change_streams.py causes them, and their texts are constant.
        of_streams = {"too_many_streams", "stream_unavailable"}
        assert tour.codes() == set(PROBLEM_TYPES) - of_streams

    def test_produced_logs_to_search(self, tour: Tour) -> None:
        assert all("request" in log for log in tour.logs.values())
        events = set(re.findall(r'"event":"([\w.]+)"', "".join(tour.logs.values())))
        assert events >= {"auth.rejected", "input.rejected", "rate_limit.storage_unavailable"}
        assert events >= {"auth.keys_unavailable", "auth.keys_refreshed", "database.unavailable"}


LOGS: Final = (
    "shared secret",
    "key set",
    "bug",
    "outage",
)


class TestNoSecret:
    @pytest.mark.parametrize("name", LOGS)
    def test_in_the_log_of(self, tour: Tour, name: str) -> None:
        # cors.refused names the origin for the operator, who may have to allow it.
        lines = [line for line in tour.logs[name].splitlines() if "cors.refused" not in line]
        found = {line: leaks(line) for line in lines}
        assert {line: names for line, names in found.items() if names} == {}

    def test_in_responses_to_others_than_the_owner(self, tour: Tour) -> None:
        found = {request: leaks(text) for request, text in tour.disclosed()}
        assert {request: names for request, names in found.items() if names} == {}

    def test_in_metrics_and_schema(self, tour: Tour) -> None:
        public = {r.request.url.path: r.text for r in tour.responses if r.is_success}
        for path in ("/metrics", "/openapi.json", "/docs", "/health/ready"):
            assert leaks(public[path]) == set()

    @pytest.mark.parametrize("command", COMMANDS)
    def test_in_the_output_of(self, outputs: dict[str, str], command: str) -> None:
        assert outputs[command]
        assert leaks(outputs[command]) == set()


# --- repr() and vars() of objects, as a debugger or an error tracker prints them ---


@pytest.fixture
def settings(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    variables = SHARED_SECRET | {"DATABASE_URL": database_url(server), "REDIS_URL": redis_url()}
    variables |= {"DATABASE_URL_DIRECT": database_url(server)}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Settings.read()


def configured_url(settings: Settings) -> DatabaseUrl:
    assert settings.database_url
    return parse_database_url(settings.database_url.get_secret_value())


OBJECTS: Final[dict[str, Callable[[Settings], object]]] = {
    "the settings": lambda settings: settings,
    "the settings as a dictionary": Settings.model_dump,
    "the settings of tokens": Settings.auth,
    "the database URL": configured_url,
    "the SQLAlchemy URL": lambda settings: configured_url(settings).url,
    "the database": lambda settings: Database(configured_url(settings), pool_size=1),
    "the attributes of the database": lambda settings: vars(
        Database(configured_url(settings), pool_size=1)
    ),
    "the repository": lambda settings: PostgresTaskRepository(
        Database(configured_url(settings), pool_size=1)
    ),
    "the verifier": lambda _: SharedSecretTokenVerifier(Secret.SHARED_SECRET),
    "the attributes of the verifier": lambda _: vars(
        SharedSecretTokenVerifier(Secret.SHARED_SECRET)
    ),
    "the limiter": lambda _: LimitsRateLimiter({"user": "1/hour"}, redis_url()),
    "the attributes of the limiter": lambda _: vars(
        LimitsRateLimiter({"user": "1/hour"}, redis_url())
    ),
    "a user": lambda _: Principal("ada", datetime.now(UTC), name=Secret.NAME, email=Secret.EMAIL),
    "a task": lambda _: a_task(title=Secret.TITLE, description=Secret.DESCRIPTION),
}


class TestNoSecretIsShown:
    @pytest.mark.parametrize("name", OBJECTS)
    def test_by(self, settings: Settings, name: str) -> None:
        shown = OBJECTS[name](settings)
        assert leaks(f"{shown!r} {shown!s} {shown}") == set()

    @pytest.mark.parametrize("token", REJECTED_TOKENS.values(), ids=[*REJECTED_TOKENS])
    async def test_by_the_rejection_of_a_token(self, token: str) -> None:
        verifier = SharedSecretTokenVerifier(Secret.SHARED_SECRET)
        with pytest.raises(TodoError) as rejection:
            await verifier.verify(token, datetime.now(UTC))
        assert leaks(traced(rejection.value)) == set()

    async def test_by_the_failure_of_a_database(self, server: Server) -> None:
        url = database_url(server, Secret.WRONG_PASSWORD)
        database = Database(parse_database_url(url), pool_size=1)
        with pytest.raises(TodoError) as failure:
            await database.check()
        await database.close()
        assert "InvalidPasswordError" in traced(failure.value)
        assert leaks(traced(failure.value)) == set()

    async def test_by_the_failure_of_an_issuer(self) -> None:
        keys = RemoteKeySet(f"http://{UNREACHABLE}/jwks?key={Secret.JWKS_PASSWORD}", ("EdDSA",))
        with pytest.raises(TodoError) as failure:
            await keys.check()
        await keys.aclose()
        assert leaks(traced(failure.value) + repr(keys)) == set()

    def test_by_settings_because_urls_with_credentials_are_rejected(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        del settings  # only its environment is needed
        for credentials in (f"ada:{Secret.JWKS_PASSWORD}", f":{Secret.JWKS_PASSWORD}"):
            address = f"http://{credentials}@localhost:3000"
            for name in ("BETTER_AUTH_URL", "AUTH_JWKS_URL", "CORS_ORIGINS"):
                with monkeypatch.context() as changed_environment:
                    changed_environment.setenv(name, address)
                    with pytest.raises(ConfigurationError) as error:
                        Settings.read()
                    assert leaks(traced(error.value)) == set()


def traced(error: BaseException) -> str:
    """The traceback and the repr of the exception."""
    return "".join(traceback.format_exception(error)) + repr(error)
