"""Which image a reference means: from a tag to an index, to the platform's manifest, to the config.

Every document that is known to the store is taken from there; every other is verified before it is used.
"""

import base64
import binascii
from typing import Final

import msgspec

from scow.errors import InvalidArgument, NotFound, NotSupported
from scow.oci import media_types
from scow.oci.descriptor import Descriptor
from scow.oci.digest import Digest, digest_of
from scow.oci.image_config import MAX_CONFIG_SIZE, ImageConfig, decode_config
from scow.oci.manifest import Manifest, ManifestInvalid, decode
from scow.oci.media_types import is_index
from scow.oci.platform import Platform, select
from scow.oci.reference import Reference
from scow.store.content import Content
from scow.transfer.client import Document, RegistryClient
from scow.transfer.registry_error import Refused

MAX_DEPTH: Final = 4
"""How many indexes may lie inside each other."""
MAX_NESTED: Final = 8
"""How many indexes within one are looked into when it doesn't say which of them has the platform."""

_CONFIG_TYPES: Final = frozenset(
    # Beside the two proper ones those that old registries and builders are known to have written.
    {*media_types.CONFIGS, "application/octet-stream", "application/json", "text/html", ""}
)
_CLASSES: Final = {"application/vnd.docker.plugin.v1+json": "plugin"}


class PullRefused(NotFound):
    """The registry doesn't let us have it, or hasn't got it. Clients match on these words of docker's."""

    def __init__(self, reference: Reference, error: Refused) -> None:
        what = {
            "DENIED": f"pull access denied for {reference.familiar_name}, "
            "repository does not exist or may require 'docker login'",
            "MANIFEST_UNKNOWN": f"manifest for {reference.familiar} not found",
            "NAME_UNKNOWN": f"repository {reference.familiar_name} not found",
        }[error.code]
        super().__init__(f"{what}: {error.items[0]}")
        self.reference = reference


class NoMatchingManifest(NotFound):
    """The index has no image for the platform. The words are docker's."""

    def __init__(self, platform: Platform) -> None:
        super().__init__(f"no matching manifest for {platform} in the manifest list entries")
        self.platform = platform


class NotAnImage(InvalidArgument):
    """The reference names an artifact: a chart, a plugin, a signature. The first words are docker's."""

    def __init__(self, media_type: str) -> None:
        kind = _CLASSES.get(media_type, "unknown")
        super().__init__(
            f'Encountered remote "{media_type}"({kind}) when fetching: it is an artifact, not a container image'
        )
        self.media_type = media_type


class WrongSystem(NotSupported):
    """The image is for another operating system. The words are docker's."""

    def __init__(self, system: str) -> None:
        super().__init__(f'image operating system "{system}" cannot be used on this platform')
        self.system = system


class RootFSMismatch(InvalidArgument):
    """Manifest and config don't tell of the same layers. The words are docker's."""

    def __init__(self) -> None:
        super().__init__("layers from manifest don't match image configuration")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The documents that a reference led to; those that came from the registry aren't stored yet."""

    top: Document  # what the tag or digest itself names: index or manifest
    indexes: tuple[Document, ...]
    manifest_document: Document
    manifest: Manifest
    config_data: bytes
    config: ImageConfig

    @property
    def documents(self) -> list[tuple[Digest, bytes]]:
        """All that must be in the content for the image to be complete."""
        own = [(each.digest, each.data) for each in (*self.indexes, self.manifest_document)]
        return [*own, (self.manifest.config.digest, self.config_data)]


def pull_error(error: Refused, reference: Reference) -> Exception:
    """What to raise for a refusal of something that belongs to `reference`."""
    if error.code in ("DENIED", "MANIFEST_UNKNOWN", "NAME_UNKNOWN"):
        return PullRefused(reference, error)
    return error


