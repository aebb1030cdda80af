"""Object stores, as far as a registry needs them: whole objects, ranges, parts that become one object, signed URLs.

`Bucket` is the interface; `ObstoreBucket` has it over obstore, for S3, Google's and Azure's stores and for memory.
Their common ground has no parts that several processes could send, so parts are objects here, and are put together by
being read once; `s3.S3Bucket` does better.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol

import obstore
from obstore.exceptions import BaseError, NotFoundError

from scow.registry.errors import StorageUnavailable
from scow.registry.objects import ObjectMissing
from scow.registry.room import Room
from scow.registry.spools import Spool

_MISSING: Final = (FileNotFoundError, NotFoundError)
CHUNK_SIZE: Final = 256 << 10
PART_SIZE: Final = 8 << 20
"""Bytes of the parts that obstore sends."""
CONCURRENCY: Final = 4
ROOM_SIZE: Final = 24 << 20
"""Bytes of parts that are in memory at once because obstore sends them."""


class Bucket(Protocol):
    """Objects by keys. All methods raise StorageUnavailable when the store does not answer, after trying again."""

    async def get(self, key: str, offset: int, count: int) -> AsyncGenerator[bytes, None]:
        """Begin to read a part of an object; a break raises ConnectionError. Raises ObjectMissing."""

    async def size(self, key: str) -> int | None:
        """Bytes of an object, None if there is none."""

    async def put(self, key: str, data: Spool) -> None:
        """Make an object."""

    async def put_file(self, key: str, path: Path) -> None:
        """Make an object of a file, in parts."""

    async def copy(self, key: str, to: str) -> None:
        """Copy an object within the store. Raises ObjectMissing."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects. Idempotent."""

    async def url(self, key: str, life_s: float) -> str:
        """A URL by which anybody can get an object, and ranges of it, for so long."""

    async def begin_parts(self, key: str) -> str:
        """Begin an object that comes in parts; the answer names it from now on."""

    async def put_part(self, key: str, parts_id: str, number: int, data: Spool) -> str:
        """Store a part, or replace it; its mark. Numbers begin with 1. Raises ObjectMissing if it was ended."""

    async def join_parts(self, key: str, parts_id: str, parts: Sequence[tuple[int, str]]) -> None:
        """Make the object of its parts' numbers and marks. Raises ObjectMissing if it was ended, or made already."""

    async def end_parts(self, key: str, parts_id: str) -> None:
        """Forget parts that are not to become an object. Idempotent."""

    async def begun_parts(self) -> list[tuple[str, str]]:
        """Keys and names of objects whose parts wait to be joined, as far as the store alone knows them."""

    async def aclose(self) -> None:
        """Close connections."""


class ObstoreBucket:
    """A bucket over one of obstore's stores."""

    def __init__(self, store: Any, prefix: str = "", signer: Any = None) -> None:
        """`prefix` begins all keys. `signer` is the store as clients reach it, for URLs."""
        self._store = store
        self._prefix = prefix
        self._signer = signer or store
        self._room = Room(ROOM_SIZE)

    async def get(self, key: str, offset: int, count: int) -> AsyncGenerator[bytes, None]:
        if count == 0:
            return _nothing()
        return self._chunks(await self._open(key, offset, offset + count), key, offset, offset + count)

    async def _open(self, key: str, start: int, end: int) -> Any:
        try:
            return await obstore.get_async(self._store, self._prefix + key, options={"range": (start, end)})
        except _MISSING as error:
            raise ObjectMissing(key) from error
        except BaseError as error:
            raise StorageUnavailable(f"get {key}: {error}") from error

    async def _chunks(self, found: Any, key: str, offset: int, end: int) -> AsyncGenerator[bytes, None]:
        """What is `found` from `offset` to `end`; where it breaks off after some bytes, the rest is asked for.

        obstore's timeout is that of a whole answer, and a client may take longer for it.
        """
        while True:
            begun, why = offset, "the answer ends too early"
            try:
                async for chunk in found.stream(min_chunk_size=CHUNK_SIZE):
                    offset += len(chunk)
                    yield bytes(chunk)
            except BaseError as error:
                why = str(error)
            if offset >= end:
                return
            if offset == begun:
                raise ConnectionError(f"the object store broke off {key}: {why}")
            try:
                found = await self._open(key, offset, end)
            except (ObjectMissing, StorageUnavailable) as error:
                raise ConnectionError(f"the object store broke off {key}: {error}") from error

    async def size(self, key: str) -> int | None:
        try:
            return int((await obstore.head_async(self._store, self._prefix + key))["size"])
        except _MISSING:
            return None
        except BaseError as error:
            raise StorageUnavailable(f"head {key}: {error}") from error

    async def put_file(self, key: str, path: Path) -> None:
        await self._put(key, path, parts=True)

    async def put(self, key: str, data: Spool) -> None:
        async with self._room.take(data.size):
            await self._put(key, await data.read(0, data.size))

    async def _put(self, key: str, data: bytes | Path, *, parts: bool = False) -> None:
        try:
            await obstore.put_async(
                self._store,
                self._prefix + key,
                data,
                use_multipart=parts,
                chunk_size=PART_SIZE,
                max_concurrency=CONCURRENCY,
            )
        except BaseError as error:
            raise StorageUnavailable(f"put {key}: {error}") from error

    async def copy(self, key: str, to: str) -> None:
        try:
            await obstore.copy_async(self._store, self._prefix + key, self._prefix + to)
        except _MISSING as error:
            raise ObjectMissing(key) from error
        except BaseError as error:
            raise StorageUnavailable(f"copy {key}: {error}") from error

    async def delete(self, keys: Sequence[str]) -> None:
        try:
            await obstore.delete_async(self._store, [self._prefix + key for key in keys])
        except _MISSING:
            if len(keys) > 1:
                for key in keys:
                    await self.delete([key])
        except BaseError as error:
            raise StorageUnavailable(f"delete {', '.join(keys)}: {error}") from error

    async def url(self, key: str, life_s: float) -> str:
        return str(await obstore.sign_async(self._signer, "GET", self._prefix + key, timedelta(seconds=life_s)))

    async def begin_parts(self, key: str) -> str:
        return str(uuid.uuid4())

    async def put_part(self, key: str, parts_id: str, number: int, data: Spool) -> str:
        part = f"parts/{parts_id}/{number:05}"
        await self.put(part, data)
        return str(data.size)

    async def join_parts(self, key: str, parts_id: str, parts: Sequence[tuple[int, str]]) -> None:
        async def read() -> AsyncIterator[bytes]:
            for number, size in parts:
                async for chunk in await self.get(f"parts/{parts_id}/{number:05}", 0, int(size)):
                    yield chunk

        try:
            await obstore.put_async(
                self._store, self._prefix + key, read(), chunk_size=PART_SIZE, max_concurrency=CONCURRENCY
            )
        except BaseError as error:
            raise StorageUnavailable(f"put {key}: {error}") from error

    async def end_parts(self, key: str, parts_id: str) -> None:
        try:
            async for found in obstore.list(self._store, prefix=f"{self._prefix}parts/{parts_id}"):
                await asyncio.gather(*(obstore.delete_async(self._store, each["path"]) for each in found))
        except _MISSING:
            return
        except BaseError as error:
            raise StorageUnavailable(f"delete parts {parts_id}: {error}") from error

    async def begun_parts(self) -> list[tuple[str, str]]:
        return []  # parts are objects here, sent when the record is there

    async def aclose(self) -> None:
        return


async def _nothing() -> AsyncGenerator[bytes, None]:
    return
    yield b""
