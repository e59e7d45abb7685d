import asyncio
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID, uuid4

import pytest

from fakes import InMemoryTaskRepository
from tasks import LATER, NOW, a_task
from todo_domain.errors import EditConflict, InvalidTask, TaskNotFound
from todo_domain.ownership import Principal
from todo_domain.ports import TaskRepository
from todo_domain.queries import TaskFilter, TaskPage, TaskQuery
from todo_domain.task import Priority, Task
from todo_domain.use_cases import (
    EDIT_ATTEMPTS,
    change_task,
    complete_task,
    create_task,
    delete_task,
    get_task,
    list_tasks,
    toggle_task,
)

ADA: Final = Principal("ada", expires_at=LATER)
EVE: Final = Principal("eve", expires_at=LATER)

OnTask = Callable[[TaskRepository, Principal, UUID], Awaitable[object]]
ON_ONE_TASK: Final[dict[str, OnTask]] = {
    "get": get_task,
    "change": lambda tasks, who, id_: change_task(tasks, who, id_, now=LATER, title="Mine"),
    "toggle": lambda tasks, who, id_: toggle_task(tasks, who, id_, now=LATER),
    "complete": lambda tasks, who, id_: complete_task(tasks, who, id_, completed=True, now=LATER),
    "delete": delete_task,
}
on_one_task = pytest.mark.parametrize("use_case", ON_ONE_TASK.values(), ids=ON_ONE_TASK)


class OwnerBlindRepository(InMemoryTaskRepository):
    """A fake with a hole: it finds everybody's tasks for everybody."""

    async def find(self, owner: str, query: TaskQuery) -> TaskPage:
        del owner
        return await super().find("ada", query)

    def _own(self, owner: str, task_id: UUID) -> Task:
        del owner
        return super()._own("ada", task_id)


class ContestedRepository(InMemoryTaskRepository):
    """A fake in which a rival changes the description just before each of the first saves."""

    def __init__(self, *, rival_saves: int) -> None:
        super().__init__()
        self._rival_saves = rival_saves

    async def save(self, task: Task) -> None:
        if self._rival_saves:
            self._rival_saves -= 1
            latest = self._own(task.owner, task.id)
            await super().save(latest.changed(LATER, description=f"rival {latest.version}"))
        await super().save(task)


@pytest.fixture
def tasks() -> InMemoryTaskRepository:
    return InMemoryTaskRepository()


async def test_a_created_task_is_the_actors_and_stored(tasks: InMemoryTaskRepository) -> None:
    created = await create_task(tasks, ADA, uuid4(), now=NOW, title="Buy milk", tags=["home"])
    assert (created.owner, created.tags) == ("ada", ("home",))
    assert await get_task(tasks, ADA, created.id) == created


async def test_an_invalid_task_is_not_stored(tasks: InMemoryTaskRepository) -> None:
    with pytest.raises(InvalidTask):
        await create_task(tasks, ADA, uuid4(), now=NOW, title=" ")
    assert (await list_tasks(tasks, ADA, TaskQuery())).tasks == ()


async def test_a_list_holds_the_actors_tasks_that_the_query_describes(
    tasks: InMemoryTaskRepository,
) -> None:
    pending, completed, eves = a_task(), a_task(completed_at=NOW), a_task(owner="eve")
    for task in (pending, completed, eves):
        await tasks.add(task)
    page = await list_tasks(tasks, ADA, TaskQuery(TaskFilter(completed=False)))
    assert page == TaskPage((pending,), more=False, total=1)


async def test_a_change_is_stored_and_returned(tasks: InMemoryTaskRepository) -> None:
    task = a_task()
    await tasks.add(task)
    changed = await change_task(tasks, ADA, task.id, now=LATER, priority=Priority.HIGH)
    assert changed == task.changed(LATER, priority=Priority.HIGH)
    assert await get_task(tasks, ADA, task.id) == changed


