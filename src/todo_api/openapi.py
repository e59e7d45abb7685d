"""The OpenAPI document as a product: clean names, an example for every answer and problem."""

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from todo_api.problems import MEDIA_TYPE, PROBLEM_TYPES, FieldError, Problem
from todo_api.schemas import Task
from todo_domain.errors import TokenErrorCode

TASK: Final[Task] = {
    "id": "0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b",
    "user_id": "dlMsxWRCI2eyTUbIQ9DUoaji4ROD9Eqh",
    "title": "Buy milk",
    "description": None,
    "completed": False,
    "priority": "high",
    "due_date": "2026-01-31",
    "tags": ["home"],
    "created_at": "2026-01-18T09:30:00.000000Z",
    "updated_at": "2026-01-18T09:30:00.000000Z",
    "completed_at": None,
    "version": 1,
}
TASKS: Final = [TASK]
NEW_TASK: Final = {"title": "Buy milk", "priority": "high", "due_date": "2026-01-31"}
CHANGES: Final = {"title": "Buy oat milk", "priority": "low"}

# What every route that needs a token may answer.
COMMON: Final = (
    *TokenErrorCode,
    "rate_limited",
    "not_acceptable",
    "uri_too_long",
    "headers_too_large",
    "validation_failed",
    "database_unavailable",
    "auth_keys_unavailable",
    "overloaded",
)

# Beside an answer, for clients that have it already.
NOT_MODIFIED: Final[dict[int | str, dict[str, Any]]] = {
    304: {"description": "Not Modified: `If-None-Match` has the current `ETag`"}
}

_PROBLEM: Final = "Problem"
_HEADERS: Final = {
    "ETag": "What is answered, as of now; for `If-Match` and `If-None-Match`.",
    "Link": 'The next page, with `rel="next"`, if there is more.',
    "Location": "The path of the new task.",
    "RateLimit": "How many requests are left (`r`) for how many seconds (`t`).",
    "RateLimit-Policy": "How many requests (`q`) are allowed in how many seconds (`w`).",
    "Retry-After": "Seconds to wait before asking again.",
    "WWW-Authenticate": "What is wrong with the token (RFC 6750).",
    "X-Request-ID": "The id of this request in the log; that of the request if it has a sane one.",
    "X-Total-Count": "How many tasks match, on all pages.",
}


def responses(
    example: object, *codes: str, status: int = 200, headers: Sequence[str] = ()
) -> dict[int | str, dict[str, Any]]:
    """FastAPI's ``responses``: an example of success, and one problem for each code."""
    counted = ("RateLimit", "RateLimit-Policy") if "rate_limited" in codes else ()
    described: dict[int | str, dict[str, Any]] = {
        status: {
            "description": _phrase(status),
            "headers": _headers("X-Request-ID", *counted, *headers),
            "content": {"application/json": {"example": example}},
        }
    }
    for code in codes:
        kind = PROBLEM_TYPES[code]
        answer = described.setdefault(
            kind.status,
            {
                "description": _phrase(kind.status),
                "headers": _headers("X-Request-ID", *(kind.headers.keys() & _HEADERS)),
                "content": {
                    MEDIA_TYPE: {
                        "schema": {"$ref": f"#/components/schemas/{_PROBLEM}"},
                        "examples": {},
                    }
                },
            },
        )
        if code == "rate_limited":
            answer["headers"] |= _headers("Retry-After", *counted)
        answer["content"][MEDIA_TYPE]["examples"][str(code)] = {"value": _example(str(code))}
    return described


def _phrase(status: int) -> str:
    """RFC 9110's words in every version of Python."""
    renamed = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}
    return renamed.get(status) or HTTPStatus(status).phrase


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in sorted(names)}


def _example(code: str) -> dict[str, Any]:
    kind = PROBLEM_TYPES[code]
    example = {
        "type": f"/problems/{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.detail,
        "message": kind.detail,
        "code": code,
        "instance": "/api/tasks",
        "request_id": "0198f3c27d1e7c3a9b1f5a0f6f1d2c3b",
    }
    if code == "validation_failed":
        sentence = "title: must not be empty"
        error = FieldError(
            field="title", pointer="/title", code="blank", message="must not be empty"
        )
        example |= {"detail": sentence, "message": sentence, "errors": [error]}
    return example


class DocumentedApp(FastAPI):
    """FastAPI whose schema has the problems, and nothing of FastAPI's own validation errors."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            schema = super().openapi()
            schema["components"]["schemas"] |= _component(_PROBLEM, Problem)
            schema["components"]["headers"] = {
                name: {"description": meaning, "schema": {"type": "string"}}
                for name, meaning in _HEADERS.items()
            }
            for route in self.routes:
                if isinstance(route, APIRoute) and route.include_in_schema:
                    for method in route.methods or ():
                        _complete(schema["paths"][route.path_format][method.lower()], route)
            _drop_unused(schema)
            _drop_titles(schema)
        return self.openapi_schema or {}


def _component(name: str, model: Any) -> dict[str, Any]:  # noqa: ANN401 - a type
    schema = TypeAdapter(model).json_schema(
        mode="serialization", ref_template="#/components/schemas/{model}"
    )
    return {**schema.pop("$defs", {}), name: schema}


def _complete(operation: dict[str, Any], route: APIRoute) -> None:
    """Drop the 422 that FastAPI invents, and bring back the nulls that it strips from examples.

    A parameter is absent or has a value: null, which Python has for the former, cannot be sent.
    """
    if 422 not in route.responses:  # noqa: PLR2004
        operation["responses"].pop("422", None)
    for status, answer in route.responses.items():
        for media_type, content in answer.get("content", {}).items():
            operation["responses"][str(status)]["content"][media_type] |= content
    operation["responses"] = dict(sorted(operation["responses"].items()))
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = _without_null(parameter["schema"])
    if route.methods == {"PATCH"} and "requestBody" in operation:
        content = operation["requestBody"]["content"]
        content["application/merge-patch+json"] = content["application/json"]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a value that is there, without the title that FastAPI makes of its name."""
    match schema:
        case {"anyOf": [only, {"type": "null"}]}:
            return {**only, **{k: v for k, v in schema.items() if k not in {"anyOf", "title"}}}
        case _:
            return {k: v for k, v in schema.items() if k != "title"}


def _drop_titles(schema: dict[str, Any]) -> None:
    """Leave out the titles that Pydantic makes of names; generators repeat them in each client."""
    for component in schema["components"]["schemas"].values():
        for described in (component, *component["properties"].values()):
            described.pop("title", None)


def _drop_unused(schema: dict[str, Any]) -> None:
    """Leave out the components that describe validators and not what is sent."""
    schemas = schema["components"]["schemas"]
    for name in list(schemas):
        if f'#/components/schemas/{name}"' not in json.dumps(schema):
            del schemas[name]
