"""Links, addresses and routes, as rtnetlink messages (rtnetlink(7)).

The functions that change something return messages, so that a caller puts what belongs together in one batch; those
that ask take the socket. A link is named by its index, or by its name where the index isn't known (index 0).
"""

import ipaddress
import socket
import struct
from collections.abc import Mapping
from typing import Final

import msgspec

from scow.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    Netlink,
    attribute,
    attributes,
    nested,
    text,
    u32,
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

NAME_MAX: Final = 15  # IFNAMSIZ without its NUL

_RTM_NEWLINK: Final = 16
_RTM_DELLINK: Final = 17
_RTM_GETLINK: Final = 18
_RTM_NEWADDR: Final = 20
_RTM_DELADDR: Final = 21
_RTM_GETADDR: Final = 22
_RTM_NEWROUTE: Final = 24
_RTM_GETROUTE: Final = 26

_IFF_UP: Final = 0x1
_IFA_F_NODAD: Final = 0x02

_IFLA_ADDRESS: Final = 1
_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_LINK: Final = 5
_IFLA_MASTER: Final = 10
_IFLA_LINKINFO: Final = 18
_IFLA_NET_NS_FD: Final = 28
_IFLA_INFO_KIND: Final = 1
_IFLA_INFO_DATA: Final = 2
_IFLA_INFO_SLAVE_KIND: Final = 4
_IFLA_INFO_SLAVE_DATA: Final = 5
_IFLA_BRPORT_MODE: Final = 4
_VETH_INFO_PEER: Final = 1
_IFLA_BR_FORWARD_DELAY: Final = 1
_IFLA_BR_STP_STATE: Final = 5

_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")


class Link(msgspec.Struct, frozen=True):
    """A link as the kernel lists it; `master` is 0 for none, `kind` empty for hardware."""

    index: int
    name: str
    kind: str
    up: bool
    master: int
    mac: str
    mtu: int


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", "").replace("-", ""))


def add_bridge(name: str, mac: str, mtu: int | None = None) -> Message:
    """Make a bridge, down. Without spanning tree and delay, so that a port forwards as soon as it is up."""
    info = nested(
        _IFLA_LINKINFO,
        text(_IFLA_INFO_KIND, "bridge"),
        nested(_IFLA_INFO_DATA, u32(_IFLA_BR_FORWARD_DELAY, 0), u32(_IFLA_BR_STP_STATE, 0)),
    )
    body = _IFINFO.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name) + attribute(_IFLA_ADDRESS, mac_bytes(mac)) + info
    if mtu:
        body += u32(_IFLA_MTU, mtu)
    return Message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def add_dummy(name: str) -> Message:
    """Make a dummy link, down: an address of the machine that belongs to no wire."""
    info = nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "dummy"))
    return Message(
        _RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, _IFINFO.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name) + info
    )


def add_veth(name: str, peer: str, peer_netns: int, *, master: int = 0, mtu: int | None = None) -> Message:
    """Make a veth pair: `name` here, up and a port of bridge `master`; `peer` in the namespace of the fd, down."""
    size = u32(_IFLA_MTU, mtu) if mtu else b""
    other = _IFINFO.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, peer) + u32(_IFLA_NET_NS_FD, peer_netns) + size
    info = nested(
        _IFLA_LINKINFO,
        text(_IFLA_INFO_KIND, "veth"),
        nested(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, other)),
    )
    body = _IFINFO.pack(0, 0, 0, _IFF_UP, _IFF_UP) + text(_IFLA_IFNAME, name) + size + info
    if master:
        body += u32(_IFLA_MASTER, master)
    return Message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def add_vlan(name: str, parent: int, number: int) -> Message:
    """Make the VLAN `number` of the link with index `parent`, down."""
    data = nested(_IFLA_INFO_DATA, attribute(1, number.to_bytes(2, "little")))
    info = nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "vlan"), data)
    body = _IFINFO.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name) + u32(_IFLA_LINK, parent)
    return Message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body + info)


def add_macvlan(name: str, parent: int, netns: int, mode: int) -> Message:
    """Make a branch with a MAC of its own (MACVLAN_MODE_*) of the link `parent`, in the namespace of the fd, down."""
    return _branch("macvlan", name, parent, netns, u32(1, mode))


def add_ipvlan(name: str, parent: int, netns: int, mode: int, flags: int) -> Message:
    """Make a branch with the parent's MAC (IPVLAN_MODE_*, IPVLAN_F_*), in the namespace of the fd, down."""
    data = attribute(1, mode.to_bytes(2, "little")) + attribute(2, flags.to_bytes(2, "little"))
    return _branch("ipvlan", name, parent, netns, data)


def add_without_parent(kind: str) -> Message:
    """Ask for a branch of nothing: refused by every kernel, with EOPNOTSUPP by one that has no such links."""
    info = nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, kind))
    return Message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, _IFINFO.pack(0, 0, 0, 0, 0) + info)


