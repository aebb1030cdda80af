"""A small HTTP/1.1 client: requests on a kept connection, bodies by length or in chunks, upgrades to raw streams."""

from __future__ import annotations

import os

from scow.cli.jsontext import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from scow.cli.streams import Stream

MAX_HEAD = 1 << 20
CHUNK = 1 << 16
LARGE_CHUNK = 1 << 19
SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class HttpError(Exception):
    """The peer does not speak HTTP as it should, or went away."""


class ConnectionLost(HttpError):
    """The connection ended before the first byte of a reply: on a kept connection the request may be sent again."""


def quote(text: str, safe: str = "") -> str:
    """Percent-encode `text`; characters of `safe` stay."""
    keep = SAFE.union(safe.encode())
    return "".join(chr(byte) if byte in keep else f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))


def encode_query(query: Mapping[str, str]) -> str:
    """Encode a query, sorted by name."""
    return "&".join(f"{quote(name)}={quote(value)}" for name, value in sorted(query.items()))


class Connection:
    """One connection to a server; `buffer` holds bytes that were read and not yet consumed."""

    def __init__(self, stream: Stream, host: str) -> None:
        self.stream = stream
        self.host = host
        self.buffer = bytearray()

    def close(self) -> None:
        self.stream.close()

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes | Iterator[bytes] | None) -> None:
        """Send one request. An iterator goes out in chunks. Raises OSError."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        chunked = body is not None and not isinstance(body, bytes)
        if chunked:
            lines.append("Transfer-Encoding: chunked")
        elif body is not None or method in ("POST", "PUT"):
            lines.append(f"Content-Length: {len(body) if isinstance(body, bytes) else 0}")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
        if body is None or isinstance(body, bytes):
            self.stream.sendall(head + (body or b""))
            return
        self.stream.sendall(head)
        try:
            for data in body:
                if data:
                    self.stream.sendall(b"%x\r\n" % len(data))
                    self.stream.sendall(data)
                    self.stream.sendall(b"\r\n")
            self.stream.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # a server that doesn't want to hear the rest has answered why, or there is no answer either

    def fill(self) -> bool:
        """Read more into the buffer; False at the end of the stream."""
        data = self.stream.recv(CHUNK)
        self.buffer += data
        return bool(data)

    def line(self) -> bytes:
        """Take one line, without its end."""
        while (end := self.buffer.find(b"\n")) < 0:
            if len(self.buffer) > MAX_HEAD:
                raise HttpError("line too long")
            if not self.fill():
                raise HttpError("unexpected EOF")
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 1]
        return line.rstrip(b"\r")

    def response(self, method: str) -> Response:
        """Read the head of the reply to a `method` request. Raises HttpError."""
        try:
            if not self.buffer and not self.fill():
                raise ConnectionLost("EOF")
        except ConnectionResetError as error:
            raise ConnectionLost(str(error)) from None
        parts = self.line().decode("latin-1").split(" ", 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
            raise HttpError(f'malformed HTTP response "{" ".join(parts)}"')
        headers: dict[str, str] = {}
        while line := self.line():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        if parts[1] == "100":
            return self.response(method)
        return Response(self, int(parts[1]), headers, method)


class Response:
    """A reply: `status`, `headers` (lower-case names), and a body that is read once, in pieces or whole.

    `finished` says that the body was read to its end and that the connection may carry another request.
    """

    def __init__(self, connection: Connection, status: int, headers: dict[str, str], method: str) -> None:
        self.connection = connection
        self.status = status
        self.headers = headers
        length = headers.get("content-length", "")
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._left = int(length) if length.isdigit() and not self._chunked else None
        self.finished = method == "HEAD" or status in (204, 304) or self._left == 0

    @property
    def keeps(self) -> bool:
        """Whether the connection outlives this reply."""
        delimited = self._chunked or self._left is not None or self.status in (204, 304)
        return self.finished and delimited and self.headers.get("connection", "").lower() != "close"

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it arrives. Raises HttpError if it ends early."""
        connection, buffer = self.connection, self.connection.buffer
        if self.finished:
            return
        if self._chunked:
            yield from self._chunks()
            return
        while self._left is None or self._left > 0:
            if not buffer and not connection.fill():
                if self._left:
                    raise HttpError("unexpected EOF")
                break
            piece = bytes(buffer if self._left is None else buffer[: self._left])
            del buffer[: len(piece)]
            if self._left is not None:
                self._left -= len(piece)
            yield piece
        self.finished = True

    def copy_to(self, fd: int) -> None:
        """Write the body to a file. Raises HttpError if it ends early."""
        if self._left:
            held = self.connection.buffer[: self._left]
            del self.connection.buffer[: len(held)]
            _write_all(fd, held)
            self._left -= len(held)
            # Past the buffer: archives are large.
            while self._left:
                data = self.connection.stream.recv(min(self._left, LARGE_CHUNK))
                if not data:
                    raise HttpError("unexpected EOF")
                _write_all(fd, data)
                self._left -= len(data)
            self.finished = True
        for piece in self.pieces():
            _write_all(fd, piece)

    def _chunks(self) -> Iterator[bytes]:
        connection, buffer = self.connection, self.connection.buffer
        while True:
            size = int(connection.line().split(b";", 1)[0] or b"0", 16)
            if size == 0:
                while connection.line():
                    pass
                self.finished = True
                return
            while size:
                if not buffer and not connection.fill():
                    raise HttpError("unexpected EOF")
                piece = bytes(buffer[:size])
                del buffer[: len(piece)]
                size -= len(piece)
                yield piece
            connection.line()

    def read(self) -> bytes:
        return b"".join(self.pieces())

    def lines(self) -> Iterator[bytes]:
        """Yield the non-empty lines of the body as they arrive."""
        held = b""
        for piece in self.pieces():
            *whole, held = (held + piece).split(b"\n")
            for line in whole:
                if line.strip():
                    yield line
        if held.strip():
            yield held

    def messages(self) -> Iterator[Any]:
        """Yield the JSON values of a stream that has one on each line."""
        for line in self.lines():
            yield loads(line)


def _write_all(fd: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
