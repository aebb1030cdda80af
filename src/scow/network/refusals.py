"""What can't be done with a network or an attachment as things stand; the words are docker's."""

from collections.abc import Iterable

from scow.errors import Conflict, Forbidden, NotFound
from scow.network.model import Endpoint, Network


class NetworkInUse(Forbidden):
    def __init__(self, network: Network, endpoints: Iterable[Endpoint]) -> None:
        users = ", ".join(f'name:"{each.container_name}" id:"{each.id[:12]}"' for each in endpoints)
        super().__init__(
            f"error while removing network: network {network.name} has active endpoints ({users}) (id {network.id})"
        )
        self.network = network


class AlreadyConnected(Forbidden):
    def __init__(self, container: str, network: Network) -> None:
        super().__init__(f"endpoint with name {container} already exists in network {network.name}")


class LeftMeanwhile(Conflict):
    def __init__(self, container: str, network: Network) -> None:
        super().__init__(f"container {container} ended while it was being connected to network {network.name}")


class NotConnected(Forbidden):
    def __init__(self, container: str, network: Network) -> None:
        super().__init__(f"container {container} is not connected to network {network.name}")


class NoSuchEndpoint(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f"endpoint {name} not found")
