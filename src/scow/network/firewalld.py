"""Our bridges in firewalld's zone `trusted`, where nothing is refused: its own way to let containers through.

firewalld is asked over D-Bus, of which this speaks as much as it takes to call a method with strings and read a string
(D-Bus specification, "Message Protocol"); firewalld.dbus(5). A bridge that somebody put into a zone stays there.
"""

import asyncio
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from scow.errors import Unavailable

TABLE: Final = "firewalld"
"""The table of its rules."""

BUS: Final = Path("/run/dbus/system_bus_socket")
ZONE: Final = "trusted"
_NAME: Final = "org.fedoraproject.FirewallD1"
_PATH: Final = "/org/fedoraproject/FirewallD1"
_INTERFACE: Final = "org.fedoraproject.FirewallD1.zone"
_TIMEOUT_S: Final = 3.0
_MAX_MESSAGE: Final = 1 << 20  # bytes: errors carry a text, zones a name
_CALL: Final = 1
_RETURN: Final = 2
_ERROR: Final = 3
_NO_AUTO_START: Final = 2
_ENDS: Final = {"s": "<I", "o": "<I", "g": "<B"}


class FirewalldFailed(Unavailable):
    """firewalld, or the bus, didn't do what it was asked."""


class Firewalld:
    """Calls to firewalld; a connection for each batch of them."""

    def __init__(self, bus: Path = BUS) -> None:
        self._bus = bus

    async def trust(self, bridges: Iterable[str]) -> list[str]:
        """Put bridges that are in no zone into `trusted`; return those that are in it. Raises FirewalldFailed."""
        trusted = []
        for bridge in bridges:
            zone = await self._ask("getZoneOfInterface", bridge)
            if not zone:
                await self._ask("addInterface", ZONE, bridge)
            if zone in ("", ZONE):
                trusted.append(bridge)
        return trusted

    async def release(self, bridges: Iterable[str]) -> None:
        """Take bridges out of `trusted`. Raises FirewalldFailed."""
        for bridge in bridges:
            if await self._ask("getZoneOfInterface", bridge) == ZONE:
                await self._ask("removeInterface", ZONE, bridge)

    async def _ask(self, method: str, *arguments: str) -> str:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(self._bus)
                try:
                    return await _conversation(reader, writer, method, arguments)
                finally:
                    writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError, struct.error) as error:
            raise FirewalldFailed(f"cannot ask firewalld to {method} {' '.join(arguments)}: {error!r}") from error


async def _conversation(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, arguments: tuple[str, ...]
) -> str:
    writer.write(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
    if not (await reader.readuntil(b"\r\n")).startswith(b"OK"):
        raise ValueError("the bus doesn't let us in")
    writer.write(b"BEGIN\r\n")
    bus = "org.freedesktop.DBus"
    writer.write(call(1, bus, "/org/freedesktop/DBus", bus, "Hello"))
    writer.write(call(2, _NAME, _PATH, _INTERFACE, method, *arguments))
    await writer.drain()
    while True:
        kind, answered, said = await read_message(reader)
        if kind == _ERROR:
            raise ValueError(said)
        if kind == _RETURN and answered == 2:
            return said


def call(serial: int, name: str, path: str, interface: str, member: str, *arguments: str) -> bytes:
    """Write a method call whose arguments are strings."""
    fields = ((1, "o", path), (2, "s", interface), (3, "s", member), (6, "s", name), (8, "g", "s" * len(arguments)))
    head = b""
    for code, kind, value in fields:
        head = _aligned(head, 8) + bytes([code, 1]) + kind.encode() + b"\0"
        head = (_aligned(head, 4) if kind != "g" else head) + _text(_ENDS[kind], value)
    body = b""
    for argument in arguments:
        body = _aligned(body, 4) + _text("<I", argument)
    start = struct.pack("<cBBBIII", b"l", _CALL, _NO_AUTO_START, 1, len(body), serial, len(head))
    return _aligned(start + head, 8) + body


async def read_message(reader: asyncio.StreamReader) -> tuple[int, int, str]:
    """Read a message: its kind, the serial that it answers, and its first argument if that is a string."""
    start = await reader.readexactly(16)
    order = "<" if start[:1] == b"l" else ">"
    kind = start[1]
    body_size, _, fields_size = struct.unpack(f"{order}III", start[4:])
    if body_size > _MAX_MESSAGE or fields_size > _MAX_MESSAGE:
        raise ValueError("an overlong message")
    fields = await reader.readexactly((fields_size + 7) & ~7)
    body = await reader.readexactly(body_size)
    answered, signature = _fields(fields[:fields_size], order)
    if not signature.startswith("s"):
        return kind, answered, ""
    (size,) = struct.unpack_from(f"{order}I", body)
    return kind, answered, body[4 : 4 + size].decode(errors="replace")


def _fields(data: bytes, order: str) -> tuple[int, str]:
    """Read a header's fields: the serial that the message answers, and the signature of its arguments."""
    answered, signature, offset = 0, "", 0
    while offset < len(data):
        offset = (offset + 7) & ~7
        code, kind = data[offset], chr(data[offset + 2])
        offset += 4
        if kind == "g":
            signature = data[offset + 1 : offset + 1 + data[offset]].decode() if code == 8 else signature
            offset += 2 + data[offset]
            continue
        offset = (offset + 3) & ~3
        (value,) = struct.unpack_from(f"{order}I", data, offset)
        offset += 4
        if kind == "u":
            answered = value if code == 5 else answered
        else:
            offset += value + 1
    return answered, signature


def _aligned(data: bytes, size: int) -> bytes:
    return data + bytes(-len(data) % size)


def _text(length: str, value: str) -> bytes:
    data = value.encode()
    return struct.pack(length, len(data)) + data + b"\0"
