"""Queries for lists of tasks (filter, order, page) and their results, as plain values.

``TaskFilter.matches`` and ``Sort.key`` define the result. A repository may compute it in any way
that gives the same tasks in the same order.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from todo_domain.sync import ChangeState
from todo_domain.task import Priority, Task, due_instant, fold, normalize_tag

PAGE_MAX: Final = 1000


class SortBy(StrEnum):
    CREATED_AT = "created_at"
    UPDATED_AT = "updated_at"
    TITLE = "title"
    DUE_DATE = "due_date"
    PRIORITY = "priority"
    POSITION = "position"


SortValue = datetime | str | int | None


@dataclass(frozen=True, slots=True)
class SeekPosition:
    """A position in a sorted list: the sorted field's value and the id of a task."""

    value: SortValue
    id: UUID


@dataclass(frozen=True, slots=True)
class Sort:
    """An order of tasks. The id breaks ties, in the same direction.

    Titles are compared by ``fold``, priorities by rank. Tasks without the value come last in both
    directions.
    """

    by: SortBy = SortBy.CREATED_AT
    descending: bool = True

    def position(self, task: Task) -> SeekPosition:
        """The position of the task in this order."""
        match self.by:
            case SortBy.CREATED_AT:
                return SeekPosition(task.created_at, task.id)
            case SortBy.UPDATED_AT:
                return SeekPosition(task.updated_at, task.id)
            case SortBy.TITLE:
                return SeekPosition(task.title, task.id)
            case SortBy.DUE_DATE:
                return SeekPosition(
                    None if task.due_date is None else due_instant(task.due_date), task.id
                )
            case SortBy.PRIORITY:
                return SeekPosition(task.priority and task.priority.rank, task.id)
            case SortBy.POSITION:
                return SeekPosition(task.position, task.id)

    def comparable(self, value: SortValue) -> SortValue:
        """The value as it is compared in this order."""
        return fold(value) if self.by is SortBy.TITLE and isinstance(value, str) else value

    def key(self, position: SeekPosition) -> tuple[bool, SortValue, UUID]:
        """The sort key of a position. With ``descending``, sort the keys in reverse."""
        value = position.value
        return ((value is None) != self.descending, self.comparable(value), position.id)


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """The conditions for tasks in a list. A task matches if it meets every condition that is set.

    ``tags``: the task has all of them, compared by ``normalize_tag``. ``due_before`` and
    ``due_after`` are exclusive and exclude tasks without a due date. ``text`` is found in the title
    or description, compared by ``fold``. ``ids``: the task is one of them.
    """

    completed: bool | None = None
    priority: Priority | None = None
    tags: tuple[str, ...] = ()
    due_before: datetime | None = None
    due_after: datetime | None = None
    text: str | None = None
    ids: frozenset[UUID] | None = None

    def matches(self, task: Task) -> bool:
        """Whether the task meets every condition."""
        return (
            (self.ids is None or task.id in self.ids)
            and (self.completed is None or task.completed == self.completed)
            and (self.priority is None or task.priority == self.priority)
            and set(map(normalize_tag, self.tags)) <= set(map(normalize_tag, task.tags))
            and self._is_due_between(task)
            and self._mentions(task)
        )

    def _is_due_between(self, task: Task) -> bool:
        if self.due_before is None and self.due_after is None:
            return True
        if task.due_date is None:
            return False
        due = due_instant(task.due_date)
        return (self.due_before is None or due < self.due_before) and (
            self.due_after is None or due > self.due_after
        )

    def _mentions(self, task: Task) -> bool:
        if self.text is None:
            return True
        text = fold(self.text)
        return text in fold(task.title) or text in fold(task.description or "")


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """A query for one page: at most ``limit`` tasks (1 to PAGE_MAX) that follow ``after``.

    ``with_total`` requests the number of all matches, which may cost as much as reading them.
    ``unless_change`` is the last change number that the client knows: if it is still the last one,
    the page is left out.
    """

    filter: TaskFilter = TaskFilter()
    sort: Sort = Sort()
    limit: int = PAGE_MAX
    after: SeekPosition | None = None
    with_total: bool = False
    unless_change: int | None = None


@dataclass(frozen=True, slots=True)
class TaskPage:
    """The tasks of one page in order, and the state in which they were read.

    ``total`` is the number of all matches, None if unknown. The page was not read, and is empty, if
    the last change number of the state is the query's ``unless_change``.
    """

    tasks: tuple[Task, ...]
    has_more: bool
    total: int | None
    state: ChangeState


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """How many tasks a user has."""

    pending: int
    completed: int

    @property
    def total(self) -> int:
        return self.pending + self.completed
