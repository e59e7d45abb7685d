"""What routes ask for: the adapters of this app, who is acting, and when."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Annotated
from uuid import UUID

import structlog
import uuid_utils.compat
from fastapi import Depends, Request
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase

from todo_api.log_context import extend_context
from todo_api.metrics import GaugeSource
from todo_api.rate_limits import PER_FAILING_ADDRESS, PER_USER, RateLimiter, enforce
from todo_domain.errors import TokenErrorCode, TokenRejected, UserMismatch
from todo_domain.ownership import Principal
from todo_domain.ports import TaskRepository, TokenVerifier

_log = structlog.get_logger()


ReadinessCheck = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Adapters:
    """The implementations that the composition root chose.

    ``checks`` are the parts that have to work for the service to be ready, each a function that
    raises a TodoError when its part does not. ``gauges`` are values to watch as metrics.
    """

    tasks: TaskRepository
    tokens: TokenVerifier
    limiter: RateLimiter
    checks: Mapping[str, ReadinessCheck]
    gauges: Mapping[str, GaugeSource] = field(default_factory=dict)


def adapters(request: Request) -> Adapters:
    return request.scope["state"]["adapters"]  # type: ignore[no-any-return]


def task_repository(request: Request) -> TaskRepository:
    return adapters(request).tasks


def now(_: Request) -> datetime:
    return datetime.now(UTC)


def new_task_id(_: Request) -> UUID:
    """A UUIDv7 (RFC 9562): ids made later sort later, which keeps indexes compact."""
    return uuid_utils.compat.uuid7()


class BearerAuthentication(SecurityBase):
    """A dependency: the user that the request's bearer token speaks for (RFC 6750, section 2.1).

    Raises TokenRejected, AuthKeysUnavailable, UserMismatch when the path names another user, and
    ProblemError (rate_limited).
    """

    scheme_name = "bearer"
    model = HTTPBearer(
        bearerFormat="JWT", description="The JWT that Better Auth answers at `/api/auth/token`."
    )

    async def __call__(self, request: Request) -> Principal:
        limiter = adapters(request).limiter
        try:
            token = bearer_token(request)
            actor = await adapters(request).tokens.verify(token, now(request))
        except TokenRejected as rejected:
            _log.warning("auth.rejected", code=rejected.code, reason=rejected.reason)
            await enforce(request, limiter, PER_FAILING_ADDRESS, client_network(request))
            raise
        request.scope["user"] = actor.user_id
        extend_context(user=actor.user_id)
        await enforce(request, limiter, PER_USER, actor.user_id)
        if request.scope.get("path_user_id", actor.user_id) != actor.user_id:
            _log.warning("access.denied", reason="user_mismatch")
            raise UserMismatch
        return actor


def client_network(request: Request) -> str:
    """Whose address the client's is: of IPv6 the first half, for the rest is its own to choose.

    Behind proxies that are believed it is what they say it is.
    """
    client = request.scope.get("client")
    try:
        address = ip_address(client[0] if client else "")
    except ValueError:
        return "unknown"
    if isinstance(address, IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ip_network((address, 64), strict=False))


def bearer_token(request: Request) -> str:
    """The token of the one Authorization field; those in other places do not count."""
    fields = [value for name, value in request.scope["headers"] if name == b"authorization"]
    if len(fields) > 1:
        raise TokenRejected(TokenErrorCode.MALFORMED, "several_authorization_fields")
    scheme, _, token = fields[0].decode("latin-1").partition(" ") if fields else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise TokenRejected(TokenErrorCode.MISSING, "no_bearer_token")
    return token.strip()


Actor = Annotated[Principal, Depends(BearerAuthentication())]
Tasks = Annotated[TaskRepository, Depends(task_repository)]
Now = Annotated[datetime, Depends(now)]
NewTaskId = Annotated[UUID, Depends(new_task_id)]
