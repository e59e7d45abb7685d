"""The ports of the domain: protocols whose docstrings are the contract.

``tests/contracts.py`` has a contract suite for each port, which every implementation must pass.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol, Unpack
from uuid import UUID

from todo_domain.batch import Batch, BatchResult, StoredTask
from todo_domain.ownership import Principal
from todo_domain.queries import TaskCounts, TaskFilter, TaskPage, TaskQuery
from todo_domain.sync import Change, FeedPage, FeedPosition
from todo_domain.task import Task, TaskChanges
from todo_domain.user_data import ImportResult, StoredPage, UserRecord

RETENTION: Final = timedelta(days=30)
KEY_LIFETIME: Final = timedelta(hours=24)

# What a repository calls after each write that took a change number, or that failed and may have
# been committed. It neither waits nor raises.
ChangeListener = Callable[[Change], None]


class TaskRepository(Protocol):
    """Stores tasks. Each call is atomic, and durable once it has returned.

    A call reads and changes only the tasks of the owner that it names. Every call may raise
    DatabaseUnavailable, or Overloaded if it was refused before it changed anything, or InvalidTask
    for a text with a character that the storage does not have.

    A write that alters tasks takes the owner's next change number and stores it in the tasks. A
    write that alters nothing takes no number. When change n + 1 can be read, every change up to n
    can be read. Therefore ``changes`` skips no change, whatever writes run concurrently.
    """

    async def add(self, task: Task, *, key: str | None = None) -> Task:
        """Store a new task, record that its owner was seen, and return the task.

        Raises TaskIdTaken if the owner has a task with this id, also a deleted one that can still
        be restored. Tasks of other owners do not count.

        An idempotency ``key`` is valid for its owner and for KEY_LIFETIME. A second call with the
        same key stores nothing: it returns the task that the first call returned, or raises
        IdempotencyKeyReused if the ``content`` of the two tasks differs. Exactly one of several
        concurrent calls with the same key stores its task.
        """

    async def get(self, owner: str, task_id: UUID) -> Task:
        """Return the owner's task. Raises TaskNotFound."""

    async def find(self, owner: str, query: TaskQuery) -> TaskPage:
        """Return the page of the owner's tasks that the query describes.

        ``total`` is set if the query has ``with_total`` or if the page holds every match.
        """

    async def save(self, task: Task, *, successor: Task | None = None) -> Task | None:
        """Replace the stored task if its version is the one before this task's version.

        Raises StaleVersion otherwise, also if the task is missing or deleted. Exactly one of
        several concurrent calls for one version succeeds.

        The ``successor`` of a completed task is stored too, unless a live task has its id; the
        stored one is returned. If the task is pending and has a ``next_id``, the task with this id
        is deleted if the completion that is undone has made it and it is still at version 1; the
        task is stored without the ``next_id`` then.
        """

    async def change(
        self, owner: str, task_id: UUID, *, now: datetime, **changes: Unpack[TaskChanges]
    ) -> Task:
        """Apply ``Task.changed(now, **changes)`` to the latest version of the task and return it.

        A task for which ``Task.needs_save(changes)`` stays and is returned as it is. Raises
        TaskNotFound and InvalidTask; if both apply, either of them.
        """

    async def delete(
        self, owner: str, task_id: UUID, *, now: datetime, version: int | None = None
    ) -> Task:
        """Delete the owner's task and return it as it was.

        ``restore`` can undo this for RETENTION; for every other call the task is missing. Raises
        TaskNotFound. With a ``version`` it raises StaleVersion instead, also if the task is at
        another version.
        """

    async def change_matching(
        self,
        owner: str,
        wanted: TaskFilter,
        *,
        now: datetime,
        max_affected: int | None = None,
        **changes: Unpack[TaskChanges],
    ) -> tuple[UUID, ...]:
        """Apply ``Task.changed`` to every task that matches; return the ids of the altered tasks.

        Successors are stored and deleted as by ``save``; their ids are not returned.
        Raises InvalidTask, and TooManyAffected if more than ``max_affected`` would be altered.
        """

    async def delete_matching(
        self, owner: str, wanted: TaskFilter, *, now: datetime, max_affected: int | None = None
    ) -> tuple[UUID, ...]:
        """Delete every task that matches, as ``delete`` does; return their ids.

        Raises TooManyAffected if more than ``max_affected`` match.
        """

    async def apply(
        self, owner: str, batch: Batch, *, now: datetime, key: str | None = None
    ) -> BatchResult:
        """Apply the operations as ``todo_domain.batch.decide`` says, all at one moment.

        If the batch is atomic and an operation is refused, nothing is written. The operations are
        on different tasks. All writes of a batch have the same change number. Successors are stored
        and deleted as ``todo_domain.batch.with_successors`` says.

        An idempotency ``key`` works as for ``add``: a second call with the same key and an equal
        batch returns the first result, with another batch it raises IdempotencyKeyReused. Only an
        applied batch uses up its key. Tasks to add and batches share their keys.
        """

    async def restore(self, owner: str, task_id: UUID, *, now: datetime) -> Task:
        """Undo a delete and return the task as it was.

        Raises TaskNotDeleted if the task is not deleted, TaskNotFound if it is missing or was
        deleted RETENTION ago or earlier.
        """

    async def changes(
        self, owner: str, *, after: FeedPosition, floor: int | None, limit: int
    ) -> FeedPage:
        """Return the entries of the owner's tasks whose last change follows ``after``.

        The page has at most ``limit`` entries, in the order of their positions. A deleted task is
        included if its change number is above ``floor``, and never if ``floor`` is None. Deletions
        stay in the feed for RETENTION.
        """

    async def count(self, owner: str) -> TaskCounts:
        """Count the owner's tasks, which may cost as much as reading them."""

    async def find_user(self, owner: str) -> UserRecord | None:
        """Return when the owner was seen, None if never."""

    async def read_stored(
        self, owner: str, *, after: UUID | None, limit: int, now: datetime
    ) -> StoredPage:
        """Return at most ``limit`` of the owner's tasks whose ids follow ``after``.

        Deleted tasks that can still be restored are included. A task that exists while all pages
        are read is in exactly one of them, as it was at one moment in that time.
        """

    async def import_tasks(
        self, owner: str, imported: Sequence[StoredTask], *, now: datetime
    ) -> ImportResult:
        """Store the tasks that ``todo_domain.user_data.tasks_to_store`` selects, all or none.

        The tasks keep their times. All have the same change number; if there are none, no number is
        taken. Raises ImportRefused, and EditConflict if concurrent creations win every attempt.
        """

    async def erase(self, owner: str) -> int:
        """Remove everything that is stored about the owner; return the number of tasks.

        Deleted tasks are included. What the owner stores afterwards begins another epoch. A change
        that waited for the erasure finds no task, but can leave a counter of changes, which another
        call removes.
        """


class TokenVerifier(Protocol):
    """Verifies bearer tokens."""

    async def verify(self, token: str, now: datetime) -> Principal:
        """Return the user of a token that is valid at ``now`` (aware, UTC).

        Raises TokenRejected for every other text, and AuthKeysUnavailable if there is no key to
        verify the token with.
        """
