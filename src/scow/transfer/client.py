"""The client of one repository in one registry: documents, blobs, tags. distribution-spec spec.md.

Life story: make one for an endpoint and a repository, `ping` if you only want to know who we are, then ask. It keeps
what it learns about the registry's way to authenticate; it holds no connection itself (that is Transport's).
"""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from scow.oci import media_types
from scow.oci.descriptor import Descriptor
from scow.oci.digest import Digest, algorithm, digest_of, is_digest, parse_digest, sha256
from scow.oci.manifest import MAX_DOCUMENT_SIZE
from scow.transfer.authorization import Authorizer, Scopes, repository_scope
from scow.transfer.challenge import parse_challenges
from scow.transfer.credentials import Credentials
from scow.transfer.hosts import Endpoint
from scow.transfer.http import Body, Patience, Transport, read_limited, stream
from scow.transfer.registry_error import BadAnswer, Refused, RegistryFailure, refusal

ACCEPT: Final = ", ".join(
    (
        media_types.OCI_INDEX,
        media_types.OCI_MANIFEST,
        media_types.DOCKER_MANIFEST_LIST,
        media_types.DOCKER_MANIFEST,
        # Asked for last, only to be able to say that it is too old instead of that nothing is there.
        media_types.DOCKER_SCHEMA1_SIGNED,
    )
)
_ERROR_LIMIT: Final = 64 << 10
_TAGS_LIMIT: Final = 8 << 20
_NEXT_LINK: Final = re.compile(r'<([^>]*)>\s*;(?:[^,]*;)?\s*rel="?next"?')
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)\Z")


class VerificationFailed(BadAnswer):
    """The registry sent other bytes than were asked for. The words are docker's."""

    def __init__(self, what: str, expected: str, url: str) -> None:
        Exception.__init__(self, f"{what} verification failed for digest {expected}")
        self.url = url
        self.why = "digest mismatch"
        self.expected = expected


class Document(msgspec.Struct, frozen=True):
    """A manifest or index as it came: bytes that match the digest, under the media type that the registry gave."""

    data: bytes
    media_type: str
    digest: Digest


