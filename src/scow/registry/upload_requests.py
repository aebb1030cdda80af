"""Uploads over HTTP: POST, PATCH, PUT, GET, DELETE. distribution-spec spec.md#pushing-blobs."""

import re
from http import HTTPStatus
from typing import Final

import msgspec

from scow.oci.digest import HEX_LENGTH, Digest, algorithm
from scow.registry.blobs import has_object
from scow.registry.calls import Call
from scow.registry.errors import (
    BlobUploadInvalid,
    DigestInvalid,
    MethodUnsupported,
    NameInvalid,
    Refusal,
    SizeInvalid,
)
from scow.registry.metadata import Metadata, Misplaced
from scow.registry.names import parse_blob_digest, parse_repository, parse_upload_id
from scow.registry.replies import Reply
from scow.registry.uploads import Few, Uploads, check_order, read_few, received_range, wrong_size

_CONTENT_RANGE: Final = re.compile(r"(?:bytes[ =])?([0-9]{1,18})-([0-9]{1,18})(?:/(?:[0-9]{1,18}|\*))?\Z")
HOLDERS_LIMIT: Final = 100
"""Repositories that are looked at for a blob when the client doesn't say from where to mount it."""
EMPTY: Final = {
    "sha256": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha512": "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce"
    "47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
}


class UploadRequests:
    """The endpoints `/v2/<name>/blobs/uploads/` and below."""

    def __init__(self, uploads: Uploads, metadata: Metadata) -> None:
        self._uploads = uploads
        self._metadata = metadata

    async def answer_begin(self, call: Call) -> Reply:
        """Begin an upload, take a whole blob, or mount one from another repository."""
        if call.method != "POST":
            raise MethodUnsupported(call.method, ("POST",))
        mount = call.parameter("mount")
        if mount is not None and (mounted := await self._mount(call, mount)) is not None:
            return mounted
        name = call.parameter("digest-algorithm") or "sha256"
        if name not in HEX_LENGTH:
            raise DigestInvalid("unsupported digest algorithm", {"algorithm": name[:100]})
        given = call.parameter("digest")
        digest = parse_blob_digest(given) if given is not None else None
        # Some clients name the digest and send no body: they begin a session. Only the empty blob is complete so.
        self._check_length(call)
        if digest is not None and (call.has_body or digest == EMPTY[algorithm(digest)]):
            await self._metadata.check_room(call.repository, call.content_length or 0, digest)
            await self._take_whole(call, digest)
            return _created(call.repository, digest)
        await self._metadata.check_room(call.repository, 1, digest)
        upload_id = await self._uploads.open(call.repository, name)
        return _progress(HTTPStatus.ACCEPTED, upload_id, call.repository, 0)

    async def _take_whole(self, call: Call, digest: Digest) -> None:
        uploads, body = self._uploads, call.body()
        if uploads.may_be_small(call.repository, call.content_length):
            few = await read_few(body, uploads.small_limit(call.repository))
            if few.broken is not None:
                raise few.broken
            if few.is_whole and await uploads.store_small(call.repository, digest, few.data):
                return
            body = few.again()
        async with uploads.begin(call.repository, algorithm(digest)) as receiver:
            receiver.announce(digest)
            try:
                await receiver.receive(body, call.content_length)
                await receiver.finish(digest)
            except (Refusal, ConnectionError):
                # Nobody was told this upload's name, so nobody can go on with it.
                await uploads.drop(receiver.upload.upload_id)
                raise

    async def answer(self, call: Call) -> Reply:
        """Answer a request for one upload."""
        upload_id = parse_upload_id(call.route.reference)
        repository = call.repository
        match call.method:
            case "PATCH":
                self._check_length(call)
                return _progress(HTTPStatus.ACCEPTED, upload_id, repository, await self._append(call, upload_id))
            case "PUT":
                given = call.parameter("digest")
                if given is None:
                    raise DigestInvalid("the closing request needs the parameter digest")
                digest = parse_blob_digest(given)
                self._check_length(call)
                await self._metadata.check_room(repository, call.content_length or 0, digest)
                await self._append(call, upload_id, digest)
                return _created(repository, digest)
            case "GET" | "HEAD":
                size = await self._uploads.size(repository, upload_id)
                return _progress(HTTPStatus.NO_CONTENT, upload_id, repository, size)
            case "DELETE":
                await self._uploads.cancel(repository, upload_id)
                return Reply(HTTPStatus.NO_CONTENT)
            case _:
                raise MethodUnsupported(call.method, ("GET", "PATCH", "PUT", "DELETE"))

    async def _append(self, call: Call, upload_id: str, digest: Digest | None = None) -> int:
        """Take the request's body, at the place that its Content-Range names; how much there is then.

        With `digest` these are the last bytes, and what there is becomes that blob.
        """
        uploads, repository, body, stated = self._uploads, call.repository, call.body(), _stated(call)
        if uploads.may_be_small(repository, call.content_length, upload_id):
            few = await read_few(body, uploads.small_limit(repository))
            if few.is_whole and (size := await self._append_few(call, upload_id, few, stated, digest)) is not None:
                return size
            body = few.again()
        async with uploads.hold(repository, upload_id) as receiver:
            if digest is not None:
                receiver.announce(digest)
            if stated is not None:
                check_order(receiver.size, stated.start, _location(repository, upload_id))
            await receiver.receive(body, stated.size if stated is not None else None)
            if digest is not None:
                await receiver.finish(digest)
            return receiver.size

    async def _append_few(
        self, call: Call, upload_id: str, few: Few, stated: "_Stated | None", digest: Digest | None
    ) -> int | None:
        """The same with few bytes; None if they have to go to a stage."""
        uploads, repository, data = self._uploads, call.repository, few.data
        start = stated.start if stated is not None else None
        if stated is not None and few.broken is None and len(data) != stated.size:
            raise wrong_size(stated.size, len(data))
        try:
            if digest is not None and few.broken is None:
                done = await uploads.finish_small(repository, upload_id, start, data, digest)
                return len(data) if done else None
            size = await uploads.append_small(repository, upload_id, start, data)
        except Misplaced as misplaced:
            check_order(misplaced.size, start or 0, _location(repository, upload_id))
            raise
        if size is not None and few.broken is not None:
            raise few.broken  # what has come need not be sent again
        return size

    def _check_length(self, call: Call) -> None:
        """Refuse what is announced to be too large before it is sent. Raises BlobTooLarge and QuotaExceeded."""
        limit = self._uploads.limit(call.repository)
        if limit and (call.content_length or 0) > limit:
            raise self._uploads.refusal(call.repository)

    async def _mount(self, call: Call, mount: str) -> Reply | None:
        digest = parse_blob_digest(mount)
        source = call.parameter("from")
        if source is None:
            # distribution-spec spec.md#mounting-a-blob-from-another-repository: automatic content discovery.
            sources = await self._metadata.holders(digest, HOLDERS_LIMIT)
        else:
            try:
                sources = [parse_repository(source)]
            except NameInvalid:
                return None
        for name in sources:
            # Where the caller may not read, the answer must not tell whether the blob is there: an upload begins.
            if call.caller is None or not call.caller.may(name, "pull"):
                continue
            blob = self._metadata.blob_now(name, digest) or await self._metadata.blob(name, digest)
            if blob is None or not await has_object(self._uploads.objects, blob):
                continue  # what is damaged is to be pushed
            if await self._metadata.mount_blob(call.repository, name, digest):
                return _created(call.repository, digest)
        return None


