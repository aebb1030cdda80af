"""Blobs on their way in: staged, hashed as they arrive, verified, published, committed.

Which bytes have arrived is what the stage holds, nothing else: after a cut, a restart or at another process an upload
goes on from there. The hash states kept here save reading the staged bytes again and are checked against the stage
before use. As long as the bytes are few they are in the upload's record instead, and end as an object that lies in the
database; before the first has come there is no record either.
"""

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from scow.oci.digest import Digest, algorithm
from scow.registry.errors import (
    BlobTooLarge,
    DigestInvalid,
    QuotaExceeded,
    RangeRefused,
    Refusal,
    SizeInvalid,
    StorageFull,
    UploadBusy,
    UploadUnknown,
)
from scow.registry.metadata import Metadata, SmallEnd, Upload
from scow.registry.objects import ObjectName, Objects, Stage
from scow.registry.upload_ids import UploadIds

if TYPE_CHECKING:
    from hashlib import _Hash

log = logging.getLogger("scow.registry")

BATCH_SIZE: Final = 1 << 20
"""Bytes that are handed to a thread at a time: hashing releases the interpreter's lock, handing over costs."""
HELD_LIMIT: Final = 8 << 20
SMALL_BATCH_SIZE: Final = 64 << 10
"""The same where all uploads together hold more than `HELD_LIMIT` in memory: many clients, or many that stall."""
STATES_LIMIT: Final = 1024
BUSY_PAUSE_S: Final = 0.05
BUSY_LIMIT_S: Final = 0.5
TAKE_OVERS: Final = 3
"""How often an upload's bytes are tried to be moved to a stage where others try too."""


@dataclass(slots=True)
class _HashState:
    state: "_Hash"
    offset: int  # bytes fed so far


