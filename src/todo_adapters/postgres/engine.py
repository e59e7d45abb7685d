"""The pooled connections, one statement in one round trip, and what their failures mean.

SQLAlchemy writes the SQL (once per statement, from the tables) and keeps the pool; the statement
itself runs on the pooled asyncpg connection, outside any transaction block, because on a network
the round trips of BEGIN, COMMIT and ping would cost more than the work.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import asyncpg
import structlog
from sqlalchemy import URL, ClauseElement, Select, event
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from todo_adapters.postgres.tables import OWNER_SETTING
from todo_adapters.postgres.url import DatabaseAddress
from todo_domain.errors import DatabaseUnavailable, Overloaded

POOL_WAIT: Final = 2.0  # seconds until a request without a connection is refused
CONNECT_TIMEOUT: Final = 2.0
STATEMENT_TIMEOUT: Final = 2.5
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
            pool_timeout=POOL_WAIT,
            pool_recycle=CONNECTION_LIFETIME,
            pool_use_lifo=True,
            pool_reset_on_return=None,  # there is never a transaction to roll back
            hide_parameters=True,
            isolation_level="AUTOCOMMIT",
        )
        event.listen(self._engine.sync_engine.pool, "checkout", _refuse_closed)
        # Behind a transaction pooler a statement's name may mean another client's statement there,
        # so each connection keeps unnamed ones, which asyncpg sends again in the same round trip.
        self._unnamed = address.pooled
        self._is_walled = is_walled
        self._available = True

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
        with _failures_named():
            pooled = await self._engine.raw_connection()
            try:
                rows = await self._run(pooled, statement, arguments)
            except asyncpg.PostgresError:
                pooled.close()
                raise
            except BaseException:
                # Whatever else went wrong, the state of this connection is unknown.
                pooled.invalidate()
                raise
            pooled.close()
            return rows

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
            if sql not in pooled.info:
                if len(pooled.info) >= STATEMENTS_KEPT:
                    pooled.info.clear()
                pooled.info[sql] = await connection.prepare(sql)
            rows = await pooled.info[sql].fetch(*arguments)
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
        await self._engine.dispose()


def _refuse_closed(connection: Any, *_: object) -> None:  # noqa: ANN401 - SQLAlchemy's adapter
    """Have the pool replace a connection that the server has closed, without asking the server."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


@contextmanager
def _failures_named() -> Iterator[None]:
    """The one place where the driver's and the pool's failures become the domain's."""
    try:
        yield
    except PoolTimeoutError as failure:
        raise Overloaded from failure
    except (OSError, asyncpg.InterfaceError, *_AWAY, *_NOT_CONNECTED) as failure:
        raise DatabaseUnavailable(_reason(failure)) from failure


def _reason(failure: BaseException) -> str:
    """What went wrong in a word for the log; messages may carry addresses and are left out."""
    while isinstance(failure, _NOT_CONNECTED) and failure.__cause__:
        failure = failure.__cause__
    state = getattr(failure, "sqlstate", None)
    return f"{type(failure).__name__} {state}" if state else type(failure).__name__
