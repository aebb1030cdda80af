"""Layers: change sets by diff ID, kept as their tar with an EROFS index beside it, or unpacked.

    layers/<algorithm>/<hex>/tar           the uncompressed tar: its digest is the diff ID
    layers/<algorithm>/<hex>/index         the EROFS index, mounted with the tar as its device; or
    layers/<algorithm>/<hex>/root/         the unpacked files
    ingest/layer-<random>/                 what a writer has so far; becomes the above by one rename, or nothing

A layer is recorded after its directory is in place and synced; a directory without a record, left by a crash, is
removed by `reconcile`. A compressed form of a layer (a blob) is content like any other; which blob inflates to which
layer is recorded here.
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import secrets
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from scow.errors import Internal, InvalidArgument, NotFound, Unavailable
from scow.linux import mount
from scow.oci.descriptor import Descriptor
from scow.oci.digest import DiffID, Digest, algorithm, encoded
from scow.oci.media_types import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Compression
from scow.store.content import Content
from scow.store.database import Database
from scow.store.ingest import BLOB, INDEX, LAYER, ROOT, TAR, sync_directory
from scow.store.tarstream import LayerUnsupported
from scow.store.tree import LayerCorrupt
from scow.store.workers import Worker, Workers

__all__ = [
    "DigestMismatch",
    "Layer",
    "LayerCorrupt",
    "LayerFailed",
    "LayerUnsupported",
    "LayerWriter",
    "Layers",
    "NoSuchLayer",
    "Snapshotter",
]

T = TypeVar("T")

log = logging.getLogger(__name__)

INFLATION_LIMIT: Final = 256 << 30  # bytes of one layer's tar
TEMPORARY: Final = "layer-"
PIPE_SIZE: Final = 1 << 20
MIGRATIONS: Final = [
    """CREATE TABLE layers (diff_id TEXT PRIMARY KEY, size INTEGER NOT NULL, format TEXT NOT NULL,
                            entries INTEGER NOT NULL) WITHOUT ROWID;
       CREATE TABLE layer_blobs (digest TEXT PRIMARY KEY, diff_id TEXT NOT NULL, size INTEGER NOT NULL,
                                 media_type TEXT NOT NULL) WITHOUT ROWID;
       CREATE INDEX layer_blobs_by_diff_id ON layer_blobs (diff_id);"""
]

_MEDIA_TYPES: Final = {
    Compression.NONE: OCI_LAYER,
    Compression.GZIP: OCI_LAYER_GZIP,
    Compression.ZSTD: OCI_LAYER_ZSTD,
}

Snapshotter = Literal["erofs", "overlay2"]


class NoSuchLayer(NotFound):
    """The store has no layer of this diff ID."""

    def __init__(self, diff_id: str) -> None:
        super().__init__(f"no such layer: {diff_id}")
        self.diff_id = diff_id


class DigestMismatch(InvalidArgument):
    """The bytes are not those that the digest, size or diff ID promised."""

    def __init__(self, subject: str, what: str, expected: str, found: str) -> None:
        super().__init__(f"layer {subject}: {what} mismatch: expected {expected}, got {found}")
        self.subject = subject
        self.what = what
        self.expected = expected
        self.found = found


class LayerFailed(Internal):
    """The layer could not be written, read or mounted: disk full, I/O error, a kernel that refuses."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(f"layer {subject}: {reason}")
        self.subject = subject
        self.reason = reason


class DiskFull(Unavailable):
    """There is no room for the layer."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"layer {subject}: no space left on device")
        self.subject = subject


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer that the store has."""

    diff_id: DiffID
    size: int  # bytes of the tar
    format: Literal["erofs", "dir"]
    entries: int  # of the tar


