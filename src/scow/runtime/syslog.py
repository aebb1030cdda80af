"""Sending lines to a syslog server: addresses, formats and transports of docker's driver.

RFC 3164, RFC 5424 and the form that local daemons read; over unix, UDP, TCP and TLS (RFC 5425 with octet counts).
"""

import asyncio
import contextlib
import datetime
import errno
import os
import socket
import ssl
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from scow.errors import InvalidArgument, ScowError
from scow.runtime.attach import STDERR
from scow.runtime.logs import LogLine

LOCAL_PATHS: Final = ("/dev/log", "/var/run/syslog", "/var/run/log")
CONNECT_TIMEOUT_S: Final = 10.0
SEND_TIMEOUT_S: Final = 10.0
_SECURE: Final = "tcp+tls"
_FORMATS: Final = ("", "rfc3164", "rfc5424", "rfc5424micro")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_FACILITIES: Final = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"),
)
_DAEMON: Final = 3
_ERROR, _INFO = 3, 6  # severities: standard error, standard output


class SyslogUnreachable(ScowError):
    """Nobody takes the lines."""


class Address(msgspec.Struct, frozen=True):
    """Where lines go: scheme "" is the machine's own daemon; `path` of unix and unixgram, else host and port."""

    scheme: str = ""
    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def name(self) -> str:
        """The address as messages show it."""
        return self.path or (f"{self.host}:{self.port}" if self.host else "local syslog")


class TlsFiles(msgspec.Struct, frozen=True):
    """How a TLS server is known, and we to it; paths."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    skip_verify: bool = False


def parse_address(text: str) -> Address:
    """Read `proto://address`. Raises InvalidArgument."""
    if not text:
        return Address()
    scheme, mark, rest = text.partition("://")
    if not mark:
        raise InvalidArgument(f"syslog-address should be in form proto://address, got {text}")
    if scheme in ("unix", "unixgram"):
        return Address(scheme, path=rest)
    if scheme not in ("tcp", "udp", _SECURE):
        raise InvalidArgument(f"unsupported scheme: '{scheme}'")
    try:
        parts = urlsplit(f"tcp://{rest}")
        port = parts.port
    except ValueError as error:
        raise InvalidArgument(f"syslog-address: {error}: {text}") from error
    return Address(scheme, host=parts.hostname or "", port=514 if port is None else port)


def parse_facility(text: str) -> int:
    """Read a facility's name or number; "" is `daemon`. Raises InvalidArgument."""
    if not text:
        return _DAEMON
    if text in _FACILITIES:
        return _FACILITIES.index(text)
    if text.isascii() and text.isdigit() and int(text) < len(_FACILITIES):
        return int(text)
    raise InvalidArgument("invalid syslog facility")


def parse_format(text: str) -> str:
    """Check a format's name. Raises InvalidArgument."""
    if text not in _FORMATS:
        raise InvalidArgument("Invalid syslog format")
    return text


