"""Mounts: the old call and the new ones, what is mounted now, and paths opened beneath a directory.

Everything here is one system call or a short, fixed row of them; each releases the GIL while the kernel works, so that
`asyncio.to_thread` keeps the event loop free. Refusals of the kernel become `MountFailed` and `UnmountFailed`, which
keep the errno and quote what the file system itself said (the fs context's log). `open_beneath` raises plain OSError.

System call numbers from 424 on are the same on every architecture; the older ones go through libc's functions.
"""

import contextlib
import ctypes
import errno as errnos
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

from scow.errors import Internal

# mount(2) flags
MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_NOATIME: Final = 1024
MS_BIND: Final = 4096
MS_MOVE: Final = 8192
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20
MS_RELATIME: Final = 1 << 21

# umount2(2) flags
MNT_FORCE: Final = 1
MNT_DETACH: Final = 2
MNT_EXPIRE: Final = 4
UMOUNT_NOFOLLOW: Final = 8

# fsmount(2) and mount_setattr(2) attributes
MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8
MOUNT_ATTR_NOATIME: Final = 0x10
MOUNT_ATTR_IDMAP: Final = 0x100000

# openat2(2) resolve flags
RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

STRING_LIMIT: Final = 255  # bytes that fsconfig(FSCONFIG_SET_STRING) takes as a value

_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_FSOPEN: Final = 430
_SYS_FSCONFIG: Final = 431
_SYS_FSMOUNT: Final = 432
_SYS_OPENAT2: Final = 437
_SYS_MOUNT_SETATTR: Final = 442

_FSOPEN_CLOEXEC: Final = 1
_FSMOUNT_CLOEXEC: Final = 1
_FSCONFIG_SET_FLAG: Final = 0
_FSCONFIG_SET_STRING: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_OPEN_TREE_CLONE: Final = 1
_OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
_AT_RECURSIVE: Final = 0x8000
_AT_EMPTY_PATH: Final = 0x1000
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
_MOVE_MOUNT_T_SYMLINKS: Final = 0x10
_AT_FDCWD: Final = -100

_STATX_SIZE: Final = 256
_STATX_ATTRIBUTES_AT: Final = 8
_STATX_ATTR_MOUNT_ROOT: Final = 0x2000

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_mount = _libc.mount
_mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_umount2 = _libc.umount2
_umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_statx = _libc.statx
_statx.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p]

StrPath = str | os.PathLike[str]


class MountFailed(Internal):
    """The kernel refused to mount; `errno` and `messages` (the file system's own words) say why."""

    def __init__(self, errno: int, what: str, target: str, messages: Sequence[str] = ()) -> None:
        said = f" ({'; '.join(messages)})" if messages else ""
        at = f" at {target}" if target else ""
        super().__init__(f"cannot mount {what}{at}: {os.strerror(errno).lower()}{said}")
        self.errno = errno
        self.what = what
        self.target = target
        self.messages = tuple(messages)


class UnmountFailed(Internal):
    """The kernel refused to unmount: mostly EBUSY (still in use) or EINVAL (nothing is mounted there)."""

    def __init__(self, errno: int, target: str) -> None:
        super().__init__(f"cannot unmount {target}: {os.strerror(errno).lower()}")
        self.errno = errno
        self.target = target


def mount(
    source: StrPath | None,
    target: StrPath,
    fs_type: str | None = None,
    flags: int = 0,
    data: str | None = None,
) -> None:
    """Call mount(2). `data` has the file system's own options, comma-separated, at most a page. Raises MountFailed."""
    encode = os.fsencode
    result = _mount(
        None if source is None else encode(source),
        encode(target),
        None if fs_type is None else fs_type.encode(),
        flags,
        None if data is None else encode(data),
    )
    if result != 0:
        what = os.fspath(source) if flags & (MS_BIND | MS_MOVE) and source is not None else fs_type or str(source)
        raise MountFailed(ctypes.get_errno(), what, os.fspath(target))


def bind(source: StrPath, target: StrPath, *, recursive: bool = False, read_only: bool = False) -> None:
    """Show `source` (file or directory) at `target` too. Read-only holds for the top mount only. Raises MountFailed."""
    mount(source, target, flags=MS_BIND | (MS_REC if recursive else 0))
    if read_only:
        # The first call ignores every flag but MS_REC; a bind becomes read-only by a remount.
        try:
            mount(source, target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)
        except MountFailed:
            unmount(target, lazy=True)
            raise


def unmount(target: StrPath, *, lazy: bool = False) -> None:
    """Unmount what is at `target`, never following a symlink. `lazy` detaches it now and lets users finish. Raises
    UnmountFailed, with errno EINVAL if nothing is mounted there and EBUSY if it is in use."""
    if _umount2(os.fsencode(target), UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0)) != 0:
        raise UnmountFailed(ctypes.get_errno(), os.fspath(target))


