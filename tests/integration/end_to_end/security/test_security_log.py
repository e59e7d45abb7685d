"""The security log (FR-010) of the real process while it is attacked.

``lines`` reads the log of a service and checks the format of every line.
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

from support.frontend import AUTH_SETTINGS, token_of
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
from support.ports import free_port
from support.service import PATIENCE, Sandbox, Service, eventually
from todo_adapters.embedded_postgres.server import embedded_postgres
from todo_adapters.jose.rejections import RejectionReason
from todo_adapters.postgres.url import DatabaseUrl

ROOT: Final = Path(__file__).parents[4]
QUOTA: Final = 20
CONCURRENT: Final = 2
UNREACHABLE: Final = "127.0.0.1:1"  # nothing listens there
PROXY: Final = "127.0.0.1"  # the tests act as a proxy that the service trusts

COMMON: Final = {"time", "level", "event"}
LEVELS: Final = {"info", "warning", "error"}

# Characters that could break or forge a log line: line ends, terminal escapes, the end of a JSON
# string, and a complete log entry.
HOSTILE: Final = '\r\n{"event":"forged"}\n\x1b[31m\x00\x85\u2028"}\\",\t\u202e'
# The same, as far as a server accepts it in a header value.
HOSTILE_VALUE: Final = b'{"event":"forged"}\t\x85\xe2\x80\xa8"}\\"\xff'

Line = dict[str, Any]
Send = Callable[[], httpx.Response]


# --- Reading the log ---


def lines(service: Service) -> list[Line]:
    """All log lines of the service. Checks that its whole output is one JSON object per line."""
    assert service.stderr == ""
    output = service.stdout
    assert output == "" or output.endswith("\n")
    return [parse_line(text) for text in output.split("\n")[:-1]]


def parse_line(text: str) -> Line:
    assert text.isprintable(), ascii(text)
    line: Line = json.loads(text)
    assert line.keys() >= COMMON, text
    assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
    assert line["level"] in LEVELS
    assert line["event"] in documented_events() or "logger" in line  # from a library
    return line


def about(service: Service, request_id: str) -> list[Line]:
    """The lines of one request. Waits for the last one, which is the event ``request``."""

    def complete() -> list[Line]:
        found = [line for line in lines(service) if line.get("request_id") == request_id]
        return found if found and found[-1]["event"] == "request" else []

    return eventually(complete)


def event(service: Service, name: str, response: httpx.Response) -> Line:
    """The only line with this event for the request."""
    request_id = response.headers["X-Request-ID"]
    (line,) = [line for line in about(service, request_id) if line["event"] == name]
    return line


def first_event(service: Service, name: str, send: Send) -> Line:
    """Repeat the request until it causes the event."""

    def found() -> Line | None:
        written = about(service, send().headers["X-Request-ID"])
        return next((line for line in written if line["event"] == name), None)

    line = eventually(found)
    assert line, f"{name} is never logged"
    return line


def documented_events() -> set[str]:
    """The events in the table of docs/operations.md."""
    logs = (ROOT / "docs/operations.md").read_text().partition("\n## Logs\n")[2]
    cells = re.findall(r"^\| (`[^|]+`) \|", logs.partition("\n## ")[0], re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)}


# --- The service, its issuer and the attackers ---


@contextmanager
def issuer(sandbox: Sandbox, keys: Path) -> Iterator[str]:
    """The URL of a key set: the content of the file, or 404 while the file does not exist."""
    port = str(free_port())
    command = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", port)
    keys.parent.mkdir()
    with sandbox.start(*command, "--directory", str(keys.parent), PORT=port) as server:
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
        "MAX_CONCURRENT_REQUESTS": str(CONCURRENT),
        "FORWARDED_ALLOW_IPS": PROXY,
    }


@pytest.fixture(scope="module")
def service(sandbox: Sandbox, settings: dict[str, str]) -> Iterator[Service]:
    keys = sandbox.root / "issuer" / "jwks"
    with issuer(sandbox, keys) as url:
        keys.write_bytes(key_set(signer().jwk()))
        with sandbox.serving("serve", **settings, AUTH_JWKS_URL=url) as service:
            yield service
        lines(service)


def claims(**changes: Json) -> Members:
    now = seconds(datetime.now(UTC))
    return better_auth_claims(**{"iat": now, "exp": now + MINUTES_15, **changes})


def token_with_header(**changes: Json) -> str:
    """A token that is valid except for its header."""
    return signer().token(claims(), signer().header(**changes))


def token_with_claims(**changes: Json) -> str:
    """A token that is valid except for these claims."""
    return signer().token(claims(**changes))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class Attacker:
    """A client with its own address and optionally a token."""

    def __init__(self, client: httpx.Client) -> None:
        self.user = uuid4().hex
        self.address = str(IPv6Address("2001:db8::") + uuid4().int % 2**64)
        self._client = client
        self._headers = {"X-Forwarded-For": self.address}

    def signed_in(self) -> "Attacker":
        self._headers |= bearer(token_with_claims(sub=self.user))
        return self

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401 - httpx's
        headers = [*self._headers.items(), *options.pop("headers", {}).items()]
        return self._client.request(method, path, headers=headers, **options)

    def get(self, path: str = "/api/me", **options: Any) -> httpx.Response:  # noqa: ANN401
        return self.send("GET", path, **options)

    def exhaust(self) -> httpx.Response:
        """The response to the first request over the quota."""
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
    """Send the bytes; return the response bytes until the service closes the connection."""
    address = ("127.0.0.1", service.port)
    with socket.create_connection(address, PATIENCE) as connection, suppress(ConnectionError):
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))
    return b""


def raw(target: bytes = b"/api/tasks", fields: bytes = b"") -> bytes:
    return b"GET %s HTTP/1.1\r\nHost: todo\r\nConnection: close\r\n%s\r\n" % (target, fields)


def request_ids(responses: bytes) -> list[str]:
    return [name.decode() for name in re.findall(rb"(?i)\nx-request-id: (\S*)\r", responses)]


# --- The event "request" ---

REQUESTS: Final = {
    "a list": ("GET /api/tasks?q=milk&status=all", "/api/tasks", 200),
    "by HEAD": ("HEAD /api/tasks/", "/api/tasks", 200),
    "a creation": ("POST /api/tasks", "/api/tasks", 415),
    "an unknown id": (f"GET /api/tasks/{UUID(int=0)}", "/api/tasks/{task_id}", 404),
    "an invalid id": ("DELETE /api/tasks/secret", "/api/tasks/{task_id}", 404),
    "another user's path": ("GET /api/secret/tasks/secret", "/api/tasks/{task_id}", 403),
    "a toggle": ("PATCH /api/tasks/secret/toggle", "/api/tasks/{task_id}/toggle", 404),
    "another method": ("TRACE /api/tasks", "/api/tasks", 405),
    "an unknown path": ("GET /secret", None, 404),
    "a URL that is too long": (f"GET /{'secret' * 2000}", None, 414),
    "liveness": ("GET /health/live", "/health/live", 200),
    "metrics": ("GET /metrics", "/metrics", 200),
}  # fmt: skip


class TestRequest:
    @pytest.mark.parametrize(("request_line", "route", "status"), REQUESTS.values(), ids=REQUESTS)
    def test_has_method_route_status_user_and_client(
        self, service: Service, eve: Attacker, request_line: str, route: str | None, status: int
    ) -> None:
        method, path = request_line.split()
        response = eve.send(method, path)
        line = event(service, "request", response)
        assert line == {
            "event": "request",
            "method": method,
            "route": route,
            "status": status,
            "user": eve.user if (route or "").startswith("/api/") and status != 405 else None,
            "client": eve.address,
            "request_id": response.headers["X-Request-ID"],
            **{name: line[name] for name in ("level", "time", "ms")},
        }
        assert 0 <= line["ms"] < PATIENCE * 1000
        assert "secret" not in str(line)

    def test_is_logged_once_for_each_request_and_for_nothing_else(self, service: Service) -> None:
        before = {line.get("request_id") for line in lines(service)}
        smuggled = b"GET /smuggled HTTP/1.1\r\nHost: todo\r\n\r\n"
        body = b"Content-Length: %d\r\n" % len(smuggled)
        inputs = (
            raw().replace(b"Connection: close\r\n", b"") * 3 + raw(),
            raw(fields=body) + smuggled,
            b"not HTTP\r\n\r\n",
            raw(b"/api/ta\0sks"),
            raw(fields=b"X: \0\r\n"),
            b"",
        )
        expected = [name for each in inputs[:-1] for name in request_ids(exchange(service, each))]
        with socket.create_connection(("127.0.0.1", service.port)):
            """Connect and close without sending anything."""
        assert all(about(service, name) for name in expected)
        written = [line["request_id"] for line in lines(service) if line["event"] == "request"]
        assert sorted(set(written) - before) == sorted(expected)
        assert len(written) == len(set(written))
        assert len(expected) == 5


# --- Each event and its cause ---

REJECTED_TOKENS: Final[dict[str, Callable[[], str]]] = {
    RejectionReason.TOO_LONG: lambda: "a" * 9000,
    RejectionReason.NOT_THREE_SEGMENTS: lambda: "a.b",
    RejectionReason.NOT_BASE64URL: lambda: "!.!.!",
    RejectionReason.NOT_JSON: lambda: "YQ.YQ.YQ",
    RejectionReason.OPAQUE_SESSION: opaque_session_token,
    RejectionReason.ALGORITHM: lambda: hmac_token(claims()),
    RejectionReason.TYPE: lambda: token_with_header(typ="at+jwt"),
    RejectionReason.CRITICAL_HEADER: lambda: token_with_header(crit=["exp"]),
    RejectionReason.KEY_IN_HEADER: lambda: token_with_header(jku=ORIGIN),
    RejectionReason.KID_MISSING: lambda: token_with_header(kid=ABSENT),
    RejectionReason.SUBJECT: lambda: token_with_claims(sub=HOSTILE),
    RejectionReason.ISSUER: lambda: token_with_claims(iss="https://evil.example"),
    RejectionReason.AUDIENCE: lambda: token_with_claims(aud="https://evil.example"),
    RejectionReason.EXPIRY: lambda: token_with_claims(exp=HOSTILE),
    RejectionReason.NOT_BEFORE: lambda: token_with_claims(nbf=seconds(datetime.now(UTC)) + 3600),
    RejectionReason.ISSUED_AT: lambda: token_with_claims(iat=seconds(datetime.now(UTC)) + 3600),
    RejectionReason.KID_UNKNOWN: lambda: token_with_header(kid=HOSTILE),
    RejectionReason.ALGORITHM_OF_KEY: lambda: signer("ES256", signer().kid).token(claims()),
    RejectionReason.SIGNATURE: lambda: signer(owner="eve").token(claims()),
    RejectionReason.EXPIRED: lambda: token_with_claims(iat=0, exp=seconds(datetime.now(UTC)) - 60),
}
SHARED_SECRET_REASONS: Final = {RejectionReason.LIFETIME}

# Error codes with a request that causes each, and the codes of the single errors.
REJECTED_INPUT: Final[dict[str, tuple[str, dict[str, Any], list[str]]]] = {
    "malformed_json": ("POST /api/tasks", {"content": b"{secret"}, []),
    "bad_cursor": ("GET /api/tasks?cursor=secret", {}, []),
    "filter_required": ("DELETE /api/tasks?secret=secret", {}, []),
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
    request_line, options, _ = REJECTED_INPUT[code]
    method, path = request_line.split()
    headers = {"Content-Type": "application/json"} | options.get("headers", {})
    body = options.get("content", b'{"title":"secret"}')
    return attacker.send(method, path, headers=headers, content=body)


@contextmanager
def maximum_concurrency(service: Service, eve: Attacker) -> Iterator[None]:
    """Keep the maximum number of requests in flight: each waits for the rest of its body."""
    token = token_with_claims(sub=uuid4().hex).encode()
    head = b"Host: todo\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n" % token
    with ExitStack() as opened:

        def start_another() -> bool:
            address = ("127.0.0.1", service.port)
            connection = opened.enter_context(socket.create_connection(address, PATIENCE))
            connection.sendall(b"POST /api/tasks HTTP/1.1\r\n%sContent-Length: 9\r\n\r\n" % head)
            return eve.get("/nowhere").status_code == 503

        assert eventually(start_another)
        yield
    assert eventually(lambda: eve.get("/nowhere").status_code == 404)


def level_of(reason: str) -> str:
    """The level of ``auth.rejected``: each token of a frontend expires, which is no warning."""
    return "info" if reason == RejectionReason.EXPIRED else "warning"


class TestAuthRejected:
    @pytest.mark.parametrize("reason", REJECTED_TOKENS)
    def test_has_the_reason(self, service: Service, stranger: Attacker, reason: str) -> None:
        response = stranger.get(headers=bearer(REJECTED_TOKENS[reason]()))
        line = event(service, "auth.rejected", response)
        assert (line["level"], line["reason"]) == (level_of(reason), reason)
        assert line["code"] == response.json()["code"]

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
    def test_has_the_reason_if_there_is_no_usable_token(
        self, service: Service, fields: bytes, reason: str
    ) -> None:
        (request_id,) = request_ids(exchange(service, raw(fields=fields)))
        rejected, _ = about(service, request_id)
        assert (rejected["event"], rejected["reason"]) == ("auth.rejected", reason)

    def test_is_tested_here_for_every_reason(self) -> None:
        assert REJECTED_TOKENS.keys() | SHARED_SECRET_REASONS == set(RejectionReason)

    def test_is_not_logged_for_accepted_tokens(self, service: Service, eve: Attacker) -> None:
        written = about(service, eve.get().headers["X-Request-ID"])
        assert [line["event"] for line in written if line["event"][:4] == "auth"] == []


class TestAccessDenied:
    def test_is_the_same_for_a_foreign_and_an_unknown_task(
        self, service: Service, client: httpx.Client, eve: Attacker
    ) -> None:
        ada = Attacker(client).signed_in()
        foreign = ada.send("POST", "/api/tasks", json={"title": "Ada's"}).json()["id"]
        written = [
            event(service, "access.denied", eve.get(f"/api/tasks/{task_id}"))
            for task_id in (foreign, uuid4(), "no-id")
        ]
        assert [line["reason"] for line in written] == ["no_such_task"] * 3
        assert not [line for line in written if foreign in str(line)]

    def test_is_logged_for_another_users_path(self, service: Service, eve: Attacker) -> None:
        line = event(service, "access.denied", eve.get("/api/ada/tasks"))
        assert (line["level"], line["reason"]) == ("warning", "user_mismatch")

    def test_is_not_logged_for_own_tasks(self, service: Service, eve: Attacker) -> None:
        created = eve.send("POST", f"/api/{eve.user}/tasks", json={"title": "Eve's"})
        responses = [created, eve.get(created.headers["Location"])]
        written = [line for r in responses for line in about(service, r.headers["X-Request-ID"])]
        assert not [line for line in written if line["event"] == "access.denied"]


class TestInputRejected:
    @pytest.mark.parametrize("code", REJECTED_INPUT)
    def test_has_the_codes_and_not_the_input(
        self, service: Service, eve: Attacker, code: str
    ) -> None:
        response = rejected_input(eve, code)
        assert response.json()["code"] == code
        line = event(service, "input.rejected", response)
        assert (line["level"], line["code"]) == ("info", code)
        assert line["errors"] == REJECTED_INPUT[code][2]
        assert "secret" not in str(line)


class TestRateLimited:
    def test_is_logged_for_a_user(self, service: Service, eve: Attacker) -> None:
        line = event(service, "rate_limited", eve.exhaust())
        assert (line["level"], line["policy"]) == ("warning", "user")

    def test_is_logged_for_an_address(self, service: Service, stranger: Attacker) -> None:
        line = event(service, "rate_limited", stranger.exhaust())
        assert (line["level"], line["policy"]) == ("warning", "auth-failures")

    def test_is_logged_only_for_rejected_requests(self, service: Service, eve: Attacker) -> None:
        responses = [eve.get() for _ in range(QUOTA + 2)]
        written = [about(service, response.headers["X-Request-ID"]) for response in responses]
        limited = ["rate_limited" in {line["event"] for line in each} for each in written]
        assert limited == [False] * QUOTA + [True] * 2


class TestOverloaded:
    def test_is_logged_for_rejected_requests(self, service: Service, eve: Attacker) -> None:
        with maximum_concurrency(service, eve):
            line = event(service, "overloaded", eve.get("/nowhere"))
        assert (line["level"], line["reason"]) == ("warning", "too_many_requests_under_way")


class TestInternalError:
    async def test_has_the_traceback_and_the_response_does_not(
        self, service: Service, eve: Attacker, database_url: str
    ) -> None:
        connection = await asyncpg.connect(database_url)
        await connection.execute(
            "ALTER TABLE todo.tasks ADD CONSTRAINT bug CHECK (title <> 'a bug')"
        )
        try:
            response = eve.send("POST", "/api/tasks", json={"title": "a bug"})
        finally:
            await connection.execute("ALTER TABLE todo.tasks DROP CONSTRAINT bug")
            await connection.close()
        assert response.status_code == 500
        line = event(service, "internal_error", response)
        assert line["level"] == "error"
        assert line["exception"].startswith("Traceback (most recent call last):\n")
        assert "Traceback" not in response.text


class TestEveryEvent:
    """FR-010: each event identifies the client, so that repeated attacks can be counted."""

    def test_about_a_rejected_token_has_the_address(
        self, service: Service, stranger: Attacker
    ) -> None:
        assert event(service, "auth.rejected", stranger.get())["client"] == stranger.address

    @pytest.mark.parametrize("path", [f"/api/tasks/{UUID(int=0)}", "/api/ada/tasks"])
    def test_about_denied_access_has_user_and_address(
        self, service: Service, eve: Attacker, path: str
    ) -> None:
        line = event(service, "access.denied", eve.get(path))
        assert (line["user"], line["client"]) == (eve.user, eve.address)

    def test_about_rejected_input_has_user_and_address(
        self, service: Service, eve: Attacker
    ) -> None:
        line = event(service, "input.rejected", rejected_input(eve, "validation_failed"))
        assert (line["user"], line["client"]) == (eve.user, eve.address)

    def test_about_a_rate_limited_user_has_user_and_address(
        self, service: Service, eve: Attacker
    ) -> None:
        line = event(service, "rate_limited", eve.exhaust())
        assert (line["user"], line["client"]) == (eve.user, eve.address)

    def test_about_a_rate_limited_address_has_the_address(
        self, service: Service, stranger: Attacker
    ) -> None:
        assert event(service, "rate_limited", stranger.exhaust())["client"] == stranger.address

    def test_about_an_overload_has_the_address(self, service: Service, eve: Attacker) -> None:
        with maximum_concurrency(service, eve):
            line = event(service, "overloaded", eve.get("/nowhere"))
        assert line["client"] == eve.address


# --- Events about other servers ---


class TestKeySet:
    def test_failure_and_success_of_a_fetch_are_logged(
        self, sandbox: Sandbox, settings: dict[str, str]
    ) -> None:
        keys = sandbox.root / "unreliable-issuer" / "jwks"
        with (
            issuer(sandbox, keys) as url,
            sandbox.serving(
                "serve", **settings | {"RATE_LIMIT": "off"}, AUTH_JWKS_URL=url
            ) as service,
            service.client(token_with_claims()) as client,
        ):
            send = partial(client.get, "/api/me")

            failed = first_event(service, "auth.keys_unavailable", send)
            assert failed["level"] == "warning"
            assert (failed["host"], failed["reason"]) == ("127.0.0.1", "status 404")

            keys.write_bytes(key_set(signer().jwk()))
            fetched = first_event(service, "auth.keys_refreshed", send)
            assert fetched["level"] == "info"
            assert (fetched["host"], fetched["keys"]) == ("127.0.0.1", 1)
            assert (fetched["algorithms"], fetched["skipped"]) == (["EdDSA"], [])


class TestDatabase:
    def test_outage_and_recovery_are_each_logged_once(self, sandbox: Sandbox) -> None:
        directory = sandbox.root / "away"
        with embedded_postgres(directory) as url:
            pass
        with (
            sandbox.serving("serve", DATABASE_URL=url, **AUTH_SETTINGS) as service,
            service.client(token_of("ada")) as ada,
        ):
            assert "starting anyway" in service.stderr
            responses = [ada.get("/health/ready"), *(ada.get("/api/me") for _ in range(3))]
            assert {response.status_code for response in responses} == {503}
            with embedded_postgres(directory):
                assert eventually(lambda: ada.get("/health/ready").is_success)

            written = [parse_line(line) for line in service.stdout.splitlines()]
            (lost,) = [line for line in written if line["event"] == "database.unavailable"]
            (found,) = [line for line in written if line["event"] == "database.recovered"]
            assert (lost["level"], lost["reason"]) == ("error", "FileNotFoundError")
            assert found["level"] == "info"

            logged = {line["request_id"] for line in written if line["event"] == "request"}
            assert {lost["request_id"], found["request_id"]} <= logged

            not_ready = [line for line in written if line["event"] == "health.not_ready"]
            assert (responses[0].headers["X-Request-ID"], "database", "DatabaseUnavailable") in [
                (line["request_id"], line["part"], line["reason"]) for line in not_ready
            ]


@pytest.fixture(scope="module")
def shared_secret_service(sandbox: Sandbox, settings: dict[str, str]) -> Iterator[Service]:
    """A service with a shared secret and an unreachable Redis."""
    with sandbox.serving(
        "serve", **settings, **AUTH_SETTINGS, REDIS_URL=f"redis://{UNREACHABLE}"
    ) as service:
        yield service


class TestWithASharedSecretAndRedis:
    def test_an_unavailable_redis_is_logged(self, shared_secret_service: Service) -> None:
        with shared_secret_service.client(token_of("ada")) as ada:
            line = event(
                shared_secret_service, "rate_limit.storage_unavailable", ada.get("/api/me")
            )
        assert (line["level"], line["reason"]) == ("error", "ConnectionError")

    def test_a_token_with_too_long_a_lifetime_is_logged(
        self, shared_secret_service: Service
    ) -> None:
        token = token_of("ada", exp=seconds(datetime.now(UTC) + timedelta(days=8)), iat=ABSENT)
        with shared_secret_service.client(token) as ada:
            line = event(shared_secret_service, "auth.rejected", ada.get("/api/me"))
        assert line["reason"] == RejectionReason.LIFETIME


class TestUnsafeConfiguration:
    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_is_logged_if_development_tokens_are_accepted_from_other_machines(
        self, sandbox: Sandbox, database_url: str, workers: str
    ) -> None:
        mode = {"DATABASE_URL": database_url, "WORKERS": workers}
        with sandbox.serving("dev", FORWARDED_ALLOW_IPS="10.0.0.0/8", **mode) as service:
            written = [parse_line(line) for line in service.stdout.splitlines()]
            unsafe = [line for line in written if line["event"] == "config.unsafe"]
            assert {line["level"] for line in unsafe} == {"warning"}
            assert {line["reason"] for line in unsafe} == {
                "tokens of the development issuer are accepted, also from other machines"
            }

    def test_that_prevents_the_start_is_reported_on_stderr(
        self, sandbox: Sandbox, settings: dict[str, str]
    ) -> None:
        weak = {"AUTH_MODE": "shared-secret", "BETTER_AUTH_SECRET": "secret"}
        result = sandbox.todo_api("serve", **settings | weak)
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


def assert_no_forged_line(service: Service, *requests: bytes) -> None:
    """Assert that each response has exactly one line, and that no line was injected."""
    ids = [name for request in requests for name in request_ids(exchange(service, request))]
    for name in ids:
        assert [line["event"] for line in about(service, name)].count("request") == 1
    assert len(set(ids)) == len(ids)
    assert not [line for line in lines(service) if line["event"] == "forged"]


class TestForgery:
    def test_fails_by_url(self, service: Service) -> None:
        forged = quote(HOSTILE).encode()
        targets = (b"/%s", b"/api/tasks/%s", b"/api/%s/tasks", b"/api/tasks?%s", b"/api/me?q=%s")
        assert_no_forged_line(service, *(raw(target % forged) for target in targets))

    def test_fails_by_method(self, service: Service) -> None:
        for method in (b'{"event":"forged"}', b"!#$%&'*+-.^_`|~", b"A" * 4000):
            assert_no_forged_line(service, raw().replace(b"GET", method, 1))

    @pytest.mark.parametrize("name", FIELDS)
    def test_fails_by_header(self, service: Service, name: bytes) -> None:
        value = b"%s: %s\r\n" % (name, HOSTILE_VALUE)
        assert_no_forged_line(service, raw(fields=value), raw(b"/nowhere", value))

    def test_fails_by_the_address_that_a_trusted_proxy_forwards(
        self, sandbox: Sandbox, settings: dict[str, str]
    ) -> None:
        forwarded = raw(fields=b"X-Forwarded-For: %s\r\n" % HOSTILE_VALUE)
        with sandbox.serving("serve", **settings) as service:
            assert_no_forged_line(service, forwarded)

    @pytest.mark.parametrize("name", [b"X-Request-ID", b"Authorization", b"X-Forwarded-For"])
    def test_fails_by_line_ends_in_headers(self, service: Service, name: bytes) -> None:
        values = (b'%s: "a%s{"event":"forged"}\r\n' % (name, end) for end in LINE_ENDS)
        assert_no_forged_line(service, *(raw(fields=value) for value in values))

    def test_fails_by_request_id(self, service: Service, stranger: Attacker) -> None:
        response = stranger.get(headers={"X-Request-ID": '{"event":"forged"}'})
        assert response.headers["X-Request-ID"].isalnum()
        assert event(service, "request", response)

    def test_fails_by_user_id(self, service: Service, client: httpx.Client) -> None:
        user = 'eve","event":"forged","level":"info"}{"\\'
        response = client.get("/api/me", headers=bearer(token_with_claims(sub=user)))
        assert event(service, "request", response)["user"] == user
        assert response.json()["user_id"] == user

    @pytest.mark.parametrize("user", ["eve\r\n{}", "eve\n", "eve\u2028", "\x1b[31m", "eve\x85"])
    def test_fails_because_unprintable_user_ids_are_rejected(
        self, service: Service, client: httpx.Client, user: str
    ) -> None:
        response = client.get("/api/me", headers=bearer(token_with_claims(sub=user)))
        assert event(service, "auth.rejected", response)["reason"] == RejectionReason.SUBJECT
        assert event(service, "request", response)["user"] is None

    def test_fails_by_body(self, service: Service, eve: Attacker) -> None:
        bodies = [{HOSTILE[:12]: 1}, {"title": HOSTILE}, {"title": [HOSTILE]}, [HOSTILE]]
        for body in bodies:
            response = eve.send(
                "POST", "/api/tasks", json=body, headers={"Prefer": "handling=strict"}
            )
            assert event(service, "input.rejected", response)


# --- The documentation ---


def logged_events(module: Path) -> set[str]:
    """The events that the module logs: the first argument of each call of a logger."""
    tree = ast.parse(module.read_text())
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    loggers = {
        ast.unparse(node.targets[0])
        for node in assigned
        if any(makes_logger(part) for part in ast.walk(node.value))
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert len(loggers) == sum(makes_logger(call) for call in calls), (
        "a logger is not assigned to a name"
    )
    return {
        ast.literal_eval(call.args[0])
        for call in calls
        if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in loggers
    }


def makes_logger(node: ast.AST) -> bool:
    names = ("get_logger", "getLogger")
    return isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names


def test_the_documentation_has_exactly_the_events_of_the_code() -> None:
    written = [logged_events(module) for module in (ROOT / "src").rglob("*.py")]
    assert set().union(*written) == documented_events()
