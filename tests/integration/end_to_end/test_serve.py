"""``todo-api serve`` as a process: configuration errors, tokens, workers, database outages."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from subprocess import CompletedProcess
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx
import pytest
from jose import jwt

from support.service import Sandbox, Service, eventually, new_sandbox, refusal
from todo_adapters.embedded_postgres.server import embedded_postgres
from todo_adapters.postgres.url import DatabaseUrl

SECRET: Final = "a-secret-that-only-the-frontend-knows"
PASSWORD: Final = "hunter2-hunter2"
UNREACHABLE: Final = f"postgresql://ada:{PASSWORD}@127.0.0.1:1/todo"

# The minimum for ``serve``.
SETTINGS: Final = {"DATABASE_URL": UNREACHABLE, "BETTER_AUTH_URL": "http://localhost:3000"}
SHARED_SECRET: Final = {"AUTH_MODE": "shared-secret", "BETTER_AUTH_SECRET": SECRET}


@pytest.fixture(scope="module")
def database_url(server_url: str, sandbox: Sandbox) -> str:
    """The URL of a database that ``todo-api migrate`` has migrated."""
    name = f"served_{uuid4().hex}"
    asyncio.run(create_database(server_url, name))
    url = urlsplit(server_url)._replace(path=f"/{name}").geturl()
    result = sandbox.todo_api("migrate", DATABASE_URL=url)
    assert result.returncode == 0, result.stderr
    return url


@pytest.fixture(scope="module")
def service(sandbox: Sandbox, database_url: str) -> Iterator[Service]:
    with sandbox.serving("serve", DATABASE_URL=database_url, **SHARED_SECRET) as service:
        yield service


async def create_database(server_url: str, name: str) -> None:
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()


def frontend_token(user: str) -> str:
    """A token that a frontend signs for its user."""
    now = datetime.now(UTC)
    claims = {"sub": user, "iat": now, "exp": now + timedelta(minutes=15)}
    return str(jwt.encode(claims, SECRET, algorithm="HS256"))


# Changes of SETTINGS, and a part of the error message that they cause.
ERRORS: Final = {
    "no database": ({"DATABASE_URL": ""}, "DATABASE_URL is missing: set it to"),
    "no auth server": ({"BETTER_AUTH_URL": ""}, "BETTER_AUTH_URL is missing: set it to"),
    "another kind of database": (
        {"DATABASE_URL": f"mysql://ada:{PASSWORD}@localhost/todo"},
        "DATABASE_URL: The database URL does not start with postgresql://",
    ),
    "a password that hides the host": (
        {"DATABASE_URL": f"postgresql://ada:{PASSWORD}/slash@localhost/todo"},
        "in user, password and values @ as %40, / as %2F",
    ),
    "every origin": ({"CORS_ORIGINS": "*"}, "CORS_ORIGINS must be exact origins"),
    "no secret": (SHARED_SECRET | {"BETTER_AUTH_SECRET": ""}, "BETTER_AUTH_SECRET is missing"),
    "a weak secret": (
        SHARED_SECRET | {"BETTER_AUTH_SECRET": PASSWORD},
        "BETTER_AUTH_SECRET of at least 32 bytes",
    ),
    "two modes": (
        SHARED_SECRET | {"AUTH_JWKS_URL": "http://localhost:3000/api/auth/jwks"},
        "AUTH_MODE=shared-secret and AUTH_JWKS_URL exclude each other",
    ),
    "an unsafe algorithm": ({"AUTH_ALGORITHMS": "EdDSA,none"}, "AUTH_ALGORITHMS cannot be none"),
    "another machine's address": ({"HOST": "192.0.2.1"}, "HOST=192.0.2.1 is not an address"),
    "no port": ({"PORT": "web"}, "PORT must be a"),
}


@pytest.fixture(scope="module")
def results(sandbox: Sandbox) -> dict[str, CompletedProcess[str]]:
    """The result of ``serve`` in each case. Two run at a time to save time."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        settings = [SETTINGS | changed for changed, _ in ERRORS.values()]
        results = pool.map(lambda variables: sandbox.todo_api("serve", **variables), settings)
        return dict(zip(ERRORS, results, strict=True))


class TestConfigurationError:
    @pytest.mark.parametrize("case", ERRORS)
    def test_says_what_to_change_and_shows_no_password(
        self, results: dict[str, CompletedProcess[str]], case: str
    ) -> None:
        _, message = ERRORS[case]
        error = refusal(results[case])
        assert message in error
        assert PASSWORD not in error

    def test_names_all_missing_settings(self, sandbox: Sandbox) -> None:
        result = sandbox.todo_api("serve")
        assert result.returncode == 1
        assert "DATABASE_URL is missing" in result.stderr
        assert "BETTER_AUTH_URL is missing" in result.stderr

    def test_names_the_port_that_is_in_use(self, sandbox: Sandbox) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            error = refusal(sandbox.todo_api("serve", **SETTINGS, PORT=str(port)))
        assert f"port {port} is in use" in error


