"""``todo-api dev`` as a process: first start, banner, and shutdown without loss of tasks."""

import json
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest

from support.programs import require
from support.service import PATIENCE, Sandbox, Service, eventually, new_sandbox, refusal
from todo_adapters.postgres.url import DatabaseUrl

LAST_LINE: Final = "Stop it with Ctrl-C."  # of the banner

Stop = Callable[[Service], None]

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux stops orphaned processes")


@pytest.fixture(scope="class")
def sandbox() -> Iterator[Sandbox]:
    with new_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def database_url(server_url: str, empty_database: DatabaseUrl) -> str:
    """The URL of an empty database, which ``dev`` did not make."""
    return urlsplit(server_url)._replace(path=f"/{empty_database.url.database}").geturl()


@pytest.fixture(scope="class")
def service(sandbox: Sandbox) -> Iterator[Service]:
    with sandbox.serving("dev") as service:
        yield service


@pytest.fixture(scope="class")
def banner(service: Service) -> str:
    return service.wait_until_it_says(LAST_LINE)


@pytest.fixture(scope="class")
def alice(sandbox: Sandbox, service: Service) -> Iterator[httpx.Client]:
    with service.client(token(sandbox, "alice")) as alice:
        yield alice


@pytest.fixture(scope="class")
def bob(sandbox: Sandbox, service: Service) -> Iterator[httpx.Client]:
    with service.client(token(sandbox, "bob")) as bob:
        yield bob


@pytest.fixture(scope="class")
def alices_token(sandbox: Sandbox) -> str:
    """A token that every service in this directory accepts."""
    return token(sandbox, "alice")


def token(sandbox: Sandbox, user: str) -> str:
    return sandbox.todo_api("token", user).stdout.strip()


def create_task(client: httpx.Client) -> str:
    """Create a task and return its id."""
    response = client.post("/api/tasks", json={"title": "Buy milk"})
    assert response.status_code == 201
    return str(response.json()["id"])


def ids(client: httpx.Client) -> set[str]:
    return {task["id"] for task in client.get("/api/tasks").json()}


def commands(banner: str) -> str:
    """The commands in the banner: the lines without indentation."""
    lines = banner.partition("todo-api is ready")[2].splitlines()
    return "\n".join(line for line in lines if line and not line.startswith(" "))


def documents(text: str) -> list[Any]:
    """The JSON documents in the text, one on each line."""
    return [json.loads(line) for line in text.splitlines()]


