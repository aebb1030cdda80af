"""However many clients bring or take large manifests, few of them are in memory."""

import asyncio
import errno
import gc
import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from scow.oci.digest import Digest
from scow.registry import manifest_bodies
from scow.registry.calls import Call
from scow.registry.errors import ManifestTooLarge
from scow.registry.manifest_bodies import COPIES, INLINE_SIZE, KEPT_LIMIT, KEPT_SIZE, ROOM_SIZE, ManifestBodies
from scow.registry.metadata import LargeManifest, Metadata, StoredManifest
from scow.registry.replies import Slice

SIZE = 4 << 20
PIECE = 128 << 10


class Names:
    """Holds manifests, and counts how many are read at a time."""

    def __init__(self, *contents: bytes) -> None:
        self._contents = {Digest(f"sha256:{hashlib.sha256(data).hexdigest()}"): data for data in contents}
        self.known = [LargeManifest(digest, "a/b", len(data)) for digest, data in self._contents.items()]
        self.reads = self.reading = self.most = 0

    async def manifest(self, repository: str, reference: str, is_digest: bool) -> StoredManifest | None:
        self.reads += 1
        self.reading += 1
        self.most = max(self.most, self.reading)
        await asyncio.sleep(0)
        self.reading -= 1
        data = self._contents.get(Digest(reference))
        return StoredManifest(Digest(reference), "a/b", data) if data is not None else None


class Request:
    """A call whose body is `size` bytes, the last of which wait for `whole`."""

    def __init__(self, size: int, whole: asyncio.Event | None = None) -> None:
        self.content_length: int | None = None
        self._size = size
        self._whole = whole
        self.stalled = asyncio.Event()

    async def body(self) -> AsyncIterator[bytes]:
        for start in range(0, self._size, PIECE):
            if start + PIECE >= self._size and self._whole is not None:
                self.stalled.set()
                await self._whole.wait()
            yield os.urandom(min(PIECE, self._size - start))


def bodies_of(names: Any, folder: Path) -> ManifestBodies:
    return ManifestBodies(cast(Metadata, names), folder)


def content(body: bytes | Slice | None) -> bytes:
    assert isinstance(body, Slice)
    try:
        return os.pread(body.file.fileno(), body.count, body.offset)
    finally:
        body.source.release()


@pytest.mark.parametrize("size", [0, 1, INLINE_SIZE, INLINE_SIZE + 1, 1_000_000])
async def test_a_body_is_what_was_sent(tmp_path: Path, size: int) -> None:
    bodies, sent = bodies_of(Names(), tmp_path), bytearray()

    class Kept(Request):
        async def body(self) -> AsyncIterator[bytes]:
            async for piece in super().body():
                sent.extend(piece)
                yield piece

    async with bodies.received(cast(Call, Kept(size)), SIZE) as data:
        assert data == sent
    assert os.listdir(tmp_path) == []


async def test_one_that_is_too_large_is_refused_as_soon_as_that_is_known(tmp_path: Path) -> None:
    bodies, whole = bodies_of(Names(), tmp_path), asyncio.Event()
    with pytest.raises(ManifestTooLarge):
        async with bodies.received(cast(Call, Request(3 * PIECE, whole)), PIECE):
            pass
    stated = Request(1)
    stated.content_length = SIZE + 1
    with pytest.raises(ManifestTooLarge):
        async with bodies.received(cast(Call, stated), SIZE):
            pass


async def test_few_bodies_that_are_whole_are_in_memory_at_once(tmp_path: Path) -> None:
    bodies, held, most, full = bodies_of(Names(), tmp_path), 0, 0, asyncio.Event()

    async def put() -> None:
        nonlocal held, most
        async with bodies.received(cast(Call, Request(SIZE)), SIZE) as data:
            held += len(data)
            most = max(most, held)
            if held == ROOM_SIZE // COPIES:
                full.set()
            await full.wait()
            await asyncio.sleep(0)
            held -= len(data)

    async with asyncio.timeout(60):
        await asyncio.gather(*(put() for _ in range(8)))
    assert most == ROOM_SIZE // COPIES


