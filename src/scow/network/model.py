"""What networks are made of: pure data, kept in the state database and handed to the engine.

Network --has--> Pools; a Sandbox is a container's network namespace; an Endpoint attaches it to one network.
"""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from scow.errors import InvalidArgument, NotFound

BRIDGE: Final = "bridge"
HOST: Final = "host"
NONE: Final = "none"
MACVLAN: Final = "macvlan"
IPVLAN: Final = "ipvlan"
PREDEFINED: Final = (BRIDGE, HOST, NONE)

OPTION_NAME: Final = "com.docker.network.bridge.name"
OPTION_MASQUERADE: Final = "com.docker.network.bridge.enable_ip_masquerade"
OPTION_ICC: Final = "com.docker.network.bridge.enable_icc"
OPTION_BINDING: Final = "com.docker.network.bridge.host_binding_ipv4"
OPTION_DEFAULT: Final = "com.docker.network.bridge.default_bridge"
OPTION_MTU: Final = "com.docker.network.driver.mtu"
OPTION_PARENT: Final = "parent"
OPTION_IPVLAN: Final = "ipvlan_mode"
OPTION_PREFIX: Final = "com.docker.network.container_iface_prefix"


class NoSuchNetwork(NotFound):
    def __init__(self, ref: str) -> None:
        super().__init__(f"network {ref} not found")
        self.ref = ref


class BadAddress(InvalidArgument):
    """An address or subnet in a request makes no sense."""


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """One subnet of a network as text: `subnet` and `ip_range` in CIDR form, `gateway` and `auxiliary` as addresses.

    `chosen` is whether the engine chose the subnet: then nobody may ask for a fixed address in it.
    """

    subnet: str
    gateway: str
    ip_range: str = ""
    auxiliary: dict[str, str] = {}
    chosen: bool = False


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A network: `id` is 64 hex digits, `options` are docker's driver options, `bridge` is a link's name or empty."""

    id: str
    name: str
    driver: str
    created: datetime
    bridge: str = ""
    pools: tuple[Pool, ...] = ()
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    ipam_driver: str = "default"
    ipam_options: dict[str, str] = {}
    foreign_bridge: bool = False  # somebody else has made the bridge: it is used as it is, and stays
    made_link: str = ""  # a parent that was made for the network (macvlan, ipvlan)
    config_only: bool = False  # nothing but a configuration, in `config_pools` and the options, that others take
    config_pools: tuple[Pool, ...] = ()
    config_from: str = ""  # the name of the one that this network took

    @property
    def branches(self) -> bool:
        """Whether containers' links are branches of a parent link."""
        return self.driver in (MACVLAN, IPVLAN)

    @property
    def routed(self) -> bool:
        """Whether its containers have no gateway, since the kernel routes for them."""
        return self.driver == IPVLAN and (self.options.get(OPTION_IPVLAN) or "l2") != "l2"

    @property
    def addressed(self) -> bool:
        """Whether containers have links and addresses on it."""
        return self.driver == BRIDGE or self.branches

    @property
    def own_links(self) -> list[str]:
        """The links of the machine that go with the network."""
        return [name for name in ("" if self.foreign_bridge else self.bridge, self.made_link) if name]

    @property
    def scope(self) -> str:
        return "local"

    @property
    def predefined(self) -> bool:
        return self.name in PREDEFINED

    @property
    def resolves(self) -> bool:
        """Whether containers find each other by name on it: all with addresses, but for the default bridge."""
        return self.addressed and not self.predefined and not self.config_only

    @property
    def masquerade(self) -> bool:
        return not self.internal and _flag(self.options, OPTION_MASQUERADE)

    @property
    def inter_container(self) -> bool:
        return _flag(self.options, OPTION_ICC)

    @property
    def mtu(self) -> int | None:
        value = self.options.get(OPTION_MTU, "")
        return int(value) if value.isdigit() and int(value) else None


class NetworkRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks of a new network; a pool without subnet gets one that is free."""

    name: str
    driver: str = BRIDGE
    pools: tuple[Pool, ...] = ()
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    ipam_driver: str = "default"
    ipam_options: dict[str, str] = {}
    config_only: bool = False
    config_from: str = ""


class Port(msgspec.Struct, frozen=True):
    """A port of the container to publish. No host address means all; host port 0 a free one; `last` ends a range."""

    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""
    host_port: int = 0
    last_host_port: int = 0


class PublishedPort(msgspec.Struct, frozen=True, order=True):
    """A port of the container that is reachable at `host_ip`:`host_port` of the machine."""

    container_port: int
    protocol: str
    host_ip: str
    host_port: int


class EndpointRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a container asks of its attachment; empty strings mean: choose.

    `names` is what others on the network find it by; `links` are names of the container's own for others, as pairs of
    its name and theirs. The network with the highest priority is the way out; among equals the first by name.
    `sysctls` have `IFNAME` where the interface's name is to be.
    """

    ipv4: str = ""
    ipv6: str = ""
    mac: str = ""
    container_name: str = ""
    names: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    gateway_priority: int = 0
    interface: str = ""
    link_local: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A container's attachment to one network, as it stands. On `host` and `none` there is no address or link."""

    id: str
    network_id: str
    network_name: str
    container_id: str
    container_name: str = ""
    link: str = ""
    interface: str = ""
    mac: str = ""
    ip: str = ""
    prefix: int = 0
    gateway: str = ""
    ipv6: str = ""
    ipv6_prefix: int = 0
    ipv6_gateway: str = ""
    names: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    gateway_priority: int = 0
    ports: tuple[PublishedPort, ...] = ()
    link_local: tuple[str, ...] = ()  # further addresses of the interface, as asked for
    sysctls: tuple[tuple[str, str], ...] = ()  # of the interface: path below /proc/sys and value

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions of which it has an address."""
        return tuple(version for version, address in ((4, self.ip), (6, self.ipv6)) if address)


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """A container's network namespace: `path` pins it; None means the machine's own (network `host`)."""

    container_id: str
    path: Path | None


def tag_of(engine_id: str) -> str:
    """Derive the eight hex digits that mark an engine's links, table and namespaces."""
    return hashlib.sha256(engine_id.encode()).hexdigest()[:8]


def _flag(options: dict[str, str], name: str) -> bool:
    return options.get(name, "true").lower() not in ("false", "0", "f")
