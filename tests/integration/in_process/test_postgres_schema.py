import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from todo_adapters.postgres.database import Database
from todo_adapters.postgres.schema import current_revision, is_behind, migrate, wanted_revision
from todo_adapters.postgres.tables import SCHEMA, metadata
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl
from todo_domain.queries import TaskQuery

Answer = TypeVar("Answer")


async def answer(address: DatabaseUrl, question: Callable[[Connection], Answer]) -> Answer:
    engine = create_async_engine(
        address.url, connect_args=dict(address.connect_args), poolclass=NullPool
    )
    async with engine.begin() as connection:
        return await connection.run_sync(question)


async def run(address: DatabaseUrl, sql: str) -> None:
    await answer(address, lambda connection: connection.execute(text(sql)))


def differences(connection: Connection) -> list[Any]:
    """What Alembic would change to make the database what the models say."""
    context = MigrationContext.configure(
        connection,
        opts={
            "version_table_schema": SCHEMA,
            "include_schemas": True,
            "include_name": lambda name, kind, _: kind != "schema" or name == SCHEMA,
        },
    )
    return list(compare_metadata(context, metadata))


def checks(connection: Connection) -> dict[str, Any]:
    """The check constraints, to which Alembic's comparison is blind."""
    inspector = inspect(connection)
    return {
        name: inspector.get_check_constraints(name, schema=SCHEMA)
        for name in inspector.get_table_names(schema=SCHEMA)
        if name != "alembic_version"
    }


def first_release(connection: Connection) -> None:
    """Make the tables of the first release."""
    config = Config()
    config.set_main_option("script_location", "todo_adapters.postgres:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "0001")


async def test_the_migrated_schema_is_what_the_models_say(address: DatabaseUrl) -> None:
    assert await answer(address, differences) == []


async def test_the_migrated_check_constraints_are_what_the_models_say(
    address: DatabaseUrl, empty_database: DatabaseUrl
) -> None:
    await run(empty_database, f"CREATE SCHEMA {SCHEMA}")
    await answer(empty_database, metadata.create_all)
    assert await answer(address, checks) == await answer(empty_database, checks)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE todo.tasks ADD COLUMN color text",
        "ALTER TABLE todo.tasks DROP COLUMN tags",
        "ALTER TABLE todo.tasks ALTER COLUMN description SET NOT NULL",
        "ALTER TABLE todo.tasks ALTER COLUMN created_at TYPE timestamp",
        "ALTER TABLE todo.tasks DROP CONSTRAINT tasks_user_id_fkey",
        "ALTER TABLE todo.tasks DROP COLUMN deleted_at",
        "DROP INDEX todo.tasks_live_newest_idx",
        "DROP INDEX todo.tasks_deleted_idx",
        "DROP TABLE todo.idempotency_keys",
        "ALTER TABLE todo.idempotency_keys ALTER COLUMN content TYPE text",
        "CREATE TABLE todo.lists (id uuid PRIMARY KEY)",
    ],
)
async def test_a_schema_that_strays_from_the_models_is_noticed(
    address: DatabaseUrl, change: str
) -> None:
    def differences_after_change(connection: Connection) -> list[Any]:
        with connection.begin_nested() as savepoint:
            connection.execute(text(change))
            found = differences(connection)
            savepoint.rollback()
        return found

    assert await answer(address, differences_after_change) != []
    assert await answer(address, differences) == []


async def test_a_database_has_no_revision_before_the_first_migration(
    empty_database: DatabaseUrl,
) -> None:
    assert await current_revision(empty_database) is None


async def test_migrating_brings_a_database_to_the_newest_revision(
    empty_database: DatabaseUrl,
) -> None:
    assert await migrate(empty_database) == (None, wanted_revision())
    assert await current_revision(empty_database) == wanted_revision()


async def test_migrating_the_first_release_keeps_its_tasks(
    empty_database: DatabaseUrl,
) -> None:
    await run(empty_database, f"CREATE SCHEMA {SCHEMA}")
    await answer(empty_database, first_release)
    await run(empty_database, "INSERT INTO todo.users VALUES ('ada', now(), now())")
    await run(
        empty_database,
        "INSERT INTO todo.tasks (id, user_id, title, due_all_day, tags, created_at, updated_at,"
        " version) SELECT gen_random_uuid(), id, 'Buy milk', false, '{}', now(), now(), 1"
        " FROM todo.users",
    )
    assert await migrate(empty_database) == ("0001", wanted_revision())
    assert await answer(empty_database, differences) == []
    database = Database(empty_database, pool_size=1)
    page = await PostgresTaskRepository(database).find("ada", TaskQuery())
    assert [task.title for task in page.tasks] == ["Buy milk"]
    await database.close()


@pytest.mark.parametrize(
    ("revision", "behind"),
    [(None, True), ("0001", True), (wanted_revision(), False), ("9999", False)],
)
def test_a_database_is_behind_if_a_migration_is_missing_and_not_if_it_is_newer(
    revision: str | None, *, behind: bool
) -> None:
    assert is_behind(revision) == behind


async def test_migrating_again_changes_nothing(empty_database: DatabaseUrl) -> None:
    await migrate(empty_database)
    assert await migrate(empty_database) == (wanted_revision(), wanted_revision())
    assert await answer(empty_database, differences) == []


async def test_of_two_that_migrate_at_once_both_succeed_and_one_does_it(
    empty_database: DatabaseUrl,
) -> None:
    before_and_after = await asyncio.gather(migrate(empty_database), migrate(empty_database))
    assert set(before_and_after) == {
        (None, wanted_revision()),
        (wanted_revision(), wanted_revision()),
    }


async def test_a_migration_that_fails_leaves_nothing_behind(
    empty_database: DatabaseUrl,
) -> None:
    await run(empty_database, "CREATE SCHEMA todo")
    await run(empty_database, "CREATE TABLE todo.tasks (in_the_way text)")
    with pytest.raises(Exception, match='"tasks" already exists'):
        await migrate(empty_database)
    assert await current_revision(empty_database) is None
    await run(empty_database, "DROP TABLE todo.tasks")
    assert await migrate(empty_database) == (None, wanted_revision())


async def test_other_tables_of_the_same_database_are_left_alone(
    empty_database: DatabaseUrl,
) -> None:
    await run(empty_database, 'CREATE TABLE public."user" (id text)')
    await migrate(empty_database)
    assert await answer(empty_database, differences) == []
    assert await answer(empty_database, lambda c: inspect(c).get_table_names("public")) == ["user"]
