"""IDs of uploads. Each says by itself that it is ours, of which repository and since when.

So a client may begin an upload without anything being written down: many begin what they never go on with, and for a
small blob the record would cost as much as the blob. They are UUIDs of version 8 (RFC 9562 section 5.8): 32 bits of
time in seconds, 42 of chance, and 48 of an HMAC over these, the repository and the algorithm, by a key that all
processes of a registry share.
"""

import hashlib
import hmac
import os
import secrets
import time
import uuid
from typing import Final

import msgspec

from scow.registry.metadata import Upload
from scow.registry.sql import Database, Session

FRESH_S: Final = 3600.0
"""How long an upload may be begun with no byte sent. What has ended is remembered for as long."""
AHEAD_S: Final = 300.0
"""Clocks of replicas differ by no more."""
ALGORITHMS: Final = ("sha256", "sha512")
_KEY: Final = "uploads"
_SEAL_BITS: Final = 48
_VERSION_MASK: Final = 0xF << 76 | 0x3 << 62
_VERSION: Final = 0x8 << 76 | 0x2 << 62


class Recognised(msgspec.Struct, frozen=True):
    """An upload whose ID is one of ours."""

    upload: Upload
    begun_at: float  # seconds since the epoch

    @property
    def is_fresh(self) -> bool:
        """Whether it may go on though nothing is written down of it."""
        return -AHEAD_S < time.time() - self.begun_at < FRESH_S


class UploadIds:
    """Makes and recognises IDs."""

    def __init__(self, database: Database) -> None:
        """`database` keeps the key."""
        self._db = database
        self._key = b""

    async def make(self, repository: str, algorithm: str) -> Upload:
        """A new upload, of which nothing is written down."""
        if not self._key:
            await self._learn()
        # 48 bits of time and chance, 12 of chance, and 14 more above the seal.
        chance = int.from_bytes(os.urandom(6), "big")
        number = (int(time.time()) & 0xFFFFFFFF) << 96 | (chance & 0xFFFF) << 80
        number |= (chance >> 16 & 0xFFF) << 64 | (chance >> 28 & 0x3FFF) << _SEAL_BITS
        number |= self._seal(number, repository, algorithm)
        return Upload(str(uuid.UUID(int=number | _VERSION)), repository, algorithm)

    async def recognise(self, upload_id: str, repository: str) -> Recognised | None:
        """What an ID says; None if it was not made here for this repository."""
        if not self._key:
            await self._learn()
        number = uuid.UUID(upload_id).int
        if number & _VERSION_MASK != _VERSION:
            return None
        head = (number ^ _VERSION) >> _SEAL_BITS << _SEAL_BITS
        given = number & ((1 << _SEAL_BITS) - 1)
        for algorithm in ALGORITHMS:
            if self._seal(head, repository, algorithm) == given:
                return Recognised(Upload(upload_id, repository, algorithm), float(head >> 96))
        return None

    def _seal(self, head: int, repository: str, algorithm: str) -> int:
        text = b"%d %s %s" % (head, algorithm.encode(), repository.encode())
        return int.from_bytes(hmac.digest(self._key, text, hashlib.sha256)[: _SEAL_BITS // 8], "big")

    async def _learn(self) -> None:
        async def find(session: Session) -> bytes | None:
            row = await session.row("SELECT value FROM secret WHERE name = ?", _KEY)
            return bytes(row[0]) if row is not None else None

        async def make(session: Session) -> bytes | None:
            statement = "INSERT INTO secret (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING"
            await session.run(statement, _KEY, secrets.token_bytes(32))
            return await find(session)

        key = await self._db.read(find) or await self._db.write(make)
        assert key is not None, "it was written a moment ago"
        self._key = key
