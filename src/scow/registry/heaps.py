"""The C library's heaps: few of them, large blocks outside of them, and what is free in them goes back to the system.

Only glibc has these knobs; elsewhere nothing is done.
"""

import asyncio
import ctypes
from contextlib import suppress
from typing import Final

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
LARGE_SIZE: Final = 2 << 20
"""Bytes of a block of memory that goes back to the system at once: more than the pieces that uploads are taken in."""
TIDY_S: Final = 10.0


def share_heaps() -> None:
    """Let all threads of a process share two heaps, which would keep what each once needed.

    Large blocks stay out of them: the library would raise its bound for these to the largest that was ever freed.
    """
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 2)
        mallopt(_M_MMAP_THRESHOLD, LARGE_SIZE)
        mallopt(_M_TRIM_THRESHOLD, 2 * LARGE_SIZE)


def trim() -> None:
    """Give back what is free in the heaps. By itself the library gives back only what is free at their ends."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Tidying:
    """Trims the heaps some seconds after there was something to do, and not again until there was more."""

    def __init__(self, after_s: float = TIDY_S) -> None:
        self._after_s = after_s
        self._timer: asyncio.TimerHandle | None = None
        self._trimming: asyncio.Future[None] | None = None

    def note(self) -> None:
        """Say that memory was used. Cheap: to be called with each request."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._after_s, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._trimming = asyncio.get_running_loop().run_in_executor(None, trim)

    async def aclose(self) -> None:
        """Wait for what goes on, and begin no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._trimming is not None:
            await self._trimming
