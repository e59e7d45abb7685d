"""The part of the contract of TaskRepository about everything that is stored about a user."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Final
from uuid import UUID

import pytest

from support.tasks import LATER, NOW, a_task, mixed_tasks
from todo_domain.batch import Batch, CreateTask, DeleteTask, StoredTask
from todo_domain.errors import EditConflict, ImportRefused, SyncExpired, TaskNotFound
from todo_domain.ownership import Principal
from todo_domain.ports import RETENTION, TaskRepository
from todo_domain.queries import TaskCounts, TaskQuery
from todo_domain.sync import FeedPosition
from todo_domain.use_cases import list_changes
from todo_domain.user_data import ImportResult, UserRecord

INSTANT: Final = timedelta(microseconds=1)
HOURS: Final = timedelta(hours=2)
LIVE: Final = [StoredTask(task) for task in mixed_tasks()]
DELETED: Final = StoredTask(a_task(), LATER)
ADA: Final = Principal("ada", expires_at=LATER)


async def stored_of(
    tasks: TaskRepository, owner: str = "ada", *, limit: int = 1000
) -> list[StoredTask]:
    """Everything that the pages of an export have."""
    page = await tasks.read_stored(owner, after=None, limit=limit, now=LATER)
    found = list(page.tasks)
    while page.has_more:
        page = await tasks.read_stored(owner, after=found[-1].task.id, limit=limit, now=LATER)
        found += page.tasks
    return found


def by_id(stored: list[StoredTask]) -> list[StoredTask]:
    return sorted(stored, key=lambda each: each.task.id)


class UserDataContract:
    """A todo_domain.ports.TaskRepository. Fixture: ``tasks``, an empty repository."""

    # --- Reading ---

    @pytest.mark.parametrize("limit", [1, 7, 30, 31])
    async def test_the_pages_have_every_task_of_the_owner_once(
        self, tasks: TaskRepository, limit: int
    ) -> None:
        for each in LIVE:
            await tasks.add(each.task)
        await tasks.add(a_task(owner="eve"))
        assert await stored_of(tasks, limit=limit) == by_id(LIVE)

    async def test_the_first_page_starts_with_the_smallest_id(self, tasks: TaskRepository) -> None:
        smallest = await tasks.add(a_task(id=UUID(int=0)))
        assert await stored_of(tasks) == [StoredTask(smallest)]

    async def test_the_pages_have_deleted_tasks_while_they_can_be_restored(
        self, tasks: TaskRepository
    ) -> None:
        old, recent = a_task(), a_task()
        for task in (old, recent):
            await tasks.add(task)
        await tasks.delete("ada", old.id, now=LATER - RETENTION)
        await tasks.delete("ada", recent.id, now=LATER - RETENTION + INSTANT)
        assert await stored_of(tasks) == [StoredTask(recent, LATER - RETENTION + INSTANT)]

    async def test_a_user_is_recorded_with_the_first_and_the_last_new_task(
        self, tasks: TaskRepository
    ) -> None:
        assert await tasks.find_user("ada") is None
        await tasks.add(a_task(created_at=NOW))
        await tasks.add(a_task(created_at=NOW + HOURS))
        batch = Batch((CreateTask(a_task()),))
        await tasks.apply("ada", batch, now=NOW + 2 * HOURS)
        assert await tasks.find_user("ada") == UserRecord(NOW, NOW + 2 * HOURS)
        await tasks.import_tasks("ada", LIVE, now=NOW + 3 * HOURS)
        assert await tasks.find_user("ada") == UserRecord(NOW, NOW + 3 * HOURS)

    # --- Importing ---

    async def test_imported_tasks_are_stored_as_they_are(self, tasks: TaskRepository) -> None:
        imported = [*LIVE, DELETED]
        result = await tasks.import_tasks("ada", imported, now=LATER)
        assert result == ImportResult(created=len(imported), present=0)
        assert await stored_of(tasks) == by_id(imported)

    async def test_imported_tasks_can_be_found_like_others(self, tasks: TaskRepository) -> None:
        await tasks.import_tasks("ada", [*LIVE, DELETED], now=LATER)
        found = await tasks.find("ada", TaskQuery())
        assert {task.id for task in found.tasks} == {each.task.id for each in LIVE}
        await tasks.restore("ada", DELETED.task.id, now=LATER)
        assert await tasks.get("ada", DELETED.task.id) == DELETED.task

    async def test_a_repeated_import_changes_nothing(self, tasks: TaskRepository) -> None:
        imported = [*LIVE, DELETED]
        await tasks.import_tasks("ada", imported, now=LATER)
        before = await tasks.changes("ada", after=FeedPosition(), floor=0, limit=100)
        result = await tasks.import_tasks("ada", imported, now=LATER + HOURS)
        assert result == ImportResult(created=0, present=len(imported))
        after = await tasks.changes("ada", after=FeedPosition(), floor=0, limit=100)
        assert after == before

    async def test_an_import_adds_what_is_missing_with_one_change_number(
        self, tasks: TaskRepository
    ) -> None:
        for each in LIVE[:10]:
            await tasks.add(each.task)
        result = await tasks.import_tasks("ada", LIVE, now=LATER)
        assert result == ImportResult(created=20, present=10)
        page = await tasks.changes("ada", after=FeedPosition(10), floor=0, limit=100)
        assert [entry.change for entry in page.entries] == [11] * 20

    async def test_an_import_of_nothing_changes_nothing(self, tasks: TaskRepository) -> None:
        assert await tasks.import_tasks("ada", [], now=LATER) == ImportResult(0, 0)
        assert await tasks.find_user("ada") is None

    async def test_an_import_is_refused_if_other_tasks_have_its_ids(
        self, tasks: TaskRepository
    ) -> None:
        other, deleted, live = LIVE[3].task, LIVE[5].task, DELETED.task
        await tasks.add(replace(other, title="Another task"))
        for task in (deleted, live):
            await tasks.add(task)
        await tasks.delete("ada", deleted.id, now=LATER)
        before = await stored_of(tasks)
        with pytest.raises(ImportRefused) as refused:
            await tasks.import_tasks("ada", [*LIVE, DELETED], now=LATER)
        assert refused.value.numbers == (3, 5, len(LIVE))
        assert await stored_of(tasks) == before

    async def test_times_and_version_do_not_make_another_task(self, tasks: TaskRepository) -> None:
        task = a_task(completed_at=NOW)
        await tasks.add(task)
        other = replace(task, created_at=LATER, updated_at=LATER, completed_at=LATER, version=9)
        result = await tasks.import_tasks("ada", [StoredTask(other)], now=LATER)
        assert result == ImportResult(created=0, present=1)
        assert await tasks.get("ada", task.id) == task

    async def test_deleted_tasks_that_cannot_be_restored_do_not_count(
        self, tasks: TaskRepository
    ) -> None:
        task = await tasks.add(a_task())
        await tasks.delete("ada", task.id, now=LATER - RETENTION)
        expired = StoredTask(a_task(), LATER - RETENTION)
        new = StoredTask(replace(task, title="Another task"))
        result = await tasks.import_tasks("ada", [expired, new], now=LATER)
        assert result == ImportResult(created=1, present=1)
        assert await stored_of(tasks) == [new]

    async def test_users_can_import_the_same_export(self, tasks: TaskRepository) -> None:
        await tasks.import_tasks("ada", LIVE, now=LATER)
        hers = [StoredTask(replace(each.task, owner="eve")) for each in LIVE]
        assert (await tasks.import_tasks("eve", hers, now=LATER)).created == len(LIVE)
        assert await stored_of(tasks) == by_id(LIVE)
        assert await stored_of(tasks, "eve") == by_id(hers)

    async def test_of_concurrent_imports_of_a_new_user_one_creates_the_tasks(
        self, tasks: TaskRepository
    ) -> None:
        calls = (tasks.import_tasks("ada", LIVE, now=LATER) for _ in range(3))
        results = await asyncio.gather(*calls)
        assert sorted(result.created for result in results) == [0, 0, len(LIVE)]
        assert await stored_of(tasks) == by_id(LIVE)

    # --- Erasing ---

    async def test_an_erasure_removes_everything_of_the_owner(self, tasks: TaskRepository) -> None:
        for key, each in enumerate(LIVE):
            await tasks.add(each.task, key=str(key))
        await tasks.delete("ada", LIVE[0].task.id, now=LATER)
        hers = await tasks.add(a_task(owner="eve"))
        assert await tasks.erase("ada") == len(LIVE)
        assert await stored_of(tasks) == []
        assert await tasks.find_user("ada") is None
        assert await tasks.count("ada") == TaskCounts(0, 0)
        assert await stored_of(tasks, "eve") == [StoredTask(hers)]

    async def test_a_repeated_erasure_finds_nothing(self, tasks: TaskRepository) -> None:
        await tasks.add(a_task())
        await tasks.erase("ada")
        assert [await tasks.erase(user) for user in ("ada", "nil")] == [0, 0]

    async def test_an_erased_user_can_start_again(self, tasks: TaskRepository) -> None:
        task = await tasks.add(a_task(), key="k")
        batch = Batch((CreateTask(a_task()), DeleteTask(task.id)))
        await tasks.apply("ada", batch, now=LATER, key="b")
        await tasks.erase("ada")
        # The ids and the idempotency keys are free.
        other = replace(task, title="Another task")
        assert await tasks.add(other, key="k") == other
        other_batch = Batch((DeleteTask(task.id),))
        assert (await tasks.apply("ada", other_batch, now=LATER, key="b")).is_applied

    async def test_an_exported_user_can_be_imported_after_the_erasure(
        self, tasks: TaskRepository
    ) -> None:
        await tasks.import_tasks("ada", [*LIVE, DELETED], now=LATER)
        exported = await stored_of(tasks)
        await tasks.erase("ada")
        await tasks.import_tasks("ada", exported, now=LATER)
        assert await stored_of(tasks) == exported

    @pytest.mark.parametrize("starts_again", [False, True])
    async def test_the_feed_of_an_erased_user_starts_over(
        self, tasks: TaskRepository, *, starts_again: bool
    ) -> None:
        for _ in range(3):
            await tasks.add(a_task())
        tokens = [
            (await list_changes(tasks, ADA, None, limit=limit, now=LATER))[1] for limit in (1, 100)
        ]
        await tasks.erase("ada")
        if starts_again:
            # As many changes as before, so that only the epoch differs.
            for _ in range(3):
                await tasks.add(a_task())
        for token in tokens:
            with pytest.raises(SyncExpired):
                await list_changes(tasks, ADA, token, limit=100, now=LATER)
        page, token = await list_changes(tasks, ADA, None, limit=100, now=LATER)
        assert len(page.entries) == (3 if starts_again else 0)
        await list_changes(tasks, ADA, token, limit=100, now=LATER)

    async def test_no_erasure_is_stopped_by_concurrent_writes(self, tasks: TaskRepository) -> None:
        async def write(number: int) -> None:
            for turn in range(5):
                task = a_task()
                with suppress(TaskNotFound, EditConflict):
                    await tasks.add(task, key=f"{number} {turn}")
                    await tasks.change("ada", task.id, now=LATER, title="Changed")
                    batch = Batch((CreateTask(a_task()), DeleteTask(task.id)), is_atomic=False)
                    await tasks.apply("ada", batch, now=LATER, key=f"batch {number} {turn}")

        async def erase() -> None:
            for _ in range(5):
                await tasks.erase("ada")

        await asyncio.gather(*map(write, range(6)), erase(), erase())
        for _ in range(2):  # a change that waited for the first can leave a counter
            await tasks.erase("ada")
        assert await stored_of(tasks) == []
        assert await tasks.find_user("ada") is None
