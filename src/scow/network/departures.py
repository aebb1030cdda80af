"""Networks that were removed, and whose links are on their way out.

Taking a bridge away costs the kernel some milliseconds that nobody has to wait for, but a new network that wants the
same name or subnet.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Set

from scow.errors import ScowError
from scow.linux.netlink import Netlink
from scow.network import addresses
from scow.network.model import Network
from scow.network.reaper import Reaper, remove
from scow.network.state import State
from scow.network.threads import Threads

_log = logging.getLogger(__name__)


class Departures:
    """Sees networks off; owned by the event loop. `settle_rules` makes the firewall forget them."""

    def __init__(
        self,
        machine: Netlink,
        reaper: Reaper,
        state: State,
        threads: Threads,
        settle_rules: Callable[[], Awaitable[None]],
    ) -> None:
        self._machine = machine
        self._reaper = reaper
        self._state = state
        self._threads = threads
        self._settle_rules = settle_rules
        self._leaving: dict[str, tuple[Network, asyncio.Task[None]]] = {}

    @property
    def networks(self) -> list[Network]:
        """Those that are still on their way."""
        return [network for network, _ in self._leaving.values()]

    def see_off(self, network: Network) -> None:
        """Remove the links of a network that is retired in the records."""
        task = asyncio.create_task(self._see_off(network), name=f"removal of network {network.name}")
        self._leaving[network.id] = (network, task)

    async def _see_off(self, network: Network) -> None:
        try:
            await self._reaper.settled()  # of containers that have left it just now
            await self._threads(lambda: remove(self._machine, network.own_links))
            await self._settle_rules()
            for link in network.own_links:
                await self._state.forget_link(link)
        except (OSError, ScowError) as error:
            _log.error("cannot remove links of %s, left to the engine's next start: %s", network.name, error)
        finally:
            self._leaving.pop(network.id, None)

    async def of_predecessors(self, network: Network) -> None:
        """Wait until no removed network has the bridge or a subnet of a new one any more."""
        subnets = [addresses.parse_subnet(pool.subnet) for pool in network.pools]
        for other, task in list(self._leaving.values()):
            theirs = [addresses.parse_subnet(pool.subnet) for pool in other.pools]
            if set(other.own_links) & set(network.own_links) or any(
                addresses.overlap(a, b) for a in subnets for b in theirs
            ):
                await asyncio.shield(task)

    async def of_parents(self) -> None:
        """Wait until no parent that was made for a network is on its way out."""
        for other, task in list(self._leaving.values()):
            if other.made_link:
                await asyncio.shield(task)

    async def settled(self) -> None:
        """Wait until all have gone."""
        await asyncio.gather(*(task for _, task in self._leaving.values()))

    async def finish(self, kept: Set[str]) -> None:
        """Remove the links of networks that a killed engine had not quite removed, but those that are `kept`."""
        for link in self._state.leaving():
            if link not in kept:
                await self._threads(lambda name=link: remove(self._machine, [name]))  # type: ignore[misc]  # a default
            await self._state.forget_link(link)
