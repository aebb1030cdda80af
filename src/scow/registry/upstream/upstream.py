"""One other registry: asks it on behalf of a proxy's credentials, and leaves it alone when it wants that.

What goes wrong there becomes a Refusal of ours. `UpstreamBusy` and `UpstreamUnavailable` mean that nobody knows: what
is here may be served. Anything else is the upstream's word.
"""

import asyncio
import logging
import os
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from scow.oci.descriptor import Descriptor
from scow.oci.digest import Digest, is_digest
from scow.registry.errors import (
    ManifestUnknown,
    NameUnknown,
    Refusal,
    UpstreamBusy,
    UpstreamDenied,
    UpstreamUnavailable,
)
from scow.registry.metrics import Metrics
from scow.registry.settings import Remote
from scow.registry.upstream.places import url_of
from scow.transfer.client import ACCEPT, BlobStream, Document, RegistryClient
from scow.transfer.credentials import Credentials
from scow.transfer.hosts import Endpoint, HostPolicy, Proxies
from scow.transfer.http import Patience, Transport, read_limited
from scow.transfer.registry_error import AuthenticationFailed, Refused, RegistryFailure

T = TypeVar("T")

CLIENTS_LIMIT: Final = 1000
CONNECT_S: Final = 5.0
ASK_S: Final = 20.0
"""A small question that takes longer is given up: a client waits for us meanwhile."""
LIST_S: Final = 300.0
"""All pages of a list."""
READ_S: Final = 60.0
REST_S: Final = (1.0, 60.0)
"""How long an upstream that fails is left alone where there is a copy: doubling from the first to the second."""
LIMITED_S: Final = 60.0
"""How long one that says 429 is left alone, if it doesn't say itself."""
LONGEST_S: Final = 6 * 3600.0
PAGE_LIMIT: Final = 8 << 20

log = logging.getLogger("scow.registry.upstream")


