"""The pooled connections, one statement in one round trip, and what their failures mean.

SQLAlchemy writes the SQL, once per statement, from the tables. The statement itself runs on an
asyncpg connection, outside any transaction block, because on a network the round trips of BEGIN,
COMMIT and ping would cost more than the work. Connections that are free lie on a stack: what the
pools of the two libraries do beyond that takes longer than the statement.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any, Final

import asyncpg
import structlog
from sqlalchemy import URL, ClauseElement, Select

from todo_adapters.postgres.tables import OWNER_SETTING
from todo_adapters.postgres.url import DatabaseUrl
from todo_domain.errors import DatabaseUnavailable, Overloaded

ACQUIRE_TIMEOUT: Final = 2.0  # seconds until a request without a connection is refused
CONNECT_TIMEOUT: Final = 2.0
STATEMENT_TIMEOUT: Final = 2.5
PROBE_TIMEOUT: Final = 1.0
CANCEL_TIMEOUT: Final = 2.0
PROBE_AFTER_IDLE: Final = (
    30.0  # seconds after an answer for which a connection need not prove that it lives
)
CONNECTION_LIFETIME: Final = 1800
STATEMENTS_KEPT: Final = 100  # by each connection, as many as asyncpg keeps of named ones

_log = structlog.get_logger()
_DIALECT: Final = URL.create("postgresql+asyncpg").get_dialect()()

# SQLSTATEs under which the server is away, starting, full or interrupting, not refusing our SQL.
_UNAVAILABLE_ERRORS: Final = (
    asyncpg.PostgresConnectionError,  # class 08
    asyncpg.OperatorInterventionError,  # class 57: shutdown, restart, cancelled statement
    asyncpg.InsufficientResourcesError,  # class 53: too many connections, disk or memory full
    asyncpg.InvalidAuthorizationSpecificationError,  # class 28: the operator's to mend
    asyncpg.InvalidCatalogNameError,  # 3D000: no such database
    asyncpg.DeadlockDetectedError,  # 40P01: nothing was written; the next try finds a way
    asyncpg.ReadOnlySQLTransactionError,  # 25006: a standby answers during a failover
    asyncpg.UndefinedTableError,  # 42P01: not migrated
    asyncpg.InvalidSchemaNameError,
)
# What a connection fails with that cannot be used any more.
_CONNECTION_ERRORS: Final = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
# What the server, or asyncpg in its name, says of a connection that is no more.
_ENDED: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)
# asyncpg's refusal to send anything to a server that has just said that it ends the connection.
_UNSENT: Final = "cannot switch to state"


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL for asyncpg and the names of its parameters in their order.

    ``walled`` does the same behind row-level security: it names the owner to the wall first. None
    where one statement cannot do both.
    """

    sql: str
    parameters: tuple[str, ...]
    walled: "Statement | None" = None

    @classmethod
    def compiled(cls, clause: ClauseElement, walled: ClauseElement | None = None) -> "Statement":
        """The statement as SQL. Every value in it has to be a named ``bindparam``."""
        compiled: Any = clause.compile(dialect=_DIALECT)
        plain = cls(str(compiled), tuple(compiled.positiontup or ()))
        if walled is not None:
            return replace(plain, walled=cls.compiled(walled))
        is_select = isinstance(clause, Select) and plain.sql.startswith("SELECT")
        return replace(plain, walled=_named_first(plain)) if is_select and plain.owner else plain

    @property
    def owner(self) -> str | None:
        """The parameter that holds the owner."""
        return next((name for name in self.parameters if name in _OWNERS), None)

    def arguments(self, values: Mapping[str, object]) -> list[object]:
        return [values[name] for name in self.parameters]


_OWNERS: Final = ("owner", "user_id")
_NAME_OWNER: Final = f"SELECT set_config('{OWNER_SETTING}', $1, true)"


def _named_first(select: Statement) -> Statement:
    """A SELECT that names the owner to the wall before it reads: LATERAL makes it wait for that."""
    owner = next(at for at, name in enumerate(select.parameters, 1) if name == select.owner)
    sql = (
        "WITH wall AS MATERIALIZED"  # noqa: S608 - SQL of our own around SQL of our own
        f" (SELECT set_config('{OWNER_SETTING}', ${owner}::VARCHAR, true) AS owner)"
        " SELECT behind.* FROM wall, LATERAL"
        f" (SELECT * FROM ({select.sql}) AS page WHERE wall.owner IS NOT NULL OFFSET 0) AS behind"
    )
    return Statement(sql, select.parameters)


_ANSWER: Final = Statement("SELECT 1", ())


class _NotConnected(Exception):
    """No connection could be opened, for the reason that is the cause."""


@dataclass(slots=True)
class _Connection:
    """An open connection of asyncpg's, and what is remembered of it."""

    driver: Any
    opened_at: float = field(default_factory=monotonic)
    answered_at: float = field(default_factory=monotonic)
    statements: dict[str, Any] = field(default_factory=dict)

    async def is_usable(self, *, suspect_since: float) -> bool:
        """Whether it is young enough, and the server is there still.

        The server is asked when its last answer is old, or older than ``suspect_since``.
        """
        now = monotonic()
        if self.driver.is_closed() or self.opened_at < now - CONNECTION_LIFETIME:
            return False
        if self.answered_at > max(suspect_since, now - PROBE_AFTER_IDLE):
            return True
        try:
            await self.driver.execute(_ANSWER.sql, timeout=PROBE_TIMEOUT)
        except (*_CONNECTION_ERRORS, asyncpg.PostgresError):
            return False
        except BaseException:
            self.driver.terminate()
            raise
        return True

    async def end(self) -> None:
        """Cancel what runs there and close it, or terminate it if that takes too long."""
        with suppress(*_CONNECTION_ERRORS, asyncpg.PostgresError):
            await self.driver.close(timeout=CANCEL_TIMEOUT)


