"""Successful answers: JSON with their headers, as little of them as the client wants."""

from collections.abc import Mapping, Sequence
from typing import Final

from starlette.responses import Response

from todo_api.http.headers import list_etag, matches_if_none_match, prefers, version_etag
from todo_api.schemas import serialize_task, to_json
from todo_domain.task import Task

_NONE: Final[Mapping[str, str]] = {}


def json_response(
    document: object, status: int = 200, headers: Mapping[str, str] = _NONE
) -> Response:
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
    """The tasks, or 304 if the client has this very list."""
    tagged = {**headers, "ETag": list_etag(tasks, headers)}
    if matches_if_none_match(tagged["ETag"], if_none_match):
        return Response(status_code=304, headers=tagged)
    return json_response([serialize_task(task) for task in tasks], headers=tagged)


def changed_task_response(
    task: Task, prefer: str | None, status: int = 200, headers: Mapping[str, str] = _NONE
) -> Response:
    """The task after a change; without a body if the client prefers that (RFC 7240)."""
    tagged = {**headers, "ETag": version_etag(task.version)}
    if not prefers(prefer, "return=minimal"):
        return json_response(serialize_task(task), status, tagged)
    tagged["Preference-Applied"] = "return=minimal"
    return Response(status_code=204 if status == 200 else status, headers=tagged)  # noqa: PLR2004
