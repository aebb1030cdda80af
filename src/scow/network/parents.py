"""macvlan and ipvlan: containers' links that are branches of a link of the machine, their parent. All of it blocks.

There is no bridge and no address of the machine's on such a network: containers stand on the parent's wire themselves.
A parent named like `eth0.50` that isn't there is made, as the VLAN 50 of `eth0`; without any parent a dummy link is
made, so that the network leads nowhere. What was made is taken away with the network. docker's drivers/macvlan, ipvlan.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from typing import Final

from scow.errors import Forbidden, InvalidArgument, NotSupported
from scow.linux import links
from scow.linux.netlink import Message, Netlink
from scow.network.addresses import parse_address
from scow.network.bridges import allow_ipv6, interfaces, link_local, set_interface_sysctls
from scow.network.model import IPVLAN, MACVLAN, OPTION_IPVLAN, OPTION_PARENT, Endpoint, Network
from scow.network.sandboxes import Inside

MACVLAN_MODES: Final = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES: Final = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS: Final = {"bridge": 0, "private": 1, "vepa": 2}
OPTION_MACVLAN: Final = "macvlan_mode"
OPTION_IPVLAN_FLAG: Final = "ipvlan_flag"
_VLAN: Final = re.compile(r"(.+)\.(\d+)")


class ParentTaken(Forbidden):
    """Another network stands on the parent."""

    def __init__(self, network: Network, parent: str) -> None:
        super().__init__(f"network {network.name} is already using parent interface {parent}")


def check(driver: str, options: dict[str, str]) -> None:
    """Raise InvalidArgument for modes that the driver doesn't know, and parents that can't be."""
    mode = options.get(OPTION_MACVLAN if driver == MACVLAN else OPTION_IPVLAN, "")
    if driver == MACVLAN and mode and mode not in MACVLAN_MODES:
        raise InvalidArgument(
            f"requested macvlan mode '{mode}' is not valid, 'bridge' mode is the macvlan driver default"
        )
    if driver == IPVLAN and mode and mode not in IPVLAN_MODES:
        raise InvalidArgument(f"requested ipvlan mode '{mode}' is not valid, 'l2' mode is the ipvlan driver default")
    flag = options.get(OPTION_IPVLAN_FLAG, "")
    if driver == IPVLAN and flag and flag not in IPVLAN_FLAGS:
        raise InvalidArgument(f"requested ipvlan flag '{flag}' is not valid, 'bridge' is the ipvlan driver default")
    parent = options.get(OPTION_PARENT, "")
    if parent == "lo":
        raise InvalidArgument(f"loopback interface is not a valid {driver} parent link")
    if len(parent) > links.NAME_MAX or "/" in parent:
        raise InvalidArgument(f"invalid parent interface {parent!r}")


def ensure_parent(machine: Netlink, network: Network) -> None:
    """Have the parent there and up, made if it is ours to make. Idempotent.

    Raises InvalidArgument, NotSupported for what the kernel doesn't have, OSError.
    """
    with _possible(network.driver):
        _probe(machine, network.driver)
    parent = network.options[OPTION_PARENT]
    there = {link.name: link for link in links.links(machine)}
    if parent not in there:
        if not network.made_link:
            raise InvalidArgument(f"-o parent interface was not found on the host: {parent}")
        with _possible("vlan" if _VLAN.fullmatch(parent) else "dummy"):
            _make(machine, parent, {name: link.index for name, link in there.items()})
    if network.made_link:
        machine.request([links.set_link(named=parent, up=True)])


def _probe(machine: Netlink, kind: str) -> None:
    """Raise OSError (EOPNOTSUPP) if the kernel has no links of a kind. Nothing is made: the request lacks a parent."""
    (failure,) = machine.attempt([links.add_without_parent(kind)])
    if failure is not None and failure.errno == errno.EOPNOTSUPP:
        raise failure


def is_to_be_made(machine: Netlink, parent: str) -> bool:
    """Whether a parent is a VLAN that isn't there. Raises InvalidArgument for another one that isn't there."""
    there = {link.name for link in links.links(machine)}
    if parent in there:
        return False
    found = _VLAN.fullmatch(parent)
    if found is None or found[1] not in there:
        raise InvalidArgument(f"-o parent interface was not found on the host: {found[1] if found else parent}")
    if not 1 <= int(found[2]) <= 4094:
        raise InvalidArgument(f"vlan id must be between 1-4094, received: {found[2]}")
    return True


def _make(machine: Netlink, parent: str, indexes: dict[str, int]) -> None:
    found = _VLAN.fullmatch(parent)
    if found is not None:
        if found[1] not in indexes:
            raise InvalidArgument(f"-o parent interface was not found on the host: {found[1]}")
        machine.request([links.add_vlan(parent, indexes[found[1]], int(found[2]))])
        return
    try:
        machine.request([links.add_dummy(parent)])
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        # A kernel without dummy links: a veth pair both ends of which are here leads nowhere either.
        other = f"dp-{parent.removeprefix('dm-')}"
        here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            machine.request([links.add_veth(parent, other, here), links.set_link(named=other, up=True)])
        finally:
            os.close(here)


@contextlib.contextmanager
def _possible(kind: str) -> Iterator[None]:
    """Say it in a sentence if the kernel has no links of a kind."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        raise NotSupported(f"this machine's kernel has no {kind} links") from error


