"""What a worker does with a layer: one pass over its bytes as they arrive, then everything is on disk or nothing.

    pipe -> digest of the blob, blob file -> inflate -> diff ID, tar file
                                                     -> tar headers, index

The stages are threads: hashing, inflating and writing release the GIL, so that they overlap with each other and with
the Python that reads headers. Runs in a worker process (workers.py) and imports little.

Memory is bounded by the pieces between the stages, whatever the layer's size, and by its number of entries: a worker
peaked at 26 MiB for one file of 2 GiB, and at 75 MiB for 100,000 files, some 600 bytes each.
"""

import ctypes
import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

from scow.oci.digest import Digest, algorithm, encoded
from scow.oci.media_types import Compression
from scow.store.compression import deflate, inflate, sniff
from scow.store.erofs import NotExpressible, build_index
from scow.store.tarstream import TarReader
from scow.store.tree import LayerCorrupt, LayerTree
from scow.store.unpack import confine, unpack

READ_SIZE: Final = 1 << 20
QUEUE_LENGTH: Final = 4  # pieces between two stages
THREADED_FROM: Final = 1 << 18  # bytes from which threads are worth starting
WRITE_BEHIND: Final = 16 << 20  # bytes after which the kernel is told to begin writing them to the disk
_SYNC_FILE_RANGE_WRITE: Final = 2
_ZEROS: Final = memoryview(bytes(1 << 20))

BLOB: Final = "blob"  # names in the job's directory
LAYER: Final = "layer"
TAR: Final = "tar"
INDEX: Final = "index"
ROOT: Final = "root"

_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")

Job = dict[str, Any]
"""A message between engine and worker. To a worker: `do` (see jobs.py), `directory` and what else it needs."""


class OutputFile:
    """A file being written and hashed; what is written is on its way to the disk soon after. No path: only hashed."""

    def __init__(self, path: str | None, digest_algorithm: str | None) -> None:
        self.fd = -1 if path is None else os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.size = 0
        self._hash = None if digest_algorithm is None else hashlib.new(digest_algorithm)
        self._algorithm = digest_algorithm
        self._behind = 0

    def write(self, data: bytes) -> None:
        if self.fd >= 0:
            view = memoryview(data)
            while view:
                view = view[os.write(self.fd, view) :]
        if self._hash is not None:
            self._hash.update(data)
        self.size += len(data)
        if self.size - self._behind >= WRITE_BEHIND and self.fd >= 0:
            # Spreads the cost of the final fsync over the time in which the bytes arrive.
            _libc.sync_file_range(
                self.fd,
                ctypes.c_int64(self._behind),
                ctypes.c_int64(self.size - self._behind),
                _SYNC_FILE_RANGE_WRITE,
            )
            self._behind = self.size

    def skip(self, size: int) -> None:
        """Leave a hole, hashed as the zeros that reading it gives. Something must be written after the last one."""
        os.lseek(self.fd, size, os.SEEK_CUR)
        if self._hash is not None:
            for start in range(0, size, len(_ZEROS)):
                self._hash.update(_ZEROS[: size - start])
        self.size += size

    @property
    def digest(self) -> Digest:
        assert self._hash is not None
        return Digest(f"{self._algorithm}:{self._hash.hexdigest()}")

    def start_sync(self) -> Callable[[], None]:
        """Sync in a thread; the result waits for it and raises what it raised."""
        errors: list[OSError] = []

        def sync() -> None:
            try:
                os.fsync(self.fd)
            except OSError as error:
                errors.append(error)

        def wait() -> None:
            thread.join()
            if errors:
                raise errors[0]

        thread = threading.Thread(target=sync)
        thread.start()
        return wait

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class Stage(Generic[T]):
    """A consumer in a thread of its own, behind a short queue. After an error it swallows what still comes."""

    def __init__(self, consume: Callable[[Iterator[T]], None]) -> None:
        self._queue: queue.Queue[T | None] = queue.Queue(QUEUE_LENGTH)
        self._consume = consume
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def put(self, piece: T) -> None:
        """Hand over the next piece; waits while the consumer is behind."""
        self._queue.put(piece)

    def join(self) -> None:
        """Wait until everything that was put is consumed; raise what the consumer raised."""
        self._queue.put(None)
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        pieces = iter(self._queue.get, None)
        try:
            self._consume(pieces)
        except BaseException as error:
            self.error = error
        for _ in pieces:
            pass


