"""Bridges and the veth pairs on them: what is done to the machine for a network or an endpoint. All of it blocks."""

import contextlib
import hashlib
import ipaddress
import logging
from collections.abc import Callable
from pathlib import Path

from scow.errors import Conflict, InvalidArgument
from scow.linux import links, netns, sysctl
from scow.linux.netlink import Message, Netlink
from scow.network.addresses import parse_address
from scow.network.model import Endpoint, Network
from scow.network.sandboxes import Inside, add_pair

_log = logging.getLogger(__name__)


class OtherAddress(Conflict):
    """A bridge that somebody else has made has another address than a network's gateway."""

    def __init__(self, name: str, gateway: str, present: str) -> None:
        super().__init__(
            f"bridge {name} has the address {present}, and not {gateway}: it is left as it is. Give the network the "
            "bridge's own address as gateway"
        )
        self.name = name


class NameTaken(Conflict):
    """A link of the bridge's name exists, and it isn't a bridge."""

    def __init__(self, name: str, kind: str) -> None:
        super().__init__(f"cannot make bridge {name}: there is a link of that name already ({kind or 'hardware'})")
        self.name = name


def bring_up(machine: Netlink, network: Network) -> int:
    """Ensure a network's bridge, and that the machine forwards what comes from it; returns the bridge's index."""
    index = ensure_bridge(machine, network)
    ensure_forwarding(ipv6=network.enable_ipv6)
    return index


def find_foreign(machine: Netlink, name: str, network_id: str) -> list[links.Interface] | None:
    """The addresses of a bridge that is not the network's own; None if there is none, or it is.

    Ours are known by their MAC, which follows from the network.
    """
    found = next((link for link in links.links(machine) if link.name == name and link.kind == "bridge"), None)
    if found is None or found.mac == _bridge_mac(network_id):
        return None
    return [address for at, address in links.addresses(machine) if at == found.index and not address.is_link_local]


def ensure_bridge(machine: Netlink, network: Network) -> int:
    """Make a network's bridge, or bring the one that is there into shape: up, with the gateways as its addresses.

    One that somebody else has made keeps its addresses. Returns the index. Idempotent. Raises NameTaken, OtherAddress,
    OSError.
    """
    present: set[links.Interface] = set()
    try:
        index = links.index_of(network.bridge)
    except OSError:
        machine.request([links.add_bridge(network.bridge, _bridge_mac(network.id), network.mtu)])
        index = links.index_of(network.bridge)
    else:
        found = next((link for link in links.links(machine) if link.index == index), None)
        if found is None or found.kind != "bridge":
            raise NameTaken(network.bridge, found.kind if found else "")
        present = {address for at, address in links.addresses(machine) if at == index and not address.is_link_local}
    wanted = {ipaddress.ip_interface(f"{pool.gateway}/{pool.subnet.rpartition('/')[2]}") for pool in network.pools}
    surplus = present - wanted
    if network.foreign_bridge:
        for address in wanted - present:
            if others := [each for each in surplus if each.version == address.version]:
                raise OtherAddress(network.bridge, str(address), str(others[0]))
        surplus = set()
    _set_sysctls(network)
    machine.request(
        [
            *(links.delete_address(index, address) for address in surplus),
            *(links.add_address(index, address) for address in wanted - present),
            links.set_link(index, up=True),
        ]
    )
    return index


def _bridge_mac(network_id: str) -> str:
    # A fixed address: a bridge without one takes the lowest of its ports', and changes it as containers come and go.
    return (b"\x02\x42" + hashlib.sha256(network_id.encode()).digest()[:4]).hex(":")


def _set_sysctls(network: Network) -> None:
    sysctl.ensure(f"net/ipv4/conf/{network.bridge}/route_localnet", "1")
    if network.foreign_bridge and not network.enable_ipv6:
        return
    if Path(f"/proc/sys/net/ipv6/conf/{network.bridge}").exists():
        sysctl.ensure(f"net/ipv6/conf/{network.bridge}/accept_ra", "0")
        sysctl.ensure(f"net/ipv6/conf/{network.bridge}/disable_ipv6", "0" if network.enable_ipv6 else "1")


