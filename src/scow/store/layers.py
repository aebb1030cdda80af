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
import logging
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Container, Coroutine
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from scow.linux import mount
from scow.oci.descriptor import Descriptor
from scow.oci.digest import DiffID, Digest, algorithm, encoded
from scow.oci.media_types import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Compression
from scow.store.content import Content
from scow.store.database import Database
from scow.store.exploring import RESULT
from scow.store.ingest import BLOB, INDEX, LAYER, ROOT, TAR, sync_directory
from scow.store.layer_errors import (
    DigestMismatch,
    LayerCorrupt,
    LayerFailed,
    LayerUnsupported,
    NoSuchLayer,
    raise_answer,
)
from scow.store.layer_mounts import LayerMounts, MountMode
from scow.store.layer_parts import put_in_place
from scow.store.layer_records import Layer, LayerRecords
from scow.store.layer_writer import PIPE_SIZE, LayerWriter
from scow.store.workers import Message, Workers

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
EMPTY_LAYER: Final = DiffID(Digest("sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"))
"""The diff ID of a tar without entries: a change that left the files alone. Images list no such layer."""

_MEDIA_TYPES: Final = {
    Compression.NONE: OCI_LAYER,
    Compression.GZIP: OCI_LAYER_GZIP,
    Compression.ZSTD: OCI_LAYER_ZSTD,
    # Not OCI's: blobs that came so are kept, but nobody else may know what they are.
    Compression.XZ: f"{OCI_LAYER}+xz",
    Compression.BZIP2: f"{OCI_LAYER}+bzip2",
}

# What may pass: no reason to keep a layer in another form for good.
_OUT_OF_RESOURCES: Final = frozenset({errno.EPERM, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EINTR})

Snapshotter = Literal["erofs", "overlay2"]


