"""``todo-api dev`` as a process: from an empty directory to tasks that outlive every end."""

import json
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any, Final

import httpx
import pytest

from support.programs import require
from support.service import PATIENCE, Service, Workplace, eventually, refusal, workplace

LAST_WORDS: Final = "Stop it with Ctrl-C."  # of the welcome

End = Callable[[Service], None]

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends orphans")


@pytest.fixture(scope="class")
def place() -> Iterator[Workplace]:
    with workplace() as place:
        yield place


@pytest.fixture(scope="class")
def service(place: Workplace) -> Iterator[Service]:
    with place.serving("dev") as service:
        yield service


@pytest.fixture(scope="class")
def welcome(service: Service) -> str:
    return service.wait_until_it_says(LAST_WORDS)


@pytest.fixture(scope="class")
def alice(place: Workplace, service: Service) -> Iterator[httpx.Client]:
    with service.client(token(place, "alice")) as alice:
        yield alice


@pytest.fixture(scope="class")
def bob(place: Workplace, service: Service) -> Iterator[httpx.Client]:
    with service.client(token(place, "bob")) as bob:
        yield bob


@pytest.fixture(scope="class")
def lasting_token(place: Workplace) -> str:
    """A token that each start in the place believes."""
    return token(place, "alice")


def token(place: Workplace, user: str) -> str:
    return place.todo_api("token", user).stdout.strip()


def created(client: httpx.Client) -> str:
    """The id of a new task."""
    answer = client.post("/api/tasks", json={"title": "Buy milk"})
    assert answer.status_code == 201
    return str(answer.json()["id"])


def ids(client: httpx.Client) -> set[str]:
    return {task["id"] for task in client.get("/api/tasks").json()}


def to_paste(welcome: str) -> str:
    """The lines of the welcome that are commands: those that stand at the margin."""
    lines = welcome.partition("todo-api is ready")[2].splitlines()
    return "\n".join(line for line in lines if line and not line.startswith(" "))


def documents(text: str) -> list[Any]:
    """The JSON documents that stand one after the other in the text."""
    found, end = [], 0
    while end < len(text):
        document, end = json.JSONDecoder().raw_decode(text, end)
        found.append(document)
    return found


class TestFirstStart:
    def test_says_where_the_service_and_its_documentation_are(
        self, service: Service, welcome: str
    ) -> None:
        assert f"{service.url}/api/tasks" in welcome
        assert f"{service.url}/docs" in welcome
        with service.client() as anybody:
            assert "<html" in anybody.get("/docs").text

    def test_prints_lines_that_are_a_task_s_life_when_pasted(
        self, place: Workplace, welcome: str
    ) -> None:
        require("curl")
        result = place.run(require("bash"), "-e", "-c", to_paste(welcome))
        assert result.returncode == 0, result.stderr

        new, listed, urgent, complete, foreign, deleted, bobs = documents(result.stdout)

        assert new["title"] == "Buy milk"
        assert new in listed
        assert (urgent["id"], urgent["priority"]) == (new["id"], "high")
        assert (complete["id"], complete["completed"]) == (new["id"], True)
        assert foreign["code"] == "not_found"
        assert deleted == complete
        assert bobs["user_id"] == "bob"

    def test_lets_users_do_everything_with_their_tasks(self, alice: httpx.Client) -> None:
        address = f"/api/tasks/{created(alice)}"

        assert alice.put(address, json={"title": "Buy oats"}).json()["title"] == "Buy oats"
        assert alice.patch(f"{address}/complete", json={"completed": True}).json()["completed"]
        assert not alice.patch(f"{address}/toggle").json()["completed"]
        assert alice.delete(address).json()["title"] == "Buy oats"
        assert alice.get(address).status_code == 404

    def test_keeps_users_apart(self, alice: httpx.Client, bob: httpx.Client) -> None:
        address = f"/api/tasks/{created(alice)}"
        attempts = [
            bob.get(address),
            bob.put(address, json={"title": "Bob's"}),
            bob.patch(f"{address}/complete"),
            bob.patch(f"{address}/toggle"),
            bob.delete(address),
        ]

        assert {attempt.status_code for attempt in attempts} == {404}
        assert alice.get(address).json()["version"] == 1
        assert created(bob) not in ids(alice)
        assert not ids(alice) & ids(bob)

    def test_writes_nothing_outside_its_own_directory(
        self, place: Workplace, service: Service
    ) -> None:
        assert service.health().status_code == 200
        assert [path.name for path in place.directory.iterdir()] == [".todo"]
        assert list(place.home.iterdir()) == []

    def test_makes_a_key_that_nobody_else_can_read(
        self, place: Workplace, service: Service
    ) -> None:
        assert service.health().status_code == 200
        keys = place.directory.glob(".todo/*/*.pem")
        assert [key.stat().st_mode & 0o077 for key in keys] == [0]

    def test_can_be_given_tasks_to_play_with(self, place: Workplace, bob: httpx.Client) -> None:
        before = ids(bob)
        result = place.todo_api("seed", "bob")
        assert result.returncode == 0, result.stderr
        assert len(ids(bob) - before) > 3

    def test_satisfies_the_doctor(self, place: Workplace, service: Service) -> None:
        assert service.health().status_code == 200
        result = place.todo_api("doctor")
        assert result.returncode == 0, result.stdout

    def test_is_not_disturbed_by_a_second_at_its_port(
        self, place: Workplace, service: Service
    ) -> None:
        result = place.todo_api("dev", PORT=str(service.port))
        assert f"port {service.port} is taken" in refusal(result)
        assert service.health().status_code == 200


