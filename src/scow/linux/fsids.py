"""File system credentials of a thread: as whom it makes files, while it keeps root's capabilities. credentials(7)."""

import ctypes
import os
from collections.abc import Callable
from typing import Final, TypeVar

from scow.linux.own_thread import in_own_thread

T = TypeVar("T")

_PR_SET_SECUREBITS: Final = 28
_SECBIT_NO_SETUID_FIXUP: Final = 1 << 2
_libc = ctypes.CDLL(None, use_errno=True)


def as_owner(uid: int, gid: int, job: Callable[[], T]) -> T:
    """Run `job` in a thread whose new files belong to `uid` and `gid`. Blocks. Raises OSError."""

    def body() -> T:
        # Without it the kernel takes away the capabilities over files together with user 0. setfsuid(2).
        if _libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"securebits: {os.strerror(number)}")
        _libc.setfsgid(gid)
        _libc.setfsuid(uid)
        return job()

    return in_own_thread(body)
