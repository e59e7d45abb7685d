"""The purge of all users' expired rows, with and without row-level security."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final

import asyncpg
import pytest

from support.tasks import NOW, a_task
from todo_adapters.postgres import purge as expiry
from todo_adapters.postgres.database import Database, Statement
from todo_adapters.postgres.purge import Purged, purge
from todo_adapters.postgres.schema import migrate
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl
from todo_domain.errors import SyncExpired, TaskNotFound
from todo_domain.ports import KEY_LIFETIME, RETENTION, TaskRepository
from todo_domain.sync import FeedPage, FeedPosition, next_token

Branch = Callable[[str], Awaitable[DatabaseUrl]]
Erase = Callable[[Database], Awaitable[object]]

INSTANT: Final = timedelta(microseconds=1)
ROLE: Final = "purge_service"
ROWS: Final = Statement(
    "SELECT (SELECT count(*) FROM todo.tasks), (SELECT count(*) FROM todo.idempotency_keys)", ()
)


@pytest.fixture(scope="module")
async def owners_url(branch: Branch, server_url: str) -> DatabaseUrl:
    """A database with row-level security, for the superuser."""
    database_url = await branch("purged")
    connection = await asyncpg.connect(server_url)
    await connection.execute(f"CREATE ROLE {ROLE} LOGIN NOBYPASSRLS")
    await connection.close()
    await migrate(database_url, rls_enabled=True, role=ROLE)
    return database_url


@pytest.fixture
async def superuser(owners_url: DatabaseUrl, erase: Erase) -> AsyncIterator[Database]:
    database = Database(owners_url, pool_size=2)
    yield database
    await erase(database)
    await database.close()


@pytest.fixture(params=["without row-level security", "with row-level security"])
async def database(
    superuser: Database, owners_url: DatabaseUrl, request: pytest.FixtureRequest
) -> AsyncIterator[Database]:
    """The database for a user that bypasses row-level security, and for one that does not."""
    if request.param == "without row-level security":
        yield superuser
        return
    database_url = replace(owners_url, url=owners_url.url.set(username=ROLE))
    database = Database(database_url, pool_size=2, rls_enabled=True)
    yield database
    await database.close()


@pytest.fixture
def tasks(database: Database) -> TaskRepository:
    return PostgresTaskRepository(database)


async def delete_tasks(tasks: TaskRepository, owner: str, number: int) -> None:
    """Add and delete tasks."""
    for _ in range(number):
        task = await tasks.add(a_task(owner=owner))
        await tasks.delete(owner, task.id, now=NOW)


async def rows(superuser: Database) -> tuple[int, int]:
    """The numbers of tasks and idempotency keys."""
    ((task_count, key_count),) = await superuser.fetch(ROWS)
    return task_count, key_count


async def test_removes_the_expired_tasks_of_users_who_never_return(
    database: Database, superuser: Database, tasks: TaskRepository
) -> None:
    for owner in ("ada", "eve"):
        await delete_tasks(tasks, owner, 2)
    kept = await tasks.add(a_task())
    purged = await purge(database, now=NOW + RETENTION, retention=RETENTION)
    assert purged == Purged(tasks=4, keys=0)
    assert await rows(superuser) == (1, 0)
    assert await tasks.get("ada", kept.id) == kept


async def test_leaves_tasks_that_can_be_restored(
    database: Database, superuser: Database, tasks: TaskRepository
) -> None:
    await delete_tasks(tasks, "ada", 1)
    purged = await purge(database, now=NOW + RETENTION - INSTANT, retention=RETENTION)
    assert purged == Purged()
    assert await rows(superuser) == (1, 0)


async def test_removes_the_keys_that_have_expired_and_no_others(
    database: Database, superuser: Database, tasks: TaskRepository
) -> None:
    await tasks.add(a_task(), key="old")
    await tasks.add(a_task(created_at=NOW + INSTANT), key="new")
    purged = await purge(database, now=NOW + KEY_LIFETIME + INSTANT, retention=RETENTION)
    assert purged == Purged(tasks=0, keys=1)
    assert await rows(superuser) == (2, 1)


async def test_removes_all_rows_in_bounded_batches_of_rows_and_users(
    database: Database,
    superuser: Database,
    tasks: TaskRepository,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(expiry, "BATCH", 2)
    for owner in ("ada", "eve", "joe"):
        await delete_tasks(tasks, owner, 5)
    purged = await purge(database, now=NOW + RETENTION, retention=RETENTION)
    assert purged == Purged(tasks=15)
    assert await rows(superuser) == (0, 0)


async def test_concurrent_purges_and_deletes_do_not_wait_for_each_other_for_ever(
    database: Database, superuser: Database, tasks: TaskRepository
) -> None:
    await delete_tasks(tasks, "ada", 20)
    later = NOW + RETENTION
    live = [await tasks.add(a_task()) for _ in range(10)]
    await asyncio.gather(
        purge(database, now=later, retention=RETENTION),
        purge(superuser, now=later, retention=RETENTION),
        *(tasks.delete("ada", task.id, now=later) for task in live),
    )
    await purge(database, now=later, retention=RETENTION)
    assert await rows(superuser) == (len(live), 0)


@pytest.mark.parametrize("age", [timedelta(0), timedelta(hours=23, minutes=59)])
async def test_no_valid_token_misses_a_deletion_that_was_purged(
    database: Database, tasks: TaskRepository, age: timedelta
) -> None:
    task = await tasks.add(a_task())
    issued_at = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
    token = next_token(None, await feed(tasks), issued_at)
    await tasks.delete("ada", task.id, now=issued_at + age)
    now = issued_at + age + RETENTION
    while (await purge(database, now=now, retention=RETENTION)).tasks == 0:
        now += timedelta(hours=1)
    state = (await feed(tasks)).state
    with pytest.raises(SyncExpired):
        token.require_valid(state, now, RETENTION)


async def test_changes_no_state_of_the_feed(database: Database, tasks: TaskRepository) -> None:
    await delete_tasks(tasks, "ada", 1)
    before = (await feed(tasks)).state
    await purge(database, now=NOW + RETENTION, retention=RETENTION)
    assert (await feed(tasks)).state == before


async def test_a_purged_task_cannot_be_restored(database: Database, tasks: TaskRepository) -> None:
    task = await tasks.add(a_task())
    await tasks.delete("ada", task.id, now=NOW)
    await purge(database, now=NOW + RETENTION, retention=RETENTION)
    with pytest.raises(TaskNotFound):
        await tasks.restore("ada", task.id, now=NOW)


async def feed(tasks: TaskRepository) -> FeedPage:
    return await tasks.changes("ada", after=FeedPosition(), floor=0, limit=10)
