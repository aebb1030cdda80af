"""A registry of the tests' own that can be told to misbehave: to count, limit, cut, crawl, lie and vanish."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from .conftest import CONFIG, INDEX, LAYER, MANIFEST, descriptor, digest_of


class FaultyRegistry:
    """Serves what `add_*` gave it; `asked` counts requests as `METHOD kind reference`."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}  # by repository and digest
        self.tags: dict[tuple[str, str], str] = {}
        self.asked: Counter[str] = Counter()
        self.status = 0  # answer everything with it
        self.headers: dict[str, str] = {}
        self.cut_at: list[int] = []  # the next answers with blobs break off after so many bytes
        self.lies = False  # blobs are other bytes
        self.ignores_ranges = False
        self.says_no_size = False
        self.gate: asyncio.Event | None = None  # blobs stop in the middle until it is set
        self.password = ""  # of user `ann`
        self.url = ""

    def add_image(self, repository: str, tag: str, layer: bytes = b"layer") -> str:
        """An image of one layer; its digest."""
        config = json.dumps({"of": hashlib.sha256(layer).hexdigest()}).encode()
        for data in (config, layer):
            self.blobs[digest_of(data)] = data
        return self.add_manifest(
            repository,
            tag,
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": descriptor(CONFIG, digest_of(config), len(config)),
                "layers": [descriptor(LAYER, digest_of(layer), len(layer))],
            },
        )

    def add_index(self, repository: str, tag: str, *images: str) -> str:
        """An index of images that were added; its digest."""
        children = [descriptor(MANIFEST, image, len(self.manifests[repository, image][1])) for image in images]
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": children}
        return self.add_manifest(repository, tag, document, INDEX)

    def add_manifest(self, repository: str, tag: str, document: Any, media_type: str = MANIFEST) -> str:
        data = json.dumps(document).encode()
        self.manifests[repository, digest_of(data)] = (media_type, data)
        self.tags[repository, tag] = digest_of(data)
        return digest_of(data)

    def asked_for(self, kind: str) -> int:
        """How often something of a kind was asked for, `GET manifests` for instance."""
        return sum(count for line, count in self.asked.items() if line.startswith(kind))

    @asynccontextmanager
    async def served(self, port: int = 0) -> AsyncIterator["FaultyRegistry"]:
        runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path.removeprefix("/v2/")
        if not path:
            return web.json_response({})
        if self.password and request.headers.get("Authorization") != _basic("ann", self.password):
            return web.json_response({"errors": [{"code": "UNAUTHORIZED", "message": "who are you"}]}, status=401,
                                     headers={"WWW-Authenticate": 'Basic realm="faulty"'})  # fmt: skip
        head, _, reference = path.rpartition("/")
        repository, _, kind = head.rpartition("/")
        self.asked[f"{request.method} {kind} {reference}"] += 1
        if self.status:
            return web.Response(status=self.status, headers=self.headers)
        if kind == "tags":
            names = sorted(tag for repo, tag in self.tags if repo == repository)
            return web.json_response({"name": repository, "tags": names})
        if kind == "manifests":
            return self._manifest(repository, reference)
        if kind == "blobs" and reference in self.blobs:
            return await self._blob(request, reference)
        return web.json_response({"errors": [{"code": "BLOB_UNKNOWN", "message": "none"}]}, status=404)

    def _manifest(self, repository: str, reference: str) -> web.StreamResponse:
        digest = self.tags.get((repository, reference), reference)
        if (repository, digest) not in self.manifests:
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "none"}]}, status=404)
        media_type, data = self.manifests[repository, digest]
        return web.Response(body=data, content_type=media_type, headers={"Docker-Content-Digest": digest})

    async def _blob(self, request: web.BaseRequest, digest: str) -> web.StreamResponse:
        data = self.blobs[digest]
        if self.lies:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = 0
        wanted = request.headers.get("Range", "")
        if wanted and not self.ignores_ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        reply = web.StreamResponse(status=206 if start else 200)
        if start:
            reply.headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if not self.says_no_size:
            reply.content_length = len(data) - start
        await reply.prepare(request)
        if request.method == "HEAD":
            return reply
        body = data[start:]
        if self.cut_at and (cut := self.cut_at.pop(0)) < len(body):
            await reply.write(body[:cut])
            assert request.transport is not None
            request.transport.close()
            return reply
        half = len(body) // 2
        await reply.write(body[:half])
        if self.gate is not None:
            await self.gate.wait()
        await reply.write(body[half:])
        await reply.write_eof()
        return reply


def _basic(name: str, password: str) -> str:
    from base64 import b64encode

    return f"Basic {b64encode(f'{name}:{password}'.encode()).decode()}"
