"""Dependencies of endpoints: the app's adapters, the authenticated user, the time, a new id."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Annotated
from uuid import UUID

import structlog
import uuid_utils.compat
from fastapi import Depends, Request
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase

from todo_api.bearer_tokens import bearer_token, no_value
from todo_api.change_streams import ChangeBroker
from todo_api.metrics import GaugeSource
from todo_api.rate_limits import PER_FAILING_ADDRESS, PER_USER, RateLimiter, enforce
from todo_api.request_state import request_state
from todo_domain.errors import TokenErrorCode, TokenRejected, UserMismatch
from todo_domain.ownership import Principal
from todo_domain.ports import RETENTION, TaskRepository, TokenVerifier

_log = structlog.get_logger()

# Raises a TodoError if a part of the service does not work.
ReadinessCheck = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Adapters:
    """The implementations that the composition root chose.

    The service is ready if every check passes. Deleted tasks can be restored for the ``retention``
    time. ``broker`` delivers the changes of ``tasks``; there are no streams without it. ``gauges``
    become metrics.
    """

    tasks: TaskRepository
    tokens: TokenVerifier
    limiter: RateLimiter
    checks: Mapping[str, ReadinessCheck]
    retention: timedelta = RETENTION
    broker: ChangeBroker | None = None
    gauges: Mapping[str, GaugeSource] = field(default_factory=dict)


def adapters(request: Request) -> Adapters:
    """The adapters of the app that handles the request."""
    return request.scope["state"]["adapters"]  # type: ignore[no-any-return]


async def task_repository(request: Request) -> TaskRepository:
    return adapters(request).tasks


async def retention(request: Request) -> timedelta:
    return adapters(request).retention


async def now() -> datetime:
    return datetime.now(UTC)


async def new_task_id() -> UUID:
    """A UUIDv7 (RFC 9562): new ids sort after old ones, which keeps database indexes compact."""
    return uuid_utils.compat.uuid7()


class BearerAuthentication(SecurityBase):
    """A dependency: the user of the request's bearer token (RFC 6750, section 2.1).

    Raises TokenRejected, AuthKeysUnavailable, UserMismatch if the path names another user, and
    ProblemError (rate_limited).
    """

    scheme_name = "bearer"
    model = HTTPBearer(
        bearerFormat="JWT",
        description="The JWT that Better Auth returns at `/api/auth/token`; with `todo-api dev`, "
        "the token that `todo-api token alice` prints.",
    )

    async def __call__(self, request: Request) -> Principal:
        service = adapters(request)
        state = request_state(request.scope)
        try:
            token = bearer_token(request.scope)
            actor = await service.tokens.verify(token, datetime.now(UTC))
        except TokenRejected as rejected:
            _log_rejection(rejected)
            network = client_network(request)
            await enforce(state, service.limiter, PER_FAILING_ADDRESS, network)
            raise
        state.user_id = actor.user_id
        await enforce(state, service.limiter, PER_USER, actor.user_id)
        if state.path_user_id is not None and state.path_user_id != actor.user_id:
            _log.warning("access.denied", reason="user_mismatch")
            raise UserMismatch(_mistake(state.path_user_id))
        return actor


async def count_requests(request: Request, actor: Principal, count: int) -> None:
    """Count further requests of the user. Raises ProblemError (rate_limited)."""
    if count:
        state = request_state(request.scope)
        limiter = adapters(request).limiter
        await enforce(state, limiter, PER_USER, actor.user_id, count=count)


def _log_rejection(rejected: TokenRejected) -> None:
    """Log why a token was rejected. Each token of a frontend expires, so that is no warning."""
    fields = {"code": rejected.code, "reason": rejected.reason}
    if rejected.code is TokenErrorCode.EXPIRED:
        _log.info("auth.rejected", **fields)
    else:
        _log.warning("auth.rejected", **fields)


def _mistake(path_user_id: str) -> str | None:
    """What a frontend did wrong that has no user id yet."""
    sent = no_value(path_user_id)
    return sent and (
        f"the frontend has no user id yet and sent {sent} in the path: wait for the session, or "
        "use the path without a user id"
    )


def client_network(request: Request) -> str:
    """The network to rate-limit: the IPv4 address, or the /64 of an IPv6 address.

    Every user of IPv6 has a /64 and can change the address in it. Behind a trusted proxy, the
    server has replaced the proxy's address by the client's.
    """
    client = request.scope.get("client")
    try:
        address = ip_address(client[0] if client else "")
    except ValueError:
        return "unknown"
    if isinstance(address, IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ip_network((address, 64), strict=False))


Actor = Annotated[Principal, Depends(BearerAuthentication())]
Tasks = Annotated[TaskRepository, Depends(task_repository)]
Now = Annotated[datetime, Depends(now)]
Retention = Annotated[timedelta, Depends(retention)]
NewTaskId = Annotated[UUID, Depends(new_task_id)]
