"""The security log (FR-010), read from what the real process wrote while it was attacked.

Whatever is asked for the log of a service is held to its form: see ``lines``.
"""

import ast
import json
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from support.frontend import BELIEVED, token_of
from support.jose_tokens import (
    ABSENT,
    MINUTES_15,
    ORIGIN,
    Json,
    Members,
    better_auth_claims,
    hmac_token,
    key_set,
    opaque_session_token,
    seconds,
    signer,
)
from support.service import PATIENCE, Service, Workplace, eventually, free_port
from todo_adapters.embedded_postgres.server import embedded_postgres
from todo_adapters.jose.rejections import RejectionReason
from todo_adapters.postgres.url import DatabaseUrl

ROOT: Final = Path(__file__).parents[3]
QUOTA: Final = 20
UNDER_WAY: Final = 2
NOBODY: Final = "127.0.0.1:1"  # an address at which nothing listens
PROXY: Final = "127.0.0.1"  # the tests are the proxy, whom the service believes

COMMON: Final = {"time", "level", "event"}
LEVELS: Final = {"info", "warning", "error"}

# What cannot be in a log line if it is to be one: line ends of every kind, escapes for terminals,
# the end of a JSON string, and what would be an entry.
HOSTILE: Final = '\r\n{"event":"forged"}\n\x1b[31m\x00\x85\u2028"}\\",\t\u202e'
# The characters of it that a server lets a header's value have.
HOSTILE_VALUE: Final = b'{"event":"forged"}\t\x85\xe2\x80\xa8"}\\"\xff'

Line = dict[str, Any]
Ask = Callable[[], httpx.Response]


# --- Reading the log ---


def lines(service: Service) -> list[Line]:
    """What the service has written, which is nothing but one JSON object a line, in UTC."""
    assert service.stderr == ""
    written = service.stdout
    assert written == "" or written.endswith("\n")
    return [parsed(text) for text in written.split("\n")[:-1]]


def parsed(text: str) -> Line:
    assert text.isprintable(), ascii(text)
    line: Line = json.loads(text)
    assert line.keys() >= COMMON, text
    assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
    assert line["level"] in LEVELS
    assert line["event"] in documented_events() or "logger" in line  # what libraries say
    return line


def about(service: Service, request_id: str) -> list[Line]:
    """What was written about a request, once the canonical line is there, which is the last."""

    def written() -> list[Line]:
        found = [line for line in lines(service) if line.get("request_id") == request_id]
        return found if found and found[-1]["event"] == "request" else []

    return eventually(written)


def event(service: Service, name: str, answer: httpx.Response) -> Line:
    """The one line of this event about the answered request."""
    request_id = answer.headers["X-Request-ID"]
    (line,) = [line for line in about(service, request_id) if line["event"] == name]
    return line


def first_event(service: Service, name: str, ask: Ask) -> Line:
    """The event about one of the requests, which are repeated until there is one."""

    def found() -> Line | None:
        told = about(service, ask().headers["X-Request-ID"])
        return next((line for line in told if line["event"] == name), None)

    line = eventually(found)
    assert line, f"{name} is never written"
    return line


def documented_events() -> set[str]:
    """The events of the table in the document for operators."""
    logs = (ROOT / "docs/operations.md").read_text().partition("\n## Logs\n")[2]
    cells = re.findall(r"^\| (`[^|]+`) \|", logs.partition("\n## ")[0], re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)}


# --- The service, its issuer, and those who attack it ---


@contextmanager
def issuer(place: Workplace, keys: Path) -> Iterator[str]:
    """The address of an auth server's key set: the file, and 404 while there is none."""
    port = str(free_port())
    command = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", port)
    keys.parent.mkdir()
    with place.start(*command, "--directory", str(keys.parent), PORT=port) as server:
        assert eventually(server.listens)
        yield f"{server.url}/{keys.name}"


@pytest.fixture(scope="module")
async def database_url(server_url: str, branch: Callable[[str], Awaitable[DatabaseUrl]]) -> str:
    await branch("logged")
    return urlsplit(server_url)._replace(path="/logged").geturl()


@pytest.fixture(scope="module")
def settings(database_url: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "BETTER_AUTH_URL": ORIGIN,
        "RATE_LIMIT": f"{QUOTA}/hour",
        "RATE_LIMIT_AUTH_FAILURES": f"{QUOTA}/hour",
        "MAX_CONCURRENT_REQUESTS": str(UNDER_WAY),
        "FORWARDED_ALLOW_IPS": PROXY,
    }


