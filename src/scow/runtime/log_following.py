"""Following one container's log from a point that is remembered: what sends logs elsewhere reads by it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from scow.runtime.attach import STDERR, STDOUT
from scow.runtime.logs import LogLine, Position, Reader, Wanted, Watcher

_TRIES: Final = 3


class LogFollower:
    """Reads all of a log's lines, once each, as they come. `position` is where the lines end that `read` gave last."""

    def __init__(self, files: Callable[[], list[Path]], position: Position | None) -> None:
        self._files = files
        self._reader: Reader | None = None
        self._watcher: Watcher | None = None
        self.position = position

    async def read(self, ended: asyncio.Event) -> list[LogLine] | None:
        """Wait for lines and give them; None at the end of the log when `ended` is set."""
        if self._reader is None:
            self._watcher = Watcher(self._files()[-1])
            self._reader = await asyncio.to_thread(self._open)
        assert self._watcher is not None
        while True:
            ending = ended.is_set()  # looked at before the file: what is written later is awaited
            while (lines := await asyncio.to_thread(self._reader.read)) is not None:
                if lines:
                    self.position = self._reader.position() or self.position
                    return lines
            if ending:
                return None
            await self._watcher.wait(ended, None)

    def _open(self) -> Reader:
        wanted = Wanted(frozenset((STDOUT, STDERR)), None, None, joined=False)
        for _ in range(_TRIES):
            # Again if the file isn't there: it may have got another number just now.
            reader = Reader(self._files(), wanted)
            if self.position is None or reader.seek_position(self.position):
                break
        return reader

    def close(self) -> None:
        """Let go of the files."""
        if self._watcher is not None:
            self._watcher.close()
        if self._reader is not None:
            self._reader.close()
