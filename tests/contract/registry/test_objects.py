"""What keeps blobs, whether a folder, a store of S3, or another that obstore knows."""

import asyncio
import hashlib
import os
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import GenericError

from scow.oci.digest import Digest
from scow.registry.bucket_objects import BucketObjects
from scow.registry.errors import DigestInvalid, StorageUnavailable, UploadBusy, UploadUnknown
from scow.registry.folder import Folder
from scow.registry.objects import ObjectName, Objects, object_name
from scow.registry.schema import STEPS
from scow.registry.settings import Bucket
from scow.registry.spools import Spools
from scow.registry.sqlite import SqliteDatabase
from scow.registry.stores import open_bucket
from support.s3_server import S3Server

PART = 5 << 20


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = SqliteDatabase.open(tmp_path / "db", STEPS)
    yield opened
    await opened.aclose()


def bucket_objects(url: str, database: SqliteDatabase, settings: Bucket) -> BucketObjects:
    bucket, spools = open_bucket(url, settings), Spools(Path(tempfile.gettempdir()))
    return BucketObjects(bucket, database, spools, part_size=PART, redirects=settings.redirect)


@pytest.fixture(params=["folder", "s3", "memory"])
async def objects(
    request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server, database: SqliteDatabase
) -> AsyncIterator[Objects]:
    if request.param == "folder":
        made: Objects = Folder(tmp_path / "storage")
    else:
        url = {"s3": "s3://blobs/some/where", "memory": "memory://"}[request.param]
        made = bucket_objects(url, database, Bucket(endpoint=s3.url, access_key="key", secret_key="secret"))
    yield made
    await made.aclose()
    if request.param == "s3":
        assert not s3.uploads, "parts were left"
        assert not [key for key in s3.objects if "/tails/" in key], "tails were left"


