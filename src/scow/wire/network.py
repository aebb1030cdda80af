"""Networks and endpoints on the wire."""

from msgspec import field

from scow.wire.message import Message, SparseMessage


class EndpointIPAMConfig(SparseMessage, frozen=True, kw_only=True):
    """The addresses that an endpoint asks for."""

    ipv4_address: str = field(name="IPv4Address", default="")
    ipv6_address: str = field(name="IPv6Address", default="")
    link_local_ips: list[str] | None = field(name="LinkLocalIPs", default=None)


class EndpointSettings(Message, frozen=True, kw_only=True):
    """A container's attachment to one network: what is asked for, and what it got."""

    ipam_config: EndpointIPAMConfig | None = field(name="IPAMConfig", default=None)
    links: list[str] | None = None
    aliases: list[str] | None = None
    mac_address: str = ""
    driver_opts: dict[str, str] | None = None
    gw_priority: int = 0
    network_id: str = field(name="NetworkID", default="")
    endpoint_id: str = field(name="EndpointID", default="")
    gateway: str = ""
    ip_address: str = field(name="IPAddress", default="")
    ip_prefix_len: int = field(name="IPPrefixLen", default=0)
    ipv6_gateway: str = field(name="IPv6Gateway", default="")
    global_ipv6_address: str = field(name="GlobalIPv6Address", default="")
    global_ipv6_prefix_len: int = field(name="GlobalIPv6PrefixLen", default=0)
    dns_names: list[str] | None = field(name="DNSNames", default=None)


class NetworkingConfig(Message, frozen=True, kw_only=True):
    """The endpoints that a container is created with, by network name or ID."""

    endpoints_config: dict[str, EndpointSettings | None] | None = None


class IPAMConfig(SparseMessage, frozen=True, kw_only=True):
    """One address pool of a network."""

    subnet: str = ""
    ip_range: str = field(name="IPRange", default="")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] | None = None


class IPAM(Message, frozen=True, kw_only=True):
    """How a network gives out addresses."""

    driver: str = ""
    options: dict[str, str] | None = None
    config: list[IPAMConfig] | None = None


class ConfigReference(Message, frozen=True, kw_only=True):
    """The network that another takes its configuration from."""

    network: str = ""


class NetworkContainer(Message, frozen=True, kw_only=True):
    """A container on a network; addresses with their prefix length."""

    name: str = ""
    endpoint_id: str = field(name="EndpointID", default="")
    mac_address: str = ""
    ipv4_address: str = field(name="IPv4Address", default="")
    ipv6_address: str = field(name="IPv6Address", default="")


class Network(Message, frozen=True, kw_only=True):
    """A network, in a list (then without containers) or inspected."""

    name: str
    id: str
    created: str
    scope: str = "local"
    driver: str
    enable_ipv4: bool = field(name="EnableIPv4", default=True)
    enable_ipv6: bool = field(name="EnableIPv6", default=False)
    ipam: IPAM = field(name="IPAM", default_factory=IPAM)
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_from: ConfigReference = field(default_factory=ConfigReference)
    config_only: bool = False
    containers: dict[str, NetworkContainer] = field(default_factory=dict)
    options: dict[str, str] | None = field(default_factory=dict)
    labels: dict[str, str] | None = field(default_factory=dict)


class NetworkCreateRequest(Message, frozen=True, kw_only=True):
    """The body of `POST /networks/create`."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    enable_ipv4: bool | None = field(name="EnableIPv4", default=None)
    enable_ipv6: bool | None = field(name="EnableIPv6", default=None)
    ipam: IPAM | None = field(name="IPAM", default=None)
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReference | None = None
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    check_duplicate: bool | None = None


class NetworkCreateReply(Message, frozen=True, kw_only=True):
    """The answer to a network's creation."""

    id: str
    warning: str = ""


class ConnectRequest(Message, frozen=True, kw_only=True):
    """The body of `POST /networks/{id}/connect`."""

    container: str = ""
    endpoint_config: EndpointSettings | None = None


class DisconnectRequest(Message, frozen=True, kw_only=True):
    """The body of `POST /networks/{id}/disconnect`."""

    container: str = ""
    force: bool = False


class PruneNetworksReply(Message, frozen=True, kw_only=True):
    """The networks that a prune removed."""

    networks_deleted: list[str] | None = None
