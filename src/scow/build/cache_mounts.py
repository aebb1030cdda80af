"""Directories that steps mount with `--mount=type=cache`. They outlive builds and engines, until they are pruned."""

import asyncio
import contextlib
import hashlib
import secrets
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from scow.store.database import Database
from scow.store.documents import find_document
from scow.store.snapshots import finish, tree_size

Fill = Callable[[Path], Awaitable[None]]
"""Puts into a new directory what it is to begin with."""


class CacheMount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One directory."""

    id: str  # 32 hexadecimal digits: the directory's name
    name: str  # as the Dockerfile has it
    created_at: int = 0  # nanoseconds since the epoch, as used_at
    used_at: int = 0
    uses: int = 0


class _Use:
    """Who has a directory now: any number of steps that share it, or one alone."""

    def __init__(self) -> None:
        self.changed = asyncio.Condition()
        self.sharing = 0
        self.alone = False
        self.interested = 0  # those who wait among them


class CacheMounts:
    """The directories. Belongs to the event loop's thread."""

    def __init__(self, db: Database, folder: Path) -> None:
        """The table is the build cache's: it comes first."""
        self._db = db
        self._folder = folder / "mounts"
        self._mounts: dict[str, CacheMount] = {}
        self._uses: dict[str, _Use] = {}
        db.read_now(self._load)

    def _load(self, connection: sqlite3.Connection) -> None:
        for id, data in connection.execute("SELECT id, record FROM build_mounts"):
            found = find_document(data, CacheMount, f"cache directory {id} of builds")
            if found is not None:
                self._mounts[found.id] = found

    def reconcile(self) -> None:
        """Make the folder, and remove directories that no record knows. Blocks: for start-up."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for entry in self._folder.iterdir():
            if entry.name not in self._mounts:
                shutil.rmtree(entry, ignore_errors=True)

    def all(self) -> list[CacheMount]:
        """Every directory."""
        return list(self._mounts.values())

    def in_use(self, id: str) -> bool:
        """Whether a step has the directory mounted now, or waits for it."""
        return id in self._uses

    async def size(self, id: str) -> int:
        """The bytes of the files in a directory."""
        return await asyncio.to_thread(tree_size, self._folder / id)

    @contextlib.asynccontextmanager
    async def mounted(self, name: str, sharing: str, fill: Fill | None = None) -> AsyncIterator[Path]:
        """Give the directory of a name until the block is left; a new one the first time, which `fill` begins.

        `shared`: at once with others who share it; `locked`: alone, after whoever has it now; `private`: a further
        directory for each that comes while the first is in use.
        """
        number = 0
        id = mount_id(name)
        while sharing == "private" and self.in_use(id):
            number += 1
            id = mount_id(f"{name}\0{number}")
        async with self._used(id, alone=sharing != "shared"):
            path = self._folder / id
            is_new = id not in self._mounts
            if is_new:
                # Whatever a step that didn't come to its end left of it: nobody has it.
                await asyncio.to_thread(shutil.rmtree, path, True)
                await finish(asyncio.to_thread(path.mkdir, 0o755, True, True))
                if fill is not None:
                    await fill(path)
            now = time.time_ns()
            known = self._mounts.get(id) or CacheMount(id=id, name=name, created_at=now)
            known = self._mounts[id] = msgspec.structs.replace(known, used_at=now, uses=known.uses + 1)
            await self._db.write(
                lambda connection: connection.execute(
                    "INSERT OR REPLACE INTO build_mounts VALUES (?, ?)", (id, msgspec.json.encode(known))
                )
            )
            yield path

    @contextlib.asynccontextmanager
    async def _used(self, id: str, *, alone: bool) -> AsyncIterator[None]:
        use = self._uses.setdefault(id, _Use())
        use.interested += 1
        try:
            async with use.changed:
                await use.changed.wait_for(lambda: not use.alone and not (alone and use.sharing))
                if alone:
                    use.alone = True
                else:
                    use.sharing += 1
            try:
                yield
            finally:
                if alone:
                    use.alone = False
                else:
                    use.sharing -= 1
                await asyncio.shield(asyncio.ensure_future(_tell(use)))
        finally:
            use.interested -= 1
            if not use.interested:
                del self._uses[id]

    async def remove(self, ids: Sequence[str]) -> None:
        """Remove directories that nobody uses."""
        gone = [(id,) for id in ids if not self.in_use(id)]
        moved = []
        for (id,) in gone:
            self._mounts.pop(id, None)
            moved.append(self._folder / f"{id}.{secrets.token_hex(4)}")
            with contextlib.suppress(FileNotFoundError):
                (self._folder / id).rename(moved[-1])  # a step that comes now makes it anew
        await self._db.write(lambda connection: connection.executemany("DELETE FROM build_mounts WHERE id = ?", gone))
        for path in moved:
            await asyncio.to_thread(shutil.rmtree, path, True)


async def _tell(use: _Use) -> None:
    async with use.changed:
        use.changed.notify_all()


def mount_id(name: str) -> str:
    """The directory of a cache mount's name."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
