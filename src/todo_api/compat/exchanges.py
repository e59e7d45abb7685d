"""One request in a dialect and its response."""

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import orjson
from starlette.types import Message, Receive, Scope, Send

from todo_api.compat.dialects import BasePath
from todo_api.compat.paths import LIST, CanonicalPath
from todo_api.compat.requests import Window, canonical_members, canonical_query
from todo_api.compat.responses import (
    has_counts,
    list_document,
    other_document,
    problem_document,
    task_document,
)
from todo_api.http.bodies import BODY_MAX
from todo_api.http.query_params import PARAMETERS_MAX
from todo_api.problems import MEDIA_TYPE
from todo_api.request_state import original_path

PROBLEM_STATUS: Final = 400  # the first status of a problem

_JSON: Final = (b"application/json", MEDIA_TYPE.encode())
_WRITES: Final = frozenset({"POST", "PUT", "PATCH"})


class Exchange:
    """Translates a request to the canonical API, and the response back."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, base: BasePath, path: CanonicalPath
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._base = base
        self._path = path
        self._query = scope["query_string"]
        self._spellings: dict[str, str] = {}
        self._window: Window | None = None
        self._is_read = path.method not in _WRITES or not path.is_of_tasks
        self._start: Message | None = None
        self._body = bytearray()

    def rewrite_query(self) -> None:
        """Make the query of a list canonical. That of a delete stays: it is never widened."""
        if self._path.path != LIST or self._path.method != "GET":
            return
        counts = has_counts(self._base.dialect)
        if counts:
            self._scope["headers"] = [*self._scope["headers"], (b"prefer", b"count=exact")]
        try:
            sent = self._parameters()
        except ValueError:
            return  # too many parameters, which the API refuses
        query = canonical_query(sent, counts=counts)
        self._scope["query_string"] = urlencode(query.parameters).encode()
        self._spellings, self._window = query.spellings, query.window

    def _parameters(self) -> list[tuple[str, str]]:
        text = self._query.decode("latin-1")
        return parse_qsl(text, keep_blank_values=True, max_num_fields=PARAMETERS_MAX)

    async def receive(self) -> Message:
        """The whole body in one message, translated. The API asks for it after authentication."""
        if self._is_read:
            return await self._receive()
        body = bytearray()
        has_more = True
        while has_more and len(body) <= BODY_MAX:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            body += message.get("body", b"")
            has_more = message.get("more_body", False)
        self._is_read = True
        translated = bytes(body) if has_more else self._canonical_body(bytes(body))
        return {"type": "http.request", "body": translated, "more_body": has_more}

    def _canonical_body(self, body: bytes) -> bytes:
        """The canonical body. A body that is no JSON object stays: the API refuses it."""
        try:
            sent = json.loads(body)
            if not isinstance(sent, dict):
                return body
            members, self._spellings = canonical_members(sent, self._base.dialect)
            return body if members == sent else _to_json(members)
        except (ValueError, RecursionError):
            return body

    async def send(self, message: Message) -> None:
        """Send the response. JSON is sent translated, when it is complete."""
        if message["type"] == "http.response.start" and self._translates(message):
            self._start = message
        elif self._start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_translated(self._start)

    def _translates(self, start: Message) -> bool:
        fields = dict(start["headers"])
        is_ours = self._path.is_of_tasks or start["status"] >= PROBLEM_STATUS
        return is_ours and bool(fields.get(b"content-type", b"").startswith(_JSON))

    async def _send_translated(self, start: Message) -> None:
        fields = dict(start["headers"])
        body = orjson.dumps(self._document(orjson.loads(self._body), start["status"], fields))
        fields[b"content-length"] = str(len(body)).encode()
        await self._send({**start, "headers": list(fields.items())})
        await self._send({"type": "http.response.body", "body": body})

    def _document(self, document: Any, status: int, fields: dict[bytes, bytes]) -> object:  # noqa: ANN401 - JSON
        dialect = self._base.dialect
        if status >= PROBLEM_STATUS:
            return problem_document(document, dialect, self._spellings)
        if isinstance(document, list):
            return self._list_document(document, fields)
        if "version" in document:
            return task_document(document, dialect, self._list_url())
        return other_document(document, dialect)

    def _list_document(self, tasks: list[Mapping[str, Any]], fields: dict[bytes, bytes]) -> object:
        total = int(fields.get(b"x-total-count", len(tasks)))
        if self._window is not None:
            has_more = fields.pop(b"link", None) or self._window.stop < len(tasks)
            if has_more:
                fields[b"link"] = self._next_link(self._window)
        url = self._list_url()
        return list_document(tasks, self._base.dialect, url, window=self._window, total=total)

    def _next_link(self, window: Window) -> bytes:
        others = [(name, value) for name, value in self._parameters() if name != "page"]
        query = urlencode([*others, ("page", window.stop // window.size + 1)])
        return f'<{original_path(self._scope)}?{query}>; rel="next"'.encode()

    def _list_url(self) -> str:
        """The absolute URL of the list: pages of other origins use the ``url`` of a task."""
        root_path = original_path(self._scope).partition(self._base.text)[0]
        host = next((v for name, v in self._scope["headers"] if name == b"host"), b"")
        origin = f"{self._scope['scheme']}://{host.decode('latin-1')}" if host else ""
        return f"{origin}{root_path}{self._base.text}{LIST}"


def _to_json(members: Mapping[str, object]) -> bytes:
    try:
        return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate, which the API refuses
        return json.dumps(members, separators=(",", ":")).encode()
