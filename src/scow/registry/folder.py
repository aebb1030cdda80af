"""Blobs in a folder: `blobs/<algorithm>/<2 hex>/<hex>.<upload ID>`, uploads in `uploads/<ID>`.

A blob appears by one link(2) after its bytes are synced, so there is no half blob; the directory is synced too before
anybody is told. Several processes can share the folder: a stage is held by flock(2), which ends with its holder.
"""

import asyncio
import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, ParamSpec, TypeVar

from scow.oci.digest import algorithm, encoded
from scow.registry.errors import DigestInvalid, StorageFull, UploadBusy, UploadUnknown
from scow.registry.objects import ObjectName, object_digest

if TYPE_CHECKING:
    from hashlib import _Hash

P = ParamSpec("P")
T = TypeVar("T")

READ_SIZE: Final = 1 << 20
PIECE_SIZE: Final = 32 << 10
"""What arrives in pieces of so many bytes or more is written and hashed as it is, without a copy."""
IOV_MAX: Final = 1024
"""Pieces that one call writes. writev(2)"""
FLUSH_SIZE: Final = 8 << 20
"""Bytes of an upload after which the disk is to begin with them."""
OPEN_LIMIT: Final = 128
"""Blobs that are kept open for the next reader."""
SWEEP_S: Final = 30.0
"""Between two looks for open blobs that another process has removed: until they are closed they keep their space."""
FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


async def finished(future: "asyncio.Future[T]") -> T:
    """Wait for what a thread does, to its end even if the caller is cancelled.

    It goes on with a file descriptor of the caller's: closed before, its number might be somebody else's.
    """
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        with suppress(Exception):
            await future
        raise


def few_pieces(chunks: Sequence[bytes]) -> Sequence[bytes]:
    """The same bytes, joined where they are in small pieces: each costs two calls, which is more than a copy of all."""
    size = sum(map(len, chunks))
    return chunks if len(chunks) * PIECE_SIZE <= size <= IOV_MAX * PIECE_SIZE else [b"".join(chunks)]


def write_pieces(fd: int, pieces: Sequence[bytes], offset: int) -> None:
    """Write all of them from `offset` on. Raises OSError."""
    size = sum(map(len, pieces))
    written = os.pwritev(fd, pieces, offset)
    while written < size:
        written += os.pwrite(fd, b"".join(pieces)[written:], offset + written)


