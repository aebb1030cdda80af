"""State in one SQLite file: a single writer that groups commits, readers beside it, migrations for each component.

The life of a database: `open`, then each component's `migrate`, then `write` and `read` from the event loop until
`aclose`. A write is a function of a connection; all of them run in one thread, those that wait at the same time share
one transaction and one commit, each behind a savepoint, so that one that fails undoes only itself. The file is in WAL
mode: a process killed at any moment leaves a consistent file. A power cut costs what was acknowledged in the last
second: commits don't wait for the disk, and are synced together soon after. With `synchronous="FULL"` it costs nothing.
"""

import asyncio
import contextlib
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

from scow.errors import Internal, Unavailable

T = TypeVar("T")
Function = Callable[[sqlite3.Connection], T]
Step = str | Callable[[sqlite3.Connection], None]
Synchronous = Literal["NORMAL", "FULL"]

GROUP_LIMIT: Final = 256  # writes that share a commit at most: bounds what a failing commit takes with it
CHECKPOINT_EVERY: Final = 400  # commits between checkpoints of the WAL into the file
SYNC_AFTER_S: Final = 1.0  # from the first commit that isn't synced; left alone, the kernel takes half a minute
WAL_LIMIT: Final = 4000  # pages of the WAL from which on the writer itself checkpoints
BUSY_TIMEOUT_S: Final = 10.0

log = logging.getLogger(__name__)


class DatabaseFailed(Internal):
    """SQLite could not do what was asked: disk full, I/O error, a damaged file, or wrong SQL."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"state database {path}: {reason}")
        self.path = path
        self.reason = reason


class DatabaseTooNew(Internal):
    """The file was written by a later Scow, whose tables this one doesn't know."""

    def __init__(self, path: Path, component: str, version: int, known: int) -> None:
        super().__init__(
            f"state database {path}: {component} is at version {version}, this Scow knows {known}: use a newer Scow"
        )
        self.path = path
        self.component = component
        self.version = version
        self.known = known


class DatabaseClosed(Unavailable):
    """The database was closed, or is being closed."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"state database {path} is closed")
        self.path = path


class _Write(Generic[T]):
    """One queued write and its outcome; `deliver` runs in the caller's event loop, or in the writer without one."""

    __slots__ = ("_done", "_then", "error", "fn", "future", "loop", "result")

    def __init__(
        self, fn: Function[T], then: Callable[[T], None] | None, loop: asyncio.AbstractEventLoop | None
    ) -> None:
        self.fn = fn
        self.loop = loop
        self.future: asyncio.Future[T] | None = None if loop is None else loop.create_future()
        self.result: T | None = None
        self.error: BaseException | None = None
        self._then = then
        self._done = threading.Event() if loop is None else None

    @property
    def abandoned(self) -> bool:
        return self.future is not None and self.future.cancelled()

    def deliver(self) -> None:
        error = self.error
        if error is None and self._then is not None:
            try:
                self._then(self.result)  # type: ignore[arg-type]  # there is no error, so the result is a T
            except Exception as raised:
                error = self.error = raised
        if self.future is not None and not self.future.done():
            if error is None:
                self.future.set_result(self.result)  # type: ignore[arg-type]  # as above
            else:
                self.future.set_exception(error)
        if self._done is not None:
            self._done.set()

    def wait(self) -> T:
        assert self._done is not None
        self._done.wait()
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # as above


