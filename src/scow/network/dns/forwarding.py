"""Asking other DNS servers: each question from a port and under an id of its own, in the order of the servers."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Final

from scow.network.dns import message

_PORT: Final = 53
_PATIENCE_S: Final = 2.0  # for one server; the C library waits five for us
_MAX_SERVERS: Final = 3  # as resolv.conf(5)
_SHUNNED_S: Final = 10.0  # for so long a server that didn't answer is asked last
_MAX_PENDING: Final = 512
_MAX_PENDING_EACH: Final = 128


class Forwarder:
    """Passes questions on. Owned by the event loop; bounded in all and for each client, so that none can starve it."""

    def __init__(self, port: int = _PORT) -> None:
        self._port = port
        self._pending: Counter[str] = Counter()
        self._silent: dict[str, float] = {}

    async def ask(self, query: message.Query, data: bytes, servers: Sequence[str], client: str, *, tcp: bool) -> bytes:
        """Return the answer of the first server that has one; a failure of ours if none has, or too much is under way.

        An error that isn't about the name lets the next server be asked, as the C library does.
        """
        if self._pending.total() >= _MAX_PENDING or self._pending[client] >= _MAX_PENDING_EACH:
            return message.answer(query, code=message.SERVER_FAILURE)
        self._pending[client] += 1
        try:
            return await self._ask(query, data, servers, tcp=tcp)
        finally:
            self._pending[client] -= 1
            if not self._pending[client]:
                del self._pending[client]

    async def _ask(self, query: message.Query, data: bytes, servers: Sequence[str], *, tcp: bool) -> bytes:
        loop = asyncio.get_running_loop()
        failure = message.answer(query, code=message.SERVER_FAILURE)
        now = loop.time()
        for server in sorted(servers[:_MAX_SERVERS], key=lambda each: self._silent.get(each, 0) > now):
            request = message.with_id(data, secrets.randbelow(1 << 16))
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    ask = self._by_tcp if tcp else self._by_udp
                    reply = await ask(server, request, query.question)
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                self._silent[server] = loop.time() + _SHUNNED_S
                continue
            self._silent.pop(server, None)
            reply = message.with_id(reply, query.id)
            if message.code_of(reply) in (message.NO_ERROR, message.NAME_ERROR):
                return reply
            failure = reply
        return failure

    async def _by_udp(self, server: str, request: bytes, question: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        exchange = _Exchange(request, question)
        # Connected, so that the kernel drops what others send, and tells if nobody listens there.
        transport, _ = await loop.create_datagram_endpoint(lambda: exchange, remote_addr=(server, self._port))
        try:
            transport.sendto(request)
            return await exchange.reply
        finally:
            transport.close()

    async def _by_tcp(self, server: str, request: bytes, question: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(server, self._port)
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
