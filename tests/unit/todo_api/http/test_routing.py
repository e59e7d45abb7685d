"""In which order a request is judged, and what it takes to be heard."""

from collections.abc import AsyncIterator
from typing import Annotated, Final

import httpx
import pytest
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from fakes import InMemoryTaskRepository
from support.tasks import a_task
from todo_api.http.routing import ApiRoute

TASK: Final = a_task()
TOKEN: Final = ("Authorization", "Bearer ada")
HTML: Final = ("Accept", "text/html")
Fields = list[tuple[str, str]]


async def everything_is_read() -> AsyncIterator[bytes]:
    yield b"{"


class TestARequest:
    """Is refused for the first of these that is wrong with it."""

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
    async def test_token_then_accept_then_path_then_body(
        self, stranger: httpx.AsyncClient, fields: Fields, path: str, code: str
    ) -> None:
        answer = await stranger.patch(path, headers=fields, content=everything_is_read())
        assert answer.json()["code"].startswith(code)

    async def test_accept_then_query(self, ada: httpx.AsyncClient) -> None:
        answer = await ada.get("/api/tasks?limit=0", headers=[HTML])
        assert answer.json()["code"] == "not_acceptable"

    async def test_body_then_whether_the_task_exists(self, ada: httpx.AsyncClient) -> None:
        answer = await ada.patch(f"/api/tasks/{TASK.id}", json={"title": ""})
        assert answer.json()["code"] == "validation_failed"

    async def test_route_then_token(self, stranger: httpx.AsyncClient) -> None:
        assert (await stranger.get("/api/lists")).status_code == 404
        assert (await stranger.request("TRACE", "/api/tasks")).status_code == 405


class TestAToken:
    @pytest.mark.parametrize(
        "value",
        ["Bearer ada", "bearer ada", "BEARER ada", "bEaReR ada", "Bearer   ada", "Bearer ada "],
    )
    async def test_may_come_with_its_scheme_in_any_case(
        self, stranger: httpx.AsyncClient, value: str
    ) -> None:
        answer = await stranger.get("/api/tasks", headers={"Authorization": value})
        assert answer.status_code == 200

    @pytest.mark.parametrize(
        "value",
        [
            *("", " ", "Bearer", "Bearer ", "bearer   ", "ada", "Basic YWRhOmFkYQ==", "Token ada"),
            *("Bearerada", "Bearer:ada", "Digest ada", "JWT ada", '"Bearer" ada'),
        ],
    )
    async def test_is_missing_where_the_field_holds_no_bearer_token(
        self, stranger: httpx.AsyncClient, value: str
    ) -> None:
        answer = await stranger.get("/api/tasks", headers={"Authorization": value})
        assert (answer.status_code, answer.json()["code"]) == (401, "token_missing")
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="todo-api"'

    @pytest.mark.parametrize(
        "value", [b"Bearer eve2", b"Bearer ada, Bearer ada", b"Bearer \xff\x00", b"Bearer ada eve"]
    )
    async def test_that_is_none_is_refused(self, stranger: httpx.AsyncClient, value: bytes) -> None:
        answer = await stranger.get("/api/tasks", headers=[(b"Authorization", value)])
        assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")

    @pytest.mark.parametrize(
        "values",
        [("Bearer ada", "Bearer ada"), ("Bearer ada", "Bearer eve"), ("Basic x", "Bearer ada")],
    )
    async def test_in_one_of_several_fields_is_refused(
        self, stranger: httpx.AsyncClient, values: tuple[str, str]
    ) -> None:
        fields = [("Authorization", value) for value in values]
        answer = await stranger.get("/api/tasks", headers=fields)
        assert (answer.status_code, answer.json()["code"]) == (401, "token_malformed")

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
    async def test_in_another_field_does_not_count(
        self, stranger: httpx.AsyncClient, fields: dict[str, str]
    ) -> None:
        answer = await stranger.get("/api/tasks", headers=fields)
        assert (answer.status_code, answer.json()["code"]) == (401, "token_missing")

    @pytest.mark.parametrize("name", ["access_token", "token", "authorization", "jwt"])
    async def test_in_the_query_does_not_count(
        self, stranger: httpx.AsyncClient, name: str
    ) -> None:
        answer = await stranger.get("/api/tasks", params={name: "ada"})
        assert (answer.status_code, answer.json()["code"]) == (401, "token_missing")

    async def test_in_the_body_does_not_count(self, stranger: httpx.AsyncClient) -> None:
        body = {"access_token": "ada", "title": "Buy milk"}
        assert (await stranger.post("/api/tasks", json=body)).status_code == 401
        assert (await stranger.post("/api/tasks", data=body)).status_code == 401


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
        ],
    )
    async def test_that_leaves_room_for_json_gets_it(
        self, ada: httpx.AsyncClient, accept: str
    ) -> None:
        answer = await ada.get("/api/tasks", headers={"Accept": accept})
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")

    async def test_may_be_absent(self, ada: httpx.AsyncClient) -> None:
        request = ada.build_request("GET", "/api/tasks")
        del request.headers["Accept"]
        assert (await ada.send(request)).status_code == 200

    async def test_may_come_in_several_fields(self, ada: httpx.AsyncClient) -> None:
        # RFC 9110, section 5.3: they mean the same as one with a comma between.
        fields = [HTML, ("Accept", "application/json")]
        assert (await ada.get("/api/tasks", headers=fields)).status_code == 200

    @pytest.mark.parametrize(
        "accept",
        [
            "text/html",
            "text/*",
            "application/xml",
            "application/jsonp",
            "application/vnd.api+json",
            "json",
            "application/json;q=0",
            "application/json; q=0.0",
            "application/json;charset=utf-8;q=0",
            "image/webp, text/html;q=0.9",
        ],
    )
    async def test_that_rules_json_out_is_refused_with_a_problem(
        self, ada: httpx.AsyncClient, accept: str
    ) -> None:
        answer = await ada.get("/api/tasks", headers={"Accept": accept})
        assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")
        assert answer.headers["Content-Type"] == "application/problem+json"


