"""Networks as the API knows them. Engine API, /networks."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from scow.engine import validation
from scow.engine.config import NO_BRIDGE, EngineConfig, InvalidConfig
from scow.engine.container import Container, ContainerTable, NoSuchContainer
from scow.engine.endpoints import HOST_ONLY, NO_NETWORK, SHARES_NETWORK, check_endpoint, endpoint_request
from scow.engine.events import Events
from scow.engine.moments import parse_moment
from scow.engine.network_files import move_network_files, upstreams
from scow.engine.tasks import Tasks
from scow.errors import Conflict, Forbidden, InvalidArgument
from scow.network import model
from scow.network.addresses import candidates, parse_address
from scow.network.definitions import Settings
from scow.network.networks import Networks as Driver
from scow.network.refusals import AlreadyConnected, NetworkInUse, NotConnected
from scow.wire.network import (
    IPAM,
    ConfigReference,
    ConnectRequest,
    DisconnectRequest,
    EndpointSettings,
    IPAMConfig,
    Network,
    NetworkContainer,
    NetworkCreateReply,
    NetworkCreateRequest,
    PruneNetworksReply,
)
from scow.wire.times import format_datetime

_log = logging.getLogger(__name__)

PRUNE_FILTERS: Final = frozenset({"label", "label!", "until"})
FILTERS: Final = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})


def network_settings(config: EngineConfig) -> Settings:
    """What the engine's configuration says about networks. Raises InvalidConfig."""
    pools: list[tuple[str, int]] = []
    for pool in config.default_address_pools:
        base, size = pool.get("base"), pool.get("size")
        try:
            if not isinstance(base, str) or not isinstance(size, int) or isinstance(size, bool):
                raise InvalidArgument("it needs a base and a size")
            next(candidates([(base, size)]))
        except (InvalidArgument, ValueError) as error:
            raise InvalidConfig(f"invalid default address pool {pool}: {error}") from error
        pools.append((base, size))
    if config.ip:
        try:
            parse_address(config.ip)
        except InvalidArgument as error:
            raise InvalidConfig(f"invalid address for published ports: {config.ip}") from error
    settings = Settings(
        has_bridge=config.bridge != NO_BRIDGE,
        bridge_name=config.bridge if config.bridge != NO_BRIDGE else "",
        bip=config.bip,
        fixed_cidr=config.fixed_cidr,
        ipv6=config.ipv6,
        bip6=config.bip6,
        fixed_cidr_v6=config.fixed_cidr_v6,
        mtu=config.mtu or 1500,
        default_binding=config.ip,
        masquerade=config.ip_masq,
        inter_container=config.icc,
        relays=config.userland_proxy,
    )
    return msgspec.structs.replace(settings, default_pools=tuple(pools)) if pools else settings


class ModeConflict(InvalidArgument):
    """A container whose network mode rules out what was asked. The words are docker's."""


