"""Uploads: one blob from a file into a repository. distribution-spec spec.md#pushing-blobs.

Life story of an upload: ask for a session (or a mount, which ends it at once), send the bytes, close the session with
the digest. If the connection breaks, ask the session how far it came and go on there; if it is gone, begin anew.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import BinaryIO, Final

import aiohttp
from yarl import URL

from scow.oci.descriptor import Descriptor
from scow.transfer.authorization import repository_scope
from scow.transfer.client import RegistryClient, with_query
from scow.transfer.registry_error import LASTING, BadAnswer, Refused, RegistryFailure, RegistryUnreachable

log = logging.getLogger(__name__)

CHUNK_SIZE: Final = 1 << 20
PIECE_SIZE: Final = 8 << 20
"""Bytes of a request, once it is known that the registry loses those that break off."""
SINGLE_REQUEST_LIMIT: Final = 16 << 20
"""Up to this many bytes go in the request that closes the session; more are sent so that they can be resumed."""
_RANGE: Final = re.compile(r"(?:bytes=)?0-(\d+)\Z")
_LOST: Final = frozenset({404, 400, 409, 416})
"""What an upload session is answered with that is gone, has got other bytes than we think, or is still held by a
connection that broke without the registry's noticing."""
_FINAL: Final = LASTING | {"NAME_INVALID"}


