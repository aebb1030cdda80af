"""Connections to the API: aiohttp's, except for requests that may leave HTTP.

A client that attaches can send its input right behind the request, and close its side before it has an answer. An HTTP
server takes the first for another request and the second for a hang-up (and aiohttp's parser, written in C, drops what
follows an `Upgrade: tcp`). So such a request is recognised here, before the parser: the parser is given exactly the
request, and what follows is kept for the handler that takes the connection over.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Final

from aiohttp import web

MAX_HEAD: Final = 1 << 20
"""Bytes in one line of a request's head: filters and registry tokens are long. As Go's limit for all of the head."""

_MAX_EARLY: Final = 1 << 20
_HIJACKS: Final = re.compile(rb"POST (?:/v[0-9.]+)?/(?:containers/[^/ ?]+/attach|exec/[^/ ?]+/start)[? ]")
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


class Connection(web.RequestHandler):
    """One client's connection."""

    __slots__ = (
        "_at_boundary",
        "_body_left",
        "_body_tail",
        "_early",
        "_hijack",
        "_partial",
        "_reading_held",
        "half_closed",
        "upgrade",
    )

    def __init__(self, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # None is how aiohttp's own runner turns it off
            max_line_size=MAX_HEAD,
            max_field_size=MAX_HEAD,
            auto_decompress=False,
        )
        self._at_boundary = True  # the next byte is the first of a request
        self._partial = b""
        self._hijack = False
        self._body_left: int | None = 0  # bytes; None: until the last chunk
        self._body_tail = b""
        self._early = bytearray()
        self._reading_held = False
        self.half_closed = False
        self.upgrade = False

    def request_done(self) -> None:
        """Be told that a request was read to its end, so that the next byte begins another one."""
        self._at_boundary = True

    def take_early(self) -> bytes:
        """Give what came behind the request, once."""
        early = bytes(self._early)
        self._early.clear()
        return early

    def data_received(self, data: bytes) -> None:
        if self._hijack:
            self._behind_head(data)
        elif not self._at_boundary:
            super().data_received(data)
        else:
            self._at_head(self._partial + data if self._partial else data)

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio's answer, which aiohttp has no use for
        if self._hijack:
            self.half_closed = True
            return True
        if self._partial:
            self._pass_on(self._partial)
        super().eof_received()
        return None

    def _at_head(self, data: bytes) -> None:
        self._partial = b""
        if not (data.startswith(b"POST ") or b"POST ".startswith(data)):
            self._pass_on(data)
            return
        head, end, rest = data.partition(b"\r\n\r\n")
        if end and _HIJACKS.match(head):
            self._begin_hijack(head, rest)
        elif end or (b"\r\n" in data and not _HIJACKS.match(data)) or len(data) > MAX_HEAD:
            self._pass_on(data)
        else:
            self._partial = data

    def _pass_on(self, data: bytes) -> None:
        self._at_boundary = False
        self._partial = b""
        super().data_received(data)

    def _begin_hijack(self, head: bytes, rest: bytes) -> None:
        self._hijack = True
        lines = []
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            name = name.strip().lower()
            if name == b"upgrade":
                self.upgrade = True
            elif name == b"content-length" and value.strip().isdigit():
                self._body_left = int(value)
            elif name == b"transfer-encoding":
                self._body_left = None
            if name not in (b"upgrade", b"connection"):
                lines.append(line)
        # If the request is refused, the connection ends: what follows it is no request.
        super().data_received(b"\r\n".join([*lines, b"Connection: close", b"", b""]))
        # So that an empty chunked body ends at the same mark as any other.
        self._body_tail = b"\r\n"
        self._behind_head(rest)

    def _behind_head(self, data: bytes) -> None:
        if self._body_left is None:
            # The mark can't be inside: a body with JSON in it has no such line, and its chunks are not split there.
            window = self._body_tail + data
            found = window.find(_LAST_CHUNK)
            if found < 0:
                self._body_tail = window[-len(_LAST_CHUNK) :]
                super().data_received(data)
                return
            size = found + len(_LAST_CHUNK) - len(self._body_tail)
            self._body_left = size
        if self._body_left and data:
            body, data = data[: self._body_left], data[self._body_left :]
            self._body_left -= len(body)
            super().data_received(body)
        self._early += data
        if len(self._early) >= _MAX_EARLY and not self._reading_held and self.transport is not None:
            self._reading_held = True
            self.transport.pause_reading()


def connections(server: web.Server) -> Callable[[], asyncio.Protocol]:
    """Make the factory of the connections of a server."""
    loop = asyncio.get_running_loop()
    return lambda: Connection(server, loop)
