"""Attached to a running container: what it writes and reads, over the socket that conmon serves.

The socket is a SOCK_SEQPACKET: each of conmon's messages begins with one byte that names the stream (2 standard
output, 3 standard error; with a terminal all is 2), what is sent goes to standard input as it is. Shutting down the
sending half ends the input, unless conmon was told to leave it open. Attachments are connected between the runtime's
create and start, and the start waits until conmon has accepted them, so nothing of the output is lost.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2

_STREAMS: Final = {2: STDOUT, 3: STDERR}  # conmon's numbers to ours
_MESSAGE: Final = 64 << 10  # conmon's are of 8 KiB and a byte (2.1.6), newer ones of 32 KiB
_BATCH: Final = 256 << 10
_BUFFER: Final = bytearray(_BATCH + _MESSAGE)  # of whoever receives just now, between two awaits
_VIEW: Final = memoryview(_BUFFER)
_INPUT: Final = 32 << 10  # conmon reads this much of a message at most; the rest would be lost


class AttachStream:
    """One attachment. Read to the end or `aclose`: conmon waits for every attached reader, and the container for it."""

    def __init__(self, connection: socket.socket, on_close: Callable[[socket.socket], None]) -> None:
        self._socket = connection
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._ended = False
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None

    async def read(self) -> list[tuple[int, bytes]]:
        """Return all that is there, at least one (stream, data); [] at the end of all output. One reader at a time."""
        while not self._closed and not self._ended:
            chunks = self._receive()
            if chunks:
                return chunks
            if self._ended:
                break
            self._readable = self._loop.create_future()
            self._loop.add_reader(self._socket.fileno(), _wake, self._readable)
            try:
                await self._readable
            finally:
                if not self._closed:
                    self._loop.remove_reader(self._socket.fileno())
                self._readable = None
        return []

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send input; returns when conmon has it. Raises BrokenPipeError when the container reads no more."""
        view = memoryview(data)
        while len(view):
            piece = view[:_INPUT]
            try:
                self._send(piece)
            except BlockingIOError:
                await self._wait_writable()
                continue
            view = view[len(piece) :]

    async def close_stdin(self) -> None:
        """End the input; output goes on."""
        if not self._closed:
            with contextlib.suppress(OSError):  # the container is gone: nothing is left to be ended
                self._socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Let go: the container runs on. Idempotent; a `read` under way ends."""
        if self._closed:
            return
        self._closed = True
        for future, remove in (
            (self._readable, self._loop.remove_reader),
            (self._writable, self._loop.remove_writer),
        ):
            if future is not None:
                remove(self._socket.fileno())
                _wake(future)
        self._on_close(self._socket)

    def _receive(self) -> list[tuple[int, bytes]]:
        # Messages are received one behind the other, so that what belongs together is copied once: the byte that names
        # a message's stream comes to lie on the last one of the message before, which is put back.
        chunks: list[tuple[int, bytes]] = []
        buffer, view, receive = _BUFFER, _VIEW, self._socket.recv_into
        begin = end = 1
        current = 0
        try:
            while end < _BATCH:
                covered = buffer[end - 1]
                try:
                    size = receive(view[end - 1 : end - 1 + _MESSAGE])
                except ConnectionResetError:
                    # conmon closed its end with input in it that nobody read. The kernel says so once, and before it
                    # hands out the output that is still here.
                    continue
                if not size:
                    self._ended = True
                    break
                stream, buffer[end - 1] = buffer[end - 1], covered
                if stream != current:
                    if end > begin:
                        chunks.append((_STREAMS.get(current, STDOUT), bytes(view[begin:end])))
                    begin, current = end, stream
                end += size - 1
        except BlockingIOError:
            pass
        if end > begin:
            chunks.append((_STREAMS.get(current, STDOUT), bytes(view[begin:end])))
        return chunks

    def _send(self, piece: memoryview) -> None:
        if self._closed:
            raise BrokenPipeError("detached")
        try:
            self._socket.send(piece)
        except ConnectionError as error:
            raise BrokenPipeError(*error.args) from error

    async def _wait_writable(self) -> None:
        self._writable = self._loop.create_future()
        self._loop.add_writer(self._socket.fileno(), _wake, self._writable)
        try:
            await self._writable
        finally:
            if not self._closed:
                self._loop.remove_writer(self._socket.fileno())
            self._writable = None


def connect(folder: Path) -> socket.socket:
    """Connect to the attach socket in a bundle, however long its path is. Raises OSError if no monitor is there."""
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.setblocking(False)
            connection.connect(f"/proc/self/fd/{directory}/attach")
        except BaseException:
            connection.close()
            raise
    finally:
        os.close(directory)
    return connection


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
