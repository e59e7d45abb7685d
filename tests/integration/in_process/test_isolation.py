"""Nobody sees, changes or learns of anybody else's tasks: three users beside a model of each.

``ISOLATION_EXAMPLES=1000 pytest test_isolation.py`` tries more lives than 40.
"""

import ast
import inspect
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit
from uuid import uuid4

import asyncpg
import httpx
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from contracts import EVERY_CHANGE, EVERY_FILTER, EVERY_SORT
from support.frontend import BELIEVED, token_of
from support.service import Service, workplace
from support.tasks import NOW, UNSAID, a_task
from todo_adapters.postgres import tasks as repository
from todo_adapters.postgres.database import Database, Statement
from todo_adapters.postgres.tables import metadata
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl
from todo_domain.ports import TaskRepository
from todo_domain.queries import TaskQuery

Json = dict[str, Any]

EXAMPLES: Final = int(os.environ.get("ISOLATION_EXAMPLES", "40"))  # each a life of three users
STEPS: Final = 25
UNLIMITED: Final = {"RATE_LIMIT": "off", "RATE_LIMIT_AUTH_FAILURES": "off"}


# --- Users, and what they should have -----------------------------------------------------------

# Two ids that differ in their case alone, and one that is made to break out of everything.
IDS: Final = ("ada {}", "ADA {}", "' OR '1'='1 \"%_\\/../🦉 $1 {}")


@dataclass(frozen=True, slots=True)
class Operation:
    """A request but for its address. A ``stale`` one asks for a version that is not there."""

    method: str
    suffix: str = ""
    body: Json | None = None
    stale: bool = False


class User:
    """Somebody with a frontend, and a model of their tasks by id: documents as last answered.

    The ``mark`` stands in every title of theirs and in nobody else's.
    """

    def __init__(self, service: Service, user_id: str) -> None:
        self.id = user_id
        self.mark = uuid4().hex
        self.live: dict[str, Json] = {}
        self.deleted: dict[str, Json] = {}
        self.created_by: dict[str, tuple[Json, Json]] = {}  # what was sent and answered, by key
        self.frontend = service.client(token_of(user_id))

    def ask(self, operation: Operation, address: str, **headers: str) -> httpx.Response:
        if operation.stale:
            headers["If-Match"] = '"999999999"'
        return self.frontend.request(
            operation.method,
            address + operation.suffix,
            json=self.marked(operation.body),
            headers=headers,
        )

    def marked(self, body: Json | None) -> Json | None:
        if body is None or "title" not in body:
            return body
        return body | {"title": f"{body['title']} {self.mark}"}

    def expect(self, operation: Operation, task_id: str, answer: httpx.Response) -> None:
        """See that the answer for a task that is or was this user's is right, and remember it."""
        match operation:
            case Operation("POST", "/restore"):
                self._expect_restored(task_id, answer)
            case _ if task_id not in self.live:
                assert answer.status_code == 404
            case Operation("GET"):
                assert answer.json() == self.live[task_id]
            case Operation(stale=True):
                assert answer.status_code == 412
            case Operation("DELETE"):
                self.deleted[task_id] = self.live.pop(task_id)
                assert answer.json() == self.deleted[task_id]
            case _:
                before = self.live[task_id]
                toggled = {"completed": not before["completed"]}
                changes = self.marked(operation.body) or toggled
                self.live[task_id] = changed(before, changes, answer.json())
                assert answer.json() == self.live[task_id]

    def _expect_restored(self, task_id: str, answer: httpx.Response) -> None:
        if task_id in self.live:
            assert answer.json()["code"] == "not_deleted"
        else:
            self.live[task_id] = self.deleted.pop(task_id)
            assert answer.json() == self.live[task_id]


def created(sent: Json, owner: str, answer: Json) -> Json:
    """The new task for what was sent; only its id and its time are the service's to say."""
    now = answer["created_at"]
    task = {"id": answer["id"], "user_id": owner, **UNSAID, **sent, "version": 1}
    completed_at = now if task["completed"] else None
    return task | {"created_at": now, "updated_at": now, "completed_at": completed_at}


def changed(before: Json, changes: Json, answer: Json) -> Json:
    """The task after the changes; only the time of a real one is the service's to say."""
    after = before | changes
    if after == before:
        return before
    after |= {"updated_at": answer["updated_at"], "version": before["version"] + 1}
    if after["completed"] != before["completed"]:
        after["completed_at"] = answer["updated_at"] if after["completed"] else None
    return after


