"""The route classes: FastAPI analyses an endpoint's signature, ``ApiRoute`` calls the endpoint.

FastAPI's own handler reads and parses the body before it calls dependencies. ``ApiRoute``
authenticates first, so that a request without a valid token is refused before its body is read.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast
from uuid import UUID

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.requests import Request
from starlette.responses import Response

from todo_api.http.bodies import JsonBody
from todo_api.http.declarations import authenticates, query_model, refuse_unsupported
from todo_api.http.headers import JSON, choose_media_type, prefers
from todo_api.http.query_params import QueryModel
from todo_api.problems import ProblemError, refuse_unknown
from todo_api.schemas import UUID_FORM
from todo_domain.errors import DatabaseUnavailable, TaskNotFound

_ACCEPT: Final = b"accept"
_PREFER: Final = b"prefer"

_Result = TypeVar("_Result")
_Call = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that a client has to send a body, and that an endpoint has to return a response.

    An endpoint may wait until a serverless database has started. A balancer waits for 30 s or more.
    """

    body: float = 20.0
    endpoint: float = 13.0


async def within(seconds: float, work: Awaitable[_Result]) -> _Result:
    """The result of the work. Raises TimeoutError if it takes longer than these seconds.

    asyncio.timeout does the same, and takes 22,000 instructions more: 4 % of a GET.
    """
    task = cast("asyncio.Task[object]", asyncio.current_task())
    is_expired = False

    def expire() -> None:
        nonlocal is_expired
        is_expired = task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, expire)
    try:
        return await work
    except asyncio.CancelledError:
        if is_expired and task.cancelling() == 1:  # nothing else has cancelled the task
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()
        if is_expired:
            task.uncancel()


class PublicRoute(APIRoute):
    """FastAPI's own route, for endpoints that need no token."""


class ApiRoute(APIRoute):
    """A route that authenticates, negotiates, reads and validates in this order, then acts.

    Making a route raises TypeError for a declaration that is not supported.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        refuse_unsupported(self)
        return _Handler(self).respond


class _Handler:
    """Handles the requests of one route."""

    def __init__(self, route: ApiRoute) -> None:
        declared = route.dependant
        self._route = route
        self._media_type = _media_type(route)
        self._endpoint = route.endpoint
        self._dependencies = _dependencies(declared)
        self._path = [(p.name, p.alias, p.field_info.annotation) for p in declared.path_params]
        self._query = [
            (p.name, QueryModel(query_model(p.field_info))) for p in declared.query_params
        ]
        self._headers = {p.name: p.alias.lower().encode() for p in declared.header_params}
        self._negotiates = _ACCEPT in self._headers.values()  # then the endpoint chooses
        self._wanted_fields = frozenset({_ACCEPT, _PREFER, *self._headers.values()})
        self._body = [(p.name, JsonBody(p.field_info, p.validate)) for p in declared.body_params]
        self._request_name = declared.request_param_name
        self._is_checked = False

    async def respond(self, request: Request) -> Response:
        """The endpoint's response. Raises DatabaseUnavailable if the endpoint takes too long."""
        timeouts: Timeouts = request.scope["state"]["timeouts"]
        app: FastAPI = request.scope["app"]
        if app.dependency_overrides or not self._is_checked:
            _refuse_unsupported_app(app, self._route)
            self._is_checked = True
        arguments = await self._arguments(request, timeouts.body)
        try:
            return await within(timeouts.endpoint, self._endpoint(**arguments))
        except TimeoutError:
            # Not Overloaded, which means that nothing was changed.
            raise DatabaseUnavailable("deadline") from None

    async def _arguments(self, request: Request, body_timeout: float) -> dict[str, Any]:
        """The arguments of the endpoint, in the order in which a request may be refused."""
        values = await self._dependency_values(request)
        fields = self._fields(request)
        offered = (self._media_type,)
        if not self._negotiates and choose_media_type(fields.get(_ACCEPT), offered) is None:
            raise ProblemError("not_acceptable", _returns_only(self._media_type))
        for name, alias, kind in self._path:
            text = request.path_params[alias]
            values[name] = text if kind is str else _uuid(text)
        is_strict = prefers(fields.get(_PREFER), "handling=strict")
        for name, query in self._query:
            values[name] = query.read(request, is_strict=is_strict)
        if is_strict and not self._query:
            refuse_unknown(request.query_params, (), "parameter")
        for name, header in self._headers.items():
            values[name] = fields.get(header)
        for name, body in self._body:
            values[name] = await _read(body, request, body_timeout, is_strict=is_strict)
        if self._request_name:
            values[self._request_name] = request
        return values

    async def _dependency_values(self, request: Request) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for call, request_name, names in self._dependencies:
            value = await (call(**{request_name: request}) if request_name else call())
            for name in names:
                values[name] = value
        return values

    def _fields(self, request: Request) -> dict[bytes, str]:
        """The header fields that this route reads.

        Fields of the same name are one list (RFC 9110, section 5.3).
        """
        fields: dict[bytes, str] = {}
        for name, value in request.scope["headers"]:
            if name in self._wanted_fields:
                text = value.decode("latin-1")
                fields[name] = f"{fields[name]}, {text}" if name in fields else text
        return fields


async def _read(body: JsonBody, request: Request, seconds: float, *, is_strict: bool) -> object:
    """The validated body. Raises ProblemError, also if the client takes too long to send it."""
    try:
        return await within(seconds, body.read(request, is_strict=is_strict))
    except TimeoutError:
        raise ProblemError("request_timeout") from None


def _dependencies(declared: Dependant) -> list[tuple[_Call, str | None, list[str]]]:
    """Each dependency once, with the parameters that get its value; authentication is first."""
    calls: dict[_Call, tuple[_Call, str | None, list[str]]] = {}
    for found in sorted(declared.dependencies, key=lambda found: not authenticates(found)):
        if found.call is not None:
            _, _, names = calls.setdefault(found.call, (found.call, found.request_param_name, []))
            names += [found.name] if found.name else []
    return list(calls.values())


def _refuse_unsupported_app(app: FastAPI, route: APIRoute) -> None:
    """Raise TypeError for what an app declares about the route and ``ApiRoute`` cannot see.

    FastAPI has no documented way to read it before the first request.
    """
    for context in iter_route_contexts(app.routes):
        if context.original_route is route and context.dependencies != route.dependencies:
            raise TypeError(f"{context.path}: include_router must not add dependencies")
    if app.dependency_overrides:
        raise TypeError("dependency_overrides are not supported: give create_app other adapters")


def _uuid(text: str) -> UUID:
    """The id in its canonical form. Raises TaskNotFound for any other text."""
    if not UUID_FORM.fullmatch(text):
        raise TaskNotFound
    return UUID(text)


def _media_type(route: ApiRoute) -> str:
    """The media type of the route's responses, which ``response_class`` declares."""
    declared = route.response_class
    return getattr(declared, "media_type", None) or JSON


def _returns_only(media_type: str) -> str | None:
    return None if media_type == JSON else f"Accept: this route returns only {media_type}"