class Receiver:
    """An upload that this request holds: nobody else can write to it meanwhile."""

    def __init__(self, uploads: "Uploads", upload: Upload, stage: Stage) -> None:
        self._uploads = uploads
        self._stage = stage
        self._closing: asyncio.Task[ObjectName] | None = None
        self._held = 0  # bytes that are in memory
        self._tail: list[bytes] = []  # the last bytes of a closing request: written when it finishes
        self.upload = upload
        self.finished = False

    @property
    def size(self) -> int:
        """Bytes received so far."""
        return self._stage.size

    async def receive(self, body: AsyncIterator[bytes], expected: int | None) -> None:
        """Append `body`; what came before a cut stays. `expected` is its size if the client has stated it by a range.

        Raises SizeInvalid, then nothing is appended; BlobTooLarge, QuotaExceeded or StorageFull, and the upload is
        over; and what `body` raises.
        """
        stage, start = self._stage, self._stage.size
        limit = self._uploads.limit(self.upload.repository)
        hashing = await self._hashing(self.upload.algorithm, more=True)
        before = hashing.state.copy() if hashing is not None else None
        batch: list[bytes] = []
        batched = total = 0
        writing: asyncio.Task[None] | None = None
        whole = False
        try:
            async for data in body:
                batch.append(data)
                batched += len(data)
                self._hold(len(data))
                total += len(data)
                if expected is not None and total > expected:
                    break
                if limit and start + total > limit:
                    break
                if batched >= self._uploads.batch_size:
                    if writing is not None:
                        await writing
                    writing = asyncio.create_task(self._append(batch, hashing))
                    batch, batched = [], 0
                    if self._uploads.is_crowded:
                        await writing  # rather than to gather more meanwhile
                data = b""  # not to be kept while waiting for more
            else:
                whole = expected is None or total == expected
        finally:
            # Also when the client was cut off: what has arrived need not be sent again.
            if writing is not None:
                await writing
            if batch and whole and self._closing is not None:
                self._tail = batch  # one turn of a thread less
            elif batch:
                await self._append(batch, hashing)
        if limit and start + total > limit:
            await self._uploads.drop(self.upload.upload_id)
            raise self._uploads.refusal(self.upload.repository)
        if expected is not None and total != expected:
            await stage.truncate(start)
            if before is not None:
                self._uploads.remember(self.upload.upload_id, _HashState(before, start))
            raise wrong_size(expected, total)

    async def _append(self, batch: list[bytes], hashing: _HashState | None) -> None:
        try:
            await self._stage.append(batch, [hashing.state] if hashing is not None else [])
        except StorageFull:
            # Kept until it expires, it would keep the disk full for everybody, and few clients come back.
            with suppress(StorageFull):
                await self._uploads.drop(self.upload.upload_id)
            raise
        except BaseException:
            self._uploads.forget(self.upload.upload_id)
            raise
        finally:
            self._hold(-sum(map(len, batch)))
            batch.clear()  # an error's traceback may outlive the request
        if hashing is not None:
            hashing.offset = self._stage.size

    async def _hashing(self, name: str, more: bool = False) -> _HashState | None:
        """The hash of everything staged so far; None if `more` is to come and what is there can't be read again."""
        stage = self._stage
        kept = self._uploads.recall(self.upload.upload_id)
        if kept is not None and (kept.state.name != name or kept.offset > stage.size):
            kept = None
        if kept is None or (not stage.rereads and kept.offset < stage.size):
            kept = _HashState(*stage.hash(name))
        if kept.offset < stage.size:
            if more and not stage.rereads:
                return None
            await stage.feed(kept.state, kept.offset)
            kept.offset = stage.size
        self._uploads.remember(self.upload.upload_id, kept)
        return kept

    def announce(self, digest: Digest) -> None:
        """Say early which digest `finish` will be asked for: what the names have to note is noted meanwhile."""
        closing = self._uploads.metadata.close_upload(self.upload.upload_id, digest)
        self._closing = asyncio.create_task(closing)

    def _hold(self, size: int) -> None:
        self._held += size
        self._uploads.held_size += size

    async def settle(self) -> None:
        """Wait for what `announce` began, whatever became of it."""
        self._hold(-self._held)
        if self._closing is not None:
            await asyncio.wait([self._closing])
            if not self._closing.cancelled():
                self._closing.exception()  # whoever asked `finish` was told

    async def _close(self, digest: Digest) -> ObjectName:
        early, self._closing = self._closing, None
        if early is not None:
            return await early
        return await self._uploads.metadata.close_upload(self.upload.upload_id, digest)

    async def finish(self, digest: Digest) -> None:
        """Verify what was received and make it a blob of the repository.

        Raises DigestInvalid, and the upload is over; StorageFull, and it can be tried again.
        """
        uploads, upload_id = self._uploads, self.upload.upload_id
        tail, self._tail = self._tail, []
        if tail and algorithm(digest) != self.upload.algorithm:
            await self._append(tail, await self._hashing(self.upload.algorithm, more=True))
            tail = []
        hashing = await self._hashing(algorithm(digest))
        assert hashing is not None
        name = await self._close(digest)
        try:
            await self._stage.publish(name, tail, hashing.state)
        except DigestInvalid:
            await uploads.drop(upload_id)
            raise
        except BaseException:
            uploads.forget(upload_id)  # the hash may be ahead of the stage
            raise
        fits = await uploads.metadata.commit_blob(self.upload, digest, name, self._stage.size)
        uploads.forget(upload_id)
        self.finished = True
        if not fits:
            raise QuotaExceeded(self.upload.repository)


class Few:
    """A body that was read as long as it was small."""

    def __init__(self, chunks: list[bytes], rest: AsyncIterator[bytes] | None, broken: Exception | None) -> None:
        """`rest` is what follows if the body is not small; `broken` is what it broke off with."""
        self._chunks = chunks
        self._rest = rest
        self.broken = broken

    @property
    def is_whole(self) -> bool:
        """Whether no more comes, for it has ended or is broken."""
        return self._rest is None

    @property
    def data(self) -> bytes:
        """What was read."""
        return b"".join(self._chunks)

    async def again(self) -> AsyncGenerator[bytes, None]:
        """The body from its beginning."""
        for chunk in self._chunks:
            yield chunk
        self._chunks = []  # not to be kept while waiting for more
        if self._rest is not None:
            async for data in self._rest:
                yield data
                data = b""
        if self.broken is not None:
            raise self.broken


