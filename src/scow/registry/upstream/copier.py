"""Copies images of another registry into this one, whole: blobs first, then manifests, then the tag.

What is here is not fetched again, so a copy can be repeated, and goes on where one that was killed has ended.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

import msgspec

from scow.errors import ScowError
from scow.oci import manifest as manifests
from scow.oci.descriptor import Descriptor
from scow.oci.digest import Digest
from scow.oci.platform import Platform, satisfies
from scow.registry.errors import ManifestUnknown
from scow.registry.manifests import read_manifest
from scow.registry.metadata import Metadata, NewManifest, StoredManifest
from scow.registry.upload_requests import HOLDERS_LIMIT
from scow.registry.uploads import Uploads
from scow.registry.upstream.source import BlobSource, store
from scow.registry.upstream.upstream import Upstream
from scow.transfer.flights import together

BLOBS_AT_ONCE: Final = 4
DEPTH_LIMIT: Final = 8
"""Indexes in indexes, and referrers of referrers."""
_ATTESTS: Final = "vnd.docker.reference.digest"

log = logging.getLogger("scow.registry.upstream")


class Counts(msgspec.Struct):
    """What was done."""

    tags: int = 0  # made or moved
    unchanged: int = 0  # tags that were here already
    deleted: int = 0  # tags
    manifests: int = 0
    blobs: int = 0
    mounted: int = 0  # blobs that another repository here had
    bytes: int = 0
    problems: list[str] = []

    def __str__(self) -> str:
        return (
            f"{self.tags} tags copied, {self.unchanged} unchanged, {self.deleted} deleted; {self.manifests} manifests, "
            f"{self.blobs} blobs ({self.bytes} bytes), {self.mounted} blobs mounted; {len(self.problems)} problems"
        )


class Copier:
    """Copies from one upstream."""

    def __init__(
        self,
        upstream: Upstream,
        metadata: Metadata,
        uploads: Uploads,
        counts: Counts,
        *,
        platforms: "list[Platform] | None" = None,
        referrers: bool = True,
        may_mount: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`may_mount` says from which repositories here blobs may be taken: who reads the copy then reads them."""
        self._upstream = upstream
        self._metadata = metadata
        self._uploads = uploads
        self._counts = counts
        self._platforms = platforms
        self._referrers = referrers
        self._may_mount = may_mount
        self._slots = asyncio.Semaphore(BLOBS_AT_ONCE)

    async def resolve(self, remote: str, tag: str) -> Digest:
        """What a tag stands for at the upstream. Raises ManifestUnknown and the upstream's refusals."""
        head = await self._upstream.head(remote, tag)
        return head.digest if head is not None else (await self._upstream.manifest(remote, tag)).digest

    async def copy_tag(self, remote: str, local: str, tag: str) -> bool:
        """Copy what a tag stands for; False if it was here already. Raises Refusal."""
        digest = await self.resolve(remote, tag)
        before = await self._metadata.find_manifest(local, tag, False)
        changed = before is None or before.digest != digest
        whole = await self.copy(remote, local, digest)
        if changed:
            await self._metadata.put_manifest(local, whole, [tag])
            self._counts.tags += 1
        else:
            self._counts.unchanged += 1
        if self._referrers:
            await self._copy_referrers(remote, local, digest, 0)
        return changed

    async def copy(self, remote: str, local: str, digest: Digest, depth: int = 0) -> NewManifest:
        """Copy a manifest with all that it refers to; what was stored. Raises Refusal."""
        stored = await self._metadata.manifest(local, digest, True)
        known = stored is not None
        if stored is None:
            document = await self._upstream.manifest(remote, digest)
            stored = StoredManifest(digest, document.media_type, document.data)
        manifest = read_manifest(stored.data, stored.media_type, digest)
        children = self._wanted(stored, manifest)
        if depth < DEPTH_LIMIT:
            for child in children:
                await self.copy(remote, local, child, depth + 1)
        await together(*(self._copy_blob(remote, local, blob) for blob in manifest.blobs))
        if len(children) < len(manifest.manifests):
            manifest = msgspec.structs.replace(manifest, sparse=True)
        if not known:
            await self._metadata.put_manifest(local, manifest, [])
            self._counts.manifests += 1
        return manifest

    def _wanted(self, stored: StoredManifest, manifest: NewManifest) -> list[Digest]:
        """The children of an index that the rule's platforms mean, with what attests to them."""
        if self._platforms is None or not manifest.manifests:
            return list(manifest.manifests)
        try:
            decoded = manifests.decode(stored.data, stored.media_type)
        except ScowError:
            return list(manifest.manifests)
        listed: tuple[Descriptor, ...] = tuple(getattr(decoded, "manifests", ()))
        chosen = [each.digest for each in listed if each.platform is not None and self._fits(each.platform)]
        attested = [each.digest for each in listed if (each.annotations or {}).get(_ATTESTS) in chosen]
        return list(dict.fromkeys([*chosen, *attested]))

    def _fits(self, offered: Platform) -> bool:
        return any(satisfies(offered, wanted) for wanted in self._platforms or ())

    async def _copy_blob(self, remote: str, local: str, digest: Digest) -> None:
        async with self._slots:
            if await self._metadata.blob(local, digest) is not None:
                return
            for holder in await self._metadata.holders(digest, HOLDERS_LIMIT):
                if self._may_mount(holder) and await self._metadata.mount_blob(local, holder, digest):
                    self._counts.mounted += 1
                    return
            source = BlobSource(self._upstream, remote, digest)
            async with aclosing(self._counted(source)) as chunks:
                await store(self._uploads, local, digest, chunks)
            self._counts.blobs += 1

    async def _counted(self, source: BlobSource) -> AsyncGenerator[bytes, None]:
        async with aclosing(source.chunks()) as chunks:
            async for data in chunks:
                self._counts.bytes += len(data)
                yield data

    async def _copy_referrers(self, remote: str, local: str, subject: Digest, depth: int) -> None:
        """Copy what names a manifest as its subject: signatures, SBOMs, attestations."""
        page = await self._upstream.page(remote, f"referrers/{subject}") if depth < DEPTH_LIMIT else None
        if page is None:
            return
        try:
            index = msgspec.json.decode(page[0], type=_Referrers)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        for each in index.manifests or ():
            try:
                await self.copy(remote, local, Digest(each.digest))
                await self._copy_referrers(remote, local, Digest(each.digest), depth + 1)
            except ManifestUnknown:
                log.info("%s lists %s and has not got it", remote, each.digest)


class _Referrer(msgspec.Struct):
    digest: str


class _Referrers(msgspec.Struct):
    manifests: list[_Referrer] | None = None
