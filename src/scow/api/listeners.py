"""Sockets that the daemon listens on: unix sockets and TCP, with TLS or without."""

import asyncio
import contextlib
import errno
import grp
import logging
import os
import socket
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from scow.api.tls import TlsLayer
from scow.errors import Conflict, Internal, InvalidArgument

_log = logging.getLogger(__name__)

DEFAULT_PORT: Final = 2375
DEFAULT_TLS_PORT: Final = 2376
_BACKLOG: Final = 1024

ProtocolFactory = Callable[[], asyncio.Protocol]


class BadHost(InvalidArgument):
    """A listening address that can't be understood."""

    def __init__(self, host: str, why: str) -> None:
        super().__init__(f"unable to parse host {host!r}: {why}")


class SocketInUse(Conflict):
    """Another process already answers there."""

    def __init__(self, address: str) -> None:
        super().__init__(f"can't listen on {address}: another process is listening there already")


class CannotListen(Internal):
    """The system refused an address."""

    def __init__(self, address: str, error: OSError) -> None:
        super().__init__(f"can't listen on {address}: {error.strerror or error}")


class Listener:
    """One bound socket, not served yet: binding comes before the engine is opened, serving after."""

    def __init__(self, address: str, sock: socket.socket, path: Path | None) -> None:
        self.address = address
        self._sock = sock
        self._path = path
        self._identity = (st.st_dev, st.st_ino) if path is not None and (st := path.lstat()) else None
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The TCP port that it got."""
        return int(self._sock.getsockname()[1])

    async def serve(self, factory: ProtocolFactory, tls: ssl.SSLContext | None) -> None:
        """Accept connections. TLS is for TCP alone: who can open the unix socket is decided by its mode."""
        loop = asyncio.get_running_loop()
        if self._path is not None:
            self._server = await loop.create_unix_server(factory, sock=self._sock, backlog=_BACKLOG)
            return
        if tls is not None:
            context, plain = tls, factory

            def secured() -> asyncio.Protocol:
                return TlsLayer(context, plain)

            factory = secured
        self._server = await loop.create_server(factory, sock=self._sock, backlog=_BACKLOG)
        _log.info("API listens on %s", self.address)

    def close(self) -> None:
        """Stop accepting and remove the socket's name, if it is still ours."""
        if self._server is not None:
            self._server.close()
        self._sock.close()
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                st = self._path.lstat()
                if (st.st_dev, st.st_ino) == self._identity:
                    self._path.unlink()


def bind(host: str, *, tls: bool, group: str = "docker") -> Listener:
    """Bind an address such as `unix:///run/scow/scow.sock`, `tcp://127.0.0.1:2375` or `fd://`.

    Raises BadHost, SocketInUse, CannotListen.
    """
    parts = urlsplit(host)
    if parts.scheme == "unix":
        path = parts.netloc + parts.path
        if not path:
            raise BadHost(host, "no path")
        return _bind_unix(host, Path(path), group)
    if parts.scheme == "tcp":
        try:
            port = parts.port
        except ValueError as error:
            raise BadHost(host, str(error)) from error
        if parts.path.strip("/") or parts.query:
            raise BadHost(host, "a TCP address has no path")
        return _bind_tcp(host, parts.hostname or "127.0.0.1", _default_port(tls) if port is None else port)
    if parts.scheme == "fd":
        return _inherited(host)
    raise BadHost(host, "expected unix://PATH or tcp://HOST:PORT")


def _default_port(tls: bool) -> int:
    return DEFAULT_TLS_PORT if tls else DEFAULT_PORT


def _bind_unix(address: str, path: Path, group: str) -> Listener:
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_stale(address, path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Nobody may get in between bind and chmod.
        before = os.umask(0o177)
        try:
            sock.bind(os.fspath(path))
        finally:
            os.umask(before)
        try:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        except KeyError:
            _log.warning("there is no group %s: only root may use %s", group, address)
        except PermissionError as error:
            _log.warning("%s can't be given to group %s: %s", address, group, error.strerror)
        os.chmod(path, 0o660)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise CannotListen(address, error) from error
    return Listener(address, sock, path)


def _clear_stale(address: str, path: Path) -> None:
    """Remove a socket that nobody listens on any more. Raises SocketInUse, CannotListen."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise CannotListen(address, OSError(errno.EEXIST, "the file exists and is not a socket"))
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return
        except BlockingIOError:
            pass  # a full backlog: somebody is there
        except OSError as error:
            raise CannotListen(address, error) from error
    raise SocketInUse(address)


def _bind_tcp(address: str, host: str, port: int) -> Listener:
    try:
        family, _, _, _, name = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise CannotListen(address, error) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(name)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise SocketInUse(address) from error
        raise CannotListen(address, error) from error
    return Listener(address, sock, None)


def _inherited(address: str) -> Listener:
    """Take the first socket that systemd hands over (`LISTEN_FDS`). Raises CannotListen."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS", "0") == "0":
        raise CannotListen(address, OSError(errno.ENOTCONN, "no sockets found via socket activation"))
    sock = socket.socket(fileno=3)
    sock.set_inheritable(False)
    # systemd owns the socket's name, so it is served as it is and not removed.
    return _Activated(address, sock)


class _Activated(Listener):
    def __init__(self, address: str, sock: socket.socket) -> None:
        super().__init__(address, sock, None)

    async def serve(self, factory: ProtocolFactory, tls: ssl.SSLContext | None) -> None:
        if self._sock.family == socket.AF_UNIX:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(factory, sock=self._sock, backlog=_BACKLOG)
        else:
            await super().serve(factory, tls)
