"""What differs between a container's file system and its image. Engine API, GET /containers/{id}/changes."""

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from scow.engine.container import ContainerTable
from scow.engine.mount_points import IN_CONTAINER, MOUNT_POINTS, is_made
from scow.store.snapshots import Snapshots
from scow.wire.archive import FilesystemChange

MODIFIED: Final = 0
ADDED: Final = 1
DELETED: Final = 2


class Changes:
    """Compares containers with their images."""

    def __init__(self, table: ContainerTable, snapshots: Snapshots) -> None:
        self._table = table
        self._snapshots = snapshots

    async def of(self, ref: str) -> list[FilesystemChange]:
        """The paths that were added, modified or deleted, in order; a directory counts if its entries changed."""
        container = self._table.get(ref)
        upper = self._snapshots.upper(container.id)
        if not container.record.diff_ids:
            return await asyncio.to_thread(compare, upper, None)
        async with self._snapshots.view(container.record.diff_ids) as base:
            return await asyncio.to_thread(compare, upper, base)


def compare(upper: Path, base: Path | None) -> list[FilesystemChange]:
    """Read an overlay's upper directory against what lies below it. Blocks."""
    found: dict[str, int] = {}
    for path, kind in _walk(str(upper), str(base) if base is not None else None, ""):
        if kind != MODIFIED:
            parent = os.path.dirname(path)
            if parent != "/":
                found.setdefault(parent, MODIFIED)
        found[path] = kind
    return [FilesystemChange(path=path, kind=found[path]) for path in sorted(found)]


def _walk(upper: str, base: str | None, folder: str) -> Iterator[tuple[str, int]]:
    names: set[str] = set()
    try:
        entries = sorted(os.scandir(upper + folder), key=lambda entry: entry.name)
    except FileNotFoundError:  # removed while we look: it is a living container's
        return
    for entry in entries:
        path = f"{folder}/{entry.name}"
        names.add(entry.name)
        try:
            info = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        below = _lstat(base, path)
        if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
            if below is not None:
                yield path, DELETED
            continue
        is_directory = stat.S_ISDIR(info.st_mode)
        if below is None:
            if not is_made(path, info, _target(upper + path) if stat.S_ISLNK(info.st_mode) else ""):
                yield path, ADDED
        elif path != IN_CONTAINER and (
            not is_directory
            or info.st_mode != below.st_mode
            # A directory is there too when only something far beneath it changed: its own time tells.
            or (info.st_mtime_ns != below.st_mtime_ns and not _has_mount_points(upper, path, base))
        ):
            yield path, MODIFIED
        if is_directory:
            yield from _walk(upper, base if below is not None and stat.S_ISDIR(below.st_mode) else None, path)
    if base is not None and _is_opaque(upper + folder):
        for name in os.listdir(base + folder):
            if name not in names:
                yield f"{folder}/{name}", DELETED


def _has_mount_points(upper: str, path: str, base: str | None) -> bool:
    """Whether a directory's time may have changed because something was made in it to be mounted on."""
    return any(
        os.path.dirname(point) == path and _lstat(upper, point) and not _lstat(base, point) for point in MOUNT_POINTS
    )


def _lstat(root: str | None, path: str) -> os.stat_result | None:
    if root is None:
        return None
    try:
        return os.lstat(root + path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _is_opaque(path: str) -> bool:
    try:
        return os.getxattr(path, "trusted.overlay.opaque", follow_symlinks=False) == b"y"
    except OSError:
        return False
