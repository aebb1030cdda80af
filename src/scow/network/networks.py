"""The engine's networks: which there are, and the life of a container's attachment to them.

A container's life here: `sandbox` (a pinned namespace), `connect` to each of its networks (link, addresses, published
ports), perhaps `disconnect`, then `release`, which undoes everything. An engine's: `start`, `reconcile` with the
containers that live, and `stop`, which leaves the live ones' networking as it is, or `destroy`, which leaves nothing.
What is made is written down first; `start` and `reconcile` remove whatever a killed engine left behind.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from scow import points
from scow.errors import Forbidden, InvalidArgument
from scow.linux import links
from scow.linux.netlink import Netlink
from scow.linux.nftables import Nftables
from scow.network import addresses, bridges, claims, definitions, parents
from scow.network.addresses import AddressTaken, NetworkAddresses
from scow.network.definitions import Settings
from scow.network.departures import Departures
from scow.network.dns.answering import Answering
from scow.network.dns.forwarding import Forwarder
from scow.network.dns.names import Names
from scow.network.dns.server import ADDRESS as RESOLVER
from scow.network.firewall import Firewall
from scow.network.model import (
    BRIDGE,
    HOST,
    NONE,
    Endpoint,
    EndpointRequest,
    Network,
    NetworkRequest,
    NoSuchNetwork,
    Port,
    PublishedPort,
    Sandbox,
    tag_of,
)
from scow.network.publishing import Publishing
from scow.network.reaper import Reaper, remove
from scow.network.refusals import AlreadyConnected, LeftMeanwhile, NetworkInUse, NoSuchEndpoint, NotConnected
from scow.network.resolvers import Resolvers
from scow.network.sandboxes import Sandboxes
from scow.network.state import State
from scow.network.threads import Threads
from scow.network.wiring import Wiring
from scow.store.database import Database

_log = logging.getLogger(__name__)

Observer = Callable[[str, Network, str], None]
"""Told that a container (its id) was joined to a network, or left it: "connect" or "disconnect"."""


class Networks:
    """All networks of one engine. Owned by the event loop; what waits for the kernel runs in threads of its own."""

    def __init__(
        self,
        engine_id: str,
        db: Database,
        exec_root: Path,
        settings: Settings | None = None,
        nft: Nftables | None = None,
    ) -> None:
        self.tag = tag_of(engine_id)
        self._settings = settings or Settings()
        self._state = State(db)
        self._threads = Threads()
        self._machine = Netlink()
        self._link_prefix = f"v{self.tag[:6]}"
        self._sandboxes = Sandboxes(
            exec_root / "netns",
            self._link_prefix,
            self._machine,
            self._threads,
            spare=self._settings.spare_sandboxes,
        )
        self._wiring = Wiring(self._machine, self._sandboxes, self._threads)
        self._reaper = Reaper(self._machine, self._threads)
        self._firewall = Firewall(self.tag, self._threads, nft)
        self._networks: dict[str, Network] = {}
        self._pools: dict[str, NetworkAddresses] = {}
        self._bridges: dict[str, int] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._publishing = Publishing(
            self._firewall,
            self._endpoints,
            self._threads,
            default_ip=self._settings.default_binding,
            relays=self._settings.relays,
        )
        self._containers: dict[str, dict[str, Endpoint]] = {}
        self._recorded_sandboxes: set[str] = set()
        self._departures = Departures(self._machine, self._reaper, self._state, self._threads, self._install_rules)
        self._creating = ""  # the network that is just being made
        self._defining = asyncio.Lock()  # networks come and go one at a time
        self._names = Names()
        self.dns = Answering(self._names, self.of_container, lambda id: self._networks.get(id), Forwarder())
        self._resolvers = Resolvers(self.dns, self._sandboxes, self._state, self._threads)
        self.observer: Observer = lambda action, network, container_id: None
        self._closed = False

    # the engine's life

    async def start(self) -> None:
        """Bring up bridges and firewall, adopt what was recorded, and drop what nobody recorded.

        Raises OSError where the machine refuses, PoolsExhausted, BadAddress for a wrong `bip`.
        """
        networks, sandboxes, endpoints = self._state.load()
        self._networks = {network.id: network for network in networks}
        self._recorded_sandboxes = set(sandboxes)
        async with claims.choosing():
            await self._ensure_predefined({endpoint.network_id for endpoint in endpoints})
            for network in self._networks.values():
                self._pools[network.id] = NetworkAddresses(network.pools)
            for endpoint in endpoints:
                self._adopt(endpoint)
            for network in list(self._networks.values()):
                await self._bring_up(network)
        await self._resolvers.resume({id: port for id, port in sandboxes.items() if self.resolver_of(id)})
        self._firewall.watch()
        await self._firewall.install(self._networks.values(), self._endpoints.values())
        await self._drop_unrecorded()
        await self._departures.finish({link for network in self._networks.values() for link in network.own_links})
        self._sandboxes.open()
        default = self._find(BRIDGE)
        if default is not None:
            self._sandboxes.warm_up(lambda: (self._bridges[default.id], default.mtu))

    async def reconcile(self, live: Iterable[str]) -> None:
        """Release what belongs to containers that don't live any more; mend the links of those that do."""
        alive = set(live)
        gone = (self._recorded_sandboxes | set(self._containers)) - alive
        for container_id in sorted(gone):
            await self.release(container_id)
        present = await self._threads(lambda: {link.name for link in links.links(self._machine)})
        for endpoint in list(self._endpoints.values()):
            if endpoint.link and endpoint.link not in present and endpoint.container_id in alive:
                try:
                    await self._attach(endpoint)
                except OSError as error:
                    _log.warning("cannot mend network of container %s: %s", endpoint.container_id, error)

    async def stop(self) -> None:
        """Let go of everything but the live containers' networking. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for link in await self._sandboxes.aclose():
            self._reaper.watch(link, _nothing)
        await self.settled()
        await self._resolvers.aclose()
        self._publishing.close()
        await self._firewall.aclose()
        self._machine.close()
        self._threads.close()

    async def destroy(self) -> None:
        """Stop, and remove every link, namespace and rule of this engine; networks stay defined."""
        for link in await self._sandboxes.aclose():
            self._reaper.watch(link, _nothing)
        for container_id in self._recorded_sandboxes | set(self._containers):
            await self.release(container_id)
        await self.settled()
        names = [link for network in self._networks.values() for link in network.own_links]
        await self._threads(lambda: remove(self._machine, names))
        await self._firewall.destroy()
        await self.stop()

    async def reload(self) -> None:
        """Write the whole firewall table again: after somebody else flushed the ruleset."""
        await self._install_rules()

    async def _install_rules(self) -> None:
        await self._firewall.install(self._networks.values())

    async def settled(self) -> None:
        """Return once the links of everything that was released or removed have gone."""
        await self._reaper.settled()
        await self._departures.settled()

    # networks

    def all(self) -> list[Network]:
        """Return all networks, the oldest first."""
        return sorted(self._networks.values(), key=lambda network: (network.created, network.name))

    def get(self, ref: str) -> Network:
        """Find a network by name, id, or the beginning of an id. Raises NoSuchNetwork; InvalidArgument if ambiguous."""
        return definitions.get_network(self._networks, ref)

    async def create(self, request: NetworkRequest) -> Network:
        """Make a user-defined network. Raises Conflict, Forbidden, InvalidArgument, NotFound (an unknown driver)."""
        async with self._defining, claims.choosing():
            return await self._create(request)

    async def _create(self, request: NetworkRequest) -> Network:
        if request.config_from:
            request = definitions.configured(request, self.get(request.config_from))
        definitions.check(request, self._networks.values())
        if request.config_only:
            network = definitions.configuration(request)
            await self._record(network)
            return network
        taken = await self._taken_subnets()
        pools = definitions.choose_pools(request, lambda version: self._free_subnet(taken, version))
        definitions.check(request, self._networks.values(), pools)
        network = definitions.user_defined(request, pools)
        if network.branches:
            await self._departures.of_parents()
            is_missing = lambda parent: parents.is_to_be_made(self._machine, parent)  # noqa: E731 - used once
            network = await self._threads(lambda asked=network: definitions.with_parent(asked, is_missing))  # type: ignore[misc]  # a default
        await self._departures.of_predecessors(network)
        id, name = network.id, network.bridge
        if name not in ("", definitions.bridge_of(id)):
            foreign = await self._threads(lambda: bridges.find_foreign(self._machine, name, id)) is not None
            network = msgspec.structs.replace(network, foreign_bridge=foreign)
        async with AsyncExitStack() as undo:
            self._networks[network.id] = network
            self._pools[network.id] = NetworkAddresses(network.pools)
            undo.callback(self._forget_network, network.id)
            await self._state.put_network(network)
            undo.push_async_callback(self._state.remove_network, network.id)
            self._creating = network.id
            await self._bring_up(network)
            undo.push_async_callback(self._threads, lambda: remove(self._machine, network.own_links))
            if network.bridge:
                await self._firewall.add(network)
            undo.pop_all()
        return network

    async def remove(self, ref: str) -> Network:
        """Remove a user-defined network without endpoints. Raises NoSuchNetwork, Forbidden for others.

        Its bridge goes in the background; only a network that needs its name or subnet waits for that.
        """
        async with self._defining:
            network = self.get(ref)
            if network.predefined:
                raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
            if users := self.endpoints(network.id):
                raise NetworkInUse(network, users)
            if any(other.config_from == network.name for other in self._networks.values()):
                raise Forbidden(f'configuration network "{network.name}" is in use')
            self._forget_network(network.id)
            await self._state.retire_network(network)
            self._departures.see_off(network)
        return network

    def endpoints(self, network_id: str) -> list[Endpoint]:
        """Return a network's endpoints, as `network inspect` lists them."""
        return [endpoint for endpoint in self._endpoints.values() if endpoint.network_id == network_id]

    def resolver_of(self, container_id: str) -> str:
        """The address at which a container asks for names, "" if none of its networks knows any."""
        known = [self._networks.get(endpoint.network_id) for endpoint in self.of_container(container_id)]
        return str(RESOLVER) if any(network and network.resolves for network in known) else ""

    # containers

    def of_container(self, container_id: str) -> list[Endpoint]:
        """Return a container's endpoints in the order in which they were made."""
        return list(self._containers.get(container_id, {}).values())

    def belong_to(self, make: Callable[[], int]) -> None:
        """From now on containers' namespaces are those that `make` gives: they belong to a user namespace."""
        self._sandboxes.make = make

    async def sandbox(self, container_id: str, network: str = BRIDGE, *, machines: bool = False) -> Sandbox:
        """Make a container's network namespace; `network` is the first it will be connected to, and decides its kind.

        On `host` there is nothing to make. `machines`: it belongs to the machine's user namespace, whatever
        `belong_to` was told. Raises NoSuchNetwork, OSError.
        """
        driver = self.get(network).driver
        if driver == HOST:
            return Sandbox(container_id=container_id, path=None)
        self._recorded_sandboxes.add(container_id)
        await self._state.put_sandbox(container_id)
        try:
            return await self._sandboxes.take(container_id, linked=driver == BRIDGE, machines=machines)
        except BaseException:
            self._recorded_sandboxes.discard(container_id)
            await self._state.remove_sandbox(container_id)
            raise

    async def connect(
        self, sandbox: Sandbox, ref: str, request: EndpointRequest | None = None, published: Sequence[Port] = ()
    ) -> Endpoint:
        """Attach a sandbox to a network, and publish ports there; all of it or nothing.

        Raises NoSuchNetwork, AlreadyConnected, BadAddress, AddressTaken, NoAddressLeft, PublishingFailed (a port is
        taken: docker's words), OSError.
        """
        network = self.get(ref)
        if network.config_only:
            raise Forbidden(f"cannot join config-only network: {network.name}")
        wanted = request or EndpointRequest()
        if network.id in self._containers.get(sandbox.container_id, {}):
            raise AlreadyConnected(wanted.container_name or sandbox.container_id, network)
        endpoint = self._new_endpoint(sandbox.container_id, network, wanted)
        async with AsyncExitStack() as undo:
            if network.addressed:
                taken = await self._take_addresses(network, wanted)
                endpoint = addresses.placed(endpoint, network, taken, wanted.mac)
                undo.callback(self._give_back, endpoint)
                if network.bridge and not network.internal:
                    undo.callback(self._publishing.release, endpoint.id)
                    endpoint = await self._publishing.reserve(network, endpoint, published)
            if network.id not in self._networks:
                raise NoSuchNetwork(ref)  # it was removed meanwhile
            self._add(endpoint)
            undo.push_async_callback(self._close_idle_resolver, endpoint.container_id)
            undo.callback(self._drop, endpoint)
            await self._state.put_endpoint(endpoint)
            await points.at("connect.recorded")
            undo.push_async_callback(self._state.remove_endpoints, [endpoint.id])
            if network.addressed:
                await self._attach(endpoint)
                await points.at("connect.attached")
                undo.push_async_callback(self._wiring.detach, endpoint)
            if network.bridge:
                undo.push_async_callback(self._publishing.withdraw, endpoint)
                await self._publishing.publish(endpoint)
            if network.resolves:
                await self._resolvers.ensure(endpoint.container_id)
            if endpoint.id not in self._endpoints:
                raise LeftMeanwhile(wanted.container_name or sandbox.container_id, network)
            undo.pop_all()
        self.observer("connect", network, sandbox.container_id)
        return endpoint

    async def connect_running(self, container_id: str, ref: str, request: EndpointRequest) -> Endpoint:
        """Attach a container that lives to one more network. Raises what `connect` raises."""
        path = self._sandboxes.path(container_id)
        return await self.connect(Sandbox(container_id=container_id, path=path), ref, request)

    async def disconnect(self, container_id: str, ref: str, *, force: bool = False) -> None:
        """Detach a container that lives from one network; by `force` also if its link can't be reached.

        Raises NoSuchNetwork, NotConnected, and without force OSError.
        """
        network = self.get(ref)
        endpoint = self._containers.get(container_id, {}).get(network.id)
        if endpoint is None:
            raise NotConnected(container_id, network)
        try:
            await self._wiring.detach(endpoint)
        except OSError as failure:
            if not force:
                raise
            _log.warning("container %s leaves network %s, its link stays: %s", container_id, network.name, failure)
        self._drop(endpoint)
        await self._close_idle_resolver(container_id)
        await self._publishing.withdraw(endpoint)
        if endpoint.interface:
            await self._restore_route(container_id)
        self._give_back(endpoint)
        await self._state.remove_endpoints([endpoint.id])
        self.observer("disconnect", network, container_id)
        heir = self._way_out(container_id)
        if endpoint.ports and heir is not None and heir.link:
            await self._inherit_ports(heir, endpoint.ports)

    async def forget(self, ref: str, container_name: str) -> None:
        """Release everything of a container that nobody knows any more but this network, by its name or ID.

        Raises NoSuchNetwork, NoSuchEndpoint.
        """
        found = [
            each
            for each in self.endpoints(self.get(ref).id)
            if container_name in (each.container_name, each.container_id)
        ]
        if not found:
            raise NoSuchEndpoint(container_name)
        await self.release(found[0].container_id)

    async def _close_idle_resolver(self, container_id: str) -> None:
        """Stop answering a container that is on no network with names any more."""
        if not self.resolver_of(container_id):
            await self._resolvers.close(container_id)

    async def _inherit_ports(self, heir: Endpoint, published: Sequence[PublishedPort]) -> None:
        """Publish what a lost endpoint had published through the one that is the way out now, on the same ports."""
        wanted = [Port(each.container_port, each.protocol, each.host_ip, each.host_port) for each in published]
        network = self._networks[heir.network_id]
        usable = [port for port in wanted if self._publishing.can_lead(port, heir)]
        endpoint = await self._publishing.reserve(network, heir, usable)
        self._add(endpoint)
        await self._state.put_endpoint(endpoint)
        await self._threads(lambda: self._machine.request([links.hairpin(endpoint.link)]))
        await self._publishing.publish(endpoint)

    async def rename(
        self, container_id: str, container_name: str, names: Callable[[Endpoint], tuple[str, ...]]
    ) -> None:
        """Take note of a living container's new name; `names` gives what an endpoint is found by from now on."""
        for endpoint in self.of_container(container_id):
            changed = msgspec.structs.replace(endpoint, container_name=container_name, names=names(endpoint))
            self._add(changed)
            await self._state.put_endpoint(changed)

    async def release(self, container_id: str) -> None:
        """Undo everything of a container whose processes have ended. Idempotent; a container unknown here is fine.

        Ports are free when this returns. Links go on their own some milliseconds later, then the addresses are free.
        """
        mine = self.of_container(container_id)
        for endpoint in mine:
            self._drop(endpoint)
            await self._publishing.withdraw(endpoint)
            network = self._networks.get(endpoint.network_id)
            if network is not None:
                self.observer("disconnect", network, container_id)
        await self._resolvers.close(container_id)
        if container_id in self._recorded_sandboxes:
            await self._sandboxes.release(container_id)
            self._recorded_sandboxes.discard(container_id)
            await self._state.remove_sandbox(container_id)
        linkless = [endpoint for endpoint in mine if not endpoint.link]
        for endpoint in linkless:
            self._give_back(endpoint)
        if linkless:
            await self._state.remove_endpoints([endpoint.id for endpoint in linkless])
        for endpoint in mine:
            if endpoint.link:
                self._reaper.watch(endpoint.link, lambda gone=endpoint: self._link_gone(gone))  # type: ignore[misc]  # a default

    # inside

    def _find(self, name: str) -> Network | None:
        return next((network for network in self._networks.values() if network.name == name), None)

    async def _ensure_predefined(self, used: set[str]) -> None:
        """Have the networks that are always there, as they are configured; `used` are those with endpoints."""
        for name in (HOST, NONE):
            if self._find(name) is None:
                await self._record(definitions.linkless(name))
        before = self._find(BRIDGE)
        if self._settings.has_bridge or (before is not None and before.id in used):  # for the containers that are on it
            await self._ensure_default(before)
        elif before is not None:
            self._networks.pop(before.id)
            await self._state.retire_network(before)  # its bridge goes with those of other removed networks

    async def _ensure_default(self, before: Network | None) -> None:
        settings, foreign = await self._with_bridge(before)
        missing = definitions.wants_subnet(settings, before)
        taken = await self._taken_subnets() if missing else []
        free = {version: self._free_subnet(taken, version) for version in missing}
        wanted = definitions.default_bridge(settings, self.tag, before, free, foreign_bridge=foreign)
        if wanted != before:
            if before is not None and before.bridge != wanted.bridge:
                await self._threads(lambda: remove(self._machine, before.own_links))
            await self._record(wanted)

    async def _with_bridge(self, before: Network | None) -> tuple[Settings, bool]:
        """The settings with the addresses of the bridge that they name, and whether somebody else has made that."""
        settings = self._settings
        name, own = settings.bridge_name, before.id if before else ""
        found = await self._threads(lambda: bridges.find_foreign(self._machine, name, own)) if name else None
        if found is None:
            return settings, False
        first = {address.version: str(address) for address in reversed(found)}
        bip, bip6 = settings.bip or first.get(4, ""), settings.bip6 or first.get(6, "")
        return msgspec.structs.replace(settings, bip=bip, bip6=bip6), True

    async def _record(self, network: Network) -> None:
        await self._state.put_network(network)
        self._networks[network.id] = network

    async def _taken_subnets(self) -> list[addresses.Subnet]:
        """What the machine's routes and addresses, our networks, and those on their way out take up."""
        own = {network.bridge for network in self._networks.values()}
        taken = await self._threads(lambda: bridges.machine_subnets(self._machine, own.__contains__))
        everyone = [*self._networks.values(), *self._departures.networks]
        return taken + [addresses.parse_subnet(pool.subnet) for network in everyone for pool in network.pools]

    def _free_subnet(self, taken: list[addresses.Subnet], version: int) -> addresses.Subnet:
        pools = self._settings.default_pools
        if version == 6 and not any(":" in base for base, _ in pools):
            return definitions.random_local_prefix()
        return addresses.choose_subnet(pools, taken, version)

    async def _bring_up(self, network: Network) -> None:
        if network.branches:
            try:
                await self._threads(lambda: parents.ensure_parent(self._machine, network))
            except InvalidArgument as error:
                # At a start: a parent that is gone must not keep the engine from its other work.
                if network.id != self._creating:
                    _log.warning("network %s has no parent: %s", network.name, error)
                else:
                    raise
        if network.bridge:
            self._bridges[network.id] = await self._threads(lambda: bridges.bring_up(self._machine, network))

    async def _drop_unrecorded(self) -> None:
        """Remove links and namespaces that are ours by their names, and nobody's by the records."""
        known = {endpoint.link for endpoint in self._endpoints.values()}
        found = await self._threads(lambda: links.links(self._machine))
        lost = [link.name for link in found if self._is_lost(link, known)]
        await self._threads(lambda: remove(self._machine, lost))
        for container_id in await self._sandboxes.pinned():
            if container_id not in self._recorded_sandboxes:
                await self._sandboxes.release(container_id)

    def _is_lost(self, link: links.Link, known: set[str]) -> bool:
        return link.kind == "veth" and link.name.startswith(self._link_prefix) and link.name not in known

    def _adopt(self, endpoint: Endpoint) -> None:
        pools = self._pools.get(endpoint.network_id)
        if pools is not None:
            pools.adopt(address.ip for address in bridges.interfaces(endpoint))
        self._publishing.adopt(endpoint)
        self._add(endpoint)

    def _forget_network(self, network_id: str) -> None:
        self._networks.pop(network_id, None)
        self._pools.pop(network_id, None)
        self._bridges.pop(network_id, None)

    def _new_endpoint(self, container_id: str, network: Network, wanted: EndpointRequest) -> Endpoint:
        link = interface = ""
        if network.addressed:
            used = {endpoint.interface for endpoint in self.of_container(container_id)}
            interface = definitions.interface_name(network, wanted.interface, used)
            if network.bridge:
                waiting = self._sandboxes.waiting_link(container_id) if interface == "eth0" else ""
                link = waiting or self._sandboxes.new_link_name()
        return Endpoint(
            id=secrets.token_hex(32),
            network_id=network.id,
            network_name=network.name,
            container_id=container_id,
            container_name=wanted.container_name,
            link=link,
            interface=interface,
            names=wanted.names,
            links=wanted.links,
            gateway_priority=wanted.gateway_priority,
            link_local=wanted.link_local,
            sysctls=tuple((path.replace("IFNAME", interface), value) for path, value in wanted.sysctls),
        )

    async def _take_addresses(self, network: Network, wanted: EndpointRequest) -> list[addresses.Address]:
        pools = self._pools[network.id]
        try:
            return pools.take(wanted.ipv4, wanted.ipv6)
        except AddressTaken:
            # Perhaps by the same container's last run, whose link is on its way out.
            if not self._reaper.dying:
                raise
        await self._reaper.settled()
        return pools.take(wanted.ipv4, wanted.ipv6)

    def _give_back(self, endpoint: Endpoint) -> None:
        pools = self._pools.get(endpoint.network_id)
        if pools is not None:
            pools.give_back(address.ip for address in bridges.interfaces(endpoint))

    async def _attach(self, endpoint: Endpoint) -> None:
        network = self._networks.get(endpoint.network_id)
        if network is None:
            raise NoSuchNetwork(endpoint.network_name)  # with its container having left meanwhile
        gateway = not network.internal and self._way_out(endpoint.container_id) in (None, endpoint)

        await self._wiring.attach(endpoint, network, self._bridges.get(network.id, 0), gateway=gateway)

    def _way_out(self, container_id: str) -> Endpoint | None:
        """Return the endpoint that holds a container's default route; none on internal networks.

        The highest priority wins, then who has published ports, whose answers must leave by the same way, then the
        first by the network's name.
        """
        here = self.of_container(container_id)
        found = [each for each in here if each.interface and self._leads_out(each.network_id)]
        rank = lambda each: (-each.gateway_priority, not each.ports, each.network_name)  # noqa: E731  # used once
        return min(found, key=rank, default=None)

    def _leads_out(self, network_id: str) -> bool:
        network = self._networks.get(network_id)
        return network is not None and not network.internal

    async def _restore_route(self, container_id: str) -> None:
        endpoint = self._way_out(container_id)
        if endpoint is None:
            return

        network = self._networks[endpoint.network_id]
        try:
            await self._wiring.route(endpoint, network)
        except OSError as error:
            _log.warning("container %s may have no way out: %s", container_id, error)

    def _add(self, endpoint: Endpoint) -> None:
        self._endpoints[endpoint.id] = endpoint
        if endpoint.names:
            self._names.put(endpoint)
        self._containers.setdefault(endpoint.container_id, {})[endpoint.network_id] = endpoint

    def _drop(self, endpoint: Endpoint) -> None:
        self._endpoints.pop(endpoint.id, None)
        self._names.drop(endpoint)
        mine = self._containers.get(endpoint.container_id, {})
        mine.pop(endpoint.network_id, None)
        if not mine:
            self._containers.pop(endpoint.container_id, None)

    async def _link_gone(self, endpoint: Endpoint) -> None:
        self._give_back(endpoint)
        await self._state.remove_endpoints([endpoint.id])


async def _nothing() -> None:
    return
