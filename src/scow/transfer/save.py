"""Save: images from the store as an archive that is both docker's and an OCI layout, for whoever wants to load it.

Nothing is made anew: the archive is a list of tar headers and of files that are there, sent as they are. An image that
came from a registry goes out as its very manifest with its compressed blobs; any other with the tars of its layers and
a manifest that depends on nothing but them. An index goes along if the store has it, with what is here of its images.
The same images give the same bytes.
"""

import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from scow.errors import NotFound
from scow.oci import media_types
from scow.oci.descriptor import Descriptor
from scow.oci.digest import DiffID, Digest, algorithm, encoded, sha256
from scow.oci.image_config import decode_config
from scow.oci.manifest import Index, Manifest, decode, sniff
from scow.oci.platform import Platform, satisfies, select
from scow.oci.reference import Reference
from scow.store.images import Image
from scow.store.store import Store
from scow.transfer.archive_layout import (
    INDEX,
    LAYOUT,
    LAYOUT_DATA,
    MANIFEST,
    REPOSITORIES,
    Entry,
    blob_path,
    name_annotations,
)
from scow.transfer.restore import NotRestored, Restorer

_BLOCK: Final = 512
_RECORD: Final = 10240
_EPOCH: Final = 0


class PlatformMissing(NotFound):
    """The image isn't here for the platform. The words are docker's."""

    def __init__(self, name: str, platform: Platform) -> None:
        super().__init__(
            f"image with reference {name} was found but does not provide the specified platform ({platform})"
        )
        self.platform = platform


class Wanted(msgspec.Struct, frozen=True):
    """An image that is to be saved, under which tags; `ref` is what the user called it."""

    ref: str
    image: Image
    names: tuple[Reference, ...]


Part = bytes | tuple[Path, int]
"""Bytes of the archive, or a file and its size."""


async def plan(
    store: Store, wanted: Sequence[Wanted], platform: Platform | None = None, restorer: Restorer | None = None
) -> list[Part]:
    """The archive's parts, in order; `restorer` brings back compressed layers that aren't kept here.

    Hold a lease until they are sent. Raises PlatformMissing, NoSuchContent.
    """
    archive = _Archive(store, restorer)
    for each in wanted:
        await archive.add(each, platform)
    return archive.parts()


async def plan_form(
    store: Store,
    top: Descriptor,
    manifest: Digest,
    id: Digest,
    diff_ids: tuple[DiffID, ...],
    names: Sequence[Reference],
) -> list[Part]:
    """The parts of an archive of one index or manifest that is all here, whether or not the catalogue knows of it.

    `manifest`, `id` and `diff_ids` are those of the image that docker's `manifest.json` tells of. As `plan` otherwise.
    """
    archive = _Archive(store, None)
    await archive.add_form(top, manifest, id, diff_ids, names)
    return archive.parts()


def size_of(parts: Sequence[Part]) -> int:
    """The archive's bytes."""
    return sum(len(part) if isinstance(part, bytes) else part[1] for part in parts)


