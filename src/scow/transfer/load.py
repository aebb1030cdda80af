"""Load: images from an archive into the store, under the names that it gives them.

Life story: the archive is taken apart as it arrives (store/intake.py); then its documents are read and checked; then
the layers that the store lacks become layers, each verified against its diff ID and, where a manifest names its blob,
against that; and at the very end, when nothing can be wrong any more, documents, images and names become visible.

Manifests are kept as the very bytes that they are, with one exception: the OCI manifest that `docker save` writes over
uncompressed layers. It belongs to the archive, not to the image, which would be pushed uncompressed for ever after.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from scow import points
from scow.errors import NotFound
from scow.oci import media_types
from scow.oci.descriptor import Descriptor
from scow.oci.digest import DiffID, Digest, sha256, short
from scow.oci.image_config import MAX_CONFIG_SIZE, ImageConfig, decode_config
from scow.oci.manifest import MAX_DOCUMENT_SIZE, Index, Manifest, decode
from scow.oci.platform import Platform, candidates, host_platform, normalize, satisfies
from scow.oci.reference import InvalidReference, Reference, parse_reference
from scow.store.compression import sniff
from scow.store.images import Image
from scow.store.intake import Member, Members, intake
from scow.store.layer_errors import InvalidArchive
from scow.store.store import Store
from scow.transfer.archive_layout import INDEX, LIST_LIMIT, MANIFEST, REPOSITORIES, Entry, name_of
from scow.transfer.documents import RootFSMismatch, WrongSystem, is_image_config
from scow.transfer.flights import together
from scow.transfer.legacy_archive import convert
from scow.transfer.progress import Emit, Meter
from scow.transfer.pull import parse_created
from scow.wire.progress import ProgressMessage, progress_step

MAX_DEPTH: Final = 4
"""How many indexes may lie inside each other."""


class NoSuchPlatform(NotFound):
    """The archive has no image for the platform."""

    def __init__(self, platform: Platform) -> None:
        super().__init__(f"no image for the platform {platform} in the archive")
        self.platform = platform


class Loaded(msgspec.Struct, frozen=True):
    """One image that was loaded, and the names that it got."""

    image: Image
    names: tuple[Reference, ...]


class _Source(msgspec.Struct, frozen=True):
    """A layer in the archive: its file, and the descriptor of that if a manifest has one."""

    member: Member
    blob: Descriptor | None


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """An image in the archive, its documents read."""

    config_data: bytes
    config: ImageConfig
    id: Digest
    sources: tuple[_Source, ...]
    names: tuple[Reference, ...] = ()
    top: Digest | None = None  # of the index or manifest that its names stand for
    manifest: Digest | None = None
    documents: dict[Digest, bytes] = {}
    extra: tuple[Member, ...] = ()  # blobs of other platforms


async def load(
    arriving: AsyncIterator[bytes], *, store: Store, emit: Emit, quiet: bool = False, platform: Platform | None = None
) -> list[Loaded]:
    """Load all images of an archive, or those for `platform`. Layers that are here are passed over.

    Raises InvalidArchive, NoSuchPlatform, ManifestInvalid, ConfigInvalid, RootFSMismatch, DigestMismatch, LayerCorrupt
    and the other errors of the store; then nothing was loaded.
    """
    async with store.leases.hold() as lease:
        known = _known(store)
        lease.protect(*known)
        async with intake(store.workers, store.paths.ingest, known) as writer:
            async for data in arriving:
                await writer.write(data)
            members = await writer.finish()
            await points.at("load.arrived")
            found = await _Reader(members, platform).run()
            await _bring(found, store, emit if not quiet else _say_nothing)
            await points.at("load.brought")
            loaded = []
            for each in found:
                loaded.append(await _publish(each, store, emit))
            return loaded


def _known(store: Store) -> list[Digest]:
    """The blobs of layers, and their tars, that are here."""
    known: list[Digest] = []
    for layer in store.layers.all():
        if store.layers.find(layer.diff_id) is not None:
            known.append(layer.diff_id)
            known += [blob.digest for blob in store.layers.blobs(layer.diff_id)]
    return [digest for digest in known if digest.startswith("sha256:")]


def _say_nothing(_: ProgressMessage) -> None:
    """Take a line that nobody wants to see."""


class _Reader:
    """Finds the images of an archive."""

    def __init__(self, members: Members, platform: Platform | None) -> None:
        self._members = members
        self._wanted = platform

    async def run(self) -> list[_Found]:
        """What there is; at least one image."""
        index, manifest = self._members.find(INDEX), self._members.find(MANIFEST)
        layout = await self._layout(index) if index is not None else []
        if manifest is not None and not (layout and self._wanted):
            data = await self._members.read(manifest, LIST_LIMIT)
            try:
                entries = msgspec.json.decode(data, type=list[Entry])
            except (msgspec.DecodeError, RecursionError) as error:
                raise InvalidArchive(f"{MANIFEST}: {error}") from error
            by_config = {each.id: each for each in layout}
            found = [await self._entry(entry, by_config) for entry in entries]
        elif index is not None:
            found = _merged(layout)
        elif (repositories := self._members.find(REPOSITORIES)) is not None:
            found = [await self._entry(*made) for made in await convert(self._members, repositories)]
        else:
            raise InvalidArchive(f"it does not contain a {MANIFEST} or {INDEX}")
        if self._wanted is not None:
            found = [each for each in found if satisfies(each.config.platform, self._wanted)]
            if not found:
                raise NoSuchPlatform(self._wanted)
        if not found:
            raise InvalidArchive("it has no images")
        return found

    # docker's

    async def _entry(self, entry: Entry, layout: dict[Digest, _Found], made: bytes | None = None) -> _Found:
        member = self._members.get(entry.config) if made is None else None
        data = made if member is None else await self._members.read(member, MAX_CONFIG_SIZE)
        assert data is not None
        config, id = _decode_config(data)
        names = []
        for text in entry.repo_tags or ():
            try:
                name = parse_reference(text)
            except InvalidReference as error:
                raise InvalidArchive(f"invalid tag {text!r}") from error
            if name.tag is None or name.digest is not None:
                raise InvalidArchive(f"invalid tag {text!r}")
            names.append(name)
        layers = entry.layers or []
        if len(layers) != len(config.diff_ids):
            raise RootFSMismatch
        beside = layout.get(id)
        if beside is not None and all(source.blob and _is_compressed(source.blob) for source in beside.sources):
            return msgspec.structs.replace(beside, names=tuple(names))
        sources = tuple(_Source(self._members.get(name), None) for name in layers)
        return _Found(config_data=data, config=config, id=id, sources=sources, names=tuple(names))

    # OCI's

    async def _layout(self, member: Member) -> list[_Found]:
        index = decode(await self._members.read(member, LIST_LIMIT), media_types.OCI_INDEX)
        if not isinstance(index, Index):
            raise InvalidArchive(f"{INDEX} is no index")
        found = []
        for descriptor in index.manifests:
            image = await self._top(descriptor)
            if image is not None:
                found.append(image)
        return found

    async def _top(self, descriptor: Descriptor) -> _Found | None:
        documents: dict[Digest, bytes] = {}
        manifests: list[tuple[Digest, Manifest, Platform | None]] = []
        await self._walk(descriptor, documents, manifests, MAX_DEPTH, is_top=True)
        images: list[tuple[Digest, Manifest, ImageConfig, bytes]] = []
        extra: list[Member] = []
        for digest, manifest, platform in manifests:
            blobs = [self._members.blob(each.digest) for each in (manifest.config, *manifest.layers)]
            is_image = is_image_config(manifest.config.media_type) and (platform is None or platform.os != "unknown")
            if not is_image:
                extra += [each for each in blobs if each is not None]
            elif blobs[0] is not None and (all(blobs) or len(manifests) == 1):
                data = await self._members.read(blobs[0], MAX_CONFIG_SIZE)
                images.append((digest, manifest, _decode_config(data)[0], data))
        if not images:
            return None
        chosen = _choose([image[2].platform for image in images], self._wanted)
        for number, (_, manifest, _, _) in enumerate(images):
            if number != chosen:
                extra += [
                    each
                    for each in map(self._members.blob, (one.digest for one in (manifest.config, *manifest.layers)))
                    if each is not None
                ]
        digest, manifest, config, data = images[chosen]
        if config.os not in ("", "linux"):
            raise WrongSystem(config.os)
        if len(config.diff_ids) != len(manifest.layers):
            raise RootFSMismatch
        sources = []
        for layer in manifest.layers:
            member = self._members.blob(layer.digest)
            if member is None:
                raise InvalidArchive(f"it has no blob {layer.digest}")
            if member.size != layer.size:
                raise InvalidArchive(f"blob {layer.digest} has {member.size} bytes instead of {layer.size}")
            sources.append(_Source(member, layer))
        name = name_of(descriptor)
        return _Found(
            config_data=data,
            config=config,
            id=manifest.config.digest,
            sources=tuple(sources),
            names=(name,) if name is not None else (),
            top=descriptor.digest,
            manifest=digest,
            documents=documents,
            extra=tuple(extra),
        )

    async def _walk(
        self,
        descriptor: Descriptor,
        documents: dict[Digest, bytes],
        manifests: list[tuple[Digest, Manifest, Platform | None]],
        depth: int,
        *,
        is_top: bool = False,
    ) -> None:
        """Read a manifest, or an index and those of its manifests that the archive has."""
        member = self._members.blob(descriptor.digest)
        if member is None:
            if is_top:
                raise InvalidArchive(f"it has no blob {descriptor.digest}")
            return
        data = await self._members.read(member, MAX_DOCUMENT_SIZE)
        document = decode(data, descriptor.media_type)
        documents[descriptor.digest] = data
        if isinstance(document, Manifest):
            manifests.append((descriptor.digest, document, descriptor.platform))
        elif depth == 0:
            raise InvalidArchive("indexes lie too deep inside each other")
        else:
            for each in document.manifests:
                await self._walk(each, documents, manifests, depth - 1)


def _choose(offered: Sequence[Platform], wanted: Platform | None) -> int:
    """Which of the platforms is loaded: the wanted one, this machine's, or the first."""
    for candidate in candidates(wanted or host_platform()):
        for number, platform in enumerate(offered):
            if normalize(platform) == candidate:
                return number
    return 0


