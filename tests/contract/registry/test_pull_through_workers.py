"""The cache of several workers: clients of all of them share what one has fetched."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from .conftest import Client, digest_of
from .faulty import FaultyRegistry


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry().served() as faulty:
        yield faulty


@pytest.fixture
async def client(tmp_path: Path, upstream: FaultyRegistry) -> AsyncIterator[Client]:
    """Each request takes a new connection, and so whichever of three workers the kernel picks."""
    config, ready, log = (tmp_path / name for name in ("registry.toml", "ready", "log"))
    config.write_text(
        f'listen = "127.0.0.1:0"\nstorage = "{tmp_path / "storage"}"\nworkers = 3\n'
        f'[[proxy]]\nnamespace = "hub"\nupstream = "{upstream.url}"\n'
    )
    command = [sys.executable, "-m", "scow.registry", "serve", "--config", config, "--ready-file", ready]
    with log.open("wb") as output:
        process = await asyncio.to_thread(subprocess.Popen, command, stdout=output, stderr=output)
    deadline = time.monotonic() + 30
    while not ready.exists():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(auto_decompress=False, connector=connector) as session:
        yield Client(session, ready.read_text().strip())
    process.terminate()
    assert await asyncio.to_thread(process.wait, 20) == 0, log.read_text()


async def test_clients_of_all_workers_share_one_fetch(client: Client, upstream: FaultyRegistry) -> None:
    layer = os.urandom(2 << 20)
    digest = upstream.add_image("app", "latest", layer)
    upstream.gate = asyncio.Event()
    path = f"/v2/hub/app/blobs/{digest_of(layer)}"
    waiting = [asyncio.create_task(client("GET", path)) for _ in range(12)]
    parts = [asyncio.create_task(client("GET", path, Range="bytes=5-9")) for _ in range(6)]
    for part in parts:
        assert (await part).headers["Content-Range"] == f"bytes 5-9/{len(layer)}"
    upstream.gate.set()
    assert all(answer.body == layer for answer in await asyncio.gather(*waiting))
    assert upstream.asked_for("GET blobs") == 1
    answers = await asyncio.gather(*(client("GET", "/v2/hub/app/manifests/latest") for _ in range(12)))
    assert {answer.headers["Docker-Content-Digest"] for answer in answers} == {digest}
    assert upstream.asked_for("GET manifests") == 1
    upstream.lies, upstream.gate = True, None
    other = os.urandom(1 << 20)
    upstream.add_image("app", "other", other)
    for _ in range(4):
        with pytest.raises(aiohttp.ClientPayloadError):
            await client("GET", f"/v2/hub/app/blobs/{digest_of(other)}")
    missing = [await client("GET", "/v2/hub/app/manifests/none") for _ in range(6)]
    assert all(answer.codes == ["MANIFEST_UNKNOWN"] for answer in missing)
