"""Mounting layers: an EROFS index with its tar, read-only, counted; by files or by loop devices, as the kernel can.

Linux mounts EROFS from files since 6.12; from 6.4, with which the format came, it wants block devices, and loop
devices are that. What the kernel can is tried out once, in the folder where the layers lie: their file system counts.
"""

import asyncio
import contextlib
import io
import logging
import os
import tarfile
import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from scow.linux import loop, mount
from scow.oci.digest import DiffID, encoded
from scow.store.erofs import build_index
from scow.store.tarstream import TarReader

log = logging.getLogger(__name__)


class MountMode(StrEnum):
    """How indexes are mounted; NONE: they can't be, and layers are unpacked."""

    FILES = "files"
    LOOP = "loop devices"
    NONE = "none"


class LayerUse:
    """How often a layer's directory is in use. `lock` keeps mounting, unmounting and removing apart."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
        self.mounted = False


class LayerMounts:
    """The mount points of layers, in `root`, and who uses them. `work` is a folder where the layers are kept.

    `mode` None: found out on first use. Belongs to one event loop.
    """

    def __init__(self, root: Path, work: Path, mode: MountMode | None = None) -> None:
        self.root = root
        self._work = work
        self._mode = mode
        self._uses: dict[DiffID, LayerUse] = {}

    async def mode(self) -> MountMode:
        """Return how indexes are mounted here."""
        if self._mode is None:
            self._mode = await asyncio.to_thread(probe, self._work)
            if self._mode is MountMode.NONE:
                log.warning("this kernel can't mount EROFS layers: they are unpacked")
            else:
                log.debug("layers are mounted from %s", self._mode)
        return self._mode

    def use(self, diff_id: DiffID) -> LayerUse:
        """Return the layer's use, which is its lock as well."""
        return self._uses.setdefault(diff_id, LayerUse())

    def find_use(self, diff_id: DiffID) -> LayerUse | None:
        """Return the layer's use if it was ever asked for."""
        return self._uses.get(diff_id)

    def all(self) -> list[tuple[DiffID, LayerUse]]:
        """Return every layer whose use was ever asked for."""
        return list(self._uses.items())

    def path(self, diff_id: DiffID) -> Path:
        """Return the layer's mount point."""
        return self.root / _short(diff_id)

    async def mount(self, diff_id: DiffID, index: Path, tar: Path) -> Path:
        """Mount the layer at its mount point. The caller holds its lock. Raises MountFailed, OSError."""
        mode = await self.mode()
        use, path = self.use(diff_id), self.path(diff_id)
        await asyncio.to_thread(_mount_at, index, tar, path, mode)
        use.mounted = True
        return path

    async def unmount(self, diff_id: DiffID) -> None:
        """Unmount the layer if it is mounted. The caller holds its lock."""
        use, path = self.use(diff_id), self.path(diff_id)
        if use.mounted:
            await asyncio.to_thread(_unmount_all, path)
            with contextlib.suppress(OSError):
                path.rmdir()
            use.mounted = False

    async def adopt(self, diff_ids: list[DiffID]) -> None:
        """Take over the mounts of these layers that an earlier life left; unmount whatever else is in the folder."""
        shown = {Path(entry.target).name: entry for entry in await asyncio.to_thread(mount.mounts, self.root)}
        for diff_id in diff_ids if shown else ():
            entry = shown.get(_short(diff_id))
            if entry is not None and entry.fs_type == "erofs":
                self.use(diff_id).mounted = True
                del shown[_short(diff_id)]
        for name in shown:
            if (target := self.root / name) != self.root:
                await asyncio.to_thread(mount.ensure_unmounted, target)
        await asyncio.to_thread(self._clear_mount_points)

    def _clear_mount_points(self) -> None:
        for entry in os.scandir(self.root):
            if not mount.is_mount_point(entry.path):
                with contextlib.suppress(OSError):
                    os.rmdir(entry.path)


def probe(folder: Path) -> MountMode:
    """Find out how this kernel mounts an index that lies in `folder`: a small one is made, and never attached."""
    if not mount.supported("erofs"):
        return MountMode.NONE
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo("probe")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"yes"))
    reader = TarReader()
    reader.feed(buffer.getvalue())
    with tempfile.TemporaryDirectory(prefix="probe-", dir=folder) as work:
        index, tar = Path(work, "index"), Path(work, "tar")
        tar.write_bytes(buffer.getvalue())
        index.write_bytes(build_index(reader.finish(), len(buffer.getvalue())))
        for mode in (MountMode.FILES, MountMode.LOOP):
            try:
                with _context(index, tar, mode) as context:
                    context.create()
            except (mount.MountFailed, OSError) as error:
                log.debug("EROFS layers can't be mounted from %s: %s", mode, error)
            else:
                return mode
    return MountMode.NONE


def mount_index(index: Path, tar: Path, target: Path, mode: MountMode = MountMode.FILES) -> None:
    """Mount an EROFS index with its tar, read-only. Raises MountFailed, OSError."""
    try:
        with _context(index, tar, mode) as context:
            context.mounted_at(target, mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_RDONLY)
    except mount.MountFailed as error:
        raise mount.MountFailed(error.errno, "erofs", str(target), error.messages) from None


def _unmount_all(path: Path) -> None:
    while mount.ensure_unmounted(path):  # a layer that was repaired is mounted over what it was
        pass


def _mount_at(index: Path, tar: Path, target: Path, mode: MountMode) -> None:
    target.mkdir(exist_ok=True)
    try:
        mount_index(index, tar, target, mode)
    except BaseException:
        with contextlib.suppress(OSError):
            target.rmdir()
        raise


@contextlib.contextmanager
def _context(index: Path, tar: Path, mode: MountMode) -> Iterator[mount.FsContext]:
    """Configure a file system of the two files."""
    with contextlib.ExitStack() as stack:
        if mode is MountMode.LOOP:
            if tar.stat().st_size % loop.SECTOR:
                raise OSError(f"{tar} doesn't end with a full block, the rest of which a loop device hides")
            sources = [stack.enter_context(loop.attached(path)) for path in (index, tar)]
        else:
            sources = [_name(path, stack) for path in (index, tar)]
        context = stack.enter_context(mount.FsContext("erofs"))
        for key, source in zip(("source", "device"), sources, strict=True):
            context.set(key, source)
        context.flag("ro")
        yield context


def _name(path: Path, stack: contextlib.ExitStack) -> str:
    """A name of the file that is short enough for an option."""
    if len(os.fsencode(path)) <= mount.STRING_LIMIT:
        return str(path)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return f"/proc/self/fd/{fd}"


def _short(diff_id: DiffID) -> str:
    # Overlay's option line ends at one page: 80 bits keep 127 lower directories short and never meet twice.
    return encoded(diff_id)[:20]
