"""Who has which name on which network: what the DNS servers answer from, kept in memory beside the endpoints."""

import random
from collections.abc import Iterable, Sequence

from scow.network.model import Endpoint


class Names:
    """Endpoints by network and name, and by address. Owned by the event loop; nothing here waits."""

    def __init__(self) -> None:
        self._entries: dict[str, Endpoint] = {}
        self._by_name: dict[str, dict[str, list[Endpoint]]] = {}
        self._by_address: dict[tuple[str, str], Endpoint] = {}

    def put(self, endpoint: Endpoint) -> None:
        """Enter an endpoint; one that was there under its id is replaced."""
        self.drop(endpoint)
        self._entries[endpoint.id] = endpoint
        names = self._by_name.setdefault(endpoint.network_id, {})
        for name in _keys(endpoint):
            names.setdefault(name, []).append(endpoint)
        for address in filter(None, (endpoint.ip, endpoint.ipv6)):
            self._by_address[endpoint.network_id, address] = endpoint

    def drop(self, endpoint: Endpoint) -> None:
        """Take an endpoint out; one that isn't there is fine."""
        known = self._entries.pop(endpoint.id, None)
        if known is None:
            return
        names = self._by_name[known.network_id]
        for name in _keys(known):
            names[name] = [each for each in names[name] if each.id != known.id]
            if not names[name]:
                del names[name]
        if not names:
            del self._by_name[known.network_id]
        for address in filter(None, (known.ip, known.ipv6)):
            if self._by_address.get((known.network_id, address)) is known:
                del self._by_address[known.network_id, address]

    def find(self, asker: Sequence[Endpoint], name: str) -> list[Endpoint]:
        """Those that `name` means for a container with these endpoints, in an order that is another each time.

        A name counts on the first of the asker's networks that has it; `name.network` asks one of them in particular.
        """
        head, dot, network = name.rpartition(".")
        for own in asker:
            names = self._by_name.get(own.network_id, {})
            wanted = dict(own.links).get(name, name).lower()
            found = names.get(wanted)
            if not found and dot and own.network_name.lower() == network:
                found = names.get(head)
            if found:
                return random.sample(found, len(found))
        return []

    def name_of(self, asker: Iterable[Endpoint], address: str) -> str:
        """The name of whoever has an address on one of the asker's networks, with the network's; "" if nobody."""
        for own in asker:
            found = self._by_address.get((own.network_id, address))
            if found is not None and found.names:
                return f"{found.names[0]}.{found.network_name}"
        return ""


def _keys(endpoint: Endpoint) -> list[str]:
    return list(dict.fromkeys(name.lower() for name in endpoint.names))