def _each(consume: Callable[[bytes], None]) -> Callable[[Iterator[bytes]], None]:
    def run(pieces: Iterator[bytes]) -> None:
        for piece in pieces:
            consume(piece)

    return run


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Ingest:
    """One layer on its way in. `run` reads `source` to its end and leaves `blob` and `layer/` in the directory.

    The job: `directory`; `blob`: digest and `blob_size`, or None; `keep_blob`: whether its file is kept or only
    checked; `compression`, None to tell by the first bytes;
    `diff_id`: expected, or None; `form`: "erofs" or "dir"; `limit`: of bytes inflated.
    """

    def __init__(self, job: Job, source: int, tell: Callable[[int], None] | None = None) -> None:
        self._job = job
        self._source = source
        self._tell = tell
        self._directory: str = job["directory"]
        self._blob: str | None = job["blob"]
        self._compression = Compression(job["compression"]) if job["compression"] else None
        self._layer = f"{self._directory}/{LAYER}"
        os.mkdir(self._layer, 0o755)
        self._reader = TarReader()
        self._tar = OutputFile(f"{self._layer}/{TAR}", algorithm(job["diff_id"] or "sha256:"))
        self._blob_file: OutputFile | None = None
        self._received = 0

    def run(self, finished: Callable[[], None]) -> Job:
        """Read, check, sync. `finished` is called when the bytes end, and raises if they did so unasked."""
        head = self._read(THREADED_FROM)
        if self._compression is None:
            self._compression = sniff(head)
        if self._blob is not None and self._compression is not Compression.NONE:
            path = f"{self._directory}/{BLOB}" if self._job.get("keep_blob", True) else None
            self._blob_file = OutputFile(path, algorithm(self._blob))
        if len(head) < THREADED_FROM:
            self._run_inline(head, finished)
        else:
            self._run_threaded(head, finished)
        waits = [
            file.start_sync()
            for file in (self._tar, self._blob_file)
            if file is not None and file.fd >= 0 and file.size >= 1 << 20
        ]
        try:
            diff_id = self._tar.digest
            if self._job["diff_id"] and diff_id != self._job["diff_id"]:
                raise Mismatch("diff ID", self._job["diff_id"], diff_id)
            form = make_form(self._layer, self._reader.finish(), self._tar, self._job["form"])
        finally:
            for wait in waits:
                wait()
        for file in (self._tar, self._blob_file):
            if file is not None and file.fd >= 0 and file.size < 1 << 20:
                os.fdatasync(file.fd)
        if self._blob is not None and self._blob_file is None:
            os.link(f"{self._layer}/{TAR}", f"{self._directory}/{BLOB}")  # not compressed: the same bytes
        sync_directory(self._layer)
        return {
            "diff_id": diff_id,
            "size": self._tar.size,
            "form": form,
            "entries": self._reader.tree.entries,
            "files_size": self._reader.tree.files_size(),
            "compression": str(self._compression),
        }

    def close(self) -> None:
        """Close the files."""
        self._tar.close()
        if self._blob_file is not None:
            self._blob_file.close()

    # the pass

    def _read(self, size: int) -> bytes:
        """Read up to `size` bytes, less only at the end."""
        pieces = []
        while size:
            piece = os.read(self._source, size)
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _take(self, data: bytes) -> None:
        self._received += len(data)
        if self._blob is not None and self._received > self._job["blob_size"]:
            raise Mismatch("size", str(self._job["blob_size"]), f"more than {self._received - len(data)} bytes")
        if self._blob_file is not None:
            self._blob_file.write(data)
        if self._tell is not None:
            self._tell(self._received)

    def _check_blob(self) -> None:
        if self._blob is None:
            return
        if self._received != self._job["blob_size"]:
            raise Mismatch("size", str(self._job["blob_size"]), str(self._received))
        if self._blob_file is not None:
            found = self._blob_file.digest
        elif algorithm(self._blob) == algorithm(self._tar.digest):
            found = self._tar.digest
        else:
            os.lseek(self._tar.fd, 0, os.SEEK_SET)
            state = hashlib.new(algorithm(self._blob))
            while data := os.read(self._tar.fd, READ_SIZE):
                state.update(data)
            found = Digest(f"{algorithm(self._blob)}:{state.hexdigest()}")
        if found != self._blob:
            raise Mismatch("digest", self._blob, found)

    def _run_inline(self, head: bytes, finished: Callable[[], None]) -> None:
        finished()
        self._take(head)
        assert self._compression is not None
        failure: LayerCorrupt | None = None
        try:
            for piece in inflate([head] if head else [], self._compression, self._job["limit"]):
                self._tar.write(piece)
                if failure is None:
                    try:
                        self._reader.feed(piece)
                    except LayerCorrupt as error:
                        failure = error
        except LayerCorrupt as error:
            failure = failure or error
        if failure is None or self._blob_file is not None or self._blob is None:
            self._check_blob()  # a wrong digest explains damage inside
        if failure is not None:
            raise failure

    def _run_threaded(self, head: bytes, finished: Callable[[], None]) -> None:
        assert self._compression is not None
        compression = self._compression
        store = Stage(_each(self._tar.write))
        index = Stage(_each(self._reader.feed))

        def spread(pieces: Iterator[bytes]) -> None:
            for piece in inflate(pieces, compression, self._job["limit"]):
                store.put(piece)
                index.put(piece)
                if (error := store.error or (index.error if self._blob is None else None)) is not None:
                    raise error

        inflater = Stage(spread)
        failure: BaseException | None = None
        try:
            while head:
                self._take(head)
                inflater.put(head)
                if self._blob is None and inflater.error is not None:
                    break  # nothing more to be learned from a digest
                head = os.read(self._source, READ_SIZE)
            else:
                finished()
        except BaseException as error:
            failure = error
        for stage in (inflater, store, index):
            try:
                stage.join()
            except BaseException as error:
                failure = failure or error
        if failure is not None and not isinstance(failure, LayerCorrupt):
            raise failure
        if failure is None or self._blob_file is not None:
            self._check_blob()
        if failure is not None:
            raise failure


