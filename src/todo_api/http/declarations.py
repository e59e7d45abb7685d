"""Refuses, when a route is made, declarations that ``ApiRoute`` would otherwise ignore.

The table "What a route can declare" in docs/architecture.md lists what it supports.
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Final, get_args, get_type_hints
from uuid import UUID

from fastapi import params
from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from starlette.responses import Response

from todo_domain.ownership import Principal

_PATH_TYPES: Final = (UUID, str)
_JSON: Final = "application/json"


def refuse_unsupported(route: APIRoute) -> None:
    """Raise TypeError for the first declaration of the route that is not supported."""
    dependant = route.dependant
    for reason in (
        *_unsupported_endpoint(route),
        *_unsupported_injections(dependant),
        *_unsupported_path(route),
        *_unsupported_headers(dependant),
        *_unsupported_query(dependant),
        *_unsupported_body(dependant),
        *_unsupported_dependencies(dependant),
    ):
        methods = ", ".join(sorted(route.methods or ()))
        raise TypeError(f"{methods} {route.path}: {reason}")


def _unsupported_endpoint(route: APIRoute) -> Iterator[str]:
    if not inspect.iscoroutinefunction(route.endpoint):
        yield "the endpoint must be `async def`, without `yield`"
        return
    returned = get_type_hints(route.endpoint).get("return")
    if not all(
        isinstance(kind, type) and issubclass(kind, Response)
        for kind in get_args(returned) or (returned,)
    ):
        yield "the endpoint must return a Response, and its annotation must say so"
    if not isinstance(route.response_class, DefaultPlaceholder | type(None)) and (
        route.response_class is not returned
    ):
        yield "response_class must be the class that the endpoint returns"
    if not isinstance(route.strict_content_type, DefaultPlaceholder):
        yield "strict_content_type has no effect, because a body needs a JSON Content-Type"


def _unsupported_injections(dependant: Dependant) -> Iterator[str]:
    if dependant.background_tasks_param_name:
        yield "BackgroundTasks are not supported: give the Response its background task"
    if dependant.response_param_name:
        yield "a Response parameter is not supported: set header fields of the returned Response"
    if dependant.websocket_param_name or dependant.http_connection_param_name:
        yield "WebSocket and HTTPConnection parameters are not supported: take a Request"
    if dependant.security_scopes_param_name:
        yield "SecurityScopes are not supported"
    for param in dependant.cookie_params:
        yield f"{param.name}: cookie parameters are not supported"


def _unsupported_path(route: APIRoute) -> Iterator[str]:
    if route.path != route.path_format:
        yield "path convertors are not supported: declare the type of the parameter"
    for param in route.dependant.path_params:
        if param.field_info.annotation not in _PATH_TYPES or param.field_info.metadata:
            yield f"{param.name}: a path parameter must be a UUID or a str, without constraints"


def _unsupported_headers(dependant: Dependant) -> Iterator[str]:
    for param in dependant.header_params:
        declared = param.field_info
        is_optional_text = declared.annotation == (str | None) and not declared.metadata
        if not is_optional_text or declared.default is not None:
            yield f"{param.name}: a header parameter must be `str | None = None`"
        if param.validation_alias not in {None, param.alias}:
            yield f"{param.name}: validation_alias is not supported, use alias"


def _unsupported_query(dependant: Dependant) -> Iterator[str]:
    for param in dependant.query_params:
        try:
            query_model(param.field_info)
        except TypeError as error:
            yield f"{param.name}: {error}"
    if len(dependant.query_params) > 1:
        yield "the query has several models: declare one"


def query_model(declared: FieldInfo) -> type[BaseModel]:
    """The model of a query parameter. Raises TypeError if its type is not a model."""
    model = declared.annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise TypeError("declare the query as one Pydantic model")
    return model


def _unsupported_body(dependant: Dependant) -> Iterator[str]:
    if len(dependant.body_params) > 1:
        yield "there are several body parameters: declare one"
    for param in dependant.body_params:
        if not _is_json_body(param.field_info):
            yield f"{param.name}: a body must be plain JSON, not a form, a file or embedded"


def _is_json_body(declared: FieldInfo) -> bool:
    return (
        isinstance(declared, params.Body)
        and not isinstance(declared, params.Form)
        and not declared.embed
        and declared.media_type == _JSON
    )


def _unsupported_dependencies(dependant: Dependant) -> Iterator[str]:
    for dependency in dependant.dependencies:
        name = getattr(dependency.call, "__name__", type(dependency.call).__name__)
        for reason in _unsupported_dependency(dependency):
            yield f"{name}: {reason}"
    if not any(authenticates(dependency) for dependency in dependant.dependencies):
        yield "no dependency authenticates the user: take an Actor, or use PublicRoute"


def authenticates(dependency: Dependant) -> bool:
    """Whether the dependency is a security scheme whose value is the authenticated user."""
    call: Any = dependency.call
    return (
        isinstance(call, SecurityBase)
        and get_type_hints(type(call).__call__).get("return") is Principal
    )


def _unsupported_dependency(dependency: Dependant) -> Iterator[str]:
    if not _is_coroutine(dependency.call):
        yield "a dependency must be `async def`, without `yield`"
    if any(getattr(dependency, kind) for kind in _PARAMETERS):
        yield "a dependency must have no parameter except the request"
    if not dependency.use_cache:
        yield "use_cache=False is not supported"
    if dependency.own_oauth_scopes or dependency.parent_oauth_scopes:
        yield "security scopes are not supported"


_PARAMETERS: Final[Sequence[str]] = (
    "path_params",
    "query_params",
    "header_params",
    "cookie_params",
    "body_params",
    "dependencies",
    "websocket_param_name",
    "http_connection_param_name",
    "response_param_name",
    "background_tasks_param_name",
    "security_scopes_param_name",
)


def _is_coroutine(call: Any) -> bool:  # noqa: ANN401 - a function or an object
    """Whether a call of this function or object returns a coroutine."""
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(
        getattr(call, "__call__", None)  # noqa: B004 - its kind matters, not its presence
    )
