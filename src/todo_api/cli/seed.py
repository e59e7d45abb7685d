"""``todo-api seed``: example tasks for a user."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

import uuid_utils.compat

from todo_adapters.postgres.database import Database
from todo_adapters.postgres.diagnosis import explain
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_api.cli.database import with_running_database
from todo_api.main import database_url
from todo_api.server.logs import silence_logs
from todo_api.server.settings import ConfigurationError, Settings
from todo_domain import use_cases
from todo_domain.errors import DatabaseUnavailable
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


def seed_user(settings: Settings, user_id: str) -> int:
    """Create example tasks and return their number. Raises ConfigurationError."""
    silence_logs()
    return asyncio.run(_seed(with_running_database(settings), user_id))


async def _seed(settings: Settings, user_id: str) -> int:
    database = Database(database_url(settings), pool_size=1, rls_enabled=settings.rls_enabled)
    try:
        return await _create_tasks(PostgresTaskRepository(database), user_id, datetime.now(UTC))
    except DatabaseUnavailable as error:
        raise ConfigurationError(f"database: {explain(error)}") from None
    finally:
        await database.close()


async def _create_tasks(tasks: TaskRepository, user_id: str, now: datetime) -> int:
    """Create tasks with creation days before ``now`` and due dates from today on."""
    actor = Principal(user_id, expires_at=now)
    for age, members in enumerate(_TASKS):
        created = now - timedelta(days=len(_TASKS) - age)
        task: TaskChanges = {**members, "due_date": now.date() + timedelta(days=age)}
        await use_cases.create_task(tasks, actor, uuid_utils.compat.uuid7(), now=created, **task)
    return len(_TASKS)
