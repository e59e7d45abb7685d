"""The pooled connections, one statement in one round trip, and what their failures mean.

SQLAlchemy writes the SQL (once per statement, from the tables) and keeps the pool; the statement
itself runs on the pooled asyncpg connection, outside any transaction block, because on a network
the round trips of BEGIN, COMMIT and ping would cost more than the work.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Final

import asyncpg
import structlog
from sqlalchemy import URL, ClauseElement, Select, event
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from todo_adapters.postgres.tables import OWNER_SETTING
from todo_adapters.postgres.url import DatabaseAddress
from todo_domain.errors import DatabaseUnavailable, Overloaded

POOL_WAIT: Final = 2.0  # seconds until a request without a connection is refused
CONNECT_TIMEOUT: Final = 2.0
STATEMENT_TIMEOUT: Final = 2.5
PROBE_TIMEOUT: Final = 1.0
CANCEL_TIMEOUT: Final = 2.0
TRUSTED: Final = 30.0  # seconds after an answer for which a connection need not prove that it lives
CONNECTION_LIFETIME: Final = 1800
STATEMENTS_KEPT: Final = 100  # by each connection, as many as asyncpg keeps of named ones

_log = structlog.get_logger()
_DIALECT: Final = URL.create("postgresql+asyncpg").get_dialect()()

# SQLSTATEs under which the server is away, starting, full or interrupting, not refusing our SQL.
_AWAY: Final = (
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
_BROKEN: Final = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
# asyncpg's refusal to send anything to a server that has just said that it ends the connection.
_UNSENT: Final = "cannot switch to state"
# What SQLAlchemy makes of any failure to open a connection, the driver's being the cause.
_NOT_CONNECTED: Final = (AsyncAdapt_asyncpg_dbapi.Error, DBAPIError)


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

# What the pool remembers of a connection: the time of its last answer, and its unnamed statements.
_ANSWERED_AT: Final = "answered_at"
_STATEMENTS: Final = "statements"


class Database:
    """A pool of connections to one database. ``fetch`` is safe to call from many tasks at once."""

    def __init__(
        self, address: DatabaseAddress, *, pool_size: int, is_walled: bool = False
    ) -> None:
        """``is_walled`` if the tasks are behind row-level security."""
        self._engine = create_async_engine(
            address.url,
            connect_args={
                "timeout": CONNECT_TIMEOUT,
                "command_timeout": STATEMENT_TIMEOUT,
                **address.connect_args,
            },
            pool_size=pool_size,
            max_overflow=0,
            pool_recycle=CONNECTION_LIFETIME,
            pool_use_lifo=True,
            pool_reset_on_return=None,  # there is never a transaction to roll back
            hide_parameters=True,
            isolation_level="AUTOCOMMIT",
        )
        pool = self._engine.sync_engine.pool
        event.listen(pool, "checkout", self._require_alive)
        event.listen(pool, "close", _terminate)
        # Behind a transaction pooler a statement's name may mean another client's statement there,
        # so each connection keeps unnamed ones, which asyncpg sends again in the same round trip.
        self._unnamed = address.pooled
        self._is_walled = is_walled
        self._available = True
        self._doubted_at = 0.0  # when a connection last broke: others may have, unnoticed
        self._endings: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(pool_size)

    async def fetch(self, statement: Statement, **values: object) -> list[asyncpg.Record]:
        """Run the statement, atomically, in one round trip, and return its rows.

        Behind a wall those that change rows take four: it has to be told the owner before.

        Raises DatabaseUnavailable when the database is away, Overloaded when no connection came
        free in time.
        """
        if self._is_walled and statement.walled:
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
        await self._take_turn()
        try:
            with _failures_named():
                try:
                    return await self._attempt(statement, arguments)
                except asyncpg.InternalClientError as failure:
                    if not str(failure).startswith(_UNSENT):
                        raise
                    return await self._attempt(statement, arguments)
        finally:
            self._turns.release()

    async def _take_turn(self) -> None:
        """Wait until a connection is free, in the order of arrival.

        The pool alone would let newcomers overtake those who wait, for as long as they can.
        """
        if not self._turns.locked():
            await self._turns.acquire()
            return
        try:
            async with asyncio.timeout(POOL_WAIT):
                await self._turns.acquire()
        except TimeoutError:
            raise Overloaded from None

    async def _attempt(self, statement: Statement, arguments: list[object]) -> list[asyncpg.Record]:
        pooled = await self._engine.raw_connection()
        try:
            rows = await self._run(pooled, statement, arguments)
        except asyncpg.PostgresError:
            pooled.close()
            raise
        except BaseException:
            self._give_up(pooled)
            raise
        pooled.info[_ANSWERED_AT] = monotonic()
        pooled.close()
        return rows

    def _give_up(self, pooled: PoolProxiedConnection) -> None:
        """Take a connection in an unknown state out of the pool, and end it while others go on.

        What still runs on it is cancelled: a change that was refused should not come true later.
        """
        self._doubted_at = monotonic()
        ending = asyncio.create_task(_end(pooled.driver_connection))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        pooled.detach()

    def _require_alive(
        self,
        adapted: Any,  # noqa: ANN401 - SQLAlchemy's connection around asyncpg's
        entry: ConnectionPoolEntry,
        _: object,
    ) -> None:
        """Have the pool replace a connection that is closed, or that has to be asked and is silent.

        It is asked when its last answer is old, or older than the last failure of another one.
        """
        answered_at = entry.info.setdefault(_ANSWERED_AT, monotonic())
        is_trusted = answered_at > max(self._doubted_at, monotonic() - TRUSTED)
        if adapted.driver_connection.is_closed() or not (is_trusted or _answers(adapted)):
            raise DisconnectionError

    async def _run(
        self, pooled: PoolProxiedConnection, statement: Statement, arguments: list[object]
    ) -> list[asyncpg.Record]:
        names_owner = OWNER_SETTING in statement.sql
        if names_owner or not self._is_walled or statement.owner is None:
            return await self._run_sql(pooled, statement.sql, arguments)
        connection: Any = pooled.driver_connection
        owner = arguments[statement.parameters.index(statement.owner)]
        async with connection.transaction():
            await self._run_sql(pooled, _NAME_OWNER, [owner])
            return await self._run_sql(pooled, statement.sql, arguments)

    async def _run_sql(
        self, pooled: PoolProxiedConnection, sql: str, arguments: list[object]
    ) -> list[asyncpg.Record]:
        connection: Any = pooled.driver_connection
        rows: list[asyncpg.Record]
        if self._unnamed:
            kept = pooled.info.setdefault(_STATEMENTS, {})
            if sql not in kept:
                if len(kept) >= STATEMENTS_KEPT:
                    kept.clear()
                kept[sql] = await connection.prepare(sql)
            rows = await kept[sql].fetch(*arguments)
        else:
            rows = await connection.fetch(sql, *arguments)
        return rows

    async def check(self) -> None:
        """Ask the server for an answer, as ``fetch`` would. Raises what ``fetch`` raises."""
        await self.fetch(_ANSWER)

    def connections_in_use(self) -> int:
        pool = self._engine.pool
        return pool.checkedout() if isinstance(pool, QueuePool) else 0

    async def close(self) -> None:
        """End every connection, in bounded time even if the server is silent."""
        await asyncio.gather(*self._endings)
        await self._engine.dispose()


def _answers(adapted: Any) -> bool:  # noqa: ANN401 - as above
    """Whether the server is there, in one round trip."""
    try:
        adapted.run_async(lambda asked: asked.execute(_ANSWER.sql, timeout=PROBE_TIMEOUT))
    except (*_BROKEN, asyncpg.PostgresError):
        return False
    return True


def _terminate(adapted: Any, _: object) -> None:  # noqa: ANN401 - as above
    """Close a connection of which nobody expects anything, whether or not the server is there."""
    adapted.driver_connection.terminate()


async def _end(connection: Any) -> None:  # noqa: ANN401 - asyncpg has no types
    """Cancel what runs there and close the connection, or terminate it if that takes too long."""
    with suppress(*_BROKEN, asyncpg.PostgresError):
        await connection.close(timeout=CANCEL_TIMEOUT)


@contextmanager
def _failures_named() -> Iterator[None]:
    """The one place where the driver's failures become the domain's."""
    try:
        yield
    except (*_BROKEN, *_AWAY, *_NOT_CONNECTED) as failure:
        raise DatabaseUnavailable(_reason(failure)) from failure


def _reason(failure: BaseException) -> str:
    """What went wrong in a word for the log; messages may carry addresses and are left out."""
    while isinstance(failure, _NOT_CONNECTED) and failure.__cause__:
        failure = failure.__cause__
    state = getattr(failure, "sqlstate", None)
    return f"{type(failure).__name__} {state}" if state else type(failure).__name__
