"""The HTTP server: connections, dispatch, errors, and an end that lets requests in flight finish."""

import asyncio
import errno
import json
import logging
import re
import secrets
import socket
import time
from functools import partial
from typing import Final, cast

from aiohttp.http import HttpProcessingError
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse

from scow.errors import Unavailable
from scow.registry.calls import Call, parse_path
from scow.registry.connections import Connection, Connections, connection_limit
from scow.registry.errors import BlobDamaged, Draining, Refusal, StorageFull, StorageUnavailable, TooManyRequests
from scow.registry.folder import FULL
from scow.registry.heaps import Tidying
from scow.registry.os_errors import sentence
from scow.registry.proxies import Origin, Proxies
from scow.registry.rates import Rates
from scow.registry.registry import Registry
from scow.registry.replies import HttpReply, Reply, json_reply, refusal_reply
from scow.registry.settings import Settings
from scow.registry.shared import SharedTable
from scow.registry.storage import has_bucket
from scow.registry.tls import Certificates
from scow.registry.traces import Traces

KEEP_ALIVE_S: Final = 90
"""Idle connections stay for so long; clients' pools count on a minute."""
READ_BUFFER_SIZE: Final = 128 << 10
"""Bytes of a body that wait to be taken, twice this for a moment: the kernel keeps the rest, and counts it."""
LINE_LIMIT: Final = 64 << 10
"""Bytes of a request's line or of one header: tokens of issuers with many groups are long."""
LINGER_S: Final = 5
HANDSHAKE_S: Final = 15
BACKLOG: Final = 1024
BUCKET_FILES: Final = 5
"""Descriptors of an upload to an object store: one part that fills, two that are sent, and what they are sent by."""
ACCEPTS: Final = 100
"""Connections that are accepted in one turn of the loop, which asyncio has as the same number."""

FULL_PAUSE_S: Final = 10.0
"""Between two lines of the log that tell of a full disk."""

_UNREACHABLE: Final = {
    *(errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV),
    *(errno.ENXIO, errno.ENOTCONN, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE),
}
"""What is wrong with a folder or its file system, or with how many files may be open, and not with this program."""
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
_HEALTH: Final = {"/healthz", "/readyz"}

log = logging.getLogger("scow.registry")
access_log = logging.getLogger("scow.registry.access")
http_log = logging.getLogger("scow.registry.http")


def _is_ours(record: logging.LogRecord) -> bool:
    # What is no HTTP gets 400 and the end; a client that goes in the middle of a body is none of our errors either.
    # Anybody can do both, so that neither fills a log, with traceback or without.
    return not (record.exc_info and isinstance(record.exc_info[1], (HttpProcessingError, ConnectionError)))


http_log.addFilter(_is_ours)


class CannotListen(Unavailable):
    """The address cannot be listened on."""

    def __init__(self, address: str, error: OSError) -> None:
        why = "the address is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        super().__init__(f"cannot listen on {address}: {why}")


def listen(settings: Settings, *, shared: bool = False, port: int | None = None) -> socket.socket:
    """A listening socket; `shared` with others on the same port (SO_REUSEPORT). Raises CannotListen."""
    host, wanted = settings.address()
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port or wanted, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind(address)
            made.listen(BACKLOG)
        except BaseException:
            made.close()
            raise
    except OSError as error:
        raise CannotListen(settings.listen, error) from error
    made.setblocking(False)
    return made


def url_of(listener: socket.socket, settings: Settings) -> str:
    """The address of a listening socket as a URL."""
    host, port = listener.getsockname()[:2]
    return f"{'https' if settings.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


