"""Branches of a Neon project for integration tests.

Neon API v2, reference pages "Create branch", "Get operation details", "Get connection URI" and
"Delete branch".
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx

from todo_adapters.postgres.url import DatabaseUrl, parse_database_url

API: Final = "https://console.neon.tech/api/v2"
LIFETIME: Final = timedelta(hours=1)  # then Neon deletes a branch that its creator did not delete
PAUSES: Final = (0.5, 1.0, 2.0, 4.0, *[8.0] * 14)  # seconds between attempts; two minutes in sum
RETRY_AFTER_MAX: Final = 60.0  # seconds
# Locked by another operation, over the rate limit, unavailable: the request had no effect.
BUSY: Final = frozenset({423, 429, 503})

Json = dict[str, Any]
Sleep = Callable[[float], Awaitable[object]]


class NeonError(Exception):
    """Says what Neon refused or failed to do, without secrets."""


@dataclass(frozen=True, slots=True)
class NeonBranch:
    """A branch that accepts connections: its first database, directly and through the pooler."""

    id: str
    direct: DatabaseUrl
    pooled: DatabaseUrl


def neon_client(
    project: str, key: str, transport: httpx.AsyncBaseTransport | None = None
) -> httpx.AsyncClient:
    """A client for one project, with an API key that may create branches there."""
    return httpx.AsyncClient(
        base_url=f"{API}/projects/{quote(project, safe='')}",
        headers={"Authorization": f"Bearer {key.strip()}", "Accept": "application/json"},
        timeout=10,
        transport=transport,
    )


@asynccontextmanager
async def neon_branch(
    http: httpx.AsyncClient, *, sleep: Sleep = asyncio.sleep
) -> AsyncIterator[NeonBranch]:
    """A new branch of the default branch, which is deleted at the end of the block.

    Raises NeonError. A creation without an answer is not repeated: it might create a second branch.
    """
    api = _Api(http, sleep)
    expiry = datetime.now(UTC) + LIFETIME
    body = {
        "branch": {"expires_at": f"{expiry:%Y-%m-%dT%H:%M:%SZ}"},
        "endpoints": [{"type": "read_write"}],  # without an endpoint nothing can connect
    }
    created = await api.call("POST", "/branches", json=body)
    branch_id, database = created["branch"]["id"], created["databases"][0]
    try:
        for operation in created["operations"]:
            await api.wait_for(operation)
        direct, pooled = [
            await api.url(branch_id, database, pooled) for pooled in ("false", "true")
        ]
        yield NeonBranch(branch_id, direct, pooled)
    finally:
        await api.call("DELETE", f"/branches/{branch_id}", ignored=httpx.codes.NOT_FOUND)


@dataclass(frozen=True, slots=True)
class _Api:
    http: httpx.AsyncClient
    sleep: Sleep

    async def wait_for(self, operation: Json) -> None:
        """Return when the operation has succeeded."""
        for pause in PAUSES:
            if operation["status"] not in {"scheduling", "running", "cancelling"}:
                break
            await self.sleep(pause)
            operation = (await self.call("GET", f"/operations/{operation['id']}"))["operation"]
        if operation["status"] not in {"finished", "skipped"}:
            reason = operation.get("error", "no reason given")
            raise NeonError(f"Neon's {operation['action']} is {operation['status']}: {reason}")

    async def url(self, branch_id: str, database: Json, pooled: str) -> DatabaseUrl:
        # Without a branch_id Neon answers with the URI of the default branch.
        names = {"database_name": database["name"], "role_name": database["owner_name"]}
        query = {"branch_id": branch_id, "pooled": pooled, **names}
        answer = await self.call("GET", f"/connection_uri?{urlencode(query)}")
        return parse_database_url(answer["uri"])

    async def call(
        self, method: str, path: str, *, json: Json | None = None, ignored: int | None = None
    ) -> Json:
        """Neon's answer when it is not busy. Raises NeonError for errors that are not ignored."""
        request = self.http.build_request(method, path, json=json)
        response = await self.http.send(request)
        for pause in PAUSES:
            if response.status_code not in BUSY:
                break
            seconds = response.headers.get("Retry-After", "")
            requested = min(float(seconds), RETRY_AFTER_MAX) if seconds.isdecimal() else 0
            await self.sleep(max(pause, requested))
            response = await self.http.send(request)
        if not response.is_success and response.status_code != ignored:
            reason = f"{response.status_code} to {method} {request.url.path}: {response.text[:200]}"
            raise NeonError(f"Neon answers {reason}")
        return dict(response.json())