@pytest.fixture(scope="module")
def service(place: Workplace, settings: dict[str, str]) -> Iterator[Service]:
    keys = place.root / "issuer" / "jwks"
    with issuer(place, keys) as url:
        keys.write_bytes(key_set(signer().jwk()))
        with place.serving("serve", **settings, AUTH_JWKS_URL=url) as service:
            yield service
        lines(service)


def claims(**changes: Json) -> Members:
    now = seconds(datetime.now(UTC))
    return better_auth_claims(**{"iat": now, "exp": now + MINUTES_15, **changes})


def headed(**changes: Json) -> str:
    """A token that would be valid, but for its header."""
    return signer().token(claims(), signer().header(**changes))


def claiming(**changes: Json) -> str:
    """A token that would be valid, but for its claims."""
    return signer().token(claims(**changes))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class Attacker:
    """Somebody at an address of their own, who may have a token."""

    def __init__(self, client: httpx.Client) -> None:
        self.user = uuid4().hex
        self.address = str(IPv6Address("2001:db8::") + uuid4().int % 2**64)
        self._client = client
        self._headers = {"X-Forwarded-For": self.address}

    def signed_in(self) -> "Attacker":
        self._headers |= bearer(claiming(sub=self.user))
        return self

    def ask(self, method: str, path: str, **what: Any) -> httpx.Response:  # noqa: ANN401 - httpx's
        headers = [*self._headers.items(), *what.pop("headers", {}).items()]
        return self._client.request(method, path, headers=headers, **what)

    def get(self, path: str = "/api/me", **what: Any) -> httpx.Response:  # noqa: ANN401
        return self.ask("GET", path, **what)

    def exhaust(self) -> httpx.Response:
        """The answer to one request more than there may be."""
        return [self.get() for _ in range(QUOTA + 1)][-1]


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@pytest.fixture
def stranger(client: httpx.Client) -> Attacker:
    return Attacker(client)


@pytest.fixture
def eve(client: httpx.Client) -> Attacker:
    return Attacker(client).signed_in()


def exchange(service: Service, request: bytes) -> bytes:
    """What is answered until the service closes the connection."""
    address = ("127.0.0.1", service.port)
    with socket.create_connection(address, PATIENCE) as connection, suppress(ConnectionError):
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))
    return b""


def raw(target: bytes = b"/api/tasks", fields: bytes = b"") -> bytes:
    return b"GET %s HTTP/1.1\r\nHost: todo\r\nConnection: close\r\n%s\r\n" % (target, fields)


def request_ids(answer: bytes) -> list[str]:
    return [name.decode() for name in re.findall(rb"(?i)\nx-request-id: (\S*)\r", answer)]


# --- The canonical line ---

ASKED: Final = {
    "a list": ("GET /api/tasks?q=milk&status=all", "/api/tasks", 200),
    "by HEAD": ("HEAD /api/tasks/", "/api/tasks", 200),
    "a creation": ("POST /api/tasks", "/api/tasks", 415),
    "an unknown id": (f"GET /api/tasks/{UUID(int=0)}", "/api/tasks/{task_id}", 404),
    "no id": ("DELETE /api/tasks/secret", "/api/tasks/{task_id}", 404),
    "by another user's path": ("GET /api/secret/tasks/secret", "/api/tasks/{task_id}", 403),
    "a toggle": ("PATCH /api/tasks/secret/toggle", "/api/tasks/{task_id}/toggle", 404),
    "another method": ("TRACE /api/tasks", "/api/tasks", 405),
    "nothing there is": ("GET /secret", None, 404),
    "too long an address": (f"GET /{'secret' * 2000}", None, 414),
    "whether it lives": ("GET /health/live", "/health/live", 200),
    "the metrics": ("GET /metrics", "/metrics", 200),
}  # fmt: skip


