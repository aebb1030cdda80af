"""What firewalld is told, by way of a small bus that knows nobody else."""

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from scow.network.firewalld import Firewalld, FirewalldFailed


class Bus:
    """Answers as bus and firewalld in one; `zones` are those of interfaces."""

    def __init__(self) -> None:
        self.zones: dict[str, str] = {}
        self.refused = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n")).startswith(b"\0AUTH EXTERNAL ")
        writer.write(b"OK 1234deadbeef\r\n")
        assert await reader.readuntil(b"\r\n") == b"BEGIN\r\n"
        while head := await reader.read(16):
            body_size, serial, fields_size = struct.unpack("<III", head[4:])
            fields = await reader.readexactly((fields_size + 7) & ~7)
            # Lengths of these short texts are no printable characters.
            parts = (await reader.readexactly(body_size)).decode().split("\0")
            arguments = [part for part in parts if part.isprintable() and part]
            writer.write(self.answer(serial, fields, arguments))
        writer.close()

    def answer(self, serial: int, fields: bytes, arguments: list[str]) -> bytes:
        text = ""
        if b"getZoneOfInterface" in fields:
            if self.refused:
                return reply(3, serial, "INVALID_INTERFACE")
            text = self.zones.get(arguments[-1], "")
        elif b"addInterface" in fields:
            self.zones[arguments[-1]] = arguments[0]
        elif b"removeInterface" in fields:
            del self.zones[arguments[-1]]
        return reply(2, serial, text)


def reply(kind: int, serial: int, text: str) -> bytes:
    fields = b"\x05\x01u\0" + struct.pack("<I", serial) + b"\x08\x01g\0\x01s\0"
    body = struct.pack("<I", len(text)) + text.encode() + b"\0"
    head = struct.pack("<cBBBIII", b"l", kind, 1, 1, len(body), 7, len(fields)) + fields
    return head + bytes(-len(head) % 8) + body


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    bus = Bus()
    server = await asyncio.start_unix_server(bus.serve, tmp_path / "bus")
    yield bus
    server.close()


async def test_bridges_without_a_zone_are_trusted_and_others_stay_where_they_are(bus: Bus, tmp_path: Path) -> None:
    bus.zones = {"b1": "dmz", "b2": "trusted"}
    assert await Firewalld(tmp_path / "bus").trust(["b0", "b1", "b2"]) == ["b0", "b2"]
    assert bus.zones == {"b0": "trusted", "b1": "dmz", "b2": "trusted"}
    await Firewalld(tmp_path / "bus").release(["b0", "b1", "b3"])
    assert bus.zones == {"b1": "dmz", "b2": "trusted"}


async def test_what_firewalld_refuses_is_told(bus: Bus, tmp_path: Path) -> None:
    bus.refused = True
    with pytest.raises(FirewalldFailed, match="INVALID_INTERFACE"):
        await Firewalld(tmp_path / "bus").trust(["b0"])
    with pytest.raises(FirewalldFailed, match="No such file"):
        await Firewalld(tmp_path / "nobody").trust(["b0"])
