"""The daemon: sockets, TLS, PID file, signals' effect, over the double."""

import asyncio
import os
import socket
import ssl
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.contract.api.client import Connection
from tests.contract.api.conftest import Certificates
from tests.contract.api.double import Engine

from scow.api.daemon import run
from scow.api.interfaces import Duplex
from scow.api.listeners import BadHost, CannotListen, SocketInUse, bind
from scow.api.pidfile import PidFile, StillRunning
from scow.engine.config import EngineConfig, InvalidConfig
from support.ports import free_port


class ClosableEngine(Engine):
    def __init__(self) -> None:
        super().__init__()
        self.opened = asyncio.Event()
        self.closed = False

    async def open(self, config: EngineConfig) -> "ClosableEngine":
        self.opened.set()
        return self

    async def aclose(self) -> None:
        self.closed = True


@asynccontextmanager
async def daemon(config: EngineConfig, engine: ClosableEngine) -> AsyncIterator[asyncio.Event]:
    """Run the daemon; gives the event that stops it."""
    stop = asyncio.Event()
    task = asyncio.create_task(run(config, engine.open, stop=stop))
    opened = asyncio.create_task(engine.opened.wait())
    await asyncio.wait({task, opened}, return_when=asyncio.FIRST_COMPLETED)
    opened.cancel()
    try:
        if task.done():
            task.result()
        yield stop
    finally:
        stop.set()
        await task


async def ask(path: Path) -> int:
    connection = Connection(*await asyncio.open_unix_connection(str(path)))
    try:
        return (await connection.ask("GET", "/_ping")).status
    finally:
        connection.close()


async def test_it_serves_until_it_is_told_to_stop_and_leaves_nothing(tmp_path: Path) -> None:
    engine = ClosableEngine()
    path, pidfile = tmp_path / "run" / "s", tmp_path / "run" / "pid"
    config = EngineConfig(hosts=(f"unix://{path}",), pidfile=pidfile, exec_root=tmp_path)
    async with daemon(config, engine):
        assert await ask(path) == 200
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert pidfile.read_text() == str(os.getpid())
    assert engine.closed
    assert not path.exists()
    assert not pidfile.exists()


async def test_the_default_socket_is_in_the_exec_root(tmp_path: Path) -> None:
    async with daemon(EngineConfig(exec_root=tmp_path), ClosableEngine()):
        assert await ask(tmp_path / "scow.sock") == 200


async def test_it_serves_several_addresses(tmp_path: Path) -> None:
    port = free_port()
    config = EngineConfig(hosts=(f"unix://{tmp_path}/s", f"tcp://127.0.0.1:{port}"))
    async with daemon(config, ClosableEngine()):
        connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
        assert (await connection.ask("GET", "/_ping")).status == 200
        connection.close()
        assert await ask(tmp_path / "s") == 200


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "s"))
    async with daemon(EngineConfig(hosts=(f"unix://{tmp_path}/s",)), ClosableEngine()):
        assert await ask(tmp_path / "s") == 200


async def test_a_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    config = EngineConfig(hosts=(f"unix://{tmp_path}/s",))
    async with daemon(config, ClosableEngine()):
        engine = ClosableEngine()
        with pytest.raises(SocketInUse, match="another process is listening"):
            await run(config, engine.open)
        assert not engine.opened.is_set()
        assert await ask(tmp_path / "s") == 200


async def test_a_port_in_use_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SocketInUse):
        bind(f"tcp://127.0.0.1:{taken.getsockname()[1]}", tls=False)


@pytest.mark.parametrize("host", ["http://x", "unix://", "tcp://x:y", "tcp://1.2.3.4:1/path", "nonsense"])
def test_a_host_that_makes_no_sense_is_refused(host: str) -> None:
    with pytest.raises(BadHost):
        bind(host, tls=False)