class TestService:
    def test_accepts_tokens_that_the_frontend_signs(self, service: Service) -> None:
        with (
            service.client(frontend_token("ada")) as ada,
            service.client(frontend_token("eve")) as eve,
        ):
            task = ada.post("/api/tasks", json={"title": "Buy milk"}).json()
            assert task in ada.get("/api/tasks").json()
            assert eve.get(f"/api/tasks/{task['id']}").status_code == 404
            assert ada.delete(f"/api/tasks/{task['id']}").json() == task

    def test_rejects_unsafe_settings_under_another_server_too(self, sandbox: Sandbox) -> None:
        unsafe = {"DATABASE_URL": "postgresql://ada@db.example.com/todo?sslmode=require"}
        result = sandbox.run(
            sys.executable, "-c", "import todo_api.main as m; m.app()", **SETTINGS | unsafe
        )
        assert result.returncode == 1
        assert "ConfigurationError: DATABASE_URL" in result.stderr

    def test_rejects_development_tokens(self, sandbox: Sandbox, service: Service) -> None:
        token = sandbox.todo_api("token", "ada").stdout.strip()
        with service.client(token) as impostor:
            response = impostor.get("/api/tasks")
        assert response.status_code == 401
        assert response.json()["code"] == "token_invalid"

    def test_allows_no_cross_origin_calls_by_default(self, service: Service) -> None:
        with service.client() as frontend:
            response = frontend.get("/health/live", headers={"Origin": "http://localhost:3000"})
        assert "access-control-allow-origin" not in response.headers

    def test_writes_no_secret_to_its_log(self, service: Service) -> None:
        token = frontend_token("ada")
        with service.client(token) as ada:
            ada.post("/api/tasks", json={"title": "A private title"})
        log = service.stdout + service.stderr
        assert '"user":"ada"' in log
        for secret in (SECRET, token, "A private title"):
            assert secret not in log

    def test_listens_on_a_host_name(self, sandbox: Sandbox) -> None:
        with sandbox.serving("serve", **SETTINGS, HOST="localhost") as service:
            assert service.listens()

    def test_starts_the_configured_number_of_workers_and_stops_them_all(
        self, sandbox: Sandbox, service: Service, database_url: str
    ) -> None:
        assert service.listens()
        variables = {"DATABASE_URL": database_url, "WORKERS": "2", **SHARED_SECRET}
        with new_sandbox() as other, other.serving("serve", **variables) as two_workers:
            assert eventually(lambda: len(other.processes()) > len(sandbox.processes()))
            for _ in range(10):
                with two_workers.client(frontend_token("ada")) as ada:
                    assert ada.get("/api/tasks").status_code == 200
            two_workers.send(signal.SIGTERM)
            assert two_workers.exit_code() == 0
            assert other.remaining() == {}


class TestLifecycleEvents:
    def test_say_once_what_runs_and_that_it_has_stopped(self, sandbox: Sandbox) -> None:
        origins = {"CORS_ORIGINS": "https://app.example.com"}
        variables = SETTINGS | origins | {"WORKERS": "2"}
        with sandbox.serving("serve", **variables) as service:
            assert eventually(lambda: events(service, "service.started"))
            service.send(signal.SIGTERM)
            assert service.exit_code() == 0
            (started,) = events(service, "service.started")
            (stopped,) = events(service, "service.stopped")
        assert started["time"] < stopped["time"]
        assert started | {"time": "", "level": ""} == {
            "event": "service.started",
            "version": version("todo-api"),
            "address": f"127.0.0.1:{service.port}",
            "workers": 2,
            "database": "127.0.0.1:1/todo",
            "issuer": "http://localhost:3000",
            "origins": ["https://app.example.com"],
            "time": "",
            "level": "",
        }


def events(service: Service, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in service.stdout.splitlines()]
    return [line for line in lines if line["event"] == name]


class TestDatabase:
    def test_without_the_schema_is_an_error(
        self, sandbox: Sandbox, server_url: str, empty_database: DatabaseUrl
    ) -> None:
        url = urlsplit(server_url)._replace(path=f"/{empty_database.url.database}").geturl()
        error = refusal(sandbox.todo_api("serve", DATABASE_URL=url, **SHARED_SECRET))
        assert "todo-api migrate" in error

    def test_can_become_unavailable_and_available_at_any_time(self, sandbox: Sandbox) -> None:
        directory = sandbox.root / "database"
        with embedded_postgres(directory) as url:
            assert sandbox.todo_api("migrate", DATABASE_URL=url).returncode == 0

        with (
            sandbox.serving("serve", DATABASE_URL=url, **SHARED_SECRET) as service,
            service.client(frontend_token("ada")) as ada,
        ):
            assert_unavailable(ada)
            for _ in range(2):
                with embedded_postgres(directory):
                    assert eventually(lambda: ada.get("/health/ready").is_success)
                    assert ada.post("/api/tasks", json={"title": "Buy milk"}).is_success
                assert_unavailable(ada)


def assert_unavailable(client: httpx.Client) -> None:
    """Assert that the service is live, and that everything else is 503 because of the database."""
    assert client.get("/health/live").status_code == 200

    ready = client.get("/health/ready")
    assert ready.status_code == 503
    assert "database" in ready.text
    assert "auth_keys" not in ready.text

    response = client.get("/api/tasks")
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "database_unavailable"
