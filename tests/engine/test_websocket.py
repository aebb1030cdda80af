"""Attaching by websocket."""

import aiohttp
import pytest

from support.daemon import Daemon


@pytest.mark.parametrize("tty", [False, True])
async def test_input_goes_in_and_output_comes_out(engine: Daemon, tty: bool) -> None:
    flags = ("-it",) if tty else ("-i",)
    box = engine.docker("create", *flags, "busybox", "sh", "-c", "read x; echo got $x").stdout.strip()
    connector = aiohttp.UnixConnector(path=str(engine.socket))
    async with aiohttp.ClientSession(connector=connector) as session:
        url = f"http://engine/v1.50/containers/{box}/attach/ws?stream=1&stdin=1&stdout=1&stderr=1"
        async with session.ws_connect(url) as socket:
            async with session.post(f"http://engine/containers/{box}/start") as started:
                assert started.status == 204
            await socket.send_bytes(b"this\n")
            output = b""
            async for message in socket:
                assert message.type is aiohttp.WSMsgType.BINARY
                output += message.data
    assert output.endswith(b"got this\r\n" if tty else b"got this\n")


def test_what_is_no_handshake_is_refused(engine: Daemon) -> None:
    box = engine.docker("create", "busybox", "true").stdout.strip()
    assert engine.request("GET", f"/containers/{box}/attach/ws")[0] == 400
