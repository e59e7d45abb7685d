"""Contract suites: what every implementation of a port must do.

A subclass named ``Test…`` provides the fixtures that the docstring of its suite names.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import chain, product
from random import Random
from typing import Final
from uuid import UUID, uuid4

import pytest

from batch_contract import BatchContract
from support.tasks import (
    COMPLETED,
    HOSTILE_TEXTS,
    LATER,
    NOW,
    Members,
    a_repeating_task,
    a_task,
    mixed_tasks,
)
from todo_api.rate_limits import RateLimiter
from todo_domain.batch import Batch, ChangeTask, CreateTask, StoredTask
from todo_domain.errors import (
    AuthKeysUnavailable,
    EditConflict,
    IdempotencyKeyReused,
    InvalidTask,
    StaleVersion,
    TaskIdTaken,
    TaskNotDeleted,
    TaskNotFound,
    TokenRejected,
)
from todo_domain.ownership import Principal
from todo_domain.ports import KEY_LIFETIME, RETENTION, TaskRepository, TokenVerifier
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
from todo_domain.repeat import CountedFrom, Repeat, Unit, Weekday
from todo_domain.sync import Change, FeedEntry, FeedPosition, SyncToken
from todo_domain.task import (
    DESCRIPTION_MAX,
    TAG_MAX,
    TAGS_MAX,
    TITLE_MAX,
    Priority,
    Task,
    TaskChanges,
)
from todo_domain.use_cases import change_task, complete_task, list_changes, toggle_task
from user_data_contract import UserDataContract

LOST_RACE: Final = (
    StaleVersion,
    TaskNotFound,
    TaskNotDeleted,
    TaskIdTaken,
    IdempotencyKeyReused,
    EditConflict,
)
MAX_PAGES: Final = 100  # more than any list here has
INSTANT: Final = timedelta(microseconds=1)
MIDNIGHT: Final = datetime(2026, 1, 20, tzinfo=UTC)

EVERY_SORT: Final = [Sort(by, descending) for by, descending in product(SortBy, (False, True))]
every_sort = pytest.mark.parametrize(
    "sort", EVERY_SORT, ids=lambda sort: f"{sort.by} {'desc' if sort.descending else 'asc'}"
)

EVERY_FILTER: Final = [
    TaskFilter(completed, priority, tags, before, after, text)
    for completed, priority, tags, before, after, text in product(
        (None, False, True),
        (None, Priority.LOW, Priority.HIGH),
        ((), ("home",), ("home", "work")),
        (None, MIDNIGHT, MIDNIGHT + INSTANT),
        (None, MIDNIGHT - INSTANT, MIDNIGHT),
        (None, "milk", "é"),
    )
]

# The content of a task, and contents that differ from it in one member each.
CONTENT: Final[Members] = {
    "title": "Buy milk",
    "description": "2 litres",
    "priority": Priority.LOW,
    "due_date": date(2026, 1, 20),
    "tags": ("home", "food"),
    "position": "a1",
    "time_zone": "Europe/Paris",
    "completed_at": NOW,
}
OTHER_CONTENT: Final[dict[str, Members]] = {
    "title": {"title": "buy milk"},
    "description": {"description": ""},
    "no description": {"description": None},
    "priority": {"priority": None},
    "due date": {"due_date": None},
    "due time": {"due_date": MIDNIGHT},
    "tags": {"tags": ("food", "home")},
    "position": {"position": "A1"},
    "no position": {"position": None},
    "repetition": {"repeat": Repeat(Unit.DAY)},
    "time zone": {"time_zone": "Europe/London"},
    "completion": {"completed_at": None},
}

# Each member alone, set and cleared, and several at once. Some do not alter a task with CONTENT.
EVERY_CHANGE: Final[list[TaskChanges]] = [
    {},
    {"title": "Buy milk"},
    {"title": " Buy oat milk "},
    {"description": "2 litres"},
    {"description": ""},
    {"description": None},
    {"completed": True},
    {"completed": False},
    {"priority": Priority.LOW},
    {"priority": Priority.HIGH},
    {"priority": None},
    {"due_date": date(2026, 1, 20)},
    {"due_date": MIDNIGHT},
    {"due_date": datetime.max.replace(tzinfo=UTC)},
    {"due_date": None},
    {"tags": ["home", "food"]},
    {"tags": [" food ", "home", "food"]},
    {"tags": []},
    {"position": "a1"},
    {"position": "A1"},
    {"position": None},
    {"repeat": None},
    {"time_zone": "Europe/Paris"},
    {"time_zone": "America/Argentina/Ushuaia"},
    {"time_zone": None},
    {"title": "Buy milk", "completed": True},
    {"title": "x", "completed": False},
    {
        "title": "x",
        "description": "y",
        "completed": True,
        "priority": Priority.HIGH,
        "due_date": MIDNIGHT + INSTANT,
        "tags": ["z"],
        "position": "z",
        "repeat": None,
        "time_zone": "UTC",
    },
]

OnTask = Callable[[TaskRepository, Task], Awaitable[object]]
MEANWHILE: Final[dict[str, OnTask]] = {
    "a read": lambda tasks, task: tasks.get("ada", task.id),
    "a change": lambda tasks, task: tasks.save(task.changed(LATER, title="x", tags=[])),
    "a completion": lambda tasks, task: tasks.change(
        "ada", task.id, completed=not task.completed, now=LATER
    ),
    "a delete": lambda tasks, task: tasks.delete("ada", task.id, now=LATER),
}

# Calls that find a live task and do not find a deleted one.
CALLS_ON_LIVE_TASKS: Final[dict[str, OnTask]] = {
    "get": lambda tasks, task: tasks.get("ada", task.id),
    "save": lambda tasks, task: tasks.save(task.changed(LATER, title="undeleted")),
    "complete": lambda tasks, task: tasks.change("ada", task.id, completed=True, now=LATER),
    "reopen": lambda tasks, task: tasks.change("ada", task.id, completed=False, now=LATER),
    "delete": lambda tasks, task: tasks.delete("ada", task.id, now=LATER),
    "delete a version": lambda tasks, task: tasks.delete(
        "ada", task.id, now=LATER, version=task.version
    ),
}


# Changes of a repeating task that a repository cannot apply without its series.
SERIES_CHANGES: Final[list[TaskChanges]] = [
    {"completed": True},
    {"completed": False},
    {"due_date": None},
    {"due_date": MIDNIGHT, "time_zone": "UTC"},
    {"repeat": None},
    {"repeat": Repeat(Unit.YEAR)},
    {"time_zone": "UTC", "title": "x"},
]


class TaskRepositoryContract(BatchContract, UserDataContract):
    """A todo_domain.ports.TaskRepository. Fixture: ``tasks``, an empty repository."""

    # --- Adding and getting ---

    async def test_an_added_task_is_returned_as_it_was(self, tasks: TaskRepository) -> None:
        task = Task(
            id=uuid4(),
            owner="ada",
            title="Buy milk",
            description="2 litres",
            priority=Priority.HIGH,
            due_date=date(2026, 1, 20),
            tags=("work", "home"),
            position="a1",
            repeat=Repeat(
                Unit.WEEK,
                2,
                (Weekday.MON, Weekday.SUN),
                CountedFrom.COMPLETION,
                date(2027, 1, 1),
            ),
            time_zone="Europe/Paris",
            anchor=datetime(2026, 1, 18, 2, 30),  # noqa: DTZ001 - local
            next_id=uuid4(),
            created_at=NOW + INSTANT,
            updated_at=NOW + 2 * INSTANT,
            completed_at=NOW + 3 * INSTANT,
            version=7,
        )
        await tasks.add(task)
        assert await tasks.get("ada", task.id) == task

    async def test_members_that_are_not_set_stay_unset(self, tasks: TaskRepository) -> None:
        task = a_task(description=None, priority=None, due_date=None, tags=(), position=None)
        await tasks.add(task)
        assert await tasks.get("ada", task.id) == task

    @pytest.mark.parametrize("text", HOSTILE_TEXTS)
    async def test_any_text_is_kept_exactly(self, tasks: TaskRepository, text: str) -> None:
        task = a_task(owner=text, title=text, description=f" {text}\n", tags=(text[:TAG_MAX],))
        await tasks.add(task)
        assert await tasks.get(text, task.id) == task
        assert (await tasks.find(text, TaskQuery())).tasks == (task,)

    async def test_texts_of_the_maximal_length_are_kept(self, tasks: TaskRepository) -> None:
        task = a_task(
            title="😀" * TITLE_MAX,
            description="é\n" * (DESCRIPTION_MAX // 2),
            tags=tuple(f"{number:02}".ljust(TAG_MAX, "😀") for number in range(TAGS_MAX)),
        )
        await tasks.add(task)
        assert await tasks.get("ada", task.id) == task

    @pytest.mark.parametrize("priority", [None, *Priority])
    async def test_every_priority_is_kept(
        self, tasks: TaskRepository, priority: Priority | None
    ) -> None:
        task = a_task(priority=priority)
        await tasks.add(task)
        assert await tasks.get("ada", task.id) == task

    @pytest.mark.parametrize(
        "due",
        [
            date(2026, 1, 20),
            MIDNIGHT,
            MIDNIGHT + INSTANT,
            date.min,
            date.max,
            datetime.min.replace(tzinfo=UTC),
            datetime.max.replace(tzinfo=UTC),
        ],
        ids=repr,
    )
    async def test_a_due_date_stays_a_date_and_a_date_time_a_date_time(
        self, tasks: TaskRepository, due: date | datetime
    ) -> None:
        task = a_task(due_date=due)
        await tasks.add(task)
        stored = await tasks.get("ada", task.id)
        assert (stored.due_date, type(stored.due_date)) == (due, type(due))

    async def test_the_first_tasks_of_a_user_can_be_added_concurrently(
        self, tasks: TaskRepository
    ) -> None:
        new = [a_task() for _ in range(10)]
        await asyncio.gather(*(tasks.add(task) for task in new))
        assert set((await tasks.find("ada", TaskQuery())).tasks) == set(new)

    async def test_a_task_that_was_never_added_is_not_found(self, tasks: TaskRepository) -> None:
        with pytest.raises(TaskNotFound):
            await tasks.get("ada", uuid4())

    # --- Ownership ---

    async def test_a_task_of_another_user_is_not_found(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task())
        with pytest.raises(TaskNotFound):
            await tasks.get("eve", task.id)

    async def test_tasks_of_another_user_are_neither_listed_nor_counted(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        await added(tasks, a_task(owner="eve"))
        for query in (TaskQuery(), TaskQuery(with_total=True)):
            assert result_of(await tasks.find("ada", query)) == ((task,), False, 1)

    async def test_a_task_of_another_user_cannot_be_saved(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task())
        with pytest.raises(StaleVersion):
            await tasks.save(replace(task.changed(LATER, title="Mine"), owner="eve"))
        assert await tasks.get("ada", task.id) == task

    async def test_a_task_of_another_user_cannot_be_changed(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task())
        with pytest.raises(TaskNotFound):
            await tasks.change("eve", task.id, title="mine", completed=True, now=LATER)
        assert await tasks.get("ada", task.id) == task

    async def test_a_task_of_another_user_cannot_be_deleted(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task())
        with pytest.raises(TaskNotFound):
            await tasks.delete("eve", task.id, now=NOW)
        assert await tasks.get("ada", task.id) == task

    @pytest.mark.parametrize("lookalike", ["Ada", "ada ", "", "ad_", "ad%"])
    async def test_an_owner_is_compared_exactly(
        self, tasks: TaskRepository, lookalike: str
    ) -> None:
        task = await added(tasks, a_task())
        with pytest.raises(TaskNotFound):
            await tasks.get(lookalike, task.id)
        assert (await tasks.find(lookalike, TaskQuery())).tasks == ()

    # --- Lists ---

    @every_sort
    async def test_pages_of_any_size_have_each_task_once_and_in_order(
        self, tasks: TaskRepository, sort: Sort
    ) -> None:
        expected = ordered(sort, await all_added(tasks, mixed_tasks()))
        await all_added(tasks, mixed_tasks("eve"))
        for limit in (1, 2, 3, 7, len(expected), PAGE_MAX):
            pages = [page async for page in walk(tasks, TaskQuery(sort=sort, limit=limit))]
            assert [task for page in pages for task in page.tasks] == expected
            assert all(len(page.tasks) == limit for page in pages[:-1])

    @every_sort
    async def test_pages_have_each_remaining_task_once_while_others_are_added_and_deleted(
        self, tasks: TaskRepository, sort: Sort
    ) -> None:
        everything = ordered(sort, mixed_tasks())
        initial, newcomers = everything[::2], everything[1::2]
        await all_added(tasks, initial[::-1])
        listed: list[Task] = []
        async for page in walk(tasks, TaskQuery(sort=sort, limit=2)):
            listed += page.tasks
            # The next page starts after a task that is deleted now.
            await tasks.delete("ada", page.tasks[-1].id, now=NOW)
            if len(newcomers) > 1:
                await all_added(tasks, [newcomers.pop(0), newcomers.pop()])
        assert [task for task in listed if task in initial] == initial
        assert listed == ordered(sort, set(listed))

    @pytest.mark.parametrize("descending", [False, True])
    async def test_titles_are_ordered_by_the_code_points_of_their_lower_case(
        self, tasks: TaskRepository, *, descending: bool
    ) -> None:
        expected = [a_task(title=title) for title in ("1", "Z_", "zA", "É", "ω")]
        await all_added(tasks, expected[::-1])
        page = await tasks.find("ada", TaskQuery(sort=Sort(SortBy.TITLE, descending)))
        assert list(page.tasks) == (expected[::-1] if descending else expected)

    @pytest.mark.parametrize("descending", [False, True])
    async def test_positions_are_ordered_by_their_bytes_and_tasks_without_one_are_last(
        self, tasks: TaskRepository, *, descending: bool
    ) -> None:
        expected = [a_task(position=position) for position in ("1", "Z", "a", "a1", "aA", "b")]
        (unplaced,) = await all_added(tasks, [a_task()])
        await all_added(tasks, expected[::-1])
        page = await tasks.find("ada", TaskQuery(sort=Sort(SortBy.POSITION, descending)))
        assert list(page.tasks) == [*(expected[::-1] if descending else expected), unplaced]

    @every_sort
    async def test_a_page_can_start_at_a_position_without_a_task(
        self, tasks: TaskRepository, sort: Sort
    ) -> None:
        expected = ordered(sort, await all_added(tasks, mixed_tasks()))
        for task in (expected[0], expected[-1]):
            for position in (replace(sort.position(task), id=uuid4()) for _ in range(3)):
                page = await tasks.find("ada", TaskQuery(sort=sort, after=position))
                assert list(page.tasks) == [t for t in expected if follows(sort, t, position)]

    async def test_every_combination_of_filters_returns_the_tasks_that_match(
        self, tasks: TaskRepository
    ) -> None:
        everything = ordered(Sort(), await all_added(tasks, mixed_tasks()))
        for wanted in EVERY_FILTER:
            page = await tasks.find("ada", TaskQuery(wanted))
            assert page.tasks == tuple(filter(wanted.matches, everything)), wanted

    @every_sort
    async def test_pages_of_a_filtered_list_have_each_match_once_and_in_order(
        self, tasks: TaskRepository, sort: Sort
    ) -> None:
        stored = await all_added(tasks, mixed_tasks())
        for wanted in EVERY_FILTER[::40]:
            query = TaskQuery(wanted, sort, limit=2, with_total=True)
            expected = ordered(sort, filter(wanted.matches, stored))
            pages = [page async for page in walk(tasks, query)]
            assert [task for page in pages for task in page.tasks] == expected
            assert {page.total for page in pages} == {len(expected)}

    # Without characters whose lower case has several characters or depends on the context (İ, ß,
    # final ς): Python and a database may differ there, and both results are acceptable.
    @pytest.mark.parametrize(
        ("text", "title"),
        [
            ("MILK", "Buy milk"),
            ("école", "ÉCOLE"),
            ("ÉCOLE", "l'école buissonnière"),
            ("молоко", "Купить МОЛОКО"),
            ("ωμέγα", "ΩΜΈΓΑ"),
            ("%", "100% sure"),
            ("_", "snake_case"),
            ("\\", "C:\\temp"),
            ("\\%", "100\\% sure"),
            ("'; --", "Robert'; --"),
            ("👩‍👩", "the 👩‍👩‍👧‍👦 family"),
            ("a\nb", "a\nb"),
        ],
    )
    async def test_text_is_found_literally_in_title_and_description_in_any_case(
        self, tasks: TaskRepository, text: str, title: str
    ) -> None:
        titled, described = a_task(title=title), a_task(title="-", description=f"- {title} -")
        await all_added(tasks, [titled, described, a_task(title="No match, but $ and x")])
        found = await tasks.find("ada", TaskQuery(TaskFilter(text=text)))
        assert set(found.tasks) == {titled, described}

    async def test_a_page_with_every_match_has_the_total(self, tasks: TaskRepository) -> None:
        await all_added(tasks, [a_task(), a_task(), a_task(completed_at=NOW)])
        query = TaskQuery(TaskFilter(completed=False), limit=2)
        page = await tasks.find("ada", query)
        assert (page.has_more, page.total) == (False, 2)

    async def test_an_incomplete_page_has_no_total_by_default(self, tasks: TaskRepository) -> None:
        await all_added(tasks, [a_task(), a_task()])
        page = await tasks.find("ada", TaskQuery(limit=1))
        assert (page.has_more, page.total) == (True, None)

    async def test_every_page_has_the_total_on_request(self, tasks: TaskRepository) -> None:
        await all_added(tasks, [a_task() for _ in range(5)])
        pages = [page async for page in walk(tasks, TaskQuery(limit=2, with_total=True))]
        assert [(len(page.tasks), page.has_more, page.total) for page in pages] == [
            (2, True, 5),
            (2, True, 5),
            (1, False, 5),
        ]

    async def test_an_empty_page_after_the_last_has_the_total_on_request(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        query = TaskQuery(after=Sort().position(task), with_total=True)
        assert result_of(await tasks.find("ada", query)) == ((), False, 1)

    async def test_an_empty_list_is_a_page_without_tasks(self, tasks: TaskRepository) -> None:
        for query in (TaskQuery(), TaskQuery(with_total=True)):
            assert result_of(await tasks.find("ada", query)) == ((), False, 0)

    async def test_a_page_with_as_many_tasks_as_its_limit_can_be_the_last(
        self, tasks: TaskRepository
    ) -> None:
        await all_added(tasks, [a_task(), a_task()])
        assert not (await tasks.find("ada", TaskQuery(limit=2))).has_more

    # --- Saving ---

    async def test_a_saved_change_replaces_the_task(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task(priority=Priority.LOW, due_date=MIDNIGHT, tags=("a",)))
        changed = task.changed(
            LATER,
            title="Buy oat milk",
            description="\\N",
            completed=True,
            priority=None,
            due_date=date(2026, 1, 21),
            tags=["b", "a"],
            position="Z",
            repeat=Repeat(Unit.MONTH),
            time_zone="UTC",
        )
        await tasks.save(changed)
        assert await tasks.get("ada", task.id) == changed

    async def test_a_save_leaves_other_tasks_alone(self, tasks: TaskRepository) -> None:
        task, other = await all_added(tasks, [a_task(), a_task()])
        await tasks.save(task.changed(LATER, title="Buy oat milk"))
        assert await tasks.get("ada", other.id) == other

    async def test_a_stale_save_changes_nothing(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task())
        changed = task.changed(LATER, title="first")
        await tasks.save(changed)
        with pytest.raises(StaleVersion):
            await tasks.save(task.changed(LATER, title="second"))
        assert await tasks.get("ada", task.id) == changed

    async def test_a_save_that_skips_a_version_is_stale(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task())
        with pytest.raises(StaleVersion):
            await tasks.save(replace(task, title="from the future", version=3))
        assert await tasks.get("ada", task.id) == task

    async def test_a_save_of_a_deleted_task_is_stale_and_does_not_undelete_it(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        await tasks.delete("ada", task.id, now=NOW)
        with pytest.raises(StaleVersion):
            await tasks.save(task.changed(LATER, title="undeleted"))
        with pytest.raises(TaskNotFound):
            await tasks.get("ada", task.id)

    @pytest.mark.parametrize("count", [2, 10, 20])
    async def test_of_concurrent_saves_of_one_version_exactly_one_succeeds(
        self, tasks: TaskRepository, count: int
    ) -> None:
        task = await added(tasks, a_task())
        changes = [task.changed(LATER, title=f"save {number}") for number in range(count)]
        won = await successes(tasks.save(change) for change in changes)
        assert [change for change, win in zip(changes, won, strict=True) if win] == [
            await tasks.get("ada", task.id)
        ]

    # --- Changing ---

    @pytest.mark.parametrize("clock", [NOW - INSTANT, NOW, LATER], ids=["back", "same", "later"])
    @pytest.mark.parametrize("content", [{}, CONTENT], ids=["title alone", "everything"])
    @pytest.mark.parametrize("changes", EVERY_CHANGE, ids=str)
    async def test_a_change_has_the_result_of_task_changed(
        self, tasks: TaskRepository, changes: TaskChanges, content: Members, clock: datetime
    ) -> None:
        task = await added(tasks, a_task(**content))
        expected = task.changed(clock, **changes)
        assert await tasks.change("ada", task.id, now=clock, **changes) == expected
        assert await tasks.get("ada", task.id) == expected
        # The second time it alters nothing.
        assert await tasks.change("ada", task.id, now=LATER, **changes) == expected
        assert await tasks.get("ada", task.id) == expected

    async def test_a_change_that_breaks_a_rule_stores_nothing(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task())
        with pytest.raises(InvalidTask) as refused:
            await tasks.change("ada", task.id, now=LATER, title=" ", tags=[""], description="2 l")
        assert [violation.field for violation in refused.value.violations] == ["title", "tags"]
        assert await tasks.get("ada", task.id) == task

    async def test_a_change_that_breaks_a_rule_of_a_missing_task_is_refused(
        self, tasks: TaskRepository
    ) -> None:
        with pytest.raises((InvalidTask, TaskNotFound)):
            await tasks.change("ada", uuid4(), now=LATER, title="")

    async def test_a_change_leaves_other_tasks_alone(self, tasks: TaskRepository) -> None:
        task, other = await all_added(tasks, [a_task(), a_task()])
        await tasks.change("ada", task.id, completed=True, title="x", now=LATER)
        assert await tasks.get("ada", other.id) == other

    @pytest.mark.parametrize("changes", [{}, {"completed": True}, {"title": "x"}], ids=str)
    async def test_a_missing_task_cannot_be_changed(
        self, tasks: TaskRepository, changes: TaskChanges
    ) -> None:
        with pytest.raises(TaskNotFound):
            await tasks.change("ada", uuid4(), now=LATER, **changes)

    async def test_concurrent_changes_of_different_members_are_all_applied(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        changes: list[TaskChanges] = [
            {"title": "x"},
            {"description": "y"},
            {"tags": ["z"]},
            {"completed": True},
            {"priority": Priority.HIGH},
            {"due_date": MIDNIGHT},
            {"position": "a"},
        ]
        results = await asyncio.gather(
            *(tasks.change("ada", task.id, now=LATER, **each) for each in changes)
        )
        assert {result.version for result in results} == set(range(2, 2 + len(changes)))
        merged: TaskChanges = {}
        for each in changes:
            merged |= each
        all_changed = replace(task.changed(LATER, **merged), version=1 + len(changes))
        assert await tasks.get("ada", task.id) == all_changed

    async def test_of_concurrent_completions_one_is_applied_and_all_return_its_result(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        clocks = [LATER + number * INSTANT for number in range(10)]
        results = await asyncio.gather(
            *(tasks.change("ada", task.id, completed=True, now=clock) for clock in clocks)
        )
        stored = await tasks.get("ada", task.id)
        assert stored.version == 2
        assert results == [stored] * len(clocks)

    async def test_a_completion_among_concurrent_saves_is_not_lost_and_reverts_none(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        changes = [task.changed(LATER, title=f"save {number}") for number in range(10)]
        saves = [tasks.save(change) for change in changes]
        completion = tasks.change("ada", task.id, completed=True, now=LATER)
        won = await successes([*saves[:5], completion, *saves[5:]])
        stored = await tasks.get("ada", task.id)
        assert stored.completed
        assert stored.version == 1 + sum(won)
        assert stored.title.startswith("save") == (stored.version == 3)

    # --- Repeating tasks ---

    @pytest.mark.parametrize("changes", SERIES_CHANGES, ids=str)
    async def test_a_change_that_needs_a_save_leaves_the_task_as_it_is(
        self, tasks: TaskRepository, changes: TaskChanges
    ) -> None:
        task = await added(tasks, a_repeating_task())
        assert await tasks.change("ada", task.id, now=LATER, **changes) == task
        assert await feed(tasks) == [FeedEntry(1, task.id, task)]

    async def test_a_change_that_makes_a_task_repeat_leaves_it_as_it_is(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        repeat = Repeat(Unit.DAY)
        assert await tasks.change("ada", task.id, now=LATER, repeat=repeat) == task
        assert await tasks.get("ada", task.id) == task

    async def test_a_change_of_a_task_with_a_successor_leaves_it_as_it_is(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task(completed_at=NOW, next_id=uuid4()))
        assert await tasks.change("ada", task.id, now=LATER, completed=False) == task

    async def test_other_members_of_a_repeating_task_can_be_changed(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_repeating_task())
        expected = task.changed(LATER, title="x", position="a")
        assert await tasks.change("ada", task.id, now=LATER, title="x", position="a") == expected

    async def test_concurrent_completions_and_new_repetitions_lose_nothing(
        self, tasks: TaskRepository
    ) -> None:
        ada = Principal("ada", expires_at=LATER)
        stored = await all_added(tasks, [a_task(due_date=NOW.date()) for _ in range(10)])
        repeating = (
            change_task(tasks, ada, task.id, now=LATER, repeat=Repeat(Unit.DAY)) for task in stored
        )
        completing = (
            complete_task(tasks, ada, task.id, now=LATER, completed=True) for task in stored
        )
        await asyncio.gather(*chain(*zip(repeating, completing, strict=True)))
        for task in [await tasks.get("ada", task.id) for task in stored]:
            assert (task.completed, task.repeat) == (True, Repeat(Unit.DAY))
            if task.next_id is not None:
                assert (await tasks.get("ada", task.next_id)).due_date == date(2026, 1, 19)

    async def test_a_successor_is_stored_with_the_number_of_the_completion(
        self, tasks: TaskRepository
    ) -> None:
        task, completed, successor = await completed_series(tasks)
        assert await tasks.get("ada", task.id) == completed
        assert await tasks.get("ada", successor.id) == successor
        assert successor.due_date == date(2026, 1, 19)
        assert {(entry.change, entry.id) for entry in await feed(tasks)} == {
            (2, task.id),
            (2, successor.id),
        }

    async def test_a_write_of_a_task_and_its_successor_is_reported_with_its_number_alone(
        self, tasks: TaskRepository, reported: list[Change]
    ) -> None:
        _, completed, _ = await completed_series(tasks)
        await tasks.save(completed.changed(LATER, completed=False))
        assert reported[1:] == [Change("ada", 2), Change("ada", 3)]

    async def test_a_stale_completion_stores_no_successor(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_repeating_task())
        completed = task.changed(LATER, completed=True)
        changed = await tasks.change("ada", task.id, now=LATER, title="x")
        with pytest.raises(StaleVersion):
            await tasks.save(completed, successor=completed.successor())
        assert await feed(tasks) == [FeedEntry(2, task.id, changed)]

    async def test_of_concurrent_completions_one_makes_the_successor_and_all_return_it(
        self, tasks: TaskRepository
    ) -> None:
        ada = Principal("ada", expires_at=LATER)
        task = await added(tasks, a_repeating_task())
        results = await asyncio.gather(
            *(
                complete_task(tasks, ada, task.id, completed=True, now=LATER + number * INSTANT)
                for number in range(10)
            )
        )
        first = results[0]
        assert first.successor is not None
        assert results == [first] * len(results)
        assert set((await tasks.find("ada", TaskQuery())).tasks) == {first.task, first.successor}

    async def test_a_live_task_with_the_successors_id_stays_and_is_returned(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_repeating_task())
        completed = task.changed(LATER, completed=True)
        assert completed.next_id is not None
        present = await added(tasks, a_task(id=completed.next_id, version=7))
        assert await tasks.save(completed, successor=completed.successor()) == present
        assert await tasks.get("ada", present.id) == present

    async def test_reopening_deletes_the_untouched_successor_with_the_same_number(
        self, tasks: TaskRepository
    ) -> None:
        task, completed, successor = await completed_series(tasks)
        reopened = completed.changed(LATER, completed=False)
        await tasks.save(reopened)
        assert await tasks.get("ada", task.id) == replace(reopened, next_id=None)
        assert sorted(await feed(tasks, floor=0), key=lambda entry: entry.task is None) == [
            FeedEntry(3, task.id, replace(reopened, next_id=None)),
            FeedEntry(3, successor.id, None),
        ]

    @pytest.mark.parametrize("meanwhile", MEANWHILE.values(), ids=MEANWHILE)
    async def test_reopening_keeps_a_successor_that_was_changed(
        self, tasks: TaskRepository, meanwhile: OnTask
    ) -> None:
        task, completed, successor = await completed_series(tasks)
        await meanwhile(tasks, successor)
        others = [entry for entry in await feed(tasks, floor=0) if entry.id == successor.id]
        is_touched = others != [FeedEntry(2, successor.id, successor)]
        await tasks.save(completed.changed(LATER, completed=False))
        kept = [entry for entry in await feed(tasks, floor=0) if entry.id == successor.id]
        assert (kept == others) == is_touched
        next_id = successor.id if is_touched else None
        assert (await tasks.get("ada", task.id)).next_id == next_id

    async def test_reopening_keeps_a_task_that_the_completion_has_not_made(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_repeating_task())
        completed = task.changed(LATER, completed=True)
        assert completed.next_id is not None
        present = await added(tasks, a_task(id=completed.next_id))
        await tasks.save(completed, successor=completed.successor())
        await tasks.save(completed.changed(LATER, completed=False))
        assert await tasks.get("ada", present.id) == present

    async def test_a_stale_reopening_keeps_the_successor(self, tasks: TaskRepository) -> None:
        task, completed, successor = await completed_series(tasks)
        await tasks.change("ada", task.id, now=LATER, title="x")
        with pytest.raises(StaleVersion):
            await tasks.save(completed.changed(LATER, completed=False))
        assert await tasks.get("ada", successor.id) == successor

    async def test_toggling_back_and_forth_makes_one_successor(self, tasks: TaskRepository) -> None:
        ada = Principal("ada", expires_at=LATER)
        task = await added(tasks, a_repeating_task())
        for _ in range(3):
            completed = await toggle_task(tasks, ada, task.id, now=LATER)
            assert completed.successor is not None
            live = set((await tasks.find("ada", TaskQuery())).tasks)
            assert live == {completed.task, completed.successor}
            reopened = await toggle_task(tasks, ada, task.id, now=LATER + INSTANT)
            assert reopened.successor is None
            assert [each.id for each in (await tasks.find("ada", TaskQuery())).tasks] == [task.id]

    async def test_a_task_whose_successor_stayed_makes_no_other_one(
        self, tasks: TaskRepository
    ) -> None:
        ada = Principal("ada", expires_at=LATER)
        task, _, successor = await completed_series(tasks)
        changed = await tasks.change("ada", successor.id, now=LATER, title="x")
        await toggle_task(tasks, ada, task.id, now=LATER)
        much_later = LATER + timedelta(days=9)
        again = await complete_task(tasks, ada, task.id, completed=True, now=much_later)
        assert set((await tasks.find("ada", TaskQuery())).tasks) == {again.task, changed}

    async def test_concurrent_toggles_leave_one_successor_of_a_completed_task(
        self, tasks: TaskRepository
    ) -> None:
        ada = Principal("ada", expires_at=LATER)
        task = await added(tasks, a_repeating_task())
        await asyncio.gather(*(toggle_task(tasks, ada, task.id, now=LATER) for _ in range(5)))
        live = (await tasks.find("ada", TaskQuery())).tasks
        stored = await tasks.get("ada", task.id)
        expected = {task.id, stored.next_id} if stored.completed else {task.id}
        assert {each.id for each in live} == expected
        assert stored.completed

    # --- Adding with an idempotency key ---

    @pytest.mark.parametrize("key", [None, "k"])
    async def test_an_add_returns_the_task_that_it_stores(
        self, tasks: TaskRepository, key: str | None
    ) -> None:
        task = a_task(**CONTENT)
        assert await tasks.add(task, key=key) == task
        assert await tasks.get("ada", task.id) == task

    @pytest.mark.parametrize("content", [{}, CONTENT], ids=["title alone", "everything"])
    @pytest.mark.parametrize("meanwhile", MEANWHILE.values(), ids=MEANWHILE)
    async def test_a_repeated_key_returns_the_first_task_as_it_was_added(
        self, tasks: TaskRepository, meanwhile: OnTask, content: Members
    ) -> None:
        first = a_task(**content)
        await tasks.add(first, key="k")
        await meanwhile(tasks, first)
        for _ in range(2):
            assert await tasks.add(repeated(first, LATER), key="k") == first

    @pytest.mark.parametrize("meanwhile", MEANWHILE.values(), ids=MEANWHILE)
    async def test_a_repeated_key_changes_nothing(
        self, tasks: TaskRepository, meanwhile: OnTask
    ) -> None:
        first = a_task()
        await tasks.add(first, key="k")
        await meanwhile(tasks, first)
        before = await tasks.find("ada", TaskQuery())
        await tasks.add(repeated(first, LATER), key="k")
        assert await tasks.find("ada", TaskQuery()) == before

    @pytest.mark.parametrize("other", OTHER_CONTENT.values(), ids=OTHER_CONTENT)
    async def test_a_repeated_key_with_other_content_is_refused_and_stores_nothing(
        self, tasks: TaskRepository, other: Members
    ) -> None:
        first = a_task(**CONTENT)
        await tasks.add(first, key="k")
        with pytest.raises(IdempotencyKeyReused):
            await tasks.add(replace(repeated(first, LATER), **other), key="k")
        assert (await tasks.find("ada", TaskQuery())).tasks == (first,)
        assert await tasks.add(repeated(first, LATER), key="k") == first

    async def test_users_can_have_equal_keys(self, tasks: TaskRepository) -> None:
        adas, eves = a_task(), a_task(owner="eve", title="Buy oat milk")
        assert await tasks.add(adas, key="k") == adas
        assert await tasks.add(eves, key="k") == eves
        assert await tasks.get("eve", eves.id) == eves

    @pytest.mark.parametrize("lookalike", ["K", "k ", "", "%"])
    async def test_a_key_is_compared_exactly(self, tasks: TaskRepository, lookalike: str) -> None:
        await tasks.add(a_task(), key="k")
        other = a_task()
        assert await tasks.add(other, key=lookalike) == other

    async def test_a_key_of_the_maximal_length_is_compared_completely(
        self, tasks: TaskRepository
    ) -> None:
        first, other = a_task(), a_task()
        await tasks.add(first, key="x" * 255)
        assert await tasks.add(other, key="x" * 254) == other
        assert await tasks.add(repeated(first, LATER), key="x" * 255) == first

    async def test_of_concurrent_adds_with_one_key_one_stores_and_all_return_its_task(
        self, tasks: TaskRepository
    ) -> None:
        new = [repeated(a_task(), NOW + number * INSTANT) for number in range(20)]
        results = await asyncio.gather(*(tasks.add(task, key="k") for task in new))
        (stored,) = (await tasks.find("ada", TaskQuery())).tasks
        assert stored in new
        assert results == [stored] * len(new)

    async def test_of_concurrent_adds_with_one_key_and_other_content_exactly_one_succeeds(
        self, tasks: TaskRepository
    ) -> None:
        new = [a_task(title=f"task {number}") for number in range(10)]
        won = await successes(tasks.add(task, key="k") for task in new)
        assert (await tasks.find("ada", TaskQuery())).tasks == tuple(
            task for task, win in zip(new, won, strict=True) if win
        )
        assert sum(won) == 1

    async def test_a_key_is_valid_for_its_lifetime(self, tasks: TaskRepository) -> None:
        first = a_task()
        await tasks.add(first, key="k")
        assert await tasks.add(repeated(first, NOW + KEY_LIFETIME), key="k") == first
        second = replace(repeated(first, NOW + KEY_LIFETIME + INSTANT), title="Buy oat milk")
        assert await tasks.add(second, key="k") == second
        assert set((await tasks.find("ada", TaskQuery())).tasks) == {first, second}

    async def test_an_expired_key_that_is_used_again_is_valid_again(
        self, tasks: TaskRepository
    ) -> None:
        first = a_task()
        await tasks.add(first, key="k")
        second = repeated(first, NOW + 2 * KEY_LIFETIME)
        await tasks.add(second, key="k")
        assert await tasks.add(repeated(second, NOW + 3 * KEY_LIFETIME), key="k") == second
        with pytest.raises(IdempotencyKeyReused):
            await tasks.add(replace(repeated(second, second.created_at), title="x"), key="k")

    async def test_of_concurrent_adds_with_one_expired_key_one_stores_and_all_return_its_task(
        self, tasks: TaskRepository
    ) -> None:
        first = a_task()
        await tasks.add(first, key="k")
        new = [repeated(first, NOW + 2 * KEY_LIFETIME) for _ in range(10)]
        results = await asyncio.gather(*(tasks.add(task, key="k") for task in new))
        assert len((await tasks.find("ada", TaskQuery())).tasks) == 2
        assert results == [results[0]] * len(new)
        assert results[0] in new

    async def test_many_expired_keys_can_be_used_again_concurrently(
        self, tasks: TaskRepository
    ) -> None:
        keys = [f"k{number}" for number in range(10)]
        for key in keys:
            await tasks.add(a_task(), key=key)
        new = [repeated(a_task(), NOW + 2 * KEY_LIFETIME) for _ in keys]
        pairs = zip(new, keys, strict=True)
        assert await asyncio.gather(*(tasks.add(task, key=key) for task, key in pairs)) == new

    # --- Deleting ---

    async def test_a_deleted_task_is_returned_as_it_was_and_is_missing_then(
        self, tasks: TaskRepository
    ) -> None:
        task, other = await all_added(tasks, [mixed_tasks()[1], a_task()])
        assert await tasks.delete("ada", task.id, now=LATER) == task
        with pytest.raises(TaskNotFound):
            await tasks.get("ada", task.id)
        assert (await tasks.find("ada", TaskQuery())).tasks == (other,)

    @pytest.mark.parametrize("call", CALLS_ON_LIVE_TASKS.values(), ids=CALLS_ON_LIVE_TASKS)
    async def test_a_deleted_task_is_not_found_by_any_other_call(
        self, tasks: TaskRepository, call: OnTask
    ) -> None:
        task = await deleted(tasks, a_task(completed_at=NOW))
        with pytest.raises((TaskNotFound, StaleVersion)):
            await call(tasks, task)
        assert await tasks.restore("ada", task.id, now=LATER) == task

    async def test_deleted_tasks_are_neither_listed_nor_counted_nor_deleted_again(
        self, tasks: TaskRepository
    ) -> None:
        task = await deleted(tasks, a_task(completed_at=NOW))
        for wanted in (TaskFilter(), TaskFilter(completed=True), TaskFilter(text="milk")):
            page = await tasks.find("ada", TaskQuery(wanted, with_total=True))
            assert result_of(page) == ((), False, 0)
        assert await tasks.count("ada") == TaskCounts(pending=0, completed=0)
        assert await tasks.delete_matching("ada", COMPLETED, now=LATER) == ()
        assert await tasks.restore("ada", task.id, now=LATER) == task

    @pytest.mark.parametrize("call", CALLS_ON_LIVE_TASKS.values(), ids=CALLS_ON_LIVE_TASKS)
    async def test_a_live_task_is_found_by_every_call(
        self, tasks: TaskRepository, call: OnTask
    ) -> None:
        await call(tasks, await added(tasks, a_task()))

    async def test_of_concurrent_deletes_exactly_one_succeeds(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task())
        won = await successes(tasks.delete("ada", task.id, now=LATER) for _ in range(10))
        assert sum(won) == 1

    # --- Deleting a version ---

    async def test_the_stored_version_can_be_deleted(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task(version=3))
        assert await tasks.delete("ada", task.id, now=LATER, version=3) == task
        with pytest.raises(TaskNotFound):
            await tasks.get("ada", task.id)

    @pytest.mark.parametrize("version", [0, 2, 4, 999_999_999])
    async def test_a_delete_of_another_version_is_stale_and_deletes_nothing(
        self, tasks: TaskRepository, version: int
    ) -> None:
        task = await added(tasks, a_task(version=3))
        with pytest.raises(StaleVersion):
            await tasks.delete("ada", task.id, now=LATER, version=version)
        assert await tasks.get("ada", task.id) == task

    async def test_a_delete_of_a_version_of_another_users_or_an_unknown_task_is_stale(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        for owner, task_id in (("eve", task.id), ("ada", uuid4())):
            with pytest.raises(StaleVersion):
                await tasks.delete(owner, task_id, now=LATER, version=1)
        assert await tasks.get("ada", task.id) == task

    async def test_of_concurrent_saves_and_deletes_of_one_version_exactly_one_succeeds(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        saves = [tasks.save(task.changed(LATER, title=f"save {number}")) for number in range(5)]
        deletes = [tasks.delete("ada", task.id, now=LATER, version=1) for _ in range(5)]
        won = await successes([call for pair in zip(saves, deletes, strict=True) for call in pair])
        assert sum(won) == 1
        is_live = (await tasks.find("ada", TaskQuery())).tasks != ()
        assert is_live == any(won[::2])

    # --- Deleting completed tasks ---

    async def test_all_completed_tasks_and_no_others_are_deleted_and_counted(
        self, tasks: TaskRepository
    ) -> None:
        stored = await all_added(tasks, mixed_tasks())
        eves = await all_added(tasks, mixed_tasks("eve"))
        completed = [task for task in stored if task.completed]
        deleted = await tasks.delete_matching("ada", COMPLETED, now=LATER)
        assert sorted(deleted) == sorted(task.id for task in completed)
        pending = {task for task in stored if not task.completed}
        assert set((await tasks.find("ada", TaskQuery())).tasks) == pending
        assert set((await tasks.find("eve", TaskQuery())).tasks) == set(eves)
        assert await tasks.delete_matching("ada", COMPLETED, now=LATER) == ()

    async def test_each_deleted_completed_task_can_be_restored(self, tasks: TaskRepository) -> None:
        stored = await all_added(tasks, [a_task(completed_at=NOW) for _ in range(3)])
        await tasks.delete_matching("ada", COMPLETED, now=LATER)
        for task in stored:
            assert await tasks.restore("ada", task.id, now=LATER) == task
        assert set((await tasks.find("ada", TaskQuery())).tasks) == set(stored)

    async def test_concurrent_deletes_of_completed_tasks_count_each_task_once(
        self, tasks: TaskRepository
    ) -> None:
        await all_added(tasks, [a_task(completed_at=NOW) for _ in range(10)])
        deleted = await asyncio.gather(
            *(tasks.delete_matching("ada", COMPLETED, now=LATER) for _ in range(5))
        )
        assert len(set(chain.from_iterable(deleted))) == sum(map(len, deleted)) == 10

    # --- Restoring ---

    async def test_a_restored_task_is_as_it_was(self, tasks: TaskRepository) -> None:
        task, other = await all_added(tasks, [mixed_tasks()[1], a_task()])
        await tasks.delete("ada", task.id, now=LATER)
        assert await tasks.restore("ada", task.id, now=LATER) == task
        assert await tasks.get("ada", task.id) == task
        assert set((await tasks.find("ada", TaskQuery())).tasks) == {task, other}

    async def test_a_restored_task_can_be_saved_deleted_and_restored_again(
        self, tasks: TaskRepository
    ) -> None:
        task = await deleted(tasks, a_task())
        await tasks.restore("ada", task.id, now=LATER)
        changed = task.changed(LATER, title="Buy oat milk")
        await tasks.save(changed)
        assert await tasks.delete("ada", task.id, now=LATER) == changed
        assert await tasks.restore("ada", task.id, now=LATER) == changed

    async def test_a_task_that_is_not_deleted_cannot_be_restored(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        with pytest.raises(TaskNotDeleted):
            await tasks.restore("ada", task.id, now=LATER)
        assert await tasks.get("ada", task.id) == task

    async def test_a_task_cannot_be_restored_twice(self, tasks: TaskRepository) -> None:
        task = await deleted(tasks, a_task())
        await tasks.restore("ada", task.id, now=LATER)
        with pytest.raises(TaskNotDeleted):
            await tasks.restore("ada", task.id, now=LATER)

    @pytest.mark.parametrize("is_deleted", [False, True], ids=["live", "deleted"])
    async def test_a_task_of_another_user_cannot_be_restored(
        self, tasks: TaskRepository, *, is_deleted: bool
    ) -> None:
        task = await (deleted if is_deleted else added)(tasks, a_task())
        with pytest.raises(TaskNotFound):
            await tasks.restore("eve", task.id, now=LATER)
        assert (await tasks.find("eve", TaskQuery())).tasks == ()
        assert (await tasks.count("ada")).total == (not is_deleted)

    async def test_an_unknown_task_cannot_be_restored(self, tasks: TaskRepository) -> None:
        with pytest.raises(TaskNotFound):
            await tasks.restore("ada", uuid4(), now=LATER)

    async def test_a_task_can_be_restored_within_the_retention_time(
        self, tasks: TaskRepository
    ) -> None:
        task = await deleted(tasks, a_task())
        assert await tasks.restore("ada", task.id, now=LATER + RETENTION - INSTANT) == task

    @pytest.mark.parametrize("after", [timedelta(0), INSTANT, RETENTION])
    async def test_a_task_cannot_be_restored_after_the_retention_time(
        self, tasks: TaskRepository, after: timedelta
    ) -> None:
        task = await deleted(tasks, a_task())
        with pytest.raises(TaskNotFound):
            await tasks.restore("ada", task.id, now=LATER + RETENTION + after)
        assert (await tasks.find("ada", TaskQuery())).tasks == ()

    async def test_the_retention_time_starts_again_with_each_delete(
        self, tasks: TaskRepository
    ) -> None:
        task = await deleted(tasks, a_task())
        again = LATER + RETENTION - INSTANT
        await tasks.restore("ada", task.id, now=again)
        await tasks.delete("ada", task.id, now=again)
        assert await tasks.restore("ada", task.id, now=again + RETENTION - INSTANT) == task

    async def test_of_concurrent_restores_exactly_one_succeeds(self, tasks: TaskRepository) -> None:
        task = await deleted(tasks, a_task())
        won = await successes(tasks.restore("ada", task.id, now=LATER) for _ in range(10))
        assert sum(won) == 1
        assert await tasks.get("ada", task.id) == task

    async def test_concurrent_deletes_and_restores_do_not_lose_the_task(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        deletes = [tasks.delete("ada", task.id, now=LATER) for _ in range(5)]
        restores = [tasks.restore("ada", task.id, now=LATER) for _ in range(5)]
        calls = [call for pair in zip(deletes, restores, strict=True) for call in pair]
        won = await successes(calls)
        assert sum(won[::2]) - sum(won[1::2]) in {0, 1}
        if sum(won[::2]) > sum(won[1::2]):
            await tasks.restore("ada", task.id, now=LATER)
        assert await tasks.get("ada", task.id) == task

    # --- Ids of clients ---

    async def test_a_taken_id_is_refused_and_the_task_stays(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task())
        with pytest.raises(TaskIdTaken):
            await tasks.add(replace(task, title="Buy oat milk"))
        assert await tasks.get("ada", task.id) == task

    async def test_another_user_may_have_a_task_with_the_same_id(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        eves = await added(tasks, replace(task, owner="eve", title="Read a book"))
        assert await tasks.get("ada", task.id) == task
        assert await tasks.get("eve", task.id) == eves

    async def test_the_id_of_a_deleted_task_is_taken_while_it_can_be_restored(
        self, tasks: TaskRepository
    ) -> None:
        task = await deleted(tasks, a_task())
        with pytest.raises(TaskIdTaken):
            await tasks.add(replace(task, created_at=LATER + RETENTION - INSTANT))
        later = await added(tasks, replace(task, title="New", created_at=LATER + RETENTION))
        assert await tasks.get("ada", task.id) == later

    async def test_of_concurrent_tasks_with_one_id_one_is_added(
        self, tasks: TaskRepository
    ) -> None:
        rivals = [a_task(id=UUID(int=1), title=str(number)) for number in range(10)]
        assert sum(await successes(tasks.add(task) for task in rivals)) == 1

    # --- Change numbers ---

    async def test_each_write_that_alters_a_task_takes_the_next_number(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        assert await last_change(tasks) == 1
        changed = await tasks.change("ada", task.id, now=LATER, completed=True)
        assert await last_change(tasks) == 2
        await tasks.save(changed.changed(LATER, title="Buy oat milk"))
        assert await last_change(tasks) == 3
        await tasks.delete("ada", task.id, now=LATER)
        assert await last_change(tasks) == 4
        await tasks.restore("ada", task.id, now=LATER)
        assert await last_change(tasks) == 5
        await tasks.delete_matching("ada", COMPLETED, now=LATER)
        assert await last_change(tasks) == 6
        assert await last_change(tasks, "eve") == 0

    async def test_each_write_that_alters_a_task_is_reported_with_its_number_and_the_task(
        self, tasks: TaskRepository, reported: list[Change]
    ) -> None:
        task = await added(tasks, a_task())
        keyed = await added(tasks, a_task(owner="eve"), key="key")
        changed = await tasks.change("ada", task.id, now=LATER, completed=True)
        saved = changed.changed(LATER, title="Buy oat milk")
        await tasks.save(saved)
        await tasks.delete("ada", task.id, now=LATER)
        await tasks.restore("ada", task.id, now=LATER)
        await tasks.delete("ada", task.id, now=LATER, version=saved.version)
        assert reported == [
            Change("ada", 1, task.id, task),
            Change("eve", 1, keyed.id, keyed),
            Change("ada", 2, task.id, changed),
            Change("ada", 3, task.id, saved),
            Change("ada", 4, task.id),
            Change("ada", 5, task.id, saved),
            Change("ada", 6, task.id),
        ]

    async def test_a_write_that_alters_nothing_takes_no_number_and_is_not_reported(
        self, tasks: TaskRepository, reported: list[Change]
    ) -> None:
        task = await added(tasks, a_task(), key="key")
        pending = await added(tasks, a_task())
        assert await last_change(tasks) == 2
        idle = (
            tasks.add(repeated(task, LATER), key="key"),
            tasks.add(task),
            tasks.change("ada", task.id, now=LATER, title=task.title, completed=False),
            tasks.change("ada", uuid4(), now=LATER, title="Buy oat milk"),
            tasks.save(replace(task, version=7)),
            tasks.delete("ada", uuid4(), now=LATER),
            tasks.delete("ada", task.id, now=LATER, version=7),
            tasks.delete_matching("ada", COMPLETED, now=LATER),
            tasks.restore("ada", pending.id, now=LATER),
        )
        await successes(idle)
        assert await last_change(tasks) == 2
        assert len(reported) == 2

    async def test_a_list_is_not_read_if_its_last_change_is_known(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        for query in (TaskQuery(), TaskQuery(with_total=True, limit=1)):
            known = (await tasks.find("ada", query)).state.last
            unchanged = await tasks.find("ada", replace(query, unless_change=known))
            assert (unchanged.tasks, unchanged.state.last) == ((), known)
            changed = await tasks.find("ada", replace(query, unless_change=known - 1))
            assert result_of(changed) == ((task,), False, 1)

    # --- The feed ---

    async def test_the_feed_has_the_last_change_of_each_task_in_order(
        self, tasks: TaskRepository
    ) -> None:
        first, second = await all_added(tasks, [a_task(), a_task()])
        await added(tasks, a_task(owner="eve"))
        changed = await tasks.change("ada", first.id, now=LATER, title="Buy oat milk")
        assert await feed(tasks) == [
            FeedEntry(2, second.id, second),
            FeedEntry(3, first.id, changed),
        ]

    async def test_the_feed_has_deleted_tasks_above_its_floor(self, tasks: TaskRepository) -> None:
        gone, live = await all_added(tasks, [a_task(), a_task()])
        await tasks.delete("ada", gone.id, now=LATER)
        assert await feed(tasks, floor=2) == [
            FeedEntry(2, live.id, live),
            FeedEntry(3, gone.id, None),
        ]
        assert await feed(tasks, floor=3) == [FeedEntry(2, live.id, live)]
        assert await feed(tasks, floor=None) == [FeedEntry(2, live.id, live)]

    async def test_a_restored_task_comes_again(self, tasks: TaskRepository) -> None:
        task = await deleted(tasks, a_task())
        await tasks.restore("ada", task.id, now=LATER)
        assert await feed(tasks) == [FeedEntry(3, task.id, task)]

    async def test_tasks_with_one_number_are_paged_by_their_ids(
        self, tasks: TaskRepository
    ) -> None:
        stored = await all_added(tasks, [a_task(completed_at=NOW) for _ in range(5)])
        ids = sorted(await tasks.delete_matching("ada", COMPLETED, now=LATER))
        assert await feed(tasks, floor=0, limit=2) == [FeedEntry(6, each, None) for each in ids]
        assert len(ids) == len(stored)

    async def test_a_page_of_the_feed_says_whether_more_follow(self, tasks: TaskRepository) -> None:
        await all_added(tasks, [a_task(), a_task()])
        for limit, has_more in ((1, True), (2, False)):
            page = await tasks.changes("ada", after=FeedPosition(), floor=None, limit=limit)
            assert (len(page.entries), page.has_more, page.state.last) == (limit, has_more, 2)

    async def test_an_epoch_continues_with_every_change(self, tasks: TaskRepository) -> None:
        empty = (await tasks.find("ada", TaskQuery())).state.epoch
        await added(tasks, a_task())
        first = (await tasks.find("ada", TaskQuery())).state.epoch
        await added(tasks, a_task())
        second = (await tasks.find("ada", TaskQuery())).state.epoch
        assert empty.continues_in(first)
        assert first == second

    @pytest.mark.parametrize("limit", [1, 3, 1000])
    async def test_no_reader_of_the_feed_misses_a_change(
        self, tasks: TaskRepository, limit: int
    ) -> None:
        new = [*(a_task() for _ in range(4)), *(a_repeating_task() for _ in range(4))]
        stored = list(await all_added(tasks, new))
        writers = [write_at_random(tasks, stored, seed) for seed in range(6)]
        is_done = asyncio.Event()
        readers = [
            asyncio.create_task(follow(tasks, is_done, limit=limit, delay=delay))
            for delay in (0, 5, 20)
        ]
        await asyncio.gather(*writers)
        is_done.set()
        live = {task.id: task for task in (await tasks.find("ada", TaskQuery())).tasks}
        for copy in await asyncio.gather(*readers):
            assert copy == live

    # --- Counting ---

    async def test_pending_and_completed_tasks_are_counted(self, tasks: TaskRepository) -> None:
        stored = await all_added(tasks, mixed_tasks())
        await all_added(tasks, [a_task(owner="eve", completed_at=NOW), a_task(owner="eve")])
        completed = sum(task.completed for task in stored)
        counts = TaskCounts(pending=len(stored) - completed, completed=completed)
        assert await tasks.count("ada") == counts
        assert counts.total == len(stored)

    async def test_an_unknown_user_has_no_tasks(self, tasks: TaskRepository) -> None:
        await added(tasks, a_task())
        assert await tasks.count("eve") == TaskCounts(pending=0, completed=0)

    async def test_an_import_and_an_erasure_are_reported_without_a_task(
        self, tasks: TaskRepository, reported: list[Change]
    ) -> None:
        imported = [StoredTask(a_task())]
        for _ in range(2):
            await tasks.import_tasks("ada", imported, now=LATER)
        assert reported == [Change("ada", 1)]
        await tasks.erase("ada")
        assert reported == [Change("ada", 1), Change("ada", None)]


class TokenVerifierContract:
    """A todo_domain.ports.TokenVerifier.

    Fixtures: ``verifier``; ``token``, a token of ``user_id`` that is valid at NOW; and
    ``keyless_verifier``, which has no key to verify tokens with.
    """

    async def test_a_valid_token_authenticates_its_user(
        self, verifier: TokenVerifier, token: str, user_id: str
    ) -> None:
        actor = await verifier.verify(token, NOW)
        assert isinstance(actor, Principal)
        assert actor.user_id == user_id
        assert actor.expires_at > NOW

    @pytest.mark.parametrize(
        "text", ["", " ", "unknown", "a.b.c", "....", "\0", "\ud800", "é", "=" * 10_000]
    )
    async def test_every_other_text_is_rejected(self, verifier: TokenVerifier, text: str) -> None:
        with pytest.raises(TokenRejected):
            await verifier.verify(text, NOW)

    async def test_a_rejection_contains_no_part_of_the_token(
        self, verifier: TokenVerifier, token: str
    ) -> None:
        with pytest.raises(TokenRejected) as caught:
            await verifier.verify(f"{token}tampered", NOW)
        assert token not in str(caught.value)
        assert "tampered" not in str(caught.value)

    async def test_without_keys_a_valid_token_is_neither_accepted_nor_rejected(
        self, keyless_verifier: TokenVerifier, token: str
    ) -> None:
        with pytest.raises(AuthKeysUnavailable):
            await keyless_verifier.verify(token, NOW)


class RateLimiterContract:
    """A todo_api.rate_limits.RateLimiter.

    Fixture: ``limiter``, a new one with three policies: ``few`` allows 5 hits per hour, ``both``
    allows 2 per minute and 5 per hour, ``none`` has no quota.
    """

    async def test_each_hit_within_the_quota_returns_how_many_remain(
        self, limiter: RateLimiter
    ) -> None:
        for remaining in (4, 3, 2, 1, 0):
            (status,) = await limiter.hit("few", "ada")
            assert (status.quota, status.window) == (5, 3600)
            assert (status.remaining, status.is_exceeded) == (remaining, False)
            assert 0 < status.reset <= status.window

    async def test_each_hit_above_the_quota_exceeds_it(self, limiter: RateLimiter) -> None:
        for _ in range(5):
            await limiter.hit("few", "ada")
        earlier = 3600
        for _ in range(3):
            (status,) = await limiter.hit("few", "ada")
            assert (status.remaining, status.is_exceeded) == (0, True)
            assert 0 < status.reset <= earlier
            earlier = status.reset

    async def test_several_hits_at_once_are_all_counted(self, limiter: RateLimiter) -> None:
        counted = [await limiter.hit("few", "ada", count=count) for count in (3, 2, 2)]
        assert [(quota.remaining, quota.is_exceeded) for (quota,) in counted] == [
            (2, False),
            (0, False),
            (0, True),
        ]

    async def test_every_key_is_counted_separately(self, limiter: RateLimiter) -> None:
        for key in ("ada", "Ada", "ada ", "", "few/ada", "a:b", *HOSTILE_TEXTS):
            (status,) = await limiter.hit("few", key)
            assert status.remaining == 4, key

    async def test_every_policy_is_counted_separately(self, limiter: RateLimiter) -> None:
        for _ in range(6):
            await limiter.hit("few", "ada")
        assert [status.remaining for status in await limiter.hit("both", "ada")] == [1, 4]

    async def test_every_quota_of_a_policy_is_counted(self, limiter: RateLimiter) -> None:
        results = [await limiter.hit("both", "ada") for _ in range(6)]
        assert [(s.quota, s.window) for s in results[0]] == [(2, 60), (5, 3600)]
        assert [[s.remaining for s in both] for both in results] == [
            *([1, 4], [0, 3], [0, 2], [0, 1], [0, 0], [0, 0]),
        ]
        assert [[s.is_exceeded for s in both] for both in results] == [
            *([False, False], [False, False]),
            *([True, False], [True, False], [True, False]),
            [True, True],
        ]

    async def test_a_policy_without_a_quota_never_limits(self, limiter: RateLimiter) -> None:
        assert [len(await limiter.hit("none", "ada")) for _ in range(100)] == [0] * 100

    async def test_of_fifty_concurrent_hits_exactly_the_quota_is_allowed(
        self, limiter: RateLimiter
    ) -> None:
        results = await asyncio.gather(*(limiter.hit("few", "ada") for _ in range(50)))
        assert sum(not status.is_exceeded for (status,) in results) == 5


async def added(tasks: TaskRepository, task: Task, *, key: str | None = None) -> Task:
    await tasks.add(task, key=key)
    return task


async def completed_series(tasks: TaskRepository) -> tuple[Task, Task, Task]:
    """A repeating task, the task as it was completed, and its stored successor."""
    task = await added(tasks, a_repeating_task())
    completed = task.changed(LATER, completed=True)
    successor = await tasks.save(completed, successor=completed.successor())
    assert successor is not None
    return task, completed, successor


async def deleted(tasks: TaskRepository, task: Task) -> Task:
    await tasks.add(task)
    return await tasks.delete(task.owner, task.id, now=LATER)


def result_of(page: TaskPage) -> tuple[tuple[Task, ...], bool, int | None]:
    """The page without the state in which it was read."""
    return page.tasks, page.has_more, page.total


async def last_change(tasks: TaskRepository, owner: str = "ada") -> int:
    return (await tasks.find(owner, TaskQuery(limit=1))).state.last


async def feed(
    tasks: TaskRepository, *, floor: int | None = None, limit: int = 1000
) -> list[FeedEntry]:
    """All entries of Ada's feed, read in pages."""
    entries: list[FeedEntry] = []
    has_more = True
    while has_more:
        after = entries[-1].position if entries else FeedPosition()
        page = await tasks.changes("ada", after=after, floor=floor, limit=limit)
        entries += page.entries
        has_more = page.has_more
    return entries


