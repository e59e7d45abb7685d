"""The OpenAPI document: stable names, and an example for every response and error code."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from pydantic import TypeAdapter

from todo_api.problems import MEDIA_TYPE, PROBLEM_TYPES, FieldError, Problem, summarize
from todo_api.schemas import Task
from todo_domain.errors import TokenErrorCode
from todo_domain.task import Priority

TASK: Final[Task] = {
    "id": "0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b",
    "user_id": "dlMsxWRCI2eyTUbIQ9DUoaji4ROD9Eqh",
    "title": "Buy milk",
    "description": None,
    "completed": False,
    "priority": "high",
    "due_date": "2026-01-31",
    "tags": ["home"],
    "position": None,
    "repeat": None,
    "time_zone": None,
    "created_at": "2026-01-18T09:30:00.000000Z",
    "updated_at": "2026-01-18T09:30:00.000000Z",
    "completed_at": None,
    "version": 1,
}
TASKS: Final = [TASK]
NEW_TASK: Final = {"title": "Buy milk", "priority": "high", "due_date": "2026-01-31"}
CHANGES: Final = {"title": "Buy oat milk", "priority": "low"}

# The error codes of every route that reads a body.
BODY: Final = ("malformed_json", "request_timeout", "body_too_large", "unsupported_media_type")
# The error codes of every route that needs a token.
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

NOT_MODIFIED: Final[dict[int | str, dict[str, Any]]] = {
    304: {"description": "Not Modified: `If-None-Match` has the current `ETag`."}
}

MINIMAL: Final[dict[int | str, dict[str, Any]]] = {
    204: {
        "description": "No Content: the change was made, and `Prefer: return=minimal` was sent.",
        "headers": {
            name: {"$ref": f"#/components/headers/{name}"}
            for name in ("ETag", "Preference-Applied", "X-Request-ID")
        },
    }
}

_NO_TEXTS: Final[Mapping[str, str]] = {}
_TEXT: Final = {"type": "string"}
_PROBLEM: Final = "Problem"
# Enumerations that clients get as types of their own.
_ENUMERATIONS: Final[dict[str, dict[str, Any]]] = {
    "Priority": {"type": "string", "enum": [priority.value for priority in Priority]},
    "ProblemCode": {
        "type": "string",
        "enum": [str(code) for code in PROBLEM_TYPES],
        "description": "What went wrong, for programs. Later versions may add codes.",
    },
}
# What a member is, by its name alone or as "Component.member".
_MEMBERS: Final = {
    "id": "The id of the task, a UUID.",
    "user_id": "The user's id: `sub` of the token.",
    "title": "1 to 200 characters, without white space at both ends.",
    "description": "Up to 2000 characters; `null` without one.",
    "completed": "Whether the task is done.",
    "priority": "`null` without one.",
    "due_date": "A date, or a date-time, which is returned in UTC.",
    "tags": "Up to 20 tags without duplicates. In a request, `null` removes all.",
    "position": "The key of the order by hand; `null` without one.",
    "repeat": "The rule of a repeating task; `null` for one that does not repeat.",
    "time_zone": "The IANA time zone of a repeating task whose due date has a time.",
    "unit": "The unit that `every` counts.",
    "Erased.erased": "What was erased.",
    "Export.user": "The user, and when the user created tasks.",
    "Export.exported_at": "When the export began.",
    "ExportedTask.deleted_at": "When the task was deleted; `null` for a live task.",
    "ImportBody.tasks": "Up to 5000 tasks of an export.",
    "Imported.created": "How many tasks were created.",
    "Imported.present": "How many tasks needed no change.",
    "created_at": "When the task was created.",
    "updated_at": "When the task was last changed.",
    "completed_at": "When the task was completed; `null` while it is pending.",
    "version": "Grows with every change; the `ETag` is the quoted version.",
    "op": "The kind of operation.",
    "task": "The members to change.",
    "CreateOperation.task": "The members of the new task. An `id` in them is ignored.",
    "if_version": "Refuse the operation unless the task has this version.",
    "operations": "1 to 100 operations, each on another task.",
    "results": "One result for each operation, in the order of the request.",
    "OperationResult.problem": "Why the operation was refused. Absent if it was applied.",
    "changed": "How many tasks differ now.",
    "DeletedTask.deleted": "Marks a deleted task: other entries have no such member.",
    "deleted": "How many tasks were deleted.",
    "restored": "How many tasks were restored.",
    "ids": "The ids of these tasks.",
    "name": "The user's name in the token; `null` without one.",
    "email": "The user's e-mail address in the token; `null` without one.",
    "Me.tasks": "How many tasks the user has.",
    "total": "All tasks.",
    "pending": "Tasks that are not completed.",
    "TaskCounts.completed": "Completed tasks.",
    "Health.status": "Always `ok`.",
    "type": "The path that explains the code.",
    "Problem.code": "What went wrong, for programs.",
    "Problem.title": "The code as a phrase.",
    "Problem.status": "The HTTP status.",
    "detail": "What was wrong and what to do, for people.",
    "message": "The same as `detail`.",
    "instance": "The path of the request.",
    "request_id": "The id of the request in the log, as in `X-Request-ID`.",
    "errors": "Each invalid value, up to 100.",
    "FieldError.code": "Why the value is invalid, for programs.",
    "FieldError.message": "Why the value is invalid, for people.",
    "field": "The name of the member, parameter or header field.",
    "pointer": "Where the value is in the body, as a JSON pointer.",
}
# In the example of a code that has errors.
_ERRORS: Final = {
    "validation_failed": FieldError(
        field="title", pointer="/title", code="blank", message="must not be empty"
    ),
    "nothing_to_change": FieldError(
        field="is_completed",
        pointer="/is_completed",
        code="unknown",
        message="is not a member of this route: use completed",
    ),
}
_HEADERS: Final = {
    "Content-Disposition": "The name of the file to save the export in.",
    "ETag": "Identifies this state of the task or list, for `If-Match` and `If-None-Match`.",
    "Link": 'The next page, with `rel="next"`. Absent on the last page.',
    "Location": "The path of the new task.",
    "Preference-Applied": "The preferences of `Prefer` that were followed.",
    "RateLimit": "The remaining requests (`r`), and the seconds until the quota resets (`t`).",
    "RateLimit-Policy": "The number of requests (`q`) allowed in a number of seconds (`w`).",
    "Retry-After": "The seconds to wait before the next attempt.",
    "WWW-Authenticate": "Why the token was rejected (RFC 6750).",
    "X-Request-ID": "The id of this request in the log: the client's if it is valid, or a new id.",
    "X-Total-Count": "The number of matching tasks on all pages.",
}


def responses(
    example: object,
    *codes: str,
    status: int = 200,
    headers: Sequence[str] = (),
    texts: Mapping[str, str] = _NO_TEXTS,
    model: Any = None,  # noqa: ANN401 - a type
    media_type: str = "application/json",
) -> dict[int | str, dict[str, Any]]:
    """FastAPI's ``responses``: the successful response, and the error responses for the codes.

    ``texts`` has an example for each media type that is not JSON. ``model`` is needed if the status
    is not that of the route.
    """
    rate_limit = ("RateLimit", "RateLimit-Policy") if "rate_limited" in codes else ()
    described: dict[int | str, dict[str, Any]] = {
        status: {
            "description": _phrase(status),
            "headers": _headers("X-Request-ID", *rate_limit, *headers),
            "content": {
                media_type: {"example": example},
                **{name: {"schema": _TEXT, "example": text} for name, text in texts.items()},
            },
            **({"model": model} if model else {}),
        }
    }
    for code in codes:
        problem_type = PROBLEM_TYPES[code]
        response = described.setdefault(
            problem_type.status,
            {
                "description": _phrase(problem_type.status),
                "headers": _headers("X-Request-ID", *(problem_type.headers.keys() & _HEADERS)),
                "content": {
                    MEDIA_TYPE: {
                        "schema": {"$ref": f"#/components/schemas/{_PROBLEM}"},
                        "examples": {},
                    }
                },
            },
        )
        if code == "rate_limited":
            response["headers"] |= _headers("Retry-After", *rate_limit)
        response["content"][MEDIA_TYPE]["examples"][str(code)] = {"value": _example(str(code))}
    return described


def _phrase(status: int) -> str:
    """The reason phrase of RFC 9110; Python before 3.13 has the older ones."""
    renamed = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}
    return renamed.get(status) or HTTPStatus(status).phrase


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in sorted(names)}


def _example(code: str) -> dict[str, Any]:
    problem_type = PROBLEM_TYPES[code]
    example = {
        "type": f"/problems/{code}",
        "title": problem_type.title,
        "status": problem_type.status,
        "detail": problem_type.detail,
        "message": problem_type.detail,
        "code": code,
        "instance": "/api/tasks",
        "request_id": "0198f3c27d1e7c3a9b1f5a0f6f1d2c3b",
    }
    if code in _ERRORS:
        errors = [_ERRORS[code]]
        example |= {"detail": summarize(errors), "message": summarize(errors), "errors": errors}
    return example


class DocumentedApp(FastAPI):
    """FastAPI with problem documents in its schema instead of FastAPI's validation errors."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            schema = super().openapi()
            schema["components"]["schemas"] |= _component(_PROBLEM, Problem)
            schema["components"]["headers"] = {
                name: {"description": description, "schema": {"type": "string"}}
                for name, description in _HEADERS.items()
            }
            for route in iter_route_contexts(self.routes):
                if isinstance(route.original_route, APIRoute) and route.include_in_schema:
                    for method in route.methods or ():
                        _complete(schema["paths"][route.path_format][method.lower()], route)
            _drop_unused(schema)
            _drop_titles(schema)
            _describe_members(schema["components"]["schemas"])
            schema["components"]["schemas"] |= _ENUMERATIONS
            schema["paths"] = _with_enumerations(schema["paths"])
            self.openapi_schema = schema
        return self.openapi_schema or {}