class BlobStream:
    """A blob on its way. `start` is the offset of the first byte that comes: 0 if the registry ignored a range."""

    def __init__(self, response: aiohttp.ClientResponse, start: int) -> None:
        self._response = response
        self.start = start

    @property
    def size(self) -> int | None:
        """Bytes of the whole blob, None if the registry doesn't say."""
        length = self._response.content_length
        return self.start + length if length is not None else None

    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they arrive. Raises RegistryUnreachable if the connection breaks."""
        return stream(self._response)


class RegistryClient:
    """Asks one registry about one repository, on behalf of one set of credentials."""

    def __init__(
        self,
        transport: Transport,
        endpoint: Endpoint,
        repository: str,
        credentials: Credentials | None,
        *,
        actions: tuple[str, ...] = ("pull",),
        patience: Patience | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.repository = repository
        self.patience = patience or Patience()
        self.has_spoken = False  # whether the registry has answered by HTTP at all, so that its TLS works
        self._transport = transport
        self._scopes: Scopes = frozenset([repository_scope(repository, *actions)]) if repository else frozenset()
        self._authorizer = Authorizer(transport, credentials, verify=endpoint.verify, secure=not endpoint.plain)

    def url(self, path: str) -> URL:
        """The URL of `path` in this repository."""
        return URL(f"{self.endpoint.url}/v2/{self.repository}/{path}", encoded=True)

    @property
    def base(self) -> URL:
        """The URL that pings go to."""
        return URL(f"{self.endpoint.url}/v2/", encoded=True)

    # --- requests -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: URL,
        *,
        expect: tuple[int, ...],
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        also: Scopes = frozenset(),
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request with our authorization, once more after a 401; the response is released at the end.

        `also` are scopes needed beside the repository's own. Raises Refused for statuses not in `expect`.
        """
        response = await self._authorized(method, url, dict(headers or {}), body, self._scopes | also)
        async with response:
            if response.status not in expect:
                raise await _refusal(method, response)
            yield response

    async def _authorized(
        self, method: str, url: URL, headers: dict[str, str], body: Body | None, scopes: Scopes
    ) -> aiohttp.ClientResponse:
        ours = url.origin() == self.base.origin()
        for is_last in (False, True):
            # A location on another host (an upload to an object store) is signed, and none of our secrets' business.
            authorization = await self._authorizer.header(method, self.base, scopes) if ours else None
            sent = {**headers, "Authorization": authorization} if authorization else headers
            response = await self._transport.send(method, url, headers=sent, body=body, verify=self.endpoint.verify)
            self.has_spoken = True
            if response.status != 401 or not ours or is_last:
                break
            challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
            try:
                again = await self._authorizer.answer(method, url, challenges, scopes, authorization)
            except BaseException:
                response.release()
                raise
            if not again:
                break
            response.release()
        return response

    # --- the registry -------------------------------------------------------------------------------------------------

    async def ping(self) -> None:
        """Check that there is a registry that lets us in. Raises RegistryUnreachable, AuthenticationFailed, Refused."""
        async with self.request("GET", self.base, expect=(200,)) as response:
            await read_limited(response, _ERROR_LIMIT)

    @property
    def identity_token(self) -> str:
        """The refresh token that the token service gave, empty if none."""
        return self._authorizer.identity_token

    # --- manifests ----------------------------------------------------------------------------------------------------

    async def head_manifest(self, reference: str) -> Descriptor | None:
        """What a tag or digest stands for, by HEAD (which costs nothing at registries that count).

        None if the registry doesn't tell: then GET is worth a try, and explains what is wrong. Raises
        RegistryUnreachable and AuthenticationFailed.
        """
        try:
            url = self.url(f"manifests/{reference}")
            async with self.request("HEAD", url, expect=(200,), headers={"Accept": ACCEPT}) as response:
                digest = response.headers.get("Docker-Content-Digest", "")
                size = response.headers.get("Content-Length", "")
                if not is_digest(digest) or not size.isdigit():
                    return None
                return Descriptor(media_type=_media_type(response), digest=Digest(digest), size=int(size))
        except Refused:
            return None

    async def manifest(self, reference: str, expected: Descriptor | None = None) -> Document:
        """Fetch a manifest or index by tag or digest, verified against the digest (and size) if that is known.

        Raises Refused, VerificationFailed, BadAnswer and what the way there may raise.
        """
        return await self.patience.run(lambda: self._manifest(reference, expected))

    async def _manifest(self, reference: str, expected: Descriptor | None) -> Document:
        url = self.url(f"manifests/{reference}")
        async with self.request("GET", url, expect=(200,), headers={"Accept": ACCEPT}) as response:
            data = await read_limited(response, MAX_DOCUMENT_SIZE)
        wanted = parse_digest(reference) if ":" in reference else None
        told = response.headers.get("Docker-Content-Digest", "")
        if wanted is None and is_digest(told):
            wanted = Digest(told)
        digest = digest_of(data, wanted) if wanted else sha256(data)
        if wanted and digest != wanted:
            raise VerificationFailed("manifest", wanted, str(url))
        if expected is not None and expected.size != len(data):
            raise BadAnswer(str(url), f"{len(data)} bytes instead of the {expected.size} that the index promises")
        return Document(data, _media_type(response), digest)

    async def put_manifest(self, reference: str, data: bytes, media_type: str) -> bool:
        """Store a manifest under a tag or digest; whether the registry lists it with its subject, if it has one.

        Raises Refused; BadAnswer if the registry took it for another.
        """
        return await self.patience.run(lambda: self._put_manifest(reference, data, media_type))

    async def _put_manifest(self, reference: str, data: bytes, media_type: str) -> bool:
        url = self.url(f"manifests/{reference}")
        headers = {"Content-Type": media_type}
        async with self.request("PUT", url, expect=(200, 201, 202), headers=headers, body=data) as response:
            told = response.headers.get("Docker-Content-Digest", "")
        if is_digest(told) and algorithm(told) == "sha256" and told != sha256(data):
            raise BadAnswer(str(url), f"the registry stored {told} instead of {sha256(data)}")
        return "OCI-Subject" in response.headers

    # --- blobs --------------------------------------------------------------------------------------------------------

    async def blob_size(self, digest: Digest) -> int | None:
        """The size of a blob in bytes by HEAD, None if the repository hasn't got it."""
        return await self.patience.run(lambda: self._blob_size(digest))

    async def _blob_size(self, digest: Digest) -> int | None:
        url = self.url(f"blobs/{digest}")
        async with self.request("HEAD", url, expect=(200, 404)) as response:
            if response.status == 404:
                return None
            size = response.headers.get("Content-Length", "")
            if not size.isdigit():
                raise BadAnswer(str(url), "no Content-Length")
            return int(size)

    async def small_blob(self, descriptor: Descriptor, limit: int, what: str) -> bytes:
        """Fetch a blob of at most `limit` bytes whole and verified. `what` names it in errors."""
        return await self.patience.run(lambda: self._small_blob(descriptor, limit, what))

    async def _small_blob(self, descriptor: Descriptor, limit: int, what: str) -> bytes:
        async with self.blob(descriptor.digest) as blob:
            parts: list[bytes] = []
            size = 0
            async for chunk in blob.chunks():
                size += len(chunk)
                if size > min(limit, descriptor.size):
                    break
                parts.append(chunk)
        data = b"".join(parts)
        if size != descriptor.size or digest_of(data, descriptor.digest) != descriptor.digest:
            raise VerificationFailed(what, descriptor.digest, str(self.url(f"blobs/{descriptor.digest}")))
        return data

    @asynccontextmanager
    async def blob(self, digest: Digest, offset: int = 0) -> AsyncIterator[BlobStream]:
        """Open a blob for reading from `offset`. Nothing is verified here. One attempt: the reader knows how to resume.

        Raises Refused, BadAnswer and what the way there may raise.
        """
        url = self.url(f"blobs/{digest}")
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self.request("GET", url, expect=(200, 206), headers=headers) as response:
            start = 0
            if response.status == 206:
                found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
                if found is None or int(found[1]) > offset or (found[3] != "*" and int(found[2]) + 1 != int(found[3])):
                    raise BadAnswer(str(url), f"Content-Range {response.headers.get('Content-Range', '')[:80]!r}")
                start = int(found[1])
            yield BlobStream(response, start)

    # --- tags ---------------------------------------------------------------------------------------------------------

    async def tags(self) -> list[str]:
        """All tags of the repository, page by page. Raises Refused."""
        return await self._pages(self.url("tags/list"))

    async def catalog(self) -> list[str]:
        """The names of all repositories, page by page; of a client without a repository. Raises Refused."""
        self._scopes = frozenset(["registry:catalog:*"])
        return await self._pages(URL(f"{self.endpoint.url}/v2/_catalog?n=1000", encoded=True))

    async def _pages(self, url: URL | None) -> list[str]:
        found: list[str] = []
        while url is not None:
            page, url = await self.patience.run(lambda url=url: self._page(url))  # type: ignore[misc]  # mypy can't infer a lambda's default
            found += page
        return found

    async def _page(self, url: URL) -> tuple[list[str], URL | None]:
        async with self.request("GET", url, expect=(200,)) as response:
            data = await read_limited(response, _TAGS_LIMIT)
        try:
            found = msgspec.json.decode(data, type=_Page)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadAnswer(str(url), f"no list: {error}") from error
        page = found.tags or found.repositories or []
        link = _NEXT_LINK.search(response.headers.get("Link", ""))
        following = url.join(URL(link[1], encoded=True)) if link else None
        if following is not None and (following == url or not page):
            following = None  # a registry that leads in circles
        return page, following


class _Page(msgspec.Struct, frozen=True):
    tags: list[str] | None = None
    repositories: list[str] | None = None


def _media_type(response: aiohttp.ClientResponse) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip()


async def _refusal(method: str, response: aiohttp.ClientResponse) -> Refused:
    try:
        body = b"" if method == "HEAD" else await read_limited(response, _ERROR_LIMIT)
    except RegistryFailure:
        body = b""
    challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
    return refusal(response.status, response.headers, body, challenges, method=method)


def with_query(url: URL, **query: str) -> URL:
    """Add to a query without touching what is there: upload locations are opaque. spec.md#post-then-put."""
    text = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
    return URL(f"{url}{'&' if url.raw_query_string else '?'}{text}", encoded=True)
