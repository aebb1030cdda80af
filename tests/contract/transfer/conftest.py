"""A registry in process, with switches for everything that can go wrong, and images to put into it."""

import asyncio
import base64
import gzip
import io
import json
import re
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLContext
from typing import Any
from urllib.parse import parse_qs

import pytest
import zstandard
from aiohttp import web

from scow.oci import media_types
from scow.oci.digest import DiffID, Digest, sha256
from scow.store.store import Store
from scow.transfer.hosts import HostPolicy
from scow.transfer.http import Patience
from scow.transfer.registries import Registries
from scow.wire.progress import ProgressMessage

MANIFEST_TYPES = {"docker": media_types.DOCKER_MANIFEST, "oci": media_types.OCI_MANIFEST}
CONFIG_TYPES = {"docker": media_types.DOCKER_CONFIG, "oci": media_types.OCI_CONFIG}


@dataclass
class Seen:
    """A request as it came in."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Session:
    repository: str
    data: bytearray = field(default_factory=bytearray)


@dataclass
class Fault:
    """An answer that is given instead of the right one, `times` times."""

    method: str
    path: re.Pattern[str]
    status: int
    headers: dict[str, str]
    body: bytes
    times: int


class FakeRegistry:
    """A registry that keeps everything in memory. Public attributes are switches; `seen` is what was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[Seen] = []
        self.blobs: dict[Digest, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.repository_blobs: set[tuple[str, Digest]] = set()
        self.sessions: dict[str, Session] = {}
        self.faults: list[Fault] = []
        self.users: dict[str, str] = {}
        self.auth = ""  # "basic" or "bearer"
        self.token_methods = {"GET", "POST"}
        self.token_url = ""
        self.token_scope_in_challenge = True
        self.identity_token = ""
        self.grants: Callable[[str, str], bool] = lambda user, scope: True
        self.tokens: dict[str, frozenset[str]] = {}
        self.redirect_blobs_to = ""
        self.cut_after: dict[Digest, list[int]] = {}
        self.cut_uploads_after: list[int] = []
        self.forgets_cut_requests = False
        self.upload_base = ""  # of the locations of uploads; relative ones if empty
        self.ignores_ranges = False
        self.has_head = True
        self.mounts = True
        self.denies_mounts = False
        self.gate = asyncio.Event()  # gated blobs wait for it
        self.gated: set[Digest] = set()
        self.waiting: asyncio.Queue[Digest] = asyncio.Queue()  # those that do
        self.blobs_in_flight = 0
        self.most_blobs_in_flight = 0

    @property
    def host(self) -> str:
        return self.url.partition("://")[2]

    def asked(self, method: str, pattern: str) -> list[Seen]:
        """The requests whose method and path fit."""
        return [seen for seen in self.seen if seen.method == method and re.search(pattern, seen.path)]

    def fail(
        self,
        pattern: str,
        status: int,
        *,
        times: int = 1,
        method: str = "",
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.faults.append(Fault(method, re.compile(pattern), status, headers or {}, body, times))

    def put_blob(self, repository: str, data: bytes) -> Digest:
        digest = sha256(data)
        self.blobs[digest] = data
        self.repository_blobs.add((repository, digest))
        return digest

    def put_manifest(self, repository: str, tag: str, document: Any, media_type: str) -> Digest:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        digest = sha256(data)
        self.manifests[repository, digest] = data, media_type
        if tag:
            self.manifests[repository, tag] = data, media_type
        return digest

    # --- serving ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def serve(self, ssl: SSLContext | None = None) -> AsyncIterator["FakeRegistry"]:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl)
            await site.start()
            port = runner.addresses[0][1]
            self.url = f"{'https' if ssl else 'http'}://127.0.0.1:{port}"
            yield self
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        seen = Seen(
            request.method,
            request.raw_path.partition("?")[0],
            parse_qs(request.rel_url.raw_query_string),
            {name.lower(): value for name, value in request.headers.items()},
        )
        self.seen.append(seen)
        for fault in self.faults:
            if fault.times and fault.method in ("", request.method) and fault.path.search(seen.path):
                fault.times -= 1
                await request.read()
                return web.Response(status=fault.status, headers=fault.headers, body=fault.body)
        if seen.path == "/token":
            return await self._token(request, seen)
        refused = self._refuse(request, seen)
        if refused is not None:
            return refused
        if seen.path == "/v2/":
            return web.json_response({})
        if seen.path.startswith("/storage/"):
            return await self._send_blob(request, Digest(seen.path.removeprefix("/storage/")))
        for pattern, handler in (
            (r"/v2/(.+)/manifests/([^/]+)", self._manifest),
            (r"/v2/(.+)/blobs/uploads/()", self._start_upload),
            (r"/v2/(.+)/blobs/uploads/(\w+)", self._continue_upload),
            (r"/v2/(.+)/blobs/([^/]+)", self._blob),
            (r"/v2/(.+)/tags/(list)", self._tags),
        ):
            match = re.fullmatch(pattern, seen.path)
            if match:
                return await handler(request, seen, match[1], match[2])
        return error(404, "UNSUPPORTED", "no such route")

    def _refuse(self, request: web.Request, seen: Seen) -> web.Response | None:
        authorization = seen.headers.get("authorization", "")
        if self.auth == "basic" and self._user(authorization) is None:
            return error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": 'Basic realm="fake"'})
        if self.auth != "bearer":
            return None
        match = re.match(r"/v2/(.+)/(manifests|blobs|tags)/", seen.path)
        scopes = set()
        if match:
            scopes.add(f"repository:{match[1]}:" + ("pull" if request.method in ("GET", "HEAD") else "push"))
        for source in seen.query.get("from", []):
            scopes.add(f"repository:{source}:pull")
        held = self.tokens.get(authorization.removeprefix("Bearer "))
        if held is not None and scopes <= held:
            return None
        asked = " ".join(sorted(scopes)).replace(":push", ":pull,push")
        challenge = f'Bearer realm="{self.token_url or self.url + "/token"}",service="fake"'
        if asked and self.token_scope_in_challenge:
            challenge += f',scope="{asked}"'
        if held is not None:
            challenge += ',error="insufficient_scope"'
        return error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": challenge})

    def _user(self, authorization: str) -> str | None:
        if not authorization.startswith("Basic "):
            return None
        user, _, password = base64.b64decode(authorization[6:]).decode().partition(":")
        return user if user in self.users and self.users[user] == password else None

    async def _token(self, request: web.Request, seen: Seen) -> web.Response:
        seen.body = await request.read()
        if request.method not in self.token_methods:
            return web.Response(status=404)
        form = parse_qs(seen.body.decode()) if request.method == "POST" else seen.query
        user: str | None = ""
        if request.method == "GET" and "authorization" in seen.headers:
            user = self._user(seen.headers["authorization"])
        elif form.get("grant_type") == ["refresh_token"]:
            user = "refreshed" if form["refresh_token"] == [self.identity_token] else None
        elif form.get("grant_type") == ["password"]:
            user = form["username"][0] if self.users.get(form["username"][0]) == form["password"][0] else None
        if user is None:
            return error(401, "UNAUTHORIZED", "incorrect username or password")
        scopes = set()
        for scope in " ".join(form.get("scope", [])).split():
            resource, _, actions = scope.rpartition(":")
            scopes |= {f"{resource}:{action}" for action in actions.split(",")}
        token = f"token-{len(self.tokens)}"
        self.tokens[token] = frozenset(scope for scope in scopes if self.grants(user, scope))
        answer: dict[str, Any] = {"token": token, "expires_in": 300}
        if form.get("offline_token") == ["true"] or form.get("access_type") == ["offline"]:
            answer["refresh_token"] = self.identity_token
        return web.json_response(answer)

    async def _manifest(self, request: web.Request, seen: Seen, repository: str, reference: str) -> web.Response:
        if request.method == "PUT":
            data = await request.read()
            self.put_manifest(repository, reference, data, request.headers["Content-Type"])
            return web.Response(status=201, headers={"Docker-Content-Digest": sha256(data), "Location": seen.path})
        found = self.manifests.get((repository, reference))
        if found is None:
            known = any(name == repository for name, _ in self.manifests)
            return error(404, "MANIFEST_UNKNOWN", "manifest unknown") if known else error(404, "NAME_UNKNOWN", "")
        if request.method == "HEAD" and not self.has_head:
            return web.Response(status=405)
        data, media_type = found
        headers = {"Content-Type": media_type, "Docker-Content-Digest": sha256(data)}
        return web.Response(body=data, headers=headers)

    async def _blob(self, request: web.Request, seen: Seen, repository: str, text: str) -> web.StreamResponse:
        digest = Digest(text)
        if (repository, digest) not in self.repository_blobs:
            return error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        if self.redirect_blobs_to and request.method == "GET":
            return web.Response(status=307, headers={"Location": f"{self.redirect_blobs_to}/storage/{digest}"})
        return await self._send_blob(request, digest)

    async def _send_blob(self, request: web.Request, digest: Digest) -> web.StreamResponse:
        data = self.blobs[digest]
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": str(len(data))})
        self.blobs_in_flight += 1
        self.most_blobs_in_flight = max(self.most_blobs_in_flight, self.blobs_in_flight)
        try:
            if digest in self.gated:
                self.waiting.put_nowait(digest)
                await self.gate.wait()
            start = 0
            headers = {"Content-Type": "application/octet-stream"}
            if "Range" in request.headers and not self.ignores_ranges:
                start = int(request.headers["Range"].removeprefix("bytes=").rstrip("-"))
                if start >= len(data):
                    return web.Response(status=416)
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            headers["Content-Length"] = str(len(data) - start)
            response = web.StreamResponse(status=206 if "Content-Range" in headers else 200, headers=headers)
            await response.prepare(request)
            cuts = self.cut_after.get(digest)
            if cuts:
                await response.write(data[start : start + cuts.pop(0)])
                assert request.transport is not None
                request.transport.close()
                return response
            for at in range(start, len(data), 1 << 20):
                await response.write(data[at : at + (1 << 20)])
            return response
        finally:
            self.blobs_in_flight -= 1

    async def _tags(self, request: web.Request, seen: Seen, repository: str, _: str) -> web.Response:
        tags = sorted(ref for name, ref in self.manifests if name == repository and ":" not in ref)
        if not tags:
            return error(404, "NAME_UNKNOWN", "")
        after = seen.query.get("last", [""])[0]
        page = [tag for tag in tags if tag > after][:2]
        headers = (
            {"Link": f'</v2/{repository}/tags/list?last={page[-1]}&n=2>; rel="next"'} if tags[-1] not in page else {}
        )
        return web.json_response({"name": repository, "tags": page}, headers=headers)

    # --- uploads ------------------------------------------------------------------------------------------------------

    async def _start_upload(self, request: web.Request, seen: Seen, repository: str, _: str) -> web.Response:
        if "mount" in seen.query:
            digest, source = Digest(seen.query["mount"][0]), seen.query["from"][0]
            if self.denies_mounts:
                return error(403, "DENIED", "")
            if self.mounts and (source, digest) in self.repository_blobs:
                self.repository_blobs.add((repository, digest))
                return web.Response(status=201, headers={"Location": f"/v2/{repository}/blobs/{digest}"})
        uuid = f"u{len(self.sessions)}"
        self.sessions[uuid] = Session(repository)
        return web.Response(status=202, headers=self._upload_headers(uuid))

    def _upload_headers(self, uuid: str) -> dict[str, str]:
        session = self.sessions[uuid]
        location = f"{self.upload_base}/v2/{session.repository}/blobs/uploads/{uuid}?state=a%2Fb"
        return {"Location": location, "Range": f"0-{max(0, len(session.data) - 1)}"}

    async def _continue_upload(
        self, request: web.Request, seen: Seen, repository: str, uuid: str
    ) -> web.StreamResponse:
        session = self.sessions.get(uuid)
        if session is None or seen.query.get("state") != ["a/b"]:
            return error(404, "BLOB_UPLOAD_UNKNOWN", "")
        if request.method == "GET":
            return web.Response(status=204, headers=self._upload_headers(uuid))
        if request.method == "DELETE":
            del self.sessions[uuid]
            return web.Response(status=204)
        if "Content-Range" in request.headers:
            start = int(request.headers["Content-Range"].partition("-")[0])
            if start != len(session.data):
                return web.Response(status=416, headers=self._upload_headers(uuid))
        is_long = bool(self.cut_uploads_after) and (request.content_length or 0) > self.cut_uploads_after[0]
        limit = self.cut_uploads_after.pop(0) if is_long else None
        before = len(session.data)
        async for chunk in request.content.iter_any():
            session.data += chunk
            if limit is not None and len(session.data) >= limit:
                del session.data[before if self.forgets_cut_requests else limit :]
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
        if request.method == "PATCH":
            return web.Response(status=202, headers=self._upload_headers(uuid))
        digest = Digest(seen.query["digest"][0])
        if sha256(bytes(session.data)) != digest:
            return error(400, "DIGEST_INVALID", "")
        self.put_blob(repository, bytes(session.data))
        del self.sessions[uuid]
        return web.Response(status=201, headers={"Location": f"/v2/{repository}/blobs/{digest}"})


def error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = json.dumps({"errors": [{"code": code, "message": message, "detail": None}]}).encode()
    return web.Response(status=status, body=body, headers={**(headers or {}), "Content-Type": "application/json"})


# --- images -----------------------------------------------------------------------------------------------------------


@dataclass
class MadeLayer:
    tar: bytes
    blob: bytes
    media_type: str
    urls: list[str] = field(default_factory=list)

    @property
    def diff_id(self) -> DiffID:
        return DiffID(sha256(self.tar))

    @property
    def descriptor(self) -> dict[str, Any]:
        pointer: dict[str, Any] = {"mediaType": self.media_type, "digest": sha256(self.blob), "size": len(self.blob)}
        return {**pointer, "urls": self.urls} if self.urls else pointer

    @property
    def id(self) -> str:
        return sha256(self.blob)[7:19]


def make_layer(files: dict[str, bytes], compression: str = "gzip", kind: str = "oci") -> MadeLayer:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o755
            tar.addfile(info, io.BytesIO(data))
    raw = buffer.getvalue()
    suffix = "" if compression == "none" else f"+{compression}"
    media_type = f"application/vnd.oci.image.layer.v1.tar{suffix}"
    if kind == "docker":
        media_type = media_types.DOCKER_LAYER_GZIP
    blob = {
        "gzip": lambda: gzip.compress(raw, 1, mtime=0),
        "zstd": lambda: zstandard.compress(raw),
        "none": lambda: raw,
    }[compression]()
    return MadeLayer(raw, blob, media_type)


@dataclass
class MadeImage:
    """An image as it lies in a registry."""

    layers: list[MadeLayer]
    config: bytes
    manifest: bytes
    media_type: str

    @property
    def digest(self) -> Digest:
        return sha256(self.manifest)

    @property
    def id(self) -> Digest:
        return sha256(self.config)

    def descriptor(self, platform: str) -> dict[str, Any]:
        system, architecture, *variant = platform.split("/")
        named = {"os": system, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.manifest), "platform": named}


def make_image(
    registry: FakeRegistry,
    repository: str,
    tag: str,
    layers: list[MadeLayer],
    *,
    platform: str = "linux/amd64",
    kind: str = "oci",
    diff_ids: list[str] | None = None,
    config_type: str = "",
    created: str = "2024-05-01T12:00:00.123456789Z",
) -> MadeImage:
    """Put an image into the registry."""
    system, architecture, *variant = platform.split("/")
    config = json.dumps(
        {
            "created": created,
            "os": system,
            "architecture": architecture,
            **({"variant": variant[0]} if variant else {}),
            "config": {"Cmd": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids or [layer.diff_id for layer in layers]},
        }
    ).encode()
    registry.put_blob(repository, config)
    for layer in layers:
        registry.put_blob(repository, layer.blob)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPES[kind],
            "config": {
                "mediaType": config_type or CONFIG_TYPES[kind],
                "digest": sha256(config),
                "size": len(config),
            },
            "layers": [layer.descriptor for layer in layers],
        }
    ).encode()
    registry.put_manifest(repository, tag, manifest, MANIFEST_TYPES[kind])
    return MadeImage(layers, config, manifest, MANIFEST_TYPES[kind])


