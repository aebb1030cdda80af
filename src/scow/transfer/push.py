"""Push: an image from the store into a registry.

Life story: say where to, learn for each layer which blob stands for it, bring the blobs that are missing there (by
mounting if a neighbour repository has them), then the config, then the manifest under its tag. An image that was
pulled goes out as the very bytes that came in; any other gets a manifest that depends on nothing but its content.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from scow.errors import InvalidArgument, NotFound
from scow.oci import media_types
from scow.oci.descriptor import Descriptor, unique
from scow.oci.digest import DiffID, Digest, sha256, short
from scow.oci.manifest import Index, Manifest, decode, sniff
from scow.oci.media_types import is_index
from scow.oci.platform import Platform, satisfies, select
from scow.oci.reference import Reference, parse_reference
from scow.store.images import Image
from scow.store.store import Store
from scow.transfer.client import RegistryClient
from scow.transfer.credentials import Credentials
from scow.transfer.flights import together
from scow.transfer.progress import Emit, Meter, aux, message
from scow.transfer.referrers import list_referrer
from scow.transfer.registries import Registries
from scow.transfer.registry_error import Refused
from scow.transfer.restore import NotRestored, Restorer
from scow.transfer.save import PlatformMissing
from scow.transfer.uploads import Upload
from scow.wire.progress import progress_step

log = logging.getLogger(__name__)

MAX_MOUNT_SOURCES: Final = 3
"""How many neighbour repositories are asked for a layer before it is sent."""
_MOUNT_WORTH: Final = 4 << 10
"""Below so many bytes sending a blob is as quick as asking for a mount."""


class DigestPush(InvalidArgument):
    """A digest can't be pushed to, only what has it. The words are docker's."""

    def __init__(self) -> None:
        super().__init__("cannot push a digest reference")


class NoSuchTag(NotFound):
    """No local image has the name that is to be pushed. The words are docker's."""

    def __init__(self, reference: Reference) -> None:
        super().__init__(f"An image does not exist locally with the tag: {reference.familiar_name}")
        self.reference = reference


class PushResult(msgspec.Struct, frozen=True, rename="pascal"):
    """What programs learn of a push, in `aux`."""

    tag: str
    digest: Digest
    size: int


async def push(
    reference: Reference,
    image: Image,
    *,
    registries: Registries,
    store: Store,
    emit: Emit,
    credentials: Credentials | None = None,
    platform: Platform | None = None,
) -> PushResult:
    """Push `image` under the tag of `reference` (`latest` if it has none).

    An index that is here whole, or whose missing parts the registry has, is pushed whole; with `platform` only what
    that names, as an image for one platform.

    Raises PlatformMissing, DigestPush, RegistryUnreachable, Refused and AuthenticationFailed.
    """
    if reference.digest:
        raise DigestPush
    reference = reference.with_default_tag()
    results = await _push_tags([(reference, image)], registries, store, emit, credentials, platform)
    return results[0]


async def push_artifact(
    reference: Reference,
    diff_ids: Sequence[DiffID],
    config_of: Callable[[Mapping[DiffID, Descriptor]], bytes],
    config_type: str,
    *,
    registries: Registries,
    store: Store,
    emit: Emit,
    credentials: Credentials | None = None,
) -> Digest:
    """Push layers with a config that is no image's; `config_of` makes it of the blobs that stand for the layers.

    Raises what `push` raises.
    """
    reference = reference.with_default_tag()

    async def push_with(client: RegistryClient) -> Digest:
        run = _Push(reference.repository(), client, registries, store, emit)
        return await run.artifact(reference.tag or "", diff_ids, config_of, config_type)

    async with store.leases.hold():
        return await registries.try_endpoints(reference, credentials, push_with, actions=("pull", "push"))


async def push_all_tags(
    reference: Reference,
    *,
    registries: Registries,
    store: Store,
    emit: Emit,
    credentials: Credentials | None = None,
    platform: Platform | None = None,
) -> list[PushResult]:
    """Push every local tag of a repository, as `docker push --all-tags`. Raises NoSuchTag if there is none."""
    work: list[tuple[Reference, Image]] = []
    for image in store.images.all():
        for name in store.images.names(image.id):
            tagged = parse_reference(name)
            if tagged.name == reference.name and tagged.tag:
                work.append((tagged, image))
    if not work:
        raise NoSuchTag(reference)
    work.sort(key=lambda item: item[0].tag or "")
    return await _push_tags(work, registries, store, emit, credentials, platform)


