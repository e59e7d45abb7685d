"""The SQL of lists: one statement for each combination of filters, order and page."""

from functools import lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Select,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    true,
    tuple_,
)

from todo_adapters.postgres.database import Statement
from todo_adapters.postgres.rows import TASK_COLUMNS
from todo_adapters.postgres.statements import IS_LIVE
from todo_adapters.postgres.tables import TASKS
from todo_domain.queries import Sort, SortBy, TaskQuery

_TEXT: Final = bindparam("text", type_=TASKS.c.title.type)
_FILTERS: Final[dict[str, ColumnElement[bool]]] = {
    "priority": TASKS.c.priority == bindparam("priority"),
    "tags": TASKS.c.tags.contains(bindparam("tags", type_=TASKS.c.tags.type)),
    "due_before": TASKS.c.due_at < bindparam("due_before"),
    "due_after": TASKS.c.due_at > bindparam("due_after"),
    "text": or_(TASKS.c.title.ilike(_TEXT), TASKS.c.description.ilike(_TEXT)),
}
_SORT_COLUMNS: Final = {by: by.value for by in SortBy} | {SortBy.DUE_DATE: "due_at"}


class _Shape(NamedTuple):
    """The part of a query that determines the SQL. The rest are parameters."""

    completed: bool | None
    filters: frozenset[str]
    sort: Sort
    has_start: bool
    with_total: bool


def find(query: TaskQuery) -> Statement:
    """The statement that finds the page of a query. Its rows begin with TASK_COLUMNS.

    One row more than the limit shows that more tasks follow. ``with_total`` adds a column
    ``total``; an empty page then is one row in which the other columns are null.
    """
    return _find(
        _Shape(
            completed=query.filter.completed,
            filters=frozenset(name for name in _FILTERS if getattr(query.filter, name)),
            sort=query.sort,
            has_start=query.after is not None,
            with_total=query.with_total,
        )
    )


def parameters_of(query: TaskQuery) -> dict[str, object]:
    """The values of the parameters of ``find``, except for the owner."""
    wanted = query.filter
    return {
        "priority": wanted.priority and wanted.priority.rank,
        "tags": wanted.tags,
        "due_before": wanted.due_before,
        "due_after": wanted.due_after,
        "text": wanted.text and _like_pattern(wanted.text),
        "after_value": query.after and query.after.value,
        "after_id": query.after and query.after.id,
        "limit": query.limit + 1,
    }


def _like_pattern(text: str) -> str:
    """A LIKE pattern that finds the text anywhere, with its wildcards escaped."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


@lru_cache(maxsize=512)
def _find(shape: _Shape) -> Statement:
    conditions = [*IS_LIVE, *(_FILTERS[name] for name in sorted(shape.filters))]
    if shape.completed is not None:
        is_pending = TASKS.c.completed_at.is_(None)
        conditions.append(~is_pending if shape.completed else is_pending)
    page = _page(shape, conditions)
    return Statement.compiled(
        _with_total(page, conditions, shape.sort) if shape.with_total else page
    )


def _page(shape: _Shape, conditions: list[ColumnElement[bool]]) -> Select[Any]:
    """Keyset paging: an index on the compared columns finds the start of every page."""
    selected = select(*TASK_COLUMNS).where(*conditions)
    if shape.has_start:
        after = bindparam("after_value", type_=TASKS.c[_SORT_COLUMNS[shape.sort.by]].type)
        position = tuple_(_sort_value(shape.sort), TASKS.c.id)
        start = tuple_(_sort_value(shape.sort, after), bindparam("after_id"))
        selected = selected.where(position < start if shape.sort.descending else position > start)
    return selected.order_by(*_order(shape.sort, TASKS.c)).limit(bindparam("limit"))


def _with_total(
    page: Select[Any], conditions: list[ColumnElement[bool]], sort: Sort
) -> Select[Any]:
    """The page with the number of all matches in each row; one row if the page is empty."""
    count = select(func.count().label("total")).where(*conditions).subquery("count")
    rows = page.subquery("page")
    both = select(*rows.c, count.c.total).select_from(count.outerjoin(rows, true()))
    return both.order_by(*_order(sort, rows.c))


def _order(sort: Sort, columns: Any) -> tuple[ColumnElement[Any], ...]:  # noqa: ANN401
    keys = (_sort_value(sort, columns[_SORT_COLUMNS[sort.by]]), columns.id)
    return tuple(key.desc() if sort.descending else key.asc() for key in keys)


def _sort_value(sort: Sort, value: ColumnElement[Any] | None = None) -> ColumnElement[Any]:
    """The expression to sort by, of the sorted column or of the value. Null sorts last."""
    value = TASKS.c[_SORT_COLUMNS[sort.by]] if value is None else value
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