class _Mount:
    """How often a layer's directory is in use. `lock` keeps mounting, unmounting and removing apart."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
        self.mounted = False


class Layers:
    """The layers under `root`, mounted under `exec_root`. Belongs to one event loop.

    `on_use` hears of every diff ID that somebody puts or finds: leases protect by it. `find` and the like answer from
    memory, which is filled when the object is made and follows each commit.
    """

    def __init__(
        self,
        root: Path,
        exec_root: Path,
        content: Content,
        db: Database,
        workers: Workers,
        snapshotter: Snapshotter = "erofs",
        *,
        on_use: Callable[[str], None] | None = None,
        inflation_limit: int = INFLATION_LIMIT,
    ) -> None:
        self.snapshotter: Snapshotter = snapshotter
        self._root = root / "layers"
        self._ingest = root / "ingest"
        self._mount_root = exec_root / "layers"
        self._content = content
        self._db = db
        self._workers = workers
        self._on_use = on_use or (lambda digest: None)
        self._inflation_limit = inflation_limit
        self._layers: dict[DiffID, Layer] = {}
        self._blobs: dict[Digest, tuple[DiffID, Descriptor]] = {}
        self._mounts: dict[DiffID, _Mount] = {}
        self._leaving: set[DiffID] = set()
        self._compressing: dict[tuple[DiffID, Compression], asyncio.Lock] = {}
        self._writing: set[str] = set()
        self._can_mount: bool | None = None
        for folder in (self._root, self._ingest, self._mount_root):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        db.migrate("layers", MIGRATIONS)
        db.read_now(self._load)

    # what there is

    def find(self, diff_id: DiffID) -> Layer | None:
        """Return the layer, or None; under a lease it then stays."""
        layer = None if diff_id in self._leaving else self._layers.get(diff_id)
        if layer is not None:
            self._on_use(diff_id)
        return layer

    def get(self, diff_id: DiffID) -> Layer:
        """Return the layer. Raises NoSuchLayer."""
        layer = self.find(diff_id)
        if layer is None:
            raise NoSuchLayer(diff_id)
        return layer

    def all(self) -> list[Layer]:
        """Return every layer."""
        return list(self._layers.values())

    def blobs(self, diff_id: DiffID) -> list[Descriptor]:
        """Return the blobs, present in content, that inflate to this layer."""
        return [d for owner, d in self._blobs.values() if owner == diff_id and self._content.has(d.digest)]

    def find_by_blob(self, digest: Digest) -> Layer | None:
        """Return the layer that the blob is known to inflate to, whether or not the blob is still there."""
        known = self._blobs.get(digest)
        return None if known is None else self.find(known[0])

    async def tar(self, diff_id: DiffID) -> Path:
        """Return the layer's uncompressed tar. Raises NoSuchLayer."""
        self.get(diff_id)
        return self._directory(diff_id) / TAR

    # coming in

    @contextlib.asynccontextmanager
    async def writer(
        self, blob: Descriptor | None, compression: Compression | None = None, diff_id: DiffID | None = None
    ) -> AsyncIterator["LayerWriter"]:
        """Take a layer's bytes: `write` them all, then `finish`; leaving without that discards everything.

        With `blob` the bytes are checked against its size and digest, and kept as content; without, they are only
        inflated. `compression` None tells it by the first bytes. `diff_id` None accepts whatever it is. Raises
        WorkersFailed; the writer's methods raise DigestMismatch, LayerCorrupt, WorkerDied, DiskFull and LayerFailed.
        """
        name = f"{TEMPORARY}{secrets.token_hex(8)}"
        self._writing.add(name)
        directory = self._ingest / name
        try:
            worker = await self._workers.acquire()
            writer = LayerWriter(self, worker, directory, blob)
            try:
                await asyncio.to_thread(directory.mkdir, 0o700)
                await writer._start(
                    {
                        "do": "ingest",
                        "directory": str(directory),
                        "blob": None if blob is None else blob.digest,
                        "blob_size": 0 if blob is None else blob.size,
                        "compression": None if compression is None else str(compression),
                        "diff_id": diff_id,
                        "form": "erofs" if self.snapshotter == "erofs" and await self._mountable() else "dir",
                        "limit": self._inflation_limit,
                    }
                )
                yield writer
            finally:
                writer._end()
        finally:
            await _finish_anyway(asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True))
            self._writing.discard(name)

    async def import_tar(self, source: Path | AsyncIterator[bytes], diff_id: DiffID | None = None) -> Layer:
        """Take a layer from a local file or stream, compressed or not; no blob is kept. Raises as `writer` does."""
        async with self.writer(None, None, diff_id) as writer:
            if isinstance(source, Path):
                file = await asyncio.to_thread(source.open, "rb")
                try:
                    while data := await asyncio.to_thread(file.read, PIPE_SIZE):
                        await writer.write(data)
                finally:
                    file.close()
            else:
                async for data in source:
                    await writer.write(data)
            return await writer.finish()

    async def compress(self, diff_id: DiffID, compression: Compression = Compression.GZIP) -> Descriptor:
        """Return a blob of the layer in content, made if none is known: the same bytes whenever it is made.

        Raises NoSuchLayer, WorkerDied, DiskFull, LayerFailed.
        """
        self.get(diff_id)
        media_type = _MEDIA_TYPES[compression]
        async with self._compressing.setdefault((diff_id, compression), asyncio.Lock()):
            for known in self.blobs(diff_id):
                if known.media_type == media_type:
                    return known
            name = f"{TEMPORARY}{secrets.token_hex(8)}"
            self._writing.add(name)
            directory = self._ingest / name
            worker = await self._workers.acquire()
            done = False
            try:
                await asyncio.to_thread(directory.mkdir, 0o700)
                job = {"do": "compress", "job": name, "directory": str(directory), "compression": str(compression)}
                await worker.send({**job, "tar": str(await self.tar(diff_id))})
                answer = await worker.receive()
                done = True
                _raise_answer(answer, diff_id)
                digest, size = Digest(str(answer["digest"])), int(str(answer["size"]))
                await self._content.adopt(directory / BLOB, digest)
                descriptor = Descriptor(media_type=media_type, digest=digest, size=size)
                await self._record(None, diff_id, descriptor)
                return descriptor
            finally:
                if not done:
                    worker.kill()
                self._workers.release(worker)
                await _finish_anyway(asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True))
                self._writing.discard(name)

    # in use

    async def lower(self, diff_id: DiffID) -> Path:
        """Return a directory that shows the layer, mounted if it must be, until `release`. Counted.

        Raises NoSuchLayer, and LayerFailed if the kernel refuses to mount it.
        """
        state = self._mounts.setdefault(diff_id, _Mount())
        async with state.lock:
            layer = self.get(diff_id)
            path = self._lower_path(layer)
            if layer.format == "erofs" and not state.mounted:
                await _finish_anyway(asyncio.to_thread(self._mount, layer, path))
                state.mounted = True
            state.users += 1
            return path

    async def release(self, diff_id: DiffID) -> None:
        """Give back what one call of `lower` took; the last one unmounts."""
        state = self._mounts.get(diff_id)
        if state is None or state.users == 0:
            raise LayerFailed(diff_id, "released more often than taken")
        async with state.lock:
            state.users -= 1
            if state.users == 0:
                await _finish_anyway(self._unmount(diff_id, state))

    async def remove(self, diff_id: DiffID) -> int:
        """Remove a layer that nobody uses; return the bytes freed, 0 if there was none. Its blobs are content's.

        Raises LayerFailed if it is in use.
        """
        state = self._mounts.setdefault(diff_id, _Mount())
        self._leaving.add(diff_id)
        try:
            async with state.lock:
                layer = self._layers.get(diff_id)
                if layer is None:
                    return 0
                if state.users:
                    raise LayerFailed(diff_id, "it is in use")
                return await _finish_anyway(self._remove(layer))
        finally:
            self._leaving.discard(diff_id)

    async def reconcile(self) -> None:
        """Bring disk, mounts and records together, at start: leftovers go, mounts that are right are adopted.

        A mount stays as long as an overlay may stand on it; one that `lower` doesn't ask for again goes with
        `unmount_idle`.
        """
        await asyncio.to_thread(self._clear_leftovers)
        shown = {Path(entry.target).name: entry for entry in await asyncio.to_thread(mount.mounts, self._mount_root)}
        for layer in self.all():
            directory = self._directory(layer.diff_id)
            form = INDEX if layer.format == "erofs" else ROOT
            if not ((directory / TAR).exists() and (directory / form).exists()):
                log.warning("layer %s is recorded but not on disk: it is forgotten", layer.diff_id)
                await self._forget(layer.diff_id)
                continue
            if (entry := shown.pop(_short(layer.diff_id), None)) is not None:
                if entry.fs_type == "erofs":
                    self._mounts.setdefault(layer.diff_id, _Mount()).mounted = True
                else:
                    shown[_short(layer.diff_id)] = entry
        for name in shown:
            target = self._mount_root / name
            if target != self._mount_root:
                await asyncio.to_thread(mount.ensure_unmounted, target)
        await asyncio.to_thread(self._clear_mount_points)

    async def unmount_idle(self) -> None:
        """Unmount what is mounted and in nobody's use: adopted at start and never asked for, or at the end."""
        for diff_id, state in list(self._mounts.items()):
            async with state.lock:
                if state.users == 0:
                    await _finish_anyway(self._unmount(diff_id, state))

    # inside

    def _load(self, connection: sqlite3.Connection) -> None:
        for diff_id, size, form, entries in connection.execute("SELECT diff_id, size, format, entries FROM layers"):
            self._layers[diff_id] = Layer(diff_id=diff_id, size=size, format=form, entries=entries)
        rows = connection.execute("SELECT digest, diff_id, size, media_type FROM layer_blobs")
        for digest, diff_id, size, media_type in rows:
            self._blobs[digest] = diff_id, Descriptor(media_type=media_type, digest=digest, size=size)

    def _directory(self, diff_id: DiffID) -> Path:
        return self._root / algorithm(diff_id) / encoded(diff_id)

    def _lower_path(self, layer: Layer) -> Path:
        if layer.format == "erofs":
            return self._mount_root / _short(layer.diff_id)
        return self._directory(layer.diff_id) / ROOT

    async def _mountable(self) -> bool:
        if self._can_mount is None:
            self._can_mount = await asyncio.to_thread(mount.supported, "erofs")
            if not self._can_mount:
                log.warning("this kernel has no EROFS: layers are unpacked")
        return self._can_mount

    def _mount(self, layer: Layer, path: Path) -> None:
        directory = self._directory(layer.diff_id)
        path.mkdir(exist_ok=True)
        try:
            mount_index(directory / INDEX, directory / TAR, path)
        except mount.MountFailed as error:
            raise LayerFailed(layer.diff_id, f"cannot be mounted: {error}") from error

    async def _unmount(self, diff_id: DiffID, state: _Mount) -> None:
        if state.mounted:
            path = self._mount_root / _short(diff_id)
            await asyncio.to_thread(mount.ensure_unmounted, path)
            with contextlib.suppress(OSError):
                path.rmdir()
            state.mounted = False

    async def _install(self, directory: Path, answer: dict[str, object], blob: Descriptor | None) -> Layer:
        """Make a finished ingest visible: the blob, the layer's directory, the record."""
        diff_id = DiffID(Digest(str(answer["diff_id"])))
        layer = Layer(
            diff_id=diff_id,
            size=int(str(answer["size"])),
            format="erofs" if answer["form"] == "erofs" else "dir",
            entries=int(str(answer["entries"])),
        )
        self._on_use(diff_id)
        if blob is not None:
            await self._content.adopt(directory / BLOB, blob.digest)
            blob = Descriptor(
                media_type=_MEDIA_TYPES[Compression(str(answer["compression"]))], digest=blob.digest, size=blob.size
            )
        async with self._mounts.setdefault(diff_id, _Mount()).lock:
            there = self._layers.get(diff_id)
            if there is None:
                await asyncio.to_thread(self._place, directory / LAYER, self._directory(diff_id))
            if there is None or blob is not None:
                await self._record(None if there is not None else layer, diff_id, blob)
            return there or layer

    def _place(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            shutil.rmtree(target)  # not recorded: of an earlier life, cut short before the record
            os.rename(source, target)
        sync_directory(str(target.parent))

    async def _record(self, layer: Layer | None, diff_id: DiffID, blob: Descriptor | None) -> None:
        def write(connection: sqlite3.Connection) -> None:
            if layer is not None:
                connection.execute(
                    "INSERT OR REPLACE INTO layers VALUES (?, ?, ?, ?)",
                    (layer.diff_id, layer.size, layer.format, layer.entries),
                )
            if blob is not None:
                connection.execute(
                    "INSERT OR REPLACE INTO layer_blobs VALUES (?, ?, ?, ?)",
                    (blob.digest, diff_id, blob.size, blob.media_type),
                )

        def remember(_: None) -> None:
            if layer is not None:
                self._layers[diff_id] = layer
            if blob is not None:
                self._blobs[blob.digest] = diff_id, blob

        await self._db.write(write, then=remember)

    async def _forget(self, diff_id: DiffID) -> None:
        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM layers WHERE diff_id = ?", (diff_id,))
            connection.execute("DELETE FROM layer_blobs WHERE diff_id = ?", (diff_id,))

        def drop(_: None) -> None:
            self._layers.pop(diff_id, None)
            for digest in [digest for digest, (owner, _) in self._blobs.items() if owner == diff_id]:
                del self._blobs[digest]

        await self._db.write(write, then=drop)

    async def _remove(self, layer: Layer) -> int:
        state = self._mounts[layer.diff_id]
        await self._unmount(layer.diff_id, state)
        # The record first: a crash then leaves a directory that nobody refers to, which `reconcile` removes.
        await self._forget(layer.diff_id)
        freed = await asyncio.to_thread(_tree_size, self._directory(layer.diff_id))
        gone = self._ingest / f"{TEMPORARY}{secrets.token_hex(8)}"

        def delete() -> None:
            with contextlib.suppress(FileNotFoundError):
                os.rename(self._directory(layer.diff_id), gone)
            shutil.rmtree(gone, ignore_errors=True)

        await asyncio.to_thread(delete)
        return freed

    def _clear_leftovers(self) -> None:
        for entry in os.scandir(self._ingest):
            if entry.name.startswith(TEMPORARY) and entry.name not in self._writing:
                shutil.rmtree(entry.path, ignore_errors=True)
        for kind in os.scandir(self._root):
            for entry in os.scandir(kind.path):
                if f"{kind.name}:{entry.name}" not in self._layers:
                    shutil.rmtree(entry.path, ignore_errors=True)

    def _clear_mount_points(self) -> None:
        for entry in os.scandir(self._mount_root):
            if not mount.is_mount_point(entry.path):
                with contextlib.suppress(OSError):
                    os.rmdir(entry.path)


class LayerWriter:
    """One layer's bytes on their way to a worker. Made by `Layers.writer`; `write` and `finish` are for one task."""

    def __init__(self, layers: Layers, worker: Worker, directory: Path, blob: Descriptor | None) -> None:
        self.offset = 0  # bytes accepted: where a resumed download goes on
        self._layers = layers
        self._worker = worker
        self._directory = directory
        self._blob = blob
        self._pipe = -1
        self._answered = False

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Hand over the next bytes; waits while the worker is behind. Raises what is wrong with those before."""
        view = memoryview(data).cast("B")
        while view:
            try:
                count = os.write(self._pipe, view)
            except BlockingIOError:
                await self._writable()
                continue
            except BrokenPipeError:
                await self._outcome()
                raise LayerFailed(self._subject, "the worker stopped reading") from None
            view = view[count:]
            self.offset += count

    async def finish(self) -> Layer:
        """Say that these were all bytes; return the layer once everything is verified, on disk and recorded.

        Raises DigestMismatch, LayerCorrupt, LayerUnsupported, WorkerDied, DiskFull, LayerFailed.
        """
        # The word goes before the end of the pipe, so that the worker finds it when it looks.
        await self._worker.send("finish")
        self._close_pipe()
        answer = await self._outcome()
        try:
            return await _finish_anyway(self._layers._install(self._directory, answer, self._blob))
        except OSError as error:
            raise LayerFailed(self._subject, str(error)) from error

    # for Layers

    async def _start(self, job: dict[str, object]) -> None:
        reading, self._pipe = os.pipe2(os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # beyond a user's limit of pipe memory: then it stays smaller
                _set_pipe_size(self._pipe, PIPE_SIZE)
            os.set_blocking(self._pipe, False)
            await self._worker.send({**job, "job": self._directory.name}, (reading,))
        finally:
            os.close(reading)

    def _end(self) -> None:
        if not self._answered:
            self._worker.kill()
        self._close_pipe()
        self._layers._workers.release(self._worker)

    async def _outcome(self) -> dict[str, object]:
        answer = await self._worker.receive()
        self._answered = True
        if "error" in answer:
            self._worker.kill()  # it may not have taken "finish" from its socket: not fit for another job
        _raise_answer(answer, self._subject)
        return answer

    @property
    def _subject(self) -> str:
        return self._blob.digest if self._blob is not None else "archive"

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_writer(self._pipe, _resolve, ready)
        try:
            await ready
        finally:
            loop.remove_writer(self._pipe)

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1


def mount_index(index: Path, tar: Path, target: Path) -> None:
    """Mount an EROFS index with its tar, read-only. Raises MountFailed."""
    with contextlib.ExitStack() as stack:
        index_name, tar_name = (
            str(path) if len(os.fsencode(path)) <= mount.STRING_LIMIT else _by_descriptor(path, stack)
            for path in (index, tar)
        )
        options = [("source", index_name), ("device", tar_name)]
        mount.mount_with("erofs", target, options, read_only=True, attributes=mount.MOUNT_ATTR_NODEV)


def _by_descriptor(path: Path, stack: contextlib.ExitStack) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return f"/proc/self/fd/{fd}"


def _raise_answer(answer: dict[str, object], subject: str) -> None:
    """Turn a worker's answer that says what went wrong into the error of that name."""
    kind, reason = answer.get("error"), str(answer.get("reason"))
    if kind is None:
        return
    if kind == "mismatch":
        raise DigestMismatch(subject, str(answer["what"]), str(answer["expected"]), str(answer["found"]))
    if kind == "corrupt":
        raise LayerCorrupt(reason)
    if kind == "unsupported":
        raise LayerUnsupported(reason)
    if answer.get("errno") in (errno.ENOSPC, errno.EDQUOT):
        raise DiskFull(subject)
    raise LayerFailed(subject, reason)


def _short(diff_id: DiffID) -> str:
    # Overlay's option line ends at one page: 80 bits keep 127 lower directories short and never meet twice.
    return encoded(diff_id)[:20]


def _set_pipe_size(fd: int, size: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)


def _tree_size(directory: Path) -> int:
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


async def _finish_anyway(work: Coroutine[Any, Any, T]) -> T:
    """Let `work` come to its end even if the caller is cancelled meanwhile, who then is cancelled after it."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
            cancelled = True
        except BaseException:
            break
    if cancelled:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise asyncio.CancelledError from error
        raise asyncio.CancelledError
    return task.result()


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
