"""Engines' networks on this machine, traffic between namespaces of the tests' own, and a check that nothing leaks."""

import ipaddress
import os
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from scow.linux import links, netns
from scow.linux.netlink import Netlink
from scow.linux.nftables import Nftables
from scow.network.networks import Networks, Settings
from scow.network.sandboxes import Inside, add_pair, new_inside
from scow.store.database import Database

T = TypeVar("T")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class Rig:
    """Makes engines' `Networks` that share a folder, so that one can be killed and another take over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine_id = secrets.token_hex(4)
        self.subnet = f"10.{secrets.randbelow(100) + 100}.{secrets.randbelow(250)}"
        self.running: list[tuple[Networks, Database]] = []
        self.bridges: set[str] = set()

    async def engine(self, **settings: object) -> Networks:
        values = {"bip": f"{self.subnet}.1/24", "spare_sandboxes": 2} | settings
        db = Database.open(self.folder / "state.db")
        networks = Networks(self.engine_id, db, self.folder, Settings(**values))  # type: ignore[arg-type]  # shorthand
        self.running.append((networks, db))
        await networks.start()
        return networks

    async def kill(self, networks: Networks) -> None:
        """Let an engine vanish as kill -9 does: descriptors close, and nothing else is done."""
        self.running = [pair for pair in self.running if pair[0] is not networks]
        await networks._sandboxes.aclose()
        await networks._resolvers.aclose()
        networks._publishing.close()
        await networks._firewall.aclose()
        networks._threads.close()
        networks._machine.close()

    async def finish(self) -> None:
        if not self.running:
            await self.engine()
        self.bridges = {link for network in self.running[-1][0].all() for link in network.own_links}
        await self.running[-1][0].destroy()
        for _, db in self.running:
            await db.aclose()


def world() -> dict[str, set[str]]:
    """What there is on this machine that networks make."""
    machine = Netlink()
    nft = Nftables()
    try:
        return {
            "links": {link.name for link in links.links(machine)},
            "addresses": {str(address) for _, address in links.addresses(machine) if not address.is_link_local},
            "tables": set(nft.run("list tables").splitlines()),
        }
    finally:
        machine.close()
        nft.close()


def pins(folder: Path) -> list[str]:
    """Files for namespaces below a folder, and mounts."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in mounts if str(folder) in line] + [str(path) for path in (folder / "netns").iterdir()]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    await rig.finish()
    assert pins(tmp_path) == []
    # Others may work on this machine at the same time: what must be gone is what carries this engine's mark.
    after, tag = world(), rig.running[-1][0].tag
    assert not [name for name in after["links"] if tag[:6] in name or name in rig.bridges]
    assert not [table for table in after["tables"] if tag in table]
    assert not [address for address in after["addresses"] if address.startswith(f"{rig.subnet}.")]


class Host:
    """A machine outside: a namespace with a veth to ours."""

    def __init__(self, inside: Inside, address: str, ours: str) -> None:
        self.inside, self.address, self.ours = inside, address, ours

    def run(self, job: Callable[[], T]) -> T:
        return netns.inside(self.inside.fd, job)


@pytest.fixture
def outside() -> Iterator[Host]:
    with outside_host() as host:
        yield host


@contextmanager
def outside_host() -> Iterator[Host]:
    """Connect a machine outside to the calling thread's namespace."""
    machine = Netlink()
    inside = new_inside()
    name, base = f"out{secrets.token_hex(3)}", f"172.{secrets.randbelow(8) + 40}.{secrets.randbelow(250)}"
    ours, theirs = f"{base}.1", f"{base}.2"
    try:
        index = add_pair(machine, inside, name, "eth0", 0, None)
        address = ipaddress.ip_interface
        machine.request([links.add_address(links.index_of(name), address(f"{ours}/24"))])
        inside.netlink.request(
            [
                links.set_link(index, up=True),
                links.add_address(index, address(f"{theirs}/24")),
                links.add_default_route(index, ipaddress.ip_address(ours)),
            ]
        )
        yield Host(inside, theirs, ours)
    finally:
        machine.request([links.delete_link(name)])
        inside.close()
        machine.close()


def in_sandbox(path: Path | None, job: Callable[[], T]) -> T:
    """Run a job in a sandbox's namespace, or in the machine's own."""
    if path is None:
        return job()
    fd = netns.open_pinned(path)
    try:
        return netns.inside(fd, job)
    finally:
        os.close(fd)


@contextmanager
def serving(path: Path | None, port: int, kind: int = socket.SOCK_STREAM, ip: str = "0.0.0.0") -> Iterator[None]:
    """Answer every client with the address it came from."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    server = in_sandbox(path, lambda: socket.socket(family, kind))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((ip, port))
    if kind == socket.SOCK_STREAM:
        server.listen()

    def serve() -> None:
        while True:
            try:
                if kind == socket.SOCK_STREAM:
                    client, peer = server.accept()
                    client.sendall(peer[0].encode())
                    client.close()
                else:
                    data, peer = server.recvfrom(100)
                    if data == b"end":
                        return
                    server.sendto(peer[0].encode(), peer)
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        if kind == socket.SOCK_STREAM:
            server.shutdown(socket.SHUT_RDWR)
        else:
            ender = in_sandbox(path, lambda: socket.socket(family, kind))
            ender.sendto(b"end", ("127.0.0.1", port))
            ender.close()
        thread.join()
        server.close()


def ask(address: str, port: int, kind: int = socket.SOCK_STREAM, timeout_s: float = 30) -> str:
    """Return the address under which a server that is `serving` saw us. Raises OSError."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as client:
        client.settimeout(timeout_s)
        client.connect((address, port))
        if kind == socket.SOCK_DGRAM:
            client.send(b"?")
        return client.recv(100).decode()


def unreachable(address: str, port: int) -> bool:
    try:
        ask(address, port, timeout_s=0.4)
    except OSError:
        return True
    return False