class TestTheCanonicalLine:
    @pytest.mark.parametrize(("asked", "route", "status"), ASKED.values(), ids=ASKED)
    def test_is_one_and_says_what_became_of_the_request(
        self, service: Service, eve: Attacker, asked: str, route: str | None, status: int
    ) -> None:
        method, path = asked.split()
        answer = eve.ask(method, path)
        line = event(service, "request", answer)
        assert line == {
            "event": "request",
            "method": method,
            "route": route,
            "status": status,
            "user": eve.user if (route or "").startswith("/api/") and status != 405 else None,
            "client": eve.address,
            "request_id": answer.headers["X-Request-ID"],
            **{name: line[name] for name in ("level", "time", "ms")},
        }
        assert 0 <= line["ms"] < PATIENCE * 1000
        assert "secret" not in str(line)

    def test_is_written_once_for_each_request_and_for_nothing_else(self, service: Service) -> None:
        before = {line.get("request_id") for line in lines(service)}
        smuggled = b"GET /smuggled HTTP/1.1\r\nHost: todo\r\n\r\n"
        body = b"Content-Length: %d\r\n" % len(smuggled)
        sent = (
            raw().replace(b"Connection: close\r\n", b"") * 3 + raw(),
            raw(fields=body) + smuggled,
            b"nothing that is HTTP\r\n\r\n",
            raw(b"/api/ta\0sks"),
            raw(fields=b"X: \0\r\n"),
            b"",
        )
        answered = [name for each in sent[:-1] for name in request_ids(exchange(service, each))]
        with socket.create_connection(("127.0.0.1", service.port)):
            """Connected, and gone without a word."""
        assert all(about(service, name) for name in answered)
        written = [line["request_id"] for line in lines(service) if line["event"] == "request"]
        assert sorted(set(written) - before) == sorted(answered)
        assert len(written) == len(set(written))
        assert len(answered) == 5


# --- Events, each for its cause ---

REFUSED: Final[dict[str, Callable[[], str]]] = {
    RejectionReason.TOO_LONG: lambda: "a" * 9000,
    RejectionReason.NOT_THREE_SEGMENTS: lambda: "a.b",
    RejectionReason.NOT_BASE64URL: lambda: "!.!.!",
    RejectionReason.NOT_JSON: lambda: "YQ.YQ.YQ",
    RejectionReason.OPAQUE_SESSION: opaque_session_token,
    RejectionReason.ALGORITHM: lambda: hmac_token(claims()),
    RejectionReason.TYPE: lambda: headed(typ="at+jwt"),
    RejectionReason.CRITICAL_HEADER: lambda: headed(crit=["exp"]),
    RejectionReason.KEY_IN_HEADER: lambda: headed(jku=ORIGIN),
    RejectionReason.KID_MISSING: lambda: headed(kid=ABSENT),
    RejectionReason.SUBJECT: lambda: claiming(sub=HOSTILE),
    RejectionReason.ISSUER: lambda: claiming(iss="https://evil.example"),
    RejectionReason.AUDIENCE: lambda: claiming(aud="https://evil.example"),
    RejectionReason.EXPIRY: lambda: claiming(exp=HOSTILE),
    RejectionReason.NOT_BEFORE: lambda: claiming(nbf=seconds(datetime.now(UTC)) + 3600),
    RejectionReason.ISSUED_AT: lambda: claiming(iat=seconds(datetime.now(UTC)) + 3600),
    RejectionReason.KID_UNKNOWN: lambda: headed(kid=HOSTILE),
    RejectionReason.ALGORITHM_OF_KEY: lambda: signer("ES256", signer().kid).token(claims()),
    RejectionReason.SIGNATURE: lambda: signer(owner="eve").token(claims()),
    RejectionReason.EXPIRED: lambda: claiming(iat=0, exp=seconds(datetime.now(UTC)) - 60),
}
IN_SHARED_SECRET_MODE: Final = {RejectionReason.LIFETIME}

# The code, and what has to be asked.
REJECTED: Final[dict[str, tuple[str, dict[str, Any], list[str]]]] = {
    "malformed_json": ("POST /api/tasks", {"content": b"{secret"}, []),
    "bad_cursor": ("GET /api/tasks?cursor=secret", {}, []),
    "filter_required": ("DELETE /api/tasks?q=secret", {}, []),
    "bad_request": ("POST /api/tasks", {"headers": {"Idempotency-Key": "sec ret"}}, []),
    "not_acceptable": ("GET /api/me", {"headers": {"Accept": "secret/*"}}, []),
    "body_too_large": ("POST /api/tasks", {"content": b"secret" * 200_000}, []),
    "uri_too_long": (f"GET /api/tasks?q={'secret' * 2000}", {}, []),
    "unsupported_media_type": ("POST /api/tasks", {"headers": {"Content-Type": "secret"}}, []),
    "validation_failed": (
        "POST /api/tasks",
        {"content": b'{"title": 1, "priority": "secret"}'},
        ["wrong_type", "unknown_value"],
    ),
    "headers_too_large": ("GET /api/me", {"headers": {"X": "secret" * 3000}}, []),
}  # fmt: skip


