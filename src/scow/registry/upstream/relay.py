"""Between the workers of one server: the one that holds the cache answers for the others, over a socket of their own.

So a blob that clients of all workers want is fetched once, and one worker knows what an upstream has said. The socket
is an abstract one, which leaves nothing behind; who speaks to it has to know a secret that only the workers have.
"""

import asyncio
import hmac
import secrets
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

import aiohttp
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse
from aiohttp.web_server import Server

from scow.registry.calls import Call, parse_path
from scow.registry.errors import PageUnknown, Refusal, UpstreamUnavailable
from scow.registry.replies import Flow, HttpReply, Reply, json_reply, refusal_reply

SECRET: Final = "Scow-Relay-Secret"
FORWARDED: Final = ("Accept", "If-Match", "If-None-Match", "If-Range", "Range", "X-Request-Id")
_OWN_HEADERS: Final = {
    *("content-length", "date", "connection", "docker-distribution-api-version", "x-request-id", "transfer-encoding")
}
CHUNK_SIZE: Final = 256 << 10
BACKLOG: Final = 1024


class RelaySocket:
    """Where the worker with the cache listens. Made before the workers are, which share it."""

    def __init__(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind("")  # the kernel finds a name
        self.listener.listen(BACKLOG)
        self.listener.setblocking(False)
        name = self.listener.getsockname()
        self.address = name.decode() if isinstance(name, bytes) else str(name)
        self.secret = secrets.token_hex(32)

    def close(self) -> None:
        """Close the listening socket."""
        self.listener.close()


class RelayClient:
    """Asks the worker with the cache. Whoever made it closes it."""

    def __init__(self, there: RelaySocket) -> None:
        self._there = there
        self._session: aiohttp.ClientSession | None = None

    async def forward(self, call: Call) -> Reply:
        """Let the other worker answer. Raises UpstreamUnavailable."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(self._there.address, limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=CHUNK_SIZE,
            )
        headers = {name: value for name in FORWARDED if (value := call.headers.get(name)) is not None}
        headers["X-Request-Id"] = call.request_id
        try:
            response = await self._session.request(
                call.method, f"http://cache{call.target}", headers={**headers, SECRET: self._there.secret}
            )
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamUnavailable("the worker that fetches from other registries has ended, try again") from error
        kept = [(name, value) for name, value in response.headers.items() if name.lower() not in _OWN_HEADERS]
        length = int(response.headers.get("Content-Length", "0"))
        if call.method == "HEAD" or length == 0:
            response.release()
            return Reply(response.status, kept, length=length)
        return Reply(response.status, kept, Flow(_body(response), length))

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


async def _body(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    try:
        async for data in response.content.iter_chunked(CHUNK_SIZE):
            yield data
    except aiohttp.ClientError as error:
        raise ConnectionResetError(str(error)) from error
    finally:
        response.close()


class RelayServer:
    """Answers what the other workers forward. `start`, then `aclose`."""

    def __init__(self, here: RelaySocket, answer: Callable[[Call], Awaitable[Reply]]) -> None:
        self._here = here
        self._answer = answer
        self._http: Server | None = None
        self._listener: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._http = Server(self._handle, access_log=None, auto_decompress=False)
        # A copy: the next worker at this post goes on with the socket when this one has ended.
        self._listener = await asyncio.get_running_loop().create_server(self._http, sock=self._here.listener.dup())

    async def _handle(self, request: BaseRequest) -> StreamResponse:
        request_id = request.headers.get("X-Request-Id", "")
        try:
            if not hmac.compare_digest(request.headers.get(SECRET, ""), self._here.secret):
                raise PageUnknown(request.raw_path)
            path, _, query = request.raw_path.partition("?")
            reply = await self._answer(Call(request, parse_path(path), query, request_id))
        except Refusal as refusal:
            reply = refusal_reply(refusal)
        except OSError as error:
            reply = json_reply(500, {"errors": [{"code": "UNKNOWN", "message": str(error), "detail": None}]})
        return HttpReply(reply, keep_alive=request.keep_alive, done=_done, request_id=request_id)

    async def aclose(self) -> None:
        """Take no more, and end."""
        if self._listener is not None:
            self._listener.close()
        if self._http is not None:
            await self._http.shutdown(1.0)


def _done() -> None:
    pass
