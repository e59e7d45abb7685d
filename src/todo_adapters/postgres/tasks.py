"""The task repository on PostgreSQL: each call is one statement, and each has the owner in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import asyncpg
from sqlalchemy import (
    ColumnElement,
    Select,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from todo_adapters.postgres.engine import Database, Statement
from todo_adapters.postgres.tables import SCHEMA, metadata
from todo_domain.errors import StaleVersion, TaskNotFound
from todo_domain.queries import Sort, SortBy, TaskPage, TaskQuery
from todo_domain.task import Priority, Task, due_instant

SEEN_GRANULARITY: Final = timedelta(hours=1)

_tasks = metadata.tables[f"{SCHEMA}.tasks"]
_users = metadata.tables[f"{SCHEMA}.users"]
_columns = tuple(_tasks.c)
_PRIORITIES: Final = {priority.rank: priority for priority in Priority}


class PostgresTaskRepository:
    """todo_domain.ports.TaskRepository on a PostgreSQL database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, task: Task) -> None:
        await self._database.fetch(
            _ADD, **_row(task), seen_recently=task.created_at - SEEN_GRANULARITY
        )

    async def get(self, owner: str, task_id: UUID) -> Task:
        return _only(await self._database.fetch(_GET, owner=owner, task_id=task_id))

    async def find(self, owner: str, query: TaskQuery) -> TaskPage:
        rows = await self._database.fetch(
            _find(_Shape.of(query)), owner=owner, limit=query.limit + 1, **_values(query)
        )
        total = rows[0]["total"] if query.counted else None
        tasks = tuple(_task(row) for row in rows[: query.limit] if row["id"] is not None)
        more = len(rows) > query.limit
        if query.after is None and not more:
            total = len(tasks)
        return TaskPage(tasks, more, total)

    async def save(self, task: Task) -> None:
        if not await self._database.fetch(_SAVE, **_row(task), read_version=task.version - 1):
            raise StaleVersion

    async def set_completed(
        self, owner: str, task_id: UUID, *, completed: bool, now: datetime
    ) -> Task:
        statement = _COMPLETE if completed else _REOPEN
        return _only(await self._database.fetch(statement, owner=owner, task_id=task_id, now=now))

    async def remove(self, owner: str, task_id: UUID) -> Task:
        return _only(await self._database.fetch(_REMOVE, owner=owner, task_id=task_id))


# --- Rows and tasks -----------------------------------------------------------------------------


def _only(rows: Sequence[asyncpg.Record]) -> Task:
    if not rows:
        raise TaskNotFound
    return _task(rows[0])


