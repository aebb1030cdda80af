"""What is mounted over in every container: made when its file system is mounted first, and no change of the container.

Docker has it in a layer of its own between image and container, so that an exported file system has it, and an image
that is committed hasn't. Left to the runtime, files and folders get modes by its own taste.
"""

import contextlib
import os
import posixpath
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from scow.engine.record import ContainerRecord
from scow.engine.rooted import make_directories

IN_CONTAINER: Final = "/.dockerenv"
"""An empty file that every container has: programs tell by it that they run in one."""

_FOLDERS: Final = ("/dev", "/dev/pts", "/dev/shm", "/etc", "/proc", "/sys")
_FILES: Final = ("/dev/console", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
_MTAB: Final = "/etc/mtab"
MOUNTS: Final = "/proc/mounts"
"""Where /etc/mtab leads."""

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

MOUNT_POINTS: Final = frozenset(
    {
        *(IN_CONTAINER, *_FOLDERS, *_FILES, _MTAB),
        # Made by runtimes, and for an init.
        *("/dev/mqueue", "/run", "/run/.containerenv", "/sbin", "/sbin/docker-init"),
    }
)


def prepare(rootfs: Path, record: ContainerRecord, *, runs: bool) -> None:
    """Make what is missing of it in a container's mounted file system, and its working directory. Blocks.

    Before a run (`runs`) what the container's own mounts need is made as well. What can't be made, where a file is in
    the way for instance, is left to the runtime, which says why.
    """
    covered = ("/dev", "/proc", "/sys", *(mount.destination for mount in record.mounts))
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in _FOLDERS:
            _folder(root, folder)
        for file in _FILES:
            _file(root, file)
        _link(root, _MTAB, MOUNTS)
        working_dir = posixpath.normpath(f"/{record.config.working_dir}")
        if working_dir not in covered and not any(_is_below(working_dir, other) for other in covered):
            _folder(root, working_dir)
        for mount in record.mounts if runs else ():
            if mount.subpath or any(_is_below(mount.destination, other) for other in covered):
                continue  # a file or a folder, or not in this file system
            is_folder = mount.type != "bind" or os.path.isdir(mount.source)
            (_folder if is_folder else _file)(root, mount.destination)
    finally:
        os.close(root)


def _folder(root: int, path: str) -> None:
    with contextlib.suppress(OSError):
        os.close(make_directories(root, path))


def _file(root: int, path: str) -> None:
    with _parent(root, path) as (parent, name):
        os.close(os.open(name, _NEW, 0o755, dir_fd=parent))


def _link(root: int, path: str, target: str) -> None:
    with _parent(root, path) as (parent, name):
        os.symlink(target, name, dir_fd=parent)


@contextlib.contextmanager
def _parent(root: int, path: str) -> Iterator[tuple[int, str]]:
    """Give the folder of a path, which is made if need be, and a name in it; errors of the block are passed over."""
    folder, name = posixpath.split(path)
    with contextlib.suppress(OSError):
        parent = make_directories(root, folder)
        try:
            yield parent, name
        finally:
            os.close(parent)


def is_made(path: str, info: os.stat_result, target: str) -> bool:
    """Whether an entry that the image lacks is such a thing as it was made; `target`: of a symlink."""
    if path not in MOUNT_POINTS:
        return False
    return stat.S_ISDIR(info.st_mode) or not info.st_size or target == MOUNTS


def _is_below(path: str, folder: str) -> bool:
    return path != folder and path.startswith(folder.rstrip("/") + "/")
