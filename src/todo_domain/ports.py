"""What the domain needs from outside, as protocols whose docstrings are the contract.

``tests/contracts.py`` turns each into a suite that every implementation has to pass.
"""

from datetime import datetime, timedelta
from typing import Final, Protocol, Unpack
from uuid import UUID

from todo_domain.ownership import Principal
from todo_domain.queries import TaskCounts, TaskPage, TaskQuery
from todo_domain.task import Task, TaskChanges

RETENTION: Final = timedelta(days=30)
KEY_LIFETIME: Final = timedelta(hours=24)


class TaskRepository(Protocol):
    """Where tasks live. Each call is atomic and lasts once it has returned.

    Every call names the owner and can neither read nor change anybody else's task. Any call may
    raise DatabaseUnavailable or Overloaded; the latter has changed nothing.
    """

    async def add(self, task: Task, *, key: str | None = None) -> Task:
        """Store a new task, note that its owner was seen, and return the task.

        With an idempotency ``key`` this happens once: while the key is remembered (KEY_LIFETIME),
        the same owner's next call with it stores nothing. It returns the task of the first call, as
        that call did, or raises IdempotencyKeyReused if the two tasks differ
        in what their author wrote. Of rivals with one key, one stores.
        """

    async def get(self, owner: str, task_id: UUID) -> Task:
        """The owner's task. Raises TaskNotFound."""

    async def find(self, owner: str, query: TaskQuery) -> TaskPage:
        """The page of the owner's tasks that the query describes.

        ``total`` is set when it was asked for and when the page holds every match.
        """

    async def save(self, task: Task) -> None:
        """Replace the stored task if it is still at the version before this one.

        Raises StaleVersion when it is at another version or gone: of rivals that read the same
        version exactly one succeeds.
        """

    async def change(
        self, owner: str, task_id: UUID, *, now: datetime, **changes: Unpack[TaskChanges]
    ) -> Task:
        """Apply ``Task.changed(now, **changes)`` to the task at its latest version.

        Returns the task as it is now stored. Raises TaskNotFound or InvalidTask; either, where
        both are so.
        """

    async def delete(
        self, owner: str, task_id: UUID, *, now: datetime, version: int | None = None
    ) -> Task:
        """Take the owner's task away, restorable for RETENTION, and return it as it was.

        To every other call but ``restore`` it is then missing. Raises TaskNotFound; with a
        ``version``, StaleVersion when the task is at another one or gone.
        """

    async def delete_completed(self, owner: str, *, now: datetime) -> int:
        """Take all of the owner's completed tasks away like ``remove``; return how many."""

    async def restore(self, owner: str, task_id: UUID, *, now: datetime) -> Task:
        """Bring a removed task back as it was, and return it.

        Raises TaskNotDeleted when it was not removed, TaskNotFound when it is missing or was
        removed longer than RETENTION ago.
        """

    async def count(self, owner: str) -> TaskCounts:
        """How many tasks the owner has. May cost as much as reading them."""


class TokenVerifier(Protocol):
    """The judge of bearer tokens."""

    async def verify(self, token: str, now: datetime) -> Principal:
        """The user for whom the token speaks at ``now`` (aware, UTC).

        Raises TokenRejected for any text that is not a valid token, whatever it contains, and
        AuthKeysUnavailable when there is no key to judge it by.
        """
