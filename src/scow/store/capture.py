"""A layer made from a directory: an overlay's upper, or any tree, in one pass into tar, diff ID and LayerTree.

The same tree always gives the same bytes: entries in bytewise order, a directory before what is in it. What overlayfs
says by devices 0:0 and opaque directories becomes whiteouts (image-spec layer.md#whiteouts). Sockets are left out, as
are the kernel's and the host's own attributes. Nothing is followed: the tree may be changed by a hostile process while
it is read, and gives a tar of something that was there then. Runs in a worker process.
"""

import errno
import os
import resource
import stat
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from scow.linux import xattr
from scow.linux.mount import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from scow.store import tarheader
from scow.store.ingest import LAYER, READ_SIZE, TAR, THREADED_FROM, Job, OutputFile, Stage, make_form, sync_directory
from scow.store.tarstream import LayerUnsupported
from scow.store.tree import (
    ENTRY_LIMIT,
    IMPLICIT_DIRECTORY,
    OPAQUE,
    PATH_LIMIT,
    WHITEOUT,
    LayerTree,
    Node,
    device_number,
    shown,
)

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTRY: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_HOLES_FROM: Final = 1 << 16  # bytes of a file from which holes are worth looking for
_SYNCED_AT_ONCE: Final = 1 << 20  # bytes from which a thread is worth starting
_OPAQUE_XATTR: Final = "trusted.overlay.opaque"
_KINDS: Final = {
    stat.S_IFLNK: tarheader.SYMLINK,
    stat.S_IFCHR: tarheader.CHARACTER,
    stat.S_IFBLK: tarheader.BLOCK_DEVICE,
    stat.S_IFIFO: tarheader.FIFO,
}


class _Attributes(NamedTuple):
    """What a directory in a layer says about itself, besides its time."""

    mode: int
    uid: int
    gid: int
    xattrs: dict[bytes, bytes]


_PLAIN_ROOT: Final = _Attributes(stat.S_IMODE(IMPLICIT_DIRECTORY), 0, 0, {})


class _Folder:
    """A directory being read. `waiting`: its own entry is written when something in it is, or at its end."""

    def __init__(self, fd: int, path: bytes, parent: "_Folder | None") -> None:
        self.fd = fd
        self.path = path
        self.parent = parent
        self.waiting = True
        self.left_out = False  # something in it was
        self.children: dict[bytes, Node] = {}
        self.info = info = os.fstat(fd)
        self.opaque = _is_opaque(fd)
        self.attributes = _Attributes(stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, xattr.read(fd))
        self.names = iter(sorted(map(os.fsencode, os.listdir(fd))))

    def inside(self, name: bytes) -> bytes:
        """The path of something in it."""
        return self.path + b"/" + name if self.path else name


