"""The OpenAPI document as a product: clean names, an example for every answer and problem."""

from typing import Any, Final

from fastapi import FastAPI
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
    "token_missing",
    *TokenFault,
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
                "description": kind.title,
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
    """FastAPI whose schema knows the problems, and nothing of FastAPI's own validation errors."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            schema = super().openapi()
            schemas = schema["components"]["schemas"]
            schemas |= _component(_PROBLEM, Problem)
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            for path in schema["paths"].values():
                for operation in path.values():
                    _drop_phantom(operation["responses"])
        return self.openapi_schema or {}


def _component(name: str, model: Any) -> dict[str, Any]:  # noqa: ANN401 - a type
    schema = TypeAdapter(model).json_schema(
        mode="serialization", ref_template="#/components/schemas/{model}"
    )
    return {**schema.pop("$defs", {}), name: schema}


def _drop_phantom(responses: dict[str, Any]) -> None:
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
