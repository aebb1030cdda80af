"""Connections whose client ends its side after a request: it is answered all the same.

asyncio closes a connection at its end of input unless the protocol wants otherwise, and aiohttp's doesn't: who sends
a request and shuts the sending side down, as simple clients and some relays do, would get nothing.
"""

from typing import Any

from aiohttp import StreamReader, web


class Connection(web.RequestHandler):
    """One connection. Over TLS it ends with its client's side, since asyncio's TLS cannot stay half open."""

    __slots__ = ("_answered", "_body", "_ended")

    def __init__(self, manager: "Connections", **options: Any) -> None:
        super().__init__(manager, **options)
        self._answered = 0
        self._body: StreamReader | None = None  # of the request that came last
        self._ended = False

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages:
            self._body = self._messages[-1][1]

    def eof_received(self) -> bool | None:  # type: ignore[override]  # aiohttp answers nothing, which asyncio takes for no
        # Counted, since aiohttp's own word for being busy comes a turn of the loop after the request.
        is_idle = self._request_count == self._answered
        is_cut = self._body is not None and not self._body.is_eof()
        if is_idle or is_cut or self.ssl_context is not None:
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


class Connections(web.Server):
    """What asyncio asks for a protocol for each connection."""

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)