def make_form(layer: str, tree: LayerTree, tar: OutputFile, form: str) -> str:
    """Make the index, or the unpacked files, beside the tar in the directory `layer`, synced; return which it was."""
    if form == "erofs":
        try:
            image = build_index(tree, tar.size, encoded(tar.digest)[:16].encode())
        except NotExpressible:
            pass
        else:
            fd = os.open(f"{layer}/{INDEX}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                view = memoryview(image)
                while view:
                    view = view[os.write(fd, view) :]
                os.fdatasync(fd)
            finally:
                os.close(fd)
            return "erofs"
    root = f"{layer}/{ROOT}"
    os.mkdir(root, 0o755)
    unpack_confined(tree, root, tar.fd)
    return "dir"


def unpack_confined(tree: LayerTree, root: str, tar: int) -> None:
    """Unpack in a child of this process that has `root` as its root directory; synced. Raises OSError, LayerCorrupt."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        reason = "failed"
        try:
            os.close(reading)
            confine(root)
            unpack(tree, tar)
            top = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
            if _libc.syncfs(top) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            reason = ""
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
        finally:
            try:
                os.write(writing, reason.encode()[:4000])
            finally:
                os._exit(0 if not reason else 1)
    os.close(writing)
    said = b""
    try:
        while data := os.read(reading, 4096):
            said += data
    finally:
        os.close(reading)
        _, status = os.waitpid(child, 0)
    if status != 0:
        raise OSError(f"unpacking failed: {said.decode(errors='replace') or f'killed by signal {status & 127}'}")


class Mismatch(Exception):
    """Bytes that are not those that were promised: what ("digest", "size", "diff ID"), expected, found."""

    def __init__(self, what: str, expected: str, found: str) -> None:
        super().__init__(f"{what} is {found}, expected {expected}")
        self.what = what
        self.expected = expected
        self.found = found


def compress(job: Job, tell: Callable[[int], None]) -> Job:
    """Compress `tar` to `blob` in the directory, synced; at a `level` if there is one. Answers `digest` and `size`."""

    def pieces() -> Iterator[bytes]:
        done = 0
        while data := os.read(source, READ_SIZE):
            yield data
            done += len(data)
            tell(done)

    source = os.open(job["tar"], os.O_RDONLY | os.O_CLOEXEC)
    out = OutputFile(f"{job['directory']}/{BLOB}", "sha256")
    try:
        stage = Stage(_each(out.write))
        try:
            for piece in deflate(pieces(), Compression(job["compression"]), job.get("level")):
                stage.put(piece)
        finally:
            stage.join()
        os.fsync(out.fd)
        return {"digest": out.digest, "size": out.size}
    finally:
        out.close()
        os.close(source)


def unpack_tar(job: Job) -> Job:
    """Unpack `tar`, which was checked when it came, to `root` in the directory, synced."""
    reader = TarReader()
    source = os.open(job["tar"], os.O_RDONLY | os.O_CLOEXEC)
    try:
        while data := os.read(source, READ_SIZE):
            reader.feed(data)
        root = f"{job['directory']}/{ROOT}"
        os.mkdir(root, 0o755)
        unpack_confined(reader.finish(), root, source)
        return {}
    finally:
        os.close(source)
