"""Lifelike tasks for a user, to look at and to play with."""

from datetime import datetime, timedelta
from typing import Final

import uuid_utils.compat

from todo_domain import use_cases
from todo_domain.ownership import Principal
from todo_domain.ports import TaskRepository
from todo_domain.task import Priority, TaskChanges

_TASKS: Final[tuple[TaskChanges, ...]] = (
    {"title": "Renew the passport", "priority": Priority.HIGH, "tags": ["errands"]},
    {"title": "Call the dentist", "tags": ["health", "errands"]},
    {"title": "Water the plants", "completed": True, "tags": ["home"]},
    {"title": "Book the train to Besançon 🚆", "priority": Priority.MEDIUM, "tags": ["travel"]},
    {"title": "Read chapter 4", "description": "The part on queues.\nTake notes."},
    {"title": "Pay the electricity bill", "priority": Priority.HIGH, "completed": True},
    {"title": "Plan Sunday's dinner", "priority": Priority.LOW, "tags": ["home"]},
)


async def seed_tasks(tasks: TaskRepository, user_id: str, now: datetime) -> int:
    """Create the tasks, made on the days before ``now`` and due on those after; return how many."""
    actor = Principal(user_id, expires_at=now)
    for age, members in enumerate(_TASKS):
        created = now - timedelta(days=len(_TASKS) - age)
        lifelike: TaskChanges = {**members, "due_date": now.date() + timedelta(days=age)}
        task_id = uuid_utils.compat.uuid7()
        await use_cases.create_task(tasks, actor, task_id, now=created, **lifelike)
    return len(_TASKS)
