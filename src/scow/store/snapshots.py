"""Snapshots: a stack of layers with a writable directory on top, as one file system.

With a user namespace (`shift`) the IDs of files are shifted on their way through the mount; on disk they stay the
container's own.

The life of a snapshot: `prepare` records it and makes its directories, `mount` shows it (overlayfs: the layers below,
the snapshot's own `upper` above), `unmount` hides it and keeps what was written, `remove` ends it. A snapshot outlives
its mount and the engine; after a reboot it is mounted again on demand. `kept_mounted` shows it for the length of a
block, beside whoever mounts and unmounts it meanwhile; `view` shows layers alone, read-only, for the length of a block.

Directories: `root`/<key>/upper and work; mounts at `mounts`/<key>. Whatever a killed process left is put right by
`reconcile`: rows and directories without their other half, mounts that nobody knows.
"""

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import shutil
import sqlite3
import stat
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec

from scow import points
from scow.errors import Conflict, InvalidArgument, NotFound, ScowError
from scow.linux import mount
from scow.oci.digest import DiffID
from scow.store.database import Database
from scow.store.documents import find_document
from scow.store.overlay import Shift, overlay, shifted_overlay
from scow.store.trash import Trash

T = TypeVar("T")

log = logging.getLogger(__name__)

MIGRATIONS: Final = ["CREATE TABLE snapshots (key TEXT PRIMARY KEY, diff_ids TEXT NOT NULL) WITHOUT ROWID"]

VIEW: Final = "view-"


class LowerLayers(Protocol):
    """What snapshots need of the layers."""

    def find(self, diff_id: DiffID) -> object | None:
        """Return something if there is such a layer that isn't being removed."""

    async def lower(self, diff_id: DiffID) -> Path:
        """Return a directory that shows the layer, mounted if it must be, until `release`. Counted."""

    async def release(self, diff_id: DiffID) -> None:
        """Give back what one call of `lower` took."""


