"""Inspects a database, and explains to an operator why the database cannot be used."""

import os
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any, Final

import asyncpg
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from todo_adapters.postgres.tables import SCHEMA
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
    (ConnectionRefusedError, "nothing listens at the host and port of DATABASE_URL"),
    (FileNotFoundError, "there is no server at the socket of DATABASE_URL"),
    (TimeoutError, "the server at the host of DATABASE_URL does not respond in time"),
    (OSError, "the server at the host of DATABASE_URL cannot be reached"),
    (
        asyncpg.ConnectionDoesNotExistError,
        "the server closed the connection: check that a PostgreSQL server listens at the port",
    ),
    (asyncpg.InterfaceError, "the server closed the connection"),
)
_NO_TLS: Final = "rejected SSL upgrade"  # in asyncpg's message
# By OpenSSL's reason
_CA_FIX: Final = "write sslrootcert=FILE with the certificate of the server's CA"
_CA_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # OpenSSL reads them
_CERTIFICATE_FIXES: Final = {
    "expired": "renew the server's certificate",
    "not yet valid": "check the clock of this machine",
    "mismatch": "write the host as it is in the certificate",
}
_DIALECT: Final = URL.create("postgresql+asyncpg").get_dialect()()

# One row. The statement reads no table that the role might not be allowed to read.
_INSPECTION: Final = """
    SELECT current_setting('server_version') AS version, current_user::text AS role, now() AS now,
        pg_is_in_recovery() AS is_standby, pg_backend_pid() AS backend,
        pg_encoding_to_char(encoding) AS encoding,
        current_setting('default_transaction_read_only') AS read_only,
        current_setting('default_transaction_isolation') AS default_transaction_isolation,
        current_setting('synchronous_commit') AS synchronous_commit,
        ARRAY(
            SELECT nspname FROM pg_namespace
            WHERE nspname = $1 AND NOT has_schema_privilege(oid, 'USAGE')
            UNION ALL
            SELECT relname FROM pg_class
            WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
                AND relkind IN ('r', 'p') AND NOT (
                    has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
                    AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))
        )::text[] AS forbidden
    FROM pg_database WHERE datname = current_database()
"""


@dataclass(frozen=True, slots=True)
class DatabaseReport:
    """The properties of a database that responds."""

    version: str
    role: str
    via_pooler: bool
    round_trip: timedelta
    clock_offset: timedelta  # how far the server's clock is ahead of this machine's
    failures: Sequence[str]  # what prevents the service from working, and what to do
    warnings: Sequence[str]


async def inspect_database(database_url: DatabaseUrl) -> DatabaseReport:
    """Connect once, change nothing, and report. Raises DatabaseUnavailable with the explanation.

    All statements run in one transaction, so a transaction pooler keeps them together.
    """
    with translate_errors():
        driver = await _connect(database_url)
        try:
            async with driver.transaction(readonly=True):
                seen = await driver.fetchrow(_INSPECTION, SCHEMA)
                clock_offset = seen["now"] - datetime.now(UTC)
                round_trip = await _round_trip(driver)
            # A pooler makes up the process id that it sends to the client.
            has_pooler = seen["backend"] != driver.get_server_pid()
        finally:
            driver.terminate()
    return DatabaseReport(
        version=seen["version"],
        role=seen["role"],
        via_pooler=database_url.via_pooler or has_pooler,
        round_trip=round_trip,
        clock_offset=clock_offset,
        failures=list(_failures(seen, database_url)),
        warnings=list(_warnings(seen)),
    )


async def _connect(database_url: DatabaseUrl) -> Any:  # noqa: ANN401 - asyncpg has no types
    _, arguments = _DIALECT.create_connect_args(database_url.url)
    arguments.update(timeout=CONNECT_TIMEOUT)
    arguments.update(database_url.connect_args)
    arguments.update(statement_cache_size=0)  # its statement names collide behind a pooler
    return await asyncpg.connect(**arguments)