async def follow(
    tasks: TaskRepository, is_done: asyncio.Event, *, limit: int, delay: int
) -> dict[UUID, Task]:
    """A client's copy of Ada's tasks after it has followed the feed until the writers are done."""
    for _ in range(delay):
        await asyncio.sleep(0)
    copy: dict[UUID, Task] = {}
    token: SyncToken | None = None
    ada = Principal("ada", expires_at=LATER)
    is_last = False
    while not is_last:
        is_last = is_done.is_set()
        has_more = True
        while has_more:
            page, token = await list_changes(tasks, ada, token, limit=limit, now=NOW)
            for entry in page.entries:
                if entry.task is None:
                    copy.pop(entry.id, None)
                else:
                    copy[entry.id] = entry.task
            has_more = page.has_more
    return copy


async def write_at_random(tasks: TaskRepository, stored: list[Task], seed: int) -> None:
    """Make thirty writes of every kind to Ada's tasks."""
    random = Random(seed)  # noqa: S311 - repeatable on purpose
    for number in range(30):
        task = random.choice(stored)
        with suppress(*LOST_RACE):
            match random.randrange(11):
                case 0:
                    stored.append(await tasks.add(a_task()))
                case 1:
                    await tasks.delete("ada", task.id, now=LATER)
                case 2:
                    await tasks.restore("ada", task.id, now=LATER)
                case 3:
                    await tasks.delete_matching("ada", COMPLETED, now=LATER)
                case 4:
                    await tasks.change("ada", task.id, now=LATER, completed=True)
                case 5:
                    await tasks.change_matching("ada", COMPLETED, now=LATER, title=f"{number}")
                case 6:
                    new = a_task()
                    operations = (CreateTask(new), ChangeTask(task.id, {"completed": True}))
                    await tasks.apply("ada", Batch(operations, is_atomic=False), now=LATER)
                    stored.append(new)
                case 7:
                    await toggle_task(tasks, Principal("ada", LATER), task.id, now=LATER)
                case _:
                    await tasks.change("ada", task.id, now=LATER, title=f"{seed} {number}")


