"""Moving processes between control groups without waiting long for it.

Whoever moves a process shuts a lock against forks everywhere, and the kernel takes an RCU grace period, commonly 8 to
16 ms, to shut it. A move within some 15 ms after another one finds it shut and takes microseconds. A runtime makes its
first move about 10 ms after it was asked for: to ask the kernel in that moment takes the wait off a container's start.
"""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final

from scow.linux.cgroup import ROOT, UNIFIED, is_unified

_SELF: Final = Path("/proc/self/cgroup")


class GroupMoves:
    """Asks the kernel to be ready for moves. Owned by one event loop; no more than one of its threads is in use."""

    def __init__(self) -> None:
        self._asking: asyncio.Future[None] | None = None

    def expect(self) -> None:
        """Say that a move comes in some milliseconds. Returns at once; where it can't be prepared, nothing happens."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().run_in_executor(None, _stay)


def _stay() -> None:
    """Move this process to where it is already: that takes the lock and changes nothing."""
    with contextlib.suppress(OSError):
        group = own_group()
        if group is not None:
            with open(group / "cgroup.procs", "w") as file:
                file.write("0")


def own_group() -> Path | None:
    """The folder of a group that this process is in, None if it can't be told from here."""
    for line in _SELF.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        version_2 = ROOT if is_unified() else UNIFIED
        hierarchy = ROOT / controllers.rpartition("=")[2] if controllers else version_2
        group = hierarchy / path.lstrip("/")
        # In a container the path may be another group's here; to be moved there would be worse than to wait.
        with contextlib.suppress(OSError):
            if str(os.getpid()) in (group / "cgroup.procs").read_text().split():
                return group
    return None
