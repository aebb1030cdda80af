"""Manifests on their way in and out: small ones in memory, large ones by way of files without names.

A manifest may have megabytes, and a hundred clients may bring or take one each and be slow. So what arrives is put into
a file until it is there whole, and what leaves is sent from one; in memory are as many as there is room for.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO, Final, ParamSpec, TypeVar

from scow.oci.digest import Digest
from scow.registry.calls import Call
from scow.registry.errors import ManifestTooLarge
from scow.registry.folder import FULL, FolderObject, finished
from scow.registry.metadata import KnownManifest, Metadata, StoredManifest
from scow.registry.replies import Slice
from scow.registry.room import Room
from scow.registry.spools import nameless_file

P = ParamSpec("P")
T = TypeVar("T")

INLINE_SIZE: Final = 64 << 10
"""Bytes of a body that are kept in memory while the rest arrives."""
BATCH_SIZE: Final = 256 << 10
"""Bytes that are handed to a thread at a time."""
ROOM_SIZE: Final = 16 << 20
COPIES: Final = 2
"""What a large manifest takes of the room, in its own size: the database and who reads it have copies."""
KEPT_SIZE: Final = 64 << 20
KEPT_LIMIT: Final = 16
"""Large manifests that were sent last are kept for the next reader: bytes on disk, and open files."""


class ManifestBodies:
    """Whoever made it closes it."""

    def __init__(self, metadata: Metadata, folder: Path) -> None:
        """`folder` is where the files are."""
        self._metadata = metadata
        self._folder = folder
        self._room = Room(ROOM_SIZE)
        self._kept: OrderedDict[Digest, FolderObject] = OrderedDict()
        self._kept_size = 0

    @asynccontextmanager
    async def received(self, call: Call, limit: int) -> AsyncIterator[bytes]:
        """A request's body, in memory as long as the context lasts. Raises ManifestTooLarge and what `body` raises."""
        refusal = ManifestTooLarge(limit)
        if (call.content_length or 0) > limit:
            raise refusal
        size = unwritten = 0
        pieces: list[bytes] = []
        async with AsyncExitStack() as stack:
            file: IO[bytes] | None = None
            async for piece in call.body():
                pieces.append(piece)
                size += len(piece)
                unwritten += len(piece)
                if size > limit:
                    raise refusal
                if unwritten > (INLINE_SIZE if file is None else BATCH_SIZE):
                    file = file or stack.enter_context(await _in_thread(self._open))
                    await _in_thread(_write, file, pieces)
                    pieces, unwritten = [], 0
                piece = b""  # or it would be kept until more comes
            if file is None:
                yield b"".join(pieces)
                return
            await _in_thread(_write, file, pieces)
            pieces.clear()
            await stack.enter_async_context(self._room.take(COPIES * size))
            yield await _in_thread(os.pread, file.fileno(), size, 0)

    async def body(self, repository: str, found: KnownManifest) -> bytes | Slice | None:
        """What is sent of a manifest; None if it was deleted since it was found."""
        if isinstance(found, StoredManifest):
            return found.data
        kept = self._find(found.digest)
        if kept is None:
            async with self._room.take(COPIES * found.size):
                kept = self._find(found.digest)  # somebody may have read it meanwhile
                if kept is None:
                    stored = await self._metadata.manifest(repository, found.digest, True)
                    if stored is None:
                        return None
                    try:
                        kept = self._keep(found.digest, await self._spool(stored.data))
                    except OSError as error:
                        if error.errno not in FULL:
                            raise
                        return stored.data  # a full disk keeps nobody from reading
        return Slice(kept, 0, found.size)

    def _find(self, digest: Digest) -> FolderObject | None:
        kept = self._kept.get(digest)
        if kept is None:
            return None
        self._kept.move_to_end(digest)
        return kept.acquire()

    def _keep(self, digest: Digest, file: IO[bytes]) -> FolderObject:
        """Keep a manifest's file and begin to use it."""
        if (other := self._find(digest)) is not None:  # of somebody who wanted it at the same time
            file.close()
            return other
        made = FolderObject(file).acquire()
        self._kept[digest] = made.acquire()
        self._kept_size += made.size
        while self._kept_size > KEPT_SIZE or len(self._kept) > KEPT_LIMIT:
            _, oldest = self._kept.popitem(last=False)
            self._kept_size -= oldest.size
            oldest.release()
        return made

    def _open(self) -> IO[bytes]:
        return os.fdopen(nameless_file(self._folder), "r+b", buffering=0)

    async def _spool(self, data: bytes) -> IO[bytes]:
        file = await _in_thread(self._open)
        try:
            await _in_thread(_write, file, [data])
        except BaseException:
            file.close()
            raise
        return file

    def close(self) -> None:
        """Close what nobody is reading."""
        while self._kept:
            self._kept.popitem()[1].release()
        self._kept_size = 0


async def _in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await finished(asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs)))


def _write(file: IO[bytes], pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[file.write(view) :]
