"""Unpacking a layer into a directory, for machines and layers that the EROFS form doesn't fit.

Runs in a process of its own that has chrooted into the directory first. Only names of the LayerTree are made, each
relative to a descriptor of its directory and never through a symlink, so that nothing could lead outside even without
the chroot. File data is copied by the kernel from the layer's tar.
"""

import errno
import os
import stat
from typing import Final

from scow.store.tree import LayerTree, Node, Segments, split_device_number

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_COPY_PIECE: Final = 64 << 20


def confine(directory: str) -> None:
    """Make `directory` the root of this process, for good."""
    os.chroot(directory)
    os.chdir("/")


def unpack(tree: LayerTree, tar: int) -> None:
    """Make the files of `tree` in the empty root directory; `tar` is open for reading. Raises OSError."""
    Unpacker(tar).unpack(tree)


class Unpacker:
    """Makes one layer's files. What it returns from is complete, but not synced."""

    def __init__(self, tar: int) -> None:
        self._tar = tar
        self._made: dict[Node, bytes] = {}  # files with further names to come
        self._in_kernel = True

    def unpack(self, tree: LayerTree) -> None:
        """Make everything; directories get their attributes last, for what is made in them changes their times."""
        counts: dict[Node, int] = {}
        directories: list[tuple[bytes, Node]] = []
        by_directory: dict[bytes, list[tuple[bytes, Node]]] = {b"": []}
        for path, node in tree.walk():
            if path:
                parent, _, name = path.rpartition(b"/")
                by_directory[parent].append((name, node))
            if node.is_directory:
                directories.append((path, node))
                by_directory[path] = []
            else:
                counts[node] = counts.get(node, 0) + 1
        umask = os.umask(0)
        try:
            for path, _ in directories:
                here = os.open(b"/" + path, _DIRECTORY)
                try:
                    for name, node in by_directory.pop(path):
                        self._make(here, path, name, node, linked=counts.get(node, 0) > 1)
                finally:
                    os.close(here)
            for path, node in reversed(directories):
                self._finish_directory(b"/" + path, node)
        finally:
            os.umask(umask)

    def _make(self, here: int, path: bytes, name: bytes, node: Node, *, linked: bool) -> None:
        kind = node.mode & 0o170000
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=here)
            return
        full = b"/" + path + b"/" + name
        if linked:
            if (first := self._made.get(node)) is not None:
                os.link(first, name, dst_dir_fd=here, follow_symlinks=False)
                return
            self._made[node] = full
        times = (node.mtime * 1_000_000_000 + node.nsec,) * 2
        if kind == stat.S_IFREG:
            file = os.open(name, _NEW_FILE, 0o600, dir_fd=here)
            try:
                self._fill(file, node)
                os.fchown(file, node.uid, node.gid)
                # chown(2) clears the setuid bits and file capabilities: the owner comes first.
                os.fchmod(file, node.mode & 0o7777)
                for key, value in node.all_xattrs().items():
                    os.setxattr(file, key, value)
                os.utime(file, ns=times)
            finally:
                os.close(file)
            return
        if kind == stat.S_IFLNK:
            assert isinstance(node.payload, bytes)
            os.symlink(node.payload, name, dir_fd=here)
        else:
            device = os.makedev(*split_device_number(node.payload)) if isinstance(node.payload, int) else 0
            os.mknod(name, kind | 0o600, device, dir_fd=here)
        os.chown(name, node.uid, node.gid, dir_fd=here, follow_symlinks=False)
        if kind != stat.S_IFLNK:
            os.chmod(name, node.mode & 0o7777, dir_fd=here)
        for key, value in node.all_xattrs().items():
            os.setxattr(full, key, value, follow_symlinks=False)
        os.utime(name, ns=times, dir_fd=here, follow_symlinks=False)

    def _finish_directory(self, path: bytes, node: Node) -> None:
        here = os.open(path, _DIRECTORY)
        try:
            os.fchown(here, node.uid, node.gid)
            os.fchmod(here, node.mode & 0o7777)
            for key, value in node.all_xattrs().items():
                os.setxattr(here, key, value)
            os.utime(here, ns=(node.mtime * 1_000_000_000 + node.nsec,) * 2)
        finally:
            os.close(here)

    def _fill(self, file: int, node: Node) -> None:
        if isinstance(node.payload, int):
            self._copy(file, 0, node.payload, node.size)
            return
        segments: Segments = node.payload  # type: ignore[assignment]  # a file's payload is an offset or segments
        os.ftruncate(file, node.size)
        for offset, length, at in segments:
            self._copy(file, offset, at, length)

    def _copy(self, file: int, offset: int, at: int, length: int) -> None:
        while length:
            piece = min(length, _COPY_PIECE)
            copied = 0
            if self._in_kernel and length > 16384:  # one read and one write are cheaper for small files
                try:
                    copied = os.copy_file_range(self._tar, file, piece, at, offset)
                except OSError as error:
                    if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                        raise
                    self._in_kernel = False
                    continue
            else:
                data = os.pread(self._tar, min(piece, 1 << 20), at)
                copied = os.pwrite(file, data, offset)
            if not copied:
                raise OSError(errno.EIO, "the layer's tar ends early")
            at, offset, length = at + copied, offset + copied, length - copied