def ensure_unmounted(target: StrPath) -> bool:
    """Unmount `target` if something is mounted there, lazily if it is busy. Returns whether there was something."""
    try:
        unmount(target)
    except UnmountFailed as error:
        if error.errno in (errnos.EINVAL, errnos.ENOENT):
            return False
        if error.errno != errnos.EBUSY:
            raise
        unmount(target, lazy=True)
    return True


class FsContext:
    """A file system being configured: fsopen(2), `set` and `flag` for its options, `create`, then `mounted_at`.

    A context manager: leaving it closes the descriptor; a mount that was attached stays. Raises MountFailed from every
    step, with what the file system wrote into the context's log.
    """

    def __init__(self, fs_type: str) -> None:
        self.fs_type = fs_type
        self._fd = _syscall(_SYS_FSOPEN, ctypes.c_char_p(fs_type.encode()), _FSOPEN_CLOEXEC)
        if self._fd < 0:
            raise MountFailed(ctypes.get_errno(), fs_type, "")

    def set(self, key: str, value: StrPath) -> None:
        """Give an option its value, at most STRING_LIMIT bytes."""
        self._config(_FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0)

    def flag(self, key: str) -> None:
        """Switch on an option that takes no value; "ro" makes the file system itself read-only."""
        self._config(_FSCONFIG_SET_FLAG, key.encode(), None, 0)

    def create(self) -> None:
        """Have the kernel make the superblock of what was configured."""
        self._config(_FSCONFIG_CMD_CREATE, None, None, 0)

    def mount(self, attributes: int = 0) -> int:
        """Return a descriptor (the caller's to close) of a new mount that is attached nowhere yet."""
        fd: int = _syscall(_SYS_FSMOUNT, self._fd, _FSMOUNT_CLOEXEC, attributes)
        if fd < 0:
            raise self._failure()
        return fd

    def mounted_at(self, target: StrPath, attributes: int = 0) -> None:
        """Create, mount and attach at `target`."""
        try:
            self.create()
            fd = self.mount(attributes)
        except MountFailed as error:
            raise MountFailed(error.errno, self.fs_type, os.fspath(target), error.messages) from None
        try:
            move_mount(fd, target)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let go of the context. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _config(self, command: int, key: bytes | None, value: bytes | None, aux: int) -> None:
        if _syscall(_SYS_FSCONFIG, self._fd, command, ctypes.c_char_p(key), ctypes.c_char_p(value), aux) != 0:
            raise self._failure()

    def _failure(self) -> MountFailed:
        number = ctypes.get_errno()
        messages = []
        with contextlib.suppress(OSError):  # ENODATA: that was all
            while said := os.read(self._fd, 8192):
                # "e overlay: No changes allowed": the letter tells errors, warnings and informations apart
                messages.append(said.decode(errors="replace").strip()[2:])
        return MountFailed(number, self.fs_type, "", messages)