class TestStart:
    def test_with_settings_that_say_not_whom_to_believe_is_refused(self, place: Workplace) -> None:
        sentence = refusal(place.todo_api("dev", AUTH_MODE="shared-secret"))
        assert sentence.startswith("BETTER_AUTH_SECRET is missing")

    def test_with_an_auth_server_hands_out_no_tokens_of_its_own(self, place: Workplace) -> None:
        origin = "http://localhost:3000"
        with place.serving("dev", BETTER_AUTH_URL=origin) as service:
            welcome = service.wait_until_it_says(LAST_WORDS)
        assert origin in welcome
        assert to_paste(welcome) == ""


@pytest.fixture(scope="class")
def acknowledged() -> set[str]:
    """The tasks of the starts so far."""
    return set()


class TestEnd:
    """Each start finds the tasks that were acknowledged before the ends before it."""

    @linux
    @pytest.mark.parametrize(
        ("end", "exit_code"),
        [
            pytest.param(lambda service: service.send(signal.SIGKILL), -9, id="kill"),
            pytest.param(Service.press_ctrl_c, 0, id="ctrl-c"),
            pytest.param(lambda service: service.send(signal.SIGTERM), 0, id="sigterm"),
            pytest.param(lambda service: service.send(signal.SIGHUP), 0, id="closed-terminal"),
        ],
    )
    def test_leaves_no_process_and_loses_no_task(
        self,
        place: Workplace,
        lasting_token: str,
        acknowledged: set[str],
        end: End,
        exit_code: int,
    ) -> None:
        with place.serving("dev") as service:
            with service.client(lasting_token) as alice:
                assert acknowledged <= ids(alice)
                acknowledged |= {created(alice) for _ in range(10)}
            end(service)
            assert service.exit_code() == exit_code
            assert place.remaining() == {}
            assert "Traceback" not in service.stderr + service.stdout

    def test_waits_for_the_request_that_is_under_way(
        self, place: Workplace, lasting_token: str, acknowledged: set[str]
    ) -> None:
        with place.serving("dev") as service:
            with service.client(lasting_token) as alice:
                assert acknowledged <= ids(alice)
            with half_a_task(service.port, lasting_token) as (connection, rest):
                service.send(signal.SIGTERM)
                assert eventually(lambda: not service.listens())
                connection.send(rest)
                assert connection.getresponse().status == 201
            assert service.exit_code() == 0


@contextmanager
def half_a_task(port: int, token: str) -> Iterator[tuple[HTTPConnection, bytes]]:
    """A connection on which the service waits for the rest of a new task, and that rest."""
    body = json.dumps({"title": "Buy milk"}).encode()
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.putrequest("POST", "/api/tasks")
    connection.putheader("Authorization", f"Bearer {token}")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.putheader("Expect", "100-continue")
    connection.endheaders(body[:5])
    # Its "100 Continue" comes when the application asks for the body (RFC 9110, section 10.1.1).
    assert connection.sock.recv(1, socket.MSG_PEEK)
    try:
        yield connection, body[5:]
    finally:
        connection.close()
