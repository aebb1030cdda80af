"""The registry's SQLite file, behind `sql.Database`: one writer thread that groups commits, reader threads, and a cheap
change counter.

Calls are coroutines because other databases wait for a network. Here nothing ever waits: a thread runs each to its end.
It differs from the engine's database in two ways that a registry needs: a 201 promises durability, so a commit can be
asked to be synced (`durable`; one sync serves all that waited for it), and hot reads are answered from memory
as long as `version()` says that no process has changed anything.
"""

import asyncio
import errno
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

from scow.registry import sql
from scow.registry.errors import StorageFull, StorageUnavailable
from scow.registry.sql import Row, Value

T = TypeVar("T")

GROUP_LIMIT: Final = 64
"""Most calls that share one transaction."""
READERS: Final = 2
PROBLEMS_LIMIT: Final = 20
SPARE_SIZE: Final = 1 << 20
"""Bytes of a file that is kept to be given up: on a full disk not even deletes could be written down without it."""
SPARE_PIECE: Final = 64 << 10
SPARE_CHECK_S: Final = 30.0
"""Between two looks, at writes, whether that file has to be made anew."""
_FULL: Final = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
"""What SQLite says of a full disk: the second one if it is the log's index that can't grow."""
_HARMLESS: Final = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CONSTRAINT}
"""Errors, without their details, after which a connection is as good as before."""
_UNREACHABLE: Final = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR),
    *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB),
}
"""The same, of what is no fault of a statement's."""

log = logging.getLogger("scow.registry")


@lru_cache(maxsize=1024)
def _own(statement: str) -> str:
    return sql.translate(statement, "sqlite")


