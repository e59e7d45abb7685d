"""The task routes: each turns a request into one use case and its result into an answer."""

from dataclasses import replace
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Body, Path, Query, Request
from starlette.responses import Response

from todo_api.dependencies import Actor, NewTaskId, Now, Tasks
from todo_api.http.cursors import decode_cursor, encode_cursor
from todo_api.http.headers import (
    IdempotencyKey,
    IfMatch,
    IfNoneMatch,
    Prefer,
    checked_key,
    parse_if_match,
    prefers,
)
from todo_api.http.query_params import parameters
from todo_api.http.responses import (
    changed_task_response,
    json_response,
    task_list_response,
    task_response,
)
from todo_api.http.routing import ApiRoute
from todo_api.openapi import CHANGES, COMMON, NEW_TASK, NOT_MODIFIED, TASK, TASKS, responses
from todo_api.problems import ProblemError, original_path
from todo_api.schemas import (
    Cleared,
    ClearQuery,
    Completion,
    ListQuery,
    NewTask,
    Task,
    TaskChanges,
)
from todo_domain import use_cases
from todo_domain.queries import PAGE_MAX, TaskQuery

router = APIRouter(prefix="/api/tasks", tags=["tasks"], route_class=ApiRoute)

TaskId = Annotated[UUID, Path()]
_BODY = ("malformed_json", "request_timeout", "body_too_large", "unsupported_media_type")
_EDIT = ("not_found", "conflict", "stale_version")


