"""A declaration of FastAPI works as in FastAPI, or is refused when the route is made."""

from collections.abc import AsyncIterator, Callable
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    Form,
    Header,
    HTTPException,
    Query,
    Request,
    Security,
)
from fastapi.openapi.models import HTTPBase
from fastapi.routing import APIRoute
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, Response

from support.http_client import client, plain_app, started
from todo_api.dependencies import Actor
from todo_api.http.routing import ApiRoute

Declare = Callable[[APIRouter], object]
JSON: Final = {"Content-Type": "application/json"}
ID: Final = "0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b"


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=3)]
    size: int | float = 1


class Thing(BaseModel):
    """A body as people write it: constraints, an alias, an enumeration, a date, nested models."""

    name: Annotated[str, Field(pattern="^[a-z]+$")]
    colour: Colour = Colour.RED
    made_on: Annotated[date | None, Field(alias="madeOn")] = None
    parts: Annotated[list[Part], Field(max_length=2)] = []


class Search(BaseModel):
    limit: Annotated[int, Field(ge=1, le=10)] = 5
    colours: Annotated[list[Colour] | None, Field(alias="colour")] = None
    favourite: Colour | None = None
    since: date | None = None


async def agent(request: Request) -> str:
    return request.headers["user-agent"]


async def forbid() -> None:
    raise HTTPException(403, "not today", {"X-Reason": "closed"})


def body_of_a_model(router: APIRouter) -> None:
    @router.post("/")
    async def endpoint(_: Actor, thing: Thing) -> Response:
        return Response(thing.model_dump_json())


def body_with_a_constraint(router: APIRouter) -> None:
    @router.post("/")
    async def endpoint(_: Actor, word: Annotated[str, Body(max_length=3)]) -> Response:
        return JSONResponse(word)


def optional_body(router: APIRouter) -> None:
    @router.post("/")
    async def endpoint(_: Actor, thing: Annotated[Thing | None, Body()] = None) -> Response:
        return JSONResponse(thing and thing.name)


def body_with_a_default(router: APIRouter) -> None:
    @router.post("/")
    async def endpoint(_: Actor, words: Annotated[list[str], Body()] = ["none"]) -> Response:  # noqa: B006 - as people write it
        words.append("more")
        return JSONResponse(words)


