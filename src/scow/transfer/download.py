"""The download of one layer: resumed where it broke off, verified before it is visible, shared by all who want it."""

import asyncio
import logging
import math
from contextlib import AsyncExitStack
from typing import Final, Protocol

from scow import points
from scow.errors import InvalidArgument, NotFound, NotSupported
from scow.oci import media_types
from scow.oci.descriptor import Descriptor
from scow.oci.digest import DiffID, short
from scow.store.layers import DigestMismatch, Layer, LayerCorrupt
from scow.store.store import Store
from scow.transfer.client import RegistryClient, VerificationFailed
from scow.transfer.documents import RootFSMismatch
from scow.transfer.progress import Emit, Meter
from scow.transfer.registries import Registries
from scow.transfer.registry_error import BadAnswer, Refused, RefusedNotFound, RegistryUnreachable
from scow.wire.progress import progress_step

log = logging.getLogger(__name__)

GOOD_PROGRESS: Final = 1 << 20
"""Bytes that make an attempt count as a success: a long download may break off more often than a short one."""
WHOLE_LIMIT: Final = 256 << 10
"""Layers of up to so many bytes are fetched in one go."""
_GENERIC: Final = frozenset({"", "application/octet-stream", "application/gzip", "application/x-gzip"})


class UnsupportedLayer(NotSupported):
    """The layer is of a kind that no file system can be made of."""

    def __init__(self, descriptor: Descriptor) -> None:
        super().__init__(f"layer {descriptor.digest} has unsupported media type {descriptor.media_type!r}")
        self.descriptor = descriptor


class UnknownBlob(NotFound):
    """The registry has the manifest, but not this layer of it. The first words are docker's."""

    def __init__(self, descriptor: Descriptor) -> None:
        where = f" (a foreign layer, kept at {', '.join(descriptor.urls)})" if descriptor.urls else ""
        super().__init__(f"unknown blob: the registry has no layer {descriptor.digest}{where}")
        self.descriptor = descriptor


class LayerVerificationFailed(InvalidArgument):
    """The registry sent other bytes than the manifest promises. The first words are docker's."""

    def __init__(self, descriptor: Descriptor, why: str) -> None:
        super().__init__(f"filesystem layer verification failed for digest {descriptor.digest}: {why}")
        self.descriptor = descriptor


def check_layer(descriptor: Descriptor) -> None:
    """Raise UnsupportedLayer unless the layer's media type says that it is a tar, or says nothing."""
    if not media_types.is_layer(descriptor.media_type) and descriptor.media_type not in _GENERIC:
        raise UnsupportedLayer(descriptor)


class Sink(Protocol):
    """Takes a layer's bytes in order; `offset` counts those that it has."""

    @property
    def offset(self) -> int: ...

    async def write(self, data: bytes) -> None: ...


