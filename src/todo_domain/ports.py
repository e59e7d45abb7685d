"""What the domain needs from outside, as protocols whose docstrings are the contract.

``tests/contracts.py`` turns each into a suite that every implementation has to pass.
"""

from datetime import datetime
from typing import Protocol
from uuid import UUID

from todo_domain.ownership import Principal
from todo_domain.queries import TaskPage, TaskQuery
from todo_domain.task import Task


class TaskRepository(Protocol):
    """Where tasks live. Each call is atomic and lasts once it has returned.

    Every call names the owner and can neither read nor change anybody else's task. Any call may
    raise DatabaseUnavailable or Overloaded; the latter has changed nothing.
    """

    async def add(self, task: Task) -> None:
        """Store a new task and note that its owner was seen."""

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

    async def set_completed(
        self, owner: str, task_id: UUID, *, completed: bool, now: datetime
    ) -> Task:
        """Apply ``Task.changed(now, completed=completed)`` to the task at its latest version.

        Returns the task as it is now stored. Raises TaskNotFound.
        """

    async def remove(self, owner: str, task_id: UUID) -> Task:
        """Take the owner's task away and return it as it was. Raises TaskNotFound."""


class TokenVerifier(Protocol):
    """The judge of bearer tokens."""

    async def verify(self, token: str, now: datetime) -> Principal:
        """The user for whom the token speaks at ``now`` (aware, UTC).

        Raises TokenRejected for any text that is not a valid token, whatever it contains, and
        AuthKeysUnavailable when there is no key to judge it by.
        """