def ordered(tasks: Iterable[Json], sort: str = "-created_at") -> list[Json]:
    """The tasks in a documented order: ties by id, and those that lack the value last."""
    name, descending = sort.removeprefix("-"), sort.startswith("-")

    def place(task: Json) -> tuple[bool, Any, str]:
        value = None if task[name] is None else COMPARABLE.get(name, str)(task[name])
        return (value is None) != descending, value, task["id"]

    return sorted(tasks, key=place, reverse=descending)


COMPARABLE: Final[dict[str, Callable[[str], object]]] = {
    "title": str.lower,
    "priority": ("low", "medium", "high").index,
    "due_date": lambda due: due if "T" in due else f"{due}T00:00:00.000000Z",
}


def matches(task: Json, query: Json) -> bool:
    """Whether a list with this query has the task."""
    text = f"{task['title']}\n{task['description'] or ''}".lower()
    wanted = {"pending": [False], "completed": [True]}.get(
        query.get("status", "all"), [False, True]
    )
    return (
        task["completed"] in wanted
        and set(query.get("tag", ())) <= set(task["tags"])
        and query.get("q", "").lower() in text
    )


# --- What users try -----------------------------------------------------------------------------

WORDS: Final = ("milk", "MILK", "100%", "_", "o'hare \"\\", "École", "👩‍👩‍👧‍👦")
TAGS: Final = ("home", "work")
SORTS: Final = ("created_at", "updated_at", "title", "due_date", "priority")

users = st.integers(0, len(IDS) - 1)
others = st.integers(1, len(IDS) - 1)  # how many users further on

words = st.sampled_from(WORDS)
tag_lists = st.lists(st.sampled_from(TAGS), unique=True)
optional: Final = {
    "description": st.none() | words,
    "completed": st.booleans(),
    "priority": st.sampled_from((None, "low", "medium", "high")),
    "due_date": st.sampled_from((None, "2026-01-20", "2026-01-20T09:30:00.000000Z")),
    "tags": tag_lists,
}
assert optional.keys() == UNSAID.keys(), "every member that a task may have is tried"
contents = st.fixed_dictionaries({"title": words}, optional=optional)
changes = st.fixed_dictionaries({}, optional={"title": words, **optional}).filter(bool)
# Everything that can be done to a task.
OPERATIONS: Final = (
    Operation("GET"),
    Operation("PUT", body={"title": "mine"}),
    Operation("PATCH", body={"description": "mine"}),
    Operation("PATCH", body={"description": "mine"}, stale=True),
    Operation("PATCH", "/complete", {}),
    Operation("PATCH", "/complete", {"completed": True}),
    Operation("PATCH", "/complete", {"completed": False}),
    Operation("PATCH", "/complete", {"completed": True}, stale=True),
    Operation("PATCH", "/toggle", {}),
    Operation("DELETE"),
    Operation("DELETE", stale=True),
    Operation("POST", "/restore"),
)
edits = st.builds(Operation, st.sampled_from(("PUT", "PATCH")), body=changes)
operations = edits | st.sampled_from(OPERATIONS)
# Those on all of a user's tasks.
collective = st.sampled_from(
    (
        Operation("GET"),
        Operation("POST", body={"title": "milk"}),
        Operation("DELETE", "?status=completed"),
    )
)
keys = st.none() | st.sampled_from(("one", "two"))
queries = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(("all", "pending", "completed")),
        "q": words,
        "tag": tag_lists,
        "sort": st.sampled_from([sign + name for name in SORTS for sign in ("", "-")]),
    },
)


def plain(_: User) -> str:
    return "/api/tasks"


def personal(user: User) -> str:
    """The alias by which half of all frontends ask."""
    return f"/api/{quote(user.id, safe='')}/tasks"


spellings = st.sampled_from((plain, personal))
Spelling = Callable[[User], str]


