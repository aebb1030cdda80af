"""Volumes of the `local` driver: folders below the data root that outlive containers. Engine API, /volumes."""

import asyncio
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from scow.engine.events import Events
from scow.engine.mounts import InvalidMount
from scow.engine.record import now_ns
from scow.errors import Conflict, InvalidArgument, NotFound
from scow.store.database import Database
from scow.wire.times import format_time
from scow.wire.volume import Volume, VolumeCreateRequest, VolumeUsage

SCHEMA: Final = ("CREATE TABLE volume (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;",)
FILTERS: Final = frozenset({"dangling", "driver", "label", "name"})


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


class VolumeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is durable about a volume, beside its content."""

    name: str
    created_at: int  # nanoseconds since the epoch
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    anonymous: bool = False


class Volumes:
    """All volumes. `users` tells which containers refer to one, by full ID."""

    def __init__(self, database: Database, root: Path, events: Events, users: Callable[[str], Sequence[str]]) -> None:
        self._database = database
        self._root = root / "volumes"
        self._events = events
        self._users = users
        self._records: dict[str, VolumeRecord] = {}

    def load(self) -> None:
        """Read all records; called once, before the engine answers."""
        self._database.migrate("volumes", SCHEMA)
        rows = self._database.read_now(lambda db: db.execute("SELECT record FROM volume").fetchall())
        for (data,) in rows:
            record = msgspec.json.decode(data, type=VolumeRecord)
            self._records[record.name] = record

    def path(self, name: str) -> Path:
        """Where the volume's content is."""
        return self._root / name / "_data"

    def exists(self, name: str) -> bool:
        """Whether there is such a volume."""
        return name in self._records

    def get(self, name: str) -> VolumeRecord:
        """Raises NoSuchVolume."""
        record = self._records.get(name)
        if record is None:
            raise NoSuchVolume(name)
        return record

    async def ensure(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
        anonymous: bool = False,
    ) -> VolumeRecord:
        """Create the volume unless it exists. Raises Conflict for one that exists with other options."""
        known = self._records.get(name)
        if known is not None:
            if options and dict(options) != known.options:
                raise Conflict(f"create {name}: volume already exists with other options")
            return known
        record = VolumeRecord(
            name=name,
            created_at=now_ns(),
            labels=dict(labels or {}),
            options=dict(options or {}),
            anonymous=anonymous,
        )

        def insert(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR IGNORE INTO volume VALUES (?, ?)", (name, msgspec.json.encode(record)))

        await self._database.write(insert, then=lambda _: self._keep(record))
        await asyncio.to_thread(self.path(name).mkdir, parents=True, exist_ok=True)
        self._events.emit("volume", "create", name, {"driver": "local"})
        return self._records[name]

    async def create(self, request: VolumeCreateRequest) -> Volume:
        """POST /volumes/create."""
        if request.driver not in ("", "local"):
            raise NotFound(f'error looking up volume plugin {request.driver}: plugin "{request.driver}" not found')
        if request.driver_opts:
            raise InvalidMount(f"create {request.name}: options of the local driver are not supported yet")
        name = request.name
        if name and not (name[0].isalnum() and all(char.isalnum() or char in "_.-" for char in name) and len(name) > 1):
            raise InvalidArgument(
                f'create {name}: "{name}" includes invalid characters for a local volume name, only '
                '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
            )
        labels = dict(request.labels or {})
        if not name:
            name = secrets.token_hex(32)
            labels["com.docker.volume.anonymous"] = ""
        record = await self.ensure(name, labels=labels, anonymous=not request.name)
        return self._wire(record)

    async def list(self, filters: Mapping[str, Sequence[str]]) -> list[Volume]:
        """GET /volumes."""
        unknown = sorted(set(filters) - FILTERS)
        if unknown:
            raise InvalidArgument(f"invalid filter '{unknown[0]}'")
        return [self._wire(record) for record in self._records.values() if self._matches(record, filters)]

    async def usage(self) -> Listed:
        """All volumes, with how much they hold and how many containers refer to them."""
        listed = await self.list({})
        sizes = await asyncio.to_thread(lambda: [_size(Path(volume.mountpoint)) for volume in listed])
        return [
            msgspec.structs.replace(volume, usage_data=VolumeUsage(size=size, ref_count=len(self._users(volume.name))))
            for volume, size in zip(listed, sizes, strict=True)
        ]

    async def inspect(self, name: str) -> Volume:
        """GET /volumes/{name}."""
        return self._wire(self.get(name))

    async def remove(self, name: str, *, force: bool = False) -> None:
        """DELETE /volumes/{name}. Raises VolumeInUse, and NoSuchVolume unless forced."""
        if name not in self._records:
            if force:
                return
            raise NoSuchVolume(name)
        holders = self._users(name)
        if holders:
            raise VolumeInUse(name, holders)

        def delete(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM volume WHERE name = ?", (name,))

        await self._database.write(delete, then=lambda _: self._forget(name))
        await asyncio.to_thread(shutil.rmtree, self.path(name).parent, True)
        self._events.emit("volume", "destroy", name, {"driver": "local"})

    def _keep(self, record: VolumeRecord) -> None:
        self._records.setdefault(record.name, record)

    def _forget(self, name: str) -> None:
        self._records.pop(name, None)

    # --- anonymous volumes: their rows come and go in one transaction with the container's, so that a crash in between
    # leaves neither a volume that nobody will ever ask for, nor a container without its volume.

    async def draft(self, names: Iterable[str]) -> Sequence[VolumeRecord]:
        """Make folders of new anonymous volumes; `inserting` records them, `discard` undoes it."""
        labels = {"com.docker.volume.anonymous": ""}
        drafts = [VolumeRecord(name=name, created_at=now_ns(), labels=labels, anonymous=True) for name in names]
        for record in drafts:
            await asyncio.to_thread(self.path(record.name).mkdir, parents=True, exist_ok=True)
        return drafts

    async def discard(self, drafts: Iterable[VolumeRecord]) -> None:
        """Remove the folders of drafts that were not recorded."""
        for record in drafts:
            if record.name not in self._records:
                await asyncio.to_thread(shutil.rmtree, self.path(record.name).parent, True)

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
            self._events.emit("volume", "create", record.name, {"driver": "local"})

    def only_of(self, container_id: str, names: Iterable[str]) -> Sequence[str]:
        """Those of the anonymous volumes that no other container refers to."""
        return [
            name
            for name in names
            if (record := self._records.get(name)) is not None
            and record.anonymous
            and set(self._users(name)) <= {container_id}
        ]

    def deleting(self, names: Sequence[str]) -> Callable[[sqlite3.Connection], None]:
        """What forgets volumes, as a part of the caller's transaction; then their content is to be `drop`ped."""

        def delete(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM volume WHERE name = ?", [(name,) for name in names])

        return delete

    async def drop(self, names: Iterable[str]) -> None:
        """Remove the content of volumes that were forgotten."""
        for name in names:
            self._forget(name)
            await asyncio.to_thread(shutil.rmtree, self.path(name).parent, True)
            self._events.emit("volume", "destroy", name, {"driver": "local"})

    async def reconcile(self) -> None:
        """Make missing folders, and remove folders of volumes whose removal or creation was cut off."""

        def work() -> None:
            self._root.mkdir(parents=True, exist_ok=True)
            for folder in self._root.iterdir():
                if folder.name not in self._records:
                    shutil.rmtree(folder, ignore_errors=True)
            for name in self._records:
                self.path(name).mkdir(parents=True, exist_ok=True)

        await asyncio.to_thread(work)

    def _wire(self, record: VolumeRecord) -> Volume:
        return Volume(
            created_at=format_time(record.created_at // 10**9 * 10**9),
            labels=record.labels or None,
            mountpoint=str(self.path(record.name)),
            name=record.name,
            options=record.options or None,
        )

    def _matches(self, record: VolumeRecord, filters: Mapping[str, Sequence[str]]) -> bool:
        for key, values in filters.items():
            if key == "name" and not any(value in record.name for value in values):
                return False
            if key == "driver" and "local" not in values:
                return False
            if key == "dangling" and values:
                wanted = values[0].lower() in ("1", "true")
                if wanted == bool(self._users(record.name)):
                    return False
            if key == "label":
                for value in values:
                    name, equals, text = value.partition("=")
                    if name not in record.labels or (equals and record.labels[name] != text):
                        return False
        return True


def _size(root: Path) -> int:
    """Bytes of all files below `root`, each hard link's once; what vanishes meanwhile doesn't count."""
    found: dict[tuple[int, int], int] = {}
    for folder, _, files in os.walk(root):
        for name in files:
            with suppress(OSError):
                info = os.lstat(os.path.join(folder, name))
                found[info.st_dev, info.st_ino] = info.st_size
    return sum(found.values())
