"""Applies batches: one statement, or several in a transaction for servers that cannot plan it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final
from uuid import UUID

import asyncpg
import orjson

from todo_adapters.postgres import batch_statements as statements
from todo_adapters.postgres.database import Database, Fetch
from todo_adapters.postgres.rows import (
    columns_of,
    json_values,
    row_from_task,
    set_members,
    task_from_row,
)
from todo_adapters.postgres.statements import OWNER_SEEN_INTERVAL
from todo_domain.batch import (
    Batch,
    BatchResult,
    ChangeTask,
    CreateTask,
    DeleteTask,
    Operation,
    Outcome,
    Refusal,
    RestoreTask,
    StoredTask,
    decide,
    successor_ids,
    with_successors,
)
from todo_domain.errors import EditConflict, IdempotencyKeyReused
from todo_domain.ports import KEY_LIFETIME
from todo_domain.task import clean_changes

ATTEMPTS: Final = 3  # an attempt fails if another call has just created the same task or key

_LOST_RACES: Final = (
    asyncpg.UniqueViolationError,
    asyncpg.ForeignKeyViolationError,  # the owner was erased while this call waited
)


# The result of a batch, and the change number that it has taken.
Applied = tuple[BatchResult, int | None]


class _LostRace(Exception):
    """Another call has stored the idempotency key since this one looked for it."""


@dataclass(frozen=True, slots=True)
class BatchCall:
    """One call of ``TaskRepository.apply``."""

    owner: str
    batch: Batch
    now: datetime
    key: str | None
    retention: timedelta

    def values(self) -> dict[str, object]:
        """The values of the parameters that statements share."""
        return {
            "owner": self.owner,
            "now": self.now,
            "created_at": self.now,
            "owner_seen_after": self.now - OWNER_SEEN_INTERVAL,
            "restorable_after": self.now - self.retention,
            "key": self.key,
            "keys_valid_since": self.now - KEY_LIFETIME,
            "content": _hash(self.batch),
        }


async def apply(database: Database, call: BatchCall, *, in_transaction: bool) -> Applied:
    """Apply the batch. Raises IdempotencyKeyReused, and EditConflict if every attempt failed."""
    changes = [each.changes for each in call.batch.operations if isinstance(each, ChangeTask)]
    sets_repeat = any(each.get("repeat") is not None for each in changes)
    attempt = _apply_in_one_statement
    if in_transaction or sets_repeat:
        attempt = _apply_in_transaction
    for _ in range(ATTEMPTS):
        try:
            return await attempt(database, call)
        except (*_LOST_RACES, _LostRace):
            continue
    raise EditConflict


async def _apply_in_one_statement(database: Database, call: BatchCall) -> Applied:
    rows = await database.fetch(
        statements.APPLY_WITH_KEY if call.key else statements.APPLY,
        operations=orjson.dumps(_operations(call)).decode(),
        is_atomic=call.batch.is_atomic,
        **call.values(),
    )
    if any(row["has_series"] for row in rows):
        return await _apply_in_transaction(database, call)
    if call.key and not rows[0]["is_key_stored"]:
        first = await _first_result(database.fetch, call)
        if first is not None:
            return first, None
    result = BatchResult.of(call.batch, [_outcome(row) for row in rows])
    return result, rows[0]["change_number"]


async def _apply_in_transaction(database: Database, call: BatchCall) -> Applied:
    return await database.transact(call.owner, lambda fetch: _decide_and_write(fetch, call))


async def _decide_and_write(fetch: Fetch, call: BatchCall) -> Applied:
    await fetch(statements.LOCK_COUNTER, owner=call.owner)
    first = await _first_result(fetch, call) if call.key else None
    if first is not None:
        return first, None
    operations = call.batch.operations
    stored = await _lock_tasks(fetch, call.owner, [operation.id for operation in operations])
    decided = [
        decide(operation, stored.get(operation.id), call.now, call.retention)
        for operation in operations
    ]
    result = BatchResult.of(call.batch, [outcome for outcome, _ in decided])
    if not result.is_applied:
        return result, None
    await fetch(statements.RECORD_OWNER, **call.values())
    new = [state for _, state in decided if state]
    number = await write(fetch, call.owner, stored, new, call.now)
    if call.key:
        await _store_key(fetch, call, result)
    return result, number


async def _lock_tasks(fetch: Fetch, owner: str, ids: Sequence[UUID]) -> dict[UUID, StoredTask]:
    rows = await fetch(statements.LOCK_TASKS, owner=owner, ids=ids)
    return {row["id"]: StoredTask(task_from_row(row), row["deleted_at"]) for row in rows}


async def write(
    fetch: Fetch,
    owner: str,
    stored: dict[UUID, StoredTask],
    new: Sequence[StoredTask],
    now: datetime,
) -> int | None:
    """Write the new states of tasks and what follows for their successors, with one number.

    Returns the number, None if there is nothing to write.
    """
    if not new:
        return None
    ids = successor_ids(stored, new)
    if ids:
        stored = stored | await _lock_tasks(fetch, owner, ids)
    number: int = (await fetch(statements.TAKE_NUMBER, owner=owner))[0]["last"]
    for task, deleted_at in with_successors(stored, new, now):
        statement = statements.REPLACE_ROW if task.id in stored else statements.INSERT_ROW
        await fetch(statement, **row_from_task(task), deleted_at=deleted_at, change=number)
    return number


async def _store_key(fetch: Fetch, call: BatchCall, result: BatchResult) -> None:
    outcomes = [
        {
            **(row_from_task(outcome.task) | {"user_id": call.owner} if outcome.task else {}),
            "number": number,
            "kind": _kind(operation),
            "refusal": outcome.refusal,
            "is_visible": outcome.task is not None,
            "alters": outcome.is_new,
        }
        for number, (operation, outcome) in enumerate(
            zip(call.batch.operations, result.outcomes, strict=True)
        )
    ]
    # The driver's UUIDs are a class of its own, which orjson encodes only with a default.
    text = orjson.dumps(outcomes, default=str).decode()
    if not await fetch(statements.STORE_KEY, **call.values(), outcomes=text):
        raise _LostRace


async def _first_result(fetch: Fetch, call: BatchCall) -> BatchResult | None:
    """The result of the first call with the key. Raises IdempotencyKeyReused."""
    values = call.values()
    rows = await fetch(statements.GET_FIRST_RESULT, **values)
    if not rows:
        return None
    if rows[0]["content"] != values["content"]:
        raise IdempotencyKeyReused
    return BatchResult(tuple(_outcome(row) for row in rows), is_applied=True)


def _operations(call: BatchCall) -> list[dict[str, object]]:
    """The operations as ``batch_statements`` reads them."""
    return [
        {"number": number, "kind": _kind(operation), "id": operation.id}
        | _parameters(operation, call.now)
        for number, operation in enumerate(call.batch.operations)
    ]


def _parameters(operation: Operation, now: datetime) -> dict[str, object]:
    match operation:
        case CreateTask(task):
            columns = json_values(columns_of(task.content, now=now)) | {
                "anchor": None,
                "next_id": None,
            }
            return {"sets": list(columns), **columns}
        case ChangeTask(_, changes, if_version):
            columns = json_values(columns_of(clean_changes(changes), now=now))
            return {"sets": list(columns), "if_version": if_version, **columns}
        case DeleteTask(_, if_version):
            return {"if_version": if_version}
        case RestoreTask():
            return {}


def _kind(operation: Operation) -> str:
    match operation:
        case CreateTask():
            return statements.CREATE
        case ChangeTask():
            return statements.CHANGE
        case DeleteTask():
            return statements.DELETE
        case RestoreTask():
            return statements.RESTORE


def _outcome(row: asyncpg.Record) -> Outcome:
    return Outcome(
        task_from_row(row) if row["is_visible"] else None,
        Refusal(row["refusal"]) if row["refusal"] else None,
        is_new=row["kind"] == statements.CREATE and row["alters"],
    )


def _hash(batch: Batch) -> bytes:
    """A hash of the batch. It does not depend on the time of the call."""
    content: list[object] = [batch.is_atomic]
    for operation in batch.operations:
        match operation:
            case CreateTask(task):
                content.append([statements.CREATE, task.id, set_members(task.content)])
            case ChangeTask(task_id, changes, if_version):
                content.append([statements.CHANGE, task_id, clean_changes(changes), if_version])
            case DeleteTask(task_id, if_version):
                content.append([statements.DELETE, task_id, if_version])
            case RestoreTask(task_id):
                content.append([statements.RESTORE, task_id])
    return sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()
