"""Copies of other registries' repositories: what is here is served, what is not or may have moved is asked for.

A tag is asked about by HEAD, which registries that count don't count, and fetched only if it has moved; what has a
digest is never asked about again. If the upstream can't be asked, the copy is served. Of several workers one holds the
cache, so that one answer and one fetch serve all (`relay`).
"""

import asyncio
import logging
import time
from collections import OrderedDict
from pathlib import Path
from typing import Final

import msgspec

from scow.oci.descriptor import Descriptor
from scow.oci.digest import Digest
from scow.registry.errors import ManifestUnknown, TagImmutable, UpstreamBusy, UpstreamUnavailable
from scow.registry.manifests import read_manifest
from scow.registry.metadata import KnownManifest, Metadata
from scow.registry.metrics import Metrics
from scow.registry.settings import Proxy
from scow.registry.uploads import Uploads
from scow.registry.upstream.fetch import Fetch
from scow.registry.upstream.flights import SharedWork
from scow.registry.upstream.places import Place
from scow.registry.upstream.upstream import Upstream

FETCHES_LIMIT: Final = 32
"""Blobs that are fetched at a time; others wait."""
TAGS_LIMIT: Final = 10_000

log = logging.getLogger("scow.registry.upstream")


class Found(msgspec.Struct, frozen=True):
    """What a reference stands for."""

    descriptor: Descriptor
    stale: bool = False  # the upstream could not be asked


