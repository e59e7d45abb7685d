"""The use cases: one function for each thing that a user can do with tasks.

The arguments are the ports, the actor, and the data of the request; the time is an argument too.
A returned task is as it is now stored, unless the docstring says otherwise. Every use case also
raises what the ports raise.
"""

from collections.abc import AsyncIterator, Callable, Collection, Container, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Unpack
from uuid import UUID

from todo_domain.batch import Batch, BatchResult, RestoreTask, StoredTask
from todo_domain.errors import (
    EditConflict,
    IdempotencyKeyReused,
    StaleVersion,
    TaskIdTaken,
    TaskNotFound,
)
from todo_domain.ownership import Principal, require_owner
from todo_domain.ports import RETENTION, TaskRepository
from todo_domain.queries import TaskCounts, TaskFilter, TaskPage, TaskQuery
from todo_domain.sync import FeedPage, FeedPosition, SyncToken, next_token
from todo_domain.task import Task, TaskChanges
from todo_domain.user_data import EXPORT_PAGE, ImportResult, StoredPage, UserData

EDIT_ATTEMPTS: Final = 8

# The versions of the task that the edit may be applied to; None for any version.
Versions = Container[int] | None


class Created(NamedTuple):
    """The result of creating a task. ``is_new`` is false if the same task existed already."""

    task: Task
    is_new: bool


class Changed(NamedTuple):
    """The changed task, and its successor if the change completes a repeating task.

    Repeating the change returns the successor again.
    """

    task: Task
    successor: Task | None = None


async def list_tasks(tasks: TaskRepository, actor: Principal, query: TaskQuery) -> TaskPage:
    """Return one page of the actor's tasks."""
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
    is_client_id: bool = False,
    **members: Unpack[TaskChanges],
) -> Created:
    """Create a task. A repeated idempotency key returns the task of the first call.

    ``is_client_id`` is true if the client chose the id. Repeating the call with equal members then
    returns the task as it is now. Raises InvalidTask, IdempotencyKeyReused and TaskIdTaken.
    """
    task = Task.new(task_id, actor.user_id, now, **members)
    try:
        created = Created(await tasks.add(task, key=key), is_new=True)
    except TaskIdTaken:
        created = Created(await _get_equal(tasks, task), is_new=False)
    if is_client_id and created.task.id != task_id:
        raise IdempotencyKeyReused
    require_owner(actor, created.task)
    return created


async def create_task_with_id(
    tasks: TaskRepository,
    actor: Principal,
    task_id: UUID,
    *,
    now: datetime,
    **members: Unpack[TaskChanges],
) -> Task:
    """Create a task with the id that the client chose, unless a task with this id exists.

    Raises InvalidTask, StaleVersion if the task exists, and TaskIdTaken if it is deleted and can
    still be restored.
    """
    task = Task.new(task_id, actor.user_id, now, **members)
    try:
        return require_owner(actor, await tasks.add(task))
    except TaskIdTaken:
        if await _exists(tasks, task):
            raise StaleVersion from None
        raise


async def _exists(tasks: TaskRepository, task: Task) -> bool:
    try:
        await tasks.get(task.owner, task.id)
    except TaskNotFound:
        return False
    return True


async def _get_equal(tasks: TaskRepository, task: Task) -> Task:
    """Return the stored task if its members equal those of the given one. Raises TaskIdTaken."""
    try:
        stored = await tasks.get(task.owner, task.id)
    except TaskNotFound:
        raise TaskIdTaken from None
    if stored.content != task.content:
        raise TaskIdTaken
    return stored


async def get_task(tasks: TaskRepository, actor: Principal, task_id: UUID) -> Task:
    """Return the actor's task. Raises TaskNotFound."""
    return require_owner(actor, await tasks.get(actor.user_id, task_id))


