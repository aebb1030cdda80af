"""Two replicas behind a balancer that knows no stickiness, on the real PostgreSQL and Ceph's S3.

Images are pushed, moved, deleted and pushed again while both collect garbage at many times the usual speed, and one of
them is killed and comes back. All that was promised is there at any time, and in the end nothing else is.
"""

import asyncio
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import obstore
import pytest
from obstore.store import S3Store
from yarl import URL

from scow.registry.s3 import Keys, sign
from scow.registry.small_objects import is_small
from support.ports import free_port
from support.postgres import Postgres
from support.radosgw import Gateway, missing_programs

from .conftest import CONFIG, LAYER, MANIFEST, descriptor, digest_of

BUCKET = "registry"
GRACE_S = 2.0
EXPIRY_S = 5.0
LOAD_S = 12.0
KILLED_AT_S, BACK_AT_S = 4.0, 7.0
PUSHERS = 4
PART = 5 << 20


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    missing = missing_programs()
    if missing:
        pytest.skip(f"needs Debian's packages ceph-mon, ceph-osd and radosgw: {', '.join(missing)} missing")
    started = Gateway()
    try:
        started.start()
        yield started
    finally:
        started.stop()


class Replica:
    """A registry in a process of its own."""

    def __init__(self, folder: Path, gateway: Gateway, database: str) -> None:
        self.port = free_port()
        self._config = folder / f"replica-{self.port}.toml"
        self._log = folder / f"replica-{self.port}.log"
        self._process: asyncio.subprocess.Process | None = None
        self._config.write_text(
            f"""
listen = "127.0.0.1:{self.port}"
storage = "s3://{BUCKET}/images"
workers = 1
drain_s = 1
[database]
url = "{database}"
[bucket]
endpoint = "{gateway.url}"
access_key = "{gateway.access_key}"
secret_key = "{gateway.secret_key}"
part_size = {PART}
[gc]
interval_s = 0.5
grace_s = {GRACE_S}
upload_expiry_s = {EXPIRY_S}
"""
        )

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "scow.registry", "serve", "--config", self._config, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError):
                (await asyncio.open_connection("127.0.0.1", self.port))[1].close()
                return
            assert self._process.returncode is None, self.said()
            assert time.monotonic() < deadline, self.said()
            await asyncio.sleep(0.1)

    async def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(how)
            await self._process.wait()

    def said(self) -> str:
        return self._log.read_text()[-5000:]


@dataclass
class Cluster:
    url: str
    replicas: list[Replica]
    gateway: Gateway
    database: str
    store: S3Store
    promised: dict[tuple[str, str], str] = field(default_factory=dict)  # digests by repository and tag
    pushes: int = 0
    tries: int = 0
    reads: int = 0