async def test_what_a_slow_client_has_sent_is_not_in_memory(tmp_path: Path) -> None:
    bodies, whole = bodies_of(Names(), tmp_path), asyncio.Event()
    requests = [Request(SIZE, whole) for _ in range(8)]

    async def put(request: Request) -> int:
        async with bodies.received(cast(Call, request), SIZE) as data:
            return len(data)

    tracemalloc.start()
    try:
        tasks = [asyncio.create_task(put(request)) for request in requests]
        for request in requests:
            await request.stalled.wait()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 8 * (manifest_bodies.BATCH_SIZE + 2 * PIECE)
    whole.set()
    assert await asyncio.gather(*tasks) == [SIZE] * 8


async def test_a_client_that_goes_leaves_nothing(tmp_path: Path) -> None:
    bodies, request = bodies_of(Names(), tmp_path), Request(SIZE, asyncio.Event())
    before = len(os.listdir("/proc/self/fd"))

    async def put() -> None:
        async with bodies.received(cast(Call, request), SIZE):
            pass

    task = asyncio.create_task(put())
    await request.stalled.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_small_manifest_is_sent_from_memory() -> None:
    found = StoredManifest(Digest("sha256:x"), "a/b", b"{}")
    assert await bodies_of(Names(), Path(os.devnull)).body("repo", found) == b"{}"


async def test_a_large_one_is_read_once_and_sent_from_a_file(tmp_path: Path) -> None:
    data = os.urandom(SIZE)
    names = Names(data)
    bodies = bodies_of(names, tmp_path)
    for _ in range(2):
        assert content(await bodies.body("repo", names.known[0])) == data
    first, second = await asyncio.gather(*(bodies.body("repo", names.known[0]) for _ in range(2)))
    assert names.reads == 1
    bodies.close()
    assert content(first) == content(second) == data  # who reads it can go on


async def test_few_large_ones_are_read_at_once(tmp_path: Path) -> None:
    contents = [os.urandom(SIZE) for _ in range(8)]
    names = Names(*contents)
    bodies = bodies_of(names, tmp_path)
    sent = await asyncio.gather(*(bodies.body("repo", each) for each in names.known))
    assert [content(each) for each in sent] == contents
    assert names.most == ROOM_SIZE // COPIES // SIZE
    bodies.close()


async def test_two_who_read_the_same_at_once_share_what_is_kept(tmp_path: Path) -> None:
    data = os.urandom(1 << 20)  # there is room for several
    names = Names(data)
    bodies = bodies_of(names, tmp_path)
    gc.collect()  # what tests before have left to be closed
    before = len(os.listdir("/proc/self/fd"))
    sent = await asyncio.gather(*(bodies.body("repo", names.known[0]) for _ in range(4)))
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert [content(each) for each in sent] == [data] * 4
    bodies.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("size", [1000, KEPT_SIZE // 4, KEPT_SIZE + 1])
async def test_what_is_kept_for_the_next_has_bounds(tmp_path: Path, size: int) -> None:
    names = Names(*(bytes([number]) * size for number in range(KEPT_LIMIT + 4 if size == 1000 else 6)))
    bodies = bodies_of(names, tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for found in names.known:
        assert len(content(await bodies.body("repo", found))) == size
    kept = len(os.listdir("/proc/self/fd")) - before
    assert kept == min(KEPT_LIMIT, KEPT_SIZE // size)
    bodies.close()


async def test_one_that_is_deleted_meanwhile_is_not_there(tmp_path: Path) -> None:
    found = LargeManifest(Digest("sha256:x"), "a/b", SIZE)
    assert await bodies_of(Names(), tmp_path).body("repo", found) is None


async def test_a_full_disk_keeps_nobody_from_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(manifest_bodies, "_write", full)
    data = os.urandom(SIZE)
    names = Names(data)
    before = len(os.listdir("/proc/self/fd"))
    assert await bodies_of(names, tmp_path).body("repo", names.known[0]) == data
    assert len(os.listdir("/proc/self/fd")) == before
