"""The second wall: tasks behind row-level security, for a role that cannot bypass it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Final
from uuid import uuid4

import asyncpg
import pytest

from contracts import TaskRepositoryContract
from support.round_trips import proxy_before
from support.tasks import NOW, a_task
from todo_adapters.postgres.database import Database, Statement
from todo_adapters.postgres.schema import migrate, rls_problem
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl
from todo_domain.ports import TaskRepository
from todo_domain.queries import TaskQuery
from todo_domain.task import Task

Branch = Callable[[str], Awaitable[DatabaseUrl]]
Erase = Callable[[Database], Awaitable[object]]

ROLE = "walled_service"
EVERYTHING = Statement("SELECT title FROM todo.tasks", ())


@pytest.fixture(scope="module")
async def walled_address(branch: Branch, server_url: str) -> DatabaseUrl:
    """A migrated database behind the wall, as a role of its own sees it."""
    address = await branch("walled")
    connection = await asyncpg.connect(server_url)
    await connection.execute(f"CREATE ROLE {ROLE} LOGIN NOBYPASSRLS")
    await connection.close()
    await migrate(address, rls_enabled=True, role=ROLE)
    return replace(address, url=address.url.set(username=ROLE))


@pytest.fixture
async def walled(walled_address: DatabaseUrl) -> AsyncIterator[Database]:
    database = Database(walled_address, pool_size=10, rls_enabled=True)
    yield database
    await database.close()


@pytest.fixture
async def unwalled(branch: Branch, walled_address: DatabaseUrl) -> AsyncIterator[Database]:
    """The same database as the superuser sees it, whom no wall stops."""
    del branch
    database = Database(
        replace(walled_address, url=walled_address.url.set(username="postgres")), pool_size=2
    )
    yield database
    await database.close()


class TestBehindTheWall(TaskRepositoryContract):
    """Everything works as without it."""

    @pytest.fixture
    async def tasks(
        self, walled: Database, unwalled: Database, erase: Erase
    ) -> AsyncIterator[TaskRepository]:
        yield PostgresTaskRepository(walled)
        await erase(unwalled)


async def test_a_statement_that_forgets_its_owner_sees_nothing(
    walled: Database, unwalled: Database, erase: Erase
) -> None:
    await PostgresTaskRepository(walled).add(a_task(owner="ada"))
    assert len(await unwalled.fetch(EVERYTHING)) == 1
    assert await walled.fetch(EVERYTHING) == []
    await erase(unwalled)


async def test_a_statement_that_names_an_owner_but_does_not_ask_for_it_sees_that_owners_alone(
    walled: Database, unwalled: Database, erase: Erase
) -> None:
    tasks = PostgresTaskRepository(walled)
    await tasks.add(a_task(owner="ada", title="Ada's"))
    await tasks.add(a_task(owner="eve", title="Eve's"))
    careless = Statement("SELECT title FROM todo.tasks WHERE $1::text IS NOT NULL", ("owner",))
    assert [row["title"] for row in await walled.fetch(careless, owner="ada")] == ["Ada's"]
    await erase(unwalled)


async def test_a_task_cannot_be_given_to_somebody_else(
    walled: Database, unwalled: Database, erase: Erase
) -> None:
    await PostgresTaskRepository(walled).add(a_task(owner="ada"))
    theft = Statement("UPDATE todo.tasks SET user_id = 'eve' WHERE user_id = $1", ("owner",))
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await walled.fetch(theft, owner="ada")
    await erase(unwalled)


CALLS: Final[dict[str, tuple[int, Callable[[TaskRepository, Task], Awaitable[object]]]]] = {
    "get": (1, lambda tasks, task: tasks.get("ada", task.id)),
    "find": (1, lambda tasks, _: tasks.find("ada", TaskQuery(with_total=True))),
    "add": (1, lambda tasks, _: tasks.add(a_task())),
    "save": (4, lambda tasks, task: tasks.save(task.changed(NOW, title="Buy oat milk"))),
    "remove": (4, lambda tasks, task: tasks.delete("ada", task.id, now=NOW)),
}


@pytest.mark.parametrize(("trips", "call"), CALLS.values(), ids=CALLS)
async def test_reads_and_inserts_take_one_round_trip_and_changes_four(
    walled_address: DatabaseUrl,
    unwalled: Database,
    erase: Erase,
    trips: int,
    call: Callable[[TaskRepository, Task], Awaitable[object]],
) -> None:
    async with proxy_before(walled_address) as proxy:
        database = Database(proxy.address, pool_size=1, rls_enabled=True)
        tasks = PostgresTaskRepository(database)
        for task in (a_task(), a_task()):  # the first time statements are prepared
            await tasks.add(task)
            cost = await proxy.cost(call(tasks, task))
        assert cost == trips
        await database.close()
    await erase(unwalled)


async def test_a_role_that_bypasses_the_wall_is_told(walled_address: DatabaseUrl) -> None:
    superuser = replace(walled_address, url=walled_address.url.set(username="postgres"))
    weakness = await rls_problem(superuser, rls_enabled=True)
    assert weakness is not None
    assert "NOBYPASSRLS" in weakness


async def test_a_wall_that_is_not_up_is_told(branch: Branch) -> None:
    address = await branch(f"open_{uuid4().hex}")
    await migrate(address, role=ROLE)
    weakness = await rls_problem(
        replace(address, url=address.url.set(username=ROLE)), rls_enabled=True
    )
    assert weakness is not None
    assert "DATABASE_RLS=on todo-api migrate" in weakness


async def test_a_wall_that_nobody_knows_of_is_told(walled_address: DatabaseUrl) -> None:
    weakness = await rls_problem(walled_address, rls_enabled=False)
    assert weakness is not None
    assert "set DATABASE_RLS=on" in weakness


async def test_a_wall_as_wanted_has_no_weakness(walled_address: DatabaseUrl) -> None:
    assert await rls_problem(walled_address, rls_enabled=True) is None


async def test_migrating_without_it_takes_the_wall_down(branch: Branch) -> None:
    address = await branch(f"lowered_{uuid4().hex}")
    await migrate(address, rls_enabled=True, role=ROLE)
    await migrate(address, rls_enabled=False, role=ROLE)
    as_service = replace(address, url=address.url.set(username=ROLE))
    assert await rls_problem(as_service, rls_enabled=False) is None