class _Archive:
    def __init__(self, store: Store, restorer: Restorer | None) -> None:
        self._store = store
        self._restorer = restorer
        self._blobs: dict[Digest, bytes | tuple[Path, int]] = {}
        self._entries: dict[tuple[Digest, tuple[Digest, ...]], Entry] = {}
        self._index: list[Descriptor] = []
        self._repositories: dict[str, dict[str, str]] = {}

    async def add(self, wanted: Wanted, platform: Platform | None) -> None:
        """Put one image in."""
        image = wanted.image
        content = self._store.content
        top: Descriptor | None = None
        if platform is None or satisfies(image.platform, platform):
            manifest = await self._known_manifest(Digest(image.manifest), image.diff_ids) if image.manifest else None
            if manifest is not None and platform is None and image.index and content.has(image.index):
                top = await self._whole_index(image.index)
            id, diff_ids = image.id, image.diff_ids
        else:
            found = await self._other_platform(wanted, platform)
            manifest, id, diff_ids = found
        config = Descriptor(media_type=media_types.OCI_CONFIG, digest=id, size=content.size(id))
        self._keep(id)
        if manifest is not None:
            digest, data, decoded = manifest
            self._blobs[digest] = data
            layers = list(decoded.layers)
            for layer in layers:
                self._keep(layer.digest)
            top = top or Descriptor(media_type=decoded.media_type or sniff(data), digest=digest, size=len(data))
        else:
            layers = [await self._tar(diff_id) for diff_id in diff_ids]
            data = _manifest(config, layers)
            self._blobs[sha256(data)] = data
            top = Descriptor(media_type=media_types.OCI_MANIFEST, digest=sha256(data), size=len(data))
        self._describe(top, config, diff_ids, layers, wanted.names)

    async def add_form(
        self,
        top: Descriptor,
        manifest: Digest,
        id: Digest,
        diff_ids: tuple[DiffID, ...],
        names: Sequence[Reference],
    ) -> None:
        """Put in what a descriptor leads to."""
        content = self._store.content
        if media_types.is_index(top.media_type):
            await self._whole_index(top.digest)
        known = await self._known_manifest(manifest, diff_ids)
        if known is None:
            raise NotFound(f"the layers of {manifest} are not here any more")
        self._blobs[manifest] = known[1]
        self._keep(id)
        for layer in known[2].layers:
            self._keep(layer.digest)
        config = Descriptor(media_type=media_types.OCI_CONFIG, digest=id, size=content.size(id))
        self._describe(top, config, diff_ids, known[2].layers, tuple(names))

    def _describe(
        self,
        top: Descriptor,
        config: Descriptor,
        diff_ids: Sequence[DiffID],
        layers: Sequence[Descriptor],
        names: Sequence[Reference],
    ) -> None:
        for name in names:
            named = msgspec.structs.replace(top, annotations={**(top.annotations or {}), **name_annotations(name)})
            if named not in self._index:
                self._index.append(named)
            if layers:
                self._repositories.setdefault(name.familiar_name, {})[name.tag or ""] = encoded(layers[-1].digest)
        if not names and not any(each.digest == top.digest for each in self._index):
            self._index.append(top)
        key = (config.digest, tuple(layer.digest for layer in layers))
        before = self._entries.get(key)
        tags = [*((before.repo_tags if before else None) or []), *(name.familiar for name in names)]
        self._entries[key] = Entry(
            config=blob_path(config.digest),
            repo_tags=list(dict.fromkeys(tags)) or None,
            layers=[blob_path(layer.digest) for layer in layers],
            layer_sources={
                diff_id: Descriptor(media_type=layer.media_type, digest=layer.digest, size=layer.size)
                for diff_id, layer in zip(diff_ids, layers, strict=True)
            },
        )

    async def _known_manifest(
        self, digest: Digest, diff_ids: Sequence[DiffID]
    ) -> tuple[Digest, bytes, Manifest] | None:
        """A manifest, if all of its blobs are here, or can be made again of their layers."""
        content = self._store.content
        if not content.has(digest):
            return None
        data = await content.get(digest)
        manifest = decode(data)
        if not isinstance(manifest, Manifest) or len(manifest.layers) != len(diff_ids):
            return None
        for layer, diff_id in zip(manifest.layers, diff_ids, strict=True):
            if not content.has(layer.digest) and not await self._bring_back(layer, diff_id):
                return None
        return digest, data, manifest

    async def _bring_back(self, layer: Descriptor, diff_id: DiffID) -> bool:
        if self._restorer is None:
            return await self._store.layers.remake(layer.digest)
        try:
            await self._restorer.blob(layer, diff_id)
        except NotRestored:
            return False
        return True

    async def _whole_index(self, digest: Digest) -> Descriptor:
        """Put in an index, and what the store has of its manifests and their blobs."""
        data = await self._store.content.get(digest)
        self._blobs[digest] = data
        index = decode(data)
        for each in index.manifests if isinstance(index, Index) else ():
            if not self._store.content.has(each.digest):
                continue
            if media_types.is_index(each.media_type):
                await self._whole_index(each.digest)
                continue
            inner = await self._store.content.get(each.digest)
            self._blobs[each.digest] = inner
            manifest = decode(inner, each.media_type)
            for blob in (manifest.config, *manifest.layers) if isinstance(manifest, Manifest) else ():
                if self._store.content.has(blob.digest):
                    self._keep(blob.digest)
        return Descriptor(media_type=sniff(data), digest=digest, size=len(data))

    async def _other_platform(
        self, wanted: Wanted, platform: Platform
    ) -> tuple[tuple[Digest, bytes, Manifest], Digest, tuple[DiffID, ...]]:
        """The image for another platform, which came with the index."""
        content, index = self._store.content, wanted.image.index
        if index is not None and content.has(index):
            document = decode(await content.get(index))
            chosen = select(document.manifests, platform) if isinstance(document, Index) else None
            if chosen is not None and content.has(chosen.digest):
                manifest = decode(await content.get(chosen.digest), chosen.media_type)
                if isinstance(manifest, Manifest) and content.has(manifest.config.digest):
                    diff_ids = decode_config(await content.get(manifest.config.digest)).diff_ids
                    found = await self._known_manifest(chosen.digest, diff_ids)
                    if found is not None:
                        return found, manifest.config.digest, diff_ids
        raise PlatformMissing(wanted.ref, platform)

    async def _tar(self, diff_id: DiffID) -> Descriptor:
        path = await self._store.layers.tar(diff_id)
        size = self._store.layers.get(diff_id).size
        self._blobs[diff_id] = (path, size)
        return Descriptor(media_type=media_types.OCI_LAYER, digest=diff_id, size=size)

    def _keep(self, digest: Digest) -> None:
        self._blobs[digest] = (self._store.content.path(digest), self._store.content.size(digest))

    def parts(self) -> list[Part]:
        """All of it, in the order of the names."""
        index = {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_INDEX,
            "manifests": [msgspec.to_builtins(each) for each in self._index],
        }
        files = [
            (INDEX, json.dumps(index, separators=(",", ":")).encode()),
            (MANIFEST, _encode_entries(list(self._entries.values()))),
            (LAYOUT, LAYOUT_DATA),
        ]
        if self._repositories:
            files.append((REPOSITORIES, json.dumps(self._repositories, separators=(",", ":")).encode()))
        return layout(self._blobs, files)


