"""The registry's names in PostgreSQL, behind `sql.Database`: any number of replicas share one.

A transaction that meets another one's (a deadlock, a lost connection before its commit) is run again from its
beginning. Whoever takes something away notifies the others, so that nobody serves it from memory for longer than a
moment; `FRESH_S` is how long, if a notice is lost.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import lru_cache, partial
from typing import Any, Final, TypeVar

import asyncpg

from scow.registry import sql
from scow.registry.errors import StorageFull, StorageUnavailable
from scow.registry.sql import Row, Value

T = TypeVar("T")

CHANNEL: Final = "scow_registry"
FRESH_S: Final = 5.0
CONNECT_S: Final = 10.0
QUERY_S: Final = 60.0
IDLE_S: Final = 20.0
"""A transaction that does nothing for so long is one of a replica that is gone: what it holds is given to others."""
TRIES: Final = 8
"""How often a transaction that met others is run; so many replicas seldom meet so often."""
LOST_TRIES: Final = 3
_MIGRATION_LOCK: Final = 0x5C0757E9
_LOST: Final = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,  # a server that is no longer, or not yet, the one to write to
)
_MET: Final = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)

log = logging.getLogger("scow.registry")


@lru_cache(maxsize=1024)
def _own(statement: str) -> str:
    return sql.translate(statement, "postgresql")


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # it has no types
    def get_reset_query(self) -> str:
        return ""  # nothing is set on a connection that would outlive its transaction


class PostgresSession:
    """A connection as a session."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def row(self, query: str, *values: Value) -> Row | None:
        found: Row | None = await self._connection.fetchrow(_own(query), *values)
        return found

    async def rows(self, query: str, *values: Value) -> Sequence[Row]:
        found: Sequence[Row] = await self._connection.fetch(_own(query), *values)
        return found

    async def run(self, statement: str, *values: Value) -> int:
        status: str = await self._connection.execute(_own(statement), *values)
        return int(status.rpartition(" ")[2])

    async def run_many(self, statement: str, values: Sequence[Sequence[Value]]) -> None:
        if len(values) == 1:
            await self._connection.execute(_own(statement), *values[0])
        elif values:
            await self._connection.executemany(_own(statement), values)


