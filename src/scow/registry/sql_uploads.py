"""Uploads in SQL: which objects they are about to make, the bytes of small ones, and which have ended."""

import hashlib
import time
from typing import Final

import msgspec

from scow.oci.digest import Digest, algorithm, encoded
from scow.registry.errors import UploadUnknown
from scow.registry.metadata import Misplaced, SmallEnd, Upload, UploadRecord
from scow.registry.objects import ObjectName, object_digest, object_name
from scow.registry.small_objects import is_small, small_name
from scow.registry.sql import Session
from scow.registry.sql_names import SqlNames, discard, ensure_repository, queue_blob

_END: Final = "UPDATE upload SET ended_at = ?, closing = NULL, object = NULL, data = NULL WHERE id = ?"


class SqlUploads(SqlNames):
    """The part of the names that is about uploads.

    An upload without a record is one that nobody has sent a byte of. The record stays for a while after the end, for
    the ID alone would be as good as new.
    """

    async def begin_upload(self, upload: Upload) -> None:
        async def begin(session: Session) -> None:
            if not await _insert(session, upload, data=None if upload.private else b""):
                record = await _held(session, upload.upload_id)
                if record is None or record.has_ended:
                    raise UploadUnknown(upload.upload_id)

        await self._db.write(begin, durable=False)

    async def upload(self, repository: str, upload_id: str) -> UploadRecord | None:
        row = await self._db.row("SELECT repository, algorithm, ended_at, data FROM upload WHERE id = ?", upload_id)
        if row is None or (row[0] != repository and row[2] is None):
            return None
        return UploadRecord(Upload(upload_id, repository, row[1]), row[2] is not None, row[3])

    async def append_small(self, upload: Upload, fresh: bool, start: int | None, data: bytes, limit: int) -> int | None:
        async def append(session: Session) -> int | None:
            while (joined := await _join(session, upload, fresh, start, data, limit)) is not None:
                if joined.is_recorded:
                    statement = "UPDATE upload SET data = ?, begun_at = ? WHERE id = ?"
                    await session.run(statement, joined.data, time.time(), upload.upload_id)
                elif not await _insert(session, upload, data=data):
                    continue  # somebody was quicker
                return len(joined.data)
            return None

        return await self._db.write(append, durable=False)

    async def move_upload(self, upload_id: str, data: bytes) -> bool:
        statement = "UPDATE upload SET data = NULL WHERE id = ? AND data = ?"
        return await self._db.write(lambda session: session.run(statement, upload_id, data), durable=False) > 0

    async def finish_small(
        self, upload: Upload, fresh: bool, start: int | None, data: bytes, digest: Digest, limit: int
    ) -> SmallEnd:
        async def finish(session: Session) -> SmallEnd:
            found = await session.row("SELECT object FROM blob WHERE digest = ? [share]", digest)
            if found is not None and not is_small(found[0]):
                return SmallEnd.STAGED  # there it is found out whether the bytes have rotted
            whole = data if upload.private else await self._take(session, upload, fresh, start, data, limit)
            if whole is None:
                return SmallEnd.STAGED
            if hashlib.new(algorithm(digest), whole).hexdigest() != encoded(digest):
                return SmallEnd.WRONG_BYTES
            name = small_name(digest, upload.upload_id)
            kept, fits = await self._make_blob(session, upload.repository, digest, name, len(whole))
            if is_small(kept):
                # What was there should be equal. If it has rotted, or is gone, this is how it becomes good again.
                await session.run(
                    "INSERT INTO small_object (name, data) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET "
                    "data = excluded.data WHERE small_object.data <> excluded.data",
                    kept,
                    whole,
                )
            return SmallEnd.DONE if fits else SmallEnd.NO_ROOM

        return await self._db.write(finish)

    async def _take(
        self, session: Session, upload: Upload, fresh: bool, start: int | None, data: bytes, limit: int
    ) -> bytes | None:
        """End an upload; all its bytes. None if they are in a stage, or too many: then it goes on."""
        while (joined := await _join(session, upload, fresh, start, data, limit)) is not None:
            if joined.is_recorded:
                await session.run(_END, time.time(), upload.upload_id)
            elif not await _insert(session, upload, ended_at=time.time()):
                continue  # somebody was quicker
            return joined.data
        return None

    async def end_upload(self, upload_id: str) -> None:
        async def end(session: Session) -> None:
            while (record := await _held(session, upload_id)) is None:
                if await _insert(session, Upload(upload_id, "", ""), ended_at=time.time()):
                    return
            if record.object is not None:
                await discard(session, record.object)
            if not record.has_ended:
                await session.run(_END, time.time(), upload_id)

        await self._db.write(end, durable=False)

    async def close_upload(self, upload_id: str, digest: Digest) -> ObjectName:
        async def close(session: Session) -> ObjectName:
            record = await _held(session, upload_id)
            if record is None or record.has_ended:
                raise UploadUnknown(upload_id)
            # Held: a collector that is about to forget this blob sees the upload, or we see that the blob is gone.
            found = await session.row("SELECT object FROM blob WHERE digest = ? [share]", digest)
            name = object_name(digest, upload_id)
            if found is not None and not is_small(found[0]):  # what lies in the database is not for a stage to make
                name = ObjectName(found[0])
            if record.object != name:
                await session.run("UPDATE upload SET closing = ?, object = ? WHERE id = ?", digest, name, upload_id)
                if record.object is not None:  # from an earlier try that died
                    await discard(session, record.object)
            return name

        return await self._db.write(close, durable=False)

    async def commit_blob(self, upload: Upload, digest: Digest, name: ObjectName, size: int) -> bool:
        async def commit(session: Session) -> bool | None:
            if upload.private:
                ended = await session.run("DELETE FROM upload WHERE id = ?", upload.upload_id)
            else:
                ended = await session.run(f"{_END} AND ended_at IS NULL", time.time(), upload.upload_id)
            if not ended:
                await discard(session, name)
                return None
            kept, fits = await self._make_blob(session, upload.repository, digest, name, size)
            if kept == name:
                return fits
            if is_small(kept) and not await _is_sound(session, ObjectName(kept)):
                await session.run("UPDATE blob SET object = ? WHERE digest = ? AND object = ?", name, digest, kept)
                await session.run("DELETE FROM small_object WHERE name = ?", kept)
            else:
                await discard(session, name)
            return fits

        committed = await self._db.write(commit)
        if committed is None:
            raise UploadUnknown(upload.upload_id)
        return committed

    async def _make_blob(
        self, session: Session, repository: str, digest: Digest, name: ObjectName, size: int
    ) -> tuple[str, bool]:
        """Give a repository a blob; what it is kept as, `name` if it was new, and whether a quota allows it."""
        kept: str = name
        while not await session.run(
            "INSERT INTO blob (digest, size, object) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", digest, size, name
        ):
            found = await session.row("SELECT object FROM blob WHERE digest = ? [share]", digest)
            if found is not None:  # else it was forgotten between the two
                kept = found[0]
                break
        owner = await ensure_repository(session, repository)
        if not await self._may_have(session, repository, digest, size):
            await queue_blob(session, digest)
            return kept, False
        await self._link(session, owner, digest)
        return kept, True

    async def expired_uploads(self, before: float) -> list[str]:
        query = "SELECT id FROM upload WHERE begun_at < ? AND ended_at IS NULL AND data IS NULL"
        return [row[0] for row in await self._db.rows(query, before)]

    async def expired_small_uploads(self, before: float) -> list[str]:
        query = "SELECT id FROM upload WHERE begun_at < ? AND ended_at IS NULL AND data IS NOT NULL"
        return [row[0] for row in await self._db.rows(query, before)]

    async def forget_uploads(self, before: float) -> None:
        statement = "DELETE FROM upload WHERE ended_at < ?"
        await self._db.write(lambda session: session.run(statement, before), durable=False, frees=True)


