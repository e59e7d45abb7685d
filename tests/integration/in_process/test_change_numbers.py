"""Change numbers on PostgreSQL: rolling deployment, deadlocks, cost, indexes, and the migration."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from contracts import LOST_RACE, follow, write_at_random
from support.tasks import COMPLETED, LATER, NOW, a_repeating_task, a_task
from support.version_0_1 import TaskRepositoryOfVersion01
from todo_adapters.postgres import list_statements
from todo_adapters.postgres.database import Database, Statement
from todo_adapters.postgres.schema import migrate, wanted_revision
from todo_adapters.postgres.tables import metadata
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl, parse_database_url
from todo_domain.errors import DatabaseUnavailable
from todo_domain.ownership import Principal
from todo_domain.ports import KEY_LIFETIME, RETENTION, TaskRepository
from todo_domain.queries import SeekPosition, Sort, SortBy, TaskFilter, TaskQuery
from todo_domain.task import Task, fold
from todo_domain.use_cases import toggle_task

Branch = Callable[[str], Awaitable[DatabaseUrl]]

FOLDED_TEXTS: Final = (
    *("Buy MILK", "ΟΔΟΣ", "οδος", "Straße", "STRASSE", "STRAẞE", "É", "e\u0301", "İstanbul", "ŉ"),
    *("ǰ", "ﬃ", "Ǆ", "ᾳ", "\u0345\u0301\u03b1", "가", "Ⅷ", "\u13a0", "\uab70", "𐐀", "👩‍👩‍👧‍👦 É"),
)
FINDS: Final = [
    ("ΟΔΟΣ", "οδος"),
    ("οδος", "ΟΔΟΣ"),
    ("Straße", "STRASSE"),
    ("STRASSE", "straße"),
    ("caf\u00e9", "CAFE\u0301"),
    ("CAFE\u0301", "caf\u00e9"),
]


class RetryingDatabase(Database):
    """Repeats a statement after a deadlock, as clients repeat a request after the service's 503."""

    async def fetch(self, statement: Statement, **values: object) -> list[asyncpg.Record]:
        while True:
            try:
                return await super().fetch(statement, **values)
            except DatabaseUnavailable as failure:
                if not isinstance(failure.__cause__, asyncpg.DeadlockDetectedError):
                    raise


@pytest.fixture
async def retrying(
    address: DatabaseUrl, erase: Callable[[Database], Awaitable[object]]
) -> AsyncIterator[Database]:
    """Its connections find deadlocks after 10 ms instead of 1 s."""
    database = RetryingDatabase(address, pool_size=10)
    name = address.url.database
    await database.fetch(Statement(f"ALTER DATABASE {name} SET deadlock_timeout = '10ms'", ()))
    await database.close()  # new connections have the setting
    yield database
    await database.fetch(Statement(f"ALTER DATABASE {name} RESET deadlock_timeout", ()))
    await erase(database)
    await database.close()


