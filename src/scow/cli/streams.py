"""Byte streams to an engine: a Unix socket, TCP, TLS, or a command that relays (ssh)."""

from __future__ import annotations

import _socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    import subprocess
    from typing import Protocol

    class Stream(Protocol):
        """A connected stream. It blocks; after `set_blocking(False)` a poll loop uses `try_recv` and `try_send`."""

        def recv(self, size: int, /) -> bytes: ...
        def sendall(self, data: bytes, /) -> None: ...
        def set_blocking(self, blocking: bool, /) -> None: ...
        def try_recv(self, size: int, /) -> bytes | None: ...
        def try_send(self, data: bytes | memoryview, /) -> int: ...
        def pending(self) -> bool: ...
        def shutdown_write(self) -> None: ...
        def fileno(self) -> int: ...
        def close(self) -> None: ...


class SocketStream:
    """A plain socket; `process` is the relay at its other end, if there is one."""

    def __init__(self, sock: _socket.socket, process: subprocess.Popen[bytes] | None = None) -> None:
        self._sock = sock
        self._process = process
        self.recv = sock.recv
        self.sendall = sock.sendall
        self.fileno = sock.fileno

    def set_blocking(self, blocking: bool, /) -> None:
        self._sock.setblocking(blocking)

    def try_recv(self, size: int, /) -> bytes | None:
        """Read what is there: b"" at the end, None if there is nothing yet."""
        try:
            return self._sock.recv(size)
        except BlockingIOError:
            return None

    def try_send(self, data: bytes | memoryview, /) -> int:
        """Send what fits now; returns how many bytes went."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def pending(self) -> bool:
        """Whether bytes wait in a buffer that poll(2) doesn't see."""
        return False

    def shutdown_write(self) -> None:
        """End our side; the other side may go on."""
        try:
            self._sock.shutdown(_socket.SHUT_WR)
        except OSError:
            return  # the peer is gone already

    def close(self) -> None:
        self._sock.close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


class TlsStream:
    """A TLS connection whose write side can be closed alone (close_notify, as Go's clients do)."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock
        self.sendall = sock.sendall
        self.fileno = sock.fileno

    def set_blocking(self, blocking: bool, /) -> None:
        self._sock.setblocking(blocking)

    def recv(self, size: int, /) -> bytes:
        import ssl

        try:
            return self._sock.recv(size)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def try_recv(self, size: int, /) -> bytes | None:
        import ssl

        try:
            return self.recv(size)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def try_send(self, data: bytes | memoryview, /) -> int:
        import ssl

        try:
            return self._sock.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def pending(self) -> bool:
        return self._sock.pending() > 0

    def shutdown_write(self) -> None:
        # SSLSocket.shutdown() would drop the TLS state and with it what the peer still sends; a non-blocking unwrap()
        # sends our close_notify, and stops where it would wait for the peer's.
        blocking = self._sock.getblocking()
        self._sock.setblocking(False)
        try:
            self._sock.unwrap()
        except OSError:
            pass
        finally:
            self._sock.setblocking(blocking)

    def close(self) -> None:
        self._sock.close()


def dial_unix(path: str) -> SocketStream:
    """Connect to a Unix socket. Raises OSError."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return SocketStream(sock)


def dial_tcp(host: str, port: int) -> SocketStream:
    """Connect to the first address of `host` that answers. Raises OSError."""
    failure: OSError | None = None
    for family, kind, protocol, _, address in _socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM):
        sock = _socket.socket(family, kind, protocol)
        try:
            sock.connect(address)
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            return SocketStream(sock)
        except OSError as error:
            sock.close()
            failure = error
    raise failure or OSError(f"no address for {host}")


def dial_tls(host: str, port: int, context: ssl.SSLContext) -> TlsStream:
    """Connect by TCP and TLS. Raises OSError (of which SSLError is one)."""
    import socket

    sock = socket.create_connection((host, port))
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    try:
        return TlsStream(context.wrap_socket(sock, server_hostname=host, suppress_ragged_eofs=True))
    except OSError:
        sock.close()
        raise


def dial_command(command: list[str]) -> SocketStream:
    """Run a command that relays its stdin and stdout to an engine (`ssh HOST docker system dial-stdio`)."""
    import subprocess

    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno(), start_new_session=True)
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return SocketStream(ours, process)
