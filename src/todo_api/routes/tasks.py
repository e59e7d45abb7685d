"""The task routes."""

from dataclasses import replace
from typing import Annotated, cast
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
    UnlessMatch,
    allowed_versions,
    known_change,
    list_etag,
    matches_if_none_match,
    parse_idempotency_key,
    prefers,
)
from todo_api.http.query_params import query_parameters
from todo_api.http.responses import (
    changed_task_response,
    task_list_response,
    task_response,
)
from todo_api.http.routing import ApiRoute
from todo_api.openapi import (
    BODY,
    CHANGES,
    COMMON,
    MINIMAL,
    NEW_TASK,
    NOT_MODIFIED,
    TASK,
    TASKS,
    responses,
)
from todo_api.problems import FieldError, ProblemError
from todo_api.request_state import original_path
from todo_api.schemas import (
    ChangedTask,
    Completion,
    ListQuery,
    NewTask,
    Task,
    TaskChanges,
)
from todo_domain import use_cases
from todo_domain.queries import PAGE_MAX, TaskQuery

router = APIRouter(prefix="/api/tasks", tags=["tasks"], route_class=ApiRoute)

TaskId = Annotated[UUID, Path(description="The task's id.")]
_EDIT = ("bad_request", "not_found", "conflict", "stale_version", "nothing_to_change")


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
    """List the tasks that match the query; newest first, unless `sort` says otherwise.

    Without `limit` the response has up to 1000 tasks. If there are more, a `Link` header with
    `rel="next"` has the path of the next page. `X-Total-Count` is sent if the response has every
    matching task, or with `Prefer: count=exact`.
    """
    query = _task_query(listing, actor.user_id, prefer)
    text = f"{request.scope['query_string'].decode('latin-1')} {query.with_total}"
    known = known_change(text, if_none_match)
    page = await use_cases.list_tasks(tasks, actor, replace(query, unless_change=known))
    headers = {"ETag": list_etag(text, page.state)}
    if page.state.last == known and not matches_if_none_match(headers["ETag"], if_none_match):
        # The known number belongs to another history: the database was restored.
        page = await use_cases.list_tasks(tasks, actor, query)
        headers = {"ETag": list_etag(text, page.state)}
    if page.has_more:
        last = query.sort.position(page.tasks[-1])
        headers["Link"] = _next_link(request, encode_cursor(actor.user_id, query, last))
    if page.total is not None:
        headers["X-Total-Count"] = str(page.total)
    return task_list_response(page.tasks, headers, if_none_match)


@router.get(
    "/{task_id}",
    operation_id="getTask",
    response_model=Task,
    responses=responses(TASK, *COMMON, "not_found", headers=("ETag",)) | NOT_MODIFIED,
)
async def get_task(
    actor: Actor, tasks: Tasks, task_id: TaskId, if_none_match: IfNoneMatch = None
) -> Response:
    """Return a task."""
    return task_response(await use_cases.get_task(tasks, actor, task_id), if_none_match)


