from collections.abc import Awaitable, Callable
from dataclasses import FrozenInstanceError, fields
from datetime import datetime
from typing import Final, Unpack
from uuid import UUID, uuid4

import pytest

from fakes import InMemoryTaskRepository, UserTasks
from support.tasks import LATER, NOW, a_repeating_task, a_task
from todo_domain.errors import (
    EditConflict,
    IdempotencyKeyReused,
    InvalidTask,
    StaleVersion,
    TaskNotFound,
)
from todo_domain.ownership import Principal
from todo_domain.ports import KEY_LIFETIME, RETENTION, TaskRepository
from todo_domain.queries import TaskQuery
from todo_domain.task import Task, TaskChanges
from todo_domain.use_cases import (
    EDIT_ATTEMPTS,
    Changed,
    change_task,
    complete_task,
    create_task,
    delete_task,
    get_task,
    list_tasks,
    restore_task,
    toggle_task,
)

ADA: Final = Principal("ada", expires_at=LATER)
EVE: Final = Principal("eve", expires_at=LATER)

OnTask = Callable[[TaskRepository, Principal, UUID], Awaitable[object]]
ON_ANY_VERSION: Final[dict[str, OnTask]] = {
    "get": get_task,
    "change": lambda tasks, who, id_: change_task(tasks, who, id_, now=LATER, title="Mine"),
    "toggle": lambda tasks, who, id_: toggle_task(tasks, who, id_, now=LATER),
    "complete": lambda tasks, who, id_: complete_task(tasks, who, id_, completed=True, now=LATER),
    "delete": lambda tasks, who, id_: delete_task(tasks, who, id_, now=LATER),
    "restore": lambda tasks, who, id_: restore_task(tasks, who, id_, now=LATER),
}
ON_THE_FIRST_VERSION: Final[dict[str, OnTask]] = {
    "change the first version": lambda tasks, who, id_: change_task(
        tasks, who, id_, now=LATER, versions={1}, title="Mine"
    ),
    "toggle the first version": lambda tasks, who, id_: toggle_task(
        tasks, who, id_, now=LATER, versions={1}
    ),
    "complete the first version": lambda tasks, who, id_: complete_task(
        tasks, who, id_, completed=True, now=LATER, versions={1}
    ),
    "delete the first version": lambda tasks, who, id_: delete_task(
        tasks, who, id_, now=LATER, versions={1}
    ),
}
ON_ONE_TASK: Final = ON_ANY_VERSION | ON_THE_FIRST_VERSION
on_one_task = pytest.mark.parametrize("use_case", ON_ONE_TASK.values(), ids=ON_ONE_TASK)


class OwnerBlindRepository(InMemoryTaskRepository):
    """A faulty fake: it returns Ada's tasks to every user."""

    def _of(self, owner: str) -> UserTasks:
        del owner
        return super()._of("ada")

    async def restore(self, owner: str, task_id: UUID, *, now: datetime) -> Task:
        del now
        return await self.get(owner, task_id)


class ContestedRepository(InMemoryTaskRepository):
    """A fake in which another client changes the task just before each of the first writes."""

    def __init__(self, *, other_saves: int) -> None:
        super().__init__()
        self._other_saves = other_saves

    async def save(self, task: Task, *, successor: Task | None = None) -> Task | None:
        await self._save_of_another_client(task.owner, task.id)
        return await super().save(task, successor=successor)

    async def change(
        self, owner: str, task_id: UUID, *, now: datetime, **changes: Unpack[TaskChanges]
    ) -> Task:
        await self._save_of_another_client(owner, task_id)
        return await super().change(owner, task_id, now=now, **changes)

    async def delete(
        self, owner: str, task_id: UUID, *, now: datetime, version: int | None = None
    ) -> Task:
        await self._save_of_another_client(owner, task_id)
        return await super().delete(owner, task_id, now=now, version=version)

    async def _save_of_another_client(self, owner: str, task_id: UUID) -> None:
        if self._other_saves:
            self._other_saves -= 1
            latest = await self.get(owner, task_id)
            await super().save(latest.changed(LATER, description=f"other {latest.version}"))


