"""A bound on the bytes that are in memory at once for something."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Room:
    """Holds `size` bytes. Who finds too few left waits in line, so that large ones get their turn too."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._left = size
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def left(self) -> int:
        """Bytes that nobody has taken."""
        return self._left

    @asynccontextmanager
    async def take(self, size: int) -> AsyncIterator[None]:
        """Have `size` bytes to oneself, or all there are if that is less."""
        size = min(size, self._size)
        if self._line or size > self._left:
            await self._wait(size)
        else:
            self._left -= size
        try:
            yield
        finally:
            self._give_back(size)

    async def _wait(self, size: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._line.remove((size, turn))
                self._give_back(0)  # somebody smaller may have stood behind
            else:
                self._give_back(size)
            raise

    def _give_back(self, size: int) -> None:
        self._left += size
        while self._line and self._line[0][0] <= self._left:
            size, turn = self._line[0]
            if turn.cancelled():
                return  # whoever leaves calls again
            self._line.popleft()
            self._left -= size
            turn.set_result(None)
