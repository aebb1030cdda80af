"""Sending lines to systemd's journal: its native protocol over a datagram socket, with docker's fields.

systemd, docs/JOURNAL_NATIVE_PROTOCOL.md; moby daemon/logger/journald.
"""

import asyncio
import errno
import os
import re
import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from scow.errors import ScowError
from scow.runtime.attach import STDERR
from scow.runtime.logs import LogLine
from scow.wire.times import format_time

JOURNAL: Final = Path("/run/systemd/journal/socket")
SEND_TIMEOUT_S: Final = 10.0
_ERROR, _INFO = "3", "6"
_SEALS: Final = 0xF  # seal, shrink, grow, write: journald reads no file that may still change
_F_ADD_SEALS: Final = 1033


class JournalUnreachable(ScowError):
    """No journal takes the lines."""


def field_name(text: str) -> str:
    """The name of a journal field for a label or variable: capitals, digits and underscores, not at the beginning."""
    return re.sub(r"[^A-Z0-9_]", "_", text.upper()).lstrip("_")


def entry(fields: Mapping[str, bytes]) -> bytes:
    """One journal entry; values with newlines go with their length."""
    parts = []
    for name, value in fields.items():
        if b"\n" in value:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)


class JournalSink:
    """Sends lines to the journal at `path`; `fields` go with each of them."""

    def __init__(self, fields: Mapping[str, str], path: Path = JOURNAL) -> None:
        self._fields = {name: value.encode() for name, value in fields.items() if name}
        self._path = path
        self._socket: socket.socket | None = None

    async def open(self) -> None:
        """Connect, if that has not been done. Raises JournalUnreachable."""
        if self._socket is not None:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        sock.settimeout(SEND_TIMEOUT_S)
        try:
            sock.connect(str(self._path))
        except OSError as error:
            sock.close()
            raise JournalUnreachable("journald is not enabled on this host") from error
        self._socket = sock

    async def send(self, lines: Sequence[LogLine]) -> None:
        """Send lines. Raises JournalUnreachable; the next call connects anew."""
        await self.open()
        assert self._socket is not None
        try:
            await asyncio.to_thread(self._send, self._socket, lines)
        except OSError as error:
            await self.aclose()
            raise JournalUnreachable(f"write {self._path}: {error.strerror or error}") from error

    def _send(self, sock: socket.socket, lines: Sequence[LogLine]) -> None:
        for line in lines:
            data = entry(self._entry(line))
            try:
                sock.send(data)
            except OSError as error:
                if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                    raise
                _send_large(sock, data)

    def _entry(self, line: LogLine) -> dict[str, bytes]:
        fields = {
            "MESSAGE": line.data.removesuffix(b"\n"),
            "PRIORITY": (_ERROR if line.stream == STDERR else _INFO).encode(),
            **self._fields,
            "SYSLOG_TIMESTAMP": format_time(line.time).encode(),
        }
        if line.partial:
            fields["CONTAINER_PARTIAL_MESSAGE"] = b"true"
        return fields

    async def aclose(self) -> None:
        """Disconnect."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _send_large(sock: socket.socket, data: bytes) -> None:
    """Send an entry that no datagram holds: as a sealed file in memory whose descriptor goes over the socket."""
    import fcntl

    fd = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
        socket.send_fds(sock, [b""], [fd])
    finally:
        os.close(fd)
