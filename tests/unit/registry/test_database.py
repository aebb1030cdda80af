"""The registry's SQLite file."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from scow.registry.database import Database

STEPS = ("CREATE TABLE t (x INTEGER PRIMARY KEY)",)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database.open(tmp_path / "db", STEPS)
    yield opened
    await opened.aclose()


def insert(value: int) -> Callable[[sqlite3.Connection], int]:
    return lambda db: db.execute("INSERT INTO t VALUES (?)", (value,)).rowcount


async def test_a_failing_call_does_not_undo_its_neighbours(database: Database) -> None:
    outcomes = await asyncio.gather(*(database.write(insert(value)) for value in (1, 2, 1, 3)), return_exceptions=True)
    assert next(outcome for outcome in outcomes if outcome != 1).__class__ is sqlite3.IntegrityError
    assert await database.read(lambda db: db.execute("SELECT x FROM t").fetchall()) == [(1,), (2,), (3,)]


async def test_a_caller_that_is_cancelled_leaves_its_write_and_the_writer_alone(database: Database) -> None:
    holding, go_on = threading.Event(), threading.Event()

    def wait(db: sqlite3.Connection) -> int:
        holding.set()
        go_on.wait(10)
        return insert(1)(db)

    calls = [asyncio.create_task(database.write(wait))]
    await asyncio.to_thread(holding.wait, 10)
    calls.append(asyncio.create_task(database.write(insert(2))))
    await asyncio.sleep(0)  # queued
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    go_on.set()
    assert await database.write(insert(3)) == 1
    assert await database.read(lambda db: db.execute("SELECT x FROM t").fetchall()) == [(1,), (2,), (3,)]


async def test_the_version_moves_with_every_commit_and_only_then(database: Database, tmp_path: Path) -> None:
    before = database.version()
    await database.read(lambda db: db.execute("SELECT 1").fetchone())
    assert database.version() == before
    await database.write(insert(1))
    own = database.version()
    assert own != before
    other = Database.open(tmp_path / "db", STEPS)
    assert database.version() == own
    await other.write(insert(2), durable=False)
    assert database.version() != own
    await other.aclose()


async def test_a_later_version_adds_its_steps_to_an_older_file(tmp_path: Path) -> None:
    await Database.open(tmp_path / "old", STEPS).aclose()
    newer = Database.open(tmp_path / "old", (*STEPS, "ALTER TABLE t ADD COLUMN y;\nCREATE TABLE u (z)"))
    await newer.write(lambda db: db.execute("INSERT INTO t VALUES (1, 2)").rowcount)
    await newer.write(lambda db: db.execute("INSERT INTO u VALUES (1)").rowcount)
    await newer.aclose()


async def test_only_the_owner_reads_the_file(database: Database, tmp_path: Path) -> None:
    await database.write(insert(1))
    names = [name for name in os.listdir(tmp_path) if name.startswith("db")]
    assert {os.stat(tmp_path / name).st_mode & 0o777 for name in names} == {0o600}
