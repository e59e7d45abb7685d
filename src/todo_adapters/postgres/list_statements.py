"""The SQL of lists: one statement for each combination of filters, order and page."""

from functools import lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    bindparam,
    func,
    literal_column,
    select,
    tuple_,
)

from todo_adapters.postgres import filters
from todo_adapters.postgres.change_numbers import with_state
from todo_adapters.postgres.database import Statement
from todo_adapters.postgres.rows import TASK_COLUMNS
from todo_adapters.postgres.statements import IS_LIVE
from todo_adapters.postgres.tables import TASKS
from todo_domain.queries import Sort, SortBy, TaskQuery

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

    filter: filters.Shape
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
            filter=filters.shape_of(query.filter),
            sort=query.sort,
            has_start=query.after is not None,
            with_total=query.with_total,
            is_conditional=query.unless_change is not None,
        )
    )


def parameters_of(query: TaskQuery) -> dict[str, object]:
    """The values of the parameters of ``find``, except for the owner."""
    return {
        **filters.parameters_of(query.filter),
        "after_value": query.after and query.sort.comparable(query.after.value),
        "after_id": query.after and query.after.id,
        "limit": query.limit + 1,
        "unless_change": query.unless_change,
    }


@lru_cache(maxsize=512)
def _find(shape: _Shape) -> Statement:
    conditions = (*IS_LIVE, *filters.conditions(shape.filter))
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
            return filters.folded("title", columns).collate("C"), columns["id"]
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
