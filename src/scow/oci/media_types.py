"""Media types of the documents and layers that Scow reads. image-spec media-types.md, docker's schema 2."""

from enum import StrEnum
from typing import Final

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_FOREIGN_LAYER: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"
OCI_FOREIGN_LAYER_GZIP: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
OCI_FOREIGN_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_MANIFEST_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD: Final = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_FOREIGN_LAYER: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DOCKER_FOREIGN_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

MANIFESTS: Final = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES: Final = (OCI_INDEX, DOCKER_MANIFEST_LIST)
SCHEMA1: Final = (DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED)
CONFIGS: Final = (OCI_CONFIG, DOCKER_CONFIG)


class Compression(StrEnum):
    """How a layer's tar is compressed as it is stored and sent."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    XZ = "xz"  # no registry knows this and the next: they come in archives only
    BZIP2 = "bzip2"


_LAYERS: Final = {
    OCI_LAYER: Compression.NONE,
    OCI_LAYER_GZIP: Compression.GZIP,
    OCI_LAYER_ZSTD: Compression.ZSTD,
    OCI_FOREIGN_LAYER: Compression.NONE,
    OCI_FOREIGN_LAYER_GZIP: Compression.GZIP,
    OCI_FOREIGN_LAYER_ZSTD: Compression.ZSTD,
    DOCKER_LAYER: Compression.NONE,
    DOCKER_LAYER_GZIP: Compression.GZIP,
    DOCKER_LAYER_ZSTD: Compression.ZSTD,
    DOCKER_FOREIGN_LAYER: Compression.NONE,
    DOCKER_FOREIGN_LAYER_GZIP: Compression.GZIP,
}


def is_manifest(media_type: str) -> bool:
    """Tell whether it names an image manifest, OCI's or docker's schema 2."""
    return media_type in MANIFESTS


def is_index(media_type: str) -> bool:
    """Tell whether it names an image index or docker's manifest list."""
    return media_type in INDEXES


def is_layer(media_type: str) -> bool:
    """Tell whether it names a file system layer that Scow can read."""
    return media_type in _LAYERS


def is_foreign(media_type: str) -> bool:
    """Tell whether it names a layer that is not to be distributed, only fetched from its `urls`."""
    return ".foreign." in media_type or ".nondistributable." in media_type


def compression(media_type: str) -> Compression | None:
    """The compression that a layer's media type promises; None if it is no layer's."""
    return _LAYERS.get(media_type)
