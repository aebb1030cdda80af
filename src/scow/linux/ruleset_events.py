"""What the kernel tells of changes to nftables' ruleset (netlink group NFNLGRP_NFTABLES)."""

import errno
import os
import socket
import struct
from typing import Final

from scow.linux.netlink import NETLINK_NETFILTER, attributes

_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP: Final = 1
_GROUP: Final = 7  # NFNLGRP_NFTABLES
_SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
_NEW_TABLE: Final = 0
_NEW_CHAIN: Final = 3
_NEW_RULE: Final = 6
_DELETE_TABLE: Final = 2
_DELETIONS: Final = (2, 5, 8, 11, 14)  # table, chain, rule, set, set element
_OTHERS: Final = (_DELETE_TABLE, _NEW_CHAIN, 5, _NEW_RULE, 8)  # of chains and rules whatever comes, goes or changes
_TABLE: Final = 1  # the attribute that names the table, in all of these messages
_FAMILIES: Final = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_HEADER = struct.Struct("=IHHII")


class RulesetEvents:
    """A socket that hears of every change to the ruleset of this network namespace; reading never waits."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def changes(self, table: str, kin: str) -> tuple[bool, bool, bool]:
        """Read what was told since the last call: whether `table` ("inet x") lost something, whether it is gone, and
        whether chains or rules of other tables changed, but for those whose names begin with `kin`.

        If the kernel had more to tell than the socket could hold, all of it may have been.
        """
        lost = gone = others = False
        while True:
            try:
                data = self._socket.recv(1 << 17)
            except BlockingIOError:
                return lost, gone, others
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = others = True
                continue
            for message, name in _messages(data):
                if name == table:
                    lost = lost or message in _DELETIONS
                    gone = message == _DELETE_TABLE or (gone and message != _NEW_TABLE)
                elif not name.startswith(kin):
                    others = others or message in _OTHERS


def _messages(data: bytes) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    offset = 0
    while offset + 20 <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        if length < 16:
            break
        if kind >> 8 == _SUBSYSTEM and kind & 0xFF in (_NEW_TABLE, _NEW_CHAIN, _NEW_RULE, *_DELETIONS):
            name = dict(attributes(data[offset + 20 : offset + length])).get(_TABLE, b"")
            family = _FAMILIES.get(data[offset + 16], "")
            found.append((kind & 0xFF, f"{family} {os.fsdecode(name.rstrip(bytes(1)))}"))
        offset += (length + 3) & ~3
    return found
