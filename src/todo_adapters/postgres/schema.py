"""Bringing the database's schema to the version that this code needs, and telling which it has."""

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

from todo_adapters.postgres.row_security import configure_rls, weakness
from todo_adapters.postgres.tables import SCHEMA
from todo_adapters.postgres.url import DatabaseUrl

# Any number, as long as every deploy takes the same: two at once then migrate one after the other.
_LOCK: Final = 7_046_029_254

CONNECT_TIMEOUT: Final = 5.0  # seconds: a serverless database may have to wake

_Result = TypeVar("_Result")


@cache
def wanted_revision() -> str:
    """The revision of the newest migration."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise RuntimeError("the package was built without its migrations")
    return revision


def is_behind(revision: str | None) -> bool:
    """Whether a migration is missing. A revision that is unknown here is a newer deploy's."""
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    return revision is None or (revision in known and revision != wanted_revision())


async def migrate(
    address: DatabaseUrl, *, rls_enabled: bool = False, role: str | None = None
) -> tuple[str | None, str]:
    """Apply the missing migrations in one transaction; return the revisions before and after.

    Puts the tasks behind row-level security or not, as wanted, with what the service's ``role``
    needs. Goes to the server itself where the address names a pooler. Raises what the driver does.
    """

    def upgrade(connection: Connection) -> tuple[str | None, str]:
        before = _upgrade(connection)
        configure_rls(connection, is_up=rls_enabled, role=role)
        return before, wanted_revision()

    return await _with_connection(address.direct(), upgrade)


async def current_revision(address: DatabaseUrl) -> str | None:
    """The revision that the database has, None before the first. Raises what the driver raises."""
    return await _with_connection(address, _revision)


async def rls_problem(address: DatabaseUrl, *, rls_enabled: bool) -> str | None:
    """What keeps row-level security from being as wanted, and the mend; None if nothing does."""
    return await _with_connection(
        address, lambda connection: weakness(connection, is_up=rls_enabled)
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


async def _with_connection(address: DatabaseUrl, work: Callable[[Connection], _Result]) -> _Result:
    connect_args = {"timeout": CONNECT_TIMEOUT, **address.connect_args}
    engine = create_async_engine(address.url, connect_args=connect_args, poolclass=NullPool)
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
