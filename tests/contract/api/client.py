"""The API served over the double, and a client that shows every byte."""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from tests.contract.api.double import Engine

from scow.api.app import make_app
from scow.api.connection import connections
from scow.api.listeners import Listener, bind


@dataclass
class Reply:
    """A whole answer, as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json["message"])


@dataclass
class Connection:
    """One connection; `head` and `chunk` read a reply piece by piece."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    trace: list[bytes] = field(default_factory=list)

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        more: bytes = b"",
    ) -> None:
        lines = {"Host": "scow", **(headers or {})}
        if body is not None:
            lines = {"Content-Type": "application/json", "Content-Length": str(len(body)), **lines}
        elif method == "POST" and "Transfer-Encoding" not in lines:
            lines = {"Content-Length": "0", **lines}
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
        self.writer.write(head.encode() + b"\r\n" + (body or b"") + more)
        await self.writer.drain()

    async def head(self) -> Reply:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        return Reply(int(lines[0].split()[1]), headers, lines[0].encode())

    async def chunk(self) -> bytes:
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def reply(self, method: str = "GET") -> Reply:
        reply = await self.head()
        if method == "HEAD" or reply.status in (204, 304):
            reply.body = b""
        elif reply.headers.get("Transfer-Encoding") == "chunked":
            reply.body = b""
            while piece := await self.chunk():
                reply.body += piece
        else:
            reply.body = await self.reader.readexactly(int(reply.headers["Content-Length"]))
        return reply

    async def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        await self.send(method, path, body, headers)
        return await self.reply(method)

    def close(self) -> None:
        self.writer.close()


class Server:
    """The double behind the API, and connections to it that the fixture closes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = Engine()
        self.runner = web.AppRunner(make_app(self.engine), handler_cancellation=True, shutdown_timeout=1.0)
        self._listener: Listener | None = None
        self._connections: list[Connection] = []

    async def start(self) -> None:
        await self.runner.setup()
        assert self.runner.server is not None
        self._listener = bind(f"unix://{self.path}", tls=False)
        await self._listener.serve(connections(self.runner.server), None)

    async def stop(self) -> None:
        for connection in self._connections:
            connection.close()
        if self._listener is not None:
            self._listener.close()
        await self.runner.cleanup()

    async def connect(self) -> Connection:
        connection = Connection(*await asyncio.open_unix_connection(str(self.path)))
        self._connections.append(connection)
        return connection

    async def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        return await (await self.connect()).ask(method, path, body, headers)
