"""What routes ask for: the adapters of this app, who is acting, and when."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import structlog
import uuid_utils.compat
from fastapi import Depends, Request
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase

from todo_api.problems import RequestRefused
from todo_domain.errors import TokenFault, TokenRejected
from todo_domain.ownership import Principal
from todo_domain.ports import TaskRepository, TokenVerifier

_log = structlog.get_logger()


Check = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Adapters:
    """The implementations that the composition root chose.

    ``checks`` are the parts that have to work for the service to be ready, each a function that
    raises a TodoError when its part does not.
    """

    tasks: TaskRepository
    tokens: TokenVerifier
    checks: Mapping[str, Check]


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

    Raises RequestRefused (token_missing), TokenRejected and AuthKeysUnavailable.
    """

    scheme_name = "bearer"
    model = HTTPBearer(
        bearerFormat="JWT", description="The JWT that Better Auth answers at `/api/auth/token`."
    )

    async def __call__(self, request: Request) -> Principal:
        try:
            token = bearer_token(request)
            actor = await adapters(request).tokens.verify(token, now(request))
        except TokenRejected as rejected:
            _log.warning("auth.rejected", code=rejected.fault, reason=rejected.reason)
            raise
        request.scope["user"] = actor.user_id
        return actor


def bearer_token(request: Request) -> str:
    """The token of the one Authorization field; those in other places do not count."""
    fields = [value for name, value in request.scope["headers"] if name == b"authorization"]
    if len(fields) > 1:
        raise TokenRejected(TokenFault.MALFORMED, "several_authorization_fields")
    scheme, _, token = fields[0].decode("latin-1").partition(" ") if fields else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        _log.warning("auth.rejected", code="token_missing", reason="no_bearer_token")
        raise RequestRefused("token_missing")
    return token.strip()


Actor = Annotated[Principal, Depends(BearerAuthentication())]
Tasks = Annotated[TaskRepository, Depends(task_repository)]
Now = Annotated[datetime, Depends(now)]
NewTaskId = Annotated[UUID, Depends(new_task_id)]
