"""Blobs in an object store: each an object `blobs/<2>/<upload ID>`, which its upload writes and nothing ever changes.

An upload's bytes go where they stay: as one object if there are few, else as parts of a size, sent while others arrive,
which are joined in the end; nothing is copied. Until the store has them they wait on disk (`spools`). What doesn't fill
a part when a request ends is the stage's tail. What has arrived, with the state of its hash, is in SQL (`stages`), so
that each request may come to another replica, and one that dies loses no more than the parts that it was sending.
"""

import asyncio
import logging
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, cast

import msgspec

from scow.errors import ScowError
from scow.oci.digest import algorithm, encoded
from scow.registry.bucket import Bucket
from scow.registry.errors import DigestInvalid, UploadBusy, UploadUnknown
from scow.registry.folder import finished
from scow.registry.objects import ObjectMissing, ObjectName, object_digest, object_upload
from scow.registry.running_hash import RunningHash, new_hash, restored
from scow.registry.spools import Spool, Spools, cut
from scow.registry.sql import Database
from scow.registry.stages import RENEW_S, SEALED, Part, Staged, Stages

if TYPE_CHECKING:
    from hashlib import _Hash

SMALL_PARTS: Final = 1000
"""So many parts have the size that is set; those behind them four times as much, since there are 10,000 at most."""
SENDING: Final = 2
"""Parts on their way at once, besides the one that fills."""
INLINE_SIZE: Final = 64 << 10
"""A tail of so many bytes is kept in SQL: a request less for each small blob."""
TAILS_SIZE: Final = 256 << 20
TAILS_LIMIT: Final = 64
"""Tails whose files are kept, for a closing request that comes to the same process: bytes on disk, and open files."""
LATE_S: Final = 600.0
"""A request to the store that was on its way when its sender was given up has arrived after so long."""
URL_LIFE_S: Final = 1200.0
SWEEP_S: Final = 3600.0
"""Between two looks for parts that nobody has recorded. Those that are there at two of them are removed."""

log = logging.getLogger("scow.registry")


class BucketObject:
    """An object that is read by requests to the store."""

    file: IO[bytes] | None = None
    size: int | None = None

    def __init__(self, bucket: Bucket, key: str) -> None:
        self._bucket = bucket
        self._key = key

    async def read(self, offset: int, count: int) -> AsyncGenerator[bytes, None]:
        return await self._bucket.get(self._key, offset, count)

    def release(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True)
class _Sending:
    """A part that is on its way."""

    task: asyncio.Task[str]
    part: Spool
    end: int  # bytes of the upload up to its end
    state: bytes | None  # of the hash of those