@router.get(
    "",
    operation_id="listTasks",
    response_model=list[Task],
    responses=responses(TASKS, *COMMON, "bad_cursor", headers=("ETag", "Link", "X-Total-Count"))
    | NOT_MODIFIED,
)
async def list_tasks(
    request: Request,
    actor: Actor,
    tasks: Tasks,
    listing: Annotated[ListQuery, Query()],
    prefer: Prefer = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The tasks that match, newest first unless sorted otherwise.

    Without `limit` the answer is everything up to 1000. A `Link` header with `rel="next"` says that
    there is more. `X-Total-Count` is sent when the answer holds every match, or when asked for with
    `Prefer: count=exact`.
    """
    query = _task_query(listing, actor.user_id, prefer)
    page = await use_cases.list_tasks(tasks, actor, query)
    headers = {}
    if page.has_more:
        place = query.sort.position(page.tasks[-1])
        headers["Link"] = _next_link(request, encode_cursor(actor.user_id, query, place))
    if page.total is not None:
        headers["X-Total-Count"] = str(page.total)
    return task_list_response(page.tasks, headers, if_none_match)


@router.post(
    "",
    operation_id="createTask",
    status_code=201,
    response_model=Task,
    responses=responses(
        TASK,
        *(*COMMON, *_BODY, "bad_request", "idempotency_key_reused"),
        status=201,
        headers=("ETag", "Location"),
    ),
)
async def create_task(
    request: Request,
    actor: Actor,
    tasks: Tasks,
    task_id: NewTaskId,
    now: Now,
    new: Annotated[NewTask, Body(examples=[NEW_TASK])],
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    """Create a task. With an `Idempotency-Key` a repeated request gives the first answer again."""
    key = checked_key(idempotency_key)
    task = await use_cases.create_task(tasks, actor, task_id, now=now, key=key, **new)
    location = f"{original_path(request).rstrip('/')}/{task.id}"
    return changed_task_response(task, prefer, 201, {"Location": location})


@router.delete(
    "",
    operation_id="clearCompletedTasks",
    response_model=Cleared,
    responses=responses({"deleted": 3}, *COMMON, "filter_required"),
)
async def clear_completed_tasks(
    request: Request, actor: Actor, tasks: Tasks, now: Now, which: Annotated[ClearQuery, Query()]
) -> Response:
    """Delete all completed tasks. Each can be restored."""
    narrower = ListQuery.model_fields.keys() - {"status"}
    if which.status is None or narrower & {name for name, _ in parameters(request)}:
        raise ProblemError("filter_required")
    deleted = await use_cases.delete_completed(tasks, actor, now=now)
    return json_response({"deleted": deleted})


@router.get(
    "/{task_id}",
    operation_id="getTask",
    response_model=Task,
    responses=responses(TASK, *COMMON, "not_found", headers=("ETag",)) | NOT_MODIFIED,
)
async def get_task(
    actor: Actor, tasks: Tasks, task_id: TaskId, if_none_match: IfNoneMatch = None
) -> Response:
    """One task."""
    return task_response(await use_cases.get_task(tasks, actor, task_id), if_none_match)


@router.put(
    "/{task_id}",
    operation_id="updateTask",
    response_model=Task,
    responses=responses(TASK, *COMMON, *_BODY, *_EDIT, headers=("ETag",)),
)
@router.patch(
    "/{task_id}",
    operation_id="patchTask",
    response_model=Task,
    responses=responses(TASK, *COMMON, *_BODY, *_EDIT, headers=("ETag",)),
)
async def change_task(
    actor: Actor,
    tasks: Tasks,
    task_id: TaskId,
    now: Now,
    changes: Annotated[TaskChanges, Body(examples=[CHANGES])],
    if_match: IfMatch = None,
    prefer: Prefer = None,
) -> Response:
    """Change the members that are sent; null clears, absent members keep their value.

    PUT and PATCH do the same. PATCH also takes `application/merge-patch+json` (RFC 7396).
    """
    versions = parse_if_match(if_match)
    task = await use_cases.change_task(tasks, actor, task_id, now=now, versions=versions, **changes)
    return changed_task_response(task, prefer)


@router.patch(
    "/{task_id}/complete",
    operation_id="completeTask",
    response_model=Task,
    responses=responses(TASK, *COMMON, *_BODY, *_EDIT, headers=("ETag",)),
)
@router.patch("/{task_id}/toggle", include_in_schema=False)
async def complete_task(
    actor: Actor,
    tasks: Tasks,
    task_id: TaskId,
    now: Now,
    wanted: Annotated[Completion, Body()] = Completion(),  # noqa: B008 - never changed
    if_match: IfMatch = None,
    prefer: Prefer = None,
) -> Response:
    """Set the completion to the one that is sent, or toggle it when the body is empty or `{}`."""
    versions = parse_if_match(if_match)
    if "completed" in wanted:
        task = await use_cases.complete_task(
            tasks, actor, task_id, completed=wanted["completed"], now=now, versions=versions
        )
    else:
        task = await use_cases.toggle_task(tasks, actor, task_id, now=now, versions=versions)
    return changed_task_response(task, prefer)


@router.delete(
    "/{task_id}",
    operation_id="deleteTask",
    response_model=Task,
    responses=responses(TASK, *COMMON, "not_found", "stale_version", headers=("ETag",)),
)
async def delete_task(
    actor: Actor,
    tasks: Tasks,
    task_id: TaskId,
    now: Now,
    if_match: IfMatch = None,
    prefer: Prefer = None,
) -> Response:
    """Delete a task and return it as it was.

    It can be restored for 30 days, unless configured otherwise.
    """
    versions = parse_if_match(if_match)
    task = await use_cases.delete_task(tasks, actor, task_id, now=now, versions=versions)
    return changed_task_response(task, prefer)


@router.post(
    "/{task_id}/restore",
    operation_id="restoreTask",
    response_model=Task,
    responses=responses(TASK, *COMMON, "not_found", "not_deleted", headers=("ETag",)),
)
async def restore_task(
    actor: Actor, tasks: Tasks, task_id: TaskId, now: Now, prefer: Prefer = None
) -> Response:
    """Undo a delete."""
    return changed_task_response(
        await use_cases.restore_task(tasks, actor, task_id, now=now), prefer
    )


def _task_query(listing: ListQuery, owner: str, prefer: str | None) -> TaskQuery:
    query = TaskQuery(
        filter=listing.filter(),
        sort=listing.sorting(),
        limit=listing.limit or PAGE_MAX,
        with_total=prefers(prefer, "count=exact"),
    )
    if listing.cursor is None:
        return query
    return replace(query, after=decode_cursor(owner, query, listing.cursor))


def _next_link(request: Request, cursor: str) -> str:
    """The same list from the cursor on (RFC 8288).

    The reference is relative, because behind a proxy only the client knows the service's address.
    """
    others = [(name, value) for name, value in parameters(request) if name != "cursor"]
    query = urlencode([*others, ("cursor", cursor)])
    return f'<{original_path(request)}?{query}>; rel="next"'
