"""Request ids, the log line of each request, and unexpected exceptions."""

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.typing import EventDict

from support.http_client import FRONTEND, FailingRepository, StaticVerifier, client, served
from todo_api.http.errors import EXCEPTION_HANDLERS
from todo_domain.errors import InvalidTask, Violation

MEMBERS: Final = frozenset(
    {"event", "method", "route", "status", "ms", "user", "client", "request_id"}
)

# Parts of the token, of tasks and of personal data, which must not be logged.
PRIVATE: Final = ("eyJhbGciOi", "Buy milk", "2 litres", "ada@example.com", "Ada Lovelace")


def lines(log: list[EventDict], event: str = "request") -> list[EventDict]:
    return [entry for entry in log if entry["event"] == event]


class TestRequestId:
    @pytest.mark.parametrize("request_id", ["1", "0198f3c27d1e7c3a9b1f", "a.B-c_9", "x" * 64])
    async def test_a_valid_request_id_of_the_client_is_kept(
        self, ada: httpx.AsyncClient, request_id: str
    ) -> None:
        response = await ada.get("/api/tasks", headers={"X-Request-ID": request_id})
        assert response.headers.get_list("X-Request-ID") == [request_id]

    @pytest.mark.parametrize(
        "request_id",
        [
            *(b"", b" ", b"x" * 65, b"two words", b"a,b", b"a\nb", b"a\0b"),
            *(b'{"a": 1}', b"\x1b[31m", b"\xff\xfe", "é".encode(), b"<script>", b"a/b"),
        ],
    )
    async def test_an_invalid_request_id_is_replaced(
        self, ada: httpx.AsyncClient, request_id: bytes
    ) -> None:
        response = await ada.get("/api/tasks", headers=[(b"X-Request-ID", request_id)])
        assert response.status_code == 200
        assert response.headers["X-Request-ID"].isalnum()
        assert response.headers["X-Request-ID"].encode() != request_id

    async def test_every_request_has_its_own_request_id(self, ada: httpx.AsyncClient) -> None:
        given = {(await ada.get("/api/tasks")).headers["X-Request-ID"] for _ in range(10)}
        assert len(given) == 10

    async def test_response_problem_and_log_have_the_same_request_id(
        self, stranger: httpx.AsyncClient, log: list[EventDict]
    ) -> None:
        response = await stranger.get("/api/tasks", headers={"X-Request-ID": "mine"})
        assert response.json()["request_id"] == "mine"
        assert [(entry["event"], entry["request_id"]) for entry in log] == [
            ("auth.rejected", "mine"),
            ("request", "mine"),
        ]