class BucketStage:
    """An upload's parts and tail, held by this process."""

    rereads: Final = False

    def __init__(self, objects: "BucketObjects", upload_id: str, staged: Staged, tail: Spool) -> None:
        self._objects = objects
        self._upload_id = upload_id
        self._opened = staged
        self._opened_tail = tail  # and what comes behind it: a part that begins with it
        self._opened_tail_size = tail.size
        self._saved = staged  # what SQL says
        self._staged = staged  # what has come, but for what is being sent
        self._filling = tail
        self._state: RunningHash | None = None
        self._sending: deque[_Sending] = deque()
        self._number = len(staged.parts)  # parts that were begun
        self._kept: Spool | None = None  # what others take up from here
        self._closed = False
        self.size = staged.size
        self.gone = False  # discarded

    def hash(self, name: str) -> "tuple[_Hash, int]":
        if self.size == self._opened.size and self._opened.hash is not None:
            found = restored(name, self._opened.hash)
            if found is not None and found.name == name:
                return cast("_Hash", found), self.size
        return cast("_Hash", new_hash(name)), 0

    async def append(self, chunks: Sequence[bytes], hashes: "Sequence[_Hash]") -> None:
        if self._staged.sealed:
            raise UploadUnknown(self._upload_id)
        pieces = list(chunks)
        try:
            while pieces:
                room = max(self._objects.part_size(self._number + 1) - self._filling.size, 0)  # the size may be new
                some, pieces = cut(pieces, room)
                before = self._filling.size
                await self._filling.append(some, hashes)
                self.size += self._filling.size - before
                self._state = hashes[0] if hashes and isinstance(hashes[0], RunningHash) else None
                if self._filling.size - before == room:
                    await self._send()
        except BaseException:
            await self._undo()
            raise

    async def _send(self) -> None:
        """Begin to send the part that is full."""
        bucket, key = self._objects.bucket, self._objects.upload_key(self._upload_id)
        if self._staged.parts_id is None:
            parts_id = await bucket.begin_parts(key)
            self._staged = msgspec.structs.replace(self._staged, parts_id=parts_id)
            self._saved = msgspec.structs.replace(self._saved, parts_id=parts_id)
            try:
                await self._objects.stages.save(self._upload_id, self._saved, keeps=len(self._saved.parts))
            except UploadUnknown:
                await bucket.end_parts(key, parts_id)
                raise
        if len(self._sending) >= SENDING:
            await self._sent()
        self._number += 1
        part, self._filling = self._filling, self._objects.spools.new()
        assert self._staged.parts_id is not None
        task = asyncio.create_task(bucket.put_part(key, self._staged.parts_id, self._number, part))
        self._sending.append(_Sending(task, part, self.size, self._state.save() if self._state else None))

    async def _sent(self) -> None:
        """Wait for the oldest part that is on its way, and note it."""
        sending = self._sending[0]
        try:
            mark = await sending.task
        except ObjectMissing as error:
            raise UploadUnknown(self._upload_id) from error
        self._sending.popleft()
        part = Part(len(self._staged.parts) + 1, sending.part.size, mark)
        await self._drop(sending.part)
        parts = (*self._staged.parts, part)
        self._staged = msgspec.structs.replace(
            self._staged, size=sending.end, parts=parts, hash=sending.state, tail=None, tail_object=None
        )
        await self._save()

    async def _drop(self, spool: Spool) -> None:
        """Let a spool go; of the one that began with the tail this is left, for `truncate`."""
        if spool is self._opened_tail:
            await spool.truncate(self._opened_tail_size)
        else:
            spool.close()

    async def _save(self, *, release: bool = False) -> None:
        await self._objects.stages.save(
            self._upload_id, self._staged, keeps=min(len(self._saved.parts), len(self._staged.parts)), release=release
        )
        self._saved = self._staged

    async def feed(self, state: "_Hash", start: int) -> None:
        count = self.size - start
        if self._staged.parts or self._sending:
            await self._join(SEALED)
            key = self._objects.upload_key(self._upload_id)
            async for chunk in await self._objects.bucket.get(key, start, count):
                await _hash(chunk, [state])
            return
        async for chunk in self._filling.chunks(self._filling.size - count):
            await self._objects.spools.run(state.update, chunk)

    async def truncate(self, size: int) -> None:
        assert size == self._opened.size, "only what this holder has appended can be dropped"
        await self._undo()
        if self._saved != self._opened:
            parts_id = self._opened.parts_id or self._saved.parts_id
            self._staged = msgspec.structs.replace(self._opened, parts_id=parts_id)
            await self._save()
            self._fill(self._opened_tail)
        self._number, self.size = len(self._opened.parts), size

    def _fill(self, spool: Spool) -> None:
        """Let what comes go to the end of a spool."""
        if self._filling not in (spool, self._opened_tail):
            self._filling.close()
        self._filling = spool

    async def _undo(self) -> None:
        """Go back to what SQL says, which may be more than when the stage was opened."""
        for sending in self._sending:
            sending.task.cancel()
        await asyncio.gather(*(sending.task for sending in self._sending), return_exceptions=True)
        while self._sending:
            await self._drop(self._sending.popleft().part)
        self._staged, self._state = self._saved, None
        is_opened = self._saved.size == self._opened.size
        self._fill(self._opened_tail if is_opened else self._objects.spools.new())
        await self._opened_tail.truncate(self._opened_tail_size)
        self._number, self.size = len(self._saved.parts), self._saved.size

    async def publish(self, name: ObjectName, tail: Sequence[bytes], state: "_Hash") -> None:
        digest = object_digest(name)
        if tail:
            await self.append(tail, [state])
        if state.hexdigest() != encoded(digest):
            raise DigestInvalid("provided digest did not match uploaded content", {"digest": digest})
        bucket, key = self._objects.bucket, self._objects.key(name)
        if object_upload(name) != self._upload_id:
            if await bucket.size(key) == self.size:
                return
            log.warning("object %s is missing and is made again", name)
        own = self._objects.upload_key(self._upload_id)
        if self._staged.parts or self._sending:
            await self._join(name)
            if own != key:
                await bucket.copy(own, key)
                await bucket.delete([own])
        else:
            await self._seal(name)
            await bucket.put(key, self._filling)

    async def _seal(self, name: str) -> None:
        """Note, as its holder still, what the bytes become, which from now on are all."""
        if self._staged.sealed not in (None, SEALED, name):
            raise UploadUnknown(self._upload_id)
        self._staged = msgspec.structs.replace(self._staged, sealed=name)
        await self._save()

    async def _join(self, name: str) -> None:
        """Make one object of the parts and what is behind them."""
        bucket, key = self._objects.bucket, self._objects.upload_key(self._upload_id)
        while self._sending:
            await self._sent()
        if self._filling.size:
            self._number += 1
            assert self._staged.parts_id is not None
            try:
                mark = await bucket.put_part(key, self._staged.parts_id, self._number, self._filling)
            except ObjectMissing as error:
                raise UploadUnknown(self._upload_id) from error
            part = Part(self._number, self._filling.size, mark)
            self._staged = msgspec.structs.replace(
                self._staged, size=self.size, parts=(*self._staged.parts, part), hash=None, tail=None
            )
            self._fill(self._objects.spools.new())
        await self._seal(name)
        assert self._staged.parts_id is not None
        try:
            parts = [(part.number, part.mark) for part in self._staged.parts]
            await bucket.join_parts(key, self._staged.parts_id, parts)
        except ObjectMissing as error:
            if await bucket.size(key) != self.size:  # else an earlier try's answer was lost
                raise UploadUnknown(self._upload_id) from error

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if not self.gone:
                await self._keep()
        except UploadUnknown:
            log.warning("upload %s was taken over or removed", self._upload_id)
        finally:
            for spool in (self._filling, self._opened_tail):
                if spool is not self._kept:
                    spool.close()
            self._objects.let_go(self._upload_id)

    async def _keep(self) -> None:
        """Save what has come and let go."""
        try:
            while self._sending:
                await self._sent()
            if self._staged.sealed or self.size == self._saved.size:
                await self._objects.stages.release(self._upload_id)
            else:
                tail = place = None
                state = self._state.save() if self._state else None
                if self._filling.size > INLINE_SIZE:
                    places = self._objects.tail_keys(self._upload_id)
                    place = places[self._opened.tail_object == places[0]]
                    await self._objects.bucket.put(place, self._filling)
                else:
                    tail = await self._filling.read(0, self._filling.size)
                self._staged = msgspec.structs.replace(
                    self._staged, size=self.size, hash=state, tail=tail, tail_object=place
                )
                try:
                    await self._save(release=True)
                except UploadUnknown:
                    if place is not None:
                        await self._objects.bucket.delete([place])
                    raise
                if place is not None and state is not None:
                    self._kept = self._filling
                    self._objects.keep_tail(place, state, self._filling)
        except BaseException:
            await self._undo()
            with suppress(ScowError):
                await self._objects.stages.release(self._upload_id)
            raise
        if self._opened.tail_object and self._opened.tail_object != self._staged.tail_object:
            await self._objects.bucket.delete([self._opened.tail_object])


