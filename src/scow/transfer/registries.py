"""What all transfers of an engine share: connections, limits, flights, and the order in which endpoints are tried."""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from scow.errors import ScowError
from scow.oci.reference import Reference
from scow.store.layer_errors import DiskFull, LayerFailed
from scow.store.layers import Layer
from scow.transfer.client import RegistryClient
from scow.transfer.credentials import Credentials
from scow.transfer.flights import Flights
from scow.transfer.hosts import Endpoint, HostPolicy
from scow.transfer.http import Patience, Transport
from scow.transfer.registry_error import RegistryFailure
from scow.wire.progress import ProgressMessage

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_DOWNLOADS: Final = 3
MAX_UPLOADS: Final = 5


class Registries:
    """Lives as long as the engine; `aclose()` ends its connections.

    `max_concurrent_downloads` and `max_concurrent_uploads` count layers, of all pulls and pushes together; with 0
    there is no limit.
    """

    def __init__(
        self,
        policy: HostPolicy,
        *,
        max_concurrent_downloads: int = MAX_DOWNLOADS,
        max_concurrent_uploads: int = MAX_UPLOADS,
        patience: Patience | None = None,
        read_timeout_s: float = 60.0,
    ) -> None:
        self.policy = policy
        self.patience = patience or Patience()
        self.transport = Transport(policy, read_timeout_s=read_timeout_s)
        self.downloads = _slots(max_concurrent_downloads)
        self.uploads = _slots(max_concurrent_uploads)
        self.layer_flights: Flights[Layer, ProgressMessage] = Flights()

    def reconfigure(
        self,
        policy: HostPolicy,
        *,
        max_concurrent_downloads: int | None = None,
        max_concurrent_uploads: int | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Use another policy and other limits from the next request on, as after a reload of the configuration."""
        self.policy = self.transport.policy = policy
        if max_concurrent_downloads is not None:
            self.downloads = _slots(max_concurrent_downloads)
        if max_concurrent_uploads is not None:
            self.uploads = _slots(max_concurrent_uploads)
        self.patience = patience or self.patience

    async def aclose(self) -> None:
        """Close all connections."""
        await self.transport.aclose()

    def client(
        self,
        endpoint: Endpoint,
        repository: str,
        credentials: Credentials | None,
        *,
        actions: tuple[str, ...] = ("pull",),
    ) -> RegistryClient:
        """A client of `repository` at `endpoint`. Credentials are the upstream's and are kept from mirrors."""
        patience = self.patience
        if endpoint.mirror:
            # Something follows a mirror: better go there than wait here.
            patience = Patience(attempts=min(2, patience.attempts), first_s=patience.first_s, longest_retry_after_s=1.0)
            credentials = None
        return RegistryClient(self.transport, endpoint, repository, credentials, actions=actions, patience=patience)

    async def try_endpoints(
        self,
        reference: Reference,
        credentials: Credentials | None,
        action: Callable[[RegistryClient], Awaitable[T]],
        *,
        actions: tuple[str, ...] = ("pull",),
    ) -> T:
        """Do `action` with the endpoints of a reference, in order, until one succeeds.

        Any failure at a mirror leads to the next; a failure of a registry only to its plain HTTP form, where that is
        allowed and TLS didn't work. Raises what the last one tried raised.
        """
        endpoints = await self.policy.endpoints(reference, for_push="push" in actions)
        return await self._try(endpoints, reference.path, credentials, action, actions)

    async def try_host(
        self, host: str, credentials: Credentials | None, action: Callable[[RegistryClient], Awaitable[T]]
    ) -> T:
        """Do `action` with a registry host, not about any repository."""
        return await self._try(await self.policy.host_endpoints(host), "", credentials, action, ("pull",))

    async def _try(
        self,
        endpoints: list[Endpoint],
        path: str,
        credentials: Credentials | None,
        action: Callable[[RegistryClient], Awaitable[T]],
        actions: tuple[str, ...],
    ) -> T:
        for endpoint in endpoints[:-1]:
            client = self.client(endpoint, path, credentials, actions=actions)
            try:
                return await action(client)
            except (DiskFull, LayerFailed):
                raise  # our own trouble, which another host's answer would only hide
            except ScowError as error:
                if not endpoint.mirror and (client.has_spoken or not isinstance(error, RegistryFailure)):
                    # Once a host spoke TLS, nobody in between may talk us into plain HTTP.
                    raise
                log.info("%s doesn't serve %s, trying the next: %s", endpoint.url, path or "us", error)
        return await action(self.client(endpoints[-1], path, credentials, actions=actions))


def _slots(count: int) -> asyncio.Semaphore:
    return asyncio.Semaphore(count or sys.maxsize)
