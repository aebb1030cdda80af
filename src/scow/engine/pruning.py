"""Removing what nobody uses: stopped containers, dangling images, unused volumes. Engine API, POST /.../prune."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from scow.engine import validation
from scow.engine.container import ContainerTable
from scow.engine.events import Events
from scow.engine.filters import Filters, has_label, has_labels, switch
from scow.engine.image_uses import ImageUses
from scow.engine.images import Images
from scow.engine.moments import parse_moment
from scow.engine.removal import Removal
from scow.engine.volumes import Volumes
from scow.errors import Conflict, InvalidArgument, NotFound, ScowError
from scow.oci.reference import parse_reference
from scow.store.snapshots import tree_size
from scow.store.store import Store
from scow.wire.container import PruneContainersReply
from scow.wire.image import PruneImagesReply
from scow.wire.volume import PruneVolumesReply

log = logging.getLogger(__name__)

# `unused-for` is Scow's own, named as docker's filter of the build cache: how long ago it was used last.
CONTAINER_FILTERS: Final = frozenset({"label", "label!", "until", "unused-for"})
IMAGE_FILTERS: Final = frozenset({"dangling", "label", "label!", "until", "unused-for"})
VOLUME_FILTERS: Final = frozenset({"all", "label", "label!"})


class Pruning:
    """Prunes one kind of thing at a time."""

    def __init__(
        self,
        table: ContainerTable,
        removal: Removal,
        store: Store,
        images: Images,
        volumes: Volumes,
        events: Events,
        uses: ImageUses,
    ) -> None:
        self._table = table
        self._removal = removal
        self._store = store
        self._images = images
        self._volumes = volumes
        self._events = events
        self._uses = uses
        self._running = False

    async def containers(self, filters: Filters) -> PruneContainersReply:
        """Remove containers that don't run."""
        validation.check_filters(filters, CONTAINER_FILTERS)
        until, used_before = _moment(filters, "until"), _moment(filters, "unused-for")
        deleted: list[str] = []
        reclaimed = 0
        async with self._alone():
            for container in self._table:
                record = container.record
                if container.state.live or container.state.status in ("restarting", "starting", "removing"):
                    continue
                if not _is_wanted(record.config.labels or {}, filters) or not _is_before(record.created_at, until):
                    continue
                if not _is_before(container.state.finished_at or record.created_at, used_before):
                    continue
                try:
                    size = await asyncio.to_thread(_disk_usage, self._store.snapshots.upper(container.id).parent)
                    size += await asyncio.to_thread(_disk_usage, container.folder)
                    await self._removal.remove(container, force=False, volumes=False)
                except (ScowError, OSError) as error:
                    log.info("container %s is not pruned: %s", container.id, error)
                    continue
                deleted.append(container.id)
                reclaimed += size
        self._events.emit("container", "prune", "", {"reclaimed": str(reclaimed)})
        return PruneContainersReply(containers_deleted=deleted or None, space_reclaimed=reclaimed)

    async def images(self, filters: Filters) -> PruneImagesReply:
        """Remove images without a tag that no container uses; with dangling=false those with tags too."""
        validation.check_filters(filters, IMAGE_FILTERS)
        until, used_before = _moment(filters, "until"), _moment(filters, "unused-for")
        dangling = switch(filters, "dangling") is not False
        refs: list[str] = []
        async with self._alone():
            before = self._store.freed
            used = {container.record.image for container in self._table}
            for image in self._store.images.all():
                names = self._store.images.names(image.id)
                created = int(image.created.timestamp() * 1e9) if image.created else 0
                if image.id in used or (dangling and names) or not _is_before(created, until):
                    continue
                if self._store.images.children(image.id) and not (names or self._store.images.digests(image.id)):
                    continue  # it goes with the last image that was made of it
                if used_before is not None and self._uses.last_used(image).timestamp() >= used_before:
                    continue
                if _is_wanted(await self._store.images.labels(image.id), filters):
                    refs += [parse_reference(name).familiar for name in names] or [image.id]
            deleted = await self._images.remove_unused(refs)
            reclaimed = self._store.freed - before
        self._events.emit("image", "prune", "", {"reclaimed": str(reclaimed)})
        return PruneImagesReply(images_deleted=deleted or None, space_reclaimed=reclaimed)

    async def volumes(self, filters: Filters, *, named: bool) -> PruneVolumesReply:
        """Remove volumes that no container refers to: anonymous ones; `named` or all=true means all of them."""
        validation.check_filters(filters, VOLUME_FILTERS)
        given = switch(filters, "all")
        every = named if given is None else given
        deleted: list[str] = []
        reclaimed = 0
        async with self._alone():
            for volume in self._volumes.prunable(named=every):
                if not _is_wanted(volume.labels, filters):
                    continue
                size = await asyncio.to_thread(tree_size, self._volumes.path(volume.name))
                try:
                    await self._volumes.remove(volume.name)
                except (Conflict, NotFound) as error:  # somebody began to use it, or removed it
                    log.info("volume %s is not pruned: %s", volume.name, error)
                    continue
                deleted.append(volume.name)
                reclaimed += size
        self._events.emit("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return PruneVolumesReply(volumes_deleted=deleted, space_reclaimed=reclaimed)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        if self._running:
            raise Conflict("a prune operation is already running")
        self._running = True
        try:
            yield
        finally:
            self._running = False


def _disk_usage(top: Path) -> int:
    """Bytes that a tree takes on disk. Blocks; what vanishes meanwhile counts nothing."""
    total = 0
    for folder, _, files in os.walk(top):
        for path in (folder, *(os.path.join(folder, name) for name in files)):
            with suppress(FileNotFoundError):
                total += os.lstat(path).st_blocks * 512
    return total


def _moment(filters: Filters, name: str) -> float | None:
    values = filters.get(name) or ()
    if len(values) > 1:
        raise InvalidArgument(f"more than one {name} filter specified")
    return parse_moment(values[0], time.time()) if values else None


def _is_before(created_ns: int, until: float | None) -> bool:
    return until is None or created_ns / 1e9 < until


def _is_wanted(labels: Mapping[str, str], filters: Filters) -> bool:
    return has_labels(labels, filters.get("label", ())) and not any(
        has_label(labels, value) for value in filters.get("label!", ())
    )
