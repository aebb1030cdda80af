"""Content that was dropped, or is damaged: fetched again from where its image came, or made again from the layer.

An engine that doesn't keep compressed layers asks for them here before a push or save; the check of the store asks for
whatever is damaged. What comes is verified before it takes its place, so that nothing here makes anything worse.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from scow.errors import NotFound, ScowError
from scow.oci.descriptor import Descriptor
from scow.oci.digest import DiffID, Digest, algorithm, new_hash
from scow.oci.image_config import MAX_CONFIG_SIZE
from scow.oci.manifest import Manifest, ManifestInvalid, decode
from scow.oci.reference import Reference, parse_reference
from scow.store.content import TEMPORARY
from scow.store.images import Image
from scow.store.layers import Layer
from scow.store.store import Store
from scow.transfer.client import RegistryClient
from scow.transfer.credentials import Credentials
from scow.transfer.download import LayerDownload, LayerVerificationFailed
from scow.transfer.progress import Emit
from scow.transfer.registries import Registries

T = TypeVar("T")

log = logging.getLogger(__name__)

CredentialsFor = Callable[[Reference], Credentials | None]
WRITE_SIZE: Final = 1 << 20  # bytes that are gathered for one write


class NotRestored(NotFound):
    """Content is missing, and neither its registries nor its layer give it back."""

    def __init__(self, digest: str, reason: str) -> None:
        super().__init__(f"content {digest} is not kept here and cannot be had again: {reason}")
        self.digest = digest
        self.reason = reason


def anonymous(reference: Reference) -> Credentials | None:
    """Ask without credentials."""
    return None


class Restorer:
    """Brings content back. Callers hold a lease, which keeps it until they are done."""

    def __init__(
        self,
        registries: Registries,
        store: Store,
        credentials_for: CredentialsFor = anonymous,
        emit: Emit = lambda message: None,
    ) -> None:
        self._registries = registries
        self._store = store
        self._credentials_for = credentials_for
        self._emit = emit

    async def blob(self, descriptor: Descriptor, diff_id: DiffID, *, anew: bool = False) -> None:
        """Have the compressed form `descriptor` of a layer in content. Idempotent. Raises NotRestored.

        It is fetched from the repositories of images with this layer; else the layer is compressed, which gives the
        same bytes if it was compressed here before. `anew`: what is there is known to be damaged, and is replaced.
        """
        if not anew and self._store.content.has(descriptor.digest):
            return
        self._store.sweep_soon()  # who keeps no such blobs lets go of it again
        sources = self._sources(image for image in self._store.images.all() if diff_id in image.diff_ids)
        reason = "no registry is known to have it"
        for reference in sources:
            try:
                await self._fetch(reference, descriptor, diff_id)
                return
            except ScowError as error:
                log.info("%s doesn't give %s: %s", reference, descriptor.digest, error)
                reason = str(error)
        if not await self._store.layers.remake(descriptor.digest):
            raise NotRestored(descriptor.digest, reason)

    async def layer(self, diff_id: DiffID) -> Layer:
        """Ingest a layer anew from one of the blobs that its images' manifests name. Raises NotRestored.

        The layer must not be in the store, or its answer is the one that is there.
        """
        reason = "no registry is known to have it"
        for image in self._store.images.all():
            if diff_id not in image.diff_ids or not image.manifest:
                continue
            try:
                descriptor = await self.descriptor(image, diff_id)
            except ScowError as error:
                reason = str(error)
                continue
            for reference in self._sources([image]):

                async def bring(client: RegistryClient, descriptor: Descriptor = descriptor) -> Layer:
                    return await LayerDownload(self._registries, client, self._store, descriptor, diff_id).run(
                        self._emit
                    )

                try:
                    return await self._try(reference, bring)
                except ScowError as error:
                    reason = str(error)
        raise NotRestored(diff_id, reason)

    async def document(self, digest: Digest, image: Image) -> None:
        """Have the image's manifest, index or config in content again. Raises NotRestored."""
        reason = "no registry is known to have it"
        for reference in self._sources([image]):

            async def bring(client: RegistryClient) -> bytes:
                if digest == image.id:
                    manifest = await self._manifest(image)
                    return await client.small_blob(manifest.config, MAX_CONFIG_SIZE, "image config")
                return (await client.manifest(digest)).data

            try:
                await self._store.content.put(await self._try(reference, bring), digest)
                return
            except ScowError as error:
                reason = str(error)
        raise NotRestored(digest, reason)

    async def descriptor(self, image: Image, diff_id: DiffID) -> Descriptor:
        """Return what the image's manifest says of the layer. Raises NoSuchContent, ManifestInvalid."""
        manifest = await self._manifest(image)
        return manifest.layers[image.diff_ids.index(diff_id)]

    async def _manifest(self, image: Image) -> Manifest:
        document = decode(await self._store.content.get(Digest(image.manifest)))
        if not isinstance(document, Manifest) or len(document.layers) != len(image.diff_ids):
            raise ManifestInvalid("it lists other layers than the image has")
        return document

    async def _fetch(self, reference: Reference, descriptor: Descriptor, diff_id: DiffID) -> None:
        async def fetch(client: RegistryClient) -> None:
            await BlobDownload(self._registries, client, self._store, descriptor, diff_id).fetch(self._emit)

        await self._try(reference, fetch)

    async def _try(self, reference: Reference, action: Callable[[RegistryClient], Awaitable[T]]) -> T:
        return await self._registries.try_endpoints(reference, self._credentials_for(reference), action)

    def _sources(self, images: Iterable[Image]) -> list[Reference]:
        """The repositories that are known to have the images, each once."""
        found: dict[str, Reference] = {}
        for image in images:
            for name in self._store.images.digests(image.id):
                reference = parse_reference(name)
                found.setdefault(reference.name, reference)
        return list(found.values())


