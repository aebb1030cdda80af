"""More connections than there are descriptors for."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp
import pytest

from scow.registry import connections, server
from scow.registry.connections import quieten
from scow.registry.settings import Settings

from .conftest import Client, Running, digest_of

LIMIT = 5


@pytest.fixture
async def crowded(serve: Callable[..., Any], settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setattr(server, "connection_limit", lambda files: LIMIT)
    running: Running = await serve(settings)
    return running


async def connect(running: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*running.url.removeprefix("http://").split(":"))


async def ends(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(0.2):
            return await reader.read(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


async def is_refused(reader: asyncio.StreamReader, patience_s: float) -> bool:
    """Whether a head is found too large. What was still on its way may reset the connection before the answer."""
    try:
        async with asyncio.timeout(patience_s):
            return (await reader.readline()).startswith(b"HTTP/1.1 431 ")
    except ConnectionError:
        return True
    except TimeoutError:
        return False


async def test_the_oldest_idle_one_makes_room(crowded: Running, session: aiohttp.ClientSession) -> None:
    idle = [await connect(crowded) for _ in range(LIMIT)]
    for _, writer in idle[:2]:
        writer.write(b"GET /v2/ HTTP/1.1\r\nHo")  # no request before its end
    assert (await Client(session, crowded.url)("GET", "/v2/")).status == 200
    async with asyncio.timeout(60):
        assert await idle[0][0].read() == b""
    assert not any([await ends(reader) for reader, _ in idle[1:]])
    for _, writer in idle:
        writer.close()


async def test_whoever_waits_for_an_answer_keeps_the_connection(
    crowded: Running, session: aiohttp.ClientSession
) -> None:
    client = Client(session, crowded.url)
    location = await client.begin()
    reader, writer = await connect(crowded)
    head = f"PUT {location}?digest={digest_of(b'0123456789')} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234"
    writer.write(head.encode())
    crowd = [await connect(crowded) for _ in range(3 * LIMIT)]
    await asyncio.sleep(0.2)
    writer.write(b"56789")
    async with asyncio.timeout(60):
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 201 ")
    for _, each in [(reader, writer), *crowd]:
        each.close()


class TestHeads:
    """What comes before a request is whole, and so before anybody has logged in."""

    async def test_a_large_one_is_refused(self, running: Running, session: aiohttp.ClientSession) -> None:
        reader, writer = await connect(running)
        writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n")
        for number in range(20):
            writer.write(b"X-%d: %s\r\n" % (number, b"y" * 60_000))
        assert await is_refused(reader, 60)
        writer.close()
        assert (await Client(session, running.url)("GET", "/v2/")).status == 200

    async def test_of_too_many_those_that_wait_longest_end(
        self, running: Running, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connections, "HEADS_LIMIT", 200_000)
        slow = []
        for _ in range(6):
            slow.append(await connect(running))
            slow[-1][1].write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-0: " + b"y" * 40_000)
            assert (await Client(session, running.url)("GET", "/v2/", X_0="y" * 50_000)).status == 200
        async with asyncio.timeout(60):
            assert (await slow[0][0].readline()).startswith(b"HTTP/1.1 408 ")
        for reader, writer in slow[-2:]:
            writer.write(b"\r\n\r\n")
            async with asyncio.timeout(60):
                assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        for _, writer in slow:
            writer.close()

    async def test_one_has_to_come_in_time(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connections, "SWEEP_S", 0.1)
        idle, busy = await connect(running), await connect(running)
        idle[1].write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        await idle[0].readuntil(b"{}")
        target = f"/v2/a/blobs/uploads/?digest={digest_of(b'123456789')}"
        busy[1].write(f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n12".encode())
        async with asyncio.timeout(60):
            while not running.registry.metrics.value("requests_in_flight"):  # noqa: ASYNC110  # nothing else tells
                await asyncio.sleep(0.01)
        monkeypatch.setattr(connections, "HEAD_S", 0.3)
        silent, half = await connect(running), await connect(running)
        half[1].write(b"GET /v2/ HTTP/1.1\r\nHo")
        async with asyncio.timeout(60):
            for reader, _ in (silent, half):
                with suppress(ConnectionError):
                    assert await reader.read() == b""
        assert [await ends(reader) for reader, _ in (idle, busy)] == [False, False]
        for _, writer in (silent, half, idle, busy):
            writer.close()

    async def test_bodies_are_not_counted(self, running: Running, session: aiohttp.ClientSession) -> None:
        client = Client(session, running.url)
        data = bytes(3_000_000)
        for number in range(3):
            digest = await client.push_blob(data + bytes([number]))
            assert (await client("HEAD", f"/v2/test/repo/blobs/{digest}")).status == 200


def test_as_many_connections_are_taken_as_there_are_descriptors_for_with_their_uploads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 1024))
    assert connections.connection_limit() == (1024 - connections.RESERVE) // 2
    assert connections.connection_limit(server.BUCKET_FILES) == (1024 - connections.RESERVE) // 6
    monkeypatch.setattr("resource.getrlimit", lambda _: (64, 64))
    assert connections.connection_limit() == connections.LEAST


async def test_running_out_of_descriptors_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    quieten(loop)
    with caplog.at_level(logging.ERROR):
        for _ in range(100):
            loop.call_exception_handler({"message": "accept", "exception": OSError(24, "Too many open files")})
        assert [record.getMessage() for record in caplog.records] == ["connections have to wait: Too many open files"]
        loop.call_exception_handler({"message": "something else"})
        assert len(caplog.records) == 2
    loop.close()