async def _push_tags(
    work: Sequence[tuple[Reference, Image]],
    registries: Registries,
    store: Store,
    emit: Emit,
    credentials: Credentials | None,
    platform: Platform | None,
) -> list[PushResult]:
    repository = work[0][0].repository()
    emit(message(f"The push refers to repository [{repository.name}]"))

    async def push_with(client: RegistryClient) -> list[PushResult]:
        try:
            # Asked before anything is told: the first endpoint of an insecure registry may be none.
            await client.ping()
        except Refused as error:
            log.debug("the ping was refused, which says nothing of the repository: %s", error)
        run = _Push(repository, client, registries, store, emit)
        run.restorer = Restorer(
            registries, store, lambda reference: credentials if reference.domain == repository.domain else None
        )
        return [await run.tag(reference.tag or "", image, platform) for reference, image in work]

    async with store.leases.hold():
        return await registries.try_endpoints(repository, credentials, push_with, actions=("pull", "push"))


class _Member(msgspec.Struct, frozen=True):
    """A document of an index; `manifest` is None if it is an index itself."""

    digest: Digest
    data: bytes
    media_type: str
    manifest: Manifest | None


class _Push:
    """One push, of one or several tags: what is known to be in the repository is not asked for twice."""

    def __init__(
        self, repository: Reference, client: RegistryClient, registries: Registries, store: Store, emit: Emit
    ) -> None:
        self._repository = repository
        self._client = client
        self._registries = registries
        self._store = store
        self._emit = emit
        self._there: set[Digest] = set()
        self.restorer = Restorer(registries, store)

    async def tag(self, tag: str, image: Image, platform: Platform | None) -> PushResult:
        if platform is not None and not satisfies(image.platform, platform):
            return await self._other_platform(tag, image, platform)
        diff_ids = list(dict.fromkeys(reversed(image.diff_ids)))
        for diff_id in diff_ids:
            self._emit(progress_step(short(diff_id), "Preparing"))
        whole = await self._whole_index(image.index) if image.index and platform is None else None
        manifest, data, media_type = await self._known_manifest(image) or (None, b"", "")
        if manifest is not None:
            # Two blobs may hold the same layer: each of them is wanted.
            pairs = {
                layer.digest: (diff_id, layer) for diff_id, layer in zip(image.diff_ids, manifest.layers, strict=True)
            }
            await together(self._config(manifest.config), *(self._layer(*pair) for pair in reversed(pairs.values())))
        else:
            blobs = dict(zip(diff_ids, await together(*map(self._any_layer, diff_ids)), strict=True))
            config = Descriptor(
                media_type=media_types.DOCKER_CONFIG, digest=image.id, size=self._store.content.size(image.id)
            )
            await self._config(config)
            data, media_type = build_manifest(config, [blobs[diff_id] for diff_id in image.diff_ids])
        if manifest is not None and whole is not None:
            data, media_type = await self._rest_of_index(whole)
            digest = Digest(image.index or "")
        else:
            digest = Digest(image.manifest) if manifest is not None else sha256(data)
        await self._client.put_manifest(tag, data, media_type)
        await self._remember(image, digest, data)
        return self._told(tag, digest, len(data))

    async def artifact(
        self,
        tag: str,
        diff_ids: Sequence[DiffID],
        config_of: Callable[[Mapping[DiffID, Descriptor]], bytes],
        config_type: str,
    ) -> Digest:
        """Push layers under a config and tag, as an OCI manifest."""
        blobs = dict(zip(diff_ids, await together(*map(self._any_layer, diff_ids)), strict=True))
        data = config_of(blobs)
        config = Descriptor(media_type=config_type, digest=await self._store.content.put(data), size=len(data))
        await self._config(config)
        document = artifact_manifest(config, tuple(blobs.values()))
        await self._client.put_manifest(tag, document, media_types.OCI_MANIFEST)
        return sha256(document)

    def _told(self, tag: str, digest: Digest, size: int) -> PushResult:
        result = PushResult(tag, digest, size)
        self._emit(message(f"{tag}: digest: {digest} size: {size}"))
        self._emit(aux(result))
        return result

    # indexes

    async def _whole_index(self, digest: Digest) -> list[_Member] | None:
        """An index and all that it leads to, the index last; None if a manifest isn't here, or a blob nowhere."""
        content = self._store.content
        if not content.has(digest):
            return None
        data = await content.get(digest)
        index = decode(data)
        if not isinstance(index, Index):
            return None
        found: list[_Member] = []
        for each in index.manifests:
            if is_index(each.media_type):
                inner = await self._whole_index(each.digest)
                if inner is None:
                    return None
                found += inner
                continue
            if not content.has(each.digest):
                return None
            inner_data = await content.get(each.digest)
            manifest = decode(inner_data, each.media_type)
            if not isinstance(manifest, Manifest) or not await self._has_blobs(manifest):
                return None
            found.append(_Member(each.digest, inner_data, sniff(inner_data), manifest))
        found.append(_Member(digest, data, sniff(data), None))
        return found

    async def _has_blobs(self, manifest: Manifest) -> bool:
        """Whether each blob of a manifest is here, or in the repository already."""
        for blob in (manifest.config, *manifest.layers):
            if not (_stays_away(blob) or self._store.content.has(blob.digest) or await self._is_there(blob)):
                return False
        return True

    async def _rest_of_index(self, members: Sequence[_Member]) -> tuple[bytes, str]:
        """Bring what an index leads to, under its digests; the index's own bytes and media type."""
        for member in members[:-1]:
            if member.manifest is not None:
                await self._blobs(member.manifest)
            listed = await self._client.put_manifest(member.digest, member.data, member.media_type)
            if member.manifest is not None and member.manifest.subject is not None and not listed:
                subject = member.manifest.subject.digest
                try:
                    await list_referrer(self._client, subject, member.digest, member.data)
                except Refused as error:  # all else is there: the index says of it, too
                    self._emit(message(f"{short(member.digest)} could not be listed as a referrer: {error}"))
        return members[-1].data, members[-1].media_type

    async def _blobs(self, manifest: Manifest) -> None:
        layers = unique(manifest.layers)
        await together(
            self._config(manifest.config), *(self._layer(DiffID(layer.digest), layer) for layer in reversed(layers))
        )

    async def _other_platform(self, tag: str, image: Image, platform: Platform) -> PushResult:
        """Push the image for another platform, which came with the index."""
        content = self._store.content
        index = decode(await content.get(image.index)) if image.index and content.has(image.index) else None
        chosen = select(index.manifests, platform) if isinstance(index, Index) else None
        if chosen is None or not content.has(chosen.digest):
            raise PlatformMissing(self._repository.with_tag(tag).familiar, platform)
        data = await content.get(chosen.digest)
        manifest = decode(data, chosen.media_type)
        if not isinstance(manifest, Manifest) or not await self._has_blobs(manifest):
            raise PlatformMissing(self._repository.with_tag(tag).familiar, platform)
        await self._blobs(manifest)
        await self._client.put_manifest(tag, data, sniff(data))
        return self._told(tag, chosen.digest, len(data))

    async def _known_manifest(self, image: Image) -> tuple[Manifest, bytes, str] | None:
        """The manifest that the image came with, if all of its blobs are here or there already."""
        content = self._store.content
        if not image.manifest or not content.has(Digest(image.manifest)):
            return None
        data = await content.get(Digest(image.manifest))
        manifest = decode(data)
        if not isinstance(manifest, Manifest) or len(manifest.layers) != len(image.diff_ids):
            return None
        unsure = {
            layer.digest: (layer, diff_id)
            for layer, diff_id in zip(manifest.layers, image.diff_ids, strict=True)
            if not (_stays_away(layer) or content.has(layer.digest))
        }

        async def can_be_had(layer: Descriptor, diff_id: DiffID) -> bool:
            if await self._client.blob_size(layer.digest) is not None:
                self._there.add(layer.digest)
                return True
            try:
                await self.restorer.blob(layer, diff_id)  # dropped, in an engine that doesn't keep compressed layers
            except NotRestored as error:
                log.info("the manifest of %s can't be pushed as it came: %s", image.id, error)
                return False
            return True

        if not all(await together(*(can_be_had(*each) for each in unsure.values()))):
            return None
        media_type = manifest.media_type or media_types.OCI_MANIFEST
        return manifest, data, media_type

    async def _any_layer(self, diff_id: DiffID) -> Descriptor:
        """Bring a layer in whatever compressed form we have, or make one."""
        layers = self._store.layers
        known = [blob for blob in layers.blobs(diff_id) if media_types.compression(blob.media_type) in _SENT]
        # Always the same one of several: the manifest's digest depends on it.
        best = min(known, key=lambda blob: _preference(blob, layers.compression), default=None)
        if best is None:
            meter = Meter(self._emit, short(diff_id), "Compressing", layers.get(diff_id).size)
            best = await layers.compress(diff_id, told=meter.show)
        await self._layer(diff_id, best)
        return best

    async def _layer(self, diff_id: DiffID, descriptor: Descriptor) -> None:
        id = short(diff_id)
        if _stays_away(descriptor):
            self._emit(progress_step(id, "Skipped foreign layer"))
            return
        if self._registries.uploads.locked():
            self._emit(progress_step(id, "Waiting"))
        async with self._registries.uploads:
            if await self._is_there(descriptor):
                self._emit(progress_step(id, "Layer already exists"))
                return
            meter = Meter(self._emit, id, "Pushing", descriptor.size)
            upload = Upload(self._client, self._store.content.path(descriptor.digest), descriptor, meter.show)
            sources = self._neighbours(diff_id) if descriptor.size >= _MOUNT_WORTH else []
            source = await upload.run(sources)
        self._there.add(descriptor.digest)
        self._emit(progress_step(id, f"Mounted from {source}" if source else "Pushed"))

    async def _config(self, descriptor: Descriptor) -> None:
        if not await self._is_there(descriptor):
            path = self._store.content.path(descriptor.digest)
            await Upload(self._client, path, descriptor, lambda done: None).run()
            self._there.add(descriptor.digest)

    async def _is_there(self, descriptor: Descriptor) -> bool:
        if descriptor.digest not in self._there and await self._client.blob_size(descriptor.digest) is None:
            return False
        self._there.add(descriptor.digest)
        return True

    def _neighbours(self, diff_id: DiffID) -> list[str]:
        """Repositories of the same registry that have held an image with this layer."""
        images = self._store.images
        found: dict[str, None] = {}
        for image in images.all():
            if diff_id in image.diff_ids:
                for name in images.digests(image.id):
                    near = parse_reference(name)
                    if near.domain == self._repository.domain and near.path != self._repository.path:
                        found[near.path] = None
        return list(found)[:MAX_MOUNT_SOURCES]

    async def _remember(self, image: Image, digest: Digest, data: bytes) -> None:
        """Keep the manifest: the next push, to wherever, gives the same digest, and the image can be found by it."""
        if not self._store.content.has(digest):
            await self._store.content.put(data, digest)
        current = self._store.images.find(image.id)
        if current is not None:
            if digest not in (current.manifest, current.index):
                current = msgspec.structs.replace(current, manifest=digest, index=None)
            await self._store.images.publish(current, repo_digests=[str(self._repository.with_digest(digest))])