class Database:
    """A pool of connections to one database. ``fetch`` is safe to call from many tasks at once."""

    def __init__(self, address: DatabaseUrl, *, pool_size: int, rls_enabled: bool = False) -> None:
        """``rls_enabled`` if the tasks are behind row-level security."""
        self._address = address
        self._idle: list[_Connection] = []  # those used last are on top: the others may grow old
        self._in_use = 0
        # Behind a transaction pooler a statement's name may mean another client's statement there,
        # so each connection keeps unnamed ones, which asyncpg sends again in the same round trip.
        self._unnamed = address.via_pooler
        self._rls_enabled = rls_enabled
        self._available = True
        self._suspect_since = 0.0  # when a connection last broke: others may have, unnoticed
        self._endings: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(pool_size)

    async def fetch(self, statement: Statement, **values: object) -> list[asyncpg.Record]:
        """Run the statement, atomically, in one round trip, and return its rows.

        Behind a wall those that change rows take four: it has to be told the owner before.

        Raises DatabaseUnavailable when the database is away, Overloaded when no connection came
        free in time.
        """
        if self._rls_enabled and statement.walled:
            statement = statement.walled
        try:
            rows = await self._fetch(statement, statement.arguments(values))
        except DatabaseUnavailable as failure:
            if self._available:
                self._available = False
                _log.error("database.unavailable", reason=str(failure))
            raise
        if not self._available:
            self._available = True
            _log.info("database.recovered")
        return rows

    async def _fetch(self, statement: Statement, arguments: list[object]) -> list[asyncpg.Record]:
        """The one place where the driver's failures become the domain's."""
        await self._acquire_slot()
        self._in_use += 1
        try:
            try:
                return await self._attempt(statement, arguments)
            except asyncpg.InternalClientError as failure:
                if not str(failure).startswith(_UNSENT):
                    raise
                return await self._attempt(statement, arguments)
        except (*_CONNECTION_ERRORS, *_UNAVAILABLE_ERRORS, _NotConnected) as failure:
            raise DatabaseUnavailable(_reason(failure)) from failure
        finally:
            self._in_use -= 1
            self._slots.release()

    async def _acquire_slot(self) -> None:
        """Wait until a connection is free, in the order of arrival.

        So nobody who waits is overtaken, and never more connections are at work than turns.
        """
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(ACQUIRE_TIMEOUT):
                await self._slots.acquire()
        except TimeoutError:
            raise Overloaded from None

    async def _attempt(self, statement: Statement, arguments: list[object]) -> list[asyncpg.Record]:
        connection = await self._take_connection()
        try:
            rows = await self._run(connection, statement, arguments)
        except _ENDED:
            self._discard(connection)
            raise
        except asyncpg.PostgresError:
            self._idle.append(connection)
            raise
        except BaseException:
            self._discard(connection)
            raise
        connection.answered_at = monotonic()
        self._idle.append(connection)
        return rows

    async def _take_connection(self) -> _Connection:
        """The one that was free last, or a new one if there is none or that one has gone."""
        if self._idle:
            connection = self._idle.pop()
            if await connection.is_usable(suspect_since=self._suspect_since):
                return connection
            connection.driver.terminate()
        return await self._connect()

    async def _connect(self) -> _Connection:
        _, arguments = _DIALECT.create_connect_args(self._address.url)
        arguments.update(timeout=CONNECT_TIMEOUT, command_timeout=STATEMENT_TIMEOUT)
        arguments.update(self._address.connect_args)
        try:
            driver = await asyncpg.connect(**arguments)
        except (*_CONNECTION_ERRORS, asyncpg.PostgresError) as failure:
            raise _NotConnected from failure
        return _Connection(driver)

    def _discard(self, connection: _Connection) -> None:
        """End a connection in an unknown state, while others go on.

        What still runs on it is cancelled: a change that was refused should not come true later.
        """
        self._suspect_since = monotonic()
        ending = asyncio.create_task(connection.end())
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    async def _run(
        self, connection: _Connection, statement: Statement, arguments: list[object]
    ) -> list[asyncpg.Record]:
        if not self._rls_enabled or statement.owner is None or OWNER_SETTING in statement.sql:
            return await self._run_sql(connection, statement.sql, arguments)
        owner = arguments[statement.parameters.index(statement.owner)]
        async with connection.driver.transaction():
            await self._run_sql(connection, _NAME_OWNER, [owner])
            return await self._run_sql(connection, statement.sql, arguments)

    async def _run_sql(
        self, connection: _Connection, sql: str, arguments: list[object]
    ) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record]
        if self._unnamed:
            kept = connection.statements
            if sql not in kept:
                if len(kept) >= STATEMENTS_KEPT:
                    kept.clear()
                kept[sql] = await connection.driver.prepare(sql)
            rows = await kept[sql].fetch(*arguments)
        else:
            rows = await connection.driver.fetch(sql, *arguments)
        return rows

    async def check(self) -> None:
        """Ask the server for an answer, as ``fetch`` would. Raises what ``fetch`` raises."""
        await self.fetch(_ANSWER)

    def connections_in_use(self) -> int:
        return self._in_use

    async def close(self) -> None:
        """End every connection, in bounded time even if the server is silent."""
        await asyncio.gather(*self._endings)
        while self._idle:
            self._idle.pop().driver.terminate()


def _reason(failure: BaseException) -> str:
    """What went wrong in a word for the log; messages may carry addresses and are left out."""
    if isinstance(failure, _NotConnected) and failure.__cause__:
        failure = failure.__cause__
    state = getattr(failure, "sqlstate", None)
    return f"{type(failure).__name__} {state}" if state else type(failure).__name__