class SqliteSession:
    """A connection as a session."""

    __slots__ = ("connection",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    async def row(self, query: str, *values: Value) -> Row | None:
        found: Row | None = self.connection.execute(_own(query), values).fetchone()
        return found

    async def rows(self, query: str, *values: Value) -> Sequence[Row]:
        return self.connection.execute(_own(query), values).fetchall()

    async def run(self, statement: str, *values: Value) -> int:
        return self.connection.execute(_own(statement), values).rowcount

    async def run_many(self, statement: str, values: Sequence[Sequence[Value]]) -> None:
        self.connection.executemany(_own(statement), values)


def _finish(call: sql.Call[T], session: SqliteSession) -> T:
    """Run a call to its end, in this thread."""
    coroutine = call(session)
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("a call of the database waits for something else than its session")


@dataclass(slots=True)
class _Call:
    run: sql.Call[Any]
    durable: bool
    done: "Future[Any]"


def copy_database(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment, whoever writes to it meanwhile. Blocks. Raises OSError and sqlite3.Error.

    The copy is one file, synced, of which nothing is to be seen before it is whole.
    """
    if target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    half = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        os.close(os.open(half, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))  # secrets are in it
        with closing(sqlite3.connect(source, timeout=30)) as read, closing(sqlite3.connect(half)) as write:
            read.backup(write)
            write.execute("PRAGMA journal_mode=DELETE").close()
        with half.open("rb") as file:
            os.fsync(file.fileno())
        half.rename(target)
    finally:
        half.unlink(missing_ok=True)


class SqliteDatabase:
    """A SQLite file in WAL mode. Make it by `open`; `aclose` ends its threads."""

    is_exact: Final = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spare = path.with_name(f"{path.name}-spare")
        self._spare_check = 0.0  # when it is due (monotonic)
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._local = threading.local()
        self._connections: list[SqliteSession] = []
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="metadata-read")
        self._writer = threading.Thread(target=self._write_all, name="metadata-write", daemon=True)
        self._writing: SqliteSession | None = None  # the writer's; None if it needs a new one
        self._closed = False
        self._watch = self._connect()

    @classmethod
    def open(cls, path: Path, steps: Sequence[str]) -> "SqliteDatabase":
        """Open or make the file and bring its schema up to date. Blocks: to be called at start."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # password hashes and signing keys are in it; SQLite's other files get its mode
        database = cls(path)
        connection = database._watch.connection
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            done = connection.execute("PRAGMA user_version").fetchone()[0]
            for step in steps[done:]:
                for statement in step.split(";\n"):
                    if statement.strip():
                        connection.execute(statement)
            if done < len(steps):
                connection.execute(f"PRAGMA user_version={len(steps)}")
            elif done > len(steps):
                log.warning("%s was used by a newer version, whose additions are left alone", path)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        database._writing = database._connect()
        database._keep_spare()
        database._writer.start()
        return database

    def _keep_spare(self, room_size: int = 0) -> None:
        """Make the spare file if it is not there whole and the disk has `room_size` bytes."""
        self._spare_check = time.monotonic() + SPARE_CHECK_S
        try:
            with suppress(FileNotFoundError):
                if self._spare.stat().st_size >= SPARE_SIZE:
                    return
            disk = os.statvfs(self._path.parent)
            if disk.f_bavail * disk.f_frsize >= room_size:
                self._spare.touch(mode=0o600)
                with self._spare.open("wb", buffering=0) as file:
                    for _ in range(SPARE_SIZE // SPARE_PIECE):  # as a whole it would stay in the heap
                        file.write(os.urandom(SPARE_PIECE))
        except OSError:  # the disk is full already
            with suppress(OSError):
                self._spare.unlink(missing_ok=True)

    def _make_room(self) -> None:
        """Give up the spare file, and let the log begin anew so that its own bytes can be used again."""
        self._spare.unlink(missing_ok=True)
        with closing(sqlite3.connect(self._path, timeout=5)) as connection:
            connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

    def version(self) -> int:
        """A number that changes when any process has committed anything. No disk access: a look into shared memory."""
        return int(self._watch.connection.execute("PRAGMA data_version").fetchone()[0])

    async def read(self, call: sql.Call[T]) -> T:
        """Run `call` with a connection of its own thread, for reading."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, self._run_read, call)
        except sqlite3.Error as error:
            if (refusal := _refusal(error)) is not None:
                raise refusal from error
            raise

    async def row(self, query: str, *values: Value) -> Row | None:
        return await self.read(lambda session: session.row(query, *values))

    async def rows(self, query: str, *values: Value) -> Sequence[Row]:
        return await self.read(lambda session: session.rows(query, *values))

    async def write(self, call: sql.Call[T], *, durable: bool = True, frees: bool = False) -> T:
        """Run `call` in a write transaction and commit; synced to disk before it returns if `durable`.

        A call that raises is undone alone. Raises StorageFull, and StorageUnavailable also once this is closed; what
        `frees` space gets room on a full disk, as far as there is any. Once queued it runs, even if the caller is
        cancelled.
        """
        try:
            return await self._write(call, durable)
        except StorageFull:
            if not frees:
                raise
        try:
            await asyncio.to_thread(self._make_room)
        except sqlite3.OperationalError as error:
            raise StorageFull from error
        return await self._write(call, durable)

    async def _write(self, call: sql.Call[T], durable: bool) -> T:
        if self._closed:  # nobody would ever look at it
            raise StorageUnavailable("the database is closed")
        done: Future[T] = Future()
        done.set_running_or_notify_cancel()  # from now on a caller that is cancelled leaves it alone
        self._calls.put(_Call(call, durable, done))
        try:
            return await asyncio.wrap_future(done)
        except sqlite3.Error as error:
            if (refusal := _refusal(error)) is not None:
                raise refusal from error
            raise

    async def problems(self) -> list[str]:
        try:
            found = [str(row[0]) for row in await self.rows(f"PRAGMA integrity_check({PROBLEMS_LIMIT})")]
        except StorageUnavailable as error:
            return [error.why]
        return [] if found == ["ok"] else found

    async def aclose(self) -> None:
        """Finish what is queued and close."""
        self._closed = True
        self._calls.put(None)
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._readers.shutdown)
        for session in self._connections:
            session.connection.close()

    def _connect(self) -> SqliteSession:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=30, check_same_thread=False)
        for pragma in ("busy_timeout=30000", "foreign_keys=ON", "cache_size=-2048"):
            connection.execute(f"PRAGMA {pragma}").close()
        session = SqliteSession(connection)
        self._connections.append(session)
        return session

    def _run_read(self, call: sql.Call[T]) -> T:
        session: SqliteSession | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = self._connect()
        return _finish(call, session)

    def _write_all(self) -> None:
        ending = False
        while not ending:
            group: list[_Call] = []
            call = None  # or the last one, with what it has written, would be kept until the next comes
            call = self._calls.get()
            while call is not None:
                group.append(call)
                if len(group) == GROUP_LIMIT:
                    break
                try:
                    call = self._calls.get_nowait()
                except queue.Empty:
                    break
            else:
                ending = True
            if group:
                self._commit(group)

    def _commit(self, group: list[_Call]) -> None:
        """Run a group and answer each of its calls, whatever happens: callers wait for ever for a thread that died."""
        try:
            if self._writing is None:
                self._writing = self._connect()
            if not _commit_group(self._writing, group):
                self._renew()
            if time.monotonic() >= self._spare_check:
                self._keep_spare(2 * SPARE_SIZE)  # another process may have given it up
        except BaseException as error:
            log.exception("the thread that writes names down takes a new connection")
            self._renew()
            for call in group:
                if not call.done.done():
                    call.done.set_exception(error)

    def _renew(self) -> None:
        """Have the next group get a new connection: what this one would do isn't known."""
        broken, self._writing = self._writing, None
        if broken is not None:
            self._connections.remove(broken)
            with suppress(sqlite3.Error):
                broken.connection.close()


def _code(error: BaseException) -> int | None:
    """SQLite's own code of an error, with its details; None if it is none of SQLite's."""
    return getattr(error, "sqlite_errorcode", None)


def _refusal(error: sqlite3.Error) -> StorageFull | StorageUnavailable | None:
    """What clients are told of an error; None if it is a fault of ours."""
    code = _code(error)
    if code in _FULL:
        return StorageFull()
    if code is not None and code & 0xFF in _UNREACHABLE:
        return StorageUnavailable(f"SQLite: {error}")
    return None


def _commit_group(session: SqliteSession, group: list[_Call]) -> bool:
    """Run calls in one transaction and answer them; False if the connection had better not be used again."""
    connection = session.connection
    outcomes: list[tuple[_Call, Any, BaseException | None]] = []
    try:
        # In WAL mode NORMAL syncs at checkpoints only, FULL at each commit; it cannot be changed inside a transaction.
        connection.execute(f"PRAGMA synchronous={'FULL' if any(call.durable for call in group) else 'NORMAL'}")
        connection.execute("BEGIN IMMEDIATE")
        for call in group:
            if len(group) == 1:
                outcomes.append((call, _finish(call.run, session), None))
                break
            connection.execute("SAVEPOINT one")
            try:
                outcomes.append((call, _finish(call.run, session), None))
            except Exception as error:
                if not connection.in_transaction:  # SQLite gave up the whole transaction: the disk is full
                    raise
                connection.execute("ROLLBACK TO one")
                outcomes.append((call, None, error))
            connection.execute("RELEASE one")
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        for call in group:
            call.done.set_exception(error)
        code = _code(error)
        return code is None or code & 0xFF in _HARMLESS
    for call, value, failure in outcomes:
        if failure is None:
            call.done.set_result(value)
        else:
            call.done.set_exception(failure)
    return True
