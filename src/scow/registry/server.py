"""The HTTP server: connections, dispatch, errors, and an end that lets requests in flight finish."""

import asyncio
import errno
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from aiohttp import web

from scow.errors import Unavailable
from scow.registry.access import Access
from scow.registry.blobs import Blobs
from scow.registry.calls import Call, parse_path
from scow.registry.collector import Collector
from scow.registry.errors import Draining, MethodUnsupported, Refusal, StorageFull
from scow.registry.folder import FULL, Folder
from scow.registry.listings import Listings
from scow.registry.manifest_requests import ManifestRequests
from scow.registry.metadata import Metadata
from scow.registry.names import parse_repository
from scow.registry.objects import Objects
from scow.registry.replies import HttpReply, Reply, json_reply, refusal_reply
from scow.registry.settings import Settings
from scow.registry.sqlite import SqliteMetadata
from scow.registry.upload_requests import UploadRequests
from scow.registry.uploads import Uploads

KEEP_ALIVE_S: Final = 90
"""Idle connections stay for so long; clients' pools count on a minute."""
READ_BUFFER_SIZE: Final = 512 << 10
LINGER_S: Final = 5
READING: Final = frozenset({"GET", "HEAD"})

log = logging.getLogger("scow.registry")
access_log = logging.getLogger("scow.registry.access")


class CannotListen(Unavailable):
    """The address cannot be listened on."""

    def __init__(self, address: str, why: str) -> None:
        super().__init__(f"cannot listen on {address}: {why}")


class Registry:
    """The registry without a network: storage, names, and an answer for each call."""

    def __init__(self, objects: Objects, metadata: Metadata, access: Access, upload_expiry_s: float) -> None:
        uploads = Uploads(objects, metadata)
        upload_requests = UploadRequests(uploads, metadata)
        listings = Listings(metadata)
        self.objects = objects
        self.metadata = metadata
        self.collector = Collector(objects, metadata, uploads, upload_expiry_s)
        self._access = access
        self._endpoints: dict[str, Callable[[Call], Awaitable[Reply]]] = {
            "ping": _ping,
            "manifest": ManifestRequests(metadata).answer,
            "blob": Blobs(objects, metadata).answer,
            "uploads": upload_requests.answer_begin,
            "upload": upload_requests.answer,
            "tags": listings.answer_tags,
            "catalog": listings.answer_catalog,
            "referrers": listings.answer_referrers,
        }

    @classmethod
    def open(cls, settings: Settings) -> "Registry":
        """Open the folder that the settings name. Blocks: to be called at start."""
        root = Path(settings.storage)
        objects = Folder(root)
        metadata = SqliteMetadata(root / "registry.db", settings.gc.grace_s)
        htpasswd = Path(settings.auth.htpasswd) if settings.auth.htpasswd else None
        access = Access(metadata, htpasswd, settings.auth.anonymous_pull)
        return cls(objects, metadata, access, settings.gc.upload_expiry_s)

    async def answer(self, call: Call) -> Reply:
        """Answer a request. Raises Refusal."""
        route = call.route
        await self._access.check(call.headers.get("Authorization"), pull=call.method in READING)
        if route.repository:
            parse_repository(route.repository)
        return await self._endpoints[route.kind](call)

    async def aclose(self) -> None:
        """Close storage and names."""
        await self.objects.aclose()
        await self.metadata.aclose()


async def _ping(call: Call) -> Reply:
    if call.method not in READING:
        raise MethodUnsupported(call.method, ("GET", "HEAD"))
    return json_reply(200, {})


class Server:
    """Serves a registry on one address. `start`, then `aclose`, which drains."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings
        self._in_flight = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._http: web.Server | None = None
        self._listener: asyncio.Server | None = None
        self._collecting: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listen; the URL. Raises CannotListen."""
        host, port = self._settings.address()
        tls = self._settings.tls
        context = None
        if tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            await asyncio.to_thread(context.load_cert_chain, tls.cert, tls.key)
        http = web.Server(
            self._handle,
            access_log=None,
            keepalive_timeout=KEEP_ALIVE_S,
            read_bufsize=READ_BUFFER_SIZE,
            lingering_time=LINGER_S,
            auto_decompress=False,  # a blob is the bytes that were sent, whatever Content-Encoding says
        )
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                http, host, port, ssl=context, backlog=1024, reuse_address=True
            )
        except OSError as error:
            why = "the address is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
            raise CannotListen(self._settings.listen, why) from error
        self._http = http
        if self._settings.gc.interval_s > 0:
            self._collecting = asyncio.create_task(self._registry.collector.run_every(self._settings.gc.interval_s))
        host, port = self._listener.sockets[0].getsockname()[:2]
        return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    async def aclose(self) -> None:
        """Take no new connections, finish what is in flight within the drain time, close."""
        self._draining = True
        if self._listener is not None:
            self._listener.close()
        if self._collecting is not None:
            self._collecting.cancel()
            with suppress(asyncio.CancelledError):
                await self._collecting
        # aiohttp's own shutdown stops reading at once, which would break the uploads that it waits for.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_s):
                await self._idle.wait()
        if self._http is not None:
            self._http.pre_shutdown()
            await self._http.shutdown(1.0)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._in_flight += 1
        self._idle.clear()
        started = time.perf_counter()
        call: Call | None = None
        try:
            try:
                path, _, query = request.raw_path.partition("?")
                if not path.startswith("/"):  # the absolute form, as to a proxy
                    path = request.rel_url.raw_path
                if path in _HEALTH:
                    reply = self._health(path)
                else:
                    call = Call(request, parse_path(path), query)
                    reply = await self._registry.answer(call)
            except Refusal as refusal:
                reply = refusal_reply(refusal)
            except ConnectionError:
                raise
            except Exception as error:
                reply = self._failure(request, error)
            keep_alive = request.keep_alive and not self._draining
            if reply.status >= 400 and request.body_exists and not request.content.is_eof():
                # The client may not even send the rest, having asked with Expect: don't wait for it.
                keep_alive = False
            response = HttpReply(reply, keep_alive=keep_alive, done=self._done)
            if self._settings.access_log:
                took_ms = (time.perf_counter() - started) * 1000
                access_log.info(
                    '%s "%s %s" %d %d %.1fms',
                    request.remote,
                    request.method,
                    request.raw_path,
                    reply.status,
                    reply.length,
                    took_ms,
                )
            return response
        except BaseException:
            self._done()
            raise

    def _done(self) -> None:
        self._in_flight -= 1
        if self._in_flight == 0:
            self._idle.set()

    def _health(self, path: str) -> Reply:
        if path == "/readyz" and self._draining:
            return refusal_reply(Draining("the registry is shutting down"))
        return json_reply(200, {"status": "ok"})

    def _failure(self, request: web.BaseRequest, error: Exception) -> Reply:
        if isinstance(error, OSError) and error.errno in FULL:
            return refusal_reply(StorageFull())
        log.error("%s %s failed", request.method, request.raw_path, exc_info=error)
        # No code of the specification fits; `UNKNOWN` is docker's, and clients try a 500 again.
        return json_reply(500, {"errors": [{"code": "UNKNOWN", "message": "internal error", "detail": None}]})


_HEALTH: Final = {"/healthz", "/readyz"}