def _merged(found: Iterable[_Found]) -> list[_Found]:
    """Several entries of an index may name the same image."""
    merged: dict[tuple[Digest | None, Digest], _Found] = {}
    for each in found:
        known = merged.get((each.top, each.id))
        names = (*known.names, *each.names) if known else each.names
        merged[each.top, each.id] = msgspec.structs.replace(each, names=tuple(dict.fromkeys(names)))
    return list(merged.values())


def _decode_config(data: bytes) -> tuple[ImageConfig, Digest]:
    return decode_config(data), sha256(data)


def _is_compressed(blob: Descriptor) -> bool:
    return media_types.compression(blob.media_type) is not media_types.Compression.NONE


# into the store


async def _bring(found: Sequence[_Found], store: Store, emit: Emit) -> None:
    """Make layers of what is not here yet, all at once as workers are free."""
    work: dict[DiffID, _Source] = {}
    blobs: dict[Digest, Member] = {}
    for image in found:
        for diff_id, source in zip(image.config.diff_ids, image.sources, strict=True):
            if store.layers.find(diff_id) is None:
                if source.member.path is None:
                    raise InvalidArchive(f"it tells of layer {diff_id}, which is another one than its name says")
                before = work.get(diff_id)
                work[diff_id] = source if before is None or before.blob is None else before
            if source.blob is not None:
                inflated = store.layers.find_by_blob(source.blob.digest)
                if inflated is not None and inflated.diff_id != diff_id:
                    raise RootFSMismatch
            if source.blob is not None and source.member.path is not None:
                blobs[source.blob.digest] = source.member
        for member in image.extra:
            if member.path is not None:
                blobs[member.digest] = member

    async def bring(diff_id: DiffID, source: _Source) -> None:
        member = source.member
        assert member.path is not None
        meter = Meter(emit, short(diff_id), "Loading layer", member.size)
        emit(progress_step(short(diff_id), "Loading layer", 0, member.size))
        await store.layers.take(member.path, member.digest, diff_id, source.blob or _blob_of(member), meter.show)
        emit(progress_step(short(diff_id), "Loading layer", member.size, member.size))

    await together(*(bring(diff_id, source) for diff_id, source in work.items()))
    for digest, member in blobs.items():
        if not store.content.has(digest) and member.path is not None:
            await asyncio.to_thread(_sync, member.path)
            await store.content.adopt(member.path, digest)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _blob_of(member: Member) -> Descriptor | None:
    """A layer of docker's archive that is compressed is a blob like any other. Its media type is found out."""
    assert member.path is not None
    with member.path.open("rb") as file:
        head = file.read(16)
    if sniff(head) is media_types.Compression.NONE:
        return None
    return Descriptor(media_type="", digest=member.digest, size=member.size)