class Lives(RuleBasedStateMachine):
    """Users of one service, each with a life of their own, who try each other's ids at all."""

    tasks = Bundle("tasks")  # each as its owner and its id, whatever has become of it

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.life = uuid4().hex
        self.users = [User(service, form.format(self.life)) for form in IDS]

    def teardown(self) -> None:
        for user in self.users:
            user.frontend.close()

    def ask(self, user: User, operation: Operation, address: str, **headers: str) -> httpx.Response:
        answer = user.ask(operation, address, **headers)
        said = f"{answer.headers} {answer.text}"
        assert not [other.id for other in self.users if other is not user and other.mark in said]
        return answer

    # --- Users among their own ---

    @rule(target=tasks, owner=users, content=contents, key=keys, spelling=spellings)
    def create(self, owner: int, content: Json, key: str | None, spelling: Spelling) -> object:
        user = self.users[owner]
        headers = {"Idempotency-Key": key} if key else {}
        answer = self.ask(user, Operation("POST", body=content), spelling(user), **headers)
        if key in user.created_by:
            first, task = user.created_by[key]
            if UNSAID | first == UNSAID | content:
                assert answer.json() == task
            else:
                assert answer.json()["code"] == "idempotency_key_reused"
            return multiple()
        task = created(user.marked(content) or {}, user.id, answer.json())
        assert (answer.status_code, answer.json()) == (201, task)
        user.live[task["id"]] = task
        if key:
            user.created_by[key] = content, task
        return owner, task["id"]

    @rule(task=tasks, operation=operations, spelling=spellings)
    def use(self, task: tuple[int, str], operation: Operation, spelling: Spelling) -> None:
        owner, task_id = task
        user = self.users[owner]
        answer = self.ask(user, operation, f"{spelling(user)}/{task_id}")
        user.expect(operation, task_id, answer)

    @rule(owner=users, spelling=spellings)
    def clear_completed(self, owner: int, spelling: Spelling) -> None:
        user = self.users[owner]
        completed = {name: task for name, task in user.live.items() if task["completed"]}
        answer = self.ask(user, Operation("DELETE", "?status=completed"), spelling(user))
        assert answer.json() == {"deleted": len(completed)}
        user.deleted |= completed
        user.live = {name: user.live[name] for name in user.live.keys() - completed}

    @rule(owner=users, query=queries, mark_of=st.none() | users, spelling=spellings)
    def search(self, owner: int, query: Json, mark_of: int | None, spelling: Spelling) -> None:
        user = self.users[owner]
        if mark_of is not None:
            query = query | {"q": self.users[mark_of].mark}
        found = [task for task in user.live.values() if matches(task, query)]
        address = httpx.URL(spelling(user), params=query)
        answer = self.ask(user, Operation("GET"), str(address))
        assert answer.json() == ordered(found, query.get("sort", "-created_at"))

    @rule(owner=users, other=others, limit=st.integers(1, 3))
    def page(self, owner: int, other: int, limit: int) -> None:
        """Page through to the end, while somebody else tries each cursor."""
        user, thief = self.users[owner], self.users[(owner + other) % len(self.users)]
        address, found = f"/api/tasks?limit={limit}", []
        while address:
            answer = self.ask(user, Operation("GET"), address)
            found += answer.json()
            address = answer.links.get("next", {}).get("url", "")
            if address:
                assert self.ask(thief, Operation("GET"), address).json()["code"] == "bad_cursor"
        assert found == ordered(user.live.values())

    @rule(owner=users)
    def count(self, owner: int) -> None:
        user = self.users[owner]
        me = self.ask(user, Operation("GET"), "/api/me").json()
        done = sum(task["completed"] for task in user.live.values())
        total = len(user.live)
        assert me["user_id"] == user.id
        assert me["tasks"] == {"total": total, "completed": done, "pending": total - done}

    # --- Users among others ---

    @rule(task=tasks, other=others, spelling=spellings)
    def try_anothers_task(self, task: tuple[int, str], other: int, spelling: Spelling) -> None:
        owner, task_id = task
        stranger = self.users[(owner + other) % len(self.users)]
        for operation in OPERATIONS:
            foreign, unknown = (
                told(self.ask(stranger, operation, f"{spelling(stranger)}/{name}", **SAME), name)
                for name in (task_id, str(uuid4()))
            )
            assert foreign == unknown
            assert foreign.status == 404

    @rule(task=tasks, other=others, operation=operations)
    def try_a_task_under_its_owners_name(
        self, task: tuple[int, str], other: int, operation: Operation
    ) -> None:
        owner, task_id = task
        self.try_anothers_name(owner, other, operation, f"/{task_id}")

    @rule(owner=users, other=others, operation=collective)
    def try_all_tasks_under_anothers_name(
        self, owner: int, other: int, operation: Operation
    ) -> None:
        self.try_anothers_name(owner, other, operation)

    def try_anothers_name(
        self, owner: int, other: int, operation: Operation, suffix: str = ""
    ) -> None:
        stranger = self.users[(owner + other) % len(self.users)]
        address, nobody = personal(self.users[owner]), uuid4().hex
        foreign, unknown = (
            told(
                self.ask(stranger, operation, address.replace(self.life, name) + suffix, **SAME),
                name,
            )
            for name in (self.life, nobody)
        )
        assert foreign == unknown
        assert foreign.status == 403

    @invariant()
    def everybody_lists_their_own_tasks_and_no_others(self) -> None:
        for user in self.users:
            answer = self.ask(user, Operation("GET"), "/api/tasks")
            assert answer.json() == ordered(user.live.values())