def make_index(registry: FakeRegistry, repository: str, tag: str, images: dict[str, MadeImage]) -> Digest:
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_INDEX,
        "manifests": [image.descriptor(platform) for platform, image in images.items()],
    }
    return registry.put_manifest(repository, tag, document, media_types.OCI_INDEX)


# --- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry().serve() as registry:
        yield registry


@pytest.fixture
async def other() -> AsyncIterator[FakeRegistry]:
    """A second registry, on another port: another origin."""
    async with FakeRegistry().serve() as registry:
        yield registry


@pytest.fixture
async def make_registries() -> AsyncIterator[Callable[..., Registries]]:
    """Makes what an engine has, with little patience; arguments are HostPolicy's."""
    async with AsyncExitStack() as stack:

        def make(read_timeout_s: float = 60.0, max_downloads: int = 3, **policy: Any) -> Registries:
            made = Registries(
                HostPolicy(**{"certs_dirs": (), **policy}),
                patience=Patience(attempts=3, first_s=0.01, longest_s=0.02),
                max_concurrent_downloads=max_downloads,
                read_timeout_s=read_timeout_s,
            )
            stack.push_async_callback(made.aclose)
            return made

        yield make


@pytest.fixture
def registries(make_registries: Callable[..., Registries]) -> Registries:
    return make_registries()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "data", tmp_path / "exec", "erofs")
    yield store
    await store.aclose()


class Lines(list[ProgressMessage]):
    """The lines of a progress stream; give it as `emit`."""

    def __call__(self, line: ProgressMessage) -> None:
        self.append(line)

    @property
    def texts(self) -> list[str]:
        """What a client without a terminal prints of it."""
        moving = ("Downloading", "Extracting", "Pushing")
        return [
            f"{line.id}: {line.status}" if line.id else line.status
            for line in self
            if line.status and line.status not in moving
        ]

    def of(self, id: str) -> list[str]:
        """The statuses of one step, each once."""
        return list(dict.fromkeys(line.status for line in self if line.id == id))


@pytest.fixture
def lines() -> Lines:
    return Lines()


class Made:
    """The makers, for tests: they can't import this module."""

    layer = staticmethod(make_layer)
    image = staticmethod(make_image)
    index = staticmethod(make_index)


@pytest.fixture
def made() -> Made:
    return Made()
