"""Objects that are small enough to lie in the database, beside the names: made by the commit that names them.

A file of its own costs a small blob two syncs more than its names do, and an object store a request. Their names end in
`.row`; all others are those of `large`.
"""

import hashlib
from collections import OrderedDict
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

from scow.oci.digest import Digest, algorithm, encoded
from scow.registry.objects import ObjectName, Objects, OpenObject, Stage, object_digest, object_name
from scow.registry.sql import Database

KEPT_LIMIT: Final = 1 << 20
"""Bytes that are kept in memory for the next reader."""
_MARK: Final = ".row"


def small_name(digest: Digest, upload_id: str) -> ObjectName:
    """Name the object that an upload makes in the database."""
    return ObjectName(object_name(digest, upload_id) + _MARK)


def is_small(name: str) -> bool:
    """Whether an object lies in the database."""
    return name.endswith(_MARK)


class SmallObject:
    """One small object, as a whole in memory."""

    file: Final = None

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    async def read(self, offset: int, count: int) -> AsyncGenerator[bytes, None]:
        return self._read(offset, count)

    async def _read(self, offset: int, count: int) -> AsyncGenerator[bytes, None]:
        yield self.data[offset : offset + count]

    def release(self) -> None:
        return


class SmallObjects:
    """`large`, and what the database holds."""

    def __init__(self, large: Objects, database: Database) -> None:
        self._large = large
        self._db = database
        self._kept: OrderedDict[ObjectName, SmallObject] = OrderedDict()
        self._kept_size = 0

    @property
    def late_s(self) -> float:
        return self._large.late_s

    async def open_stage(self, upload_id: str, *, create: bool = False) -> Stage:
        return await self._large.open_stage(upload_id, create=create)

    async def staged_size(self, upload_id: str) -> int:
        return await self._large.staged_size(upload_id)

    async def discard(self, upload_id: str) -> None:
        await self._large.discard(upload_id)

    async def staged(self) -> list[tuple[str, float]]:
        return await self._large.staged()

    def open_now(self, name: ObjectName) -> OpenObject | None:
        if not is_small(name):
            return self._large.open_now(name)
        found = self._kept.get(name)
        if found is not None:
            self._kept.move_to_end(name)
        return found

    async def open(self, name: ObjectName) -> OpenObject | None:
        if not is_small(name):
            return await self._large.open(name)
        found = await self._find(name)
        if found is not None and name not in self._kept:
            self._kept[name] = found
            self._kept_size += found.size
            while self._kept_size > KEPT_LIMIT:
                self._kept_size -= self._kept.popitem(last=False)[1].size
        return found

    async def _find(self, name: ObjectName) -> SmallObject | None:
        """What is there and has not rotted."""
        row, digest = await self._db.row("SELECT data FROM small_object WHERE name = ?", name), object_digest(name)
        if row is None or hashlib.new(algorithm(digest), row[0]).hexdigest() != encoded(digest):
            return None
        return SmallObject(bytes(row[0]))

    async def url(self, name: ObjectName) -> str | None:
        return None if is_small(name) else await self._large.url(name)

    async def verify(self, name: ObjectName) -> bool:
        if not is_small(name):
            return await self._large.verify(name)
        return await self._find(name) is not None

    async def adopt(self, source: Path, name: ObjectName, *, verify: bool) -> int:
        return await self._large.adopt(source, name, verify=verify)

    async def remove(self, name: ObjectName) -> None:
        if not is_small(name):
            await self._large.remove(name)
            return
        if (kept := self._kept.pop(name, None)) is not None:
            self._kept_size -= kept.size
        statement = "DELETE FROM small_object WHERE name = ?"
        await self._db.write(lambda session: session.run(statement, name), durable=False, frees=True)

    async def sweep(self) -> None:
        await self._large.sweep()

    async def aclose(self) -> None:
        await self._large.aclose()
