"""Converts tasks to rows of the database and back."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import asyncpg
import orjson

from todo_adapters.postgres.tables import TASKS
from todo_domain.repeat import Repeat
from todo_domain.task import Priority, Task, due_instant, fold

# The columns of a task in the order in which ``task_from_row`` unpacks them.
TASK_COLUMNS: Final = tuple(
    TASKS.c[name]
    for name in (
        *("id", "user_id", "title", "description", "priority", "due_at", "due_all_day", "tags"),
        *("created_at", "updated_at", "completed_at", "version"),
        *("position", "repeat", "time_zone", "anchor", "next_id"),
    )
)
# asyncpg sends the first and the last instant that Python knows as these.
_INFINITIES: Final[dict[object, str]] = {
    datetime.min.replace(tzinfo=UTC): "-infinity",
    datetime.max.replace(tzinfo=UTC): "infinity",
}
_UNSET: Final = (None, False, ())
_PRIORITIES: Final = {priority.rank: priority for priority in Priority}


def task_from_row(row: asyncpg.Record) -> Task:
    """The task in a row that begins with TASK_COLUMNS."""
    # Unpacked, because look-ups by name take as long as making the task.
    task_id, owner, title, text, rank, due, is_day, tags = row[:8]
    created, updated, done, version, position, repeat, time_zone, anchor, next_id = row[8:17]
    if due is not None and is_day:
        due = due.date()
    elif due is not None and due.tzinfo is None:
        # asyncpg returns the first and last instant that PostgreSQL knows without a time zone.
        due = due.replace(tzinfo=UTC)
    return Task(
        id=task_id,
        owner=owner,
        title=title,
        description=text,
        priority=_PRIORITIES.get(rank),
        due_date=due,
        tags=tuple(tags),
        position=position,
        repeat=None if repeat is None else _repeat_from_text(repeat),
        time_zone=time_zone,
        anchor=anchor,
        next_id=next_id,
        created_at=created,
        updated_at=updated,
        completed_at=done,
        version=version,
    )


def row_from_task(task: Task) -> dict[str, object]:
    """The values of a new row by column; the owner is named ``owner``, as in statements."""
    return {
        **columns_of(task.content, now=task.updated_at),
        "id": task.id,
        "owner": task.owner,
        "created_at": task.created_at,
        "updated_at": task.updated_at,
        "completed_at": task.completed_at,
        "version": task.version,
        "anchor": task.anchor,
        "next_id": task.next_id,
    }


def columns_of(members: Mapping[str, Any], *, now: datetime) -> dict[str, object]:
    """The values of the columns that store these members of ``TaskChanges``.

    ``now`` is the time of completion of a completed task.
    """
    columns = dict(members)
    for name in ("title", "description"):
        if name in columns:
            columns[f"{name}_folded"] = _folded(columns[name])
    if "completed" in columns:
        columns["completed_at"] = now if columns.pop("completed") else None
    if "priority" in columns:
        columns["priority"] = columns["priority"] and columns["priority"].rank
    if "due_date" in columns:
        due = columns.pop("due_date")
        columns["due_at"] = None if due is None else due_instant(due)
        columns["due_all_day"] = due is not None and not isinstance(due, datetime)
    if columns.get("repeat") is not None:
        columns["repeat"] = orjson.dumps(columns["repeat"].members).decode()
    return columns


def json_values(columns: dict[str, object]) -> dict[str, object]:
    """The values of columns, for JSON from which PostgreSQL reads what asyncpg sends."""
    due = columns.get("due_at")
    return columns | {"due_at": _INFINITIES[due]} if due in _INFINITIES else columns


def set_members(content: Mapping[str, object]) -> dict[str, object]:
    """The members that are set, for the hash of an idempotency key.

    Members that are not set are left out, so that the hash stays the same when a later version of
    this code adds members.
    """
    return {name: value for name, value in content.items() if value not in _UNSET}


@lru_cache(maxsize=1024)
def _repeat_from_text(text: str) -> Repeat:
    return Repeat.of(orjson.loads(text))


def _folded(text: str | None) -> str | None:
    """The text for searches, None for text that PostgreSQL folds itself."""
    return None if text is None or text.isascii() else fold(text)
