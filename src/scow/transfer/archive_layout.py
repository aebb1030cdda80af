"""The documents of an image archive: docker's `manifest.json`, and the OCI image layout that lies beside it.

Docker writes both into one tar. What a name means is told by docker's RepoTags, or by annotations of the index.
image-spec image-layout.md.
"""

from typing import Final

import msgspec

from scow.oci.descriptor import Descriptor
from scow.oci.digest import Digest, algorithm, encoded
from scow.oci.reference import InvalidReference, Reference, parse_reference

INDEX: Final = "index.json"
LAYOUT: Final = "oci-layout"
MANIFEST: Final = "manifest.json"
REPOSITORIES: Final = "repositories"
LAYOUT_DATA: Final = b'{"imageLayoutVersion":"1.0.0"}'
LIST_LIMIT: Final = 8 << 20  # bytes of index.json, manifest.json and repositories

FULL_NAME: Final = "io.containerd.image.name"
REF_NAME: Final = "org.opencontainers.image.ref.name"


class Entry(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """One image in docker's manifest.json. `layers` are names of files in the archive, base first."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None
    layer_sources: dict[str, Descriptor] | None = None


def name_of(descriptor: Descriptor) -> Reference | None:
    """The name that an index's entry gives its image; None if it has none, or only a tag without a repository."""
    annotations = descriptor.annotations or {}
    text = annotations.get(FULL_NAME) or annotations.get(REF_NAME, "")
    if FULL_NAME not in annotations and not ("/" in text or ":" in text):
        return None
    try:
        name = parse_reference(text)
    except InvalidReference:
        return None
    return None if name.digest else name.with_default_tag()


def name_annotations(name: Reference) -> dict[str, str]:
    """What tells `name_of`, and containerd, that an index's entry is called so."""
    return {FULL_NAME: str(name), REF_NAME: name.tag or ""}


def blob_path(digest: Digest) -> str:
    """Where a layout has the blob of a digest."""
    return f"blobs/{algorithm(digest)}/{encoded(digest)}"