async def _is_sound(session: Session, name: ObjectName) -> bool:
    """Whether a small object is there and has not rotted."""
    row, digest = await session.row("SELECT data FROM small_object WHERE name = ?", name), object_digest(name)
    return row is not None and hashlib.new(algorithm(digest), row[0]).hexdigest() == encoded(digest)


class _Record(msgspec.Struct, frozen=True):
    """A row, held by this transaction."""

    object: str | None
    has_ended: bool
    data: bytes | None


async def _held(session: Session, upload_id: str) -> _Record | None:
    row = await session.row("SELECT object, ended_at IS NOT NULL, data FROM upload WHERE id = ? [own]", upload_id)
    return _Record(row[0], bool(row[1]), row[2]) if row is not None else None


async def _insert(
    session: Session, upload: Upload, *, data: bytes | None = None, ended_at: float | None = None
) -> bool:
    """Write a new upload down; False if there is one of its ID."""
    statement = (
        "INSERT INTO upload (id, repository, algorithm, begun_at, ended_at, data) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING"
    )
    values = (upload.upload_id, upload.repository, upload.algorithm, time.time(), ended_at, data)
    return await session.run(statement, *values) > 0


class _Joined(msgspec.Struct, frozen=True):
    """All bytes of an upload, and whether it has a record."""

    data: bytes
    is_recorded: bool


async def _join(
    session: Session, upload: Upload, fresh: bool, start: int | None, data: bytes, limit: int
) -> _Joined | None:
    """Hold an upload's record and put `data` behind its bytes; None if they are in a stage, or would be too many.

    Arguments and exceptions are those of `append_small`.
    """
    record = await _held(session, upload.upload_id)
    if record.has_ended if record is not None else not fresh:
        raise UploadUnknown(upload.upload_id)
    before = record.data if record is not None else b""
    if before is not None and start not in (None, len(before)):
        raise Misplaced(len(before))
    if before is None or len(before) + len(data) > limit:
        return None
    return _Joined(before + data, record is not None)
