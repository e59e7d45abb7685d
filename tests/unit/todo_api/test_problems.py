"""Problem documents: every error has a code, and every code has status, texts and headers."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest
from fastapi import HTTPException
from starlette.requests import Request

from support.http_client import FailingRepository, client, served
from todo_api.http.errors import problem_response
from todo_api.problems import PROBLEM_TYPES, problem
from todo_domain.errors import (
    AuthKeysUnavailable,
    DatabaseUnavailable,
    ImportRefused,
    InvalidTask,
    Overloaded,
    TodoError,
    TokenErrorCode,
    TokenRejected,
    TooManyAffected,
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
    409: {"not_deleted", "conflict", "id_taken", "batch_rejected"},
    410: {"sync_expired"},
    412: {"stale_version"},
    413: {"body_too_large"},
    415: {"unsupported_media_type"},
    422: {"validation_failed", "nothing_to_change", "idempotency_key_reused"},
    429: {"rate_limited"},
    431: {"headers_too_large"},
    500: {"internal_error"},
    503: {"database_unavailable", "auth_keys_unavailable", "overloaded"},
}

# The errors that need arguments.
WITH_ARGUMENTS: Final[dict[type[TodoError], TodoError]] = {
    InvalidTask: InvalidTask([Violation("title", "blank", "must not be empty")]),
    TokenRejected: TokenRejected(TokenErrorCode.EXPIRED, "expired"),
    ImportRefused: ImportRefused([0]),
    TooManyAffected: TooManyAffected(3),
}

MARK: Final = "text-of-the-client"


def subclasses(root: type[TodoError] = TodoError) -> Iterator[type[TodoError]]:
    for member in root.__subclasses__():
        yield member
        yield from subclasses(member)


def document_and_headers(code: str) -> tuple[dict[str, Any], Mapping[str, str]]:
    response = problem(a_request(), code)
    return json.loads(bytes(response.body)), response.headers


def a_request() -> Request:
    headers = [(b"x-request-id", b"r1")]
    return Request({"type": "http", "method": "GET", "path": "/api/tasks", "headers": headers})


class RejectingVerifier:
    """A verifier that rejects every token with the same code."""

    def __init__(self, code: TokenErrorCode) -> None:
        self._fault = code

    async def verify(self, token: str, now: datetime) -> Principal:
        raise TokenRejected(self._fault, f"refused at {now} for {len(token)} characters")


class TestTable:
    @pytest.mark.parametrize("failure", sorted(subclasses(), key=str))
    def test_every_error_of_the_domain_has_a_code(self, failure: type[TodoError]) -> None:
        response = problem_response(WITH_ARGUMENTS.get(failure) or failure(), a_request())
        document = json.loads(bytes(response.body))
        assert document["code"] in PROBLEM_TYPES
        assert response.status_code == document["status"] == PROBLEM_TYPES[document["code"]].status

    @pytest.mark.parametrize(("status", "codes"), CODES_OF_THE_CONTRACT.items())
    def test_the_codes_of_the_contract_have_their_status(
        self, status: int, codes: set[str]
    ) -> None:
        assert {code for code in codes if PROBLEM_TYPES[code].status == status} == codes

    @pytest.mark.parametrize("code", TokenErrorCode)
    def test_every_token_error_is_a_401(self, code: TokenErrorCode) -> None:
        assert PROBLEM_TYPES[code].status == 401


@pytest.mark.parametrize("code", sorted(PROBLEM_TYPES))
class TestEveryCode:
    def test_every_problem_has_the_members_of_the_contract(self, code: str) -> None:
        document, headers = document_and_headers(code)
        assert headers["Content-Type"] == "application/problem+json"
        assert list(document) == [
            *("type", "title", "status", "detail", "message"),
            *("code", "instance", "request_id"),
        ]
        assert document["type"] == f"/problems/{code}"
        assert (document["code"], document["status"]) == (code, PROBLEM_TYPES[code].status)
        assert (document["instance"], document["request_id"]) == ("/api/tasks", "r1")

    def test_every_problem_has_a_detail_that_its_message_repeats(self, code: str) -> None:
        document, _ = document_and_headers(code)
        assert isinstance(document["detail"], str)
        assert document["detail"].strip()
        assert document["message"] == document["detail"]
        assert document["title"].strip()

    def test_only_503_problems_have_retry_after(self, code: str) -> None:
        _, headers = document_and_headers(code)
        assert ("Retry-After" in headers) == (PROBLEM_TYPES[code].status == 503)
        assert int(headers.get("Retry-After", "1")) > 0

    def test_only_401_problems_have_a_bearer_challenge(self, code: str) -> None:
        _, headers = document_and_headers(code)
        challenge = headers.get("WWW-Authenticate", "")
        assert challenge.startswith("Bearer ") == (PROBLEM_TYPES[code].status == 401)
        # RFC 6750, section 3.1: no error code if the request has no token.
        description = re.search(
            r', error="invalid_token", error_description="([^"\\]+)"$', challenge
        )
        assert bool(description) == (code in set(TokenErrorCode) - {TokenErrorCode.MISSING})
        assert challenge.isascii()


class TestHttpException:
    """An endpoint may raise FastAPI's HTTPException."""

    def test_status_detail_and_headers_are_kept(self) -> None:
        error = HTTPException(418, "no coffee", {"X-Pot": "small"})
        response = problem_response(error, a_request())
        document = json.loads(bytes(response.body))
        assert (response.status_code, response.headers["X-Pot"]) == (418, "small")
        assert document == {
            "type": "about:blank",
            "title": "I'm a Teapot",
            "status": 418,
            "detail": "no coffee",
            "message": "no coffee",
            "code": "http_418",
            "instance": "/api/tasks",
            "request_id": "r1",
        }

    @pytest.mark.parametrize(
        ("detail", "text"), [({"tea": ["only"]}, '{"tea":["only"]}'), ("\ud800", "?")]
    )
    def test_any_detail_becomes_text(self, detail: object, text: str) -> None:
        response = problem_response(HTTPException(409, detail), a_request())
        assert json.loads(bytes(response.body))["detail"] == text

    def test_a_status_with_a_code_keeps_the_detail_and_has_the_code(self) -> None:
        response = problem_response(HTTPException(404, "no such list"), a_request())
        document = json.loads(bytes(response.body))
        assert (document["code"], document["detail"]) == ("not_found", "no such list")

    @pytest.mark.parametrize("status", [204, 304])
    def test_a_status_without_a_body_has_none(self, status: int) -> None:
        response = problem_response(HTTPException(status, headers={"ETag": '"1"'}), a_request())
        assert (response.body, response.headers["ETag"]) == (b"", '"1"')

    def test_an_unknown_status_is_kept(self) -> None:
        response = problem_response(HTTPException(499, "gone"), a_request())
        document = json.loads(bytes(response.body))
        assert (response.status_code, document["title"]) == (499, "Error")