def test_a_file_is_not_taken_for_a_stale_socket(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(CannotListen, match="not a socket"):
        bind(f"unix://{tmp_path}/s", tls=False)
    assert (tmp_path / "s").read_text() == "precious"


async def test_an_engine_that_doesn_t_open_leaves_no_socket(tmp_path: Path) -> None:
    async def fail(config: EngineConfig) -> ClosableEngine:
        raise InvalidConfig("no")

    with pytest.raises(InvalidConfig):
        await run(EngineConfig(hosts=(f"unix://{tmp_path}/s",)), fail)
    assert not (tmp_path / "s").exists()


def test_a_pid_file_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text("999999999")
    PidFile(tmp_path / "pid").write()
    assert (tmp_path / "pid").read_text() == str(os.getpid())


def test_a_pid_file_of_a_living_daemon_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scow.api.pidfile._alive", lambda pid: True)
    (tmp_path / "pid").write_text("1")
    with pytest.raises(StillRunning, match="process with PID 1 is still running"):
        PidFile(tmp_path / "pid").write()
    PidFile(tmp_path / "pid").remove()
    assert (tmp_path / "pid").read_text() == "1"


# --- TLS --------------------------------------------------------------------------------------------------------------


def tls_config(certificates: Certificates, port: int) -> EngineConfig:
    return EngineConfig(
        hosts=(f"tcp://127.0.0.1:{port}",),
        tlsverify=True,
        tlscacert=certificates.ca_pem,
        tlscert=certificates.server_pem,
        tlskey=certificates.server_key,
    )


def client_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates.ca_pem)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as docker's TLS has it
    context.load_cert_chain(certificates.client_pem, certificates.client_key)
    return context


async def in_thread(work: Callable[[], bytes]) -> bytes:
    return await asyncio.to_thread(work)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_over_tls_the_output_goes_on_after_the_end_of_the_input(
    certificates: Certificates, version: ssl.TLSVersion
) -> None:
    engine = ClosableEngine()
    box = engine.box(tty=True)
    closed_side = threading.Event()

    async def late(client: Duplex) -> None:
        received = b""
        while data := await client.receive():
            received += data
        await asyncio.to_thread(closed_side.wait)
        for _ in range(20):
            await client.send([(1, received * 10_000)])

    box.pump = late
    port = free_port()
    context = client_context(certificates)
    context.minimum_version = context.maximum_version = version

    def client() -> bytes:
        # As Go's tls.Conn does it: close_notify goes out, the TCP connection stays open both ways.
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with socket.create_connection(("127.0.0.1", port)) as sock:

            def turn(work: Callable[[], object]) -> object:
                while True:
                    try:
                        result = work()
                    except ssl.SSLWantReadError:
                        sock.sendall(outgoing.read())
                        data = sock.recv(65_536)
                        if data:
                            incoming.write(data)
                        else:
                            incoming.write_eof()
                    else:
                        sock.sendall(outgoing.read())
                        return result

            turn(tls.do_handshake)
            request = (
                b"POST /containers/box/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n"
                b"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
            )
            turn(lambda: tls.write(request + b"hello"))
            with pytest.raises(ssl.SSLWantReadError):
                tls.unwrap()
            sock.sendall(outgoing.read())
            closed_side.set()
            output = b""
            while True:
                data = sock.recv(65_536)
                if not data:
                    return output
                incoming.write(data)
                while True:
                    try:
                        part = tls.read(65_536)
                    except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                        break
                    if not part:
                        break
                    output += part

    async with daemon(tls_config(certificates, port), engine):
        output = await in_thread(client)
    head, _, rest = output.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 UPGRADED")
    assert rest == b"hello" * 200_000


async def test_over_tls_ordinary_requests_work_too(certificates: Certificates) -> None:
    port = free_port()
    async with daemon(tls_config(certificates, port), ClosableEngine()):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context(certificates), server_hostname="localhost"
        )
        connection = Connection(reader, writer)
        for _ in range(3):
            assert (await connection.ask("GET", "/version")).status == 200
        body = b'{"Image":"x","Env":["A=' + b"b" * 300_000 + b'"]}'
        assert (await connection.ask("POST", "/containers/create", body)).status == 201
        connection.close()


async def test_over_tls_a_client_without_a_certificate_is_refused(certificates: Certificates) -> None:
    port = free_port()
    context = ssl.create_default_context(cafile=certificates.ca_pem)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as docker's TLS has it

    async def ping() -> None:
        streams = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        await Connection(*streams).ask("GET", "/_ping")

    async with daemon(tls_config(certificates, port), ClosableEngine()):
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await ping()


async def test_plain_http_to_a_tls_port_is_cut_off(certificates: Certificates) -> None:
    port = free_port()
    async with daemon(tls_config(certificates, port), ClosableEngine()):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/1.1 200" not in await reader.read()
        writer.close()


async def test_certificates_that_are_not_there_are_named(tmp_path: Path) -> None:
    config = EngineConfig(hosts=("tcp://127.0.0.1:0",), tls=True, tlscert="/nope.pem", tlskey="/nope.key")
    with pytest.raises(InvalidConfig, match=r"/nope\.pem"):
        await run(config, ClosableEngine().open)
