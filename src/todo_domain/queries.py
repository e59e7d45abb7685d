"""What a list of tasks asks for (filter, order, page) and what it gets, as plain values.

``TaskFilter.matches`` and ``Sort.key`` define what each question means; a repository may answer
it in any way that gives the same tasks in the same order.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from todo_domain.task import Priority, Task, due_instant

PAGE_MAX: Final = 1000


class SortBy(StrEnum):
    CREATED_AT = "created_at"
    UPDATED_AT = "updated_at"
    TITLE = "title"
    DUE_DATE = "due_date"
    PRIORITY = "priority"


SortValue = datetime | str | int | None


@dataclass(frozen=True, slots=True)
class SeekPosition:
    """A place in a sorted list: where a task with this value of the sorted field and this id is."""

    value: SortValue
    id: UUID


@dataclass(frozen=True, slots=True)
class Sort:
    """An order of tasks, made total by the id in the same direction.

    Titles compare without regard to case, priorities by rank; tasks that lack the value come last
    in both directions.
    """

    by: SortBy = SortBy.CREATED_AT
    descending: bool = True

    def position(self, task: Task) -> SeekPosition:
        """Where the task stands in this order."""
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

    def key(self, position: SeekPosition) -> tuple[bool, SortValue, UUID]:
        """What positions compare by: ascending keys ascending, descending keys descending."""
        value = position.value
        comparable = value.lower() if isinstance(value, str) else value
        return ((value is None) != self.descending, comparable, position.id)


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks are wanted; every part that is set must hold.

    ``tags`` must all be on the task. The due bounds are exclusive, and a task without a due date is
    within none. ``text`` is looked for in title and description without regard to case.
    """

    completed: bool | None = None
    priority: Priority | None = None
    tags: tuple[str, ...] = ()
    due_before: datetime | None = None
    due_after: datetime | None = None
    text: str | None = None

    def matches(self, task: Task) -> bool:
        """Whether the task is among the wanted ones."""
        return (
            (self.completed is None or task.completed == self.completed)
            and (self.priority is None or task.priority == self.priority)
            and set(self.tags) <= set(task.tags)
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
        text = self.text.lower()
        return text in task.title.lower() or text in (task.description or "").lower()


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """One page of an owner's tasks: at most ``limit`` (1 to PAGE_MAX) of them, from ``after`` on.

    ``with_total`` asks for the number of all that match, which may cost as much as reading them.
    """

    filter: TaskFilter = TaskFilter()
    sort: Sort = Sort()
    limit: int = PAGE_MAX
    after: SeekPosition | None = None
    with_total: bool = False


@dataclass(frozen=True, slots=True)
class TaskPage:
    """The tasks of a page in order, whether more follow, and how many match if that is known."""

    tasks: tuple[Task, ...]
    has_more: bool
    total: int | None


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """How many tasks a user has."""

    pending: int
    completed: int

    @property
    def total(self) -> int:
        return self.pending + self.completed
