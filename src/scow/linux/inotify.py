"""File changes as they happen: inotify(7) on the event loop."""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

IN_MODIFY: Final = 0x2
IN_CLOSE_WRITE: Final = 0x8
IN_MOVED_FROM: Final = 0x40
IN_MOVED_TO: Final = 0x80
IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
IN_DELETE_SELF: Final = 0x400
IN_MOVE_SELF: Final = 0x800
IN_Q_OVERFLOW: Final = 0x4000
IN_IGNORED: Final = 0x8000
IN_ONLYDIR: Final = 0x1000000

_NONBLOCK: Final = os.O_NONBLOCK
_CLOEXEC: Final = os.O_CLOEXEC
_HEADER: Final = struct.Struct("iIII")
_BUFFER: Final = 64 << 10

_libc = ctypes.CDLL(None, use_errno=True)


class Change(NamedTuple):
    """One event. `watch` is -1 and `mask` IN_Q_OVERFLOW when the kernel dropped some: look for yourself then."""

    watch: int
    mask: int
    name: str  # of the entry in a watched folder, else ""


class Inotify:
    """A set of watches whose changes are handed to `on_changes` on the event loop. `close` it."""

    def __init__(self, on_changes: Callable[[list[Change]], None]) -> None:
        self._fd: int = _libc.inotify_init1(_NONBLOCK | _CLOEXEC)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"inotify: {os.strerror(number)}")
        self._on_changes = on_changes
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._readable)

    def add(self, path: Path, mask: int) -> int:
        """Watch a file or folder; the watch's number comes with its changes. Raises OSError."""
        watch: int = _libc.inotify_add_watch(self._fd, os.fsencode(path), ctypes.c_uint32(mask))
        if watch < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), os.fspath(path))
        return watch

    def remove(self, watch: int) -> None:
        """Watch no longer; nothing happens if the watched thing is gone."""
        _libc.inotify_rm_watch(self._fd, watch)

    def close(self) -> None:
        """End all watches; idempotent. The kernel needs 10 to 20 ms for it, in which a thread waits."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            if self._loop.is_running():
                self._loop.run_in_executor(None, os.close, self._fd)
            else:
                os.close(self._fd)
            self._fd = -1

    def _readable(self) -> None:
        changes = self.read()
        if changes:
            self._on_changes(changes)

    def read(self) -> list[Change]:
        """What has changed by now, without waiting."""
        try:
            data = os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return []
        changes = []
        at = 0
        while at < len(data):
            watch, mask, _, length = _HEADER.unpack_from(data, at)
            at += _HEADER.size
            name = data[at : at + length].rstrip(b"\0")
            at += length
            changes.append(Change(watch, mask, os.fsdecode(name)))
        return changes