class NoSuchSnapshot(NotFound):
    """No snapshot has this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"no such snapshot: {key}")
        self.key = key


class LayerMissing(NotFound):
    """A snapshot was asked for whose layer is not there, or is just being removed."""

    def __init__(self, diff_id: str) -> None:
        super().__init__(f"layer {diff_id} is missing: pull the image again")
        self.diff_id = diff_id


class SnapshotExists(Conflict):
    """The key is taken by a snapshot of other layers."""

    def __init__(self, key: str) -> None:
        super().__init__(f"snapshot {key} exists already, with other layers")
        self.key = key


class _Snapshot:
    """One snapshot; `lock` orders what happens to it, `held` are the layers that its mount keeps.

    It stays mounted while it is `wanted`, from `mount` to `unmount`, or has `keepers`, blocks of `kept_mounted`.
    """

    def __init__(self, diff_ids: tuple[DiffID, ...]) -> None:
        self.diff_ids = diff_ids
        self.lock = asyncio.Lock()
        self.held: tuple[DiffID, ...] | None = None
        self.wanted = False
        self.keepers = 0


class Snapshots:
    """The snapshots under `root`, mounted under `mounts`. Belongs to the event loop's thread.

    Of the layers that were used last, up to `warm_limit` stay mounted (`_warm`, the latest at the end) though nobody
    uses them now: the next container is mostly one of the same image, and mounting eight layers takes 4 ms.

    `_snapshots` has an entry from the moment in which `prepare` is called, before its row is committed, so that the
    garbage collection sees the layers in use at once. `version` counts the changes of what is in use.
    """

    def __init__(
        self,
        root: Path,
        mounts: Path,
        empty: Path,
        layers: LowerLayers,
        db: Database,
        trash: Trash,
        warm_limit: int = 0,
    ) -> None:
        self._root = root
        self._mounts = mounts
        self._empty = empty
        self._layers = layers
        self._db = db
        self._trash = trash
        self._snapshots: dict[str, _Snapshot] = {}
        self._views: dict[str, tuple[DiffID, ...]] = {}
        self._warm_limit = warm_limit
        self._warm: dict[DiffID, None] = {}
        self.version = 0
        self.shift: Callable[[str], Shift | None] = lambda key: None  # by the snapshot's key; the engine's
        self.label: Callable[[str], str] = lambda key: ""  # the SELinux label of its files, the same way
        db.migrate("snapshots", MIGRATIONS)
        db.read_now(self._load)

    def keys(self) -> list[str]:
        """Return the keys of all snapshots."""
        return list(self._snapshots)

    def diff_ids(self, key: str) -> tuple[DiffID, ...]:
        """Return the snapshot's layers, base first. Raises NoSuchSnapshot."""
        return self._get(key).diff_ids

    def used_diff_ids(self) -> set[DiffID]:
        """Return the layers that some snapshot or view is made of."""
        stacks = [*(each.diff_ids for each in self._snapshots.values()), *self._views.values()]
        return {diff_id for stack in stacks for diff_id in stack}

    def upper(self, key: str) -> Path:
        """Return the directory that holds what was changed in the snapshot, as overlayfs keeps it."""
        return self._root / key / "upper"

    def mount_point(self, key: str) -> Path:
        """Return where the snapshot is mounted when it is."""
        return self._mounts / key

    def mounted(self, key: str) -> bool:
        """Return whether the snapshot is mounted."""
        return self._get(key).held is not None and mount.is_mount_point(self.mount_point(key))

    async def prepare(self, key: str, diff_ids: Sequence[DiffID]) -> None:
        """Record a snapshot of these layers, base first (none at all is fine), and make its directories.

        Idempotent for the same layers. Raises LayerMissing, SnapshotExists, and InvalidArgument for a key that can't
        name a file.
        """
        _check_key(key)
        known = self._snapshots.get(key)
        if known is not None and known.diff_ids != tuple(diff_ids):
            raise SnapshotExists(key)
        for diff_id in diff_ids:  # no wait from here to where the layers count as used
            if self._layers.find(diff_id) is None:
                raise LayerMissing(diff_id)
        snapshot = known or _Snapshot(tuple(diff_ids))
        self._snapshots[key] = snapshot
        self.version += 1
        async with snapshot.lock:
            encoded = msgspec.json.encode(snapshot.diff_ids).decode()
            try:
                await self._db.write(
                    lambda connection: connection.execute(
                        "INSERT OR REPLACE INTO snapshots VALUES (?, ?)", (key, encoded)
                    )
                )
                await asyncio.to_thread(self.upper(key).mkdir, parents=True, exist_ok=True)
            except BaseException:
                # Cancelled or refused: a row that was committed nonetheless goes with the next reconcile, as unknown.
                if known is None and self._snapshots.get(key) is snapshot:
                    del self._snapshots[key]
                raise

    async def mount(self, key: str) -> Path:
        """Mount the snapshot with its layers and return where. Idempotent. Raises NoSuchSnapshot, MountFailed."""
        snapshot = self._get(key)
        async with snapshot.lock:
            await self._mount(key, snapshot)
            snapshot.wanted = True
        await points.at("mount.done")
        return self.mount_point(key)

    @contextlib.asynccontextmanager
    async def kept_mounted(self, key: str) -> AsyncIterator[Path]:
        """Have the snapshot mounted until the block is left, also if it is unmounted meanwhile: only its removal takes
        it away. Raises NoSuchSnapshot, MountFailed."""
        snapshot = self._get(key)
        async with snapshot.lock:
            await self._mount(key, snapshot)
            snapshot.keepers += 1
        try:
            yield self.mount_point(key)
        finally:
            await finish(self._let_go(key, snapshot))

    async def unmount(self, key: str) -> None:
        """Unmount the snapshot and let go of its layers. Idempotent; what was written stays. Raises NoSuchSnapshot.

        If somebody keeps it mounted, it goes when the last of them leaves.
        """
        snapshot = self._get(key)
        async with snapshot.lock:
            snapshot.wanted = False
            if not snapshot.keepers:
                await finish(self._unmount(key, snapshot))

    async def remove(self, key: str) -> None:
        """Unmount and remove the snapshot with all that was written in it. Idempotent.

        It is gone when this returns; its files are deleted after that.
        """
        snapshot = self._snapshots.get(key)
        if snapshot is None:
            return
        async with snapshot.lock:
            if self._snapshots.get(key) is snapshot:
                await finish(self._remove(key, snapshot))

    async def usage(self, key: str) -> int:
        """Return the bytes of the files in the snapshot's writable directory. Raises NoSuchSnapshot."""
        self._get(key)
        return await asyncio.to_thread(tree_size, self.upper(key))

    async def total_usage(self) -> int:
        """Return the bytes of the files in all writable directories."""
        return sum([await asyncio.to_thread(tree_size, self.upper(key)) for key in self.keys()])

    @contextlib.asynccontextmanager
    async def view(self, diff_ids: Sequence[DiffID], *, shifted: bool = False) -> AsyncIterator[Path]:
        """Show a stack of layers, base first, read-only, until the block is left.

        `shifted` if a container is to see it: with the IDs that its files have in the others.
        """
        name = f"{VIEW}{secrets.token_hex(6)}"
        target = self._mounts / name
        self._views[name] = tuple(diff_ids)
        self.version += 1
        try:
            async with contextlib.AsyncExitStack() as undo:
                lowers = await self._take(unique(diff_ids), undo)
                undo.push_async_callback(lambda: finish(asyncio.to_thread(self._unmount_now, target)))
                await finish(asyncio.to_thread(self._mount_view, lowers, target, self.shift(name) if shifted else None))
                yield target
        finally:
            del self._views[name]
            self.version += 1

    async def cool(self, diff_id: DiffID) -> bool:
        """Let go of a layer that is only kept warm; return whether it was."""
        if diff_id not in self._warm:
            return False
        del self._warm[diff_id]
        await self._layers.release(diff_id)
        return True

    async def cool_all(self) -> None:
        """Let go of every layer that is only kept warm: before the layers are closed."""
        for diff_id in list(self._warm):
            await self.cool(diff_id)

    async def reconcile(self, known: Collection[str] | None = None) -> list[str]:
        """Put right what a crash or a reboot left; for start-up. Returns the keys of the snapshots that were removed.

        Live mounts of snapshots are adopted with their layers; other mounts here, and directories without a row, go.
        With `known`, snapshots whose key is not in it are removed as well.
        """
        live = await asyncio.to_thread(self._survey)
        for key, snapshot in self._snapshots.items():
            if key in live and snapshot.held is None:
                snapshot.held = await self._take_what_is_left(key, unique(snapshot.diff_ids))
                snapshot.wanted = True
        unknown = [] if known is None else [key for key in self._snapshots if key not in known]
        for key in unknown:
            await self.remove(key)
        return unknown

    # steps

    def _get(self, key: str) -> _Snapshot:
        snapshot = self._snapshots.get(key)
        if snapshot is None:
            raise NoSuchSnapshot(key)
        return snapshot

    def _load(self, connection: sqlite3.Connection) -> None:
        for key, encoded in connection.execute("SELECT key, diff_ids FROM snapshots"):
            # Without its layers it can't be mounted as it was, but what was written in it is not lost.
            diff_ids = find_document(encoded, tuple[DiffID, ...], f"snapshot {key}")
            self._snapshots[key] = _Snapshot(diff_ids or ())

    async def _take(self, diff_ids: Iterable[DiffID], undo: contextlib.AsyncExitStack) -> list[Path]:
        lowers = []
        for diff_id in diff_ids:
            lowers.append(await self._layers.lower(diff_id))
            undo.push_async_callback(self._release, [diff_id])
        return lowers

    async def _take_what_is_left(self, key: str, diff_ids: Iterable[DiffID]) -> tuple[DiffID, ...]:
        """Take the layers of a live mount. It goes on with what it has even if one is damaged or lost meanwhile."""
        taken: list[DiffID] = []
        for diff_id in diff_ids:
            try:
                await self._layers.lower(diff_id)
            except ScowError as error:
                log.warning("snapshot %s stays mounted although a layer of it is not what it was: %s", key, error)
            else:
                taken.append(diff_id)
        return tuple(taken)

    async def _release(self, diff_ids: Iterable[DiffID]) -> None:
        for diff_id in diff_ids:
            was_warm = diff_id in self._warm
            self._warm.pop(diff_id, None)
            if self._warm_limit:
                self._warm[diff_id] = None  # it takes over what was held, if it did not hold the layer before
            if was_warm or not self._warm_limit:
                await self._layers.release(diff_id)
        while len(self._warm) > self._warm_limit:
            await self.cool(next(iter(self._warm)))

    async def _mount(self, key: str, snapshot: _Snapshot) -> None:
        target = self.mount_point(key)
        if self._snapshots.get(key) is not snapshot:
            raise NoSuchSnapshot(key)
        if snapshot.held is not None and mount.is_mount_point(target):
            return
        async with contextlib.AsyncExitStack() as undo:
            held = unique(snapshot.diff_ids)
            lowers = await self._take(held, undo)
            await points.at("mount.layers")
            if snapshot.held is not None:  # somebody unmounted it behind our back: those layers are held twice now
                await self._release(snapshot.held)
                snapshot.held = None
            undo.push_async_callback(lambda: finish(asyncio.to_thread(self._unmount_now, target)))
            await finish(asyncio.to_thread(self._mount_writable, key, lowers, target))
            snapshot.held = held
            undo.pop_all()

    async def _let_go(self, key: str, snapshot: _Snapshot) -> None:
        async with snapshot.lock:
            snapshot.keepers -= 1
            if not snapshot.wanted and not snapshot.keepers and self._snapshots.get(key) is snapshot:
                await self._unmount(key, snapshot)

    async def _unmount(self, key: str, snapshot: _Snapshot) -> None:
        await asyncio.to_thread(self._unmount_now, self.mount_point(key))
        if snapshot.held is not None:
            held, snapshot.held = snapshot.held, None
            await self._release(held)

    async def _remove(self, key: str, snapshot: _Snapshot) -> None:
        await self._unmount(key, snapshot)
        await self._trash.take(self._root / key)
        # The row goes last: until then a crash leaves a snapshot that can be removed again.
        await self._db.write(lambda connection: connection.execute("DELETE FROM snapshots WHERE key = ?", (key,)))
        del self._snapshots[key]
        self.version += 1

    def _survey(self) -> set[str]:
        """Unmount and delete what no row knows; return the keys that are mounted."""
        top = os.path.realpath(self._mounts)
        names = [os.path.relpath(entry.target, top) for entry in mount.mounts(top) if entry.target != top]
        # Twice mounted, one over the other: no telling which one is right, so neither is.
        live = {name for name, times in Counter(names).items() if times == 1 and name in self._snapshots}
        for name in reversed(names):
            if name.partition("/")[0] not in live:
                mount.ensure_unmounted(self._mounts / name)
        for name in os.listdir(self._mounts):
            if name not in live:
                with contextlib.suppress(OSError):
                    os.rmdir(self._mounts / name)
        for name in os.listdir(self._root):
            if name not in self._snapshots:
                self._trash.take_now(self._root / name)
        return live

    def _mount_writable(self, key: str, lowers: Sequence[Path], target: Path) -> None:
        upper, work = self.upper(key), self._root / key / "work"
        upper.mkdir(parents=True, exist_ok=True)
        bottom = list(lowers) or [self._empty / "a"]
        if not work.exists():
            # The root directory is upper's: it begins as the image has it. `work` tells that this was done.
            _copy_attributes(bottom[-1], upper)
            work.mkdir(mode=0o700)
        target.mkdir(exist_ok=True)
        while mount.ensure_unmounted(target):  # what an earlier life left: maybe with layers that were replaced
            pass
        shift = self.shift(key)
        if shift is None:
            overlay(target, bottom, upper=upper, work=work, label=self.label(key))
        else:
            shifted_overlay(target, bottom, shift, self._root / key, self.label(key))

    def _mount_view(self, lowers: Sequence[Path], target: Path, shift: Shift | None) -> None:
        target.mkdir()
        # Without an upper directory overlayfs wants two below; empty ones change nothing.
        padding = [self._empty / name for name in ("a", "b")][: max(0, 2 - len(lowers))]
        if shift is None:
            overlay(target, [*padding, *lowers])
        else:
            shifted_overlay(target, [*padding, *lowers], shift)

    def _unmount_now(self, target: Path) -> None:
        while mount.ensure_unmounted(target):
            pass
        try:
            target.rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            # Who still had the path wrote into the directory when nothing was mounted on it any more: nobody's data.
            shutil.rmtree(target)


