"""The order in which a request is checked: method, token, Accept, path, query, body."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from fakes import InMemoryTaskRepository
from support.http_client import UnreadBody, client, plain_app, started
from support.tasks import a_task
from todo_api.http.routing import Timeouts
from todo_api.routes.tasks import router

TASK: Final = a_task()
TOKEN: Final = ("Authorization", "Bearer ada")
HTML: Final = ("Accept", "text/html")
Fields = list[tuple[str, str]]


async def a_body() -> AsyncIterator[bytes]:
    yield b"{"


class TestOrderOfChecks:
    @pytest.mark.parametrize(
        ("fields", "path", "code"),
        [
            ([HTML], "/api/tasks/malformed", "token_missing"),
            ([TOKEN, HTML], "/api/tasks/malformed", "not_acceptable"),
            ([TOKEN], "/api/tasks/malformed", "not_found"),
            ([TOKEN], f"/api/tasks/{TASK.id}", "unsupported_media_type"),
            ([TOKEN, ("Content-Type", "application/json")], f"/api/tasks/{TASK.id}", "malformed"),
        ],
        ids=["token", "Accept", "path", "media type", "body"],
    )
    async def test_token_is_checked_before_accept_before_path_before_body(
        self, stranger: httpx.AsyncClient, fields: Fields, path: str, code: str
    ) -> None:
        response = await stranger.patch(path, headers=fields, content=a_body())
        assert response.json()["code"].startswith(code)

    async def test_accept_is_checked_before_the_query(self, ada: httpx.AsyncClient) -> None:
        response = await ada.get("/api/tasks?limit=0", headers=[HTML])
        assert response.json()["code"] == "not_acceptable"

    async def test_the_body_is_checked_before_the_task_is_read(
        self, ada: httpx.AsyncClient
    ) -> None:
        response = await ada.patch(f"/api/tasks/{TASK.id}", json={"title": ""})
        assert response.json()["code"] == "validation_failed"

    async def test_path_and_method_are_checked_before_the_token(
        self, stranger: httpx.AsyncClient
    ) -> None:
        assert (await stranger.get("/api/lists")).status_code == 404
        assert (await stranger.request("TRACE", "/api/tasks")).status_code == 405


class TestBearerToken:
    @pytest.mark.parametrize(
        "value",
        ["Bearer ada", "bearer ada", "BEARER ada", "bEaReR ada", "Bearer   ada", "Bearer ada "],
    )
    async def test_the_bearer_scheme_is_case_insensitive(
        self, stranger: httpx.AsyncClient, value: str
    ) -> None:
        response = await stranger.get("/api/tasks", headers={"Authorization": value})
        assert response.status_code == 200

    @pytest.mark.parametrize(
        "value",
        [
            *("", " ", "Bearer", "Bearer ", "bearer   ", "ada", "Basic YWRhOmFkYQ==", "Token ada"),
            *("Bearerada", "Bearer:ada", "Digest ada", "JWT ada", '"Bearer" ada'),
        ],
    )
    async def test_an_authorization_field_without_a_bearer_token_is_token_missing(
        self, stranger: httpx.AsyncClient, value: str
    ) -> None:
        response = await stranger.get("/api/tasks", headers={"Authorization": value})
        assert (response.status_code, response.json()["code"]) == (401, "token_missing")
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="todo-api"'

    @pytest.mark.parametrize(
        "value", [b"Bearer eve2", b"Bearer ada, Bearer ada", b"Bearer \xff\x00", b"Bearer ada eve"]
    )
    async def test_other_text_after_the_bearer_scheme_is_token_invalid(
        self, stranger: httpx.AsyncClient, value: bytes
    ) -> None:
        response = await stranger.get("/api/tasks", headers=[(b"Authorization", value)])
        assert (response.status_code, response.json()["code"]) == (401, "token_invalid")

    @pytest.mark.parametrize(
        "values",
        [("Bearer ada", "Bearer ada"), ("Bearer ada", "Bearer eve"), ("Basic x", "Bearer ada")],
    )
    async def test_several_authorization_fields_are_token_malformed(
        self, stranger: httpx.AsyncClient, values: tuple[str, str]
    ) -> None:
        fields = [("Authorization", value) for value in values]
        response = await stranger.get("/api/tasks", headers=fields)
        assert (response.status_code, response.json()["code"]) == (401, "token_malformed")

    @pytest.mark.parametrize(
        ("token", "detail"),
        [
            ("undefined", "has no token yet and sent undefined instead"),
            ("null", "has no token yet and sent null instead"),
            ("None", "has no token yet and sent none instead"),
            ("NaN", "has no token yet and sent nan instead"),
            ("false", "has no token yet and sent false instead"),
            ('""', "has no token yet and sent an empty text instead"),
            ("''", "has no token yet and sent an empty text instead"),
            ('"undefined"', "has no token yet and sent undefined instead"),
            ("[object Object]", "sent an object or a promise"),
            ("[object Promise]", "sent an object or a promise"),
            ("Promise", "sent an object or a promise"),
            ("Promise { <pending> }", "sent an object or a promise"),
            ("<coroutine object token at 0x7f>", "sent an object or a promise"),
            ('{"token":"ada"}', "sent a JSON object"),
            ("{}", "sent a JSON object"),
            ("${token}", "sent a placeholder"),
            ("{{token}}", "sent a placeholder"),
            ("<token>", "sent a placeholder"),
            ("$TOKEN", "sent a placeholder"),
            ("YOUR_TOKEN", "sent a placeholder"),
            ("Bearer ada", "the word Bearer is there twice"),
            ("bearer: ada", "the word Bearer is there twice"),
            ('"ada"', "is in quotation marks"),
            ("'ada'", "is in quotation marks"),
            ('ada"', "is in quotation marks"),
        ],
    )
    async def test_a_common_mistake_of_a_frontend_is_named(
        self, stranger: httpx.AsyncClient, token: str, detail: str
    ) -> None:
        response = await stranger.get("/api/tasks", headers={"Authorization": f"Bearer {token}"})
        assert (response.status_code, response.json()["code"]) == (401, "token_malformed")
        assert detail in response.json()["detail"]
        description = f'error_description="{response.json()["detail"]}"'
        assert response.headers["WWW-Authenticate"].endswith(description)

    @pytest.mark.parametrize("value", ["ada", "Token ada", "Bearer:ada", "Bearer"])
    async def test_another_form_of_the_authorization_field_is_named(
        self, stranger: httpx.AsyncClient, value: str
    ) -> None:
        response = await stranger.get("/api/tasks", headers={"Authorization": value})
        assert response.json()["detail"].startswith("Authorization: must be the word Bearer")

    @pytest.mark.parametrize(
        "fields",
        [
            {"Cookie": "token=ada; better-auth.session_token=ada; Authorization=Bearer ada"},
            {"X-Authorization": "Bearer ada"},
            {"Proxy-Authorization": "Bearer ada"},
            {"X-Access-Token": "ada", "X-User-Id": "ada", "X-Forwarded-User": "ada"},
        ],
        ids=["cookie", "X-Authorization", "Proxy-Authorization", "others"],
    )
    async def test_a_token_in_another_header_field_is_ignored(
        self, stranger: httpx.AsyncClient, fields: dict[str, str]
    ) -> None:
        response = await stranger.get("/api/tasks", headers=fields)
        assert (response.status_code, response.json()["code"]) == (401, "token_missing")

    @pytest.mark.parametrize("name", ["access_token", "token", "authorization", "jwt"])
    async def test_a_token_in_the_query_is_ignored(
        self, stranger: httpx.AsyncClient, name: str
    ) -> None:
        response = await stranger.get("/api/tasks", params={name: "ada"})
        assert (response.status_code, response.json()["code"]) == (401, "token_missing")

    async def test_a_token_in_the_body_is_ignored(self, stranger: httpx.AsyncClient) -> None:
        body = {"access_token": "ada", "title": "Buy milk"}
        assert (await stranger.post("/api/tasks", json=body)).status_code == 401
        assert (await stranger.post("/api/tasks", data=body)).status_code == 401


@pytest.mark.parametrize("query", [b"q=\xff", b"\xed\xa0\x80", b"q=%ff&\x80=\x00"])
async def test_a_query_that_is_not_utf_8_is_answered(app: ASGIApp, query: bytes) -> None:
    async def with_query(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "query_string": query}, receive, send)

    async with client(with_query, "ada") as ada:
        assert (await ada.get("/api/tasks")).status_code in {200, 422}


class TestAccept:
    @pytest.mark.parametrize(
        "accept",
        [
            "*/*",
            "application/*",
            "application/json",
            "Application/JSON",
            "application/problem+json",
            "application/json, text/plain, */*",
            "text/html;q=0.9, application/json;q=0.1",
            "application/json;charset=utf-8",
            "application/json; q=0.001",
            "text/html,*/*;q=0.8",
            "*",
            "text/html, *;q=0.2",
            "*/json",
            "text/json",
            "application/vnd.api+json",
            "application/*+json",
            "application/json;q=high",
            "application/json;q=",
            "application/json;",
            "",
            ",",
            "json",
            "undefined",
        ],
    )
    async def test_accept_that_allows_json_gets_json(
        self, ada: httpx.AsyncClient, accept: str
    ) -> None:
        response = await ada.get("/api/tasks", headers={"Accept": accept})
        assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")

    async def test_accept_may_be_absent(self, ada: httpx.AsyncClient) -> None:
        request = ada.build_request("GET", "/api/tasks")
        del request.headers["Accept"]
        assert (await ada.send(request)).status_code == 200

    async def test_several_accept_fields_are_one_list(self, ada: httpx.AsyncClient) -> None:
        # RFC 9110, section 5.3
        fields = [HTML, ("Accept", "application/json")]
        assert (await ada.get("/api/tasks", headers=fields)).status_code == 200

    @pytest.mark.parametrize(
        "accept",
        [
            "text/html",
            "text/*",
            "application/xml",
            "application/jsonp",
            "application/json;q=0",
            "*;q=0",
            "*/*;q=0.000",
            "application/json; q=0.0",
            "application/json;charset=utf-8;q=0",
            "image/webp, text/html;q=0.9",
        ],
    )
    async def test_accept_that_excludes_json_is_406(
        self, ada: httpx.AsyncClient, accept: str
    ) -> None:
        response = await ada.get("/api/tasks", headers={"Accept": accept})
        assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")
        assert response.headers["Content-Type"] == "application/problem+json"


class TestMethod:
    @pytest.mark.parametrize(
        ("path", "allowed"),
        [
            ("/api/tasks", "DELETE, GET, HEAD, PATCH, POST"),
            ("/api/tasks/1", "DELETE, GET, HEAD, PATCH, PUT"),
            ("/api/tasks/1/complete", "PATCH"),
            ("/api/tasks/1/toggle", "PATCH"),
            ("/api/tasks/1/restore", "POST"),
            ("/api/ada/tasks", "DELETE, GET, HEAD, PATCH, POST"),
            ("/api/me", "DELETE, GET, HEAD"),
            ("/health/live", "GET, HEAD"),
            ("/metrics", "GET, HEAD"),
            ("/openapi.json", "GET, HEAD"),
        ],
    )
    @pytest.mark.parametrize("method", ["TRACE", "OPTIONS", "BREW", "get", "CONNECT"])
    async def test_an_unsupported_method_is_405_with_the_methods_of_the_path(
        self, ada: httpx.AsyncClient, path: str, allowed: str, method: str
    ) -> None:
        request = ada.build_request(method, path)
        request.method = method  # httpx would change it to upper case
        response = await ada.send(request)
        assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
        assert response.headers.get_list("Allow") == [allowed]

    @pytest.mark.parametrize(
        "name", ["X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method"]
    )
    async def test_the_method_cannot_be_overridden(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository, name: str
    ) -> None:
        await tasks.add(TASK)
        response = await ada.get(f"/api/tasks/{TASK.id}?_method=DELETE", headers={name: "DELETE"})
        assert response.status_code == 200
        assert await tasks.get("ada", TASK.id) == TASK


async def never_ending() -> AsyncIterator[bytes]:
    yield b"{"
    await asyncio.Event().wait()


@pytest.mark.usefixtures("log")
class TestPlainFastAPI:
    """The task routes in an app with FastAPI's own middleware and ``include_router``."""

    @pytest.mark.parametrize("authorization", [None, "Bearer mallory"])
    @pytest.mark.parametrize("body", [b"{", b" " * 2 * 1024 * 1024], ids=["malformed", "2 MiB"])
    async def test_the_token_is_checked_before_the_body_is_read(
        self, authorization: str | None, body: bytes
    ) -> None:
        unread = UnreadBody(body)
        headers = {"Authorization": authorization} if authorization else {}
        async with started(plain_app(router)) as app, client(app) as stranger:
            response = await stranger.post("/v1/api/tasks", headers=headers, content=unread)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer ")
        assert not unread.was_read

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            (b'{"title": "Buy milk"}', 201, None),
            (b'{"title": NaN}', 400, "malformed_json"),
            (b'{"title": ""}', 422, "validation_failed"),
            (b" " * (1024 * 1024 + 1), 413, "body_too_large"),
        ],
        ids=["valid", "NaN", "blank", "too large"],
    )
    async def test_the_body_is_strict_json_of_at_most_one_mebibyte(
        self, body: bytes, status: int, code: str | None
    ) -> None:
        async with started(plain_app(router)) as app, client(app, "ada") as ada:
            headers = {"Content-Type": "application/json"}
            response = await ada.post("/v1/api/tasks", content=body, headers=headers)
        assert (response.status_code, response.json().get("code")) == (status, code)

    @pytest.mark.parametrize(
        ("method", "path", "status", "code"),
        [
            ("GET", "/v1/api/lists", 404, "not_found"),
            ("GET", "/v1/api/tasks/1", 404, "not_found"),
            ("TRACE", "/v1/api/tasks", 405, "method_not_allowed"),
            ("GET", "/v1/api/tasks?limit=0", 422, "validation_failed"),
        ],
    )
    async def test_every_error_is_a_problem(
        self, method: str, path: str, status: int, code: str
    ) -> None:
        async with started(plain_app(router)) as app, client(app, "ada") as ada:
            response = await ada.request(method, path)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert response.headers["Content-Type"] == "application/problem+json"

    async def test_a_405_has_the_methods_of_the_path(self) -> None:
        async with started(plain_app(router)) as app, client(app, "ada") as ada:
            response = await ada.request("TRACE", "/v1/api/tasks")
        assert response.headers["Allow"] == "GET, HEAD, POST"

    async def test_a_body_that_takes_too_long_is_408(self) -> None:
        app = plain_app(router, timeouts=Timeouts(body=0.01))
        async with started(app) as running, client(running, "ada") as ada:
            headers = {"Content-Type": "application/json"}
            response = await ada.post("/v1/api/tasks", content=never_ending(), headers=headers)
        assert (response.status_code, response.json()["code"]) == (408, "request_timeout")