class BucketObjects:
    """Objects in a bucket, with what is known of uploads in SQL."""

    def __init__(
        self,
        bucket: Bucket,
        database: Database,
        spools: Spools,
        *,
        part_size: int,
        redirects: bool,
        late_s: float = LATE_S,
    ) -> None:
        """`part_size` is in bytes. `redirects` says that clients are sent to the store for what they read.

        `spools` is where parts wait, to be closed at the end.
        """
        self.late_s = late_s
        self.bucket = bucket
        self.spools = spools
        self.stages = Stages(database, str(uuid.uuid4()))
        self._part_size = part_size
        self._redirects = redirects
        self._held: dict[str, BucketStage | None] = {}
        self._renewing: asyncio.Task[None] | None = None
        self._tails: OrderedDict[tuple[str, bytes], Spool] = OrderedDict()
        self._swept = -SWEEP_S  # when (monotonic)
        self._strays: set[tuple[str, str]] = set()

    def part_size(self, number: int) -> int:
        """Bytes of a part, by its number."""
        return self._part_size if number <= SMALL_PARTS else 4 * self._part_size

    def upload_key(self, upload_id: str) -> str:
        """Where the bytes of an upload are, and stay."""
        return f"blobs/{upload_id[:2]}/{upload_id}"

    def key(self, name: ObjectName) -> str:
        """Where an object is."""
        upload_id = object_upload(name)
        digest = object_digest(name)
        digits = encoded(digest)
        return self.upload_key(upload_id) if upload_id else f"blobs/{algorithm(digest)}/{digits[:2]}/{digits}"

    def tail_keys(self, upload_id: str) -> tuple[str, str]:
        """Where tails of an upload are: a new one never takes the place of the one that is still recorded."""
        return f"tails/{upload_id}/0", f"tails/{upload_id}/1"

    def keep_tail(self, place: str, state: bytes, tail: Spool) -> None:
        """Keep a tail that was stored, by the hash of what it ends."""
        self._tails[place, state] = tail
        while len(self._tails) > TAILS_LIMIT or sum(kept.size for kept in self._tails.values()) > TAILS_SIZE:
            self._tails.popitem(last=False)[1].close()

    async def open_stage(self, upload_id: str, *, create: bool = False) -> BucketStage:
        if upload_id in self._held:
            raise UploadBusy(upload_id)
        self._held[upload_id] = None
        try:
            staged = await (self.stages.begin(upload_id) if create else self.stages.hold(upload_id))
            try:
                stage = BucketStage(self, upload_id, staged, await self._tail(staged))
            except ObjectMissing as error:
                # Its bytes are being removed, or were by somebody who died before the record was.
                await self.stages.release(upload_id)
                raise UploadUnknown(upload_id) from error
            except BaseException:
                await self.stages.release(upload_id)
                raise
        except BaseException:
            self.let_go(upload_id)
            raise
        self._held[upload_id] = stage
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew())
        return stage

    async def _tail(self, staged: Staged) -> Spool:
        place = staged.tail_object if not staged.sealed else None
        if place is not None and staged.hash is not None:
            known = self._tails.pop((place, staged.hash), None)
            if known is not None:
                return known
        tail = self.spools.new()
        try:
            if place is not None:
                size = staged.size - sum(part.size for part in staged.parts)
                async for chunk in await self.bucket.get(place, 0, size):
                    await tail.append([chunk])
            elif staged.tail:
                await tail.append([staged.tail])
        except BaseException:
            tail.close()
            raise
        return tail

    def let_go(self, upload_id: str) -> None:
        """Say that a stage is not held any more."""
        self._held.pop(upload_id, None)

    async def _renew(self) -> None:
        """Go on holding what is held, as long as there is anything."""
        while self._held:
            await asyncio.sleep(RENEW_S)
            try:
                await self.stages.renew(list(self._held))
            except Exception as error:
                log.warning("uploads that go on here may be lost: %s", error)
        self._renewing = None

    async def staged_size(self, upload_id: str) -> int:
        stage = self._held.get(upload_id)
        return stage.size if stage is not None else (await self.stages.find(upload_id)).size

    async def discard(self, upload_id: str) -> None:
        try:
            staged = await self.stages.find(upload_id)
        except UploadUnknown:
            return
        if staged.parts_id is not None:
            await self.bucket.end_parts(self.upload_key(upload_id), staged.parts_id)
        # What nobody has recorded may be there too, of a process that died; small uploads have none.
        if staged.parts_id is not None or not staged.sealed or staged.size > INLINE_SIZE:
            await self.bucket.delete(self.tail_keys(upload_id))
        stage = self._held.get(upload_id)
        if stage is not None:
            stage.gone = True
        await self.stages.forget(upload_id)

    async def staged(self) -> list[tuple[str, float]]:
        return await self.stages.all()

    def open_now(self, name: ObjectName) -> BucketObject | None:
        return BucketObject(self.bucket, self.key(name))

    async def open(self, name: ObjectName) -> BucketObject | None:
        return self.open_now(name)

    async def url(self, name: ObjectName) -> str | None:
        return await self.bucket.url(self.key(name), URL_LIFE_S) if self._redirects else None

    async def verify(self, name: ObjectName) -> bool:
        digest, key = object_digest(name), self.key(name)
        size = await self.bucket.size(key)
        if size is None:
            return False
        state = cast("_Hash", new_hash(algorithm(digest)))
        try:
            async for chunk in await self.bucket.get(key, 0, size):
                await _hash(chunk, [state])
        except ObjectMissing:
            return False
        return state.hexdigest() == encoded(digest)

    async def adopt(self, source: Path, name: ObjectName, *, verify: bool) -> int:
        digest = object_digest(name)

        def read() -> int:
            state = new_hash(algorithm(digest))
            with source.open("rb") as file:
                while verify and (data := file.read(1 << 20)):
                    state.update(data)
                if verify and state.hexdigest() != encoded(digest):
                    raise DigestInvalid("the content is not that of its digest", {"digest": digest})
            return source.stat().st_size

        size = await asyncio.to_thread(read)
        await self.bucket.put_file(self.key(name), source)
        return size

    async def remove(self, name: ObjectName) -> None:
        await self.bucket.delete([self.key(name)])

    async def sweep(self) -> None:
        if time.monotonic() - self._swept < SWEEP_S:
            return
        self._swept = time.monotonic()
        begun = await self.bucket.begun_parts()
        strays = {(key, parts_id) for key, parts_id in begun if not await self.stages.knows_parts(parts_id)}
        for key, parts_id in strays & self._strays:
            await self.bucket.end_parts(key, parts_id)
        self._strays = strays - self._strays

    async def aclose(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        while self._tails:
            self._tails.popitem()[1].close()
        await self.bucket.aclose()
        await self.spools.aclose()


async def _hash(data: bytes, states: "Sequence[_Hash | RunningHash]") -> None:
    """Feed hashes, in a thread, to its end even if the caller is cancelled: somebody may go on with them."""

    def feed() -> None:
        for state in states:
            state.update(data)

    await finished(asyncio.ensure_future(asyncio.to_thread(feed)))
