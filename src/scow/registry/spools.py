"""Bytes that wait on this machine's disk: in files without names, so that whoever is killed leaves nothing.

What clients send for an object store waits here until it fills a part, and until the store has it. A client that is
slow, or a store, holds a file then, and no memory.
"""

import asyncio
import errno
import os
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from scow.registry.errors import StorageFull
from scow.registry.folder import FULL, few_pieces, finished, write_pieces

if TYPE_CHECKING:
    from hashlib import _Hash

    from scow.registry.running_hash import RunningHash

P = ParamSpec("P")
T = TypeVar("T")

MEMORY_SIZE: Final = 64 << 10
"""So few bytes are kept in memory: a file costs more."""
READ_SIZE: Final = 128 << 10
"""Bytes that are read at a time: what waits to be sent has them in memory, and the socket as many."""


def nameless_file(folder: Path) -> int:
    """Open a file without a name for reading and writing; its descriptor. Raises OSError. open(2), O_TMPFILE."""
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            raise
    fd, name = tempfile.mkstemp(dir=folder)  # a file system that has no such files
    os.unlink(name)
    return fd


class Spools:
    """Makes spools in a folder, and has the threads that read and write them. Whoever made it closes it."""

    def __init__(self, folder: Path, threads: int = 8) -> None:
        self.folder = folder
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="spools")

    def new(self) -> "Spool":
        """A spool without bytes."""
        return Spool(self)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `call` in a thread, to its end even if the caller is cancelled."""
        return await finished(asyncio.get_running_loop().run_in_executor(self._threads, lambda: call(*args, **kwargs)))

    async def aclose(self) -> None:
        """End the threads."""
        await asyncio.to_thread(self._threads.shutdown)


class Spool:
    """Bytes that are added to, one writer at a time, and read. Whoever made it closes it; reading may go on then."""

    def __init__(self, spools: Spools) -> None:
        self._spools = spools
        self._memory: list[bytes] = []  # all there is, as long as there is no file
        self._fd: int | None = None
        self._users = 0
        self._closed = False
        self.size = 0

    async def append(self, pieces: Sequence[bytes], hashes: "Sequence[_Hash | RunningHash]" = ()) -> None:
        """Add to the end, and feed `hashes`. Raises StorageFull, and nothing is added."""
        size = self.size + sum(map(len, pieces))
        to_file = self._fd is not None or size > MEMORY_SIZE

        def write() -> None:
            few = few_pieces(pieces)
            if to_file:
                self._write(few)
            for state in hashes:
                for piece in few:
                    state.update(piece)

        await self._use(write)
        if to_file:
            self._memory = []
        else:
            self._memory += pieces
        self.size = size

    def _write(self, pieces: Sequence[bytes]) -> None:
        fd = self._fd
        try:
            if fd is None:
                fd = nameless_file(self._spools.folder)
                write_pieces(fd, few_pieces(self._memory), 0)
            write_pieces(fd, pieces, self.size)
        except OSError as error:
            if fd is not None and self._fd is None:
                os.close(fd)
            if error.errno in FULL:
                raise StorageFull(f"{self._spools.folder}, where bytes on their way wait, is full") from error
            raise
        self._fd = fd

    async def read(self, offset: int, count: int) -> bytes:
        """So many bytes from `offset` on, all in memory."""
        if self._fd is None:
            return b"".join(self._memory)[offset : offset + count]
        try:
            # What was written a moment ago is in memory: a thread would cost more than the copy.
            data = bytearray(count)
            if os.preadv(self._fd, [data], offset, os.RWF_NOWAIT) == count:
                return bytes(data)
        except OSError:  # it would have to wait for the disk, or the file system can't tell
            pass
        return await self._use(os.pread, self._fd, count, offset)

    async def chunks(self, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """What there is from `offset` on."""
        while offset < self.size:
            data = await self.read(offset, min(READ_SIZE, self.size - offset))
            if not data:
                raise ConnectionResetError("a file of what is on its way is shorter than it was")
            yield data
            offset += len(data)

    async def truncate(self, size: int) -> None:
        """Drop what lies behind `size`."""
        if self._fd is not None:
            await self._use(os.ftruncate, self._fd, size)
        else:
            self._memory = [b"".join(self._memory)[:size]]
        self.size = size

    async def _use(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._users += 1
        try:
            return await self._spools.run(call, *args, **kwargs)
        finally:
            self._users -= 1
            if self._closed:
                self._close_file()

    def close(self) -> None:
        """Drop all of it. Idempotent."""
        self._closed, self._memory = True, []
        self._close_file()

    def _close_file(self) -> None:
        # A thread that reads for somebody who was cancelled still has the descriptor, which would be another's.
        if self._fd is not None and self._users == 0:
            os.close(self._fd)
            self._fd = None


def cut(pieces: Sequence[bytes], size: int) -> tuple[list[bytes], list[bytes]]:
    """Part what `pieces` have after `size` bytes."""
    first: list[bytes] = []
    for number, piece in enumerate(pieces):
        if len(piece) > size:
            if size:
                first.append(piece[:size])
            return first, [piece[size:], *pieces[number + 1 :]]
        first.append(piece)
        size -= len(piece)
    return first, []
