"""The repository on databases that other people have set up: settings, encodings, locales."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema

from contracts import TaskRepositoryContract
from fakes import InMemoryTaskRepository
from support.tasks import HOSTILE_TEXTS, LATER, a_task
from todo_adapters.postgres.database import Database, Statement
from todo_adapters.postgres.schema import encoding_problem, migrate
from todo_adapters.postgres.tables import SCHEMA, SYNC, metadata
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl, parse_database_url
from todo_domain.errors import DatabaseUnavailable, InvalidTask
from todo_domain.ports import TaskRepository
from todo_domain.queries import Sort, SortBy, TaskFilter, TaskQuery
from todo_domain.sync import Change
from todo_domain.task import Task

Branch = Callable[[str], Awaitable[DatabaseUrl]]
Erase = Callable[[Database], Awaitable[object]]
Administer = Callable[..., Awaitable[None]]

# Settings that operators or other programs change for a database or a role.
SETTINGS: Final = {
    "default_transaction_isolation": "'repeatable read'",
    "synchronous_commit": "off",
    "row_security": "off",
    "search_path": "strange, pg_catalog",
    "DateStyle": "'SQL, DMY'",
    "IntervalStyle": "sql_standard",
    "TimeZone": "'Asia/Kathmandu'",
    "bytea_output": "escape",
    "extra_float_digits": "'-15'",
    "standard_conforming_strings": "off",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "xmlbinary": "hex",
    "jit_above_cost": "0",
    "plan_cache_mode": "force_generic_plan",
    "synchronize_seqscans": "off",
}
# A function that hides PostgreSQL's own one if the search path says so.
STRANGE: Final = (
    "CREATE SCHEMA strange",
    "CREATE FUNCTION strange.lower(text) RETURNS text LANGUAGE sql AS 'SELECT ''strange'''",
)
SHOWN: Final = Statement(
    "SELECT current_setting('default_transaction_isolation') AS isolation,"
    " current_setting('synchronous_commit') AS commit",
    (),
)


@pytest.fixture(scope="module")
def administer(server_url: str) -> Administer:
    """Executes statements on the server, one after another."""

    async def execute(*statements: str) -> None:
        connection = await asyncpg.connect(server_url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    return execute


def at(server_url: str, name: str) -> DatabaseUrl:
    server = parse_database_url(server_url)
    return replace(server, url=server.url.set(database=name))


@asynccontextmanager
async def pool(database_url: DatabaseUrl, erase: Erase) -> AsyncIterator[Database]:
    """A pool of connections to the database, whose tables are emptied at the end."""
    database = Database(database_url, pool_size=10)
    yield database
    await erase(database)
    await database.close()


# --- Settings -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def changed_settings(server_url: str, administer: Administer) -> DatabaseUrl:
    """A database that was migrated after its settings had been changed."""
    await administer(
        "CREATE DATABASE changed_settings",
        *(f"ALTER DATABASE changed_settings SET {name} = {SETTINGS[name]}" for name in SETTINGS),
    )
    database_url = at(server_url, "changed_settings")
    database = Database(database_url, pool_size=1)
    for statement in STRANGE:
        await database.fetch(Statement(statement, ()))
    await database.close()
    await migrate(database_url)
    return database_url


class TestPostgresTaskRepositoryWithChangedSettings(TaskRepositoryContract):
    @pytest.fixture
    async def tasks(
        self, changed_settings: DatabaseUrl, erase: Erase, reported: list[Change]
    ) -> AsyncIterator[TaskRepository]:
        async with pool(changed_settings, erase) as database:
            yield PostgresTaskRepository(database, on_change=reported.append)


@pytest.mark.parametrize("connections", [1, 2])
async def test_each_connection_has_the_settings_that_the_service_needs(
    changed_settings: DatabaseUrl, connections: int
) -> None:
    database = Database(changed_settings, pool_size=connections)
    rows = await asyncio.gather(*(database.fetch(SHOWN) for _ in range(connections)))
    await database.close()
    assert [tuple(row) for (row,) in rows] == [("read committed", "on")] * connections


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_statement_that_a_concurrent_change_refuses_is_repeated(
    changed_settings: DatabaseUrl, erase: Erase, level: str
) -> None:
    databases = [Database(changed_settings, pool_size=1) for _ in range(4)]
    for database in databases:  # as if the sessions were another client's before
        await database.fetch(Statement(f"SET default_transaction_isolation = '{level}'", ()))
    repositories = [PostgresTaskRepository(database) for database in databases]
    task = await repositories[0].add(a_task())
    for _ in range(5):
        await asyncio.gather(
            *(
                tasks.change("ada", task.id, now=LATER, title=f"Title {uuid4()}")
                for tasks in repositories
            )
        )
    assert (await repositories[0].get("ada", task.id)).version == 1 + 5 * len(repositories)
    await erase(databases[0])
    for database in databases:
        await database.close()


@pytest.mark.parametrize("value", ["local", "remote_write"])
async def test_a_synchronous_commit_that_is_not_off_stays_as_it_is(
    branch: Branch, administer: Administer, value: str
) -> None:
    database_url = await branch(f"commit_{value}")
    await administer(f"ALTER DATABASE commit_{value} SET synchronous_commit = {value}")
    database = Database(database_url, pool_size=1)
    ((_, found),) = await database.fetch(SHOWN)
    await database.close()
    assert found == value


async def test_a_read_only_database_is_unavailable(branch: Branch, administer: Administer) -> None:
    database_url = await branch("read_only")
    await administer("ALTER DATABASE read_only SET default_transaction_read_only = on")
    database = Database(database_url, pool_size=1)
    with pytest.raises(DatabaseUnavailable, match="25006"):
        await PostgresTaskRepository(database).add(a_task())
    await database.close()


# --- Encodings and locales ----------------------------------------------------------------------


async def empty(server_url: str, administer: Administer, name: str, encoding: str) -> DatabaseUrl:
    """A new database with the encoding and the locale C, whose lower() knows ASCII only."""
    await administer(
        f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C'"
        " TEMPLATE template0"
    )
    return at(server_url, name)


@pytest.fixture(scope="module")
async def locale_c(server_url: str, administer: Administer) -> DatabaseUrl:
    database_url = await empty(server_url, administer, "locale_c", "UTF8")
    await migrate(database_url)
    return database_url


@pytest.mark.parametrize(("title", "text"), [("Äpfel", "äpfel"), ("ΟΔΟΣ", "οδος")])
async def test_a_title_is_found_in_another_case_with_the_locale_c(
    locale_c: DatabaseUrl, erase: Erase, title: str, text: str
) -> None:
    async with pool(locale_c, erase) as database:
        tasks = PostgresTaskRepository(database)
        await tasks.add(a_task(title=title))
        found = await tasks.find("ada", TaskQuery(TaskFilter(text=text)))
    assert [task.title for task in found.tasks] == [title]


@pytest.mark.parametrize("descending", [False, True])
async def test_the_order_of_titles_does_not_depend_on_the_locale(
    locale_c: DatabaseUrl, erase: Erase, *, descending: bool
) -> None:
    fake, query = InMemoryTaskRepository(), TaskQuery(sort=Sort(SortBy.TITLE, descending))
    async with pool(locale_c, erase) as database:
        tasks = PostgresTaskRepository(database)
        for title in ("Äpfel", "apfel", "Zebra", "straße", "STRASSE", "ΟΔΟΣ", *HOSTILE_TEXTS):
            await fake.add(await tasks.add(a_task(title=title)))
        found = await tasks.find("ada", query)
    assert found.tasks == (await fake.find("ada", query)).tasks


@pytest.fixture(scope="module", params=["LATIN1", "SQL_ASCII", "EUC_JP"])
async def other_encoding(
    request: pytest.FixtureRequest, server_url: str, administer: Administer
) -> DatabaseUrl:
    """A database that ``migrate`` refuses, with the tables as a restored dump could have them."""
    encoding = str(request.param)
    database_url = await empty(server_url, administer, f"encoding_{encoding}".lower(), encoding)
    engine = create_async_engine(database_url.url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.execute(CreateSchema(SCHEMA))
        await connection.run_sync(metadata.create_all)
        await connection.execute(insert(SYNC))
    return database_url


@pytest.fixture
async def in_other_encoding(
    other_encoding: DatabaseUrl, erase: Erase
) -> AsyncIterator[TaskRepository]:
    async with pool(other_encoding, erase) as database:
        yield PostgresTaskRepository(database)


async def test_a_database_in_another_encoding_is_a_problem(other_encoding: DatabaseUrl) -> None:
    problem = await encoding_problem(other_encoding)
    assert problem is not None
    assert "ENCODING 'UTF8'" in problem


async def test_the_database_that_the_problem_names_is_suitable(
    other_encoding: DatabaseUrl, administer: Administer
) -> None:
    found = re.search(
        "CREATE DATABASE .* TEMPLATE template0", str(await encoding_problem(other_encoding))
    )
    assert found
    await administer(found[0])
    suitable = other_encoding.url.set(database=f"{other_encoding.url.database}_utf8")
    assert await encoding_problem(replace(other_encoding, url=suitable)) is None


async def test_a_migrated_database_in_utf8_is_no_problem(locale_c: DatabaseUrl) -> None:
    assert await encoding_problem(locale_c) is None


async def test_texts_that_another_encoding_has_are_stored_found_and_sorted(
    in_other_encoding: TaskRepository,
) -> None:
    for title in ("§ 2", "Milk", "bread"):
        await in_other_encoding.add(a_task(title=title, tags=("Home", "§ 2")))
    query = TaskQuery(TaskFilter(text="§ 2", tags=("§ 2",)))
    assert [task.title for task in (await in_other_encoding.find("ada", query)).tasks] == ["§ 2"]
    by_title = await in_other_encoding.find(
        "ada", TaskQuery(sort=Sort(SortBy.TITLE, descending=False))
    )
    assert [task.title for task in by_title.tasks] == ["bread", "Milk", "§ 2"]


STORED: Final = "Buy milk"
UNSTORABLE: Final = "Train 🚆"
Use = Callable[[TaskRepository, Task], Awaitable[object]]
USES: Final[dict[str, Use]] = {
    "title": lambda tasks, _: tasks.add(a_task(title=UNSTORABLE)),
    "description": lambda tasks, task: tasks.change(
        "ada", task.id, now=LATER, description=UNSTORABLE
    ),
    "tags": lambda tasks, task: tasks.save(task.changed(LATER, tags=["home", UNSTORABLE])),
    "q": lambda tasks, _: tasks.find("ada", TaskQuery(TaskFilter(text=UNSTORABLE))),
    "body": lambda tasks, _: tasks.count(UNSTORABLE),
}


@pytest.mark.parametrize("other_encoding", ["LATIN1", "EUC_JP"], indirect=True)
@pytest.mark.parametrize(("field", "use"), USES.items(), ids=USES)
async def test_a_text_that_another_encoding_does_not_have_is_invalid_and_changes_nothing(
    in_other_encoding: TaskRepository, field: str, use: Use
) -> None:
    task = await in_other_encoding.add(a_task(title=STORED))
    with pytest.raises(InvalidTask) as caught:
        await use(in_other_encoding, task)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert (await in_other_encoding.find("ada", TaskQuery())).tasks == (task,)
