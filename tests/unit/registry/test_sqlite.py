"""The registry's SQLite file."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from scow.registry.errors import StorageUnavailable
from scow.registry.sql import Call, Session
from scow.registry.sqlite import SqliteDatabase, SqliteSession

STEPS = ("CREATE TABLE t (x INTEGER PRIMARY KEY)",)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = SqliteDatabase.open(tmp_path / "db", STEPS)
    yield opened
    await opened.aclose()


def insert(value: int) -> Call[int]:
    return lambda session: session.run("INSERT INTO t VALUES (?)", value)


async def test_a_failing_call_does_not_undo_its_neighbours(database: SqliteDatabase) -> None:
    outcomes = await asyncio.gather(*(database.write(insert(value)) for value in (1, 2, 1, 3)), return_exceptions=True)
    assert next(outcome for outcome in outcomes if outcome != 1).__class__ is sqlite3.IntegrityError
    assert await database.rows("SELECT x FROM t") == [(1,), (2,), (3,)]


async def test_a_caller_that_is_cancelled_leaves_its_write_and_the_writer_alone(database: SqliteDatabase) -> None:
    holding, go_on = threading.Event(), threading.Event()

    async def wait(session: Session) -> int:
        holding.set()
        go_on.wait(60)
        return await insert(1)(session)

    calls = [asyncio.create_task(database.write(wait))]
    await asyncio.to_thread(holding.wait, 10)
    calls.append(asyncio.create_task(database.write(insert(2))))
    await asyncio.sleep(0)  # queued
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    go_on.set()
    assert await database.write(insert(3)) == 1
    assert await database.rows("SELECT x FROM t") == [(1,), (2,), (3,)]


async def lose_the_connection(session: Session) -> None:
    await insert(1)(session)
    assert isinstance(session, SqliteSession)
    session.connection.close()  # then neither COMMIT nor ROLLBACK can be


@pytest.mark.parametrize("neighbours", [0, 3])
async def test_a_write_whose_connection_is_lost_fails_and_the_next_one_gets_another(
    database: SqliteDatabase, neighbours: int, caplog: pytest.LogCaptureFixture
) -> None:
    lost = [asyncio.create_task(database.write(lose_the_connection)) for _ in range(1 + neighbours)]
    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(*lost, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {sqlite3.ProgrammingError}
        assert await database.write(insert(3)) == 1
    assert await database.rows("SELECT x FROM t") == [(3,)]
    assert "takes a new connection" in caplog.text


async def test_a_transaction_that_cannot_begin_fails_and_the_next_one_begins(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    async def have_no_patience(session: Session) -> None:
        await session.row("PRAGMA busy_timeout=0")

    await database.write(have_no_patience)
    with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(60):
            with pytest.raises(StorageUnavailable) as refusal:
                await database.write(insert(1))
            assert refusal.value.why == "SQLite: database is locked"
        other.execute("ROLLBACK")
    async with asyncio.timeout(60):
        assert await database.write(insert(2)) == 1


def test_a_loop_that_ends_with_writes_queued_does_not_end_the_writer(tmp_path: Path) -> None:
    opened = SqliteDatabase.open(tmp_path / "db", STEPS)
    go_on = threading.Event()

    async def wait(session: Session) -> int:
        go_on.wait(60)
        return await insert(1)(session)

    async def leave() -> None:
        writes = [asyncio.create_task(opened.write(call)) for call in (wait, insert(2))]
        await asyncio.wait(writes, timeout=0.1)

    async def come_back() -> None:
        async with asyncio.timeout(60):
            await opened.write(insert(3))
            assert await opened.rows("SELECT x FROM t") == [(1,), (2,), (3,)]
            await opened.aclose()

    asyncio.run(leave())
    go_on.set()
    asyncio.run(come_back())


async def test_a_write_after_the_end_is_refused_at_once(tmp_path: Path) -> None:
    opened = SqliteDatabase.open(tmp_path / "db", STEPS)
    await opened.aclose()
    async with asyncio.timeout(60):
        with pytest.raises(StorageUnavailable):
            await opened.write(insert(1))


async def test_a_file_that_is_damaged_while_it_is_used_is_no_failure_of_ours(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    with pytest.raises(sqlite3.OperationalError):
        await database.row("SELEKT 1")
    await database.write(lambda session: session.run_many("INSERT INTO t VALUES (?)", [(n,) for n in range(50_000)]))
    with closing(sqlite3.connect(tmp_path / "db")) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (tmp_path / "db").write_bytes(b"\xff" * (tmp_path / "db").stat().st_size)
    for call in (database.read, database.write):
        with pytest.raises(StorageUnavailable):
            await call(lambda session: session.rows("SELECT sum(x) FROM t"))  # type: ignore[operator]


async def test_the_version_moves_with_every_commit_and_only_then(database: SqliteDatabase, tmp_path: Path) -> None:
    before = database.version()
    await database.row("SELECT 1")
    assert database.version() == before
    await database.write(insert(1))
    own = database.version()
    assert own != before
    other = SqliteDatabase.open(tmp_path / "db", STEPS)
    assert database.version() == own
    await other.write(insert(2), durable=False)
    assert database.version() != own
    await other.aclose()


async def test_a_later_version_adds_its_steps_to_an_older_file(tmp_path: Path) -> None:
    await SqliteDatabase.open(tmp_path / "old", STEPS).aclose()
    newer = SqliteDatabase.open(tmp_path / "old", (*STEPS, "ALTER TABLE t ADD COLUMN y;\nCREATE TABLE u (z)"))
    await newer.write(lambda session: session.run("INSERT INTO t VALUES (1, 2)"))
    await newer.write(lambda session: session.run("INSERT INTO u VALUES (1)"))
    await newer.aclose()


async def test_an_older_version_says_that_a_newer_one_was_there_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await SqliteDatabase.open(tmp_path / "new", (*STEPS, "CREATE TABLE u (y)")).aclose()
    assert not caplog.messages
    older = SqliteDatabase.open(tmp_path / "new", STEPS)
    assert caplog.messages == [f"{tmp_path / 'new'} was used by a newer version, whose additions are left alone"]
    await older.write(insert(1))
    await older.aclose()


async def test_only_the_owner_reads_the_file(database: SqliteDatabase, tmp_path: Path) -> None:
    await database.write(insert(1))
    names = [name for name in os.listdir(tmp_path) if name.startswith("db")]
    assert {os.stat(tmp_path / name).st_mode & 0o777 for name in names} == {0o600}


async def test_a_call_that_waits_for_anything_else_is_refused(database: SqliteDatabase) -> None:
    async def sleep(session: Session) -> None:
        await insert(1)(session)
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="waits for something else"):
        await database.write(sleep)
    assert await database.rows("SELECT x FROM t") == []
