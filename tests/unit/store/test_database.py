"""The state database: one writer, grouped commits, migrations, and what a killed process leaves."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from scow.store import database
from scow.store.database import (
    CHECKPOINT_EVERY,
    WAL_LIMIT,
    Database,
    DatabaseClosed,
    DatabaseFailed,
    DatabaseTooNew,
    split_statements,
)

THINGS = "CREATE TABLE things (name TEXT PRIMARY KEY, number INTEGER NOT NULL)"


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(tmp_path / "state.db")
    database.migrate("things", [THINGS])
    yield database
    await database.aclose()


def put(name: str, number: int = 0):  # type: ignore[no-untyped-def]  # a closure for tests
    return lambda connection: connection.execute("INSERT INTO things VALUES (?, ?)", (name, number)).rowcount


def names(connection: sqlite3.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT name FROM things ORDER BY name")]


async def test_what_was_written_is_read_back(db: Database) -> None:
    assert await db.write(put("one")) == 1
    assert await db.read(names) == ["one"]
    assert db.read_now(names) == ["one"]


async def test_a_failing_write_undoes_only_itself(db: Database) -> None:
    class Refused(Exception):
        pass

    def half(connection: sqlite3.Connection) -> None:
        put("half")(connection)
        raise Refused

    outcomes = await asyncio.gather(
        db.write(put("a")), db.write(half), db.write(put("a")), db.write(put("b")), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [int, Refused, sqlite3.IntegrityError, int]
    assert await db.read(names) == ["a", "b"]


async def test_writes_that_wait_together_share_a_commit(db: Database) -> None:
    commits: list[str] = []
    db._writer.set_trace_callback(lambda statement: commits.append(statement) if statement == "COMMIT" else None)
    await asyncio.gather(*(db.write(put(str(number))) for number in range(1000)))
    assert len(await db.read(names)) == 1000
    assert len(commits) < 500


async def test_results_are_applied_in_the_order_of_the_commits_even_if_the_caller_is_gone(db: Database) -> None:
    applied: list[str] = []

    def returning(name: str):  # type: ignore[no-untyped-def]
        def write(connection: sqlite3.Connection) -> str:
            put(name)(connection)
            return name

        return write

    started, go_on = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> str:
        started.set()
        go_on.wait(60)
        return returning("slow")(connection)  # type: ignore[no-any-return]

    leaver = asyncio.ensure_future(db.write(slow, then=applied.append))
    await asyncio.to_thread(started.wait, 10)
    never = asyncio.ensure_future(db.write(returning("never"), then=applied.append))
    after = asyncio.ensure_future(db.write(returning("after"), then=applied.append))
    await asyncio.sleep(0)
    leaver.cancel()
    never.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await after
    assert applied == ["slow", "after"]
    assert await db.read(names) == ["after", "slow"]


async def test_an_error_in_applying_reaches_the_writer_of_it(db: Database) -> None:
    def refuse(_: int) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await db.write(put("x"), then=refuse)
    assert await db.read(names) == ["x"]


async def test_wrong_sql_and_writing_readers_are_refused(db: Database) -> None:
    with pytest.raises(DatabaseFailed, match="no such table"):
        await db.write(lambda connection: connection.execute("INSERT INTO absent VALUES (1)"))
    with pytest.raises(DatabaseFailed, match="readonly"):
        await db.read(put("x"))
    with pytest.raises(DatabaseFailed, match="readonly"):
        db.read_now(put("x"))
    await db.write(put("still works"))


async def test_a_write_that_ends_the_transaction_fails_the_group_and_leaves_the_database_usable(db: Database) -> None:
    with pytest.raises(DatabaseFailed):
        await db.write(lambda connection: connection.execute("COMMIT"))
    await db.write(put("next"))
    assert await db.read(names) == ["next"]


async def test_checkpoints_keep_the_log_small(db: Database, tmp_path: Path) -> None:
    def grow(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT OR REPLACE INTO things VALUES (?, 1)", ("x" * 3000,))

    for _ in range(10):
        for _ in range(CHECKPOINT_EVERY):
            await db.write(grow)
        while db._checkpointing:  # a slow disk may take longer for one than we for the next commits
            await asyncio.to_thread(time.sleep, 0.01)
    assert (tmp_path / "state.db-wal").stat().st_size < 2 * WAL_LIMIT * 4096


async def test_what_is_synced_is_on_disk(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(database, "SYNC_AFTER_S", 3600.0)
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    await db.write(put("a"))
    await db.sync()
    assert synced == [f"{db.path}-wal", str(db.path.parent)]


async def test_commits_are_synced_soon_and_do_not_wait_for_it(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, may_go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def fsync(fd: int) -> None:
        loop.call_soon_threadsafe(synced.set)
        assert may_go_on.wait(30)

    monkeypatch.setattr(database, "SYNC_AFTER_S", 0.001)
    monkeypatch.setattr(os, "fsync", fsync)
    await db.write(put("a"))
    await asyncio.wait_for(synced.wait(), 30)  # without another write, or the end
    await db.write(put("b"))  # while the disk is slow
    may_go_on.set()
    for name in "cde":
        synced.clear()
        await db.write(put(name))
        await asyncio.wait_for(synced.wait(), 30)


async def test_a_database_is_new_until_something_was_written(tmp_path: Path) -> None:
    for is_new in (True, True, False):
        database = Database.open(tmp_path / "state.db")
        assert database.is_new is is_new
        if (tmp_path / "again").exists():
            database.migrate("things", [THINGS])
        (tmp_path / "again").touch()
        await database.aclose()


async def test_closing_finishes_what_was_queued(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "state.db")
    db.migrate("things", [THINGS])
    writes = [asyncio.ensure_future(db.write(put(str(number)))) for number in range(50)]
    await asyncio.sleep(0)
    await db.aclose()
    await asyncio.gather(*writes)
    await db.aclose()
    for refused in (db.write(put("late")), db.read(names)):
        with pytest.raises(DatabaseClosed):
            await refused
    again = Database.open(tmp_path / "state.db")
    assert len(again.read_now(names)) == 50
    again.close()
    assert os.listdir(tmp_path) == ["state.db"]


def test_each_component_has_its_own_version_and_steps_run_once(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "state.db")
    assert db.migrate("things", [THINGS]) == 1
    assert db.migrate("others", ["CREATE TABLE others (a); CREATE TABLE more (b)"]) == 1
    assert db.migrate("things", [THINGS]) == 0
    added = [THINGS, "ALTER TABLE things ADD COLUMN note TEXT", lambda connection: put("x")]
    assert db.migrate("things", added) == 2
    db.close()
    old = Database.open(tmp_path / "state.db")
    with pytest.raises(DatabaseTooNew, match="things is at version 3, this Scow knows 1"):
        old.migrate("things", [THINGS])
    old.close()


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "state.db")
    with pytest.raises(DatabaseFailed, match="syntax"):
        db.migrate("things", [THINGS, "CREATE TABLE good (a); CREATE nonsense"])
    assert db.migrate("things", [THINGS]) == 1
    db.close()


def test_statements_are_split_where_they_end() -> None:
    trigger = "CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM b; DELETE FROM c; END;"
    script = f"INSERT INTO a VALUES ('x;y'); -- no; not here\n{trigger}\nSELECT 1"
    assert split_statements(script) == ["INSERT INTO a VALUES ('x;y');", f"-- no; not here\n{trigger}", "SELECT 1"]


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(DatabaseFailed, match=r"state\.db: file is not a database"):
        Database.open(path)


WRITER = """
    import asyncio, sys
    from pathlib import Path
    from scow.store.database import Database

    async def main() -> None:
        db = Database.open(Path(sys.argv[1]), synchronous=sys.argv[2])
        db.migrate("pairs", ["CREATE TABLE pairs (number INTEGER PRIMARY KEY, twin INTEGER)",
                             "CREATE TABLE total (n INTEGER)", "INSERT INTO total VALUES (0)"])
        number = db.read_now(lambda c: c.execute("SELECT count(*) FROM pairs").fetchone()[0])
        async def one(number: int) -> None:
            def write(c):
                c.execute("INSERT INTO pairs VALUES (?, ?)", (number, -number))
                c.execute("UPDATE total SET n = n + 1")
            await db.write(write)
            print(number, flush=True)
        while True:
            await asyncio.gather(*(one(number + i) for i in range(8)))
            number += 8
    asyncio.run(main())
"""


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
def test_a_writer_killed_at_any_moment_leaves_all_that_it_acknowledged(tmp_path: Path, synchronous: str) -> None:
    path = tmp_path / "state.db"
    acknowledged: set[int] = set()
    for acknowledged_before_the_kill in (1, 20, 333):
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(path), synchronous], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        acknowledged.update(int(child.stdout.readline()) for _ in range(acknowledged_before_the_kill))
        child.send_signal(signal.SIGKILL)
        # The last line may have been cut off by the kill.
        acknowledged.update(int(line) for line in child.stdout.read().splitlines()[:-1])
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL

        db = Database.open(path)
        stored, total, check = db.read_now(
            lambda c: (
                dict(c.execute("SELECT number, twin FROM pairs").fetchall()),
                c.execute("SELECT n FROM total").fetchone()[0],
                c.execute("PRAGMA integrity_check").fetchone()[0],
            )
        )
        db.close()
        assert check == "ok"
        assert acknowledged <= stored.keys()
        assert len(stored) == total
        assert all(twin == -number for number, twin in stored.items())
