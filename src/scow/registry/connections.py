"""Connections: as many as there are descriptors for, and answered even if the client has ended its side.

asyncio closes a connection at its end of input unless the protocol wants otherwise, and aiohttp's doesn't: who sends
a request and shuts the sending side down, as simple clients and some relays do, would get nothing.

A request's head is not answered before it is whole, so its size and time are bounded here: nobody has logged in yet.

Without descriptors nothing can be accepted, nor any blob be opened: before they run out, the oldest connection that
waits for nothing makes room for a new one.
"""

import asyncio
import errno
import gc
import logging
import resource
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

# Not from aiohttp.web, which would import applications, routes and WebSockets with it: a MiB of memory.
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse
from aiohttp.web_server import Server

from scow.registry.errors import HeadTooLarge, RequestMalformed
from scow.registry.replies import HttpReply, refusal_reply

RESERVE: Final = 200
"""Descriptors for all but connections and their uploads: open blobs, databases, sockets."""
LEAST: Final = 16
QUIET_S: Final = 10.0
HEAD_LIMIT: Final = 192 << 10
"""Bytes of a request's line and headers together: the longest token, and the cookies and forwarding of a proxy."""
HEADS_LIMIT: Final = 8 << 20
"""The same of all connections whose requests are not whole; parsed, they take several times as much. More, and those
that have been waited for the longest end: what comes from others than slow or hostile clients is whole in a moment."""
HEAD_S: Final = 60.0
"""A head has to come within so long, and the first one after the connection has."""
SWEEP_S: Final = 10.0
UNMADE_LIMIT: Final = 128
"""Handshakes of TLS that failed, after which their 256 KiB each are collected."""
_TOO_LATE: Final = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

log = logging.getLogger("scow.registry")