def _branch(kind: str, name: str, parent: int, netns: int, data: bytes) -> Message:
    info = nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, kind), nested(_IFLA_INFO_DATA, data))
    body = _IFINFO.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name)
    body += u32(_IFLA_LINK, parent) + u32(_IFLA_NET_NS_FD, netns) + info
    return Message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def set_link(
    index: int = 0,
    *,
    named: str | None = None,
    up: bool | None = None,
    name: str | None = None,
    mac: str | None = None,
    master: int | None = None,
    mtu: int | None = None,
) -> Message:
    """Change a link that is named by index or, with index 0, by `named`; `name` renames one given by index."""
    flags = _IFF_UP if up else 0
    body = _IFINFO.pack(0, 0, index, flags, 0 if up is None else _IFF_UP)
    label = name if index else named
    if label is not None:
        body += text(_IFLA_IFNAME, label)
    if mac is not None:
        body += attribute(_IFLA_ADDRESS, mac_bytes(mac))
    if master is not None:
        body += u32(_IFLA_MASTER, master)
    if mtu is not None:
        body += u32(_IFLA_MTU, mtu)
    return Message(_RTM_NEWLINK, 0, body)


def hairpin(name: str) -> Message:
    """Let a bridge send a frame back through the port it came by.

    With bridge-nf-call-iptables on, a container that reaches itself by its published port is bridged, not routed.
    """
    slave = nested(_IFLA_INFO_SLAVE_DATA, attribute(_IFLA_BRPORT_MODE, b"\1"))
    info = nested(_IFLA_LINKINFO, text(_IFLA_INFO_SLAVE_KIND, "bridge"), slave)
    return Message(_RTM_NEWLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name) + info)


def delete_link(name: str) -> Message:
    """Remove a link by name; of a veth pair both ends go."""
    return Message(_RTM_DELLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name))


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def add_address(index: int, interface: Interface) -> Message:
    """Give a link an address (replacing an equal one); IPv6 without duplicate detection: we hand them out ourselves."""
    flags = _IFA_F_NODAD if interface.version == 6 else 0
    body = _IFADDR.pack(_family(interface.ip), interface.network.prefixlen, flags, 0, index)
    body += attribute(2, interface.ip.packed) + attribute(1, interface.ip.packed)
    if isinstance(interface, ipaddress.IPv4Interface) and interface.network.prefixlen < 31:
        body += attribute(4, interface.network.broadcast_address.packed)
    return Message(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body)


def delete_address(index: int, interface: Interface) -> Message:
    body = _IFADDR.pack(_family(interface.ip), interface.network.prefixlen, 0, 0, index)
    return Message(_RTM_DELADDR, 0, body + attribute(2, interface.ip.packed) + attribute(1, interface.ip.packed))


def add_default_route(index: int, gateway: Address) -> Message:
    """Route everything else through `gateway` (main table, protocol boot as `ip route` writes it)."""
    body = _RTMSG.pack(_family(gateway), 0, 0, 0, 254, 3, 0, 1, 0)
    body += attribute(5, gateway.packed) + u32(4, index)
    return Message(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body)


def add_device_route(index: int, version: int) -> Message:
    """Route everything else of an IP version through a link, without a gateway."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    body = _RTMSG.pack(family, 0, 0, 0, 254, 3, 253, 1, 0)  # scope link
    return Message(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body + u32(4, index))


def links(netlink: Netlink) -> list[Link]:
    """List the links of the socket's namespace."""
    found = netlink.dump(Message(_RTM_GETLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0)))
    return [_parse_link(body) for kind, body in found if kind == _RTM_NEWLINK]


def _parse_link(body: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    values: Mapping[int, bytes] = dict(attributes(body[_IFINFO.size :]))
    kind = dict(attributes(values.get(_IFLA_LINKINFO, b""))).get(_IFLA_INFO_KIND, b"")
    return Link(
        index=index,
        name=values.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(),
        kind=kind.rstrip(b"\0").decode(),
        up=bool(flags & _IFF_UP),
        master=int.from_bytes(values.get(_IFLA_MASTER, b""), "little"),
        mac=values.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=int.from_bytes(values.get(_IFLA_MTU, b""), "little"),
    )


def index_of(name: str) -> int:
    """Return the index of a link of this thread's namespace; OSError (ENODEV) if there is none."""
    return socket.if_nametoindex(name)


def addresses(netlink: Netlink) -> list[tuple[int, Interface]]:
    """List (link index, address with prefix) of the socket's namespace, both families."""
    found = netlink.dump(Message(_RTM_GETADDR, 0, _IFADDR.pack(0, 0, 0, 0, 0)))
    result: list[tuple[int, Interface]] = []
    for kind, body in found:
        if kind != _RTM_NEWADDR:
            continue
        _, prefix, _, _, index = _IFADDR.unpack_from(body)
        values = dict(attributes(body[_IFADDR.size :]))
        packed = values.get(2) or values.get(1)
        if packed:
            result.append((index, ipaddress.ip_interface((packed, prefix))))
    return result


def routes(netlink: Netlink) -> list[tuple[int, Subnet]]:
    """List (outgoing link or 0, destination) of the main table's routes, default routes left out."""
    found = netlink.dump(Message(_RTM_GETROUTE, 0, _RTMSG.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)))
    result: list[tuple[int, Subnet]] = []
    for kind, body in found:
        if kind != _RTM_NEWLINK + 8:
            continue
        _, length, _, _, table, _, _, _, _ = _RTMSG.unpack_from(body)
        values = dict(attributes(body[_RTMSG.size :]))
        if table != 254 or length == 0 or 1 not in values:
            continue
        out = int.from_bytes(values.get(4, b""), "little")
        result.append((out, ipaddress.ip_network((values[1], length))))
    return result