class TestOverHttp:
    @pytest.mark.parametrize("code", TokenErrorCode)
    @pytest.mark.usefixtures("log")
    async def test_every_token_error_has_its_own_401_response(self, code: TokenErrorCode) -> None:
        async with served(tokens=RejectingVerifier(code)) as app, client(app, "ada") as ada:
            response = await ada.get("/api/tasks")
        assert (response.status_code, response.json()["code"]) == (401, code.value)
        assert (
            response.headers["WWW-Authenticate"] == PROBLEM_TYPES[code].headers["WWW-Authenticate"]
        )
        assert "refused at" not in response.text

    async def test_the_problem_of_a_session_token_says_where_to_get_a_jwt(self) -> None:
        document, _ = document_and_headers(TokenErrorCode.NOT_JWT)
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
    async def test_an_unavailable_part_is_a_503_without_details(
        self, failure: TodoError, code: str
    ) -> None:
        async with served(FailingRepository(failure)) as app, client(app, "ada") as ada:
            response = await ada.get("/api/tasks")
        assert (response.status_code, response.json()["code"]) == (503, code)
        assert int(response.headers["Retry-After"]) > 0
        assert "internal" not in response.text

    async def test_a_validation_problem_has_exactly_these_bytes(
        self, ada: httpx.AsyncClient
    ) -> None:
        response = await ada.post("/api/tasks", json={"title": ""}, headers={"X-Request-ID": "r1"})
        assert response.content == (
            b'{"type":"/problems/validation_failed","title":"Validation failed","status":422,'
            b'"detail":"title: must not be empty","message":"title: must not be empty",'
            b'"code":"validation_failed","instance":"/api/tasks","request_id":"r1",'
            b'"errors":[{"field":"title","pointer":"/title","code":"blank",'
            b'"message":"must not be empty"}]}'
        )

    async def test_the_detail_has_the_first_five_errors_and_errors_has_all(
        self, ada: httpx.AsyncClient
    ) -> None:
        response = await ada.post("/api/tasks", json={"tags": ["x" * 51] * 8})
        document = response.json()
        assert len(document["errors"]) == 9
        assert document["detail"].count("; ") == 5
        assert document["detail"].endswith("; and 4 more")

    @pytest.mark.parametrize("path", ["a b", "é", '"', "%", "<script>", "a\nb", "\0"])
    async def test_the_instance_is_a_uri_reference_for_any_path(
        self, ada: httpx.AsyncClient, path: str
    ) -> None:
        # RFC 9457, section 3.1.5
        response = await ada.get(f"/api/tasks/{quote(path)}")
        assert response.json()["instance"] == f"/api/tasks/{quote(path)}"


class TestEcho:
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
    async def test_values_of_a_body_are_not_echoed(
        self, ada: httpx.AsyncClient, body: object
    ) -> None:
        response = await ada.post("/api/tasks", json=body)
        assert response.status_code == 422
        assert MARK not in response.text
        assert MARK not in str(response.headers)

    @pytest.mark.parametrize("body", [f'{{"{MARK}', f"{MARK}", f'{{"title": {MARK}}}'])
    async def test_malformed_json_is_not_echoed(self, ada: httpx.AsyncClient, body: str) -> None:
        headers = {"Content-Type": "application/json"}
        response = await ada.post("/api/tasks", content=body, headers=headers)
        assert response.status_code == 400
        assert MARK not in response.text

    @pytest.mark.parametrize(
        "parameter",
        [
            *("status", "completed", "priority", "due_before", "due_after"),
            *("sort", "order", "limit", "cursor"),
        ],
    )
    async def test_values_of_a_query_are_not_echoed(
        self, ada: httpx.AsyncClient, parameter: str
    ) -> None:
        response = await ada.get("/api/tasks", params={parameter: MARK})
        assert response.status_code in {400, 422}
        assert MARK not in response.text

    @pytest.mark.parametrize("name", ["Accept", "Content-Type", "Content-Encoding"])
    async def test_values_of_header_fields_are_not_echoed(
        self, ada: httpx.AsyncClient, name: str
    ) -> None:
        response = await ada.post("/api/tasks", headers={name: MARK})
        assert response.status_code in {406, 415}
        assert MARK not in response.text
        assert MARK not in str(response.headers)
