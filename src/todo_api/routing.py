"""The route class: FastAPI's analysis of an endpoint's signature, served in an order that is safe.

FastAPI reads the body before it asks the dependencies; here who is acting comes first, so that a
stranger's request is refused before a byte of it is read or parsed. The schema, the parameters and
the dependencies are FastAPI's own; only the order, and the strictness with bodies, are ours.
"""

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any, Final

from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_params_to_args
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from todo_api.bodies import JsonBody
from todo_api.problems import RequestRefused, field_errors
from todo_domain.errors import TaskNotFound

_ACCEPTABLE: Final = ("*/*", "application/*", "application/json", "application/problem+json")


class ApiRoute(APIRoute):
    """A route that authenticates, negotiates, reads and validates, in that order, and then acts.

    Its dependencies take the request and nothing else, and are asked in the order of the signature.
    An id in the path that is malformed names nothing: it is refused as TaskNotFound.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - FastAPI's own
        super().__init__(*args, **kwargs)
        self._providers = [_provider(dependant) for dependant in self.dependant.dependencies]
        self._bodies = {param.name: JsonBody(param) for param in self.dependant.body_params}
        self.app = self._serve

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._respond(Request(scope, receive))
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        values: dict[str, Any] = {}
        for name, provide, is_async in self._providers:
            values[name] = await provide(request) if is_async else provide(request)
        _require_acceptable(request)
        if self.dependant.path_params:
            values |= self._path(request)
        if self.dependant.query_params:
            values |= self._query(request)
        if self.dependant.request_param_name:
            values[self.dependant.request_param_name] = request
        for name, body in self._bodies.items():
            values[name] = await body.read(request)
        response: Response = await self.endpoint(**values)
        return response

    def _path(self, request: Request) -> dict[str, Any]:
        values, errors = request_params_to_args(self.dependant.path_params, request.path_params)
        if errors:
            raise TaskNotFound
        return values

    def _query(self, request: Request) -> dict[str, Any]:
        values, errors = request_params_to_args(self.dependant.query_params, request.query_params)
        if errors:
            raise RequestRefused("validation_failed", errors=field_errors(errors))
        return values


def _provider(dependant: Dependant) -> tuple[str, Callable[[Request], Any], bool]:
    takes_only_request = dependant.request_param_name and not (
        dependant.dependencies or dependant.query_params or dependant.body_params
    )
    provide, name = dependant.call, dependant.name
    if provide is None or name is None or not takes_only_request:
        raise TypeError(f"{provide} has to take the request and nothing else")
    is_async = iscoroutinefunction(provide) or iscoroutinefunction(type(provide).__call__)
    return name, provide, is_async


def _require_acceptable(request: Request) -> None:
    accept = request.headers.get("accept", "*/*")
    ranges = [part.partition(";") for part in accept.lower().split(",")]
    refused = ("q=0", "q=0.0", "q=0.00", "q=0.000")
    if not any(
        name.strip() in _ACCEPTABLE and rest.replace(" ", "") not in refused
        for name, _, rest in ranges
    ):
        raise RequestRefused("not_acceptable")
