"""Decisions of two replicas about one blob, at the same moment: one of them waits for what the other decides."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from scow.oci.digest import Digest
from scow.registry.errors import QuotaExceeded, ReferencesUnknown
from scow.registry.manifests import read_manifest
from scow.registry.metadata import NewManifest, Review, Upload
from scow.registry.postgres import PostgresSession
from scow.registry.settings import Gc, Policy, Settings
from scow.registry.sql_metadata import SqlMetadata

from .conftest import CONFIG, MANIFEST, Client, Running, descriptor, digest_of

pytestmark = [pytest.mark.in_storage, pytest.mark.parametrize("kind_of_storage", ["postgres"], indirect=True)]

BLOB = Digest(digest_of(b"{}"))


class Gate:
    """Where the first statement with certain words waits, before it is run."""

    def __init__(self) -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    @contextmanager
    def hold(words: str) -> Iterator[Gate]:
        made = Gate()
        with monkeypatch.context() as patch:
            for name in ("run", "run_many", "row"):
                late = getattr(PostgresSession, name)

                async def wait(self: Any, statement: str, *values: Any, late: Any = late) -> Any:
                    if words in statement and not made.reached.is_set():
                        made.reached.set()
                        await made.open.wait()
                    return await late(self, statement, *values)

                patch.setattr(PostgresSession, name, wait)
            yield made

    return hold


@pytest.fixture
async def metadata(running: Running, serve: Callable[..., Any], settings: Settings, client: Client) -> SqlMetadata:
    """Names without grace, with a blob that nobody refers to and that may go."""
    client.url = (hasty := await serve(msgspec.structs.replace(settings, gc=Gc(interval_s=0, grace_s=0)))).url
    await client.push_blob(b"{}")
    found: SqlMetadata = hasty.registry.metadata
    return found


async def review(metadata: SqlMetadata, kind: str) -> Review:
    return next(each for each in await metadata.due_reviews(10) if each.kind == kind)


def manifest() -> NewManifest:
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, BLOB), "layers": []}
    data = msgspec.json.encode(document)
    return read_manifest(data, MANIFEST, Digest(digest_of(data)))


async def is_waiting(task: "asyncio.Task[Any]") -> bool:
    await asyncio.wait([task], timeout=0.3)
    return not task.done()


async def test_a_review_waits_for_a_manifest_that_begins_to_refer(
    metadata: SqlMetadata, gate: Callable[[str], Any]
) -> None:
    due = await review(metadata, "link")
    with gate("INSERT INTO manifest_ref") as held:
        pushing = asyncio.create_task(metadata.put_manifest("test/repo", manifest(), ["latest"]))
        await held.reached.wait()
        reviewing = asyncio.create_task(metadata.review(due))
        assert await is_waiting(reviewing)
        held.open.set()
        await asyncio.gather(pushing, reviewing)
    assert await metadata.blob("test/repo", BLOB) is not None


async def test_a_manifest_waits_for_a_review_and_is_refused_if_the_blob_is_gone(
    metadata: SqlMetadata, gate: Callable[[str], Any]
) -> None:
    due = await review(metadata, "link")
    with gate("DELETE FROM repository_blob") as held:
        reviewing = asyncio.create_task(metadata.review(due))
        await held.reached.wait()
        pushing = asyncio.create_task(metadata.put_manifest("test/repo", manifest(), ["latest"]))
        assert await is_waiting(pushing)
        held.open.set()
        await reviewing
        with pytest.raises(ReferencesUnknown):
            await pushing
    assert await metadata.manifest("test/repo", "latest", False) is None


async def test_an_upload_that_becomes_a_blob_about_to_go_makes_its_own_object(
    metadata: SqlMetadata, gate: Callable[[str], Any]
) -> None:
    before = await metadata.blob("test/repo", BLOB)
    await metadata.review(await review(metadata, "link"))
    due = await review(metadata, "blob")
    upload = Upload("00000000-0000-4000-8000-000000000000", "test/repo", "sha256")
    await metadata.begin_upload(upload)
    with gate("DELETE FROM blob ") as held:
        reviewing = asyncio.create_task(metadata.review(due))
        await held.reached.wait()
        closing = asyncio.create_task(metadata.close_upload(upload.upload_id, BLOB))
        assert await is_waiting(closing)
        held.open.set()
        await reviewing
        name = await closing
    assert before is not None
    assert name != before.object
    assert await metadata.garbage("", 10) == [before.object]


async def test_a_review_waits_for_an_upload_that_becomes_the_blob(
    metadata: SqlMetadata, gate: Callable[[str], Any]
) -> None:
    before = await metadata.blob("test/repo", BLOB)
    await metadata.review(await review(metadata, "link"))
    due = await review(metadata, "blob")
    upload = Upload("00000000-0000-4000-8000-000000000000", "test/repo", "sha256")
    await metadata.begin_upload(upload)
    with gate("UPDATE upload SET closing") as held:
        closing = asyncio.create_task(metadata.close_upload(upload.upload_id, BLOB))
        await held.reached.wait()
        reviewing = asyncio.create_task(metadata.review(due))
        assert await is_waiting(reviewing)
        held.open.set()
        name, _ = await asyncio.gather(closing, reviewing)
    assert before is not None
    assert name == before.object
    assert await metadata.commit_blob(upload, BLOB, name, 2)
    assert await metadata.garbage("", 10) == []
    assert await metadata.blob("test/repo", BLOB) is not None


async def test_a_blob_that_a_push_is_told_of_stays(metadata: SqlMetadata, gate: Callable[[str], Any]) -> None:
    due = await review(metadata, "link")
    with gate("DELETE FROM repository_blob") as held:
        reviewing = asyncio.create_task(metadata.review(due))
        await held.reached.wait()
        keeping = asyncio.create_task(metadata.keep_blob("test/repo", BLOB))
        assert await is_waiting(keeping)
        held.open.set()
        await reviewing
        assert not await keeping


async def test_a_blob_that_is_mounted_is_not_taken_from_its_source_meanwhile(
    metadata: SqlMetadata, gate: Callable[[str], Any]
) -> None:
    due = await review(metadata, "link")
    with gate("INSERT INTO repository_blob") as held:
        mounting = asyncio.create_task(metadata.mount_blob("other/repo", "test/repo", BLOB))
        await held.reached.wait()
        reviewing = asyncio.create_task(metadata.review(due))
        assert await is_waiting(reviewing)
        held.open.set()
        mounted, _ = await asyncio.gather(mounting, reviewing)
    assert mounted
    await metadata.review(await review(metadata, "blob"))
    assert await metadata.blob("other/repo", BLOB) is not None


class TestQuotas:
    @pytest.fixture
    async def limited(self, serve: Callable[..., Any], settings: Settings, client: Client) -> list[SqlMetadata]:
        """The names of two replicas, with a quota of 100 bytes for a namespace, one of 60 for each repository."""
        policies = [Policy(repositories=["team/**"], namespace_quota_size=100, quota_size=60)]
        replicas = [await serve(settings, policies=policies) for _ in range(2)]
        client.url = replicas[0].url
        return [replica.registry.metadata for replica in replicas]

    @staticmethod
    async def commit(metadata: SqlMetadata, repository: str, number: int, size: int) -> bool:
        digest = Digest(digest_of(b"%d" % number))
        upload = Upload(f"00000000-0000-4000-8000-{number:012}", repository, "sha256")
        await metadata.begin_upload(upload)
        name = await metadata.close_upload(upload.upload_id, digest)
        return await metadata.commit_blob(upload, digest, name, size)

    async def test_a_commit_waits_for_another_one_in_its_namespace(
        self, limited: list[SqlMetadata], gate: Callable[[str], Any]
    ) -> None:
        one, other = limited
        with gate("INSERT INTO repository_blob") as held:
            first = asyncio.create_task(self.commit(one, "team/a", 1, 55))
            await held.reached.wait()
            second = asyncio.create_task(self.commit(other, "team/b", 2, 55))
            waits = await is_waiting(second)
            assert await self.commit(other, "elsewhere", 3, 500)
            held.open.set()
            assert (waits, await first, await second) == (True, True, False)

    async def test_a_replica_that_stops_amid_a_commit_holds_up_others_for_a_while_only(
        self,
        limited: list[SqlMetadata],
        gate: Callable[[str], Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("scow.registry.postgres.IDLE_S", 2.0)
        one, other = limited
        with gate("INSERT INTO repository_blob") as held:
            first = asyncio.create_task(self.commit(one, "team/a", 1, 55))
            await held.reached.wait()
            try:
                async with asyncio.timeout(60):
                    assert await self.commit(other, "team/b", 2, 55)
            finally:
                held.open.set()
            assert not await first

    async def test_commits_at_once_fill_a_namespace_and_no_more(self, limited: list[SqlMetadata]) -> None:
        names = [f"team/{number % 7}" for number in range(40)]
        done = await asyncio.gather(
            *(self.commit(limited[number % 2], name, number, 9) for number, name in enumerate(names))
        )
        assert sum(done) == 11

    async def test_commits_at_once_fill_a_repository_and_no_more(self, limited: list[SqlMetadata]) -> None:
        done = await asyncio.gather(*(self.commit(limited[number % 2], "team/a", number, 9) for number in range(20)))
        assert sum(done) == 6

    async def test_mounts_at_once_fill_a_namespace_and_no_more(self, limited: list[SqlMetadata]) -> None:
        assert await self.commit(limited[0], "free", 1, 30)
        digest = Digest(digest_of(b"1"))
        done = await asyncio.gather(
            *(limited[number % 2].mount_blob(f"team/{number}", "free", digest) for number in range(12)),
            return_exceptions=True,
        )
        assert done.count(True) == 3
        assert sum(isinstance(each, QuotaExceeded) for each in done) == 9
