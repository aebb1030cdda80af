"""More connections than there are descriptors for."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from scow.registry import server
from scow.registry.connections import quieten
from scow.registry.settings import Settings

from .conftest import Client, Running, digest_of

LIMIT = 5


@pytest.fixture
async def crowded(serve: Callable[..., Any], settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setattr(server, "connection_limit", lambda: LIMIT)
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


async def test_the_oldest_idle_one_makes_room(crowded: Running, session: aiohttp.ClientSession) -> None:
    idle = [await connect(crowded) for _ in range(LIMIT)]
    for _, writer in idle[:2]:
        writer.write(b"GET /v2/ HTTP/1.1\r\nHo")  # no request before its end
    assert (await Client(session, crowded.url)("GET", "/v2/")).status == 200
    ended = [await ends(reader) for reader, _ in idle]
    assert ended == [True, False, False, False, False]
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
    async with asyncio.timeout(20):
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 201 ")
    for _, each in [(reader, writer), *crowd]:
        each.close()


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
