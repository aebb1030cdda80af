"""What the state database can still do on a full disk."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scow.linux import mount
from scow.store.database import Database, DatabaseFailed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount.mount("none", tmp_path, "tmpfs", 0, "size=1m")
    yield tmp_path
    mount.unmount(tmp_path, lazy=True)


def fill(file: Path) -> None:
    with file.open("ab", buffering=0) as disk:
        while True:
            disk.write(bytes(4096))


def statement(sql: str, *values: object) -> Callable[[sqlite3.Connection], sqlite3.Cursor]:
    return lambda db: db.execute(sql, values)


async def test_what_is_recorded_can_be_changed_and_forgotten_in_the_room_that_the_log_has(small_disk: Path) -> None:
    database = Database.open(small_disk / "db")
    database.migrate("boxes", ["CREATE TABLE boxes (id INTEGER PRIMARY KEY, text TEXT)"])
    for id in range(10):
        await database.write(statement("INSERT INTO boxes VALUES (?, 'new')", id))
    await database.aclose()
    database = Database.open(small_disk / "db")
    for id in range(10):
        await database.write(statement("UPDATE boxes SET text = 'old' WHERE id = ?", id))
    with pytest.raises(OSError, match="No space left"):
        fill(small_disk / "filling")
    for id in range(10):
        await database.write(statement("UPDATE boxes SET text = 'gone' WHERE id = ?", id))
        await database.write(statement("DELETE FROM boxes WHERE id = ?", id))
    assert await database.read(lambda db: db.execute("SELECT count(*) FROM boxes").fetchone()) == (0,)
    with pytest.raises(DatabaseFailed, match="full"):
        await database.write(statement("INSERT INTO boxes VALUES (?, ?)", 1, "x" * 500_000))
    (small_disk / "filling").unlink()
    await database.write(statement("INSERT INTO boxes VALUES (?, ?)", 1, "x" * 500_000))
    await database.aclose()
