"""The SQL of lists: one statement for each combination of filters, order and page."""

from functools import lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    tuple_,
)

from todo_adapters.postgres.change_numbers import with_state
from todo_adapters.postgres.database import Statement
from todo_adapters.postgres.rows import TASK_COLUMNS
from todo_adapters.postgres.statements import IS_LIVE
from todo_adapters.postgres.tables import TASKS
from todo_domain.queries import Sort, SortBy, TaskQuery
from todo_domain.task import fold, normalize_tag

_TEXT: Final = bindparam("text", type_=TASKS.c.title.type)


def _folded(name: str, columns: Any) -> ColumnElement[Any]:  # noqa: ANN401
    """The folded text of a column. PostgreSQL folds ASCII texts, whatever the database's locale."""
    return func.coalesce(columns[f"{name}_folded"], func.lower(columns[name].collate("C")))


def _has_tags() -> ColumnElement[bool]:
    """Whether the task has all wanted tags, in any canonically equivalent spelling."""
    tag = func.unnest(TASKS.c.tags).column_valued("tag")
    spellings = select(func.array_agg(func.normalize(tag))).scalar_subquery()
    return spellings.op("@>", is_comparison=True)(bindparam("tags", type_=TASKS.c.tags.type))


_FILTERS: Final[dict[str, ColumnElement[bool]]] = {
    "priority": TASKS.c.priority == bindparam("priority"),
    "tags": _has_tags(),
    "due_before": TASKS.c.due_at < bindparam("due_before"),
    "due_after": TASKS.c.due_at > bindparam("due_after"),
    "text": or_(_folded("title", TASKS.c).like(_TEXT), _folded("description", TASKS.c).like(_TEXT)),
}
# The start of a page: the value that it is sorted by, as a column of any name, and the id.
_START: Final = {
    "id": bindparam("after_id", type_=TASKS.c.id.type),
    "title_folded": bindparam("after_value", type_=TASKS.c.title.type),
    "title": bindparam("after_value", type_=TASKS.c.title.type),
    **{
        name: bindparam("after_value", type_=TASKS.c[name].type)
        for name in ("created_at", "updated_at", "due_at", "priority", "position")
    },
}


class _Shape(NamedTuple):
    """The part of a query that determines the SQL. The rest are parameters."""

    completed: bool | None
    filters: frozenset[str]
    sort: Sort
    has_start: bool
    with_total: bool
    is_conditional: bool


def find(query: TaskQuery) -> Statement:
    """The statement for a query: rows of TASK_COLUMNS, the columns of the state, and ``total``.

    There is one row more than the page holds if more tasks follow, and one row with null columns if
    the page is empty. ``total`` is there if the query wants it.
    """
    return _find(
        _Shape(
            completed=query.filter.completed,
            filters=frozenset(name for name in _FILTERS if getattr(query.filter, name)),
            sort=query.sort,
            has_start=query.after is not None,
            with_total=query.with_total,
            is_conditional=query.unless_change is not None,
        )
    )


def parameters_of(query: TaskQuery) -> dict[str, object]:
    """The values of the parameters of ``find``, except for the owner."""
    wanted = query.filter
    return {
        "priority": wanted.priority and wanted.priority.rank,
        "tags": [normalize_tag(tag) for tag in wanted.tags],
        "due_before": wanted.due_before,
        "due_after": wanted.due_after,
        "text": wanted.text and _like_pattern(fold(wanted.text)),
        "after_value": query.after and query.sort.comparable(query.after.value),
        "after_id": query.after and query.after.id,
        "limit": query.limit + 1,
        "unless_change": query.unless_change,
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
    keys = _sort_keys(shape.sort, TASKS.c)
    page = select(*TASK_COLUMNS).where(*conditions)
    if shape.has_start:
        position, start = tuple_(*keys), tuple_(*_sort_keys(shape.sort, _START))
        page = page.where(position < start if shape.sort.descending else position > start)
    order = (key.desc() if shape.sort.descending else key.asc() for key in keys)
    return with_state(
        page.order_by(*order).limit(bindparam("limit")),
        keys=keys,
        descending=shape.sort.descending,
        total=select(func.count()).where(*conditions).scalar_subquery()
        if shape.with_total
        else None,
        is_conditional=shape.is_conditional,
    )


def _sort_keys(sort: Sort, columns: Any) -> tuple[ColumnElement[Any], ...]:  # noqa: ANN401
    """The expressions to sort by, of the tasks or of the page's start. The id breaks ties.

    A row comparison of them finds the start of any page at once, with an index on the same columns.
    """
    match sort.by:
        case SortBy.TITLE:
            return _folded("title", columns).collate("C"), columns["id"]
        case SortBy.DUE_DATE:
            due = columns["due_at"]
            # A null sorts last. No instant can replace it, because a due date can be any instant.
            is_first = due.is_not(None) if sort.descending else due.is_(None)
            return (
                is_first,
                func.coalesce(due, func.to_timestamp(literal_column("0"))),
                columns["id"],
            )
        case SortBy.PRIORITY:
            last: ColumnElement[int] = literal_column("0" if sort.descending else "9")
            return func.coalesce(columns["priority"], last), columns["id"]
        case SortBy.POSITION:
            # Before and after every position, which has only letters and digits.
            end: ColumnElement[str] = literal_column("''" if sort.descending else "'~'")
            return func.coalesce(columns["position"], end), columns["id"]
        case SortBy.CREATED_AT | SortBy.UPDATED_AT:
            return columns[sort.by.value], columns["id"]
