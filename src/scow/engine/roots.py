"""A container's file system for work from outside: mounted while it is needed, whether the container runs or not."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from scow.engine.container import Container
from scow.engine.container_mounts import image_key, volume_names
from scow.engine.volumes import Volumes
from scow.errors import Conflict
from scow.store.snapshots import Snapshots

NETWORK_FILES: Final = ("hosts", "hostname", "resolv.conf")


class Roots:
    """Keeps roots mounted, with their volumes, for as long as somebody uses them."""

    def __init__(self, snapshots: Snapshots, volumes: Volumes, prepare: Callable[[Container, Path], None]) -> None:
        """`prepare` is called, in a thread, with each root that is mounted before the container's first run."""
        self._prepare = prepare
        self._snapshots = snapshots
        self._volumes = volumes
        self._users: Counter[str] = Counter()

    @asynccontextmanager
    async def mounted(self, container: Container) -> AsyncIterator[Path]:
        """Give the folder of the container's root, without volumes. Raises Conflict if it is being removed."""
        async with AsyncExitStack() as keep:
            async with container.lock:  # not while it is being removed, or the last one lets its volumes go
                if container.removing or container.state.status in ("removing", "dead"):
                    raise Conflict("container is marked for removal")
                path = await keep.enter_async_context(self._snapshots.kept_mounted(container.id))
                self._users[container.id] += 1
                keep.push_async_callback(lambda: asyncio.shield(asyncio.ensure_future(self._leave(container))))
                for name in volume_names(container.record):
                    await self._volumes.mount(name, _holder(container))
                if not (container.state.ever_started or container.state.live):
                    await asyncio.to_thread(self._prepare, container, path)
            yield path

    async def _leave(self, container: Container) -> None:
        async with container.lock:  # not while the next one is taking the volumes
            self._users[container.id] -= 1
            if self._users[container.id] > 0:
                return
            del self._users[container.id]
            for name in volume_names(container.record):
                await self._volumes.unmount(name, _holder(container))

    def mounts(self, container: Container) -> list[dict[str, object]]:
        """What is mounted over the root, outer ones first: source, destination, rw. A tmpfs is the container's own.

        `shifted` are those whose files have the container's own IDs on disk.
        """
        found: dict[str, tuple[str, bool, str]] = {}
        for name in NETWORK_FILES:
            file = container.folder / name
            if file.exists():
                found[f"/etc/{name}"] = (str(file), True, "")
        volumes = {mount.destination for mount in container.record.mounts if mount.type == "volume"}
        for index, mount in enumerate(container.record.mounts):
            if mount.type == "bind":
                found[mount.destination] = (mount.source, mount.rw, "")
            elif mount.type == "volume":
                found[mount.destination] = (str(self._volumes.path(mount.name)), mount.rw, mount.subpath)
            elif mount.type == "image":
                source = self._snapshots.mount_point(image_key(container.id, index))
                found[mount.destination] = (str(source), False, mount.subpath)
        return [
            {
                "source": source,
                "destination": destination,
                "rw": rw,
                "subpath": subpath,
                "shifted": destination in volumes,
            }
            for destination, (source, rw, subpath) in sorted(found.items(), key=lambda item: item[0].count("/"))
            if Path(source).exists()
        ]


def _holder(container: Container) -> str:
    return f"archive-{container.id}"
