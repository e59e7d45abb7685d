"""The authenticated user: who it is, and the export, import and erasure of the user's data."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Annotated, Final, Required, cast

import structlog
from fastapi import APIRouter, Body, Request
from pydantic import Field, with_config
from starlette.responses import Response, StreamingResponse
from typing_extensions import TypedDict

from todo_api.dependencies import Actor, Now, Tasks, count_requests
from todo_api.exports import FORMATS
from todo_api.http.headers import Accept, choose_media_type
from todo_api.http.responses import json_response, utc
from todo_api.http.routing import ApiRoute
from todo_api.http.validation_errors import json_pointer
from todo_api.openapi import BODY, COMMON, TASK, responses
from todo_api.problems import FieldError, ProblemError
from todo_api.schemas import ExportedTask, ImportedTask, Time
from todo_domain import task as domain
from todo_domain import use_cases
from todo_domain.batch import StoredTask
from todo_domain.errors import InvalidTask
from todo_domain.user_data import IMPORT_MAX, ExportedTimes, with_times

IMPORTED_PER_REQUEST: Final = 100  # an import counts as ceil(n / 100) requests

_log = structlog.get_logger()

router = APIRouter(prefix="/api/me", tags=["me"], route_class=ApiRoute)


class TaskCounts(TypedDict):
    """How many tasks the user has."""

    total: int
    pending: int
    completed: int


class Me(TypedDict):
    """The authenticated user. Name and e-mail come from the token."""

    user_id: str
    name: str | None
    email: str | None
    token_expires_at: Annotated[Time, Field(description="When the token expires.")]
    tasks: TaskCounts


_ME: Me = {
    "user_id": "dlMsxWRCI2eyTUbIQ9DUoaji4ROD9Eqh",
    "name": "Ada",
    "email": "ada@example.com",
    "token_expires_at": "2026-01-18T09:45:00.000000Z",
    "tasks": {"total": 3, "pending": 2, "completed": 1},
}


@router.get("", operation_id="getMe", response_model=Me, responses=responses(_ME, *COMMON))
async def get_me(actor: Actor, tasks: Tasks) -> Response:
    """The authenticated user, when the token expires, and how many tasks the user has."""
    counts = await use_cases.count_tasks(tasks, actor)
    me: Me = {
        "user_id": actor.user_id,
        "name": actor.name,
        "email": actor.email,
        "token_expires_at": utc(actor.expires_at),
        "tasks": {
            "total": counts.total,
            "pending": counts.pending,
            "completed": counts.completed,
        },
    }
    return json_response(me)


class ExportedUser(TypedDict):
    """The user of an export. The times are null for a user who never created a task."""

    id: str
    first_seen_at: Annotated[Time | None, Field(description="When the user first created a task.")]
    last_seen_at: Annotated[
        Time | None, Field(description="When the user last created a task, to the hour.")
    ]


class Export(TypedDict):
    """Everything that is stored about the user."""

    user: ExportedUser
    exported_at: Time
    tasks: Annotated[
        list[ExportedTask],
        Field(
            description="All tasks, also deleted ones that can be restored, in no special order."
        ),
    ]


_EXPORTED_TASK: Final[ExportedTask] = {**TASK, "deleted_at": None}
_EXPORT: Final[Export] = {
    "user": {
        "id": TASK["user_id"],
        "first_seen_at": TASK["created_at"],
        "last_seen_at": TASK["created_at"],
    },
    "exported_at": "2026-01-19T12:00:00.000000Z",
    "tasks": [_EXPORTED_TASK],
}
_MEDIA_TYPES: Final = tuple(each.media_type for each in FORMATS)
_TEXTS: Final = {
    "text/calendar": "BEGIN:VCALENDAR\r\nVERSION:2.0\r\n…END:VCALENDAR\r\n",
    "text/csv": "id,title,description,…\r\n",
}


@router.get(
    "/export",
    operation_id="exportMe",
    response_model=Export,
    responses=responses(_EXPORT, *COMMON, headers=("Content-Disposition",), texts=_TEXTS),
)
async def export_me(actor: Actor, tasks: Tasks, now: Now, accept: Accept = None) -> Response:
    """Everything that is stored about the user, as a file.

    `Accept` chooses the format: `application/json` (the default) has everything and can be
    imported, `text/calendar` is iCalendar with a VTODO for each task, `text/csv` a table for
    spreadsheets.
    """
    media_type = choose_media_type(accept, _MEDIA_TYPES)
    if media_type is None:
        raise ProblemError(
            "not_acceptable", f"Accept: this route returns {', '.join(_MEDIA_TYPES)}"
        )
    chosen = FORMATS[_MEDIA_TYPES.index(media_type)]
    data = await use_cases.read_user_data(tasks, actor, now=now)
    _log.info("user.exported", format=chosen.extension)
    name = f"tasks-{now:%Y-%m-%d}.{chosen.extension}"
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Cache-Control": "no-store",
    }
    return StreamingResponse(
        _logged(chosen.encode(actor.user_id, data, now)), 200, headers, media_type
    )


async def _logged(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks. An error is logged, because it is too late for a problem document."""
    try:
        async for chunk in chunks:
            yield chunk
    except Exception as error:
        _log.error("user.export_failed", reason=type(error).__name__)
        raise


