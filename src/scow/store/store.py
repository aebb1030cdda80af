"""The store: content, layers, snapshots and the image catalogue over one data root, opened and closed together.

The life of a store: `open` locks its folders and loads what is known; `reconcile` puts right what an earlier process
left, once the owner of the snapshots knows which of them it still has; `collect` removes garbage whenever something
was let go; `aclose` ends workers and connections. Mounts of snapshots stay: containers outlive the engine.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Final, Self

import msgspec

from scow.errors import Conflict, ScowError
from scow.oci.digest import Digest
from scow.oci.media_types import Compression
from scow.store import reserve
from scow.store.content import Content
from scow.store.database import Database
from scow.store.gc import Collected, Collector
from scow.store.images import Image, Images
from scow.store.layers import Layers, Snapshotter
from scow.store.leases import Leases
from scow.store.paths import Paths
from scow.store.snapshots import Snapshots
from scow.store.trash import Trash
from scow.store.workers import Workers

SWEEP_AFTER_S: Final = 5.0
SWEEP_AGAIN_S: Final = 60.0
WARM_LAYERS: Final = 64  # layers that stay mounted after their last use

log = logging.getLogger(__name__)


class StoreInUse(Conflict):
    """Another process has the folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is in use by another engine: give each its own data root and exec root")
        self.folder = folder


class StateLost(Conflict):
    """There is what containers and volumes hold, and not the database that tells whose it is."""

    def __init__(self, path: Path, held: Collection[str]) -> None:
        super().__init__(
            f"state database {path} is missing or empty, but there is data in {' and '.join(sorted(held))} beside it, "
            "which would be removed as nobody's: put the database back, or move the data away"
        )
        self.path = path


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that the store holds."""

    content: int  # documents and compressed layers
    layers: int  # uncompressed tars
    snapshots: int  # what was written over the layers


class Store:
    """Everything that keeps images and file systems. Made by `open`; its parts are its attributes."""

    def __init__(
        self,
        paths: Paths,
        db: Database,
        workers: Workers,
        snapshotter: Snapshotter,
        *,
        keep_compressed: bool = True,
        compression: Compression = Compression.GZIP,
    ) -> None:
        self.paths = paths
        self.db = db
        self.workers = workers
        self.leases = Leases()
        self.trash = Trash(paths.trash)
        self.content = Content(paths.blobs, paths.ingest, self.leases.touch)
        self.layers = Layers(
            paths.data_root,
            paths.exec_root,
            self.content,
            db,
            workers,
            snapshotter,
            on_use=self.leases.touch,
            keep_compressed=keep_compressed,
            compression=compression,
        )
        self.images = Images(db, self.content)
        self.snapshots = Snapshots(
            paths.snapshots, paths.rootfs, paths.empty, self.layers, db, self.trash, warm_limit=WARM_LAYERS
        )
        self._collector = Collector(
            self.content, self.layers, self.images, self.snapshots, self.leases, keep_compressed=keep_compressed
        )
        self.freed = 0  # bytes on disk that collections have freed so far
        self._collection: asyncio.Task[None] | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._undo = contextlib.AsyncExitStack()

    @classmethod
    async def open(
        cls,
        data_root: Path,
        exec_root: Path,
        snapshotter: Snapshotter = "erofs",
        *,
        keep_compressed: bool = True,
        compression: Compression = Compression.GZIP,
    ) -> Self:
        """Make the folders if need be, lock them and load the catalogue.

        Without `keep_compressed` the compressed forms of layers are garbage as soon as no lease holds them.
        `compression` is for layers that are made here. Raises StoreInUse, StateLost, DatabaseFailed, OSError.
        """
        paths = Paths(data_root=data_root, exec_root=exec_root)
        async with contextlib.AsyncExitStack() as undo:
            await asyncio.to_thread(paths.make)
            for lock in (paths.lock, paths.exec_lock):
                undo.callback(os.close, _lock(lock))
            await asyncio.to_thread(reserve.spend, paths.reserve)
            db = await asyncio.to_thread(Database.open, paths.state)
            undo.push_async_callback(db.aclose)
            if db.is_new and (held := await asyncio.to_thread(paths.held)):
                raise StateLost(paths.state, held)
            workers = Workers()
            undo.push_async_callback(workers.aclose)
            store = cls(paths, db, workers, snapshotter, keep_compressed=keep_compressed, compression=compression)
            if db.is_new:
                await db.sync()  # from here on an empty database is a lost one
            store._undo = undo.pop_all()
        return store

    async def reconcile(self, known_snapshots: Collection[str] | None = None) -> list[str]:
        """Put right what a crash or a reboot left; returns the keys of snapshots that were removed as unknown.

        Half-written files go, live mounts are adopted, others unmounted; with `known_snapshots`, snapshots that are not
        in it are removed. Garbage is collected afterwards, beside whatever comes next.
        """
        await self._end_collection()
        await self.content.clear_ingest()
        await self.trash.empty()
        await self.layers.reconcile()
        removed = await self.snapshots.reconcile(known_snapshots)
        await self.layers.unmount_idle()
        self._collection = asyncio.create_task(self._collect_quietly())
        return removed

    async def collect(self, only: Collection[str] | None = None) -> Collected:
        """Remove the content and layers that nothing needs any more, of `only` if given; return what went."""
        collected = await self._collector.collect(only)
        self.freed += collected.size
        return collected

    async def needs_of(self, image: Image) -> set[str]:
        """Return the digests and diff IDs of all that the image needs: once it is removed, what to `collect`."""
        return await self._collector.needs_of(image)

    def sweep_soon(self) -> None:
        """Look for garbage of all kinds in a while, once however often this is called: something was let go."""
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_AFTER_S, self._start_sweep)

    async def drop_content(self, digest: Digest) -> None:
        """Remove a document although something may refer to it: what it alone referred to is garbage from then on."""
        await self.content.remove(digest)
        self._collector.forget(digest)

    async def garbage(self) -> list[str]:
        """Return the digests and diff IDs that `collect` would remove now."""
        return await self._collector.garbage()

    async def usage(self) -> Usage:
        """Return the bytes in use; walks the writable directories."""
        return Usage(
            content=sum((await self.content.all()).values()),
            layers=sum(layer.size for layer in self.layers.all()),
            snapshots=await self.snapshots.total_usage(),
        )

    async def aclose(self) -> None:
        """Stop what runs in the background and let go of the folders. Mounted snapshots stay mounted. Idempotent."""
        await self._end_collection()
        await self.trash.aclose()
        if not self.db.closed:
            await self.snapshots.cool_all()
            await self.layers.unmount_idle()
        await self._undo.aclose()

    def _start_sweep(self) -> None:
        self._sweep = None
        if self._collection is None or self._collection.done():
            self._collection = asyncio.create_task(self._collect_quietly())
        if self.leases.held:  # what it protects may be garbage when it ends
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_AGAIN_S, self._start_sweep)

    async def _end_collection(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        if self._collection is not None:
            self._collection.cancel()
            await asyncio.gather(self._collection, return_exceptions=True)
            self._collection = None

    async def _collect_quietly(self) -> None:
        try:
            collected = await self.collect()
        except ScowError as error:
            log.warning("garbage collection: %s", error)
        else:
            await asyncio.to_thread(reserve.keep, self.paths.reserve)
            if collected.size:
                log.info("garbage collection freed %d bytes", collected.size)


def _lock(path: Path) -> int:
    """Take the lock file; the lock ends with the descriptor, or with the process."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise StoreInUse(path.parent) from None
    return fd
