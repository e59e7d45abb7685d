"""The baseline: a minimal app for the same requests, on the same server, driver and database.

Raw ASGI, an asyncpg pool, hand-written SQL, orjson and a cached token. The baseline has no
validation, no limits and no logs.
"""

import sys
from functools import partial
from typing import Any, Final

import asyncpg
import orjson
import uuid_utils.compat
from jose import jwt
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from todo_api.server import granian as server
from todo_api.server.settings import Settings

_COLUMNS: Final = (
    "id, user_id, title, description, priority, due_at, tags, position, repeat, time_zone,"
    " created_at, updated_at, completed_at, version"
)
_GET: Final = (
    f"SELECT {_COLUMNS} FROM todo.tasks WHERE user_id = $1 AND id = $2 AND deleted_at IS NULL"
)
_LIST: Final = (
    f"SELECT {_COLUMNS} FROM todo.tasks WHERE user_id = $1 AND deleted_at IS NULL"
    " ORDER BY created_at DESC, id DESC LIMIT 20"
)
_POST: Final = (
    "INSERT INTO todo.tasks"
    " (id, user_id, title, due_all_day, tags, created_at, updated_at, version, change)"
    f" VALUES ($1, $2, $3, false, '{{}}', now(), now(), 1, 1) RETURNING {_COLUMNS}"
)
_PATCH: Final = (
    "UPDATE todo.tasks SET title = $3, updated_at = now(),"
    " version = version + 1, change = change + 1"
    f" WHERE user_id = $1 AND id = $2 AND deleted_at IS NULL RETURNING {_COLUMNS}"
)
_COMPLETE: Final = (
    "UPDATE todo.tasks SET completed_at = CASE WHEN $3 THEN now() END, updated_at = now(),"
    " version = version + 1, change = change + 1"
    f" WHERE user_id = $1 AND id = $2 AND deleted_at IS NULL RETURNING {_COLUMNS}"
)
_PRIORITIES: Final = (None, "low", "medium", "high")
_COLLECTION: Final = "/api/tasks"
_JSON: Final = (b"content-type", b"application/json")


class Baseline:
    """An ASGI app that serves only the requests of the benchmark."""

    def __init__(self, database_url: str, secret: str) -> None:
        self._database_url = database_url
        self._secret = secret
        self._users: dict[bytes, str] = {}
        self._pool: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        path, method = scope["path"], scope["method"]
        owner = self._user(scope)
        if method == "GET":
            if path == _COLLECTION:
                rows = await self._pool.fetch(_LIST, owner)
                await _respond(send, 200, [_document(row) for row in rows])
            else:
                row = await self._pool.fetchrow(_GET, owner, path[len(_COLLECTION) + 1 :])
                await _respond(send, 200, _document(row))
            return
        body = await _body(receive)
        if method == "POST":
            task_id = uuid_utils.compat.uuid7()
            row = await self._pool.fetchrow(_POST, task_id, owner, body["title"])
            await _respond(send, 201, _document(row))
        elif path.endswith("/complete"):
            task_id = path[len(_COLLECTION) + 1 : -len("/complete")]
            row = await self._pool.fetchrow(_COMPLETE, owner, task_id, body["completed"])
            await _respond(send, 200, _document(row))
        else:
            task_id = path[len(_COLLECTION) + 1 :]
            row = await self._pool.fetchrow(_PATCH, owner, task_id, body["title"])
            await _respond(send, 200, _document(row))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        # Without ``reset``, asyncpg sends a RESET whenever a connection is released.
        self._pool = await asyncpg.create_pool(
            self._database_url, min_size=10, max_size=10, reset=_no_reset
        )
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._pool.close()
        await send({"type": "lifespan.shutdown.complete"})

    def _user(self, scope: Scope) -> str:
        for name, value in scope["headers"]:
            if name == b"authorization":
                user = self._users.get(value)
                if user is None:
                    token = value.removeprefix(b"Bearer ").decode()
                    claims = jwt.decode(token, self._secret, "HS256")
                    user = self._users[value] = claims["sub"]
                return user
        raise PermissionError


async def _no_reset(_: object) -> None:
    """Leave the released connection unchanged."""


async def _body(receive: Receive) -> Any:  # noqa: ANN401 - JSON
    body, has_more = b"", True
    while has_more:
        message = await receive()
        body += message.get("body", b"")
        has_more = message.get("more_body", False)
    return orjson.loads(body)


async def _respond(send: Send, status: int, document: object) -> None:
    body = orjson.dumps(document, default=str)
    headers = [_JSON, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _document(row: Any) -> dict[str, Any]:  # noqa: ANN401 - asyncpg's record
    return {
        "id": row["id"],
        "user_id": row["user_id"],
        "title": row["title"],
        "description": row["description"],
        "completed": row["completed_at"] is not None,
        "priority": _PRIORITIES[row["priority"] or 0],
        "due_date": row["due_at"],
        "tags": row["tags"],
        "position": row["position"],
        "repeat": row["repeat"],
        "time_zone": row["time_zone"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "completed_at": row["completed_at"],
        "version": row["version"],
    }


def build(settings: Settings) -> ASGIApp:
    """The baseline with the database and the secret of the service's settings."""
    database_url = settings.database_url or SecretStr("")
    secret = settings.better_auth_secret or SecretStr("")
    return Baseline(database_url.get_secret_value(), secret.get_secret_value())


if __name__ == "__main__":  # the same server as `todo-api serve`
    settings = Settings.read()
    server.serve(settings, partial(build, settings))
    sys.exit()
