"""Answers, written by hand: exact headers, no charset, files by sendfile.

aiohttp's own responses add parameters to Content-Type and cost more than the rest of a manifest's request; its file
response hops to threads for each range. An answer here is a status, headers and a body; `HttpReply` is what aiohttp is
handed to send it.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse

from scow.registry.errors import Refusal
from scow.registry.file_sending import send_part
from scow.registry.objects import OpenObject

Headers = Sequence[tuple[str, str]]

SLICE_SIZE: Final = 8 << 20
"""Bytes that are sent between two looks at the clock."""
SEND_TIMEOUT_S: Final = 300
"""A client that takes longer for one slice has stalled: its connection is closed."""
PIECE_TIMEOUT_S: Final = 60
"""The same for a piece of what is in memory."""
SMALL_SIZE: Final = 128 << 10
COPY_SIZE: Final = 256 << 10
UNSENT_LIMIT: Final = 64 << 10
"""Bytes of answers that may wait for the client when its next request is looked at."""
JSON: Final = ("Content-Type", "application/json")


class Slice:
    """A part of an object as a body. Whoever sends it releases it."""

    def __init__(self, source: OpenObject, offset: int, count: int) -> None:
        """`source` is a file."""
        assert source.file is not None
        self.source = source
        self.file = source.file
        self.offset = offset
        self.count = count


class Flow:
    """Bytes that come from elsewhere, `count` of them, as a body. Whoever sends it closes it."""

    def __init__(self, chunks: AsyncGenerator[bytes, None], count: int) -> None:
        """`chunks` raises ConnectionError if it breaks off."""
        self.chunks = chunks
        self.count = count


class Reply:
    """An answer: what goes out, independent of the server's library."""

    __slots__ = ("body", "headers", "length", "status")

    def __init__(
        self, status: int, headers: Headers = (), body: bytes | Slice | Flow = b"", length: int | None = None
    ) -> None:
        """`length` overrides the body's in Content-Length: for HEAD, which has no body."""
        self.status = status
        self.headers = headers
        self.body = body
        self.length = length if length is not None else len(body) if isinstance(body, bytes) else body.count


def json_reply(status: int, document: object, headers: Headers = ()) -> Reply:
    """An answer with a JSON body."""
    return Reply(status, (JSON, *headers), msgspec.json.encode(document))


def refusal_reply(refusal: Refusal) -> Reply:
    """The error document of a refusal. distribution-spec spec.md#error-codes."""
    return json_reply(refusal.status, {"errors": refusal.entries()}, refusal.headers)