class Upstream:
    """Whoever made it closes it."""

    def __init__(self, proxy: Remote, metrics: Metrics) -> None:
        self.url = url_of(proxy)
        self._proxy = proxy
        self._metrics = metrics
        policy = HostPolicy(
            certs_dirs=[proxy.certs_dir], proxies=Proxies(http=proxy.http_proxy, https=proxy.http_proxy)
        )
        self._transport = Transport(policy, connect_timeout_s=CONNECT_S, read_timeout_s=READ_S)
        self._endpoint = Endpoint(url=self.url, verify=proxy.verify)
        self._clients: OrderedDict[str, RegistryClient] = OrderedDict()
        self._failures = 0
        self._rest_until = 0.0  # monotonic: it failed
        self._limited_until = 0.0  # monotonic: it said 429

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    @property
    def rests(self) -> bool:
        """Whether it should be left alone if there is another way."""
        return time.monotonic() < max(self._rest_until, self._limited_until)

    async def head(self, repository: str, reference: str) -> Descriptor | None:
        """What a tag stands for; None if the upstream doesn't tell this way. Raises ManifestUnknown and as above."""

        async def ask(client: RegistryClient) -> Descriptor | None:
            url = client.url(f"manifests/{reference}")
            async with client.request("HEAD", url, expect=(200, 405), headers={"Accept": ACCEPT}) as response:
                digest = response.headers.get("Docker-Content-Digest", "")
                size = response.headers.get("Content-Length", "")
                if response.status != 200 or not is_digest(digest) or not size.isdigit():
                    return None
                kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
                return Descriptor(media_type=kind, digest=Digest(digest), size=int(size))

        return await self._ask(repository, ask, ManifestUnknown(repository, reference))

    async def manifest(self, repository: str, reference: str) -> Document:
        """A manifest by tag or digest, verified. Raises ManifestUnknown and as above."""
        return await self._ask(
            repository, lambda client: client.manifest(reference), ManifestUnknown(repository, reference)
        )

    async def blob_size(self, repository: str, digest: Digest) -> int | None:
        """The size of a blob, None if the upstream has not got it. Raises as above."""
        return await self._ask(repository, lambda client: client.blob_size(digest), None)

    async def page(self, repository: str, path: str) -> tuple[bytes, dict[str, str]] | None:
        """The JSON document at a path of the repository, with its headers; None if there is none. Raises as above."""

        async def ask(client: RegistryClient) -> tuple[bytes, dict[str, str]] | None:
            async with client.request("GET", client.url(path), expect=(200, 404)) as response:
                if response.status == 404:
                    return None
                return await read_limited(response, PAGE_LIMIT), dict(response.headers)

        return await self._ask(repository, ask, None)

    async def tags(self, repository: str) -> list[str]:
        """All tags of a repository, none if it is unknown. Raises as above."""

        async def ask(client: RegistryClient) -> list[str]:
            return await client.tags()

        try:
            return await self._ask(repository, ask, NameUnknown(repository), LIST_S)
        except NameUnknown:
            return []

    async def repositories(self) -> list[str]:
        """The names of all repositories, where the upstream has a catalog. Raises UpstreamDenied and as above."""

        async def ask(client: RegistryClient) -> list[str]:
            return await client.catalog()

        missing = UpstreamDenied(f"{self.url} has no catalog: its repositories have to be named")
        return await self._ask("", ask, missing, LIST_S)

    @asynccontextmanager
    async def blob(self, repository: str, digest: Digest, offset: int) -> AsyncIterator[BlobStream]:
        """A blob from `offset` on. Raises RegistryFailure: the reader resumes."""
        self._metrics.count("upstream_requests")
        async with self._client(repository).blob(digest, offset) as stream:
            self._failures, self._rest_until = 0, 0.0
            yield stream

    def failed(self, error: RegistryFailure, missing: Refusal | None) -> Refusal:
        """Take note of a failure; what to answer. `missing` is for a 404."""
        self._metrics.count("upstream_failures")
        status = error.status if isinstance(error, Refused) else 0
        if status == 404 and missing is not None:
            return missing
        if status == 429 or (isinstance(error, AuthenticationFailed) and error.retry_after_s is not None):
            wait_s = min(error.retry_after_s or LIMITED_S, LONGEST_S)
            self._limited_until = max(self._limited_until, time.monotonic() + wait_s)
            log.warning("%s limits our requests, it is left alone for %.0f s: %s", self.url, wait_s, error)
            return self._busy()
        if status in (401, 403) or (isinstance(error, AuthenticationFailed) and not error.transient):
            return UpstreamDenied(f"{self.url} refuses: {error}")
        if status and status < 500 and status != 408:
            return UpstreamUnavailable(f"{self.url} gives no usable answer: {error}")
        self._failures += 1
        longest = min(REST_S[0] * 2 ** min(self._failures - 1, 10), REST_S[1])
        self._rest_until = time.monotonic() + longest * random.uniform(0.75, 1.0)
        log.warning("%s cannot be asked: %s", self.url, error)
        return UpstreamUnavailable(f"{self.url} cannot be asked, and there is no copy here: {error}")

    def check_limit(self) -> None:
        """Raise UpstreamBusy while the upstream wants no requests."""
        if time.monotonic() < self._limited_until:
            raise self._busy()

    def check_rest(self) -> None:
        """Raise UpstreamBusy or UpstreamUnavailable while the upstream should be left alone."""
        self.check_limit()
        if self.rests:
            raise UpstreamUnavailable(f"{self.url} could not be asked a moment ago")

    def _busy(self) -> UpstreamBusy:
        return UpstreamBusy(self.url, self._limited_until - time.monotonic())

    async def _ask(
        self,
        repository: str,
        ask: Callable[[RegistryClient], Awaitable[T]],
        missing: Refusal | None,
        limit_s: float = ASK_S,
    ) -> T:
        self.check_limit()
        self._metrics.count("upstream_requests")
        try:
            async with asyncio.timeout(limit_s):
                answer = await ask(self._client(repository))
        except TimeoutError as error:
            failure = RegistryFailure(f"no answer within {limit_s:.0f} s")
            raise self.failed(failure, None) from error
        except RegistryFailure as error:
            if not isinstance(error, Refused) or error.status in (401, 403):
                self._clients.pop(repository, None)  # with its tokens; the password may have been changed too
            raise self.failed(error, missing) from error
        self._failures, self._rest_until = 0, 0.0
        return answer

    def _client(self, repository: str) -> RegistryClient:
        """The repository's client, which keeps its tokens."""
        found = self._clients.get(repository)
        if found is None:
            # Waiting is the client's business, who is told when to come back.
            patience = Patience(attempts=2, first_s=0.2, longest_retry_after_s=0.0)
            credentials = read_credentials(self._proxy)
            found = RegistryClient(self._transport, self._endpoint, repository, credentials, patience=patience)
            self._clients[repository] = found
            if len(self._clients) > CLIENTS_LIMIT:
                self._clients.popitem(last=False)
        else:
            self._clients.move_to_end(repository)
        return found


def read_credentials(proxy: Remote) -> Credentials | None:
    """The credentials that the configuration names, None if it names none. Raises UpstreamUnavailable."""
    if not proxy.username:
        return None
    password = proxy.password
    if proxy.password_file:
        try:
            password = Path(proxy.password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UpstreamUnavailable(f"the password for {url_of(proxy)} cannot be read") from error
    elif proxy.password_env:
        password = os.environ.get(proxy.password_env, "")
    return Credentials(username=proxy.username, password=password)
