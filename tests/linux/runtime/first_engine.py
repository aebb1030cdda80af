"""An engine process of its own, for a test that kills it: starts one container, says its ID and pid, and waits."""

import asyncio
import sys
from pathlib import Path

from scow.runtime.selection import choose_runtimes
from scow.wire.container import ContainerConfig
from support.containers import Machine


async def main(exec_root: Path, rootfs: Path, group: str) -> None:
    runtimes, name = await choose_runtimes("", {}, exec_root)
    machine = Machine(exec_root, runtimes[name], rootfs)
    machine.group = group
    script = "echo before; read line; echo after $line; exit 42"
    id = await machine.create("sh", "-c", script, config=ContainerConfig(open_stdin=True))
    stream = await machine.monitors.attach(id)
    await machine.monitors.start(id)
    await stream.read()
    print(id, machine.monitors.pid(id), flush=True)
    await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