class LayerDownload:
    """Brings one layer from a registry into the store."""

    def __init__(
        self,
        registries: Registries,
        client: RegistryClient,
        store: Store,
        descriptor: Descriptor,
        diff_id: DiffID,
    ) -> None:
        self._registries = registries
        self._client = client
        self._store = store
        self._descriptor = descriptor
        self._diff_id = diff_id
        self._id = short(descriptor.digest)
        self._was_resumed = False

    async def run(self, emit: Emit) -> Layer:
        """Download the layer, or wait for another download of the same. Nothing stays behind if it fails."""
        key = (self._descriptor.digest, self._diff_id)
        return await self._registries.layer_flights.join(key, self._fly, emit)

    async def _fly(self, emit: Emit) -> Layer:
        known = self._store.layers.find(self._diff_id)
        if known is not None:
            emit(progress_step(self._id, "Already exists"))
            return known
        if (layer := await self._from_content()) is not None:
            emit(progress_step(self._id, "Pull complete"))
            return layer
        try:
            return await self._download(emit)
        except (BadAnswer, LayerVerificationFailed) as error:
            if not self._was_resumed:
                raise
            # Pieces of two answers that don't fit together: once more, in one piece.
            log.info("layer %s was resumed and is wrong, beginning anew: %s", self._descriptor.digest, error)
        return await self._download(emit)

    async def _from_content(self) -> Layer | None:
        """Make the layer of a blob that is here already: of an index that was pulled whole, for instance."""
        descriptor, content = self._descriptor, self._store.content
        if not content.has(descriptor.digest):
            return None
        try:
            path = content.path(descriptor.digest)
            return await self._store.layers.take(path, None, self._diff_id, descriptor)
        except (DigestMismatch, LayerCorrupt) as error:
            log.info("the blob %s that is here gives no layer, downloading it: %s", descriptor.digest, error)
            return None

    async def _download(self, emit: Emit) -> Layer:
        descriptor = self._descriptor
        compression = media_types.compression(descriptor.media_type)
        async with AsyncExitStack() as turn:
            if self._registries.downloads.locked():
                emit(progress_step(self._id, "Waiting"))
            await turn.enter_async_context(self._registries.downloads)
            whole = None
            if descriptor.size <= WHOLE_LIMIT:
                # Fetched before it takes a worker: workers are few, and would wait for the network's round trips.
                whole = await self._fetch_whole(emit)
                await turn.aclose()
            try:
                async with self._store.layers.writer(descriptor, compression, self._diff_id) as writer:
                    if whole is not None:
                        await writer.write(whole)
                    else:
                        await self._receive(writer, emit)
                        # Others may use the line while this layer is finished.
                        await turn.aclose()
                    emit(progress_step(self._id, "Verifying Checksum"))
                    await points.at("pull.received")
                    layer = await writer.finish()
            except (DigestMismatch, LayerCorrupt) as error:
                if isinstance(error, DigestMismatch) and error.what == "diff ID":
                    # The blob is right, so it is the config that tells of another layer.
                    raise RootFSMismatch from error
                raise LayerVerificationFailed(descriptor, str(error)) from error
        emit(progress_step(self._id, "Download complete"))
        # The layer was indexed as it came: what docker extracts now is done already.
        emit(progress_step(self._id, "Extracting", descriptor.size, descriptor.size))
        emit(progress_step(self._id, "Pull complete"))
        return layer

    async def _fetch_whole(self, emit: Emit) -> bytes:
        try:
            data = await self._client.small_blob(self._descriptor, WHOLE_LIMIT, "filesystem layer")
        except RefusedNotFound as error:
            raise UnknownBlob(self._descriptor) from error
        except VerificationFailed as error:
            raise LayerVerificationFailed(self._descriptor, "these are other bytes") from error
        Meter(emit, self._id, "Downloading", len(data)).show(len(data))
        return data

    async def _receive(self, writer: Sink, emit: Emit) -> None:
        meter = Meter(emit, self._id, "Downloading", self._descriptor.size)
        failures = 0
        while True:
            before = writer.offset
            try:
                await self._receive_once(writer, meter)
                return
            except RefusedNotFound as error:
                raise UnknownBlob(self._descriptor) from error
            except (RegistryUnreachable, Refused) as error:
                if isinstance(error, Refused) and error.status == 416:
                    raise LayerVerificationFailed(self._descriptor, f"it ends after {before} bytes") from error
                if writer.offset - before >= GOOD_PROGRESS:
                    failures = 0
                failures += 1
                if isinstance(error, RegistryUnreachable) and "x509" not in error.reason:
                    error.transient = True  # it answered before: a registry that restarts refuses connections
                delay = self._client.patience.delay_s(error, failures)
                if delay is None:
                    raise
                self._was_resumed = self._was_resumed or writer.offset > 0
                seconds = math.ceil(delay)
                emit(progress_step(self._id, f"Retrying in {seconds} second{'s' if seconds > 1 else ''}"))
                log.info("layer %s broke off at %d bytes: %s", self._descriptor.digest, writer.offset, error)
                await asyncio.sleep(delay)

    async def _receive_once(self, writer: Sink, meter: Meter) -> None:
        size = self._descriptor.size
        if writer.offset == size:
            return
        async with self._client.blob(self._descriptor.digest, writer.offset) as blob:
            # A server that ignores ranges begins at the beginning: what is known is passed over.
            skip = writer.offset - blob.start
            async for chunk in blob.chunks():
                if skip >= len(chunk):
                    skip -= len(chunk)
                    continue
                data, skip = chunk[skip:] if skip else chunk, 0
                if writer.offset + len(data) > size:
                    raise LayerVerificationFailed(self._descriptor, f"more than the {size} bytes that it should have")
                await writer.write(data)
                meter.show(writer.offset)
        if writer.offset < size:
            url = str(self._client.url(f"blobs/{self._descriptor.digest}"))
            raise RegistryUnreachable("GET", url, "unexpected EOF")
