"""The SQL conditions of a ``TaskFilter``."""

from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, bindparam, case, func, literal_column, or_, select
from sqlalchemy.dialects.postgresql import ARRAY

from todo_adapters.postgres.tables import TASKS
from todo_domain.queries import TaskFilter
from todo_domain.task import fold, normalize_tag


def folded(name: str, columns: Any) -> ColumnElement[Any]:  # noqa: ANN401
    """The folded text of a column. PostgreSQL folds ASCII texts, whatever the database's locale."""
    return func.coalesce(columns[f"{name}_folded"], func.lower(columns[name].collate("C")))


def _has_tags() -> ColumnElement[bool]:
    """Whether the task has all wanted tags, in any canonically equivalent spelling.

    PostgreSQL can normalize only in UTF-8. In other encodings, tags are compared as they are.
    """
    tag = func.unnest(TASKS.c.tags).column_valued("tag")
    normalized = select(func.array_agg(func.normalize(tag))).scalar_subquery()
    is_utf8 = func.getdatabaseencoding() == literal_column("'UTF8'")
    spellings = case((is_utf8, normalized), else_=TASKS.c.tags)
    return spellings.op("@>", is_comparison=True)(bindparam("wanted_tags", type_=TASKS.c.tags.type))


_TEXT: Final = bindparam("text", type_=TASKS.c.title.type)
_CONDITIONS: Final[dict[str, ColumnElement[bool]]] = {
    "priority": TASKS.c.priority == bindparam("wanted_priority", type_=TASKS.c.priority.type),
    "tags": _has_tags(),
    "due_before": TASKS.c.due_at < bindparam("due_before"),
    "due_after": TASKS.c.due_at > bindparam("due_after"),
    "text": or_(folded("title", TASKS.c).like(_TEXT), folded("description", TASKS.c).like(_TEXT)),
    "ids": TASKS.c.id == func.any(bindparam("ids", type_=ARRAY(TASKS.c.id.type))),
}


class Shape(NamedTuple):
    """The part of a filter that determines the SQL. The rest are parameters."""

    completed: bool | None
    names: frozenset[str]


def shape_of(wanted: TaskFilter) -> Shape:
    is_set = {"ids": wanted.ids is not None}
    names = (name for name in _CONDITIONS if is_set.get(name, getattr(wanted, name)))
    return Shape(wanted.completed, frozenset(names))


def conditions(shape: Shape) -> list[ColumnElement[bool]]:
    found = [_CONDITIONS[name] for name in sorted(shape.names)]
    if shape.completed is not None:
        is_pending = TASKS.c.completed_at.is_(None)
        found.append(~is_pending if shape.completed else is_pending)
    return found


def parameters_of(wanted: TaskFilter) -> dict[str, object]:
    """The values of the parameters of ``conditions``."""
    return {
        "wanted_priority": wanted.priority and wanted.priority.rank,
        "wanted_tags": [normalize_tag(tag) for tag in wanted.tags],
        "due_before": wanted.due_before,
        "due_after": wanted.due_after,
        "text": wanted.text and _like_pattern(fold(wanted.text)),
        "ids": None if wanted.ids is None else list(wanted.ids),
    }


def _like_pattern(text: str) -> str:
    """A LIKE pattern that finds the text anywhere, with its wildcards escaped."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
