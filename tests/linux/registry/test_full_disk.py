"""A full disk refuses uploads with a clear error and goes on serving."""

import hashlib
import io
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from scow.registry.registry import Registry
from scow.registry.server import Server
from scow.registry.settings import Bucket, Gc, Names, Settings
from scow.registry.sqlite import SPARE_SIZE
from support.s3_server import S3Server

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "small", tmp_path], check=False)
    if mounted.returncode != 0:
        pytest.skip("tmpfs cannot be mounted here")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


async def fill_the_disk(session: aiohttp.ClientSession, url: str) -> None:
    """An upload that goes on until there is no room is refused, and is gone then."""
    async with session.post(f"{url}/v2/x/blobs/uploads/") as reply:
        location = url + reply.headers["Location"]
    for size, status in ((1 << 20, 202), (6 << 20, 507)):
        async with session.patch(location, data=io.BytesIO(bytes(size))) as reply:
            assert reply.status == status
    async with session.get(location) as reply:
        assert reply.status == 404


async def push_a_mebibyte(session: aiohttp.ClientSession, url: str) -> None:
    data = bytes(1 << 20)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    async with session.post(f"{url}/v2/x/blobs/uploads/?digest={digest}", data=io.BytesIO(data)) as reply:
        assert reply.status == 201


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


async def test_an_upload_that_fills_the_disk_does_not_keep_it_full(small_disk: Path) -> None:
    settings = Settings(listen="127.0.0.1:0", storage=str(small_disk / "s"), gc=Gc(interval_s=0), drain_s=5)
    registry = Registry.open(settings)
    server = Server(registry, settings)
    url = await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            await fill_the_disk(session, url)
            assert list((small_disk / "s" / "uploads").iterdir()) == []
            await push_a_mebibyte(session, url)
    finally:
        await server.aclose()
        await registry.aclose()


async def test_an_upload_that_fills_the_disk_before_an_object_store_leaves_nothing_in_either(small_disk: Path) -> None:
    store = S3Server()
    await store.start()
    settings = Settings(
        listen="127.0.0.1:0",
        storage="s3://blobs",
        spool=str(small_disk),
        bucket=Bucket(endpoint=store.url, access_key="key", secret_key="secret"),
        database=Names(path=str(small_disk / "names"), blob_size=0),
        gc=Gc(interval_s=0),
        drain_s=5,
    )
    registry = Registry.open(settings)
    server = Server(registry, settings)
    url = await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            await fill_the_disk(session, url)
            assert not store.objects
            await push_a_mebibyte(session, url)
        assert not store.uploads
        assert len(store.objects) == 1
    finally:
        await server.aclose()
        await registry.aclose()
        await store.aclose()


async def test_on_a_full_disk_things_can_be_read_deleted_and_collected(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scow.registry.sqlite.SPARE_CHECK_S", 0.0)
    # Without a time of grace, being told of a blob puts its review off, which is written down.
    settings = Settings(listen="127.0.0.1:0", storage=str(small_disk / "s"), gc=Gc(interval_s=0, grace_s=0), drain_s=5)
    registry = Registry.open(settings)
    server = Server(registry, settings)
    url = await server.start() + "/v2/x"
    digest = f"sha256:{hashlib.sha256(b'{}').hexdigest()}"
    config = {"mediaType": "application/json", "digest": digest, "size": 2}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []}).encode()
    try:
        async with aiohttp.ClientSession() as session:

            async def ask(method: str, path: str, data: bytes | None = None) -> int:
                headers = {"Content-Type": MANIFEST}
                async with session.request(method, url + path, data=data, headers=headers) as reply:
                    await reply.read()
                    return reply.status

            assert await ask("POST", f"/blobs/uploads/?digest={digest}", b"{}") == 201
            assert await ask("PUT", "/manifests/tag", manifest) == 201
            fill(small_disk / "filler")
            assert await ask("PUT", "/manifests/other", manifest) == 507
            assert await ask("POST", "/blobs/uploads/") == 507
            assert list((small_disk / "s" / "uploads").iterdir()) == []
            assert await ask("GET", "/manifests/tag") == 200
            assert await ask("GET", f"/blobs/{digest}") == 200
            assert await ask("DELETE", f"/manifests/sha256:{hashlib.sha256(manifest).hexdigest()}") == 202
            assert (await registry.collector.collect()).blobs == 1
            assert not list((small_disk / "s" / "blobs" / "sha256" / digest[7:9]).iterdir())
            # The spare file that this took is made anew once there is room: it works a second time.
            spare = small_disk / "s" / "registry.db-spare"
            assert not spare.exists()
            (small_disk / "filler").unlink()
            assert await ask("POST", f"/blobs/uploads/?digest={digest}", b"{}") == 201
            assert await ask("PUT", "/manifests/tag", manifest) == 201
            assert spare.stat().st_size == SPARE_SIZE
            fill(small_disk / "filler")
            statuses = [await ask("PUT", f"/manifests/{number}", manifest) for number in range(200)]
            assert set(statuses) == {201, 507}  # the log's own bytes were free for some
            assert await ask("DELETE", "/manifests/tag") == 202
    finally:
        await server.aclose()
        await registry.aclose()


def fill(path: Path) -> None:
    """Take all the room that is left."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1 << 9):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
