"""Asking other DNS servers: each question from a port and under an id of its own, in the order of the servers."""

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from scow.network.dns import message

_PORT: Final = 53
_PATIENCE_S: Final = 2.0  # for one server; the C library waits five for us
_MAX_SERVERS: Final = 3  # as resolv.conf(5)
_SHUNNED_S: Final = 10.0  # for so long a server that didn't answer is asked last
_MAX_PENDING: Final = 512
_MAX_PENDING_EACH: Final = 128

SocketMaker = Callable[[int, int], Awaitable[socket.socket]]
"""Makes a socket of a family and kind that doesn't block, where the question is to come from."""


class Upstream(NamedTuple):
    """Another DNS server; `here` is whether the machine asks it, because it listens on the machine's loopback."""

    address: str
    here: bool = False


class Forwarder:
    """Passes questions on. Owned by the event loop; bounded in all and for each client, so that none can starve others.

    When there is too much in all, the client that has most under way loses its oldest question.
    """

    def __init__(self, port: int = _PORT) -> None:
        self._port = port
        self._pending: dict[str, list[asyncio.Timeout]] = {}
        self._silent: dict[tuple[str, str], float] = {}

    async def ask(
        self,
        query: message.Query,
        data: bytes,
        servers: Sequence[Upstream],
        client: str,
        new_socket: SocketMaker,
        *,
        tcp: bool,
    ) -> bytes:
        """Return the answer of the first server that has one; a failure of ours if none has, or too much is under way.

        An error that isn't about the name lets the next server be asked, as the C library does.
        """
        failure = message.answer(query, code=message.SERVER_FAILURE)
        if len(self._pending.get(client, ())) >= _MAX_PENDING_EACH:
            return failure
        if sum(map(len, self._pending.values())) >= _MAX_PENDING:
            greediest = max(self._pending.values(), key=len)
            greediest.pop(0).reschedule(0)
        mine = self._pending.setdefault(client, [])
        scope = asyncio.timeout(None)
        try:
            async with scope:
                mine.append(scope)
                return await self._ask(query, data, servers, client, new_socket, tcp=tcp)
        except TimeoutError:
            return failure
        finally:
            if scope in mine:
                mine.remove(scope)
            if not mine:
                self._pending.pop(client, None)

    def forget(self, client: str) -> None:
        """Keep nothing of a client that has gone."""
        for key in [key for key in self._silent if key[0] == client]:
            del self._silent[key]

    async def _ask(
        self,
        query: message.Query,
        data: bytes,
        servers: Sequence[Upstream],
        client: str,
        new_socket: SocketMaker,
        *,
        tcp: bool,
    ) -> bytes:
        loop = asyncio.get_running_loop()
        failure = message.answer(query, code=message.SERVER_FAILURE)
        now = loop.time()
        for server in sorted(
            servers[:_MAX_SERVERS], key=lambda each: self._silent.get((client, each.address), 0) > now
        ):
            request = message.with_id(data, secrets.randbelow(1 << 16))
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    ask = self._by_tcp if tcp else self._by_udp
                    reply = await ask(server.address, _here if server.here else new_socket, request, query.question)
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                self._silent[client, server.address] = loop.time() + _SHUNNED_S
                continue
            self._silent.pop((client, server.address), None)
            reply = message.with_id(reply, query.id)
            if message.code_of(reply) in (message.NO_ERROR, message.NAME_ERROR):
                return reply
            failure = reply
        return failure

    async def _connect(self, server: str, new_socket: SocketMaker, kind: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        connection = await new_socket(family, kind)
        try:
            # Connected, so that the kernel drops what others send, and tells if nobody listens there.
            await asyncio.get_running_loop().sock_connect(connection, (server, self._port))
        except BaseException:
            connection.close()
            raise
        return connection

    async def _by_udp(self, server: str, new_socket: SocketMaker, request: bytes, question: bytes) -> bytes:
        exchange = _Exchange(request, question)
        connection = await self._connect(server, new_socket, socket.SOCK_DGRAM)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: exchange, sock=connection)
        try:
            transport.sendto(request)
            return await exchange.reply
        finally:
            transport.close()

    async def _by_tcp(self, server: str, new_socket: SocketMaker, request: bytes, question: bytes) -> bytes:
        connection = await self._connect(server, new_socket, socket.SOCK_STREAM)
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            writer.write(len(request).to_bytes(2, "big") + request)
            await writer.drain()
            length = int.from_bytes(await reader.readexactly(2), "big")
            reply = await reader.readexactly(length)
            if not message.answers(reply, request, question):
                raise OSError(f"{server} answered something else")
            return reply
        finally:
            writer.close()


async def _here(family: int, kind: int) -> socket.socket:
    return socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)


class _Exchange(asyncio.DatagramProtocol):
    """One request by UDP, and the first packet that answers it."""

    def __init__(self, request: bytes, question: bytes) -> None:
        self._request = request
        self._question = question
        self.reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.reply.done() and message.answers(data, self._request, self._question):
            self.reply.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(exc)