@pytest.fixture
def tasks() -> InMemoryTaskRepository:
    return InMemoryTaskRepository()


def test_retention_and_the_lifetime_of_keys_are_as_documented() -> None:
    assert (RETENTION.days, KEY_LIFETIME.total_seconds() / 3600) == (30, 24)


def test_a_principal_is_immutable_and_its_repr_has_no_display_text() -> None:
    actor = Principal("ada", expires_at=LATER, name="private", email="private")
    assert "private" not in repr(actor)
    assert "ada" in repr(actor)
    for member in fields(actor):
        with pytest.raises(FrozenInstanceError):
            setattr(actor, member.name, None)


async def test_an_invalid_task_is_not_stored(tasks: InMemoryTaskRepository) -> None:
    with pytest.raises(InvalidTask):
        await create_task(tasks, ADA, uuid4(), now=NOW, title=" ")
    assert (await list_tasks(tasks, ADA, TaskQuery())).tasks == ()


@pytest.mark.parametrize("versions", [None, {1}], ids=["any version", "this version"])
async def test_a_change_that_alters_nothing_leaves_the_task_as_it_is(
    tasks: InMemoryTaskRepository, versions: set[int] | None
) -> None:
    task = a_task()
    await tasks.add(task)
    changed, _ = await change_task(
        tasks, ADA, task.id, now=LATER, versions=versions, title="Buy milk"
    )
    assert changed == await get_task(tasks, ADA, task.id) == task


async def test_a_change_that_breaks_a_rule_stores_nothing(tasks: InMemoryTaskRepository) -> None:
    task = a_task()
    await tasks.add(task)
    with pytest.raises(InvalidTask):
        await change_task(tasks, ADA, task.id, now=LATER, title="")
    assert await get_task(tasks, ADA, task.id) == task


async def test_a_change_keeps_concurrent_changes_of_other_members() -> None:
    tasks = ContestedRepository(other_saves=1)
    task = a_task()
    await tasks.add(task)
    changed, _ = await change_task(tasks, ADA, task.id, now=LATER, title="Buy oat milk")
    assert (changed.title, changed.description) == ("Buy oat milk", "other 1")
    assert await get_task(tasks, ADA, task.id) == changed


async def test_a_conditional_change_that_alters_nothing_saves_nothing() -> None:
    tasks = ContestedRepository(other_saves=1)
    task = a_task()
    await tasks.add(task)
    await change_task(tasks, ADA, task.id, now=LATER, versions={1}, title="Buy milk")
    assert await get_task(tasks, ADA, task.id) == task


async def test_a_toggle_keeps_concurrent_changes_of_other_members() -> None:
    tasks = ContestedRepository(other_saves=EDIT_ATTEMPTS - 1)
    task = a_task()
    await tasks.add(task)
    toggled, _ = await toggle_task(tasks, ADA, task.id, now=LATER)
    assert (toggled.completed, toggled.description) == (True, f"other {EDIT_ATTEMPTS - 1}")
    assert await get_task(tasks, ADA, task.id) == toggled


@pytest.mark.parametrize(
    "edit",
    [
        lambda tasks, id_: toggle_task(tasks, ADA, id_, now=LATER),
        lambda tasks, id_: change_task(
            tasks, ADA, id_, now=LATER, versions=range(1, 99), title="Mine"
        ),
    ],
    ids=["toggle", "change of one of many versions"],
)
async def test_an_edit_that_loses_every_attempt_is_a_conflict_and_writes_nothing(
    edit: Callable[[TaskRepository, UUID], Awaitable[object]],
) -> None:
    tasks = ContestedRepository(other_saves=EDIT_ATTEMPTS)
    task = a_task()
    await tasks.add(task)
    with pytest.raises(EditConflict):
        await edit(tasks, task.id)
    stored = await get_task(tasks, ADA, task.id)
    assert (stored.title, stored.completed) == (task.title, task.completed)


