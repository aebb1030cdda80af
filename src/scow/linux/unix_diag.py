"""What the kernel tells of listening unix sockets. sock_diag(7)."""

import os
import struct
from pathlib import Path
from typing import Final

from scow.linux.netlink import Message, Netlink, attributes

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_AF_UNIX: Final = 1
_LISTENING: Final = 1 << 10  # TCP_LISTEN, as a set of states
_SHOW_VFS: Final = 1 << 1
_SHOW_QUEUES: Final = 1 << 4
_VFS: Final = 1
_QUEUES: Final = 4

_REQUEST = struct.Struct("=BBHIIIII")
_ANSWER_SIZE: Final = 16


def waiting_connections(path: Path) -> int:
    """How many connections to the socket at `path` have not been accepted yet; 0 if nobody listens.

    Raises OSError if there is nothing at the path, or the kernel was built without the facility (CONFIG_UNIX_DIAG).
    """
    inode = os.stat(path).st_ino & 0xFFFFFFFF
    request = _REQUEST.pack(_AF_UNIX, 0, 0, _LISTENING, 0, _SHOW_VFS | _SHOW_QUEUES, 0xFFFFFFFF, 0xFFFFFFFF)
    netlink = Netlink(_NETLINK_SOCK_DIAG)
    try:
        found = netlink.dump(Message(_SOCK_DIAG_BY_FAMILY, 0, request))
    finally:
        netlink.close()
    count = 0
    for _, body in found:
        told = dict(attributes(body[_ANSWER_SIZE:]))
        if _VFS in told and _QUEUES in told and struct.unpack_from("=I", told[_VFS])[0] == inode:
            # A socket on another file system can have the same number: what waits there counts too.
            count += int(struct.unpack_from("=I", told[_QUEUES])[0])
    return count
