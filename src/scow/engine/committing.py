"""An image from a container as it is now. Engine API, POST /commit."""

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec

from scow import points
from scow.engine.asked_changes import with_changes
from scow.engine.container import Container, ContainerTable
from scow.engine.creation import attributes_of
from scow.engine.events import Events
from scow.engine.image_lookup import tag_reference
from scow.engine.lifecycle import Lifecycle
from scow.engine.merging import merge_config
from scow.engine.mount_points import MOUNT_POINTS
from scow.engine.roots import Roots
from scow.errors import Conflict
from scow.oci.image_config import ExecConfig, Healthcheck
from scow.oci.platform import host_platform
from scow.store.assembly import derive, publish
from scow.store.layers import Layer
from scow.store.store import Store
from scow.wire.container import ContainerConfig, HealthConfig
from scow.wire.image import CommitRequest


class Commits:
    """Makes images of containers, whether they run, are paused or have ended."""

    def __init__(self, table: ContainerTable, lifecycle: Lifecycle, roots: Roots, store: Store, events: Events) -> None:
        self._table = table
        self._lifecycle = lifecycle
        self._roots = roots
        self._store = store
        self._events = events

    async def run(self, request: CommitRequest) -> str:
        """Make an image and return its ID. Raises NoSuchContainer, InvalidArgument for a name or change that is none,
        Conflict for a container that is being removed."""
        name = tag_reference(request.repo, request.tag)
        container = self._table.get(request.container)
        if container.removing or container.state.status in ("removing", "dead"):
            how = "Dead" if container.state.status == "dead" else "being removed"
            raise Conflict(f"You cannot commit container {container.id} which is {how}")
        record = container.record
        own = record.config
        asked = exec_config(request.config or own)
        changed = await with_changes(request.changes, asked)
        merged = merge_config(container_config(changed), exec_config(own))
        async with self._paused(container, request.pause), self._store.leases.hold():
            base = None if record.image is None else await self._store.images.config(record.image)
            config = derive(
                base,
                [await self._capture(container)],
                msgspec.structs.replace(exec_config(merged), on_build=changed.on_build),
                platform=host_platform(),
                created=datetime.now(UTC),
                author=request.author,
                comment=request.comment,
                created_by=" ".join(own.cmd or ()),
            )
            image = await publish(self._store, config, None if name is None else str(name), record.image)
            if name is not None:
                self._events.emit("image", "tag", image.id, {"name": name.familiar})
            attributes = {
                **attributes_of(container),
                "comment": request.comment,
                "imageID": image.id,
                "imageRef": "" if name is None else name.familiar,
            }
            self._events.emit("container", "commit", container.id, attributes)
        return image.id

    async def _capture(self, container: Container) -> Layer:
        """The layer of what the container has changed. Its root is mounted meanwhile, and so was at least once."""
        upper = self._store.snapshots.upper(container.id)
        diff_ids = container.record.diff_ids
        async with contextlib.AsyncExitStack() as keep:
            await keep.enter_async_context(self._roots.mounted(container))
            base = await keep.enter_async_context(self._store.snapshots.view(diff_ids)) if diff_ids else None
            return await self._store.layers.capture(upper, base=base, stubs=MOUNT_POINTS)

    @contextlib.asynccontextmanager
    async def _paused(self, container: Container, wanted: bool) -> AsyncIterator[None]:
        """Freeze a running container while the block lasts. One that can't be frozen is taken as it is."""
        if not wanted or not await self._hold(container):
            yield
            return
        try:
            await points.at("commit.paused")
            yield
        finally:
            await self._let_go(container)

    async def _hold(self, container: Container) -> bool:
        """Freeze a running container; False if it can't be. That it is a commit that does so is noted first."""
        async with container.lock:
            if container.state.status != "running" or container.state.held_by_commit:
                return False
            await self._table.set_state(container, held_by_commit=True)
        try:
            await self._lifecycle.pause(container)
        except Conflict:  # it ended, or somebody else paused it
            await self._note_end(container)
            return False
        except BaseException:
            await self._let_go(container)
            raise
        return True

    async def _let_go(self, container: Container) -> None:
        with contextlib.suppress(Conflict):
            await self._lifecycle.unpause(container)
        await self._note_end(container)

    async def _note_end(self, container: Container) -> None:
        async with container.lock:
            if not container.gone.done():
                await self._table.set_state(container, held_by_commit=False)


def exec_config(config: ContainerConfig) -> ExecConfig:
    """What of a container's configuration belongs into an image."""
    health = config.healthcheck
    return ExecConfig(
        user=config.user,
        exposed_ports=config.exposed_ports or None,
        env=config.env or None,
        entrypoint=config.entrypoint,
        cmd=config.cmd,
        volumes=config.volumes or None,
        working_dir=config.working_dir,
        labels=config.labels or None,
        stop_signal=config.stop_signal,
        args_escaped=config.args_escaped,
        healthcheck=None if health is None else Healthcheck(**msgspec.structs.asdict(health)),
        shell=config.shell,
        on_build=config.on_build,
        stop_timeout=config.stop_timeout,
    )


def container_config(config: ExecConfig) -> ContainerConfig:
    """An image's execution parameters as a container's configuration."""
    health = config.healthcheck
    return ContainerConfig(
        user=config.user,
        exposed_ports=config.exposed_ports,
        env=config.env,
        entrypoint=config.entrypoint,
        cmd=config.cmd,
        volumes=config.volumes,
        working_dir=config.working_dir,
        labels=config.labels,
        stop_signal=config.stop_signal,
        args_escaped=config.args_escaped,
        healthcheck=None if health is None else HealthConfig(**msgspec.structs.asdict(health)),
        shell=config.shell,
        on_build=config.on_build,
        stop_timeout=config.stop_timeout,
    )
