"""Runs SQL on pooled connections, one statement in one round trip, and translates its errors.

SQLAlchemy compiles each statement once, from the tables. asyncpg runs it outside a transaction
block, because BEGIN, COMMIT and a ping would cost three more round trips. Decision record 0002 says
why the pool is not asyncpg's or SQLAlchemy's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, TypeVar

import asyncpg
import structlog
from sqlalchemy import URL, ClauseElement

from todo_adapters.postgres.tables import OWNER_SETTING
from todo_adapters.postgres.url import DatabaseUrl
from todo_domain.errors import DatabaseUnavailable, Overloaded

_Result = TypeVar("_Result")
Fetch = Callable[..., Awaitable[list[asyncpg.Record]]]

_log = structlog.get_logger()
_DIALECT: Final = URL.create("postgresql+asyncpg").get_dialect()()

# Errors of a database that cannot run even a correct statement at present.
_UNAVAILABLE_ERRORS: Final = (
    asyncpg.PostgresConnectionError,  # class 08
    asyncpg.OperatorInterventionError,  # class 57: shutdown, restart, cancelled statement
    asyncpg.InsufficientResourcesError,  # class 53: too many connections, disk or memory full
    asyncpg.InvalidAuthorizationSpecificationError,  # class 28: wrong credentials in DATABASE_URL
    asyncpg.InvalidCatalogNameError,  # 3D000: no such database
    asyncpg.DeadlockDetectedError,  # 40P01: nothing was written, and a retry can succeed
    asyncpg.ReadOnlySQLTransactionError,  # 25006: the host is a standby during a failover
    asyncpg.UndefinedTableError,  # 42P01: not migrated
    asyncpg.InvalidSchemaNameError,  # 3F000: not migrated
)
# Errors after which the connection cannot be used any more.
_CONNECTION_ERRORS: Final = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
# Errors of the server after which it closes the connection.
_CLOSED_ERRORS: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)
# Start of asyncpg's message if it did not send a statement because the connection is closing.
_NOT_SENT: Final = "cannot switch to state"


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL for asyncpg, and the names of its parameters in their order."""

    sql: str
    parameters: tuple[str, ...]

    @classmethod
    def compiled(cls, clause: ClauseElement) -> "Statement":
        """Compile an expression. Each of its values must be a ``bindparam`` with a name."""
        compiled: Any = clause.compile(dialect=_DIALECT)
        return cls(str(compiled), tuple(compiled.positiontup or ()))

    def arguments(self, values: Mapping[str, object]) -> list[object]:
        return [values[name] for name in self.parameters]


