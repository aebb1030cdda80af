"""A container's mounts over its life: made and filled at its creation, shown while it runs, given back after.

Volumes are held by the container's ID from before its start until its end is dealt with. An image that is mounted is a
snapshot of its own, which keeps its layers; it is named after the container, so that whatever removes the one finds the
other.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from scow.engine.image_lookup import get_image
from scow.engine.mounts import LABELS
from scow.engine.record import ContainerRecord, MountRecord
from scow.engine.subpaths import hide_subpath, show, show_subpath
from scow.engine.volumes import LOCAL, VolumeRecord, Volumes
from scow.errors import InvalidArgument, NotFound
from scow.linux.mount import mount_of
from scow.oci.digest import DiffID, Digest
from scow.runtime.bundle import BundleMount
from scow.runtime.selinux import Labels, relabel
from scow.store.overlay import Shift
from scow.store.store import Store
from scow.wire.host_config import HostConfig


def image_key(container_id: str, index: int) -> str:
    """The snapshot of the image that is a container's mount number `index`."""
    return f"{container_id}.{index}"


def container_of(key: str) -> str:
    """The container that a snapshot belongs to."""
    return key.partition(".")[0]


def snapshot_keys(record: ContainerRecord) -> list[str]:
    """All snapshots of a container: its own, and those of images that are mounted into it."""
    images = [image_key(record.id, index) for index, mount in enumerate(record.mounts) if mount.type == "image"]
    return [record.id, *images]


def volume_names(record: ContainerRecord) -> list[str]:
    """The volumes that a container holds while it runs."""
    return list(dict.fromkeys(mount.name for mount in record.mounts if mount.type == "volume"))


