"""HTTP as registries need it: one session, redirects that keep secrets, errors in docker's words, patience."""

import asyncio
import errno
import io
import logging
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, TypeVar

import aiohttp
import msgspec
from yarl import URL

from scow import __version__
from scow.transfer.hosts import HostPolicy
from scow.transfer.registry_error import BadAnswer, RegistryFailure, RegistryUnreachable
from scow.transfer.tls import TlsContexts

log = logging.getLogger(__name__)

T = TypeVar("T")
Body = bytes | Callable[[], AsyncIterator[bytes]]
"""A request's body: bytes, or what makes a fresh iterator over it for each attempt."""

MAX_REDIRECTS: Final = 10
READ_BUFFER_SIZE: Final = 2 << 20
"""Bytes that may wait in memory for a connection's reader."""
_SECRETS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How often to try, and how long to wait in between: doubling from `first_s`, with jitter, up to `longest_s`."""

    attempts: int = 5
    first_s: float = 0.25
    longest_s: float = 8.0
    longest_retry_after_s: float = 60.0

    def delay_s(self, error: RegistryFailure, attempt: int) -> float | None:
        """Seconds to wait after the `attempt`th (from 1) failure; None if trying again is over or pointless."""
        if not error.transient or attempt >= self.attempts:
            return None
        if error.retry_after_s is not None:
            return error.retry_after_s if error.retry_after_s <= self.longest_retry_after_s else None
        # Jitter keeps many engines from coming back in step.
        return float(min(self.longest_s, self.first_s * 2 ** (attempt - 1)) * random.uniform(0.75, 1.0))

    async def run(self, action: Callable[[], Awaitable[T]]) -> T:
        """Await `action` until it succeeds or patience ends."""
        attempt = 0
        while True:
            try:
                return await action()
            except RegistryFailure as error:
                attempt += 1
                delay = self.delay_s(error, attempt)
                if delay is None:
                    raise
                log.debug("attempt %d failed, next in %.2f s: %s", attempt, delay, error)
                await asyncio.sleep(delay)


class Transport:
    """Sends single requests, over connections that are kept alive. Its session lives from first use to `aclose()`."""

    def __init__(self, policy: HostPolicy, *, connect_timeout_s: float = 30.0, read_timeout_s: float = 60.0) -> None:
        self.policy = policy
        self._tls = TlsContexts()
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=None, sock_connect=connect_timeout_s, sock_read=read_timeout_s
        )
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session, made on first use: it needs a running loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                auto_decompress=False,
                read_bufsize=READ_BUFFER_SIZE,
                # A blob that was compressed again on its way would match neither its size nor its digest.
                headers={"User-Agent": f"scow/{__version__}", "Accept-Encoding": "identity"},
                trust_env=False,
            )
        return self._session

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        verify: bool = True,
    ) -> aiohttp.ClientResponse:
        """Send a request and follow redirects; the caller releases the response.

        What is secret in `headers` goes to the origin of `url` only. Raises RegistryUnreachable and BadAnswer.
        """
        first = url
        sent = dict(headers or {})
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._send_once(method, url, sent, body, verify=verify, origin=first)
            target = _redirect(method, response)
            if target is None:
                return response
            response.release()
            if target.scheme not in ("http", "https") or not target.host:
                raise BadAnswer(str(url), f"redirect to {str(target)[:200]!r}")
            if target.origin() != first.origin():
                sent = {name: value for name, value in sent.items() if name.lower() not in _SECRETS}
            url = target
        raise BadAnswer(str(first), f"stopped after {MAX_REDIRECTS} redirects")

    async def _send_once(
        self, method: str, url: URL, headers: Mapping[str, str], body: Body | None, *, verify: bool, origin: URL
    ) -> aiohttp.ClientResponse:
        context: ssl.SSLContext | bool = True
        if url.scheme == "https":
            context = await self._tls.get(
                self.policy.certs_dirs, url.raw_authority, verify=verify, origin=origin.raw_authority
            )
        try:
            return await self.session.request(
                method,
                url,
                headers=headers,
                data=_OneAttempt(body()) if callable(body) else body if body is None else io.BytesIO(body),
                allow_redirects=False,
                ssl=context,
                proxy=self.policy.proxies.for_url(str(url)),
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise unreachable(method, url, error) from error


class _OneAttempt:
    """A body for one attempt only.

    aiohttp sends an idempotent request again by itself if a connection that was kept alive turns out to be closed; with
    an iterator half used up it would send the rest as if it were the whole.
    """

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks: AsyncIterator[bytes] | None = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        chunks, self._chunks = self._chunks, None
        if chunks is None:
            raise ConnectionResetError(errno.ECONNRESET, "connection reset by peer")
        return chunks


def _redirect(method: str, response: aiohttp.ClientResponse) -> URL | None:
    kept = (307, 308) if method not in ("GET", "HEAD") else (301, 302, 303, 307, 308)
    location = response.headers.get("Location")
    if response.status not in kept or not location:
        return None
    # Signed URLs are signed as they are written: no requoting.
    return response.url.join(URL(location, encoded=True))


def unreachable(method: str, url: URL, error: Exception) -> RegistryUnreachable:
    """Put what went wrong with a connection into the words that docker has for it."""
    reason, transient = _reason(url, error)
    return RegistryUnreachable(method, str(url), reason, transient=transient)


def _reason(url: URL, error: Exception) -> tuple[str, bool]:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    where = f"{url.raw_host}:{url.port}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {url.host}: no such host", False
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _certificate_reason(error.certificate_error, url), False
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _certificate_reason(cause, url), False
    if isinstance(cause, ssl.SSLError):
        if cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
            return "http: server gave HTTP response to HTTPS client", False
        return f"tls: {(cause.reason or str(cause)).lower().replace('_', ' ')}", False
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"dial tcp {where}: i/o timeout", True
    if isinstance(cause, TimeoutError):
        return "net/http: timeout awaiting response", True
    if isinstance(error, aiohttp.ClientPayloadError):
        return "unexpected EOF", True
    if isinstance(cause, ConnectionRefusedError):
        return f"dial tcp {where}: connect: connection refused", False
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(cause, OSError):
        text = (cause.strerror or str(cause)).lower()
        return f"dial tcp {where}: connect: {text}", cause.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH)
    if isinstance(cause, ConnectionResetError):
        return f"read tcp {where}: connection reset by peer", True
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "EOF", True
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL):
        return f"net/http: malformed HTTP response: {error}"[:300], False
    return str(error) or type(error).__name__, True


def _certificate_reason(error: Exception, url: URL) -> str:
    message = str(getattr(error, "verify_message", "") or error)
    prefix = "tls: failed to verify certificate: x509: "
    if "expired" in message or "not yet valid" in message:
        return f"{prefix}certificate has expired or is not yet valid"
    if "mismatch" in message or "not valid for" in message:
        return f"{prefix}certificate is not valid for {url.host}"
    if "self" in message or "issuer" in message or "unable to" in message:
        return f"{prefix}certificate signed by unknown authority"
    return prefix + message


async def read_limited(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read a body of at most `limit` bytes. Raises BadAnswer if it is longer, RegistryUnreachable if it breaks off."""
    if (response.content_length or 0) > limit:
        raise BadAnswer(str(response.url), f"{response.content_length} bytes are more than the {limit} allowed")
    parts: list[bytes] = []
    size = 0
    async for chunk in stream(response):
        size += len(chunk)
        if size > limit:
            raise BadAnswer(str(response.url), f"more than the {limit} bytes allowed")
        parts.append(chunk)
    return b"".join(parts)


async def stream(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body as it comes, in pieces as large as have arrived. Raises RegistryUnreachable if it breaks off."""
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise unreachable(response.method, response.url, error) from error