def query_of_a_model(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint(_: Actor, search: Annotated[Search, Query()]) -> Response:
        return Response(search.model_dump_json())


def optional_header(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint(_: Actor, x_trace: Annotated[str | None, Header()] = None) -> Response:
        return JSONResponse(x_trace)


def path_of_a_uuid(router: APIRouter) -> None:
    @router.get("/{thing_id}")
    async def endpoint(_: Actor, thing_id: UUID) -> Response:
        return JSONResponse(str(thing_id))


def path_of_a_text(router: APIRouter) -> None:
    @router.get("/{name}/parts/{part}")
    async def endpoint(_: Actor, part: str, name: str) -> Response:
        return JSONResponse([name, part])


def dependency(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint(_: Actor, name: Annotated[str, Depends(agent)]) -> Response:
        return JSONResponse(name)


def dependency_of_the_route(router: APIRouter) -> None:
    @router.get("/", dependencies=[Depends(forbid)])
    async def endpoint(_: Actor) -> Response:
        return JSONResponse("never")


def request(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint(request: Request, actor: Actor) -> Response:
        return JSONResponse([request.url.path, actor.user_id])


def http_exception(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint(_: Actor) -> Response:
        raise HTTPException(418, {"tea": "only"}, {"X-Pot": "small"})


def response_model_and_status(router: APIRouter) -> None:
    @router.post("/", status_code=201, response_model=Thing)
    async def endpoint(_: Actor) -> JSONResponse:
        return JSONResponse({"name": "x"}, 202)


def background_task_of_the_response(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint(_: Actor) -> Response:
        response = JSONResponse([])
        response.background = BackgroundTask(print)
        return response


WORKING: Final[dict[Declare, list[dict[str, Any]]]] = {
    body_of_a_model: [
        {"json": {"name": "x", "colour": "blue", "madeOn": "2026-01-31", "parts": [{"name": "y"}]}},
        {"json": {}},
        {"json": {"name": "X"}},
        {"json": {"name": 1, "colour": "green", "madeOn": "soon"}},
        {"json": {"name": "x", "parts": [{"name": ""}, {"name": "long", "size": "big"}]}},
        {"json": {"name": "x", "parts": [{"name": "y"}] * 3}},
        {"json": {"name": "x", "parts": [{}]}},
        {"json": []},
        {"content": "null", "headers": JSON},
    ],
    body_with_a_constraint: [{"json": "abc"}, {"json": "abcd"}, {"json": 1}],
    optional_body: [
        {"json": {"name": "x"}},
        {"content": "null", "headers": JSON},
        {},
        {"json": {"name": ""}},
    ],
    body_with_a_default: [{}, {}, {"json": ["one"]}, {"json": [1]}],
    query_of_a_model: [
        {},
        {"params": {"limit": 7, "colour": ["red", "blue"], "since": "2026-01-31"}},
        {"params": {"limit": [1, 2], "favourite": "blue"}},
        {"params": {"favourite": ["red", "green"]}},
        {"params": {"limit": 11}},
        {"params": {"limit": "x", "colour": ["red", "green"], "since": "soon"}},
    ],
    optional_header: [{}, {"headers": {"X-Trace": "on"}}],
    path_of_a_uuid: [{"url": f"/v1/{ID}"}, {"url": f"/v1/{ID.upper()}"}],
    path_of_a_text: [{"url": "/v1/x/parts/1"}, {"url": "/v1/%C3%A9/parts/1"}],
    dependency: [{}],
    dependency_of_the_route: [{}],
    request: [{}],
    http_exception: [{}],
    response_model_and_status: [{}],
    background_task_of_the_response: [{}],
}


def header_of_a_number(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint(_: Actor, depth: Annotated[int, Header()]) -> Response:
        return JSONResponse(depth)


def header_with_a_default(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint(_: Actor, depth: Annotated[str, Header()] = "1") -> Response:
        return JSONResponse(depth)


def header_with_a_constraint(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint(
        _: Actor, depth: Annotated[str | None, Header(max_length=3)] = None
    ) -> Response:
        return JSONResponse(depth)


def cookie(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint(_: Actor, session: Annotated[str | None, Cookie()] = None) -> Response:
        return JSONResponse(session)


def path_of_a_number(router: APIRouter) -> None:
    @router.get("/{number}")
    async def endpoint(_: Actor, number: int) -> Response:
        return JSONResponse(number)


def path_with_a_convertor(router: APIRouter) -> None:
    @router.get("/{name:path}")
    async def endpoint(_: Actor, name: str) -> Response:
        return JSONResponse(name)


def query_of_a_number(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint(_: Actor, limit: int = 10) -> Response:
        return JSONResponse(limit)


def two_bodies(router: APIRouter) -> None:
    @router.post("/")
    async def endpoint(_: Actor, thing: Thing, part: Part) -> Response:
        return JSONResponse([thing.name, part.name])


def embedded_body(router: APIRouter) -> None:
    @router.post("/")
    async def endpoint(_: Actor, thing: Annotated[Thing, Body(embed=True)]) -> Response:
        return JSONResponse(thing.name)


def body_of_another_media_type(router: APIRouter) -> None:
    @router.post("/")
    async def endpoint(_: Actor, thing: Annotated[str, Body(media_type="text/csv")]) -> Response:
        return JSONResponse(thing)


def sync_endpoint(router: APIRouter) -> None:
    @router.get("/")
    def endpoint(_: Actor) -> Response:
        return JSONResponse([])


def generator_endpoint(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint(_: Actor) -> AsyncIterator[str]:
        yield "line"


def returned_dictionary(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint(_: Actor) -> dict[str, str]:
        return {}


def no_actor(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint() -> Response:
        return JSONResponse([])


def background_tasks(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint(_: Actor, later: BackgroundTasks) -> Response:
        later.add_task(print)
        return JSONResponse([])


def response_parameter(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint(_: Actor, response: Response) -> Response:
        return response


def response_class(router: APIRouter) -> None:
    @router.get("/", response_class=JSONResponse)
    async def endpoint(_: Actor) -> Response:
        return JSONResponse([])


def sync_dependency(router: APIRouter) -> None:
    def provide() -> int:
        return 1

    @router.get("/")
    async def endpoint(_: Actor, number: Annotated[int, Depends(provide)]) -> Response:
        return JSONResponse(number)


def dependency_with_yield(router: APIRouter) -> None:
    async def provide() -> AsyncIterator[int]:
        yield 1

    @router.get("/")
    async def endpoint(_: Actor, number: Annotated[int, Depends(provide)]) -> Response:
        return JSONResponse(number)


def dependency_with_a_parameter(router: APIRouter) -> None:
    async def provide(limit: int = 10) -> int:
        return limit

    @router.get("/")
    async def endpoint(_: Actor, number: Annotated[int, Depends(provide)]) -> Response:
        return JSONResponse(number)


def dependency_on_a_dependency(router: APIRouter) -> None:
    async def provide(name: Annotated[str, Depends(agent)]) -> str:
        return name

    @router.get("/")
    async def endpoint(_: Actor, name: Annotated[str, Depends(provide)]) -> Response:
        return JSONResponse(name)


def dependency_without_cache(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint(_: Actor, name: Annotated[str, Depends(agent, use_cache=False)]) -> Response:
        return JSONResponse(name)


def dependency_with_scopes(router: APIRouter) -> None:
    @router.get("/", dependencies=[Security(agent, scopes=["admin"])])
    async def endpoint(_: Actor) -> Response:
        return JSONResponse([])


def scopes(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint(_: Actor, scopes: SecurityScopes) -> Response:
        return JSONResponse(scopes.scopes)


class ApiKey(SecurityBase):
    """A security scheme that authenticates no user."""

    scheme_name = "key"
    model = HTTPBase(scheme="key")

    async def __call__(self, request: Request) -> str:
        return request.headers["x-key"]


def another_security_scheme(router: APIRouter) -> None:
    @router.get("/", dependencies=[Depends(ApiKey())])
    async def endpoint() -> Response:
        return JSONResponse([])


def header_with_a_validation_alias(router: APIRouter) -> None:
    @router.get("/")
    async def endpoint(
        _: Actor, depth: Annotated[str | None, Header(validation_alias="X-Depth")] = None
    ) -> Response:
        return JSONResponse(depth)


REFUSED: Final[dict[Declare, str]] = {
    header_of_a_number: "depth: a header parameter must be",
    header_with_a_default: "depth: a header parameter must be",
    header_with_a_constraint: "depth: a header parameter must be",
    cookie: "session: cookie parameters are not supported",
    path_of_a_number: "number: a path parameter must be a UUID or a str",
    path_with_a_convertor: "path convertors are not supported",
    query_of_a_number: "limit: declare the query as one Pydantic model",
    two_bodies: "there are several body parameters",
    embedded_body: "thing: a body must be plain JSON",
    body_of_another_media_type: "thing: a body must be plain JSON",
    sync_endpoint: "the endpoint must be `async def`",
    generator_endpoint: "the endpoint must be `async def`",
    returned_dictionary: "the endpoint must return a Response",
    another_security_scheme: "no dependency authenticates the user",
    header_with_a_validation_alias: "depth: validation_alias is not supported",
    no_actor: "no dependency authenticates the user",
    background_tasks: "BackgroundTasks are not supported",
    response_parameter: "a Response parameter is not supported",
    response_class: "response_class must be the class that the endpoint returns",
    sync_dependency: "provide: a dependency must be `async def`",
    dependency_with_yield: "provide: a dependency must be `async def`, without `yield`",
    dependency_with_a_parameter: "provide: a dependency must have no parameter",
    dependency_on_a_dependency: "provide: a dependency must have no parameter",
    dependency_without_cache: "agent: use_cache=False is not supported",
    dependency_with_scopes: "agent: security scopes are not supported",
    scopes: "SecurityScopes are not supported",
}


def made(declare: Declare, route_class: type[APIRoute]) -> APIRouter:
    router = APIRouter(route_class=route_class)
    declare(router)
    return router


async def results(router: APIRouter, requests: list[dict[str, Any]]) -> list[Any]:
    """Status, body and the endpoint's own header fields of the response to each request."""
    (route,) = router.routes
    assert isinstance(route, APIRoute)
    (method,) = route.methods or {"GET"}
    found = []
    async with started(plain_app(router)) as app, client(app, "ada") as ada:
        for options in requests:
            response = await ada.request(method, **{"url": "/v1/", **options})
            body = response.json()
            if response.is_error:
                del body["request_id"]
            own = {name: value for name, value in response.headers.items() if name[:2] == "x-"}
            found.append((response.status_code, body, own))
    return found


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize("declare", WORKING, ids=lambda declare: declare.__name__)
async def test_a_supported_declaration_works_as_in_fastapi(declare: Declare) -> None:
    requests = WORKING[declare]
    expected = await results(made(declare, APIRoute), requests)
    assert await results(made(declare, ApiRoute), requests) == expected


@pytest.mark.parametrize("declare", REFUSED, ids=lambda declare: declare.__name__)
def test_an_unsupported_declaration_is_refused_when_the_route_is_made(declare: Declare) -> None:
    with pytest.raises(TypeError, match=rf"^(GET|POST) /.*: {REFUSED[declare]}"):
        made(declare, ApiRoute)


def test_a_form_is_refused_when_the_route_is_made() -> None:
    async def endpoint(_: Actor, name: Annotated[str, Form()]) -> Response:
        return JSONResponse(name)

    # FastAPI itself refuses a form if python-multipart is not installed.
    with pytest.raises((TypeError, RuntimeError), match=r"plain JSON|python-multipart"):
        APIRouter(route_class=ApiRoute).add_api_route("/", endpoint, methods=["POST"])


@pytest.mark.usefixtures("log")
class TestApp:
    """What an app declares about a route is known at the first request only."""

    @pytest.fixture
    def router(self) -> APIRouter:
        return made(request, ApiRoute)

    async def test_dependencies_of_include_router_are_refused(self, router: APIRouter) -> None:
        app = plain_app(APIRouter())
        app.include_router(router, prefix="/v1", dependencies=[Depends(forbid)])
        await expect_refusal(app, "include_router must not add dependencies")

    async def test_dependency_overrides_are_refused(self, router: APIRouter) -> None:
        app = plain_app(router)
        app.dependency_overrides[agent] = forbid
        await expect_refusal(app, "dependency_overrides are not supported")

    async def test_a_router_can_be_included_twice(self, router: APIRouter) -> None:
        app = plain_app(router)
        app.include_router(router, prefix="/v2", tags=["things"])
        async with started(app) as running, client(running, "ada") as ada:
            found = [(await ada.get(path)).json() for path in ("/v1/", "/v2/")]
        assert found == [["/v1/", "ada"], ["/v2/", "ada"]]


async def expect_refusal(app: FastAPI, reason: str) -> None:
    """Every request raises TypeError, which a server answers with 500."""
    async with started(app) as running, client(running, "ada") as ada:
        for _ in range(2):
            with pytest.raises(TypeError, match=reason):
                await ada.get("/v1/")
