"""Batches: several operations on a user's tasks in one call.

``decide`` defines the result of each operation. A repository may compute the results in any way
that gives the same ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

from todo_domain.errors import InvalidTask
from todo_domain.task import Task, TaskChanges, clean_changes

OPERATIONS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class CreateTask:
    """Store a new task. If the same task exists already, nothing is done."""

    task: Task

    @property
    def id(self) -> UUID:
        return self.task.id


@dataclass(frozen=True, slots=True)
class ChangeTask:
    """Change the members that are given. ``if_version`` is the only version that may be changed."""

    id: UUID
    changes: TaskChanges
    if_version: int | None = None


@dataclass(frozen=True, slots=True)
class DeleteTask:
    """Delete a task. ``if_version`` is the only version that may be deleted."""

    id: UUID
    if_version: int | None = None


@dataclass(frozen=True, slots=True)
class RestoreTask:
    """Undo a delete."""

    id: UUID


Operation = CreateTask | ChangeTask | DeleteTask | RestoreTask


@dataclass(frozen=True, slots=True)
class Batch:
    """Operations, each on another task. If ``is_atomic``, either all are applied or none is."""

    operations: tuple[Operation, ...]
    is_atomic: bool = True


class Refusal(StrEnum):
    """Why an operation was not applied."""

    NOT_FOUND = "not_found"
    STALE_VERSION = "stale_version"
    ID_TAKEN = "id_taken"
    NOT_DELETED = "not_deleted"
    INVALID = "validation_failed"


class Outcome(NamedTuple):
    """The result of one operation.

    ``task`` is the task as it is now, a deleted one as it was; None if the task is missing.
    ``refusal`` is None if the operation was applied or had nothing to do. ``is_new`` says whether
    the operation created the task.
    """

    task: Task | None
    refusal: Refusal | None = None
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The outcome of each operation in order. ``is_applied`` is false if nothing was written."""

    outcomes: tuple[Outcome, ...]
    is_applied: bool

    @classmethod
    def of(cls, batch: Batch, outcomes: Sequence[Outcome]) -> "BatchResult":
        """The result of a batch whose operations have these outcomes."""
        is_refused = any(outcome.refusal for outcome in outcomes)
        return cls(tuple(outcomes), is_applied=not (batch.is_atomic and is_refused))


class StoredTask(NamedTuple):
    """A stored task, and when it was deleted if it is."""

    task: Task
    deleted_at: datetime | None = None


def decide(
    operation: Operation, stored: StoredTask | None, now: datetime, retention: timedelta
) -> tuple[Outcome, StoredTask | None]:
    """The outcome of the operation, and what to store for it; None if nothing is to be stored."""
    if stored and stored.deleted_at and stored.deleted_at <= now - retention:
        stored = None  # it can no longer be restored, and its id is free
    match operation:
        case CreateTask(task):
            return _create(task, stored)
        case RestoreTask():
            return _restore(stored)
        case ChangeTask() | DeleteTask():
            return _edit(operation, stored, now)


def _create(task: Task, stored: StoredTask | None) -> tuple[Outcome, StoredTask | None]:
    if stored is None:
        return Outcome(task, is_new=True), StoredTask(task)
    if stored.deleted_at is None and stored.task.content == task.content:
        return Outcome(stored.task), None
    return Outcome(_live(stored), Refusal.ID_TAKEN), None


def _restore(stored: StoredTask | None) -> tuple[Outcome, StoredTask | None]:
    if stored is None:
        return Outcome(None, Refusal.NOT_FOUND), None
    if stored.deleted_at is None:
        return Outcome(stored.task, Refusal.NOT_DELETED), None
    return Outcome(stored.task), StoredTask(stored.task)


def _edit(
    operation: ChangeTask | DeleteTask, stored: StoredTask | None, now: datetime
) -> tuple[Outcome, StoredTask | None]:
    task = _live(stored)
    if task is None:
        return Outcome(None, Refusal.NOT_FOUND), None
    if operation.if_version not in {None, task.version}:
        return Outcome(task, Refusal.STALE_VERSION), None
    if isinstance(operation, DeleteTask):
        return Outcome(task), StoredTask(task, deleted_at=now)
    clean_changes(operation.changes)  # raises for values that no task can have
    try:
        changed = task.changed(now, **operation.changes)
    except InvalidTask:  # a repeating task would lose what it needs
        return Outcome(task, Refusal.INVALID), None
    return Outcome(changed), None if changed is task else StoredTask(changed)


def successor_ids(stored: Mapping[UUID, StoredTask], new: Sequence[StoredTask]) -> list[UUID]:
    """The ids of the tasks that ``with_successors`` looks up, if they are not ``stored`` yet."""
    ids = (task.next_id for task, _ in new if _alters_series(stored.get(task.id), task))
    return [task_id for task_id in ids if task_id and task_id not in stored]


def with_successors(
    stored: Mapping[UUID, StoredTask], new: Sequence[StoredTask], now: datetime
) -> list[StoredTask]:
    """What to store for the new states of tasks, and for the successors of those that repeat.

    ``stored`` has the tasks as they are stored, and those with the ``successor_ids``.
    """
    states = {state.task.id: state for state in new}
    for task in [state.task for state in new]:
        before = stored.get(task.id)
        if before is None or not _alters_series(before, task) or task.next_id is None:
            continue
        successor = _live(states.get(task.next_id) or stored.get(task.next_id))
        if task.completed:
            following = task.successor()
            if successor is None and following and before.task.next_id is None:
                states[following.id] = StoredTask(following)
        elif successor and successor.is_made_by(before.task):
            states[task.id] = StoredTask(replace(task, next_id=None))
            states[successor.id] = StoredTask(successor, deleted_at=now)
    return list(states.values())


def _alters_series(before: StoredTask | None, after: Task) -> bool:
    return before is not None and before.task.completed != after.completed


def _live(stored: StoredTask | None) -> Task | None:
    return stored.task if stored and stored.deleted_at is None else None