class Server:
    """Serves a registry on one address. `start`, then `aclose`, which drains."""

    def __init__(
        self, registry: Registry, settings: Settings, *, collects: bool = True, buckets: SharedTable | None = None
    ) -> None:
        """`collects` says that garbage collection and schedules run here: one of several workers is enough.

        `buckets` are those of all workers, for limits of requests.
        """
        self._registry = registry
        self._settings = settings
        self._metrics = registry.metrics
        self._rates = Rates(settings.limits, buckets)
        self._proxies = Proxies(settings.proxies) if settings.proxies else None
        self._is_first = collects
        changes = collects and not settings.read_only
        self._collects = changes and settings.gc.interval_s > 0
        self._syncs = changes and bool(settings.sync) and registry.syncs.scheduled
        self._traces = Traces(settings.traces) if settings.traces.endpoint else None
        self._tells = collects and registry.webhooks.wanted
        self._tidying = Tidying()
        self._in_flight = 0
        self._draining = False
        self._full_again = 0.0  # when the log tells of a full disk again (monotonic)
        self._idle = asyncio.Event()
        self._idle.set()
        self._http: Connections | None = None
        self._listener: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, listener: socket.socket | None = None) -> str:
        """Listen, on a socket of the caller's if there is one; the URL. Raises CannotListen and SettingsInvalid."""
        tls = self._settings.tls
        certificates = await asyncio.to_thread(Certificates, tls) if tls is not None else None
        if listener is None:
            listener = await asyncio.to_thread(listen, self._settings)
        http = Connections(
            self._handle,
            limit=connection_limit(BUCKET_FILES if has_bucket(self._settings) else 1),
            access_log=None,
            logger=http_log,
            keepalive_timeout=KEEP_ALIVE_S,
            read_bufsize=READ_BUFFER_SIZE,
            max_line_size=LINE_LIMIT,
            max_field_size=LINE_LIMIT,
            lingering_time=LINGER_S,
            auto_decompress=False,  # a blob is the bytes that were sent, whatever Content-Encoding says
        )
        self._listener = await asyncio.get_running_loop().create_server(
            http,
            sock=listener,
            ssl=certificates.context if certificates else None,
            ssl_handshake_timeout=HANDSHAKE_S if certificates else None,
            backlog=ACCEPTS,
        )
        listener.listen(BACKLOG)
        self._http = http
        if self._collects:
            collector = self._registry.collector
            self._tasks.append(asyncio.create_task(collector.run_every(self._settings.gc.interval_s)))
        if self._syncs:
            self._tasks.append(asyncio.create_task(self._registry.syncs.run_scheduled()))
        if self._tells:
            self._tasks.append(asyncio.create_task(self._registry.webhooks.run()))
        if certificates is not None:
            tell = partial(self._metrics.set, "tls_certificate_expiry_timestamp_seconds") if self._is_first else None
            self._tasks.append(asyncio.create_task(certificates.watch(http.renew, tell)))
        return url_of(listener, self._settings)

    async def aclose(self) -> None:
        """Take no new connections, finish what is in flight within the drain time, close."""
        self._draining = True
        if self._listener is not None:
            self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # aiohttp's own shutdown stops reading at once, which would break the uploads that it waits for.
        if self._in_flight:
            log.info("ending when %d requests have: within %g s", self._in_flight, self._settings.drain_s)
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d requests are cut off: they took longer than %g s", self._in_flight, self._settings.drain_s)
        if self._http is not None:
            self._http.pre_shutdown()
            await self._http.shutdown(1.0)
        await self._tidying.aclose()
        if self._traces is not None:
            await self._traces.aclose()

    async def _handle(self, request: BaseRequest) -> StreamResponse:
        exchange = _Exchange(self, request)
        self._in_flight += 1
        self._metrics.count("requests_in_flight")
        self._idle.clear()
        try:
            try:
                reply = await self._answer(request, exchange)
            except Refusal as refusal:
                reply = self._refuse(exchange, refusal)
            except ConnectionError:
                raise
            except Exception as error:
                reply = self._failure(request, exchange, error)
            connection = exchange.connection
            keep_alive = request.keep_alive and not (self._draining or connection.is_last or connection.is_old)
            if reply.status >= 400 and request.body_exists and not request.content.is_eof():
                # The client may not even send the rest, having asked with Expect: don't wait for it.
                keep_alive = False
            exchange.reply = reply
            return HttpReply(reply, keep_alive=keep_alive, done=exchange.end, request_id=exchange.request_id)
        except BaseException:
            exchange.end()
            raise

    async def _answer(self, request: BaseRequest, exchange: "_Exchange") -> Reply:
        path, _, query = request.raw_path.partition("?")
        if not path.startswith("/"):  # the absolute form, as to a proxy
            path = request.rel_url.raw_path
        if path in _HEALTH:
            exchange.endpoint = "health"
            return await self._health(path)
        if self._proxies is not None:
            exchange.origin = self._proxies.origin(request.remote or "", request.headers)
        self._rates.take(exchange.remote)
        route = parse_path(path)
        exchange.endpoint = route.kind
        exchange.call = call = Call(request, route, query, exchange.request_id, exchange.origin)
        return await self._registry.answer(call)

    def ended(self, exchange: "_Exchange") -> None:
        """Take note of an exchange whose last byte is sent, or whose client has gone."""
        self._tidying.note()
        self._in_flight -= 1
        if self._in_flight == 0:
            self._idle.set()
        took_s = time.perf_counter() - exchange.started
        reply, call, metrics = exchange.reply, exchange.call, self._metrics
        received = call.received if call is not None else 0
        sent = reply.length if reply is not None and exchange.request.method != "HEAD" else 0
        metrics.count("requests_in_flight", -1)
        metrics.count("received_bytes", received)
        metrics.count("sent_bytes", sent)
        if reply is not None:
            metrics.observe(exchange.endpoint, exchange.request.method, reply.status, took_s)
        if self._traces is not None and exchange.endpoint != "health":
            _trace(self._traces, exchange, received, sent, took_s)
        if self._settings.access_log:
            _log_access(exchange, received, sent, took_s)

    async def _health(self, path: str) -> Reply:
        if path == "/readyz":
            if self._draining:
                return refusal_reply(Draining("the registry is shutting down"))
            await self._registry.health.check()
        return json_reply(200, {"status": "ok"})

    def _refuse(self, exchange: "_Exchange", refusal: Refusal) -> Reply:
        """Answer a request that can't be done; whoever runs the registry reads of what is not the client's fault."""
        if isinstance(refusal, TooManyRequests):
            self._metrics.count("refused_rate")
        elif isinstance(refusal, StorageUnavailable):
            log.error("request %s: %s: %s", exchange.request_id, refusal, refusal.why)
        elif isinstance(refusal, BlobDamaged):
            log.error("request %s: %s", exchange.request_id, refusal)
        elif isinstance(refusal, StorageFull) and time.monotonic() >= self._full_again:
            # Seldom, since every push says it, and the log may be on the same disk.
            self._full_again = time.monotonic() + FULL_PAUSE_S
            log.error("request %s: %s%s", exchange.request_id, refusal, f": {refusal.why}" if refusal.why else "")
        return refusal_reply(refusal)

    def _failure(self, request: BaseRequest, exchange: "_Exchange", error: Exception) -> Reply:
        if isinstance(error, OSError) and error.errno in FULL:
            return self._refuse(exchange, StorageFull())
        if isinstance(error, OSError) and error.errno in _UNREACHABLE:
            return self._refuse(exchange, StorageUnavailable(sentence(error)))
        log.error("request %s: %s %s failed", exchange.request_id, request.method, request.raw_path, exc_info=error)
        # No code of the specification fits; `UNKNOWN` is docker's, and clients try a 500 again.
        return json_reply(500, {"errors": [{"code": "UNKNOWN", "message": "internal error", "detail": None}]})


