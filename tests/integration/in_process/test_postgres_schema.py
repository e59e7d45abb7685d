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

Result = TypeVar("Result")


async def run_sync(database_url: DatabaseUrl, work: Callable[[Connection], Result]) -> Result:
    engine = create_async_engine(
        database_url.url, connect_args=dict(database_url.connect_args), poolclass=NullPool
    )
    async with engine.begin() as connection:
        return await connection.run_sync(work)


async def execute(database_url: DatabaseUrl, sql: str) -> None:
    await run_sync(database_url, lambda connection: connection.execute(text(sql)))


def differences(connection: Connection) -> list[Any]:
    """The changes by which Alembic would make the database equal to the models."""
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
    """The check constraints, which Alembic does not compare."""
    inspector = inspect(connection)
    return {
        name: inspector.get_check_constraints(name, schema=SCHEMA)
        for name in inspector.get_table_names(schema=SCHEMA)
        if name != "alembic_version"
    }


def migrate_to_first_revision(connection: Connection) -> None:
    """Apply the first migration."""
    config = Config()
    config.set_main_option("script_location", "todo_adapters.postgres:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "0001")


async def test_the_migrated_schema_equals_the_models(address: DatabaseUrl) -> None:
    assert await run_sync(address, differences) == []


async def test_the_migrated_check_constraints_equal_the_models(
    address: DatabaseUrl, empty_database: DatabaseUrl
) -> None:
    await execute(empty_database, f"CREATE SCHEMA {SCHEMA}")
    await run_sync(empty_database, metadata.create_all)
    assert await run_sync(address, checks) == await run_sync(empty_database, checks)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE todo.tasks ADD COLUMN color text",
        "ALTER TABLE todo.tasks DROP COLUMN tags",
        "ALTER TABLE todo.tasks ALTER COLUMN description SET NOT NULL",
        "ALTER TABLE todo.tasks ALTER COLUMN created_at TYPE timestamp",
        "ALTER TABLE todo.tasks DROP CONSTRAINT tasks_user_id_fkey",
        "ALTER TABLE todo.tasks DROP COLUMN deleted_at CASCADE",
        "DROP INDEX todo.tasks_live_newest_idx",
        "DROP INDEX todo.tasks_deleted_idx",
        "DROP TABLE todo.idempotency_keys",
        "ALTER TABLE todo.idempotency_keys ALTER COLUMN content TYPE text",
        "CREATE TABLE todo.lists (id uuid PRIMARY KEY)",
    ],
)
async def test_a_difference_between_schema_and_models_is_found(
    address: DatabaseUrl, change: str
) -> None:
    def differences_after_change(connection: Connection) -> list[Any]:
        with connection.begin_nested() as savepoint:
            connection.execute(text(change))
            found = differences(connection)
            savepoint.rollback()
        return found

    assert await run_sync(address, differences_after_change) != []
    assert await run_sync(address, differences) == []


async def test_a_database_has_no_revision_before_the_first_migration(
    empty_database: DatabaseUrl,
) -> None:
    assert await current_revision(empty_database) is None


async def test_migrating_an_empty_database_applies_every_migration(
    empty_database: DatabaseUrl,
) -> None:
    assert await migrate(empty_database) == (None, wanted_revision())
    assert await current_revision(empty_database) == wanted_revision()


async def test_migrating_from_the_first_revision_keeps_the_tasks(
    empty_database: DatabaseUrl,
) -> None:
    await execute(empty_database, f"CREATE SCHEMA {SCHEMA}")
    await run_sync(empty_database, migrate_to_first_revision)
    await execute(empty_database, "INSERT INTO todo.users VALUES ('ada', now(), now())")
    await execute(
        empty_database,
        "INSERT INTO todo.tasks (id, user_id, title, due_all_day, tags, created_at, updated_at,"
        " version) SELECT gen_random_uuid(), id, 'Buy milk', false, '{}', now(), now(), 1"
        " FROM todo.users",
    )
    assert await migrate(empty_database) == ("0001", wanted_revision())
    assert await run_sync(empty_database, differences) == []
    database = Database(empty_database, pool_size=1)
    page = await PostgresTaskRepository(database).find("ada", TaskQuery())
    assert [task.title for task in page.tasks] == ["Buy milk"]
    await database.close()


@pytest.mark.parametrize(
    ("revision", "behind"),
    [(None, True), ("0001", True), (wanted_revision(), False), ("9999", False)],
)
def test_a_database_is_behind_if_a_migration_is_missing_but_not_if_it_is_newer(
    revision: str | None, *, behind: bool
) -> None:
    assert is_behind(revision) == behind


async def test_migrating_again_changes_nothing(empty_database: DatabaseUrl) -> None:
    await migrate(empty_database)
    assert await migrate(empty_database) == (wanted_revision(), wanted_revision())
    assert await run_sync(empty_database, differences) == []


async def test_of_two_concurrent_migrations_both_succeed_and_one_applies_it(
    empty_database: DatabaseUrl,
) -> None:
    before_and_after = await asyncio.gather(migrate(empty_database), migrate(empty_database))
    assert set(before_and_after) == {
        (None, wanted_revision()),
        (wanted_revision(), wanted_revision()),
    }


async def test_a_failed_migration_changes_nothing(
    empty_database: DatabaseUrl,
) -> None:
    await execute(empty_database, "CREATE SCHEMA todo")
    await execute(empty_database, "CREATE TABLE todo.tasks (obstacle text)")
    with pytest.raises(Exception, match='"tasks" already exists'):
        await migrate(empty_database)
    assert await current_revision(empty_database) is None
    await execute(empty_database, "DROP TABLE todo.tasks")
    assert await migrate(empty_database) == (None, wanted_revision())


async def test_other_tables_of_the_same_database_are_left_alone(
    empty_database: DatabaseUrl,
) -> None:
    await execute(empty_database, 'CREATE TABLE public."user" (id text)')
    await migrate(empty_database)
    assert await run_sync(empty_database, differences) == []
    assert await run_sync(empty_database, lambda c: inspect(c).get_table_names("public")) == [
        "user"
    ]
