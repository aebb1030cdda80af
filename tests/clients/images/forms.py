"""Images in all forms that registries hold: media types, compressions, indexes, and documents that make no sense."""

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import zstandard

from scow.oci import media_types
from scow.oci.platform import host_platform
from scow.samples.__main__ import push_blob, put
from scow.samples.hello_world import Blob
from support.images import blob, busybox_files, document, tar

MACHINE = host_platform().architecture
LAYER_TYPES = {
    ("oci", "gzip"): media_types.OCI_LAYER_GZIP,
    ("oci", "zstd"): media_types.OCI_LAYER_ZSTD,
    ("oci", "none"): media_types.OCI_LAYER,
    ("docker", "gzip"): media_types.DOCKER_LAYER_GZIP,
}
SQUEEZE = {"gzip": lambda data: gzip.compress(data, 1, mtime=0), "zstd": zstandard.compress, "none": bytes}


class Made(NamedTuple):
    """A manifest with its blobs."""

    manifest: Blob
    blobs: list[Blob]


def make(
    layers: Sequence[bytes],
    form: str = "oci",
    compression: str = "gzip",
    *,
    architecture: str = MACHINE,
    variant: str = "",
    config: Mapping[str, Any] | None = None,
) -> Made:
    """An image of these tars."""
    packed = [blob(LAYER_TYPES[form, compression], SQUEEZE[compression](layer)) for layer in layers]
    kinds = {"oci": media_types.OCI_CONFIG, "docker": media_types.DOCKER_CONFIG}
    described = document(
        kinds[form],
        {
            "architecture": architecture,
            **({"variant": variant} if variant else {}),
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], **(config or {})},
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers],
            },
        },
    )
    return Made(manifest_of(described, packed, form), [described, *packed])


def manifest_of(config: Blob, layers: Sequence[Blob], form: str = "oci") -> Blob:
    kind = media_types.OCI_MANIFEST if form == "oci" else media_types.DOCKER_MANIFEST
    value = {"schemaVersion": 2, "mediaType": kind, "config": config.descriptor}
    return document(kind, {**value, "layers": [layer.descriptor for layer in layers]})


def index(entries: Sequence[tuple[Made | Blob, Mapping[str, str] | None]], form: str = "oci") -> Blob:
    """An index of manifests (or indexes) and their platforms."""
    kind = media_types.OCI_INDEX if form == "oci" else media_types.DOCKER_MANIFEST_LIST
    manifests = []
    for entry, platform in entries:
        pointer = (entry.manifest if isinstance(entry, Made) else entry).descriptor
        manifests.append({**pointer, **({"platform": dict(platform)} if platform else {})})
    return document(kind, {"schemaVersion": 2, "mediaType": kind, "manifests": manifests})


def push(address: str, name: str, tag: str, *made: Made, tops: Sequence[Blob] = ()) -> str:
    """Push images and then indexes, the last of all as `tag`; its digest."""
    base = f"http://{address}/v2/{name}"
    for image in made:
        for each in image.blobs:
            push_blob(base, each)
    documents = [*(image.manifest for image in made), *tops]
    for each in documents[:-1]:
        put(f"{base}/manifests/{each.digest}", each)
    put(f"{base}/manifests/{tag}", documents[-1])
    return documents[-1].digest


def box(*extra: Mapping[str, Any]) -> list[bytes]:
    """Layers with a shell; `extra` are further ones' files."""
    return [tar(busybox_files()), *(tar(files) for files in extra)]
