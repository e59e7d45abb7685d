"""The authenticated user."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from todo_api.dependencies import Actor, Tasks
from todo_api.http.responses import json_response, utc
from todo_api.http.routing import ApiRoute
from todo_api.openapi import COMMON, responses
from todo_api.schemas import Time
from todo_domain import use_cases

router = APIRouter(prefix="/api/me", tags=["me"], route_class=ApiRoute)


class TaskCounts(TypedDict):
    """How many tasks the user has."""

    total: int
    pending: int
    completed: int


class Me(TypedDict):
    """The authenticated user. Name and e-mail come from the token."""

    user_id: str
    name: str | None
    email: str | None
    token_expires_at: Annotated[Time, Field(description="When the token expires.")]
    tasks: TaskCounts


_ME: Me = {
    "user_id": "dlMsxWRCI2eyTUbIQ9DUoaji4ROD9Eqh",
    "name": "Ada",
    "email": "ada@example.com",
    "token_expires_at": "2026-01-18T09:45:00.000000Z",
    "tasks": {"total": 3, "pending": 2, "completed": 1},
}


@router.get("", operation_id="getMe", response_model=Me, responses=responses(_ME, *COMMON))
async def get_me(actor: Actor, tasks: Tasks) -> Response:
    """The authenticated user, when the token expires, and how many tasks the user has."""
    counts = await use_cases.count_tasks(tasks, actor)
    me: Me = {
        "user_id": actor.user_id,
        "name": actor.name,
        "email": actor.email,
        "token_expires_at": utc(actor.expires_at),
        "tasks": {
            "total": counts.total,
            "pending": counts.pending,
            "completed": counts.completed,
        },
    }
    return json_response(me)