async def finish(step: Awaitable[T]) -> T:
    """Await `step` to its end even when cancelled meanwhile: a kernel's call in a thread can't be taken back."""
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # looked at: the cancellation is what the caller hears of
        raise


def unique(diff_ids: Sequence[DiffID]) -> tuple[DiffID, ...]:
    """Return the stack with only the topmost of equal layers, base first.

    overlayfs refuses a directory that appears twice. The lower one is hidden by its twin entry for entry anyway.
    """
    return tuple(reversed(dict.fromkeys(reversed(diff_ids))))


def tree_size(top: Path) -> int:
    """Return the bytes of the files below `top`, a hard-linked file once. Blocks; what vanishes meanwhile counts 0."""
    total = 0
    seen: set[int] = set()
    pending = [os.fspath(top)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISDIR(status.st_mode):
                            pending.append(entry.path)
                        elif status.st_nlink == 1 or status.st_ino not in seen:
                            total += status.st_size
                            seen.add(status.st_ino)
        except (FileNotFoundError, NotADirectoryError):
            continue
    return total


def _check_key(key: str) -> None:
    if not key or key.startswith((".", VIEW)) or "/" in key or "\0" in key or len(os.fsencode(key)) > 200:
        raise InvalidArgument(f"{key!r} can't be a snapshot's key")


def _copy_attributes(source: Path, target: Path) -> None:
    status = source.stat()
    # chown(2) clears setuid bits, so the owner comes first and the mode after it.
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
