"""One rule of nftables, as messages: what a namespace's programs send to an address and port goes to another port.

For rules inside sandboxes. libnftables would have to be called in a process that stands in the namespace; these are
seven expressions that never change (linux/netfilter/nf_tables.h).
"""

import errno
import ipaddress
import socket
import struct
from typing import Final

from scow.linux.netlink import NETLINK_NETFILTER, NLM_F_CREATE, NLM_F_EXCL, Message, Netlink, attribute, nested, text

TABLE: Final = "scow"

_SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
_NEW_TABLE: Final = _SUBSYSTEM << 8
_DELETE_TABLE: Final = _SUBSYSTEM << 8 | 2
_NEW_CHAIN: Final = _SUBSYSTEM << 8 | 3
_NEW_RULE: Final = _SUBSYSTEM << 8 | 6
_CHAIN: Final = "output"
_HOOK_OUTPUT: Final = 3  # NF_INET_LOCAL_OUT
_PRIORITY: Final = -100  # NF_IP_PRI_NAT_DST
_NETWORK_HEADER: Final = 1
_TRANSPORT_HEADER: Final = 2
_TARGET_OFFSET: Final = 16  # of the destination in an IPv4 header
_PORT_OFFSET: Final = 2  # of the destination's in headers of TCP and UDP
_FIRST: Final = 1  # registers
_SECOND: Final = 2
_APPEND: Final = 0x800  # NLM_F_APPEND


def redirect(address: ipaddress.IPv4Address, port: int, target: int) -> None:
    """In the calling thread's namespace, lead what is sent to `address`:`port` to port `target` of it.

    What was led elsewhere before isn't any more. Raises OSError. Blocks.
    """
    netlink = Netlink(NETLINK_NETFILTER)
    try:
        fresh = _messages(address, port, target)
        try:
            netlink.transact(_SUBSYSTEM, fresh)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            # Not without need: a transaction that removes something has the kernel wait for all of its processors.
            netlink.transact(_SUBSYSTEM, [Message(_DELETE_TABLE, 0, _head() + text(1, TABLE)), *fresh])
    finally:
        netlink.close()


def _messages(address: ipaddress.IPv4Address, port: int, target: int) -> list[Message]:
    hook = nested(4, _u32(1, _HOOK_OUTPUT), _u32(2, _PRIORITY))
    chain = text(1, TABLE) + text(3, _CHAIN) + hook + text(7, "nat")
    packed = struct.pack(">H", target)
    rule = (
        _load(_NETWORK_HEADER, _TARGET_OFFSET, 4),
        _equals(address.packed),
        _load(_TRANSPORT_HEADER, _PORT_OFFSET, 2),
        _equals(struct.pack(">H", port)),
        _immediate(_FIRST, address.packed),
        _immediate(_SECOND, packed),
        _expression("nat", _u32(1, 1), _u32(2, socket.AF_INET), _u32(3, _FIRST), _u32(5, _SECOND)),
    )
    return [
        Message(_NEW_TABLE, NLM_F_CREATE | NLM_F_EXCL, _head() + text(1, TABLE)),
        Message(_NEW_CHAIN, NLM_F_CREATE, _head() + chain),
        Message(_NEW_RULE, NLM_F_CREATE | _APPEND, _head() + text(1, TABLE) + text(2, _CHAIN) + nested(4, *rule)),
    ]


def _head() -> bytes:
    return struct.pack(">BBH", socket.AF_INET, 0, 0)


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">i", value))


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *attributes))


def _load(header: int, offset: int, size: int) -> bytes:
    return _expression("payload", _u32(1, _FIRST), _u32(2, header), _u32(3, offset), _u32(4, size))


def _equals(value: bytes) -> bytes:
    return _expression("cmp", _u32(1, _FIRST), _u32(2, 0), nested(3, attribute(1, value)))


def _immediate(register: int, value: bytes) -> bytes:
    return _expression("immediate", _u32(1, register), nested(2, attribute(1, value)))