def rejected_input(attacker: Attacker, code: str) -> httpx.Response:
    asked, what, _ = REJECTED[code]
    method, path = asked.split()
    headers = {"Content-Type": "application/json"} | what.get("headers", {})
    body = what.get("content", b'{"title":"secret"}')
    return attacker.ask(method, path, headers=headers, content=body)


@contextmanager
def all_places_taken(service: Service, eve: Attacker) -> Iterator[None]:
    """As many requests under way as there may be: each waits for the rest of its body."""
    token = claiming(sub=uuid4().hex).encode()
    begun = b"Host: todo\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n" % token
    with ExitStack() as opened:

        def begin_one_more() -> bool:
            address = ("127.0.0.1", service.port)
            connection = opened.enter_context(socket.create_connection(address, PATIENCE))
            connection.sendall(b"POST /api/tasks HTTP/1.1\r\n%sContent-Length: 9\r\n\r\n" % begun)
            return eve.get("/nowhere").status_code == 503

        assert eventually(begin_one_more)
        yield
    assert eventually(lambda: eve.get("/nowhere").status_code == 404)


class TestAuthRejected:
    @pytest.mark.parametrize("reason", REFUSED)
    def test_names_the_reason(self, service: Service, stranger: Attacker, reason: str) -> None:
        answer = stranger.get(headers=bearer(REFUSED[reason]()))
        line = event(service, "auth.rejected", answer)
        assert (line["level"], line["reason"]) == ("warning", reason)
        assert line["code"] == answer.json()["code"]

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            (b"", "no_bearer_token"),
            (b"Authorization: Basic c2VjcmV0\r\n", "no_bearer_token"),
            (b"Cookie: token=secret\r\n", "no_bearer_token"),
            (b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n",
             "several_authorization_fields"),
        ],
    )  # fmt: skip
    def test_names_what_is_wrong_with_the_transport(
        self, service: Service, fields: bytes, reason: str
    ) -> None:
        (request_id,) = request_ids(exchange(service, raw(fields=fields)))
        rejected, _ = about(service, request_id)
        assert (rejected["event"], rejected["reason"]) == ("auth.rejected", reason)

    def test_is_tried_here_for_every_reason_that_there_is(self) -> None:
        assert REFUSED.keys() | IN_SHARED_SECRET_MODE == set(RejectionReason)

    def test_is_not_written_for_those_who_are_believed(
        self, service: Service, eve: Attacker
    ) -> None:
        told = about(service, eve.get().headers["X-Request-ID"])
        assert [line["event"] for line in told if line["event"][:4] == "auth"] == []


class TestAccessDenied:
    def test_does_not_tell_a_foreign_id_from_an_unknown_one(
        self, service: Service, client: httpx.Client, eve: Attacker
    ) -> None:
        ada = Attacker(client).signed_in()
        foreign = ada.ask("POST", "/api/tasks", json={"title": "Ada's"}).json()["id"]
        written = [
            event(service, "access.denied", eve.get(f"/api/tasks/{task_id}"))
            for task_id in (foreign, uuid4(), "no-id")
        ]
        assert [line["reason"] for line in written] == ["no_such_task"] * 3
        assert not [line for line in written if foreign in str(line)]

    def test_is_written_for_another_users_path(self, service: Service, eve: Attacker) -> None:
        line = event(service, "access.denied", eve.get("/api/ada/tasks"))
        assert (line["level"], line["reason"]) == ("warning", "user_mismatch")

    def test_is_not_written_for_ones_own(self, service: Service, eve: Attacker) -> None:
        created = eve.ask("POST", f"/api/{eve.user}/tasks", json={"title": "Eve's"})
        answers = [created, eve.get(created.headers["Location"])]
        told = [line for a in answers for line in about(service, a.headers["X-Request-ID"])]
        assert not [line for line in told if line["event"] == "access.denied"]


