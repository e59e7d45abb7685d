"""A PostgreSQL for the tests: one server a session, a migrated template, and copies of that.

``server_url`` alone decides which server it is; everything else follows from its URL.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import asyncpg
import pytest

from todo_adapters.postgres.embedded import embedded_postgres
from todo_adapters.postgres.engine import Database, Statement
from todo_adapters.postgres.schema import migrate
from todo_adapters.postgres.url import DatabaseAddress, parse_database_url

TEMPLATE = "migrated"

Branch = Callable[[str], Awaitable[DatabaseAddress]]
Erase = Callable[[Database], Awaitable[object]]


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The server that the tests run on, as a URL of a database on it."""
    with (
        TemporaryDirectory(prefix="todo-tests-") as directory,
        embedded_postgres(Path(directory)) as url,
    ):
        yield url


@pytest.fixture(scope="session")
async def branch(server_url: str) -> Branch:
    """Makes databases of the given names that have the schema and no rows."""
    # Nothing here has to survive a power cut.
    await execute(server_url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
    await execute(server_url, f"CREATE DATABASE {TEMPLATE}")
    await migrate(database_at(server_url, TEMPLATE))

    async def make(name: str) -> DatabaseAddress:
        await execute(server_url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return database_at(server_url, name)

    return make


@pytest.fixture(scope="session")
def erase() -> Erase:
    """Empties a database's tables; a few rows go faster by DELETE than by TRUNCATE."""
    rows = Statement(
        "WITH tasks AS (DELETE FROM todo.tasks), keys AS (DELETE FROM todo.idempotency_keys)"
        " DELETE FROM todo.users",
        (),
    )
    return lambda database: database.fetch(rows)


@pytest.fixture(scope="session")
async def address(branch: Branch) -> DatabaseAddress:
    """A database that has the schema. Who stores something in it empties its tables."""
    return await branch("tests")


@pytest.fixture(scope="session")
async def shared_database(address: DatabaseAddress) -> AsyncIterator[Database]:
    database = Database(address, pool_size=10)
    yield database
    await database.close()


@pytest.fixture
async def database(shared_database: Database, erase: Erase) -> AsyncIterator[Database]:
    """A database whose tables are empty, with ten connections."""
    yield shared_database
    await erase(shared_database)


@pytest.fixture
async def empty_database(server_url: str) -> DatabaseAddress:
    """A database of its own without any schema. It goes with the server."""
    name = f"empty_{uuid4().hex}"
    await execute(server_url, f"CREATE DATABASE {name}")
    return database_at(server_url, name)


def database_at(server_url: str, name: str) -> DatabaseAddress:
    address = parse_database_url(server_url)
    return replace(address, url=address.url.set(database=name))


async def execute(server_url: str, *statements: str) -> None:
    connection = await asyncpg.connect(server_url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
