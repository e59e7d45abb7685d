"""The tables, in a schema of their own: Better Auth's tables usually are in ``public``.

Rows do not leave this package: ``rows.py`` converts them to tasks.
"""

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    MetaData,
    SmallInteger,
    Text,
    func,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

SCHEMA: Final = "todo"
OWNER_SETTING: Final = "app.user_id"  # the user of a transaction, for row-level security

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
    """A user who has created a task; ``last_seen_at`` is the time of the last one, to the hour."""

    metadata = metadata
    __tablename__ = "users"

    id: str = Field(sa_column=Column(Text, primary_key=True))
    first_seen_at: datetime
    last_seen_at: datetime


class TaskRow(SQLModel, table=True):
    """A task. ``priority`` is 1 for low to 3 for high, so that it can be sorted by.

    ``due_at`` holds a date without a time as its midnight in UTC; ``due_all_day`` is true then.
    ``title_folded`` and ``description_folded`` are the texts for searches; null for ASCII texts,
    which PostgreSQL folds itself. ``change`` is the number of the last change.

    ``repeat`` is the rule of a repeating task in JSON. ``anchor`` is the local time at which the
    first task of its series was due, ``next_id`` the id of the task that follows a completed one.
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
        # Without it a list of pending tasks would read all completed tasks too.
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
        Index("tasks_feed_idx", "user_id", "change", "id"),
        # For ``sort=position`` in ascending order.
        Index(
            "tasks_position_idx",
            "user_id",
            text("coalesce(position, '~')"),
            "id",
            postgresql_where=text("deleted_at IS NULL"),
        ),
    )

    user_id: str = Field(sa_type=Text, foreign_key=f"{SCHEMA}.users.id", primary_key=True)
    id: UUID = Field(primary_key=True)
    title: str = Field(sa_type=Text)
    title_folded: str | None = Field(sa_type=Text)
    description: str | None = Field(sa_type=Text)
    description_folded: str | None = Field(sa_type=Text)
    priority: int | None = Field(sa_type=SmallInteger)
    due_at: datetime | None
    due_all_day: bool
    tags: list[str] = Field(sa_type=ARRAY(Text))
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    version: int
    deleted_at: datetime | None
    change: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    position: str | None = Field(sa_type=Text(collation="C"))
    repeat: str | None = Field(sa_type=Text)
    time_zone: str | None = Field(sa_type=Text)
    anchor: datetime | None = Field(sa_type=TIMESTAMP)
    next_id: UUID | None


class ChangeCounterRow(SQLModel, table=True):
    """The number of a user's last change. Every write of the user's tasks updates it first."""

    metadata = metadata
    __tablename__ = "changes"
    __table_args__ = ({"postgresql_with": {"fillfactor": 50}},)  # space for HOT updates

    user_id: str = Field(sa_type=Text, primary_key=True)
    last: int = Field(sa_type=BigInteger)
    began_at: datetime = Field(sa_column_kwargs={"server_default": func.now()})


class SyncRow(SQLModel, table=True):
    """One row that identifies this history of changes. ``todo-api resync`` starts a new one."""

    metadata = metadata
    __tablename__ = "sync"
    __table_args__ = (CheckConstraint("one", name="one"),)

    one: bool = Field(primary_key=True, sa_column_kwargs={"server_default": true()})
    epoch: UUID = Field(sa_column_kwargs={"server_default": func.gen_random_uuid()})


class IdempotencyKeyRow(SQLModel, table=True):
    """An idempotency key of a user: a hash of the content that came with it, and the result.

    The result is the task that was added, or the outcomes of a batch.
    """

    metadata = metadata
    __tablename__ = "idempotency_keys"

    user_id: str = Field(sa_type=Text, primary_key=True)
    key: str = Field(sa_type=Text, primary_key=True)
    content: bytes
    task_id: UUID | None
    outcomes: list[Any] | None = Field(sa_type=JSONB)
    created_at: datetime


USERS: Final = metadata.tables[f"{SCHEMA}.users"]
TASKS: Final = metadata.tables[f"{SCHEMA}.tasks"]
IDEMPOTENCY_KEYS: Final = metadata.tables[f"{SCHEMA}.idempotency_keys"]
CHANGES: Final = metadata.tables[f"{SCHEMA}.changes"]
SYNC: Final = metadata.tables[f"{SCHEMA}.sync"]