class _Exchange:
    """One request and what is known of its answer."""

    __slots__ = ("_server", "call", "connection", "endpoint", "origin", "reply", "request", "request_id", "started")

    def __init__(self, server: Server, request: BaseRequest) -> None:
        self._server = server
        self.request = request
        self.connection = cast(Connection, request.protocol)
        self.connection.begin()
        self.started = time.perf_counter()
        given = request.headers.get("X-Request-Id")
        self.request_id = given if given is not None and _REQUEST_ID.match(given) else secrets.token_hex(8)
        self.endpoint = "other"
        self.origin: Origin | None = None  # known where a proxy may stand in between
        self.call: Call | None = None
        self.reply: Reply | None = None

    @property
    def remote(self) -> str:
        """The client's address."""
        return self.origin.address if self.origin is not None else self.request.remote or ""

    def end(self) -> None:
        self.connection.end()
        self._server.ended(self)


def _log_access(exchange: _Exchange, received: int, sent: int, took_s: float) -> None:
    request, reply, call = exchange.request, exchange.reply, exchange.call
    line = {
        "time": round(time.time(), 3),
        "request_id": exchange.request_id,
        "remote": exchange.remote,
        "user": call.caller.name if call is not None and call.caller is not None else None,
        "method": request.method,
        "path": request.raw_path,
        "status": reply.status if reply is not None else 499,  # the client has gone, in nginx's word
        "received": received,
        "sent": sent,
        "ms": round(took_s * 1000, 1),
        "agent": request.headers.get("User-Agent"),
    }
    access_log.info("%s", json.dumps(line))


def _trace(traces: Traces, exchange: _Exchange, received: int, sent: int, took_s: float) -> None:
    request, reply, call = exchange.request, exchange.reply, exchange.call
    attributes = {
        "http.request.method": request.method,
        "url.path": request.raw_path.partition("?")[0],
        "http.request.body.size": received,
        "http.response.body.size": sent,
        "client.address": exchange.remote,
        "user_agent.original": request.headers.get("User-Agent"),
        "enduser.id": call.caller.name if call is not None and call.caller is not None else None,
        "scow.repository": (call.repository or None) if call is not None else None,
        "scow.reference": (call.route.reference or None) if call is not None else None,
        "scow.request_id": exchange.request_id,
    }
    status = reply.status if reply is not None else None
    traces.note(f"{request.method} {exchange.endpoint}", took_s, status, request.headers, attributes)
