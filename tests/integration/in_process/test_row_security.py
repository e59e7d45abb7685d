"""Row-level security on the tasks, for a role that cannot bypass it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Final
from uuid import uuid4

import asyncpg
import pytest

from contracts import TaskRepositoryContract
from support.postgres.round_trips import proxy_before
from support.tasks import NOW, a_task
from todo_adapters.postgres.database import Database, Statement
from todo_adapters.postgres.schema import migrate, rls_problem
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl
from todo_domain.ports import TaskRepository
from todo_domain.queries import TaskQuery
from todo_domain.sync import Change
from todo_domain.task import Task

Branch = Callable[[str], Awaitable[DatabaseUrl]]
Erase = Callable[[Database], Awaitable[object]]

ROLE: Final = "rls_service"
ALL_TITLES: Final = Statement("SELECT title FROM todo.tasks", ())


def as_role(database_url: DatabaseUrl, role: str) -> DatabaseUrl:
    return replace(database_url, url=database_url.url.set(username=role))


@pytest.fixture(scope="module")
async def rls_url(branch: Branch, server_url: str) -> DatabaseUrl:
    """A database with row-level security, for the service's role."""
    database_url = await branch("rls")
    connection = await asyncpg.connect(server_url)
    await connection.execute(f"CREATE ROLE {ROLE} LOGIN NOBYPASSRLS")
    await connection.close()
    await migrate(database_url, rls_enabled=True, role=ROLE)
    return as_role(database_url, ROLE)


@pytest.fixture
async def superuser(rls_url: DatabaseUrl, erase: Erase) -> AsyncIterator[Database]:
    """The same database for the superuser, who bypasses row-level security."""
    database = Database(as_role(rls_url, "postgres"), pool_size=2)
    yield database
    await erase(database)
    await database.close()


@pytest.fixture
async def service(rls_url: DatabaseUrl, superuser: Database) -> AsyncIterator[Database]:
    """The database for the service's role, with empty tables."""
    del superuser  # empties the tables
    database = Database(rls_url, pool_size=10, rls_enabled=True)
    yield database
    await database.close()


class TestPostgresTaskRepositoryWithRowLevelSecurity(TaskRepositoryContract):
    @pytest.fixture
    def tasks(self, service: Database, reported: list[Change]) -> TaskRepository:
        return PostgresTaskRepository(service, on_change=reported.append)


async def test_a_statement_without_an_owner_sees_no_rows(
    service: Database, superuser: Database
) -> None:
    await PostgresTaskRepository(service).add(a_task(owner="ada"))
    assert len(await superuser.fetch(ALL_TITLES)) == 1
    assert await service.fetch(ALL_TITLES) == []


async def test_a_statement_without_a_condition_on_the_owner_sees_the_owners_rows_only(
    service: Database,
) -> None:
    tasks = PostgresTaskRepository(service)
    await tasks.add(a_task(owner="ada", title="Ada's"))
    await tasks.add(a_task(owner="eve", title="Eve's"))
    assert [row["title"] for row in await service.fetch(ALL_TITLES, owner="ada")] == ["Ada's"]


@pytest.mark.usefixtures("superuser")  # empties the tables
async def test_the_owner_of_one_statement_is_not_set_for_the_next(rls_url: DatabaseUrl) -> None:
    database = Database(rls_url, pool_size=1, rls_enabled=True)
    await PostgresTaskRepository(database).add(a_task(owner="ada"))
    assert len(await database.fetch(ALL_TITLES, owner="ada")) == 1
    assert await database.fetch(ALL_TITLES) == []
    await database.close()


async def test_a_task_cannot_be_given_to_another_user(service: Database) -> None:
    await PostgresTaskRepository(service).add(a_task(owner="ada"))
    give_away = Statement("UPDATE todo.tasks SET user_id = 'eve' WHERE user_id = $1", ("owner",))
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await service.fetch(give_away, owner="ada")


CALLS: Final[dict[str, Callable[[TaskRepository, Task], Awaitable[object]]]] = {
    "get": lambda tasks, task: tasks.get("ada", task.id),
    "find": lambda tasks, _: tasks.find("ada", TaskQuery(with_total=True)),
    "add": lambda tasks, _: tasks.add(a_task()),
    "save": lambda tasks, task: tasks.save(task.changed(NOW, title="Buy oat milk")),
    "delete": lambda tasks, task: tasks.delete("ada", task.id, now=NOW),
}


@pytest.mark.usefixtures("superuser")  # empties the tables
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_each_call_takes_four_round_trips(
    rls_url: DatabaseUrl, call: Callable[[TaskRepository, Task], Awaitable[object]]
) -> None:
    async with proxy_before(rls_url) as proxy:
        database = Database(proxy.address, pool_size=1, rls_enabled=True)
        tasks = PostgresTaskRepository(database)
        for task in (a_task(), a_task()):  # the first call prepares the statements
            await tasks.add(task)
            cost = await proxy.cost(call(tasks, task))
        begin, set_owner, statement, commit = 1, 1, 1, 1
        assert cost == begin + set_owner + statement + commit
        await database.close()


async def test_a_role_that_bypasses_it_is_a_problem(rls_url: DatabaseUrl) -> None:
    problem = await rls_problem(as_role(rls_url, "postgres"), rls_enabled=True)
    assert problem is not None
    assert "NOBYPASSRLS" in problem


async def test_a_database_without_it_is_a_problem_if_it_is_configured(branch: Branch) -> None:
    database_url = await branch(f"without_rls_{uuid4().hex}")
    await migrate(database_url, role=ROLE)
    problem = await rls_problem(as_role(database_url, ROLE), rls_enabled=True)
    assert problem is not None
    assert "DATABASE_RLS=on todo-api migrate" in problem


async def test_a_database_with_it_is_a_problem_if_it_is_not_configured(
    rls_url: DatabaseUrl,
) -> None:
    problem = await rls_problem(rls_url, rls_enabled=False)
    assert problem is not None
    assert "set DATABASE_RLS=on" in problem


async def test_a_database_as_configured_has_no_problem(rls_url: DatabaseUrl) -> None:
    assert await rls_problem(rls_url, rls_enabled=True) is None


async def test_migrating_without_it_disables_it(branch: Branch) -> None:
    database_url = await branch(f"disabled_rls_{uuid4().hex}")
    await migrate(database_url, rls_enabled=True, role=ROLE)
    await migrate(database_url, rls_enabled=False, role=ROLE)
    assert await rls_problem(as_role(database_url, ROLE), rls_enabled=False) is None