class FolderObject:
    """One open blob, shared by its readers; the last one to leave a blob that is no longer kept closes it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self._users = 0

    async def read(self, offset: int, count: int) -> AsyncGenerator[bytes, None]:
        return self._read(offset, count)

    async def _read(self, offset: int, count: int) -> AsyncGenerator[bytes, None]:
        end = offset + count
        while offset < end:
            reading = asyncio.to_thread(os.pread, self.file.fileno(), min(READ_SIZE, end - offset), offset)
            data = await finished(asyncio.ensure_future(reading))
            if not data:
                raise ConnectionResetError("the object is shorter than it was")
            yield data
            offset += len(data)

    def acquire(self) -> "FolderObject":
        self._users += 1
        return self

    def release(self) -> None:
        self._users -= 1
        if self._users == 0:
            self.file.close()


class FolderStage:
    """An upload's file, locked for this holder."""

    rereads: Final = True

    def __init__(self, folder: "Folder", upload_id: str, fd: int) -> None:
        self._folder = folder
        self._upload_id = upload_id
        self._fd: int | None = fd
        status = os.fstat(fd)
        self.size = status.st_size
        self._published = status.st_nlink > 1

    @property
    def _open_fd(self) -> int:
        assert self._fd is not None, "the stage is closed"
        return self._fd

    def hash(self, name: str) -> "tuple[_Hash, int]":
        return hashlib.new(name), 0

    async def append(self, chunks: Sequence[bytes], hashes: "Sequence[_Hash]") -> None:
        self.size += await self._folder.run(self._write, chunks, hashes)

    def _write(self, chunks: Sequence[bytes], hashes: "Sequence[_Hash]") -> int:
        if self._published:
            # Stage and blob are one file: whoever published it died before the stage was gone.
            raise UploadUnknown(self._upload_id)
        fd, offset, size = self._open_fd, self.size, sum(map(len, chunks))
        pieces = few_pieces(chunks)
        try:
            write_pieces(fd, pieces, offset)
        except OSError as error:
            if error.errno in FULL:
                with suppress(OSError):
                    os.ftruncate(fd, offset)
                raise StorageFull from error
            raise
        if (start := offset // FLUSH_SIZE * FLUSH_SIZE) != (end := (offset + size) // FLUSH_SIZE * FLUSH_SIZE):
            # The disk begins with these now: all of it left to the sync at the end took as long as what came before.
            # What is not on the disk yet stays in memory (posix_fadvise(2)), for the first who pulls it.
            with suppress(OSError):
                os.posix_fadvise(fd, start, end - start, os.POSIX_FADV_DONTNEED)
        for state in hashes:
            for piece in pieces:
                state.update(piece)
        return size

    async def feed(self, state: "_Hash", start: int) -> None:
        fd, end = self._open_fd, self.size

        def read() -> None:
            offset = start
            while offset < end and (data := os.pread(fd, min(READ_SIZE, end - offset), offset)):
                state.update(data)
                offset += len(data)

        await self._folder.run(read)

    async def truncate(self, size: int) -> None:
        await self._folder.run(os.ftruncate, self._open_fd, size)
        self.size = size

    async def publish(self, name: ObjectName, tail: Sequence[bytes], state: "_Hash") -> None:
        fd, target, digest = self._open_fd, self._folder.path(name), object_digest(name)

        def link() -> None:
            if tail:
                self.size += self._write(tail, (state,))
            if state.hexdigest() != encoded(digest):
                raise DigestInvalid("provided digest did not match uploaded content", {"digest": digest})
            try:
                os.fsync(fd)
                self._folder.make_parent(target)
                # Not rename(2): the stage has to survive until the names are committed.
                try:
                    os.link(self._folder.stage_path(self._upload_id), target)
                except FileExistsError:
                    # It should be equal. If its bytes have rotted this is how they become good again.
                    self._folder.replace(self._upload_id, target)
                _sync_directory(target.parent)
                self._published = True
            except FileNotFoundError as error:  # cancelled meanwhile
                raise UploadUnknown(self._upload_id) from error
            except OSError as error:
                if error.errno in FULL:
                    raise StorageFull from error
                raise

        await self._folder.run(link)
        self._folder.let_go(name)  # what is open may be the file that has been replaced

    async def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


class Folder:
    """Objects in the file system beneath `root`."""

    late_s: Final = 0.0

    def __init__(self, root: Path, threads: int = 8, sweep_s: float = SWEEP_S) -> None:
        self._sweep_s = sweep_s
        self._sweeping: asyncio.TimerHandle | None = None
        self._blobs = root / "blobs"
        self._uploads = root / "uploads"
        self._open: OrderedDict[ObjectName, FolderObject] = OrderedDict()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="objects")
        for path in (self._blobs, self._uploads):
            path.mkdir(parents=True, exist_ok=True)
        self._make_common_parents()

    def _make_common_parents(self) -> None:
        """Make what blobs of sha256 lie in beforehand: made one by one, each would cost its first blob two syncs."""
        common = self._blobs / "sha256"
        if not common.is_dir():
            common.mkdir(exist_ok=True)
            for number in range(256):
                (common / f"{number:02x}").mkdir(exist_ok=True)
            _sync_directory(common)
            _sync_directory(self._blobs)

    def check_writable(self) -> None:
        """Raise PermissionError if nothing can be written: each push would find it out."""
        for path in (self._uploads, self._blobs, self._blobs / "sha256"):
            if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def path(self, name: ObjectName) -> Path:
        """Where an object lies."""
        kind, _, rest = name.partition(":")
        return self._blobs / kind / rest[:2] / rest

    def stage_path(self, upload_id: str) -> Path:
        """Where the bytes of an upload lie."""
        return self._uploads / upload_id

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `call` in a thread of this folder; it is never abandoned half-way, even if the caller is cancelled."""
        return await finished(asyncio.get_running_loop().run_in_executor(self._threads, lambda: call(*args, **kwargs)))

    def make_parent(self, target: Path) -> None:
        """Make the directories of a blob, durably."""
        parent = target.parent
        if not parent.is_dir():
            parent.mkdir(parents=True, exist_ok=True)
            _sync_directory(parent.parent)
            _sync_directory(self._blobs)

    def replace(self, upload_id: str, target: Path) -> None:
        """Put what is staged into the place of an object."""
        again = self._uploads / f"{upload_id}.again"
        os.link(self.stage_path(upload_id), again)
        try:
            os.rename(again, target)
        finally:
            again.unlink(missing_ok=True)  # still there if both are the same file

    async def open_stage(self, upload_id: str, *, create: bool = False) -> FolderStage:
        path = self.stage_path(upload_id)
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)

        def hold() -> int:
            try:
                fd = os.open(path, flags, 0o600)
            except FileNotFoundError as error:
                raise UploadUnknown(upload_id) from error
            except FileExistsError as error:
                raise UploadBusy(upload_id) from error
            except OSError as error:
                if error.errno in FULL:
                    raise StorageFull from error
                raise
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_nlink == 0:  # discarded between open and flock
                    raise UploadUnknown(upload_id)
            except BlockingIOError as error:
                os.close(fd)
                raise UploadBusy(upload_id) from error
            except BaseException:
                os.close(fd)
                raise
            return fd

        # What is there is opened in a moment; to make it may wait for the file system's journal.
        return FolderStage(self, upload_id, await self.run(hold) if create else hold())

    async def staged_size(self, upload_id: str) -> int:
        try:
            return (await self.run(os.stat, self.stage_path(upload_id))).st_size
        except FileNotFoundError as error:
            raise UploadUnknown(upload_id) from error

    async def discard(self, upload_id: str) -> None:
        def unlink() -> None:
            with suppress(FileNotFoundError):
                self.stage_path(upload_id).unlink()

        await self.run(unlink)

    async def staged(self) -> list[tuple[str, float]]:
        def scan() -> list[tuple[str, float]]:
            found = []
            with os.scandir(self._uploads) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        found.append((entry.name, entry.stat().st_mtime))
            return found

        return await self.run(scan)

    def open_now(self, name: ObjectName) -> FolderObject | None:
        found = self._open.get(name)
        if found is None:
            return None
        self._open.move_to_end(name)
        return found.acquire()

    async def open(self, name: ObjectName) -> FolderObject | None:
        if (found := self.open_now(name)) is not None:
            return found

        def open_file() -> FolderObject | None:
            try:
                return FolderObject(open(self.path(name), "rb", buffering=0))
            except FileNotFoundError:
                return None

        opened = await self.run(open_file)
        if opened is None:
            return None
        if (raced := self.open_now(name)) is not None:
            opened.file.close()
            return raced
        self._open[name] = opened.acquire()
        if len(self._open) > OPEN_LIMIT:
            self._open.popitem(last=False)[1].release()
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(self._sweep_s, self._sweep)
        return opened.acquire()

    def _sweep(self) -> None:
        """Let go of what was removed meanwhile, and come again as long as anything is open."""
        for name, found in list(self._open.items()):
            if os.fstat(found.file.fileno()).st_nlink == 0:
                self._open.pop(name).release()
        self._sweeping = asyncio.get_running_loop().call_later(self._sweep_s, self._sweep) if self._open else None

    async def url(self, name: ObjectName) -> str | None:
        return None

    async def verify(self, name: ObjectName) -> bool:
        digest = object_digest(name)

        def read() -> bool:
            try:
                with open(self.path(name), "rb") as file:
                    return hashlib.file_digest(file, algorithm(digest)).hexdigest() == encoded(digest)
            except FileNotFoundError:
                return False

        return await self.run(read)

    async def adopt(self, source: Path, name: ObjectName, *, verify: bool) -> int:
        """Make a file from elsewhere the object `name`, by a hard link if it can be; its size.

        Raises DigestInvalid, StorageFull and FileNotFoundError.
        """
        digest = object_digest(name)

        def take() -> int:
            if verify:
                with open(source, "rb") as file:
                    if hashlib.file_digest(file, algorithm(digest)).hexdigest() != encoded(digest):
                        raise DigestInvalid("the content is not that of its digest", {"digest": digest})
            target = self.path(name)
            try:
                self.make_parent(target)
                with suppress(FileExistsError):
                    self._link_or_copy(source, target)
                _sync_directory(target.parent)
            except OSError as error:
                if error.errno in FULL:
                    raise StorageFull from error
                raise
            return target.stat().st_size

        return await self.run(take)

    def _link_or_copy(self, source: Path, target: Path) -> None:
        parent = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # With a descriptor it is linkat(2), which gives names also to files without one (/proc/self/fd).
            os.link(source, target.name, dst_dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOENT):
                raise
            if error.errno == errno.ENOENT and not source.exists():
                raise
        else:
            return
        finally:
            os.close(parent)
        staged = self.stage_path(f"import-{os.getpid()}-{threading.get_ident()}")
        try:
            shutil.copyfile(source, staged)
            with open(staged, "rb") as file:
                os.fsync(file.fileno())
            os.link(staged, target)
        finally:
            staged.unlink(missing_ok=True)

    def let_go(self, name: ObjectName) -> None:
        """Keep an object open no longer than its readers need it."""
        if (kept := self._open.pop(name, None)) is not None:
            kept.release()

    async def remove(self, name: ObjectName) -> None:
        self.let_go(name)

        def unlink() -> None:
            with suppress(FileNotFoundError):
                self.path(name).unlink()

        await self.run(unlink)

    async def sweep(self) -> None:
        return  # a file is its own record

    async def aclose(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        while self._open:
            self._open.popitem()[1].release()
        await asyncio.to_thread(self._threads.shutdown)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
