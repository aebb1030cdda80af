"""Containers outlive the engine, however it ends."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

from scow.linux import cgroup
from scow.runtime.logs import read_log
from scow.runtime.monitor import Alive
from scow.runtime.selection import choose_runtimes
from support.containers import Machine, everything

TESTS = Path(__file__).parents[2]


def start_and_kill_an_engine(exec_root: Path, rootfs: Path, group: str) -> tuple[str, int]:
    """The ID and pid of the container that it leaves behind."""
    command = [sys.executable, str(Path(__file__).with_name("first_engine.py")), str(exec_root), str(rootfs), group]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as first:
        assert first.stdout is not None
        id, pid = first.stdout.readline().split()
        first.send_signal(signal.SIGKILL)
    return id, int(pid)


async def test_a_container_goes_on_when_the_engine_is_killed(exec_root: Path, rootfs: Path) -> None:
    group = f"/scow-test-{secrets.token_hex(6)}"
    id, pid = await asyncio.to_thread(start_and_kill_an_engine, exec_root, rootfs, group)
    runtimes, name = await choose_runtimes("", {}, exec_root)
    machine = Machine(exec_root, runtimes[name], rootfs)
    try:
        assert await machine.monitors.probe(id) == Alive(pid)
        stream = await machine.monitors.attach(id)
        await stream.write(b"the kill\n")
        assert (await everything(stream))[1] == b"after the kill\n"
        assert (await machine.ended(id)).exit_code == 42
        lines = [line.data async for batch in read_log(machine.log_path(id)) for line in batch]
        assert lines == [b"before\n", b"after the kill\n"]
    finally:
        await machine.monitors.delete(id)
        await machine.monitors.aclose()
        assert cgroup.remove(group)