@pytest.fixture
async def cluster(tmp_path: Path, postgres: Postgres, gateway: Gateway) -> AsyncIterator[Cluster]:
    if shutil.which("haproxy") is None:
        pytest.skip("needs Debian's package haproxy")
    await make_bucket(gateway)
    database = postgres.empty_database()
    replicas = [Replica(tmp_path, gateway, database) for _ in range(2)]
    port = free_port()
    servers = "\n".join(f"    server r{each.port} 127.0.0.1:{each.port} check inter 200ms" for each in replicas)
    (tmp_path / "haproxy.cfg").write_text(
        f"""
defaults
    mode http
    balance roundrobin
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    retries 2
    option redispatch
listen registry
    bind 127.0.0.1:{port}
{servers}
"""
    )
    balancer = None
    try:
        await asyncio.gather(*(each.start() for each in replicas))
        balancer = await asyncio.create_subprocess_exec(
            "haproxy",
            "-f",
            tmp_path / "haproxy.cfg",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        store = S3Store(
            BUCKET,
            endpoint=gateway.url,
            access_key_id=gateway.access_key,
            secret_access_key=gateway.secret_key,
            region="us-east-1",
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )
        yield Cluster(f"http://127.0.0.1:{port}", replicas, gateway, database, store)
    finally:
        if balancer is not None:
            balancer.terminate()
            await balancer.wait()
        await asyncio.gather(*(each.end() for each in replicas))


async def signed(gateway: Gateway, method: str, query: str = "") -> str:
    """A request about the bucket."""
    host = gateway.url.removeprefix("http://")
    keys = Keys(gateway.access_key, gateway.secret_key)
    headers = sign(method, host, f"/{BUCKET}", query, "us-east-1", keys, time.time())
    url = URL(f"{gateway.url}/{BUCKET}{f'?{query}' if query else ''}", encoded=True)
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as answer:
        text = await answer.text()
        assert answer.status == 200, text
        return text


async def make_bucket(gateway: Gateway) -> None:
    await signed(gateway, "PUT")


class Refused(Exception):
    """A push has to begin anew, as clients do."""


async def push_blob(session: aiohttp.ClientSession, url: str, repository: str, data: bytes, pieces: int) -> str:
    """By several requests, each of which the balancer sends to the next replica."""
    digest = digest_of(data)
    async with session.head(f"{url}/v2/{repository}/blobs/{digest}") as answer:
        if answer.status == 200:
            return digest
    async with session.post(f"{url}/v2/{repository}/blobs/uploads/") as answer:
        expect(answer, 202)
        location = answer.headers["Location"]
    size = -(-len(data) // pieces)
    for start in range(0, len(data), size):
        async with session.patch(f"{url}{location}", data=as_stream(data[start : start + size])) as answer:
            expect(answer, 202)
    async with session.put(f"{url}{location}?digest={digest}") as answer:
        expect(answer, 201)
    return digest


async def as_stream(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1 << 18):
        yield data[start : start + (1 << 18)]


def expect(answer: aiohttp.ClientResponse, status: int) -> None:
    if answer.status != status:
        raise Refused(f"{answer.method} {answer.url.path}: {answer.status}")


async def push(cluster: Cluster, session: aiohttp.ClientSession, repository: str, tag: str, seed: int) -> None:
    """An image of a config, a small and sometimes a large layer; some of the layers are the same for many seeds."""
    chance = random.Random(seed)
    config = json.dumps({"seed": seed}).encode()
    layers = [b"shared %d" % (seed % 3), chance.randbytes(chance.choice([10, 100_000, PART + 70_000, 2 * PART + 9]))]
    while True:
        cluster.tries += 1
        try:
            document = {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": descriptor(CONFIG, await push_blob(session, cluster.url, repository, config, 1), len(config)),
                "layers": [
                    descriptor(LAYER, await push_blob(session, cluster.url, repository, layer, 3), len(layer))
                    for layer in layers
                ],
            }
            data = json.dumps(document).encode()
            async with session.put(
                f"{cluster.url}/v2/{repository}/manifests/{tag}", data=data, headers={"Content-Type": MANIFEST}
            ) as answer:
                expect(answer, 201)
        except (Refused, aiohttp.ClientError, TimeoutError):
            await asyncio.sleep(0.2)
            continue
        cluster.promised[repository, tag] = digest_of(data)
        cluster.pushes += 1
        return


async def delete(cluster: Cluster, session: aiohttp.ClientSession, repository: str, tag: str) -> None:
    digest = cluster.promised.pop((repository, tag))
    while True:
        with suppress(aiohttp.ClientError, TimeoutError):
            async with session.delete(f"{cluster.url}/v2/{repository}/manifests/{digest}") as answer:
                if answer.status in (202, 404):
                    return
        await asyncio.sleep(0.2)


async def keep_pushing(cluster: Cluster, number: int, until: float) -> None:
    """Each pusher has a repository of its own, so that it knows what has to be there."""
    chance, repository = random.Random(number), f"team/{number % PUSHERS}"
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while time.monotonic() < until:
            tag = chance.choice("abcd")
            # Few seeds, so that what was deleted a moment ago comes again while it is being collected; and new ones.
            seed = chance.randrange(6) if chance.random() < 0.6 else chance.randrange(1 << 30)
            await push(cluster, session, repository, tag, seed)
            if chance.random() < 0.6:
                for other in [key for key in cluster.promised if key[0] == repository and chance.random() < 0.6]:
                    digest = cluster.promised[other]
                    if [*cluster.promised.values()].count(digest) == 1:
                        await delete(cluster, session, *other)
            await check(cluster, session, repository)
            await asyncio.sleep(chance.random() * 0.3)


async def check(cluster: Cluster, session: aiohttp.ClientSession, repository: str) -> None:
    """Everything that was promised in a repository can be pulled, byte for byte."""
    for (name, tag), digest in list(cluster.promised.items()):
        if name != repository:
            continue
        data = await get(session, f"{cluster.url}/v2/{name}/manifests/{tag}")
        assert digest_of(data) == digest, f"{name}:{tag} is another manifest"
        document = json.loads(data)
        for part in (document["config"], *document["layers"]):
            blob = await get(session, f"{cluster.url}/v2/{name}/blobs/{part['digest']}")
            assert digest_of(blob) == part["digest"]
            cluster.reads += 1


async def get(session: aiohttp.ClientSession, url: str) -> bytes:
    """As a patient client: a replica may have died a moment ago. A 404 is a broken promise."""
    for _ in range(50):
        with suppress(aiohttp.ClientError, TimeoutError):
            async with session.get(url) as answer:
                assert answer.status != 404, f"{url} is gone"
                if answer.status == 200:
                    return await answer.read()
        await asyncio.sleep(0.2)
    raise AssertionError(f"{url} can't be read")


async def objects_of(cluster: Cluster) -> dict[str, int]:
    found: dict[str, int] = {}
    async for page in obstore.list(cluster.store):
        found |= {each["path"]: each["size"] for each in page}
    return found


async def test_no_promise_is_broken_and_nothing_is_left(cluster: Cluster, postgres: Postgres) -> None:
    begun = time.monotonic()
    pushing = [asyncio.create_task(keep_pushing(cluster, number, begun + LOAD_S)) for number in range(PUSHERS)]
    await asyncio.sleep(KILLED_AT_S)
    killed_at = datetime.now(UTC)
    await cluster.replicas[0].end(signal.SIGKILL)
    await asyncio.sleep(BACK_AT_S - KILLED_AT_S)
    await cluster.replicas[0].start()
    await asyncio.gather(*pushing)
    assert cluster.pushes > 10
    async with aiohttp.ClientSession() as session:
        for number in range(PUSHERS):
            await check(cluster, session, f"team/{number}")
        # An upload that nobody goes on with, half of it sent.
        async with session.post(f"{cluster.url}/v2/team/0/blobs/uploads/") as answer:
            location = answer.headers["Location"]
        async with session.patch(f"{cluster.url}{location}", data=as_stream(os.urandom(PART + 100_000))) as answer:
            expect(answer, 202)

    deadline = time.monotonic() + 120
    while True:
        kept = {row[0]: int(row[1]) for row in postgres.rows("SELECT object, size FROM blob", cluster.database)}
        there = await objects_of(cluster)
        wanted = {f"images/blobs/{name[72:74]}/{name[72:]}": size for name, size in kept.items() if not is_small(name)}
        left = postgres.rows(
            "SELECT 'upload', id FROM upload WHERE ended_at IS NULL UNION ALL SELECT 'stage', upload FROM stage "
            "UNION ALL SELECT 'small', name FROM small_object WHERE name NOT IN (SELECT object FROM blob)",
            cluster.database,
        )
        queue = postgres.rows("SELECT object FROM garbage", cluster.database)
        listed = await signed(cluster.gateway, "GET", "uploads=")
        begun_parts = re.findall("<Key>(.*?)</Key>.*?<Initiated>(.*?)</Initiated>", listed, re.DOTALL)
        # What the killed one had begun and not yet recorded stays until a sweep, which comes by the hour.
        parts = [key for key, at in begun_parts if abs((datetime.fromisoformat(at) - killed_at).total_seconds()) > 3]
        assert wanted.keys() <= there.keys(), "a blob has no object"
        if wanted == there and not left and not queue and not parts:
            break
        assert time.monotonic() < deadline, (there.keys() - wanted.keys(), left, queue, parts)
        await asyncio.sleep(0.5)
    said = "".join(replica.said() for replica in cluster.replicas)
    collected = sum(int(count) for count in re.findall(r"collected (\d+) blobs", said))
    assert collected > 5, f"hardly anything was collected: {said}"
    assert "Traceback" not in said, said
    referred = postgres.rows(
        "SELECT m.digest FROM manifest_ref m LEFT JOIN repository_blob l ON l.repository = m.repository "
        "AND l.digest = m.digest WHERE l.digest IS NULL AND m.kind = 'blob'",
        cluster.database,
    )
    assert referred == []
    for path in there:
        data: Any = await (await obstore.get_async(cluster.store, path)).bytes_async()
        name = next(name for name in kept if path.endswith(name[72:]))
        assert name.startswith(f"sha256:{hashlib.sha256(bytes(data)).hexdigest()}")
