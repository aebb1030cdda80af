"""`scow registry ready`, which checks of a container's health run: by the server's own settings, whatever they are."""

import asyncio
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scow.registry.command import main
from scow.registry.readiness import ready
from scow.registry.settings import Settings, Tls
from scow.registry.sqlite import SqliteDatabase

from .certificates import Authority
from .conftest import Client, Running


def at(settings: Settings, running: Running, host: str = "127.0.0.1") -> Settings:
    port = running.url.rpartition(":")[2]
    return msgspec.structs.replace(settings, listen=f"{host}:{port}")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost", ""])
async def test_a_registry_is_ready_at_its_address(settings: Settings, running: Running, host: str) -> None:
    assert await asyncio.to_thread(ready, at(settings, running, host))


async def test_the_command_says_it_by_its_exit_code(
    settings: Settings, running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "registry.toml"
    config.write_text(f'listen = "{at(settings, running).listen}"\nread_only = true\n')
    assert await asyncio.to_thread(main, ["ready", "--config", str(config)]) == 0
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{bound.getsockname()[1]}"
        assert await asyncio.to_thread(main, ["ready", "--config", str(config), "--listen", listen]) == 1
    assert f"nothing that takes requests is at {listen}" in capsys.readouterr().err


async def test_a_registry_without_its_folder_is_not_ready(
    settings: Settings,
    running: Running,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("scow.registry.health.FRESH_S", 0)
    blobs = Path(settings.storage) / "blobs"
    blobs.rename(blobs.with_name("elsewhere"))
    answer = await client("GET", "/readyz")
    assert (answer.status, answer.codes) == (503, ["UNAVAILABLE"])
    assert any(f"{blobs} is not there" in record.getMessage() for record in caplog.records)
    assert (await client("GET", "/healthz")).status == 200
    blobs.with_name("elsewhere").rename(blobs)
    assert (await client("GET", "/readyz")).status == 200


async def test_it_is_found_out_once_a_second_however_many_ask(
    running: Running, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scow.registry.health.FRESH_S", 60)  # on a busy machine these take longer than a second
    asked = []
    row = SqliteDatabase.row
    monkeypatch.setattr(SqliteDatabase, "row", lambda *given: asked.append(given) or row(*given))
    answers = await asyncio.gather(*(client("GET", "/readyz") for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert len(asked) <= 2


async def test_another_server_is_not_ready(settings: Settings) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        asked = msgspec.structs.replace(settings, listen=f"127.0.0.1:{port}")
        assert not await asyncio.to_thread(ready, asked)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
async def test_certificates_do_not_stand_in_the_way(
    serve: Callable[..., Any], settings: Settings, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "authority", "authority")
    cert, key = (str(path) for path in authority.sign("server", server=True))
    plain = Tls(cert=cert, key=key)
    strict, mild = (Tls(cert=cert, key=key, client_ca=str(authority.cert), client_optional=so) for so in (False, True))
    for tls in (plain, strict, mild):
        secured = msgspec.structs.replace(settings, tls=tls)
        running = await serve(secured)
        assert await asyncio.to_thread(ready, at(secured, running)), tls
        assert not await asyncio.to_thread(ready, at(settings, running)), "without TLS"
        await running.server.aclose()
