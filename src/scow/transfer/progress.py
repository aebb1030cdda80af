"""Progress of one layer, in docker's words and no more often than a terminal can show."""

import time
from collections.abc import Callable
from typing import Final

from scow.wire.progress import ProgressDetail, ProgressMessage, progress_step

Emit = Callable[[ProgressMessage], None]
"""Takes a line of a progress stream; must not block."""

INTERVAL_S: Final = 0.1
STEP: Final = 512 << 10


def message(status: str, id: str = "") -> ProgressMessage:
    """A line that isn't about the progress of a step."""
    return ProgressMessage(status=status, id=id)


def aux(value: object) -> ProgressMessage:
    """A line for programs, not people."""
    return ProgressMessage(progress_detail=ProgressDetail(), aux=value)


class Meter:
    """Tells how far a transfer is: at most ten times a second, at most once per percent or 512 KiB."""

    def __init__(self, emit: Emit, id: str, status: str, total: int) -> None:
        self._emit = emit
        self._id = id
        self._status = status
        self._total = total
        self._step = min(STEP, max(1, total // 100))
        self._shown = 0
        self._next_at = 0.0

    def show(self, current: int) -> None:
        """Take note that `current` bytes of the total are done."""
        is_end = current >= self._total > 0
        if current - self._shown < self._step and not is_end:
            return
        now = time.monotonic()
        if now < self._next_at and not is_end:
            return
        self._shown, self._next_at = current, now + INTERVAL_S
        self._emit(progress_step(self._id, self._status, current, self._total))