def repeated(task: Task, now: datetime) -> Task:
    """The task of a client that repeats its request at that time."""
    completed_at = now if task.completed else None
    return replace(task, id=uuid4(), created_at=now, updated_at=now, completed_at=completed_at)


async def all_added(tasks: TaskRepository, new: Sequence[Task]) -> Sequence[Task]:
    for task in new:
        await tasks.add(task)
    return new


def ordered(sort: Sort, tasks: Iterable[Task]) -> list[Task]:
    return sorted(tasks, key=lambda task: sort.key(sort.position(task)), reverse=sort.descending)


def follows(sort: Sort, task: Task, position: SeekPosition) -> bool:
    key, start = sort.key(sort.position(task)), sort.key(position)
    return key < start if sort.descending else key > start


async def walk(tasks: TaskRepository, query: TaskQuery) -> AsyncIterator[TaskPage]:
    """The pages of Ada's list, starting with the page that the query describes."""
    for _ in range(MAX_PAGES):
        page = await tasks.find("ada", query)
        yield page
        if not page.has_more:
            return
        query = replace(query, after=query.sort.position(page.tasks[-1]))
    pytest.fail("the list has too many pages")


async def successes(calls: Iterable[Awaitable[object]]) -> list[bool]:
    """Run the calls concurrently. Return which succeeded; the others must have lost a race."""
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, LOST_RACE):
            raise outcome
    return [not isinstance(outcome, BaseException) for outcome in outcomes]
