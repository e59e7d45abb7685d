"""``todo-api serve`` as a process: what it refuses, whom it believes, what it outlasts."""

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from subprocess import CompletedProcess
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx
import pytest
from jose import jwt

from support.service import Service, Workplace, eventually, refusal, workplace
from todo_adapters.embedded_postgres.server import embedded_postgres
from todo_adapters.postgres.url import DatabaseUrl

SECRET: Final = "a-secret-of-the-frontend-and-of-nobody-else"
PASSWORD: Final = "hunter2-hunter2"
NOWHERE: Final = f"postgresql://ada:{PASSWORD}@127.0.0.1:1/todo"

# Enough to serve.
SETTINGS: Final = {"DATABASE_URL": NOWHERE, "BETTER_AUTH_URL": "http://localhost:3000"}
SHARED_SECRET: Final = {"AUTH_MODE": "shared-secret", "BETTER_AUTH_SECRET": SECRET}


@pytest.fixture(scope="module")
def database_url(server_url: str, place: Workplace) -> str:
    """The URL of a database that ``todo-api migrate`` has prepared."""
    name = f"served_{uuid4().hex}"
    asyncio.run(create_database(server_url, name))
    url = urlsplit(server_url)._replace(path=f"/{name}").geturl()
    result = place.todo_api("migrate", DATABASE_URL=url)
    assert result.returncode == 0, result.stderr
    return url


@pytest.fixture(scope="module")
def service(place: Workplace, database_url: str) -> Iterator[Service]:
    with place.serving("serve", DATABASE_URL=database_url, **SHARED_SECRET) as service:
        yield service


async def create_database(server_url: str, name: str) -> None:
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()


def frontend_token(user: str) -> str:
    """A token as a frontend signs it for its user."""
    now = datetime.now(UTC)
    claims = {"sub": user, "iat": now, "exp": now + timedelta(minutes=15)}
    return str(jwt.encode(claims, SECRET, algorithm="HS256"))


# What is changed in SETTINGS, and words of the sentence with which that is refused.
REFUSALS: Final = {
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
    "another machine's address": ({"HOST": "192.0.2.1"}, "HOST=192.0.2.1 is no address"),
    "no port": ({"PORT": "web"}, "PORT must be a"),
}


@pytest.fixture(scope="module")
def attempts(place: Workplace) -> dict[str, CompletedProcess[str]]:
    """What comes of serving with each of them, tried two at a time to save time."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        changes = [SETTINGS | changed for changed, _ in REFUSALS.values()]
        results = pool.map(lambda settings: place.todo_api("serve", **settings), changes)
        return dict(zip(REFUSALS, results, strict=True))


class TestRefusal:
    @pytest.mark.parametrize("case", REFUSALS)
    def test_is_a_sentence_on_what_to_change(
        self, attempts: dict[str, CompletedProcess[str]], case: str
    ) -> None:
        _, words = REFUSALS[case]
        sentence = refusal(attempts[case])
        assert words in sentence
        assert PASSWORD not in sentence

    def test_names_all_that_is_missing_at_once(self, place: Workplace) -> None:
        result = place.todo_api("serve")
        assert result.returncode == 1
        assert "DATABASE_URL is missing" in result.stderr
        assert "BETTER_AUTH_URL is missing" in result.stderr

    def test_tells_which_port_is_taken(self, place: Workplace) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            sentence = refusal(place.todo_api("serve", **SETTINGS, PORT=str(port)))
        assert f"port {port} is taken" in sentence


class TestService:
    def test_serves_the_users_of_a_frontend_that_signs_for_them(self, service: Service) -> None:
        with (
            service.client(frontend_token("ada")) as ada,
            service.client(frontend_token("eve")) as eve,
        ):
            task = ada.post("/api/tasks", json={"title": "Buy milk"}).json()
            assert task in ada.get("/api/tasks").json()
            assert eve.get(f"/api/tasks/{task['id']}").status_code == 404
            assert ada.delete(f"/api/tasks/{task['id']}").json() == task

    def test_is_refused_by_any_other_server_where_it_is_unsafe(self, place: Workplace) -> None:
        unsafe = {"DATABASE_URL": "postgresql://ada@db.example.com/todo?sslmode=require"}
        result = place.run(
            sys.executable, "-c", "import todo_api.main as m; m.app()", **SETTINGS | unsafe
        )
        assert result.returncode == 1
        assert "ConfigurationError: DATABASE_URL" in result.stderr

    def test_refuses_development_tokens(self, place: Workplace, service: Service) -> None:
        token = place.todo_api("token", "ada").stdout.strip()
        with service.client(token) as impostor:
            answer = impostor.get("/api/tasks")
        assert answer.status_code == 401
        assert answer.json()["code"] == "token_invalid"

    def test_has_no_origin_that_browsers_may_call_from_unless_told(self, service: Service) -> None:
        with service.client() as frontend:
            answer = frontend.get("/health/live", headers={"Origin": "http://localhost:3000"})
        assert "access-control-allow-origin" not in answer.headers

    def test_writes_no_secret_to_its_log(self, service: Service) -> None:
        token = frontend_token("ada")
        with service.client(token) as ada:
            ada.post("/api/tasks", json={"title": "Nobody's business"})
        log = service.stdout + service.stderr
        assert '"user":"ada"' in log
        for secret in (SECRET, token, "Nobody's business"):
            assert secret not in log

    def test_listens_at_an_address_that_is_a_name(self, place: Workplace) -> None:
        with place.serving("serve", **SETTINGS, HOST="localhost") as service:
            assert service.listens()

    def test_runs_as_many_workers_as_wanted_and_ends_them_all(
        self, place: Workplace, service: Service, database_url: str
    ) -> None:
        assert service.listens()
        variables = {"DATABASE_URL": database_url, "WORKERS": "2", **SHARED_SECRET}
        with workplace() as other, other.serving("serve", **variables) as two_workers:
            assert eventually(lambda: len(other.processes()) > len(place.processes()))
            for _ in range(10):
                with two_workers.client(frontend_token("ada")) as ada:
                    assert ada.get("/api/tasks").status_code == 200
            two_workers.send(signal.SIGTERM)
            assert two_workers.exit_code() == 0
            assert other.remaining() == {}


class TestDatabase:
    def test_that_is_not_prepared_is_refused(
        self, place: Workplace, server_url: str, empty_database: DatabaseUrl
    ) -> None:
        url = urlsplit(server_url)._replace(path=f"/{empty_database.url.database}").geturl()
        sentence = refusal(place.todo_api("serve", DATABASE_URL=url, **SHARED_SECRET))
        assert "todo-api migrate" in sentence

    def test_may_be_away_and_come_back_any_time(self, place: Workplace) -> None:
        directory = place.root / "database"
        with embedded_postgres(directory) as url:
            assert place.todo_api("migrate", DATABASE_URL=url).returncode == 0

        with (
            place.serving("serve", DATABASE_URL=url, **SHARED_SECRET) as service,
            service.client(frontend_token("ada")) as ada,
        ):
            assert_away(ada)
            for _ in range(2):
                with embedded_postgres(directory):
                    assert eventually(lambda: ada.get("/health/ready").is_success)
                    assert ada.post("/api/tasks", json={"title": "Buy milk"}).is_success
                assert_away(ada)


def assert_away(client: httpx.Client) -> None:
    """The service lives, and says of everything else that it has to wait for the database."""
    assert client.get("/health/live").status_code == 200

    ready = client.get("/health/ready")
    assert ready.status_code == 503
    assert "database" in ready.text
    assert "auth_keys" not in ready.text

    answer = client.get("/api/tasks")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "database_unavailable"
