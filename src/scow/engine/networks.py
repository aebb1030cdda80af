"""Networks as the API knows them. Engine API, /networks."""

from collections.abc import Mapping, Sequence
from typing import Final

from scow.engine import validation
from scow.engine.container import ContainerTable
from scow.errors import InvalidArgument
from scow.network import model
from scow.network.networks import Networks as Driver
from scow.wire.network import IPAM, IPAMConfig, Network, NetworkContainer
from scow.wire.times import format_datetime

FILTERS: Final = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})


class Networks:
    """Shows networks with the containers that are attached to them."""

    def __init__(self, driver: Driver, table: ContainerTable) -> None:
        self._driver = driver
        self._table = table

    async def list(self, filters: Mapping[str, Sequence[str]]) -> list[Network]:
        """GET /networks: without containers, as docker."""
        validation.check_filters(filters, FILTERS)
        found = [network for network in self._driver.all() if self._matches(network, filters)]
        return [_wire(network, {}) for network in sorted(found, key=lambda each: each.name)]

    async def inspect(self, ref: str) -> Network:
        """GET /networks/{id}. Raises NoSuchNetwork."""
        network = self._driver.get(ref)
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
                used = network.predefined or any(network.name in each.record.endpoints for each in self._table)
                if (values[0].lower() in ("1", "true")) == used:
                    return False
            if key == "label":
                for value in values:
                    name, equals, text = value.partition("=")
                    if name not in network.labels or (equals and network.labels[name] != text):
                        return False
        return True


def _wire(network: model.Network, containers: dict[str, NetworkContainer]) -> Network:
    pools = [
        IPAMConfig(
            subnet=pool.subnet,
            ip_range=pool.ip_range,
            gateway=pool.gateway,
            auxiliary_addresses=pool.auxiliary or None,
        )
        for pool in network.pools
    ]
    return Network(
        name=network.name,
        id=network.id,
        created=format_datetime(network.created),
        scope=network.scope,
        driver=network.driver,
        enable_ipv6=network.enable_ipv6,
        ipam=IPAM(driver=network.ipam_driver, options=network.ipam_options or None, config=pools or None),
        internal=network.internal,
        attachable=network.attachable,
        containers=containers,
        options=network.options,
        labels=network.labels,
    )