class BlobDownload(LayerDownload):
    """Brings a blob alone, as a file: its layer is here."""

    async def fetch(self, emit: Emit) -> None:
        temporary = self._store.paths.ingest / f"{TEMPORARY}{secrets.token_hex(8)}"
        sink = _FileSink(temporary, self._descriptor)
        try:
            await self._receive(sink, emit)
            await sink.finish()
            await self._store.content.adopt(temporary, self._descriptor.digest)
        finally:
            await asyncio.to_thread(sink.discard)


class _FileSink:
    """Takes bytes into a file, hashed on the way."""

    def __init__(self, path: Path, descriptor: Descriptor) -> None:
        self.offset = 0
        self._path = path
        self._descriptor = descriptor
        self._hash = new_hash(descriptor.digest)
        self._file: BinaryIO | None = None
        self._pending: list[bytes] = []
        self._size = 0

    async def write(self, data: bytes) -> None:
        """Take the next bytes; they are written by the MiB, in a thread."""
        self._pending.append(data)
        self._size += len(data)
        self.offset += len(data)
        if self._size >= WRITE_SIZE:
            await asyncio.to_thread(self._flush)

    async def finish(self) -> None:
        """Check the digest, and sync. Raises LayerVerificationFailed."""
        await asyncio.to_thread(self._finish)

    def discard(self) -> None:
        """Close; remove the file unless it was adopted. Idempotent."""
        if self._file is not None:
            self._file.close()
        self._path.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._file is None:
            self._file = self._path.open("xb")
        pending, self._pending, self._size = self._pending, [], 0
        for piece in pending:
            self._hash.update(piece)
            self._file.write(piece)

    def _finish(self) -> None:
        self._flush()
        assert self._file is not None
        found = f"{algorithm(self._descriptor.digest)}:{self._hash.hexdigest()}"
        if found != self._descriptor.digest:
            raise LayerVerificationFailed(self._descriptor, f"its bytes have {found}")
        self._file.flush()
        os.fsync(self._file.fileno())
