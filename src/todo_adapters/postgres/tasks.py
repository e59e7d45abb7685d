"""The task repository on PostgreSQL: each call is one statement, and each has the owner in it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple, Unpack
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy import (
    CTE,
    ColumnElement,
    Insert,
    Select,
    Update,
    and_,
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

from todo_adapters.postgres.database import Database, Statement
from todo_adapters.postgres.tables import OWNER_SETTING, SCHEMA, metadata
from todo_domain.errors import IdempotencyKeyReused, StaleVersion, TaskNotDeleted, TaskNotFound
from todo_domain.ports import KEY_LIFETIME, RETENTION
from todo_domain.queries import Sort, SortBy, TaskCounts, TaskPage, TaskQuery
from todo_domain.task import Priority, Task, TaskChanges, due_instant

SEEN_GRANULARITY: Final = timedelta(hours=1)

_tasks = metadata.tables[f"{SCHEMA}.tasks"]
_users = metadata.tables[f"{SCHEMA}.users"]
_keys = metadata.tables[f"{SCHEMA}.idempotency_keys"]
# What a task is read from, in the order in which ``_task`` takes it.
_columns = tuple(
    _tasks.c[name]
    for name in (
        *("id", "user_id", "title", "description", "priority", "due_at", "due_all_day", "tags"),
        *("created_at", "updated_at", "completed_at", "version"),
    )
)
# Where the members are that an edit may name.
_STORED_IN: Final = {
    "title": ("title",),
    "description": ("description",),
    "completed": ("completed_at",),
    "priority": ("priority",),
    "due_date": ("due_at", "due_all_day"),
    "tags": ("tags",),
}
_ANY_TITLE: Final = "any"
_UNSAID: Final = (None, False, ())
_PRIORITIES: Final = {priority.rank: priority for priority in Priority}


class PostgresTaskRepository:
    """todo_domain.ports.TaskRepository on a PostgreSQL database."""

    def __init__(self, database: Database, *, retention: timedelta = RETENTION) -> None:
        self._database = database
        self._retention = retention

    async def add(self, task: Task, *, key: str | None = None) -> Task:
        values = _row(task) | {"seen_recently": task.created_at - SEEN_GRANULARITY}
        if key is None:
            await self._database.fetch(_ADD, **values)
            return task
        content = _hash(task)
        values |= {
            "key": key,
            "content": content,
            "forgotten": task.created_at - KEY_LIFETIME,
        }
        if await self._database.fetch(_ADD_ONCE, **values):
            return task
        return await self._first_added(task, key, content)

    async def _first_added(self, task: Task, key: str, content: bytes) -> Task:
        """The task that the key was first used for, as it was then."""
        rows = await self._database.fetch(_GET_KEY, user_id=task.owner, key=key)
        if not rows or rows[0]["content"] != content:
            raise IdempotencyKeyReused
        then = rows[0]["created_at"]
        return replace(
            task,
            id=rows[0]["task_id"],
            created_at=then,
            updated_at=then,
            completed_at=then if task.completed else None,
        )

    async def get(self, owner: str, task_id: UUID) -> Task:
        return _only(await self._database.fetch(_GET, owner=owner, task_id=task_id))

    async def find(self, owner: str, query: TaskQuery) -> TaskPage:
        rows = await self._database.fetch(
            _find(_Shape.of(query)), owner=owner, limit=query.limit + 1, **_values(query)
        )
        total = rows[0]["total"] if query.with_total else None
        tasks = tuple(_task(row) for row in rows[: query.limit] if row["id"] is not None)
        more = len(rows) > query.limit
        if query.after is None and not more:
            total = len(tasks)
        return TaskPage(tasks, more, total)

    async def save(self, task: Task) -> None:
        if not await self._database.fetch(_SAVE, **_row(task), read_version=task.version - 1):
            raise StaleVersion

    async def change(
        self, owner: str, task_id: UUID, *, now: datetime, **changes: Unpack[TaskChanges]
    ) -> Task:
        # Rules and columns of the members are those of any task that has them.
        if not changes:
            return await self.get(owner, task_id)
        members: TaskChanges = {"title": _ANY_TITLE, **changes}
        values = _row(Task.new(task_id, owner, now, **members))
        return _only(await self._database.fetch(_change(frozenset(changes)), **values))

    async def delete(
        self, owner: str, task_id: UUID, *, now: datetime, version: int | None = None
    ) -> Task:
        rows = await self._database.fetch(
            _DELETE if version is None else _DELETE_VERSION,
            owner=owner,
            task_id=task_id,
            version=version,
            **self._deletion(now),
        )
        if version is not None and not rows:
            raise StaleVersion
        return _only(rows)

    async def delete_completed(self, owner: str, *, now: datetime) -> int:
        rows = await self._database.fetch(_DELETE_COMPLETED, owner=owner, **self._deletion(now))
        removed: int = rows[0]["removed"]
        return removed

    async def restore(self, owner: str, task_id: UUID, *, now: datetime) -> Task:
        expired = now - self._retention
        rows = await self._database.fetch(_RESTORE, owner=owner, task_id=task_id, expired=expired)
        if not rows or (rows[0]["was_deleted_at"] or now) <= expired:
            raise TaskNotFound
        if rows[0]["id"] is None:
            raise TaskNotDeleted
        return _task(rows[0])

    async def count(self, owner: str) -> TaskCounts:
        row = (await self._database.fetch(_COUNT, owner=owner))[0]
        return TaskCounts(pending=row["pending"], completed=row["completed"])

    def _deletion(self, now: datetime) -> dict[str, datetime]:
        return {"now": now, "expired": now - self._retention}


# --- Rows and tasks -----------------------------------------------------------------------------


def _only(rows: Sequence[asyncpg.Record]) -> Task:
    if not rows:
        raise TaskNotFound
    return _task(rows[0])


def _task(row: asyncpg.Record) -> Task:
    """The task that a row begins with."""
    # By place, since to look each name up would take as long as to make the task.
    task_id, owner, title, text, rank, due, is_day, tags, created, updated, done, version, *_ = row
    if due is not None and is_day:
        due = due.date()
    elif due is not None and due.tzinfo is None:
        # asyncpg takes the first and the last instant it knows for infinite, and those for naive.
        due = due.replace(tzinfo=UTC)
    return Task(
        id=task_id,
        owner=owner,
        title=title,
        description=text,
        priority=_PRIORITIES.get(rank),
        due_date=due,
        tags=tuple(tags),
        created_at=created,
        updated_at=updated,
        completed_at=done,
        version=version,
    )


def _hash(task: Task) -> bytes:
    """What tells a repeated request from another one under the same idempotency key.

    Members that are not set do not count, so that a version which knows more of them agrees.
    """
    said = {name: value for name, value in task.content.items() if value not in _UNSAID}
    return sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).digest()


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

_is_live = _tasks.c.deleted_at.is_(None)
_own_task = (_tasks.c.user_id == bindparam("owner"), _tasks.c.id == bindparam("task_id"))
_own_live_task = (*_own_task, _is_live)


_OWNER: Final = bindparam("user_id", type_=_tasks.c.user_id.type)
_CREATED_AT: Final = bindparam("created_at", type_=_tasks.c.created_at.type)
_FORGOTTEN: Final = bindparam("forgotten", type_=_keys.c.created_at.type)
_NEW_ROW: Final = {c.name: bindparam(c.name, type_=c.type) for c in _columns}


def _owner_seen() -> CTE:
    """Note the owner of a new task, unless they were seen a moment ago.

    A row that every create updated would queue a user's requests behind each other.
    """
    seen_recently = exists().where(
        _users.c.id == _OWNER, _users.c.last_seen_at > bindparam("seen_recently")
    )
    seen = upsert(_users).from_select(
        ["id", "first_seen_at", "last_seen_at"],
        select(_OWNER, _CREATED_AT, _CREATED_AT).where(~seen_recently),
    )
    latest = func.greatest(_users.c.last_seen_at, seen.excluded.last_seen_at)
    return seen.on_conflict_do_update(
        index_elements=[_users.c.id], set_={"last_seen_at": latest}
    ).cte("seen")


def _add_walled() -> Insert:
    """The same behind row-level security: no row to insert before the wall knows the owner."""
    named = func.set_config(
        literal_column(f"'{OWNER_SETTING}'"), _OWNER, literal_column("true")
    ).label("owner")
    wall = select(named).cte("wall").prefix_with("MATERIALIZED")
    row = select(*_NEW_ROW.values()).select_from(wall).where(wall.c.owner.is_not(None))
    return insert(_tasks).from_select(list(_NEW_ROW), row).add_cte(_owner_seen())


def _key_taken() -> CTE:
    """One row if the idempotency key is new or long forgotten; rivals wait for each other here."""
    key = upsert(_keys).values(
        {c.name: bindparam(c.name, type_=c.type) for c in _keys.c} | {"task_id": _NEW_ROW["id"]}
    )
    return (
        key.on_conflict_do_update(
            index_elements=[_keys.c.user_id, _keys.c.key],
            set_={name: key.excluded[name] for name in ("content", "task_id", "created_at")},
            where=_keys.c.created_at < _FORGOTTEN,
        )
        .returning(_keys.c.key)
        .cte("taken")
    )


def _keys_forgotten() -> CTE:
    """Drop the user's other old keys, so that they need no clean-up of their own.

    Those that a rival is just taking anew are left to it: waiting for it could be mutual.
    """
    old = select(_keys.c.key).where(
        _keys.c.user_id == _OWNER,
        _keys.c.created_at < _FORGOTTEN,
        _keys.c.key != bindparam("key", type_=_keys.c.key.type),
    )
    free = old.with_for_update(skip_locked=True)
    return (
        delete(_keys).where(_keys.c.user_id == _OWNER, _keys.c.key.in_(free)).cte("forgotten_keys")
    )


def _add_once() -> Statement:
    taken = _key_taken()
    task = insert(_tasks).from_select(list(_NEW_ROW), select(*_NEW_ROW.values()).select_from(taken))
    return Statement.compiled(task.add_cte(_owner_seen(), _keys_forgotten()).returning(_tasks.c.id))


def _save() -> Statement:
    """Replace the row, unless somebody else has done so since it was read."""
    members = [c for c in _columns if c.name not in {"id", "user_id", "created_at"}]
    return Statement.compiled(
        update(_tasks)
        .where(
            _tasks.c.user_id == bindparam("user_id"),
            _tasks.c.id == bindparam("id"),
            _tasks.c.version == bindparam("read_version"),
            _is_live,
        )
        .values({c.name: bindparam(c.name, type_=c.type) for c in members})
        .returning(_tasks.c.id)
    )


@cache
def _change(members: frozenset[str]) -> Statement:
    """``Task.changed`` in SQL, for these members: if nothing differs, version and times stay.

    All in one UPDATE, whose expressions PostgreSQL evaluates anew on the latest version of a row
    that a rival has just changed.
    """
    columns = [_tasks.c[name] for member in sorted(members) for name in _STORED_IN[member]]
    values: dict[str, ColumnElement[Any]] = {
        column.name: bindparam(column.name, type_=column.type) for column in columns
    }
    idle = and_(*(_is_same(column, values[column.name]) for column in columns))
    now = bindparam("updated_at", type_=_tasks.c.updated_at.type)
    if "completed_at" in values:
        first_completed = func.coalesce(_tasks.c.completed_at, values["completed_at"])
        values["completed_at"] = case((values["completed_at"].is_not(None), first_completed))
    return Statement.compiled(
        update(_tasks)
        .where(_tasks.c.user_id == bindparam("user_id"), _tasks.c.id == bindparam("id"), _is_live)
        .values(
            **values,
            updated_at=case(
                (idle, _tasks.c.updated_at), else_=func.greatest(_tasks.c.updated_at, now)
            ),
            version=_tasks.c.version + case((idle, literal_column("0")), else_=literal_column("1")),
        )
        .returning(*_columns)
    )


def _is_same(column: ColumnElement[Any], value: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether the task says already what it is to say: of completion, not when, but whether."""
    if column is _tasks.c.completed_at:
        return column.is_(None) == value.is_(None)
    return column.is_not_distinct_from(value)