async def _publish(found: _Found, store: Store, emit: Emit) -> Loaded:
    images, config = store.images, found.config
    await store.content.put(found.config_data, found.id)
    for digest, data in found.documents.items():
        await store.content.put(data, digest)
    known = [store.layers.get(diff_id) for diff_id in config.diff_ids]
    before = images.find(found.id)
    image = Image(
        id=found.id,
        manifest=found.manifest or (before.manifest if before else ""),
        index=found.top if found.top != found.manifest else None,
        parent=before.parent if before else None,
        platform=config.platform,
        diff_ids=config.diff_ids,
        size=sum(layer.files_size for layer in known),
        created=parse_created(config.created),
        stored_at=before.stored_at if before else datetime.now(UTC),
        tagged_at=before.tagged_at if before else None,
    )
    if before is not None and found.manifest is None:
        image = msgspec.structs.replace(image, index=before.index)
    top = found.top
    repo_digests = sorted({str(name.with_digest(top)) for name in found.names}) if top is not None else []
    if not found.names:
        if image != before:
            await images.publish(image, repo_digests=repo_digests)
        emit(ProgressMessage(stream=f"Loaded image ID: {image.id}\n"))
    for name in found.names:
        old = await images.publish(image, name=str(name), repo_digests=repo_digests)
        if old is not None:
            emit(
                ProgressMessage(
                    stream=f"The image {name.familiar} already exists, "
                    f"renaming the old one with ID {old} to empty string\n"
                )
            )
        emit(ProgressMessage(stream=f"Loaded image: {name.familiar}\n"))
    return Loaded(image, found.names)
