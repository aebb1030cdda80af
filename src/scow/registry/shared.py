"""A small table in memory that all workers of a server share: what they know together about clients.

It holds two numbers for each key, the first of which says until when they mean anything. Keys are hashed with a
secret: nobody can choose keys that share a place, and the table is worth nothing to whoever reads it.
"""

import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Callable
from typing import Final

_ENTRY: Final = struct.Struct("=Qdd")  # a key's hash and its numbers
_WAYS: Final = 4
_SETS: Final = 1 << 14
"""With `_WAYS` entries each: 65,536 keys, 1.5 MiB where it is in use."""
_SET_SIZE: Final = _WAYS * _ENTRY.size


class SharedTable:
    """Numbers by key, shared with processes that are forked after this was made. Not for threads."""

    def __init__(self) -> None:
        self._file = os.memfd_create("scow-registry", os.MFD_CLOEXEC)
        os.ftruncate(self._file, _SETS * _SET_SIZE)
        self._memory = mmap.mmap(self._file, _SETS * _SET_SIZE)
        self._secret = os.urandom(16)

    def __del__(self) -> None:
        os.close(self._file)

    def update(self, key: bytes, change: Callable[[float, float], tuple[float, float]]) -> None:
        """Replace a key's numbers by what `change` makes of them; a stranger's are 0.

        The first of the result is the time (monotonic) until which they mean anything. A stranger takes the place of
        whatever will be forgotten first.
        """
        number, start = self._place(key)
        # A lock of the kernel's: it ends with a worker that is killed. Nothing waits while it is held.
        fcntl.lockf(self._file, fcntl.LOCK_EX, _SET_SIZE, start)
        try:
            entries = self._entries(start)
            way = next((way for way, entry in enumerate(entries) if entry[0] == number), None)
            before = entries[way][1:] if way is not None else (0.0, 0.0)
            if way is None:
                way = min(range(_WAYS), key=lambda way: entries[way][1])
            _ENTRY.pack_into(self._memory, start + way * _ENTRY.size, number, *change(*before))
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, _SET_SIZE, start)

    def look(self, key: bytes) -> tuple[float, float]:
        """A key's numbers, 0 for a stranger."""
        number, start = self._place(key)
        fcntl.lockf(self._file, fcntl.LOCK_EX, _SET_SIZE, start)
        try:
            entries = self._entries(start)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, _SET_SIZE, start)
        return next((entry[1:] for entry in entries if entry[0] == number), (0.0, 0.0))

    def _place(self, key: bytes) -> tuple[int, int]:
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8, key=self._secret).digest(), "little")
        return number, number % _SETS * _SET_SIZE

    def _entries(self, start: int) -> list[tuple[int, float, float]]:
        return list(_ENTRY.iter_unpack(self._memory[start : start + _SET_SIZE]))
