"""Lists: tags, repositories, referrers. distribution-spec spec.md#content-discovery."""

from http import HTTPStatus
from typing import Final

from scow.oci import media_types
from scow.registry.calls import Call, quoted
from scow.registry.errors import MethodUnsupported, NameUnknown
from scow.registry.metadata import Metadata, Referrer
from scow.registry.names import parse_blob_digest
from scow.registry.replies import Headers, Reply, json_reply

PAGE_LIMIT: Final = 10_000
"""Most entries of a page that the client has asked for by `n`."""
REFERRERS_LIMIT: Final = 500
ANNOTATIONS_LIMIT: Final = 3 << 20
"""Bytes of descriptors on one page of referrers: clients take an index of at most 4 MiB."""
CATALOG_PAGE: Final = 1000


class Listings:
    """The endpoints that list."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    async def answer_tags(self, call: Call) -> Reply:
        """Tags in bytewise order, all of them or by pages."""
        _check_method(call)
        wanted, after = call.count("n"), call.parameter("last") or ""
        limit = min(wanted, PAGE_LIMIT) if wanted is not None else None
        # One more than asked for shows whether a next page exists.
        tags = await self._metadata.tags(call.repository, after, -1 if limit is None else limit + 1)
        if not tags and not await self._metadata.repository_exists(call.repository):
            raise NameUnknown(call.repository)
        tags, headers = _page(tags, limit, f"/v2/{call.repository}/tags/list")
        return json_reply(HTTPStatus.OK, {"name": call.repository, "tags": tags}, headers)

    async def answer_catalog(self, call: Call) -> Reply:
        """Repositories in bytewise order."""
        _check_method(call)
        wanted, after = call.count("n"), call.parameter("last") or ""
        limit = min(CATALOG_PAGE if wanted is None else wanted, PAGE_LIMIT)
        names = await self._visible(call, after, limit + 1)
        names, headers = _page(names, limit, "/v2/_catalog")
        return json_reply(HTTPStatus.OK, {"repositories": names}, headers)

    async def _visible(self, call: Call, after: str, limit: int) -> list[str]:
        """Repositories that the caller may see."""
        caller, found = call.caller, list[str]()
        # Of whom sees few of many a small page would else take as many queries as there are repositories.
        batch = limit if caller is not None and caller.free else max(limit, CATALOG_PAGE)
        while len(found) < limit:
            names = await self._metadata.repositories(after, batch)
            found += [name for name in names if caller is not None and caller.sees(name)]
            if len(names) < batch:
                break
            after = names[-1]
        return found[:limit]

    async def answer_referrers(self, call: Call) -> Reply:
        """Manifests that name a digest as their subject; an empty index where there are none."""
        _check_method(call)
        subject = parse_blob_digest(call.route.reference)
        # A plus sign that was not escaped has become a blank, which no media type has.
        artifact_type = (call.parameter("artifactType") or "").replace(" ", "+") or None
        after = call.parameter("last") or ""
        found = await self._metadata.referrers(call.repository, subject, artifact_type, after, REFERRERS_LIMIT + 1)
        page = _fitting(found[:REFERRERS_LIMIT])
        headers = [("Content-Type", media_types.OCI_INDEX)]
        if artifact_type is not None:
            headers.append(("OCI-Filters-Applied", "artifactType"))
        if len(page) < len(found):
            query = f"last={quoted(page[-1].digest)}"
            if artifact_type is not None:
                query += f"&artifactType={quoted(artifact_type)}"
            headers.append(("Link", f'</v2/{call.repository}/referrers/{subject}?{query}>; rel="next"'))
        index = {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_INDEX,
            "manifests": [_descriptor(referrer) for referrer in page],
        }
        reply = json_reply(HTTPStatus.OK, index)
        return Reply(HTTPStatus.OK, headers, reply.body)


def _check_method(call: Call) -> None:
    if call.method not in ("GET", "HEAD"):
        raise MethodUnsupported(call.method, ("GET", "HEAD"))


def _page(entries: list[str], limit: int | None, path: str) -> tuple[list[str], Headers]:
    if limit is None or len(entries) <= limit:
        return entries, ()
    entries = entries[:limit]
    if not entries:
        return entries, ()
    return entries, (("Link", f'<{path}?last={quoted(entries[-1])}&n={limit}>; rel="next"'),)


def _fitting(referrers: list[Referrer]) -> list[Referrer]:
    """As many of them, from the first on, as one index can carry; one at least."""
    size = 0
    for count, referrer in enumerate(referrers):
        size += 400 + sum(len(key) + len(value) + 6 for key, value in (referrer.annotations or {}).items())
        if size > ANNOTATIONS_LIMIT and count:
            return referrers[:count]
    return referrers


def _descriptor(referrer: Referrer) -> dict[str, object]:
    descriptor: dict[str, object] = {
        "mediaType": referrer.media_type,
        "digest": referrer.digest,
        "size": referrer.size,
    }
    if referrer.artifact_type:
        descriptor["artifactType"] = referrer.artifact_type
    if referrer.annotations:
        descriptor["annotations"] = referrer.annotations
    return descriptor