def named(data: bytes, upload_id: str, algorithm: str = "sha256") -> ObjectName:
    return object_name(Digest(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"), upload_id)


def files_in(folder: Path) -> list[int]:
    """Sizes of the files that this process has open there."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}").startswith(f"{folder}/"):
                found.append(os.stat(f"/proc/self/fd/{fd}").st_size)
    return found


async def store(objects: Objects, pieces: list[bytes], algorithm: str = "sha256", cuts: bool = False) -> ObjectName:
    """Upload `pieces`, each by another holder if there are `cuts`, the last one with the end; its name."""
    upload_id, data = str(uuid.uuid4()), b"".join(pieces)
    stage = await objects.open_stage(upload_id, create=True)
    state, offset = stage.hash("sha256")
    for piece in pieces[:-1]:
        await stage.append([piece], [state])
        if cuts:
            await stage.close()
            stage = await objects.open_stage(upload_id)
            state, offset = stage.hash("sha256")
            if offset != stage.size:
                assert stage.rereads, "the hash was not kept"
                await stage.feed(state, offset)
    name = named(data, upload_id)
    await stage.publish(name, pieces[-1:], state)
    assert stage.size == len(data)
    await objects.discard(upload_id)
    await stage.close()
    return name


async def read(objects: Objects, name: ObjectName, offset: int, count: int) -> bytes:
    opened = await objects.open(name)
    assert opened is not None
    try:
        return b"".join([chunk async for chunk in await opened.read(offset, count)])
    finally:
        opened.release()


SIZES = (
    [0],
    [100, 1],
    [PART],
    [PART - 1, 1, 1],
    [2 * PART + 7, 70_000, 3],
)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("cuts", [False, True], ids=["one holder", "many holders"])
async def test_what_was_uploaded_is_read(objects: Objects, sizes: list[int], cuts: bool) -> None:
    pieces = [os.urandom(size) for size in sizes]
    data = b"".join(pieces)
    name = await store(objects, pieces, cuts=cuts)
    assert await read(objects, name, 0, len(data)) == data
    assert await read(objects, name, len(data) // 2, len(data) // 4) == data[len(data) // 2 :][: len(data) // 4]
    assert await objects.verify(name)
    await objects.remove(name)
    await objects.remove(name)
    assert not await objects.verify(name)


async def test_what_is_not_its_digest_is_no_object(objects: Objects) -> None:
    upload_id = str(uuid.uuid4())
    name = named(b"other", upload_id)
    stage = await objects.open_stage(upload_id, create=True)
    with pytest.raises(DigestInvalid):
        await stage.publish(name, [b"data"], stage.hash("sha256")[0])
    await objects.discard(upload_id)
    await stage.close()
    assert not await objects.verify(name)


async def test_an_upload_has_one_holder_and_tells_how_much_has_come(objects: Objects) -> None:
    upload_id = str(uuid.uuid4())
    stage = await objects.open_stage(upload_id, create=True)
    with pytest.raises(UploadBusy):
        await objects.open_stage(upload_id)
    await stage.append([b"some", b"thing"], [stage.hash("sha256")[0]])
    await stage.close()
    assert await objects.staged_size(upload_id) == 9
    assert [name for name, _ in await objects.staged()] == [upload_id]
    await objects.discard(upload_id)
    await objects.discard(upload_id)
    for call in (objects.staged_size, objects.open_stage):
        with pytest.raises(UploadUnknown):
            await call(upload_id)
    assert await objects.staged() == []


@pytest.mark.parametrize("size", [10, PART + 10, 3 * PART])
async def test_what_a_holder_appended_can_be_dropped(objects: Objects, size: int) -> None:
    upload_id, first = str(uuid.uuid4()), os.urandom(PART + 70_000)
    stage = await objects.open_stage(upload_id, create=True)
    await stage.append([first], [stage.hash("sha256")[0]])
    await stage.close()
    stage = await objects.open_stage(upload_id)
    await stage.append([os.urandom(size)], [hashlib.sha256()])
    await stage.truncate(len(first))
    await stage.append([b"end"], [hashlib.sha256(first)])
    await stage.close()
    stage = await objects.open_stage(upload_id)
    state, offset = stage.hash("sha256")
    await stage.feed(state, offset) if offset != stage.size else None
    name = named(first + b"end", upload_id)
    await stage.publish(name, [], hashlib.sha256(first + b"end"))
    await objects.discard(upload_id)
    await stage.close()
    assert await read(objects, name, 0, len(first) + 3) == first + b"end"


async def test_what_was_published_takes_no_more_bytes(objects: Objects) -> None:
    upload_id = str(uuid.uuid4())
    stage = await objects.open_stage(upload_id, create=True)
    await stage.publish(named(b"whole", upload_id), [b"whole"], stage.hash("sha256")[0])
    await stage.close()
    stage = await objects.open_stage(upload_id)
    with pytest.raises(UploadUnknown):
        await stage.append([b"more"], [])
    await objects.discard(upload_id)
    await stage.close()


@pytest.mark.parametrize("size", [9, PART + 9])
async def test_a_digest_of_another_algorithm_is_made_at_the_end(objects: Objects, size: int) -> None:
    upload_id, data = str(uuid.uuid4()), os.urandom(size)
    stage = await objects.open_stage(upload_id, create=True)
    await stage.append([data], [stage.hash("sha256")[0]])
    await stage.close()
    stage = await objects.open_stage(upload_id)
    state = hashlib.sha512()
    await stage.feed(state, 0)
    name = named(data, upload_id, "sha512")
    await stage.publish(name, [], state)
    await stage.publish(name, [], state)  # as after an answer that was lost
    await objects.discard(upload_id)
    await stage.close()
    assert await objects.verify(name)


async def test_a_file_from_elsewhere_becomes_an_object(objects: Objects, tmp_path: Path) -> None:
    source = tmp_path / "elsewhere"
    source.write_bytes(b"imported")
    name = named(b"imported", str(uuid.uuid4()))
    assert await objects.adopt(source, name, verify=True) == 8
    assert await objects.verify(name)
    with pytest.raises(DigestInvalid):
        await objects.adopt(source, named(b"other", str(uuid.uuid4())), verify=True)


class TestBucket:
    @pytest.fixture
    def settings(self, s3: S3Server) -> Bucket:
        return Bucket(endpoint=s3.url, access_key="key", secret_key="secret")

    @pytest.fixture
    async def objects(self, database: SqliteDatabase, settings: Bucket) -> AsyncIterator[BucketObjects]:
        made = bucket_objects("s3://blobs", database, settings)
        yield made
        await made.aclose()

    async def test_a_store_that_is_busy_for_a_moment_is_asked_again(self, objects: BucketObjects, s3: S3Server) -> None:
        s3.failing = 2
        name = await store(objects, [os.urandom(PART + 1), b"end"])
        assert await objects.verify(name)

    @pytest.mark.parametrize("size", [100_000, 0])
    async def test_the_rest_of_an_answer_that_breaks_off_is_asked_for(
        self, objects: BucketObjects, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        data, ask = os.urandom(350_000), obstore.get_async
        name = await store(objects, [data])

        class Cut:
            """An answer that ends after so many bytes."""

            def __init__(self, found: Any) -> None:
                self._found = found

            async def stream(self, min_chunk_size: int) -> AsyncIterator[bytes]:
                async for chunk in self._found.stream(min_chunk_size=min_chunk_size):
                    yield bytes(chunk)[:size]
                    break
                raise GenericError("a timeout")

        async def ask_and_cut(*given: Any, **named: Any) -> Cut:
            return Cut(await ask(*given, **named))

        monkeypatch.setattr(obstore, "get_async", ask_and_cut)
        if size:
            assert await read(objects, name, 0, len(data)) == data
        else:
            with pytest.raises(ConnectionError, match="a timeout"):
                await read(objects, name, 0, len(data))

    async def test_bytes_wait_in_files_without_names(
        self, database: SqliteDatabase, settings: Bucket, s3: S3Server, tmp_path: Path
    ) -> None:
        folder = tmp_path / "spool"
        folder.mkdir()
        objects = BucketObjects(
            open_bucket("s3://blobs", settings), database, Spools(folder), part_size=PART, redirects=True
        )
        data, upload_id = os.urandom(2 * PART + 70_000), str(uuid.uuid4())
        stage = await objects.open_stage(upload_id, create=True)
        await stage.append([data[:10]], [stage.hash("sha256")[0]])
        assert files_in(folder) == []  # so few are in memory
        await stage.append([data[10:]], [stage.hash("sha256")[0]])
        assert files_in(folder)
        await stage.close()
        assert files_in(folder) == [70_000]  # for who goes on here
        stage = await objects.open_stage(upload_id)
        await stage.publish(named(data, upload_id), [], hashlib.sha256(data))
        await objects.discard(upload_id)
        await stage.close()
        assert files_in(folder) == []
        assert list(folder.iterdir()) == []
        assert await objects.verify(named(data, upload_id))
        await objects.aclose()

    async def test_a_store_that_takes_no_bytes_is_given_up(
        self, objects: BucketObjects, s3: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scow.registry.s3.TRIES", 1)
        monkeypatch.setattr("scow.registry.s3.TIMEOUT_S", 0.3)
        s3.stalling = asyncio.Event()
        with pytest.raises(StorageUnavailable) as refusal:
            await store(objects, [os.urandom(PART)])
        assert "TimeoutError" in refusal.value.why
        s3.stalling.set()
        monkeypatch.undo()
        assert await objects.verify(await store(objects, [os.urandom(PART)]))
        for upload_id, _ in await objects.staged():
            await objects.discard(upload_id)

    async def test_a_store_that_does_not_answer_is_not_asked_for_ever(
        self, objects: BucketObjects, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tries = 0

        async def never_answered(*given: object) -> None:
            nonlocal tries
            tries += 1
            raise TimeoutError

        monkeypatch.setattr(objects.bucket, "_send", never_answered)
        monkeypatch.setattr("scow.registry.s3.RETRY_S", 0.0)
        with pytest.raises(StorageUnavailable):
            await objects.bucket.begin_parts("blobs/00/key")
        assert tries == 1

    async def test_a_holder_that_lost_the_upload_can_do_nothing_more(
        self, objects: BucketObjects, database: SqliteDatabase, settings: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scow.registry.stages.LEASE_S", -1.0)
        other = bucket_objects("s3://blobs", database, settings)
        upload_id = str(uuid.uuid4())
        slow = await objects.open_stage(upload_id, create=True)
        await slow.append([b"slow"], [slow.hash("sha256")[0]])
        quick = await other.open_stage(upload_id)
        await quick.append([b"quick"], [quick.hash("sha256")[0]])
        with pytest.raises(UploadUnknown):
            await slow.publish(named(b"slow", upload_id), [], hashlib.sha256(b"slow"))
        await slow.close()
        await quick.publish(named(b"quick", upload_id), [], hashlib.sha256(b"quick"))
        await quick.close()
        assert await other.verify(named(b"quick", upload_id))
        await other.aclose()

    async def test_a_part_that_could_not_be_stored_leaves_what_came_before(
        self, objects: BucketObjects, s3: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scow.registry.s3.TRIES", 1)
        upload_id, first = str(uuid.uuid4()), os.urandom(PART)
        stage = await objects.open_stage(upload_id, create=True)
        state = stage.hash("sha256")[0]
        await stage.append([first], [state])
        await stage.close()
        stage = await objects.open_stage(upload_id)
        s3.failing = 1
        await stage.append([os.urandom(PART)], [stage.hash("sha256")[0]])
        with pytest.raises(StorageUnavailable):
            await stage.close()
        stage = await objects.open_stage(upload_id)
        assert stage.size == PART
        await stage.publish(named(first + b"end", upload_id), [b"end"], stage.hash("sha256")[0])
        await objects.discard(upload_id)
        await stage.close()
        assert await objects.verify(named(first + b"end", upload_id))

    @pytest.mark.parametrize("size", [70_000, PART + 70_000])
    async def test_a_removal_that_was_cut_off_is_finished(
        self, objects: BucketObjects, s3: S3Server, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        upload_id = str(uuid.uuid4())
        stage = await objects.open_stage(upload_id, create=True)
        await stage.append([os.urandom(size)], [stage.hash("sha256")[0]])
        await stage.close()

        async def die(upload_id: str) -> None:
            raise StorageUnavailable("cut off")

        with monkeypatch.context() as patch:
            patch.setattr(objects.stages, "forget", die)
            with pytest.raises(StorageUnavailable):
                await objects.discard(upload_id)
        objects._tails.clear()  # as in another process
        with pytest.raises(UploadUnknown):
            await objects.open_stage(upload_id)
        await objects.discard(upload_id)
        assert await objects.staged() == []
        assert not s3.objects
        assert not s3.uploads

    async def test_parts_that_nobody_has_recorded_are_removed_at_the_second_look(
        self, objects: BucketObjects, s3: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scow.registry.bucket_objects.SWEEP_S", 0.0)
        upload_id = str(uuid.uuid4())
        stage = await objects.open_stage(upload_id, create=True)
        await stage.append([os.urandom(PART + 1)], [stage.hash("sha256")[0]])
        await objects.bucket.begin_parts("blobs/00/died")
        await objects.sweep()
        assert len(s3.uploads) == 2
        await objects.sweep()
        assert [each.key for each in s3.uploads.values()] == [f"blobs/{objects.upload_key(upload_id)}"]
        await stage.close()
        await objects.discard(upload_id)

    async def test_small_blobs_take_one_request(self, objects: BucketObjects, s3: S3Server) -> None:
        upload_id = str(uuid.uuid4())
        stage = await objects.open_stage(upload_id, create=True)
        await stage.append([b"small"], [stage.hash("sha256")[0]])
        await stage.close()
        stage = await objects.open_stage(upload_id)
        await stage.publish(named(b"small", upload_id), [], stage.hash("sha256")[0])
        await objects.discard(upload_id)
        await stage.close()
        assert dict(s3.counts) == {"PUT": 1}

    async def test_a_signed_url_gives_the_blob(self, objects: BucketObjects, s3: S3Server) -> None:
        name = await store(objects, [b"linked"])
        url = await objects.url(name)
        assert url is not None
        assert url.startswith(f"{s3.url}/blobs/blobs/")
        assert "X-Amz-Signature=" in url
