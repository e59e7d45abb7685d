"""The database's schema: its revision, and its migration to the revision that this code needs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Final, TypeVar
from uuid import uuid4

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from todo_adapters.postgres.diagnosis import explain_encoding
from todo_adapters.postgres.row_security import configure_rls, find_rls_problem
from todo_adapters.postgres.tables import SCHEMA, SYNC
from todo_adapters.postgres.url import DatabaseUrl

# The key of an advisory lock: concurrent migrations run one after another.
_LOCK: Final = 7_046_029_254

LOCK_INTERVAL: Final = 0.5  # seconds between two attempts to take the lock of migrations
_LOCK_NOT_AVAILABLE: Final = "55P03"
LOCK_ATTEMPTS: Final = 60  # of a migration, each of which waits a second for a lock

CONNECT_TIMEOUT: Final = 15.0  # seconds: a serverless database may have to start first

_Result = TypeVar("_Result")


@cache
def wanted_revision() -> str:
    """The revision of the newest migration."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise RuntimeError("the installed package has no migrations: install it again")
    return revision


def is_behind(revision: str | None) -> bool:
    """Whether a migration is missing. An unknown revision is newer than this code."""
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    return revision is None or (revision in known and revision != wanted_revision())


async def migrate(
    database_url: DatabaseUrl, *, rls_enabled: bool = False, role: str | None = None
) -> tuple[str | None, str]:
    """Apply the missing migrations, each in one transaction; return the revisions before and after.

    A schema newer than this program stays as it is, so that a rollback can run ``migrate`` too.
    Also enables or disables row-level security, and grants the service's ``role`` what it needs.
    Connects past Neon's pooler. Raises the errors of asyncpg and SQLAlchemy.
    """
    async with _engine(database_url.direct()) as engine, engine.connect() as guard:
        driver: Any = (await guard.get_raw_connection()).driver_connection
        await _lock_migrations(driver)
        async with engine.connect() as connection:
            before, after = await connection.run_sync(_upgrade)
            await connection.run_sync(configure_rls, rls_enabled=rls_enabled, role=role)
            await connection.commit()
    return before, after


async def current_revision(database_url: DatabaseUrl) -> str | None:
    """The database's revision, None before the first migration. Raises as ``migrate`` does."""
    return await _with_connection(database_url, _revision)


async def start_epoch(database_url: DatabaseUrl) -> None:
    """Start a new history of changes: every client of the feed has to start over.

    Needed after a restore of the database, which may have undone changes.
    """
    await _with_connection(
        database_url, lambda connection: connection.execute(update(SYNC).values(epoch=uuid4()))
    )


async def rls_problem(database_url: DatabaseUrl, *, rls_enabled: bool) -> str | None:
    """Why row-level security is not as configured, and what to do; None if all is well."""
    return await _with_connection(
        database_url, lambda connection: find_rls_problem(connection, rls_enabled=rls_enabled)
    )


async def encoding_problem(database_url: DatabaseUrl) -> str | None:
    """Why the database's encoding is unsuitable, and what to do; None if all is well."""
    encoding = await _with_connection(
        database_url,
        lambda connection: connection.execute(text("SELECT getdatabaseencoding()")).scalar_one(),
    )
    return explain_encoding(encoding, database_url)


async def _lock_migrations(driver: Any) -> None:  # noqa: ANN401 - asyncpg has no types
    """Start a transaction that holds the lock of migrations until the connection is closed.

    A lock of the migrating connection would end with its first migration, and a lock of a session
    could outlive it behind a pooler. CREATE INDEX CONCURRENTLY waits for every older snapshot, so
    this connection must not keep one: not by a long wait for the lock, not by another isolation
    level, and not by an open portal, which a simple query does not leave behind.
    """
    while True:
        try:
            await driver.execute(
                "BEGIN ISOLATION LEVEL READ COMMITTED;"
                " SET LOCAL idle_in_transaction_session_timeout = 0;"
                f" SET LOCAL lock_timeout = '100ms'; SELECT pg_advisory_xact_lock({_LOCK})"
            )
        except asyncpg.LockNotAvailableError:
            await driver.execute("ROLLBACK")
            await asyncio.sleep(LOCK_INTERVAL)
        else:
            return


def _upgrade(connection: Connection) -> tuple[str | None, str]:
    """Apply the missing migrations; return the revisions before and after.

    A migration that waits too long for a lock is repeated: while it waits, it blocks the service.
    """
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    before = _revision(connection)
    connection.commit()
    if before is not None and not is_behind(before):
        return before, before
    for attempts_left in reversed(range(LOCK_ATTEMPTS)):
        try:
            command.upgrade(_config(connection), "head")
        except DBAPIError as failure:
            connection.rollback()
            if getattr(failure.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE or not attempts_left:
                raise
        else:
            break
    return before, wanted_revision()


def _revision(connection: Connection) -> str | None:
    options = {"version_table_schema": SCHEMA}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


async def _with_connection(
    database_url: DatabaseUrl, work: Callable[[Connection], _Result]
) -> _Result:
    """Run the work in one transaction on a connection of its own."""
    async with _engine(database_url) as engine, engine.begin() as connection:
        return await connection.run_sync(work)


@asynccontextmanager
async def _engine(database_url: DatabaseUrl) -> AsyncIterator[AsyncEngine]:
    connect_args = {
        "timeout": CONNECT_TIMEOUT,
        **database_url.connect_args,
        "statement_cache_size": 0,  # not every URL shows a pooler
    }
    engine = create_async_engine(
        database_url.url,
        connect_args=connect_args,
        poolclass=NullPool,
        isolation_level="READ COMMITTED",
    )
    try:
        yield engine
    finally:
        await engine.dispose()


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", "todo_adapters.postgres:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
