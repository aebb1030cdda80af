"""Waiting for links to be gone.

Removing a veth pair by request takes the kernel some twenty milliseconds under its global lock; letting it die with
its namespace costs nobody anything, since the kernel takes many down at once. So a released container's links are left
to die, watched here, and removed by request only if something keeps the namespace alive.
"""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from scow.linux import links
from scow.linux.netlink import Netlink
from scow.network.threads import Threads

_log = logging.getLogger(__name__)
_LOOK_EVERY_S: Final = 0.03
_PATIENCE_S: Final = 0.4


class _Dying(NamedTuple):
    since: float
    gone: Callable[[], Awaitable[None]]


class Reaper:
    """Sees links out; owned by the event loop. Its one task lives while there is something to watch."""

    def __init__(self, machine: Netlink, threads: Threads) -> None:
        self._machine = machine
        self._threads = threads
        self._dying: dict[str, _Dying] = {}
        self._task: asyncio.Task[None] | None = None

    def watch(self, link: str, gone: Callable[[], Awaitable[None]], *, patient: bool = True) -> None:
        """Await `gone()` once the link doesn't exist any more; without patience it is removed at once."""
        now = asyncio.get_running_loop().time()
        self._dying[link] = _Dying(now if patient else now - _PATIENCE_S, gone)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="network-reaper")

    @property
    def dying(self) -> set[str]:
        """The names of the links that are on their way out."""
        return set(self._dying)

    async def settled(self) -> None:
        """Return when everything that was watched is gone."""
        while self._task is not None and not self._task.done():
            await asyncio.shield(self._task)

    async def _run(self) -> None:
        while self._dying:
            try:
                there = await self._threads(lambda: {link.name for link in links.links(self._machine)})
                for name in [name for name in self._dying if name not in there]:
                    await self._dying[name].gone()
                    del self._dying[name]
                now = asyncio.get_running_loop().time()
                late = [name for name, dying in self._dying.items() if now - dying.since >= _PATIENCE_S]
                if late:
                    await self._threads(lambda names=late: remove(self._machine, names))  # type: ignore[misc]  # a default
                elif self._dying:
                    await asyncio.sleep(_LOOK_EVERY_S)
            except Exception:
                _log.exception("cannot see links out: %s", ", ".join(self._dying))
                await asyncio.sleep(1)


def remove(machine: Netlink, names: list[str]) -> None:
    """Remove links by name; those that are gone already are fine. Raises OSError. Blocks."""
    for failure in machine.attempt([links.delete_link(name) for name in names]):
        if failure is not None and failure.errno not in (errno.ENODEV, errno.ENOENT):
            raise failure
