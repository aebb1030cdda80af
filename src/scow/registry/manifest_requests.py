"""Manifests over HTTP: by tag and by digest.

distribution-spec spec.md#pulling-manifests, #pushing-manifests, #deleting-manifests.
"""

import asyncio
from http import HTTPStatus
from typing import Final

from scow.oci.digest import Digest, digest_of
from scow.registry.calls import Call
from scow.registry.conditions import NO_CONDITIONS, conditions_of, is_unmodified
from scow.registry.errors import DigestInvalid, ManifestUnknown, MethodUnsupported, QueryInvalid
from scow.registry.manifest_bodies import INLINE_SIZE, ManifestBodies
from scow.registry.manifests import SIZE_LIMIT, read_manifest
from scow.registry.metadata import Metadata, NewManifest
from scow.registry.names import parse_reference, parse_tag
from scow.registry.replies import Reply

TAGS_LIMIT: Final = 100
# Whoever may push chooses the media type, text/html for one: it must not run as a page of ours, where others are
# logged in.
_FOR_BROWSERS: Final = (("Content-Security-Policy", "sandbox"), ("X-Content-Type-Options", "nosniff"))


class TooManyTags(QueryInvalid):
    """One request wants more tags than a request line holds."""

    status = HTTPStatus.REQUEST_URI_TOO_LONG


class ManifestRequests:
    """The endpoint `/v2/<name>/manifests/<reference>`."""

    def __init__(self, metadata: Metadata, bodies: ManifestBodies, size_limit: int = SIZE_LIMIT) -> None:
        """`size_limit` is that of a manifest, in bytes."""
        self._metadata = metadata
        self._bodies = bodies
        self._size_limit = size_limit

    async def answer(self, call: Call) -> Reply:
        """Answer a request for one manifest."""
        reference, is_digest = parse_reference(call.route.reference)
        match call.method:
            case "GET" | "HEAD":
                return await self._read(call, reference, is_digest)
            case "PUT":
                return await self._put(call, reference, is_digest)
            case "DELETE":
                conditions = conditions_of(call)
                if is_digest:
                    conditions.check(reference)
                    gone = await self._metadata.delete_manifest(call.repository, Digest(reference))
                else:
                    gone = await self._metadata.delete_tag(call.repository, reference, conditions)
                if not gone:
                    raise ManifestUnknown(call.repository, reference)
                return Reply(HTTPStatus.ACCEPTED)
            case _:
                raise MethodUnsupported(call.method, ("GET", "HEAD", "PUT", "DELETE"))

    async def _read(self, call: Call, reference: str, is_digest: bool) -> Reply:
        # Accept is ignored on purpose: what was pushed is served, since a conversion would have another digest.
        found = self._metadata.manifest_now(call.repository, reference)
        if found is None:
            found = await self._metadata.find_manifest(call.repository, reference, is_digest)
        if found is None:
            raise ManifestUnknown(call.repository, reference)
        headers = manifest_headers(found.media_type, found.digest)
        if is_unmodified(call, found.digest):
            return Reply(HTTPStatus.NOT_MODIFIED, headers[1:])
        if call.method == "HEAD":
            return Reply(HTTPStatus.OK, headers, length=found.size)
        body = await self._bodies.body(call.repository, found)
        if body is None:
            raise ManifestUnknown(call.repository, reference)
        return Reply(HTTPStatus.OK, headers, body)

    async def _put(self, call: Call, reference: str, is_digest: bool) -> Reply:
        tags = [parse_tag(tag) for tag in dict.fromkeys(call.query.get("tag", []))] if is_digest else [reference]
        if len(tags) > TAGS_LIMIT:
            raise TooManyTags(f"at most {TAGS_LIMIT} tags in one request")
        like = reference if is_digest else "sha256:"
        content_type, conditions = call.headers.get("Content-Type", ""), conditions_of(call)
        async with self._bodies.received(call, self._size_limit) as data:
            if is_digest and conditions is not NO_CONDITIONS:
                known = await self._metadata.find_manifest(call.repository, reference, True)
                conditions.check(known.digest if known is not None else None)
                conditions = NO_CONDITIONS  # they are about what the path names, not about tags of the query

            def read() -> NewManifest:
                digest = digest_of(data, like)
                if is_digest and digest != reference:
                    raise DigestInvalid("provided digest did not match uploaded content", {"digest": reference})
                return read_manifest(data, content_type, digest)

            # A small one is read on the loop: a thread would cost more.
            manifest = read() if len(data) <= INLINE_SIZE else await asyncio.to_thread(read)
            await self._metadata.put_manifest(call.repository, manifest, tags, conditions)
        headers = [
            ("Location", f"/v2/{call.repository}/manifests/{manifest.digest}"),
            ("Docker-Content-Digest", manifest.digest),
        ]
        if manifest.subject is not None:
            headers.append(("OCI-Subject", manifest.subject))
        if is_digest:
            headers += [("OCI-Tag", tag) for tag in tags]
        return Reply(HTTPStatus.CREATED, headers)


def manifest_headers(media_type: str, digest: Digest) -> tuple[tuple[str, str], ...]:
    """What goes with a manifest."""
    return (
        ("Content-Type", media_type),
        ("Docker-Content-Digest", digest),
        ("ETag", f'"{digest}"'),
        *_FOR_BROWSERS,
    )