class Cache:
    """Whoever made it closes it."""

    def __init__(self, metadata: Metadata, uploads: Uploads, metrics: Metrics, folder: Path) -> None:
        """`folder` is where bytes on their way are kept."""
        self._metadata = metadata
        self._uploads = uploads
        self._metrics = metrics
        self._folder = folder
        self._upstreams: dict[str, Upstream] = {}  # by namespace
        self._heads: SharedWork[Found] = SharedWork()
        self._manifests: SharedWork[Found] = SharedWork()
        self._fetches: dict[tuple[str, Digest], tuple[Fetch, asyncio.Task[None]]] = {}
        self._slots = asyncio.Semaphore(FETCHES_LIMIT)
        self._checked: OrderedDict[tuple[str, str], float] = OrderedDict()  # monotonic: until when a tag is as it was
        self._tags: OrderedDict[tuple[str, Digest], set[str]] = OrderedDict()  # to be put once their manifest comes

    def upstream(self, proxy: Proxy) -> Upstream:
        """The registry behind a proxy."""
        found = self._upstreams.get(proxy.namespace)
        if found is None:
            found = self._upstreams[proxy.namespace] = Upstream(proxy, self._metrics)
        return found

    async def resolve(self, place: Place, tag: str) -> Found:
        """What a tag stands for, without fetching it. Raises ManifestUnknown and the upstream's refusals."""
        known = await self._metadata.find_manifest(place.local, tag, False)
        if known is not None and self._checked.get((place.local, tag), 0.0) > time.monotonic():
            return Found(_describe(known))
        return await self._heads.join((place.local, tag), lambda: self._resolve(place, tag))

    async def _resolve(self, place: Place, tag: str) -> Found:
        known = await self._metadata.find_manifest(place.local, tag, False)
        upstream = self.upstream(place.proxy)
        if known is not None and (place.proxy.offline or upstream.rests):
            self._metrics.count("upstream_stale")
            return Found(_describe(known), stale=not place.proxy.offline)
        if place.proxy.offline:
            raise ManifestUnknown(place.local, tag)
        try:
            head = await upstream.head(place.remote, tag)
            if head is None:  # it tells only by GET
                return await self._take(place, tag, tag)
        except ManifestUnknown:
            if known is not None:
                log.info("%s:%s has gone at %s", place.local, tag, upstream.url)
                await self._forget(place, tag)
            raise ManifestUnknown(place.local, tag) from None
        except (UpstreamBusy, UpstreamUnavailable) as error:
            if known is None:
                raise
            log.info("%s:%s is served as it was: %s", place.local, tag, error)
            self._metrics.count("upstream_stale")
            return Found(_describe(known), stale=True)
        if known is None or known.digest != head.digest:
            return await self._move(place, tag, head, known)
        self._check(place, tag)
        return Found(_describe(known))

    async def _move(self, place: Place, tag: str, head: Descriptor, before: KnownManifest | None) -> Found:
        """Point a tag at what it now stands for, or remember to when that is fetched."""
        here = await self._metadata.manifest(place.local, head.digest, True)
        if here is None:
            self._tags.setdefault((place.local, head.digest), set()).add(tag)
            if len(self._tags) > TAGS_LIMIT:
                self._tags.popitem(last=False)
            return Found(head)
        try:
            await self._put(place, here.digest, here.media_type, here.data, [tag])
        except TagImmutable:
            if before is None:
                raise
            return Found(_describe(before))
        self._check(place, tag)
        return Found(_describe(here))

    def _check(self, place: Place, tag: str) -> None:
        key = (place.local, tag)
        self._checked[key] = time.monotonic() + place.proxy.ttl_s
        self._checked.move_to_end(key)
        if len(self._checked) > TAGS_LIMIT:
            self._checked.popitem(last=False)

    async def _forget(self, place: Place, tag: str) -> None:
        try:
            await self._metadata.delete_tag(place.local, tag)
        except TagImmutable:
            log.info("%s:%s stays, for it is immutable", place.local, tag)

    async def ensure(self, place: Place, reference: str, is_digest: bool) -> Found:
        """Have a manifest here. Raises as `resolve`."""
        if is_digest:
            return await self._have(place, Digest(reference))
        found = await self.resolve(place, reference)
        try:
            return Found((await self._have(place, found.descriptor.digest)).descriptor, found.stale)
        except (UpstreamBusy, UpstreamUnavailable):
            # It has moved, and what it stands for now can't be had.
            known = await self._metadata.find_manifest(place.local, reference, False)
            if known is None:
                raise
            self._metrics.count("upstream_stale")
            return Found(_describe(known), stale=True)
        except TagImmutable:
            known = await self._metadata.find_manifest(place.local, reference, False)
            if known is None:
                raise
            return Found(_describe(known))

    async def _have(self, place: Place, digest: Digest) -> Found:
        known = await self._metadata.find_manifest(place.local, digest, True)
        if known is not None:
            return Found(_describe(known))
        if place.proxy.offline:
            raise ManifestUnknown(place.local, digest)
        return await self._manifests.join((place.local, digest), lambda: self._take(place, digest))

    async def _take(self, place: Place, reference: str, tag: str | None = None) -> Found:
        """Fetch a manifest and store it; what it refers to comes when somebody asks for it."""
        try:
            document = await self.upstream(place.proxy).manifest(place.remote, reference)
        except ManifestUnknown:
            raise ManifestUnknown(place.local, reference) from None
        wanted = self._tags.pop((place.local, document.digest), set()) | ({tag} if tag else set())
        await self._put(place, document.digest, document.media_type, document.data, sorted(wanted))
        for each in wanted:
            self._check(place, each)
        return Found(Descriptor(media_type=document.media_type, digest=document.digest, size=len(document.data)))

    async def _put(self, place: Place, digest: Digest, media_type: str, data: bytes, tags: list[str]) -> None:
        manifest = msgspec.structs.replace(read_manifest(data, media_type, digest), sparse=True)
        await self._metadata.put_manifest(place.local, manifest, tags)

    async def fetch(self, place: Place, digest: Digest) -> Fetch:
        """A blob on its way; one way for all who ask. Raises UpstreamDenied, UpstreamBusy and UpstreamUnavailable."""
        key = (place.local, digest)
        running = self._fetches.get(key)
        if running is None:
            upstream = self.upstream(place.proxy)
            fetch = Fetch(place, digest, upstream, self._uploads, self._metrics, self._folder)
            running = self._fetches[key] = (fetch, asyncio.create_task(self._run(fetch)))
            running[1].add_done_callback(lambda _: self._fetches.pop(key, None))
        return running[0]

    async def _run(self, fetch: Fetch) -> None:
        async with self._slots:
            self._metrics.count("upstream_fetches")
            try:
                await fetch.run()
            finally:
                self._metrics.count("upstream_fetches", -1)

    async def aclose(self) -> None:
        """End what is on its way, and the connections."""
        tasks = [task for _, task in self._fetches.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._heads.aclose()
        await self._manifests.aclose()
        for upstream in self._upstreams.values():
            await upstream.aclose()


def _describe(manifest: KnownManifest) -> Descriptor:
    return Descriptor(media_type=manifest.media_type, digest=manifest.digest, size=manifest.size)
