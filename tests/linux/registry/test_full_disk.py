"""A full disk refuses uploads with a clear error and goes on serving."""

import hashlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from scow.registry.registry import Registry
from scow.registry.server import Server
from scow.registry.settings import Gc, Settings


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "small", tmp_path], check=False)
    if mounted.returncode != 0:
        pytest.skip("tmpfs cannot be mounted here")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


async def test_a_full_disk_refuses_uploads_and_goes_on_serving(small_disk: Path) -> None:
    settings = Settings(listen="127.0.0.1:0", storage=str(small_disk / "s"), gc=Gc(interval_s=0), drain_s=5)
    registry = Registry.open(settings)
    server = Server(registry, settings)
    url = await server.start() + "/v2/x/blobs"
    try:
        async with aiohttp.ClientSession() as session:

            async def push(data: bytes) -> int:
                digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

                async def body() -> AsyncIterator[bytes]:
                    yield data

                async with session.post(f"{url}/uploads/?digest={digest}", data=body()) as reply:
                    text = await reply.text()
                    assert reply.status == 201 or "no space left" in text
                    return reply.status

            assert await push(b"small") == 201
            assert await push(os.urandom(6 << 20)) == 507
            assert list((small_disk / "s" / "uploads").iterdir()) == []
            async with session.get(f"{url}/sha256:{hashlib.sha256(b'small').hexdigest()}") as reply:
                assert await reply.read() == b"small"
            assert await push(b"another small one") == 201
    finally:
        await server.aclose()
        await registry.aclose()