async def read_few(body: AsyncIterator[bytes], limit: int) -> Few:
    """Read a body to its end unless it has more than `limit` bytes."""
    chunks: list[bytes] = []
    size = 0
    try:
        async for data in body:
            chunks.append(data)
            size += len(data)
            if size > limit:
                return Few(chunks, body, None)
    except Exception as error:
        return Few(chunks, None, error)
    return Few(chunks, None, None)


class Uploads:
    """All uploads of a registry."""

    def __init__(
        self, objects: Objects, metadata: Metadata, ids: UploadIds, size_limit: int = 0, small_limit: int = 0
    ) -> None:
        """`size_limit` is that of a blob, in bytes; 0 is none. Blobs up to `small_limit` lie in the database."""
        self.objects = objects
        self.size_limit = size_limit
        self._small_limit = small_limit
        self.metadata = metadata
        self.held_size = 0  # bytes that all receivers hold in memory
        self._ids = ids
        self._endings: set[asyncio.Task[None]] = set()
        self._states: OrderedDict[str, _HashState] = OrderedDict()
        self._known: OrderedDict[str, Upload] = OrderedDict()  # those that have, or had, a stage

    def limit(self, repository: str) -> int:
        """Most bytes of one blob there, 0 is no limit: no more than a whole quota is staged."""
        return min(filter(None, (self.size_limit, self.metadata.largest_blob(repository))), default=0)

    def small_limit(self, repository: str) -> int:
        """Most bytes of a blob there that lies in the database: what is too large at all goes the way of large ones."""
        return min(self._small_limit, self.limit(repository) or self._small_limit)

    def refusal(self, repository: str) -> Refusal:
        """Why a blob is larger than that."""
        limit = self.limit(repository)
        return BlobTooLarge(limit) if limit == self.size_limit else QuotaExceeded(repository)

    @property
    def batch_size(self) -> int:
        """Bytes that a receiver gathers before they are written."""
        return SMALL_BATCH_SIZE if self.is_crowded else BATCH_SIZE

    @property
    def is_crowded(self) -> bool:
        """Whether all receivers hold so much in memory that each has to do with little."""
        return self.held_size > HELD_LIMIT

    async def open(self, repository: str, algorithm_name: str) -> str:
        """Begin an upload that a client may go on with; its ID. Nothing is written down yet."""
        return (await self._ids.make(repository, algorithm_name)).upload_id

    def may_be_small(self, repository: str, length: int | None, upload_id: str = "") -> bool:
        """Whether a body of `length` bytes, if that is known, may be all that there is, as far as is known here."""
        return 0 < self.small_limit(repository) >= (length or 0) and upload_id not in self._known

    async def store_small(self, repository: str, digest: Digest, data: bytes) -> bool:
        """Make few bytes a blob of a repository; False if that has to be done in a stage.

        Raises DigestInvalid, QuotaExceeded and StorageFull.
        """
        upload = Upload(str(uuid.uuid4()), repository, algorithm(digest), private=True)
        return await self._finish_small(upload, True, None, data, digest)

    async def append_small(self, repository: str, upload_id: str, start: int | None, data: bytes) -> int | None:
        """Add few bytes to an upload; how many it has. None if its bytes have to go to a stage.

        `start` is where the client says they belong. Raises Misplaced, UploadUnknown and StorageFull.
        """
        found = await self._ids.recognise(upload_id, repository)
        if found is None:
            return None  # of an earlier version, or none of ours
        return await self.metadata.append_small(found.upload, found.is_fresh, start, data, self.small_limit(repository))

    async def finish_small(
        self, repository: str, upload_id: str, start: int | None, data: bytes, digest: Digest
    ) -> bool:
        """Add few bytes to an upload and make it a blob; False if that has to be done in a stage.

        Raises as `append_small`; DigestInvalid and QuotaExceeded, and the upload is over.
        """
        found = await self._ids.recognise(upload_id, repository)
        if found is None:
            return False
        return await self._finish_small(found.upload, found.is_fresh, start, data, digest)

    async def _finish_small(self, upload: Upload, fresh: bool, start: int | None, data: bytes, digest: Digest) -> bool:
        end = await self.metadata.finish_small(upload, fresh, start, data, digest, self.small_limit(upload.repository))
        if end is SmallEnd.WRONG_BYTES:
            raise DigestInvalid("provided digest did not match uploaded content", {"digest": digest})
        if end is SmallEnd.NO_ROOM:
            raise QuotaExceeded(upload.repository)
        return end is SmallEnd.DONE

    @asynccontextmanager
    async def begin(self, repository: str, algorithm_name: str) -> AsyncIterator[Receiver]:
        """Begin an upload that nobody is told of, and hold it; it stays when the context is left."""
        upload = Upload(str(uuid.uuid4()), repository, algorithm_name, private=True)
        # Both at once, since each takes a thread: bytes without a record are found by collection, a record without
        # bytes too.
        opening = asyncio.ensure_future(self.objects.open_stage(upload.upload_id, create=True))
        try:
            await self.metadata.begin_upload(upload)
        except BaseException:
            with suppress(Exception):
                await (await opening).close()
                await self.objects.discard(upload.upload_id)
            raise
        stage = await opening
        self._know(upload)
        async with self._held(upload, stage) as receiver:
            yield receiver

    @asynccontextmanager
    async def _held(self, upload: Upload, stage: Stage) -> AsyncIterator[Receiver]:
        receiver = Receiver(self, upload, stage)
        try:
            yield receiver
        finally:
            await receiver.settle()
            if receiver.finished:
                # The client need not wait for this. The stage goes before its lock: who gets the lock may write.
                ending = asyncio.create_task(self._end(upload.upload_id, stage))
                self._endings.add(ending)
                ending.add_done_callback(self._endings.discard)
            else:
                await stage.close()

    async def _end(self, upload_id: str, stage: Stage) -> None:
        try:
            await self.objects.discard(upload_id)
        except OSError as error:
            log.warning("the staged bytes of upload %s are left to garbage collection: %s", upload_id, error)
        finally:
            await stage.close()

    async def aclose(self) -> None:
        """Wait until the stages of finished uploads are gone."""
        while self._endings:
            await asyncio.wait(set(self._endings))

    @asynccontextmanager
    async def hold(self, repository: str, upload_id: str) -> AsyncIterator[Receiver]:
        """Go on with an upload. Raises UploadUnknown and UploadBusy."""
        known = self._known.get(upload_id)
        if known is not None and known.repository == repository:
            # Its record need not be asked for: bytes go first when an upload ends, so they tell that it has not.
            upload, stage = known, await self._open(upload_id)
        else:
            upload, data = await self.find(repository, upload_id)
            stage = await (self._open(upload_id) if data is None else self._begin_stage(upload, data))
            self._know(upload)
        async with self._held(upload, stage) as receiver:
            yield receiver

    async def _begin_stage(self, upload: Upload, data: bytes) -> Stage:
        """Move an upload's bytes from its record to a stage. Raises UploadUnknown and UploadBusy."""
        for _ in range(TAKE_OVERS):
            await self.metadata.begin_upload(upload)
            try:
                return await self._fill_stage(upload, data)
            except UploadBusy:
                pass  # somebody else is about to move them, or has died of it
            try:
                stage = await self._open(upload.upload_id)
            except UploadUnknown:  # whoever it was has given up
                _, left = await self.find(upload.repository, upload.upload_id)
                if left is None:
                    raise
                data = left
                continue
            try:
                _, left = await self.find(upload.repository, upload.upload_id)
                if left is None:
                    return stage
                await self.objects.discard(upload.upload_id)
            except BaseException:
                await stage.close()
                raise
            await stage.close()
            data = left
        raise UploadBusy(upload.upload_id)

    async def _fill_stage(self, upload: Upload, data: bytes) -> Stage:
        stage = await self.objects.open_stage(upload.upload_id, create=True)
        try:
            if data:
                state, _ = stage.hash(upload.algorithm)
                await stage.append([data], [state])
                self.remember(upload.upload_id, _HashState(state, len(data)))
            if not await self.metadata.move_upload(upload.upload_id, data):
                self.forget(upload.upload_id)
                await self.objects.discard(upload.upload_id)
                raise UploadBusy(upload.upload_id)  # more has come meanwhile, or the end
        except BaseException:
            await stage.close()
            raise
        return stage

    async def _open(self, upload_id: str) -> Stage:
        begun, pause_s = time.monotonic(), BUSY_PAUSE_S
        while True:
            try:
                return await self.objects.open_stage(upload_id)
            except UploadBusy as busy:
                if time.monotonic() > begun + busy.patience_s:
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 1.2, BUSY_LIMIT_S)

    async def find(self, repository: str, upload_id: str) -> tuple[Upload, bytes | None]:
        """An upload that goes on, and its bytes, None if they are in a stage. Raises UploadUnknown."""
        record = await self.metadata.upload(repository, upload_id)
        if record is not None:
            if record.has_ended:
                raise UploadUnknown(upload_id)
            return record.upload, record.data
        found = await self._ids.recognise(upload_id, repository)
        if found is None or not found.is_fresh:
            raise UploadUnknown(upload_id)
        return found.upload, b""

    async def size(self, repository: str, upload_id: str) -> int:
        """Bytes received so far. Raises UploadUnknown."""
        _, data = await self.find(repository, upload_id)
        return len(data) if data is not None else await self.objects.staged_size(upload_id)

    async def cancel(self, repository: str, upload_id: str) -> None:
        """End an upload and drop its bytes. Raises UploadUnknown."""
        await self.find(repository, upload_id)
        await self.drop(upload_id)

    async def drop(self, upload_id: str) -> None:
        """End an upload and drop its bytes. Idempotent."""
        self.forget(upload_id)
        # Bytes first: whoever has the upload in memory looks for its stage only.
        await self.objects.discard(upload_id)
        await self.metadata.end_upload(upload_id)

    def _know(self, upload: Upload) -> None:
        self._known[upload.upload_id] = upload
        if len(self._known) > STATES_LIMIT:
            self._known.popitem(last=False)

    def recall(self, upload_id: str) -> _HashState | None:
        return self._states.get(upload_id)

    def remember(self, upload_id: str, state: _HashState) -> None:
        self._states[upload_id] = state
        self._states.move_to_end(upload_id)
        if len(self._states) > STATES_LIMIT:
            self._states.popitem(last=False)

    def forget(self, upload_id: str) -> None:
        self._states.pop(upload_id, None)
        self._known.pop(upload_id, None)


def check_order(size: int, start: int, location: str) -> None:
    """A chunk begins where the last one ended. Raises RangeRefused with where to go on."""
    if start != size:
        headers = (("Location", location), ("Range", received_range(size)))
        raise RangeRefused("the chunk does not begin where the last one ended", {"expected": size}, headers)


def wrong_size(expected: int, received: int) -> SizeInvalid:
    """What refuses a chunk that has not as many bytes as its range."""
    return SizeInvalid("the chunk's size is not that of its range", {"expected": expected, "received": received})


def received_range(size: int) -> str:
    """What has arrived as clients scan it: `0-<last byte>`, and `0-0` for nothing, since `0--1` breaks docker's."""
    return f"0-{max(size - 1, 0)}"