class Connection(RequestHandler):
    """One connection. Over TLS it ends with its client's side, since asyncio's TLS cannot stay half open."""

    __slots__ = ("_answered", "_body", "_connections", "_ended", "_era", "head_since", "head_size")

    def __init__(self, manager: "Connections", **options: Any) -> None:
        super().__init__(manager, **options)
        self._connections = manager
        self._era = manager.era
        self._answered = 0
        self._body: StreamReader | None = None  # of the request that came last
        self._ended = False
        self.head_size = 0  # bytes of a request that has not come whole
        self.head_since: float | None = (
            None  # since when one is waited for, on the loop's clock; None where none is due
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.head_since = self._loop.time()
        self._connections.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.closed(self)
        super().connection_lost(exc)

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer, since no request has come whole."""
        # Counted, since aiohttp's own word for being busy comes a turn of the loop after the request.
        return self._request_count == self._answered

    def data_received(self, data: bytes) -> None:
        count, in_body = self._request_count, self._body is not None and not self._body.is_eof()
        super().data_received(data)
        if self._messages:
            self._body = self._messages[-1][1]
        if in_body or self._request_count != count:
            if self.head_since is not None:
                self._connections.head_came(self)
        else:
            self._connections.head_grew(self, len(data))

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> StreamResponse:
        """Answer what could not be read as a request, in the API's form and without naming libraries, and end."""
        super().handle_error(request, status, exc, message)  # logs, and raises if an answer has begun
        if isinstance(exc, LineTooLong):
            refusal: RequestMalformed = HeadTooLarge("a line of the request's head is too long")
        else:  # behind the first words are bytes of the request
            refusal = RequestMalformed(f"malformed request: {(message or '').partition(chr(10))[0].rstrip(':')}")
        return HttpReply(refusal_reply(refusal), keep_alive=False, done=self.end, request_id=secrets.token_hex(8))

    def refuse_head(self, answer: bytes) -> None:
        """Say that a request's head is too large or takes too long, and end."""
        if self.transport is not None:
            self.transport.write(answer)
            self.transport.close()

    @property
    def is_old(self) -> bool:
        """Whether something has changed since it began for which the client is to begin anew."""
        return self._era != self._connections.era

    def eof_received(self) -> bool | None:  # type: ignore[override]  # aiohttp answers nothing, which asyncio takes for no
        is_cut = self._body is not None and not self._body.is_eof()
        if self.is_idle or is_cut or self.ssl_context is not None:
            return None
        self._ended = True
        self._end_after_last()
        return True

    @property
    def is_last(self) -> bool:
        """Whether no request follows the one that is being answered."""
        return self._ended and not self._messages

    def begin(self) -> None:
        """Note that the next request is being answered."""
        self._end_after_last()

    def end(self) -> None:
        """Note that its answer is sent."""
        self._answered += 1

    def _end_after_last(self) -> None:
        if self.is_last:
            self.close()


class Connections(Server):
    """What asyncio asks for a protocol for each connection."""

    def __init__(
        self, handler: Callable[[BaseRequest], Awaitable[StreamResponse]], *, limit: int, **options: Any
    ) -> None:
        """`limit` is how many there may be at once."""
        super().__init__(handler, **options)
        self._limit = limit
        self._open: dict[Connection, None] = {}  # the oldest first
        self._heads: dict[Connection, None] = {}  # those that have sent a part of one, the oldest first
        self._heads_size = 0
        self._sweeping: asyncio.TimerHandle | None = None
        self._unmade = 0  # protocols whose connections were not made, or not yet
        self.era = 0

    def renew(self) -> None:
        """Let connections end with their next answer, and those that wait for a request at once."""
        self.era += 1
        for each in list(self._open):
            if each.is_idle and each.transport is not None:
                each.transport.close()

    def opened(self, newest: Connection) -> None:
        """Note a connection, and close one if there are too many: the oldest that is idle, or else the newest."""
        self._unmade = max(self._unmade - 1, 0)
        self._open[newest] = None
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(SWEEP_S, self._sweep)
        if len(self._open) > self._limit:
            chosen = next((each for each in self._open if each is not newest and each.is_idle), newest)
            self.closed(chosen)
            if chosen.transport is not None:
                chosen.transport.abort()

    def closed(self, connection: Connection) -> None:
        """Forget a connection. Idempotent."""
        self._open.pop(connection, None)
        self.head_came(connection)

    def head_grew(self, connection: Connection, size: int) -> None:
        """Note bytes of a request that has not come whole; too many end the connection."""
        if connection.head_since is None:
            connection.head_since = self._loop.time()
        connection.head_size += size
        self._heads_size += size
        self._heads[connection] = None
        if connection.head_size > HEAD_LIMIT:
            self._refuse_head(connection, _TOO_LARGE)
        while self._heads_size > HEADS_LIMIT:
            self._refuse_head(next(iter(self._heads)), _TOO_LATE)

    def _refuse_head(self, connection: Connection, answer: bytes) -> None:
        connection.refuse_head(answer)
        self.head_came(connection)

    def head_came(self, connection: Connection) -> None:
        """Note that a request has come whole, or will never. Idempotent."""
        self._heads.pop(connection, None)
        self._heads_size -= connection.head_size
        connection.head_size, connection.head_since = 0, None

    def _sweep(self) -> None:
        """End connections that wait too long for a request's head, and come again as long as there are any."""
        late = self._loop.time() - HEAD_S
        for each in list(self._open):
            if each.head_since is not None and each.head_since < late and each.transport is not None:
                each.transport.abort()
        self._sweeping = self._loop.call_later(SWEEP_S, self._sweep) if self._open else None

    def __call__(self) -> Connection:
        self._unmade += 1
        if self._unmade >= UNMADE_LIMIT:
            # A failed handshake leaves asyncio's buffer in a cycle with its error. What scans ports or only looks
            # whether one is open leaves many, and nothing else here makes enough garbage to have them collected.
            gc.collect()
            self._unmade = 0
        return Connection(self, loop=self._loop, **self._kwargs)


def connection_limit(files: int = 1) -> int:
    """How many connections the descriptors of this process suffice for; each may have an upload with `files` more."""
    return max((resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVE) // (1 + files), LEAST)


def raise_descriptor_limit() -> None:
    """Take as many descriptors as the system allows: the usual limit is for programs that use select(2)."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def quieten(loop: asyncio.AbstractEventLoop) -> None:
    """Say once in a while that nothing can be accepted; asyncio says it a thousand times a second, with tracebacks."""
    said_at = -QUIET_S

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal said_at
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)):
            loop.default_exception_handler(context)
        elif time.monotonic() - said_at >= QUIET_S:
            said_at = time.monotonic()
            log.error("connections have to wait: %s", error.strerror)

    loop.set_exception_handler(handle)
