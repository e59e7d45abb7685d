"""The OpenAPI document as a product: clean names, an example for every answer and problem."""

import json
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from todo_api.problems import KINDS, MEDIA_TYPE, Problem
from todo_api.schemas import Task
from todo_domain.errors import TokenFault

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

# What every route that needs a token may answer.
COMMON: Final = (
    *TokenFault,
    "rate_limited",
    "not_acceptable",
    "headers_too_large",
    "database_unavailable",
    "auth_keys_unavailable",
    "overloaded",
)

_PROBLEM: Final = "Problem"


def answers(example: object, *codes: str, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """FastAPI's ``responses``: an example of success, and one problem for each code."""
    described: dict[int | str, dict[str, Any]] = {
        status: {"content": {"application/json": {"example": example}}}
    }
    for code in codes:
        kind = KINDS[code]
        answer = described.setdefault(
            kind.status,
            {
                "description": HTTPStatus(kind.status).phrase,
                "content": {
                    MEDIA_TYPE: {
                        "schema": {"$ref": f"#/components/schemas/{_PROBLEM}"},
                        "examples": {},
                    }
                },
            },
        )
        answer["content"][MEDIA_TYPE]["examples"][str(code)] = {"value": _example(str(code))}
    return described


def _example(code: str) -> dict[str, Any]:
    kind = KINDS[code]
    return {
        "type": f"/problems/{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.detail,
        "message": kind.detail,
        "code": code,
        "instance": "/api/tasks",
        "request_id": "0198f3c27d1e7c3a9b1f5a0f6f1d2c3b",
    }


class DocumentedApp(FastAPI):
    """FastAPI whose schema has the problems, and nothing of FastAPI's own validation errors."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            schema = super().openapi()
            schema["components"]["schemas"] |= _component(_PROBLEM, Problem)
            for route in self.routes:
                if isinstance(route, APIRoute) and route.include_in_schema:
                    for method in route.methods or ():
                        _complete(schema["paths"][route.path_format][method.lower()], route)
            _drop_unused(schema)
        return self.openapi_schema or {}


def _component(name: str, model: Any) -> dict[str, Any]:  # noqa: ANN401 - a type
    schema = TypeAdapter(model).json_schema(
        mode="serialization", ref_template="#/components/schemas/{model}"
    )
    return {**schema.pop("$defs", {}), name: schema}


def _complete(operation: dict[str, Any], route: APIRoute) -> None:
    """Drop the 422 that FastAPI invents, and bring back the nulls that it strips from examples."""
    if 422 not in route.responses:  # noqa: PLR2004
        operation["responses"].pop("422", None)
    for status, answer in route.responses.items():
        for media_type, content in answer["content"].items():
            operation["responses"][str(status)]["content"][media_type] |= content


def _drop_unused(schema: dict[str, Any]) -> None:
    """Leave out the components that describe validators and not what is sent."""
    schemas = schema["components"]["schemas"]
    for name in list(schemas):
        if f'#/components/schemas/{name}"' not in json.dumps(schema):
            del schemas[name]
