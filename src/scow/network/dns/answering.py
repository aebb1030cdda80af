"""What to answer to a query, and from whom: names of containers from memory, all else by asking other servers."""

import ipaddress
from collections.abc import Callable, Sequence
from typing import Final

from scow.network.dns import message
from scow.network.dns.forwarding import Forwarder, SocketMaker, Upstream
from scow.network.dns.message import Query
from scow.network.dns.names import Names
from scow.network.model import Endpoint, Network

Upstreams = Callable[[str], Sequence[Upstream]]
"""Tells the servers that a container's questions go to; the argument is its id."""

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

    def at_once(self, container_id: str, query: Query) -> bytes | None:
        """Answer what needs nobody else; None means that `forward` has to."""
        asker = self._of_container(container_id)
        if query.network_class == message.INTERNET:
            if query.kind == message.PTR:
                address = message.reverse_address(query.name)
                name = self._names.name_of(asker, address) if address else ""
                # Not every name of a container or network can be one of DNS: labels have 63 characters at most.
                if name and all(0 < len(label.encode()) < 64 for label in name.split(".")):
                    return message.answer(query, [(message.PTR, message.pack_name(name))])
            found = self._names.find(asker, query.name) if query.name else []
            if found:
                # Also without an address of the wanted kind the name exists: no error, and no records (RFC 2308).
                return message.answer(query, _records(found, query.kind))
        if not self._may_leave(asker):
            return message.answer(query, code=message.SERVER_FAILURE)
        return None

    async def forward(
        self, container_id: str, query: Query, data: bytes, new_socket: SocketMaker, *, tcp: bool
    ) -> bytes:
        """Ask the container's servers, by sockets in its sandbox, or the machine's for what only that reaches."""
        return await self._forwarder.ask(query, data, self.upstreams(container_id), container_id, new_socket, tcp=tcp)

    def forget(self, container_id: str) -> None:
        """Keep nothing of a container that has gone."""
        self._forwarder.forget(container_id)

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