def move_mount(fd: int, target: StrPath, *, follow: bool = False) -> None:
    """Attach the mount behind `fd` (of fsmount or open_tree) at `target`, or where a symlink there leads with `follow`.

    Raises MountFailed."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | (_MOVE_MOUNT_T_SYMLINKS if follow else 0)
    path = ctypes.c_char_p(os.fsencode(target))
    if _syscall(_SYS_MOVE_MOUNT, fd, ctypes.c_char_p(b""), _AT_FDCWD, path, flags) != 0:
        raise MountFailed(ctypes.get_errno(), "detached mount", os.fspath(target))


def open_tree(path: StrPath, *, recursive: bool = False) -> int:
    """Return a descriptor (the caller's to close) of a detached copy of the mount at `path`. Raises MountFailed."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    fd: int = _syscall(_SYS_OPEN_TREE, _AT_FDCWD, ctypes.c_char_p(os.fsencode(path)), flags)
    if fd < 0:
        raise MountFailed(ctypes.get_errno(), f"copy of {os.fspath(path)}", "")
    return fd


def bind_mapped(source: StrPath, target: StrPath, user_namespace: int, *, recursive: bool = False) -> None:
    """Show `source` at `target` with IDs shifted as the user namespace behind the descriptor has them.

    Raises MountFailed, with errno EINVAL for a file system that can't.
    """
    fd = open_tree(source, recursive=recursive)
    try:
        set_attributes(fd, add=MOUNT_ATTR_IDMAP, user_namespace=user_namespace, recursive=recursive)
        move_mount(fd, target, follow=True)  # as mount(2) does: /proc/self/fd is a symlink
    finally:
        os.close(fd)


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def set_attributes(
    fd: int, *, add: int = 0, clear: int = 0, propagation: int = 0, user_namespace: int = 0, recursive: bool = False
) -> None:
    """Change the MOUNT_ATTR_* of the mount behind `fd` by mount_setattr(2). Raises MountFailed."""
    attr = _MountAttr(add, clear, propagation, user_namespace)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    size = ctypes.c_size_t(ctypes.sizeof(attr))
    if _syscall(_SYS_MOUNT_SETATTR, fd, ctypes.c_char_p(b""), flags, ctypes.byref(attr), size) != 0:
        raise MountFailed(ctypes.get_errno(), "attributes", f"descriptor {fd}")


class MountInfo(NamedTuple):
    """One line of /proc/<pid>/mountinfo. proc_pid_mountinfo(5)."""

    mount_id: int
    parent_id: int
    device: str  # major:minor
    root: str  # the directory of the file system that is mounted; "/" mostly
    target: str
    options: str  # of the mount: "rw,nosuid"
    fs_type: str
    source: str
    super_options: str  # of the file system: "rw,lowerdir=..."
    fields: tuple[str, ...] = ()  # optional ones, of propagation: "shared:5", "master:3"


def parse_mountinfo(text: bytes) -> Iterator[MountInfo]:
    """Yield the mounts of a mountinfo file in its order: later ones lie on top of earlier ones with the same target."""
    for line in text.split(b"\n"):
        if not line:
            continue
        head, _, tail = line.partition(b" - ")
        mount_id, parent_id, device, root, target, options, *fields = head.split(b" ")
        fs_type, source, super_options = [*tail.split(b" ", 2), b"", b""][:3]
        yield MountInfo(
            int(mount_id),
            int(parent_id),
            device.decode(),
            _unescape(root),
            _unescape(target),
            os.fsdecode(options),
            os.fsdecode(fs_type),
            _unescape(source),
            os.fsdecode(super_options),
            tuple(os.fsdecode(field) for field in fields),
        )


def mounts(beneath: StrPath | None = None) -> list[MountInfo]:
    """Return what is mounted in this mount namespace, in the kernel's order; with `beneath`, at or below that path."""
    with open("/proc/self/mountinfo", "rb") as file:
        text = file.read()
    if beneath is None:
        return list(parse_mountinfo(text))
    top = os.path.realpath(beneath).rstrip("/")
    return [entry for entry in parse_mountinfo(text) if entry.target == top or entry.target.startswith(top + "/")]


def mount_of(path: StrPath) -> MountInfo:
    """Return the mount that `path` lies in. Raises OSError for a path that isn't there."""
    place = os.path.realpath(path, strict=True)
    above = [entry for entry in mounts() if place == entry.target or place.startswith(entry.target.rstrip("/") + "/")]
    return max(reversed(above), key=lambda entry: len(entry.target))


def is_mount_point(path: StrPath) -> bool:
    """Return whether something is mounted exactly at `path`; binds count too. False if there is no such path."""
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    if _statx(_AT_FDCWD, os.fsencode(path), _AT_SYMLINK_NOFOLLOW, 0, buffer) != 0:
        return False
    attributes = int.from_bytes(buffer.raw[_STATX_ATTRIBUTES_AT : _STATX_ATTRIBUTES_AT + 8], "little")
    return bool(attributes & _STATX_ATTR_MOUNT_ROOT)


def supported(fs_type: str) -> bool:
    """Return whether the kernel can mount `fs_type`, loading its module if it must."""
    try:
        FsContext(fs_type).close()
    except MountFailed:
        return False
    return True


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(directory: int, path: StrPath, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open `path` as openat2(2) resolves it; the descriptor is close-on-exec and the caller's. Raises OSError."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    name = ctypes.c_char_p(os.fsencode(path))
    size = ctypes.c_size_t(ctypes.sizeof(how))
    while True:
        fd: int = _syscall(_SYS_OPENAT2, directory, name, ctypes.byref(how), size)
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        # EAGAIN: something was renamed while the kernel looked for an escape; it asks to try again.
        if number not in (errnos.EINTR, errnos.EAGAIN):
            raise OSError(number, os.strerror(number), os.fspath(path))


def open_in_root(root: StrPath, path: StrPath, flags: int = os.O_RDONLY, mode: int = 0) -> int:
    """Open `path` as a process chrooted to `root` would: symlinks and ".." never leave it. Raises OSError."""
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return openat2(directory, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    finally:
        os.close(directory)


def _unescape(field: bytes) -> str:
    if b"\\" not in field:
        return os.fsdecode(field)
    head, *rest = field.split(b"\\")
    # Space, tab, newline and backslash are written as three octal digits.
    return os.fsdecode(head + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest))