_SENT: Final = (media_types.Compression.GZIP, media_types.Compression.ZSTD, media_types.Compression.NONE)


def _preference(blob: Descriptor, wanted: media_types.Compression) -> tuple[bool, int, str]:
    compression = media_types.compression(blob.media_type)
    return compression is not wanted, _SENT.index(compression or media_types.Compression.NONE), blob.digest


def _stays_away(descriptor: Descriptor) -> bool:
    """Whether a layer is not for distribution: its manifest says where to get it. image-spec layer.md."""
    return media_types.is_foreign(descriptor.media_type) and bool(descriptor.urls)


def artifact_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """An OCI manifest of what is no image. image-spec manifest.md."""
    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": config,
            "layers": [Descriptor(media_type=each.media_type, digest=each.digest, size=each.size) for each in layers],
        }
    )


def build_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> tuple[bytes, str]:
    """Make a manifest of docker's schema 2, or OCI's if a layer needs it: its bytes and media type.

    The same content gives the same bytes, and docker's daemon would write them so, too.
    """
    kinds = {media_types.compression(layer.media_type) for layer in layers}
    is_docker = kinds <= {media_types.Compression.GZIP}
    own = media_types.DOCKER_MANIFEST if is_docker else media_types.OCI_MANIFEST
    names = {
        media_types.Compression.GZIP: media_types.OCI_LAYER_GZIP,
        media_types.Compression.ZSTD: media_types.OCI_LAYER_ZSTD,
        media_types.Compression.NONE: media_types.OCI_LAYER,
    }

    def pointer(media_type: str, descriptor: Descriptor) -> dict[str, object]:
        return {"mediaType": media_type, "size": descriptor.size, "digest": descriptor.digest}

    def layer_type(layer: Descriptor) -> str:
        if is_docker:
            return media_types.DOCKER_LAYER_GZIP
        compression = media_types.compression(layer.media_type)
        return names[compression] if compression else layer.media_type

    document = {
        "schemaVersion": 2,
        "mediaType": own,
        "config": pointer(media_types.DOCKER_CONFIG if is_docker else media_types.OCI_CONFIG, config),
        "layers": [pointer(layer_type(layer), layer) for layer in layers],
    }
    return json.dumps(document, indent=3).encode(), own
