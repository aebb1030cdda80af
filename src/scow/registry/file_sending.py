"""Parts of files into connections by sendfile(2), as fast as the kernel can take them.

asyncio's own sendfile takes the descriptor out of its selector and puts it in again for each piece. Here it stays in
until a part is sent.

And the kernel gathers MiB for which the client has no room yet: whenever it makes some they are sent as it acknowledges
what it has. Over a network that is as it should be. Between two processes of one machine it is work on the client's
CPU, while ours sleeps: with little unsent (`UNSENT_SIZE`) both work at the same time. Clients elsewhere get nothing
sooner by that (tried over 50 ms of delay, and over 2), and we wake a dozen times a MiB.

Nor does loopback need a pace. BBR, where it is the system's choice, gives it one by a timer, and so few packets at a
time that the client sleeps and is woken for each few: that takes us three times the CPU, and both twice the time.
"""

import asyncio
import os
import socket
from contextlib import suppress
from typing import IO, Final

UNSENT_SIZE: Final = 32 << 10
"""Bytes that wait in the kernel for a client of this machine to make room, until half of them have gone."""
CONGESTION_CONTROL: Final = b"reno"
"""For clients of this machine: without a pace, and part of every kernel."""
PIECE_SIZE: Final = 2 << 20
"""Most bytes that are sent in one turn of the loop, which others wait for."""


async def send_part(transport: asyncio.Transport, file: IO[bytes], offset: int, count: int) -> None:
    """Send `count` bytes of a file behind what was written. Not over TLS. Raises ConnectionError.

    The file's position is not used, so that readers can share it. Nothing is read from the connection meanwhile.
    """
    if transport.is_closing():
        raise ConnectionResetError("the client has gone")
    if transport.get_write_buffer_size():  # asyncio knows when it is empty, and tells nobody else
        loop = asyncio.get_running_loop()
        if await loop.sendfile(transport, file, offset, count, fallback=False) != count:
            raise _cut()
        return
    connection: socket.socket = transport.get_extra_info("socket")
    if _is_local(transport):
        with suppress(OSError):  # not a TCP connection, or another kernel: it is only slower then
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_SIZE)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONGESTION_CONTROL)
    is_reading = transport.is_reading()
    transport.pause_reading()
    try:
        await _Part(connection.fileno(), file.fileno(), offset, count).send()
    finally:
        if is_reading:
            transport.resume_reading()


def _is_local(transport: asyncio.Transport) -> bool:
    """Whether both ends are this machine: it has one address for both then, be it that of loopback or another."""
    own, other = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
    return isinstance(own, tuple) and isinstance(other, tuple) and own[0] == other[0]


class _Part:
    """Bytes that are on their way from one descriptor into another one, which doesn't block."""

    def __init__(self, out: int, source: int, offset: int, count: int) -> None:
        self._out = out
        self._source = source
        self._offset = offset
        self._left = count

    async def send(self) -> None:
        if self._advance():
            return
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        # One of our own: asyncio watches a transport's descriptor for nobody else.
        self._out = os.dup(self._out)
        try:
            loop.add_writer(self._out, self._go_on, done)
            try:
                await done
            finally:
                loop.remove_writer(self._out)
        finally:
            os.close(self._out)

    def _go_on(self, done: "asyncio.Future[None]") -> None:
        if done.done():  # cancelled in this turn of the loop
            return
        try:
            if self._advance():
                done.set_result(None)
        except OSError as error:
            done.set_exception(error)

    def _advance(self) -> bool:
        """Send what there is room for; whether that was the rest. Raises OSError."""
        try:
            sent = os.sendfile(self._out, self._source, self._offset, min(self._left, PIECE_SIZE))
        except (BlockingIOError, InterruptedError):
            return False
        if not sent:
            raise _cut()
        self._offset += sent
        self._left -= sent
        return not self._left


def _cut() -> ConnectionResetError:
    return ConnectionResetError("the object is shorter than it was")