@with_config(strict=True, title="Import")
class ImportBody(TypedDict, total=False):
    """The JSON of an export."""

    user: Annotated[object, Field(description="Ignored: the tasks become those of the token.")]
    exported_at: Annotated[object, Field(description="Ignored.")]
    tasks: Required[Annotated[list[ImportedTask], Field(max_length=IMPORT_MAX)]]


class Imported(TypedDict):
    """How many tasks were created, and how many needed no change."""

    created: int
    present: int


@router.post(
    "/import",
    operation_id="importMe",
    response_model=Imported,
    responses=responses(
        {"created": 1, "present": 0}, *(*COMMON, *BODY, "bad_request", "conflict", "id_taken")
    ),
)
async def import_me(
    request: Request,
    actor: Actor,
    tasks: Tasks,
    now: Now,
    body: Annotated[ImportBody, Body(examples=[_EXPORT])],
) -> Response:
    """Store the tasks of an export that are not stored yet. A repeat changes nothing.

    Either all tasks are stored or none. Ids and times are kept, versions start at 1. If a stored
    task has the id of an imported one, but another content, the response is 409 `id_taken` with a
    pointer for each such task. Up to 5000 tasks; an import counts as one request for every 100.
    """
    imported = _imported(body["tasks"], actor.user_id, now)
    await count_requests(request, actor, max(0, (len(imported) - 1) // IMPORTED_PER_REQUEST))
    result = await use_cases.import_tasks(tasks, actor, imported, now=now)
    _log.info("user.imported", created=result.created, present=result.present)
    return json_response({"created": result.created, "present": result.present})


def _imported(sent: Sequence[ImportedTask], owner: str, now: datetime) -> list[StoredTask]:
    """The tasks. Raises ProblemError with every broken rule and every repeated id."""
    tasks, seen = [], set()
    errors: list[FieldError] = []
    for number, each in enumerate(sent):
        if each["id"] in seen:
            errors.append(_error(number, "id", "repeated", "must not be the id of two tasks"))
        seen.add(each["id"])
        try:
            tasks.append(_stored_task(each, owner, now))
        except InvalidTask as invalid:
            errors += [_error(number, v.field, v.code, v.message) for v in invalid.violations]
    if errors:
        raise ProblemError("validation_failed", errors=errors)
    return tasks


def _stored_task(sent: ImportedTask, owner: str, now: datetime) -> StoredTask:
    members = {name: value for name, value in sent.items() if name not in _NOT_MEMBERS}
    members.setdefault("completed", sent.get("completed_at") is not None)
    task = domain.Task.new(sent["id"], owner, now, **cast("domain.TaskChanges", members))
    times = {name: value for name, value in sent.items() if name in _TIMES}
    return with_times(task, cast("ExportedTimes", times), now)


_TIMES: Final = frozenset(ExportedTimes.__annotations__)
_NOT_MEMBERS: Final = _TIMES | {"id"}


def _error(number: int, field: str, code: str, message: str) -> FieldError:
    path = ["tasks", str(number), *field.split(".")]
    return FieldError(field=".".join(path), pointer=json_pointer(path), code=code, message=message)


@with_config(strict=True)
class Erasure(TypedDict):
    """The confirmation of an erasure."""

    confirm: Annotated[str, Field(description="The user's own id: `user_id` of `GET /api/me`.")]


class ErasedCounts(TypedDict):
    """What was erased."""

    tasks: Annotated[int, Field(description="Deleted tasks that were not purged are included.")]


class Erased(TypedDict):
    """The result of an erasure."""

    erased: ErasedCounts


@router.delete(
    "",
    operation_id="eraseMe",
    response_model=Erased,
    responses=responses({"erased": {"tasks": 3}}, *COMMON, *BODY, "bad_request"),
)
async def erase_me(
    actor: Actor,
    tasks: Tasks,
    confirmation: Annotated[Erasure, Body(examples=[{"confirm": TASK["user_id"]}])],
) -> Response:
    """Erase everything that is stored about the user, at once and for good.

    `confirm` must be the user's id. Nothing can be restored. Clients that keep a copy of the tasks
    get 410 with their next request for changes. A repeat erases nothing.
    """
    if confirmation["confirm"] != actor.user_id:
        message = "must be the user's own id: user_id of GET /api/me"
        error = FieldError(field="confirm", pointer="/confirm", code="mismatch", message=message)
        raise ProblemError("validation_failed", errors=[error])
    count = await use_cases.erase_user(tasks, actor)
    _log.info("user.erased", tasks=count)
    return json_response({"erased": {"tasks": count}})
