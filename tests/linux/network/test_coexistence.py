"""Beside other firewalls, in a namespace of the test's own that stands for a machine."""

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scow.linux import links, netns
from scow.linux.netlink import Netlink
from scow.network.model import EndpointRequest, NetworkRequest, Pool, Port

from .conftest import Host, Rig, ask, in_sandbox, outside_host, serving, unreachable

needs_iptables = pytest.mark.skipif(shutil.which("iptables-nft") is None, reason="needs iptables-nft")


def on_a_machine_of_its_own(
    folder: Path, scenario: Callable[[Rig, Host], Coroutine[Any, Any, None]], afterwards: Callable[[], None]
) -> None:
    """Run a scenario in a new namespace, which has a neighbour; `afterwards` when all engines have gone there."""

    async def whole() -> None:
        rig = Rig(folder)
        with outside_host() as outside:
            try:
                await scenario(rig, outside)
            finally:
                await rig.finish()

    def job(fd: int) -> None:
        machine = Netlink()
        machine.request([links.set_link(1, up=True)])
        machine.close()
        asyncio.run(whole())
        afterwards()

    netns.make(job)


def iptables(*args: str) -> list[str]:
    return subprocess.run(["iptables-nft", *args], check=True, capture_output=True, text=True).stdout.splitlines()


async def eventually(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(what):  # noqa: ASYNC110 - other programs' state has no event
            await asyncio.sleep(0.05)


@needs_iptables
def test_a_policy_of_dropping_stops_neither_what_is_published_nor_the_way_out(tmp_path: Path) -> None:
    async def scenario(rig: Rig, outside: Host) -> None:
        iptables("-P", "FORWARD", "DROP")  # as dockerd and ufw have it
        iptables("-A", "FORWARD", "-s", "192.0.2.0/24", "-j", "DROP")
        theirs = iptables("-S", "FORWARD")
        networks = await rig.engine()
        await networks.create(NetworkRequest(name="n", pools=(Pool(subnet="10.97.9.0/24", gateway=""),)))
        for name, network in (("c1", "bridge"), ("c2", "n")):
            sandbox = await networks.sandbox(name, network)
            endpoint = await networks.connect(sandbox, network, EndpointRequest(container_name=name), (Port(80),))
            port = endpoint.ports[0].host_port
            neighbour = Path(f"/proc/self/fd/{outside.inside.fd}")
            with serving(sandbox.path, 80), serving(neighbour, 7000):
                assert outside.run(partial(ask, outside.ours, port)) == outside.address
                assert in_sandbox(sandbox.path, partial(ask, outside.address, 7000)) == outside.ours
                assert outside.run(partial(unreachable, endpoint.ip, 80)), "not published there"
        bridges = {network.bridge for network in networks.all() if network.bridge}
        ours = [line for line in iptables("-S", "FORWARD") if line not in theirs]
        assert sorted(line.split()[3] for line in ours) == sorted([*bridges, *bridges])
        # They go when they aren't needed, and come when they are.
        iptables("-P", "FORWARD", "ACCEPT")
        await eventually(lambda: len(iptables("-S", "FORWARD")) == len(theirs))
        iptables("-P", "FORWARD", "DROP")
        await eventually(lambda: len(iptables("-S", "FORWARD")) == len(theirs) + len(ours))
        iptables("-P", "FORWARD", "ACCEPT")
        await eventually(lambda: len(iptables("-S", "FORWARD")) == len(theirs))
        iptables("-A", "FORWARD", "-j", "REJECT")  # as firewalld has it
        await eventually(lambda: len(iptables("-S", "FORWARD")) == len(theirs) + len(ours) + 1)
        assert iptables("-S", "FORWARD")[-1].startswith("-A FORWARD -j REJECT")
        iptables("-D", "FORWARD", "-j", "REJECT")
        iptables("-P", "FORWARD", "DROP")
        await eventually(lambda: len(iptables("-S", "FORWARD")) == len(theirs) + len(ours))
        # After a kill too, and when it is removed.
        await rig.kill(networks)
        again = await rig.engine()
        assert sorted(iptables("-S", "FORWARD")) == sorted([*theirs, *ours])
        iptables("-F", "FORWARD")
        iptables("-A", "FORWARD", "-s", "192.0.2.0/24", "-j", "DROP")
        await eventually(lambda: len(iptables("-S", "FORWARD")) == len(theirs) + len(ours))
        for name in ("c1", "c2"):
            await again.release(name)
        await again.remove("n")
        await again.settled()
        assert len(iptables("-S", "FORWARD")) == len(theirs) + 2, "for the default bridge"

    def afterwards() -> None:
        assert iptables("-S", "FORWARD") == ["-P FORWARD DROP", "-A FORWARD -s 192.0.2.0/24 -j DROP"]

    on_a_machine_of_its_own(tmp_path, scenario, afterwards)


@needs_iptables
def test_a_table_that_is_anothers_alone_keeps_nobody_from_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(rig: Rig, outside: Host) -> None:
        iptables("-P", "FORWARD", "DROP")
        with owned_table() as is_there:
            await eventually(is_there)
            await rig.engine()
            assert len(iptables("-S", "FORWARD")) == 3
            assert "containers may be cut off by ip strict f" in caplog.text

    on_a_machine_of_its_own(tmp_path, scenario, lambda: None)


@contextmanager
def owned_table() -> Iterator[Callable[[], bool]]:
    """A table that only the program may change that made it, and that goes with it; tells whether it is there."""
    owner = subprocess.Popen(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert owner.stdin is not None
    chain = "chain f { type filter hook forward priority 0; policy drop; }"
    owner.stdin.write(f"add table ip strict {{ flags owner; {chain}; }}\n".encode())
    owner.stdin.flush()
    try:
        yield lambda: b"strict" in subprocess.run(["nft", "list", "tables"], check=True, capture_output=True).stdout
    finally:
        owner.communicate(b"quit\n")
