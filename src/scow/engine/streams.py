"""What the engine needs of a client's stream, and how it hands out lines of progress."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol, Self

from scow.errors import ScowError
from scow.wire.progress import ErrorDetail, ProgressMessage

STDIN, STDOUT, STDERR, SYSTEM_ERROR = 0, 1, 2, 3
BACKLOG: Final = 1 << 20  # characters that may wait for a client before a build's commands wait for it


class Duplex(Protocol):
    """A client's end of an attached stream; how chunks of several streams are framed is its own matter."""

    async def receive(self) -> bytes:
        """Wait for input; `b""` once the client has closed its side."""
        ...

    async def send(self, chunks: list[tuple[int, bytes]]) -> None:
        """Write chunks of (stream number, data), and wait while the client is slower than we are."""
        ...

    async def wait_closed(self) -> None:
        """Wait until the connection is gone altogether."""
        ...


def _weight(message: ProgressMessage) -> int:
    """About how many characters a message has."""
    logs = message.aux.get("logs", ()) if isinstance(message.aux, dict) else ()
    return 100 + len(message.stream) + sum(len(log["data"]) for log in logs)


class ProgressStream:
    """Lines of progress from a task that runs while somebody listens.

    Iterate over it to get the messages; an error of the task is raised from the iteration after the last message.
    `aclose()` cancels the task and waits for its clean-up. A task that may tell a lot awaits `room()` now and then.
    """

    def __init__(self, work: Callable[[Callable[[ProgressMessage], None]], Awaitable[object]]) -> None:
        self._queue: asyncio.Queue[ProgressMessage | None] = asyncio.Queue()
        self._head: ProgressMessage | None = None
        self._waiting = 0  # characters in the queue
        self._taken = asyncio.Event()
        self._begun = False
        self._task = asyncio.create_task(self._run(work))

    async def _run(self, work: Callable[[Callable[[ProgressMessage], None]], Awaitable[object]]) -> None:
        self._begun = True
        try:
            await work(self._put)
        finally:
            self._queue.put_nowait(None)

    def _put(self, message: ProgressMessage) -> None:
        self._waiting += _weight(message)
        self._queue.put_nowait(message)

    async def _get(self) -> ProgressMessage | None:
        message = await self._queue.get()
        if message is not None:
            self._waiting -= _weight(message)
            self._taken.set()
        return message

    async def room(self) -> None:
        """Wait while too much waits for its listener."""
        while self._waiting > BACKLOG:
            self._taken.clear()
            await self._taken.wait()

    async def ready(self) -> Self:
        """Wait for the first message; an error that comes before any message is raised here."""
        try:
            self._head = await self._get()
        except BaseException:
            await self.aclose()
            raise
        if self._head is None:
            self._queue.put_nowait(None)
            await self._task
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ProgressMessage:
        message, self._head = self._head, None
        if message is None:
            message = await self._get()
        if message is None:
            self._queue.put_nowait(None)
            await self._task
            raise StopAsyncIteration
        return message

    async def aclose(self) -> None:
        """Cancel the task if it still runs, and wait for it."""
        if not self._begun:
            # A task that is cancelled before its first step never takes it, nor cleans up after what it was given.
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        self._task.cancel()
        with suppress(asyncio.CancelledError, ScowError, OSError):
            await self._task


def failure(error: Exception, code: int = 0) -> ProgressMessage:
    """The last line of a stream that failed after it had begun."""
    return ProgressMessage(error=str(error), error_detail=ErrorDetail(code=code, message=str(error)))
