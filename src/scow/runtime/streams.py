"""Pipes and terminals of a process that runs under this engine, on the event loop."""

import asyncio
import contextlib
import errno
import os
import termios
from typing import Final

_PIECE: Final = 64 << 10
_BATCH: Final = 256 << 10


class ProcessStreams:
    """Both directions of a process's standard streams. Owns the descriptors; `aclose` closes them.

    `outputs` maps a descriptor to the number of its stream; a terminal's one descriptor is input and output.
    """

    def __init__(self, outputs: dict[int, int], input: int | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._outputs = dict(outputs)
        self._input = input
        self._is_terminal = input is not None and input in outputs
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        for fd in {*outputs, *(() if input is None else (input,))}:
            os.set_blocking(fd, False)

    async def read(self) -> list[tuple[int, bytes]]:
        """Return all that is there, at least one (stream, data); [] at the end of all output. One reader at a time."""
        while self._outputs:
            chunks = self._receive()
            if chunks or not self._outputs:
                return chunks
            watched = list(self._outputs)
            self._waiter = self._loop.create_future()
            for fd in watched:
                self._loop.add_reader(fd, _wake, self._waiter)
            try:
                await self._waiter
            finally:
                self._waiter = None
                for fd in watched:
                    if fd in self._outputs:
                        self._loop.remove_reader(fd)
        return []

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send input. Raises BrokenPipeError when the process reads no more."""
        view = memoryview(data)
        while len(view):
            fd = self._input
            if fd is None:
                raise BrokenPipeError("the input was closed")
            try:
                view = view[os.write(fd, view[:_PIECE]) :]
            except BlockingIOError:
                await self._wait_writable(fd)
            except OSError as error:
                if error.errno == errno.EIO:  # a terminal that nobody has open any more
                    raise BrokenPipeError(*error.args) from error
                raise

    async def close_stdin(self) -> None:
        """End the input; a terminal's stays open. Idempotent."""
        if self._input is not None and not self._is_terminal:
            self._forget_writer()
            os.close(self._input)
            self._input = None

    def resize(self, height: int, width: int) -> bool:
        """Set a terminal's size in characters; False if there is none, or it is closed."""
        if not self._is_terminal or self._input is None:
            return False
        termios.tcsetwinsize(self._input, (height, width))
        return True

    def discard(self) -> None:
        """Throw output away as it comes, from now on: nobody will `read`."""
        for fd in self._outputs:
            self._loop.add_reader(fd, self._receive)

    async def aclose(self) -> None:
        """Close everything; idempotent. The process sees a broken pipe if it goes on. A terminal stays till its end.

        Closing a terminal would hang up on a command that its user only detached from.
        """
        if self._is_terminal:
            self.discard()
            return
        self.cut()
        await self.close_stdin()
        self._input = None

    def cut(self) -> None:
        """End the output here, whoever still holds the other side open."""
        for fd in list(self._outputs):
            self._drop(fd)
        if self._waiter is not None:
            _wake(self._waiter)

    def _receive(self) -> list[tuple[int, bytes]]:
        chunks: list[tuple[int, bytes]] = []
        for fd, stream in list(self._outputs.items()):
            parts: list[bytes] = []
            size = 0
            while size < _BATCH:
                try:
                    data = os.read(fd, _PIECE)
                except BlockingIOError:
                    break
                except OSError:  # EIO: the last one has closed the terminal
                    data = b""
                if not data:
                    self._drop(fd)
                    break
                parts.append(data)
                size += len(data)
            if parts:
                chunks.append((stream, b"".join(parts)))
        return chunks

    def _drop(self, fd: int) -> None:
        del self._outputs[fd]
        self._loop.remove_reader(fd)
        if fd == self._input:
            self._forget_writer()
            self._input = None
        os.close(fd)

    async def _wait_writable(self, fd: int) -> None:
        writable = self._writable = self._loop.create_future()
        self._loop.add_writer(fd, _wake, writable)
        try:
            await writable
        finally:
            if self._input == fd:
                self._loop.remove_writer(fd)
            self._writable = None

    def _forget_writer(self) -> None:
        if self._writable is not None and self._input is not None:
            self._loop.remove_writer(self._input)
            _wake(self._writable)


def _wake(future: asyncio.Future[None]) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):
        future.set_result(None)
