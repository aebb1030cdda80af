"""A directory tree as a tar stream, and a tar stream into a tree, beneath a root that somebody else may be changing.

Runs in the archive worker: it blocks, and holds one file's piece in memory, not more. What is docker's in it: the names
that the top of an archive gets, which entries replace which, and the owner that all can be given.
"""

import contextlib
import errno
import os
import posixpath
import shutil
import stat
import tarfile
from collections.abc import Iterator
from typing import IO, Final

from scow.engine.rooted import look, make_directories, open_directory, open_in
from scow.linux import xattr

_PIECE: Final = 1 << 20
_BLOCK: Final = 512
_PAX_XATTR: Final = "SCHILY.xattr."
_GO_DIRECTORY: Final = 1 << 31


class Refused(Exception):
    """An archive can't be unpacked as asked, in docker's words."""


class _Inodes:
    """Which names of hard links were written already."""

    def __init__(self) -> None:
        self._names: dict[tuple[int, int], str] = {}

    def first(self, info: os.stat_result, name: str) -> str | None:
        """The name under which this file was written before; None the first time."""
        if info.st_nlink < 2 or stat.S_ISDIR(info.st_mode):
            return None
        key = (info.st_dev, info.st_ino)
        found = self._names.get(key)
        if found is None:
            self._names[key] = name
        return found


