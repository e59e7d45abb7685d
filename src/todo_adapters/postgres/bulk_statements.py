"""The SQL that changes or deletes every task that matches a filter.

Each statement returns one row: ``affected``, the number of tasks that it would write, and ``ids``,
those that it has written. It writes nothing if ``affected`` exceeds the parameter ``max_affected``.
"""

from functools import lru_cache
from typing import Any, Final

from sqlalchemy import CTE, ColumnElement, bindparam, func, literal_column, select, update

from todo_adapters.postgres import filters
from todo_adapters.postgres.change_numbers import after_lock, locked_counter, take_number
from todo_adapters.postgres.database import Statement
from todo_adapters.postgres.statements import IS_LIVE, NOW, changed_values, purge_deleted
from todo_adapters.postgres.tables import CHANGES, TASKS

_MAX_AFFECTED: Final = bindparam("max_affected", type_=CHANGES.c.last.type)


@lru_cache(maxsize=256)
def change(shape: filters.Shape, columns: frozenset[str]) -> Statement:
    """Change these columns of every task that matches, unless it has the values already."""
    is_same, values = changed_values(columns)
    affected, number = _affected(*filters.conditions(shape), ~is_same)
    changed = update(TASKS).values(**values, change=number.c.last)
    return _write(affected, changed)


@lru_cache(maxsize=256)
def delete(shape: filters.Shape) -> Statement:
    """Mark every task that matches as deleted, and purge what can no longer be restored."""
    affected, number = _affected(*filters.conditions(shape))
    deleted = update(TASKS).values(deleted_at=NOW, change=number.c.last)
    return _write(affected, deleted.add_cte(purge_deleted()))


def _affected(*conditions: ColumnElement[bool]) -> tuple[CTE, CTE]:
    """The ids of the tasks to write, locked, and the change number if they are to be written."""
    counter = locked_counter()
    affected = (
        select(TASKS.c.id)
        .where(*IS_LIVE, *conditions, after_lock(counter))
        .with_for_update()
        .cte("affected")
        .prefix_with("MATERIALIZED")
    )
    count = _count(affected)
    is_allowed = count.between(literal_column("1"), func.coalesce(_MAX_AFFECTED, count))
    number = take_number(is_allowed)
    return affected, number


def _write(affected: CTE, written: Any) -> Statement:  # noqa: ANN401 - SQLAlchemy's Update
    rows = written.where(*IS_LIVE, TASKS.c.id.in_(select(affected.c.id))).returning(TASKS.c.id)
    ids = rows.cte("written")
    return Statement.compiled(
        select(
            _count(affected).label("affected"),
            select(func.array_agg(ids.c.id)).scalar_subquery().label("ids"),
        )
    )


def _count(affected: CTE) -> ColumnElement[int]:
    return select(func.count()).select_from(affected).scalar_subquery()
