"""Trees of files that COPY and ADD read: a tar that was spooled, or a directory that shows layers.

Paths are bytes, relative to the tree's root, without `.`, `..` or doubled slashes; the root is empty. Symlinks are
followed inside the tree as in a chroot, so that none leads out of it. Nothing here runs in the event loop.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from scow.errors import InvalidArgument
from scow.store.tarstream import TarReader
from scow.store.tree import WHITEOUT, LayerCorrupt, LayerTree, Node, shown

PIECE: Final = 1 << 20
_HOPS: Final = 40
_KEPT_XATTRS: Final = (b"security.capability", b"user.")


class ContextRefused(InvalidArgument):
    """A build context that can't be used."""

    def __init__(self, why: str) -> None:
        super().__init__(f"invalid build context: {why}")
        self.why = why


class Tree(Protocol):
    """Files to be copied. `path` is always that of the node, as `find` or `children` gave it."""

    @property
    def root(self) -> Node:
        """The directory at the top."""

    def child(self, path: bytes, node: Node, name: bytes) -> Node | None:
        """What has this name in a directory, symlinks as they are."""

    def children(self, path: bytes, node: Node) -> list[tuple[bytes, Node]]:
        """The names in a directory, in bytewise order, with what has them."""

    def content(self, path: bytes, node: Node) -> Iterator[bytes]:
        """The bytes of a regular file."""

    def identity(self, path: bytes, node: Node) -> object | None:
        """What several names of one file have in common; None if it has one name only."""


def newest(root: Node) -> int:
    """The latest time of the files and directories of a tree that was read, in seconds."""
    found, todo = root.mtime, [root]
    while todo:
        for node in todo.pop().children.values():
            found = max(found, node.mtime)
            if node.is_directory:
                todo.append(node)
    return found