class TestFirstStart:
    def test_prints_the_urls_of_api_and_documentation(self, service: Service, banner: str) -> None:
        assert f"{service.url}/api/tasks" in banner
        assert f"{service.url}/docs" in banner
        with service.client() as client:
            assert "<html" in client.get("/docs").text

    @pytest.mark.parametrize("shell", ["bash", "zsh"])
    def test_prints_commands_that_work_when_pasted(
        self, sandbox: Sandbox, banner: str, shell: str
    ) -> None:
        require("curl")
        result = sandbox.run(require(shell), "-e", "-c", commands(banner))
        assert result.returncode == 0, result.stderr
        assert result.stdout.endswith("}\n")

        new, listed, urgent, complete, not_found, deleted, bobs = documents(result.stdout)

        assert new["title"] == "Buy milk"
        assert new in listed
        assert urgent["id"] in {task["id"] for task in listed} - {new["id"]}
        assert urgent["priority"] == "high"
        assert (complete["id"], complete["completed"]) == (urgent["id"], True)
        assert not_found["code"] == "not_found"
        assert deleted == complete
        assert bobs["user_id"] == "bob"

    def test_lets_users_change_and_delete_their_tasks(self, alice: httpx.Client) -> None:
        address = f"/api/tasks/{create_task(alice)}"

        assert alice.put(address, json={"title": "Buy oats"}).json()["title"] == "Buy oats"
        assert alice.patch(f"{address}/complete", json={"completed": True}).json()["completed"]
        assert not alice.patch(f"{address}/toggle").json()["completed"]
        assert alice.delete(address).json()["title"] == "Buy oats"
        assert alice.get(address).status_code == 404

    def test_isolates_users(self, alice: httpx.Client, bob: httpx.Client) -> None:
        address = f"/api/tasks/{create_task(alice)}"
        responses = [
            bob.get(address),
            bob.put(address, json={"title": "Bob's"}),
            bob.patch(f"{address}/complete"),
            bob.patch(f"{address}/toggle"),
            bob.delete(address),
        ]

        assert {response.status_code for response in responses} == {404}
        assert alice.get(address).json()["version"] == 1
        assert create_task(bob) not in ids(alice)
        assert not ids(alice) & ids(bob)

    def test_writes_only_to_its_data_directory(self, sandbox: Sandbox, service: Service) -> None:
        assert service.health().status_code == 200
        assert [path.name for path in sandbox.directory.iterdir()] == [".todo"]
        assert list(sandbox.home.iterdir()) == []

    def test_creates_a_key_that_only_its_owner_can_read(
        self, sandbox: Sandbox, service: Service
    ) -> None:
        assert service.health().status_code == 200
        keys = sandbox.directory.glob(".todo/*/*.pem")
        assert [key.stat().st_mode & 0o077 for key in keys] == [0]

    def test_can_be_seeded_with_tasks(self, sandbox: Sandbox, bob: httpx.Client) -> None:
        before = ids(bob)
        result = sandbox.todo_api("seed", "bob")
        assert result.returncode == 0, result.stderr
        assert len(ids(bob) - before) > 3

    def test_passes_all_checks_of_the_doctor(self, sandbox: Sandbox, service: Service) -> None:
        assert service.health().status_code == 200
        result = sandbox.todo_api("doctor")
        assert result.returncode == 0, result.stdout

    def test_keeps_running_when_a_second_one_starts_on_its_port(
        self, sandbox: Sandbox, service: Service
    ) -> None:
        result = sandbox.todo_api("dev", PORT=str(service.port))
        assert f"port {service.port} is in use" in refusal(result)
        assert service.health().status_code == 200


class TestStart:
    def test_with_incomplete_auth_settings_is_an_error(self, sandbox: Sandbox) -> None:
        error = refusal(sandbox.todo_api("dev", AUTH_MODE="shared-secret"))
        assert error.startswith("BETTER_AUTH_SECRET is missing")

    def test_changes_the_schema_of_another_database_only_with_the_option(
        self, sandbox: Sandbox, database_url: str
    ) -> None:
        error = refusal(sandbox.todo_api("dev", DATABASE_URL=database_url))
        assert error.startswith("the database has schema version none")
        assert error.endswith("run `todo-api dev --migrate`")
        with sandbox.serving("dev", "--migrate", DATABASE_URL=database_url) as service:
            banner = service.wait_until_it_says(LAST_LINE)
        assert f"{urlsplit(database_url).path}, from DATABASE_URL" in banner
        with sandbox.serving("dev", DATABASE_URL=database_url) as service:
            assert service.health().status_code == 200

    def test_logs_one_readable_line_for_each_request_and_no_warning(
        self, sandbox: Sandbox, alices_token: str
    ) -> None:
        with sandbox.serving("dev", LOG_FORMAT="console") as service:
            with service.client(alices_token) as alice:
                task = create_task(alice)
                alice.get(f"/nothing%0Ahere/{task}")
            assert eventually(lambda: " 404 " in service.stdout)
            created, unknown = service.stdout.splitlines()[-2:]
        assert re.fullmatch(r"\d\d:\d\d:\d\d POST /api/tasks 201 [0-9.]+ ms alice", created)
        assert re.fullmatch(rf"[0-9:]+ GET /nothing%0Ahere/{task} 404 [0-9.]+ ms", unknown)
        assert "warning" not in service.stdout

    def test_ignores_variables_of_libraries(self, sandbox: Sandbox) -> None:
        variables = {
            "http_proxy": "http://127.0.0.1:1",
            "ALL_PROXY": "socks5://127.0.0.1:1",
            "NO_PROXY": "[::1]",
            "SSL_CERT_FILE": "/nonexistent",
            "SSLKEYLOGFILE": "/nonexistent/keys",
            "PGHOST": "elsewhere.example",
            "PGSERVICE": "nonsense",
            "PGSSLMODE": "verify-full",
            "PGSSLNEGOTIATION": "direct",
            "PGTARGETSESSIONATTRS": "standby",
            "PGGSSLIB": "nonsense",
            "GRANIAN_PORT": "nonsense",
            "GRANIAN_INTERFACE": "nonsense",
            "PROMETHEUS_MULTIPROC_DIR": "/nonexistent",
            "prometheus_multiproc_dir": "",
            "OTEL_PROPAGATORS": "nonsense",
            "OTEL_PYTHON_CONTEXT": "nonsense",
            "PYTHONIOENCODING": "ascii",
            "LANG": "C",
            "TZ": "Nonsense/Zone",
            "COLUMNS": "nonsense",
        }
        with sandbox.serving("dev", **variables) as service:
            assert service.wait_until_it_says(LAST_LINE)
            assert service.health().status_code == 200
            assert not list(sandbox.directory.glob("*.db"))

    def test_with_an_auth_server_prints_no_development_tokens(self, sandbox: Sandbox) -> None:
        origin = "http://localhost:3000"
        with sandbox.serving("dev", BETTER_AUTH_URL=origin) as service:
            banner = service.wait_until_it_says(LAST_LINE)
        assert origin in banner
        assert commands(banner) == ""