async def _round_trip(driver: Any) -> timedelta:  # noqa: ANN401 - asyncpg has no types
    """The shortest of five: the others may include delays of this machine."""
    seconds = []
    for _ in range(5):
        start = perf_counter()
        await driver.execute("SELECT 1")
        seconds.append(perf_counter() - start)
    return timedelta(seconds=min(seconds))


def _failures(seen: Mapping[str, Any], database_url: DatabaseUrl) -> Iterator[str]:
    if seen["is_standby"]:
        yield (
            f"{database_url.display_name} is a read-only standby: use the host of the primary in "
            "DATABASE_URL"
        )
    elif seen["read_only"] == "on":
        yield (
            "default_transaction_read_only is on, so nothing can be written: run "
            f"ALTER ROLE {seen['role']} SET default_transaction_read_only = off"
        )
    if unsuitable := explain_encoding(seen["encoding"], database_url):
        yield unsuitable
    if seen["forbidden"]:
        names = ", ".join(sorted(seen["forbidden"]))
        yield (
            f"the role {seen['role']} has no privileges on {names}: run `todo-api migrate` with "
            "the owner's connection string in DATABASE_URL_DIRECT"
        )


def explain_encoding(encoding: str, database_url: DatabaseUrl) -> str | None:
    """Why the database's encoding is unsuitable, and what to do; None if it is UTF8."""
    if encoding == "UTF8":
        return None
    name = _DIALECT.identifier_preparer.quote(f"{database_url.url.database}_utf8")
    return (
        f"the database's encoding is {encoding}, which cannot store every text: create another "
        f"database with CREATE DATABASE {name} ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0, "
        "and use it in DATABASE_URL"
    )


def _warnings(seen: Mapping[str, Any]) -> Iterator[str]:
    unsuitable = {
        "synchronous_commit": (("off",), "on"),
        "default_transaction_isolation": (("repeatable read", "serializable"), "read committed"),
    }
    for name, (values, suitable) in unsuitable.items():
        if seen[name] in values:
            yield (
                f"{name} is {seen[name]}: the service overrides it, behind a pooler with three "
                "more round trips for each statement: run "
                f"ALTER ROLE {seen['role']} SET {name} = '{suitable}'"
            )


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn errors of asyncpg and SQLAlchemy into DatabaseUnavailable with the explanation."""
    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, DBAPIError) as failure:
        raise DatabaseUnavailable(f"database: {explain(failure)}") from failure


def explain(failure: BaseException) -> str:
    """The cause and what to check, without user, password or any value."""
    causes = list(_causes(failure))
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return _explain_tls(cause)
        if isinstance(cause, ConnectionError) and _NO_TLS in str(cause):
            return (
                "the server has no TLS: write sslmode=disable in DATABASE_URL if the network to it "
                "is private"
            )
        for kind, explanation in _EXPLANATIONS:
            if isinstance(cause, kind):
                return explanation
    root = causes[-1]
    state = getattr(root, "sqlstate", None)
    return f"the server returns an error ({type(root).__name__}, SQLSTATE {state})"


def _explain_tls(failure: ssl.SSLError) -> str:
    if not isinstance(failure, ssl.SSLCertVerificationError):
        return f"TLS with the server fails ({failure.reason}): check host, port and sslmode"
    reason = failure.verify_message.rstrip(".")
    fix = next((fix for text, fix in _CERTIFICATE_FIXES.items() if text in reason), _CA_FIX)
    if fix is _CA_FIX and (names := [name for name in _CA_VARIABLES if os.environ.get(name)]):
        fix += f", or correct {' and '.join(names)}"
    return f"the server's certificate is not valid for DATABASE_URL ({reason}): {fix}"


def _causes(failure: BaseException | None) -> Iterator[BaseException]:
    while failure:
        yield failure
        failure = failure.__cause__
