"""One request as the endpoints see it: its route, query, headers and body."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote, unquote, urlencode

import msgspec
from aiohttp.web_protocol import RequestPayloadError
from aiohttp.web_request import BaseRequest

from scow.registry.errors import BlobUploadInvalid, CodingUnsupported, PageUnknown, QueryInvalid, TimedOut
from scow.registry.proxies import Origin, is_host

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

    from scow.registry.access import Caller

FIELDS_LIMIT: Final = 200
FORM_S: Final = 30
"""A form has to come whole within so long; a blob may take its time, from who may push it."""
READ_TIMEOUT_S: Final = 60
"""A client that sends nothing for so long in the middle of a body has stalled."""


class Route(msgspec.Struct, frozen=True):
    """What a path names.

    `kind` is one of ping, catalog, manifest, blob, uploads, upload, tags, referrers, token, keys, metrics, and for
    browsers web-home, web-repository, web-image, web-asset, web-login, web-logout
    and web-oidc.
    """

    kind: str
    repository: str = ""  # not yet checked
    reference: str = ""  # tag, digest or upload ID, not yet checked


_PING: Final = Route("ping")
_OTHERS: Final = {
    "/token": Route("token"),
    "/.well-known/jwks.json": Route("keys"),
    "/metrics": Route("metrics"),
    "/": Route("web-home"),
    "/-/login": Route("web-login"),
    "/-/logout": Route("web-logout"),
}


def parse_path(path: str) -> Route:
    """Take a path apart. Repositories have slashes, so it is read from its end. Raises PageUnknown."""
    if "%" in path:
        path = unquote(path)
    if path in ("/v2/", "/v2"):
        return _PING
    if (found := _OTHERS.get(path)) is not None:
        return found
    if path.startswith("/-/"):
        return _web_route(path)
    if not path.startswith("/v2/"):
        raise PageUnknown(path)
    rest = path[4:]
    if rest == "_catalog":
        return Route("catalog")
    head, _, last = rest.rpartition("/")
    name, _, noun = head.rpartition("/")
    if noun == "manifests" and name:
        return Route("manifest", name, last)
    if noun == "uploads" and name.endswith("/blobs") and (owner := name[: -len("/blobs")]):
        return Route("upload", owner, last) if last else Route("uploads", owner)
    if noun == "blobs" and name:
        return Route("uploads", name) if last == "uploads" else Route("blob", name, last)
    if noun == "tags" and last == "list" and name:
        return Route("tags", name)
    if noun == "referrers" and name:
        return Route("referrers", name, last)
    raise PageUnknown(path)


def _web_route(path: str) -> Route:
    noun, _, rest = path[3:].partition("/")
    if noun == "assets" and rest:
        return Route("web-asset", "", rest)
    if noun == "repositories" and rest:
        return Route("web-repository", rest)
    if noun == "oidc" and rest:
        return Route("web-oidc", "", rest)
    name, _, reference = rest.rpartition("/")
    if noun == "images" and name:
        return Route("web-image", name, reference)
    raise PageUnknown(path)


class Call:
    """A request that was routed."""

    def __init__(
        self,
        request: BaseRequest,
        route: Route,
        query: str,
        request_id: str = "",
        origin: Origin | None = None,
    ) -> None:
        """`origin` is who asks, if it is not simply the other end of the connection."""
        self._request = request
        self._origin = origin or Origin(request.remote or "")
        self.request_id = request_id
        self.method = request.method
        self.headers: CIMultiDictProxy[str] = request.headers
        self.route = route
        self.repository = route.repository  # checked by the server before an endpoint sees it
        self.received = 0  # bytes of the body so far
        self.caller: Caller | None = None  # known once the call was admitted
        self.tried: str | None = None  # whose password or refresh token was given, right or wrong
        self.query = _parse_query(query) if query else {}
        self.raw_path = request.raw_path  # with its query, as the client sent it

    def parameter(self, name: str) -> str | None:
        """The first value of a query parameter; None if it is absent."""
        values = self.query.get(name)
        return values[0] if values else None

    def count(self, name: str) -> int | None:
        """A query parameter that is a count. Raises QueryInvalid."""
        text = self.parameter(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise QueryInvalid(f"{name} must be a non-negative number", {name: text[:100]})
        return int(text)

    def redirect(self, repository: str) -> None:
        """Let the call be about another repository."""
        self.route = msgspec.structs.replace(self.route, repository=repository)
        self.repository = repository

    @property
    def target(self) -> str:
        """Path and query of what the call is about, without `ns`, for somebody else who shall answer it."""
        route, query = self.route, {name: values for name, values in self.query.items() if name != "ns"}
        noun = {"manifest": "manifests", "blob": "blobs", "referrers": "referrers", "tags": "tags"}[route.kind]
        path = f"/v2/{route.repository}/{noun}/{quoted(route.reference) if noun != 'tags' else 'list'}"
        return f"{path}?{urlencode(query, doseq=True)}" if query else path

    @property
    def content_length(self) -> int | None:
        """Bytes of the body; None if the client did not say."""
        length = self.headers.get("Content-Length")
        return int(length) if length is not None else None

    @property
    def has_body(self) -> bool:
        """Whether a body, perhaps an empty one of unknown length, follows."""
        return self._request.body_exists

    async def body(self) -> AsyncIterator[bytes]:
        """The body as it arrives.

        Raises TimedOut for a stalled client, ConnectionError for one that has gone, and CodingUnsupported.
        """
        request = self._request
        if not request.body_exists:
            return
        if (coding := self.headers.get("Transfer-Encoding", "chunked")).strip().lower() != "chunked":
            raise CodingUnsupported(coding)  # only the last one, which is chunked, was undone
        expects = self.headers.get("Expect", "").lower() == "100-continue" and request.version >= (1, 1)
        if expects and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        content = request.content
        while True:
            try:
                async with asyncio.timeout(READ_TIMEOUT_S):
                    data = await content.readany()
            except TimeoutError as error:
                raise TimedOut(f"nothing was sent for {READ_TIMEOUT_S} s") from error
            except RequestPayloadError as error:
                raise BlobUploadInvalid("the body is malformed") from error
            except ConnectionError as error:
                # aiohttp keeps the error with the body: with its traceback it would keep every frame up to here.
                raise ConnectionResetError(str(error)) from error.with_traceback(None)
            if not data:
                if content.is_eof():
                    return
                continue
            self.received += len(data)
            yield data
            data = b""  # or it would be kept until more comes, which for a stalled client is long

    async def form(self, limit: int) -> bytes:
        """The body of a form, which anybody may send. Raises QueryInvalid, TimedOut and ConnectionError."""
        data = bytearray()
        try:
            async with asyncio.timeout(FORM_S):
                async for piece in self.body():
                    data += piece
                    if len(data) > limit:
                        raise QueryInvalid(f"the form has more than {limit} bytes")
        except TimeoutError as error:
            raise TimedOut(f"the form did not come within {FORM_S} s") from error
        return bytes(data)

    @property
    def remote(self) -> str:
        """The client's address."""
        return self._origin.address

    @property
    def base_url(self) -> str:
        """Scheme and host as the client has reached us by, or as a trusted proxy says."""
        host = self._origin.host or self.headers.get("Host", "")
        transport = self._request.transport
        secure = transport is not None and transport.get_extra_info("sslcontext") is not None
        scheme = self._origin.scheme or ("https" if secure else "http")
        return f"{scheme}://{host if is_host(host) else 'localhost'}"

    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """What the client's certificate says, if it showed one that was verified."""
        transport = self._request.transport
        found: dict[str, Any] | None = transport.get_extra_info("peercert") if transport is not None else None
        return found


def _parse_query(text: str) -> dict[str, list[str]]:
    if "%00" in text:  # which nothing here has, and PostgreSQL takes in no text
        raise QueryInvalid("a query parameter has a NUL character")
    try:
        return parse_qs(text, keep_blank_values=True, max_num_fields=FIELDS_LIMIT)
    except ValueError as error:
        raise QueryInvalid(f"at most {FIELDS_LIMIT} query parameters", None) from error


def quoted(text: str) -> str:
    """A value as it goes into a URL's query."""
    return quote(text, safe="")
