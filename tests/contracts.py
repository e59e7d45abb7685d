"""What every implementation of a port must do, as suites to inherit from.

A subclass named ``Test…`` provides the fixtures that the suite's docstring asks for.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import product
from typing import Final
from uuid import uuid4

import pytest

from support.tasks import HOSTILE_TEXTS, LATER, NOW, Members, a_task, mixed_tasks
from todo_api.rate_limits import RateLimiter
from todo_domain.errors import (
    AuthKeysUnavailable,
    IdempotencyKeyReused,
    InvalidTask,
    StaleVersion,
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
from todo_domain.task import (
    DESCRIPTION_MAX,
    TAG_MAX,
    TAGS_MAX,
    TITLE_MAX,
    Priority,
    Task,
    TaskChanges,
)

LOST: Final = (StaleVersion, TaskNotFound, TaskNotDeleted, IdempotencyKeyReused)
MANY: Final = 100  # more pages than any list here has
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

# Two tasks of which each member differs from the other's, in value or in kind.
CONTENT: Final[Members] = {
    "title": "Buy milk",
    "description": "2 litres",
    "priority": Priority.LOW,
    "due_date": date(2026, 1, 20),
    "tags": ("home", "food"),
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
    "completion": {"completed_at": None},
}

# Each member alone, set and cleared, and several at once; beside ``CONTENT`` some alter nothing.
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
    {"title": "Buy milk", "completed": True},
    {"title": "x", "completed": False},
    {
        "title": "x",
        "description": "y",
        "completed": True,
        "priority": Priority.HIGH,
        "due_date": MIDNIGHT + INSTANT,
        "tags": ["z"],
    },
]

OnTask = Callable[[TaskRepository, Task], Awaitable[object]]
MEANWHILE: Final[dict[str, OnTask]] = {
    "nothing": lambda tasks, task: tasks.get("ada", task.id),
    "a change": lambda tasks, task: tasks.save(task.changed(LATER, title="x", tags=[])),
    "a completion": lambda tasks, task: tasks.change(
        "ada", task.id, completed=not task.completed, now=LATER
    ),
    "a removal": lambda tasks, task: tasks.delete("ada", task.id, now=LATER),
}

# Each of these has to find a task that is there, and to miss one that is not.
REACHES: Final[dict[str, OnTask]] = {
    "get": lambda tasks, task: tasks.get("ada", task.id),
    "save": lambda tasks, task: tasks.save(task.changed(LATER, title="revived")),
    "complete": lambda tasks, task: tasks.change("ada", task.id, completed=True, now=LATER),
    "reopen": lambda tasks, task: tasks.change("ada", task.id, completed=False, now=LATER),
    "remove": lambda tasks, task: tasks.delete("ada", task.id, now=LATER),
    "remove the version": lambda tasks, task: tasks.delete(
        "ada", task.id, now=LATER, version=task.version
    ),
}


class TaskRepositoryContract:
    """A todo_domain.ports.TaskRepository. Fixture: ``tasks``, a repository that is empty."""

    # --- Storing ---

    async def test_an_added_task_is_got_back_as_it_was(self, tasks: TaskRepository) -> None:
        task = Task(
            id=uuid4(),
            owner="ada",
            title="Buy milk",
            description="2 litres",
            priority=Priority.HIGH,
            due_date=date(2026, 1, 20),
            tags=("work", "home"),
            created_at=NOW + INSTANT,
            updated_at=NOW + 2 * INSTANT,
            completed_at=NOW + 3 * INSTANT,
            version=7,
        )
        await tasks.add(task)
        assert await tasks.get("ada", task.id) == task

    async def test_members_that_are_missing_stay_missing(self, tasks: TaskRepository) -> None:
        task = a_task(description=None, priority=None, due_date=None, tags=(), completed_at=None)
        await tasks.add(task)
        assert await tasks.get("ada", task.id) == task

    @pytest.mark.parametrize("text", HOSTILE_TEXTS)
    async def test_any_text_is_kept_to_the_letter(self, tasks: TaskRepository, text: str) -> None:
        task = a_task(owner=text, title=text, description=f" {text}\n", tags=(text[:TAG_MAX],))
        await tasks.add(task)
        assert await tasks.get(text, task.id) == task
        assert (await tasks.find(text, TaskQuery())).tasks == (task,)

    async def test_the_longest_texts_are_kept(self, tasks: TaskRepository) -> None:
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

    async def test_the_first_tasks_of_a_user_may_come_at_once(self, tasks: TaskRepository) -> None:
        new = [a_task() for _ in range(10)]
        await asyncio.gather(*(tasks.add(task) for task in new))
        assert set((await tasks.find("ada", TaskQuery())).tasks) == set(new)

    async def test_a_task_that_was_never_added_is_not_found(self, tasks: TaskRepository) -> None:
        with pytest.raises(TaskNotFound):
            await tasks.get("ada", uuid4())

    # --- Ownership ---

    async def test_a_foreign_task_cannot_be_got(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task())
        with pytest.raises(TaskNotFound):
            await tasks.get("eve", task.id)

    async def test_foreign_tasks_are_neither_listed_nor_counted(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        await added(tasks, a_task(owner="eve"))
        for query in (TaskQuery(), TaskQuery(with_total=True)):
            assert await tasks.find("ada", query) == TaskPage((task,), has_more=False, total=1)

    async def test_a_foreign_task_cannot_be_saved(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task())
        with pytest.raises(StaleVersion):
            await tasks.save(replace(task.changed(LATER, title="Mine"), owner="eve"))
        assert await tasks.get("ada", task.id) == task

    async def test_a_foreign_task_cannot_be_changed(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task())
        with pytest.raises(TaskNotFound):
            await tasks.change("eve", task.id, title="mine", completed=True, now=LATER)
        assert await tasks.get("ada", task.id) == task

    async def test_a_foreign_task_cannot_be_removed(self, tasks: TaskRepository) -> None:
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
    async def test_pages_of_any_size_give_each_task_once_and_in_order(
        self, tasks: TaskRepository, sort: Sort
    ) -> None:
        expected = ordered(sort, await all_added(tasks, mixed_tasks()))
        await all_added(tasks, mixed_tasks("eve"))
        for limit in (1, 2, 3, 7, len(expected), PAGE_MAX):
            pages = [page async for page in walk(tasks, TaskQuery(sort=sort, limit=limit))]
            assert [task for page in pages for task in page.tasks] == expected
            assert all(len(page.tasks) == limit for page in pages[:-1])

    @every_sort
    async def test_pages_give_what_stays_once_while_other_tasks_come_and_go(
        self, tasks: TaskRepository, sort: Sort
    ) -> None:
        everything = ordered(sort, mixed_tasks())
        initial, newcomers = everything[::2], everything[1::2]
        await all_added(tasks, initial[::-1])
        given: list[Task] = []
        async for page in walk(tasks, TaskQuery(sort=sort, limit=2)):
            given += page.tasks
            # The next page begins after a task that is no more.
            await tasks.delete("ada", page.tasks[-1].id, now=NOW)
            if len(newcomers) > 1:
                await all_added(tasks, [newcomers.pop(0), newcomers.pop()])
        assert [task for task in given if task in initial] == initial
        assert given == ordered(sort, set(given))

    @pytest.mark.parametrize("descending", [False, True])
    async def test_titles_are_ordered_by_the_characters_of_their_lower_case(
        self, tasks: TaskRepository, *, descending: bool
    ) -> None:
        expected = [a_task(title=title) for title in ("1", "Z_", "zA", "É", "ω")]
        await all_added(tasks, expected[::-1])
        page = await tasks.find("ada", TaskQuery(sort=Sort(SortBy.TITLE, descending)))
        assert list(page.tasks) == (expected[::-1] if descending else expected)

    @every_sort
    async def test_a_page_may_begin_where_no_task_is(
        self, tasks: TaskRepository, sort: Sort
    ) -> None:
        expected = ordered(sort, await all_added(tasks, mixed_tasks()))
        for place in (sort.position(expected[0]), sort.position(expected[-1])):
            for nowhere in (replace(place, id=uuid4()) for _ in range(3)):
                page = await tasks.find("ada", TaskQuery(sort=sort, after=nowhere))
                assert list(page.tasks) == [t for t in expected if follows(sort, t, nowhere)]

    async def test_each_filter_alone_and_with_every_other_gives_what_it_matches(
        self, tasks: TaskRepository
    ) -> None:
        everything = ordered(Sort(), await all_added(tasks, mixed_tasks()))
        for wanted in EVERY_FILTER:
            page = await tasks.find("ada", TaskQuery(wanted))
            assert page.tasks == tuple(filter(wanted.matches, everything)), wanted

    @every_sort
    async def test_pages_of_a_filtered_list_give_each_match_once_and_in_order(
        self, tasks: TaskRepository, sort: Sort
    ) -> None:
        stored = await all_added(tasks, mixed_tasks())
        for wanted in EVERY_FILTER[::40]:
            query = TaskQuery(wanted, sort, limit=2, with_total=True)
            expected = ordered(sort, filter(wanted.matches, stored))
            pages = [page async for page in walk(tasks, query)]
            assert [task for page in pages for task in page.tasks] == expected
            assert {page.total for page in pages} == {len(expected)}

    # Characters whose case folds to several or by context (İ, ß, final ς) are left out: there
    # Python's and a database's notion of case may differ, and either answer will do.
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
    async def test_text_is_found_in_title_and_description_in_any_case_and_as_it_is(
        self, tasks: TaskRepository, text: str, title: str
    ) -> None:
        titled, described = a_task(title=title), a_task(title="-", description=f"- {title} -")
        await all_added(tasks, [titled, described, a_task(title="Nothing of it, but $ and x")])
        found = await tasks.find("ada", TaskQuery(TaskFilter(text=text)))
        assert set(found.tasks) == {titled, described}

    async def test_the_total_is_told_when_the_page_holds_every_match(
        self, tasks: TaskRepository
    ) -> None:
        await all_added(tasks, [a_task(), a_task(), a_task(completed_at=NOW)])
        query = TaskQuery(TaskFilter(completed=False), limit=2)
        page = await tasks.find("ada", query)
        assert (page.has_more, page.total) == (False, 2)

    async def test_the_total_of_an_incomplete_page_is_not_told_unasked(
        self, tasks: TaskRepository
    ) -> None:
        await all_added(tasks, [a_task(), a_task()])
        page = await tasks.find("ada", TaskQuery(limit=1))
        assert (page.has_more, page.total) == (True, None)

    async def test_the_total_is_told_on_any_page_when_asked_for(
        self, tasks: TaskRepository
    ) -> None:
        await all_added(tasks, [a_task() for _ in range(5)])
        pages = [page async for page in walk(tasks, TaskQuery(limit=2, with_total=True))]
        assert [(len(page.tasks), page.has_more, page.total) for page in pages] == [
            (2, True, 5),
            (2, True, 5),
            (1, False, 5),
        ]

    async def test_the_total_is_told_even_by_an_empty_page_after_the_last(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        query = TaskQuery(after=Sort().position(task), with_total=True)
        assert await tasks.find("ada", query) == TaskPage((), has_more=False, total=1)

    async def test_an_empty_list_is_a_page_without_tasks(self, tasks: TaskRepository) -> None:
        for query in (TaskQuery(), TaskQuery(with_total=True)):
            assert await tasks.find("ada", query) == TaskPage((), has_more=False, total=0)

    async def test_a_page_of_exactly_its_limit_says_that_nothing_follows(
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
        )
        await tasks.save(changed)
        assert await tasks.get("ada", task.id) == changed

    async def test_a_saved_change_touches_no_other_task(self, tasks: TaskRepository) -> None:
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

    async def test_a_save_of_a_removed_task_is_stale_and_does_not_revive_it(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        await tasks.delete("ada", task.id, now=NOW)
        with pytest.raises(StaleVersion):
            await tasks.save(task.changed(LATER, title="revived"))
        with pytest.raises(TaskNotFound):
            await tasks.get("ada", task.id)

    @pytest.mark.parametrize("rivals", [2, 10, 20])
    async def test_of_rivals_that_save_the_same_version_exactly_one_wins(
        self, tasks: TaskRepository, rivals: int
    ) -> None:
        task = await added(tasks, a_task())
        changes = [task.changed(LATER, title=f"rival {number}") for number in range(rivals)]
        won = await successes(tasks.save(change) for change in changes)
        assert [change for change, win in zip(changes, won, strict=True) if win] == [
            await tasks.get("ada", task.id)
        ]

    # --- Completing ---

    @pytest.mark.parametrize("clock", [NOW - INSTANT, NOW, LATER], ids=["back", "same", "later"])
    @pytest.mark.parametrize("content", [{}, CONTENT], ids=["title alone", "everything"])
    @pytest.mark.parametrize("changes", EVERY_CHANGE, ids=str)
    async def test_a_change_is_the_domains(
        self, tasks: TaskRepository, changes: TaskChanges, content: Members, clock: datetime
    ) -> None:
        task = await added(tasks, a_task(**content))
        expected = task.changed(clock, **changes)
        assert await tasks.change("ada", task.id, now=clock, **changes) == expected
        assert await tasks.get("ada", task.id) == expected
        # Once more it alters nothing.
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

    async def test_a_change_touches_no_other_task(self, tasks: TaskRepository) -> None:
        task, other = await all_added(tasks, [a_task(), a_task()])
        await tasks.change("ada", task.id, completed=True, title="x", now=LATER)
        assert await tasks.get("ada", other.id) == other

    @pytest.mark.parametrize("changes", [{}, {"completed": True}, {"title": "x"}], ids=str)
    async def test_a_missing_task_cannot_be_changed(
        self, tasks: TaskRepository, changes: TaskChanges
    ) -> None:
        with pytest.raises(TaskNotFound):
            await tasks.change("ada", uuid4(), now=LATER, **changes)

    async def test_rivals_that_change_different_members_all_succeed_and_revert_nobody(
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
        ]
        answers = await asyncio.gather(
            *(tasks.change("ada", task.id, now=LATER, **each) for each in changes)
        )
        assert {answer.version for answer in answers} == set(range(2, 2 + len(changes)))
        merged: TaskChanges = {}
        for each in changes:
            merged |= each
        all_changed = replace(task.changed(LATER, **merged), version=1 + len(changes))
        assert await tasks.get("ada", task.id) == all_changed

    async def test_of_rivals_that_complete_a_task_one_does_and_all_get_its_answer(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        clocks = [LATER + number * INSTANT for number in range(10)]
        answers = await asyncio.gather(
            *(tasks.change("ada", task.id, completed=True, now=clock) for clock in clocks)
        )
        stored = await tasks.get("ada", task.id)
        assert stored.version == 2
        assert answers == [stored] * len(clocks)

    async def test_a_completion_among_saves_is_never_lost_and_never_undoes_one(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        changes = [task.changed(LATER, title=f"rival {number}") for number in range(10)]
        saves = [tasks.save(change) for change in changes]
        completion = tasks.change("ada", task.id, completed=True, now=LATER)
        won = await successes([*saves[:5], completion, *saves[5:]])
        stored = await tasks.get("ada", task.id)
        assert stored.completed
        assert stored.version == 1 + sum(won)
        assert stored.title.startswith("rival") == (stored.version == 3)

    # --- Adding once ---

    @pytest.mark.parametrize("key", [None, "k"])
    async def test_an_add_returns_the_task_that_it_stores(
        self, tasks: TaskRepository, key: str | None
    ) -> None:
        task = a_task(**CONTENT)
        assert await tasks.add(task, key=key) == task
        assert await tasks.get("ada", task.id) == task

    @pytest.mark.parametrize("content", [{}, CONTENT], ids=["title alone", "everything"])
    @pytest.mark.parametrize("meanwhile", MEANWHILE.values(), ids=MEANWHILE)
    async def test_a_repeated_key_returns_the_first_task_as_it_was_added_whatever_came_between(
        self, tasks: TaskRepository, meanwhile: OnTask, content: Members
    ) -> None:
        first = a_task(**content)
        await tasks.add(first, key="k")
        await meanwhile(tasks, first)
        for _ in range(2):
            assert await tasks.add(repeated(first, LATER), key="k") == first

    @pytest.mark.parametrize("meanwhile", MEANWHILE.values(), ids=MEANWHILE)
    async def test_a_repeated_key_stores_nothing_and_undoes_nothing(
        self, tasks: TaskRepository, meanwhile: OnTask
    ) -> None:
        first = a_task()
        await tasks.add(first, key="k")
        await meanwhile(tasks, first)
        before = await tasks.find("ada", TaskQuery())
        await tasks.add(repeated(first, LATER), key="k")
        assert await tasks.find("ada", TaskQuery()) == before

    @pytest.mark.parametrize("other", OTHER_CONTENT.values(), ids=OTHER_CONTENT)
    async def test_a_key_of_a_task_with_other_content_is_refused_and_stores_nothing(
        self, tasks: TaskRepository, other: Members
    ) -> None:
        first = a_task(**CONTENT)
        await tasks.add(first, key="k")
        with pytest.raises(IdempotencyKeyReused):
            await tasks.add(replace(repeated(first, LATER), **other), key="k")
        assert (await tasks.find("ada", TaskQuery())).tasks == (first,)
        assert await tasks.add(repeated(first, LATER), key="k") == first

    async def test_a_key_is_its_owners_alone(self, tasks: TaskRepository) -> None:
        adas, eves = a_task(), a_task(owner="eve", title="Buy oat milk")
        assert await tasks.add(adas, key="k") == adas
        assert await tasks.add(eves, key="k") == eves
        assert await tasks.get("eve", eves.id) == eves

    @pytest.mark.parametrize("lookalike", ["K", "k ", "", "%"])
    async def test_a_key_is_compared_exactly(self, tasks: TaskRepository, lookalike: str) -> None:
        await tasks.add(a_task(), key="k")
        other = a_task()
        assert await tasks.add(other, key=lookalike) == other

    async def test_the_longest_key_is_kept_whole(self, tasks: TaskRepository) -> None:
        first, other = a_task(), a_task()
        await tasks.add(first, key="x" * 255)
        assert await tasks.add(other, key="x" * 254) == other
        assert await tasks.add(repeated(first, LATER), key="x" * 255) == first

    async def test_of_rivals_with_one_key_one_stores_and_all_get_its_task(
        self, tasks: TaskRepository
    ) -> None:
        rivals = [a_task(created_at=NOW + n * INSTANT, updated_at=NOW) for n in range(20)]
        rivals = [repeated(task, task.created_at) for task in rivals]
        answers = await asyncio.gather(*(tasks.add(task, key="k") for task in rivals))
        (stored,) = (await tasks.find("ada", TaskQuery())).tasks
        assert stored in rivals
        assert answers == [stored] * len(rivals)

    async def test_of_rivals_with_one_key_for_different_tasks_one_stores_and_no_other_gets_it(
        self, tasks: TaskRepository
    ) -> None:
        rivals = [a_task(title=f"rival {number}") for number in range(10)]
        won = await successes(tasks.add(task, key="k") for task in rivals)
        assert (await tasks.find("ada", TaskQuery())).tasks == tuple(
            task for task, win in zip(rivals, won, strict=True) if win
        )
        assert sum(won) == 1

    async def test_a_key_is_remembered_for_its_lifetime_and_then_forgotten(
        self, tasks: TaskRepository
    ) -> None:
        first = a_task()
        await tasks.add(first, key="k")
        assert await tasks.add(repeated(first, NOW + KEY_LIFETIME), key="k") == first
        second = replace(repeated(first, NOW + KEY_LIFETIME + INSTANT), title="Buy oat milk")
        assert await tasks.add(second, key="k") == second
        assert set((await tasks.find("ada", TaskQuery())).tasks) == {first, second}

    async def test_a_forgotten_key_that_is_used_again_is_remembered_again(
        self, tasks: TaskRepository
    ) -> None:
        first = a_task()
        await tasks.add(first, key="k")
        second = repeated(first, NOW + 2 * KEY_LIFETIME)
        await tasks.add(second, key="k")
        assert await tasks.add(repeated(second, NOW + 3 * KEY_LIFETIME), key="k") == second
        with pytest.raises(IdempotencyKeyReused):
            await tasks.add(replace(repeated(second, second.created_at), title="x"), key="k")

    async def test_of_rivals_with_one_forgotten_key_one_stores_and_all_get_its_task(
        self, tasks: TaskRepository
    ) -> None:
        first = a_task()
        await tasks.add(first, key="k")
        rivals = [repeated(first, NOW + 2 * KEY_LIFETIME) for _ in range(10)]
        answers = await asyncio.gather(*(tasks.add(task, key="k") for task in rivals))
        assert len((await tasks.find("ada", TaskQuery())).tasks) == 2
        assert answers == [answers[0]] * len(rivals)
        assert answers[0] in rivals

    async def test_many_forgotten_keys_may_be_used_again_at_once(
        self, tasks: TaskRepository
    ) -> None:
        keys = [f"k{number}" for number in range(10)]
        for key in keys:
            await tasks.add(a_task(), key=key)
        new = [repeated(a_task(), NOW + 2 * KEY_LIFETIME) for _ in keys]
        pairs = zip(new, keys, strict=True)
        assert await asyncio.gather(*(tasks.add(task, key=key) for task, key in pairs)) == new

    # --- Removing ---

    async def test_a_removed_task_is_returned_as_it_was_and_is_gone(
        self, tasks: TaskRepository
    ) -> None:
        task, other = await all_added(tasks, [mixed_tasks()[1], a_task()])
        assert await tasks.delete("ada", task.id, now=LATER) == task
        with pytest.raises(TaskNotFound):
            await tasks.get("ada", task.id)
        assert (await tasks.find("ada", TaskQuery())).tasks == (other,)

    @pytest.mark.parametrize("reach", REACHES.values(), ids=REACHES)
    async def test_a_removed_task_is_missing_to_every_call(
        self, tasks: TaskRepository, reach: OnTask
    ) -> None:
        task = await removed(tasks, a_task(completed_at=NOW))
        with pytest.raises((TaskNotFound, StaleVersion)):
            await reach(tasks, task)
        assert await tasks.restore("ada", task.id, now=LATER) == task

    async def test_removed_tasks_are_neither_listed_nor_counted_nor_cleared(
        self, tasks: TaskRepository
    ) -> None:
        task = await removed(tasks, a_task(completed_at=NOW))
        for wanted in (TaskFilter(), TaskFilter(completed=True), TaskFilter(text="milk")):
            page = await tasks.find("ada", TaskQuery(wanted, with_total=True))
            assert page == TaskPage((), has_more=False, total=0)
        assert await tasks.count("ada") == TaskCounts(pending=0, completed=0)
        assert await tasks.delete_completed("ada", now=LATER) == 0
        assert await tasks.restore("ada", task.id, now=LATER) == task

    @pytest.mark.parametrize("reach", REACHES.values(), ids=REACHES)
    async def test_a_task_that_is_there_is_missing_to_no_call(
        self, tasks: TaskRepository, reach: OnTask
    ) -> None:
        await reach(tasks, await added(tasks, a_task()))

    async def test_of_rivals_that_remove_a_task_exactly_one_gets_it(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        won = await successes(tasks.delete("ada", task.id, now=LATER) for _ in range(10))
        assert sum(won) == 1

    # --- Removing a version ---

    async def test_the_version_that_is_there_can_be_removed(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task(version=3))
        assert await tasks.delete("ada", task.id, now=LATER, version=3) == task
        with pytest.raises(TaskNotFound):
            await tasks.get("ada", task.id)

    @pytest.mark.parametrize("version", [0, 2, 4, 999_999_999])
    async def test_another_version_is_stale_and_stays(
        self, tasks: TaskRepository, version: int
    ) -> None:
        task = await added(tasks, a_task(version=3))
        with pytest.raises(StaleVersion):
            await tasks.delete("ada", task.id, now=LATER, version=version)
        assert await tasks.get("ada", task.id) == task

    async def test_a_version_of_a_foreign_or_unknown_task_is_stale(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        for owner, task_id in (("eve", task.id), ("ada", uuid4())):
            with pytest.raises(StaleVersion):
                await tasks.delete(owner, task_id, now=LATER, version=1)
        assert await tasks.get("ada", task.id) == task

    async def test_of_rivals_that_save_and_remove_a_version_exactly_one_wins(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        saves = [tasks.save(task.changed(LATER, title=f"rival {number}")) for number in range(5)]
        removals = [tasks.delete("ada", task.id, now=LATER, version=1) for _ in range(5)]
        won = await successes([call for pair in zip(saves, removals, strict=True) for call in pair])
        assert sum(won) == 1
        is_there = (await tasks.find("ada", TaskQuery())).tasks != ()
        assert is_there == any(won[::2])

    # --- Removing what is completed ---

    async def test_all_completed_tasks_are_removed_and_counted_and_no_other(
        self, tasks: TaskRepository
    ) -> None:
        stored = await all_added(tasks, mixed_tasks())
        eves = await all_added(tasks, mixed_tasks("eve"))
        completed = [task for task in stored if task.completed]
        assert await tasks.delete_completed("ada", now=LATER) == len(completed)
        pending = {task for task in stored if not task.completed}
        assert set((await tasks.find("ada", TaskQuery())).tasks) == pending
        assert set((await tasks.find("eve", TaskQuery())).tasks) == set(eves)
        assert await tasks.delete_completed("ada", now=LATER) == 0

    async def test_each_completed_task_that_was_removed_can_be_restored(
        self, tasks: TaskRepository
    ) -> None:
        stored = await all_added(tasks, [a_task(completed_at=NOW) for _ in range(3)])
        await tasks.delete_completed("ada", now=LATER)
        for task in stored:
            assert await tasks.restore("ada", task.id, now=LATER) == task
        assert set((await tasks.find("ada", TaskQuery())).tasks) == set(stored)

    async def test_rivals_that_remove_what_is_completed_remove_and_count_each_once(
        self, tasks: TaskRepository
    ) -> None:
        await all_added(tasks, [a_task(completed_at=NOW) for _ in range(10)])
        counted = await asyncio.gather(
            *(tasks.delete_completed("ada", now=LATER) for _ in range(5))
        )
        assert sum(counted) == 10

    # --- Restoring ---

    async def test_a_restored_task_is_back_as_it_was(self, tasks: TaskRepository) -> None:
        task, other = await all_added(tasks, [mixed_tasks()[1], a_task()])
        await tasks.delete("ada", task.id, now=LATER)
        assert await tasks.restore("ada", task.id, now=LATER) == task
        assert await tasks.get("ada", task.id) == task
        assert set((await tasks.find("ada", TaskQuery())).tasks) == {task, other}

    async def test_a_restored_task_can_be_saved_removed_and_restored_again(
        self, tasks: TaskRepository
    ) -> None:
        task = await removed(tasks, a_task())
        await tasks.restore("ada", task.id, now=LATER)
        changed = task.changed(LATER, title="Buy oat milk")
        await tasks.save(changed)
        assert await tasks.delete("ada", task.id, now=LATER) == changed
        assert await tasks.restore("ada", task.id, now=LATER) == changed

    async def test_a_task_that_was_not_removed_cannot_be_restored(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        with pytest.raises(TaskNotDeleted):
            await tasks.restore("ada", task.id, now=LATER)
        assert await tasks.get("ada", task.id) == task

    async def test_a_task_can_be_restored_once(self, tasks: TaskRepository) -> None:
        task = await removed(tasks, a_task())
        await tasks.restore("ada", task.id, now=LATER)
        with pytest.raises(TaskNotDeleted):
            await tasks.restore("ada", task.id, now=LATER)

    @pytest.mark.parametrize("is_removed", [False, True], ids=["there", "removed"])
    async def test_a_foreign_task_is_not_found_to_restore(
        self, tasks: TaskRepository, *, is_removed: bool
    ) -> None:
        task = await (removed if is_removed else added)(tasks, a_task())
        with pytest.raises(TaskNotFound):
            await tasks.restore("eve", task.id, now=LATER)
        assert (await tasks.find("eve", TaskQuery())).tasks == ()
        assert (await tasks.count("ada")).total == (not is_removed)

    async def test_an_unknown_task_is_not_found_to_restore(self, tasks: TaskRepository) -> None:
        with pytest.raises(TaskNotFound):
            await tasks.restore("ada", uuid4(), now=LATER)

    async def test_a_task_can_be_restored_until_its_retention_ends(
        self, tasks: TaskRepository
    ) -> None:
        task = await removed(tasks, a_task())
        assert await tasks.restore("ada", task.id, now=LATER + RETENTION - INSTANT) == task

    @pytest.mark.parametrize("after", [timedelta(0), INSTANT, RETENTION])
    async def test_a_task_cannot_be_restored_once_its_retention_has_ended(
        self, tasks: TaskRepository, after: timedelta
    ) -> None:
        task = await removed(tasks, a_task())
        with pytest.raises(TaskNotFound):
            await tasks.restore("ada", task.id, now=LATER + RETENTION + after)
        assert (await tasks.find("ada", TaskQuery())).tasks == ()

    async def test_retention_begins_anew_with_each_removal(self, tasks: TaskRepository) -> None:
        task = await removed(tasks, a_task())
        again = LATER + RETENTION - INSTANT
        await tasks.restore("ada", task.id, now=again)
        await tasks.delete("ada", task.id, now=again)
        assert await tasks.restore("ada", task.id, now=again + RETENTION - INSTANT) == task

    async def test_of_rivals_that_restore_a_task_exactly_one_does(
        self, tasks: TaskRepository
    ) -> None:
        task = await removed(tasks, a_task())
        won = await successes(tasks.restore("ada", task.id, now=LATER) for _ in range(10))
        assert sum(won) == 1
        assert await tasks.get("ada", task.id) == task

    async def test_rivals_that_remove_and_restore_never_lose_a_task(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        removals = [tasks.delete("ada", task.id, now=LATER) for _ in range(5)]
        restorations = [tasks.restore("ada", task.id, now=LATER) for _ in range(5)]
        calls = [call for pair in zip(removals, restorations, strict=True) for call in pair]
        won = await successes(calls)
        assert sum(won[::2]) - sum(won[1::2]) in {0, 1}
        if sum(won[::2]) > sum(won[1::2]):
            await tasks.restore("ada", task.id, now=LATER)
        assert await tasks.get("ada", task.id) == task

    # --- Counting ---

    async def test_tasks_are_counted_by_their_completion(self, tasks: TaskRepository) -> None:
        stored = await all_added(tasks, mixed_tasks())
        await all_added(tasks, [a_task(owner="eve", completed_at=NOW), a_task(owner="eve")])
        completed = sum(task.completed for task in stored)
        counts = TaskCounts(pending=len(stored) - completed, completed=completed)
        assert await tasks.count("ada") == counts
        assert counts.total == len(stored)

    async def test_a_user_who_is_unknown_has_no_tasks(self, tasks: TaskRepository) -> None:
        await added(tasks, a_task())
        assert await tasks.count("eve") == TaskCounts(pending=0, completed=0)


class TokenVerifierContract:
    """A todo_domain.ports.TokenVerifier.

    Fixtures: ``verifier``; ``token``, valid at NOW and speaking for ``user_id``; and
    ``keyless_verifier``, which has no key to judge by.
    """

    async def test_a_valid_token_speaks_for_its_user(
        self, verifier: TokenVerifier, token: str, user_id: str
    ) -> None:
        actor = await verifier.verify(token, NOW)
        assert isinstance(actor, Principal)
        assert actor.user_id == user_id
        assert actor.expires_at > NOW

    @pytest.mark.parametrize(
        "text", ["", " ", "nobody", "a.b.c", "....", "\0", "\ud800", "é", "=" * 10_000]
    )
    async def test_any_other_text_is_rejected(self, verifier: TokenVerifier, text: str) -> None:
        with pytest.raises(TokenRejected):
            await verifier.verify(text, NOW)

    async def test_a_rejection_repeats_nothing_of_the_token(
        self, verifier: TokenVerifier, token: str
    ) -> None:
        with pytest.raises(TokenRejected) as caught:
            await verifier.verify(f"{token}tampered", NOW)
        assert token not in str(caught.value)
        assert "tampered" not in str(caught.value)

    async def test_without_keys_no_valid_token_is_judged(
        self, keyless_verifier: TokenVerifier, token: str
    ) -> None:
        with pytest.raises(AuthKeysUnavailable):
            await keyless_verifier.verify(token, NOW)


class RateLimiterContract:
    """A todo_api.rate_limits.RateLimiter.

    Fixture: ``limiter``, which has counted nothing yet, with three policies: ``few`` allows 5 an
    hour, ``both`` 2 a minute and 5 an hour, ``none`` whatever there is.
    """

    async def test_each_hit_within_the_quota_tells_how_many_are_left(
        self, limiter: RateLimiter
    ) -> None:
        for remaining in (4, 3, 2, 1, 0):
            (standing,) = await limiter.hit("few", "ada")
            assert (standing.quota, standing.window) == (5, 3600)
            assert (standing.remaining, standing.is_exceeded) == (remaining, False)
            assert 0 < standing.reset <= standing.window

    async def test_each_hit_beyond_the_quota_exceeds_it(self, limiter: RateLimiter) -> None:
        for _ in range(5):
            await limiter.hit("few", "ada")
        for _ in range(3):
            (standing,) = await limiter.hit("few", "ada")
            assert (standing.remaining, standing.is_exceeded) == (0, True)
            assert 0 < standing.reset <= standing.window

    async def test_every_key_is_counted_by_itself(self, limiter: RateLimiter) -> None:
        for key in ("ada", "Ada", "ada ", "", "few/ada", "a:b", *HOSTILE_TEXTS):
            (standing,) = await limiter.hit("few", key)
            assert standing.remaining == 4, key

    async def test_every_policy_is_counted_by_itself(self, limiter: RateLimiter) -> None:
        for _ in range(6):
            await limiter.hit("few", "ada")
        assert [standing.remaining for standing in await limiter.hit("both", "ada")] == [1, 4]

    async def test_of_several_quotas_each_is_counted(self, limiter: RateLimiter) -> None:
        standings = [await limiter.hit("both", "ada") for _ in range(6)]
        assert [(s.quota, s.window) for s in standings[0]] == [(2, 60), (5, 3600)]
        assert [[s.remaining for s in both] for both in standings] == [
            *([1, 4], [0, 3], [0, 2], [0, 1], [0, 0], [0, 0]),
        ]
        assert [[s.is_exceeded for s in both] for both in standings] == [
            *([False, False], [False, False]),
            *([True, False], [True, False], [True, False]),
            [True, True],
        ]

    async def test_a_policy_without_a_quota_allows_everything(self, limiter: RateLimiter) -> None:
        assert [len(await limiter.hit("none", "ada")) for _ in range(100)] == [0] * 100

    async def test_of_fifty_rivals_exactly_the_quota_is_within_it(
        self, limiter: RateLimiter
    ) -> None:
        standings = await asyncio.gather(*(limiter.hit("few", "ada") for _ in range(50)))
        assert sum(not standing.is_exceeded for (standing,) in standings) == 5


async def added(tasks: TaskRepository, task: Task) -> Task:
    await tasks.add(task)
    return task


async def removed(tasks: TaskRepository, task: Task) -> Task:
    await tasks.add(task)
    return await tasks.delete(task.owner, task.id, now=LATER)


def repeated(task: Task, now: datetime) -> Task:
    """What a client makes of the same members when it tries again at that time."""
    completed_at = now if task.completed else None
    return replace(task, id=uuid4(), created_at=now, updated_at=now, completed_at=completed_at)


async def all_added(tasks: TaskRepository, new: Sequence[Task]) -> Sequence[Task]:
    for task in new:
        await tasks.add(task)
    return new


def ordered(sort: Sort, tasks: Iterable[Task]) -> list[Task]:
    return sorted(tasks, key=lambda task: sort.key(sort.position(task)), reverse=sort.descending)


def follows(sort: Sort, task: Task, place: SeekPosition) -> bool:
    key, start = sort.key(sort.position(task)), sort.key(place)
    return key < start if sort.descending else key > start


async def walk(tasks: TaskRepository, query: TaskQuery) -> AsyncIterator[TaskPage]:
    """Ada's pages from the query's on, each beginning where the one before ended."""
    for _ in range(MANY):
        page = await tasks.find("ada", query)
        yield page
        if not page.has_more:
            return
        query = replace(query, after=query.sort.position(page.tasks[-1]))
    pytest.fail("the pages come to no end")


async def successes(calls: Iterable[Awaitable[object]]) -> list[bool]:
    """Which of the calls, made at once, succeeded; the others have lost to them as they should."""
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, LOST):
            raise outcome
    return [not isinstance(outcome, BaseException) for outcome in outcomes]
