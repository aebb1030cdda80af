"""A container's DNS server: sockets in its sandbox, at 127.0.0.11, by UDP and TCP.

They listen on a port of their own, to which a rule in the sandbox leads what is sent to port 53: so port 53 stays free
for whatever runs in the container. The port is kept with the sandbox: a program that keeps its socket for ever (nginx)
is known to the kernel's connection tracking, which goes on leading it there after the engine was restarted.
"""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Coroutine
from typing import Any, Final, cast

from scow.network.dns import message
from scow.network.dns.answering import Answering
from scow.network.dns.forwarding import SocketMaker

ADDRESS: Final = ipaddress.IPv4Address("127.0.0.11")
"""Where containers ask, as in docker."""

_TCP_PATIENCE_S: Final = 10.0
_MAX_CONNECTIONS: Final = 64
_MAX_TASKS: Final = 256
_ATTEMPTS: Final = 16


class Server:
    """One container's: its sockets, and what is being answered. Owned by the event loop."""

    def __init__(self, container_id: str, answering: Answering, new_socket: SocketMaker) -> None:
        """`new_socket` makes sockets for questions to servers that the container asks."""
        self._container_id = container_id
        self._answering = answering
        self._new_socket = new_socket
        self._transports: list[asyncio.DatagramTransport] = []
        self._listeners: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0

    async def listen(self, datagrams: socket.socket, stream: socket.socket) -> None:
        """Serve these sockets, which are the server's own from now on."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=datagrams)
        self._transports.append(transport)
        self._listeners.append(await asyncio.start_server(self._serve_stream, sock=stream, limit=65536))

    def datagram(self, transport: asyncio.DatagramTransport, data: bytes, peer: tuple[Any, ...]) -> None:
        try:
            query = message.parse_query(data)
        except message.Malformed as failure:
            if failure.reply:
                transport.sendto(failure.reply, peer)
            return
        reply = self._answering.at_once(self._container_id, query)
        if reply is None:
            self._start(self._forward_datagram(transport, query, data, peer))
        else:
            transport.sendto(_fitting(query, reply), peer)

    async def _forward_datagram(
        self,
        transport: asyncio.DatagramTransport,
        query: message.Query,
        data: bytes,
        peer: tuple[Any, ...],
    ) -> None:
        reply = await self._answering.forward(self._container_id, query, data, self._new_socket, tcp=False)
        if not transport.is_closing():
            transport.sendto(_fitting(query, reply), peer)

    async def _serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._connections += 1
        try:
            if self._connections <= _MAX_CONNECTIONS:
                await self._answer_stream(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client left, or said nothing for long
        except asyncio.CancelledError:
            pass  # the network goes; asyncio's streams would report this as an error
        finally:
            self._connections -= 1
            writer.close()

    async def _answer_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(_TCP_PATIENCE_S):
                length = int.from_bytes(await reader.readexactly(2), "big")
                data = await reader.readexactly(length)
            try:
                query = message.parse_query(data)
            except message.Malformed as failure:
                reply: bytes | None = failure.reply
                if not reply:
                    return
            else:
                reply = self._answering.at_once(self._container_id, query)
                if reply is None:
                    reply = await self._answering.forward(self._container_id, query, data, self._new_socket, tcp=True)
            async with asyncio.timeout(_TCP_PATIENCE_S):
                writer.write(len(reply).to_bytes(2, "big") + reply)
                await writer.drain()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._tasks) >= _MAX_TASKS:
            work.close()  # the client asks again
            return
        task = asyncio.create_task(work, name="dns")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Stop serving, and let go of the sandbox. Idempotent."""
        for transport in self._transports:
            transport.close()
        for listener in self._listeners:
            listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # in the loop's next turn transports close their sockets, which hold the sandbox


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio's own datagram transport derives from another class.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if self._transport is not None:
            self._server.datagram(self._transport, data, addr)


def _fitting(query: message.Query, reply: bytes) -> bytes:
    """The reply, or if the client can't take so much, an empty one that lets it ask by TCP."""
    return reply if len(reply) <= query.size else message.truncated(reply, query)


def bind(port: int, address: str = str(ADDRESS)) -> tuple[socket.socket, socket.socket]:
    """Bind UDP and TCP sockets to one port in the calling thread's namespace, `port` if it is free. Raises OSError."""
    for wanted in (port, *[0] * _ATTEMPTS):
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            datagrams.bind((address, wanted))
            stream.bind((address, datagrams.getsockname()[1]))
            stream.listen(_MAX_CONNECTIONS)
        except OSError as error:
            datagrams.close()
            stream.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return datagrams, stream
    raise OSError(errno.EADDRINUSE, f"no port is free for the DNS server at {address}")
