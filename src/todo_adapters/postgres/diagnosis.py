"""Inspects a database, and explains to an operator why the database cannot be used."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Final

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from todo_adapters.postgres.url import DatabaseUrl
from todo_domain.errors import DatabaseUnavailable

CONNECT_TIMEOUT: Final = 5.0  # seconds

_EXPLANATIONS: Final[tuple[tuple[type[BaseException], str], ...]] = (  # subclasses come first
    (asyncpg.InvalidPasswordError, "the server refuses the user or the password of DATABASE_URL"),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "the server does not let this user in: check the user of DATABASE_URL",
    ),
    (asyncpg.InvalidCatalogNameError, "the database that DATABASE_URL names does not exist"),
    (asyncpg.UndefinedTableError, "the tables are missing: run `todo-api migrate`"),
    (asyncpg.InvalidSchemaNameError, "the tables are missing: run `todo-api migrate`"),
    (asyncpg.InsufficientPrivilegeError, "the user of DATABASE_URL lacks a privilege for this"),
    (asyncpg.TooManyConnectionsError, "the server is out of connections: lower DATABASE_POOL_SIZE"),
    (asyncpg.CannotConnectNowError, "the server is starting or stopping: try again in a moment"),
    (socket.gaierror, "the host of DATABASE_URL has no address: check its name"),
    (ssl.SSLCertVerificationError, "the server's certificate is not valid for DATABASE_URL's host"),
    (ssl.SSLError, "TLS with the server fails: check sslmode in DATABASE_URL"),
    (ConnectionRefusedError, "nothing listens at the host and port of DATABASE_URL"),
    (FileNotFoundError, "there is no server at the socket of DATABASE_URL"),
    (TimeoutError, "the server at the host of DATABASE_URL does not respond in time"),
    (OSError, "the server at the host of DATABASE_URL cannot be reached"),
    (asyncpg.InterfaceError, "the server closed the connection"),
)

_INSPECTION: Final = text(
    "SELECT current_setting('server_version') AS version, current_user AS role, now() AS now,"
    " pg_is_in_recovery() AS is_standby"
)


@dataclass(frozen=True, slots=True)
class DatabaseReport:
    """The properties of a database that responds."""

    version: str
    role: str
    is_standby: bool
    round_trip: timedelta
    clock_ahead: timedelta  # of this machine's clock


async def inspect_database(database_url: DatabaseUrl) -> DatabaseReport:
    """Connect once and report. Raises DatabaseUnavailable with the explanation."""
    engine = create_async_engine(
        database_url.url,
        connect_args={"timeout": CONNECT_TIMEOUT, **database_url.connect_args},
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
    )
    try:
        with translate_errors():
            async with engine.connect() as connection:
                seen = (await connection.execute(_INSPECTION)).one()
                clock_ahead = seen.now - datetime.now(UTC)
                round_trip = await _round_trip(connection)
    finally:
        await engine.dispose()
    return DatabaseReport(seen.version, seen.role, seen.is_standby, round_trip, clock_ahead)


async def _round_trip(connection: AsyncConnection) -> timedelta:
    """The shortest of five: the others may include delays of this machine."""
    seconds = []
    for _ in range(5):
        start = perf_counter()
        await connection.execute(text("SELECT 1"))
        seconds.append(perf_counter() - start)
    return timedelta(seconds=min(seconds))


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn errors of asyncpg and SQLAlchemy into DatabaseUnavailable with the explanation."""
    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, DBAPIError) as failure:
        raise DatabaseUnavailable(f"database: {explain(failure)}") from failure


def explain(failure: BaseException) -> str:
    """The cause and what to check, without host, user or any value."""
    causes = list(_causes(failure))
    for cause in causes:
        for kind, explanation in _EXPLANATIONS:
            if isinstance(cause, kind):
                return explanation
    root = causes[-1]
    state = getattr(root, "sqlstate", None)
    return f"the server returns an error ({type(root).__name__}, SQLSTATE {state})"


def _causes(failure: BaseException | None) -> Iterator[BaseException]:
    while failure:
        yield failure
        failure = failure.__cause__
