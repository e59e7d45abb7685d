"""The task routes: each turns a request into one use case and its result into an answer."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

import orjson
from fastapi import APIRouter, Body, Path, Query, Request
from starlette.responses import Response

from todo_api.cursors import read_cursor, write_cursor
from todo_api.dependencies import Actor, NewTaskId, Now, Tasks
from todo_api.openapi import COMMON, TASK, TASKS, answers
from todo_api.routing import ApiRoute
from todo_api.schemas import Completion, ListQuery, NewTask, Task, TaskChanges, task_document
from todo_domain import task as domain
from todo_domain import use_cases
from todo_domain.queries import PAGE_MAX, TaskQuery

router = APIRouter(prefix="/api/tasks", tags=["tasks"], route_class=ApiRoute)

TaskId = Annotated[UUID, Path()]
_BODY = ("malformed_json", "body_too_large", "unsupported_media_type", "validation_failed")


@router.get(
    "",
    operation_id="listTasks",
    response_model=list[Task],
    responses=answers(TASKS, *COMMON, "bad_cursor", "validation_failed"),
)
async def list_tasks(
    request: Request, actor: Actor, tasks: Tasks, listing: Annotated[ListQuery, Query()]
) -> Response:
    """The tasks that match, newest first unless sorted otherwise.

    Without `limit` the answer is everything up to 1000. A `Link` header with `rel="next"` says that
    there is more. `X-Total-Count` is sent when the answer holds every match, or when asked for with
    `Prefer: count=exact`.
    """
    query = _task_query(listing, actor.user_id, request.headers.get("prefer", ""))
    page = await use_cases.list_tasks(tasks, actor, query)
    headers = {}
    if page.more:
        place = query.sort.position(page.tasks[-1])
        headers["Link"] = _next_link(request, write_cursor(actor.user_id, query, place))
    if page.total is not None:
        headers["X-Total-Count"] = str(page.total)
    return _json([task_document(task) for task in page.tasks], headers=headers)


@router.post(
    "",
    operation_id="createTask",
    status_code=201,
    response_model=Task,
    responses=answers(TASK, *COMMON, *_BODY, status=201),
)
async def create_task(
    actor: Actor, tasks: Tasks, task_id: NewTaskId, now: Now, new: Annotated[NewTask, Body()]
) -> Response:
    """Create a task."""
    task = await use_cases.create_task(tasks, actor, task_id, now=now, **new)
    return _task(task, 201, {"Location": f"/api/tasks/{task.id}"})


@router.get(
    "/{task_id}",
    operation_id="getTask",
    response_model=Task,
    responses=answers(TASK, *COMMON, "not_found"),
)
async def get_task(actor: Actor, tasks: Tasks, task_id: TaskId) -> Response:
    """One task."""
    return _task(await use_cases.get_task(tasks, actor, task_id))


@router.put(
    "/{task_id}",
    operation_id="updateTask",
    response_model=Task,
    responses=answers(TASK, *COMMON, *_BODY, "not_found", "conflict"),
)
@router.patch(
    "/{task_id}",
    operation_id="patchTask",
    response_model=Task,
    responses=answers(TASK, *COMMON, *_BODY, "not_found", "conflict"),
)
async def change_task(
    actor: Actor, tasks: Tasks, task_id: TaskId, now: Now, changes: Annotated[TaskChanges, Body()]
) -> Response:
    """Change the members that are sent; null clears, absent members keep their value.

    PUT and PATCH do the same. PATCH also takes `application/merge-patch+json` (RFC 7396).
    """
    return _task(await use_cases.change_task(tasks, actor, task_id, now=now, **changes))


@router.patch(
    "/{task_id}/complete",
    operation_id="completeTask",
    response_model=Task,
    responses=answers(TASK, *COMMON, *_BODY, "not_found", "conflict"),
)
@router.patch("/{task_id}/toggle", include_in_schema=False)
async def complete_task(
    actor: Actor,
    tasks: Tasks,
    task_id: TaskId,
    now: Now,
    wanted: Annotated[Completion, Body()] = Completion(),  # noqa: B008 - never changed
) -> Response:
    """Set the completion to the one that is sent, or toggle it when the body is empty or `{}`."""
    if "completed" in wanted:
        completed = wanted["completed"]
        task = await use_cases.complete_task(tasks, actor, task_id, completed=completed, now=now)
    else:
        task = await use_cases.toggle_task(tasks, actor, task_id, now=now)
    return _task(task)


@router.delete(
    "/{task_id}",
    operation_id="deleteTask",
    response_model=Task,
    responses=answers(TASK, *COMMON, "not_found"),
)
async def delete_task(actor: Actor, tasks: Tasks, task_id: TaskId) -> Response:
    """Delete a task and return it as it was."""
    return _task(await use_cases.delete_task(tasks, actor, task_id))


def _task_query(listing: ListQuery, owner: str, prefer: str) -> TaskQuery:
    query = TaskQuery(
        filter=listing.filter(),
        sort=listing.sorting(),
        limit=listing.limit or PAGE_MAX,
        counted="count=exact" in prefer.replace(" ", "").lower().split(","),
    )
    if listing.cursor is None:
        return query
    return replace(query, after=read_cursor(owner, query, listing.cursor))


def _next_link(request: Request, cursor: str) -> str:
    """The same list from the cursor on (RFC 8288).

    The reference is relative, because behind a proxy only the client knows the service's address.
    """
    others = [(k, v) for k, v in request.query_params.multi_items() if k != "cursor"]
    return f'<{request.url.path}?{urlencode([*others, ("cursor", cursor)])}>; rel="next"'


def _task(task: domain.Task, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    return _json(task_document(task), status, {"ETag": f'"{task.version}"', **headers})


def _json(document: object, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    return Response(orjson.dumps(document), status, headers, "application/json")