def _deleted(*which: ColumnElement[bool]) -> Update:
    """Mark tasks as deleted, and drop for good what the owner deleted too long ago to restore."""
    now = bindparam("now", type_=_tasks.c.updated_at.type)
    expired = bindparam("expired", type_=_tasks.c.updated_at.type)
    old = select(_tasks.c.id).where(
        _tasks.c.user_id == bindparam("owner"), _tasks.c.deleted_at <= expired
    )
    free = old.with_for_update(skip_locked=True)  # a rival may be at the same work
    purged = delete(_tasks).where(_tasks.c.user_id == bindparam("owner"), _tasks.c.id.in_(free))
    return update(_tasks).where(*which).values(deleted_at=now).add_cte(purged.cte("purged"))


def _delete_completed() -> Statement:
    which = (_tasks.c.user_id == bindparam("owner"), _is_live, _tasks.c.completed_at.is_not(None))
    removed = _deleted(*which).returning(_tasks.c.id).cte("removed")
    return Statement.compiled(select(func.count().label("removed")).select_from(removed))


def _restore() -> Statement:
    """Bring a task back, beside when it was deleted, which tells why if it does not come back."""
    expired = bindparam("expired", type_=_tasks.c.updated_at.type)
    found = select(_tasks.c.deleted_at.label("was_deleted_at")).where(*_own_task).cte("found")
    restored = (
        update(_tasks)
        .where(*_own_task, _tasks.c.deleted_at > expired)
        .values(deleted_at=null())
        .returning(*_columns)
        .cte("restored")
    )
    return Statement.compiled(
        select(*restored.c, found.c.was_deleted_at).select_from(found.outerjoin(restored, true()))
    )


