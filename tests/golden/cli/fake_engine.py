"""A tiny scripted engine on a Unix socket: each route has its replies, and every request is remembered."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


@dataclass
class Reply:
    """A reply: JSON (`value`), text lines of a stream, or frames of a hijacked stream, sent after the start."""

    status: int = 200
    value: Any = None
    lines: list[Any] | None = None
    frames: list[tuple[int, str]] | None = None
    raw: str | None = None  # what a terminal's stream sends
    after_start: bool = False
    content_type: str = "application/json"


@dataclass
class FakeEngine:
    """Routes are "METHOD /path" without the version; the last reply of a route is repeated."""

    socket: Path
    routes: dict[str, list[Reply]] = field(default_factory=dict)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    api_version: str | None = "1.50"
    started: threading.Event = field(default_factory=threading.Event)
    stdin: bytearray = field(default_factory=bytearray)

    def __enter__(self) -> FakeEngine:
        engine = self

        class Handler(EngineHandler):
            fake = engine

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

        self._server = Server(str(self.socket), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    def on(self, route: str, *replies: Reply) -> None:
        self.routes[route] = list(replies)

    def calls(self) -> list[str]:
        """The requests in order, with their paths but without queries."""
        return [f"{method} {target.split('?')[0]}" for method, target, _ in self.requests]


class EngineHandler(BaseHTTPRequestHandler):
    """Answers one connection."""

    fake: FakeEngine
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        fake, path = self.fake, self.path
        fake.headers.append(dict(self.headers))
        if path == "/_ping":
            fake.requests.append((self.command, path, None))
            self.head(200, "text/plain", {"Content-Length": "0"})
            return
        if path.startswith("/v1."):
            path = "/" + path[1:].partition("/")[2]
        fake.requests.append((self.command, self.path, json.loads(body) if body else None))
        replies = fake.routes.get(f"{self.command} {path.split('?')[0]}")
        if not replies:
            replies = [Reply(404, {"message": f"page not found: {self.command} {path}"})]
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if path.endswith("/start"):
            fake.started.set()
        self.send(reply)

    do_GET = do_POST = do_HEAD = do_DELETE = answer

    def head(self, status: int, content_type: str, more: dict[str, str]) -> None:
        self.send_response(status)
        if self.fake.api_version:
            self.send_header("Api-Version", self.fake.api_version)
        self.send_header("Content-Type", content_type)
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, reply: Reply) -> None:
        if reply.frames is not None or reply.raw is not None:
            self.hijack(reply)
        elif reply.lines is not None or reply.after_start:
            self.head(reply.status, reply.content_type, {"Transfer-Encoding": "chunked"})
            self.wfile.flush()
            if reply.after_start:
                self.fake.started.wait(60)
            for line in reply.lines if reply.lines is not None else [reply.value]:
                data = json.dumps(line).encode() + b"\r\n"
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
            self.wfile.write(b"0\r\n\r\n")
        else:
            data = b"" if reply.value is None else json.dumps(reply.value).encode()
            self.head(reply.status, reply.content_type, {"Content-Length": str(len(data))})
            self.wfile.write(data)

    def hijack(self, reply: Reply) -> None:
        """Take the connection over: wait for the start and the end of stdin (a terminal's: a line), then send."""
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        self.fake.started.wait(60)
        while data := self.connection.recv(65536):
            self.fake.stdin += data
            if reply.raw is not None and data.endswith(b"\r"):
                self.wfile.write(reply.raw.encode())
                return
        for stream, text in reply.frames or []:
            payload = text.encode()
            self.wfile.write(bytes((stream, 0, 0, 0)) + len(payload).to_bytes(4, "big") + payload)


def ago(seconds: float) -> int:
    """The Unix time so many seconds ago."""
    return int(time.time() - seconds)