class ContainerMounts:
    """Makes what mounts need, and takes it away."""

    def __init__(self, store: Store, volumes: Volumes, exec_root: Path) -> None:
        self._store = store
        self._volumes = volumes
        self._parts = exec_root / "parts"
        self._shown: dict[str, list[Path]] = {}  # what runtimes have still to mount
        self.shift: Callable[[HostConfig], Shift | None] = lambda host: None
        self.labels: Callable[[ContainerRecord], Labels | None] = lambda record: None

    # --- creation

    def resolved(self, mounts: Iterable[MountRecord]) -> list[MountRecord]:
        """The mounts with images found by their names. Raises InvalidArgument for one that isn't here."""
        found = []
        for mount in mounts:
            if mount.type == "image":
                try:
                    image = get_image(self._store.images, mount.source)
                except NotFound as error:
                    # Clients take a 404 of a container's creation as its own image missing, and pull that.
                    raise InvalidArgument(str(error)) from error
                mount = msgspec.structs.replace(mount, image=image.id)
            found.append(mount)
        return found

    def completed(self, mounts: Iterable[MountRecord]) -> list[MountRecord]:
        """The mounts with the drivers that their volumes have."""
        return [
            msgspec.structs.replace(mount, driver=self._volumes.get(mount.name).driver)
            if mount.type == "volume" and self._volumes.exists(mount.name)
            else msgspec.structs.replace(mount, driver=mount.driver or LOCAL)
            if mount.type == "volume"
            else mount
            for mount in mounts
        ]

    async def prepare_images(self, id: str, mounts: Sequence[MountRecord], undo: AsyncExitStack) -> None:
        """Record the snapshots of images that are mounted."""
        for index, mount in enumerate(mounts):
            if mount.type == "image":
                image = get_image(self._store.images, mount.image)
                key = image_key(id, index)
                undo.push_async_callback(self._store.snapshots.remove, key)
                await self._store.snapshots.prepare(key, image.diff_ids)

    async def fill(
        self, mounts: Sequence[MountRecord], drafts: Sequence[VolumeRecord], diff_ids: Sequence[DiffID]
    ) -> None:
        """Copy what the image has at the volumes' places into those that are empty."""
        new = {draft.name: draft for draft in drafts}
        wanted = [mount for mount in mounts if mount.type == "volume" and not (mount.no_copy or mount.subpath)]

        def due() -> list[MountRecord]:
            return [mount for mount in wanted if mount.name in new or not self._volumes.is_full(mount.name)]

        empty = await asyncio.to_thread(due) if wanted and diff_ids else []
        if not empty:
            return
        async with self._store.snapshots.view(diff_ids) as rootfs:
            for mount in empty:
                record = new.get(mount.name) or self._volumes.get(mount.name)
                await self._volumes.populate(record, rootfs, mount.destination)

    # --- a run

    async def show(self, record: ContainerRecord) -> list[BundleMount]:
        """Have everything where the runtime can mount it; parts of volumes until `created`."""
        return [await self._show(record, index, mount) for index, mount in enumerate(record.mounts)]

    async def created(self, id: str) -> None:
        """Hide what was only there for the runtime: it has mounted it, or never will. Idempotent."""
        for place in self._shown.pop(id, ()):
            await asyncio.to_thread(hide_subpath, place)

    async def reconcile(self) -> None:
        """Hide what an earlier engine process had made for a runtime."""

        def work() -> None:
            self._parts.mkdir(mode=0o700, exist_ok=True)
            for place in self._parts.iterdir():
                hide_subpath(place)

        await asyncio.to_thread(work)

    async def hide(self, record: ContainerRecord, *, patience_s: float | None = None) -> None:
        """Give back what a run held. Idempotent, also after a crash."""
        await self.created(record.id)
        for name in volume_names(record):
            await self._volumes.unmount(name, record.id, patience_s=patience_s)
        known = set(self._store.snapshots.keys())
        for key in snapshot_keys(record)[1:]:
            if key in known:
                await self._store.snapshots.unmount(key)

    async def forget(self, record: ContainerRecord) -> None:
        """Remove the snapshots of images. Idempotent."""
        for key in snapshot_keys(record)[1:]:
            await self._store.snapshots.remove(key)

    async def _relabel(self, record: ContainerRecord, mount: MountRecord) -> None:
        """Give what is mounted the container's SELinux label, where `:z` or `:Z` asks for it; volumes get it anyway."""
        labels = self.labels(record)
        asked = LABELS.intersection(mount.mode.split(","))
        if labels is None or not asked or mount.type not in ("bind", "volume"):
            return
        source = mount.source if mount.type == "bind" else str(self._volumes.path(mount.name))
        label = labels.files if "Z" in asked else labels.shared_files
        try:
            await asyncio.to_thread(relabel, source, label)
        except OSError as error:
            raise InvalidArgument(f"cannot relabel {source} as {label}: {error.strerror}") from error

    async def _show(self, record: ContainerRecord, index: int, mount: MountRecord) -> BundleMount:
        if mount.type == "tmpfs":
            return BundleMount(
                source="tmpfs", destination=mount.destination, type="tmpfs", rw=mount.rw, options=mount.options
            )
        await self._relabel(record, mount)
        shift = self.shift(record.host_config)
        namespace = shift.namespace if shift is not None else None
        place = self._parts / image_key(record.id, index)
        if mount.type == "bind":
            if not mount.engines or namespace is None:
                return await _bind(mount)
            self._shown.setdefault(record.id, []).append(place)
            await asyncio.to_thread(show, mount.source, place, namespace)
            return BundleMount(source=str(place), destination=mount.destination, type="bind", rw=mount.rw)
        if mount.type == "image":
            path = await self._store.snapshots.mount(image_key(record.id, index))
            namespace = None  # shifted as all snapshots
        else:
            path = await self._volumes.mount(mount.name, record.id)
        if mount.subpath or namespace is not None:
            self._shown.setdefault(record.id, []).append(place)
            await asyncio.to_thread(show_subpath, path, mount.subpath, place, namespace)
            path = place
        # Said again: crun makes a bind of what is read-only writable.
        rw = mount.rw and not self._volumes.is_read_only(mount.name)
        return BundleMount(source=str(path), destination=mount.destination, type="bind", rw=rw)


async def _bind(mount: MountRecord) -> BundleMount:
    if not await asyncio.to_thread(Path(mount.source).exists):
        if not mount.create_source:
            raise InvalidArgument(
                f'invalid mount config for type "bind": bind source path does not exist: {mount.source}'
            )
        await asyncio.to_thread(Path(mount.source).mkdir, parents=True, exist_ok=True)
    await asyncio.to_thread(_check_propagation, mount.source, mount.propagation)
    return BundleMount(
        source=mount.source,
        destination=mount.destination,
        type="bind",
        rw=mount.rw,
        propagation=mount.propagation,
        recursive="bind" not in mount.options,
        read_only_below=not mount.read_only_alone,
    )


def _check_propagation(source: str, propagation: str) -> None:
    """Refuse what would not propagate: the mount that the source lies in has to be shared. Raises InvalidArgument."""
    kind = propagation if propagation in ("shared", "slave") else propagation.removeprefix("r")
    if kind not in ("shared", "slave"):
        return
    above = mount_of(source)
    found = {field.partition(":")[0] for field in above.fields}
    if "shared" not in found and (kind == "shared" or "master" not in found):
        words = "shared" if kind == "shared" else "shared or slave"
        raise InvalidArgument(f"path {source} is mounted on {above.target} but it is not a {words} mount")


def mounted_images(record: ContainerRecord) -> list[Digest]:
    """The images that are mounted into a container."""
    return [Digest(mount.image) for mount in record.mounts if mount.image]
