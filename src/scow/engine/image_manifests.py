"""What an image's index holds: its manifests, which of them are here, and the image for one platform among them.

An image of several platforms is one record in the catalogue, of the platform that runs here; the others are content
that its index leads to.
"""

from collections.abc import Callable, Sequence

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


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """An image for one platform: its record, or what an index has for another platform."""

    id: Digest
    config: ImageConfig
    descriptor: Descriptor | None  # of its manifest
    sizes: tuple[int, ...] | None  # of the layers' blobs; None if the layers themselves are here


class ImageManifests:
    """Looks into the indexes of images. `users` gives the IDs of the containers of an image."""

    def __init__(self, store: Store, users: Callable[[Digest], Sequence[str]]) -> None:
        self._store = store
        self._users = users

    async def descriptor(self, image: Image) -> Descriptor | None:
        """What a name of the image stands for: its index or manifest; None if it has neither yet."""
        content = self._store.content
        for digest in (image.index, image.manifest):
            if digest and content.has(Digest(digest)):
                data = await content.get(Digest(digest))
                return Descriptor(media_type=manifest.sniff(data), digest=Digest(digest), size=len(data))
        return None

    async def summaries(self, image: Image) -> list[ManifestSummary]:
        """Every manifest of the image, those that are not here included."""
        content = self._store.content
        if image.index and content.has(image.index):
            return await self._of_index(image, image.index)
        own = await self.descriptor(image)
        if own is None:
            return []
        return [await self._summary(image, msgspec.structs.replace(own, platform=image.platform))]

    async def _of_index(self, image: Image, digest: Digest) -> list[ManifestSummary]:
        document = manifest.decode(await self._store.content.get(digest))
        found: list[ManifestSummary] = []
        for each in document.manifests if isinstance(document, Index) else ():
            if is_index(each.media_type):
                if self._store.content.has(each.digest):
                    found += await self._of_index(image, each.digest)
            else:
                found.append(await self._summary(image, each))
        return found

    async def _summary(self, image: Image, descriptor: Descriptor) -> ManifestSummary:
        content = self._store.content
        document = await self._manifest(descriptor)
        here = []
        available = document is not None
        if document is not None:
            here = [len(await content.get(descriptor.digest))]
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
        if not self._store.content.has(descriptor.digest):
            return None
        document = manifest.decode(await self._store.content.get(descriptor.digest), descriptor.media_type)
        return document if isinstance(document, Manifest) else None

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
        content = self._store.content
        document = manifest.decode(await content.get(image.index)) if image.index and content.has(image.index) else None
        return select(document.manifests, platform) if isinstance(document, Index) else None

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
