"""What is stored about users: ``todo-api users``, ``export`` and ``erase``."""

import asyncio
import json
import shlex
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, Final, TypeVar

from todo_adapters.postgres import user_data
from todo_adapters.postgres.database import Database
from todo_adapters.postgres.diagnosis import explain
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.user_data import UserSummary
from todo_api.cli.database import check_schema, with_running_database
from todo_api.exports import FORMATS
from todo_api.main import database_url
from todo_api.server.logs import silence_logs
from todo_api.server.settings import ConfigurationError, Settings
from todo_domain import use_cases
from todo_domain.errors import DatabaseUnavailable
from todo_domain.ownership import Principal
from todo_domain.ports import TaskRepository

_Result = TypeVar("_Result")

_FORMATS: Final = {each.extension: each for each in FORMATS}
_HEADER: Final = "  TASKS  DELETED  FIRST SEEN  LAST SEEN   USER"


def list_users(settings: Settings, *, after: str, limit: int) -> Iterator[str]:
    """The lines of a table of users. Raises ConfigurationError."""
    users = _run(
        settings,
        lambda database, _: user_data.list_users(database, after=after, limit=limit + 1),
    )
    yield _HEADER
    yield from map(_line, users[:limit])
    if len(users) > limit:
        last = shlex.quote(users[limit - 1].id)
        yield f"There are more users: todo-api users --limit {limit} --after {_printable(last)}"


def export_user(settings: Settings, user_id: str, extension: str, output: BinaryIO) -> None:
    """Write everything that is stored about the user. Raises ConfigurationError."""
    now = datetime.now(UTC)

    async def export(_: Database, tasks: TaskRepository) -> None:
        data = await use_cases.read_user_data(tasks, _actor(user_id, now), now=now)
        if data.user is None:
            raise ConfigurationError(
                f"nothing is stored about the user {_printable(user_id)}: `todo-api users` lists "
                "the users"
            )
        async for chunk in _FORMATS[extension].encode(user_id, data, now):
            output.write(chunk)

    _run(settings, export)


def count_tasks(settings: Settings, user_id: str) -> int:
    """The number of the user's tasks, without deleted ones. Raises ConfigurationError."""

    async def count(_: Database, tasks: TaskRepository) -> int:
        return (await tasks.count(user_id)).total

    return _run(settings, count)


def erase_user(settings: Settings, user_id: str) -> int:
    """Erase everything that is stored about the user; return the number of tasks.

    Raises ConfigurationError.
    """
    actor = _actor(user_id, datetime.now(UTC))
    return _run(settings, lambda _, tasks: use_cases.erase_user(tasks, actor))


def _run(
    settings: Settings, work: Callable[[Database, TaskRepository], Awaitable[_Result]]
) -> _Result:
    silence_logs()
    return asyncio.run(_with_database(with_running_database(settings), work))


async def _with_database(
    settings: Settings, work: Callable[[Database, TaskRepository], Awaitable[_Result]]
) -> _Result:
    await check_schema(settings)
    database = Database(database_url(settings), pool_size=1, rls_enabled=settings.rls_enabled)
    retention = timedelta(days=settings.retention_days)
    try:
        return await work(database, PostgresTaskRepository(database, retention=retention))
    except DatabaseUnavailable as error:
        raise ConfigurationError(f"database: {explain(error)}") from None
    finally:
        await database.close()


def _actor(user_id: str, now: datetime) -> Principal:
    return Principal(user_id, expires_at=now)


def _line(user: UserSummary) -> str:
    first, last = user.record.first_seen_at, user.record.last_seen_at
    counts = f"{user.live:7}  {user.deleted:7}"
    return f"{counts}  {first:%Y-%m-%d}  {last:%Y-%m-%d}  {_printable(user.id)}"


def _printable(user_id: str) -> str:
    """The id; escaped if a terminal would not show it, or would execute it."""
    return user_id if user_id.isprintable() else json.dumps(user_id)
