"""Pull: an image from a registry into the store, under its name.

Life story: find the documents (documents.py), say so, bring the layers (download.py), store documents, image and name,
in this order. Whatever fails, only complete layers stay, and go with the next garbage collection.
"""

from datetime import UTC, datetime

import msgspec

from scow import points
from scow.oci.descriptor import Descriptor, unique
from scow.oci.digest import DiffID, short
from scow.oci.manifest import Index, Manifest, decode
from scow.oci.media_types import is_foreign, is_index
from scow.oci.platform import Platform, host_platform, satisfies
from scow.oci.reference import Reference
from scow.store.images import Image
from scow.store.store import Store
from scow.transfer.client import RegistryClient
from scow.transfer.credentials import Credentials
from scow.transfer.documents import Finder, Found, pull_error
from scow.transfer.download import LayerDownload, check_layer
from scow.transfer.flights import together
from scow.transfer.progress import Emit, message
from scow.transfer.registries import Registries
from scow.transfer.registry_error import Refused
from scow.transfer.restore import BlobDownload
from scow.wire.progress import progress_step


async def pull(
    reference: Reference,
    *,
    registries: Registries,
    store: Store,
    emit: Emit,
    credentials: Credentials | None = None,
    platform: Platform | None = None,
    every_platform: bool = False,
) -> Image:
    """Pull one image: by tag (`latest` if none is given) or digest (which wins over a tag).

    With `every_platform` an index is brought whole: the images for other platforms as their blobs, not ready to run.

    `emit` gets docker's lines; nothing is emitted before the registry has answered for the reference, so that earlier
    errors can still become a status. Raises PullRefused, RegistryUnreachable and the other errors of this package.
    """
    reference = reference.with_digest(reference.digest) if reference.digest else reference.with_default_tag()
    one = _Pull(reference, registries, store, emit, credentials, platform, every_platform)
    image, is_new = await one.run()
    _emit_status(reference, is_new, emit)
    return image


async def pull_all_tags(
    reference: Reference,
    *,
    registries: Registries,
    store: Store,
    emit: Emit,
    credentials: Credentials | None = None,
    platform: Platform | None = None,
    every_platform: bool = False,
) -> list[Image]:
    """Pull every tag of a repository, as `docker pull --all-tags`."""
    repository = reference.repository()
    try:
        tags = await registries.try_endpoints(repository, credentials, lambda client: client.tags())
    except Refused as error:
        raise pull_error(error, repository) from error
    images, is_new = [], False
    for tag in tags:
        one = _Pull(repository.with_tag(tag), registries, store, emit, credentials, platform, every_platform)
        image, is_newer = await one.run()
        images.append(image)
        is_new = is_new or is_newer
    _emit_status(repository, is_new, emit)
    return images


async def resolve(
    reference: Reference, *, registries: Registries, credentials: Credentials | None = None
) -> tuple[Descriptor, bytes]:
    """What a reference means at its registry now: the descriptor of its index or manifest, and its bytes.

    Raises PullRefused, RegistryUnreachable.
    """
    reference = reference.with_digest(reference.digest) if reference.digest else reference.with_default_tag()
    name = reference.digest or reference.tag or ""
    try:
        document = await registries.try_endpoints(reference, credentials, lambda client: client.manifest(name))
    except Refused as error:
        raise pull_error(error, reference) from error
    return (
        Descriptor(media_type=document.media_type, digest=document.digest, size=len(document.data)),
        document.data,
    )


def _emit_status(reference: Reference, is_new: bool, emit: Emit) -> None:
    what = "Downloaded newer image for" if is_new else "Image is up to date for"
    emit(message(f"Status: {what} {reference.familiar}"))


