"""Blobs on their way in: staged, hashed as they arrive, verified, published, committed.

Which bytes have arrived is what the stage holds, nothing else: after a cut, a restart or at another process an upload
goes on from there. The hash states kept here save reading the staged bytes again and are checked against the stage
before use.
"""

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator
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
from scow.registry.metadata import Metadata, Upload
from scow.registry.objects import ObjectName, Objects, Stage

if TYPE_CHECKING:
    from hashlib import _Hash

log = logging.getLogger("scow.registry")

BATCH_SIZE: Final = 1 << 20
"""Bytes that are handed to a thread at a time: hashing releases the interpreter's lock, handing over costs."""
HELD_LIMIT: Final = 32 << 20
SMALL_BATCH_SIZE: Final = 64 << 10
"""The same where all uploads together hold more than `HELD_LIMIT` in memory: many clients, or many that stall."""
STATES_LIMIT: Final = 1024
BUSY_PAUSE_S: Final = 0.05
BUSY_LIMIT_S: Final = 0.5


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
            raise SizeInvalid("the chunk's size is not that of its range", {"expected": expected, "received": total})

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


class Uploads:
    """All uploads of a registry."""

    def __init__(self, objects: Objects, metadata: Metadata, size_limit: int = 0) -> None:
        """`size_limit` is that of a blob, in bytes; 0 is none."""
        self.objects = objects
        self.size_limit = size_limit
        self.metadata = metadata
        self.held_size = 0  # bytes that all receivers hold in memory
        self._endings: set[asyncio.Task[None]] = set()
        self._states: OrderedDict[str, _HashState] = OrderedDict()
        self._known: OrderedDict[str, Upload] = OrderedDict()

    def limit(self, repository: str) -> int:
        """Most bytes of one blob there, 0 is no limit: no more than a whole quota is staged."""
        return min(filter(None, (self.size_limit, self.metadata.largest_blob(repository))), default=0)

    def refusal(self, repository: str) -> Refusal:
        """Why a blob is larger than that."""
        limit = self.limit(repository)
        return BlobTooLarge(limit) if limit == self.size_limit else QuotaExceeded(repository)

    @property
    def batch_size(self) -> int:
        """Bytes that a receiver gathers before they are written."""
        return BATCH_SIZE if self.held_size <= HELD_LIMIT else SMALL_BATCH_SIZE

    @asynccontextmanager
    async def begin(self, repository: str, algorithm_name: str) -> AsyncIterator[Receiver]:
        """Begin an upload and hold it; it stays when the context is left."""
        upload = Upload(str(uuid.uuid4()), repository, algorithm_name)
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
            upload = known
        else:
            upload = await self.find(repository, upload_id)
            self._know(upload)
        async with self._held(upload, await self._open(upload_id)) as receiver:
            yield receiver

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

    async def find(self, repository: str, upload_id: str) -> Upload:
        """The upload's record. Raises UploadUnknown."""
        upload = await self.metadata.upload(repository, upload_id)
        if upload is None:
            raise UploadUnknown(upload_id)
        return upload

    async def size(self, repository: str, upload_id: str) -> int:
        """Bytes received so far. Raises UploadUnknown."""
        await self.find(repository, upload_id)
        return await self.objects.staged_size(upload_id)

    async def cancel(self, repository: str, upload_id: str) -> None:
        """End an upload and drop its bytes. Raises UploadUnknown."""
        await self.find(repository, upload_id)
        await self.drop(upload_id)

    async def drop(self, upload_id: str) -> None:
        """Forget an upload and its bytes. Idempotent."""
        self.forget(upload_id)
        # Bytes first: a record without bytes is unknown to clients, bytes without a record would be found by nobody.
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


def received_range(size: int) -> str:
    """What has arrived as clients scan it: `0-<last byte>`, and `0-0` for nothing, since `0--1` breaks docker's."""
    return f"0-{max(size - 1, 0)}"
