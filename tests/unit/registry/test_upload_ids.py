"""IDs of uploads."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from scow.registry import upload_ids
from scow.registry.names import parse_upload_id
from scow.registry.schema import STEPS
from scow.registry.sqlite import SqliteDatabase
from scow.registry.upload_ids import AHEAD_S, FRESH_S, UploadIds

NOW = 1_800_000_000.0


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = SqliteDatabase.open(tmp_path / "db", STEPS)
    yield opened
    await opened.aclose()


@pytest.fixture
def ids(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> UploadIds:
    monkeypatch.setattr("time.time", lambda: NOW)
    return UploadIds(database)


@pytest.mark.parametrize("algorithm", upload_ids.ALGORITHMS)
async def test_an_id_says_what_it_is_of(ids: UploadIds, algorithm: str) -> None:
    upload = await ids.make("some/where", algorithm)
    found = await ids.recognise(upload.upload_id, "some/where")
    assert found is not None
    assert (found.upload, found.begun_at) == (upload, NOW)
    assert found.is_fresh


async def test_an_id_is_a_uuid(ids: UploadIds) -> None:
    text = (await ids.make("some/where", "sha256")).upload_id
    assert parse_upload_id(text) == text
    assert (uuid.UUID(text).version, uuid.UUID(text).variant) == (8, uuid.RFC_4122)


async def test_no_two_are_the_same(ids: UploadIds) -> None:
    assert len({(await ids.make("some/where", "sha256")).upload_id for _ in range(5000)}) == 5000


async def test_another_repository_does_not_know_it(ids: UploadIds) -> None:
    upload = await ids.make("some/where", "sha256")
    assert await ids.recognise(upload.upload_id, "some/where/else") is None


async def test_an_id_that_was_changed_anywhere_is_not_ours(ids: UploadIds) -> None:
    number = uuid.UUID((await ids.make("some/where", "sha256")).upload_id).int
    for bit in range(128):
        assert await ids.recognise(str(uuid.UUID(int=number ^ (1 << bit))), "some/where") is None, bit


async def test_ids_of_earlier_versions_and_made_up_ones_are_not_ours(ids: UploadIds) -> None:
    assert await ids.recognise(str(uuid.uuid4()), "some/where") is None
    assert await ids.recognise("00000000-0000-0000-0000-000000000000", "some/where") is None


async def test_processes_of_one_registry_know_each_others_ids_and_no_others(
    ids: UploadIds, database: SqliteDatabase, tmp_path: Path
) -> None:
    upload = await ids.make("some/where", "sha256")
    assert await UploadIds(database).recognise(upload.upload_id, "some/where") is not None
    stranger = SqliteDatabase.open(tmp_path / "other", STEPS)
    assert await UploadIds(stranger).recognise(upload.upload_id, "some/where") is None
    await stranger.aclose()


@pytest.mark.parametrize(
    ("later_s", "fresh"), [(FRESH_S - 1, True), (FRESH_S, False), (1 - AHEAD_S, True), (-AHEAD_S, False)]
)
async def test_an_id_is_fresh_for_a_while(
    ids: UploadIds, monkeypatch: pytest.MonkeyPatch, later_s: float, fresh: bool
) -> None:
    upload = await ids.make("some/where", "sha256")
    monkeypatch.setattr("time.time", lambda: NOW + later_s)
    found = await ids.recognise(upload.upload_id, "some/where")
    assert found is not None
    assert found.is_fresh is fresh
