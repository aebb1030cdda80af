"""The API by bare sockets: what clients' libraries hide."""

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

from support.daemon import Daemon

UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}


class Raw:
    """One connection; `head` is what came before the body."""

    def __init__(self, engine: Daemon) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(str(engine.socket))
        self._buffer = b""
        self.status = 0
        self.headers: dict[str, str] = {}

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> "Raw":
        """Send a request and read the head of its answer."""
        data = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(data)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body is not None:
            lines.append("Content-Type: application/json")
        self.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        while b"\r\n\r\n" not in self._buffer:
            data = self.socket.recv(65536)
            assert data, self._buffer
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        return self

    def send(self, data: bytes) -> None:
        """Write to a hijacked stream."""
        self.socket.sendall(data)

    def end(self) -> None:
        """Close our half."""
        self.socket.shutdown(socket.SHUT_WR)

    def rest(self) -> bytes:
        """Everything until the engine closes."""
        while data := self.socket.recv(1 << 20):
            self._buffer += data
        found, self._buffer = self._buffer, b""
        return found

    def until(self, wanted: bytes) -> bytes:
        """Everything up to and with these bytes."""
        while wanted not in self._buffer:
            data = self.socket.recv(1 << 16)
            assert data, self._buffer
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(wanted)
        return head + wanted


@contextlib.contextmanager
def connected(engine: Daemon) -> Iterator[Raw]:
    """A connection that is closed at the end."""
    raw = Raw(engine)
    try:
        yield raw
    finally:
        raw.socket.close()


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Take a multiplexed stream apart; it must be whole."""
    found = []
    while data:
        assert data[1:4] == b"\0\0\0"
        length = int.from_bytes(data[4:8], "big")
        assert len(data) >= 8 + length
        found.append((data[0], data[8 : 8 + length]))
        data = data[8 + length :]
    return found


def joined(data: bytes) -> dict[int, bytes]:
    """A multiplexed stream's content by stream."""
    found: dict[int, bytes] = {}
    for stream, chunk in frames(data):
        found[stream] = found.get(stream, b"") + chunk
    return found
