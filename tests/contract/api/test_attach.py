"""Attach and exec start: connections that leave HTTP."""

import asyncio
import json

import pytest
from tests.contract.api.client import Connection, Server

from scow.api.interfaces import Duplex
from scow.errors import NotFound

UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
ATTACH = "/containers/box/attach?stdin=1&stdout=1&stderr=1&stream=1"


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


async def head_of(connection: Connection) -> bytes:
    return await connection.reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("version", "tty", "kind"),
    [
        ("1.50", False, b"multiplexed"),
        ("1.42", False, b"multiplexed"),
        ("1.41", False, b"raw"),
        ("1.50", True, b"raw"),
    ],
)
async def test_an_upgrade_is_answered_with_101(server: Server, version: str, tty: bool, kind: bytes) -> None:
    server.engine.box(tty=tty)
    connection = await server.connect()
    await connection.send("POST", f"/v{version}{ATTACH}", headers=UPGRADE)
    assert await head_of(connection) == (
        b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker." + kind + b"-stream\r\n"
        b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    )
    connection.writer.write(b"hello")
    connection.writer.write_eof()
    assert await connection.reader.read() == (b"hello" if tty else frame(1, b"hello"))


async def test_without_an_upgrade_the_answer_is_200_and_raw(server: Server) -> None:
    server.engine.box()
    connection = await server.connect()
    await connection.send("POST", ATTACH)
    assert await head_of(connection) == (b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n")
    connection.writer.write(b"hello")
    connection.writer.write_eof()
    assert await connection.reader.read() == frame(1, b"hello")


async def test_input_in_the_same_packet_as_the_request_is_kept(server: Server) -> None:
    server.engine.box(tty=True)
    connection = await server.connect()
    await connection.send("POST", ATTACH, headers=UPGRADE, more=b"early ")
    await head_of(connection)
    connection.writer.write(b"late")
    connection.writer.write_eof()
    assert await connection.reader.read() == b"early late"


async def test_output_goes_on_after_the_end_of_the_input(server: Server) -> None:
    box = server.engine.box(tty=True)
    ended, resume = asyncio.Event(), asyncio.Event()

    async def late(client: Duplex) -> None:
        assert await client.receive() == b""
        ended.set()
        await resume.wait()
        for _ in range(3):
            await client.send([(1, b"x" * 100_000)])

    box.pump = late
    connection = await server.connect()
    await connection.send("POST", ATTACH, headers=UPGRADE)
    connection.writer.write_eof()  # as docker does at once when it has no input
    await head_of(connection)
    await ended.wait()
    resume.set()
    assert await connection.reader.read() == b"x" * 300_000


async def test_the_connection_is_closed_when_the_output_has_ended(server: Server) -> None:
    box = server.engine.box(tty=True)

    async def short(client: Duplex) -> None:
        await client.send([(1, b"bye")])

    box.pump = short
    connection = await server.connect()
    await connection.send("POST", ATTACH, headers=UPGRADE)
    await head_of(connection)
    assert await connection.reader.read() == b"bye"  # read() ends at the end of the stream, input still open


async def test_attaching_to_nothing_is_an_ordinary_404(server: Server) -> None:
    reply = await server.ask("POST", ATTACH, headers=UPGRADE)
    assert (reply.status, reply.json) == (404, {"message": "No such container: box"})


async def test_the_options_reach_the_engine(server: Server) -> None:
    server.engine.box()
    connection = await server.connect()
    await connection.send(
        "POST", "/containers/box/attach?stream=True&stdout=True&stdin=False&detachKeys=ctrl-x", headers=UPGRADE
    )
    await head_of(connection)
    assert server.engine.containers.calls == [
        ("attach", {"stdin": False, "stdout": True, "stderr": False, "keys": "ctrl-x"})
    ]


@pytest.mark.parametrize("half_closed_first", [False, True])
async def test_a_client_that_hangs_up_is_noticed_though_nothing_is_written(
    server: Server, half_closed_first: bool
) -> None:
    box = server.engine.box()
    ended, gone = asyncio.Event(), asyncio.Event()

    async def silent(client: Duplex) -> None:
        while await client.receive():
            pass
        ended.set()
        try:
            await client.wait_closed()
        finally:
            gone.set()

    box.pump = silent
    connection = await server.connect()
    await connection.send("POST", ATTACH, headers=UPGRADE)
    await head_of(connection)
    if half_closed_first:
        connection.writer.write_eof()
        await ended.wait()
        assert not gone.is_set()
    connection.close()
    await gone.wait()
    await server.engine.containers.attachments[0].ended.wait()


async def test_an_error_after_the_head_is_said_in_the_stream(server: Server) -> None:
    box = server.engine.box()

    async def failing(client: Duplex) -> None:
        raise NotFound("it went away")

    box.pump = failing
    connection = await server.connect()
    await connection.send("POST", ATTACH, headers=UPGRADE)
    await head_of(connection)
    assert await connection.reader.read() == frame(2, b"it went away\r\n")


async def test_several_streams_keep_their_numbers(server: Server) -> None:
    box = server.engine.box()

    async def both(client: Duplex) -> None:
        await client.send([(1, b"a"), (2, b"bc"), (1, b"")])

    box.pump = both
    connection = await server.connect()
    await connection.send("POST", ATTACH, headers=UPGRADE)
    await head_of(connection)
    assert await connection.reader.read() == frame(1, b"a") + frame(2, b"bc") + frame(1, b"")


async def test_a_slow_client_holds_the_container_back(server: Server) -> None:
    box = server.engine.box(tty=True)
    sent = 0
    begun = asyncio.Event()

    async def flood(client: Duplex) -> None:
        nonlocal sent
        for _ in range(400):
            await client.send([(1, bytes(65_536))])
            sent += 1
            begun.set()

    box.pump = flood
    connection = await server.connect()
    connection.reader._transport.pause_reading()  # type: ignore[attr-defined]  # a client that doesn't read
    await connection.send("POST", ATTACH, headers=UPGRADE)
    await begun.wait()
    before = -1
    while before != sent:  # until it stands still
        before = sent
        await (await server.connect()).ask("GET", "/_ping")
    assert sent < 100
    connection.reader._transport.resume_reading()  # type: ignore[attr-defined]  # and now it does
    await head_of(connection)
    assert len(await connection.reader.read()) == 400 * 65_536


async def test_a_slow_container_holds_the_client_back(server: Server) -> None:
    box = server.engine.box(tty=True)
    resume = asyncio.Event()
    total = 0

    async def slow(client: Duplex) -> None:
        nonlocal total
        await resume.wait()
        while data := await client.receive():
            total += len(data)

    box.pump = slow
    connection = await server.connect()
    await connection.send("POST", ATTACH, headers=UPGRADE)
    await head_of(connection)
    connection.writer.write(bytes(16 << 20))
    for _ in range(20):
        await (await server.connect()).ask("GET", "/_ping")
    transport = connection.writer.transport
    assert transport.get_write_buffer_size() > 8 << 20  # most of it is still with the client
    resume.set()
    connection.writer.write_eof()
    assert await connection.reader.read() == b""
    assert total == 16 << 20


# --- exec -------------------------------------------------------------------------------------------------------------


async def exec_box(server: Server, *, tty: bool = False) -> None:
    server.engine.box()
    body = json.dumps({"Cmd": ["cat"], "Tty": tty, "ConsoleSize": [40, 120]}).encode()
    reply = await server.ask("POST", "/containers/box/exec", body)
    assert (reply.status, reply.json) == (201, {"Id": "e1"})


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("headers", [UPGRADE, {}])
async def test_an_exec_s_body_is_read_before_its_input(server: Server, headers: dict[str, str], split: bool) -> None:
    await exec_box(server, tty=True)
    connection = await server.connect()
    body = b'{"Detach":false,"Tty":true,"ConsoleSize":[40,120]}'
    if split:
        lines = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
        await connection.send("POST", "/exec/e1/start", headers=lines)
        await (await server.connect()).ask("GET", "/_ping")
        connection.writer.write(body)
    else:
        await connection.send("POST", "/exec/e1/start", body, headers)
    head = await head_of(connection)
    assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\n" if headers else b"HTTP/1.1 200 OK\r\n")
    connection.writer.write(b"hello")
    connection.writer.write_eof()
    assert await connection.reader.read() == b"hello"
    assert server.engine.execs.starts[0].console_size == [40, 120]


async def test_input_behind_an_exec_s_body_is_kept(server: Server) -> None:
    await exec_box(server, tty=True)
    connection = await server.connect()
    await connection.send("POST", "/exec/e1/start", b'{"Tty":true}', UPGRADE, more=b"early")
    await head_of(connection)
    connection.writer.write_eof()
    assert await connection.reader.read() == b"early"


async def test_a_chunked_body_is_read_too(server: Server) -> None:
    await exec_box(server, tty=True)
    connection = await server.connect()
    headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked", **UPGRADE}
    await connection.send("POST", "/exec/e1/start", headers=headers, more=b'c\r\n{"Tty":true}\r\n0\r\n\r\nearly')
    assert (await head_of(connection)).startswith(b"HTTP/1.1 101")
    connection.writer.write_eof()
    assert await connection.reader.read() == b"early"
    assert server.engine.execs.starts[0].tty


@pytest.mark.parametrize("headers", [UPGRADE, {}])
async def test_a_detached_exec_is_a_plain_200(server: Server, headers: dict[str, str]) -> None:
    await exec_box(server)
    reply = await server.ask("POST", "/exec/e1/start", b'{"Detach":true,"Tty":false}', headers)
    assert (reply.status, reply.body) == (200, b"")


@pytest.mark.parametrize("headers", [UPGRADE, {}])
@pytest.mark.parametrize(
    ("id", "body", "status", "message"),
    [
        ("e2", b"{}", 404, "No such exec instance: e2"),
        ("e1", b"{", 400, "invalid JSON: unexpected EOF"),
        ("e1", b'{"Tty":7}', 400, "invalid JSON: json: cannot unmarshal number"),
    ],
)
async def test_an_exec_that_can_t_start_is_refused(
    server: Server, headers: dict[str, str], id: str, body: bytes, status: int, message: str
) -> None:
    await exec_box(server)
    reply = await server.ask("POST", f"/exec/{id}/start", body, headers)
    assert reply.status == status
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.message.startswith(message)


async def test_an_exec_that_fails_says_so_on_its_output(server: Server) -> None:
    await exec_box(server)

    async def failing(client: Duplex) -> None:
        raise NotFound('exec: "x": executable file not found in $PATH')

    server.engine.execs.pump = failing
    connection = await server.connect()
    await connection.send("POST", "/exec/e1/start", b"{}", UPGRADE)
    await head_of(connection)
    assert await connection.reader.read() == frame(1, b'exec: "x": executable file not found in $PATH\r\n')


@pytest.mark.parametrize(
    ("path", "body", "size"),
    [("/v1.41", b'{"Tty":true,"ConsoleSize":[1,2]}', None), ("/v1.42", b'{"Tty":false,"ConsoleSize":[1,2]}', None)],
)
async def test_a_console_size_counts_from_1_42_and_with_a_terminal(
    server: Server, path: str, body: bytes, size: object
) -> None:
    await exec_box(server)
    connection = await server.connect()
    await connection.send("POST", f"{path}/exec/e1/start", body, UPGRADE)
    await head_of(connection)
    assert server.engine.execs.starts[0].console_size == size


async def test_an_exec_without_a_command_is_refused(server: Server) -> None:
    server.engine.box()
    reply = await server.ask("POST", "/containers/box/exec", b'{"Cmd":[]}')
    assert (reply.status, reply.message) == (400, "no exec command specified")


async def test_an_exec_is_inspected_and_resized(server: Server) -> None:
    await exec_box(server)
    assert (await server.ask("GET", "/exec/e1/json")).json["ExitCode"] == 0
    assert (await server.ask("POST", "/exec/e1/resize?h=40&w=120")).status == 200
    assert (await server.ask("POST", "/exec/e1/resize?h=40")).status == 400