def layout(blobs: Mapping[Digest, bytes | tuple[Path, int]], files: Sequence[tuple[str, bytes]]) -> list[Part]:
    """An OCI layout's archive: its blobs in the order of their names, then the files that describe them."""
    parts: list[Part] = [_header("blobs", 0, is_folder=True)]
    by_path = sorted((blob_path(digest), blob) for digest, blob in blobs.items())
    for kind in sorted({algorithm(digest) for digest in blobs}):
        parts.append(_header(f"blobs/{kind}", 0, is_folder=True))
        for path, blob in by_path:
            if path.startswith(f"blobs/{kind}/"):
                _add(parts, path, blob)
    for name, data in files:
        _add(parts, name, data)
    end = 2 * _BLOCK
    parts.append(bytes(end + -(size_of(parts) + end) % _RECORD))
    return parts


def _encode_entries(entries: Sequence[Entry]) -> bytes:
    documents = []
    for entry in entries:
        document = msgspec.to_builtins(entry)
        document.setdefault("RepoTags", None)
        document.setdefault("Layers", None)
        documents.append(document)
    return json.dumps(documents, separators=(",", ":")).encode()


def _manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """The manifest of an image that has none: of OCI's form, deterministic."""
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": msgspec.to_builtins(config),
        "layers": [msgspec.to_builtins(layer) for layer in layers],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _header(name: str, size: int, *, is_folder: bool = False) -> bytes:
    entry = tarfile.TarInfo(f"{name}/" if is_folder else name)
    entry.size, entry.mtime = size, _EPOCH
    entry.mode = 0o755 if is_folder else 0o644
    entry.type = tarfile.DIRTYPE if is_folder else tarfile.REGTYPE
    return entry.tobuf(tarfile.GNU_FORMAT)


def _add(parts: list[Part], name: str, blob: bytes | tuple[Path, int]) -> None:
    size = len(blob) if isinstance(blob, bytes) else blob[1]
    parts += [_header(name, size), blob, bytes(-size % _BLOCK)]