class TestRollingDeployment:
    async def test_no_reader_misses_a_change_while_version_0_1_and_this_one_write(
        self, retrying: Database
    ) -> None:
        tasks, old = PostgresTaskRepository(retrying), TaskRepositoryOfVersion01(retrying)
        new = [*(a_task() for _ in range(6)), *(a_repeating_task() for _ in range(2))]
        stored = [await tasks.add(task) for task in new]
        is_done = asyncio.Event()
        readers = [
            asyncio.create_task(follow(tasks, is_done, limit=limit, delay=delay))
            for limit, delay in ((1, 0), (3, 5), (1000, 20))
        ]
        writers = (write_at_random((old, tasks)[seed % 2], stored, seed) for seed in range(8))
        await asyncio.gather(*writers)
        is_done.set()
        live = {task.id: task for task in (await tasks.find("ada", TaskQuery(limit=500))).tasks}
        for copy in await asyncio.gather(*readers):
            assert copy == live

    async def test_each_write_of_version_0_1_takes_one_number(self, database: Database) -> None:
        tasks, old = PostgresTaskRepository(database), TaskRepositoryOfVersion01(database)
        task = await old.add(a_task())
        writes: list[Coroutine[Any, Any, object]] = [
            old.change("ada", task.id, now=LATER, title="Buy oat milk"),
            old.change("ada", task.id, now=LATER, completed=True),
            old.delete("ada", task.id, now=LATER),
            old.restore("ada", task.id, now=LATER),
            old.delete_completed("ada", now=LATER),
        ]
        numbers = [await last_change(tasks)]
        for write in writes:
            await write
            numbers.append(await last_change(tasks))
        assert numbers == [1, 2, 3, 4, 5, 6]

    async def test_a_change_of_version_0_1_that_alters_nothing_takes_no_number(
        self, database: Database
    ) -> None:
        tasks, old = PostgresTaskRepository(database), TaskRepositoryOfVersion01(database)
        task = await old.add(a_task())
        await old.change("ada", task.id, now=LATER, title=task.title)
        assert await last_change(tasks) == 1

    async def test_a_change_of_version_0_1_keeps_the_members_that_it_does_not_know(
        self, database: Database
    ) -> None:
        tasks, old = PostgresTaskRepository(database), TaskRepositoryOfVersion01(database)
        task = await tasks.add(a_task(position="a1"))
        await old.change("ada", task.id, now=LATER, title="Buy oat milk")
        assert (await tasks.get("ada", task.id)).position == "a1"

    @pytest.mark.parametrize(
        ("change", "kept"),
        [
            ("title = 'x'", "rule"),
            ("due_all_day = false", None),
            ("due_all_day = false, time_zone = 'UTC'", "rule"),
            ("due_at = NULL", None),
        ],
    )
    async def test_a_repetition_ends_when_version_0_1_removes_what_it_needs(
        self, database: Database, change: str, kept: str | None
    ) -> None:
        await PostgresTaskRepository(database).add(a_task(due_date=NOW.date()))
        await database.fetch(Statement("UPDATE todo.tasks SET repeat = 'rule'", ()))
        await database.fetch(Statement(f"UPDATE todo.tasks SET {change}", ()))  # noqa: S608
        rows = await database.fetch(Statement("SELECT repeat FROM todo.tasks", ()))
        assert [row["repeat"] for row in rows] == [kept]

    async def test_version_0_1_can_write_before_its_role_is_granted_the_new_tables(
        self, empty_database: DatabaseUrl
    ) -> None:
        service, name = f"service_{uuid4().hex}", empty_database.url.database
        await run_sync(empty_database, migrate_to("0003"))
        await execute(
            empty_database,
            f"CREATE ROLE {service}",
            f"GRANT USAGE ON SCHEMA todo TO {service}",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA todo TO {service}",
        )
        await migrate(empty_database)
        await execute(empty_database, f"ALTER DATABASE {name} SET ROLE {service}")
        database = Database(empty_database, pool_size=1)
        await TaskRepositoryOfVersion01(database).add(a_task())
        await database.close()


class TestLockOrder:
    async def test_concurrent_writes_of_one_user_never_deadlock(self, database: Database) -> None:
        """A deadlock would raise DatabaseUnavailable, which no writer suppresses."""
        tasks = PostgresTaskRepository(database)
        stored = [await tasks.add(task) for task in (a_task(), a_task(), a_repeating_task())]
        await tasks.delete("ada", stored[0].id, now=NOW - 2 * RETENTION)  # for the purge
        async with asyncio.TaskGroup() as writers:
            for seed in range(20):
                writers.create_task(every_write(tasks, stored, seed))


class TestUnchangedList:
    async def test_a_list_whose_last_change_is_known_reads_no_task(
        self, database: Database
    ) -> None:
        tasks = PostgresTaskRepository(database)
        await add_many(database, 1000)
        query = TaskQuery(limit=500, with_total=True)
        last = (await tasks.find("ada", query)).state.last
        explained = await explain(
            database, TaskQuery(limit=500, with_total=True, unless_change=last)
        )
        scans = [node for node in nodes(explained) if node.get("Relation Name") == "tasks"]
        assert scans
        assert {node["Actual Loops"] for node in scans} == {0}
        assert explained["Shared Hit Blocks"] + explained["Shared Read Blocks"] <= 5

    async def test_a_list_by_position_is_read_from_an_index_from_any_start(
        self, database: Database
    ) -> None:
        await add_many(database, 1000)
        sort = Sort(SortBy.POSITION, descending=False)
        for after in (None, SeekPosition("a1", UUID(int=7)), SeekPosition(None, UUID(int=7))):
            plan = await explain(database, TaskQuery(sort=sort, limit=20, after=after))
            (scan,) = [node for node in nodes(plan) if node.get("Relation Name") == "tasks"]
            assert (scan["Index Name"], scan["Actual Rows"]) == ("tasks_position_idx", 21)

    async def test_a_list_whose_last_change_is_another_one_reads_its_tasks(
        self, database: Database
    ) -> None:
        await add_many(database, 50)
        explained = await explain(database, TaskQuery(limit=500, with_total=True, unless_change=-1))
        scans = [node for node in nodes(explained) if node.get("Relation Name") == "tasks"]
        assert scans
        assert {node["Actual Loops"] for node in scans} == {1}


