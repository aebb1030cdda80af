"""What to answer to a query, and from whom: names of containers from memory, all else by asking other servers."""

import ipaddress
from collections.abc import Callable, Sequence
from typing import Final

from scow.network.dns import message
from scow.network.dns.forwarding import Forwarder
from scow.network.dns.message import Query
from scow.network.dns.names import Names
from scow.network.model import Endpoint, Network

Upstreams = Callable[[str], Sequence[str]]
"""Tells the servers that a container's questions go to; the argument is its id, "" for the machine itself."""

_ADDRESSES: Final = (message.A, message.AAAA, message.ANY)


class Answering:
    """Knows who may ask for what. `upstreams` may be replaced at any time."""

    def __init__(
        self,
        names: Names,
        of_container: Callable[[str], Sequence[Endpoint]],
        network: Callable[[str], Network | None],
        forwarder: Forwarder,
    ) -> None:
        self._names = names
        self._of_container = of_container
        self._network = network
        self._forwarder = forwarder
        self.upstreams: Upstreams = lambda container_id: ()

    def at_once(self, network_id: str, client: str, query: Query) -> bytes | None:
        """Answer what needs nobody else; None means that `forward` has to."""
        asker = self._asker(network_id, client)
        if query.network_class != message.INTERNET:
            return None if asker else message.answer(query, code=message.REFUSED)
        if query.kind == message.PTR:
            address = message.reverse_address(query.name)
            name = self._names.name_of(asker, address) if address else ""
            if name:
                return message.answer(query, [(message.PTR, message.pack_name(name))])
        found = self._names.find(asker, query.name) if query.name else []
        if found:
            # Also without an address of the wanted kind the name exists: no error, and no records (RFC 2308).
            return message.answer(query, _records(found, query.kind))
        if not asker:
            return message.answer(query, code=message.REFUSED)
        if not self._may_leave(asker):
            return message.answer(query, code=message.SERVER_FAILURE)
        return None

    async def forward(self, network_id: str, client: str, query: Query, data: bytes, *, tcp: bool) -> bytes:
        """Ask the servers of whoever asked."""
        asker = self._asker(network_id, client)
        servers = self.upstreams(asker[0].container_id) if asker else ()
        return await self._forwarder.ask(query, data, servers, client, tcp=tcp)

    def _asker(self, network_id: str, client: str) -> Sequence[Endpoint]:
        """The endpoints of the container that has this address; none if nobody has it, so that nothing is told."""
        endpoint = self._names.at(network_id, client)
        return self._of_container(endpoint.container_id) if endpoint is not None else ()

    def _may_leave(self, asker: Sequence[Endpoint]) -> bool:
        """Whether one of its networks leads out; else questions would be a way out of an internal one."""
        networks = (self._network(endpoint.network_id) for endpoint in asker)
        return any(network is not None and not network.internal for network in networks)


def _records(found: Sequence[Endpoint], kind: int) -> list[tuple[int, bytes]]:
    records: list[tuple[int, bytes]] = []
    if kind not in _ADDRESSES:
        return records
    for endpoint in found:
        if endpoint.ip and kind in (message.A, message.ANY):
            records.append((message.A, ipaddress.IPv4Address(endpoint.ip).packed))
        if endpoint.ipv6 and kind in (message.AAAA, message.ANY):
            records.append((message.AAAA, ipaddress.IPv6Address(endpoint.ipv6).packed))
    return records
