"""What is stored about a user: the pages of an export, and the tasks that an import stores."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple, TypedDict
from uuid import UUID

from todo_domain.batch import StoredTask
from todo_domain.errors import ImportRefused
from todo_domain.task import Task

EXPORT_PAGE: Final = 500  # tasks that an export holds in memory
IMPORT_MAX: Final = 5000  # tasks


@dataclass(frozen=True, slots=True)
class UserRecord:
    """When the user first and last created a task, the latter to the hour."""

    first_seen_at: datetime
    last_seen_at: datetime


@dataclass(frozen=True, slots=True)
class StoredPage:
    """Stored tasks in the order of their ids."""

    tasks: tuple[StoredTask, ...]
    has_more: bool


class UserData(NamedTuple):
    """What is stored about a user. ``user`` is None for a user who never created a task."""

    user: UserRecord | None
    pages: AsyncIterator[tuple[StoredTask, ...]]


class ImportResult(NamedTuple):
    """How many tasks were created, and how many needed no change."""

    created: int
    present: int


class ExportedTimes(TypedDict, total=False):
    """The times of a task in an export."""

    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    deleted_at: datetime | None


def with_times(task: Task, times: ExportedTimes, now: datetime) -> StoredTask:
    """The new task with the times of an export.

    A time after ``now`` becomes ``now``, one before the creation becomes the time of the creation.
    Only a completed task has a time of completion; a missing one is the time of the last change.
    """
    known = [moment for moment in (*times.values(), now) if isinstance(moment, datetime)]
    created_at = min(times.get("created_at") or min(known), now)

    def bounded(moment: datetime) -> datetime:
        return max(created_at, min(moment, now))

    updated_at = bounded(times.get("updated_at", created_at))
    completed_at = bounded(times.get("completed_at") or updated_at) if task.completed else None
    deleted_at = times.get("deleted_at")
    timed = replace(task, created_at=created_at, updated_at=updated_at, completed_at=completed_at)
    return StoredTask(timed, deleted_at and bounded(deleted_at))


def tasks_to_store(
    imported: Sequence[StoredTask],
    stored: Mapping[UUID, StoredTask],
    now: datetime,
    retention: timedelta,
) -> tuple[StoredTask, ...]:
    """The imported tasks that are not stored yet.

    Deleted tasks that can no longer be restored do not count, imported or stored. Raises
    ImportRefused if another task has the id of an imported one: its content differs, or only one of
    the two is deleted.
    """
    new, refused = [], []
    for number, each in enumerate(imported):
        existing = stored.get(each.task.id)
        if not _exists(each, now, retention):
            continue
        if existing is None or not _exists(existing, now, retention):
            new.append(each)
        elif not _is_same(each, existing):
            refused.append(number)
    if refused:
        raise ImportRefused(refused)
    return tuple(new)


def _exists(stored: StoredTask, now: datetime, retention: timedelta) -> bool:
    return stored.deleted_at is None or stored.deleted_at > now - retention


def _is_same(one: StoredTask, other: StoredTask) -> bool:
    is_deleted = [each.deleted_at is not None for each in (one, other)]
    return one.task.content == other.task.content and is_deleted[0] == is_deleted[1]
