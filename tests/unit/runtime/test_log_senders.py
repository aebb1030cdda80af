"""How lines look to a syslog server and to the journal, and where syslog addresses lead."""

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.errors import InvalidArgument
from scow.runtime.journald import JournalSink, JournalUnreachable, entry, field_name
from scow.runtime.log_following import LogFollower
from scow.runtime.logs import LogLine, Position
from scow.runtime.syslog import (
    Address,
    SyslogFormat,
    SyslogSink,
    SyslogUnreachable,
    parse_address,
    parse_facility,
    parse_format,
)

LINE = LogLine(1, 1_700_000_000_123_456_789, b"hello\n")
ERROR = LogLine(2, 1_700_000_000_123_456_789, b"oh\n")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", Address()),
        ("unix:///dev/log", Address("unix", path="/dev/log")),
        ("unixgram:///x", Address("unixgram", path="/x")),
        ("tcp://1.2.3.4:5", Address("tcp", host="1.2.3.4", port=5)),
        ("udp://logs.example", Address("udp", host="logs.example", port=514)),
        ("tcp+tls://[::1]:6514", Address("tcp+tls", host="::1", port=6514)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bogus", "syslog-address should be in form proto://address, got bogus"),
        ("http://x", "unsupported scheme: 'http'"),
        ("tcp://x:many", "syslog-address: "),
    ],
)
def test_addresses_that_are_none(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        parse_address(text)


def test_facilities_and_formats() -> None:
    assert [parse_facility(text) for text in ("", "kern", "local7", "5")] == [3, 0, 23, 5]
    assert parse_format("rfc5424micro") == "rfc5424micro"
    for parse, text in ((parse_facility, "24"), (parse_facility, "bogus"), (parse_format, "rfc1")):
        with pytest.raises(InvalidArgument):
            parse(text)


@pytest.fixture
def utc() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("utc")
def test_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: 7)
    forms = {
        name: SyslogFormat(name=name, tag="t", hostname="h") for name in ("", "rfc3164", "rfc5424", "rfc5424micro")
    }
    assert forms[""].message(LINE) == b"<30>Nov 14 22:13:20 t[7]: hello\n"
    assert forms["rfc3164"].message(ERROR) == b"<27>Nov 14 22:13:20 h t[7]: oh\n"
    assert forms["rfc5424"].message(LINE) == b"<30>1 2023-11-14T22:13:20Z h t 7 t - hello\n"
    assert forms["rfc5424micro"].message(LINE) == b"<30>1 2023-11-14T22:13:20.123456Z h t 7 t - hello\n"
    counted = SyslogFormat(name="rfc5424", facility=0, tag="t", hostname="h", counted=True)
    assert counted.message(LINE) == b"42 <6>1 2023-11-14T22:13:20Z h t 7 t - hello\n"


async def test_datagrams_reach_a_server(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "log"))
        server.settimeout(60)
        sink = SyslogSink(Address("unixgram", path=str(tmp_path / "log")), SyslogFormat(tag="t"))
        await sink.send([LINE, ERROR])
        assert [server.recv(4096).partition(b": ")[2] for _ in range(2)] == [b"hello\n", b"oh\n"]
        await sink.aclose()


async def test_a_stream_is_opened_anew_after_the_server_went(tmp_path: Path) -> None:
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.put_nowait(await reader.readline())
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "log")
    sink = SyslogSink(Address("unix", path=str(tmp_path / "log")), SyslogFormat(tag="t"))
    await sink.send([LINE])
    assert (await received.get()).endswith(b"hello\n")
    assert sink._watch is not None
    await sink._watch
    with pytest.raises(SyslogUnreachable, match="reset"):
        await sink.send([LINE])
    await sink.send([ERROR])
    assert (await received.get()).endswith(b"oh\n")
    await sink.aclose()
    server.close()
    await server.wait_closed()
    with pytest.raises(SyslogUnreachable, match="dial unix"):
        await sink.open()


def test_journal_entries() -> None:
    assert entry({"A": b"x", "B": b"y\nz"}) == b"A=x\nB\n\x03\x00\x00\x00\x00\x00\x00\x00y\nz\n"
    assert [field_name(text) for text in ("com.example/x", "_a b", "9")] == ["COM_EXAMPLE_X", "A_B", "9"]


async def test_lines_go_to_the_journal(tmp_path: Path) -> None:
    sink = JournalSink({"CONTAINER_NAME": "box", "SYSLOG_IDENTIFIER": "tag"}, tmp_path / "socket")
    with pytest.raises(JournalUnreachable, match="journald is not enabled on this host"):
        await sink.open()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "socket"))
        server.settimeout(60)
        await sink.send([ERROR, LogLine(1, 5, b"piece", partial=True)])
        assert server.recv(4096) == (
            b"MESSAGE=oh\nPRIORITY=3\nCONTAINER_NAME=box\nSYSLOG_IDENTIFIER=tag\n"
            b"SYSLOG_TIMESTAMP=2023-11-14T22:13:20.123456789Z\n"
        )
        assert b"MESSAGE=piece\nPRIORITY=6\n" in (piece := server.recv(4096))
        assert piece.endswith(b"CONTAINER_PARTIAL_MESSAGE=true\n")
        large = LogLine(1, 5, b"x" * (4 << 20))
        sending = asyncio.ensure_future(sink.send([large]))
        _, fds, _, _ = await asyncio.to_thread(socket.recv_fds, server, 16, 1)
        await sending
        assert os.pread(fds[0], 8 << 20, 0).startswith(b"MESSAGE=" + large.data)
        os.close(fds[0])
    await sink.aclose()


def _write(path: Path, *numbers: int) -> None:
    with path.open("a") as file:
        for number in numbers:
            file.write(f"2024-05-06T07:08:{number:02d}.123456789+00:00 stdout F {number}\n")


async def test_following_goes_on_where_it_was_across_numbers_of_files(tmp_path: Path) -> None:
    path, older = tmp_path / "log", tmp_path / "log.1"
    ended = asyncio.Event()
    ended.set()

    async def rest(position: Position | None) -> tuple[bytes, Position | None]:
        follower = LogFollower(lambda: [file for file in (older, path) if file.exists()], position)
        found = b""
        while (lines := await follower.read(ended)) is not None:
            found += b"".join(line.data for line in lines)
        follower.close()
        return found, follower.position

    _write(path, 1, 2)
    found, position = await rest(None)
    assert found == b"1\n2\n"
    _write(path, 3)
    path.rename(older)
    _write(path, 4)
    found, position = await rest(position)
    assert found == b"3\n4\n"
    assert (await rest(position))[0] == b""
    path.unlink()
    older.unlink()
    _write(path, 5)  # maybe in the inode of an earlier one
    assert (await rest(position))[0] == b"5\n"