class _Stated(msgspec.Struct, frozen=True):
    """What a client says of a body's bytes."""

    start: int
    size: int


def _stated(call: Call) -> _Stated | None:
    """Which bytes the body has by its Content-Range, None if there is none."""
    stated = call.headers.get("Content-Range")
    if stated is None or (not stated.strip() and not call.has_body):
        return None
    match = _CONTENT_RANGE.match(stated.strip())
    if match is None:
        raise BlobUploadInvalid("malformed Content-Range", {"range": stated[:100]})
    start, end = int(match[1]), int(match[2])
    expected = end - start + 1
    length = call.content_length
    if expected < 1 and length == 0:
        expected = 0
    if expected < 0 or (length is not None and length != expected):
        raise SizeInvalid("Content-Length is not the size of Content-Range", {"range": stated[:100]})
    return _Stated(start, expected)


def _location(repository: str, upload_id: str) -> str:
    return f"/v2/{repository}/blobs/uploads/{upload_id}"


def _progress(status: HTTPStatus, upload_id: str, repository: str, size: int) -> Reply:
    headers = (
        ("Location", _location(repository, upload_id)),
        ("Range", received_range(size)),
        ("Docker-Upload-UUID", upload_id),
    )
    return Reply(status, headers)


def _created(repository: str, digest: Digest) -> Reply:
    headers = (("Location", f"/v2/{repository}/blobs/{digest}"), ("Docker-Content-Digest", digest))
    return Reply(HTTPStatus.CREATED, headers)
