"""User namespaces: made with a mapping of IDs, pinned as files, and network namespaces that belong to them.

user_namespaces(7): root of such a namespace has capabilities over what belongs to it, and none over the machine.
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

from scow.linux import netns
from scow.linux import userns_child as child

_CHILD: Final = str(Path(child.__file__))
_LIMIT: Final = 340  # lines of a map that the kernel takes, since Linux 4.15


class Extent(NamedTuple):
    """`size` IDs from `inside` on are those from `outside` on of the machine."""

    inside: int
    outside: int
    size: int


class IdMap(NamedTuple):
    """What users and groups of a namespace are outside of it."""

    users: tuple[Extent, ...]
    groups: tuple[Extent, ...]

    @property
    def root(self) -> tuple[int, int]:
        """The user and group that are root inside. Raises ValueError if nothing is."""
        return outside(self.users, 0), outside(self.groups, 0)


def outside(extents: Sequence[Extent], inside: int) -> int:
    """Translate an ID of a namespace. Raises ValueError for one that is not mapped."""
    for extent in extents:
        if extent.inside <= inside < extent.inside + extent.size:
            return extent.outside + inside - extent.inside
    raise ValueError(f"ID {inside} is not mapped")


def text_of(extents: Sequence[Extent]) -> str:
    """Write a map as /proc/PID/uid_map takes it."""
    return "".join(f"{extent.inside} {extent.outside} {extent.size}\n" for extent in extents[:_LIMIT])


def parse_map(text: str) -> tuple[Extent, ...]:
    """Read /proc/PID/uid_map."""
    return tuple(Extent(*map(int, line.split())) for line in text.splitlines())


class UserNamespace:
    """A pinned user namespace and a process in it, which makes network namespaces. Calls block: use threads."""

    def __init__(self, path: Path, ids: IdMap, process: "subprocess.Popen[bytes]", connection: socket.socket) -> None:
        self.path = path
        self.ids = ids
        self._process = process
        self._connection = connection
        self._lock = threading.Lock()  # guards the conversation with the process

    @classmethod
    def open(cls, path: Path, ids: IdMap) -> Self:
        """Enter the namespace that is pinned at `path` if it has this mapping, else pin a new one there.

        Raises OSError where the kernel refuses.
        """
        if netns.is_pinned(path):
            fd = netns.open_pinned(path)
            try:
                found = cls._started(path, ids, fd)
            finally:
                os.close(fd)
            if found._actual_ids() == ids:
                return found
            found.close()
            netns.unpin(path)
        new = cls._started(path, ids, None)
        try:
            # Groups of processes in it may be changed, as in any container: whoever writes the map is root here.
            for name, extents in (("uid_map", ids.users), ("gid_map", ids.groups)):
                Path(f"/proc/{new._process.pid}/{name}").write_text(text_of(extents))
            fd = os.open(f"/proc/{new._process.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            try:
                netns.unpin(path)
                netns.pin(fd, path)
            finally:
                os.close(fd)
        except BaseException:
            new.close()
            netns.unpin(path)
            raise
        return new

    @classmethod
    def _started(cls, path: Path, ids: IdMap, namespace: int | None) -> Self:
        ours, theirs = socket.socketpair()
        with theirs:
            passed = [theirs.fileno()] if namespace is None else [theirs.fileno(), namespace]
            try:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", _CHILD, *map(str, passed)],
                    stdin=subprocess.DEVNULL,
                    pass_fds=passed,
                )
            except BaseException:
                ours.close()
                raise
        found = cls(path, ids, process, ours)
        try:
            found._expect("user namespace")
        except BaseException:
            found.close()
            raise
        return found

    def _actual_ids(self) -> IdMap:
        maps = [Path(f"/proc/{self._process.pid}/{name}").read_text() for name in ("uid_map", "gid_map")]
        return IdMap(parse_map(maps[0]), parse_map(maps[1]))

    def _expect(self, what: str) -> None:
        answer = self._connection.recv(1)
        if answer != child.DONE:
            number = answer[0] if answer else 0
            raise OSError(number, f"{what}: {os.strerror(number) if number else 'the process that makes it ended'}")

    def new_network(self) -> int:
        """Make a network namespace that belongs to this one; its descriptor is the caller's. Raises OSError."""
        with self._lock:
            self._connection.sendall(child.NETWORK)
            self._expect("network namespace")
            return netns.open_pinned(Path(f"/proc/{self._process.pid}/ns/net"))

    def close(self) -> None:
        """End the process; the pin stays, and with it the namespace. Idempotent."""
        self._connection.close()
        self._process.wait()

    def remove(self) -> None:
        """Close, and unpin: the namespace goes with the last process in it."""
        self.close()
        netns.unpin(self.path)
