"""A fake of Neon's API v2 for one project, whose branches are local databases of the same name.

It refuses requests of another shape than the reference describes. Creations and deletions are
answered with 423 while an operation runs; operations end when the clock advances.
"""

import json
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx

from support.neon import Json, neon_client

PROJECT: Final = "spring-example-302709"
KEY: Final = "napi_invented"
OPERATION_SECONDS: Final = 3.0


class FakeNeon:
    """A project that is busy at first. ``sleep`` advances its clock; nothing else does."""

    def __init__(self, server: str, *, pooler: str | None = None) -> None:
        self.transport = httpx.MockTransport(self._respond)
        self.http = neon_client(PROJECT, KEY, self.transport)
        self.branches: dict[str, datetime] = {}  # when each expires
        self.requests: list[str] = []
        self.waits: list[float] = []
        self.next_answers: deque[httpx.Response | httpx.TransportError] = deque()
        self.failure: str | None = None  # of all operations
        self._urls = {"false": server, "true": pooler or server}
        self._role = urlsplit(server).username
        self._ends = {"another client's": OPERATION_SECONDS}  # when each operation ends

    @property
    def is_busy(self) -> bool:
        return max(self._ends.values()) > sum(self.waits)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def _respond(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix(f"/api/v2/projects/{PROJECT}")
        self.requests.append(f"{request.method} {path}")
        if self.next_answers:
            answer = self.next_answers.popleft()
            if isinstance(answer, httpx.Response):
                return answer
            raise answer
        if request.headers["Authorization"] != f"Bearer {KEY}":
            return error(401, "this request requires authentication")
        content = json.loads(request.content) if request.content else dict(request.url.params)
        return await self._route([request.method, *path.strip("/").split("/"), content])

    async def _route(self, request: list[Any]) -> httpx.Response:
        match request:
            case ["POST", "branches", body]:
                return await self._create(body)
            case ["DELETE", "branches", branch, {}] if branch in self.branches:
                return await self._delete(branch)
            case ["GET", "operations", operation, {}] if operation in self._ends:
                return httpx.Response(200, json={"operation": self._operation(operation)})
            case ["GET", "connection_uri", query]:
                return self._uri(query)
        return error(404, "not found")

    async def _create(self, body: Json) -> httpx.Response:
        expires_at = str(body.get("branch", {}).get("expires_at"))
        endpoints = [{"type": "read_write"}]
        if body != {"branch": {"expires_at": expires_at}, "endpoints": endpoints}:
            return error(400, "the body has another shape")
        expiry, now = datetime.fromisoformat(expires_at), datetime.now(UTC)
        if expiry.tzinfo is None or not now < expiry <= now + timedelta(days=30):
            return error(422, "expires_at must be a time with an offset within the next 30 days")
        if self.is_busy:
            return error(423, "project already has running conflicting operations")
        branch = f"br-{uuid4().hex[:12]}"
        await self._execute(f'CREATE DATABASE "{branch}"')
        self.branches[branch] = expiry
        owned = {"name": branch, "owner_name": self._role}
        answer = {
            "branch": {"id": branch, "project_id": PROJECT, "current_state": "init"},
            "endpoints": [{"id": "ep-example", "branch_id": branch, "type": "read_write"}],
            "operations": [self._start("create_branch"), self._start("start_compute")],
            "roles": [{"branch_id": branch, "name": self._role}],
            "databases": [{"id": 1, "branch_id": branch, **owned}],
        }
        return httpx.Response(201, json=answer)

    async def _delete(self, branch: str) -> httpx.Response:
        if self.is_busy:
            return error(423, "project already has running conflicting operations")
        await self._execute(f'DROP DATABASE "{branch}" WITH (FORCE)')
        del self.branches[branch]
        answer = {"branch": {"id": branch}, "operations": [self._start("delete_timeline")]}
        return httpx.Response(200, json=answer)

    def _uri(self, query: Json) -> httpx.Response:
        branch, pooled = query.get("branch_id", ""), query.get("pooled", "")
        names = {"database_name": branch, "role_name": self._role}
        if branch not in self.branches or query != {"branch_id": branch, "pooled": pooled, **names}:
            return error(404, "the query has another shape or names what does not exist")
        uri = urlsplit(self._urls[pooled])._replace(path=f"/{branch}").geturl()
        return httpx.Response(200, json={"uri": uri})

    def _start(self, action: str) -> Json:
        """Queue an operation behind the others."""
        operation = f"{action}:{uuid4()}"
        self._ends[operation] = max(*self._ends.values(), sum(self.waits)) + OPERATION_SECONDS
        return self._operation(operation)

    def _operation(self, operation: str) -> Json:
        left = self._ends[operation] - sum(self.waits)
        status = "scheduling" if left > OPERATION_SECONDS else "running" if left > 0 else "finished"
        failed = {"status": "failed", "error": self.failure} if self.failure else {}
        action = operation.partition(":")[0]
        return {
            "id": operation,
            "project_id": PROJECT,
            "action": action,
            "status": status,
            **failed,
        }

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self._urls["false"])
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


def error(status: int, message: str, headers: dict[str, str] | None = None) -> httpx.Response:
    """Neon's "General Error"."""
    body = {"request_id": str(uuid4()), "code": "", "message": message}
    return httpx.Response(status, json=body, headers=headers)
