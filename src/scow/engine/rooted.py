"""Paths inside a container's root, resolved as if that root were ours, even while the container changes them.

Each step is one openat2(2) with RESOLVE_IN_ROOT: neither symlinks nor ".." nor /proc's magic links lead out. Standard
library and `scow.linux.mount` only, since the archive worker imports this before it does anything else.
"""

import os
import posixpath
import stat
from typing import Final, NamedTuple

from scow.linux.mount import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

_LINK_LIMIT: Final = 255  # symlinks followed before a path counts as a loop
_GO_BITS: Final = (
    (stat.S_IFDIR, 1 << 31),
    (stat.S_IFLNK, 1 << 27),
    (stat.S_IFBLK, 1 << 26),
    (stat.S_IFIFO, 1 << 25),
    (stat.S_IFSOCK, 1 << 24),
    (stat.S_IFCHR, 1 << 26 | 1 << 21),
)


class Found(NamedTuple):
    """What is at a path: the entry itself, not what it links to, unless the path ends with a slash."""

    name: str
    size: int
    mode: int  # of Go's os.FileMode
    mtime_ns: int
    link_target: str  # where a symlink leads, in the container's terms


def clean(path: str) -> str:
    """Make a path absolute and simple, without looking; a trailing `/` or `/.` stays, for it means the directory."""
    simple = posixpath.normpath("/" + path).replace("//", "/", 1)
    if simple == "/":
        return simple
    if path.endswith("/."):
        return simple + "/."
    return simple + "/" if path.endswith("/") else simple


def open_in(root: int, path: str, flags: int = os.O_PATH) -> int:
    """Open a path as a process chrooted to the directory `root` would. Raises OSError."""
    return openat2(root, path, flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def open_directory(root: int, path: str) -> int:
    """Open a directory, for *at calls. Raises OSError."""
    return open_in(root, path, os.O_RDONLY | os.O_DIRECTORY)


def make_directories(root: int, path: str) -> int:
    """Make missing directories of a path, mode 0755, and open the last one. Raises OSError."""
    try:
        return open_directory(root, path)
    except FileNotFoundError:
        parent, name = posixpath.split(path.rstrip("/"))
        above = make_directories(root, parent or "/")
        try:
            os.mkdir(name, 0o755, dir_fd=above)
        finally:
            os.close(above)
        return open_directory(root, path)


def go_mode(mode: int) -> int:
    """A file's mode as Go's os.FileMode has it."""
    found = mode & 0o777
    found |= next((bit for kind, bit in _GO_BITS if stat.S_IFMT(mode) == kind), 0)
    for unix, bit in ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20)):
        if mode & unix:
            found |= bit
    return found


def look(root: int, path: str) -> Found:
    """Tell what is at a cleaned path. Raises OSError."""
    name = "/" if path == "/" else posixpath.basename(path.rstrip("/"))
    if path == "/" or path.endswith(("/", "/.")):
        fd = open_directory(root, path)
        try:
            info = os.fstat(fd)
        finally:
            os.close(fd)
    else:
        fd = open_directory(root, posixpath.dirname(path))
        try:
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        finally:
            os.close(fd)
    target = follow(root, path) if stat.S_ISLNK(info.st_mode) else ""
    return Found(name, info.st_size, go_mode(info.st_mode), info.st_mtime_ns, target)


def follow(root: int, path: str) -> str:
    """Write a path without symlinks; what doesn't exist stays as it is. Raises OSError for a loop."""
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            done = done[:-1]
            continue
        target = _link(root, "/" + "/".join(done), part)
        if target is None:
            done.append(part)
            continue
        links += 1
        if links > _LINK_LIMIT:
            raise OSError(40, "too many levels of symbolic links", path)
        if target.startswith("/"):
            done = []
        todo += [piece for piece in reversed(target.split("/")) if piece not in ("", ".")]
    return "/" + "/".join(done)


def _link(root: int, folder: str, name: str) -> str | None:
    try:
        fd = open_directory(root, folder)
    except OSError:
        return None
    try:
        return os.readlink(name, dir_fd=fd)
    except OSError:
        return None
    finally:
        os.close(fd)
