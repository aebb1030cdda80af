"""The process that lives in a user namespace for userns.py: `python -I -S userns_child.py FD [NAMESPACE_FD]`.

A thread of the engine can't do it: only a process of one thread may enter a user namespace (setns(2)). Without
NAMESPACE_FD it makes a new one. On FD, a stream socket, it answers each byte that it gets with one: b"." when the
namespace is entered, and again for each network namespace that it was asked for (b"n"), which is then its own, to be
opened through /proc; anything else is an errno, after which it ends.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
from typing import Final

CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000
DONE: Final = b"."
NETWORK: Final = b"n"
_PR_SET_NAME: Final = 15

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Enter the namespace and serve until the engine's end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is the engine's to handle
    _libc.prctl(_PR_SET_NAME, b"scow-users", 0, 0, 0)
    with socket.socket(fileno=int(sys.argv[1])) as connection, contextlib.suppress(ConnectionError):
        if len(sys.argv) > 2:
            entered = _libc.setns(int(sys.argv[2]), CLONE_NEWUSER)
            os.close(int(sys.argv[2]))
        else:
            entered = _libc.unshare(CLONE_NEWUSER)
        while _answer(connection, entered) and connection.recv(1) == NETWORK:
            entered = _libc.unshare(CLONE_NEWNET)


def _answer(connection: socket.socket, result: int) -> bool:
    connection.sendall(DONE if result == 0 else bytes([min(ctypes.get_errno(), 255)]))
    return result == 0


if __name__ == "__main__":
    main()