async def test_every_index_of_a_table_with_a_user_begins_with_the_user(database: Database) -> None:
    first_columns = await database.fetch(
        Statement(
            "SELECT i.indexrelid::regclass::text AS index, c.relname AS table, a.attname AS first"
            " FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
            " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
            " WHERE c.relnamespace = 'todo'::regnamespace",
            (),
        )
    )
    with_user = {table.name for table in metadata.tables.values() if "user_id" in table.c}
    indexed = {row["table"] for row in first_columns}
    assert with_user <= indexed
    assert [
        row["index"]
        for row in first_columns
        if row["table"] in with_user and row["first"] != "user_id"
    ] == []
    assert {row["first"] for row in first_columns if row["table"] == "users"} == {"id"}


class TestMigration:
    @pytest.mark.parametrize(
        "index", ["tasks_feed_idx", "tasks_user_id_id_idx", "tasks_position_idx"]
    )
    async def test_an_index_that_an_interrupted_migration_left_is_built_again(
        self, empty_database: DatabaseUrl, index: str
    ) -> None:
        await run_sync(empty_database, migrate_to("0004"))
        columns = "(id)" if index == "tasks_user_id_id_idx" else "(user_id)"
        await execute(
            empty_database,
            f"CREATE INDEX {index} ON todo.tasks {columns}",
            f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'todo.{index}'::regclass",  # noqa: S608 - a constant
        )
        await migrate(empty_database)
        database = Database(empty_database, pool_size=1)
        (row,) = await database.fetch(
            Statement(
                "SELECT indisvalid, indnkeyatts FROM pg_index WHERE indexrelid ="
                " coalesce(to_regclass(concat('todo.', $1::text)), 'todo.tasks_pkey')",
                ("index",),
            ),
            index=index,
        )
        await database.close()
        assert row["indisvalid"]
        assert row["indnkeyatts"] == (2 if index == "tasks_user_id_id_idx" else 3)

    async def test_columns_that_an_interrupted_migration_left_are_kept(
        self, empty_database: DatabaseUrl
    ) -> None:
        await migrate(empty_database)
        await execute(empty_database, "UPDATE todo.alembic_version SET version_num = '0006'")
        assert await migrate(empty_database) == ("0006", wanted_revision())


class TestFoldedTexts:
    @pytest.mark.parametrize("locale", ["", "LOCALE 'C' TEMPLATE template0"])
    @pytest.mark.parametrize("is_before", [True, False], ids=["before", "during deployment"])
    async def test_of_version_0_1_are_as_this_version_folds_them(
        self, server_url: str, locale: str, is_before: bool
    ) -> None:
        address = await new_database(server_url, locale)
        await run_sync(address, migrate_to("0003" if is_before else "head"))
        database = Database(address, pool_size=1)
        old, tasks = TaskRepositoryOfVersion01(database), PostgresTaskRepository(database)
        for title in FOLDED_TEXTS:
            await old.add(a_task(title=title, description=f"{title}!"))
        await migrate(address)
        rows = await database.fetch(
            Statement("SELECT title, title_folded, description_folded FROM todo.tasks", ())
        )
        found = {
            (title, wanted): len(
                (await tasks.find("ada", TaskQuery(TaskFilter(text=wanted)))).tasks
            )
            for title, wanted in FINDS
            if title in FOLDED_TEXTS
        }
        await database.close()
        assert len(rows) == len(FOLDED_TEXTS)
        assert {row["title"]: (row["title_folded"], row["description_folded"]) for row in rows} == {
            title: (None, None) if title.isascii() else (fold(title), fold(f"{title}!"))
            for title in FOLDED_TEXTS
        }
        assert found
        assert 0 not in found.values()

    async def test_are_folded_behind_row_level_security(self, server_url: str) -> None:
        address = await new_database(server_url, "")
        owner = f"owner_{uuid4().hex}"
        name = address.url.database
        await execute(
            address,
            f"CREATE ROLE {owner}",
            f"ALTER DATABASE {name} OWNER TO {owner}",
            f"ALTER DATABASE {name} SET ROLE {owner}",
        )
        await run_sync(address, migrate_to("0003"))
        await execute(
            address,
            "SET ROLE NONE",
            "INSERT INTO todo.users VALUES ('ada', now(), now()), ('eve', now(), now())",
            "INSERT INTO todo.tasks (id, user_id, title, due_all_day, tags, created_at, updated_at,"
            " version) SELECT gen_random_uuid(), id, 'ΟΔΟΣ', false, '{}', now(), now(), 1"
            " FROM todo.users",
            "ALTER TABLE todo.tasks ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE todo.tasks FORCE ROW LEVEL SECURITY",
            "CREATE POLICY own_tasks ON todo.tasks"
            " USING (user_id = current_setting('app.user_id', true))",
        )
        await migrate(address, rls_enabled=True)
        database = Database(address, pool_size=1)
        await database.fetch(Statement("SET ROLE NONE", ()))  # a superuser sees every row
        rows = await database.fetch(Statement("SELECT title_folded FROM todo.tasks", ()))
        await database.close()
        assert [row["title_folded"] for row in rows] == [fold("ΟΔΟΣ")] * 2


