"""The feed of changes, from which a client keeps a copy of the user's tasks."""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response
from typing_extensions import TypedDict

from todo_api.dependencies import Actor, Now, Retention, Tasks
from todo_api.http.cursors import decode_sync_token, encode_sync_token
from todo_api.http.responses import json_response, serialize_task
from todo_api.http.routing import ApiRoute
from todo_api.openapi import COMMON, TASK, responses
from todo_api.schemas import Id, Task
from todo_domain import use_cases
from todo_domain.sync import FEED_PAGE_DEFAULT, FEED_PAGE_MAX, FeedEntry

router = APIRouter(prefix="/api/tasks", tags=["sync"], route_class=ApiRoute)


class ChangesQuery(BaseModel):
    """The query parameters of the feed."""

    since: Annotated[
        str | None,
        Field(description="`next` of the previous response. Without it the feed starts over."),
    ] = None
    limit: Annotated[
        int, Field(ge=1, le=FEED_PAGE_MAX, description="The most changes of a page.")
    ] = FEED_PAGE_DEFAULT


class DeletedTask(TypedDict):
    """A task that was deleted since the token was issued."""

    id: Id
    deleted: Literal[True]


class Changes(TypedDict):
    """One page of the feed."""

    changes: Annotated[
        list[Task | DeletedTask],
        Field(description="Each changed task as it is now, or the id of a deleted task."),
    ]
    next: Annotated[str, Field(description="The token for `since` in the next request.")]
    more: Annotated[bool, Field(description="Whether another page is ready.")]
    change: Annotated[
        int,
        Field(description="The number of the last change: a copy has it after the last page."),
    ]


_EXAMPLE: Final[Changes] = {
    "changes": [TASK, {"id": "0198f3c2-8a44-7d19-8c55-3f2b7c9d1e01", "deleted": True}],
    "next": "N2Q1ZjA4NzFhZg",
    "more": False,
    "change": 42,
}


@router.get(
    "/changes",
    operation_id="listChanges",
    response_model=Changes,
    responses=responses(_EXAMPLE, *COMMON, "bad_cursor", "sync_expired"),
)
async def list_changes(
    actor: Actor,
    tasks: Tasks,
    now: Now,
    retention: Retention,
    query: Annotated[ChangesQuery, Query()],
) -> Response:
    """List the changes since the token of the previous response.

    Without a token the feed starts with all tasks. No change that was acknowledged is missing.
    410 `sync_expired`: drop the copy and start over without `since`.
    """
    token = None if not query.since else decode_sync_token(actor.user_id, query.since)
    page, token = await use_cases.list_changes(
        tasks, actor, token, limit=query.limit, now=now, retention=retention
    )
    document = {
        "changes": [_serialize(entry) for entry in page.entries],
        "next": encode_sync_token(actor.user_id, token),
        "more": page.has_more,
        "change": page.state.last,
    }
    return json_response(document)


def _serialize(entry: FeedEntry) -> dict[str, object]:
    if entry.task is None:
        return {"id": str(entry.id), "deleted": True}
    return serialize_task(entry.task)
