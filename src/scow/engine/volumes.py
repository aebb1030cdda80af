"""All volumes: what is recorded about them, who uses them, and the drivers that keep them. Engine API, /volumes.

A volume of the driver `local` is a folder below the data root (`local_volumes`), one of another driver is kept by a
plugin (`volume_plugins`). A volume in use by a container, running or not, isn't removed; one that a container is just
being created with is `claimed`.
"""

import asyncio
import logging
import secrets
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from scow import points
from scow.engine.copying import copy_up, has_content
from scow.engine.events import Events
from scow.engine.local_volumes import LocalVolumes, check_name, check_options, is_read_only
from scow.engine.record import MountRecord, now_ns
from scow.engine.tasks import Tasks
from scow.engine.volume_plugins import PluginVolume, PluginVolumes
from scow.errors import Conflict, Internal, InvalidArgument, NotFound, ScowError, Unavailable
from scow.store.database import Database
from scow.store.documents import find_document
from scow.store.snapshots import tree_size
from scow.wire.times import format_time
from scow.wire.volume import Volume, VolumeCreateRequest, VolumeList, VolumeUsage

log = logging.getLogger(__name__)

SCHEMA: Final = ("CREATE TABLE volume (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;",)
FILTERS: Final = frozenset({"dangling", "driver", "label", "name"})
LOCAL: Final = "local"
ANONYMOUS: Final = "com.docker.volume.anonymous"

Listed = list[Volume]


class NoSuchVolume(NotFound):
    """No volume has the name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"get {name}: no such volume")
        self.name = name


class VolumeInUse(Conflict):
    """Containers, running or not, refer to the volume."""

    def __init__(self, name: str, holders: Sequence[str]) -> None:
        super().__init__(f"remove {name}: volume is in use - [{', '.join(holders)}]")
        self.name = name
        self.holders = tuple(holders)


class VolumeLost(Conflict):
    """What the volume's driver was told is lost with its record, so that it isn't known what it should be."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"volume {name} can't be used: its record is damaged, and what its driver was told is lost; its content, "
            "if it had any here, is kept until it is removed"
        )
        self.name = name


class VolumeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is durable about a volume, beside its content."""

    name: str
    created_at: int  # nanoseconds since the epoch
    driver: str = LOCAL
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    anonymous: bool = False
    lost: bool = False  # nothing but the name could be read

    @property
    def plain(self) -> bool:
        """Whether it is nothing but a folder of ours."""
        return self.driver == LOCAL and not self.options and not self.lost


class Volumes:
    """All volumes. `users` tells which containers refer to one, by full ID. Belongs to the event loop's thread."""

    def __init__(
        self,
        database: Database,
        root: Path,
        events: Events,
        users: Callable[[str], Sequence[str]],
        plugins: PluginVolumes,
        tasks: Tasks,
    ) -> None:
        self._database = database
        self._local = LocalVolumes(root / "volumes")
        self._plugins = plugins
        self._events = events
        self._users = users
        self._tasks = tasks
        self._records: dict[str, VolumeRecord] = {}
        self._claims: Counter[str] = Counter()
        self._locks: dict[str, asyncio.Lock] = {}
        self._held: set[tuple[str, str]] = set()  # volumes of plugins, and who has them mounted

    def load(self) -> None:
        """Read all records; called once, before the engine answers.

        A volume whose record can't be read goes on with the options that its folder has; without these it is lost.
        """
        self._database.migrate("volumes", SCHEMA)
        rows = self._database.read_now(lambda db: db.execute("SELECT name, record FROM volume").fetchall())
        for name, data in rows:
            record = find_document(data, VolumeRecord, f"volume {name}")
            if record is None:
                record = self._what_is_left(name)
            self._records[record.name] = record

    def _what_is_left(self, name: str) -> VolumeRecord:
        options = self._local.options(name)
        if options is None:
            log.error("%s", VolumeLost(name))
            return VolumeRecord(name=name, created_at=0, lost=True)
        log.error("volume %s goes on without its labels, which are lost", name)
        created_at = self._local.path(name).parent.stat().st_ctime_ns
        return VolumeRecord(name=name, created_at=created_at, options=options)

    def path(self, name: str) -> Path:
        """Where the volume's content is, while it is mounted."""
        record = self._records.get(name)
        if record is not None and record.driver != LOCAL:
            return Path(self._plugins.path(record.driver, name))
        return self._local.path(name)

    def exists(self, name: str) -> bool:
        """Whether there is such a volume."""
        return name in self._records

    def is_lost(self, name: str) -> bool:
        """Whether nothing but the name of a volume is known any more (see VolumeLost)."""
        record = self._records.get(name)
        return record is not None and record.lost

    def get(self, name: str) -> VolumeRecord:
        """Raises NoSuchVolume."""
        record = self._records.get(name)
        if record is None:
            raise NoSuchVolume(name)
        return record

    def drivers(self) -> Sequence[str]:
        """The drivers that were used."""
        return [LOCAL, *self._plugins.active()]

    # --- making and removing

    async def create(self, request: VolumeCreateRequest) -> Volume:
        """POST /volumes/create."""
        if request.cluster_volume_spec is not None:
            raise Unavailable(
                "This node is not a swarm manager. Cluster volumes need one, and this engine has no swarm mode"
            )
        labels = dict(request.labels or {})
        name = request.name
        if not name:
            name = secrets.token_hex(32)
            labels[ANONYMOUS] = ""
        record = await self.ensure(
            name,
            driver=request.driver,
            labels=labels,
            options=request.driver_opts,
            anonymous=not request.name,
        )
        return await self._wire(record)

    async def ensure(
        self,
        name: str,
        *,
        driver: str = "",
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
        anonymous: bool = False,
    ) -> VolumeRecord:
        """Create the volume unless it exists; labels and options of one that exists stay as they are.

        Raises InvalidArgument for names and options that can't be, NoSuchPlugin, Conflict if another driver has it.
        """
        async with self._lock(name):
            known = self._records.get(name)
            if known is not None and known.lost:
                raise VolumeLost(name)
            if known is not None and driver in ("", known.driver):
                return known
            driver = driver or LOCAL
            if driver != LOCAL:
                await self._ready(name, driver)
            if known is not None:
                raise Conflict(f"create {name}: conflict: volume name must be unique")
            record = VolumeRecord(
                name=name,
                created_at=now_ns(),
                driver=driver,
                labels=dict(labels or {}),
                options=dict(options or {}),
                anonymous=anonymous,
            )
            if driver == LOCAL:
                check_name(name)
                check_options(name, record.options)
                await self._insert(record)
                try:
                    await asyncio.to_thread(self._local.make, name, record.options)
                except OSError as error:
                    await self._database.write(self.deleting([name]), then=lambda _: self._forget(name))
                    raise Internal(f"create {name}: error while creating volume path: {error}") from error
            else:
                # The plugin's first: it may refuse, and a volume that it has without our record is found by its list.
                await self._plugins.create(driver, name, record.options)
                await self._plugins.scope(driver)
                await self._insert(record)
            self._events.emit("volume", "create", name, {"driver": driver})
            return record

    async def remove(self, name: str, *, force: bool = False) -> None:
        """DELETE /volumes/{name}. Raises VolumeInUse, and NoSuchVolume unless forced."""
        async with self._lock(name):
            record = await self._find(name, force=force)
            if record is None:
                if force:
                    return
                raise NoSuchVolume(name)
            holders = self._users(name)
            if holders or self._claims[name]:
                raise VolumeInUse(name, holders)
            if record.driver != LOCAL:
                try:
                    await self._plugins.remove(record.driver, name)
                except ScowError as error:
                    if not force:
                        raise
                    log.warning("volume %s is forgotten, its plugin could not remove it: %s", name, error)
            await self._database.write(self.deleting([name]), then=lambda _: self._forget(name))
            await points.at("volume.forgotten")
            if record.driver == LOCAL:
                await self._local.discard(name)
        self._events.emit("volume", "destroy", name, {"driver": record.driver})

    @asynccontextmanager
    async def claimed(self, mounts: Iterable[MountRecord]) -> AsyncIterator[None]:
        """Have the named volumes of `mounts`, made if need be, and keep them from being removed meanwhile."""
        named = [mount for mount in mounts if mount.type == "volume" and not mount.anonymous]
        self._claims.update(mount.name for mount in named)
        try:
            for mount in named:
                try:
                    await self.ensure(
                        mount.name, driver=mount.driver, labels=mount.volume_labels, options=mount.volume_options
                    )
                except NotFound as error:
                    # Clients take a 404 of a container's creation as a missing image, and pull.
                    raise InvalidArgument(str(error)) from error
            yield
        finally:
            self._claims -= Counter(mount.name for mount in named)

    async def populate(self, record: VolumeRecord, rootfs: Path, destination: str) -> None:
        """Copy what the image has at the destination into the volume, if that is empty."""
        copy = partial(copy_up, rootfs, destination, name=record.name)
        if record.plain:
            await self._local.fill(record.name, copy)
        elif await asyncio.to_thread(has_content, rootfs, destination):
            async with self._mounted(record) as path:
                await asyncio.to_thread(copy, path)

    def is_read_only(self, name: str) -> bool:
        """Whether the volume's options have it mounted read-only."""
        record = self._records.get(name)
        return record is not None and record.driver == LOCAL and is_read_only(record.options)

    def is_full(self, name: str) -> bool:
        """Whether the volume is a folder of ours that has content: nothing will be copied there. Blocks."""
        record = self._records.get(name)
        return record is not None and record.plain and any(self._local.path(name).iterdir())

    # --- mounts

    async def mount(self, name: str, holder: str) -> Path:
        """Have the volume's content at the path that is returned, until `holder` lets go. Raises NoSuchVolume and
        what drivers raise."""
        return await self._mount(self.get(name), holder)

    async def _mount(self, record: VolumeRecord, holder: str) -> Path:
        if record.lost:
            raise VolumeLost(record.name)
        if record.driver == LOCAL:
            return await self._local.mount(record.name, record.options, holder)
        self._held.add((record.name, holder))  # before it is: an unmount too many does no harm
        return await self._plugins.mount(record.driver, record.name, holder)

    async def unmount(self, name: str, holder: str, *, patience_s: float | None = None) -> bool:
        """Let go of a volume; return whether it was held. Idempotent.

        A plugin that fails is logged, for what held the volume is gone anyway; after `patience_s` it goes on unwatched.
        """
        record = self._records.get(name)
        return record is not None and await self._unmount(record, holder, patience_s)

    async def _unmount(self, record: VolumeRecord, holder: str, patience_s: float | None = None) -> bool:
        if record.driver == LOCAL:
            return await self._local.unmount(record.name, holder)
        if (record.name, holder) not in self._held:
            return False
        self._held.discard((record.name, holder))

        async def work() -> None:
            try:
                await self._plugins.unmount(record.driver, record.name, holder)
            except ScowError as error:
                log.warning("volume %s could not be unmounted for %s: %s", record.name, holder, error)

        task = self._tasks.start(work(), f"unmounting volume {record.name}")
        await asyncio.wait((task,), timeout=patience_s)
        return True

    @asynccontextmanager
    async def mounted(self, name: str) -> AsyncIterator[Path]:
        """The volume's content, for work of the engine itself; it can't be removed meanwhile. Raises NoSuchVolume."""
        record = self.get(name)
        self._claims[name] += 1
        try:
            async with self._mounted(record) as path:
                yield path
        finally:
            self._claims -= Counter([name])

    @asynccontextmanager
    async def _mounted(self, record: VolumeRecord) -> AsyncIterator[Path]:
        holder = f"engine-{secrets.token_hex(8)}"
        try:
            yield await self._mount(record, holder)
        finally:
            await asyncio.shield(asyncio.ensure_future(self._unmount(record, holder)))

    async def reconcile(self, holders: Mapping[str, Sequence[str]]) -> None:
        """Bring folders and mounts in order; `holders` are the volumes of each container that may still run."""
        for holder, names in holders.items():
            self._held.update((name, holder) for name in names if name in self._records)
        local = {
            name: None if record.lost else record.options
            for name, record in self._records.items()
            if record.driver == LOCAL
        }
        await self._local.reconcile(local, holders)

    # --- telling

    async def list(self, filters: Mapping[str, Sequence[str]]) -> VolumeList:
        """GET /volumes. A plugin that doesn't answer is a warning."""
        unknown = sorted(set(filters) - FILTERS)
        if unknown:
            raise InvalidArgument(f"invalid filter '{unknown[0]}'")
        dangling = _dangling(filters)
        found = {name: self._record_on_wire(record) for name, record in self._records.items()}
        others, warnings = await self._listed_by_plugins()
        for volume in others:
            found[volume.name] = self._completed(volume)
        volumes = [volume for volume in found.values() if self._matches(volume, filters, dangling)]
        return VolumeList(volumes=volumes, warnings=[*warnings] or None)

    def prunable(self, *, named: bool) -> Sequence[VolumeRecord]:
        """Folders of ours that no container refers to: anonymous ones, or `named` ones too."""
        return [
            record
            for record in self._records.values()
            if record.plain and (named or record.anonymous) and not self._users(record.name)
        ]

    async def usage(self) -> Listed:
        """Volumes that are folders of ours, with how much they hold and how many containers refer to them."""
        plain = [record for record in self._records.values() if record.plain]
        sizes = await asyncio.to_thread(lambda: [tree_size(self._local.path(record.name)) for record in plain])
        return [
            msgspec.structs.replace(
                self._record_on_wire(record),
                usage_data=VolumeUsage(size=size, ref_count=len(self._users(record.name))),
            )
            for record, size in zip(plain, sizes, strict=True)
        ]

    async def inspect(self, name: str) -> Volume:
        """GET /volumes/{name}. Raises NoSuchVolume, and what its plugin raises."""
        record = await self._find(name, force=False)
        if record is None:
            raise NoSuchVolume(name)
        return await self._wire(record)

    # --- anonymous volumes: their rows come and go in one transaction with the container's, so that a crash in between
    # leaves neither a volume that nobody will ever ask for, nor a container without its volume.

    async def draft(self, mounts: Iterable[MountRecord]) -> Sequence[VolumeRecord]:
        """Make new anonymous volumes; `inserting` records them, `discard` undoes it."""
        drafts: list[VolumeRecord] = []
        try:
            for mount in mounts:
                if not mount.anonymous or mount.name in self._records:
                    continue
                record = VolumeRecord(
                    name=mount.name,
                    created_at=now_ns(),
                    driver=mount.driver or LOCAL,
                    labels={**mount.volume_labels, ANONYMOUS: ""},
                    options=mount.volume_options,
                    anonymous=True,
                )
                if record.driver == LOCAL:
                    check_options(record.name, record.options)
                    drafts.append(record)
                    await asyncio.to_thread(self._local.make, record.name, record.options)
                else:
                    try:
                        await self._ready(record.name, record.driver)
                    except NotFound as error:
                        raise InvalidArgument(str(error)) from error
                    drafts.append(record)
                    await self._plugins.create(record.driver, record.name, record.options)
        except BaseException:
            await self.discard(drafts)
            raise
        return drafts

    async def discard(self, drafts: Iterable[VolumeRecord]) -> None:
        """Remove drafts that were not recorded."""
        for record in drafts:
            if record.name not in self._records:
                await self._drop(record)

    def inserting(self, drafts: Sequence[VolumeRecord]) -> Callable[[sqlite3.Connection], None]:
        """What records drafts, as a part of the caller's transaction; then they are to be `adopt`ed."""
        rows = [(record.name, msgspec.json.encode(record)) for record in drafts]

        def insert(db: sqlite3.Connection) -> None:
            db.executemany("INSERT INTO volume VALUES (?, ?)", rows)

        return insert

    def adopt(self, drafts: Iterable[VolumeRecord]) -> None:
        """Show drafts that were recorded."""
        for record in drafts:
            self._keep(record)
            self._events.emit("volume", "create", record.name, {"driver": record.driver})

    def only_of(self, container_id: str, names: Iterable[str]) -> Sequence[str]:
        """Those of the anonymous volumes that no other container refers to."""
        return [
            name
            for name in dict.fromkeys(names)
            if (record := self._records.get(name)) is not None
            and record.anonymous
            and set(self._users(name)) <= {container_id}
            and not self._claims[name]
        ]

    def deleting(self, names: Sequence[str]) -> Callable[[sqlite3.Connection], None]:
        """What forgets volumes, as a part of the caller's transaction; then their content is to be `drop`ped."""

        def delete(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM volume WHERE name = ?", [(name,) for name in names])

        return delete

    async def drop(self, names: Iterable[str]) -> None:
        """Remove the content of volumes that were forgotten."""
        for name in names:
            record = self._records.get(name)
            self._forget(name)
            if record is not None:
                await self._drop(record)
                self._events.emit("volume", "destroy", name, {"driver": record.driver})

    # --- steps

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _ready(self, name: str, driver: str) -> None:
        try:
            await self._plugins.ready(driver)
        except NotFound as error:
            raise NotFound(f"create {name}: {error}") from error

    async def _insert(self, record: VolumeRecord) -> None:
        await self._database.write(self.inserting([record]), then=lambda _: self._keep(record))
        # A folder without a record is removed at start, so after a power cut there must be none.
        await self._database.sync()

    def _keep(self, record: VolumeRecord) -> None:
        self._records.setdefault(record.name, record)

    def _forget(self, name: str) -> None:
        self._records.pop(name, None)

    async def _drop(self, record: VolumeRecord) -> None:
        if record.driver == LOCAL:
            await self._local.discard(record.name)
            return
        try:
            await self._plugins.remove(record.driver, record.name)
        except ScowError as error:
            log.warning("volume %s could not be removed by its plugin: %s", record.name, error)

    async def _find(self, name: str, *, force: bool) -> VolumeRecord | None:
        """The record, or one made up for a volume that only a plugin knows."""
        known = self._records.get(name)
        if known is not None:
            return known
        for driver in [] if force else await self._plugins.drivers():
            try:
                await self._plugins.get(driver, name)
            except ScowError:
                continue
            return VolumeRecord(name=name, created_at=0, driver=driver)
        return None

    async def _listed_by_plugins(self) -> tuple[Listed, Sequence[str]]:
        warnings = []
        drivers = set(await self._plugins.drivers())
        drivers |= {record.driver for record in self._records.values()} - {LOCAL}

        async def ask(driver: str) -> Listed:
            try:
                scope = await self._plugins.scope(driver)
                volumes = await self._plugins.list(driver)
            except ScowError as error:
                warnings.append(str(error))
                return []
            return [_of_plugin(driver, volume, scope) for volume in volumes]

        answers = await asyncio.gather(*map(ask, sorted(drivers)))
        return [volume for answer in answers for volume in answer], warnings

    async def _wire(self, record: VolumeRecord) -> Volume:
        if record.driver == LOCAL:
            return self._record_on_wire(record)
        volume = await self._plugins.get(record.driver, record.name)
        return self._completed(_of_plugin(record.driver, volume, await self._plugins.scope(record.driver)))

    def _completed(self, volume: Volume) -> Volume:
        """What a plugin tells about a volume, with what only we know."""
        record = self._records.get(volume.name)
        if record is None or record.driver != volume.driver:
            return volume
        return msgspec.structs.replace(
            volume,
            created_at=volume.created_at or self._record_on_wire(record).created_at,
            labels=record.labels or None,
            options=record.options or None,
        )

    def _record_on_wire(self, record: VolumeRecord) -> Volume:
        return Volume(
            created_at=format_time(record.created_at // 10**9 * 10**9),
            driver=record.driver,
            labels=record.labels or None,
            mountpoint=str(self.path(record.name)) if record.driver == LOCAL else self._path(record),
            name=record.name,
            options=record.options or None,
            scope=self._plugins.known_scope(record.driver),
        )

    def _path(self, record: VolumeRecord) -> str:
        return self._plugins.path(record.driver, record.name)

    def _matches(self, volume: Volume, filters: Mapping[str, Sequence[str]], dangling: bool | None) -> bool:
        if "name" in filters and not any(value in volume.name for value in filters["name"]):
            return False
        if "driver" in filters and volume.driver not in filters["driver"]:
            return False
        if dangling is not None and dangling == bool(self._users(volume.name)):
            return False
        labels = volume.labels or {}
        for value in filters.get("label", ()):
            name, equals, text = value.partition("=")
            if name not in labels or (equals and labels[name] != text):
                return False
        return True


def _dangling(filters: Mapping[str, Sequence[str]]) -> bool | None:
    values = filters.get("dangling") or ()
    if not values:
        return None
    words = {value.lower() for value in values}
    if len(values) > 1 or not words <= {"1", "true", "0", "false"}:
        raise InvalidArgument(f"invalid filter 'dangling=[{' '.join(values)}]'")
    return bool(words & {"1", "true"})


def _of_plugin(driver: str, volume: PluginVolume, scope: str) -> Volume:
    return Volume(
        created_at=volume.created_at,
        driver=driver,
        mountpoint=volume.mountpoint,
        name=volume.name,
        scope=scope,
        status=volume.status,
    )
