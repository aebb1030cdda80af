"""Forgetting UDP flows that the kernel's connection tracking knows (ctnetlink).

A flow keeps the translation that it began with. A client that goes on sending from one port would keep reaching a
container that is gone, or, after a port was published, the machine itself.
"""

import errno
import socket
import struct
from collections.abc import Callable
from typing import Final

import msgspec

from scow.linux.links import Address
from scow.linux.netlink import NETLINK_NETFILTER, Message, Netlink, attribute, attributes, nested

_GET: Final = 0x101  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET
_DELETE: Final = 0x102
_NEW: Final = 0x100
_TUPLE_ORIGINAL: Final = 1
_TUPLE_REPLY: Final = 2
_FILTER: Final = 25
_TUPLE_IP: Final = 1
_TUPLE_PROTOCOL: Final = 2
_NESTED: Final = 0x8000
_UDP: Final = 17
_F_IP_SOURCE: Final = 1 << 0
_F_PROTOCOL: Final = 1 << 3
_F_TARGET_PORT: Final = 1 << 5
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


class Flow(msgspec.Struct, frozen=True):
    """A tracked UDP flow: where its first packet went, and who answers it; `tuple` is the kernel's own form of it."""

    target_port: int
    answerer: bytes  # the packed address that replies come from
    tuple: bytes


def forget_answered_by(address: Address) -> int:
    """Forget the UDP flows that are answered by this address; returns how many. Raises OSError. Blocks."""
    ip = nested(_TUPLE_IP, attribute(1 if address.version == 4 else 3, address.packed))
    wanted = nested(_TUPLE_REPLY, ip, _udp()) + nested(_FILTER, attribute(2, _flags(_F_IP_SOURCE | _F_PROTOCOL)))
    return _forget(address.version, wanted, lambda flow: flow.answerer == address.packed)


def forget_sent_to(port: int, version: int) -> int:
    """Forget the UDP flows that began with a packet to this port; returns how many. Raises OSError. Blocks."""
    tuple_ = nested(_TUPLE_ORIGINAL, _udp(attribute(3, struct.pack(">H", port))))
    wanted = tuple_ + nested(_FILTER, attribute(1, _flags(_F_PROTOCOL | _F_TARGET_PORT)))
    return _forget(version, wanted, lambda flow: flow.target_port == port)


def _udp(*more: bytes) -> bytes:
    return nested(_TUPLE_PROTOCOL, attribute(1, bytes([_UDP])), *more)


def _flags(value: int) -> bytes:
    return struct.pack("=I", value)


def _forget(version: int, wanted: bytes, matches: Callable[[Flow], bool]) -> int:
    netlink = Netlink(NETLINK_NETFILTER)
    try:
        head = struct.pack("=BBH", _FAMILIES[version], 0, 0)
        try:
            found = netlink.dump(Message(_GET, 0, head + wanted))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ERANGE):
                raise
            found = netlink.dump(Message(_GET, 0, head))  # before Linux 5.8 the kernel can't choose
        flows = [flow for kind, body in found if kind == _NEW and (flow := _parse(body)) and matches(flow)]
        deletions = [Message(_DELETE, 0, head + attribute(_TUPLE_ORIGINAL | _NESTED, flow.tuple)) for flow in flows]
        count = 0
        for begin in range(0, len(deletions), 64):  # answers to more than that might not fit in the socket
            for failure in netlink.attempt(deletions[begin : begin + 64]):
                if failure is None:
                    count += 1
                elif failure.errno != errno.ENOENT:  # it ended by itself
                    raise failure
        return count
    finally:
        netlink.close()


def _parse(body: bytes) -> Flow | None:
    values = dict(attributes(body[4:]))
    original, reply = values.get(_TUPLE_ORIGINAL, b""), values.get(_TUPLE_REPLY, b"")
    protocol = dict(attributes(dict(attributes(original)).get(_TUPLE_PROTOCOL, b"")))
    addresses = dict(attributes(dict(attributes(reply)).get(_TUPLE_IP, b"")))
    if protocol.get(1) != bytes([_UDP]):
        return None
    return Flow(
        target_port=int.from_bytes(protocol.get(3, b""), "big"),
        answerer=addresses.get(1) or addresses.get(3) or b"",
        tuple=original,
    )
