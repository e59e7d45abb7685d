"""What a user can do: ports first, then who acts, then the rest; time is an argument.

Each returns tasks as they are now stored. Besides what their docstrings name they raise what the
ports raise.
"""

from datetime import datetime
from typing import Final, Unpack
from uuid import UUID

from todo_domain.errors import EditConflict, StaleVersion
from todo_domain.ownership import Principal, owned_by
from todo_domain.ports import TaskRepository
from todo_domain.queries import TaskPage, TaskQuery
from todo_domain.task import Task, TaskChanges

EDIT_ATTEMPTS: Final = 8


async def list_tasks(tasks: TaskRepository, actor: Principal, query: TaskQuery) -> TaskPage:
    """One page of the actor's tasks."""
    page = await tasks.find(actor.user_id, query)
    for task in page.tasks:
        owned_by(actor, task)
    return page


async def create_task(
    tasks: TaskRepository,
    actor: Principal,
    task_id: UUID,
    *,
    now: datetime,
    **members: Unpack[TaskChanges],
) -> Task:
    """A new task of the actor's. Raises InvalidTask."""
    task = Task.new(task_id, actor.user_id, now, **members)
    await tasks.add(task)
    return task


async def get_task(tasks: TaskRepository, actor: Principal, task_id: UUID) -> Task:
    """The actor's task: the one gate through which a single task is read. Raises TaskNotFound."""
    return owned_by(actor, await tasks.get(actor.user_id, task_id))


async def change_task(
    tasks: TaskRepository,
    actor: Principal,
    task_id: UUID,
    *,
    now: datetime,
    **changes: Unpack[TaskChanges],
) -> Task:
    """Apply the changes to the latest state, so that what others changed meanwhile stays.

    Raises TaskNotFound, InvalidTask, and EditConflict when rivals win every attempt.
    """
    for _ in range(EDIT_ATTEMPTS):
        task = await get_task(tasks, actor, task_id)
        changed = task.changed(now, **changes)
        if changed is task or await _saved(tasks, changed):
            return changed
    raise EditConflict


async def toggle_task(
    tasks: TaskRepository, actor: Principal, task_id: UUID, *, now: datetime
) -> Task:
    """Complete the task if it is pending, reopen it if it is completed.

    Raises TaskNotFound, and EditConflict when rivals win every attempt.
    """
    for _ in range(EDIT_ATTEMPTS):
        toggled = (await get_task(tasks, actor, task_id)).toggled(now)
        if await _saved(tasks, toggled):
            return toggled
    raise EditConflict


async def complete_task(
    tasks: TaskRepository, actor: Principal, task_id: UUID, *, completed: bool, now: datetime
) -> Task:
    """Set the task's completion, whatever it was. Raises TaskNotFound."""
    task = await tasks.set_completed(actor.user_id, task_id, completed=completed, now=now)
    return owned_by(actor, task)


async def delete_task(tasks: TaskRepository, actor: Principal, task_id: UUID) -> Task:
    """Delete the task and return it as it was. Raises TaskNotFound."""
    return owned_by(actor, await tasks.remove(actor.user_id, task_id))


async def _saved(tasks: TaskRepository, task: Task) -> bool:
    try:
        await tasks.save(task)
    except StaleVersion:
        return False
    return True