def _component(name: str, model: Any) -> dict[str, Any]:  # noqa: ANN401 - a type
    schema = TypeAdapter(model).json_schema(
        mode="serialization", ref_template="#/components/schemas/{model}"
    )
    return {**schema.pop("$defs", {}), name: schema}


def _complete(operation: dict[str, Any], route: RouteContext) -> None:
    """Remove FastAPI's 422, restore the nulls that it strips from examples, and describe PATCH.

    Parameters are never null: a client leaves out a parameter whose default is None.
    """
    if 422 not in route.responses:  # noqa: PLR2004
        operation["responses"].pop("422", None)
    for status, response in route.responses.items():
        for media_type, content in response.get("content", {}).items():
            operation["responses"][str(status)]["content"][media_type] |= content
    operation["responses"] = dict(sorted(operation["responses"].items()))
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = _without_null(parameter["schema"])
    if route.methods == {"PATCH"} and "requestBody" in operation:
        content = operation["requestBody"]["content"]
        content["application/merge-patch+json"] = content["application/json"]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without null, and without the title that FastAPI derives from the name."""
    match schema:
        case {"anyOf": [only, {"type": "null"}]}:
            rest = {key: value for key, value in schema.items() if key not in {"anyOf", "title"}}
            return {**only, **rest}
        case _:
            return {key: value for key, value in schema.items() if key != "title"}


def _drop_titles(schema: dict[str, Any]) -> None:
    """Remove the titles that Pydantic derives from names: client generators would repeat them."""
    for component in schema["components"]["schemas"].values():
        for described in (component, *component["properties"].values()):
            described.pop("title", None)


def _drop_unused(schema: dict[str, Any]) -> None:
    """Remove the components that no operation refers to."""
    schemas = schema["components"]["schemas"]
    for name in list(schemas):
        if f'#/components/schemas/{name}"' not in json.dumps(schema):
            del schemas[name]


def _describe_members(schemas: dict[str, Any]) -> None:
    """Describe the members of components, and refer to the named enumerations."""
    for name, component in schemas.items():
        members = _with_enumerations(component["properties"])
        for member, described in members.items():
            text = _MEMBERS.get(f"{name}.{member}") or _MEMBERS.get(member)
            if text:
                described.setdefault("description", text)
        component["properties"] = members


def _with_enumerations(node: Any) -> Any:  # noqa: ANN401 - any JSON
    """The node with references in place of the named enumerations."""
    if isinstance(node, list):
        return [_with_enumerations(item) for item in node]
    if not isinstance(node, dict):
        return node
    for name, enumeration in _ENUMERATIONS.items():
        if node.get("enum") == enumeration["enum"]:
            rest = {key: value for key, value in node.items() if key not in enumeration}
            return {"$ref": f"#/components/schemas/{name}", **rest}
    return {key: _with_enumerations(value) for key, value in node.items()}
