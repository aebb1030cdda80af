"""An endpoint's published ports: held, led to it by the firewall or carried by relays, and taken back."""

import logging
from collections.abc import Mapping, Sequence

import msgspec

from scow.network import ports
from scow.network.firewall import Firewall
from scow.network.model import OPTION_BINDING, Endpoint, Network, Port
from scow.network.ports import PortTable, PortTaken, PublishingFailed
from scow.network.relays import Relays, has_ipv6
from scow.network.threads import Threads

_log = logging.getLogger(__name__)


class Publishing:
    """Ports of all endpoints (by id, to name who holds one). An endpoint's ports are reserved, published, withdrawn."""

    def __init__(
        self, firewall: Firewall, endpoints: Mapping[str, Endpoint], threads: Threads, *, default_ip: str, relays: bool
    ) -> None:
        self._firewall = firewall
        self._endpoints = endpoints
        self._threads = threads
        self._default_ip = default_ip
        self._relays = Relays() if relays and has_ipv6() else None
        self._ports = PortTable(self._relays)

    async def reserve(self, network: Network, endpoint: Endpoint, published: Sequence[Port]) -> Endpoint:
        """Take ports for an endpoint, which is returned with them. Raises PublishingFailed, NoPortLeft, BadPort."""
        binding = network.options.get(OPTION_BINDING, "")
        default = "" if binding == "0.0.0.0" else binding or self._default_ip
        try:
            held = self._ports.reserve(published, endpoint.id, endpoint.versions, default)
        except PortTaken as failure:
            name, reason = endpoint.container_name or endpoint.container_id[:12], await self._with_holder(failure)
            raise PublishingFailed(name, endpoint.id, reason) from failure
        return msgspec.structs.replace(endpoint, ports=held)

    async def publish(self, endpoint: Endpoint) -> None:
        """Have the ports lead to the endpoint. Raises NftablesFailed."""
        await self._firewall.publish(endpoint)
        self._ports.relay(endpoint.id, endpoint.ipv6 or endpoint.ip)
        if endpoint.ports:
            await self._threads(lambda: ports.forget_flows_before(endpoint))

    async def withdraw(self, endpoint: Endpoint) -> None:
        """Give the ports back. Idempotent."""
        self._ports.release(endpoint.id)
        await self._firewall.unpublish(endpoint.id)
        if endpoint.ports:
            await self._threads(lambda: ports.forget_flows_to(endpoint))

    def release(self, endpoint_id: str) -> None:
        """Give back ports that were not published yet. Idempotent."""
        self._ports.release(endpoint_id)

    def adopt(self, endpoint: Endpoint) -> None:
        """Hold ports that an earlier engine process published."""
        for failure in self._ports.adopt(endpoint.ports, endpoint.id):
            _log.warning("cannot hold a port of container %s any more: %s", endpoint.container_id, failure)
        self._ports.relay(endpoint.id, endpoint.ipv6 or endpoint.ip)

    def can_lead(self, port: Port, endpoint: Endpoint) -> bool:
        """Whether what comes to a port's address can get to the endpoint."""
        is_relayed = self._relays is not None and port.protocol in ports.RELAYED
        return ":" not in port.host_ip or bool(endpoint.ipv6) or is_relayed

    def close(self) -> None:
        """Let go of all ports; they stay published in the firewall."""
        self._ports.close()

    async def _with_holder(self, failure: PortTaken) -> PortTaken:
        if failure.ours:
            other = self._endpoints.get(failure.holder)
            holder = f"container {other.container_name or other.container_id[:12]}" if other else ""
        else:
            found = await self._threads(lambda: ports.find_process(failure.protocol, failure.port))
            holder = f"process {found}" if found else ""
        return PortTaken(failure.host_ip, failure.port, failure.protocol, holder=holder, ours=failure.ours)
