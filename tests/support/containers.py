"""Containers without an engine: a busybox root, monitors, and what comes of them."""

import asyncio
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any

from scow.runtime.attach import AttachStream
from scow.runtime.bundle import BundleContext, make_spec
from scow.runtime.exec import ExecProcess, ExecSpec, start_exec
from scow.runtime.monitor import Exit, Monitors
from scow.runtime.oci_runtime import OciRuntime
from scow.runtime.user import ProcessUser
from scow.wire.container import ContainerConfig
from scow.wire.host_config import HostConfig

BUSYBOX = Path("/usr/bin/busybox")
COMMANDS = (
    "cat",
    "dd",
    "echo",
    "hostname",
    "id",
    "ls",
    "mount",
    "mv",
    "pwd",
    "seq",
    "sh",
    "sleep",
    "stty",
    "touch",
    "true",
    "wc",
)
TIMEOUT_S = 60.0


class Machine:
    """A small engine: a root file system, monitors, and their exits by container."""

    def __init__(self, root: Path, runtime: OciRuntime, rootfs: Path) -> None:
        self.root = root
        self.runtime = runtime
        self.rootfs = rootfs
        self.group = f"/scow-test-{secrets.token_hex(6)}"
        self.exits: dict[str, asyncio.Future[Exit]] = {}
        self.monitors = self.open_monitors()

    def open_monitors(self) -> Monitors:
        monitors = Monitors(self.root, self.runtime, self._on_exit)
        monitors.open()
        return monitors

    def _on_exit(self, ended: Exit) -> None:
        self.expect(ended.id).set_result(ended)

    def expect(self, id: str) -> asyncio.Future[Exit]:
        return self.exits.setdefault(id, asyncio.get_running_loop().create_future())

    def log_path(self, id: str) -> Path:
        return self.root / f"{id}.log"

    async def create(
        self,
        *args: str,
        config: ContainerConfig | None = None,
        host: HostConfig | None = None,
        user: ProcessUser | None = None,
        stdin_once: bool = False,
        log_max_size: int | None = None,
        shares_memory: bool = False,
        **context: Any,
    ) -> str:
        id = secrets.token_hex(32)
        config = config or ContainerConfig()
        if shares_memory:
            context["shared_memory"] = self.monitors.shared_memory(id)
        spec = make_spec(
            config,
            host or HostConfig(),
            BundleContext(
                id=id,
                rootfs=self.rootfs,
                args=args,
                user=user or ProcessUser(home="/root"),
                hostname="box",
                cgroups_path=f"{self.group}/{id}",
                **context,
            ),
        )
        await self.monitors.create(
            id,
            spec,
            terminal=config.tty,
            open_stdin=config.open_stdin,
            stdin_once=stdin_once,
            log_path=self.log_path(id),
            log_max_size=log_max_size,
            shm_size=8 << 20 if shares_memory else None,
        )
        return id

    async def run(self, *args: str, **more: Any) -> tuple[str, str, int]:
        """Run to the end: what came on both streams, and the exit code."""
        id = await self.create(*args, **more)
        stream = await self.monitors.attach(id, stdin=False)
        await self.monitors.start(id)
        output = await everything(stream)
        ended = await self.ended(id)
        await self.monitors.delete(id)
        return output[1].decode(), output[2].decode(), ended.exit_code

    async def start(self, *args: str, **more: Any) -> str:
        id = await self.create(*args, **more)
        await self.monitors.start(id)
        return id

    async def ended(self, id: str) -> Exit:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.expect(id)

    async def exec(self, id: str, *args: str, **more: Any) -> ExecProcess:
        more.setdefault("config", ContainerConfig())
        more.setdefault("host", HostConfig())
        more.setdefault("user", ProcessUser(home="/root"))
        return await start_exec(self.monitors, id, ExecSpec(args=args, **more))


async def everything(stream: AttachStream | ExecProcess) -> dict[int, bytes]:
    """All that comes until the end, by stream."""
    found = {1: b"", 2: b""}
    async with asyncio.timeout(TIMEOUT_S):
        while chunks := await stream.read():
            for number, data in chunks:
                found[number] += data
    await stream.aclose()
    return found


def make_rootfs() -> Path:
    """A root file system of busybox and two users; the caller removes it."""
    folder = Path(tempfile.mkdtemp(prefix="scow-rootfs-"))
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "sbin"):
        (folder / name).mkdir()
    shutil.copy(BUSYBOX, folder / "bin/busybox")
    for name in COMMANDS:
        (folder / "bin" / name).symlink_to("busybox")
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\nann:x:1000:\nstaff:x:50:ann\n")
    return folder
