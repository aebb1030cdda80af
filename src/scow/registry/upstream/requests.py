"""Requests for repositories of other registries: have here what is asked for, then answer as for our own."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec

from scow.oci import media_types
from scow.oci.digest import Digest
from scow.registry.blobs import blob_reply
from scow.registry.calls import Call, quoted
from scow.registry.conditions import is_unmodified
from scow.registry.errors import (
    BlobUnknown,
    ManifestUnknown,
    NameUnknown,
    PageUnknown,
    PushRefused,
    QuotaExceeded,
    UpstreamBusy,
    UpstreamDenied,
    UpstreamUnavailable,
)
from scow.registry.manifest_bodies import ManifestBodies
from scow.registry.manifest_requests import manifest_headers
from scow.registry.metadata import Metadata
from scow.registry.metrics import Metrics
from scow.registry.names import parse_blob_digest, parse_reference
from scow.registry.replies import Flow, Reply, json_reply
from scow.registry.upload_requests import HOLDERS_LIMIT
from scow.registry.upstream.cache import Cache
from scow.registry.upstream.places import Place, host_of

Answer = Callable[[Call], Awaitable[Reply]]
READING: Final = ("GET", "HEAD")


class Relay(Protocol):
    """The way to the worker that holds the cache."""

    async def forward(self, call: Call) -> Reply:
        """Let it answer. Raises UpstreamUnavailable."""


class UpstreamRequests:
    """Answers calls whose repository has a place."""

    def __init__(
        self,
        cache: Cache,
        metadata: Metadata,
        bodies: ManifestBodies,
        metrics: Metrics,
        ours: dict[str, Answer],
        relay: Relay | None,
    ) -> None:
        """`ours` are the endpoints of our own repositories; `relay` is None at the worker that holds the cache."""
        self._cache = cache
        self._metadata = metadata
        self._bodies = bodies
        self._metrics = metrics
        self._ours = ours
        self._relay = relay

    async def aclose(self) -> None:
        """Close the cache."""
        await self._cache.aclose()

    async def answer(self, call: Call, place: Place) -> Reply:
        """Answer a call that was admitted. Raises Refusal."""
        kind = call.route.kind
        if kind.startswith("web-"):
            return await self._ours[kind](call)
        if kind in ("uploads", "upload"):
            raise PushRefused(place.local, host_of(place.proxy))
        if call.method not in READING:
            if call.method == "DELETE":  # of the copy
                return await self._ours[kind](call)
            raise PushRefused(place.local, host_of(place.proxy))
        if not place.allowed:
            raise UpstreamDenied(f"{place.remote} is not one of the repositories that may be fetched here")
        match kind:
            case "manifest":
                return await self._manifest(call, place)
            case "blob":
                return await self._blob(call, place)
            case "tags":
                return await self._tags(call, place)
            case "referrers":
                return await self._referrers(call, place)
            case _:
                return await self._ours[kind](call)

    async def _manifest(self, call: Call, place: Place) -> Reply:
        reference, is_digest = parse_reference(call.route.reference)
        if is_digest and await self._has_manifest(place.local, reference):
            self._metrics.count("upstream_hits")
            return await self._ours["manifest"](call)
        if self._relay is not None:
            return await self._relay.forward(call)
        before = None if is_digest else await self._metadata.find_manifest(place.local, reference, False)
        if call.method == "HEAD" and not is_digest:
            found = await self._cache.resolve(place, reference)
        else:
            found = await self._cache.ensure(place, reference, is_digest)
        known = found.descriptor
        self._metrics.count(
            "upstream_hits" if before is not None and before.digest == known.digest else "upstream_misses"
        )
        headers = [*manifest_headers(known.media_type, known.digest)]
        if found.stale:
            host = host_of(place.proxy)
            headers.append(("Warning", f'299 - "{host} cannot be asked: this is what the tag was when it last could"'))
        if is_unmodified(call, known.digest):
            return Reply(HTTPStatus.NOT_MODIFIED, headers[1:])
        if call.method == "HEAD":
            return Reply(HTTPStatus.OK, headers, length=known.size)
        manifest = await self._metadata.find_manifest(place.local, known.digest, True)
        body = await self._bodies.body(place.local, manifest) if manifest is not None else None
        if body is None:  # it was deleted this moment
            raise ManifestUnknown(place.local, reference)
        return Reply(HTTPStatus.OK, headers, body)

    async def _has_manifest(self, local: str, digest: str) -> bool:
        if self._metadata.manifest_now(local, digest) is not None:
            return True
        return await self._metadata.find_manifest(local, digest, True) is not None

    async def _blob(self, call: Call, place: Place) -> Reply:
        digest = parse_blob_digest(call.route.reference)
        here = self._metadata.blob_now(place.local, digest) is not None
        here = here or await self._metadata.blob(place.local, digest) is not None
        if here or (call.method == "GET" and await self._mounted(call, place, digest)):
            self._metrics.count("upstream_hits")
            return await self._ours["blob"](call)
        if place.proxy.offline:
            raise BlobUnknown(digest)
        if self._relay is not None:
            return await self._relay.forward(call)
        if call.method == "HEAD":
            size = await self._cache.upstream(place.proxy).blob_size(place.remote, digest)
            if size is None:
                raise BlobUnknown(digest)
            return await blob_reply(call, digest, size, _nothing)
        self._metrics.count("upstream_misses")
        fetch = await self._cache.fetch(place, digest)
        size = await fetch.opened()
        if size is None:  # the upstream doesn't say: the end tells
            size = await fetch.finished()

        async def part(offset: int, count: int) -> Flow:
            return Flow(fetch.read(offset, offset + count), count)

        return await blob_reply(call, digest, size, part)

    async def _mounted(self, call: Call, place: Place, digest: Digest) -> bool:
        """Take a blob from a repository here that has it and that the caller may read."""
        if call.caller is None:  # forwarded: the worker that took the call has looked
            return False
        for holder in await self._metadata.holders(digest, HOLDERS_LIMIT):
            if call.caller.may(holder, "pull"):
                try:
                    if await self._metadata.mount_blob(place.local, holder, digest):
                        return True
                except QuotaExceeded:
                    return False
        return False

    async def _tags(self, call: Call, place: Place) -> Reply:
        if place.proxy.offline:
            return await self._ours["tags"](call)
        if self._relay is not None:
            return await self._relay.forward(call)
        wanted, after = call.count("n"), call.parameter("last")
        query = "&".join(
            ([f"n={wanted}"] if wanted is not None else []) + ([f"last={quoted(after)}"] if after is not None else [])
        )
        upstream = self._cache.upstream(place.proxy)
        try:
            upstream.check_rest()
            page = await upstream.page(place.remote, f"tags/list{'?' if query else ''}{query}")
        except (UpstreamBusy, UpstreamUnavailable):
            return await self._ours["tags"](call)  # those of which there are copies
        if page is None:
            raise NameUnknown(place.local)
        data, headers = page
        try:
            tags = msgspec.json.decode(data, type=_Tags).tags or []
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamUnavailable(f"{host_of(place.proxy)} gives no list of tags") from error
        link = headers.get("Link", "").partition(">")[0].removeprefix("<")
        following = urlsplit(link).query if link else ""
        own = f'</v2/{place.local}/tags/list?{following}>; rel="next"'
        safe = following.isascii() and following.isprintable() and not set(following) & set('<>" ')
        links = (("Link", own),) if following and safe else ()
        return json_reply(HTTPStatus.OK, {"name": place.local, "tags": tags}, links)

    async def _referrers(self, call: Call, place: Place) -> Reply:
        digest = parse_blob_digest(call.route.reference)
        if place.proxy.offline:
            return await self._ours["referrers"](call)
        if self._relay is not None:
            return await self._relay.forward(call)
        kind = (call.parameter("artifactType") or "").replace(" ", "+")
        query = f"?artifactType={quoted(kind)}" if kind else ""
        upstream = self._cache.upstream(place.proxy)
        try:
            upstream.check_rest()
            page = await upstream.page(place.remote, f"referrers/{digest}{query}")
        except (UpstreamBusy, UpstreamUnavailable):
            return await self._ours["referrers"](call)
        if page is None:
            # It does without this endpoint: clients then look for a tag, which can be pulled like any other.
            raise PageUnknown(f"/v2/{place.local}/referrers/{digest}")
        data, told = page
        headers = [("Content-Type", media_types.OCI_INDEX)]
        if kind and "artifactType" in told.get("OCI-Filters-Applied", ""):
            headers.append(("OCI-Filters-Applied", "artifactType"))
        return Reply(HTTPStatus.OK, headers, data)


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


async def _nothing(offset: int, count: int) -> Flow:
    raise AssertionError("HEAD has no body")