async def change_task(
    tasks: TaskRepository,
    actor: Principal,
    task_id: UUID,
    *,
    now: datetime,
    versions: Versions = None,
    **changes: Unpack[TaskChanges],
) -> Changed:
    """Apply the changes to the latest version, so that concurrent changes of other members stay.

    Raises TaskNotFound, InvalidTask and StaleVersion. With several ``versions``, or if the task
    repeats, it also raises EditConflict if concurrent edits win every attempt.
    """
    latest = None
    if versions is None:
        latest = require_owner(
            actor, await tasks.change(actor.user_id, task_id, now=now, **changes)
        )
        if not latest.needs_save(changes):
            return Changed(latest)
    return await _edit_with_retry(
        tasks, actor, task_id, versions, lambda task: task.changed(now, **changes), latest
    )


async def toggle_task(
    tasks: TaskRepository,
    actor: Principal,
    task_id: UUID,
    *,
    now: datetime,
    versions: Versions = None,
) -> Changed:
    """Complete a pending task, or reopen a completed one.

    Raises TaskNotFound, StaleVersion, and EditConflict if concurrent edits win every attempt.
    """
    return await _edit_with_retry(tasks, actor, task_id, versions, lambda task: task.toggled(now))


async def complete_task(
    tasks: TaskRepository,
    actor: Principal,
    task_id: UUID,
    *,
    completed: bool,
    now: datetime,
    versions: Versions = None,
) -> Changed:
    """Set the task's completion. Raises what ``change_task`` raises."""
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
        version = _require_version(await get_task(tasks, actor, task_id), versions).version
    return require_owner(
        actor, await tasks.delete(actor.user_id, task_id, now=now, version=version)
    )


async def change_matching(
    tasks: TaskRepository,
    actor: Principal,
    wanted: TaskFilter,
    *,
    now: datetime,
    max_affected: int | None = None,
    **changes: Unpack[TaskChanges],
) -> tuple[UUID, ...]:
    """Change every task of the actor that matches; return the ids of the altered tasks.

    Raises InvalidTask, and TooManyAffected if more than ``max_affected`` would be altered.
    """
    return await tasks.change_matching(
        actor.user_id, wanted, now=now, max_affected=max_affected, **changes
    )


async def delete_matching(
    tasks: TaskRepository,
    actor: Principal,
    wanted: TaskFilter,
    *,
    now: datetime,
    max_affected: int | None = None,
) -> tuple[UUID, ...]:
    """Delete every task of the actor that matches; return their ids. Raises TooManyAffected."""
    return await tasks.delete_matching(actor.user_id, wanted, now=now, max_affected=max_affected)


async def restore_tasks(
    tasks: TaskRepository, actor: Principal, task_ids: Collection[UUID], *, now: datetime
) -> tuple[UUID, ...]:
    """Undo the delete of each task that is deleted and can be restored; return their ids."""
    batch = Batch(tuple(map(RestoreTask, task_ids)), is_atomic=False)
    result = await tasks.apply(actor.user_id, batch, now=now)
    return tuple(
        task_id
        for task_id, outcome in zip(task_ids, result.outcomes, strict=True)
        if outcome.refusal is None
    )


async def apply_batch(
    tasks: TaskRepository,
    actor: Principal,
    batch: Batch,
    *,
    now: datetime,
    key: str | None = None,
) -> BatchResult:
    """Apply the operations of the batch and return the outcome of each.

    A repeated idempotency key returns the first result. Raises InvalidTask, IdempotencyKeyReused,
    and EditConflict if concurrent creations win every attempt.
    """
    result = await tasks.apply(actor.user_id, batch, now=now, key=key)
    for outcome in result.outcomes:
        if outcome.task is not None:
            require_owner(actor, outcome.task)
    return result


async def restore_task(
    tasks: TaskRepository, actor: Principal, task_id: UUID, *, now: datetime
) -> Task:
    """Undo a delete. Raises TaskNotFound and TaskNotDeleted."""
    return require_owner(actor, await tasks.restore(actor.user_id, task_id, now=now))