class TestInputRejected:
    @pytest.mark.parametrize("code", REJECTED)
    def test_names_the_codes_and_never_the_input(
        self, service: Service, eve: Attacker, code: str
    ) -> None:
        answer = rejected_input(eve, code)
        assert answer.json()["code"] == code
        line = event(service, "input.rejected", answer)
        assert (line["level"], line["code"]) == ("info", code)
        assert line["errors"] == REJECTED[code][2]
        assert "secret" not in str(line)


class TestRateLimited:
    def test_is_written_for_a_user(self, service: Service, eve: Attacker) -> None:
        line = event(service, "rate_limited", eve.exhaust())
        assert (line["level"], line["policy"]) == ("warning", "user")

    def test_is_written_for_an_address(self, service: Service, stranger: Attacker) -> None:
        line = event(service, "rate_limited", stranger.exhaust())
        assert (line["level"], line["policy"]) == ("warning", "auth-failures")

    def test_is_written_for_the_refused_request_alone(
        self, service: Service, eve: Attacker
    ) -> None:
        answers = [eve.get() for _ in range(QUOTA + 2)]
        told = [about(service, answer.headers["X-Request-ID"]) for answer in answers]
        limited = ["rate_limited" in {line["event"] for line in each} for each in told]
        assert limited == [False] * QUOTA + [True] * 2


class TestOverloaded:
    def test_is_written_for_what_is_shed(self, service: Service, eve: Attacker) -> None:
        with all_places_taken(service, eve):
            line = event(service, "overloaded", eve.get("/nowhere"))
        assert (line["level"], line["reason"]) == ("warning", "too_many_requests_under_way")


class TestInternalError:
    async def test_has_the_traceback_that_the_answer_has_not(
        self, service: Service, eve: Attacker, database_url: str
    ) -> None:
        connection = await asyncpg.connect(database_url)
        await connection.execute("ALTER TABLE todo.tasks RENAME COLUMN title TO heading")
        try:
            answer = eve.get("/api/tasks")
        finally:
            await connection.execute("ALTER TABLE todo.tasks RENAME COLUMN heading TO title")
            await connection.close()
        assert answer.status_code == 500
        line = event(service, "internal_error", answer)
        assert line["level"] == "error"
        assert line["exception"].startswith("Traceback (most recent call last):\n")
        assert "Traceback" not in answer.text


class TestEveryEvent:
    """What FR-010 wants of each: who it was, so that many from one can be told from a few."""

    def test_of_a_refused_token_has_the_address(self, service: Service, stranger: Attacker) -> None:
        assert event(service, "auth.rejected", stranger.get())["client"] == stranger.address

    @pytest.mark.parametrize("path", [f"/api/tasks/{UUID(int=0)}", "/api/ada/tasks"])
    def test_of_denied_access_has_user_and_address(
        self, service: Service, eve: Attacker, path: str
    ) -> None:
        line = event(service, "access.denied", eve.get(path))
        assert (line["user"], line["client"]) == (eve.user, eve.address)

    def test_of_rejected_input_has_user_and_address(self, service: Service, eve: Attacker) -> None:
        line = event(service, "input.rejected", rejected_input(eve, "validation_failed"))
        assert (line["user"], line["client"]) == (eve.user, eve.address)

    def test_of_a_limited_user_has_user_and_address(self, service: Service, eve: Attacker) -> None:
        line = event(service, "rate_limited", eve.exhaust())
        assert (line["user"], line["client"]) == (eve.user, eve.address)

    def test_of_a_limited_address_has_it(self, service: Service, stranger: Attacker) -> None:
        assert event(service, "rate_limited", stranger.exhaust())["client"] == stranger.address

    def test_of_what_is_shed_has_the_address(self, service: Service, eve: Attacker) -> None:
        with all_places_taken(service, eve):
            line = event(service, "overloaded", eve.get("/nowhere"))
        assert line["client"] == eve.address


# --- Events about what is behind the service ---


class TestKeys:
    def test_that_cannot_be_had_and_then_can_are_told(
        self, place: Workplace, settings: dict[str, str]
    ) -> None:
        keys = place.root / "unreliable-issuer" / "jwks"
        with (
            issuer(place, keys) as url,
            place.serving(
                "serve", **settings | {"RATE_LIMIT": "off"}, AUTH_JWKS_URL=url
            ) as service,
            service.client(claiming()) as client,
        ):
            ask = partial(client.get, "/api/me")

            failed = first_event(service, "auth.keys_unavailable", ask)
            assert failed["level"] == "warning"
            assert (failed["host"], failed["reason"]) == ("127.0.0.1", "status 404")

            keys.write_bytes(key_set(signer().jwk()))
            fetched = first_event(service, "auth.keys_refreshed", ask)
            assert fetched["level"] == "info"
            assert (fetched["host"], fetched["keys"]) == ("127.0.0.1", 1)
            assert (fetched["algorithms"], fetched["skipped"]) == (["EdDSA"], [])


