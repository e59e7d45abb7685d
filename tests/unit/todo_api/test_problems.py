"""Every failure has a problem, and every problem says what a person and a program need."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest
from starlette.requests import Request

from support.http_client import FailingRepository, client, served
from todo_api.http.errors import problem_response
from todo_api.problems import PROBLEM_TYPES, problem
from todo_domain.errors import (
    AuthKeysUnavailable,
    DatabaseUnavailable,
    InvalidTask,
    Overloaded,
    TodoError,
    TokenErrorCode,
    TokenRejected,
    Violation,
)
from todo_domain.ownership import Principal

CODES_OF_THE_CONTRACT: Final = {
    400: {"malformed_json", "filter_required", "bad_cursor"},
    401: {"token_missing", "token_malformed", "token_not_jwt", "token_expired", "token_invalid"},
    403: {"user_mismatch"},
    404: {"not_found"},
    405: {"method_not_allowed"},
    406: {"not_acceptable"},
    409: {"not_deleted", "conflict"},
    412: {"stale_version"},
    413: {"body_too_large"},
    415: {"unsupported_media_type"},
    422: {"validation_failed", "idempotency_key_reused"},
    429: {"rate_limited"},
    431: {"headers_too_large"},
    500: {"internal_error"},
    503: {"database_unavailable", "auth_keys_unavailable", "overloaded"},
}

# The errors that need arguments.
PARTICULAR: Final[dict[type[TodoError], TodoError]] = {
    InvalidTask: InvalidTask([Violation("title", "blank", "must not be empty")]),
    TokenRejected: TokenRejected(TokenErrorCode.EXPIRED, "expired"),
}

MARK: Final = "x-marks-the-input"


def family(root: type[TodoError] = TodoError) -> Iterator[type[TodoError]]:
    for member in root.__subclasses__():
        yield member
        yield from family(member)


def rendered(code: str) -> tuple[dict[str, Any], Mapping[str, str]]:
    answer = problem(a_request(), code)
    return json.loads(bytes(answer.body)), answer.headers


def a_request() -> Request:
    headers = [(b"x-request-id", b"r1")]
    return Request({"type": "http", "path": "/api/tasks", "headers": headers})


class RejectingVerifier:
    """A verifier for which every token has the same fault."""

    def __init__(self, fault: TokenErrorCode) -> None:
        self._fault = fault

    async def verify(self, token: str, now: datetime) -> Principal:
        raise TokenRejected(self._fault, f"refused at {now} for {len(token)} characters")


class TestTheTable:
    @pytest.mark.parametrize("failure", sorted(family(), key=str))
    def test_has_a_code_for_every_failure(self, failure: type[TodoError]) -> None:
        answer = problem_response(PARTICULAR.get(failure) or failure(), a_request())
        document = json.loads(bytes(answer.body))
        assert document["code"] in PROBLEM_TYPES
        assert answer.status_code == document["status"] == PROBLEM_TYPES[document["code"]].status

    @pytest.mark.parametrize(("status", "codes"), CODES_OF_THE_CONTRACT.items())
    def test_has_the_contracts_codes_at_the_contracts_status(
        self, status: int, codes: set[str]
    ) -> None:
        assert {code for code in codes if PROBLEM_TYPES[code].status == status} == codes

    @pytest.mark.parametrize("fault", TokenErrorCode)
    def test_has_every_fault_of_a_token(self, fault: TokenErrorCode) -> None:
        assert PROBLEM_TYPES[fault].status == 401


@pytest.mark.parametrize("code", sorted(PROBLEM_TYPES))
class TestEveryCode:
    def test_renders_as_the_contract_shows(self, code: str) -> None:
        document, headers = rendered(code)
        assert headers["Content-Type"] == "application/problem+json"
        assert list(document) == [
            *("type", "title", "status", "detail", "message"),
            *("code", "instance", "request_id"),
        ]
        assert document["type"] == f"/problems/{code}"
        assert (document["code"], document["status"]) == (code, PROBLEM_TYPES[code].status)
        assert (document["instance"], document["request_id"]) == ("/api/tasks", "r1")

    def test_has_a_detail_to_show_which_its_message_repeats(self, code: str) -> None:
        document, _ = rendered(code)
        assert isinstance(document["detail"], str)
        assert document["detail"].strip()
        assert document["message"] == document["detail"]
        assert document["title"].strip()

    def test_says_when_to_try_again_if_something_is_away(self, code: str) -> None:
        _, headers = rendered(code)
        assert ("Retry-After" in headers) == (PROBLEM_TYPES[code].status == 503)
        assert int(headers.get("Retry-After", "1")) > 0

    def test_challenges_for_a_bearer_token_if_that_is_what_is_wrong(self, code: str) -> None:
        _, headers = rendered(code)
        challenge = headers.get("WWW-Authenticate", "")
        assert challenge.startswith("Bearer ") == (PROBLEM_TYPES[code].status == 401)
        # RFC 6750, section 3.1: no error code where no token was sent.
        told = re.search(r', error="invalid_token", error_description="([^"\\]+)"$', challenge)
        assert bool(told) == (code in set(TokenErrorCode) - {TokenErrorCode.MISSING})
        assert challenge.isascii()


class TestOverHttp:
    @pytest.mark.parametrize("fault", TokenErrorCode)
    @pytest.mark.usefixtures("log")
    async def test_every_fault_of_a_token_is_a_401_of_its_own(self, fault: TokenErrorCode) -> None:
        async with served(tokens=RejectingVerifier(fault)) as app, client(app, "ada") as ada:
            answer = await ada.get("/api/tasks")
        assert (answer.status_code, answer.json()["code"]) == (401, fault.value)
        assert (
            answer.headers["WWW-Authenticate"] == PROBLEM_TYPES[fault].headers["WWW-Authenticate"]
        )
        assert "refused at" not in answer.text

    async def test_a_session_token_is_told_where_the_jwt_comes_from(self) -> None:
        document, _ = rendered(TokenErrorCode.NOT_JWT)
        assert "/api/auth/token" in document["detail"]

    @pytest.mark.parametrize(
        ("failure", "code"),
        [
            (DatabaseUnavailable("at db.internal"), "database_unavailable"),
            (Overloaded("at db.internal"), "overloaded"),
            (AuthKeysUnavailable("at db.internal"), "auth_keys_unavailable"),
        ],
    )
    @pytest.mark.usefixtures("log")
    async def test_what_is_away_is_a_503_without_internals(
        self, failure: TodoError, code: str
    ) -> None:
        async with served(FailingRepository(failure)) as app, client(app, "ada") as ada:
            answer = await ada.get("/api/tasks")
        assert (answer.status_code, answer.json()["code"]) == (503, code)
        assert int(answer.headers["Retry-After"]) > 0
        assert "internal" not in answer.text

    async def test_a_validation_error_is_the_contracts_to_the_byte(
        self, ada: httpx.AsyncClient
    ) -> None:
        answer = await ada.post("/api/tasks", json={"title": ""}, headers={"X-Request-ID": "r1"})
        assert answer.content == (
            b'{"type":"/problems/validation_failed","title":"Validation failed","status":422,'
            b'"detail":"title: must not be empty","message":"title: must not be empty",'
            b'"code":"validation_failed","instance":"/api/tasks","request_id":"r1",'
            b'"errors":[{"field":"title","pointer":"/title","code":"blank",'
            b'"message":"must not be empty"}]}'
        )

    async def test_many_errors_are_all_listed_and_the_first_five_told(
        self, ada: httpx.AsyncClient
    ) -> None:
        answer = await ada.post("/api/tasks", json={"tags": ["x" * 51] * 8})
        document = answer.json()
        assert len(document["errors"]) == 9
        assert document["detail"].count("; ") == 5
        assert document["detail"].endswith("; and 4 more")

    @pytest.mark.parametrize("path", ["a b", "é", '"', "%", "<script>", "a\nb", "\0"])
    async def test_the_instance_is_a_uri_reference_whatever_the_path(
        self, ada: httpx.AsyncClient, path: str
    ) -> None:
        # RFC 9457, section 3.1.5
        answer = await ada.get(f"/api/tasks/{quote(path)}")
        assert answer.json()["instance"] == f"/api/tasks/{quote(path)}"


class TestTheInput:
    """Is in no problem, whatever is wrong with it."""

    @pytest.mark.parametrize(
        "body",
        [
            {"title": "Buy milk", "priority": MARK},
            {"title": "Buy milk", "due_date": MARK},
            {"title": "Buy milk", "completed": MARK},
            {"title": MARK * 20},
            {"title": f"{MARK}\0"},
            {"title": {MARK: MARK}},
            {"title": "Buy milk", "tags": MARK},
            {"title": "Buy milk", "tags": [MARK * 20, 1]},
            {MARK: MARK},
            [MARK],
            MARK,
        ],
    )
    async def test_of_a_body_is_not_echoed(self, ada: httpx.AsyncClient, body: object) -> None:
        answer = await ada.post("/api/tasks", json=body)
        assert answer.status_code == 422
        assert MARK not in answer.text
        assert MARK not in str(answer.headers)

    @pytest.mark.parametrize("body", [f'{{"{MARK}', f"{MARK}", f'{{"title": {MARK}}}'])
    async def test_of_malformed_json_is_not_echoed(self, ada: httpx.AsyncClient, body: str) -> None:
        headers = {"Content-Type": "application/json"}
        answer = await ada.post("/api/tasks", content=body, headers=headers)
        assert answer.status_code == 400
        assert MARK not in answer.text

    @pytest.mark.parametrize(
        "parameter",
        [
            *("status", "completed", "priority", "due_before", "due_after"),
            *("sort", "order", "limit", "cursor"),
        ],
    )
    async def test_of_a_query_is_not_echoed(self, ada: httpx.AsyncClient, parameter: str) -> None:
        answer = await ada.get("/api/tasks", params={parameter: MARK})
        assert answer.status_code in {400, 422}
        assert MARK not in answer.text

    @pytest.mark.parametrize("name", ["Accept", "Content-Type", "Content-Encoding"])
    async def test_of_header_fields_is_not_echoed(self, ada: httpx.AsyncClient, name: str) -> None:
        answer = await ada.post("/api/tasks", headers={name: MARK})
        assert answer.status_code in {406, 415}
        assert MARK not in answer.text
        assert MARK not in str(answer.headers)
