"""TLS that can stay half open.

A client that has no more input ends its side of an attached stream with a `close_notify` and goes on reading.
asyncio's own TLS answers that by closing the connection, and the output is lost. So the server's end is held here:
`TlsLayer` sits on the plain transport and hands decrypted bytes to an ordinary protocol, through a transport that
reports the client's `close_notify` as an end of file and goes on writing if the protocol wants to.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

_log = logging.getLogger(__name__)

_HANDSHAKE_S: Final = 30.0
_READ_SIZE: Final = 256 << 10
_WRITE_SIZE: Final = 64 << 10


class TlsLayer(asyncio.Protocol):
    """The lower half: a protocol on the plain transport."""

    def __init__(self, context: ssl.SSLContext, protocol_factory: Callable[[], asyncio.Protocol]) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._protocol_factory = protocol_factory
        self._transport: asyncio.Transport | None = None
        self._upper: TlsTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._eof_given = False

    @property
    def tls(self) -> ssl.SSLObject:
        return self._tls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(_HANDSHAKE_S, transport.close)

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            if self._upper is None and not self._handshake():
                return
            self._read()
        except ssl.SSLError as error:
            _log.debug("TLS: %s", error)
            self.flush()  # the alert that tells the client why
            self._close()

    def eof_received(self) -> bool:
        """The TCP connection's end without a close_notify: treated as the end of input as well."""
        self._give_eof()
        return self._upper is not None and not self._upper.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None
        if self._upper is not None:
            self._upper.lost(exc)

    def pause_writing(self) -> None:
        if self._upper is not None:
            self._upper.protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._upper is not None:
            self._upper.protocol.resume_writing()

    def encrypt(self, data: bytes | bytearray | memoryview) -> None:
        """Send application data."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _WRITE_SIZE):
            self._tls.write(view[start : start + _WRITE_SIZE])
        self.flush()

    def end(self) -> None:
        """Send our close_notify. The client may go on sending."""
        # "Want read" is no failure: the client's own close_notify is still to come, and need not.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self.flush()

    def flush(self) -> None:
        if self._transport is not None and self._outgoing.pending:
            self._transport.write(self._outgoing.read())

    def _handshake(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self.flush()
            return False
        self.flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        assert self._transport is not None
        protocol = self._protocol_factory()
        self._upper = TlsTransport(self, self._transport, protocol)
        protocol.connection_made(self._upper)
        return True

    def _read(self) -> None:
        assert self._upper is not None
        while not self._upper.reading_paused:
            try:
                data = self._tls.read(_READ_SIZE)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                self._give_eof()
                break
            if not data:
                self._give_eof()
                break
            self._upper.protocol.data_received(data)
        self.flush()  # renegotiation, key updates

    def read_on(self) -> None:
        """Hand on what was decrypted or is waiting to be, after a pause."""
        if self._transport is not None:
            try:
                self._read()
            except ssl.SSLError as error:
                _log.debug("TLS: %s", error)
                self._close()

    def _give_eof(self) -> None:
        if self._upper is not None and not self._eof_given:
            self._eof_given = True
            if not self._upper.protocol.eof_received():
                self._upper.close()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class TlsTransport(asyncio.Transport):
    """The upper half: what the protocol above sees."""

    def __init__(self, layer: TlsLayer, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._layer = layer
        self._transport = transport
        self.protocol = protocol
        self.reading_paused = False
        self._closing = False
        self._ended = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._layer.tls
        if name == "sslcontext":
            return self._layer.tls.context
        if name == "peercert":
            return self._layer.tls.getpeercert()
        if name == "cipher":
            return self._layer.tls.cipher()
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def is_reading(self) -> bool:
        return not self.reading_paused and not self._closing

    def pause_reading(self) -> None:
        self.reading_paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self.reading_paused and not self._closing:
            self.reading_paused = False
            self._transport.resume_reading()
            asyncio.get_running_loop().call_soon(self._layer.read_on)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._transport.get_write_buffer_limits()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if data and not self._ended and not self._transport.is_closing():
            self._layer.encrypt(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Send a close_notify, and go on reading."""
        if not self._ended and not self._transport.is_closing():
            self._ended = True
            self._layer.end()

    def close(self) -> None:
        if not self._closing:
            self.write_eof()
            self._closing = True
            self._transport.close()

    def abort(self) -> None:
        self._closing = True
        self._transport.abort()

    def lost(self, exc: Exception | None) -> None:
        """The plain connection is gone."""
        self._closing = True
        self.protocol.connection_lost(exc)


def server_context(*, cert: str, key: str, ca: str | None) -> ssl.SSLContext:
    """Make the context of a server; with `ca`, clients must show a certificate that it signed. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["http/1.1"])
    if ca is not None:
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
