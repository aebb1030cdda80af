"""Attached streams: a connection that leaves HTTP and carries bytes both ways.

The life of one: a handler asks the engine for an attachment; `Hijacked.take_over` moves the transport from the HTTP
server's protocol to ours, with whatever the client sent behind its request; the head is written by hand; the engine
pumps; `finish` sends our end and waits a moment for the client's. A client without input closes its side at once and
still wants all the output, which is why the HTTP server's protocol (it closes then) can't keep the connection.
"""

import asyncio
import fcntl
import logging
import os
import select
import socket
import termios
from array import array
from collections import deque
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from scow.api.connection import Connection
from scow.api.mux import frame, raw

_log = logging.getLogger(__name__)

RAW_STREAM: Final = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM: Final = "application/vnd.docker.multiplexed-stream"

_OUTPUT_HIGH: Final = 1 << 20  # bytes waiting for the client before a pump has to wait too
_INPUT_HIGH: Final = 1 << 20  # bytes waiting for the container before the client has to wait
_SEND_BUFFER: Final = 1 << 20
_HEAD_DELAYS_S: Final = (0.0, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.004, *[0.01] * 200)
"""How long a client gets to read the head; on a busy machine it may need much of it."""

_LINGER_S: Final = 1.0  # how long a finished stream waits for the client to close


class Hijacked(asyncio.Protocol):
    """A connection taken over from HTTP; the client's end of an attachment."""

    def __init__(self, transport: asyncio.Transport, server_protocol: asyncio.BaseProtocol, early: bytes) -> None:
        self._transport = transport
        self._server_protocol = server_protocol
        self._input: deque[bytes] = deque([early] if early else [])
        self._input_size = len(early)
        self._input_ready = asyncio.Event()
        if early:
            self._input_ready.set()
        self._input_ended = False
        self._reading_paused = False
        self._discarding = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = asyncio.Event()
        self._hangup: _HangupWatch | None = None
        self._tty = False
        self._head_unread = False

    @classmethod
    def take_over(cls, request: web.Request) -> "Hijacked":
        """Move a request's connection out of HTTP. The handler has to return `Taken` in the end."""
        protocol = request.protocol
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("client is gone")
        early, half_closed = b"", False
        if isinstance(protocol, Connection):
            early, half_closed = protocol.take_early(), protocol.half_closed
        stream = cls(transport, protocol, early)
        transport.set_protocol(stream)
        if half_closed:
            stream.eof_received()
        transport.set_write_buffer_limits(high=_OUTPUT_HIGH)
        transport.resume_reading()
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        return stream

    # --- what the engine uses ---------------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """Give what the client sent next, b"" once it has closed its side."""
        while not self._input:
            if self._input_ended:
                return b""
            self._input_ready.clear()
            await self._input_ready.wait()
        data = self._input[0] if len(self._input) == 1 else b"".join(self._input)
        self._input.clear()
        self._input_size = 0
        if self._reading_paused and not self._closed.is_set():
            self._reading_paused = False
            self._transport.resume_reading()
        return data

    async def send(self, chunks: list[tuple[int, bytes]]) -> None:
        """Send output, framed unless there is a terminal. Raises ConnectionResetError when the client is gone."""
        await self._write(raw(chunks) if self._tty else frame(chunks))

    async def wait_closed(self) -> None:
        """Return when the client is gone altogether."""
        await self._closed.wait()

    # --- what the handlers use --------------------------------------------------------------------------------------

    def start(self, *, tty: bool, upgrade: bool, multiplexed: bool) -> None:
        """Write the head that begins the stream."""
        self._tty = tty
        if upgrade:
            kind = MULTIPLEXED_STREAM if multiplexed and not tty else RAW_STREAM
            head = f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {kind}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        else:
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {RAW_STREAM}\r\n"
        self._transport.write(head.encode() + b"\r\n")
        self._head_unread = True

    async def _head_read(self) -> None:
        """Let the client read the head before there is anything behind it.

        docker-py reads the head through a buffer that it then throws away, with all that came in the same read. On a
        unix socket the kernel tells when the head has been read; on TCP the head is at least a packet of its own.
        """
        self._head_unread = False
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.family != socket.AF_UNIX:
            return
        for delay_s in _HEAD_DELAYS_S:
            if self._closed.is_set() or not _unread(sock.fileno()):
                return
            await asyncio.sleep(delay_s)  # the kernel has no event for this

    async def _write(self, data: bytes) -> None:
        if self._head_unread:
            await self._head_read()
        if self._closed.is_set() or self._transport.is_closing():
            raise ConnectionResetError("client is gone")
        self._transport.write(data)
        if not self._writable.is_set():
            await self._writable.wait()

    async def finish(self) -> None:
        """Send the end of the output, wait a moment for the client to close its side, then close.

        Closing with unread input would reset the connection, and a reset can overtake the last output.
        """
        self._discarding = True
        self._input.clear()
        if not self._closed.is_set() and not self._transport.is_closing():
            if self._reading_paused:
                self._reading_paused = False
                self._transport.resume_reading()
            try:
                self._transport.write_eof()
                async with asyncio.timeout(_LINGER_S):
                    while not (self._input_ended or self._closed.is_set()):
                        self._input_ready.clear()
                        await self._input_ready.wait()
            except (TimeoutError, OSError):
                pass
        self._transport.close()

    def abort(self) -> None:
        """Drop the connection with what it still holds."""
        self._transport.abort()

    # --- asyncio.Protocol -------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        self._input.append(data)
        self._input_size += len(data)
        self._input_ready.set()
        if self._input_size >= _INPUT_HIGH and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._input_ended = True
        self._input_ready.set()
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family == socket.AF_UNIX and not self._closed.is_set():
            self._hangup = _HangupWatch(sock.fileno(), self._transport.abort)
        return True

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._hangup is not None:
            self._hangup.close()
            self._hangup = None
        self._closed.set()
        self._input_ended = True
        self._input_ready.set()
        self._writable.set()
        # The HTTP server has its own books to close, and cancels the handler that still pumps.
        self._server_protocol.connection_lost(exc)


class Gone:
    """The end of a client that hung up before its connection was taken over."""

    async def receive(self) -> bytes:
        return b""

    async def send(self, chunks: list[tuple[int, bytes]]) -> None:
        raise ConnectionResetError("client is gone")

    async def wait_closed(self) -> None:
        return None


class Taken(web.StreamResponse):
    """What a handler returns when its connection has left HTTP: there is nothing more to send."""

    def __init__(self) -> None:
        super().__init__(status=HTTPStatus.SWITCHING_PROTOCOLS)
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


def _unread(fd: int) -> int:
    """Tell how much of what was sent the peer of a unix socket has yet to read. unix(7), SIOCOUTQ."""
    buffer = array("i", [0])
    fcntl.ioctl(fd, termios.TIOCOUTQ, buffer)
    return buffer[0]


class _HangupWatch:
    """Notices that a client which had closed its sending side is now gone altogether.

    After the first half of a close the transport no longer reads, so it would see the second half only when it
    writes: a silent container's attachment would stay for ever. An epoll with no events in its mask reports just
    hang-ups, and can itself be watched by the event loop. (On TCP the second half is not visible at all.)
    """

    def __init__(self, fd: int, hung_up: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll(1)
        self._fd = os.dup(fd)
        self._epoll.register(self._fd, 0)
        self._loop.add_reader(self._epoll.fileno(), self._notice)
        self._hung_up = hung_up

    def _notice(self) -> None:
        self.close()
        self._hung_up()

    def close(self) -> None:
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            os.close(self._fd)
