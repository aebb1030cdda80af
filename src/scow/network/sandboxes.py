"""Containers' network namespaces, and a small pool of ready ones.

A sandbox is pinned at `exec_root/netns/CONTAINER`, and goes with `release`. Those of the pool are pinned nowhere: an
open descriptor keeps each alive, so when the engine dies the kernel takes them back, links included. A ready one has
its loopback up and a veth pair in place, whose outer end is a port of the default bridge already.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from scow.linux import links, netns, sysctl
from scow.linux.netlink import Netlink
from scow.network.model import Sandbox
from scow.network.threads import Threads

_log = logging.getLogger(__name__)
_REFILL_DELAY_S = 0.05  # so that making spare sandboxes doesn't compete with the start that took one


class Inside(msgspec.Struct):
    """An open namespace: its descriptor, a netlink socket in it, and the veth pair that waits there, if any."""

    fd: int
    netlink: Netlink
    link: str = ""
    index: int = 0
    bridge: int = 0

    def close(self) -> None:
        self.netlink.close()
        os.close(self.fd)


def new_inside(make: Callable[[], int] | None = None) -> Inside:
    """Make a namespace with its loopback up and IPv6 off on later links, until an endpoint wants it. Blocks.

    `make` gives the descriptor of a new one that belongs to another user namespace.
    """

    def job(fd: int) -> Inside:
        netlink = Netlink()
        try:
            netlink.request([links.set_link(1, up=True)])
            if Path("/proc/sys/net/ipv6").exists():
                sysctl.write("net/ipv6/conf/default/disable_ipv6", "1")
        except BaseException:
            netlink.close()
            raise
        return Inside(fd, netlink)

    if make is None:
        return netns.make(job)
    fd = make()
    try:
        return netns.inside(fd, lambda: job(fd))
    except BaseException:
        os.close(fd)
        raise


def open_inside(path: Path) -> Inside:
    """Open a pinned namespace. Blocks."""
    fd = netns.open_pinned(path)
    try:
        return Inside(fd, netns.inside(fd, Netlink))
    except BaseException:
        os.close(fd)
        raise


def add_pair(machine: Netlink, inside: Inside, link: str, interface: str, bridge: int, mtu: int | None) -> int:
    """Join a namespace to a bridge by a veth pair, and return the inner end's index. Blocks."""
    machine.request([links.add_veth(link, interface, inside.fd, master=bridge, mtu=mtu)])
    return next(found.index for found in links.links(inside.netlink) if found.name == interface)


class Sandboxes:
    """Every sandbox of the engine; owned by the event loop."""

    def __init__(self, folder: Path, prefix: str, machine: Netlink, threads: Threads, *, spare: int) -> None:
        self._folder = folder
        self._prefix = prefix
        self._machine = machine
        self._threads = threads
        self._spare = spare
        self._bridge: Callable[[], tuple[int, int | None]] | None = None
        self._ready: list[Inside] = []
        self._taken: dict[str, Inside] = {}
        self._refill: asyncio.Task[None] | None = None
        self.make: Callable[[], int] | None = None  # of namespaces that belong to another user namespace

    def new_link_name(self) -> str:
        """Name the outer end of a new veth pair: the engine's prefix and eight random digits."""
        return f"{self._prefix}{secrets.token_hex(4)}"

    def path(self, container_id: str) -> Path:
        return self._folder / container_id

    def open(self) -> None:
        """Make the folder. Blocks for a moment: for start-up."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def warm_up(self, bridge: Callable[[], tuple[int, int | None]]) -> None:
        """Begin to keep spare sandboxes on the bridge whose index and MTU `bridge` tells."""
        self._bridge = bridge
        self._schedule(0)

    async def take(self, container_id: str, *, linked: bool, machines: bool = False) -> Sandbox:
        """Pin a sandbox for a container, a ready one if it is to be `linked` to the default bridge and there is one.

        One that is the `machines` belongs to its user namespace, whatever `make` gives.
        """
        inside = self._ready.pop() if linked and self._ready and not (machines and self.make) else None
        path = self.path(container_id)

        def job() -> None:
            mine = inside or new_inside(None if machines else self.make)
            try:
                netns.unpin(path)
                netns.pin(mine.fd, path)
            except BaseException:
                mine.close()
                netns.unpin(path)
                raise
            self._taken[container_id] = mine

        await self._threads(job)
        if linked:
            self._schedule(_REFILL_DELAY_S)
        return Sandbox(container_id=container_id, path=path)

    def waiting_link(self, container_id: str) -> str:
        """Name the outer end of the veth pair that waits in a sandbox just taken, or return ""."""
        inside = self._taken.get(container_id)
        return inside.link if inside is not None else ""

    def enter(self, container_id: str) -> Inside:
        """Hand over a just taken sandbox's open namespace, or open its pin again. Blocks; the caller closes it."""
        return self._taken.pop(container_id, None) or open_inside(self.path(container_id))

    async def release(self, container_id: str) -> None:
        """Unpin a container's sandbox; the kernel removes it once no process is left in it."""
        inside = self._taken.pop(container_id, None)
        path = self.path(container_id)

        def job() -> None:
            if inside is not None:
                inside.close()
            netns.unpin(path)

        await self._threads(job)

    async def pinned(self) -> list[str]:
        """List the containers for which there is a file in the folder, pinned or left over."""
        return await self._threads(lambda: sorted(os.listdir(self._folder)) if self._folder.is_dir() else [])

    async def aclose(self) -> set[str]:
        """Let go of the spare sandboxes, and return the links that go with them, some milliseconds later."""
        self._bridge = None
        if self._refill is not None:
            self._refill.cancel()
            await asyncio.gather(self._refill, return_exceptions=True)
        names = {inside.link for inside in (*self._ready, *self._taken.values()) if inside.link}
        for inside in (*self._ready, *self._taken.values()):
            inside.close()
        self._ready.clear()
        self._taken.clear()
        return names

    def _schedule(self, delay_s: float) -> None:
        if self._bridge is not None and (self._refill is None or self._refill.done()):
            self._refill = asyncio.create_task(self._fill(delay_s), name="network-sandboxes")

    async def _fill(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        while self._bridge is not None and len(self._ready) < self._spare:
            bridge, mtu = self._bridge()
            try:
                await self._threads(partial(self._make_ready, bridge, mtu))
            except OSError as error:
                _log.warning("cannot make a spare sandbox: %s", error)
                return

    def _make_ready(self, bridge: int, mtu: int | None) -> None:
        inside = new_inside(self.make)
        try:
            inside.link = self.new_link_name()
            inside.bridge = bridge
            inside.index = add_pair(self._machine, inside, inside.link, "eth0", bridge, mtu)
        except BaseException:
            inside.close()
            raise
        self._ready.append(inside)
