"""The links of endpoints in their sandboxes: made, taken away, and made a sandbox's way out."""

from collections.abc import Callable

from scow.linux.netlink import Netlink
from scow.network import bridges, parents
from scow.network.model import Endpoint, Network
from scow.network.reaper import remove
from scow.network.sandboxes import Inside, Sandboxes
from scow.network.threads import Threads


class Wiring:
    """Does in threads what the modules of the drivers do to the machine. Raises OSError."""

    def __init__(self, machine: Netlink, sandboxes: Sandboxes, threads: Threads) -> None:
        self._machine = machine
        self._sandboxes = sandboxes
        self._threads = threads

    async def attach(self, endpoint: Endpoint, network: Network, bridge: int, *, gateway: bool) -> None:
        """Join a sandbox to a network; `bridge` is the index of its bridge, if it has one."""

        def work(inside: Inside) -> None:
            if network.branches:
                parents.attach(inside, self._machine, endpoint, network, gateway=gateway)
            else:
                bridges.attach(self._machine, inside, endpoint, network, bridge, gateway=gateway)

        await self._inside(endpoint, work)

    async def detach(self, endpoint: Endpoint) -> None:
        """Take a link away."""
        if endpoint.link:
            await self._threads(lambda: remove(self._machine, [endpoint.link]))
        elif endpoint.interface:
            await self._inside(endpoint, lambda inside: parents.detach(inside, endpoint))

    async def route(self, endpoint: Endpoint, network: Network) -> None:
        """Make an endpoint its sandbox's way out."""
        await self._inside(endpoint, lambda inside: parents.route_through(inside, endpoint, network))

    async def _inside(self, endpoint: Endpoint, work: Callable[[Inside], None]) -> None:
        def job() -> None:
            inside = self._sandboxes.enter(endpoint.container_id)
            try:
                work(inside)
            finally:
                inside.close()

        await self._threads(job)