class Layers:
    """The layers under `root`, mounted under `exec_root`. Belongs to one event loop.

    `on_use` hears of every diff ID that somebody puts or finds: leases protect by it. `find` and the like answer from
    memory, which is filled when the object is made and follows each commit. `mount_mode` None: as the kernel can.
    Without `keep_compressed` blobs that come in are checked, but only their layers kept; `remake` may bring them back.
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
        mount_mode: MountMode | None = None,
        keep_compressed: bool = True,
        compression: Compression = Compression.GZIP,
    ) -> None:
        self.snapshotter: Snapshotter = snapshotter
        self._root = root / "layers"
        self._ingest = root / "ingest"
        self._content = content
        self._workers = workers
        self._on_use = on_use or (lambda digest: None)
        self._inflation_limit = inflation_limit
        self._keep_compressed = keep_compressed
        self.compression = compression  # of layers that were made here
        self._records = LayerRecords(db)
        self._leaving: set[DiffID] = set()
        self._compressing: dict[tuple[DiffID, Compression], asyncio.Lock] = {}
        self._writing: set[str] = set()
        self._mounts = LayerMounts(exec_root / "layers", self._ingest, mount_mode)
        for folder in (self._root, self._ingest, self._mounts.root):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    # what there is

    def find(self, diff_id: DiffID) -> Layer | None:
        """Return the layer, or None; under a lease it then stays."""
        layer = None if diff_id in self._leaving else self._records.layers.get(diff_id)
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
        return list(self._records.layers.values())

    def blobs(self, diff_id: DiffID) -> list[Descriptor]:
        """Return the blobs, present in content, that inflate to this layer."""
        return [blob for blob in self._records.blobs_of(diff_id) if self._content.has(blob.digest)]

    def known_blobs_of(self, diff_id: DiffID) -> list[Descriptor]:
        """Return the blobs that are known to inflate to this layer, here or not."""
        return self._records.blobs_of(diff_id)

    def known_blobs(self) -> dict[Digest, tuple[DiffID, Descriptor]]:
        """Return every blob that is known to inflate to a layer, here or not, with that layer."""
        return dict(self._records.blobs)

    def is_dispensable(self, digest: Digest, staying: Container[str]) -> bool:
        """Return whether content is a compressed form of a layer that is here and among those `staying`.

        Then it can be had again.
        """
        known = self._records.blobs.get(digest)
        if known is None or known[1].media_type == OCI_LAYER:
            return False
        return known[0] in self._records.layers and known[0] in staying

    def find_by_blob(self, digest: Digest) -> Layer | None:
        """Return the layer that the blob is known to inflate to, whether or not the blob is still there."""
        known = self._records.blobs.get(digest)
        return None if known is None else self.find(known[0])

    def folder(self, diff_id: DiffID) -> Path:
        """Return where the layer is kept, whether or not it is there."""
        return self._root / algorithm(diff_id) / encoded(diff_id)

    async def tar(self, diff_id: DiffID) -> Path:
        """Return the layer's uncompressed tar. Raises NoSuchLayer."""
        self.get(diff_id)
        return self.folder(diff_id) / TAR

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

        async def install(answer: Message) -> Layer:
            return await _finish_anyway(self._install(directory, answer, blob))

        try:
            worker = await self._workers.acquire()
            writer = LayerWriter(worker, "archive" if blob is None else blob.digest, install)
            try:
                await asyncio.to_thread(directory.mkdir, 0o700)
                await writer.start(
                    {
                        "do": "ingest",
                        "job": name,
                        "directory": str(directory),
                        "blob": None if blob is None else blob.digest,
                        "blob_size": 0 if blob is None else blob.size,
                        "keep_blob": self._keep_compressed,
                        "compression": None if compression is None else str(compression),
                        "diff_id": diff_id,
                        "form": await self._form(),
                        "limit": self._inflation_limit,
                    }
                )
                yield writer
            finally:
                writer.end()
                self._workers.release(worker)
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

    async def capture(
        self, source: Path, *, base: Path | None = None, stubs: Collection[str] = (), clamp_mtime: int | None = None
    ) -> Layer:
        """Make a layer of a directory, an overlay's upper for instance. The same tree gives the same layer.

        `base` shows what the layer will stand on. `stubs` are absolute paths on which a runtime mounted something: what
        it made there for that is left out, if it isn't in `base`. No entry is later than `clamp_mtime`, in seconds. A
        directory without changes gives a layer without entries, which is EMPTY_LAYER. Hold a lease around it. Raises
        LayerUnsupported, LayerFailed, DiskFull, WorkerDied, WorkersFailed.
        """
        job: Message = {
            "do": "capture",
            "source": str(source),
            "base": None if base is None else str(base),
            "stubs": sorted(stubs),
            "clamp_mtime": clamp_mtime,
            "form": await self._form(),
        }
        async with self._working(str(source), job) as (directory, answer):
            return await _finish_anyway(self._install(directory, answer, None))

    async def take(
        self,
        file: Path,
        digest: Digest | None,
        diff_id: DiffID | None,
        blob: Descriptor | None,
        told: Callable[[int], None] | None = None,
    ) -> Layer:
        """Make a layer of a file on the store's file system, without copying a tar. The file stays.

        `digest` is what its bytes are known to have, None if that is unsure. `told` hears of the file's bytes that are
        done. Otherwise as `writer`.
        """
        job: Message = {
            "do": "take",
            "file": str(file),
            "digest": digest,
            "blob": None if blob is None else blob.digest,
            "blob_size": 0 if blob is None else blob.size,
            "keep_blob": self._keep_compressed,
            "compression": None,
            "diff_id": diff_id,
            "form": await self._form(),
            "limit": self._inflation_limit,
        }
        subject = str(digest or diff_id or file)
        async with self._working(subject, job, told) as (directory, answer):
            return await _finish_anyway(self._install(directory, answer, blob))

    async def compress(
        self,
        diff_id: DiffID,
        compression: Compression | None = None,
        level: int | None = None,
        told: Callable[[int], None] | None = None,
    ) -> Descriptor:
        """Return a blob of the layer in content, made if none is known: the same bytes whenever it is made.

        `compression` None: the one that layers made here get. With a `level` it is made anew, whatever is known.
        `told` hears of the tar's bytes that are done. Raises NoSuchLayer, WorkerDied, DiskFull, LayerFailed.
        """
        self.get(diff_id)
        compression = compression or self.compression
        media_type = _MEDIA_TYPES[compression]
        async with self._compressing.setdefault((diff_id, compression), asyncio.Lock()):
            for known in self.blobs(diff_id):
                if known.media_type == media_type and level is None:
                    return known
            tar = str(await self.tar(diff_id))
            job: Message = {"do": "compress", "compression": str(compression), "tar": tar, "level": level}
            async with self._working(diff_id, job, told) as (directory, answer):
                digest, size = Digest(str(answer["digest"])), int(str(answer["size"]))
                await self._content.adopt(directory / BLOB, digest)
                descriptor = Descriptor(media_type=media_type, digest=digest, size=size)
                await self._records.put(None, diff_id, descriptor)
                return descriptor

    async def remake(self, digest: Digest) -> bool:
        """Make a blob that was dropped from its layer again; False if our compression gives other bytes, or none is.

        Raises WorkerDied, DiskFull, LayerFailed.
        """
        known = self._records.blobs.get(digest)
        compression = next((each for each in Compression if known and _MEDIA_TYPES[each] == known[1].media_type), None)
        if known is None or compression is None or self.find(known[0]) is None:
            return False
        job: Message = {"do": "compress", "compression": str(compression), "tar": str(await self.tar(known[0]))}
        async with self._working(known[0], job) as (directory, answer):
            if answer["digest"] != digest:
                return False
            await self._content.adopt(directory / BLOB, digest)
            return True

    # in use

    async def lower(self, diff_id: DiffID) -> Path:
        """Return a directory that shows the layer, mounted if it must be, until `release`. Counted.

        Raises NoSuchLayer, and LayerFailed if the kernel refuses to mount it.
        """
        use = self._mounts.use(diff_id)
        async with use.lock:
            layer = self.get(diff_id)
            if layer.format == "erofs" and not use.mounted:
                layer = await _finish_anyway(self._mount(layer))
            use.users += 1
            return self._mounts.path(diff_id) if layer.format == "erofs" else self.folder(diff_id) / ROOT

    async def release(self, diff_id: DiffID) -> None:
        """Give back what one call of `lower` took; the last one unmounts."""
        use = self._mounts.find_use(diff_id)
        if use is None or use.users == 0:
            raise LayerFailed(diff_id, "released more often than taken")
        async with use.lock:
            use.users -= 1
            if use.users == 0:
                await _finish_anyway(self._mounts.unmount(diff_id))

    async def remove(self, diff_id: DiffID) -> int:
        """Remove a layer that nobody uses; return the bytes freed, 0 if there was none. Its blobs are content's.

        Raises LayerFailed if it is in use.
        """
        use = self._mounts.use(diff_id)
        self._leaving.add(diff_id)
        try:
            async with use.lock:
                layer = self._records.layers.get(diff_id)
                if layer is None:
                    return 0
                if use.users:
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
        for diff_id in await asyncio.to_thread(self._missing, self.all()):
            log.warning("layer %s is recorded but not on disk: it is forgotten", diff_id)
            await self._records.forget(diff_id)
        await self._mounts.adopt([layer.diff_id for layer in self.all() if layer.format == "erofs"])

    async def unmount_idle(self) -> None:
        """Unmount what is mounted and in nobody's use: adopted at start and never asked for, or at the end."""
        for diff_id, use in self._mounts.all():
            async with use.lock:
                if use.users == 0:
                    await _finish_anyway(self._mounts.unmount(diff_id))

    # looked at, put right

    async def ask(self, subject: str, job: Message) -> tuple[Message, bytes]:
        """Have a worker look at layers: its answer, and the file of a longer one. Raises LayerFailed, WorkerDied."""
        job = {**job, "root": str(self._root)}
        async with self._working(subject, job) as (directory, answer):
            file = directory / RESULT
            return answer, await asyncio.to_thread(file.read_bytes) if answer.get("result") else b""

    async def replace(self, diff_id: DiffID, job: Message) -> None:
        """Put what a job makes in the place of the layer's files, and mount that over what is mounted.

        Containers that run go on with what they have. Raises NoSuchLayer, LayerFailed, LayerCorrupt, DigestMismatch.
        """
        layer, home = self.get(diff_id), self.folder(diff_id)
        job = {**job, "folder": str(home), "diff_id": diff_id, "limit": self._inflation_limit, "compression": None}
        async with self._working(diff_id, {**job, "form": layer.format}) as (made, _):
            use = self._mounts.use(diff_id)
            async with use.lock:
                await asyncio.to_thread(put_in_place, made, home)
                if layer.format == "erofs" and use.mounted:
                    await self._mounts.mount(diff_id, home / INDEX, home / TAR)

    # inside

    async def _form(self) -> Literal["erofs", "dir"]:
        if self.snapshotter == "erofs" and await self._mounts.mode() is not MountMode.NONE:
            return "erofs"
        return "dir"

    async def _mount(self, layer: Layer) -> Layer:
        """Mount the layer, or unpack it if the kernel won't; return what it is then. Its lock is held."""
        directory = self.folder(layer.diff_id)
        try:
            if await self._mounts.mode() is not MountMode.NONE:
                await self._mounts.mount(layer.diff_id, directory / INDEX, directory / TAR)
                return layer
            reason = "this kernel has no way to"
        except (mount.MountFailed, OSError) as error:
            if error.errno in _OUT_OF_RESOURCES:
                raise LayerFailed(layer.diff_id, f"cannot be mounted: {error}") from error
            reason = str(error)
        log.warning("layer %s can't be mounted and is unpacked instead: %s", layer.diff_id, reason)
        return await self._unpack(layer)

    async def _unpack(self, layer: Layer) -> Layer:
        """Turn a layer with an index into one with a directory."""
        home = self.folder(layer.diff_id)
        async with self._working(layer.diff_id, {"do": "unpack", "tar": str(home / TAR)}) as (directory, _):

            def place() -> None:
                if (home / ROOT).exists():
                    shutil.rmtree(home / ROOT)  # of an earlier life, cut short before the record
                os.rename(directory / ROOT, home / ROOT)
                sync_directory(str(home))

            await asyncio.to_thread(place)
            unpacked = msgspec.structs.replace(layer, format="dir")
            await self._records.put(unpacked, layer.diff_id, None)
            await asyncio.to_thread((home / INDEX).unlink, missing_ok=True)
            return unpacked

    @contextlib.asynccontextmanager
    async def _working(
        self, subject: str, job: Message, told: Callable[[int], None] | None = None
    ) -> AsyncIterator[tuple[Path, Message]]:
        """Have a worker do a job in a temporary directory; yield that and its answer. Raises what the answer says."""
        name = f"{TEMPORARY}{secrets.token_hex(8)}"
        self._writing.add(name)
        directory = self._ingest / name
        try:
            worker = await self._workers.acquire()
            done = False
            try:
                await asyncio.to_thread(directory.mkdir, 0o700)
                await worker.send({**job, "job": name, "directory": str(directory)})
                answer = await worker.receive(told)
                done = True
            finally:
                if not done:
                    worker.kill()
                self._workers.release(worker)
            raise_answer(answer, subject)
            yield directory, answer
        finally:
            await _finish_anyway(asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True))
            self._writing.discard(name)

    async def _install(self, directory: Path, answer: Message, blob: Descriptor | None) -> Layer:
        """Make a finished ingest visible: the blob, the layer's directory, the record."""
        diff_id = DiffID(Digest(str(answer["diff_id"])))
        layer = Layer(
            diff_id=diff_id,
            size=int(str(answer["size"])),
            format="erofs" if answer["form"] == "erofs" else "dir",
            entries=int(str(answer["entries"])),
            files_size=int(str(answer["files_size"])),
        )
        self._on_use(diff_id)
        if blob is not None:
            compression = Compression(str(answer["compression"]))
            if self._keep_compressed or compression is Compression.NONE:  # uncompressed it is a link to the tar
                await self._content.adopt(directory / BLOB, blob.digest)
            blob = Descriptor(media_type=_MEDIA_TYPES[compression], digest=blob.digest, size=blob.size)
        async with self._mounts.use(diff_id).lock:
            there = self._records.layers.get(diff_id)
            if there is None:
                await asyncio.to_thread(self._place, directory / LAYER, self.folder(diff_id))
            if there is None or blob is not None:
                await self._records.put(None if there is not None else layer, diff_id, blob)
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

    async def _remove(self, layer: Layer) -> int:
        await self._mounts.unmount(layer.diff_id)
        # The record first: a crash then leaves a directory that nobody refers to, which `reconcile` removes.
        await self._records.forget(layer.diff_id)
        freed = await asyncio.to_thread(_tree_size, self.folder(layer.diff_id))
        gone = self._ingest / f"{TEMPORARY}{secrets.token_hex(8)}"

        def delete() -> None:
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.folder(layer.diff_id), gone)
            shutil.rmtree(gone, ignore_errors=True)

        await asyncio.to_thread(delete)
        return freed

    def _missing(self, layers: Collection[Layer]) -> list[DiffID]:
        """Layers that have a record, but not their files."""
        missing = []
        for layer in layers:
            # By strings: a thousand images have ten thousand layers, and the engine answers after this.
            folder = f"{self._root}/{algorithm(layer.diff_id)}/{encoded(layer.diff_id)}"
            form = INDEX if layer.format == "erofs" else ROOT
            if not (os.path.exists(f"{folder}/{TAR}") and os.path.exists(f"{folder}/{form}")):
                missing.append(layer.diff_id)
        return missing

    def _clear_leftovers(self) -> None:
        for entry in os.scandir(self._ingest):
            if entry.name.startswith(TEMPORARY) and entry.name not in self._writing:
                shutil.rmtree(entry.path, ignore_errors=True)
        for kind in os.scandir(self._root):
            for entry in os.scandir(kind.path):
                if f"{kind.name}:{entry.name}" not in self._records.layers:
                    shutil.rmtree(entry.path, ignore_errors=True)


def _tree_size(directory: Path) -> int:
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(folder, name))
                total += status.st_blocks * 512 if status.st_nlink == 1 or name != TAR else 0  # else a blob keeps it
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