SAME: Final = {"X-Request-ID": "the-same"}
PASSING: Final = {b"date", b"connection"}


@dataclass(frozen=True, slots=True)
class Told:
    """All that an answer says, but for what the request itself named.

    Its date is the time's, and ``Connection`` the connection's: a refusal closes it if it went out
    before the whole body was in.
    """

    status: int
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes


def told(answer: httpx.Response, named: str) -> Told:
    fields = tuple(field for field in answer.headers.raw if field[0] not in PASSING)
    return Told(answer.status_code, fields, answer.content.replace(named.encode(), b"named"))


@pytest.fixture(scope="module")
async def database_url(server_url: str, branch: Callable[[str], Awaitable[DatabaseUrl]]) -> str:
    await branch("isolated")
    return urlsplit(server_url)._replace(path="/isolated").geturl()


@pytest.fixture(scope="module")
def service(database_url: str) -> Iterator[Service]:
    with (
        workplace() as place,
        place.serving("serve", DATABASE_URL=database_url, **BELIEVED, **UNLIMITED) as service,
    ):
        yield service
        assert '"status":5' not in service.stdout


def test_users_live_as_if_they_were_alone(service: Service) -> None:
    class LivesHere(Lives):
        def __init__(self) -> None:
            super().__init__(service)

    run_state_machine_as_test(
        LivesHere,
        settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None),
    )


# --- What the repository asks of the database ---------------------------------------------------

OWNER: Final = "100% the_owner"
# The tables, with the column that names whose a row is.
OWNED: Final = {"tasks": "user_id", "idempotency_keys": "user_id", "users": "id"}
# Their unique indexes with that column in it: what a row conflicts with there is the owner's too.
OWNERS_INDEXES: Final = {"idempotency_keys_pkey", "users_pkey"}


class WatchedDatabase(Database):
    """A database that keeps what it is asked, with the values, and the lines that asked."""

    def __init__(self, address: DatabaseUrl) -> None:
        super().__init__(address, pool_size=1)
        self.asked: dict[Statement, dict[str, object]] = {}
        self.lines: set[int] = set()

    def fetch(
        self, statement: Statement, **values: object
    ) -> Coroutine[Any, Any, list[asyncpg.Record]]:
        self.asked[statement] = values
        frame = inspect.currentframe()
        if frame and frame.f_back:
            self.lines.add(frame.f_back.f_lineno)
        return super().fetch(statement, **values)


async def use_everything(tasks: TaskRepository) -> None:
    """Have the repository do all that it can do, with every condition and order of lists."""
    task, other = a_task(owner=OWNER), a_task(owner=OWNER)
    await tasks.add(task)
    for _ in range(2):
        await tasks.add(other, key="k")
    await tasks.get(OWNER, task.id)
    await tasks.save(task.changed(NOW, title="Buy oat milk"))
    for changes in EVERY_CHANGE:
        changed = await tasks.change(OWNER, task.id, now=NOW, **changes)
    await tasks.delete(OWNER, task.id, now=NOW)
    await tasks.restore(OWNER, task.id, now=NOW)
    await tasks.delete(OWNER, task.id, now=NOW, version=changed.version)
    await tasks.delete_completed(OWNER, now=NOW)
    await tasks.count(OWNER)
    for wanted in EVERY_FILTER:
        await tasks.find(OWNER, TaskQuery(wanted))
    for sort in EVERY_SORT:
        for after in (None, sort.position(task)):
            for counted in (False, True):
                await tasks.find(OWNER, TaskQuery(sort=sort, after=after, with_total=counted))