class Networks:
    """Makes and removes networks, joins containers to them, and shows them with who is attached."""

    def __init__(
        self, driver: Driver, table: ContainerTable, events: Events, tasks: Tasks, config: EngineConfig
    ) -> None:
        self._driver = driver
        self._table = table
        self._events = events
        self._tasks = tasks
        self._config = config
        driver.observer = self._attachment_changed
        driver.dns.upstreams = lambda container_id: upstreams(table.find(container_id), config)

    # --- networks

    async def create(self, request: NetworkCreateRequest) -> NetworkCreateReply:
        """POST /networks/create. Raises NetworkExists, PoolOverlap, BadPools, and others of InvalidArgument."""
        return await self._tasks.finish(self._create(request), f"create network {request.name}")

    async def _create(self, request: NetworkCreateRequest) -> NetworkCreateReply:
        network = await self._driver.create(_request(request, self._config.default_network_opts))
        self._emit("create", network)
        return NetworkCreateReply(id=network.id)

    async def remove(self, ref: str) -> None:
        """DELETE /networks/{id}. Raises NoSuchNetwork, NetworkInUse, Forbidden for a predefined one."""
        await self._tasks.finish(self._remove(ref), f"remove network {ref}")

    async def _remove(self, ref: str) -> None:
        self._emit("destroy", await self._driver.remove(ref))

    async def prune(self, filters: Mapping[str, Sequence[str]]) -> PruneNetworksReply:
        """POST /networks/prune: remove those to which no container is attached now, as docker."""
        validation.check_filters(filters, PRUNE_FILTERS)
        until = _until(filters.get("until") or ())
        removed: list[str] = []
        for network in self._driver.all():
            if network.predefined or self._driver.endpoints(network.id) or not _is_labelled(network, filters):
                continue
            if until is not None and network.created.timestamp() > until:
                continue
            try:
                await self.remove(network.id)
            except (NetworkInUse, model.NoSuchNetwork) as failure:
                _log.info("not pruned: %s", failure)
                continue
            removed.append(network.name)
        self._events.emit("network", "prune", "", {"reclaimed": "0"})
        return PruneNetworksReply(networks_deleted=removed or None)

    async def reload(self) -> None:
        """POST /scow/networks/reload: write the firewall's rules again."""
        await self._driver.reload()

    # --- containers

    async def connect(self, ref: str, request: ConnectRequest) -> None:
        """POST /networks/{id}/connect. Raises NoSuchNetwork, NoSuchContainer, Forbidden, InvalidArgument."""
        await self._tasks.finish(self._connect(ref, request), f"connect to network {ref}")

    async def _connect(self, ref: str, request: ConnectRequest) -> None:
        network = self._driver.get(ref)
        container = self._table.get(request.container)
        asked = request.endpoint_config or EndpointSettings()
        async with container.lock:
            _check_mode(container, network, [self._driver.get(name) for name in container.record.endpoints])
            check_endpoint(network, asked)
            before = container.record.endpoints
            if network.name in before and container.state.live:
                raise AlreadyConnected(container.name, network)
            # Recorded first, so that an engine that is killed in between connects it when it starts again.
            await self._save(container, {**before, network.name: asked})
            if not container.state.live:
                return
            attached = self._driver.of_container(container.id)
            try:
                wanted = endpoint_request(container.record, network, asked)
                await self._driver.connect_running(container.id, network.id, wanted)
            except BaseException:
                await self._save(container, before)
                raise
            await move_network_files(container, self._driver, self._config, attached)

    async def disconnect(self, ref: str, request: DisconnectRequest) -> None:
        """POST /networks/{id}/disconnect. Raises NoSuchNetwork, NoSuchContainer, NotConnected, InvalidArgument.

        By force also a container is taken away of which nothing else is known, or whose link can't be removed.
        """
        await self._tasks.finish(self._disconnect(ref, request), f"disconnect from network {ref}")

    async def _disconnect(self, ref: str, request: DisconnectRequest) -> None:
        network = self._driver.get(ref)
        container = self._table.find(request.container)
        if container is None:
            if not request.force:
                raise NoSuchContainer(request.container)
            await self._driver.forget(network.id, request.container)
            return
        async with container.lock:
            rest = {name: asked for name, asked in container.record.endpoints.items() if name != network.name}
            if len(rest) == len(container.record.endpoints):
                raise NotConnected(container.id, network)
            if container.record.host_config.network_mode == model.HOST:
                raise ModeConflict(HOST_ONLY)
            attached = self._driver.of_container(container.id)
            if container.state.live:
                try:
                    await self._driver.disconnect(container.id, network.id, force=request.force)
                except NotConnected:
                    if not request.force:
                        raise
            await self._save(container, rest)
            if container.state.live:
                await move_network_files(container, self._driver, self._config, attached)

    async def _save(self, container: Container, endpoints: dict[str, EndpointSettings]) -> None:
        await self._table.save(container, msgspec.structs.replace(container.record, endpoints=endpoints))

    def _emit(self, action: str, network: model.Network, **more: str) -> None:
        self._events.emit("network", action, network.id, {**more, "name": network.name, "type": network.driver})

    def _attachment_changed(self, action: str, network: model.Network, container_id: str) -> None:
        self._emit(action, network, container=container_id)

    # --- showing them

    async def list(self, filters: Mapping[str, Sequence[str]]) -> list[Network]:
        """GET /networks: without containers, as docker."""
        validation.check_filters(filters, FILTERS)
        found = [network for network in self._driver.all() if self._matches(network, filters)]
        return [_wire(network, {}) for network in sorted(found, key=lambda each: each.name)]

    async def inspect(self, ref: str, scope: str = "") -> Network:
        """GET /networks/{id}. Raises NoSuchNetwork, also for one of another scope than the one that is asked for."""
        network = self._driver.get(ref)
        if scope not in ("", network.scope):
            raise model.NoSuchNetwork(ref)
        containers: dict[str, NetworkContainer] = {}
        for endpoint in self._driver.endpoints(network.id):
            container = self._table.find(endpoint.container_id)
            if container is not None:
                containers[container.id] = NetworkContainer(
                    name=container.name,
                    endpoint_id=endpoint.id,
                    mac_address=endpoint.mac,
                    ipv4_address=f"{endpoint.ip}/{endpoint.prefix}" if endpoint.ip else "",
                    ipv6_address=f"{endpoint.ipv6}/{endpoint.ipv6_prefix}" if endpoint.ipv6 else "",
                )
        return _wire(network, containers)

    def _matches(self, network: model.Network, filters: Mapping[str, Sequence[str]]) -> bool:
        for key, values in filters.items():
            if key == "name" and not any(value in network.name for value in values):
                return False
            if key == "id" and not any(network.id.startswith(value) for value in values):
                return False
            if key == "driver" and network.driver not in values:
                return False
            if key == "scope" and network.scope not in values:
                return False
            if key == "type":
                kind = "builtin" if network.predefined else "custom"
                if any(value not in ("builtin", "custom") for value in values):
                    raise InvalidArgument(f"invalid filter 'type={values[0]}'")
                if kind not in values:
                    return False
            if key == "dangling" and values:
                if values[0].lower() not in ("1", "true", "0", "false"):
                    raise InvalidArgument(
                        'invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")'
                    )
                used = network.predefined or any(network.name in each.record.endpoints for each in self._table)
                if (values[0].lower() in ("1", "true")) == used:
                    return False
            if key == "label" and not all(_has_label(network, value) for value in values):
                return False
        return True


