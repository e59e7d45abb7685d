"""Every statement of the repository reads and writes rows of one owner only, by its query plan."""

import ast
import inspect
import json
import re
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, Final, TypeVar
from uuid import UUID

import asyncpg
import pytest

from contracts import EVERY_CHANGE, EVERY_FILTER, EVERY_SORT
from support.tasks import COMPLETED, NOW, a_repeating_task, a_task
from todo_adapters.postgres import batch_statements, change_numbers, statements, user_data
from todo_adapters.postgres import tasks as repository
from todo_adapters.postgres.database import Database, Fetch, Statement
from todo_adapters.postgres.purge import PURGE
from todo_adapters.postgres.tables import metadata
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl
from todo_domain.batch import Batch, ChangeTask, CreateTask, DeleteTask, StoredTask
from todo_domain.ports import TaskRepository
from todo_domain.queries import TaskQuery
from todo_domain.sync import FeedPosition

Json = dict[str, Any]
_Result = TypeVar("_Result")

OWNER: Final = "100% the_owner"
# The column with the owner of each table.
OWNER_COLUMNS: Final = {
    "tasks": "user_id",
    "idempotency_keys": "user_id",
    "changes": "user_id",
    "users": "id",
}
# The table that has no rows of users: its row identifies the history of the whole database.
WITHOUT_OWNER: Final = "sync"
# The columns of each table in the order in which query plans list them.
COLUMNS: Final = Statement(
    "SELECT relname AS table, array_agg(attname ORDER BY attnum) AS columns FROM pg_class"
    " JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0"
    " WHERE relnamespace = 'todo'::regnamespace AND relkind = 'r' GROUP BY relname",
    (),
)


class RecordingDatabase(Database):
    """A database that records its statements, their values, and the lines that call ``fetch``."""

    def __init__(self, database_url: DatabaseUrl) -> None:
        super().__init__(database_url, pool_size=1)
        self.statements: dict[Statement, dict[str, object]] = {}
        self.lines: set[int] = set()

    def fetch(
        self, statement: Statement, **values: object
    ) -> Coroutine[Any, Any, list[asyncpg.Record]]:
        self.statements[statement] = values
        frame = inspect.currentframe()
        if frame and frame.f_back and frame.f_back.f_code.co_filename == repository.__file__:
            self.lines.add(frame.f_back.f_lineno)
        return super().fetch(statement, **values)

    async def transact(self, owner: str, work: Callable[[Fetch], Awaitable[_Result]]) -> _Result:
        async def recorded(fetch: Fetch) -> _Result:
            async def record(statement: Statement, **values: object) -> list[asyncpg.Record]:
                self.statements[statement] = values
                return await fetch(statement, **values)

            return await work(record)

        return await super().transact(owner, recorded)


async def make_every_call(tasks: TaskRepository) -> None:
    """Make every call of the repository, with every change, filter and order."""
    task, other = a_task(owner=OWNER), a_task(owner=OWNER)
    await tasks.add(task)
    for _ in range(2):
        await tasks.add(other, key="k")
    await tasks.get(OWNER, task.id)
    await tasks.save(task.changed(NOW, title="Buy oat milk"))
    repeating = await tasks.add(a_repeating_task(owner=OWNER))
    completed = repeating.changed(NOW, completed=True)
    await tasks.save(completed, successor=completed.successor())
    await tasks.save(completed.changed(NOW, completed=False))
    for changes in EVERY_CHANGE:
        changed = await tasks.change(OWNER, task.id, now=NOW, **changes)
    await tasks.delete(OWNER, task.id, now=NOW)
    await tasks.restore(OWNER, task.id, now=NOW)
    await tasks.delete(OWNER, task.id, now=NOW, version=changed.version)
    await tasks.delete_matching(OWNER, COMPLETED, now=NOW)
    for wanted in EVERY_FILTER:
        await tasks.delete_matching(OWNER, wanted, now=NOW)
        await tasks.change_matching(OWNER, wanted, now=NOW, title="x", completed=True)
    new = a_task(owner=OWNER)
    for key in (None, *2 * (str(new.id),)):
        operations = (CreateTask(new), ChangeTask(task.id, {"title": "x"}))
        await tasks.apply(OWNER, Batch(operations, is_atomic=False), now=NOW, key=key)
    await tasks.apply(OWNER, Batch((DeleteTask(new.id),)), now=NOW)
    await tasks.count(OWNER)
    await tasks.changes(OWNER, after=FeedPosition(), floor=0, limit=10)
    for wanted in EVERY_FILTER:
        for known in (None, 0):
            await tasks.find(OWNER, TaskQuery(wanted, unless_change=known))
    for sort in EVERY_SORT:
        for after in (None, sort.position(task)):
            for with_total in (False, True):
                await tasks.find(OWNER, TaskQuery(sort=sort, after=after, with_total=with_total))
    await make_every_call_on_user_data(tasks)


