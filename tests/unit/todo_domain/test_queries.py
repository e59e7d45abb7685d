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
from todo_domain.sync import ChangeState, Epoch
from todo_domain.task import Priority, Task

NOON = datetime(2026, 1, 20, 12, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)


def in_order(sort: Sort, tasks: Sequence[Task]) -> list[Task]:
    return sorted(tasks, key=lambda task: sort.key(sort.position(task)), reverse=sort.descending)


STATE = ChangeState(Epoch("one", None), last=0)


class TestSort:
    def test_is_newest_first_by_default(self) -> None:
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
            (SortBy.POSITION, Members(position="Z"), Members(position="a")),
            (SortBy.POSITION, Members(position="a"), Members(position="a1")),
        ],
    )
    def test_puts_a_smaller_value_before_a_greater_one(
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
            (SortBy.POSITION, Members(position="z")),
        ],
    )
    def test_puts_tasks_without_the_value_last(
        self, by: SortBy, present: Members, *, descending: bool
    ) -> None:
        without, with_value = a_task(), a_task(**present)
        order = in_order(Sort(by, descending=descending), [without, with_value])
        assert order == [with_value, without]

    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("by", SortBy)
    def test_breaks_ties_by_id_in_the_same_direction(self, by: SortBy, *, descending: bool) -> None:
        tasks = sorted((a_task() for _ in range(5)), key=lambda task: task.id, reverse=descending)
        assert in_order(Sort(by, descending=descending), tasks[::-1]) == tasks


class TestQuery:
    def test_has_the_documented_sort_fields(self) -> None:
        documented = ["created_at", "updated_at", "title", "due_date", "priority", "position"]
        assert list(SortBy) == documented

    def test_has_a_page_of_at_most_a_thousand_tasks(self) -> None:
        assert (TaskQuery().limit, PAGE_MAX) == (1000, 1000)

    @pytest.mark.parametrize(
        "value",
        [
            *(TaskQuery(), Sort(), TaskFilter(), Sort().position(a_task()), a_task()),
            *(
                TaskPage((), has_more=False, total=0, state=STATE),
                TaskCounts(pending=0, completed=0),
            ),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_and_its_parts_and_results_are_immutable(
        self, value: TaskQuery | Sort | TaskFilter | SeekPosition | Task | TaskPage | TaskCounts
    ) -> None:
        for member in fields(value):
            with pytest.raises(FrozenInstanceError):
                setattr(value, member.name, None)


class TestFilter:
    def test_without_conditions_matches_everything(self) -> None:
        assert TaskFilter().matches(a_task())

    def test_by_completion_matches_pending_or_completed_tasks(self) -> None:
        pending, completed = a_task(), a_task(completed_at=NOW)
        assert TaskFilter(completed=True).matches(completed)
        assert TaskFilter(completed=False).matches(pending)
        assert not TaskFilter(completed=True).matches(pending)
        assert not TaskFilter(completed=False).matches(completed)

    def test_by_priority_does_not_match_tasks_without_one(self) -> None:
        wanted = TaskFilter(priority=Priority.LOW)
        assert wanted.matches(a_task(priority=Priority.LOW))
        assert not wanted.matches(a_task(priority=Priority.HIGH))
        assert not wanted.matches(a_task())

    def test_by_tags_matches_tasks_that_have_them_all(self) -> None:
        wanted = TaskFilter(tags=("home", "work"))
        assert wanted.matches(a_task(tags=("work", "urgent", "home")))
        assert not wanted.matches(a_task(tags=("work",)))

    def test_by_tag_is_case_sensitive(self) -> None:
        assert not TaskFilter(tags=("Home",)).matches(a_task(tags=("home",)))

    def test_by_due_date_excludes_the_bounds(self) -> None:
        task = a_task(due_date=NOON)
        assert TaskFilter(due_after=NOON - INSTANT, due_before=NOON + INSTANT).matches(task)
        assert not TaskFilter(due_after=NOON).matches(task)
        assert not TaskFilter(due_before=NOON).matches(task)

    def test_by_due_date_compares_a_date_by_its_midnight(self) -> None:
        midnight = datetime(2026, 1, 20, tzinfo=UTC)
        task = a_task(due_date=midnight.date())
        assert TaskFilter(due_after=midnight - INSTANT).matches(task)
        assert not TaskFilter(due_after=midnight).matches(task)

    def test_by_due_date_does_not_match_tasks_without_one(self) -> None:
        assert not TaskFilter(due_before=NOON).matches(a_task())
        assert not TaskFilter(due_after=NOON).matches(a_task())

    @pytest.mark.parametrize("text", ["MILK", "y m", "école", "É", "100%"])
    def test_by_text_finds_it_in_title_and_description_in_any_case(self, text: str) -> None:
        titled = a_task(title="Buy milk for the ÉCOLE, 100%")
        described = a_task(title="-", description="buy MILK\nfor the école, 100%")
        assert TaskFilter(text=text).matches(titled)
        assert TaskFilter(text=text).matches(described)
        assert not TaskFilter(text=text).matches(a_task(title="-"))

    @pytest.mark.parametrize("text", ["none", "x", "-"])
    def test_by_text_does_not_find_text_in_a_missing_description(self, text: str) -> None:
        assert not TaskFilter(text=text).matches(a_task(description=None))

    def test_matches_tasks_that_meet_every_condition(self) -> None:
        wanted = TaskFilter(completed=False, priority=Priority.LOW, text="milk")
        assert wanted.matches(a_task(priority=Priority.LOW))
        assert not wanted.matches(a_task(priority=Priority.LOW, completed_at=NOW))
        assert not wanted.matches(a_task(priority=Priority.LOW, title="Buy bread"))
