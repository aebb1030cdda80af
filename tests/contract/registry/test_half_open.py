"""Clients that end their side of the connection after what they have sent."""

import asyncio

from .conftest import Client, Running, digest_of


async def ask(running: Running, *pieces: bytes) -> bytes:
    """Send pieces, end our side, and read to the end of theirs."""
    reader, writer = await asyncio.open_connection(*running.url.removeprefix("http://").split(":"))
    for number, piece in enumerate(pieces):
        if number:
            await asyncio.sleep(0.05)
        writer.write(piece)
    writer.write_eof()
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    return answer


async def test_a_request_is_answered(running: Running) -> None:
    answer = await ask(running, b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n{}")


async def test_so_are_several(running: Running) -> None:
    answer = await ask(running, b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n" * 5)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 5


async def test_a_blob_is_taken_and_sent_whole(running: Running, client: Client) -> None:
    data = bytes(range(256)) * 40_000
    location = await client.begin()
    head = f"PUT {location}?digest={digest_of(data)} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    assert (await ask(running, head.encode(), data)).startswith(b"HTTP/1.1 201 ")
    answer = await ask(running, f"GET /v2/test/repo/blobs/{digest_of(data)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer.partition(b"\r\n\r\n")[2] == data


async def test_an_upload_that_is_cut_keeps_what_came_and_is_free_at_once(running: Running, client: Client) -> None:
    location = await client.begin()
    head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode()
    assert await ask(running, head, b"0123456789") == b""
    async with asyncio.timeout(60):  # until the server has seen the cut
        while (answer := await client("GET", location)).headers["Range"] == "0-0":
            pass
    assert answer.headers["Range"] == "0-9"
    assert (await client("PUT", f"{location}?digest={digest_of(b'0123456789')}")).status == 201


async def test_a_client_that_says_nothing_costs_nothing(running: Running) -> None:
    assert await ask(running, b"") == b""
    assert await ask(running, b"GET /v2/ HTTP/1.1\r\nHo") == b""