class TestLogLine:
    async def test_the_log_line_has_exactly_these_members(
        self, ada: httpx.AsyncClient, log: list[EventDict]
    ) -> None:
        response = await ada.get("/api/tasks?q=secret")
        (line,) = log
        assert set(line) == MEMBERS | {"log_level"}
        assert line["ms"] >= 0
        assert line == {
            **line,
            "event": "request",
            "log_level": "info",
            "method": "GET",
            "route": "/api/tasks",
            "status": 200,
            "user": "ada",
            "client": "127.0.0.1",
            "request_id": response.headers["X-Request-ID"],
        }

    @pytest.mark.parametrize(
        ("request_line", "route", "status"),
        [
            ("GET /api/tasks", "/api/tasks", 200),
            ("HEAD /api/tasks", "/api/tasks", 200),
            ("GET /api/tasks/", "/api/tasks", 200),
            ("POST /api/tasks", "/api/tasks", 415),
            ("GET /api/tasks/secret", "/api/tasks/{task_id}", 404),
            ("PATCH /api/tasks/secret/toggle", "/api/tasks/{task_id}/toggle", 404),
            ("GET /api/tasks?limit=secret", "/api/tasks", 422),
            ("TRACE /api/tasks", "/api/tasks", 405),
            ("GET /secret", None, 404),
            ("GET /health/live", "/health/live", 200),
        ],
    )
    async def test_the_log_line_has_method_route_template_and_status(
        self,
        ada: httpx.AsyncClient,
        log: list[EventDict],
        request_line: str,
        route: str | None,
        status: int,
    ) -> None:
        method, path = request_line.split()
        await ada.request(method, path)
        (line,) = lines(log)
        assert (line["method"], line["route"], line["status"]) == (method, route, status)

    def test_every_request_is_logged_once(
        self, any_response: httpx.Response, log: list[EventDict]
    ) -> None:
        assert [line["status"] for line in lines(log)] == [any_response.status_code]

    async def test_an_ipv4_client_of_a_dual_stack_socket_is_logged_as_ipv4(
        self, app: ASGIApp, log: list[EventDict]
    ) -> None:
        transport = httpx.ASGITransport(app, client=("::ffff:192.0.2.1", 50000))
        async with httpx.AsyncClient(transport=transport, base_url="http://todo.test") as stranger:
            await stranger.get("/health/live")
        assert [line["client"] for line in lines(log)] == ["192.0.2.1"]

    async def test_a_preflight_is_logged(
        self, stranger: httpx.AsyncClient, log: list[EventDict]
    ) -> None:
        headers = {"Origin": FRONTEND, "Access-Control-Request-Method": "GET"}
        await stranger.options("/api/tasks", headers=headers)
        assert [(line["method"], line["status"]) for line in lines(log)] == [("OPTIONS", 204)]

    async def test_a_request_without_a_token_is_logged_without_a_user(
        self, stranger: httpx.AsyncClient, log: list[EventDict]
    ) -> None:
        await stranger.get("/api/tasks")
        assert [line["user"] for line in lines(log)] == [None]


async def test_tokens_tasks_and_personal_data_are_not_logged(log: list[EventDict]) -> None:
    tokens = StaticVerifier("ada", name="Ada Lovelace", email="ada@example.com")
    async with served(tokens=tokens) as app, client(app, PRIVATE[0]) as ada:
        body = {"title": "Buy milk", "description": "2 litres"}
        created = (await ada.post("/api/tasks", json=body)).json()
        await ada.patch(f"/api/tasks/{created['id']}", json={**body, "completed": "2 litres"})
        await ada.get("/api/tasks", params={"q": "Buy milk", "sort": "title", "cursor": "2 litres"})
        await ada.get("/api/tasks", headers={"X-Request-ID": "Buy milk", "User-Agent": "Buy milk"})
    assert len(lines(log)) == 4
    assert not [text for text in PRIVATE if text in str(log)]


@pytest.mark.parametrize("token", ["eyJhbGciOi.secret.token", "opaque-session-token"])
async def test_the_reason_of_a_rejected_token_is_logged_and_the_token_is_not(
    stranger: httpx.AsyncClient, log: list[EventDict], token: str
) -> None:
    await stranger.get("/api/tasks", headers={"Authorization": f"Bearer {token}"})
    (rejection,) = lines(log, "auth.rejected")
    assert (rejection["log_level"], rejection["code"]) == ("warning", "token_invalid")
    assert rejection["reason"]
    assert token not in str(log)


