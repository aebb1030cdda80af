"""Image manifests and indexes. image-spec manifest.md, image-index.md; docker's schema 2 has the same shape.

The parsed documents are views: what is stored, pushed and hashed are the bytes that came.
"""

import json

import msgspec

from scow.errors import InvalidArgument
from scow.oci import media_types
from scow.oci.descriptor import Descriptor
from scow.oci.digest import parse_digest

MAX_DOCUMENT_SIZE = 4 << 20
"""Largest manifest or index accepted, in bytes: containerd's limit, too."""


class ManifestInvalid(InvalidArgument):
    """The document is not what its media type says."""

    def __init__(self, why: str) -> None:
        super().__init__(f"invalid manifest: {why}")
        self.why = why


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One image for one platform: a config and its layers, base first. image-spec manifest.md."""

    schema_version: int
    media_type: str = ""
    artifact_type: str | None = None
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Manifests of one image for several platforms. image-spec image-index.md."""

    schema_version: int
    media_type: str = ""
    artifact_type: str | None = None
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


def sniff(data: bytes) -> str:
    """The media type of a manifest by its own words or, where it has none, by its shape. Raises ManifestInvalid."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ManifestInvalid("not a JSON object")
    named = document.get("mediaType")
    if isinstance(named, str) and named:
        return named
    if document.get("schemaVersion") == 1:
        return media_types.DOCKER_SCHEMA1_SIGNED if "signatures" in document else media_types.DOCKER_SCHEMA1
    if "manifests" in document:
        return media_types.OCI_INDEX
    return media_types.OCI_MANIFEST


def decode(data: bytes, media_type: str = "") -> Manifest | Index:
    """Read a manifest or index; `media_type` is what the sender called it, if it did.

    Raises ManifestInvalid for documents that are malformed, of schema 1, of a type other than they were announced
    as, or that mix both shapes (CVE-2021-41190).
    """
    if len(data) > MAX_DOCUMENT_SIZE:
        raise ManifestInvalid(f"{len(data)} bytes are more than the {MAX_DOCUMENT_SIZE} allowed")
    media_type = media_type.partition(";")[0].strip()
    own = sniff(data)
    if own in media_types.SCHEMA1 or media_type in media_types.SCHEMA1:
        raise ManifestInvalid(
            "docker image manifest version 2 schema 1 is not supported; push the image again in a newer format"
        )
    known = media_types.is_manifest(media_type) or media_types.is_index(media_type)
    if known and own != media_type and '"mediaType"' in data.decode("utf-8", "replace"):
        announced_index, own_index = media_types.is_index(media_type), media_types.is_index(own)
        if announced_index != own_index:
            raise ManifestInvalid(f"announced as {media_type}, but its mediaType is {own}")
    kind = media_type if known else own
    if not (media_types.is_manifest(kind) or media_types.is_index(kind)):
        raise ManifestInvalid(f"unsupported media type {kind}")
    document: Manifest | Index
    try:
        if media_types.is_index(kind):
            document = msgspec.json.decode(data, type=Index)
        else:
            document = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ManifestInvalid(str(error)) from error
    if document.schema_version != 2:
        raise ManifestInvalid(f"schemaVersion is {document.schema_version}, not 2")
    both = json.loads(data)
    if "manifests" in both and ("layers" in both or "config" in both):
        raise ManifestInvalid("it has both manifests and layers")
    if isinstance(document, Manifest):
        _check(document.config, *document.layers)
    else:
        _check(*document.manifests)
    return document


def _check(*descriptors: Descriptor) -> None:
    for descriptor in descriptors:
        parse_digest(descriptor.digest)
        if descriptor.size < 0:
            raise ManifestInvalid(f"the size of {descriptor.digest} is negative")