class TestDatabase:
    def test_that_goes_and_comes_back_is_told_once_each(self, place: Workplace) -> None:
        directory = place.root / "away"
        with embedded_postgres(directory) as url:
            pass
        with (
            place.serving("serve", DATABASE_URL=url, **BELIEVED) as service,
            service.client(token_of("ada")) as ada,
        ):
            # That it serves all the same was said to the person who started it.
            assert "serving all the same" in service.stderr
            answers = [ada.get("/health/ready"), *(ada.get("/api/me") for _ in range(3))]
            assert {answer.status_code for answer in answers} == {503}
            with embedded_postgres(directory):
                assert eventually(lambda: ada.get("/health/ready").is_success)

            told = [parsed(line) for line in service.stdout.splitlines()]
            (lost,) = [line for line in told if line["event"] == "database.unavailable"]
            (found,) = [line for line in told if line["event"] == "database.recovered"]
            assert (lost["level"], lost["reason"]) == ("error", "FileNotFoundError")
            assert found["level"] == "info"

            asked = {line["request_id"] for line in told if line["event"] == "request"}
            assert {lost["request_id"], found["request_id"]} <= asked

            not_ready = [line for line in told if line["event"] == "health.not_ready"]
            assert (answers[0].headers["X-Request-ID"], "database", "DatabaseUnavailable") in [
                (line["request_id"], line["part"], line["reason"]) for line in not_ready
            ]


@pytest.fixture(scope="module")
def counting(place: Workplace, settings: dict[str, str]) -> Iterator[Service]:
    """A service that would count in Redis, if there were one, and believes a frontend."""
    with place.serving("serve", **settings, **BELIEVED, REDIS_URL=f"redis://{NOBODY}") as service:
        yield service


class TestWithASharedSecretAndRedis:
    def test_a_redis_that_is_away_is_told(self, counting: Service) -> None:
        with counting.client(token_of("ada")) as ada:
            line = event(counting, "rate_limit.storage_unavailable", ada.get("/api/me"))
        assert (line["level"], line["reason"]) == ("error", "ConnectionError")

    def test_a_token_that_lasts_too_long_is_told(self, counting: Service) -> None:
        token = token_of("ada", exp=seconds(datetime.now(UTC) + timedelta(days=8)), iat=ABSENT)
        with counting.client(token) as ada:
            line = event(counting, "auth.rejected", ada.get("/api/me"))
        assert line["reason"] == RejectionReason.LIFETIME


class TestUnsafeConfiguration:
    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_is_told_where_development_tokens_are_believed(
        self, place: Workplace, database_url: str, workers: str
    ) -> None:
        mode = {"DATABASE_URL": database_url, "WORKERS": workers}
        with place.serving("dev", **mode) as service:
            told = [parsed(line) for line in service.stdout.splitlines()]
            unsafe = [line for line in told if line["event"] == "config.unsafe"]
            assert {line["level"] for line in unsafe} == {"warning"}
            assert {line["reason"] for line in unsafe} == {
                "tokens of the development issuer are accepted"
            }

    def test_that_is_refused_is_told_to_the_person_who_starts_it(
        self, place: Workplace, settings: dict[str, str]
    ) -> None:
        weak = {"AUTH_MODE": "shared-secret", "BETTER_AUTH_SECRET": "secret"}
        result = place.todo_api("serve", **settings | weak)
        assert result.returncode == 1
        assert result.stdout == ""
        assert "BETTER_AUTH_SECRET of at least 32 bytes" in result.stderr


# --- Forging lines ---

FIELDS: Final = (
    b"X-Request-ID", b"X-Request-Id", b"User-Agent", b"Referer", b"Cookie", b"Origin", b"Accept",
    b"Authorization", b"Idempotency-Key", b"If-Match", b"Prefer", b"X-Forwarded-Proto",
    b"X-Real-IP", b"Forwarded", b"Content-Type", b"traceparent",
)  # fmt: skip
LINE_ENDS: Final = (b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b"\0", b"\x0b", b"\x0c", b"\x1b")