class Database:
    """One SQLite file. Made by `open`; the methods may be called from any thread, `write` and `read` from a loop.

    `_closing` guards the order of the last write and the end of the queue; everything else has one owner: the writer's
    connection belongs to its thread, a reader's to its thread, the direct one is used under `_direct_lock`. `is_new`
    tells whether nothing had ever been written when it was opened.
    """

    def __init__(self, path: Path, synchronous: Synchronous, readers: int) -> None:
        self.path = path
        self._synchronous = synchronous
        self._queue: queue.SimpleQueue[_Write[Any] | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._commits = 0
        self._checkpointing = False
        self._unsynced_since: float | None = None  # the writer's, in monotonic time
        self._syncing = False
        self._connections: list[sqlite3.Connection] = []
        self._writer = self._connect(read_only=False)
        self.is_new = self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
        self._direct = self._connect(read_only=True)
        self._direct_lock = threading.Lock()
        self._local = threading.local()
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="database-reader")
        self._thread = threading.Thread(target=self._run, name="database-writer", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, path: Path, *, synchronous: Synchronous = "NORMAL", readers: int = 4) -> "Database":
        """Open or make the file. "NORMAL" survives a killed process, "FULL" a power cut as well, for an fsync a commit.

        Raises DatabaseFailed if the file is not a database or can't be opened."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return cls(path, synchronous, readers)
        except (sqlite3.Error, OSError) as error:
            raise DatabaseFailed(path, str(error)) from error

    async def write(self, fn: Function[T], *, then: Callable[[T], None] | None = None) -> T:
        """Run `fn` in the writer's thread in a transaction; return its result once that is committed.

        `then` is called with the result in the event loop, in the order of the commits, even if the caller was
        cancelled meanwhile: the place to bring a view in memory up to date. A write that was cancelled before its turn
        never runs. What `fn` raises undoes what it did and is raised here; SQLite's errors become DatabaseFailed
        except IntegrityError, which says something about the data.
        """
        job = _Write(fn, then, asyncio.get_running_loop())
        self._enqueue(job)
        assert job.future is not None
        return await job.future

    def write_now(self, fn: Function[T]) -> T:
        """Write and block until it is committed: for start-up, tests and threads, never in a running event loop."""
        job = _Write(fn, None, None)
        self._enqueue(job)
        return job.wait()

    async def read(self, fn: Function[T]) -> T:
        """Run `fn` on a read-only connection in a reader's thread; it sees every write that was acknowledged."""
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read_in_thread, fn)

    def read_now(self, fn: Function[T]) -> T:
        """Run `fn` on a read-only connection in the calling thread: at start-up, or a look-up by key (microseconds)."""
        with self._direct_lock:
            self._check_open()
            return self._guarded(fn, self._direct)

    async def sync(self) -> None:
        """Return when all that was acknowledged survives a power cut as well; "NORMAL" leaves that to the kernel."""
        await asyncio.get_running_loop().run_in_executor(self._readers, self._sync)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def migrate(self, component: str, steps: Sequence[Step]) -> int:
        """Bring `component`'s tables to version len(steps), each step once and in order, in one transaction.

        A step is SQL (any number of statements) or a function of the connection. Steps are only ever added. Returns
        how many were run. Blocks: for start-up. Raises DatabaseTooNew if the file is ahead of `steps`.
        """

        def run(connection: sqlite3.Connection) -> int:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS migrations (component TEXT PRIMARY KEY, version INTEGER NOT NULL)"
                " WITHOUT ROWID"
            )
            row = connection.execute("SELECT version FROM migrations WHERE component = ?", (component,)).fetchone()
            version = 0 if row is None else int(row[0])
            if version > len(steps):
                raise DatabaseTooNew(self.path, component, version, len(steps))
            for step in steps[version:]:
                if isinstance(step, str):
                    for statement in split_statements(step):
                        connection.execute(statement)
                else:
                    step(connection)
            connection.execute("INSERT OR REPLACE INTO migrations VALUES (?, ?)", (component, len(steps)))
            return len(steps) - version

        return self.write_now(run)

    def close(self) -> None:
        """Finish the writes that were queued, fold the WAL into the file, and close. Blocks; idempotent."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()
        self._readers.shutdown()
        with self._direct_lock:
            while self._connections:
                self._connections.pop().close()

    async def aclose(self) -> None:
        """Close without holding up the event loop, in which the last writes' results still arrive. Idempotent."""
        await asyncio.to_thread(self.close)

    # what the callers' side does

    def _enqueue(self, job: _Write[T]) -> None:
        with self._closing:
            self._check_open()
            self._queue.put(job)

    def _check_open(self) -> None:
        if self._closed:
            raise DatabaseClosed(self.path)

    def _connect(self, *, read_only: bool) -> sqlite3.Connection:
        # Connections outlive their threads until close() ends them all, so that the check by thread must go.
        connection = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        self._connections.append(connection)
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        else:
            # Checkpoints are made beside the writer, whose commits then don't wait for an fsync. Under load without a
            # pause such a checkpoint never catches up, and the log would grow for ever: then the writer makes one.
            connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_LIMIT}").fetchone()
        return connection

    def _reader(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect(read_only=True)
        return connection

    def _read_in_thread(self, fn: Function[T]) -> T:
        return self._guarded(fn, self._reader())

    def _guarded(self, fn: Function[T], connection: sqlite3.Connection) -> T:
        # One transaction, so that several statements see one state.
        try:
            connection.execute("BEGIN")
            try:
                return fn(connection)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise DatabaseFailed(self.path, str(error)) from error

    # what the writer's thread does

    def _run(self) -> None:
        more = True
        while more:
            try:
                job = self._queue.get(timeout=self._sync_in_s())
            except queue.Empty:
                self._sync_beside()
                continue
            group: list[_Write[Any]] = []
            while True:
                if job is None:
                    more = False
                    break
                if not job.abandoned:
                    group.append(job)
                if len(group) == GROUP_LIMIT:
                    break
                try:
                    job = self._queue.get_nowait()
                except queue.Empty:
                    break
            if group:
                if not self._commit(group, is_last=False):
                    self._make_room()
                    self._commit(group, is_last=True)
                self._deliver(group)
                self._count_commit()
                if self._unsynced_since is None and self._synchronous == "NORMAL":
                    self._unsynced_since = time.monotonic()
                if self._sync_in_s() == 0:
                    self._sync_beside()
        with contextlib.suppress(sqlite3.Error):
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def _commit(self, group: list[_Write[Any]], *, is_last: bool) -> bool:
        """Do all the writes of a group; False if the disk is full and, not being the last attempt, nothing was done."""
        connection = self._writer
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in group:
                connection.execute("SAVEPOINT one")
                try:
                    job.result = job.fn(connection)
                except BaseException as error:
                    # Disk full and the like make SQLite roll back everything: then the whole group has failed.
                    if not connection.in_transaction:
                        raise
                    job.error = self._wrapped(error)
                    connection.execute("ROLLBACK TO one")
                connection.execute("RELEASE one")
            connection.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            if not is_last and isinstance(error, sqlite3.Error) and error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                for job in group:
                    job.error = None
                return False
            log.error("state database %s: a commit of %d writes failed: %s", self.path, len(group), error)
            for job in group:
                # An exception object per job: raised in several tasks, a shared one would mix their tracebacks.
                job.error = job.error or DatabaseFailed(self.path, str(error))
        return True

    def _make_room(self) -> None:
        """Have what is in the WAL written into the file: the room that it takes on a full disk can be used again."""
        with contextlib.suppress(sqlite3.Error):
            self._writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

    def _wrapped(self, error: BaseException) -> BaseException:
        if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
            failure = DatabaseFailed(self.path, str(error))
            failure.__cause__ = error
            return failure
        return error

    def _deliver(self, group: list[_Write[Any]]) -> None:
        # One wake-up of the loop for the group, not one for each write.
        by_loop: dict[asyncio.AbstractEventLoop | None, list[_Write[Any]]] = {}
        for job in group:
            by_loop.setdefault(job.loop, []).append(job)
        for loop, jobs in by_loop.items():
            if loop is None:
                _deliver_all(jobs)
            else:
                with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                    loop.call_soon_threadsafe(_deliver_all, jobs)

    def _sync_in_s(self) -> float | None:
        """How long the writer may wait for the next write before a sync is due; None if nothing is to be synced."""
        if self._unsynced_since is None:
            return None
        return max(0.0, self._unsynced_since + SYNC_AFTER_S - time.monotonic())

    def _sync_beside(self) -> None:
        """Have what was committed synced in another thread; a little later if the last sync is still at work."""
        if self._syncing:
            self._unsynced_since = time.monotonic()
            return
        self._syncing, self._unsynced_since = True, None
        try:
            self._readers.submit(self._sync_quietly)
        except RuntimeError:  # the pool was shut down meanwhile: the end syncs everything
            self._syncing = False

    def _sync_quietly(self) -> None:
        try:
            self._sync()
        except OSError as error:
            log.error("state database %s: what was recorded could not be synced: %s", self.path, error)
        finally:
            self._syncing = False

    def _sync(self) -> None:
        for path in (self.path.with_name(f"{self.path.name}-wal"), self.path.parent):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _count_commit(self) -> None:
        self._commits += 1
        if self._commits >= CHECKPOINT_EVERY and not self._checkpointing:
            self._commits = 0
            self._checkpointing = True
            with contextlib.suppress(RuntimeError):  # the pool was shut down meanwhile
                self._readers.submit(self._checkpoint)

    def _checkpoint(self) -> None:
        try:
            self._reader().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            log.warning("state database %s: checkpoint: %s", self.path, error)
        finally:
            self._checkpointing = False


def _deliver_all(jobs: Sequence[_Write[Any]]) -> None:
    for job in jobs:
        job.deliver()


def split_statements(script: str) -> list[str]:
    """Split SQL into its statements; semicolons in strings, comments and triggers don't end one."""
    statements = []
    pending = ""
    for part in script.split(";")[:-1]:
        pending += part + ";"
        if sqlite3.complete_statement(pending):
            statements.append(pending.strip())
            pending = ""
    pending += script.rpartition(";")[2]
    if pending.strip():
        statements.append(pending.strip())
    return statements
