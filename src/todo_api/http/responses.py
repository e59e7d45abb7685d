"""Successful responses: JSON, entity tags, 304, and the shorter forms that Prefer asks for."""

from collections.abc import Mapping, Sequence
from typing import Final

from starlette.responses import Response

from todo_api.http.headers import matches_if_none_match, prefers, version_etag
from todo_api.schemas import serialize_task, to_json
from todo_domain.task import Task

_NO_HEADERS: Final[Mapping[str, str]] = {}


def json_response(
    document: object, status: int = 200, headers: Mapping[str, str] = _NO_HEADERS
) -> Response:
    """A response with this JSON document."""
    return Response(to_json(document), status, headers, "application/json")


def task_response(task: Task, if_none_match: str | None) -> Response:
    """The task, or 304 if the client has this version."""
    headers = {"ETag": version_etag(task.version)}
    if matches_if_none_match(headers["ETag"], if_none_match):
        return Response(status_code=304, headers=headers)
    return json_response(serialize_task(task), headers=headers)


def task_list_response(
    tasks: Sequence[Task], headers: Mapping[str, str], if_none_match: str | None
) -> Response:
    """The tasks, or 304 if the client has the list with the ``ETag`` of the headers."""
    if matches_if_none_match(headers["ETag"], if_none_match):
        return Response(status_code=304, headers={"ETag": headers["ETag"]})
    return json_response([serialize_task(task) for task in tasks], headers=headers)


def changed_task_response(
    task: Task, prefer: str | None, status: int = 200, headers: Mapping[str, str] = _NO_HEADERS
) -> Response:
    """The task after a change, without a body for ``Prefer: return=minimal`` (RFC 7240)."""
    headers = {**headers, "ETag": version_etag(task.version)}
    if not prefers(prefer, "return=minimal"):
        return json_response(serialize_task(task), status, headers)
    headers["Preference-Applied"] = "return=minimal"
    return Response(status_code=204 if status == 200 else status, headers=headers)  # noqa: PLR2004
