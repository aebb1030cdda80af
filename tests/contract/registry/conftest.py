"""A registry in process, on a free port and its own folder, and a small client that shows status, headers and bytes."""

import hashlib
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from multidict import CIMultiDictProxy

from scow.registry.registry import Registry
from scow.registry.server import Server
from scow.registry.settings import Bucket, Gc, Names, Settings
from support.postgres import Postgres, find_postgres
from support.s3_server import S3Server

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass
class Answer:
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def codes(self) -> list[str]:
        """The codes of the error document, whose form is checked on the way."""
        assert self.headers["Content-Type"] == "application/json"
        document = self.json
        assert document.keys() == {"errors"}
        assert document["errors"]
        assert all({"code", "message"} <= error.keys() <= {"code", "message", "detail"} for error in document["errors"])
        return [error["code"] for error in document["errors"]]


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


class Client:
    """Speaks to the registry; repositories default to `test/repo`."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, bytes):
            body = io.BytesIO(body)  # aiohttp wants large bodies as files
            named.setdefault("Content-Type", "application/octet-stream")
        async with self._session.request(
            method, f"{self.url}{path}", data=body, headers=named, allow_redirects=False
        ) as reply:
            answer = Answer(reply.status, reply.headers, await reply.read())
        assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
        return answer

    async def begin(self, repository: str = "test/repo", query: str = "") -> str:
        answer = await self("POST", f"/v2/{repository}/blobs/uploads/{query}")
        assert answer.status == 202
        return answer.headers["Location"]

    async def push_blob(self, data: bytes, repository: str = "test/repo", algorithm: str = "sha256") -> str:
        digest = digest_of(data, algorithm)
        location = await self.begin(repository)
        answer = await self("PUT", f"{location}?digest={digest}", data)
        assert answer.status == 201, answer.body
        return digest

    async def push_manifest(
        self, document: Any, reference: str = "", repository: str = "test/repo", media_type: str = MANIFEST
    ) -> tuple[str, Answer]:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        digest = digest_of(data)
        path = f"/v2/{repository}/manifests/{reference or digest}"
        return digest, await self("PUT", path, data, Content_Type=media_type)

    async def image(self, repository: str = "test/repo", seed: str = "", **extra: Any) -> dict[str, Any]:
        """The manifest of an image whose blobs were pushed."""
        config, layer = f'{{"seed":"{seed}"}}'.encode(), f"layer {seed}".encode()
        return {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, await self.push_blob(config, repository), len(config)),
            "layers": [descriptor(LAYER, await self.push_blob(layer, repository), len(layer))],
            **extra,
        }

    async def push_image(self, tag: str, repository: str = "test/repo", seed: str = "", **extra: Any) -> str:
        digest, answer = await self.push_manifest(await self.image(repository, seed, **extra), tag, repository)
        assert answer.status == 201, answer.body
        return digest


def descriptor(media_type: str, digest: str, size: int = 2, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size, **more}


KINDS = {
    **dict.fromkeys(("test_push", "test_pull", "test_policies"), ("folder", "cluster")),
    **dict.fromkeys(("test_discovery", "test_management", "test_webhooks"), ("folder", "postgres")),
}
"""Files whose tests run on several kinds of storage."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = metafunc.definition.iter_markers("parametrize")
    if any("kind_of_storage" in mark.args[0] for mark in marks):
        return
    kinds = KINDS.get(metafunc.module.__name__.rpartition(".")[2])
    if kinds is not None and "kind_of_storage" in metafunc.fixturenames:
        metafunc.parametrize("kind_of_storage", kinds, indirect=True)


@pytest.fixture
def kind_of_storage(request: pytest.FixtureRequest) -> str:
    """`folder` with a SQLite file, `postgres` with names there, or `cluster` with blobs in an object store too."""
    return str(getattr(request, "param", "folder"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    programs = find_postgres()
    if programs is None:
        pytest.skip("needs Debian's package postgresql")
    server = Postgres(programs)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
async def s3() -> AsyncIterator[S3Server]:
    server = S3Server()
    await server.start()
    yield server
    await server.aclose()


@pytest.fixture
def settings(tmp_path: Path, kind_of_storage: str, s3: S3Server, request: pytest.FixtureRequest) -> Settings:
    made = Settings(listen="127.0.0.1:0", storage=str(tmp_path / "storage"), gc=Gc(interval_s=0), drain_s=5)
    url = "" if kind_of_storage == "folder" else request.getfixturevalue("postgres").empty_database()
    blob_size = 0 if request.node.get_closest_marker("in_storage") else Names().blob_size
    made = msgspec.structs.replace(made, database=Names(url=url, connections=3, blob_size=blob_size))
    if kind_of_storage == "cluster":
        bucket = Bucket(endpoint=s3.url, access_key="key", secret_key="secret", redirect=False, part_size=5 << 20)
        made = msgspec.structs.replace(made, storage="s3://registry", bucket=bucket)
    return made


@dataclass
class Running:
    registry: Registry
    server: Server
    url: str


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    """Start registries; those that are not stopped by the test are stopped after it."""
    started: list[Running] = []

    async def start(settings: Settings, **changes: Any) -> Running:
        changed = msgspec.structs.replace(settings, **changes)
        registry = Registry.open(changed)
        server = Server(registry, changed)
        running = Running(registry, server, await server.start())
        started.append(running)
        return running

    yield start
    for running in started:
        await running.server.aclose()
        await running.registry.aclose()


@pytest.fixture
async def running(serve: Callable[..., Any], settings: Settings) -> Running:
    result: Running = await serve(settings)
    return result


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as opened:
        yield opened


@pytest.fixture
async def client(running: Running, session: aiohttp.ClientSession) -> Client:
    return Client(session, running.url)
