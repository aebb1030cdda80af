"""Files go out whole and in order, however slowly they are taken, and leave nothing behind."""

import asyncio
import fcntl
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final

import pytest

from scow.registry.file_sending import PIECE_SIZE, UNSENT_SIZE, send_part

SIZE: Final = 24 << 20
SIOCOUTQNSD: Final = 0x894B  # bytes that are not sent, tcp(7)
Sending = tuple[asyncio.Transport, socket.socket, IO[bytes], bytes]


class Sender(asyncio.Protocol):
    """The side that sends; counts what comes meanwhile."""

    def __init__(self) -> None:
        self.received = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data


def opened(path: Path) -> IO[bytes]:
    path.write_bytes(os.urandom(SIZE))
    return path.open("rb")


@asynccontextmanager
async def sending(path: Path, client_address: str = "127.0.0.1") -> AsyncIterator[Sending]:
    """A transport, the client's end of its connection, and an open file with its bytes."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener, opened(path) as file:
        content = file.read()
        client = socket.create_connection(listener.getsockname(), source_address=(client_address, 0))
        accepted, _ = listener.accept()
        transport, _ = await loop.connect_accepted_socket(Sender, accepted)
        client.setblocking(False)
        descriptors = len(os.listdir("/proc/self/fd"))
        try:
            yield transport, client, file, content
            assert len(os.listdir("/proc/self/fd")) <= descriptors
        finally:
            transport.abort()
            client.close()
            await asyncio.sleep(0)  # the transport closes its socket in a turn of its own


async def take(client: socket.socket, count: int) -> bytes:
    loop, data = asyncio.get_running_loop(), bytearray()
    while len(data) < count:
        piece = await loop.sock_recv(client, 1 << 20)
        assert piece
        data += piece
    return bytes(data)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # of the kernel: nothing tells us
            await asyncio.sleep(0.001)


def unsent(transport: asyncio.Transport) -> int:
    found = fcntl.ioctl(transport.get_extra_info("socket").fileno(), SIOCOUTQNSD, bytes(4))
    return int(struct.unpack("i", found)[0])


def control_of(connection: socket.socket) -> bytes:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


@pytest.mark.parametrize(
    ("offset", "count"), [(0, SIZE), (1, 1), (4097, 200_001), (SIZE - PIECE_SIZE - 1, PIECE_SIZE + 1)]
)
async def test_a_part_follows_what_was_written(tmp_path: Path, offset: int, count: int) -> None:
    async with sending(tmp_path / "blob") as (transport, client, file, content):
        transport.write(b"head")
        part = asyncio.create_task(send_part(transport, file, offset, count))
        assert await take(client, 4 + count) == b"head" + content[offset : offset + count]
        await part
        transport.write(b"next")
        assert await take(client, 4) == b"next"


async def test_a_part_waits_for_what_was_written_and_not_sent(tmp_path: Path) -> None:
    async with sending(tmp_path / "blob") as (transport, client, file, content):
        written = bytes(SIZE)
        transport.write(written)
        assert transport.get_write_buffer_size()
        part = asyncio.create_task(send_part(transport, file, 0, SIZE))
        assert await take(client, 2 * SIZE) == written + content
        await part


async def test_the_kernel_gathers_little_for_a_client_of_the_same_machine(tmp_path: Path) -> None:
    async with sending(tmp_path / "blob") as (transport, client, file, content):
        part = asyncio.create_task(send_part(transport, file, 0, SIZE))
        await until(lambda: unsent(transport) > 0)
        assert unsent(transport) <= 4 * UNSENT_SIZE
        assert await take(client, SIZE) == content
        await part


async def test_the_kernel_gathers_what_it_likes_for_a_client_elsewhere(tmp_path: Path) -> None:
    async with sending(tmp_path / "blob", "127.0.0.2") as (transport, client, file, content):
        part = asyncio.create_task(send_part(transport, file, 0, SIZE))
        await until(lambda: unsent(transport) > 4 * UNSENT_SIZE)
        assert await take(client, SIZE) == content
        await part


@pytest.mark.parametrize(("address", "is_local"), [("127.0.0.1", True), ("127.0.0.2", False)])
async def test_only_clients_of_the_same_machine_are_sent_to_without_the_systems_pace(
    tmp_path: Path, address: str, is_local: bool
) -> None:
    async with sending(tmp_path / "blob", address) as (transport, client, file, _):
        connection = transport.get_extra_info("socket")
        others = control_of(connection)
        part = asyncio.create_task(send_part(transport, file, 0, 100))
        await take(client, 100)
        await part
        assert control_of(connection) == (b"reno" if is_local else others)


async def test_nothing_is_read_while_a_part_is_sent(tmp_path: Path) -> None:
    async with sending(tmp_path / "blob") as (transport, client, file, _):
        part = asyncio.create_task(send_part(transport, file, 0, SIZE))
        await until(lambda: unsent(transport) > 0)
        assert not transport.is_reading()
        await take(client, SIZE)
        await part
        assert transport.is_reading()


async def test_a_part_that_is_given_up_ends_at_once(tmp_path: Path) -> None:
    async with sending(tmp_path / "blob") as (transport, _, file, _):
        part = asyncio.create_task(send_part(transport, file, 0, SIZE))
        await until(lambda: unsent(transport) > 0)
        part.cancel()
        with pytest.raises(asyncio.CancelledError):
            await part


async def test_a_client_that_goes_ends_a_part(tmp_path: Path) -> None:
    async with sending(tmp_path / "blob") as (transport, client, file, _):
        part = asyncio.create_task(send_part(transport, file, 0, SIZE))
        await until(lambda: unsent(transport) > 0)
        client.close()
        with pytest.raises(ConnectionError):
            await part


async def test_a_connection_that_is_closed_takes_no_part(tmp_path: Path) -> None:
    async with sending(tmp_path / "blob") as (transport, _, file, _):
        transport.abort()
        with pytest.raises(ConnectionError, match="has gone"):
            await send_part(transport, file, 0, SIZE)


async def test_a_file_that_has_become_shorter_ends_a_part(tmp_path: Path) -> None:
    async with sending(tmp_path / "blob") as (transport, client, file, _):
        os.truncate(tmp_path / "blob", PIECE_SIZE)
        part = asyncio.create_task(send_part(transport, file, 0, SIZE))
        await take(client, PIECE_SIZE)
        with pytest.raises(ConnectionError, match="shorter"):
            await part
