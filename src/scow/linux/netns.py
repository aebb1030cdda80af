"""Network namespaces: made, pinned as files, entered; without a subprocess.

A namespace lives as long as a process is in it, a descriptor is open on it, or a bind mount pins it to a file
(namespaces(7)). A thread that has entered another namespace never returns to a pool: it ends with its function.
"""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from scow.linux.own_thread import in_own_thread

T = TypeVar("T")

_CLONE_NEWNET: Final = 0x40000000
_MS_BIND: Final = 0x1000
_MNT_DETACH: Final = 2
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def make(job: Callable[[int], T]) -> T:
    """Make a namespace and run `job(fd)` inside it; the fd is the caller's to close, and all that keeps it alive."""

    def body() -> T:
        _check(_libc.unshare(_CLONE_NEWNET), "unshare(CLONE_NEWNET)")
        fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return job(fd)
        except BaseException:
            os.close(fd)
            raise

    return in_own_thread(body)


def inside(fd: int, job: Callable[[], T]) -> T:
    """Run `job` in the namespace that `fd` is open on."""

    def body() -> T:
        _check(_libc.setns(fd, _CLONE_NEWNET), "setns")
        return job()

    return in_own_thread(body)


def pin(fd: int, path: Path) -> None:
    """Bind the namespace to a file at `path`, which is created; it lives on until `unpin`."""
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    _check(
        _libc.mount(f"/proc/self/fd/{fd}".encode(), os.fsencode(path), None, ctypes.c_ulong(_MS_BIND), None),
        f"bind namespace to {path}",
    )


def unpin(path: Path) -> None:
    """Undo `pin`; a path that isn't pinned, or isn't there, is fine."""
    while _libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:
        pass
    path.unlink(missing_ok=True)


def is_pinned(path: Path) -> bool:
    """Tell whether a namespace is bound to `path`: the file then lies on nsfs, on another device than its folder."""
    try:
        return path.stat().st_dev != path.parent.stat().st_dev
    except OSError:
        return False


def open_pinned(path: Path) -> int:
    """Open a descriptor on the namespace behind `path` (a pin, or /proc/PID/ns/net); the caller closes it."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
