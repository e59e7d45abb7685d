"""What a database is like, and why it cannot be used: for the person who can mend it."""

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

_SENTENCES: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (asyncpg.InvalidPasswordError, "the server refuses the user or the password of DATABASE_URL"),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "the server does not let this user in: check the user of DATABASE_URL",
    ),
    (asyncpg.InvalidCatalogNameError, "the database that DATABASE_URL names does not exist"),
    (asyncpg.UndefinedTableError, "its tables are missing: run `todo-api migrate`"),
    (asyncpg.InvalidSchemaNameError, "its tables are missing: run `todo-api migrate`"),
    (asyncpg.InsufficientPrivilegeError, "the user of DATABASE_URL may not do this there"),
    (asyncpg.TooManyConnectionsError, "the server has no connection left: DATABASE_POOL_SIZE"),
    (asyncpg.CannotConnectNowError, "the server is starting or stopping: try again in a moment"),
    (socket.gaierror, "the host of DATABASE_URL has no address: check its name"),
    (ssl.SSLCertVerificationError, "the server's certificate does not prove its name"),
    (ssl.SSLError, "TLS with the server fails: check sslmode in DATABASE_URL"),
    (ConnectionRefusedError, "nothing listens at the host and port of DATABASE_URL"),
    (FileNotFoundError, "there is no server at the socket of DATABASE_URL"),
    (TimeoutError, "the server at the host of DATABASE_URL does not answer in time"),
    (OSError, "the server at the host of DATABASE_URL cannot be reached"),
    (asyncpg.InterfaceError, "the server closed the connection"),
)

CONNECT_TIMEOUT: Final = 5.0  # seconds

_LOOK: Final = text(
    "SELECT current_setting('server_version') AS version, current_user AS role, now() AS now,"
    " pg_is_in_recovery() AS is_standby,"
    " (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user) AS bypasses_rls"
)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A database that answers: what it is, how far away, and how far its clock is from ours."""

    version: str
    role: str
    bypasses_rls: bool
    is_standby: bool
    round_trip: timedelta
    clock_ahead: timedelta


async def inspect_database(address: DatabaseUrl) -> Diagnosis:
    """Connect and look around. Raises DatabaseUnavailable with a explain that says why not."""
    engine = create_async_engine(
        address.url,
        connect_args={"timeout": CONNECT_TIMEOUT, **address.connect_args},
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
    )
    try:
        with translate_errors():
            async with engine.connect() as connection:
                seen = (await connection.execute(_LOOK)).one()
                clock_ahead = seen.now - datetime.now(UTC)
                round_trip = await _round_trip(connection)
    finally:
        await engine.dispose()
    return Diagnosis(
        seen.version, seen.role, seen.bypasses_rls, seen.is_standby, round_trip, clock_ahead
    )


async def _round_trip(connection: AsyncConnection) -> timedelta:
    """The shortest of a few: what the network takes, without the hiccups."""
    seconds = []
    for _ in range(5):
        begun = perf_counter()
        await connection.execute(text("SELECT 1"))
        seconds.append(perf_counter() - begun)
    return timedelta(seconds=min(seconds))


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn what driver and SQLAlchemy raise into DatabaseUnavailable with such a explain."""
    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, DBAPIError) as failure:
        raise DatabaseUnavailable(f"database: {explain(failure)}") from failure


def explain(failure: BaseException) -> str:
    """Why, and what to look at. Never the address, the user or a value."""
    cause = failure
    while isinstance(cause, DBAPIError) or (cause.__cause__ and not _message(cause)):
        deeper = cause.orig if isinstance(cause, DBAPIError) else cause.__cause__
        if deeper is None:
            break
        cause = deeper
    state = getattr(cause, "sqlstate", None)
    unknown = f"the server answers with an error ({type(cause).__name__}, SQLSTATE {state})"
    return _message(cause) or unknown


def _message(failure: BaseException) -> str | None:
    return next((told for kind, told in _SENTENCES if isinstance(failure, kind)), None)
