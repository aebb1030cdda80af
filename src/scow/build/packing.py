"""A result as an image that can be named, saved and pushed as it is: manifests, and an index over several of them.

What has neither several platforms nor notes nor attestations is one manifest. The same results and options give the
same bytes.
"""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from scow.build.attestation import Predicate, attach, encode
from scow.build.image_state import ImageState
from scow.build.output import Annotation, Output, Place
from scow.errors import InvalidArgument
from scow.oci import media_types
from scow.oci.descriptor import Descriptor
from scow.oci.digest import DiffID, Digest, sha256
from scow.oci.image_config import encode_config
from scow.oci.media_types import Compression
from scow.oci.platform import Platform, satisfies
from scow.store.store import Store

_OCI_LAYERS = {
    Compression.NONE: media_types.OCI_LAYER,
    Compression.GZIP: media_types.OCI_LAYER_GZIP,
    Compression.ZSTD: media_types.OCI_LAYER_ZSTD,
}
_DOCKER_LAYERS = {Compression.NONE: media_types.DOCKER_LAYER, Compression.GZIP: media_types.DOCKER_LAYER_GZIP}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What was built for one platform."""

    platform: Platform
    id: Digest  # of the config
    state: ImageState
    inherited: int  # how many layers are the base image's
    predicates: tuple[Predicate, ...] = ()


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """An image in its form; all documents and blobs are in the store."""

    top: Descriptor
    manifests: tuple[Descriptor, ...]  # of the outcomes, in their order
    is_index: bool
    digests: frozenset[str]  # all that belongs to it


async def pack(store: Store, outcomes: Sequence[Outcome], output: Output, names: Sequence[str]) -> Packed:
    """Make the documents of an image, and compress the layers that need it. Hold a lease around it.

    `names` are what attestations call the image. Raises InvalidArgument for annotations that have no place.
    """
    return await _Packing(store, outcomes, output, names).run()


class _Packing:
    def __init__(self, store: Store, outcomes: Sequence[Outcome], output: Output, names: Sequence[str]) -> None:
        self._store = store
        self._outcomes = outcomes
        self._output = output
        self._names = names
        self._digests: set[str] = set()
        told = any(each.predicates for each in outcomes)
        notes = output.annotations
        self._is_index = len(outcomes) > 1 or told or any(each.place == "index" for each in notes)
        needs_oci = told or bool(notes) or output.compression is Compression.ZSTD
        if output.oci is False and (needs_oci or (output.force and output.compression is Compression.ZSTD)):
            raise InvalidArgument("oci-mediatypes=false can't hold zstd layers, annotations or attestations")
        self._oci = output.oci or needs_oci
        self._may_be_oci = output.oci is not False
        for note in notes:
            if note.platform is not None and not any(satisfies(each.platform, note.platform) for each in outcomes):
                raise InvalidArgument(f"annotation {note.key} is for {note.platform}, which is not built")

    async def run(self) -> Packed:
        manifests = [await self._manifest(outcome) for outcome in self._outcomes]
        top = manifests[0]
        if self._is_index:
            attached = []
            for outcome, manifest in zip(self._outcomes, manifests, strict=True):
                if outcome.predicates:
                    names = [_purl(name, outcome.platform) for name in self._names] or ["_"]
                    # In a thread: a large image's packages are some megabytes of JSON.
                    descriptor, documents = await asyncio.to_thread(attach, outcome.predicates, names, manifest)
                    for document in documents.values():
                        await self._put(document)
                    attached.append(descriptor)
            top = await self._index([*manifests, *attached])
        return Packed(top=top, manifests=tuple(manifests), is_index=self._is_index, digests=frozenset(self._digests))

    async def _manifest(self, outcome: Outcome) -> Descriptor:
        layers = [
            await self._layer(diff_id, inherited=number < outcome.inherited)
            for number, diff_id in enumerate(outcome.state.diff_ids)
        ]
        oci = self._oci or any(media_types.compression(layer.media_type) is Compression.ZSTD for layer in layers)
        await self._put(encode_config(outcome.state.image_config()), outcome.id)
        document: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST if oci else media_types.DOCKER_MANIFEST,
            "config": _pointer(
                media_types.OCI_CONFIG if oci else media_types.DOCKER_CONFIG,
                outcome.id,
                self._store.content.size(outcome.id),
            ),
            "layers": [_pointer(_layer_type(layer, oci), layer.digest, layer.size) for layer in layers],
        }
        if notes := self._notes("manifest", outcome.platform):
            document["annotations"] = notes
        data = encode(document)
        return Descriptor(
            media_type=str(document["mediaType"]),
            digest=await self._put(data),
            size=len(data),
            annotations=self._notes("manifest-descriptor", outcome.platform) or None,
            platform=outcome.platform,
        )

    async def _layer(self, diff_id: DiffID, *, inherited: bool) -> Descriptor:
        """A layer's blob: one that is known, if it will do, else made."""
        layers, wanted, level = self._store.layers, self._output.compression, self._output.level
        usual = layers.compression
        known = {
            compression: blob
            for blob in sorted(layers.blobs(diff_id), key=lambda each: each.digest, reverse=True)
            if self._store.content.has(blob.digest)
            and (compression := media_types.compression(blob.media_type))
            in (_OCI_LAYERS if self._may_be_oci else _DOCKER_LAYERS)
        }
        if inherited and not self._output.force:
            # What a base came with stays; always the same one of several, so that the digest depends on nothing else.
            blob = known.get(usual) or next((known[each] for each in _OCI_LAYERS if each in known), None)
        else:
            blob = known.get(wanted or usual) if level is None else None
        blob = blob or await layers.compress(diff_id, wanted, level)
        self._digests |= {diff_id, blob.digest}
        return blob

    async def _index(self, descriptors: Sequence[Descriptor]) -> Descriptor:
        oci = self._oci or any(each.media_type == media_types.OCI_MANIFEST for each in descriptors)
        media_type = media_types.OCI_INDEX if oci else media_types.DOCKER_MANIFEST_LIST
        document: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "manifests": [msgspec.to_builtins(each) for each in descriptors],
        }
        if notes := self._notes("index", None):
            document["annotations"] = notes
        data = encode(document)
        return Descriptor(
            media_type=media_type,
            digest=await self._put(data),
            size=len(data),
            annotations=self._notes("index-descriptor", None) or None,
        )

    def _notes(self, place: Place, platform: Platform | None) -> dict[str, str]:
        def fits(note: Annotation) -> bool:
            wanted = note.platform
            return note.place == place and (wanted is None or (platform is not None and satisfies(platform, wanted)))

        return {note.key: note.value for note in self._output.annotations if fits(note)}

    async def _put(self, data: bytes, digest: Digest | None = None) -> Digest:
        digest = digest or sha256(data)
        if not self._store.content.has(digest):
            await self._store.content.put(data, digest)
        self._digests.add(digest)
        return digest


def _layer_type(layer: Descriptor, oci: bool) -> str:
    compression = media_types.compression(layer.media_type) or Compression.GZIP
    return _OCI_LAYERS[compression] if oci else _DOCKER_LAYERS[compression]


def _pointer(media_type: str, digest: Digest, size: int) -> Mapping[str, object]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _purl(name: str, platform: Platform) -> str:
    """An image as a package URL: `pkg:docker/debian@12?platform=linux%2Famd64`. purl-spec, type docker."""
    from urllib.parse import quote

    repository, _, tag = name.rpartition(":")
    return f"pkg:docker/{quote(repository)}@{quote(tag, safe='')}?platform={quote(str(platform), safe='')}"