def attach(inside: Inside, machine: Netlink, endpoint: Endpoint, network: Network, *, gateway: bool) -> None:
    """Give a sandbox its branch of the parent, with addresses, and a default route if `gateway`. Undone if it fails."""
    try:
        parent = links.index_of(network.options[OPTION_PARENT])
    except OSError as error:
        missing = network.options[OPTION_PARENT]
        raise InvalidArgument(f"-o parent interface was not found on the host: {missing}") from error
    if network.driver == MACVLAN:
        mode = MACVLAN_MODES[network.options.get(OPTION_MACVLAN) or "bridge"]
        with _possible("macvlan"):
            machine.request([links.add_macvlan(endpoint.interface, parent, inside.fd, mode)])
    else:
        mode = IPVLAN_MODES[network.options.get(OPTION_IPVLAN) or "l2"]
        flag = IPVLAN_FLAGS[network.options.get(OPTION_IPVLAN_FLAG) or "bridge"]
        with _possible("ipvlan"):
            machine.request([links.add_ipvlan(endpoint.interface, parent, inside.fd, mode, flag)])
    try:
        index = next(link.index for link in links.links(inside.netlink) if link.name == endpoint.interface)
        allow_ipv6(inside, endpoint)
        messages = [links.set_link(index, mac=endpoint.mac or None, mtu=network.mtu, up=True)]
        messages += [links.add_address(index, address) for address in (*interfaces(endpoint), *link_local(endpoint))]
        set_interface_sysctls(inside, endpoint)
        if gateway:
            messages += default_routes(index, endpoint, network)
        inside.netlink.request(messages)
    except BaseException:
        detach(inside, endpoint)
        raise


def detach(inside: Inside, endpoint: Endpoint) -> None:
    """Take the branch away. Idempotent."""
    inside.netlink.attempt([links.delete_link(endpoint.interface)])


def route_through(inside: Inside, endpoint: Endpoint, network: Network) -> None:
    """Make an endpoint that is attached, by a branch or a bridge, the sandbox's way out."""
    index = next(link.index for link in links.links(inside.netlink) if link.name == endpoint.interface)
    inside.netlink.request(default_routes(index, endpoint, network))


def default_routes(index: int, endpoint: Endpoint, network: Network) -> list[Message]:
    """The way out: the gateways, or the link itself where the kernel routes."""
    if network.routed:
        return [links.add_device_route(index, 4 if address.version == 4 else 6) for address in interfaces(endpoint)]
    gateways = [text for text in (endpoint.gateway, endpoint.ipv6_gateway) if text]
    return [links.add_default_route(index, parse_address(text)) for text in gateways]
