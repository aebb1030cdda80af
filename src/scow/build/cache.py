"""The build cache: which layer each step made, by what went into it.

A record's key is a digest of all that the step's outcome depends on: what it stands on, the instruction, the arguments
and file contents it uses. Records live in the state database and, whole, in memory. The layers that they name are kept
from the garbage collection until the record goes.
"""

import hashlib
import sqlite3
import time
from collections.abc import Iterable
from typing import Final

import msgspec

from scow.oci.digest import DiffID
from scow.store.database import Database
from scow.store.documents import find_document

MIGRATIONS: Final = [
    """
    CREATE TABLE build_cache (key TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE build_mounts (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
    """
]


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a step made. Times are nanoseconds since the epoch."""

    key: str
    diff_id: DiffID | None = None  # None: it changed no file
    parent: str = ""  # the key of the step before
    description: str = ""
    size: int = 0  # bytes of the layer's tar
    created_at: int = 0
    used_at: int = 0
    uses: int = 0
    sources: "Sources | None" = None  # of a record that only remembers what is to be copied


class Sources(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a COPY takes, as its key and the history have it."""

    digests: tuple[str, ...]
    several: bool = False  # the destination is a directory
    shown: str = ""


class Pins:
    """What the cache keeps from the garbage collection. Has a lease's shape; what others touch is no matter of ours."""

    def __init__(self, records: dict[str, Record]) -> None:
        self._records = records
        self._digests: set[str] = set()
        self.renew()

    def renew(self) -> None:
        """Take notice of what the cache holds now."""
        self._digests = {record.diff_id for record in self._records.values() if record.diff_id}

    def add(self, diff_id: str) -> None:
        """Keep one more."""
        self._digests.add(diff_id)

    def __contains__(self, digest: object) -> bool:
        return digest in self._digests


class Cache:
    """The records. Belongs to the event loop's thread."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._records: dict[str, Record] = {}
        self._dirty: dict[str, Record] = {}
        db.migrate("build", MIGRATIONS)
        db.read_now(self._load)
        self.pins = Pins(self._records)

    def _load(self, connection: sqlite3.Connection) -> None:
        for key, data in connection.execute("SELECT key, record FROM build_cache"):
            record = find_document(data, Record, f"step {key} of the build cache")
            if record is not None:
                self._records[record.key] = record

    # --- steps

    def find(self, key: str) -> Record | None:
        """The record of a step, if there is one; it counts as used."""
        record = self._records.get(key)
        if record is None:
            return None
        record = msgspec.structs.replace(record, used_at=time.time_ns(), uses=record.uses + 1)
        self._records[key] = self._dirty[key] = record
        return record

    def add(self, record: Record) -> None:
        """Remember what a step made: at once in memory, in the database with the next `flush`."""
        self._records[record.key] = self._dirty[record.key] = record
        if record.diff_id:
            self.pins.add(record.diff_id)

    def forget(self, key: str) -> None:
        """Drop a record whose layer is gone."""
        self._records.pop(key, None)
        self._dirty.pop(key, None)
        self.pins.renew()

    async def flush(self) -> None:
        """Write what changed, in one transaction."""
        rows = [(record.key, msgspec.json.encode(record)) for record in self._dirty.values()]
        self._dirty.clear()
        if rows:
            await self._db.write(
                lambda connection: connection.executemany("INSERT OR REPLACE INTO build_cache VALUES (?, ?)", rows)
            )

    def all(self) -> list[Record]:
        """Every record."""
        return list(self._records.values())

    async def remove(self, keys: Iterable[str]) -> None:
        """Forget records; their layers go with the next garbage collection if nothing else needs them."""
        gone = [(key,) for key in keys]
        await self._db.write(lambda connection: connection.executemany("DELETE FROM build_cache WHERE key = ?", gone))
        for (key,) in gone:
            self._records.pop(key, None)
            self._dirty.pop(key, None)
        self.pins.renew()


def step_key(*parts: object) -> str:
    """Name a step by all that it depends on."""
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
