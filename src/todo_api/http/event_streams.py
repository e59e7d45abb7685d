"""A response of server-sent events, and the publication of changes as their data."""

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from todo_api.change_streams import HEADERS, MEDIA_TYPE, ChangeBroker, ChangeStream
from todo_api.http.responses import change_document
from todo_api.request_state import request_state
from todo_domain.ports import ChangeListener


class EventStreamResponse(Response):
    """A response to which LimitsMiddleware sends the events of the stream."""

    media_type = MEDIA_TYPE

    def __init__(self, stream: ChangeStream) -> None:
        super().__init__()
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        state = request_state(scope)
        if state.method != "HEAD":
            state.stream = self._stream.run
            return
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": b""})


def publisher(broker: ChangeBroker) -> ChangeListener:
    """A listener that publishes each change of a repository as the data of an event."""
    return lambda change: broker.publish(change.owner, change.number, change_document(change))
