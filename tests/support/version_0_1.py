"""The writes of version 0.1, which run while a later version replaces it.

The SQL is what ``todo_adapters.postgres.tasks`` of version 0.1 compiled, shortened.
"""
# ruff: noqa: S608 - the SQL is made of constants

from datetime import datetime
from typing import Final, Unpack
from uuid import UUID

from todo_adapters.postgres.database import Database, Statement
from todo_adapters.postgres.rows import TASK_COLUMNS, row_from_task, task_from_row
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_domain.errors import TaskNotDeleted, TaskNotFound
from todo_domain.ports import RETENTION
from todo_domain.task import Task, TaskChanges

_COLUMNS: Final = (
    "id, user_id, title, description, priority, due_at, due_all_day, tags,"
    " created_at, updated_at, completed_at, version"
)
_RETURNED: Final = ", ".join(column.name for column in TASK_COLUMNS)  # with later columns
_IS_TASK: Final = "tasks.user_id = $1::varchar AND tasks.id = $2::uuid"
_PURGE: Final = """
WITH purged AS (DELETE FROM todo.tasks WHERE user_id = $1::varchar AND id IN (
  SELECT id FROM todo.tasks WHERE user_id = $1::varchar AND deleted_at <= $3::timestamptz
  FOR UPDATE SKIP LOCKED))
"""

ADD: Final = Statement(
    f"""
WITH seen AS (
  INSERT INTO todo.users (id, first_seen_at, last_seen_at)
  SELECT $2::varchar, $9::timestamptz, $9::timestamptz WHERE NOT EXISTS (
    SELECT * FROM todo.users
    WHERE users.id = $2::varchar AND users.last_seen_at > $13::timestamptz)
  ON CONFLICT (id) DO UPDATE SET last_seen_at = greatest(users.last_seen_at, excluded.last_seen_at))
INSERT INTO todo.tasks ({_COLUMNS})
VALUES ($1::uuid, $2::varchar, $3::varchar, $4::varchar, $5::smallint, $6::timestamptz, $7::boolean,
  $8::text[], $9::timestamptz, $10::timestamptz, $11::timestamptz, $12::integer)
""",
    (
        *("id", "owner", "title", "description", "priority", "due_at", "due_all_day", "tags"),
        *("created_at", "updated_at", "completed_at", "version", "seen_recently"),
    ),
)
CHANGE_TITLE: Final = Statement(
    f"""
UPDATE todo.tasks SET title = $3::varchar,
  updated_at = CASE WHEN tasks.title IS NOT DISTINCT FROM $3::varchar THEN tasks.updated_at
    ELSE greatest(tasks.updated_at, $4::timestamptz) END,
  version = tasks.version + CASE WHEN tasks.title IS NOT DISTINCT FROM $3::varchar THEN 0 ELSE 1 END
WHERE {_IS_TASK} AND tasks.deleted_at IS NULL RETURNING {_RETURNED}
""",
    ("owner", "id", "title", "now"),
)
COMPLETE: Final = Statement(
    f"""
UPDATE todo.tasks SET completed_at = coalesce(tasks.completed_at, $3::timestamptz),
  updated_at = CASE WHEN tasks.completed_at IS NOT NULL THEN tasks.updated_at
    ELSE greatest(tasks.updated_at, $3::timestamptz) END,
  version = tasks.version + CASE WHEN tasks.completed_at IS NOT NULL THEN 0 ELSE 1 END
WHERE {_IS_TASK} AND tasks.deleted_at IS NULL RETURNING {_RETURNED}
""",
    ("owner", "id", "now"),
)
DELETE: Final = Statement(
    f"""
{_PURGE}
UPDATE todo.tasks SET deleted_at = $4::timestamptz
WHERE {_IS_TASK} AND tasks.deleted_at IS NULL RETURNING {_RETURNED}
""",
    ("owner", "id", "expired", "now"),
)
DELETE_COMPLETED: Final = Statement(
    """
WITH purged AS (DELETE FROM todo.tasks WHERE user_id = $1::varchar AND id IN (
  SELECT id FROM todo.tasks WHERE user_id = $1::varchar AND deleted_at <= $2::timestamptz
  FOR UPDATE SKIP LOCKED))
UPDATE todo.tasks SET deleted_at = $3::timestamptz
WHERE tasks.user_id = $1::varchar AND deleted_at IS NULL AND completed_at IS NOT NULL RETURNING id
""",
    ("owner", "expired", "now"),
)
RESTORE: Final = Statement(
    f"""
WITH found AS (SELECT deleted_at AS was_deleted_at FROM todo.tasks WHERE {_IS_TASK}),
restored AS (UPDATE todo.tasks SET deleted_at = NULL
  WHERE {_IS_TASK} AND tasks.deleted_at > $3::timestamptz RETURNING {_RETURNED})
SELECT restored.*, found.was_deleted_at FROM found LEFT OUTER JOIN restored ON true
""",
    ("owner", "id", "expired"),
)


class TaskRepositoryOfVersion01(PostgresTaskRepository):
    """Writes with the SQL of version 0.1: add, change, delete, restore, delete completed tasks."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._fetch = database.fetch

    async def add(self, task: Task, *, key: str | None = None) -> Task:
        if key is not None:
            raise NotImplementedError
        seen_recently = task.created_at - RETENTION
        await self._fetch(ADD, **row_from_task(task), seen_recently=seen_recently)
        return task

    async def change(
        self, owner: str, task_id: UUID, *, now: datetime, **changes: Unpack[TaskChanges]
    ) -> Task:
        """Change the title, or complete the task."""
        statement = CHANGE_TITLE if "title" in changes else COMPLETE
        rows = await self._fetch(
            statement, owner=owner, id=task_id, now=now, title=changes.get("title")
        )
        if not rows:
            raise TaskNotFound
        return task_from_row(rows[0])

    async def delete(
        self, owner: str, task_id: UUID, *, now: datetime, version: int | None = None
    ) -> Task:
        if version is not None:
            raise NotImplementedError
        expired = now - RETENTION
        rows = await self._fetch(DELETE, owner=owner, id=task_id, now=now, expired=expired)
        if not rows:
            raise TaskNotFound
        return task_from_row(rows[0])

    async def delete_completed(self, owner: str, *, now: datetime) -> tuple[UUID, ...]:
        expired = now - RETENTION
        rows = await self._fetch(DELETE_COMPLETED, owner=owner, now=now, expired=expired)
        return tuple(row["id"] for row in rows)

    async def restore(self, owner: str, task_id: UUID, *, now: datetime) -> Task:
        expired = now - RETENTION
        rows = await self._fetch(RESTORE, owner=owner, id=task_id, expired=expired)
        if not rows:
            raise TaskNotFound
        if rows[0]["id"] is None:
            raise TaskNotDeleted
        return task_from_row(rows[0])