async def last_change(tasks: TaskRepository) -> int:
    return (await tasks.find("ada", TaskQuery())).state.last


async def every_write(tasks: TaskRepository, stored: Sequence[Task], seed: int) -> None:
    """Make forty writes of every kind to Ada's tasks in an order of their own."""
    random = Random(seed)  # noqa: S311 - repeatable on purpose
    for number in range(40):
        task = random.choice(stored)
        expired = a_task(created_at=NOW - 2 * KEY_LIFETIME)
        writes: list[Callable[[], Awaitable[object]]] = [
            partial(tasks.add, a_task()),
            partial(tasks.add, task),
            partial(tasks.add, a_task(), key=f"key {random.randrange(3)}"),
            partial(tasks.add, expired, key=f"key {random.randrange(9)}"),
            partial(tasks.save, task.changed(LATER, title=f"{seed}")),
            partial(tasks.change, "ada", task.id, now=LATER, title=f"{seed} {number}"),
            partial(tasks.change, "ada", task.id, now=LATER, completed=True),
            partial(toggle_task, tasks, Principal("ada", LATER), task.id, now=LATER),
            partial(tasks.delete, "ada", task.id, now=LATER),
            partial(tasks.delete, "ada", task.id, now=LATER, version=2),
            partial(tasks.delete, "ada", task.id, now=LATER - 2 * RETENTION),
            # As often as the deletes, so that there are tasks to write.
            *[partial(tasks.restore, "ada", task.id, now=LATER)] * 4,
            partial(tasks.delete_matching, "ada", COMPLETED, now=LATER),
        ]
        with suppress(*LOST_RACE):
            await random.choice(writes)()


async def add_many(database: Database, number: int) -> None:
    tasks = PostgresTaskRepository(database)
    await asyncio.gather(*(tasks.add(a_task(id=UUID(int=index))) for index in range(number)))
    await database.fetch(Statement("ANALYZE todo.tasks", ()))


async def explain(database: Database, query: TaskQuery) -> dict[str, Any]:
    """The plan with which the list ran, with the counts of its nodes."""
    statement = list_statements.find(query)
    sql = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement.sql}"
    ((plan,),) = await database.fetch(
        Statement(sql, statement.parameters), owner="ada", **list_statements.parameters_of(query)
    )
    root: dict[str, Any] = json.loads(plan)[0]["Plan"]
    return root


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for part in plan.get("Plans", ()) for node in nodes(part))]


def migrate_to(revision: str) -> Callable[[Connection], None]:
    """Apply the migrations up to this one."""

    def upgrade(connection: Connection) -> None:
        connection.execute(text("CREATE SCHEMA IF NOT EXISTS todo"))
        connection.commit()
        config = Config()
        config.set_main_option("script_location", "todo_adapters.postgres:migrations")
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()

    return upgrade


async def run_sync(address: DatabaseUrl, work: Callable[[Connection], None]) -> None:
    engine = create_async_engine(
        address.url, connect_args=dict(address.connect_args), poolclass=NullPool
    )
    async with engine.connect() as connection:
        await connection.run_sync(work)
    await engine.dispose()


async def execute(address: DatabaseUrl, *statements: str) -> None:
    def work(connection: Connection) -> None:
        for statement in statements:
            connection.exec_driver_sql(statement)
        connection.commit()

    await run_sync(address, work)


async def new_database(server_url: str, options: str) -> DatabaseUrl:
    """A new database without the schema. It is removed with the server."""
    address, name = parse_database_url(server_url), f"texts_{uuid4().hex}"
    connection = await asyncpg.connect(server_url)
    await connection.execute(f"CREATE DATABASE {name} {options}")
    await connection.close()
    return replace(address, url=address.url.set(database=name))
