"""The bytes of one blob of an upstream, in order and once, however often the connection breaks."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from scow.oci.digest import Digest, algorithm
from scow.registry.errors import BlobUnknown, DigestInvalid, UpstreamUnavailable
from scow.registry.uploads import Uploads
from scow.registry.upstream.upstream import Upstream
from scow.transfer.client import BlobStream
from scow.transfer.http import Patience
from scow.transfer.registry_error import BadAnswer, Refused, RegistryFailure, RegistryUnreachable

BATCH_SIZE: Final = 1 << 20
"""Bytes that are handed on at a time."""
BATCH_S: Final = 0.25
"""A slow upstream's bytes are handed on after so long: somebody may be waiting for them."""
GOOD_PROGRESS: Final = 1 << 20
"""Bytes after which a break counts as the first again."""
PATIENCE: Final = Patience(attempts=6, first_s=0.25, longest_s=8.0, longest_retry_after_s=30.0)

log = logging.getLogger("scow.registry.upstream")


async def store(uploads: Uploads, repository: str, digest: Digest, chunks: AsyncIterator[bytes]) -> None:
    """Make bytes from elsewhere a blob of a repository. Raises WrongBytes and what uploads raise."""
    async with uploads.begin(repository, algorithm(digest)) as receiver:
        try:
            await receiver.receive(chunks, None)
            await receiver.finish(digest)
        except DigestInvalid as error:
            raise WrongBytes(f"other bytes came than those of {digest}") from error
        except BaseException:
            await uploads.drop(receiver.upload.upload_id)
            raise


class WrongBytes(UpstreamUnavailable):
    """An upstream's answer is not what its digest says."""


class BlobSource:
    """One blob to be read once. Nothing is verified here but the size."""

    def __init__(self, upstream: Upstream, repository: str, digest: Digest) -> None:
        self.size: int | None = None  # of the blob, once the upstream has said it
        self._upstream = upstream
        self._repository = repository
        self._digest = digest
        self._opened = False
        self._offset = 0

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The bytes; goes on where the upstream broke off. The first chunk may be empty. Raises Refusal."""
        self._upstream.check_limit()
        failures = 0
        while True:
            before = self._offset
            try:
                async for data in self._once():
                    self._offset += len(data)
                    yield data
                return
            except RegistryFailure as error:
                failures = 1 if self._offset - before >= GOOD_PROGRESS else failures + 1
                if isinstance(error, RegistryUnreachable) and self._opened and "x509" not in error.reason:
                    error.transient = True  # it has answered: it may be about to restart
                delay_s = PATIENCE.delay_s(error, failures)
                refusal = self._upstream.failed(error, BlobUnknown(self._digest))
                if delay_s is None or (not self._opened and isinstance(error, Refused)):
                    raise refusal from error
                log.info("%s of %s broke off at %d bytes: %s", self._digest, self._repository, self._offset, error)
                await asyncio.sleep(delay_s)

    async def _once(self) -> AsyncGenerator[bytes, None]:
        if self._opened and self._offset == self.size:
            return
        async with self._upstream.blob(self._repository, self._digest, self._offset) as stream:
            if not self._opened:
                yield self._open(stream)
            if stream.size not in (None, self.size):
                raise BadAnswer(self._upstream.url, f"the size of {self._digest} has changed")
            skip = self._offset - stream.start  # a server that ignores ranges begins at the beginning
            batch: list[bytes] = []
            batched, handed = 0, time.monotonic()
            try:
                async for data in stream.chunks():
                    rest = data[skip:] if skip else data
                    skip = max(skip - len(data), 0)
                    if rest:
                        batch.append(rest)
                        batched += len(rest)
                    if batch and (batched >= BATCH_SIZE or time.monotonic() - handed >= BATCH_S):
                        yield self._checked(batch)
                        batched, handed = 0, time.monotonic()
            except RegistryFailure:
                if batch:
                    yield self._checked(batch)
                raise
            if batch:
                yield self._checked(batch)
        if self.size is not None and self._offset < self.size:
            raise RegistryUnreachable("GET", self._upstream.url, "unexpected EOF")

    def _open(self, stream: BlobStream) -> bytes:
        self._opened, self.size = True, stream.size
        return b""  # so that the reader knows before anything has come

    def _checked(self, batch: list[bytes]) -> bytes:
        """The bytes of a batch, which is empty then. Raises BadAnswer if they are too many."""
        data = b"".join(batch)
        batch.clear()
        if self.size is not None and self._offset + len(data) > self.size:
            raise BadAnswer(self._upstream.url, f"more than the {self.size} bytes of {self._digest}")
        return data
