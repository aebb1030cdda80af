"""Pointers to content. image-spec descriptor.md."""

from collections.abc import Iterable

import msgspec

from scow.oci.digest import Digest
from scow.oci.platform import Platform


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A pointer to content. image-spec descriptor.md#properties."""

    media_type: str
    digest: Digest
    size: int  # bytes as stored: compressed, if the media type says so
    urls: tuple[str, ...] | None = None
    annotations: dict[str, str] | None = None
    data: str | None = None  # base64 of the content itself
    artifact_type: str | None = None
    platform: Platform | None = None  # only in an index


def unique(descriptors: Iterable[Descriptor]) -> list[Descriptor]:
    """The descriptors in their order, of each digest the first. (Those with annotations can't be hashed.)"""
    found: dict[Digest, Descriptor] = {}
    for each in descriptors:
        found.setdefault(each.digest, each)
    return list(found.values())