def find(tree: Tree, path: bytes, *, follow: bool = True) -> tuple[bytes, Node] | None:
    """What is at a path, and its path without symlinks. With `follow` a symlink at the end is followed, too.

    Raises ContextRefused for a loop of symlinks.
    """
    todo = [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
    trail: list[tuple[bytes, Node]] = [(b"", tree.root)]
    hops = 0
    while todo:
        name = todo.pop()
        if name == b"..":
            if len(trail) > 1:
                trail.pop()
            continue
        above, folder = trail[-1]
        if not folder.is_directory:
            return None
        node = tree.child(above, folder, name)
        if node is None:
            return None
        if node.is_symlink and (todo or follow):
            hops += 1
            if hops > _HOPS:
                raise ContextRefused(f"too many levels of symbolic links: {shown(path)}")
            assert isinstance(node.payload, bytes)
            if node.payload.startswith(b"/"):
                del trail[1:]
            todo.extend(part for part in reversed(node.payload.split(b"/")) if part not in (b"", b"."))
            continue
        trail.append((join(above, name), node))
    return trail[-1]


def join(above: bytes, name: bytes) -> bytes:
    """The path of something in a directory."""
    return above + b"/" + name if above else name


def walk(tree: Tree, path: bytes, node: Node) -> Iterator[tuple[bytes, Node]]:
    """All that is below a directory, a directory before what is in it, names in bytewise order."""
    stack = list(reversed(tree.children(path, node)))
    paths = [(join(path, name), found) for name, found in stack]
    while paths:
        here, found = paths.pop()
        yield here, found
        if found.is_directory:
            paths.extend((join(here, name), each) for name, each in reversed(tree.children(here, found)))


class SpooledTree:
    """A tar on disk, with what its headers say in memory: some 400 bytes an entry, whatever the files' sizes are."""

    def __init__(self, tar: Path, tree: LayerTree) -> None:
        self.tar = tar
        self._tree = tree
        self._fd = os.open(tar, os.O_RDONLY | os.O_CLOEXEC)
        self._names: dict[int, int] | None = None

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    @property
    def entries(self) -> int:
        """How many entries the tar has."""
        return self._tree.entries

    @property
    def root(self) -> Node:
        return self._tree.root

    def child(self, path: bytes, node: Node, name: bytes) -> Node | None:
        return node.children.get(name)

    def children(self, path: bytes, node: Node) -> list[tuple[bytes, Node]]:
        return sorted(node.children.items())

    def content(self, path: bytes, node: Node) -> Iterator[bytes]:
        payload = node.payload
        segments = ((0, node.size, payload),) if isinstance(payload, int) else payload
        assert isinstance(segments, tuple)
        at = 0
        for start, length, offset in segments:
            yield from _zeros(start - at)
            end = offset + length
            while offset < end:
                data = os.pread(self._fd, min(PIECE, end - offset), offset)
                if not data:
                    raise ContextRefused("the archive is truncated")
                yield data
                offset += len(data)
            at = start + length
        yield from _zeros(node.size - at)

    def identity(self, path: bytes, node: Node) -> object | None:
        if self._names is None:
            self._names = {}
            for _, each in self._tree.walk():
                if not each.is_directory:
                    self._names[id(each)] = self._names.get(id(each), 0) + 1
        return id(node) if self._names.get(id(node), 0) > 1 else None


def _zeros(size: int) -> Iterator[bytes]:
    while size > 0:
        yield bytes(min(size, PIECE))
        size -= PIECE


class _ContextTree(LayerTree):
    """A layer's names mean more than a context's: there are no whiteouts here."""

    def add(self, path: bytes, node: Node) -> None:
        name = path.rstrip(b"/").rpartition(b"/")[2]
        if name.startswith(WHITEOUT):
            raise LayerCorrupt(f"{shown(path)}: names that begin with .wh. can't be in an image")
        super().add(path, node)


def read_tar(source: BinaryIO, copy_to: BinaryIO | None = None) -> LayerTree:
    """Read a plain tar's headers, copying its bytes on the way. Raises ContextRefused."""
    reader = TarReader()
    reader.tree = _ContextTree()
    try:
        while data := source.read(PIECE):
            if copy_to is not None:
                copy_to.write(data)
            reader.feed(data)
        return reader.finish()
    except LayerCorrupt as error:
        raise ContextRefused(error.reason) from error


class DirectoryTree:
    """A directory that nobody changes: mounted layers, or a checkout."""

    def __init__(self, top: Path) -> None:
        self._top = os.fsencode(top)
        self._root = _node(self._top, os.lstat(self._top))

    @property
    def root(self) -> Node:
        return self._root

    def child(self, path: bytes, node: Node, name: bytes) -> Node | None:
        full = self._path(join(path, name))
        try:
            return self._noted(full, os.lstat(full))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def children(self, path: bytes, node: Node) -> list[tuple[bytes, Node]]:
        with os.scandir(self._path(path)) as entries:
            found = [
                (entry.name, self._noted(entry.path, entry.stat(follow_symlinks=False)))
                for entry in entries
                if not stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode)
            ]
        return sorted(found, key=lambda item: item[0])

    def content(self, path: bytes, node: Node) -> Iterator[bytes]:
        fd = os.open(self._path(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            left = node.size
            while left and (data := os.read(fd, min(left, PIECE))):
                left -= len(data)
                yield data
            yield from _zeros(left)
        finally:
            os.close(fd)

    def identity(self, path: bytes, node: Node) -> object | None:
        return (node.nid, node.links) if node.links else None

    def _path(self, path: bytes) -> bytes:
        return self._top + b"/" + path if path else self._top

    def _noted(self, full: bytes, info: os.stat_result) -> Node:
        node = _node(full, info)
        if info.st_nlink > 1 and not node.is_directory:
            # An inode's number and device tell the names of one file; both fields are the index's, unused here.
            node.nid, node.links = info.st_ino, info.st_dev
        return node


def _node(full: bytes, info: os.stat_result) -> Node:
    payload: dict[bytes, Node] | bytes | int = 0
    mode = info.st_mode
    xattrs = None
    if stat.S_ISDIR(mode):
        payload = {}
    elif stat.S_ISLNK(mode):
        payload = os.readlink(full)
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        payload = info.st_rdev
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        xattrs = {
            os.fsencode(name): os.getxattr(full, name, follow_symlinks=False)
            for name in os.listxattr(full, follow_symlinks=False)
            if os.fsencode(name).startswith(_KEPT_XATTRS)
        } or None
    seconds, nanoseconds = divmod(info.st_mtime_ns, 1_000_000_000)
    return Node(mode, info.st_uid, info.st_gid, seconds, nanoseconds, info.st_size, payload, xattrs)