def _task(row: asyncpg.Record) -> Task:
    # asyncpg takes the first and the last instant it knows for infinite, and those for naive.
    due_at = row["due_at"] and row["due_at"].replace(tzinfo=UTC)
    return Task(
        id=row["id"],
        owner=row["user_id"],
        title=row["title"],
        description=row["description"],
        priority=_PRIORITIES.get(row["priority"]),
        due_date=due_at.date() if due_at and row["due_all_day"] else due_at,
        tags=row["tags"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        completed_at=row["completed_at"],
        version=row["version"],
    )


def _row(task: Task) -> dict[str, object]:
    due = task.due_date
    return {
        "id": task.id,
        "user_id": task.owner,
        "title": task.title,
        "description": task.description,
        "priority": task.priority and task.priority.rank,
        "due_at": None if due is None else due_instant(due),
        "due_all_day": due is not None and not isinstance(due, datetime),
        "tags": list(task.tags),
        "created_at": task.created_at,
        "updated_at": task.updated_at,
        "completed_at": task.completed_at,
        "version": task.version,
    }


# --- Statements on one task ---------------------------------------------------------------------

_own_task = (_tasks.c.user_id == bindparam("owner"), _tasks.c.id == bindparam("task_id"))


def _add() -> Statement:
    """Insert a task, and note its owner unless they were seen a moment ago.

    A row that every create updated would queue a user's requests behind each other.
    """
    created_at = bindparam("created_at", type_=_tasks.c.created_at.type)
    owner = bindparam("user_id", type_=_tasks.c.user_id.type)
    seen_recently = exists().where(
        _users.c.id == owner, _users.c.last_seen_at > bindparam("seen_recently")
    )
    seen = upsert(_users).from_select(
        ["id", "first_seen_at", "last_seen_at"],
        select(owner, created_at, created_at).where(~seen_recently),
    )
    seen = seen.on_conflict_do_update(
        index_elements=[_users.c.id],
        set_={"last_seen_at": func.greatest(_users.c.last_seen_at, seen.excluded.last_seen_at)},
    )
    task = insert(_tasks).values({c.name: bindparam(c.name, type_=c.type) for c in _columns})
    return Statement.compiled(task.add_cte(seen.cte("seen")))


def _save() -> Statement:
    """Replace the row, unless somebody else has done so since it was read."""
    members = [c for c in _columns if c.name not in {"id", "user_id", "created_at"}]
    return Statement.compiled(
        update(_tasks)
        .where(
            _tasks.c.user_id == bindparam("user_id"),
            _tasks.c.id == bindparam("id"),
            _tasks.c.version == bindparam("read_version"),
        )
        .values({c.name: bindparam(c.name, type_=c.type) for c in members})
        .returning(_tasks.c.id)
    )


def _set_completed(*, completed: bool) -> Statement:
    """``Task.changed`` in SQL: a row that is in the wanted state already keeps version and times.

    All in one UPDATE, whose expressions PostgreSQL evaluates anew on the latest version of a row
    that a rival has just changed.
    """
    is_completed = _tasks.c.completed_at.is_not(None)
    idle = is_completed if completed else ~is_completed
    now = bindparam("now", type_=_tasks.c.updated_at.type)
    return Statement.compiled(
        update(_tasks)
        .where(*_own_task)
        .values(
            completed_at=func.coalesce(_tasks.c.completed_at, now) if completed else null(),
            updated_at=case(
                (idle, _tasks.c.updated_at), else_=func.greatest(_tasks.c.updated_at, now)
            ),
            version=_tasks.c.version + case((idle, literal_column("0")), else_=literal_column("1")),
        )
        .returning(*_columns)
    )


_ADD: Final = _add()
_GET: Final = Statement.compiled(select(*_columns).where(*_own_task))
_SAVE: Final = _save()
_COMPLETE: Final = _set_completed(completed=True)
_REOPEN: Final = _set_completed(completed=False)
_REMOVE: Final = Statement.compiled(delete(_tasks).where(*_own_task).returning(*_columns))


# --- Lists: one statement for each shape of query -------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Shape:
    """What of a query decides its SQL; the rest are parameters."""

    completed: bool | None
    filters: frozenset[str]
    sort: Sort
    continued: bool
    counted: bool

    @classmethod
    def of(cls, query: TaskQuery) -> "_Shape":
        filters = frozenset(name for name in _FILTERS if getattr(query.filter, name))
        return cls(
            query.filter.completed, filters, query.sort, query.after is not None, query.counted
        )


def _values(query: TaskQuery) -> dict[str, object]:
    wanted = query.filter
    return {
        "priority": wanted.priority and wanted.priority.rank,
        "tags": list(wanted.tags),
        "due_before": wanted.due_before,
        "due_after": wanted.due_after,
        "text": wanted.text and _containing(wanted.text),
        "after_value": query.after and query.after.value,
        "after_id": query.after and query.after.id,
    }


def _containing(text: str) -> str:
    """A LIKE pattern in which nothing of the text is a wildcard."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


_text = bindparam("text", type_=_tasks.c.title.type)
_FILTERS: Final[dict[str, ColumnElement[bool]]] = {
    "priority": _tasks.c.priority == bindparam("priority"),
    "tags": _tasks.c.tags.contains(bindparam("tags", type_=_tasks.c.tags.type)),
    "due_before": _tasks.c.due_at < bindparam("due_before"),
    "due_after": _tasks.c.due_at > bindparam("due_after"),
    "text": or_(_tasks.c.title.ilike(_text), _tasks.c.description.ilike(_text)),
}


@lru_cache(maxsize=512)
def _find(shape: _Shape) -> Statement:
    matching = [_tasks.c.user_id == bindparam("owner")]
    matching += [_FILTERS[name] for name in sorted(shape.filters)]
    if shape.completed is not None:
        is_pending = _tasks.c.completed_at.is_(None)
        matching.append(~is_pending if shape.completed else is_pending)
    page = _page(shape, matching)
    return Statement.compiled(_counted(page, matching, shape.sort) if shape.counted else page)


def _page(shape: _Shape, matching: list[ColumnElement[bool]]) -> Select[Any]:
    """Keyset paging: a row comparison that an index on the same columns answers at any depth."""
    conditions = list(matching)
    if shape.continued:
        after = bindparam("after_value", type_=_tasks.c[_SORTED[shape.sort.by]].type)
        place = tuple_(_sort_value(shape.sort), _tasks.c.id)
        start = tuple_(_sort_value(shape.sort, after), bindparam("after_id"))
        conditions.append(place < start if shape.sort.descending else place > start)
    ordered = select(*_columns).where(*conditions).order_by(*_order(shape.sort, _tasks.c))
    return ordered.limit(bindparam("limit"))


def _counted(page: Select[Any], matching: list[ColumnElement[bool]], sort: Sort) -> Select[Any]:
    """The page beside the number of all matches, which comes even when the page is empty."""
    count = select(func.count().label("total")).where(*matching).subquery("count")
    rows = page.subquery("page")
    beside = select(count.c.total, *rows.c).select_from(count.outerjoin(rows, true()))
    return beside.order_by(*_order(sort, rows.c))


_SORTED: Final = {by: by.value for by in SortBy} | {SortBy.DUE_DATE: "due_at"}


def _order(sort: Sort, columns: Any) -> tuple[ColumnElement[Any], ...]:  # noqa: ANN401
    place = (_sort_value(sort, columns[_SORTED[sort.by]]), columns.id)
    return tuple(part.desc() if sort.descending else part.asc() for part in place)


def _sort_value(sort: Sort, value: ColumnElement[Any] | None = None) -> ColumnElement[Any]:
    """What the column's value, or another in its place, sorts by; a missing one sorts last."""
    value = _tasks.c[_SORTED[sort.by]] if value is None else value
    match sort.by:
        case SortBy.TITLE:
            return func.lower(value).collate("C")
        case SortBy.DUE_DATE:
            last = "'-infinity'" if sort.descending else "'infinity'"
            return func.coalesce(value, literal_column(f"{last}::timestamptz"))
        case SortBy.PRIORITY:
            return func.coalesce(value, literal_column("0" if sort.descending else "9"))
        case SortBy.CREATED_AT | SortBy.UPDATED_AT:
            return value
