"""What every implementation of a port must do, as suites to inherit from.

A subclass named ``Test…`` provides the fixtures that the suite's docstring asks for.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import product
from typing import Final
from uuid import uuid4

import pytest

from tasks import HOSTILE_TEXTS, LATER, NOW, a_task, mixed_tasks
from todo_domain.errors import (
    AuthKeysUnavailable,
    StaleVersion,
    TaskNotFound,
    TokenRejected,
)
from todo_domain.ownership import Principal
from todo_domain.ports import TaskRepository, TokenVerifier
from todo_domain.queries import PAGE_MAX, Position, Sort, SortBy, TaskFilter, TaskPage, TaskQuery
from todo_domain.task import DESCRIPTION_MAX, TAG_MAX, TAGS_MAX, TITLE_MAX, Priority, Task

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
        for query in (TaskQuery(), TaskQuery(counted=True)):
            assert await tasks.find("ada", query) == TaskPage((task,), more=False, total=1)

    async def test_a_foreign_task_cannot_be_saved(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task())
        with pytest.raises(StaleVersion):
            await tasks.save(replace(task.changed(LATER, title="Mine"), owner="eve"))
        assert await tasks.get("ada", task.id) == task

    async def test_a_foreign_task_cannot_be_completed(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task())
        with pytest.raises(TaskNotFound):
            await tasks.set_completed("eve", task.id, completed=True, now=LATER)
        assert await tasks.get("ada", task.id) == task

    async def test_a_foreign_task_cannot_be_removed(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task())
        with pytest.raises(TaskNotFound):
            await tasks.remove("eve", task.id, now=NOW)
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
            await tasks.remove("ada", page.tasks[-1].id, now=NOW)
            if len(newcomers) > 1:
                await all_added(tasks, [newcomers.pop(0), newcomers.pop()])
        assert [task for task in given if task in initial] == initial
        assert given == ordered(sort, set(given))

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
            query = TaskQuery(wanted, sort, limit=2, counted=True)
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
        assert (page.more, page.total) == (False, 2)

    async def test_the_total_of_an_incomplete_page_is_not_told_unasked(
        self, tasks: TaskRepository
    ) -> None:
        await all_added(tasks, [a_task(), a_task()])
        page = await tasks.find("ada", TaskQuery(limit=1))
        assert (page.more, page.total) == (True, None)

    async def test_the_total_is_told_on_any_page_when_asked_for(
        self, tasks: TaskRepository
    ) -> None:
        await all_added(tasks, [a_task() for _ in range(5)])
        pages = [page async for page in walk(tasks, TaskQuery(limit=2, counted=True))]
        assert [(len(page.tasks), page.more, page.total) for page in pages] == [
            (2, True, 5),
            (2, True, 5),
            (1, False, 5),
        ]

    async def test_the_total_is_told_even_by_an_empty_page_after_the_last(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        query = TaskQuery(after=Sort().position(task), counted=True)
        assert await tasks.find("ada", query) == TaskPage((), more=False, total=1)

    async def test_an_empty_list_is_a_page_without_tasks(self, tasks: TaskRepository) -> None:
        for query in (TaskQuery(), TaskQuery(counted=True)):
            assert await tasks.find("ada", query) == TaskPage((), more=False, total=0)

    async def test_a_page_of_exactly_its_limit_says_that_nothing_follows(
        self, tasks: TaskRepository
    ) -> None:
        await all_added(tasks, [a_task(), a_task()])
        assert not (await tasks.find("ada", TaskQuery(limit=2))).more

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
        await tasks.remove("ada", task.id, now=NOW)
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
    @pytest.mark.parametrize("completed_at", [None, NOW], ids=["pending", "completed"])
    @pytest.mark.parametrize("completed", [False, True], ids=["reopen", "complete"])
    async def test_setting_completion_is_the_domains_change(
        self,
        tasks: TaskRepository,
        *,
        completed: bool,
        completed_at: datetime | None,
        clock: datetime,
    ) -> None:
        task = await added(tasks, replace(mixed_tasks()[1], completed_at=completed_at))
        expected = task.changed(clock, completed=completed)
        answer = await tasks.set_completed("ada", task.id, completed=completed, now=clock)
        assert answer == expected
        assert await tasks.get("ada", task.id) == expected

    async def test_setting_completion_touches_no_other_task(self, tasks: TaskRepository) -> None:
        task, other = await all_added(tasks, [a_task(), a_task()])
        await tasks.set_completed("ada", task.id, completed=True, now=LATER)
        assert await tasks.get("ada", other.id) == other

    @pytest.mark.parametrize("completed", [False, True])
    async def test_a_missing_task_cannot_be_completed(
        self, tasks: TaskRepository, *, completed: bool
    ) -> None:
        with pytest.raises(TaskNotFound):
            await tasks.set_completed("ada", uuid4(), completed=completed, now=LATER)

    async def test_of_rivals_that_complete_a_task_one_does_and_all_get_its_answer(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        clocks = [LATER + number * INSTANT for number in range(10)]
        answers = await asyncio.gather(
            *(tasks.set_completed("ada", task.id, completed=True, now=clock) for clock in clocks)
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
        completion = tasks.set_completed("ada", task.id, completed=True, now=LATER)
        won = await successes([*saves[:5], completion, *saves[5:]])
        stored = await tasks.get("ada", task.id)
        assert stored.completed
        assert stored.version == 1 + sum(won)
        assert stored.title.startswith("rival") == (stored.version == 3)

    # --- Removing ---

    async def test_a_removed_task_is_returned_as_it_was_and_is_gone(
        self, tasks: TaskRepository
    ) -> None:
        task, other = await all_added(tasks, [mixed_tasks()[1], a_task()])
        assert await tasks.remove("ada", task.id, now=NOW) == task
        with pytest.raises(TaskNotFound):
            await tasks.get("ada", task.id)
        assert (await tasks.find("ada", TaskQuery())).tasks == (other,)

    async def test_a_task_can_be_removed_once(self, tasks: TaskRepository) -> None:
        task = await added(tasks, a_task())
        await tasks.remove("ada", task.id, now=NOW)
        with pytest.raises(TaskNotFound):
            await tasks.remove("ada", task.id, now=NOW)

    async def test_of_rivals_that_remove_a_task_exactly_one_gets_it(
        self, tasks: TaskRepository
    ) -> None:
        task = await added(tasks, a_task())
        won = await successes(tasks.remove("ada", task.id, now=NOW) for _ in range(10))
        assert sum(won) == 1


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


async def added(tasks: TaskRepository, task: Task) -> Task:
    await tasks.add(task)
    return task


async def all_added(tasks: TaskRepository, new: Sequence[Task]) -> Sequence[Task]:
    for task in new:
        await tasks.add(task)
    return new


def ordered(sort: Sort, tasks: Iterable[Task]) -> list[Task]:
    return sorted(tasks, key=lambda task: sort.key(sort.position(task)), reverse=sort.descending)


def follows(sort: Sort, task: Task, place: Position) -> bool:
    key, start = sort.key(sort.position(task)), sort.key(place)
    return key < start if sort.descending else key > start


async def walk(tasks: TaskRepository, query: TaskQuery) -> AsyncIterator[TaskPage]:
    """Ada's pages from the query's on, each beginning where the one before ended."""
    for _ in range(MANY):
        page = await tasks.find("ada", query)
        yield page
        if not page.more:
            return
        query = replace(query, after=query.sort.position(page.tasks[-1]))
    pytest.fail("the pages come to no end")


async def successes(calls: Iterable[Awaitable[object]]) -> list[bool]:
    """Which of the calls, made at once, succeeded; the others have lost to them as they should."""
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(
            outcome, StaleVersion | TaskNotFound
        ):
            raise outcome
    return [not isinstance(outcome, BaseException) for outcome in outcomes]
