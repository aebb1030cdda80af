"""Attaching by websocket, for clients that can't leave HTTP otherwise: browsers."""

import asyncio
from contextlib import suppress

from aiohttp import WSMsgType, web

from scow.api import mux
from scow.api.call import Call
from scow.api.hijack import Gone
from scow.errors import InvalidArgument, ScowError

_CLOSE_TIMEOUT_S = 5.0


async def attach(call: Call) -> web.StreamResponse:
    """Attach; output comes as binary messages, of both streams alike and without frames, as docker sends it."""
    socket = web.WebSocketResponse(timeout=_CLOSE_TIMEOUT_S, max_msg_size=1 << 20, compress=False)
    if not socket.can_prepare(call.request):
        raise InvalidArgument("the request is no websocket handshake")
    attachment = await call.engine.containers.attachment(
        call.params["name"],
        stdin=call.flag("stdin"),
        stdout=call.flag("stdout"),
        stderr=call.flag("stderr"),
        stream=call.flag("stream"),
        logs=call.flag("logs"),
        detach_keys=call.text("detachKeys"),
    )
    call.begun = socket
    try:
        await socket.prepare(call.request)
    except BaseException:
        with suppress(ConnectionError):
            await attachment.run(Gone())  # it is registered, and would hold up whatever the container says
        raise
    client = _Client(socket, text=call.version < (1, 28))
    reading = asyncio.ensure_future(client.read())
    try:
        with suppress(ConnectionError, ScowError):
            await attachment.run(client)
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        await socket.close()
    return socket


class _Client:
    """The client's end: one message is one piece of input."""

    def __init__(self, socket: web.WebSocketResponse, *, text: bool) -> None:
        self._socket = socket
        self._text = text
        self._input: asyncio.Queue[bytes] = asyncio.Queue(maxsize=16)
        self._closed = asyncio.Event()

    async def read(self) -> None:
        """Take messages until the client closes; a full queue holds it back."""
        try:
            async for message in self._socket:
                if message.type is WSMsgType.TEXT:
                    await self._input.put(str(message.data).encode())
                elif message.type is WSMsgType.BINARY and message.data:
                    await self._input.put(bytes(message.data))
        finally:
            self._closed.set()

    async def receive(self) -> bytes:
        """Give the next input, b"" at its end."""
        if self._closed.is_set() and self._input.empty():
            return b""
        waits = {asyncio.ensure_future(self._input.get()), asyncio.ensure_future(self._closed.wait())}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            found = [each.result() for each in done]
            return next((each for each in found if isinstance(each, bytes)), b"")
        finally:
            for wait in waits:
                wait.cancel()

    async def send(self, chunks: list[tuple[int, bytes]]) -> None:
        """Send output. Raises ConnectionError when the client is gone."""
        data = mux.raw(chunks)
        if self._text:
            await self._socket.send_str(data.decode("utf-8", "replace"))
        else:
            await self._socket.send_bytes(data)

    async def wait_closed(self) -> None:
        """Return when the client is gone."""
        await self._closed.wait()
