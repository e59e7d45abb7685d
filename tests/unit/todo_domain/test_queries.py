from collections.abc import Sequence
from dataclasses import FrozenInstanceError, fields
from datetime import UTC, date, datetime, timedelta

import pytest

from support.tasks import LATER, NOW, Members, a_task
from todo_domain.queries import (
    PAGE_MAX,
    SeekPosition,
    Sort,
    SortBy,
    TaskCounts,
    TaskFilter,
    TaskPage,
    TaskQuery,
)
from todo_domain.task import Priority, Task

NOON = datetime(2026, 1, 20, 12, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)


def in_order(sort: Sort, tasks: Sequence[Task]) -> list[Task]:
    return sorted(tasks, key=lambda task: sort.key(sort.position(task)), reverse=sort.descending)


class TestSort:
    def test_is_newest_first_unless_asked_otherwise(self) -> None:
        old, new = a_task(), a_task(created_at=LATER)
        assert in_order(TaskQuery().sort, [old, new]) == [new, old]

    @pytest.mark.parametrize(
        ("by", "smaller", "greater"),
        [
            (SortBy.CREATED_AT, Members(created_at=NOW), Members(created_at=NOW + INSTANT)),
            (SortBy.UPDATED_AT, Members(updated_at=NOW), Members(updated_at=NOW + INSTANT)),
            (SortBy.TITLE, Members(title="apple"), Members(title="Banana")),
            (SortBy.TITLE, Members(title="École"), Members(title="énorme")),
            (SortBy.TITLE, Members(title="_z"), Members(title="A")),
            (SortBy.DUE_DATE, Members(due_date=date(2026, 1, 20)), Members(due_date=NOON)),
            (SortBy.PRIORITY, Members(priority=Priority.LOW), Members(priority=Priority.MEDIUM)),
            (SortBy.PRIORITY, Members(priority=Priority.MEDIUM), Members(priority=Priority.HIGH)),
        ],
    )
    def test_compares_values_as_people_mean(
        self, by: SortBy, smaller: Members, greater: Members
    ) -> None:
        tasks = [a_task(**smaller), a_task(**greater)]
        assert in_order(Sort(by, descending=False), tasks[::-1]) == tasks
        assert in_order(Sort(by, descending=True), tasks) == tasks[::-1]

    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize(
        ("by", "present"),
        [
            (SortBy.DUE_DATE, Members(due_date=NOON)),
            (SortBy.PRIORITY, Members(priority=Priority.LOW)),
        ],
    )
    def test_puts_tasks_that_lack_the_value_last(
        self, by: SortBy, present: Members, *, descending: bool
    ) -> None:
        lacking, having = a_task(), a_task(**present)
        assert in_order(Sort(by, descending=descending), [lacking, having]) == [having, lacking]

    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("by", SortBy)
    def test_breaks_ties_by_id_in_its_own_direction(self, by: SortBy, *, descending: bool) -> None:
        tasks = sorted((a_task() for _ in range(5)), key=lambda task: task.id, reverse=descending)
        assert in_order(Sort(by, descending=descending), tasks[::-1]) == tasks


class TestQuery:
    def test_names_what_it_sorts_by_as_is_promised(self) -> None:
        assert list(SortBy) == ["created_at", "updated_at", "title", "due_date", "priority"]

    def test_asks_for_a_thousand_tasks_at_most(self) -> None:
        assert (TaskQuery().limit, PAGE_MAX) == (1000, 1000)

    @pytest.mark.parametrize(
        "value",
        [
            *(TaskQuery(), Sort(), TaskFilter(), Sort().position(a_task()), a_task()),
            *(TaskPage((), has_more=False, total=0), TaskCounts(pending=0, completed=0)),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_and_all_it_is_about_are_values_that_nobody_alters(
        self, value: TaskQuery | Sort | TaskFilter | SeekPosition | Task | TaskPage | TaskCounts
    ) -> None:
        for member in fields(value):
            with pytest.raises(FrozenInstanceError):
                setattr(value, member.name, None)


class TestFilter:
    def test_that_asks_for_nothing_matches_everything(self) -> None:
        assert TaskFilter().matches(a_task())

    def test_tells_completed_from_pending(self) -> None:
        pending, completed = a_task(), a_task(completed_at=NOW)
        assert TaskFilter(completed=True).matches(completed)
        assert TaskFilter(completed=False).matches(pending)
        assert not TaskFilter(completed=True).matches(pending)
        assert not TaskFilter(completed=False).matches(completed)

    def test_by_priority_passes_over_tasks_without_one(self) -> None:
        wanted = TaskFilter(priority=Priority.LOW)
        assert wanted.matches(a_task(priority=Priority.LOW))
        assert not wanted.matches(a_task(priority=Priority.HIGH))
        assert not wanted.matches(a_task())

    def test_by_tags_wants_every_one_of_them(self) -> None:
        wanted = TaskFilter(tags=("home", "work"))
        assert wanted.matches(a_task(tags=("work", "urgent", "home")))
        assert not wanted.matches(a_task(tags=("work",)))

    def test_by_tag_takes_case_seriously(self) -> None:
        assert not TaskFilter(tags=("Home",)).matches(a_task(tags=("home",)))

    def test_by_due_bounds_leaves_the_bounds_out(self) -> None:
        task = a_task(due_date=NOON)
        assert TaskFilter(due_after=NOON - INSTANT, due_before=NOON + INSTANT).matches(task)
        assert not TaskFilter(due_after=NOON).matches(task)
        assert not TaskFilter(due_before=NOON).matches(task)

    def test_by_due_bounds_takes_a_date_as_its_midnight(self) -> None:
        midnight = datetime(2026, 1, 20, tzinfo=UTC)
        task = a_task(due_date=midnight.date())
        assert TaskFilter(due_after=midnight - INSTANT).matches(task)
        assert not TaskFilter(due_after=midnight).matches(task)

    def test_by_due_bounds_never_finds_a_task_without_a_due_date(self) -> None:
        assert not TaskFilter(due_before=NOON).matches(a_task())
        assert not TaskFilter(due_after=NOON).matches(a_task())

    @pytest.mark.parametrize("text", ["MILK", "y m", "école", "É", "100%"])
    def test_by_text_looks_into_title_and_description_without_regard_to_case(
        self, text: str
    ) -> None:
        titled = a_task(title="Buy milk for the ÉCOLE, 100%")
        described = a_task(title="-", description="buy MILK\nfor the école, 100%")
        assert TaskFilter(text=text).matches(titled)
        assert TaskFilter(text=text).matches(described)
        assert not TaskFilter(text=text).matches(a_task(title="-"))

    @pytest.mark.parametrize("text", ["none", "x", "-"])
    def test_by_text_finds_nothing_where_no_description_is(self, text: str) -> None:
        assert not TaskFilter(text=text).matches(a_task(description=None))

    def test_wants_all_of_its_parts_to_hold(self) -> None:
        wanted = TaskFilter(completed=False, priority=Priority.LOW, text="milk")
        assert wanted.matches(a_task(priority=Priority.LOW))
        assert not wanted.matches(a_task(priority=Priority.LOW, completed_at=NOW))
        assert not wanted.matches(a_task(priority=Priority.LOW, title="Buy bread"))
