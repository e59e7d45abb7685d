"""Successful responses: tasks as JSON, entity tags, 304, and ``Prefer: return=minimal``."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import orjson
from starlette.responses import Response

from todo_api.http.headers import matches_if_none_match, prefers, version_etag
from todo_domain.sync import Change
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
    task: Task,
    prefer: str | None,
    status: int = 200,
    headers: Mapping[str, str] = _NO_HEADERS,
    *,
    successor: Task | None = None,
) -> Response:
    """The task after a change, without a body for ``Prefer: return=minimal`` (RFC 7240)."""
    headers = {**headers, "ETag": version_etag(task.version)}
    if not prefers(prefer, "return=minimal"):
        document = serialize_task(task)
        if successor is not None:
            document["next"] = serialize_task(successor)
        return json_response(document, status, headers)
    headers["Preference-Applied"] = "return=minimal"
    return Response(status_code=204 if status == 200 else status, headers=headers)  # noqa: PLR2004


def serialize_task(task: Task) -> dict[str, object]:
    """The members of ``schemas.Task``, with values for ``to_json``."""
    due = task.due_date
    return {
        "id": str(task.id),
        "user_id": task.owner,
        "title": task.title,
        "description": task.description,
        "completed": task.completed,
        "priority": task.priority,
        "due_date": format_time(due) if isinstance(due, datetime) else due,
        "tags": task.tags,
        "position": task.position,
        "repeat": task.repeat and task.repeat.members,
        "time_zone": task.time_zone,
        "created_at": format_time(task.created_at),
        "updated_at": format_time(task.updated_at),
        "completed_at": task.completed_at and format_time(task.completed_at),
        "version": task.version,
    }


def change_document(change: Change) -> bytes:
    """The JSON of a change: its number, with the task or with the id of a deleted task."""
    document: dict[str, object] = {"change": change.number}
    if change.task is not None:
        document["task"] = serialize_task(change.task)
    elif change.task_id is not None:
        document |= {"id": str(change.task_id), "deleted": True}
    return to_json(document)


def to_json(document: object) -> bytes:
    """The document as JSON in UTF-8."""
    return orjson.dumps(document, option=orjson.OPT_UTC_Z)


def format_time(moment: datetime) -> datetime | str:
    """A value that ``to_json`` encodes like ``utc``: orjson omits a fraction that is zero."""
    return moment if moment.microsecond else utc(moment)


def utc(moment: datetime) -> str:
    """An aware time in UTC as RFC 3339, with microseconds and ``Z``."""
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"
