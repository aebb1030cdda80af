"""Push and pull through registries as they are installed: the same round trip with each."""

import asyncio
import importlib.util
import json
import os
import shutil
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from scow.oci.digest import sha256
from scow.oci.platform import parse_platform
from scow.oci.reference import parse_reference
from scow.store.store import Store
from scow.transfer.client import RegistryClient, with_query
from scow.transfer.hosts import Endpoint
from scow.transfer.pull import pull
from scow.transfer.push import push
from scow.transfer.registries import Registries
from support.ports import free_port

AMD64 = parse_platform("linux/amd64")


@asynccontextmanager
async def running(url: str, *command: str) -> AsyncIterator[None]:
    """A server process, from its first answer to its end."""
    process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=DEVNULL)
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            while True:
                assert process.returncode is None, f"{command[0]} ended"
                try:
                    async with session.get(f"{url}/v2/"):
                        break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.02)  # there is nothing to await: it doesn't tell when it listens
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@pytest.fixture(params=["distribution", "scow"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The host of a registry."""
    host = f"127.0.0.1:{free_port()}"
    if request.param == "distribution":
        binary = shutil.which("docker-registry") or shutil.which("registry")
        if binary is None:
            pytest.skip("needs Debian's docker-registry")
        config = {
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
            "http": {"addr": host},
        }
        (tmp_path / "config.yml").write_text(json.dumps(config))
        command = [binary, "serve", str(tmp_path / "config.yml")]
    else:
        if importlib.util.find_spec("scow.registry.server") is None:
            pytest.skip("needs scow's own registry, which isn't in this tree")
        command = [sys.executable, "-m", "scow", "registry", "serve"]
        command += ["--listen", host, "--storage", str(tmp_path / "registry")]
    async with running(f"http://{host}", *command):
        yield host


async def put(client: RegistryClient, registry: Any) -> None:
    """Bring what a fake registry holds into a real one, byte for byte, without a store."""
    for data in registry.blobs.values():
        async with client.request("POST", client.url("blobs/uploads/"), expect=(202,)) as response:
            location = response.url.join(URL(response.headers["Location"], encoded=True))
        url = with_query(location, digest=sha256(data))
        async with client.request("PUT", url, expect=(201,), body=data):
            pass
    for (_, reference), (data, media_type) in registry.manifests.items():
        await client.put_manifest(reference, data, media_type)


async def test_an_image_goes_round(
    server: str, registries: Registries, registry: Any, tmp_path: Path, made: Any
) -> None:
    layers = [
        made.layer({"small": b"x" * 3000}),
        made.layer({"noise": os.urandom(20 << 20)}, "none"),
        made.layer({"more": os.urandom(100_000)}, "zstd"),
    ]
    source = made.image(registry, "team/app", "v1", layers)
    index = made.index(registry, "team/app", "latest", {"linux/amd64": source})
    endpoint = Endpoint(url=f"http://{server}", verify=False)
    client = registries.client(endpoint, "team/app", None, actions=("pull", "push"))
    await put(client, registry)
    assert await client.tags() == ["latest", "v1"]

    store = await Store.open(tmp_path / "data", tmp_path / "exec", "erofs")
    try:
        common: dict[str, Any] = {"registries": registries, "store": store, "emit": lambda line: None}
        image = await pull(parse_reference(f"{server}/team/app"), platform=AMD64, **common)
        assert (image.id, image.manifest, image.index) == (source.id, source.digest, index)
        lines: list[Any] = []
        result = await push(parse_reference(f"{server}/other/app:v2"), image, **{**common, "emit": lines.append})
        assert result.digest == index  # of one image, which is here: so it goes out whole
        assert any(line.status.startswith("Mounted from team/app") for line in lines)
        result = await push(parse_reference(f"localhost:{server.rpartition(':')[2]}/third/app:v3"), image, **common)
        assert result.digest == index
        copy = registries.client(endpoint, "third/app", None)
        assert (await copy.manifest("v3")).digest == index
        assert (await copy.manifest(source.digest)).data == source.manifest
    finally:
        await store.aclose()