@router.post(
    "",
    operation_id="createTask",
    status_code=201,
    response_model=Task,
    responses=responses(TASK, "rate_limited", headers=("ETag", "Location"), model=Task)
    | responses(
        TASK,
        *(*COMMON, *BODY, "bad_request", "id_taken", "idempotency_key_reused"),
        status=201,
        headers=("ETag", "Location"),
    )
    | MINIMAL,
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
    """Create a task. A repeated `Idempotency-Key` returns the task of the first request.

    The client may choose the `id`, any UUID. Repeating the request then returns 200 and the task.
    An `id` that is not a UUID is ignored, or 422 with `Prefer: handling=strict`.
    """
    key = parse_idempotency_key(idempotency_key)
    client_id = _client_id(new, prefer)
    members = cast("TaskChanges", {name: value for name, value in new.items() if name != "id"})
    task, is_new = await use_cases.create_task(
        tasks,
        actor,
        client_id or task_id,
        now=now,
        key=key,
        is_client_id=client_id is not None,
        **members,
    )
    location = f"{original_path(request.scope).rstrip('/')}/{task.id}"
    return changed_task_response(task, prefer, 201 if is_new else 200, {"Location": location})


@router.put(
    "/{task_id}",
    operation_id="updateTask",
    response_model=ChangedTask,
    responses=responses(TASK, "rate_limited", status=201, headers=("ETag", "Location"), model=Task)
    | responses(TASK, *COMMON, *BODY, *_EDIT, "id_taken", headers=("ETag",))
    | MINIMAL,
)
async def put_task(
    request: Request,
    actor: Actor,
    tasks: Tasks,
    task_id: TaskId,
    now: Now,
    changes: Annotated[TaskChanges, Body(examples=[CHANGES])],
    if_match: IfMatch = None,
    if_none_match: UnlessMatch = None,
    prefer: Prefer = None,
) -> Response:
    """Change the members that are sent, as PATCH does, or create the task with this id.

    `If-None-Match: *` creates it: 201, or 412 if the task exists. The `title` is required then.
    """
    creates = if_match is None and if_none_match is not None and if_none_match.strip() == "*"
    if not creates:
        return await change_task(
            actor, tasks, task_id, now, changes, if_match, if_none_match, prefer
        )
    if "title" not in changes:
        error = FieldError(field="title", pointer="/title", code="required", message="is required")
        raise ProblemError("validation_failed", errors=[error])
    task = await use_cases.create_task_with_id(tasks, actor, task_id, now=now, **changes)
    location = original_path(request.scope).rstrip("/")
    return changed_task_response(task, prefer, 201, {"Location": location})


@router.patch(
    "/{task_id}",
    operation_id="patchTask",
    response_model=ChangedTask,
    responses=responses(TASK, *COMMON, *BODY, *_EDIT, headers=("ETag",)) | MINIMAL,
)
async def change_task(
    actor: Actor,
    tasks: Tasks,
    task_id: TaskId,
    now: Now,
    changes: Annotated[TaskChanges, Body(examples=[CHANGES])],
    if_match: IfMatch = None,
    if_none_match: UnlessMatch = None,
    prefer: Prefer = None,
) -> Response:
    """Change the members that are sent. `null` clears a member; absent members keep their value.

    The body is `application/json` or `application/merge-patch+json` (RFC 7396).
    """
    versions = allowed_versions(if_match, if_none_match)
    task, successor = await use_cases.change_task(
        tasks, actor, task_id, now=now, versions=versions, **changes
    )
    return changed_task_response(task, prefer, successor=successor)


@router.patch(
    "/{task_id}/complete",
    operation_id="completeTask",
    response_model=ChangedTask,
    responses=responses(TASK, *COMMON, *BODY, *_EDIT, headers=("ETag",)) | MINIMAL,
)
@router.patch("/{task_id}/toggle", include_in_schema=False)
async def complete_task(
    actor: Actor,
    tasks: Tasks,
    task_id: TaskId,
    now: Now,
    body: Annotated[Completion, Body()] = Completion(),  # noqa: B008 - never changed
    if_match: IfMatch = None,
    if_none_match: UnlessMatch = None,
    prefer: Prefer = None,
) -> Response:
    """Set `completed`, or toggle it if the body is empty or `{}`.

    Completing a repeating task creates the next one, which is `next` in the response. Reopening
    the task deletes it, if it was not changed since.
    """
    versions = allowed_versions(if_match, if_none_match)
    if "completed" in body:
        task, successor = await use_cases.complete_task(
            tasks, actor, task_id, completed=body["completed"], now=now, versions=versions
        )
    else:
        task, successor = await use_cases.toggle_task(
            tasks, actor, task_id, now=now, versions=versions
        )
    return changed_task_response(task, prefer, successor=successor)


@router.delete(
    "/{task_id}",
    operation_id="deleteTask",
    response_model=Task,
    responses=responses(
        TASK, *COMMON, "bad_request", "not_found", "stale_version", headers=("ETag",)
    )
    | MINIMAL,
)
async def delete_task(
    actor: Actor,
    tasks: Tasks,
    task_id: TaskId,
    now: Now,
    if_match: IfMatch = None,
    if_none_match: UnlessMatch = None,
    prefer: Prefer = None,
) -> Response:
    """Delete a task and return it.

    The task can be restored for 30 days; the operator can configure this time.
    """
    versions = allowed_versions(if_match, if_none_match)
    task = await use_cases.delete_task(tasks, actor, task_id, now=now, versions=versions)
    return changed_task_response(task, prefer)


@router.post(
    "/{task_id}/restore",
    operation_id="restoreTask",
    response_model=Task,
    responses=responses(TASK, *COMMON, "not_found", "not_deleted", headers=("ETag",)) | MINIMAL,
)
async def restore_task(
    actor: Actor, tasks: Tasks, task_id: TaskId, now: Now, prefer: Prefer = None
) -> Response:
    """Undo a delete."""
    return changed_task_response(
        await use_cases.restore_task(tasks, actor, task_id, now=now), prefer
    )


def _client_id(new: NewTask, prefer: str | None) -> UUID | None:
    """The id that the client chose. Raises ProblemError for an invalid id with strict handling."""
    client_id = new.get("id")
    if "id" in new and client_id is None and prefers(prefer, "handling=strict"):
        error = FieldError(field="id", pointer="/id", code="bad_id", message="must be a UUID")
        raise ProblemError("validation_failed", errors=[error])
    return client_id


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
    """The link to the next page (RFC 8288).

    The reference is relative: behind a proxy only the client knows the address of the service.
    """
    others = [(name, value) for name, value in query_parameters(request) if name != "cursor"]
    query = urlencode([*others, ("cursor", cursor)])
    return f'<{original_path(request.scope)}?{query}>; rel="next"'