@pytest.fixture(scope="class")
def acknowledged() -> set[str]:
    """The ids of all tasks that earlier starts acknowledged."""
    return set()


class TestStop:
    """Each start finds the tasks that were acknowledged before it."""

    @linux
    @pytest.mark.parametrize(
        ("stop", "exit_code"),
        [
            pytest.param(lambda service: service.send(signal.SIGKILL), -9, id="kill"),
            pytest.param(Service.press_ctrl_c, 0, id="ctrl-c"),
            pytest.param(lambda service: service.send(signal.SIGTERM), 0, id="sigterm"),
            pytest.param(lambda service: service.send(signal.SIGHUP), 0, id="closed-terminal"),
        ],
    )
    def test_leaves_no_process_and_loses_no_task(
        self,
        sandbox: Sandbox,
        alices_token: str,
        acknowledged: set[str],
        stop: Stop,
        exit_code: int,
    ) -> None:
        with sandbox.serving("dev") as service:
            with service.client(alices_token) as alice:
                assert acknowledged <= ids(alice)
                acknowledged |= {create_task(alice) for _ in range(10)}
            stop(service)
            assert service.exit_code() == exit_code
            assert sandbox.remaining() == {}
            assert "Traceback" not in service.stderr + service.stdout

    @linux
    def test_before_the_service_runs_stops_the_database_too(self) -> None:
        with new_sandbox() as sandbox, sandbox.start(sandbox.program, "dev") as service:
            service.wait_until_it_says("Creating a new database")
            service.send(signal.SIGTERM)
            assert service.exit_code() == 128 + signal.SIGTERM
            assert sandbox.remaining() == {}
            assert "Traceback" not in service.stderr

    def test_waits_for_the_request_in_flight(
        self, sandbox: Sandbox, alices_token: str, acknowledged: set[str]
    ) -> None:
        with sandbox.serving("dev") as service:
            with service.client(alices_token) as alice:
                assert acknowledged <= ids(alice)
            with incomplete_request(service.port, alices_token) as (connection, rest):
                service.send(signal.SIGTERM)
                assert eventually(lambda: not service.listens())
                connection.send(rest)
                assert connection.getresponse().status == 201
            assert service.exit_code() == 0


@contextmanager
def incomplete_request(port: int, token: str) -> Iterator[tuple[HTTPConnection, bytes]]:
    """A connection on which the service waits for the rest of a request body, and that rest."""
    body = json.dumps({"title": "Buy milk"}).encode()
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.putrequest("POST", "/api/tasks")
    connection.putheader("Authorization", f"Bearer {token}")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.putheader("Expect", "100-continue")
    connection.endheaders(body[:5])
    # "100 Continue" arrives when the application reads the body (RFC 9110, section 10.1.1).
    assert connection.sock.recv(1, socket.MSG_PEEK)
    try:
        yield connection, body[5:]
    finally:
        connection.close()
