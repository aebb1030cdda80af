"""One blob on its way from an upstream: kept as it arrives, and handed to everybody who waits for it.

Bytes go into a spool, a file without a name, and from there to the readers, each at its own pace: a slow or vanished
client holds up nobody, memory is bounded, and whatever is killed leaves nothing. The last byte is kept from the readers
until the digest is verified: none of them can take wrong bytes for the whole. Then the spool becomes the blob.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final

from scow.oci.digest import Digest, algorithm, encoded
from scow.registry.adoption import adopt
from scow.registry.errors import BlobTooLarge, BlobUnknown, Refusal, UpstreamUnavailable
from scow.registry.metrics import Metrics
from scow.registry.spools import nameless_file
from scow.registry.uploads import Uploads
from scow.registry.upstream.places import Place
from scow.registry.upstream.source import BlobSource, WrongBytes
from scow.registry.upstream.upstream import Upstream

READ_SIZE: Final = 256 << 10

log = logging.getLogger("scow.registry.upstream")


class FetchBroken(ConnectionError):
    """The bytes end before their end."""


class Spool:
    """The bytes so far, in a file without a name that vanishes with the last reference to this."""

    def __init__(self, folder: Path, algorithm_name: str) -> None:
        self._fd = nameless_file(folder)
        self._hash = hashlib.new(algorithm_name)
        self.size = 0

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    @property
    def path(self) -> Path:
        """A path to the bytes, for this process, as long as the spool is there."""
        return Path(f"/proc/self/fd/{self._fd}")

    @property
    def hex_digest(self) -> str:
        """The hash of all bytes so far."""
        return self._hash.hexdigest()

    async def append(self, data: bytes) -> None:
        """Add to the end."""
        await asyncio.to_thread(self._write, data)
        self.size += len(data)

    def _write(self, data: bytes) -> None:
        view, offset = memoryview(data), self.size
        while view:
            count = os.pwrite(self._fd, view, offset)
            view, offset = view[count:], offset + count
        self._hash.update(data)

    async def read(self, offset: int, count: int) -> bytes:
        """At most `count` bytes from `offset` on."""
        data = bytearray(count)
        try:
            # What was written a moment ago is in memory: a thread would cost more than the copy.
            got = os.preadv(self._fd, [data], offset, os.RWF_NOWAIT)
        except OSError:  # it would have to wait for the disk, or the file system can't tell
            return await asyncio.to_thread(self._pread, count, offset)
        return bytes(data) if got == count else bytes(data[:got])

    def _pread(self, count: int, offset: int) -> bytes:
        return os.pread(self._fd, count, offset)  # by a method: the thread keeps the file open

    async def sync(self) -> None:
        """Bring the bytes to the disk."""
        await asyncio.to_thread(self._sync)

    def _sync(self) -> None:
        os.fsync(self._fd)


class Fetch:
    """Fetches one blob. `run` is the work; `opened` and `read` are for those who wait."""

    def __init__(
        self, place: Place, digest: Digest, upstream: Upstream, uploads: Uploads, metrics: Metrics, folder: Path
    ) -> None:
        self.digest = digest
        self._place = place
        self._upstream = upstream
        self._uploads = uploads
        self._metrics = metrics
        self._folder = folder
        self._spool: Spool | None = None
        self._size: int | None = None
        self._verified = False
        self._failure: Exception | None = None
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Fetch the blob and store it; never fails, for the readers are told."""
        try:
            await self._fetch()
        except asyncio.CancelledError:
            self._failure = UpstreamUnavailable("the registry is shutting down")
            raise
        except Exception as error:
            if not isinstance(error, Refusal | OSError):
                log.exception("fetching %s of %s failed", self.digest, self._place.local)
            elif not isinstance(error, BlobUnknown):  # which anybody can ask for
                log.warning("fetching %s of %s failed: %s", self.digest, self._place.local, error)
            if isinstance(error, WrongBytes):
                self._metrics.count("upstream_failures")
            self._failure = error
        finally:
            self._tell()

    def _tell(self) -> None:
        """Wake up who waits."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def opened(self) -> int | None:
        """Wait for the upstream's answer: the blob's size, None if it is known only at the end.

        Raises Refusal.
        """
        await self._wait(lambda: self._spool is not None)
        return self._size

    async def finished(self) -> int:
        """Wait until the whole blob is there; its size. Raises Refusal and OSError."""
        await self._wait(lambda: self._verified)
        return self._size or 0

    def read(self, offset: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `offset` to `end` as they come, once the fetch has opened. Raises FetchBroken."""
        assert self._spool is not None
        return self._read(self._spool, offset, end)

    async def _read(self, spool: Spool, offset: int, end: int) -> AsyncGenerator[bytes, None]:
        while offset < end:
            try:
                await self._wait(lambda at=offset: self._readable > at)  # type: ignore[misc]  # a lambda's default
            except Exception as error:
                raise FetchBroken(str(error)) from error
            data = await spool.read(offset, min(READ_SIZE, end - offset, self._readable - offset))
            offset += len(data)
            yield data

    @property
    def _readable(self) -> int:
        assert self._spool is not None
        size = self._spool.size
        return size if self._verified else min(size, (self._size or size) - 1)

    async def _wait(self, ready: Callable[[], bool]) -> None:
        while not ready() and self._failure is None:
            await self._changed.wait()
        if self._failure is not None and not ready():
            raise self._failure

    async def _fetch(self) -> None:
        source = BlobSource(self._upstream, self._place.remote, self.digest)
        writing: asyncio.Task[None] | None = None
        try:
            async with aclosing(source.chunks()) as chunks:
                async for data in chunks:
                    if self._spool is None:  # nothing is begun for what the upstream has not got
                        self._size = source.size
                        self._spool = await asyncio.to_thread(Spool, self._folder, algorithm(self.digest))
                    if writing is not None:  # the next bytes came meanwhile
                        await writing
                    writing = asyncio.create_task(self._append(self._spool, data))
        finally:
            if writing is not None:
                await writing
        spool = self._spool
        if spool is None or spool.hex_digest != encoded(self.digest):
            raise WrongBytes(f"{self._upstream.url} sent other bytes than those of {self.digest}")
        self._metrics.count("upstream_bytes", spool.size)
        self._size, self._verified = spool.size, True
        self._tell()
        await self._keep(spool)

    async def _append(self, spool: Spool, data: bytes) -> None:
        if data:
            await spool.append(data)
        self._tell()

    async def _keep(self, spool: Spool) -> None:
        """Make the spool a blob, if there is room for it; who waits for the bytes has them already."""
        local, limit = self._place.local, self._uploads.size_limit
        try:
            if limit and spool.size > limit:
                raise BlobTooLarge(limit)
            await self._uploads.metadata.check_room(local, spool.size, self.digest)
            await spool.sync()
            await adopt(self._uploads.objects, self._uploads.metadata, local, self.digest, spool.path, verify=False)
        except (Refusal, OSError) as error:
            log.warning("%s of %s is passed on and not kept: %s", self.digest, local, error)