async def test_a_change_that_alters_nothing_saves_nothing() -> None:
    tasks = ContestedRepository(rival_saves=1)
    task = a_task()
    await tasks.add(task)
    assert await change_task(tasks, ADA, task.id, now=LATER, title="Buy milk") == task
    assert await get_task(tasks, ADA, task.id) == task


async def test_a_change_that_breaks_a_rule_stores_nothing(tasks: InMemoryTaskRepository) -> None:
    task = a_task()
    await tasks.add(task)
    with pytest.raises(InvalidTask):
        await change_task(tasks, ADA, task.id, now=LATER, title="")
    assert await get_task(tasks, ADA, task.id) == task


async def test_a_change_keeps_what_rivals_changed_meanwhile() -> None:
    tasks = ContestedRepository(rival_saves=EDIT_ATTEMPTS - 1)
    task = a_task()
    await tasks.add(task)
    changed = await change_task(tasks, ADA, task.id, now=LATER, title="Buy oat milk")
    assert (changed.title, changed.description) == ("Buy oat milk", f"rival {EDIT_ATTEMPTS - 1}")
    assert await get_task(tasks, ADA, task.id) == changed


@pytest.mark.parametrize(
    "use_case", [pytest.param(ON_ONE_TASK[u], id=u) for u in ("change", "toggle")]
)
async def test_an_edit_that_rivals_beat_every_time_gives_up_and_writes_nothing(
    use_case: OnTask,
) -> None:
    tasks = ContestedRepository(rival_saves=EDIT_ATTEMPTS)
    task = a_task()
    await tasks.add(task)
    with pytest.raises(EditConflict):
        await use_case(tasks, ADA, task.id)
    stored = await get_task(tasks, ADA, task.id)
    assert (stored.title, stored.completed) == (task.title, task.completed)


async def test_every_one_of_several_toggles_at_once_counts(tasks: InMemoryTaskRepository) -> None:
    task = a_task()
    await tasks.add(task)
    toggles = (toggle_task(tasks, ADA, task.id, now=LATER) for _ in range(EDIT_ATTEMPTS))
    toggled = await asyncio.gather(*toggles)
    assert sorted(each.version for each in toggled) == list(range(2, EDIT_ATTEMPTS + 2))


async def test_completion_is_set_whatever_it_was(tasks: InMemoryTaskRepository) -> None:
    task = a_task()
    await tasks.add(task)
    for completed in (True, True, False, False):
        stored = await complete_task(tasks, ADA, task.id, completed=completed, now=LATER)
        assert stored.completed == completed
    assert stored.version == 3


async def test_a_deleted_task_is_returned_as_it_was_and_gone(tasks: InMemoryTaskRepository) -> None:
    task = a_task()
    await tasks.add(task)
    assert await delete_task(tasks, ADA, task.id) == task
    with pytest.raises(TaskNotFound):
        await get_task(tasks, ADA, task.id)


@on_one_task
async def test_a_missing_task_is_not_found(tasks: InMemoryTaskRepository, use_case: OnTask) -> None:
    with pytest.raises(TaskNotFound):
        await use_case(tasks, ADA, uuid4())


@on_one_task
async def test_a_foreign_task_is_not_found_and_stays_as_it_was(
    tasks: InMemoryTaskRepository, use_case: OnTask
) -> None:
    task = a_task()
    await tasks.add(task)
    with pytest.raises(TaskNotFound):
        await use_case(tasks, EVE, task.id)
    assert await get_task(tasks, ADA, task.id) == task


@on_one_task
async def test_a_foreign_task_is_not_told_even_by_a_repository_that_leaks(use_case: OnTask) -> None:
    tasks = OwnerBlindRepository()
    task = a_task()
    await tasks.add(task)
    with pytest.raises(TaskNotFound):
        await use_case(tasks, EVE, task.id)


async def test_a_list_is_not_told_even_by_a_repository_that_leaks() -> None:
    tasks = OwnerBlindRepository()
    await tasks.add(a_task())
    with pytest.raises(TaskNotFound):
        await list_tasks(tasks, EVE, TaskQuery())
