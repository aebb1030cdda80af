"""What an image's index holds: its manifests, which of them are here, and the image for one platform among them.

An image of several platforms is one record in the catalogue, of the platform that runs here; the others are content
that its index leads to.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from scow.build.attestation import REFERENCE_DIGEST, REFERENCE_TYPE
from scow.errors import Conflict
from scow.oci import manifest
from scow.oci.descriptor import Descriptor, unique
from scow.oci.digest import Digest
from scow.oci.image_config import ImageConfig, decode_config
from scow.oci.manifest import Index, Manifest
from scow.oci.media_types import is_index
from scow.oci.platform import Platform, satisfies, select
from scow.store.images import Image
from scow.store.store import Store
from scow.transfer.documents import is_image_config
from scow.transfer.save import PlatformMissing
from scow.wire.image import AttestationData, ImageData, ManifestSize, ManifestSummary, UnpackedSize

DOCUMENT_LIMIT: Final = 4000


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """An image for one platform: its record, or what an index has for another platform."""

    id: Digest
    config: ImageConfig
    descriptor: Descriptor | None  # of its manifest
    sizes: tuple[int, ...] | None  # of the layers' blobs; None if the layers themselves are here


class _Document(msgspec.Struct, frozen=True):
    """A manifest or index, read."""

    size: int  # bytes
    media_type: str
    content: Manifest | Index


class ImageManifests:
    """Looks into the indexes of images. `users` gives the IDs of the containers of an image.

    What was read once is remembered, up to DOCUMENT_LIMIT: one request may list the manifests of a thousand images.
    """

    def __init__(self, store: Store, users: Callable[[Digest], Sequence[str]]) -> None:
        self._store = store
        self._users = users
        self._documents: dict[Digest, _Document] = {}

    async def _document(self, digest: Digest) -> _Document | None:
        """A manifest or index, if it is here."""
        if not self._store.content.has(digest):
            return None
        known = self._documents.get(digest)
        if known is None:
            data = await self._store.content.get(digest)
            known = _Document(len(data), manifest.sniff(data), manifest.decode(data))
            if len(self._documents) >= DOCUMENT_LIMIT:
                self._documents.clear()
            self._documents[digest] = known
        return known

    async def descriptor(self, image: Image) -> Descriptor | None:
        """What a name of the image stands for: its index or manifest; None if it has neither yet."""
        for digest in (image.index, image.manifest):
            document = await self._document(Digest(digest)) if digest else None
            if digest and document is not None:
                return Descriptor(media_type=document.media_type, digest=Digest(digest), size=document.size)
        return None

    async def summaries(self, image: Image) -> list[ManifestSummary]:
        """Every manifest of the image, those that are not here included."""
        index = await self._document(image.index) if image.index else None
        if index is not None:
            return await self._of_index(image, index)
        own = await self.descriptor(image)
        if own is None:
            return []
        return [await self._summary(image, msgspec.structs.replace(own, platform=image.platform))]

    async def _of_index(self, image: Image, document: _Document) -> list[ManifestSummary]:
        index = document.content
        found: list[ManifestSummary] = []
        for each in index.manifests if isinstance(index, Index) else ():
            if is_index(each.media_type):
                inner = await self._document(each.digest)
                if inner is not None:
                    found += await self._of_index(image, inner)
            else:
                found.append(await self._summary(image, each))
        return found

    async def _summary(self, image: Image, descriptor: Descriptor) -> ManifestSummary:
        content = self._store.content
        read = await self._document(descriptor.digest)
        document = read.content if read is not None and isinstance(read.content, Manifest) else None
        here = []
        available = document is not None
        if read is not None and document is not None:
            here = [read.size]
            for blob in unique((document.config, *document.layers)):
                if content.has(blob.digest):
                    here.append(content.size(blob.digest))
                elif self._store.layers.find_by_blob(blob.digest) is None:
                    available = False
        size = sum(here)
        annotations = descriptor.annotations or {}
        shown = msgspec.structs.replace(descriptor, annotations=annotations or None)
        if annotations.get(REFERENCE_TYPE) == "attestation-manifest":
            return ManifestSummary(
                id=descriptor.digest,
                descriptor=shown,
                available=available,
                size=ManifestSize(total=size, content=size),
                kind="attestation",
                attestation_data=AttestationData(target=annotations.get(REFERENCE_DIGEST, "")),
            )
        is_image = document is None or is_image_config(document.config.media_type)
        if not is_image or (descriptor.platform is not None and descriptor.platform.os == "unknown"):
            return ManifestSummary(
                id=descriptor.digest,
                descriptor=shown,
                available=available,
                size=ManifestSize(total=size, content=size),
                kind="unknown",
            )
        is_own = descriptor.digest == image.manifest
        unpacked = image.size if is_own else 0
        platform = descriptor.platform or (image.platform if is_own else Platform(os="", architecture=""))
        return ManifestSummary(
            id=descriptor.digest,
            descriptor=shown,
            available=available,
            size=ManifestSize(total=size + unpacked, content=size),
            kind="image",
            image_data=ImageData(
                platform=platform,
                containers=list(self._users(image.id)) if is_own else [],
                size=UnpackedSize(unpacked=unpacked),
            ),
        )

    async def _manifest(self, descriptor: Descriptor) -> Manifest | None:
        document = await self._document(descriptor.digest)
        return document.content if document is not None and isinstance(document.content, Manifest) else None

    async def variant(self, ref: str, image: Image, platform: Platform | None) -> Variant:
        """The image for a platform, its own for None. Raises PlatformMissing."""
        if platform is None or satisfies(image.platform, platform):
            config = await self._store.images.config(image.id)
            return Variant(id=image.id, config=config, descriptor=await self.descriptor(image), sizes=None)
        chosen = await self._select(image, platform)
        document = await self._manifest(chosen) if chosen is not None else None
        if chosen is None or document is None or not self._store.content.has(document.config.digest):
            raise PlatformMissing(ref, platform)
        return Variant(
            id=document.config.digest,
            config=decode_config(await self._store.content.get(document.config.digest)),
            descriptor=chosen,
            sizes=tuple(layer.size for layer in document.layers),
        )

    async def _select(self, image: Image, platform: Platform) -> Descriptor | None:
        document = await self._document(image.index) if image.index else None
        index = document.content if document is not None else None
        return select(index.manifests, platform) if isinstance(index, Index) else None

    async def remove_platforms(self, ref: str, image: Image, platforms: Sequence[Platform]) -> list[Digest]:
        """Let go of the images for some platforms of an index; returns their manifests. The image's own stays.

        Raises PlatformMissing, and Conflict for the platform that the image's names stand for.
        """
        gone: list[Digest] = []
        for platform in platforms:
            if satisfies(image.platform, platform):
                raise Conflict(
                    f"conflict: unable to delete {ref} for {platform} alone: "
                    "it is what the image's names stand for here, remove the image instead"
                )
            chosen = await self._select(image, platform)
            if chosen is None or not self._store.content.has(chosen.digest):
                raise PlatformMissing(ref, platform)
            gone.append(chosen.digest)
        for digest in gone:
            await self._store.drop_content(digest)
        await self._store.collect()
        return gone
