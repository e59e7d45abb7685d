"""The authenticated user, and the rule that users reach only their own tasks."""

from dataclasses import dataclass, field
from datetime import datetime

from todo_domain.errors import TaskNotFound
from todo_domain.task import Task


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated user, from a verified token that expires at ``expires_at``.

    ``user_id`` is the token's ``sub``, compared and stored as text and never parsed. ``name`` and
    ``email`` are text that the user chose: show them, but never authorize by them.
    """

    user_id: str
    expires_at: datetime
    name: str | None = field(default=None, repr=False)
    email: str | None = field(default=None, repr=False)


def require_owner(actor: Principal, task: Task) -> Task:
    """Return the task if the actor owns it. Raises TaskNotFound, as for a task that is missing."""
    if task.owner != actor.user_id:
        raise TaskNotFound
    return task