class Capture:
    """One directory on its way into a layer. `run` leaves `layer/` in the job's directory.

    The job: `source`; `directory`; `form`: "erofs" or "dir"; `clamp_mtime`: the latest time that an entry may have, or
    None; `stubs`: absolute paths on which a runtime mounted something, left out where empty and not in `base`, a
    directory that shows what the layer will stand on, or None.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._layer = f"{job['directory']}/{LAYER}"
        os.mkdir(self._layer, 0o755)
        self._tar = OutputFile(f"{self._layer}/{TAR}", "sha256")
        self._out = _Output(self._tar)
        self._tree = LayerTree()
        self._clamp: int | None = job["clamp_mtime"]
        self._stubs = {os.fsencode(path.strip("/")) for path in job["stubs"]}
        self._above_stubs = {above for path in self._stubs for above in _parents(path)}
        self._base = -1 if job["base"] is None else os.open(job["base"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._inodes: dict[tuple[int, int], tuple[bytes, Node]] = {}

    def run(self) -> Job:
        """Read, write, sync; answers as Ingest does. Raises LayerUnsupported, OSError."""
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a deep tree has a descriptor for each level
        try:
            self._walk()
            self._out.put(tarheader.END)
        finally:
            self._out.finish()
        if self._tar.size < _SYNCED_AT_ONCE:
            os.fdatasync(self._tar.fd)
            wait = None
        else:
            wait = self._tar.start_sync()
        try:
            form = make_form(self._layer, self._tree, self._tar, self._job["form"])
        finally:
            if wait is not None:
                wait()
        sync_directory(self._layer)
        return {
            "diff_id": self._tar.digest,
            "size": self._tar.size,
            "form": form,
            "entries": self._tree.entries,
            "files_size": self._tree.files_size(),
        }

    def close(self) -> None:
        """Close the files."""
        self._tar.close()
        if self._base >= 0:
            os.close(self._base)

    # the walk

    def _walk(self) -> None:
        stack = [_Folder(os.open(self._job["source"], _DIRECTORY), b"", None)]
        try:
            while stack:
                folder = stack[-1]
                name = next(folder.names, None)
                if name is None:
                    self._leave(folder)
                    os.close(stack.pop().fd)
                elif (below := self._take(folder, name)) is not None:
                    stack.append(below)
        finally:
            for folder in stack:
                os.close(folder.fd)

    def _take(self, folder: _Folder, name: bytes) -> _Folder | None:
        """Write one entry; of a directory what is needed to go on in it. What vanished meanwhile is left out."""
        path = folder.inside(name)
        if len(path) > PATH_LIMIT:
            raise LayerUnsupported(f"a path of {len(path)} bytes: {shown(path[:80])}…")
        try:
            info = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
            kind = stat.S_IFMT(info.st_mode)
            if kind == stat.S_IFSOCK:
                return None
            if kind == stat.S_IFCHR and info.st_rdev == 0:
                self._whiteout(folder, name, info)
                return None
            if name.startswith(WHITEOUT):
                raise LayerUnsupported(
                    f"the file {shown(path)}: a name that begins with {WHITEOUT.decode()} stands for a removed file"
                )
            if kind == stat.S_IFDIR:
                return self._enter(folder, name, path)
            if kind == stat.S_IFREG:
                if path in self._stubs and not info.st_size and not self._in_base(path):
                    folder.left_out = True
                else:
                    self._file(folder, name, path)
                return None
            if kind == stat.S_IFLNK and path in self._stubs and not self._in_base(path):
                folder.left_out = True  # like /etc/mtab, which leads into /proc
                return None
            self._special(folder, name, path, info)
        except OSError as error:
            if error.errno not in _GONE:
                raise
        return None

    def _enter(self, parent: _Folder, name: bytes, path: bytes) -> _Folder:
        fd = os.open(name, _DIRECTORY, dir_fd=parent.fd)
        try:
            folder = _Folder(fd, path, parent)
            if path not in self._stubs and path not in self._above_stubs:
                self._ensure_written(folder)
        except BaseException:
            os.close(fd)
            raise
        return folder

    def _leave(self, folder: _Folder) -> None:
        """Write a directory in which nothing was written, unless it needn't be."""
        if not folder.waiting:
            return
        base = self._base_attributes(folder.path)
        if folder.parent is None:
            if folder.attributes != (base or _PLAIN_ROOT):
                self._write_directory(folder)
        elif (folder.left_out or folder.path in self._stubs) and (
            # All that happened to it is that something was mounted in it, or on it.
            not self._in_base(folder.path) or (folder.attributes == base and not folder.opaque)
        ):
            folder.parent.left_out = True
        else:
            self._ensure_written(folder)

    def _ensure_written(self, folder: _Folder | None) -> None:
        """Write the entries of a directory and those around it that were held back."""
        waiting = []
        while folder is not None and folder.waiting:
            waiting.append(folder)
            folder = folder.parent
        for each in reversed(waiting):
            each.waiting = False
            if each.parent is not None or each.attributes != _PLAIN_ROOT:
                self._write_directory(each)
            else:
                self._tree.root.payload = each.children

    # entries

    def _write_directory(self, folder: _Folder) -> None:
        folder.waiting = False
        mode, uid, gid, xattrs = folder.attributes
        mtime = self._time(folder.info)
        name = folder.path + b"/" if folder.parent is not None else b"./"
        self._put(
            tarheader.encode_header(
                name, tarheader.DIRECTORY, mode=mode, uid=uid, gid=gid, mtime=mtime, xattrs=xattrs
            )
        )  # fmt: skip
        node = Node(stat.S_IFDIR | mode, uid, gid, mtime, 0, 0, folder.children, xattrs or None)
        if folder.parent is None:
            self._tree.root = node
        else:
            folder.parent.children[folder.path.rpartition(b"/")[2]] = node
        if folder.opaque:
            node.opaque = True
            self._put(tarheader.encode_header(folder.inside(OPAQUE), tarheader.FILE, mode=0, mtime=mtime))

    def _whiteout(self, folder: _Folder, name: bytes, info: os.stat_result) -> None:
        if folder.opaque:
            return  # which hides everything anyway
        self._ensure_written(folder)
        mtime = self._time(info)
        self._put(tarheader.encode_header(folder.inside(WHITEOUT + name), tarheader.FILE, mode=0, mtime=mtime))
        folder.children[name] = Node(stat.S_IFCHR, 0, 0, mtime, 0, 0, 0, None)

    def _special(self, folder: _Folder, name: bytes, path: bytes, info: os.stat_result) -> None:
        """Write a symlink, a device or a pipe."""
        kind = stat.S_IFMT(info.st_mode)
        target = b""
        if kind == stat.S_IFLNK:
            try:
                target = os.readlink(name, dir_fd=folder.fd)
            except OSError as error:
                if error.errno == errno.EINVAL:  # no longer one
                    return
                raise
        # Neither takes a descriptor; the directory's keeps the path from leading elsewhere.
        xattrs = xattr.read(b"/proc/self/fd/%d/%s" % (folder.fd, name), follow_symlinks=False)
        self._ensure_written(folder)
        if self._linked(folder, name, path, info):
            return
        device = None
        payload: bytes | int = 0
        if kind == stat.S_IFLNK:
            payload = target
        elif kind != stat.S_IFIFO:
            device = os.major(info.st_rdev), os.minor(info.st_rdev)
            payload = device_number(*device)
        mode, mtime = stat.S_IMODE(info.st_mode), self._time(info)
        self._put(
            tarheader.encode_header(
                path, _KINDS[kind], mode=mode, uid=info.st_uid, gid=info.st_gid, mtime=mtime, target=target,
                device=device, xattrs=xattrs,
            )
        )  # fmt: skip
        node = Node(
            kind | mode, info.st_uid, info.st_gid, mtime, 0, len(target), payload, xattrs or None
        )  # fmt: skip
        self._keep(folder, name, path, info, node)

    def _file(self, folder: _Folder, name: bytes, path: bytes) -> None:
        # Looked at before it is opened: a device that took the file's place would be opened as us.
        entry = os.open(name, _ENTRY, dir_fd=folder.fd)
        try:
            info = os.fstat(entry)
            if not stat.S_ISREG(info.st_mode):
                return
            fd = os.open(f"/proc/self/fd/{entry}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(entry)
        try:
            self._ensure_written(folder)
            if self._linked(folder, name, path, info):
                return
            xattrs = xattr.read(fd)
            mode, size = stat.S_IMODE(info.st_mode), info.st_size
            mtime = self._time(info)
            self._put(
                tarheader.encode_header(
                    path, tarheader.FILE, mode=mode, uid=info.st_uid, gid=info.st_gid, size=size, mtime=mtime,
                    xattrs=xattrs,
                )
            )  # fmt: skip
            at = self._out.position
            node = Node(stat.S_IFREG | mode, info.st_uid, info.st_gid, mtime, 0, size, at, xattrs or None)
            self._keep(folder, name, path, info, node)
            if size:
                self._copy(fd, info)
        finally:
            os.close(fd)

    def _copy(self, fd: int, info: os.stat_result) -> None:
        """Write exactly the size's bytes: of a file that shrank the rest is zeros, of one that grew the rest stays."""
        size = info.st_size
        holes = size >= _HOLES_FROM and info.st_blocks * 512 < size
        done = 0
        for start, end in _data(fd, size) if holes else ((0, size),):
            self._out.skip(start - done)
            while start < end and (data := os.pread(fd, min(end - start, READ_SIZE), start)):
                self._out.put(data)
                start += len(data)
            done = start
        self._out.skip(size - done)
        self._out.put(tarheader.padding(size))

    def _linked(self, folder: _Folder, name: bytes, path: bytes, info: os.stat_result) -> bool:
        """Write one more name of a file that was written; False if it wasn't."""
        found = self._inodes.get((info.st_dev, info.st_ino)) if info.st_nlink > 1 else None
        if found is None:
            return False
        first, node = found
        self._put(
            tarheader.encode_header(
                path, tarheader.LINK, mode=stat.S_IMODE(info.st_mode), uid=info.st_uid, gid=info.st_gid,
                mtime=self._time(info), target=first,
            )
        )  # fmt: skip
        folder.children[name] = node
        return True

    def _keep(self, folder: _Folder, name: bytes, path: bytes, info: os.stat_result, node: Node) -> None:
        folder.children[name] = node
        if info.st_nlink > 1:
            self._inodes[info.st_dev, info.st_ino] = path, node

    def _put(self, header: bytes) -> None:
        self._tree.entries += 1
        if self._tree.entries > ENTRY_LIMIT:
            raise LayerUnsupported(f"more than {ENTRY_LIMIT} entries")
        self._out.put(header)

    def _time(self, info: os.stat_result) -> int:
        seconds = info.st_mtime_ns // 1_000_000_000
        return seconds if self._clamp is None else min(seconds, self._clamp)

    # what is below

    def _in_base(self, path: bytes) -> bool:
        try:
            os.close(self._open_base(path, os.O_PATH | os.O_NOFOLLOW))
        except OSError:
            return False
        return True

    def _base_attributes(self, path: bytes) -> _Attributes | None:
        try:
            fd = self._open_base(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            info = os.fstat(fd)
            return _Attributes(stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, xattr.read(fd))
        finally:
            os.close(fd)

    def _open_base(self, path: bytes, flags: int) -> int:
        if self._base < 0:
            raise FileNotFoundError
        return openat2(self._base, os.fsdecode(path) or ".", flags, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)


class _Output:
    """The tar on its way to the file: small pieces are gathered, and a thread hashes and writes when there is much."""

    def __init__(self, file: OutputFile) -> None:
        self.position = 0
        self._file = file
        self._gathered: list[bytes] = []
        self._size = 0
        self._stage: Stage[bytes | int] | None = None

    def put(self, data: bytes) -> None:
        """Append bytes."""
        self.position += len(data)
        if len(data) < THREADED_FROM:
            self._gathered.append(data)
            self._size += len(data)
            if self._size >= THREADED_FROM:
                self._flush()
        else:
            self._flush()
            self._send(data)

    def skip(self, size: int) -> None:
        """Append zeros, which take no room on the disk."""
        if size:
            self.position += size
            self._flush()
            self._send(size)

    def finish(self) -> None:
        """Wait until everything is written. Raises OSError."""
        try:
            if self._stage is None:
                self._write([b"".join(self._gathered)])
            else:
                self._flush()
        finally:
            if self._stage is not None:
                self._stage.join()

    def _flush(self) -> None:
        if self._gathered:
            data = b"".join(self._gathered)
            self._gathered.clear()
            self._size = 0
            self._send(data)

    def _send(self, item: bytes | int) -> None:
        if self._stage is None:
            self._stage = Stage(self._write)
        if self._stage.error is not None:
            raise self._stage.error
        self._stage.put(item)

    def _write(self, items: Iterable[bytes | int]) -> None:
        for item in items:
            if isinstance(item, int):
                self._file.skip(item)
            else:
                self._file.write(item)


def _parents(path: bytes) -> Iterator[bytes]:
    while path := path.rpartition(b"/")[0]:
        yield path


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that aren't holes: (start, end)."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if start < size:
            yield start, min(at, size)


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, _OPAQUE_XATTR) == b"y"
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
        return False
