"""Where caches come from: images that are here, registries, and archives that a client sent."""

import asyncio

from scow.build.cache_document import CONFIG_TYPE, LIMIT, CacheInvalid, decode_cache, decode_inline
from scow.build.cache_imports import Emit, Known
from scow.build.context import Context
from scow.build.trees import find
from scow.errors import NotFound
from scow.oci.descriptor import Descriptor
from scow.oci.digest import DiffID, digest_of
from scow.oci.image_config import ImageConfig
from scow.oci.manifest import Index, Manifest, decode
from scow.oci.media_types import compression
from scow.oci.platform import Platform
from scow.oci.reference import Reference
from scow.store.snapshots import finish
from scow.store.store import Store
from scow.transfer.archive_layout import INDEX, blob_path
from scow.transfer.client import RegistryClient
from scow.transfer.credentials import Credentials
from scow.transfer.documents import Finder, pull_error
from scow.transfer.download import LayerDownload
from scow.transfer.registries import Registries
from scow.transfer.registry_error import Refused


class LocalImage:
    """An image of the store."""

    def __init__(self, store: Store, name: str, config: ImageConfig) -> None:
        self.name = name
        self._store = store
        self._config = config

    async def read(self) -> Known:
        """As Source.read."""
        return Known(steps=decode_inline(self._config), image=self._config)

    async def bring(self, diff_id: DiffID, emit: Emit) -> None:
        """As Source.bring."""
        if self._store.layers.find(diff_id) is None:
            raise NotFound(f"no layer {diff_id}")


class RegistryCache:
    """A cache in a registry, or an image there."""

    def __init__(
        self,
        reference: Reference,
        platform: Platform,
        registries: Registries,
        store: Store,
        credentials: Credentials | None,
    ) -> None:
        self._reference = reference.with_digest(reference.digest) if reference.digest else reference.with_default_tag()
        self._platform = platform
        self._registries = registries
        self._store = store
        self._credentials = credentials
        self._blobs: dict[DiffID, Descriptor] = {}

    @property
    def name(self) -> str:
        """As Source.name."""
        return self._reference.familiar

    async def read(self) -> Known:
        """As Source.read."""
        try:
            return await self._registries.try_endpoints(self._reference, self._credentials, self._read)
        except Refused as error:
            raise pull_error(error, self._reference) from error

    async def _read(self, client: RegistryClient) -> Known:
        document = await client.manifest(self._reference.digest or self._reference.tag or "")
        config = _cache_config(decode(document.data, document.media_type))
        if config is not None:
            data = await client.small_blob(config, LIMIT, "build cache")
            steps, self._blobs = await asyncio.to_thread(decode_cache, data)
            return Known(steps=steps)
        found = await Finder(client, self._store.content, self._reference).descend(document, self._platform)
        self._blobs = dict(zip(found.config.diff_ids, found.manifest.layers, strict=True))
        return Known(steps=decode_inline(found.config), image=found.config)

    async def bring(self, diff_id: DiffID, emit: Emit) -> None:
        """As Source.bring."""
        if self._store.layers.find(diff_id) is not None:
            return
        descriptor = self._blobs.get(diff_id)
        if descriptor is None:
            raise NotFound(f"no layer {diff_id}")

        async def bring(client: RegistryClient) -> None:
            await LayerDownload(self._registries, client, self._store, descriptor, diff_id).run(emit)

        try:
            await self._registries.try_endpoints(self._reference, self._credentials, bring)
        except Refused as error:
            raise pull_error(error, self._reference) from error


class SentCache:
    """A cache as an OCI layout, in an archive that a client sent."""

    def __init__(self, name: str, archive: Context, store: Store) -> None:
        self.name = name
        self._archive = archive
        self._store = store
        self._blobs: dict[DiffID, Descriptor] = {}

    async def read(self) -> Known:
        """As Source.read."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> Known:
        data = self._archive.read(INDEX)
        if data is None:
            raise CacheInvalid("it has no index.json")
        for _ in range(4):
            document = decode(data)
            config = _cache_config(document)
            if config is not None:
                steps, self._blobs = decode_cache(self._blob(config))
                return Known(steps=steps)
            if not isinstance(document, Index) or len(document.manifests) != 1:
                break
            data = self._blob(document.manifests[0])
        raise CacheInvalid("its index leads to no cache")

    def _blob(self, descriptor: Descriptor) -> bytes:
        data = self._archive.read(blob_path(descriptor.digest))
        if data is None or digest_of(data, descriptor.digest) != descriptor.digest:
            raise CacheInvalid(f"blob {descriptor.digest} is missing or damaged")
        return data

    async def bring(self, diff_id: DiffID, emit: Emit) -> None:
        """As Source.bring."""
        if self._store.layers.find(diff_id) is not None:
            return
        descriptor = self._blobs.get(diff_id)
        found = descriptor and find(self._archive.tree, blob_path(descriptor.digest).encode())
        if descriptor is None or not found:
            raise NotFound(f"no layer {diff_id}")
        async with self._archive.used():
            how = compression(descriptor.media_type)
            async with self._store.layers.writer(descriptor, how, diff_id) as writer:
                pieces = self._archive.tree.content(*found)
                while piece := await finish(asyncio.to_thread(next, pieces, b"")):
                    await writer.write(piece)
                await writer.finish()


def _cache_config(document: Manifest | Index) -> Descriptor | None:
    """Where a cache's config is: of a manifest, or, as BuildKit once wrote it, in an index beside the layers."""
    if isinstance(document, Manifest):
        return document.config if document.config.media_type == CONFIG_TYPE else None
    return next((each for each in document.manifests if each.media_type == CONFIG_TYPE), None)