async def list_changes(
    tasks: TaskRepository,
    actor: Principal,
    token: SyncToken | None,
    *,
    limit: int,
    now: datetime,
    retention: timedelta = RETENTION,
) -> tuple[FeedPage, SyncToken]:
    """Return the changes since the token, and the next token.

    Without a token the changes are all live tasks. Raises SyncExpired if the client must start
    over.
    """
    page = await tasks.changes(
        actor.user_id,
        after=token.position if token else FeedPosition(),
        floor=token.floor if token else None,
        limit=limit,
    )
    if token is not None:
        token.require_valid(page.state, now, retention)
    for entry in page.entries:
        if entry.task is not None:
            require_owner(actor, entry.task)
    return page, next_token(token, page, now)


async def count_tasks(tasks: TaskRepository, actor: Principal) -> TaskCounts:
    """Count the actor's tasks."""
    return await tasks.count(actor.user_id)


async def read_user_data(tasks: TaskRepository, actor: Principal, *, now: datetime) -> UserData:
    """Return what is stored about the actor.

    The first page of tasks is read at once, so that an error that concerns every page is raised
    here. The others are read one by one.
    """
    user = await tasks.find_user(actor.user_id)
    first = await _read_page(tasks, actor, None, now)
    return UserData(user, _pages(tasks, actor, first, now))


async def import_tasks(
    tasks: TaskRepository, actor: Principal, imported: Sequence[StoredTask], *, now: datetime
) -> ImportResult:
    """Store the tasks of an export that are not stored yet, all or none.

    Raises ImportRefused, and EditConflict if concurrent creations win every attempt.
    """
    for each in imported:
        require_owner(actor, each.task)
    return await tasks.import_tasks(actor.user_id, imported, now=now)


async def erase_user(tasks: TaskRepository, actor: Principal) -> int:
    """Remove everything that is stored about the actor; return the number of tasks."""
    return await tasks.erase(actor.user_id)


async def _pages(
    tasks: TaskRepository, actor: Principal, page: StoredPage, now: datetime
) -> AsyncIterator[tuple[StoredTask, ...]]:
    """The tasks of this page and of those that follow."""
    yield page.tasks
    while page.has_more:
        page = await _read_page(tasks, actor, page.tasks[-1].task.id, now)
        yield page.tasks


async def _read_page(
    tasks: TaskRepository, actor: Principal, after: UUID | None, now: datetime
) -> StoredPage:
    page = await tasks.read_stored(actor.user_id, after=after, limit=EXPORT_PAGE, now=now)
    for each in page.tasks:
        require_owner(actor, each.task)
    return page


async def _edit_with_retry(
    tasks: TaskRepository,
    actor: Principal,
    task_id: UUID,
    versions: Versions,
    transition: Callable[[Task], Task],
    latest: Task | None = None,
) -> Changed:
    """Read the task, apply the transition and save; start again if the task has changed since.

    The first attempt uses the ``latest`` task, if it was read before.
    """
    for _ in range(EDIT_ATTEMPTS):
        task = latest or _require_version(await get_task(tasks, actor, task_id), versions)
        edited = transition(task)
        if edited is task:
            return Changed(task, await _find_successor(tasks, actor, task))
        successor = edited.successor() if edited.next_id != task.next_id else None
        with suppress(StaleVersion):
            return Changed(edited, await tasks.save(edited, successor=successor))
        latest = None
    raise EditConflict


async def _find_successor(tasks: TaskRepository, actor: Principal, task: Task) -> Task | None:
    """The successor of a task that was completed before, None if there is none any more."""
    if task.completed and task.next_id is not None:
        with suppress(TaskNotFound):
            return await get_task(tasks, actor, task.next_id)
    return None


def _require_version(task: Task, versions: Versions) -> Task:
    if versions is not None and task.version not in versions:
        raise StaleVersion
    return task
