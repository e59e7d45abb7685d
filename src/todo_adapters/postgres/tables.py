"""The tables, in a schema of their own: Better Auth's usually live in the database's ``public``.

Rows never leave this package; the domain's objects are made from them in ``tasks.py``.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, Index, MetaData, SmallInteger, Text, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

SCHEMA = "todo"
OWNER_SETTING = "app.user_id"  # names the user to row-level security, for one transaction

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
    },
)


class UserRow(SQLModel, table=True):
    """Whoever has created a task; ``last_seen_at`` is when they last did, to the hour."""

    metadata = metadata
    __tablename__ = "users"

    id: str = Field(sa_column=Column(Text, primary_key=True))
    first_seen_at: datetime
    last_seen_at: datetime


class TaskRow(SQLModel, table=True):
    """A task. ``priority`` is 1 for low to 3 for high, so that it sorts as people mean.

    ``due_at`` holds a plain date as its midnight in UTC, and ``due_all_day`` that it was one.
    """

    metadata = metadata
    __tablename__ = "tasks"
    __table_args__ = (
        CheckConstraint("priority BETWEEN 1 AND 3", name="priority"),
        Index(
            "tasks_live_newest_idx",
            "user_id",
            text("created_at DESC"),
            text("id DESC"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
        # A list of the pending would else read through all that was ever completed.
        Index(
            "tasks_pending_newest_idx",
            "user_id",
            text("created_at DESC"),
            text("id DESC"),
            postgresql_where=text("deleted_at IS NULL AND completed_at IS NULL"),
        ),
        Index(
            "tasks_deleted_idx",
            "user_id",
            "deleted_at",
            postgresql_where=text("deleted_at IS NOT NULL"),
        ),
    )

    id: UUID = Field(primary_key=True)
    user_id: str = Field(sa_type=Text, foreign_key=f"{SCHEMA}.users.id")
    title: str = Field(sa_type=Text)
    description: str | None = Field(sa_type=Text)
    priority: int | None = Field(sa_type=SmallInteger)
    due_at: datetime | None
    due_all_day: bool
    tags: list[str] = Field(sa_type=ARRAY(Text))
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    version: int
    deleted_at: datetime | None


class IdempotencyKeyRow(SQLModel, table=True):
    """What a user's idempotency key was first used for: the hash of the content, and the task."""

    metadata = metadata
    __tablename__ = "idempotency_keys"

    user_id: str = Field(sa_type=Text, primary_key=True)
    key: str = Field(sa_type=Text, primary_key=True)
    content: bytes
    task_id: UUID
    created_at: datetime
