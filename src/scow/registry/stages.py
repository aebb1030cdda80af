"""What is known of uploads whose bytes are in an object store: in SQL, so that any replica can go on with them.

A stage is held by one process at a time, until a time that its holder puts off again and again; the database's clock
counts. Whoever wants to write has to hold it still: each change says so, and is refused if it doesn't.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from scow.registry.errors import UploadBusy, UploadUnknown
from scow.registry.sql import Database, Session

LEASE_S: Final = 10.0
RENEW_S: Final = 3.0

SEALED: Final = "?"

_COLUMNS: Final = "size, parts_id, hash, tail, tail_object, sealed"


class Part(msgspec.Struct, frozen=True):
    """A part that the store has."""

    number: int
    size: int
    mark: str


class Staged(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes of an upload: its parts, then its tail, which is here or an object."""

    size: int = 0
    parts_id: str | None = None  # by which the store knows the parts
    hash: bytes | None = None  # saved state of the hash of all `size` bytes
    tail: bytes | None = None
    tail_object: str | None = None
    sealed: str | None = None  # what its object is called: no more bytes are taken; SEALED if that is not known yet
    parts: tuple[Part, ...] = ()


class Stages:
    """The records, for one process, which has a name of its own."""

    def __init__(self, database: Database, holder: str) -> None:
        self._db = database
        self._holder = holder

    async def begin(self, upload_id: str) -> Staged:
        """Record a new upload and hold it. Raises UploadBusy if it is there."""
        statement = (
            "INSERT INTO stage (upload, holder, held_until, touched_at, size) VALUES (?, ?, [now] + ?, [now], 0) "
            "ON CONFLICT DO NOTHING"
        )
        values = (upload_id, self._holder, LEASE_S)
        if not await self._db.write(lambda session: session.run(statement, *values), durable=False):
            raise UploadBusy(upload_id, LEASE_S + 1)
        return Staged()

    async def hold(self, upload_id: str) -> Staged:
        """Hold an upload. Raises UploadUnknown and UploadBusy."""

        async def hold(session: Session) -> Staged:
            statement = (
                "UPDATE stage SET holder = ?, held_until = [now] + ? WHERE upload = ? AND held_until < [now] "
                f"RETURNING {_COLUMNS}"
            )
            row = await session.row(statement, self._holder, LEASE_S, upload_id)
            if row is None:
                if await session.row("SELECT 1 FROM stage WHERE upload = ?", upload_id) is None:
                    raise UploadUnknown(upload_id)
                raise UploadBusy(upload_id, LEASE_S + 1)  # its holder may have died
            parts = await session.rows(
                "SELECT number, size, mark FROM stage_part WHERE upload = ? ORDER BY number", upload_id
            )
            return Staged(
                size=row[0],
                parts_id=row[1],
                hash=row[2],
                tail=row[3],
                tail_object=row[4],
                sealed=row[5],
                parts=tuple(Part(*part) for part in parts),
            )

        return await self._db.write(hold, durable=False)

    async def save(self, upload_id: str, staged: Staged, *, keeps: int = 0, release: bool = False) -> None:
        """Replace what is known of a held upload, durably; its first `keeps` parts are known. Raises UploadUnknown."""

        async def save(session: Session) -> bool:
            changed = await session.run(
                "UPDATE stage SET size = ?, parts_id = ?, hash = ?, tail = ?, tail_object = ?, sealed = ?, holder = ?, "
                "held_until = ? * ([now] + ?), touched_at = [now] WHERE upload = ? AND holder = ?",
                *(staged.size, staged.parts_id, staged.hash, staged.tail, staged.tail_object, staged.sealed),
                *("" if release else self._holder, 0.0 if release else 1.0, LEASE_S, upload_id, self._holder),
            )
            if changed:
                await session.run("DELETE FROM stage_part WHERE upload = ? AND number > ?", upload_id, keeps)
                await session.run_many(
                    "INSERT INTO stage_part (upload, number, size, mark) VALUES (?, ?, ?, ?)",
                    [(upload_id, part.number, part.size, part.mark) for part in staged.parts[keeps:]],
                )
            return changed > 0

        if not await self._db.write(save):
            raise UploadUnknown(upload_id)  # somebody else has it, or it has expired

    async def release(self, upload_id: str) -> None:
        """Let the next one hold it. Idempotent."""
        statement = "UPDATE stage SET holder = '', held_until = 0 WHERE upload = ? AND holder = ?"
        await self._db.write(lambda session: session.run(statement, upload_id, self._holder), durable=False)

    async def renew(self, upload_ids: Sequence[str]) -> None:
        """Go on holding these."""
        statement = "UPDATE stage SET held_until = [now] + ? WHERE upload = ? AND holder = ?"
        values = [(LEASE_S, upload_id, self._holder) for upload_id in sorted(upload_ids)]
        await self._db.write(lambda session: session.run_many(statement, values), durable=False)

    async def find(self, upload_id: str) -> Staged:
        """What is known, without its parts. Raises UploadUnknown."""
        row = await self._db.row(f"SELECT {_COLUMNS} FROM stage WHERE upload = ?", upload_id)
        if row is None:
            raise UploadUnknown(upload_id)
        return Staged(size=row[0], parts_id=row[1], tail_object=row[4], sealed=row[5])

    async def knows_parts(self, parts_id: str) -> bool:
        """Whether an upload's parts are these."""
        return await self._db.row("SELECT 1 FROM stage WHERE parts_id = ?", parts_id) is not None

    async def all(self) -> list[tuple[str, float]]:
        """Every upload, with the time of its last change (seconds since the epoch)."""
        return [(row[0], row[1]) for row in await self._db.rows("SELECT upload, touched_at FROM stage")]

    async def forget(self, upload_id: str) -> None:
        """Remove the record. Idempotent."""

        async def forget(session: Session) -> None:
            await session.run("DELETE FROM stage WHERE upload = ?", upload_id)
            await session.run("DELETE FROM stage_part WHERE upload = ?", upload_id)

        await self._db.write(forget, durable=False)
