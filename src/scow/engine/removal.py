"""Removing containers: everything that one holds, in an order that a kill at any moment can be picked up from."""

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable
from typing import Final

from scow import points
from scow.engine.container import Container, ContainerTable
from scow.engine.creation import attributes_of
from scow.engine.describing import status_word
from scow.engine.events import Events
from scow.engine.lifecycle import Lifecycle, NotRunning
from scow.engine.resources import Resources
from scow.engine.volumes import Volumes
from scow.errors import Conflict
from scow.store.database import DatabaseFailed
from scow.store.snapshots import Snapshots

ROOM_WAITS_S: Final = (0.05, 0.2, 1.0)


class StillRunning(Conflict):
    """The container has processes, and the removal was not forced."""

    def __init__(self, container: Container) -> None:
        status = status_word(container.state)
        advice = {
            "paused": "unpause and then stop the container before removal or force remove",
        }.get(status, "stop the container before removal or force remove")
        super().__init__(f'cannot remove container "/{container.name}": container is {status}: {advice}')


class Removal:
    """Removes containers with their writable layers, logs and, if wished, anonymous volumes."""

    def __init__(
        self,
        table: ContainerTable,
        lifecycle: Lifecycle,
        resources: Resources,
        snapshots: Snapshots,
        volumes: Volumes,
        events: Events,
    ) -> None:
        self._table = table
        self._lifecycle = lifecycle
        self._resources = resources
        self._snapshots = snapshots
        self._volumes = volumes
        self._events = events
        self.before_files_go: list[Callable[[Container], Awaitable[None]]] = []

    async def remove(self, container: Container, *, force: bool, volumes: bool) -> None:
        """Remove it. Raises StillRunning unless forced; Conflict if it is being removed already.

        A forced one waits for a removal that is under way, and tries again if that comes to nothing.
        """
        while container.removing:
            if not force:
                raise Conflict(f"removal of container {container.id} is already in progress")
            if await container.removal_over():
                return
        if _has_processes(container) and not force:
            raise StillRunning(container)
        container.removal_begins()
        try:
            if _has_processes(container):
                await self._end(container)
            async with container.lock:
                if _has_processes(container) and not force:  # a start had got as far as this before us
                    raise StillRunning(container)
                await self.forget(container, volumes=volumes)
        except BaseException:
            container.removal_failed()
            raise

    async def _end(self, container: Container) -> None:
        async with container.lock:
            running = container.state.live or container.state.status == "restarting"
        if running:
            await points.at("remove.ending")
            with contextlib.suppress(NotRunning):  # it has ended by itself meanwhile
                await self._lifecycle.kill(container, "SIGKILL")
            async with container.lock:
                pass  # the exit has been dealt with when its holder lets go

    async def auto_remove(self, container: Container) -> None:
        """Remove a container that was run with `--rm`, with its anonymous volumes."""
        if not container.removing:
            await self.remove(container, force=True, volumes=True)

    async def forget(self, container: Container, *, volumes: bool) -> None:
        """Give back all that the container holds, and its record last; the caller holds the lock. Idempotent."""
        removing = container.record.with_state(status="removing", remove_volumes=volumes)
        await self._table.note(container, removing)
        await points.at("remove.recorded")
        await self._resources.release(container)
        await points.at("remove.released")
        for attachment in tuple(container.attachments):
            attachment.connect(None)
        container.attachments.clear()
        await _when_there_is_room(lambda: self._snapshots.remove(container.id))
        await _when_there_is_room(lambda: self._resources.mounts.forget(container.record))
        await points.at("remove.snapshot")
        for step in self.before_files_go:
            await step(container)
        await asyncio.to_thread(shutil.rmtree, container.folder, True)
        anonymous = [mount.name for mount in container.record.mounts if mount.anonymous] if volumes else []
        dropped = self._volumes.only_of(container.id, anonymous)
        await _when_there_is_room(lambda: self._table.remove(container, self._volumes.deleting(dropped)))
        await points.at("remove.forgotten")
        await self._volumes.drop(dropped)
        self._events.emit("container", "destroy", container.id, attributes_of(container))
        container.removed()


def _has_processes(container: Container) -> bool:
    return container.state.live or container.state.status in ("restarting", "starting")


async def _when_there_is_room(step: Callable[[], Awaitable[None]]) -> None:
    """Do a step of a removal again if the disk was full: the files that were let go before are just being deleted."""
    for wait_s in ROOM_WAITS_S:
        try:
            return await step()
        except DatabaseFailed:
            await asyncio.sleep(wait_s)
    await step()