async def make_every_call_on_user_data(tasks: TaskRepository) -> None:
    await tasks.find_user(OWNER)
    for after_id in (None, UUID(int=0)):
        await tasks.read_stored(OWNER, after=after_id, limit=10, now=NOW)
    await tasks.import_tasks(OWNER, [StoredTask(a_task(owner=OWNER))], now=NOW)
    await tasks.erase(OWNER)


async def unowned_tables(database: Database, statement: Statement, values: Json) -> list[str]:
    """The tables of which the statement may read or write rows of another user."""
    explain = Statement(f"EXPLAIN (VERBOSE, FORMAT JSON) {statement.sql}", statement.parameters)
    ((plan,),) = await database.fetch(explain, **values)
    (explained,) = json.loads(plan)
    on_tables = [
        node
        for node in nodes(explained["Plan"])
        if node.get("Relation Name", WITHOUT_OWNER) != WITHOUT_OWNER
    ]
    columns = {row["table"]: row["columns"] for row in await database.fetch(COLUMNS)}
    return [node["Relation Name"] for node in on_tables if not is_owned(node, columns)]


def nodes(plan: Json) -> Iterator[Json]:
    """The nodes of a query plan."""
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def is_owned(node: Json, columns: Mapping[str, Sequence[str]]) -> bool:
    """Whether this node of a query plan reads or writes rows of the owner only."""
    match node.get("Operation"):
        case "Insert":
            return inserts_owner(node, columns[node["Relation Name"]])
        case "Update" | "Delete":
            return True  # its rows were read by another node
        case _:
            column = OWNER_COLUMNS[node["Relation Name"]]
            kinds = ("Index Cond", "Recheck Cond", "Filter")
            return any(is_by_owner(node.get(kind, ""), column) for kind in kinds)


def inserts_owner(node: Json, columns: Sequence[str]) -> bool:
    """Whether new rows have the owner, of a table with these columns.

    Rows that conflict with them have the same owner, because every unique index begins with the
    user (``test_change_numbers.py``).
    """
    (source,) = (part for part in node["Plans"] if part["Parent Relationship"] == "Outer")
    value = source["Output"][columns.index(OWNER_COLUMNS[node["Relation Name"]])]
    return bool(value == f"'{OWNER}'::text")


def is_by_owner(condition: str, column: str) -> bool:
    """Whether every row that meets the condition is the owner's."""
    if len(alternatives := operands(condition, " OR ")) > 1:
        return all(is_by_owner(each, column) for each in alternatives)
    if len(parts := operands(condition, " AND ")) > 1:
        return any(is_by_owner(each, column) for each in parts)
    return bool(re.fullmatch(rf"\(\w+\.{column} = '{re.escape(OWNER)}'::text\)", condition))


def operands(condition: str, operator: str) -> list[str]:
    """The operands of a condition such as ``((a) AND (b))``; of another operator, the condition."""
    depth, found = 0, [""]
    for token in re.split(rf"([()]|{operator})", condition):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if token == operator and depth == 1:
            found.append("")
        else:
            found[-1] += token
    if len(found) == 1:
        return found
    return [found[0][1:], *found[1:-1], found[-1][:-1]]


@pytest.fixture
async def recording(
    address: DatabaseUrl, erase: Callable[[Database], Awaitable[object]]
) -> AsyncIterator[RecordingDatabase]:
    database = RecordingDatabase(address)
    yield database
    await erase(database)
    await database.close()


