"""The route class: FastAPI's analysis of an endpoint's signature, served in an order that is safe.

FastAPI reads the body before it asks the dependencies; here who is acting comes first, so that a
stranger's request is refused before a byte of it is read or parsed. The schema, the parameters and
the dependencies are FastAPI's own; only the order, and the strictness with bodies, are ours.
"""

import asyncio
import re
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any, Final
from uuid import UUID

from fastapi.dependencies.models import Dependant
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute
from starlette._utils import get_route_path  # what Route.matches asks; no other name for it
from starlette.requests import Request
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from todo_api.http.bodies import JsonBody
from todo_api.http.headers import prefers
from todo_api.http.query_params import QueryString
from todo_api.problems import ProblemError, refuse_unknown
from todo_domain.errors import DatabaseUnavailable, TaskNotFound

_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_ACCEPT: Final = b"accept"
_PREFER: Final = b"prefer"
_ZERO: Final = re.compile(r"q\s*=\s*0(\.0*)?")
DEADLINE: Final = 4.0  # seconds for everything behind a request that has arrived
_ACCEPTABLE: Final = ("*/*", "application/*", "application/json", "application/problem+json")


class PublicRoute(APIRoute):
    """FastAPI's own route, for what needs no token."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - FastAPI's own
        super().__init__(*args, **kwargs)
        self.app = AsyncExitStackMiddleware(self.app)  # in the app it would be around every route


class ApiRoute(APIRoute):
    """A route that authenticates, negotiates, reads and validates, in that order, and then acts.

    Its dependencies take the request and nothing else, and are asked in the order of the signature.
    Its header parameters are optional text, its path parameters ids.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - FastAPI's own
        super().__init__(*args, **kwargs)
        self._providers = [_provider(dependant) for dependant in self.dependant.dependencies]
        self._queries = {param.name: QueryString(param) for param in self.dependant.query_params}
        self._headers = {
            param.name: param.alias.lower().encode() for param in self.dependant.header_params
        }
        self._fields = frozenset({_ACCEPT, _PREFER, *self._headers.values()})
        self._bodies = {param.name: JsonBody(param) for param in self.dependant.body_params}
        self.app = self._serve

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether a request is for this route; FastAPI's own answer costs twice as much."""
        match = self.path_regex.match(get_route_path(scope))
        if match is None or scope["type"] != "http":
            return Match.NONE, {}
        found = {"endpoint": self.endpoint, "path_params": match.groupdict(), "route": self}
        is_ours = scope["method"] in (self.methods or ())
        return Match.FULL if is_ours else Match.PARTIAL, found

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        arguments = await self._arguments(Request(scope, receive))
        try:
            async with asyncio.timeout(DEADLINE):
                response = await self.endpoint(**arguments)
        except TimeoutError:
            # Not Overloaded, which promises that nothing was changed.
            raise DatabaseUnavailable("deadline") from None
        await response(scope, receive, send)

    async def _arguments(self, request: Request) -> dict[str, Any]:
        """What the endpoint asks for, in the order in which a request may be refused."""
        values: dict[str, Any] = {}
        for name, provide, is_async in self._providers:
            values[name] = await provide(request) if is_async else provide(request)
        fields = self._fields_of(request)
        _require_acceptable(fields.get(_ACCEPT))
        for name, text in request.path_params.items():
            values[name] = _id(text)
        is_strict = prefers(fields.get(_PREFER), "handling=strict")
        for name, query in self._queries.items():
            values[name] = query.read(request, is_strict=is_strict)
        if is_strict and not self._queries:
            refuse_unknown(request.query_params, (), "parameter")
        for name, header in self._headers.items():
            values[name] = fields.get(header) or None
        for name, body in self._bodies.items():
            values[name] = await body.read(request, is_strict=is_strict)
        if self.dependant.request_param_name:
            values[self.dependant.request_param_name] = request
        return values

    def _fields_of(self, request: Request) -> dict[bytes, str]:
        """The header fields that count here; several of one name mean their list.

        RFC 9110, section 5.3. Empty ones say nothing.
        """
        fields: dict[bytes, str] = {}
        for name, value in request.scope["headers"]:
            if name in self._fields:
                text = value.decode("latin-1")
                fields[name] = f"{fields[name]}, {text}" if name in fields else text
        return fields


def _id(text: str) -> UUID:
    """The id, if written as ids are. Raises TaskNotFound: any other text names nothing."""
    if not _ID.fullmatch(text):
        raise TaskNotFound
    return UUID(text)


def _provider(dependant: Dependant) -> tuple[str, Callable[[Request], Any], bool]:
    takes_only_request = dependant.request_param_name and not (
        dependant.dependencies or dependant.query_params or dependant.body_params
    )
    provide, name = dependant.call, dependant.name
    if provide is None or name is None or not takes_only_request:
        raise TypeError(f"{provide} has to take the request and nothing else")
    is_async = iscoroutinefunction(provide) or iscoroutinefunction(type(provide).__call__)
    return name, provide, is_async


def _require_acceptable(accept: str | None) -> None:
    """Raise ProblemError if the client takes no JSON (RFC 9110, section 12.5.1)."""
    if accept and not any(_takes_json(part) for part in accept.lower().split(",")):
        raise ProblemError("not_acceptable")


def _takes_json(media_range: str) -> bool:
    name, *parameters = (part.strip() for part in media_range.split(";"))
    return name in _ACCEPTABLE and not any(_ZERO.fullmatch(part) for part in parameters)
