"""Runs SQL on pooled connections, one statement in one round trip, and translates its errors.

SQLAlchemy compiles each statement once, from the tables. asyncpg runs it outside a transaction
block, because BEGIN, COMMIT and a ping would cost three more round trips. Decision record 0002 says
why the pool is not asyncpg's or SQLAlchemy's.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from math import inf
from time import monotonic
from typing import Any, Final, Protocol, TypeVar

import asyncpg
import structlog
from sqlalchemy import ClauseElement

from todo_adapters.postgres.connections import (
    DIALECT,
    POOLER_HINT,
    SETTINGS_HINT,
    Connection,
    Session,
)
from todo_adapters.postgres.sqlstates import (
    Outcome,
    breaks_connection,
    invalid_text,
    outcome_of,
)
from todo_adapters.postgres.tables import OWNER_SETTING
from todo_adapters.postgres.url import DatabaseUrl
from todo_domain.errors import DatabaseUnavailable, Overloaded

_Result = TypeVar("_Result")
_Result_co = TypeVar("_Result_co", covariant=True)
Fetch = Callable[..., Awaitable[list[asyncpg.Record]]]

_log = structlog.get_logger()

ATTEMPTS: Final = 4  # of a statement that the server refused without running it

# Errors after which the connection cannot be used any more.
_CONNECTION_ERRORS: Final = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
# Start of asyncpg's message if it did not send a statement because the connection is closing.
_NOT_SENT: Final = "cannot switch to state"
_SHORTEST_TIMEOUT: Final = 0.1  # seconds to connect after a long wait for a slot
_REPEATED: Final = (Outcome.RETRY, Outcome.PREPARE_AGAIN, Outcome.POOLED)


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL for asyncpg, and the names of its parameters in their order."""

    sql: str
    parameters: tuple[str, ...]

    @classmethod
    def compiled(cls, clause: ClauseElement) -> "Statement":
        """Compile an expression. Each of its values must be a ``bindparam`` with a name."""
        compiled: Any = clause.compile(dialect=DIALECT)
        return cls(str(compiled), tuple(compiled.positiontup or ()))

    def arguments(self, values: Mapping[str, object]) -> list[object]:
        return [values[name] for name in self.parameters]


