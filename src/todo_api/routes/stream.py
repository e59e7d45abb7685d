"""The stream of changes, by which a client learns at once that its copy is out of date."""

from typing import Final

from fastapi import APIRouter, Request

from todo_api.change_streams import MEDIA_TYPE, ChangeStreams
from todo_api.dependencies import Actor
from todo_api.http.event_streams import EventStreamResponse
from todo_api.http.routing import ApiRoute
from todo_api.openapi import COMMON, responses

router = APIRouter(prefix="/api/tasks", tags=["sync"], route_class=ApiRoute)

_EXAMPLE: Final = """\
event: hello
data: {"change":42}

id: 43
event: change
data: {"change":43,"id":"0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b","deleted":true}

retry: 1234
event: bye
data: {"reason":"token_expired"}

"""


@router.get(
    "/stream",
    operation_id="streamChanges",
    status_code=200,
    response_class=EventStreamResponse,
    responses=responses(
        _EXAMPLE, *COMMON, "too_many_streams", "stream_unavailable", media_type=MEDIA_TYPE
    ),
)
async def stream_changes(request: Request, actor: Actor) -> EventStreamResponse:
    """Stream the user's changes as server-sent events, until the token expires.

    `hello` comes first, with the number of the last change. `change` has the next number and the
    task, or the id of a deleted task, or after a write of several tasks the number alone. Read
    `GET /api/tasks/changes` unless the number is the one after yours: the stream may skip changes.
    A number of `null` means the same. `bye` comes last; connect again after the time of `retry`.
    """
    streams: ChangeStreams = request.scope["state"]["streams"]
    return EventStreamResponse(streams.new(actor))