class Upload:
    """The upload of one blob, over as many sessions and connections as it takes."""

    def __init__(
        self, client: RegistryClient, path: Path, descriptor: Descriptor, progress: Callable[[int], None]
    ) -> None:
        self._client = client
        self._path = path
        self._descriptor = descriptor
        self._progress = progress
        self._location: URL | None = None
        self._offset = 0
        self._piece = descriptor.size  # bytes that go in one request

    async def run(self, mount_from: Iterable[str] = ()) -> str | None:
        """Bring the blob into the repository; `mount_from` are repositories of the same registry that may have it.

        Returns the repository that it was mounted from, None if it was sent. Raises Refused, RegistryUnreachable.
        """
        for source in mount_from:
            if await self._mount(source):
                return source
            if self._location is not None:
                break  # the registry opened a session instead: it doesn't have the blob there, or doesn't mount
        failures = 0
        while True:
            before = self._offset
            try:
                await self._send()
                return None
            except RegistryFailure as error:
                if self._offset - before >= CHUNK_SIZE:
                    failures = 0
                failures += 1
                if not _worth_retrying(error):
                    await self._abandon()
                    raise
                retryable = error if error.transient else _as_transient(error)
                delay = self._client.patience.delay_s(retryable, failures)
                if delay is None:
                    await self._abandon()
                    raise
                log.info("upload of %s broke off, next attempt in %.2f s: %s", self._descriptor.digest, delay, error)
                await asyncio.sleep(delay)
                if error.transient:
                    await self._find_offset()
                    if self._offset - before >= CHUNK_SIZE:
                        failures = 0  # the session kept what came before it broke
                    elif self._offset == before:
                        self._piece = PIECE_SIZE  # it keeps whole requests only, as docker-registry does
                else:
                    # Refused: whatever the session holds is of no use.
                    await self._abandon()
                    self._location = None

    async def mount(self, source: str) -> bool:
        """Mount the blob from another repository of the registry and nothing else; False if that isn't to be had."""
        if await self._mount(source):
            return True
        await self._abandon()
        return False

    async def _mount(self, source: str) -> bool:
        scope = frozenset([repository_scope(source, "pull")])
        url = with_query(self._client.url("blobs/uploads/"), mount=self._descriptor.digest, **{"from": source})
        try:
            async with self._client.request("POST", url, expect=(201, 202), headers=_EMPTY, also=scope) as response:
                if response.status == 202:
                    self._location = self._follow(response)
                return response.status == 201
        except RegistryFailure as error:
            log.debug("no mount of %s from %s: %s", self._descriptor.digest, source, error)
            return False

    async def _send(self) -> None:
        size = self._descriptor.size
        if self._location is None:
            self._offset = 0
            url = self._client.url("blobs/uploads/")
            async with self._client.request("POST", url, expect=(202,), headers=_EMPTY) as response:
                self._location = self._follow(response)
        if self._offset == 0 and size <= SINGLE_REQUEST_LIMIT:
            await self._close(with_body=True)
            return
        while self._offset < size:
            await self._patch()
        await self._close(with_body=False)

    async def _patch(self) -> None:
        assert self._location is not None
        start = self._offset
        end = min(start + self._piece, self._descriptor.size)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(end - start)}
        if start or end < self._descriptor.size:
            headers["Content-Range"] = f"{start}-{end - 1}"
        async with self._client.request(
            "PATCH", self._location, expect=(202, 204), headers=headers, body=lambda: self._read(start, end)
        ) as response:
            self._location = self._follow(response)
            self._offset = _accepted(response, default=end)
        if self._offset <= start:
            raise BadAnswer(str(self._location), "the registry accepts no bytes")

    async def _close(self, *, with_body: bool) -> None:
        assert self._location is not None
        size = self._descriptor.size if with_body else 0
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        url = with_query(self._location, digest=self._descriptor.digest)
        body = (lambda: self._read(0, size)) if size else None
        async with self._client.request("PUT", url, expect=(201, 204), headers=headers, body=body):
            self._location = None
        self._progress(self._descriptor.size)

    async def _find_offset(self) -> None:
        """Learn how far the session came; forget it if it is gone, or can't be gone on with."""
        location, self._location = self._location, None
        if location is None:
            return
        try:
            async with self._client.request("GET", location, expect=(204, 202, 200)) as response:
                offset = _accepted(response, default=0)
                if offset <= self._descriptor.size:
                    self._location, self._offset = self._follow(response, default=location), offset
        except RegistryFailure as error:
            log.debug("the upload session is lost: %s", error)
        if self._location is None:
            self._offset = 0

    async def _abandon(self) -> None:
        if self._location is None:
            return
        try:
            async with asyncio.timeout(5), self._client.request("DELETE", self._location, expect=(200, 202, 204)):
                pass
        except (RegistryFailure, TimeoutError) as error:
            log.debug("the upload session stays behind: %s", error)

    def _follow(self, response: aiohttp.ClientResponse, default: URL | None = None) -> URL:
        text = response.headers.get("Location", "")
        if not text:
            if default is not None:
                return default
            raise BadAnswer(str(response.url), "no Location")
        location = response.url.join(URL(text, encoded=True))
        base = self._client.base
        if base.scheme == "https" and location.scheme == "http" and location.host == base.host:
            # A registry behind a proxy that ends TLS doesn't know what it is called from outside.
            location = base.origin().join(URL(location.raw_path_qs, encoded=True))
        return location

    async def _read(self, start: int, end: int) -> AsyncIterator[bytes]:
        file: BinaryIO = await asyncio.to_thread(self._path.open, "rb")
        try:
            await asyncio.to_thread(file.seek, start)
            done = start
            while chunk := await asyncio.to_thread(file.read, min(CHUNK_SIZE, end - done)):
                yield chunk
                done += len(chunk)
                self._progress(done)
        finally:
            file.close()


_EMPTY: Final = {"Content-Length": "0"}


def _accepted(response: aiohttp.ClientResponse, default: int) -> int:
    """How many bytes the registry holds by its `Range`. An empty session says `0-0`, as one with one byte does."""
    found = _RANGE.match(response.headers.get("Range", "").strip())
    if found is None:
        return default
    last = int(found[1])
    return last + 1 if last else 0


def _worth_retrying(error: RegistryFailure) -> bool:
    if isinstance(error, Refused):
        return error.transient or (error.status in _LOST and error.code not in _FINAL)
    return isinstance(error, RegistryUnreachable)


def _as_transient(error: RegistryFailure) -> RegistryFailure:
    again = RegistryFailure(str(error))
    again.transient = True
    return again
