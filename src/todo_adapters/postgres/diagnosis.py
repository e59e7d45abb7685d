"""Why a database cannot be used, in a sentence for the person who can mend it."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg
from sqlalchemy.exc import DBAPIError

from todo_domain.errors import DatabaseUnavailable

_SENTENCES: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (asyncpg.InvalidPasswordError, "the server refuses the user or the password of DATABASE_URL"),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "the server does not let this user in: check the user of DATABASE_URL",
    ),
    (asyncpg.InvalidCatalogNameError, "the database that DATABASE_URL names does not exist"),
    (
        asyncpg.InsufficientPrivilegeError,
        "the user of DATABASE_URL may not do this in the database",
    ),
    (
        asyncpg.TooManyConnectionsError,
        "the server has no connection left: lower DATABASE_POOL_SIZE",
    ),
    (asyncpg.CannotConnectNowError, "the server is starting or stopping: try again in a moment"),
    (socket.gaierror, "the host of DATABASE_URL has no address: check its name"),
    (
        ssl.SSLCertVerificationError,
        "the server's certificate does not prove its name: check the host",
    ),
    (ssl.SSLError, "TLS with the server fails: check sslmode in DATABASE_URL"),
    (ConnectionRefusedError, "nothing listens at the host and port of DATABASE_URL"),
    (FileNotFoundError, "there is no server at the socket of DATABASE_URL"),
    (TimeoutError, "the server at the host of DATABASE_URL does not answer in time"),
    (OSError, "the server at the host of DATABASE_URL cannot be reached"),
    (asyncpg.InterfaceError, "the server closed the connection"),
)


@contextmanager
def plain_failures() -> Iterator[None]:
    """Turn what driver and SQLAlchemy raise into DatabaseUnavailable with such a sentence."""
    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, DBAPIError) as failure:
        raise DatabaseUnavailable(f"database: {sentence(failure)}") from failure


def sentence(failure: BaseException) -> str:
    """Why, and what to look at. Never the address, the user or a value."""
    cause = failure.orig.__cause__ if isinstance(failure, DBAPIError) and failure.orig else failure
    for kind, told in _SENTENCES:
        if isinstance(cause, kind):
            return told
    state = getattr(cause, "sqlstate", None)
    return f"the server answers with an error ({type(cause).__name__}, SQLSTATE {state})"