class TestAMethod:
    @pytest.mark.parametrize(
        ("path", "allowed"),
        [
            ("/api/tasks", "DELETE, GET, HEAD, POST"),
            ("/api/tasks/1", "DELETE, GET, HEAD, PATCH, PUT"),
            ("/api/tasks/1/complete", "PATCH"),
            ("/api/tasks/1/toggle", "PATCH"),
            ("/api/tasks/1/restore", "POST"),
            ("/api/ada/tasks", "DELETE, GET, HEAD, POST"),
            ("/api/me", "GET, HEAD"),
            ("/health/live", "GET, HEAD"),
            ("/metrics", "GET, HEAD"),
            ("/openapi.json", "GET, HEAD"),
        ],
    )
    @pytest.mark.parametrize("method", ["TRACE", "OPTIONS", "BREW", "get", "CONNECT"])
    async def test_that_a_path_does_not_have_is_refused_naming_those_it_has(
        self, ada: httpx.AsyncClient, path: str, allowed: str, method: str
    ) -> None:
        request = ada.build_request(method, path)
        request.method = method  # httpx would write it in capitals
        answer = await ada.send(request)
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
        assert answer.headers.get_list("Allow") == [allowed]

    @pytest.mark.parametrize(
        "name", ["X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method"]
    )
    async def test_cannot_be_overridden(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository, name: str
    ) -> None:
        await tasks.add(TASK)
        answer = await ada.get(f"/api/tasks/{TASK.id}?_method=DELETE", headers={name: "DELETE"})
        assert answer.status_code == 200
        assert await tasks.get("ada", TASK.id) == TASK


class TestADependency:
    def test_that_takes_more_than_the_request_is_refused_when_the_route_is_made(self) -> None:
        def page(number: int) -> int:
            return number

        async def endpoint(number: Annotated[int, Depends(page)]) -> Response:
            return Response(str(number))

        with pytest.raises(TypeError, match="has to take the request and nothing else"):
            APIRouter(route_class=ApiRoute).add_api_route("/", endpoint)

    def test_that_depends_on_another_is_refused_when_the_route_is_made(self) -> None:
        def inner(_: Request) -> int:
            return 1

        def outer(_: Request, number: Annotated[int, Depends(inner)]) -> int:
            return number

        async def endpoint(number: Annotated[int, Depends(outer)]) -> Response:
            return Response(str(number))

        with pytest.raises(TypeError, match="has to take the request and nothing else"):
            APIRouter(route_class=ApiRoute).add_api_route("/", endpoint)
