"""The recent past of events on disk, so that `since` reaches behind a restart of the engine.

One file of JSON lines, appended to in a thread, a batch at a time, and begun anew with the last ones when it has
twice as many as are kept. Nothing is synced: after a crash of the machine some of the last events may be missing.
"""

import asyncio
import contextlib
import os
from collections import deque
from pathlib import Path

import msgspec

from scow.errors import ScowError
from scow.wire.event import Event


class EventLog:
    """Reads and writes the file. All but `load` belong to the event loop."""

    def __init__(self, path: Path, kept: int) -> None:
        self._path = path
        self._kept = kept
        self._lines = 0
        self._waiting: list[Event] = []
        self._writer: asyncio.Task[None] | None = None

    def load(self) -> list[Event]:
        """Read what is kept, oldest first; a line that a crash has cut short is left out. Blocks."""
        found: deque[Event] = deque(maxlen=self._kept)
        with contextlib.suppress(OSError):
            for line in self._path.read_bytes().splitlines():
                self._lines += 1
                with contextlib.suppress(msgspec.DecodeError, ScowError):
                    found.append(msgspec.json.decode(line, type=Event))
        return list(found)

    def add(self, event: Event) -> None:
        """Have an event written soon."""
        self._waiting.append(event)
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write(), name="event log")

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                with contextlib.suppress(OSError):  # a full disk costs the past of events, nothing else
                    await asyncio.to_thread(self._append, batch)
        finally:
            self._writer = None

    def _append(self, batch: list[Event]) -> None:
        self._lines += len(batch)
        if self._lines > 2 * self._kept:
            recent = [*self.load(), *batch][-self._kept :]
            new = self._path.with_suffix(".new")
            new.write_bytes(_lines(recent))
            os.replace(new, self._path)
            self._lines = len(recent)
            return
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            cut_short = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            os.write(fd, (b"\n" if cut_short else b"") + _lines(batch))
        finally:
            os.close(fd)

    async def aclose(self) -> None:
        """Write what is waiting."""
        while self._writer is not None:
            await asyncio.shield(self._writer)


def _lines(events: list[Event]) -> bytes:
    return b"".join([msgspec.json.encode(event) + b"\n" for event in events])
