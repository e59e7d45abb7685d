"""One connection to the server: its session's settings and its prepared statements.

A transaction pooler may run each statement on another server connection, where the name of a
prepared statement is unknown or another client's, and whose settings belong to other clients too.
The URL does not always show a pooler, so a first connection is examined.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count
from time import monotonic
from typing import Any, Final, Self

import asyncpg
from sqlalchemy import URL

from todo_adapters.postgres.url import DatabaseUrl

DIALECT: Final = URL.create("postgresql+asyncpg").get_dialect()()

POOLER_HINT: Final = (
    "there is a transaction pooler that the host and port of DATABASE_URL do not show: add "
    "pgbouncer=true to its options"
)
SETTINGS_HINT: Final = (
    "default_transaction_isolation, synchronous_commit, row_security or search_path is changed, so "
    "each statement behind the pooler takes three more round trips: run ALTER DATABASE … RESET … "
    "or ALTER ROLE … RESET …"
)

# Settings that ALTER DATABASE, ALTER ROLE or the server may have changed, and that change the
# results of statements. asyncpg transfers values in binary, so DateStyle, TimeZone and bytea_output
# change nothing.
_SETTINGS: Final = {
    "default_transaction_isolation": "read committed",
    "row_security": "on",
    "search_path": "pg_catalog",
}
# Without it, a crash loses confirmed writes. Other values than "off" are the operator's choice.
_DURABLE: Final = {"synchronous_commit": "on"}
_EXAMINE: Final = (
    "SELECT pg_backend_pid() AS process,"
    " current_setting('synchronous_commit') = 'off' AS is_not_durable,"
    " current_setting('default_transaction_isolation') <> 'read committed'"
    " OR current_setting('row_security') = 'off'"
    " OR current_setting('search_path') LIKE '%pg_catalog%' AS is_changed"
)


@dataclass(frozen=True, slots=True)
class Session:
    """How to use the sessions of a server.

    Without ``via_pooler`` each session gets the ``settings`` when it starts. Behind a pooler they
    are set in each transaction, if ``needs_transaction`` says that the session's are wrong.
    """

    via_pooler: bool
    needs_transaction: bool
    settings: Mapping[str, str]

    @property
    def startup_parameters(self) -> Mapping[str, str]:
        """The parameters of a new connection. PgBouncer refuses them.

        Other proxies forward settings only as ``options``, where a backslash escapes a space.
        """
        if self.via_pooler:
            return {}
        escaped = {name: value.replace(" ", "\\ ") for name, value in self.settings.items()}
        return {"options": " ".join(f"-c {name}={value}" for name, value in escaped.items())}

    def commands(self, scope: str) -> str:
        """The SQL that makes the settings; the scope is SESSION or LOCAL."""
        return "; ".join(f"SET {scope} {name} = '{value}'" for name, value in self.settings.items())


@dataclass(slots=True)
class Connection:
    """An asyncpg connection and the statements that are prepared on it."""

    driver: Any
    session: Session
    max_prepared: int
    opened_at: float = field(default_factory=monotonic)
    responded_at: float = field(default_factory=monotonic)
    _prepared: dict[str, Any] = field(default_factory=dict)  # the most recently used is last
    _numbers: "count[int]" = field(default_factory=count)

    @classmethod
    async def open(
        cls,
        database_url: DatabaseUrl,
        session: Session | None,
        *,
        connect_timeout: float,
        statement_timeout: float,
        max_prepared: int,
    ) -> Self:
        """Connect. Without ``session``, examine the server, which takes one to three round trips.

        Raises OSError and the errors of asyncpg.
        """
        _, arguments = DIALECT.create_connect_args(database_url.url)
        arguments.update(database_url.connect_args)
        arguments.update(timeout=connect_timeout, command_timeout=statement_timeout)
        # asyncpg's own names of statements collide behind a pooler.
        arguments["statement_cache_size"] = 0
        if session:
            parameters = arguments.get("server_settings", {})
            arguments["server_settings"] = {**session.startup_parameters, **parameters}
        driver = await asyncpg.connect(**arguments)
        try:
            session = session or await _examine(driver, database_url)
        except BaseException:
            driver.terminate()
            raise
        return cls(driver, session, max_prepared)

    async def fetch(self, sql: str, arguments: Sequence[object]) -> list[asyncpg.Record]:
        """Run the statement in one round trip. The first time, another one prepares it."""
        prepared = self._prepared.pop(sql, None) or await self._prepare(sql)
        rows: list[asyncpg.Record] = await prepared.fetch(*arguments)
        self._prepared[sql] = prepared  # not after an error: it may be outdated
        return rows

    async def _prepare(self, sql: str) -> Any:  # noqa: ANN401 - asyncpg has no types
        if len(self._prepared) >= self.max_prepared:
            del self._prepared[next(iter(self._prepared))]
        if self.session.via_pooler:
            # Without a name: asyncpg sends the SQL again in the round trip that runs it.
            return await self.driver.prepare(sql)
        # asyncpg's own names are the same in all processes. Behind a pooler that was not recognised
        # a name must never find another statement, so it contains a hash of the SQL.
        digest = blake2b(sql.encode(), digest_size=16).hexdigest()
        return await self.driver.prepare(sql, name=f"todo_{digest}_{next(self._numbers)}")


async def _examine(driver: Any, database_url: DatabaseUrl) -> Session:  # noqa: ANN401
    """Find out how to use the server's sessions, and use this one like that.

    PgBouncer, Odyssey, PgCat and Supavisor invent the process id that a client gets for its cancel
    requests. Neon's proxy may do so too, but its host names show a pooler.
    """
    # A statement without a name, which works behind every pooler.
    seen = await (await driver.prepare(_EXAMINE)).fetchrow()
    settings = _SETTINGS | (_DURABLE if seen["is_not_durable"] else {})
    is_wrong = seen["is_changed"] or seen["is_not_durable"]
    is_other_process = driver.get_server_pid() != seen["process"]
    via_pooler = database_url.via_pooler or (is_other_process and not database_url.is_direct)
    session = Session(via_pooler, via_pooler and is_wrong, settings)
    if is_wrong and not via_pooler:
        await driver.execute(session.commands("SESSION"))
    return session