class HttpReply(StreamResponse):
    """Sends a Reply over aiohttp's connection."""

    def __init__(self, reply: Reply, *, keep_alive: bool, done: Callable[[], None], request_id: str) -> None:
        # Deliberately not super().__init__(): its header map and state are not used, and this is the hot path.
        self._reply = reply
        self._keeps_alive = keep_alive
        self._request_id = request_id
        self._done = done  # called once, when everything is sent or the client has gone
        self._request: BaseRequest | None = None

    @property
    def status(self) -> int:
        return self._reply.status

    @property
    def keep_alive(self) -> bool:
        return self._keeps_alive

    @property
    def body_length(self) -> int:
        return self._reply.length

    @property
    def prepared(self) -> bool:
        return self._request is not None

    async def prepare(self, request: BaseRequest) -> None:
        self._request = request

    async def write_eof(self, data: bytes = b"") -> None:
        request, reply = self._request, self._reply
        assert request is not None
        body = reply.body
        transport = request.transport
        try:
            if transport is None or transport.is_closing():
                raise ConnectionResetError("the client has gone")
            await self._send_all(transport, request)
            if transport.get_write_buffer_size() > UNSENT_LIMIT:
                # A client that sends request after request and reads no answer would have them all kept here.
                async with asyncio.timeout(PIECE_TIMEOUT_S):
                    await request.writer.drain()
        except TimeoutError as error:
            if transport is not None:
                transport.abort()
            raise ConnectionResetError("the client has stalled") from error
        finally:
            if isinstance(body, Slice):
                body.source.release()
            elif isinstance(body, Flow):
                await body.chunks.aclose()
            self._done()

    async def _send_all(self, transport: asyncio.Transport, request: BaseRequest) -> None:
        head, body = self._head(request), self._reply.body
        if request.method == "HEAD":
            transport.write(head)
        elif isinstance(body, bytes) and len(body) <= COPY_SIZE:
            transport.write(head + body)
        elif isinstance(body, bytes):
            transport.write(head)
            await _send_bytes(transport, request, body)
        elif isinstance(body, Flow):
            transport.write(head)
            await _send_flow(transport, request, body)
        elif body.count <= SMALL_SIZE and (cached := _read_cached(body)) is not None:
            transport.write(head + cached)
        else:
            transport.write(head)
            await _send(transport, request, body)

    def _head(self, request: BaseRequest) -> bytes:
        reply = self._reply
        lines = [
            f"HTTP/1.1 {reply.status} {_reason(reply.status)}",
            f"Date: {_date(int(time.time()))}",
            "Docker-Distribution-Api-Version: registry/2.0",
            f"X-Request-Id: {self._request_id}",
        ]
        lines += [f"{name}: {value}" for name, value in reply.headers]
        if reply.status not in (204, 304):
            lines.append(f"Content-Length: {reply.length}")
        if not self._keeps_alive:
            lines.append("Connection: close")
        elif request.version < (1, 1):
            lines.append("Connection: keep-alive")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _send_bytes(transport: asyncio.Transport, request: BaseRequest, body: bytes) -> None:
    """Send what is large piece by piece: as a whole it would be copied, and stay in memory for a slow client."""
    view = memoryview(body)
    for start in range(0, len(body), COPY_SIZE):
        async with asyncio.timeout(PIECE_TIMEOUT_S):
            transport.write(view[start : start + COPY_SIZE])
            await request.writer.drain()


async def _send_flow(transport: asyncio.Transport, request: BaseRequest, body: Flow) -> None:
    sent = 0
    try:
        async for data in body.chunks:
            if transport.is_closing():
                raise ConnectionResetError("the client has gone")
            transport.write(data)
            sent += len(data)
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await request.writer.drain()
        if sent != body.count:
            raise ConnectionResetError(f"{sent} bytes came instead of {body.count}")
    except ConnectionError:
        transport.abort()  # the client must not take what it has for the whole
        raise


async def _send(transport: asyncio.Transport, request: BaseRequest, body: Slice) -> None:
    offset, end = body.offset, body.offset + body.count
    plain = transport.get_extra_info("sslcontext") is None
    while offset < end:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            if plain:
                sent = min(SLICE_SIZE, end - offset)
                await send_part(transport, body.file, offset, sent)
            else:
                data = await asyncio.to_thread(_pread, body, offset, min(COPY_SIZE, end - offset))
                sent = len(data)
                if not sent:
                    raise ConnectionResetError("the object is shorter than it was")
                transport.write(data)
                await request.writer.drain()
        offset += sent


def _read_cached(body: Slice) -> bytes | None:
    """A small slice if the kernel has it in memory: then one write does, and sendfile(2) would cost more."""
    data = bytearray(body.count)
    try:
        got = os.preadv(body.file.fileno(), [data], body.offset, os.RWF_NOWAIT)
    except OSError:  # it would have to wait for the disk, or the file system can't tell
        return None
    return bytes(data) if got == body.count else None


def _pread(source: Slice, offset: int, count: int) -> bytes:
    return os.pread(source.file.fileno(), count, offset)


@lru_cache(maxsize=8)
def _date(now: int) -> str:
    return formatdate(now, usegmt=True)


@lru_cache(maxsize=64)
def _reason(status: int) -> str:
    return HTTPStatus(status).phrase