_PROBE: Final = Statement("SELECT 1", ())
_SET_OWNER: Final = Statement(f"SELECT set_config('{OWNER_SETTING}', $1, true)", ("owner",))


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The time limits of a ``Database``, in seconds."""

    acquire: float = 2.0  # the wait for a connection, after which the statement is refused
    connect: float = 2.0
    statement: float = 2.5
    cancel: float = 2.0  # to cancel a statement and close its connection
    probe: float = 1.0
    probe_after_idle: float = 30.0  # a connection that was idle for longer is probed before use
    connection_lifetime: float = 1800.0


class _NotConnected(Exception):
    """No connection could be opened. The cause says why."""


@dataclass(slots=True)
class _Connection:
    """An asyncpg connection and the statements that are prepared on it."""

    driver: Any
    opened_at: float = field(default_factory=monotonic)
    responded_at: float = field(default_factory=monotonic)
    prepared: dict[str, Any] = field(default_factory=dict)


class Database:
    """A pool of connections to one database. Concurrent tasks may share an instance."""

    def __init__(
        self,
        database_url: DatabaseUrl,
        *,
        pool_size: int,
        rls_enabled: bool = False,
        timeouts: Timeouts = Timeouts(),
        max_prepared_statements: int = 100,
    ) -> None:
        """``rls_enabled`` says that the tables have row-level security.

        ``max_prepared_statements`` is the limit for each connection behind a transaction pooler.
        """
        self._database_url = database_url
        self._rls_enabled = rls_enabled
        self._timeouts = timeouts
        self._max_prepared_statements = max_prepared_statements
        self._slots = asyncio.Semaphore(pool_size)
        self._idle: list[_Connection] = []  # a stack: rarely used connections grow old and expire
        self._in_use = 0
        self._suspect_since = 0.0  # when a connection last broke: others may be broken too
        self._closing: set[asyncio.Task[None]] = set()
        self._is_available = True

    async def fetch(self, statement: Statement, **values: object) -> list[asyncpg.Record]:
        """Run the statement atomically, in one round trip, and return its rows.

        With row-level security it takes four: BEGIN, setting the ``owner``, the statement, COMMIT.
        Raises DatabaseUnavailable, and Overloaded if no connection became free in time.
        """
        return await self._connected(lambda connection: self._run(connection, statement, values))

    async def transact(self, owner: str, work: Callable[[Fetch], Awaitable[_Result]]) -> _Result:
        """Run the statements that ``work`` fetches in one transaction, and return its result.

        Each statement is a round trip. Raises what ``fetch`` raises; nothing is written then.
        """

        async def transaction(connection: _Connection) -> _Result:
            async def fetch(statement: Statement, **values: object) -> list[asyncpg.Record]:
                return await self._run_sql(connection, statement, values)

            async with connection.driver.transaction():
                if self._rls_enabled:
                    await fetch(_SET_OWNER, owner=owner)
                return await work(fetch)

        return await self._connected(transaction)

    async def check(self) -> None:
        """Run a trivial statement. Raises what ``fetch`` raises."""
        await self.fetch(_PROBE)

    def connections_in_use(self) -> int:
        return self._in_use

    async def close(self) -> None:
        """Close the idle connections, in bounded time even if the server does not respond."""
        await asyncio.gather(*self._closing)
        while self._idle:
            self._idle.pop().driver.terminate()

    async def _connected(self, work: Callable[[_Connection], Awaitable[_Result]]) -> _Result:
        """Run the work on a connection; log when the database fails and when it has recovered."""
        try:
            result = await self._attempt_twice(work)
        except DatabaseUnavailable as failure:
            if self._is_available:
                self._is_available = False
                _log.error("database.unavailable", reason=str(failure))
            raise
        if not self._is_available:
            self._is_available = True
            _log.info("database.recovered")
        return result

    async def _attempt_twice(self, work: Callable[[_Connection], Awaitable[_Result]]) -> _Result:
        """Run the work, again if asyncpg did not send it, and translate the errors of asyncpg."""
        await self._acquire_slot()
        self._in_use += 1
        try:
            try:
                return await self._attempt(work)
            except asyncpg.InternalClientError as failure:
                if not str(failure).startswith(_NOT_SENT):
                    raise
                return await self._attempt(work)
        except (*_CONNECTION_ERRORS, *_UNAVAILABLE_ERRORS, _NotConnected) as failure:
            raise DatabaseUnavailable(_reason(failure)) from failure
        finally:
            self._in_use -= 1
            self._slots.release()

    async def _acquire_slot(self) -> None:
        """Wait for one of ``pool_size`` slots, in the order of arrival. Raises Overloaded."""
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(self._timeouts.acquire):
                await self._slots.acquire()
        except TimeoutError:
            raise Overloaded from None

    async def _attempt(self, work: Callable[[_Connection], Awaitable[_Result]]) -> _Result:
        """Run the work on a connection, and then keep the connection or discard it."""
        connection = await self._take_connection()
        try:
            result = await work(connection)
        except _CLOSED_ERRORS:
            self._discard(connection)
            raise
        except asyncpg.PostgresError:
            self._idle.append(connection)
            raise
        except BaseException:
            self._discard(connection)
            raise
        connection.responded_at = monotonic()
        self._idle.append(connection)
        return result

    async def _take_connection(self) -> _Connection:
        """The connection that was used last, or a new one if there is none or it is unusable."""
        if self._idle:
            connection = self._idle.pop()
            if await self._is_usable(connection):
                return connection
            connection.driver.terminate()
        return await self._connect()

    async def _is_usable(self, connection: _Connection) -> bool:
        """Whether the connection is open, not too old, and the server responds.

        It is probed only if the last response is old, or if another connection broke since then.
        """
        now = monotonic()
        is_expired = connection.opened_at < now - self._timeouts.connection_lifetime
        if is_expired or connection.driver.is_closed():
            return False
        if connection.responded_at > max(
            self._suspect_since, now - self._timeouts.probe_after_idle
        ):
            return True
        return await self._probe(connection)

    async def _probe(self, connection: _Connection) -> bool:
        """Whether the server responds on this connection in time."""
        try:
            await connection.driver.execute(_PROBE.sql, timeout=self._timeouts.probe)
        except (*_CONNECTION_ERRORS, asyncpg.PostgresError):
            return False
        except BaseException:
            connection.driver.terminate()
            raise
        return True

    async def _connect(self) -> _Connection:
        _, arguments = _DIALECT.create_connect_args(self._database_url.url)
        arguments.update(timeout=self._timeouts.connect, command_timeout=self._timeouts.statement)
        arguments.update(self._database_url.connect_args)
        try:
            driver = await asyncpg.connect(**arguments)
        except (*_CONNECTION_ERRORS, asyncpg.PostgresError) as failure:
            raise _NotConnected from failure
        return _Connection(driver)

    def _discard(self, connection: _Connection) -> None:
        """Close a connection in an unknown state, in the background.

        A statement that still runs is cancelled: a refused change must not be stored later.
        """
        self._suspect_since = monotonic()
        closing = asyncio.create_task(self._cancel_and_close(connection))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _cancel_and_close(self, connection: _Connection) -> None:
        with suppress(*_CONNECTION_ERRORS, asyncpg.PostgresError):
            await connection.driver.close(timeout=self._timeouts.cancel)

    async def _run(
        self, connection: _Connection, statement: Statement, values: Mapping[str, object]
    ) -> list[asyncpg.Record]:
        """Run the statement; with row-level security in a transaction that first sets the owner."""
        if not self._rls_enabled or "owner" not in values:
            return await self._run_sql(connection, statement, values)
        async with connection.driver.transaction():
            await self._run_sql(connection, _SET_OWNER, values)
            return await self._run_sql(connection, statement, values)

    async def _run_sql(
        self, connection: _Connection, statement: Statement, values: Mapping[str, object]
    ) -> list[asyncpg.Record]:
        arguments = statement.arguments(values)
        rows: list[asyncpg.Record]
        if not self._database_url.via_pooler:
            rows = await connection.driver.fetch(statement.sql, *arguments)
            return rows
        # A transaction pooler may run each statement on another server connection, where its name
        # is unknown or another client's. Therefore the statements have no name, and asyncpg sends
        # their SQL again in the round trip that runs them.
        prepared = connection.prepared
        if statement.sql not in prepared:
            if len(prepared) >= self._max_prepared_statements:
                prepared.clear()
            prepared[statement.sql] = await connection.driver.prepare(statement.sql)
        rows = await prepared[statement.sql].fetch(*arguments)
        return rows


def _reason(failure: BaseException) -> str:
    """The error's class and SQLSTATE for the log, without its message, which may name the host."""
    if isinstance(failure, _NotConnected) and failure.__cause__:
        failure = failure.__cause__
    state = getattr(failure, "sqlstate", None)
    return f"{type(failure).__name__} {state}" if state else type(failure).__name__
