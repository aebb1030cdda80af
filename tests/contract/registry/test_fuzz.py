"""Requests that nobody would write: each gets an answer or the end, none a failure, and nothing wrong is kept."""

import asyncio
import json
import os
import random
from urllib.parse import quote

import pytest

from scow.registry.settings import Settings

from .conftest import Client, Running, digest_of

ROUNDS = 1500
BLOBS = [b"", b"x", b"{}", bytes(3000), b"y" * 70_000]
DIGESTS = [digest_of(data, name) for data in BLOBS for name in ("sha256", "sha512")]
REFERENCES = [*DIGESTS, "v1", "", ".x", "sha256:", "md5:0", "sha256:../x", f"sha256:{'0' * 63}\n", "x" * 129, "a\x00"]
NAMES = ["a", "a/b", "blobs/uploads", "A", "..", "a//b", "", "é", "a" * 256, "a b", "_catalog"]
MEDIA_TYPES = ["application/vnd.oci.image.manifest.v1+json", "application/json", "a/b\x01", "", "é/x"]
HEADERS = {
    "Range": ["bytes=0-", "bytes=5-1", "bytes=-1", "bytes=0-0,2-3", "x", "bytes=99999999999999999999-"],
    "Content-Range": ["0-0", "0-2", "5-1", "abc", "bytes 0-2/3", "0-99999999999999999999", "-1-5"],
    "If-None-Match": ["*", '"x"', "", ",,", f'"{DIGESTS[0]}"'],
    "If-Match": ["*", '"x"', "", ",,"],
    "Content-Type": MEDIA_TYPES,
    "Content-Encoding": ["gzip"],
    "Expect": ["100-continue", "x"],
    "Authorization": ["Basic", "Basic !!", "Bearer x"],
    "Transfer-Encoding": ["chunked", "gzip, chunked", "identity"],
    "Content-Length": ["-1", "abc", "99999999999999999999", "0x10", "1,1"],
    "Connection": ["close", "upgrade"],
    "X-Request-Id": ["a" * 100, "é"],
}
FILES = {"blobs", "uploads", "registry.db", "registry.db-wal", "registry.db-shm", "registry.db-spare"}


class Requests:
    """Makes them, by chance but always the same for the same seed."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.locations: list[str] = []

    def _path(self) -> str:
        pick = self._chance.choice
        name, reference = quote(pick(NAMES)), quote(pick(REFERENCES), safe=":")
        uploads = f"/v2/{name}/blobs/uploads/"
        paths = [f"/v2/{name}/{noun}/{reference}" for noun in ("manifests", "blobs", "referrers")]
        paths += [uploads, f"{uploads}{reference}", f"/v2/{name}/tags/list", "/v2/_catalog", "//v2/", "/v2/%", "*"]
        paths += [pick(self.locations)] * 8 if self.locations else []
        query = [
            f"{pick(['n', 'last', 'digest', 'mount', 'from', 'tag', 'artifactType', 'digest-algorithm', ''])}="
            f"{quote(pick([*REFERENCES, *NAMES, '-1', '1e3', '99999999999']))}"
            for _ in range(pick([0, 0, 1, 2, 220]))
        ]
        return f"{pick(paths)}{'?' if query else ''}{'&'.join(query)}"

    def _document(self) -> bytes:
        pick = self._chance.choice
        descriptor = {"mediaType": "a/b", "digest": pick(REFERENCES), "size": pick([2, -1, 1.5, "2", 1 << 70])}
        document = {
            "schemaVersion": pick([2, 2, 1, "2", None]),
            "mediaType": pick([*MEDIA_TYPES, None, 5]),
            "config": pick([descriptor, None, []]),
            "layers": pick([[], [descriptor] * 3, None, [None]]),
            "manifests": pick([[], [descriptor], None, {}]),
            "subject": pick([descriptor, None, {}]),
            "annotations": pick([None, {"a": "b"}, {"a": 1}, {"é": "\ud800"}]),
        }
        return json.dumps({name: document[name] for name in document if self._chance.random() < 0.6}).encode()

    def make(self) -> bytes:
        """One request's bytes, and sometimes fewer or others."""
        pick, chance = self._chance.choice, self._chance.random
        method = pick(["GET", "HEAD", "POST", "POST", "PUT", "PUT", "PATCH", "DELETE", "OPTIONS", "FOO"])
        body = pick([*BLOBS, self._document()])
        path = self._path()
        if chance() < 0.2:
            path = f"{pick(self.locations or [path]).partition('?')[0]}?digest={digest_of(body)}"
        lines = [f"{method} {path} HTTP/1.1", "Host: x"]
        for name in self._chance.sample(list(HEADERS), pick([0, 0, 0, 1, 2])):
            lines.append(f"{name}: {pick(HEADERS[name])}")
        if not any(line.startswith(("Content-Length", "Transfer")) for line in lines):
            lines.append(f"Content-Length: {len(body)}")
        data = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        data += f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n" if b"chunked" in data else body
        if chance() < 0.03:
            data = data[: self._chance.randrange(len(data))]
        return data


async def exchange(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_whatever_is_sent_nothing_fails_and_nothing_wrong_is_kept(
    running: Running, client: Client, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    seed = random.randrange(1 << 32)
    requests, port = Requests(random.Random(seed)), int(running.url.rpartition(":")[2])
    for number in range(ROUNDS):
        data = requests.make()
        async with asyncio.timeout(60):
            answer = await exchange(port, data)
        where = f"seed {seed}, request {number}: {data[:500]!r} -> {answer[:500]!r}"
        status = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")[9:12]
        assert status[:1] in (b"", b"2", b"3", b"4"), where
        for line in answer.split(b"\r\n"):
            if line.startswith(b"Location: ") and b"/blobs/uploads/" in line:
                requests.locations = [*requests.locations[-20:], line[10:].decode()]
    assert not caplog.records, f"seed {seed}: {caplog.text}"
    registry = running.registry
    assert [each async for each in registry.collector.damaged()] == []
    assert [each async for each in registry.collector.damaged_manifests()] == []
    for name in await registry.metadata.repositories("", 1000):
        assert name in ("a", "a/b", "blobs/uploads")
    assert registry.uploads.held_size == 0
    assert set(os.listdir(settings.storage)) <= FILES
    assert (await client("GET", "/v2/")).status == 200