class Writer:
    """Writes tar entries to a descriptor; all get the time `mtime`, in seconds, if there is one."""

    def __init__(self, out: int, mtime: int | None = None) -> None:
        self._out = out
        self._mtime = mtime
        self._inodes = _Inodes()

    def tree(self, root: int, path: str) -> None:
        """Write what is at a cleaned path, with all beneath it, and the end. Raises OSError if it isn't there."""
        found = look(root, path)
        if found.mode & _GO_DIRECTORY:
            fd = open_directory(root, path)
            try:
                name = "." if path.endswith("/.") else found.name
                self._entry(name, os.fstat(fd), fd, "")
                self._children(fd, "" if name == "/" else name)
            finally:
                os.close(fd)
        else:
            above = open_directory(root, posixpath.dirname(path))
            try:
                self._child(above, found.name, found.name)
            finally:
                os.close(above)
        self.end()

    def contents(self, root: int) -> None:
        """Write everything beneath the root, by relative names, and the end."""
        self.below(root, "")
        self.end()

    def below(self, root: int, prefix: str) -> None:
        """Write everything beneath the root; into the directory `prefix`, if that isn't empty."""
        fd = open_directory(root, "/")
        try:
            if prefix:
                self._entry(prefix, os.fstat(fd), fd, "")
            self._children(fd, prefix or None)
        finally:
            os.close(fd)

    def file(self, source: str, name: str) -> None:
        """Write a file that is elsewhere, as a plain one that everybody may read."""
        with open(source, "rb") as file:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = os.fstat(file.fileno()).st_size, 0o644, self._mtime or 0
            self._write(entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
            self._copy(file.fileno(), entry.size)

    def end(self) -> None:
        """Write the end of the archive."""
        self._write(bytes(2 * _BLOCK))

    def _children(self, fd: int, prefix: str | None) -> None:
        """Write a directory's entries, deepest first by a stack of open directories; `fd` stays the caller's."""
        stack = [(fd, prefix, iter(sorted(os.listdir(fd))))]
        try:
            while stack:
                above, prefix, names = stack[-1]
                name = next(names, None)
                if name is None:
                    stack.pop()
                    if above != fd:
                        os.close(above)
                    continue
                inside = name if prefix is None else f"{prefix}/{name}"
                below = self._child(above, name, inside)
                if below is not None:
                    stack.append((below, inside, iter(sorted(os.listdir(below)))))
        finally:
            for above, _, _ in stack:
                if above != fd:
                    os.close(above)

    def _child(self, above: int, name: str, inside: str) -> int | None:
        """Write one entry; a directory's open descriptor is returned. What vanished meanwhile is left out."""
        try:
            info = os.stat(name, dir_fd=above, follow_symlinks=False)
            if stat.S_ISREG(info.st_mode):
                self._file(above, name, inside)
            elif stat.S_ISDIR(info.st_mode):
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(name, flags, dir_fd=above)
                self._entry(inside, os.fstat(fd), fd, "")
                return fd
            elif stat.S_ISLNK(info.st_mode):
                self._entry(inside, info, None, os.readlink(name, dir_fd=above))
            elif not stat.S_ISSOCK(info.st_mode):
                self._entry(inside, info, None, "")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == 40:  # ELOOP: it became a symlink
                return None
            raise
        return None

    def _file(self, above: int, name: str, inside: str) -> None:
        # Not blocking: a pipe that takes the file's place must not hold us.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=above)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                return
            if self._entry(inside, info, fd, ""):
                self._copy(fd, info.st_size)
        finally:
            os.close(fd)

    def _entry(self, name: str, info: os.stat_result, fd: int | None, target: str) -> bool:
        """Write a header; False for a hard link, which has no content."""
        entry = tarfile.TarInfo(name)
        entry.mode = stat.S_IMODE(info.st_mode)
        entry.uid, entry.gid, entry.mtime = info.st_uid, info.st_gid, int(info.st_mtime)
        if self._mtime is not None:
            entry.mtime = self._mtime
        earlier = self._inodes.first(info, name)
        if earlier is not None:
            entry.type, entry.linkname = tarfile.LNKTYPE, earlier
        elif stat.S_ISDIR(info.st_mode):
            entry.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(info.st_mode):
            entry.type, entry.linkname = tarfile.SYMTYPE, target
        elif stat.S_ISREG(info.st_mode):
            entry.size = info.st_size
        elif stat.S_ISFIFO(info.st_mode):
            entry.type = tarfile.FIFOTYPE
        else:
            entry.type = tarfile.CHRTYPE if stat.S_ISCHR(info.st_mode) else tarfile.BLKTYPE
            entry.devmajor, entry.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
        if fd is not None and earlier is None:
            entry.pax_headers = {
                _PAX_XATTR + _text(name.replace(b"%", b"%25").replace(b"=", b"%3D")): _text(value)
                for name, value in sorted(xattr.read(fd).items())
            }
        self._write(entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        return earlier is None

    def _copy(self, fd: int, size: int) -> None:
        """Write exactly `size` bytes: of a file that shrank the rest is zeros, and of one that grew the rest stays."""
        left = size
        while left:
            sent = os.sendfile(self._out, fd, None, min(left, _PIECE))
            if not sent:
                break
            left -= sent
        while left:
            left -= self._write(bytes(min(left, _PIECE)))
        if size % _BLOCK:
            self._write(bytes(_BLOCK - size % _BLOCK))

    def _write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            view = view[os.write(self._out, view) :]
        return len(data)


class Extractor:
    """Unpacks a tar stream into a directory of a root. `owner` overrides the owners that the archive names."""

    def __init__(self, root: int, path: str, *, keep_kinds: bool, owner: tuple[int, int] | None) -> None:
        self._root = root
        self._path = path
        self._keep_kinds = keep_kinds
        self._owner = owner
        self._times: list[tuple[str, float]] = []
        self._above: tuple[str, int] | None = None

    def extract(self, source: IO[bytes]) -> None:
        """Unpack all; the input may be compressed. Raises Refused, OSError, tarfile.TarError."""
        try:
            for entry, content in _entries(source):
                self._take(entry, content)
            for path, mtime in reversed(self._times):
                with contextlib.suppress(OSError):
                    fd = open_directory(self._root, path)
                    try:
                        os.utime(fd, (mtime, mtime))
                    finally:
                        os.close(fd)
        finally:
            self._forget()

    def _forget(self) -> None:
        if self._above is not None:
            os.close(self._above[1])
            self._above = None

    def _parent(self, path: str) -> int:
        """The open directory that holds a path; the last one is kept, since entries come in groups."""
        folder = posixpath.dirname(path)
        if self._above is None or self._above[0] != folder:
            self._forget()
            self._above = (folder, make_directories(self._root, folder))
        return self._above[1]

    def _inside(self, name: str) -> str:
        inner = posixpath.normpath(name.lstrip("/") or ".")
        if inner == ".." or inner.startswith("../"):
            raise Refused(f'"{name}" is outside of "{self._path}"')
        return posixpath.normpath(posixpath.join(self._path, inner))

    def _take(self, entry: tarfile.TarInfo, content: IO[bytes] | None) -> None:
        path = self._inside(entry.name)
        if path == posixpath.normpath(self._path) and entry.isdir():
            if entry.name.strip("/") not in ("", "."):
                self._attributes_of_directory(path, entry)
            return
        above, name = self._parent(path), posixpath.basename(path)
        if not self._make_room(above, name, path, entry):
            self._attributes_of_directory(path, entry)
            return
        if entry.isdir():
            os.mkdir(name, 0o700, dir_fd=above)
            self._attributes_of_directory(path, entry)
        elif entry.isreg():
            self._write_file(above, name, entry, content)
        elif entry.issym():
            os.symlink(entry.linkname, name, dir_fd=above)
            self._own(name, entry, above)
        elif entry.islnk():
            self._link(above, name, entry)
        elif entry.isfifo() or entry.isdev():
            kind = stat.S_IFIFO if entry.isfifo() else stat.S_IFCHR if entry.ischr() else stat.S_IFBLK
            os.mknod(name, kind | 0o600, os.makedev(entry.devmajor, entry.devminor), dir_fd=above)
            self._own(name, entry, above)
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
            try:
                os.chmod(f"/proc/self/fd/{fd}", entry.mode & 0o7777)
            finally:
                os.close(fd)
        if entry.issym() or entry.isfifo() or entry.isdev():
            with contextlib.suppress(OSError):
                os.utime(name, (entry.mtime, entry.mtime), dir_fd=above, follow_symlinks=False)

    def _make_room(self, above: int, name: str, path: str, entry: tarfile.TarInfo) -> bool:
        """Remove what is in the way; False if a directory is there and is to stay."""
        try:
            info = os.stat(name, dir_fd=above, follow_symlinks=False)
        except FileNotFoundError:
            return True
        is_directory = stat.S_ISDIR(info.st_mode)
        if self._keep_kinds and is_directory and not entry.isdir():
            raise Refused(f'cannot overwrite directory "{path}" with non-directory "{self._path}"')
        if self._keep_kinds and not is_directory and entry.isdir():
            raise Refused(f'cannot overwrite non-directory "{path}" with directory "{self._path}"')
        if is_directory and entry.isdir():
            return False
        if is_directory:
            self._forget_below(path)
            shutil.rmtree(name, dir_fd=above)  # by descriptors: it doesn't follow symlinks
        else:
            os.unlink(name, dir_fd=above)
        return True

    def _forget_below(self, path: str) -> None:
        if self._above is not None and self._above[0].startswith(path + "/"):
            self._forget()

    def _write_file(self, above: int, name: str, entry: tarfile.TarInfo, content: IO[bytes] | None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=above)
        try:
            with open(fd, "wb", buffering=0, closefd=False) as file:
                if content is not None:
                    shutil.copyfileobj(content, file, _PIECE)
            os.fchown(fd, *self._owner_of(entry))
            # chown(2) clears the setuid bits and file capabilities, so the owner comes first.
            os.fchmod(fd, entry.mode & 0o7777)
            _set_xattrs(fd, entry)
            os.utime(fd, (entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _link(self, above: int, name: str, entry: tarfile.TarInfo) -> None:
        source = self._inside(entry.linkname)
        folder = open_directory(self._root, posixpath.dirname(source))
        try:
            os.link(posixpath.basename(source), name, src_dir_fd=folder, dst_dir_fd=above, follow_symlinks=False)
        finally:
            os.close(folder)

    def _attributes_of_directory(self, path: str, entry: tarfile.TarInfo) -> None:
        fd = open_directory(self._root, path)
        try:
            os.fchown(fd, *self._owner_of(entry))
            os.fchmod(fd, entry.mode & 0o7777)
            _set_xattrs(fd, entry)
        finally:
            os.close(fd)
        self._times.append((path, entry.mtime))

    def _own(self, name: str, entry: tarfile.TarInfo, above: int) -> None:
        uid, gid = self._owner_of(entry)
        os.chown(name, uid, gid, dir_fd=above, follow_symlinks=False)

    def _owner_of(self, entry: tarfile.TarInfo) -> tuple[int, int]:
        return self._owner if self._owner is not None else (entry.uid, entry.gid)


def _set_xattrs(fd: int, entry: tarfile.TarInfo) -> None:
    """Give a file the attributes that the archive has for it; where it can't have them it goes without."""
    for key, value in entry.pax_headers.items():
        name = key.removeprefix(_PAX_XATTR).replace("%3D", "=").replace("%25", "%")
        if key.startswith(_PAX_XATTR) and xattr.is_portable(name):
            try:
                os.setxattr(fd, name, value.encode("utf-8", "surrogateescape"))
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _entries(source: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """The archive's entries as they come; an empty input has none."""
    try:
        archive = tarfile.open(fileobj=source, mode="r|*", errors="surrogateescape")  # noqa: SIM115 - closed below
    except tarfile.ReadError as error:
        if "empty file" in str(error):
            return
        raise
    with archive:
        while (entry := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # or the list grows with the archive
            yield entry, archive.extractfile(entry) if entry.isreg() else None


def bind_targets(root: int, destinations: list[tuple[str, bool]]) -> Iterator[tuple[int, str]]:
    """Open each place that something is mounted on (path, is a directory), made if it is missing; caller closes."""
    for destination, is_directory in destinations:
        if is_directory:
            yield make_directories(root, destination), destination
            continue
        above = make_directories(root, posixpath.dirname(destination))
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with contextlib.suppress(OSError):  # there already, as whatever
                os.close(os.open(posixpath.basename(destination), flags | os.O_EXCL, 0o644, dir_fd=above))
        finally:
            os.close(above)
        yield open_in(root, destination), destination
