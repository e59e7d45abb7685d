"""Writes of every task that a filter matches, or of the tasks with these ids."""

from typing import Annotated, Final

from fastapi import APIRouter, Body, Query, Request
from starlette.responses import Response

from todo_api.dependencies import Actor, Now, Tasks
from todo_api.http.headers import Prefer, max_affected
from todo_api.http.query_params import query_parameters
from todo_api.http.responses import json_response
from todo_api.http.routing import ApiRoute
from todo_api.openapi import BODY, CHANGES, COMMON, TASK, responses
from todo_api.problems import ProblemError, printable
from todo_api.schemas import Changed, Deleted, FilterQuery, IdsQuery, Restored, TaskChanges
from todo_domain import use_cases
from todo_domain.queries import TaskFilter

router = APIRouter(prefix="/api/tasks", tags=["tasks"], route_class=ApiRoute)

_REPEATABLE: Final = frozenset({"id", "tag"})
_GUARD: Final = ("bad_request", "filter_required", "too_many_affected")


@router.patch(
    "",
    operation_id="changeTasks",
    response_model=Changed,
    responses=responses(
        {"changed": 1, "ids": [TASK["id"]]}, *COMMON, *BODY, *_GUARD, "nothing_to_change"
    ),
)
async def change_tasks(
    request: Request,
    actor: Actor,
    tasks: Tasks,
    now: Now,
    query: Annotated[FilterQuery, Query()],
    changes: Annotated[TaskChanges, Body(examples=[CHANGES])],
    prefer: Prefer = None,
) -> Response:
    """Change every task that matches. The response has the ids of those that differ now.

    A filter or ids are required: 400 otherwise, and for a parameter that is unknown. With
    `Prefer: handling=strict, max-affected=50` nothing is changed if more tasks match (409).
    """
    wanted = _required_filter(request, query)
    limit = max_affected(prefer)
    ids = await use_cases.change_matching(
        tasks, actor, wanted, now=now, max_affected=limit, **changes
    )
    return json_response({"changed": len(ids), "ids": sorted(map(str, ids))})


@router.delete(
    "",
    operation_id="deleteTasks",
    response_model=Deleted,
    responses=responses({"deleted": 1, "ids": [TASK["id"]]}, *COMMON, *_GUARD),
)
async def delete_tasks(
    request: Request,
    actor: Actor,
    tasks: Tasks,
    now: Now,
    query: Annotated[FilterQuery, Query()],
    prefer: Prefer = None,
) -> Response:
    """Delete every task that matches, for example `?status=completed`. Each can be restored.

    A filter or ids are required: 400 otherwise, and for a parameter that is unknown. With
    `Prefer: handling=strict, max-affected=50` nothing is deleted if more tasks match (409).
    """
    wanted = _required_filter(request, query)
    limit = max_affected(prefer)
    ids = await use_cases.delete_matching(tasks, actor, wanted, now=now, max_affected=limit)
    return json_response({"deleted": len(ids), "ids": sorted(map(str, ids))})


@router.post(
    "/restore",
    operation_id="restoreTasks",
    response_model=Restored,
    responses=responses({"restored": 1, "ids": [TASK["id"]]}, *COMMON, "bad_request"),
)
async def restore_tasks(
    actor: Actor, tasks: Tasks, now: Now, query: Annotated[IdsQuery, Query()]
) -> Response:
    """Undo the delete of these tasks. The response has the ids of those that are restored now."""
    ids = await use_cases.restore_tasks(tasks, actor, dict.fromkeys(query.id), now=now)
    return json_response({"restored": len(ids), "ids": sorted(map(str, ids))})


def _required_filter(request: Request, query: FilterQuery) -> TaskFilter:
    """The filter. Raises ProblemError if there is none, or if it is not clear what it selects.

    The aliases of a list's parameters are refused: what a write misunderstands is lost.
    """
    seen: set[str] = set()
    for name, value in query_parameters(request):
        if reason := _refusal(name, value, seen):
            raise ProblemError(
                "filter_required", f"{printable(name)}: {reason}; no task was changed"
            )
        seen.add(name)
    if {"status", "completed"} <= seen:
        raise ProblemError(
            "filter_required", "status: send either status or completed; no task was changed"
        )
    wanted = query.filter()
    if wanted == TaskFilter():
        raise ProblemError("filter_required")
    return wanted


def _refusal(name: str, value: str, seen: set[str]) -> str | None:
    """Why this parameter must not select the tasks of a write; None if it may."""
    if name not in FilterQuery.model_fields:
        return "is not a filter of this request"
    if not value:
        return "is empty"  # a list ignores the parameter, so that the write would select more
    return "is sent twice" if name in seen and name not in _REPEATABLE else None