# Each of these statements can reach tasks of another user.
UNSAFE_SQL: Final = (
    "SELECT title FROM todo.tasks",
    "SELECT title FROM todo.tasks WHERE user_id = $1 OR version = 1",
    "SELECT title FROM todo.tasks WHERE user_id <> $1",
    "SELECT title FROM todo.tasks WHERE user_id LIKE $1",
    "SELECT title FROM todo.tasks WHERE user_id = 'eve' AND title = $1",
    "SELECT FROM todo.tasks WHERE user_id = $1 AND version = (SELECT max(version) FROM todo.tasks)",
    "SELECT title FROM todo.users LEFT JOIN todo.tasks ON version = 1 WHERE users.id = $1",
    "UPDATE todo.tasks SET title = $1",
    "DELETE FROM todo.tasks USING todo.users WHERE users.id = $1",
    "WITH gone AS (DELETE FROM todo.tasks) SELECT FROM todo.users WHERE id = $1",
    "INSERT INTO todo.tasks (user_id, title) VALUES ('eve', $1)",
)


class TestStatements:
    async def test_reach_rows_of_the_owner_only(self, recording: RecordingDatabase) -> None:
        await make_every_call(PostgresTaskRepository(recording))
        await make_every_call(PostgresTaskRepository(recording, batches_in_transactions=True))
        for statement, values in list(recording.statements.items()):
            assert await unowned_tables(recording, statement, values) == [], statement.sql

    async def test_are_all_checked(self, recording: RecordingDatabase) -> None:
        await make_every_call(PostgresTaskRepository(recording))
        await make_every_call(PostgresTaskRepository(recording, batches_in_transactions=True))
        await PostgresTaskRepository(recording).add(a_task(owner=OWNER))
        await user_data.list_users(recording, after="", limit=1)
        constants = {
            value
            for module in (statements, change_numbers, batch_statements, user_data)
            for value in vars(module).values()
            if isinstance(value, Statement)
        }
        assert constants
        assert constants <= recording.statements.keys()
        assert recording.lines == lines_with_fetch(inspect.getsource(repository))

    async def test_of_a_purge_reach_rows_of_the_owner_only(
        self, recording: RecordingDatabase
    ) -> None:
        values = {"restorable_after": NOW, "keys_valid_since": NOW, "limit": 10}
        assert await unowned_tables(recording, PURGE, {"owner": OWNER, **values}) == []

    async def test_of_a_list_of_users_read_no_task_of_another_user(
        self, recording: RecordingDatabase
    ) -> None:
        await PostgresTaskRepository(recording).add(a_task(owner=OWNER))
        await user_data.list_users(recording, after="", limit=1)
        for statement, values in list(recording.statements.items()):
            tables = await unowned_tables(recording, statement, {"owner": OWNER, **values})
            assert tables == (["users"] if statement == user_data.LIST_USERS else [])

    def test_use_tables_with_a_known_owner(self) -> None:
        tables = {table.name for table in metadata.tables.values()}
        assert tables == OWNER_COLUMNS.keys() | {WITHOUT_OWNER}

    @pytest.mark.parametrize("sql", UNSAFE_SQL)
    async def test_that_can_reach_other_rows_are_found(
        self, recording: RecordingDatabase, sql: str
    ) -> None:
        statement = Statement(sql, ("owner",) if "$1" in sql else ())
        assert await unowned_tables(recording, statement, {"owner": OWNER}) == ["tasks"]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("(({0}) AND (t.version = 1))", True),
        ("((({0}) AND (t.version = 1)) OR (({0}) AND (t.version = 2)))", True),
        ("((({0}) AND (t.version = 1)) OR (t.version = 2))", False),
        ("((NOT ({0})) AND (t.version = 1))", False),
        ("", False),
    ],
)
def test_a_condition_is_by_owner_if_every_alternative_is(condition: str, *, expected: bool) -> None:
    assert is_by_owner(condition.format(f"t.user_id = '{OWNER}'::text"), "user_id") == expected


def lines_with_fetch(source: str) -> set[int]:
    """The lines with a call of ``fetch``."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return {c.lineno for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "fetch"}
