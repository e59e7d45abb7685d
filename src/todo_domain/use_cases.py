"""What a user can do: ports first, then who acts, then the rest; time is an argument.

Each returns tasks as they are now stored, unless it says otherwise. Besides what their docstrings
name they raise what the ports raise.
"""

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Final, Unpack
from uuid import UUID

from todo_domain.errors import EditConflict, StaleVersion
from todo_domain.ownership import Principal, require_owner
from todo_domain.ports import TaskRepository
from todo_domain.queries import TaskCounts, TaskPage, TaskQuery
from todo_domain.task import Task, TaskChanges

EDIT_ATTEMPTS: Final = 8

# The versions of a task that a change is meant for; None for any.
Versions = Collection[int] | None


async def list_tasks(tasks: TaskRepository, actor: Principal, query: TaskQuery) -> TaskPage:
    """One page of the actor's tasks."""
    page = await tasks.find(actor.user_id, query)
    for task in page.tasks:
        require_owner(actor, task)
    return page


async def create_task(
    tasks: TaskRepository,
    actor: Principal,
    task_id: UUID,
    *,
    now: datetime,
    key: str | None = None,
    **members: Unpack[TaskChanges],
) -> Task:
    """A new task of the actor's; with an idempotency key, the one that it was first used for.

    Raises InvalidTask and IdempotencyKeyReused.
    """
    task = Task.new(task_id, actor.user_id, now, **members)
    return require_owner(actor, await tasks.add(task, key=key))


async def get_task(tasks: TaskRepository, actor: Principal, task_id: UUID) -> Task:
    """The actor's task: the one gate through which a single task is read. Raises TaskNotFound."""
    return require_owner(actor, await tasks.get(actor.user_id, task_id))


async def change_task(
    tasks: TaskRepository,
    actor: Principal,
    task_id: UUID,
    *,
    now: datetime,
    versions: Versions = None,
    **changes: Unpack[TaskChanges],
) -> Task:
    """Apply the changes to the latest state, so that what others changed meanwhile stays.

    Raises TaskNotFound, InvalidTask and StaleVersion; with several ``versions`` also EditConflict,
    when rivals win every attempt.
    """
    if versions is not None:
        return await _edit(
            tasks, actor, task_id, versions, lambda task: task.changed(now, **changes)
        )
    return require_owner(actor, await tasks.change(actor.user_id, task_id, now=now, **changes))


async def toggle_task(
    tasks: TaskRepository,
    actor: Principal,
    task_id: UUID,
    *,
    now: datetime,
    versions: Versions = None,
) -> Task:
    """Complete the task if it is pending, reopen it if it is completed.

    Raises TaskNotFound, StaleVersion, and EditConflict when rivals win every attempt.
    """
    return await _edit(tasks, actor, task_id, versions, lambda task: task.toggled(now))


async def complete_task(
    tasks: TaskRepository,
    actor: Principal,
    task_id: UUID,
    *,
    completed: bool,
    now: datetime,
    versions: Versions = None,
) -> Task:
    """Set the task's completion, whatever it was. Raises what ``change_task`` raises."""
    return await change_task(tasks, actor, task_id, now=now, versions=versions, completed=completed)


async def delete_task(
    tasks: TaskRepository,
    actor: Principal,
    task_id: UUID,
    *,
    now: datetime,
    versions: Versions = None,
) -> Task:
    """Delete the task and return it as it was. Raises TaskNotFound and StaleVersion."""
    version = None
    if versions is not None:
        version = _meant(await get_task(tasks, actor, task_id), versions).version
    return require_owner(
        actor, await tasks.delete(actor.user_id, task_id, now=now, version=version)
    )


async def delete_completed(tasks: TaskRepository, actor: Principal, *, now: datetime) -> int:
    """Delete all completed tasks of the actor's; return how many."""
    return await tasks.delete_completed(actor.user_id, now=now)


async def restore_task(
    tasks: TaskRepository, actor: Principal, task_id: UUID, *, now: datetime
) -> Task:
    """Undo a delete. Raises TaskNotFound and TaskNotDeleted."""
    return require_owner(actor, await tasks.restore(actor.user_id, task_id, now=now))


async def count_tasks(tasks: TaskRepository, actor: Principal) -> TaskCounts:
    """How many tasks the actor has."""
    return await tasks.count(actor.user_id)


async def _edit(
    tasks: TaskRepository,
    actor: Principal,
    task_id: UUID,
    versions: Versions,
    transition: Callable[[Task], Task],
) -> Task:
    """Read, apply, write if nobody else has written meanwhile; else again from the start."""
    for _ in range(EDIT_ATTEMPTS):
        task = _meant(await get_task(tasks, actor, task_id), versions)
        edited = transition(task)
        if edited is task or await _saved(tasks, edited):
            return edited
    raise EditConflict


def _meant(task: Task, versions: Versions) -> Task:
    if versions is not None and task.version not in versions:
        raise StaleVersion
    return task


async def _saved(tasks: TaskRepository, task: Task) -> bool:
    try:
        await tasks.save(task)
    except StaleVersion:
        return False
    return True