async def unowned(database: Database, statement: Statement, values: Json) -> list[str]:
    """The tables of which PostgreSQL would touch rows that need not be the owner's."""
    explain = Statement(f"EXPLAIN (VERBOSE, FORMAT JSON) {statement.sql}", statement.parameters)
    ((plan,),) = await database.fetch(explain, **values)
    (explained,) = json.loads(plan)
    touching = [node for node in nodes(explained["Plan"]) if "Relation Name" in node]
    return [node["Relation Name"] for node in touching if not is_owned(node)]


def nodes(plan: Json) -> Iterator[Json]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def is_owned(node: Json) -> bool:
    """Whether the rows that this part of a plan reads or writes can only be the owner's."""
    match node.get("Operation"):
        case "Insert":
            return inserts_owner(node)
        case "Update" | "Delete":
            return True  # of rows that another part has read
        case _:
            column = OWNED[node["Relation Name"]]
            wanted = re.compile(rf"\(\w+\.{column} = '{re.escape(OWNER)}'::text\)")
            return any(wanted.fullmatch(condition) for condition in conditions(node))


def inserts_owner(node: Json) -> bool:
    table = metadata.tables[f"todo.{node['Relation Name']}"]
    (source,) = (part for part in node["Plans"] if part["Parent Relationship"] == "Outer")
    value = source["Output"][list(table.c.keys()).index(OWNED[table.name])]
    conflicts = set(node.get("Conflict Arbiter Indexes", ()))
    return bool(value == f"'{OWNER}'::text") and conflicts <= OWNERS_INDEXES


def conditions(node: Json) -> Iterator[str]:
    """The conditions that each row has to meet, every one of them."""
    for kind in ("Index Cond", "Recheck Cond", "Filter"):
        yield from conjuncts(node.get(kind, ""))


def conjuncts(condition: str) -> list[str]:
    """The parts of ``((a) AND (b OR c))``; a condition that is no such list is its only part."""
    depth, parts = 0, [""]
    for token in re.split(r"([()]| AND | OR )", condition):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if token == " OR " and depth == 1:
            return [condition]
        if token == " AND " and depth == 1:
            parts.append("")
        else:
            parts[-1] += token
    if len(parts) == 1:
        return parts
    return [parts[0][1:], *parts[1:-1], parts[-1][:-1]]


@pytest.fixture
async def watched(
    address: DatabaseUrl, erase: Callable[[Database], Awaitable[object]]
) -> AsyncIterator[WatchedDatabase]:
    database = WatchedDatabase(address)
    yield database
    await erase(database)
    await database.close()


# Each lets the owner touch tasks that may be anybody's.
CARELESS: Final = (
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
    "INSERT INTO todo.tasks (user_id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET title = 'mine'",
)


class TestStatements:
    async def test_all_carry_the_owner(self, watched: WatchedDatabase) -> None:
        await use_everything(PostgresTaskRepository(watched))
        for statement, values in list(watched.asked.items()):
            for variant in filter(None, (statement, statement.walled)):
                assert await unowned(watched, variant, values) == [], variant.sql

    async def test_are_all_asked_when_everything_is_done(self, watched: WatchedDatabase) -> None:
        await use_everything(PostgresTaskRepository(watched))
        constants = {value for value in vars(repository).values() if isinstance(value, Statement)}
        assert constants <= watched.asked.keys()
        assert watched.lines == lines_that_ask(inspect.getsource(repository))

    def test_concern_tables_that_are_known_to_be_owned(self) -> None:
        assert {table.name for table in metadata.tables.values()} == OWNED.keys()

    @pytest.mark.parametrize("sql", CARELESS)
    async def test_without_the_owner_are_noticed(self, watched: WatchedDatabase, sql: str) -> None:
        statement = Statement(sql, ("owner",) if "$1" in sql else ())
        assert await unowned(watched, statement, {"owner": OWNER}) == ["tasks"]


def lines_that_ask(source: str) -> set[int]:
    """The lines that hold a call of any ``fetch``."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return {c.lineno for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "fetch"}
