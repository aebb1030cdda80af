"""What lies under a data root, to the byte: every file and directory is counted once, and belongs to one part.

Counted are the blocks that a file takes on disk, as du does it: a hole costs nothing, a hard link is counted with the
first name that is met. The sum of the parts is therefore what `du` says of the data root.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Collection, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from scow.store.ingest import INDEX, ROOT, TAR


class Part(StrEnum):
    """What something under a data root is for."""

    LAYERS = "layers"  # uncompressed tars
    INDEXES = "indexes"  # EROFS indexes over them
    UNPACKED = "unpacked"  # layers that are directories
    COMPRESSED = "compressed layers"  # layers as they were pulled
    DOCUMENTS = "documents"  # manifests, indexes of platforms, configs
    WRITABLE = "writable layers"
    LOGS = "logs"
    CONTAINERS = "container files"  # hosts, resolv.conf and the like
    VOLUMES = "volumes"
    BUILD = "build cache"
    STATE = "state"  # the database
    INGEST = "ingest"  # being written
    TRASH = "trash"  # being deleted
    OTHER = "other"  # not ours


ORDER: Final = tuple(Part)

_TOPS: Final = {
    "snapshots": Part.WRITABLE,
    "volumes": Part.VOLUMES,
    "ingest": Part.INGEST,
    "trash": Part.TRASH,
    "empty": Part.STATE,
    "events.jsonl": Part.STATE,
    "lock": Part.STATE,
    "reserve": Part.STATE,
    "state.db": Part.STATE,
    "state.db-wal": Part.STATE,
    "state.db-shm": Part.STATE,
}
_LAYER_FILES: Final = {TAR: Part.LAYERS, INDEX: Part.INDEXES, ROOT: Part.UNPACKED}


class Usage(msgspec.Struct, kw_only=True):
    """One part: how many files (directories not among them), and the bytes that they and their directories take."""

    files: int = 0
    size: int = 0


def survey(root: Path, compressed: Collection[str]) -> dict[Part, Usage]:
    """Walk the data root, in a thread. `compressed` are the digests of blobs that are layers.

    What vanishes meanwhile counts nothing.
    """
    found = {part: Usage() for part in ORDER}
    seen: set[int] = set()
    device = os.lstat(root).st_dev

    def count(status: os.stat_result, part: Part) -> None:
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if status.st_ino in seen:
                return
            seen.add(status.st_ino)
        usage = found[part]
        usage.size += status.st_blocks * 512
        usage.files += not stat.S_ISDIR(status.st_mode)

    def walk(path: str, part: Part, inside: Callable[[str, str], Part] | None) -> None:
        """Count what is in a directory; `inside` tells the part of an entry by its path below `path` and its name."""
        pending = [("", path)]
        while pending:
            below, folder = pending.pop()
            for entry, status in _entries(folder):
                if status.st_dev != device:
                    continue  # mounted there, and not stored here
                name = f"{below}{entry.name}"
                count(status, part if inside is None else inside(name, entry.name))
                if stat.S_ISDIR(status.st_mode):
                    pending.append((f"{name}/", entry.path))

    def of_layer(path: str, _: str) -> Part:
        parts = path.split("/", 3)
        return _LAYER_FILES.get(parts[2], Part.OTHER) if len(parts) > 2 else Part.LAYERS

    def of_blob(path: str, name: str) -> Part:
        return Part.COMPRESSED if f"{path.partition('/')[0]}:{name}" in compressed else Part.DOCUMENTS

    def of_container(_: str, name: str) -> Part:
        return Part.LOGS if ".log" in name else Part.CONTAINERS

    insides = {
        "layers": (Part.LAYERS, of_layer),
        "blobs": (Part.DOCUMENTS, of_blob),
        "containers": (Part.CONTAINERS, of_container),
    }
    count(os.lstat(root), Part.STATE)
    # Layers before blobs: a blob that isn't compressed is a second name of its layer's tar.
    for entry, status in sorted(_entries(os.fspath(root)), key=lambda each: each[0].name == "blobs"):
        part, inside = insides.get(entry.name, (None, None))
        if part is None:
            part = _TOPS.get(entry.name) or (Part.BUILD if entry.name.startswith("build") else Part.OTHER)
        if status.st_dev != device:
            continue
        count(status, part)
        if stat.S_ISDIR(status.st_mode):
            walk(entry.path, part, inside)
    return found


def _entries(folder: str) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                yield entry, entry.stat(follow_symlinks=False)
