"""How many requests one client may send: a bucket of tokens for each address, shared by all workers of a server.

A bucket is one number, the time at which it will be full again (the generic cell rate algorithm), so that the table is
small, needs no tidying and is worth nothing to whoever reads it. Addresses are hashed with a secret: nobody can choose
addresses that share a place.
"""

import fcntl
import hashlib
import ipaddress
import mmap
import os
import struct
import time
from typing import Final

from scow.registry.errors import TooManyRequests
from scow.registry.settings import Limits

_ENTRY: Final = struct.Struct("=Qd")  # an address's hash, and when its bucket is full again (monotonic)
_WAYS: Final = 4
_SETS: Final = 1 << 14
"""With `_WAYS` entries each: 65,536 addresses, 1 MiB where it is in use."""
_SET_SIZE: Final = _WAYS * _ENTRY.size


class Buckets:
    """The buckets of one server, in memory that is shared with processes forked after this was made."""

    def __init__(self) -> None:
        self._file = os.memfd_create("scow-rates", os.MFD_CLOEXEC)
        os.ftruncate(self._file, _SETS * _SET_SIZE)
        self._memory = mmap.mmap(self._file, _SETS * _SET_SIZE)
        self._secret = os.urandom(16)

    def __del__(self) -> None:
        os.close(self._file)

    def take(self, address: str, interval_s: float, burst: float) -> float:
        """Take a token of a bucket that holds `burst` and gets one each `interval_s`.

        How many seconds are missing until there is one: 0 if it was taken.
        """
        hashed = hashlib.blake2b(_client(address), digest_size=8, key=self._secret).digest()
        number = int.from_bytes(hashed, "little")
        start = number % _SETS * _SET_SIZE
        # A lock of the kernel's: it ends with a worker that is killed. Nothing waits while it is held.
        fcntl.lockf(self._file, fcntl.LOCK_EX, _SET_SIZE, start)
        try:
            return self._take(start, number, interval_s, burst)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, _SET_SIZE, start)

    def _take(self, start: int, number: int, interval_s: float, burst: float) -> float:
        now = time.monotonic()
        entries = list(_ENTRY.iter_unpack(self._memory[start : start + _SET_SIZE]))
        # A stranger gets the place of the bucket that is fullest, mostly one that is full and means nothing any more.
        place = next((way for way, entry in enumerate(entries) if entry[0] == number), None)
        if place is None:
            place, full_at = min(range(_WAYS), key=lambda way: entries[way][1]), now
        else:
            full_at = max(entries[place][1], now)
        missing_s = full_at - now - (burst - 1) * interval_s
        if missing_s > 0:
            return missing_s
        _ENTRY.pack_into(self._memory, start + place * _ENTRY.size, number, full_at + interval_s)
        return 0.0


def _client(address: str) -> bytes:
    """Who an address belongs to: one client has a whole /64 of IPv6."""
    if ":" not in address:
        return address.encode()
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address.encode()
    return str(found.ipv4_mapped).encode() if found.ipv4_mapped else found.packed[:8]


class Rates:
    """The limit of requests for each address."""

    def __init__(self, limits: Limits, buckets: Buckets | None = None) -> None:
        """`buckets` are those of all workers; without them these are this process's own."""
        self._interval_s = 1 / limits.requests_per_s if limits.requests_per_s > 0 else 0.0
        self._burst = float(max(limits.burst, 1))
        self._buckets = buckets or (Buckets() if self._interval_s else None)

    def take(self, address: str) -> None:
        """Count a request. Raises TooManyRequests with when to come again."""
        if self._buckets is None or not self._interval_s:
            return
        if missing_s := self._buckets.take(address, self._interval_s, self._burst):
            raise TooManyRequests(missing_s)
