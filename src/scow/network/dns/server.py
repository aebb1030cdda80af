"""The DNS servers themselves: sockets on each network's gateways, by UDP and TCP.

They listen on a port of their own, to which the firewall leads what containers send to port 53 of the gateway. So the
machine's port 53 stays free for whoever wants it, a published one among them. The port is kept with the network: a
client that keeps its socket for ever (nginx) is known to the kernel's connection tracking, which goes on leading it
there after the engine was restarted.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Coroutine
from typing import Any, Final, cast

from scow.network.dns import message
from scow.network.dns.answering import Answering
from scow.network.model import Network

_log = logging.getLogger(__name__)
_IP_FREEBIND: Final = 15  # linux/in.h
_IPV6_FREEBIND: Final = 78  # linux/in6.h
_TCP_PATIENCE_S: Final = 10.0
_MAX_CONNECTIONS: Final = 64
_MAX_TASKS: Final = 1024
_ATTEMPTS: Final = 16


class Servers:
    """The servers of all networks that resolve names. Owned by the event loop."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._servers: dict[str, _Server] = {}

    async def open(self, network: Network, port: int = 0) -> int:
        """Serve a network on all its gateways, on `port` if that is free; returns the port. Raises OSError."""
        server = _Server(network.id, self._answering)
        try:
            found = await server.listen([pool.gateway for pool in network.pools], port)
        except BaseException:
            await server.aclose()
            raise
        self._servers[network.id] = server
        return found

    async def close(self, network_id: str) -> None:
        """Stop serving a network; one that isn't served is fine."""
        server = self._servers.pop(network_id, None)
        if server is not None:
            await server.aclose()

    async def aclose(self) -> None:
        """Stop serving all."""
        for network_id in list(self._servers):
            await self.close(network_id)


class _Server:
    """One network's: its sockets, and what is being answered."""

    def __init__(self, network_id: str, answering: Answering) -> None:
        self._network_id = network_id
        self._answering = answering
        self._transports: list[asyncio.DatagramTransport] = []
        self._listeners: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0

    async def listen(self, addresses: list[str], port: int) -> int:
        pairs = _bind_all(addresses, port)
        port = int(pairs[0][0].getsockname()[1])
        loop = asyncio.get_running_loop()
        for datagrams, stream in pairs:
            transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=datagrams)
            self._transports.append(transport)
            self._listeners.append(await asyncio.start_server(self._serve_stream, sock=stream, limit=65536))
        return port

    def datagram(self, transport: asyncio.DatagramTransport, data: bytes, peer: tuple[Any, ...]) -> None:
        try:
            query = message.parse_query(data)
        except message.Malformed as failure:
            if failure.reply:
                transport.sendto(failure.reply, peer)
            return
        client = str(peer[0]).partition("%")[0]
        reply = self._answering.at_once(self._network_id, client, query)
        if reply is None:
            self._start(self._forward_datagram(transport, query, data, peer, client))
        else:
            transport.sendto(_fitting(query, reply), peer)

    async def _forward_datagram(
        self,
        transport: asyncio.DatagramTransport,
        query: message.Query,
        data: bytes,
        peer: tuple[Any, ...],
        client: str,
    ) -> None:
        reply = await self._answering.forward(self._network_id, client, query, data, tcp=False)
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
        client = str(writer.get_extra_info("peername")[0]).partition("%")[0]
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
                reply = self._answering.at_once(self._network_id, client, query)
                if reply is None:
                    reply = await self._answering.forward(self._network_id, client, query, data, tcp=True)
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
        for transport in self._transports:
            transport.close()
        for listener in self._listeners:
            listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # in the loop's next turn transports close their sockets: then the port is free


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: _Server) -> None:
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


def _bind_all(addresses: list[str], port: int) -> list[tuple[socket.socket, socket.socket]]:
    """Bind UDP and TCP sockets to all addresses, all on one port: `port` if it is free everywhere. Raises OSError."""
    for wanted in (port, *[0] * _ATTEMPTS):
        bound: list[tuple[socket.socket, socket.socket]] = []
        try:
            for address in addresses:
                bound.append(_bind(address, wanted))
                wanted = bound[0][0].getsockname()[1]
        except OSError as error:
            for pair in bound:
                for each in pair:
                    each.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return bound
    raise OSError(errno.EADDRINUSE, f"no port is free for the DNS server at {', '.join(addresses)}")


def _bind(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    datagrams = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    stream = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        for each in (datagrams, stream):
            # The address may not be there yet, or not any more for a moment.
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            else:
                each.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        datagrams.bind((address, port))
        stream.bind((address, datagrams.getsockname()[1]))
        stream.listen(_MAX_CONNECTIONS)
    except BaseException:
        datagrams.close()
        stream.close()
        raise
    return datagrams, stream
