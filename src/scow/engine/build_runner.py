"""RUN steps of builds: containers that are on no list, made of the same parts as all others.

A step's container has a record like others, but not in the table: no list shows it, and what a killed engine leaves
of it belongs to nobody, so that the next start removes it: snapshot, mounts, network, processes and files.
"""

import asyncio
import os
import shutil
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import msgspec

from scow import points
from scow.build.runner import Output, RunMount, RunRequest
from scow.engine.config import EngineConfig
from scow.engine.container import Container
from scow.engine.record import ContainerRecord, MountRecord, now_ns
from scow.engine.resources import Resources
from scow.engine.user_namespaces import check_user_namespace
from scow.linux.cgroup import is_unified
from scow.runtime.attach import AttachStream
from scow.runtime.monitor import Exit
from scow.runtime.profile import MASKED_PATHS, READONLY_PATHS
from scow.store.layer_records import Layer
from scow.store.store import Store
from scow.wire.container import ContainerConfig
from scow.wire.host_config import HostConfig, LogConfig, RestartPolicy
from scow.wire.network import EndpointSettings

_STUBS: Final = ("/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
"""What a runtime makes in a root that lacks it, to mount something there."""


class BuildRuns:
    """The commands of all builds. `exited` is told of every container's end, `otherwise` of those that aren't ours."""

    def __init__(self, config: EngineConfig, store: Store, resources: Resources) -> None:
        self._config = config
        self._store = store
        self._resources = resources
        self.otherwise: Callable[[Exit], None] = lambda ended: None
        self._ends: dict[str, asyncio.Future[Exit]] = {}

    def exited(self, ended: Exit) -> None:
        """Take notice of an end."""
        waiting = self._ends.get(ended.id)
        if waiting is None:
            self.otherwise(ended)
        elif not waiting.done():
            waiting.set_result(ended)

    def runner(self, host: HostConfig) -> "BuildRunner":
        """Something that runs commands with a build's limits and network."""
        return BuildRunner(self, host)

    async def run(self, id: str, host: HostConfig, request: RunRequest, output: Output) -> tuple[int, Layer | None]:
        """As Runner.run."""
        record = self._record(id, host, request)
        if self._resources.users is not None:
            check_user_namespace(record.host_config)
        container = Container(record, self._config.exec_root / "build" / id)
        self._ends[id] = asyncio.get_running_loop().create_future()
        try:
            async with AsyncExitStack() as undo:
                undo.push_async_callback(_unhurried, self._remove(container))
                await self._store.snapshots.prepare(id, request.base)
                await points.at("build.prepared")
                code = await self._execute(container, output)
                await points.at("build.ran")
                if code != 0:
                    return code, None
                return 0, await self._capture(container, request)
        finally:
            del self._ends[id]

    async def _execute(self, container: Container, output: Output) -> int:
        streams: list[AttachStream] = []

        async def attach(_: Container) -> None:
            streams.append(await self._resources.attach(container, stdin=False))

        await self._resources.acquire(container, attach)
        try:
            while chunks := await streams[0].read():
                for number, data in chunks:
                    await output(number, data)
            ended = await self._ends[container.id]
            return ended.exit_code
        finally:
            await streams[0].aclose()
            await _unhurried(self._resources.release(container))

    async def _capture(self, container: Container, request: RunRequest) -> Layer | None:
        snapshots = self._store.snapshots
        stubs = [*_STUBS, *(mount.target for mount in request.mounts)]
        upper = snapshots.upper(container.id)
        if not await asyncio.to_thread(os.listdir, upper):
            return None
        async with snapshots.view(request.base) as base:
            layer = await self._store.layers.capture(upper, base=base, stubs=stubs, clamp_mtime=request.epoch)
        return layer if layer.entries else None

    async def _remove(self, container: Container) -> None:
        await self._resources.release(container)
        await self._store.snapshots.remove(container.id)
        await asyncio.to_thread(shutil.rmtree, container.folder, True)

    def _record(self, id: str, host: HostConfig, request: RunRequest) -> ContainerRecord:
        mode = (host.network_mode or "default") if request.network == "default" else request.network
        if mode in ("default", "bridge"):
            mode = self._config.default_network
        privileged = request.insecure
        host = msgspec.structs.replace(
            host,
            network_mode=mode,
            privileged=privileged,
            runtime=self._resources.default_runtime,
            ipc_mode="private",
            cgroupns_mode="private" if is_unified() and not privileged else "host",
            shm_size=host.shm_size or self._config.default_shm_size,
            log_config=LogConfig(type="none", config={}),
            restart_policy=RestartPolicy(name="no"),
            masked_paths=None if privileged else list(MASKED_PATHS),
            readonly_paths=None if privileged else list(READONLY_PATHS),
            memory_swap=host.memory * 2 if host.memory > 0 and host.memory_swap == 0 else host.memory_swap,
        )
        return ContainerRecord(
            id=id,
            name=f"build-{id[:12]}",
            created_at=now_ns(),
            config=ContainerConfig(
                hostname=id[:12] if mode != "host" else "",
                user=request.user,
                env=list(request.env),
                working_dir=request.working_dir,
            ),
            host_config=host,
            args=request.args,
            diff_ids=request.base,
            mounts=tuple(_mount(each) for each in request.mounts),
            endpoints={} if mode.startswith("container:") else {mode: EndpointSettings()},
            runtime=host.runtime,
        )


class BuildRunner:
    """Runs the commands of one build."""

    def __init__(self, runs: BuildRuns, host: HostConfig) -> None:
        self._runs = runs
        self._host = host

    async def run(self, id: str, request: RunRequest, output: Output) -> tuple[int, Layer | None]:
        """As Runner.run."""
        return await self._runs.run(id, self._host, request, output)


def clear_folders(exec_root: Path) -> None:
    """Remove what a killed engine's builds left in the exec root. Blocks: for start-up."""
    shutil.rmtree(exec_root / "build", ignore_errors=True)


def _mount(each: RunMount) -> MountRecord:
    if each.source is None:
        options = () if each.size is None else (f"size={each.size}",)
        return MountRecord(type="tmpfs", destination=each.target, rw=True, options=options)
    return MountRecord(type="bind", source=str(each.source), destination=each.target, rw=each.rw, engines=True)


async def _unhurried(work: Coroutine[Any, Any, None]) -> None:
    """Come to the end of a clean-up even if cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