def ensure_forwarding(*, ipv6: bool) -> None:
    """Let the machine forward packets, as dockerd does; says so in the log if it did not before."""
    if sysctl.ensure("net/ipv4/ip_forward", "1"):
        _log.warning("enabled IPv4 forwarding on this machine (net.ipv4.ip_forward = 1)")
    if ipv6 and sysctl.ensure("net/ipv6/conf/all/forwarding", "1"):
        _log.warning("enabled IPv6 forwarding on this machine (net.ipv6.conf.all.forwarding = 1)")


def machine_subnets(machine: Netlink, ours: Callable[[str], bool]) -> list[links.Subnet]:
    """List what the machine's routes and addresses take up, links for whose name `ours` is true left out."""
    own = {link.index for link in links.links(machine) if ours(link.name)}
    taken = [subnet for index, subnet in links.routes(machine) if index not in own]
    return taken + [address.network for index, address in links.addresses(machine) if index not in own]


def attach(
    machine: Netlink, inside: Inside, endpoint: Endpoint, network: Network, bridge: int, *, gateway: bool
) -> None:
    """Join a sandbox to a network: link, MAC, addresses, and the default route if `gateway`. Undone if it fails.

    A pair that waits in the sandbox is used if it is the endpoint's; otherwise one is made.
    """
    try:
        if inside.link == endpoint.link:
            index = inside.index
            if inside.bridge != bridge:
                machine.request([links.set_link(named=endpoint.link, master=bridge)])
        else:
            index = add_pair(machine, inside, endpoint.link, endpoint.interface, bridge, network.mtu)
        if endpoint.ports:
            machine.request([links.hairpin(endpoint.link)])
        allow_ipv6(inside, endpoint)
        messages = [links.set_link(index, mac=endpoint.mac, mtu=network.mtu, up=True)]
        messages += [links.add_address(index, address) for address in (*interfaces(endpoint), *link_local(endpoint))]
        set_interface_sysctls(inside, endpoint)
        if gateway:
            messages += _default_routes(index, endpoint)
        inside.netlink.request(messages)
    except BaseException:
        with contextlib.suppress(OSError):
            machine.request([links.delete_link(endpoint.link)])
        raise


def _default_routes(index: int, endpoint: Endpoint) -> list[Message]:
    gateways = [text for text in (endpoint.gateway, endpoint.ipv6_gateway) if text]
    return [links.add_default_route(index, parse_address(text)) for text in gateways]


def allow_ipv6(inside: Inside, endpoint: Endpoint) -> None:
    """Let an interface have the IPv6 address that its endpoint has; without one it stays off."""
    if endpoint.ipv6:
        name = f"net/ipv6/conf/{endpoint.interface}/disable_ipv6"
        netns.inside(inside.fd, lambda: sysctl.write(name, "0"))


def set_interface_sysctls(inside: Inside, endpoint: Endpoint) -> None:
    """Set what was asked of the interface. Raises InvalidArgument for what the kernel doesn't have or take."""

    def job() -> None:
        for path, value in endpoint.sysctls:
            try:
                sysctl.write(path, value)
            except OSError as error:
                raise InvalidArgument(
                    f"failed to set sysctl {path}={value}: {(error.strerror or '').lower()}"
                ) from error

    if endpoint.sysctls:
        netns.inside(inside.fd, job)


def link_local(endpoint: Endpoint) -> list[links.Interface]:
    """Return the further addresses that were asked for."""
    found = [parse_address(text) for text in endpoint.link_local]
    return [ipaddress.ip_interface(f"{address}/{16 if address.version == 4 else 64}") for address in found]


def interfaces(endpoint: Endpoint) -> list[links.Interface]:
    """Return the endpoint's addresses with their prefix lengths."""
    found: list[links.Interface] = []
    if endpoint.ip:
        found.append(ipaddress.ip_interface(f"{endpoint.ip}/{endpoint.prefix}"))
    if endpoint.ipv6:
        found.append(ipaddress.ip_interface(f"{endpoint.ipv6}/{endpoint.ipv6_prefix}"))
    return found
