"""A sandbox per module, and one PostgreSQL server per worker with copies of a migrated template.

``server_url`` alone determines the server. Tests that must pass on other kinds of servers too use
``target``.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from support.neon import neon_branch, neon_client
from support.ports import own_address
from support.postgres.clusters import copy_cluster
from support.postgres.faults import USER, server_in
from support.postgres.pgbouncer import PORT, Certificate, operators_url, pgbouncer_before
from support.programs import require
from support.service import Sandbox, new_sandbox
from todo_adapters.embedded_postgres.server import embedded_postgres
from todo_adapters.postgres.database import Database, Statement
from todo_adapters.postgres.schema import current_revision, migrate
from todo_adapters.postgres.url import DatabaseUrl, parse_database_url

TEMPLATE = "migrated"

NEON: Final = (os.environ.get("NEON_PROJECT_ID"), os.environ.get("NEON_API_KEY"))
SERVER: Final = os.environ.get("TEST_DATABASE_URL")
# The kinds of servers, each with the fixture of a database on it.
TARGETS: Final = (
    {"embedded": "address", "pgbouncer": "behind_pgbouncer"}
    | ({"neon": "on_neon_branch"} if all(NEON) else {})
    | ({"server": "on_server"} if SERVER else {})
)

Branch = Callable[[str], Awaitable[DatabaseUrl]]
Erase = Callable[[Database], Awaitable[object]]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with new_sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The URL of a database on the server that the tests use."""
    with TemporaryDirectory(prefix="todo-server-") as directory:
        copy_cluster(Path(directory))
        with embedded_postgres(Path(directory)) as url:
            yield url


@pytest.fixture(scope="session")
async def branch(server_url: str) -> Branch:
    """Creates migrated, empty databases of the given names."""
    await execute(server_url, f"CREATE DATABASE {TEMPLATE}")
    await migrate(database_at(server_url, TEMPLATE))

    async def make(name: str) -> DatabaseUrl:
        await execute(server_url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return database_at(server_url, name)

    return make


@pytest.fixture(scope="session")
def erase() -> Erase:
    """Empties the tables of a database. For a few rows, DELETE is faster than TRUNCATE."""
    rows = Statement(
        "WITH tasks AS (DELETE FROM todo.tasks), keys AS (DELETE FROM todo.idempotency_keys),"
        " changes AS (DELETE FROM todo.changes)"
        " DELETE FROM todo.users",
        (),
    )
    return lambda database: database.fetch(rows)


@pytest.fixture(scope="session")
async def address(branch: Branch) -> DatabaseUrl:
    """A migrated database. A test that stores rows in it has to empty its tables."""
    return await branch("tests")


@pytest.fixture(scope="session")
async def shared_database(address: DatabaseUrl) -> AsyncIterator[Database]:
    database = Database(address, pool_size=10)
    yield database
    await database.close()


@pytest.fixture
async def embedded_database(shared_database: Database, erase: Erase) -> AsyncIterator[Database]:
    """A migrated, empty database, with ten connections."""
    yield shared_database
    await erase(shared_database)


@pytest.fixture
def database(embedded_database: Database) -> Database:
    """The embedded database. A module can override this by ``target_database``."""
    return embedded_database


@pytest.fixture(scope="session", params=TARGETS.values(), ids=list(TARGETS))
def target(request: pytest.FixtureRequest) -> DatabaseUrl:
    """A migrated database on each kind of server."""
    address: DatabaseUrl = request.getfixturevalue(request.param)
    return address


@pytest.fixture(scope="session")
async def behind_pgbouncer() -> AsyncIterator[DatabaseUrl]:
    """A database behind Debian's PgBouncer."""
    require("pgbouncer")
    with TemporaryDirectory(prefix="todo-pgbouncer-") as directory:
        certificate = Certificate.issued(Path(directory, "tls"), own_address())
        async with server_in(Path(directory, "server")) as server:
            await migrate(parse_database_url(server.url), role=USER)
            with pgbouncer_before(server, certificate):
                yield parse_database_url(operators_url(certificate, PORT))


@pytest.fixture(scope="session")
async def on_neon_branch() -> AsyncIterator[DatabaseUrl]:
    """A new database on a Neon branch, migrated directly and used through the pooler."""
    project, key = map(str, NEON)
    async with neon_client(project, key) as http, neon_branch(http) as branch:
        # The branch has a copy of the project's database, which may contain tasks.
        await execute_at(branch.direct, "CREATE DATABASE todo_tests")
        direct, pooled = (
            replace(address, url=address.url.set(database="todo_tests"))
            for address in (branch.direct, branch.pooled)
        )
        await migrate(direct)
        yield pooled


@pytest.fixture(scope="session")
async def on_server() -> AsyncIterator[DatabaseUrl]:
    """A new database on the server of TEST_DATABASE_URL.

    If the role cannot create databases, the schema is created in the database of the URL and
    dropped at the end. The migration of a database that has the schema already is refused.
    """
    given, name = parse_database_url(str(SERVER)), f"todo_tests_{uuid4().hex}"
    try:
        await execute_at(given.direct(), f"CREATE DATABASE {name}")
    except DBAPIError:
        if await current_revision(given.direct()) is not None:
            pytest.fail("TEST_DATABASE_URL: the database has tasks: name one without schema todo")
        address, clean_up = given, "DROP SCHEMA todo CASCADE"
    else:
        address = replace(given, url=given.url.set(database=name))
        clean_up = f"DROP DATABASE {name} WITH (FORCE)"
    await migrate(address)
    yield address
    await execute_at(given.direct(), clean_up)


@pytest.fixture(scope="session")
async def target_pool(target: DatabaseUrl) -> AsyncIterator[Database]:
    database = Database(target, pool_size=10)
    yield database
    await database.close()


@pytest.fixture
async def target_database(target_pool: Database, erase: Erase) -> AsyncIterator[Database]:
    """A migrated, empty database on each kind of server."""
    yield target_pool
    await erase(target_pool)


@pytest.fixture
async def empty_database(server_url: str) -> DatabaseUrl:
    """A new database without the schema. It is removed with the server."""
    name = f"empty_{uuid4().hex}"
    await execute(server_url, f"CREATE DATABASE {name}")
    return database_at(server_url, name)


def database_at(server_url: str, name: str) -> DatabaseUrl:
    address = parse_database_url(server_url)
    return replace(address, url=address.url.set(database=name))


async def execute(server_url: str, *statements: str) -> None:
    connection = await asyncpg.connect(server_url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def execute_at(address: DatabaseUrl, statement: str) -> None:
    engine = create_async_engine(
        address.url,
        connect_args=dict(address.connect_args),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
    )
    async with engine.connect() as connection:
        await connection.exec_driver_sql(statement)
    await engine.dispose()