class SyslogFormat(msgspec.Struct, frozen=True, kw_only=True):
    """How a line is written."""

    name: str = ""
    facility: int = _DAEMON
    tag: str = ""
    hostname: str = ""
    counted: bool = False  # RFC 5425: each message begins with its length

    def message(self, line: LogLine) -> bytes:
        """The message for a line, with its newline."""
        priority = self.facility << 3 | (_ERROR if line.stream == STDERR else _INFO)
        seconds, rest = divmod(line.time, 10**9)
        time = datetime.datetime.fromtimestamp(seconds).astimezone().replace(microsecond=rest // 1000)
        pid = os.getpid()
        if self.name.startswith("rfc5424"):
            stamp = time.isoformat(timespec="microseconds" if self.name == "rfc5424micro" else "seconds")
            stamp = stamp.removesuffix("+00:00") + "Z" if stamp.endswith("+00:00") else stamp
            head = f"<{priority}>1 {stamp} {self.hostname} {self.tag} {pid} {self.tag} - "
        else:
            stamp = f"{_MONTHS[time.month - 1]} {time.day:2d} {time:%H:%M:%S}"
            host = f"{self.hostname} " if self.name == "rfc3164" else ""
            head = f"<{priority}>{stamp} {host}{self.tag}[{pid}]: "
        message = head.encode() + line.data.removesuffix(b"\n") + b"\n"
        return b"%d %s" % (len(message), message) if self.counted else message


class SyslogSink:
    """A connection to a syslog server, opened when it is needed."""

    def __init__(self, address: Address, form: SyslogFormat, tls: TlsFiles | None = None) -> None:
        self._address = address
        self._format = form
        self._tls = tls or TlsFiles()
        self._datagrams: socket.socket | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._watch: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, if that has not been done. Raises SyslogUnreachable."""
        if self._datagrams is not None or self._writer is not None:
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._connect()
        except TimeoutError as error:
            raise SyslogUnreachable(f"dial {self._what()}: i/o timeout") from error
        except (OSError, ssl.SSLError) as error:
            await self.aclose()
            reason = error.strerror or str(error)
            raise SyslogUnreachable(f"dial {self._what()}: connect: {reason.lower()}") from error

    def _what(self) -> str:
        return f"{self._address.scheme or 'unix'} {self._address.name}"

    async def _connect(self) -> None:
        address = self._address
        if address.scheme == "":
            await self._connect_local(LOCAL_PATHS)
        elif address.scheme == "unixgram":
            self._datagrams = _datagrams(socket.AF_UNIX, address.path)
        elif address.scheme == "udp":
            found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
            family, _, _, _, target = found[0]
            self._datagrams = _datagrams(family, target)
        elif address.scheme == "unix":
            self._begin(await asyncio.open_unix_connection(address.path))
        else:
            context = await asyncio.to_thread(self._context) if address.scheme == _SECURE else None
            self._begin(await asyncio.open_connection(address.host, address.port, ssl=context))

    async def _connect_local(self, paths: Sequence[str]) -> None:
        for path in paths:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                with contextlib.suppress(OSError):
                    if kind == socket.SOCK_DGRAM:
                        self._datagrams = _datagrams(socket.AF_UNIX, path)
                    else:
                        self._begin(await asyncio.open_unix_connection(path))
                    return
        raise FileNotFoundError(2, "Unix syslog delivery error")

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._tls.ca or None)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Python 3.13 sets it; docker is content with less
        if self._tls.skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self._tls.cert:
            context.load_cert_chain(self._tls.cert, self._tls.key or None)
        return context

    def _begin(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        reader, self._writer = streams
        # A server that is gone is noticed by its end of the connection: the first write to it would succeed.
        self._watch = asyncio.get_running_loop().create_task(_until_closed(reader))

    async def send(self, lines: Sequence[LogLine]) -> None:
        """Send lines. Raises SyslogUnreachable; the next call connects anew."""
        await self.open()
        try:
            # Many lines take a while to be written out: in a thread.
            if self._datagrams is not None:
                await asyncio.to_thread(self._send_datagrams, self._datagrams, lines)
            elif self._writer is not None:
                data = await asyncio.to_thread(lambda: b"".join([self._format.message(line) for line in lines]))
                if self._watch is not None and self._watch.done():
                    raise ConnectionResetError(errno.ECONNRESET, "connection reset by peer")
                self._writer.write(data)
                await self._writer.drain()
        except OSError as error:
            await self.aclose()
            raise SyslogUnreachable(f"write {self._what()}: {error.strerror or error}") from error

    def _send_datagrams(self, sock: socket.socket, lines: Sequence[LogLine]) -> None:
        for line in lines:
            message = self._format.message(line)
            try:
                sock.send(message)
            except ConnectionRefusedError:
                if sock.family == socket.AF_UNIX:
                    raise
                sock.send(message)  # that was the answer to an earlier one: UDP promises nothing

    async def aclose(self) -> None:
        """Disconnect."""
        if self._datagrams is not None:
            self._datagrams.close()
            self._datagrams = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await writer.wait_closed()


async def _until_closed(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(4096):
            pass  # nothing that a syslog server says means anything


def _datagrams(family: int, target: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(SEND_TIMEOUT_S)
        sock.connect(target)  # of datagrams: nothing is waited for
    except BaseException:
        sock.close()
        raise
    return sock