_ADD: Final = Statement.compiled(
    insert(_tasks).values(_NEW_ROW).add_cte(_owner_seen()), walled=_add_walled()
)
_ADD_ONCE: Final = _add_once()
_GET_KEY: Final = Statement.compiled(
    select(_keys.c.content, _keys.c.task_id, _keys.c.created_at).where(
        _keys.c.user_id == _OWNER, _keys.c.key == bindparam("key")
    )
)
_GET: Final = Statement.compiled(select(*_columns).where(*_own_live_task))
_SAVE: Final = _save()
_DELETE: Final = Statement.compiled(_deleted(*_own_live_task).returning(*_columns))
_DELETE_VERSION: Final = Statement.compiled(
    _deleted(*_own_live_task, _tasks.c.version == bindparam("version")).returning(*_columns)
)
_DELETE_COMPLETED: Final = _delete_completed()
_RESTORE: Final = _restore()
_COUNT: Final = Statement.compiled(
    select(
        func.count().filter(_tasks.c.completed_at.is_(None)).label("pending"),
        func.count(_tasks.c.completed_at).label("completed"),
    ).where(_tasks.c.user_id == bindparam("owner"), _is_live)
)


# --- Lists: one statement for each shape of query -------------------------------------------------


class _Shape(NamedTuple):
    """What of a query decides its SQL; the rest are parameters."""

    completed: bool | None
    filters: frozenset[str]
    sort: Sort
    continued: bool
    with_total: bool

    @classmethod
    def of(cls, query: TaskQuery) -> "_Shape":
        filters = frozenset(name for name in _FILTERS if getattr(query.filter, name))
        return cls(
            query.filter.completed, filters, query.sort, query.after is not None, query.with_total
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
    matching = [_tasks.c.user_id == bindparam("owner"), _is_live]
    matching += [_FILTERS[name] for name in sorted(shape.filters)]
    if shape.completed is not None:
        is_pending = _tasks.c.completed_at.is_(None)
        matching.append(~is_pending if shape.completed else is_pending)
    page = _page(shape, matching)
    return Statement.compiled(_counted(page, matching, shape.sort) if shape.with_total else page)


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
    beside = select(*rows.c, count.c.total).select_from(count.outerjoin(rows, true()))
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
