"""Batches: several operations on tasks in one request."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Final, Literal, NotRequired, Required, cast

import structlog
from fastapi import APIRouter, Body, Request
from pydantic import (
    AliasChoices,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    with_config,
)
from pydantic_core import InitErrorDetails
from starlette.responses import Response
from typing_extensions import TypedDict

from todo_api.dependencies import Actor, Now, Tasks, count_requests
from todo_api.http.field_names import closest_name, field_names
from todo_api.http.headers import IdempotencyKey, parse_idempotency_key
from todo_api.http.responses import json_response, serialize_task
from todo_api.http.routing import ApiRoute
from todo_api.openapi import BODY, CHANGES, COMMON, NEW_TASK, TASK, responses
from todo_api.problems import (
    ERRORS_MAX,
    PROBLEM_TYPES,
    FieldError,
    Problem,
    ProblemError,
    problem_document,
)
from todo_api.schemas import Id, NewTask, Task, TaskChanges, TaskId
from todo_domain import task as domain
from todo_domain import use_cases
from todo_domain.batch import (
    OPERATIONS_MAX,
    Batch,
    BatchResult,
    ChangeTask,
    CreateTask,
    DeleteTask,
    Operation,
    Outcome,
    Refusal,
    RestoreTask,
)
from todo_domain.errors import InvalidTask, InvalidValue

OPERATIONS_PER_REQUEST: Final = 10  # a batch counts as ceil(n / 10) requests

_log = structlog.get_logger()

router = APIRouter(prefix="/api/tasks", tags=["batches"], route_class=ApiRoute)

Version = Annotated[
    int, Field(ge=1, lt=2**31, description="Refuse the operation unless the task has this version.")
]
_VERSION_SPELLINGS: Final = Field(validation_alias=AliasChoices("if_version", "ifVersion"))


@with_config(strict=True, extra="forbid")
class CreateOperation(TypedDict):
    """Create a task. An equal task with this id counts as created."""

    op: Literal["create"]
    id: TaskId
    task: NewTask


@with_config(strict=True, extra="forbid")
class ChangeOperation(TypedDict):
    """Change the members that are sent."""

    op: Literal["change"]
    id: TaskId
    task: TaskChanges
    if_version: Annotated[NotRequired[Version | None], _VERSION_SPELLINGS]


@with_config(strict=True, extra="forbid")
class DeleteOperation(TypedDict):
    """Delete a task."""

    op: Literal["delete"]
    id: TaskId
    if_version: Annotated[NotRequired[Version | None], _VERSION_SPELLINGS]


@with_config(strict=True, extra="forbid")
class RestoreOperation(TypedDict):
    """Undo a delete."""

    op: Literal["restore"]
    id: TaskId


AnyOperation = Annotated[
    CreateOperation | ChangeOperation | DeleteOperation | RestoreOperation,
    Field(discriminator="op"),
]


def _validated(operations: object, validate: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401
    """The validated operations. Raises ValidationError with every error of every operation."""
    errors: list[InitErrorDetails] = []
    validated: Any = None
    try:
        validated = validate(operations)
        errors += _ineffective_changes(operations, validated)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            details = InitErrorDetails(type=error["type"], loc=error["loc"], input=error["input"])
            details["ctx"] = error.get("ctx", {})
            errors.append(details)
    errors += _repeated_ids(operations)
    if errors:
        raise ValidationError.from_exception_data("operations", errors)
    return validated


def _ineffective_changes(sent: Any, validated: Any) -> Iterator[InitErrorDetails]:  # noqa: ANN401
    """An error for each member of a change that has members, but none that can be changed."""
    for number, (given, operation) in enumerate(zip(sent, validated, strict=True)):
        if operation["op"] == "change" and not operation["task"]:
            for name in islice(given["task"], ERRORS_MAX):
                closest = closest_name(name, _CHANGEABLE)
                message = f"cannot be changed: use {closest}" if closest else "cannot be changed"
                yield _error((number, "task", name), InvalidValue("unknown", message))


def _error(location: tuple[str | int, ...], invalid: InvalidValue) -> InitErrorDetails:
    return InitErrorDetails(type="value_error", loc=location, input=None, ctx={"error": invalid})


def _repeated_ids(operations: object) -> Iterator[InitErrorDetails]:
    """An error for each operation whose id another operation has too."""
    if not isinstance(operations, list) or len(operations) > OPERATIONS_MAX:
        return
    seen = set()
    for number, operation in enumerate(operations):
        task_id = operation.get("id") if isinstance(operation, dict) else None
        name = str(task_id).lower()
        if task_id and name in seen:
            yield _error((number, "id"), _REPEATED)
        seen.add(name)


_REPEATED: Final = InvalidValue("repeated", "must not be the id of two operations")
_CHANGEABLE: Final = field_names(TaskChanges)


@with_config(strict=True, extra="forbid", title="Batch")
class BatchBody(TypedDict, total=False):
    """Operations, each on another task."""

    atomic: Annotated[
        bool, Field(description="All or nothing. `false`: each operation for itself.")
    ]
    operations: Required[
        Annotated[
            list[AnyOperation],
            Field(min_length=1, max_length=OPERATIONS_MAX),
            WrapValidator(_validated),
        ]
    ]


class OperationResult(TypedDict, total=False):
    """The result of one operation. An operation with a `problem` has changed nothing."""

    id: Required[Id]
    status: Required[Annotated[int, Field(description="As for the same operation on its own.")]]
    task: Required[
        Annotated[
            Task | None,
            Field(description="The task as it is now; a deleted one as it was; `null` if missing."),
        ]
    ]
    problem: Problem


class BatchResults(TypedDict):
    """The results of the operations, in their order."""

    results: list[OperationResult]


_CREATED: Final = {"op": "create", "id": TASK["id"], "task": NEW_TASK}
_OTHER_ID: Final = "0198f3c2-8a44-7d19-8c55-3f2b7c9d1e01"
_EXAMPLE: Final = {
    "atomic": True,
    "operations": [
        _CREATED,
        {"op": "change", "id": _OTHER_ID, "task": CHANGES, "if_version": 3},
    ],
}
_RESULTS: Final = {"results": [{"id": TASK["id"], "status": 201, "task": TASK}]}


@router.post(
    "/batch",
    operation_id="applyBatch",
    response_model=BatchResults,
    responses=responses(
        _RESULTS,
        *(*COMMON, *BODY, "bad_request", "batch_rejected", "conflict", "idempotency_key_reused"),
    ),
)
async def apply_batch(
    request: Request,
    actor: Actor,
    tasks: Tasks,
    now: Now,
    body: Annotated[BatchBody, Body(examples=[_EXAMPLE])],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Create, change, delete and restore up to 100 tasks at once.

    Either all operations are applied or none: 409 `batch_rejected` then names every operation that
    was refused. With `"atomic": false` each operation is applied for itself, and its result has its
    own status. A repeated `Idempotency-Key` returns the first results. A batch counts as one
    request for every 10 operations.
    """
    key = parse_idempotency_key(idempotency_key)
    count = len(body["operations"])
    await count_requests(request, actor, -(-count // OPERATIONS_PER_REQUEST) - 1)
    batch = Batch(
        _operations(body["operations"], actor.user_id, now), is_atomic=body.get("atomic", True)
    )
    result = await use_cases.apply_batch(tasks, actor, batch, now=now, key=key)
    _log_counts(batch, result)
    if not result.is_applied:
        raise ProblemError("batch_rejected", errors=list(_refusals(result)))
    results = [
        _serialize(request, operation, outcome)
        for operation, outcome in zip(batch.operations, result.outcomes, strict=True)
    ]
    return json_response({"results": results})


def _operations(sent: Iterable[AnyOperation], owner: str, now: datetime) -> tuple[Operation, ...]:
    """The operations. Raises InvalidTask with every rule that a new task breaks."""
    operations, violations = [], []
    for number, each in enumerate(sent):
        try:
            operations.append(_operation(each, owner, now))
        except InvalidTask as invalid:
            prefix = f"operations.{number}.task"
            violations += [replace(v, field=f"{prefix}.{v.field}") for v in invalid.violations]
    if violations:
        raise InvalidTask(violations)
    return tuple(operations)


def _operation(
    sent: CreateOperation | ChangeOperation | DeleteOperation | RestoreOperation,
    owner: str,
    now: datetime,
) -> Operation:
    task_id = sent["id"]
    match sent["op"]:
        case "create":
            members = {name: value for name, value in sent["task"].items() if name != "id"}
            new = domain.Task.new(task_id, owner, now, **cast("domain.TaskChanges", members))
            return CreateTask(new)
        case "change":
            changes = cast("domain.TaskChanges", sent["task"])
            return ChangeTask(task_id, changes, sent.get("if_version"))
        case "delete":
            return DeleteTask(task_id, sent.get("if_version"))
        case "restore":
            return RestoreTask(task_id)


def _log_counts(batch: Batch, result: BatchResult) -> None:
    kinds = Counter(type(operation).__name__ for operation in batch.operations)
    refused = sum(outcome.refusal is not None for outcome in result.outcomes)
    if result.is_applied:
        _log.info("batch.applied", operations=dict(kinds), refused=refused)
    else:
        _log.info("batch.rejected", operations=dict(kinds), refused=refused)


def _refusals(result: BatchResult) -> Iterator[FieldError]:
    for number, outcome in enumerate(result.outcomes):
        if outcome.refusal is not None:
            yield FieldError(
                field=f"operations.{number}",
                pointer=f"/operations/{number}",
                code=outcome.refusal,
                message=_detail(outcome),
            )


def _detail(outcome: Outcome) -> str:
    if outcome.refusal is Refusal.NOT_FOUND:
        return "there is no task with this id"
    return PROBLEM_TYPES[str(outcome.refusal)].detail


def _serialize(request: Request, operation: Operation, outcome: Outcome) -> dict[str, object]:
    task = outcome.task and serialize_task(outcome.task)
    result: dict[str, object] = {"id": str(operation.id), "status": 200, "task": task}
    if outcome.refusal is not None:
        status = PROBLEM_TYPES[outcome.refusal].status
        return result | {
            "status": status,
            "problem": problem_document(request, outcome.refusal, _detail(outcome)),
        }
    return result | {"status": 201} if outcome.is_new else result
