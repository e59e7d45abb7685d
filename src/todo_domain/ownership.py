"""Who is acting, and the one rule about whose tasks they may touch."""

from dataclasses import dataclass, field
from datetime import datetime

from todo_domain.errors import TaskNotFound
from todo_domain.task import Task


@dataclass(frozen=True, slots=True)
class Principal:
    """The user that a verified token speaks for.

    ``user_id`` is compared and stored as it came, never parsed. ``name`` and ``email`` are display
    text that the user chose: nothing may be decided by them. The token ends at ``expires_at``.
    """

    user_id: str
    expires_at: datetime
    name: str | None = field(default=None, repr=False)
    email: str | None = field(default=None, repr=False)


def require_owner(actor: Principal, task: Task) -> Task:
    """The task, if it is the actor's. Raises TaskNotFound, so that a stranger learns nothing."""
    if task.owner != actor.user_id:
        raise TaskNotFound
    return task
