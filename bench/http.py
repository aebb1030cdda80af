"""A small HTTP client over a Unix socket, cheap enough that what it costs doesn't show."""

import contextlib
import http.client
import json
import socket
from pathlib import Path
from typing import Any


class ApiError(Exception):
    """The engine refused."""

    def __init__(self, method: str, path: str, status: int, body: bytes) -> None:
        super().__init__(f"{method} {path}: {status} {body.decode(errors='replace').strip()}")


class Api(http.client.HTTPConnection):
    """One connection that is kept open; not for several threads at once."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=300, blocksize=1 << 20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def call(self, method: str, path: str, body: Any = None) -> bytes:
        """One call to its end. Raises ApiError."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        return self.send_bytes(method, path, json.dumps(body) if body is not None else None, headers)

    def send_bytes(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> bytes:
        """One call to its end, of bytes or an open file. Raises ApiError."""
        try:
            self.request(method, path, body, headers or {})
            answer = self.getresponse()
            data = answer.read()
        except BaseException:  # also an interrupt: the connection is in the middle of a reply
            self.close()
            raise
        if answer.status >= 400:
            raise ApiError(method, path, answer.status, data)
        return data

    def json(self, method: str, path: str, body: Any = None) -> Any:
        """One call, its answer decoded."""
        data = self.call(method, path, body)
        return json.loads(data) if data.strip() else None

    def create(self, image: str, command: list[str], **more: Any) -> str:
        """Create a container and return its ID."""
        id: str = self.json("POST", "/v1.41/containers/create", {"Image": image, "Cmd": command, **more})["Id"]
        return id

    def start(self, id: str) -> None:
        self.call("POST", f"/v1.41/containers/{id}/start")

    def wait(self, id: str) -> int:
        code: int = self.json("POST", f"/v1.41/containers/{id}/wait")["StatusCode"]
        return code

    def remove(self, id: str) -> None:
        self.call("DELETE", f"/v1.41/containers/{id}?force=1&v=1")

    def stream(self, method: str, path: str) -> int:
        """One call whose answer is only counted: its bytes. Raises ApiError."""
        self.request(method, path)
        answer = self.getresponse()
        if answer.status >= 400:
            raise ApiError(method, path, answer.status, answer.read())
        buffer = bytearray(1 << 20)
        size = 0
        while count := answer.readinto(buffer):
            size += count
        return size


def hijack(path: Path, target: str, body: bytes = b"") -> tuple[socket.socket, bytes]:
    """POST and take the connection over: the socket, and what came after the head. Raises ApiError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(300)
        connection.connect(str(path))
        head = (
            f"POST {target} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(64 << 10)
            if not piece:
                break
            data += piece
        answered, _, rest = data.partition(b"\r\n\r\n")
        if not answered.startswith((b"HTTP/1.1 101", b"HTTP/1.1 200")):
            raise ApiError("POST", target, int([*answered.split(), b"0", b"0"][1]), data)
    except BaseException:
        connection.close()
        raise
    return connection, rest


def drain(connection: socket.socket) -> int:
    """Read to the end and count."""
    buffer = bytearray(1 << 20)
    size = 0
    with contextlib.suppress(ConnectionResetError):
        while count := connection.recv_into(buffer):
            size += count
    return size
