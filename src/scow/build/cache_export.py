"""`--cache-to`: a build's cache for others, in a registry or as an OCI layout."""

import json
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from scow.build.cache import Record
from scow.build.cache_document import CONFIG_TYPE, encode_cache
from scow.oci import media_types
from scow.oci.descriptor import Descriptor
from scow.oci.digest import DiffID, Digest, sha256
from scow.oci.reference import Reference
from scow.store.store import Store
from scow.transfer.archive_layout import INDEX, LAYOUT, LAYOUT_DATA
from scow.transfer.credentials import Credentials
from scow.transfer.progress import Emit
from scow.transfer.push import artifact_manifest, push_artifact
from scow.transfer.registries import Registries
from scow.transfer.save import Part, layout

Mode = Literal["min", "max"]


async def push_cache(
    reference: Reference,
    records: Sequence[Record],
    *,
    registries: Registries,
    store: Store,
    emit: Emit,
    credentials: Credentials | None,
) -> Digest:
    """Bring steps and their layers into a registry. Raises what a push raises."""
    return await push_artifact(
        reference,
        layers_of(records),
        lambda blobs: encode_cache(records, blobs),
        CONFIG_TYPE,
        registries=registries,
        store=store,
        emit=emit,
        credentials=credentials,
    )


async def cache_layout(records: Sequence[Record], store: Store) -> list[Part]:
    """Steps and their layers as the archive of an OCI layout. Hold a lease until it is sent."""
    found = {diff_id: await store.layers.compress(diff_id) for diff_id in layers_of(records)}
    config = encode_cache(records, found)
    described = Descriptor(media_type=CONFIG_TYPE, digest=sha256(config), size=len(config))
    manifest = artifact_manifest(described, tuple(found.values()))
    top = Descriptor(media_type=media_types.OCI_MANIFEST, digest=sha256(manifest), size=len(manifest))
    index = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [msgspec.to_builtins(top)]}
    blobs: dict[Digest, Part] = {described.digest: config, top.digest: manifest}
    for blob in found.values():
        if not store.content.has(blob.digest):
            await store.layers.remake(blob.digest)
        blobs[blob.digest] = store.content.path(blob.digest), blob.size
    return layout(blobs, [(INDEX, json.dumps(index).encode()), (LAYOUT, LAYOUT_DATA)])


def layers_of(records: Iterable[Record]) -> list[DiffID]:
    """The layers of steps, each once, in an order that depends on nothing else."""
    return sorted({record.diff_id for record in records if record.diff_id})
