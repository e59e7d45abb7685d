"""The database's schema: its revision, and its migration to the revision that this code needs."""

from collections.abc import Callable
from functools import cache
from typing import Final, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from todo_adapters.postgres.row_security import configure_rls, find_rls_problem
from todo_adapters.postgres.tables import SCHEMA
from todo_adapters.postgres.url import DatabaseUrl

# The key of an advisory lock: concurrent migrations run one after another.
_LOCK: Final = 7_046_029_254

CONNECT_TIMEOUT: Final = 5.0  # seconds: a serverless database may have to start first

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
    """Apply the missing migrations in one transaction; return the revisions before and after.

    Also enables or disables row-level security, and grants the service's ``role`` what it needs.
    Connects past Neon's pooler. Raises the errors of asyncpg and SQLAlchemy.
    """

    def upgrade(connection: Connection) -> tuple[str | None, str]:
        before = _upgrade(connection)
        configure_rls(connection, rls_enabled=rls_enabled, role=role)
        return before, wanted_revision()

    return await _with_connection(database_url.direct(), upgrade)


async def current_revision(database_url: DatabaseUrl) -> str | None:
    """The database's revision, None before the first migration. Raises as ``migrate`` does."""
    return await _with_connection(database_url, _revision)


async def rls_problem(database_url: DatabaseUrl, *, rls_enabled: bool) -> str | None:
    """Why row-level security is not as configured, and what to do; None if all is well."""
    return await _with_connection(
        database_url, lambda connection: find_rls_problem(connection, rls_enabled=rls_enabled)
    )


def _upgrade(connection: Connection) -> str | None:
    """Apply the missing migrations; return the revision before."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    before = _revision(connection)
    command.upgrade(_config(connection), "head")
    return before


def _revision(connection: Connection) -> str | None:
    options = {"version_table_schema": SCHEMA}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


async def _with_connection(
    database_url: DatabaseUrl, work: Callable[[Connection], _Result]
) -> _Result:
    """Run the work in one transaction on a connection of its own."""
    connect_args = {"timeout": CONNECT_TIMEOUT, **database_url.connect_args}
    engine = create_async_engine(database_url.url, connect_args=connect_args, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(work)
    finally:
        await engine.dispose()


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", "todo_adapters.postgres:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