class TestUnexpectedException:
    @pytest.fixture
    async def response(self, log: list[EventDict]) -> AsyncIterator[httpx.Response]:
        del log
        bug = RuntimeError("at postgresql://ada:secret@db/todo")
        async with served(FailingRepository(bug)) as app, client(app, "ada") as ada:
            yield await ada.get("/api/tasks", headers={"Origin": FRONTEND})

    def test_an_unexpected_exception_is_a_500_without_details(
        self, response: httpx.Response
    ) -> None:
        request_id = response.headers["X-Request-ID"]
        assert response.status_code == 500
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.headers["Access-Control-Allow-Origin"] == FRONTEND
        assert response.json() == {
            "type": "/problems/internal_error",
            "title": "Internal error",
            "status": 500,
            "detail": "this is a bug in the service: report it with the request_id",
            "message": "this is a bug in the service: report it with the request_id",
            "code": "internal_error",
            "instance": "/api/tasks",
            "request_id": request_id,
        }

    def test_an_unexpected_exception_is_logged_with_the_request_id(
        self, response: httpx.Response, log: list[EventDict]
    ) -> None:
        (entry,) = lines(log, "internal_error")
        assert entry["log_level"] == "error"
        assert entry["exc_info"]
        assert entry["request_id"] == response.headers["X-Request-ID"]

    async def test_the_next_request_after_an_unexpected_exception_succeeds(
        self, log: list[EventDict]
    ) -> None:
        async with served(FailingRepository(RuntimeError())) as app, client(app, "ada") as ada:
            assert (await ada.get("/api/tasks")).status_code == 500
            created = await ada.post("/api/tasks", json={"title": "Buy milk"})
        assert [line["status"] for line in lines(log)] == [500, created.status_code]

    async def test_an_error_that_cannot_be_encoded_is_a_500(self, log: list[EventDict]) -> None:
        unwritable: Any = object()
        failure = InvalidTask([Violation("title", "blank", unwritable)])
        async with served(FailingRepository(failure)) as app, client(app, "ada") as ada:
            response = await ada.get("/api/tasks")
        assert (response.status_code, response.json()["code"]) == (500, "internal_error")
        assert len(lines(log, "internal_error")) == 1

    async def test_an_exception_after_the_response_has_started_is_raised_to_the_server(
        self,
    ) -> None:
        async def breaks_off(_scope: Scope, _receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise RuntimeError("too late")

        app: ASGIApp = ExceptionMiddleware(breaks_off, EXCEPTION_HANDLERS)
        async with client(app) as stranger:
            with pytest.raises(RuntimeError, match="response already started") as raised:
                await stranger.get("/")
        assert str(raised.value.__cause__) == "too late"


# Text of a hostile client, with line ends, quotes and escape sequences.
HOSTILE: Final = '\r\n{"event": "forged"}\u2028\x1b[31m\x00"\\'

PROGRAM: Final = f"""
import asyncio, sys
from urllib.parse import quote
from support.http_client import FailingRepository, client, served
from todo_api.server.logs import configure_logs

HOSTILE = {HOSTILE!r}

async def ask():
    bug = RuntimeError(HOSTILE)
    async with served(FailingRepository(bug)) as app, client(app, "ada") as ada:
        for path in ("/api/tasks", "/api/tasks/" + HOSTILE, "/" + HOSTILE):
            await ada.get(quote(path), params={{"sort": HOSTILE, HOSTILE: "x"}})
        for name in ("X-Request-ID", "User-Agent", "Accept", "Authorization", "Cookie", "Origin"):
            await ada.post("/api/tasks", headers=[(name.encode(), HOSTILE.encode())])
        await ada.get("/api/tasks")

configure_logs("info", sys.argv[1])
asyncio.run(ask())
"""


def output_of(log_format: str) -> str:
    """The output of a process that serves ten hostile requests, one with an exception."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = [sys.executable, "-W", "error", "-c", PROGRAM, log_format]
    ended = subprocess.run(
        program, env=environment, capture_output=True, text=True, check=False, timeout=30
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


class TestOutput:
    def test_json_output_is_one_object_per_line_whatever_clients_send(self) -> None:
        entries = [json.loads(line) for line in output_of("json").split("\n")[:-1]]
        assert len(lines(entries)) == 10
        assert {frozenset(entry) for entry in lines(entries)} == {MEMBERS | {"level", "time"}}
        assert len(lines(entries, "internal_error")) == 1
        assert not lines(entries, "forged")

    def test_console_output_has_one_line_per_request_and_a_traceback(self) -> None:
        output = re.sub(r"\x1b\[\d+m", "", output_of("console"))
        line = r"^[0-9:]{8} (?:GET|POST) /[!-~]* \d{3} [0-9.]+ ms(?: ada)?$"
        assert len(re.findall(line, output, re.MULTILINE)) == 10
        assert output.count("Traceback (most recent call last):\n") == 1