def _check_mode(container: Container, network: model.Network, joined: Sequence[model.Network]) -> None:
    """Refuse networks that a container's network mode rules out. Raises ModeConflict, Conflict."""
    mode = container.record.host_config.network_mode
    if container.removing or container.state.status in ("dead", "removing"):
        raise Conflict("container is marked for removal and cannot be connected or disconnected to the network")
    if mode.startswith("container:") or (mode == model.HOST and network.name != model.HOST):
        raise ModeConflict(SHARES_NETWORK)
    if network.name == model.HOST:
        raise ModeConflict(HOST_ONLY)
    if network.name == model.NONE or any(each.name == model.NONE for each in joined):
        raise ModeConflict(NO_NETWORK)


def _request(request: NetworkCreateRequest, defaults: Mapping[str, dict[str, str]]) -> model.NetworkRequest:
    """What the API asks, as the driver takes it; `defaults` are options by driver. Raises Forbidden."""
    if request.ingress or request.scope not in ("", "local"):
        raise Forbidden(
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
            "swarm and try again."
        )
    ipam = request.ipam or IPAM()
    return model.NetworkRequest(
        name=request.name,
        driver=request.driver or model.BRIDGE,
        pools=tuple(
            model.Pool(
                subnet=pool.subnet,
                gateway=pool.gateway,
                ip_range=pool.ip_range,
                auxiliary=pool.auxiliary_addresses or {},
            )
            for pool in ipam.config or ()
        ),
        enable_ipv4=request.enable_ipv4 is not False,
        enable_ipv6=bool(request.enable_ipv6),
        internal=request.internal,
        attachable=request.attachable,
        options={**defaults.get(request.driver or model.BRIDGE, {}), **(request.options or {})},
        labels=request.labels or {},
        ipam_driver=ipam.driver or "default",
        ipam_options=ipam.options or {},
        config_only=request.config_only,
        config_from=request.config_from.network if request.config_from else "",
    )


def _until(values: Sequence[str]) -> float | None:
    if len(values) > 1:
        raise InvalidArgument("more than one until filter specified")
    return parse_moment(values[0], time.time()) if values else None


def _has_label(network: model.Network, wanted: str) -> bool:
    name, equals, text = wanted.partition("=")
    return name in network.labels and (not equals or network.labels[name] == text)


def _is_labelled(network: model.Network, filters: Mapping[str, Sequence[str]]) -> bool:
    return all(_has_label(network, value) for value in filters.get("label", ())) and not any(
        _has_label(network, value) for value in filters.get("label!", ())
    )


def _wire(network: model.Network, containers: dict[str, NetworkContainer]) -> Network:
    pools = [
        IPAMConfig(
            subnet=pool.subnet,
            ip_range=pool.ip_range,
            gateway=pool.gateway,
            auxiliary_addresses=pool.auxiliary or None,
        )
        for pool in network.config_pools or network.pools
    ]
    return Network(
        name=network.name,
        id=network.id,
        created=format_datetime(network.created),
        scope=network.scope,
        driver=network.driver,
        enable_ipv4=network.enable_ipv4,
        enable_ipv6=network.enable_ipv6,
        ipam=IPAM(driver=network.ipam_driver, options=network.ipam_options or None, config=pools or None),
        internal=network.internal,
        attachable=network.attachable,
        config_only=network.config_only,
        config_from=ConfigReference(network=network.config_from),
        containers=containers,
        options=network.options,
        labels=network.labels,
    )