class _Pull:
    def __init__(
        self,
        reference: Reference,
        registries: Registries,
        store: Store,
        emit: Emit,
        credentials: Credentials | None,
        platform: Platform | None,
        every_platform: bool,
    ) -> None:
        self._every_platform = every_platform
        self._reference = reference
        self._registries = registries
        self._store = store
        self._emit = emit
        self._credentials = credentials
        self._wanted = platform

    async def run(self) -> tuple[Image, bool]:
        """The image, and whether the name means something new now."""
        # The lease spans all endpoints: what one has given isn't asked of the next.
        async with self._store.leases.hold():
            return await self._registries.try_endpoints(self._reference, self._credentials, self._run)

    async def _run(self, client: RegistryClient) -> tuple[Image, bool]:
        finder = Finder(client, self._store.content, self._reference)
        top = await finder.top(ask_first=self._may_be_known())
        by = str(self._reference) if self._reference.digest else self._reference.tag or ""
        self._emit(message(f"Pulling from {client.repository}", by))
        found = await finder.descend(top, self._wanted or host_platform())
        await points.at("pull.resolved")
        await self._bring(client, found)
        if self._every_platform:
            for index in found.indexes[:1]:
                await self._bring_rest(client, index.data)
        return await self._record(found)

    def _may_be_known(self) -> bool:
        if self._reference.digest:
            return self._store.content.has(self._reference.digest)
        return self._store.images.resolve(str(self._reference)) is not None

    async def _bring(self, client: RegistryClient, found: Found) -> None:
        layers = self._store.layers
        missing: dict[DiffID, Descriptor] = {}
        is_known = self._store.images.find(found.manifest.config.digest) is not None
        for descriptor, diff_id in zip(found.manifest.layers, found.config.diff_ids, strict=True):
            if layers.find(diff_id) is None:
                check_layer(descriptor)
                missing[diff_id] = descriptor
        if is_known and not missing:
            await self._put_documents(found)
            return
        for descriptor, diff_id in zip(found.manifest.layers, found.config.diff_ids, strict=True):
            is_wanted = missing.get(diff_id) == descriptor
            self._emit(progress_step(short(descriptor.digest), "Pulling fs layer" if is_wanted else "Already exists"))
        downloads = [
            LayerDownload(self._registries, client, self._store, descriptor, diff_id).run(self._emit)
            for diff_id, descriptor in missing.items()
        ]
        try:
            await together(self._put_documents(found), *downloads)
        except Refused as error:
            raise pull_error(error, self._reference) from error

    async def _bring_rest(self, client: RegistryClient, data: bytes) -> None:
        """Bring all that an index leads to, as content, and its documents after what they refer to."""
        index = decode(data)
        for descriptor in index.manifests if isinstance(index, Index) else ():
            content = self._store.content
            try:
                inner = await content.get(descriptor.digest) if content.has(descriptor.digest) else None
                if inner is None:
                    inner = (await client.manifest(descriptor.digest, descriptor)).data
                if is_index(descriptor.media_type):
                    await self._bring_rest(client, inner)
                else:
                    await self._bring_blobs(client, inner, descriptor.media_type)
            except Refused as error:
                raise pull_error(error, self._reference) from error
            await content.put(inner, descriptor.digest)

    async def _bring_blobs(self, client: RegistryClient, data: bytes, media_type: str) -> None:
        manifest = decode(data, media_type)
        assert isinstance(manifest, Manifest)

        async def bring(blob: Descriptor) -> None:
            if self._store.content.has(blob.digest) or is_foreign(blob.media_type):
                return
            download = BlobDownload(self._registries, client, self._store, blob, DiffID(blob.digest))
            self._emit(progress_step(short(blob.digest), "Pulling fs layer"))
            async with self._registries.downloads:
                await download.fetch(self._emit)
            self._emit(progress_step(short(blob.digest), "Download complete"))

        await together(*map(bring, unique((manifest.config, *manifest.layers))))

    async def _put_documents(self, found: Found) -> None:
        for digest, data in found.documents:
            if not self._store.content.has(digest):
                await self._store.content.put(data, digest)

    async def _record(self, found: Found) -> tuple[Image, bool]:
        images, config = self._store.images, found.config
        known = [self._store.layers.find(diff_id) for diff_id in config.diff_ids]
        image = Image(
            id=found.manifest.config.digest,
            manifest=found.manifest_document.digest,
            index=found.indexes[0].digest if found.indexes else None,
            platform=config.platform,
            diff_ids=config.diff_ids,
            size=sum(layer.files_size for layer in known if layer is not None),
            created=parse_created(config.created),
            stored_at=datetime.now(UTC),
        )
        before = images.find(image.id)
        if before is not None:
            image = msgspec.structs.replace(
                image, stored_at=before.stored_at, tagged_at=before.tagged_at, parent=before.parent
            )
        name = str(self._reference) if self._reference.tag else None
        by_digest = str(self._reference.with_digest(found.top.digest))
        is_new = images.resolve(name or by_digest) != image.id
        if is_new or image != before or images.resolve(by_digest) != image.id:
            await points.at("pull.brought")
            await images.publish(image, name=name, repo_digests=[by_digest])
        self._warn_of_platform(image)
        self._emit(message(f"Digest: {found.top.digest}"))
        return image, is_new

    def _warn_of_platform(self, image: Image) -> None:
        if self._wanted is not None and not satisfies(image.platform, self._wanted):
            # A manifest outside of an index is taken whatever it is for, with docker's words of warning.
            self._emit(
                message(
                    f"WARNING: image with reference {self._reference.familiar} was found but its platform "
                    f"({image.platform}) does not match the specified platform ({self._wanted})"
                )
            )


def parse_created(text: str | None) -> datetime | None:
    """Read a config's time; None if there is none, or it is Go's zero or malformed."""
    if not text or text.startswith("0001-"):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
