"""Batches: several operations on a user's tasks in one call.

``decide`` defines the result of each operation. A repository may compute the results in any way
that gives the same ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

from todo_domain.task import Task, TaskChanges

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
    changed = task.changed(now, **operation.changes)
    return Outcome(changed), None if changed is task else StoredTask(changed)


def _live(stored: StoredTask | None) -> Task | None:
    return stored.task if stored and stored.deleted_at is None else None