class PostgresDatabase:
    """A database by its URL. It is connected to, and brought up to date, when it is first used."""

    is_exact: Final = False

    def __init__(self, url: str, steps: Sequence[str], connections: int = 5) -> None:
        """`connections` is how many at most, besides the one that listens."""
        self._url = url
        self._steps = steps
        self._size = connections
        self._connecting = asyncio.Lock()
        self._pool: Any = None
        self._listener: asyncio.Task[None] | None = None
        self._writing: set[asyncio.Task[Any]] = set()
        self._notices = 0

    def version(self) -> int:
        return self._notices + int(time.monotonic() / FRESH_S)

    async def connect(self) -> None:
        """Connect and bring the schema up to date, unless that is done. Raises StorageUnavailable."""
        async with self._connecting:
            if self._pool is not None:
                return
            pool = asyncpg.create_pool(
                self._url,
                min_size=1,
                max_size=self._size,
                timeout=CONNECT_S,
                command_timeout=QUERY_S,
                statement_cache_size=512,
                connection_class=_Connection,
                init=_prepare,
                server_settings={"application_name": "scow-registry"},
            )
            try:
                await pool
                async with pool.acquire() as connection:
                    await _migrate(connection, self._steps)
            except (*_LOST, TimeoutError, asyncpg.PostgresError, ValueError) as error:
                pool.terminate()
                raise StorageUnavailable(f"the database: {error!r}") from error
            self._pool = pool
            self._listener = asyncio.create_task(self._listen())

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        if self._pool is None:
            await self.connect()
        async with self._pool.acquire(timeout=CONNECT_S) as connection:
            yield connection

    async def read(self, call: sql.Call[T]) -> T:
        async def read() -> T:
            async with self._connection() as connection:
                return await call(PostgresSession(connection))

        return await self._tried(read)

    async def row(self, query: str, *values: Value) -> Row | None:
        return await self.read(lambda session: session.row(query, *values))

    async def rows(self, query: str, *values: Value) -> Sequence[Row]:
        return await self.read(lambda session: session.rows(query, *values))

    async def write(self, call: sql.Call[T], *, durable: bool = True, frees: bool = False) -> T:
        async def write() -> T:
            async with self._connection() as connection:
                # One message each, as simple queries: a round trip less than a statement for each would take.
                await connection.execute("BEGIN" if durable else "BEGIN; SET LOCAL synchronous_commit = off")
                try:
                    result = await call(PostgresSession(connection))
                except BaseException:
                    with suppress(*_LOST):
                        await connection.execute("ROLLBACK")
                    raise
                try:
                    await connection.execute(f"NOTIFY {CHANNEL}; COMMIT" if frees else "COMMIT")
                except _LOST as error:
                    # It may have been committed or not: the client has to find out.
                    raise StorageUnavailable(f"the database: {error!r}") from error
                return result

        task = asyncio.create_task(self._tried(write))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        try:
            return await asyncio.shield(task)
        finally:
            if frees:
                self._notices += 1  # ours knows at once; before the answer, whatever it is

    async def _tried(self, attempt: Callable[[], Coroutine[Any, Any, T]]) -> T:
        met = lost = 0
        while True:
            try:
                return await attempt()
            except _MET:
                met += 1
                if met == TRIES:
                    raise
                await asyncio.sleep(random.uniform(0, 0.01 * 2**met))
            except asyncpg.DiskFullError as error:
                raise StorageFull from error
            except TimeoutError as error:
                raise StorageUnavailable("the database does not answer") from error
            except _LOST as error:
                lost += 1
                if lost == LOST_TRIES:
                    raise StorageUnavailable(f"the database: {error!r}") from error
                await asyncio.sleep(random.uniform(0.05, 0.3 * lost))

    async def _listen(self) -> None:
        """Count the notices of all replicas, for ever."""
        while True:
            try:
                connection = await asyncpg.connect(self._url, timeout=CONNECT_S)
                try:
                    ended = asyncio.Event()
                    connection.add_termination_listener(partial(_set, ended))
                    await connection.add_listener(CHANNEL, self._noticed)
                    self._notices += 1  # some may have been missed
                    await ended.wait()
                finally:
                    connection.terminate()
            except (*_LOST, TimeoutError, asyncpg.PostgresError) as error:
                log.warning("the database's notices are not received: %s", error)
            await asyncio.sleep(random.uniform(0.5, 1.5))

    def _noticed(self, *_: object) -> None:
        self._notices += 1

    async def problems(self) -> list[str]:
        return []  # its pages are the server's to check

    async def aclose(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])
        if self._writing:
            await asyncio.wait(self._writing)
        if self._pool is not None:
            with suppress(*_LOST, TimeoutError):
                await asyncio.wait_for(self._pool.close(), CONNECT_S)


async def _prepare(connection: Any) -> None:
    """Have the server notice when we are gone: by itself it would take hours, with locks held meanwhile.

    Not by settings of the connection's start, of which poolers take few.
    """
    await connection.execute(
        f"SET idle_in_transaction_session_timeout = {int(IDLE_S * 1000)}; SET tcp_keepalives_idle = 15; "
        "SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
    )


async def _migrate(connection: Any, steps: Sequence[str]) -> None:
    """Bring the schema up to date; of several replicas one does, and the others wait."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
        await connection.execute("CREATE TABLE IF NOT EXISTS schema_version (steps INTEGER NOT NULL)")
        done = await connection.fetchval("SELECT steps FROM schema_version")
        if done is None:
            await connection.execute("INSERT INTO schema_version VALUES (0)")
        for step in steps[done or 0 :]:
            await connection.execute(step)
        if (done or 0) < len(steps):
            await connection.execute("UPDATE schema_version SET steps = $1", len(steps))


def _set(ended: asyncio.Event, _: object) -> None:
    ended.set()
