"""A build's context: the tar that a client sends, spooled to a file as it comes, with its headers in memory.

Compressed or not, several gigabytes or a Dockerfile alone: what is held in memory is the headers. Nothing is unpacked,
so that no name or link in it can lead anywhere.
"""

import asyncio
import contextlib
import io
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, cast

from scow.build.compose import Composer, Owner
from scow.build.provenance import Material
from scow.build.selection import Selected
from scow.build.threads import made
from scow.build.trees import ContextRefused, SpooledTree, Tree, find, read_tar
from scow.oci.media_types import Compression
from scow.store.compression import inflate, sniff
from scow.store.snapshots import finish
from scow.store.tree import LayerCorrupt, LayerTree, Node, shown

SMALL: Final = 1 << 20  # bytes of a context that are taken at once
LIMIT: Final = 1 << 40  # bytes of a context's tar
FILE_LIMIT: Final = 16 << 20  # bytes of a Dockerfile or ignore file
_TAR: Final = "context.tar"


class Context:
    """What a client sent. Made by `receive`; `aclose` removes it."""

    def __init__(self, folder: Path, tree: SpooledTree, size: int) -> None:
        self.folder = folder
        self.tree = tree
        self.size = size  # bytes of the tar
        self.material: Material | None = None  # where it is from, if that isn't the client
        self.dated: int | None = None  # when what it is from was made, in seconds: of a commit, or at a URL
        self._users = 0
        self._closing = False

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None if there is no such file. Raises ContextRefused."""
        found = find(self.tree, name.encode("utf-8", "surrogateescape").strip(b"/"))
        if found is None or found[1].is_directory:
            return None
        path, node = found
        if node.size > FILE_LIMIT:
            raise ContextRefused(f"{shown(path)} has {node.size} bytes, which is too much for a file of this kind")
        return b"".join(self.tree.content(path, node))

    def find(self, name: str) -> Node | None:
        """What is at a path, if anything."""
        found = find(self.tree, name.encode("utf-8", "surrogateescape").strip(b"/"))
        return None if found is None else found[1]

    @contextlib.asynccontextmanager
    async def used(self) -> AsyncIterator[None]:
        """Keep it while the block lasts, whoever closes it: another build may wait for a step of this one."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self._closing and not self._users:
                await asyncio.shield(asyncio.ensure_future(self._remove()))

    async def aclose(self) -> None:
        """Remove it, now or when its last user is done. Idempotent."""
        if not self._closing:
            self._closing = True
            if not self._users:
                await asyncio.shield(asyncio.ensure_future(self._remove()))

    async def _remove(self) -> None:
        self.tree.close()
        await asyncio.to_thread(shutil.rmtree, self.folder, True)


async def make(work: Callable[[], Context], folder: Path) -> Context:
    """Have a thread make a context in a folder. If that fails, or nobody wants it any more, nothing is left."""
    try:
        return await made(work, lambda context: context.tree.close())
    except BaseException:
        await finish(asyncio.to_thread(shutil.rmtree, folder, True))
        raise


async def receive(content: AsyncIterator[bytes], folder: Path) -> Context:
    """Take a tar in any compression into a new folder. Raises ContextRefused; then nothing is left."""
    pieces: list[bytes] = []
    size = 0
    async for data in content:
        pieces.append(data)
        size += len(data)
        if size > SMALL:
            return await _receive_piped(pieces, content, folder)
    return await make(lambda: take(io.BytesIO(b"".join(pieces)), folder), folder)


async def _receive_piped(head: list[bytes], content: AsyncIterator[bytes], folder: Path) -> Context:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    source = os.fdopen(reading, "rb", buffering=0)
    taking = asyncio.ensure_future(make(lambda: _take_and_close(source, folder), folder))
    try:
        try:
            # A write that waits is waited for: its descriptor must not be closed, and given to another file, before.
            for data in head:
                await finish(asyncio.to_thread(_write_all, writing, data))
            async for data in content:
                await finish(asyncio.to_thread(_write_all, writing, data))
        except BrokenPipeError:
            pass  # it was refused: the taker says why
        finally:
            os.close(writing)
        context = await taking
    except BaseException:
        # The pipe is closed: the thread comes to its end by itself.
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        raise
    try:
        async for _ in content:  # padding, or what follows the archive's end
            pass
    except BaseException:
        await finish(context.aclose())
        raise
    return context


def _take_and_close(source: BinaryIO, folder: Path) -> Context:
    with source:
        return take(source, folder)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def take(source: BinaryIO, folder: Path) -> Context:
    """Take a tar in any compression as a context. Raises ContextRefused. Blocks."""
    tree = take_tar(source, folder)
    return Context(folder, tree, os.stat(tree.tar).st_size)


def take_tar(source: BinaryIO, folder: Path) -> SpooledTree:
    """Spool a tar in any compression into a folder. Raises ContextRefused. Blocks."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    head = _read_head(source)
    try:
        compression = sniff(head)
    except LayerCorrupt as error:
        raise ContextRefused(error.reason) from error
    pieces = _pieces(head, source)
    if compression is not Compression.NONE:
        pieces = _inflated(pieces, compression)
    path = folder / _TAR
    with path.open("xb") as file:
        tree = read_tar(cast(BinaryIO, _Reader(pieces)), file)
    return SpooledTree(path, tree)


def _read_head(source: BinaryIO) -> bytes:
    head = b""
    while len(head) < 512 and (data := source.read(512 - len(head))):
        head += data
    return head


def _pieces(head: bytes, source: BinaryIO) -> Iterator[bytes]:
    if head:
        yield head
    while data := source.read(SMALL):
        yield data


def _inflated(pieces: Iterator[bytes], compression: Compression) -> Iterator[bytes]:
    try:
        yield from inflate(pieces, compression, LIMIT)
    except LayerCorrupt as error:
        raise ContextRefused(error.reason) from error


class _Reader:
    """An iterator of pieces, read as a file: a piece at a time."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self, size: int = -1) -> bytes:
        return next((piece for piece in self._pieces if piece), b"")


def empty(folder: Path) -> Context:
    """A context without files. Blocks."""
    folder.mkdir(mode=0o700, parents=True)
    path = folder / _TAR
    path.touch()
    return Context(folder, SpooledTree(path, LayerTree()), 0)


def of_dockerfile(data: bytes, folder: Path) -> Context:
    """A context that is a Dockerfile alone. Blocks."""
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size, entry.mode = len(data), 0o644
        archive.addfile(entry, io.BytesIO(data))
    buffer.seek(0)
    folder.mkdir(mode=0o700, parents=True)
    return take(buffer, folder)


def of_directory(tree: Tree, subfolder: str, folder: Path) -> Context:
    """A context of a directory's files. Raises ContextRefused. Blocks."""
    found = find(tree, subfolder.strip("/").encode())
    if found is None or not found[1].is_directory:
        raise ContextRefused(f"the repository has no folder {subfolder!r}")
    folder.mkdir(mode=0o700, parents=True)
    try:
        return _of_directory(tree, found, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _of_directory(tree: Tree, found: tuple[bytes, Node], folder: Path) -> Context:
    raw = folder / "raw.tar"
    fd = os.open(raw, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        composer = Composer(fd, None)
        composer.copy(tree, [Selected(found[0], found[1], b"")], "/", owner=Owner(0, 0))
        composer.finish()
    finally:
        os.close(fd)
    with raw.open("rb") as source:
        context = take(source, folder)
    raw.unlink()
    return context
