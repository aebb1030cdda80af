"""A container's attachments as its record keeps them, and what they ask of the network."""

import ipaddress
import re
from collections.abc import Mapping
from typing import Final

from scow.engine.record import ContainerRecord
from scow.errors import InvalidArgument
from scow.linux.links import NAME_MAX
from scow.network.model import EndpointRequest, Network, Pool
from scow.wire.network import EndpointSettings

OPTION_INTERFACE: Final = "com.docker.network.endpoint.ifname"
OPTION_SYSCTLS: Final = "com.docker.network.endpoint.sysctls"
HOST_ONLY: Final = "container cannot be disconnected from host network or connected to host network"
NO_NETWORK: Final = "container cannot be connected to multiple networks with one of the networks in private (none) mode"
SHARES_NETWORK: Final = (
    "container sharing network namespace with another container or host cannot be connected to any other network"
)
# docker's client writes the values of driver options in small letters.
_SYSCTL: Final = re.compile(r"(net\.(?:ipv4|ipv6|mpls)\.\w+)\.IFNAME\.(\w+)", re.IGNORECASE)
_INTERFACE: Final = re.compile(r"[a-zA-Z0-9_.-]+")


class InvalidEndpoint(InvalidArgument):
    """What is asked of an attachment can't be had on its network; all that is wrong is told at once, as by docker."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("invalid endpoint settings:\n" + "\n".join(problems))


def names_of(record: ContainerRecord, asked: EndpointSettings) -> tuple[str, ...]:
    """What others on a user-defined network find the container by: name, aliases, short ID and hostname."""
    names = [record.name, *(asked.aliases or ()), record.id[:12], record.config.hostname]
    return tuple(dict.fromkeys(name for name in names if name))


def endpoint_request(record: ContainerRecord, network: Network, asked: EndpointSettings) -> EndpointRequest:
    """What a container asks of one attachment. Raises InvalidArgument for a link that is none."""
    addresses = asked.ipam_config
    main = record.host_config.network_mode in (network.name, network.id)
    links = [*(asked.links or ()), *((record.host_config.links or ()) if main else ())]
    return EndpointRequest(
        ipv4=addresses.ipv4_address if addresses else "",
        ipv6=addresses.ipv6_address if addresses else "",
        mac=asked.mac_address or (record.config.mac_address if main else ""),
        container_name=record.name,
        names=names_of(record, asked) if network.resolves else (),
        links=tuple(parse_link(link) for link in links),
        gateway_priority=asked.gw_priority,
        interface=(asked.driver_opts or {}).get(OPTION_INTERFACE, ""),
        link_local=tuple((addresses.link_local_ips if addresses else None) or ()),
        sysctls=tuple(_sysctls(asked)[0]),
    )


def _sysctls(asked: EndpointSettings) -> tuple[list[tuple[str, str]], list[str]]:
    """The interface's sysctls that are asked for, and what is wrong with them."""
    found, problems = [], []
    for setting in filter(None, (asked.driver_opts or {}).get(OPTION_SYSCTLS, "").split(",")):
        name, equals, value = setting.partition("=")
        matched = _SYSCTL.fullmatch(name)
        if not equals or matched is None:
            problems.append(f"invalid sysctl setting {setting!r}: it has to be net.X.Y.IFNAME.Z=value")
            continue
        found.append((f"{matched[1].replace('.', '/')}/IFNAME/{matched[2]}", value))
    return found, problems


def parse_link(text: str) -> tuple[str, str]:
    """Split `container:alias` into (alias, container); without alias the name is its own. Raises InvalidArgument."""
    if not text:
        raise InvalidArgument("empty string specified for links")
    if text.count(":") > 1:
        raise InvalidArgument(f"bad format for links: {text}")
    container, _, alias = text.partition(":")
    # `docker inspect` of old shows links as /container:/user/alias, and clients send back what they were shown.
    container, alias = container.removeprefix("/"), alias.rpartition("/")[2]
    if not container:
        raise InvalidArgument(f"bad format for links: {text}")
    return alias or container, container


def main_network(networks: Mapping[str, tuple[Network, EndpointSettings]]) -> str:
    """Name the network through which a container's ports are published: its way out, as the driver chooses it."""
    found = [
        (-asked.gw_priority, name)
        for name, (network, asked) in networks.items()
        if network.bridge and not network.internal
    ]
    return min(found)[1] if found else ""


def check_endpoint(network: Network, asked: EndpointSettings) -> None:
    """Refuse what can't be had on this network. Raises InvalidEndpoint."""
    problems: list[str] = []
    if asked.aliases and not network.resolves:
        problems.append("network-scoped aliases are only supported for user-defined networks")
    wanted = asked.ipam_config
    for version, text in ((4, wanted.ipv4_address), (6, wanted.ipv6_address)) if wanted else ():
        if text:
            problems += _wrong_address(network, version, text)
    for text in (wanted.link_local_ips or ()) if wanted else ():
        if not _is_address(text, 0):
            problems.append(f"invalid link-local IP address: {text}")
    interface = (asked.driver_opts or {}).get(OPTION_INTERFACE, "")
    if interface and (len(interface) > NAME_MAX or not _INTERFACE.fullmatch(interface) or interface == "lo"):
        problems.append(f"invalid interface name: {interface}")
    problems += _sysctls(asked)[1]
    if problems:
        raise InvalidEndpoint(problems)


def _wrong_address(network: Network, version: int, text: str) -> list[str]:
    if network.predefined:
        return ["user specified IP address is supported on user defined networks only"]
    if not _is_address(text, version):
        return [f"invalid IPv{version} address: {text}"]
    static = [pool for pool in network.pools if not pool.chosen and _version(pool) == version]
    if not static:
        return ["user specified IP address is supported only when connecting to networks with user configured subnets"]
    if not any(ipaddress.ip_address(text) in ipaddress.ip_network(pool.subnet) for pool in static):
        return [f"no configured subnet or ip-range contain the IP address {text}"]
    return []


def _version(pool: Pool) -> int:
    return ipaddress.ip_network(pool.subnet).version


def _is_address(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version in ((version,) if version else (4, 6))
    except ValueError:
        return False
