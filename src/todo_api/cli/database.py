"""The database as commands use it: start, find, migrate and check it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import structlog
import typer
from pydantic import SecretStr

from todo_adapters.embedded_postgres.server import (
    EmbeddedPostgresError,
    embedded_postgres,
    running_url,
)
from todo_adapters.postgres import purge as expiry
from todo_adapters.postgres import schema
from todo_adapters.postgres.database import Database
from todo_adapters.postgres.diagnosis import explain, translate_errors
from todo_adapters.postgres.purge import Purged
from todo_api.main import database_url
from todo_api.server.logs import silence_logs
from todo_api.server.settings import ConfigurationError, Settings
from todo_domain.errors import DatabaseUnavailable

_log = structlog.get_logger()


@contextmanager
def embedded_database(settings: Settings, report: Callable[[str], None]) -> Iterator[Settings]:
    """Start the embedded PostgreSQL, unless DATABASE_URL is set; return settings with its URL.

    Raises ConfigurationError.
    """
    if settings.database_url is not None:
        yield settings
        return
    try:
        with embedded_postgres(settings.postgres_dir, report=report) as url:
            yield _with_url(settings, url)
    except EmbeddedPostgresError as error:
        raise ConfigurationError(str(error)) from error


def with_running_database(settings: Settings) -> Settings:
    """Settings with the URL of the PostgreSQL of a running ``todo-api dev``, if there is one.

    DATABASE_URL has precedence. Raises ConfigurationError.
    """
    try:
        url = None if settings.database_url else running_url(settings.postgres_dir)
    except EmbeddedPostgresError as error:
        raise ConfigurationError(str(error)) from error
    return _with_url(settings, url) if url else settings


def migrate(settings: Settings, *, reports_no_change: bool = True) -> None:
    """Apply missing migrations. Raises ConfigurationError and DatabaseUnavailable."""
    before, after = asyncio.run(_migrate(settings))
    if before is None:
        typer.echo(f"The database is now at schema version {after}.", err=True)
    elif before != after:
        typer.echo(f"The database is now at schema version {after}; it was at {before}.", err=True)
    elif reports_no_change:
        typer.echo(f"The database is at schema version {after}: no migration is missing.", err=True)


def resync(settings: Settings) -> None:
    """Start a new history of changes. Raises ConfigurationError and DatabaseUnavailable."""
    with translate_errors():
        asyncio.run(schema.start_epoch(database_url(settings)))


def purge(settings: Settings) -> Purged:
    """Purge what has expired, for all users. Raises ConfigurationError and DatabaseUnavailable."""
    silence_logs()
    return asyncio.run(_purge(settings))


async def check_schema(settings: Settings, migrate_command: str = "todo-api migrate") -> str:
    """The schema version of the database.

    Raises ConfigurationError if a migration is missing or if row-level security is not as
    DATABASE_RLS requires, and DatabaseUnavailable.
    """
    url = database_url(settings)
    with translate_errors():
        revision = await schema.current_revision(url)
        if revision is None or schema.is_behind(revision):
            raise ConfigurationError(
                f"the database has schema version {revision or 'none'}, but this program needs "
                f"{schema.wanted_revision()}: run `{migrate_command}`"
            )
        if problem := await schema.rls_problem(url, rls_enabled=settings.rls_enabled):
            raise ConfigurationError(problem)
    return revision


async def log_encoding_problem(settings: Settings) -> None:
    """Log that the database cannot store every text, and what to do. Raises DatabaseUnavailable."""
    with translate_errors():
        if problem := await schema.encoding_problem(database_url(settings)):
            _log.warning("database.configuration", hint=problem)


async def _purge(settings: Settings) -> Purged:
    await check_schema(settings)
    database = Database(database_url(settings), pool_size=1, rls_enabled=settings.rls_enabled)
    try:
        return await expiry.purge(
            database,
            now=datetime.now(UTC),
            retention=timedelta(days=settings.retention_days),
        )
    except DatabaseUnavailable as error:
        raise ConfigurationError(f"database: {explain(error)}") from None
    finally:
        await database.close()


async def _migrate(settings: Settings) -> tuple[str | None, str]:
    url = database_url(settings, direct=True)
    with translate_errors():
        if problem := await schema.encoding_problem(url):
            raise ConfigurationError(problem)
        return await schema.migrate(
            url,
            rls_enabled=settings.rls_enabled,
            role=database_url(settings).url.username,
        )


def _with_url(settings: Settings, url: str) -> Settings:
    return settings.model_copy(update={"database_url": SecretStr(url)})