_PROBE: Final = Statement("SELECT 1", ())
_SET_OWNER: Final = Statement(f"SELECT set_config('{OWNER_SETTING}', $1, true)", ("owner",))


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The time limits of a ``Database``, in seconds."""

    acquire: float = 2.0  # the wait for a connection, after which the statement is refused
    # To wait for a connection and to connect, without connect_timeout in DATABASE_URL: a suspended
    # database has to start first. One that responded lately is not suspended but away or restarted.
    connect: float = 10.0
    reconnect: float = 4.0
    lately: float = 60.0
    statement: float = 2.5
    cancel: float = 2.0  # to cancel a statement and close its connection
    probe: float = 1.0
    probe_after_idle: float = 30.0  # a connection that was idle for longer is probed before use
    connection_lifetime: float = 1800.0


class _Work(Protocol[_Result_co]):
    """Runs statements on a connection. It may be called again, also ``in_transaction`` then."""

    async def __call__(self, connection: Connection, *, in_transaction: bool) -> _Result_co: ...


class _NotConnected(Exception):
    """No connection could be opened. The cause says why."""


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

        ``max_prepared_statements`` is the limit for each connection.
        """
        self._database_url = database_url
        self._rls_enabled = rls_enabled
        self._timeouts = timeouts
        self._max_prepared_statements = max_prepared_statements
        self._slots = asyncio.Semaphore(pool_size)
        self._session: Session | None = None  # None: the next connection is examined
        self._logged_hints: set[str] = set()
        self._idle: list[Connection] = []  # a stack: rarely used connections grow old and expire
        self._in_use = 0
        self._connecting = 0
        self._responded_at = -inf
        self._suspect_since = 0.0  # when a connection last broke: others may be broken too
        self._closing: set[asyncio.Task[None]] = set()
        self._is_available = True

    async def fetch(self, statement: Statement, **values: object) -> list[asyncpg.Record]:
        """Run the statement atomically, in one round trip, and return its rows.

        With row-level security it takes four: BEGIN, setting the ``owner``, the statement, COMMIT.
        Raises DatabaseUnavailable, and Overloaded if no connection became free in time.
        """

        async def run(connection: Connection, *, in_transaction: bool) -> list[asyncpg.Record]:
            owner = values.get("owner") if self._rls_enabled else None
            if not (owner or in_transaction or connection.session.needs_transaction):
                return await connection.fetch(statement.sql, statement.arguments(values))
            async with self._transaction(connection, owner):
                return await connection.fetch(statement.sql, statement.arguments(values))

        return await self._connected(run, values)

    async def transact(self, owner: str, work: Callable[[Fetch], Awaitable[_Result]]) -> _Result:
        """Run the statements that ``work`` fetches in one transaction, and return its result.

        Each statement is a round trip. ``work`` is called again if the server refused a statement
        and the next attempt can succeed. Raises what ``fetch`` raises; nothing is written then.
        """

        async def run(connection: Connection, *, in_transaction: bool) -> _Result:
            del in_transaction  # it always is

            async def fetch(statement: Statement, **values: object) -> list[asyncpg.Record]:
                return await connection.fetch(statement.sql, statement.arguments(values))

            async with self._transaction(connection, owner if self._rls_enabled else None):
                return await work(fetch)

        return await self._connected(run, {})

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

    async def _connected(self, work: _Work[_Result], values: Mapping[str, object]) -> _Result:
        """Run the work on a connection; log when the database fails and when it has recovered."""
        try:
            result = await self._translated(work, values)
        except DatabaseUnavailable as failure:
            if self._is_available:
                self._is_available = False
                _log.error("database.unavailable", reason=str(failure))
            raise
        if not self._is_available:
            self._is_available = True
            _log.info("database.recovered")
        return result

    async def _translated(self, work: _Work[_Result], values: Mapping[str, object]) -> _Result:
        """Run the work and translate the errors of asyncpg."""
        called_at = monotonic()
        await self._acquire_slot()
        self._in_use += 1
        try:
            return await self._attempt_until_run(work, called_at)
        except asyncpg.PostgresError as failure:
            match outcome_of(failure):
                case Outcome.INPUT:
                    raise invalid_text(failure, values) from failure
                case Outcome.BUG:
                    raise
                case _:
                    raise DatabaseUnavailable(_reason(failure)) from failure
        except (*_CONNECTION_ERRORS, _NotConnected) as failure:
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
            async with asyncio.timeout(self._acquire_timeout()):
                await self._slots.acquire()
        except TimeoutError:
            raise Overloaded from None

    def _acquire_timeout(self) -> float:
        """While a connection is being opened, the database may have to start first."""
        return max(self._timeouts.acquire, self._connect_timeout() if self._connecting else 0)

    def _connect_timeout(self) -> float:
        """How long a call waits until it is connected."""
        if self._database_url.connect_timeout:
            return self._database_url.connect_timeout
        has_responded_lately = monotonic() - self._responded_at < self._timeouts.lately
        longest = self._timeouts.connect
        return min(longest, self._timeouts.reconnect) if has_responded_lately else longest

    async def _attempt_until_run(self, work: _Work[_Result], called_at: float) -> _Result:
        """Run the work. Repeat it if the server refused it and the next attempt can succeed.

        A serialization failure cannot occur in a READ COMMITTED transaction, so the work is
        repeated in one: the session's isolation level can be another behind a pooler.
        """
        in_transaction = False
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                connection = await self._take_connection(called_at)
                return await self._attempt(connection, work, in_transaction=in_transaction)
            except asyncpg.InternalClientError as failure:
                if not (attempts_left and str(failure).startswith(_NOT_SENT)):
                    raise
            except asyncpg.PostgresError as failure:
                outcome = outcome_of(failure)
                if not attempts_left or outcome not in _REPEATED:
                    raise
                in_transaction = in_transaction or outcome is Outcome.RETRY
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(
        self, connection: Connection, work: _Work[_Result], *, in_transaction: bool
    ) -> _Result:
        """Run the work, and then keep the connection or discard it."""
        try:
            result = await work(connection, in_transaction=in_transaction)
        except asyncpg.PostgresError as failure:
            if outcome_of(failure) is Outcome.POOLED:
                self._set_session(replace(connection.session, via_pooler=True))
            if breaks_connection(failure):
                self._discard(connection)
            else:
                self._idle.append(connection)
            raise
        except BaseException:
            self._discard(connection)
            raise
        self._responded_at = connection.responded_at = monotonic()
        self._idle.append(connection)
        return result

    async def _take_connection(self, called_at: float) -> Connection:
        """The connection that was used last, or a new one if there is none or it is unusable."""
        if self._idle:
            connection = self._idle.pop()
            if await self._is_usable(connection):
                return connection
            connection.driver.terminate()
        return await self._connect(called_at)

    async def _is_usable(self, connection: Connection) -> bool:
        """Whether the connection is open, not too old, and the server responds.

        It is probed only if the last response is old, or if another connection broke since then.
        """
        now = monotonic()
        is_expired = connection.opened_at < now - self._timeouts.connection_lifetime
        if is_expired or connection.driver.is_closed() or self._is_outdated(connection.session):
            return False
        if connection.responded_at > max(
            self._suspect_since, now - self._timeouts.probe_after_idle
        ):
            return True
        return await self._probe(connection)

    def _is_outdated(self, session: Session) -> bool:
        """Whether a pooler was found or is gone since the connection was opened."""
        return self._session is not None and self._session.via_pooler != session.via_pooler

    async def _probe(self, connection: Connection) -> bool:
        """Whether the server responds on this connection in time."""
        try:
            await connection.driver.execute(_PROBE.sql, timeout=self._timeouts.probe)
        except (*_CONNECTION_ERRORS, asyncpg.PostgresError):
            return False
        except BaseException:
            connection.driver.terminate()
            raise
        return True

    async def _connect(self, called_at: float) -> Connection:
        waited = monotonic() - called_at
        self._connecting += 1
        try:
            connection = await Connection.open(
                self._database_url,
                self._session,
                connect_timeout=max(self._connect_timeout() - waited, _SHORTEST_TIMEOUT),
                statement_timeout=self._timeouts.statement,
                max_prepared=self._max_prepared_statements,
            )
        except (*_CONNECTION_ERRORS, asyncpg.PostgresError) as failure:
            self._session = None  # another server or pooler may have taken its place
            raise _NotConnected from failure
        finally:
            self._connecting -= 1
        self._set_session(connection.session)
        return connection

    def _set_session(self, session: Session) -> None:
        """Use the session for new connections, and report what an operator can improve."""
        self._session = session
        is_hidden_pooler = session.via_pooler and not self._database_url.via_pooler
        if is_hidden_pooler and self._is_first(POOLER_HINT):
            _log.warning("database.pooler_detected", hint=POOLER_HINT)
        if session.needs_transaction and self._is_first(SETTINGS_HINT):
            _log.warning("database.configuration", hint=SETTINGS_HINT)

    def _is_first(self, hint: str) -> bool:
        """Whether the hint was not logged before."""
        is_first = hint not in self._logged_hints
        self._logged_hints.add(hint)
        return is_first

    def _discard(self, connection: Connection) -> None:
        """Close a connection in an unknown state, in the background.

        A statement that still runs is cancelled: a refused change must not be stored later.
        """
        self._suspect_since = monotonic()
        closing = asyncio.create_task(self._cancel_and_close(connection))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _cancel_and_close(self, connection: Connection) -> None:
        with suppress(*_CONNECTION_ERRORS, asyncpg.PostgresError):
            await connection.driver.close(timeout=self._timeouts.cancel)

    @asynccontextmanager
    async def _transaction(self, connection: Connection, owner: object) -> AsyncIterator[None]:
        """A transaction with the settings that the service needs, and with the owner if given."""
        async with connection.driver.transaction(isolation="read_committed"):
            if connection.session.needs_transaction:
                await connection.driver.execute(connection.session.commands("LOCAL"))
            if owner:
                await connection.fetch(_SET_OWNER.sql, [owner])
            yield


def _reason(failure: BaseException) -> str:
    """The error's class and SQLSTATE for the log, without its message, which may name the host."""
    if isinstance(failure, _NotConnected) and failure.__cause__:
        failure = failure.__cause__
    state = getattr(failure, "sqlstate", None)
    return f"{type(failure).__name__} {state}" if state else type(failure).__name__