def assert_forges_nothing(service: Service, *requests: bytes) -> None:
    """Each answer has a line of its own, and nobody's lines say what was sent."""
    ids = [name for request in requests for name in request_ids(exchange(service, request))]
    for name in ids:
        assert [line["event"] for line in about(service, name)].count("request") == 1
    assert len(set(ids)) == len(ids)
    assert not [line for line in lines(service) if line["event"] == "forged"]


class TestForgery:
    def test_fails_by_address(self, service: Service) -> None:
        forged = quote(HOSTILE).encode()
        targets = (b"/%s", b"/api/tasks/%s", b"/api/%s/tasks", b"/api/tasks?%s", b"/api/me?q=%s")
        assert_forges_nothing(service, *(raw(target % forged) for target in targets))

    def test_fails_by_method(self, service: Service) -> None:
        for method in (b'{"event":"forged"}', b"!#$%&'*+-.^_`|~", b"A" * 4000):
            assert_forges_nothing(service, raw().replace(b"GET", method, 1))

    @pytest.mark.parametrize("name", FIELDS)
    def test_fails_by_header(self, service: Service, name: bytes) -> None:
        value = b"%s: %s\r\n" % (name, HOSTILE_VALUE)
        assert_forges_nothing(service, raw(fields=value), raw(b"/nowhere", value))

    def test_fails_by_the_address_that_a_believed_proxy_tells(
        self, place: Workplace, settings: dict[str, str]
    ) -> None:
        told = raw(fields=b"X-Forwarded-For: %s\r\n" % HOSTILE_VALUE)
        with place.serving("serve", **settings) as service:
            assert_forges_nothing(service, told)

    @pytest.mark.parametrize("name", [b"X-Request-ID", b"Authorization", b"X-Forwarded-For"])
    def test_fails_by_line_ends_in_headers(self, service: Service, name: bytes) -> None:
        values = (b'%s: "a%s{"event":"forged"}\r\n' % (name, end) for end in LINE_ENDS)
        assert_forges_nothing(service, *(raw(fields=value) for value in values))

    def test_fails_by_request_id(self, service: Service, stranger: Attacker) -> None:
        answer = stranger.get(headers={"X-Request-ID": '{"event":"forged"}'})
        assert answer.headers["X-Request-ID"].isalnum()
        assert event(service, "request", answer)

    def test_fails_by_user_id(self, service: Service, client: httpx.Client) -> None:
        user = 'eve","event":"forged","level":"info"}{"\\'
        answer = client.get("/api/me", headers=bearer(claiming(sub=user)))
        assert event(service, "request", answer)["user"] == user
        assert answer.json()["user_id"] == user

    @pytest.mark.parametrize("user", ["eve\r\n{}", "eve\n", "eve\u2028", "\x1b[31m", "eve\x85"])
    def test_by_a_user_id_that_cannot_be_shown_is_refused(
        self, service: Service, client: httpx.Client, user: str
    ) -> None:
        answer = client.get("/api/me", headers=bearer(claiming(sub=user)))
        assert event(service, "auth.rejected", answer)["reason"] == RejectionReason.SUBJECT
        assert event(service, "request", answer)["user"] is None

    def test_fails_by_what_a_body_says(self, service: Service, eve: Attacker) -> None:
        bodies = [{HOSTILE[:12]: 1}, {"title": HOSTILE}, {"title": [HOSTILE]}, [HOSTILE]]
        for body in bodies:
            answer = eve.ask("POST", "/api/tasks", json=body, headers={"Prefer": "handling=strict"})
            assert event(service, "input.rejected", answer)


# --- The document ---


def logged_events(module: Path) -> set[str]:
    """The first argument of each call of a logger in the module."""
    tree = ast.parse(module.read_text())
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    loggers = {
        ast.unparse(node.targets[0])
        for node in assigned
        if any(makes_logger(part) for part in ast.walk(node.value))
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert len(loggers) == sum(makes_logger(call) for call in calls), "a logger without a name"
    return {
        ast.literal_eval(call.args[0])
        for call in calls
        if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in loggers
    }


def makes_logger(node: ast.AST) -> bool:
    names = ("get_logger", "getLogger")
    return isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names


def test_the_document_for_operators_has_every_event_and_no_other() -> None:
    written = [logged_events(module) for module in (ROOT / "src").rglob("*.py")]
    assert set().union(*written) == documented_events()