async def test_an_invalid_task_does_not_use_up_its_key(
    tasks: InMemoryTaskRepository,
) -> None:
    with pytest.raises(InvalidTask):
        await create_task(tasks, ADA, uuid4(), now=NOW, key="k", title="")
    created, _ = await create_task(tasks, ADA, uuid4(), now=NOW, key="k", title="Buy milk")
    with pytest.raises(IdempotencyKeyReused):
        await create_task(tasks, ADA, uuid4(), now=NOW, key="k", title="Buy oat milk")
    assert (await list_tasks(tasks, ADA, TaskQuery())).tasks == (created,)


@pytest.mark.parametrize("versions", [None, {1, 2}], ids=["any version", "these versions"])
async def test_a_completion_of_a_repeating_task_keeps_concurrent_changes_and_copies_them(
    versions: set[int] | None,
) -> None:
    tasks = ContestedRepository(other_saves=1)
    task = a_repeating_task()
    await tasks.add(task)
    completed, successor = await complete_task(
        tasks, ADA, task.id, completed=True, now=LATER, versions=versions
    )
    assert successor is not None
    assert (completed.completed, completed.description) == (True, "other 1")
    assert (successor.completed, successor.description) == (False, "other 1")


async def test_a_repeated_completion_returns_the_successor_until_it_is_deleted(
    tasks: InMemoryTaskRepository,
) -> None:
    task = a_repeating_task()
    await tasks.add(task)
    first = await complete_task(tasks, ADA, task.id, completed=True, now=LATER)
    assert first.successor is not None
    assert await complete_task(tasks, ADA, task.id, completed=True, now=LATER) == first
    await delete_task(tasks, ADA, first.successor.id, now=LATER)
    again = await complete_task(tasks, ADA, task.id, completed=True, now=LATER)
    assert again == Changed(first.task, None)


async def test_other_changes_of_a_completed_repeating_task_return_no_successor(
    tasks: InMemoryTaskRepository,
) -> None:
    task = a_repeating_task()
    await tasks.add(task)
    await complete_task(tasks, ADA, task.id, completed=True, now=LATER)
    changed = await change_task(tasks, ADA, task.id, now=LATER, title="x")
    assert (changed.task.title, changed.successor) == ("x", None)


@pytest.mark.parametrize("completed", [False, True])
async def test_a_completion_for_the_stored_version_is_applied(
    tasks: InMemoryTaskRepository, *, completed: bool
) -> None:
    task = a_task(completed_at=None if completed else NOW)
    await tasks.add(task)
    stored, _ = await complete_task(
        tasks, ADA, task.id, completed=completed, now=LATER, versions={task.version}
    )
    assert stored == task.changed(LATER, completed=completed)


async def test_a_conditional_change_is_stale_after_a_concurrent_change() -> None:
    tasks = ContestedRepository(other_saves=1)
    task = a_task()
    await tasks.add(task)
    with pytest.raises(StaleVersion):
        await change_task(tasks, ADA, task.id, now=LATER, versions={1}, title="Mine")
    assert await get_task(tasks, ADA, task.id) == task.changed(LATER, description="other 1")


async def test_a_conditional_delete_is_stale_after_a_concurrent_change() -> None:
    tasks = ContestedRepository(other_saves=1)
    task = a_task()
    await tasks.add(task)
    with pytest.raises(StaleVersion):
        await delete_task(tasks, ADA, task.id, now=LATER, versions={1})
    assert await get_task(tasks, ADA, task.id) == task.changed(LATER, description="other 1")


async def test_an_unconditional_delete_succeeds_after_a_concurrent_change() -> None:
    tasks = ContestedRepository(other_saves=1)
    task = a_task()
    await tasks.add(task)
    deleted = await delete_task(tasks, ADA, task.id, now=LATER)
    assert deleted == task.changed(LATER, description="other 1")


@on_one_task
async def test_a_task_of_another_user_is_not_found_even_if_the_repository_returns_it(
    use_case: OnTask,
) -> None:
    tasks = OwnerBlindRepository()
    task = a_task()
    await tasks.add(task)
    with pytest.raises(TaskNotFound):
        await use_case(tasks, EVE, task.id)


async def test_tasks_of_another_user_are_not_listed_even_if_the_repository_returns_them() -> None:
    tasks = OwnerBlindRepository()
    await tasks.add(a_task())
    with pytest.raises(TaskNotFound):
        await list_tasks(tasks, EVE, TaskQuery())
