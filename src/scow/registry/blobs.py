"""Blobs: HEAD, GET with ranges, DELETE. distribution-spec spec.md#pulling-blobs, #deleting-blobs; RFC 9110."""

import logging
import re
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from scow.oci.digest import Digest
from scow.registry.calls import Call
from scow.registry.conditions import is_unmodified
from scow.registry.errors import BlobDamaged, BlobUnknown, MethodUnsupported, SizeInvalid, StorageFull
from scow.registry.metadata import LinkedBlob, Metadata
from scow.registry.names import parse_blob_digest
from scow.registry.objects import ObjectMissing, Objects
from scow.registry.replies import Flow, Reply, Slice
from scow.registry.small_objects import SmallObject

SOON_S: Final = 3600
"""A blob whose review is due within this time is put off when somebody is told that it exists."""

log = logging.getLogger("scow.registry")

_RANGE: Final = re.compile(r"bytes=\s*([0-9]{0,19})\s*-\s*([0-9]{0,19})\s*\Z", re.IGNORECASE)


class RangeOutside(SizeInvalid):
    """No byte of the range is in the blob."""

    status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE


class Blobs:
    """The endpoint `/v2/<name>/blobs/<digest>`."""

    def __init__(self, objects: Objects, metadata: Metadata) -> None:
        self._objects = objects
        self._metadata = metadata

    async def answer(self, call: Call) -> Reply:
        """Answer a request for one blob."""
        digest = parse_blob_digest(call.route.reference)
        if call.method in ("GET", "HEAD"):
            return await self._read(call, digest)
        if call.method == "DELETE":
            if not await self._metadata.delete_blob(call.repository, digest):
                raise BlobUnknown(digest)
            return Reply(HTTPStatus.ACCEPTED)
        raise MethodUnsupported(call.method, ("GET", "HEAD", "DELETE"))

    async def _read(self, call: Call, digest: Digest) -> Reply:
        blob = await self._find(call.repository, digest)

        async def part(offset: int, count: int) -> Slice | Flow | bytes:
            return await self._body(call.repository, digest, blob, offset, count)

        if call.method == "GET" and not is_unmodified(call, digest):
            url = await self._objects.url(blob.object)
            if url is not None:
                return Reply(HTTPStatus.TEMPORARY_REDIRECT, (("Location", url), ("Docker-Content-Digest", digest)))
        if call.method == "HEAD" and not await has_object(self._objects, blob):
            await self._look_again(call.repository, digest, blob)
        return await blob_reply(call, digest, blob.size, part)

    async def _look_again(self, repository: str, digest: Digest, blob: LinkedBlob) -> None:
        """Raise BlobUnknown unless it was deleted, and pushed again, since it was looked up."""
        now = await self._metadata.blob(repository, digest)
        if now is None:
            raise BlobUnknown(digest)
        if now.object == blob.object or not await has_object(self._objects, now):
            log.error("%s", BlobDamaged(digest))
            raise BlobUnknown(digest)  # so that clients push it

    async def _body(
        self, repository: str, digest: Digest, blob: LinkedBlob, offset: int, count: int
    ) -> Slice | Flow | bytes:
        found = await self._part(blob, offset, count)
        if found is None:
            now = await self._metadata.blob(repository, digest)
            if now is None:
                raise BlobUnknown(digest)
            # Deleted, and pushed again, since it was looked up: it has another object now.
            found = await self._part(now, offset, count) if now.object != blob.object else None
        if found is None:
            raise BlobDamaged(digest)
        return found

    async def _part(self, blob: LinkedBlob, offset: int, count: int) -> Slice | Flow | bytes | None:
        """Some bytes of a blob's object; None if it is missing or damaged."""
        source = self._objects.open_now(blob.object) or await self._objects.open(blob.object)
        if source is None:
            return None
        if source.size is not None and source.size != blob.size:
            source.release()
            return None
        if isinstance(source, SmallObject):
            return source.data[offset : offset + count]
        if source.file is not None:
            return Slice(source, offset, count)
        try:
            return Flow(await source.read(offset, count), count)
        except ObjectMissing:
            return None

    async def _find(self, repository: str, digest: Digest) -> LinkedBlob:
        blob = self._metadata.blob_now(repository, digest) or await self._metadata.blob(repository, digest)
        if blob is None:
            raise BlobUnknown(digest)
        if blob.review_after is not None and blob.review_after - time.time() < SOON_S:
            try:
                kept = await self._metadata.keep_blob(repository, digest)
            except StorageFull:
                return blob  # it can still be read, and nobody can push what would refer to it
            if not kept:
                raise BlobUnknown(digest)
        return blob


async def has_object(objects: Objects, blob: LinkedBlob) -> bool:
    """Whether a blob's bytes are there, and as many as there should be, as far as a look without a request tells."""
    source = objects.open_now(blob.object) or await objects.open(blob.object)
    if source is None:
        return False
    try:
        return source.size is None or source.size == blob.size
    finally:
        source.release()


async def blob_reply(
    call: Call, digest: Digest, size: int, part: Callable[[int, int], Awaitable[Slice | Flow | bytes]]
) -> Reply:
    """Answer GET or HEAD of a blob; `part` gives the body, from an offset so many bytes.

    Raises RangeOutside and PreconditionFailed.
    """
    etag = f'"{digest}"'
    headers = [
        ("Content-Type", "application/octet-stream"),
        ("Accept-Ranges", "bytes"),
        ("Docker-Content-Digest", digest),
        ("ETag", etag),
        ("Cache-Control", "max-age=31536000"),
    ]
    if is_unmodified(call, digest):
        return Reply(HTTPStatus.NOT_MODIFIED, headers[2:])
    if call.method == "HEAD":
        return Reply(HTTPStatus.OK, headers, length=size)
    offset, count = 0, size
    status = HTTPStatus.OK
    wanted = call.headers.get("Range")
    if wanted is not None and call.headers.get("If-Range", etag) == etag:
        found = parse_range(wanted, size)
        if found is not None:
            offset, count = found
            status = HTTPStatus.PARTIAL_CONTENT
            headers.append(("Content-Range", f"bytes {offset}-{offset + count - 1}/{size}"))
    return Reply(status, headers, await part(offset, count))


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """Offset and count of one byte range of `size` bytes; None where the whole is to be sent. Raises RangeOutside.

    As RFC 9110 section 14 has it, a unit or form that isn't understood is ignored; several ranges get the whole.
    """
    match = _RANGE.match(text.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first == "":
        offset, end = max(size - int(last), 0), size
    else:
        offset, end = int(first), min(int(last) + 1, size) if last else size
    # RFC 9110 leaves it open whether a range that ends before it begins is ignored or refused; the conformance suite
    # and Go's servers refuse.
    if offset >= size or (first and last and int(last) < int(first)):
        raise RangeOutside("no byte of the range is in the blob", None, (("Content-Range", f"bytes */{size}"),))
    return offset, end - offset