class Finder:
    """Finds an image's documents with a registry's help."""

    def __init__(self, client: RegistryClient, content: Content, reference: Reference) -> None:
        self._client = client
        self._content = content
        self._reference = reference

    async def top(self, *, ask_first: bool) -> Document:
        """The document that the reference names. `ask_first` by HEAD for its digest, since we may have it.

        Raises PullRefused and what RegistryClient raises.
        """
        name = self._reference.digest or self._reference.tag or ""
        try:
            if ask_first:
                descriptor = await self._client.head_manifest(name)
                if descriptor is not None:
                    return await self._document(descriptor.digest, None)
            return await self._client.manifest(name)
        except Refused as error:
            raise pull_error(error, self._reference) from error

    async def descend(self, top: Document, platform: Platform) -> Found:
        """Choose the image for `platform` and read its manifest and config.

        Raises NoMatchingManifest, NotAnImage, WrongSystem, RootFSMismatch, ManifestInvalid, ConfigInvalid.
        """
        path = await self._choose(top, top.media_type, platform, MAX_DEPTH)
        if path is None:
            raise NoMatchingManifest(platform)
        indexes, document, decoded = path
        _check_config_type(decoded)
        data = await self._config(decoded.config)
        config = decode_config(data)
        if config.os not in ("", "linux"):
            raise WrongSystem(config.os)
        if len(config.diff_ids) != len(decoded.layers):
            raise RootFSMismatch
        return Found(
            top=top,
            indexes=indexes,
            manifest_document=document,
            manifest=decoded,
            config_data=data,
            config=config,
        )

    async def _choose(
        self, document: Document, media_type: str, platform: Platform, depth: int
    ) -> tuple[tuple[Document, ...], Document, Manifest] | None:
        """The way from `document` to a manifest for `platform`: the indexes, the manifest, and what is in it.

        What an index says is for the platform comes first; then other indexes in it, whose platforms it doesn't tell.
        """
        decoded = decode(document.data, media_type)
        if isinstance(decoded, Manifest):
            return (), document, decoded
        if depth == 0:
            raise ManifestInvalid("indexes lie too deep inside each other")
        chosen = select(decoded.manifests, platform)
        nested = [each for each in decoded.manifests if each.platform is None and is_index(each.media_type)]
        for descriptor in [chosen] if chosen is not None else nested[:MAX_NESTED]:
            try:
                inner = await self._document(descriptor.digest, descriptor)
            except Refused as error:
                raise pull_error(error, self._reference) from error
            way = await self._choose(inner, inner.media_type or descriptor.media_type, platform, depth - 1)
            if way is not None:
                return (document, *way[0]), way[1], way[2]
        return None

    async def _document(self, digest: Digest, expected: Descriptor | None) -> Document:
        if self._content.has(digest):
            return Document(await self._content.get(digest), expected.media_type if expected else "", digest)
        return await self._client.manifest(digest, expected)

    async def _config(self, descriptor: Descriptor) -> bytes:
        if descriptor.size > MAX_CONFIG_SIZE:
            raise ManifestInvalid(f"the image config has {descriptor.size} bytes, {MAX_CONFIG_SIZE} are allowed")
        if self._content.has(descriptor.digest):
            return await self._content.get(descriptor.digest)
        embedded = _embedded(descriptor)
        if embedded is not None:
            return embedded
        return await self._client.small_blob(descriptor, MAX_CONFIG_SIZE, "image config")


def is_image_config(media_type: str) -> bool:
    """Tell whether a manifest whose config is of this type is an image's, not an artifact's."""
    return media_type in _CONFIG_TYPES


def _check_config_type(manifest: Manifest) -> None:
    media_type = manifest.config.media_type
    if not is_image_config(media_type):
        raise NotAnImage(manifest.artifact_type or media_type if media_type == media_types.OCI_EMPTY else media_type)


def _embedded(descriptor: Descriptor) -> bytes | None:
    """The content that the descriptor carries itself, if it is what the digest says. image-spec descriptor.md."""
    if not descriptor.data:
        return None
    try:
        data = base64.b64decode(descriptor.data, validate=True)
    except (binascii.Error, ValueError):
        return None
    fits = len(data) == descriptor.size and digest_of(data, descriptor.digest) == descriptor.digest
    return data if fits else None
