"""distribution-spec spec.md#content-management, and what collection may take away."""

import asyncio
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scow.oci.digest import parse_digest
from scow.registry.accounts import Account
from scow.registry.command import main
from scow.registry.errors import UploadUnknown
from scow.registry.schema import STEPS
from scow.registry.settings import Gc, Policy, Settings
from scow.registry.sql import Session
from scow.registry.sqlite import SqliteDatabase
from scow.registry.storage import DATABASE
from scow.registry.upload_ids import AHEAD_S

from .conftest import MANIFEST, Client, Running, digest_of

REPO = "/v2/test/repo"


def objects(settings: Settings) -> set[str]:
    root = Path(settings.storage) / "blobs"
    return {f"{path.parent.parent.name}:{path.name.partition('.')[0]}" for path in root.glob("*/*/*")}


def kept_as(settings: Settings, digest: str) -> Path:
    """The file of a blob."""
    kind, _, digits = digest.partition(":")
    (found,) = (Path(settings.storage) / "blobs" / kind / digits[:2]).glob(f"{digits}*")
    return found


async def decide(running: Running) -> None:
    """Decide all reviews as a collector does, and remove nothing."""
    metadata = running.registry.metadata
    while reviews := await metadata.due_reviews(10):
        for review in reviews:
            await metadata.review(review)


async def test_deleting_a_tag_leaves_the_manifest(client: Client) -> None:
    digest = await client.push_image("one")
    await client.push_image("two")
    answer = await client("DELETE", f"{REPO}/manifests/one")
    assert (answer.status, answer.body) == (202, b"")
    assert (await client("GET", f"{REPO}/manifests/one")).codes == ["MANIFEST_UNKNOWN"]
    assert (await client("GET", f"{REPO}/manifests/{digest}")).status == 200
    assert (await client("GET", f"{REPO}/tags/list")).json["tags"] == ["two"]
    assert (await client("DELETE", f"{REPO}/manifests/one")).status == 404


async def test_deleting_a_manifest_takes_its_tags_along_at_once(client: Client) -> None:
    digest = await client.push_image("one")
    await client.push_image("two")
    other = await client.push_image("other", seed="other")
    for reference in ("one", "two", digest):
        assert (await client("GET", f"{REPO}/manifests/{reference}")).status == 200
    assert (await client("DELETE", f"{REPO}/manifests/{digest}")).status == 202
    for reference in ("one", "two", digest):
        for method in ("GET", "HEAD"):
            assert (await client(method, f"{REPO}/manifests/{reference}")).status == 404
    assert (await client("GET", f"{REPO}/tags/list")).json["tags"] == ["other"]
    assert (await client("GET", f"{REPO}/manifests/{other}")).status == 200
    assert (await client("DELETE", f"{REPO}/manifests/{digest}")).status == 404


async def test_what_a_tag_stood_for_is_remembered_until_it_goes(
    client: Client, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scow.registry.sql_manifests.HISTORY", 3)
    metadata = running.registry.metadata
    pushed = [await client.push_image("latest", seed=str(number)) for number in range(6)]
    await client.push_image("latest", seed="5")  # where it is already
    past = await metadata.tag_history("test/repo", "latest")
    assert [each.digest for each in past] == pushed[4:1:-1]
    assert [each.until for each in past] == sorted((each.until for each in past), reverse=True)
    assert (await client("DELETE", f"{REPO}/manifests/{pushed[3]}")).status == 202
    assert [each.is_here for each in await metadata.tag_history("test/repo", "latest")] == [True, False, True]
    for reference in ("latest", pushed[5]):
        await client.push_image("latest", seed="0")
        await client.push_image("latest", seed="5")
        assert (await client("DELETE", f"{REPO}/manifests/{reference}")).status == 202
        assert await metadata.tag_history("test/repo", "latest") == []
        await client.push_image("latest", seed="0")
        assert await metadata.tag_history("test/repo", "latest") == []


@pytest.mark.parametrize("kind_of_storage", ["folder"], indirect=True)
async def test_the_history_of_a_tag_is_shown(
    client: Client, settings: Settings, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = [await client.push_image("v1", seed=str(number)) for number in range(3)]
    assert (await client("DELETE", f"{REPO}/manifests/{first}")).status == 202
    history = ["history", "test/repo:v1", "--storage", settings.storage]
    assert await asyncio.to_thread(main, history) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [digest for digest, _ in lines] == [third, second, first]
    assert lines[0][1] == "now"
    assert [told.endswith(", is gone") for _, told in lines] == [False, False, True]
    assert await asyncio.to_thread(main, [*history[:1], "test/repo:v2", *history[2:]]) == 1
    assert capsys.readouterr().err == "scow registry: there is no tag test/repo:v2\n"


async def test_deleting_a_manifest_of_an_unknown_repository(client: Client) -> None:
    answer = await client("DELETE", f"/v2/never/heard-of/manifests/sha256:{'0' * 64}")
    assert answer.status == 404


async def test_deleting_a_blob_concerns_this_repository_only(client: Client) -> None:
    digest = await client.push_blob(b"data", "one")
    await client.push_blob(b"data", "two")
    assert (await client("GET", f"/v2/one/blobs/{digest}")).status == 200
    assert (await client("DELETE", f"/v2/one/blobs/{digest}")).status == 202
    for method in ("GET", "HEAD", "DELETE"):
        assert (await client(method, f"/v2/one/blobs/{digest}")).status == 404
    assert (await client("GET", f"/v2/two/blobs/{digest}")).body == b"data"


async def test_a_deleted_blob_can_be_pushed_again(client: Client) -> None:
    digest = await client.push_blob(b"data")
    await client("DELETE", f"{REPO}/blobs/{digest}")
    assert await client.push_blob(b"data") == digest
    assert (await client("GET", f"{REPO}/blobs/{digest}")).body == b"data"


async def begin_stage(client: Client) -> str:
    """Begin an upload that has a stage; its ID."""
    location = await client.begin()
    assert (await client("PATCH", location, b"")).status == 202
    return location.rpartition("/")[2]


@pytest.mark.in_storage
class TestCollection:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        """No grace: everything that is unused is due at once."""
        return msgspec.structs.replace(settings, gc=Gc(interval_s=0, grace_s=0))

    async def test_what_manifests_refer_to_stays_and_the_rest_goes(
        self, client: Client, running: Running, settings: Settings
    ) -> None:
        await client.push_image("latest")
        unused = await client.push_blob(b"unused")
        done = await running.registry.collector.collect()
        assert done.blobs == 1
        assert digest_of(b"unused") not in objects(settings)
        assert len(objects(settings)) == 2
        assert (await client("GET", f"{REPO}/blobs/{unused}")).status == 404
        manifest = (await client("GET", f"{REPO}/manifests/latest")).json
        for part in (manifest["config"], *manifest["layers"]):
            assert (await client("GET", f"{REPO}/blobs/{part['digest']}")).status == 200
        assert (await running.registry.collector.collect()).reviews == 0

    async def test_blobs_of_a_deleted_manifest_go_unless_another_one_has_them(
        self, client: Client, running: Running, settings: Settings
    ) -> None:
        first = await client.push_image("first", seed="same")
        second = await client.push_image("second", seed="same", annotations={"x": "y"})
        await client("DELETE", f"{REPO}/manifests/{first}")
        await running.registry.collector.collect()
        assert len(objects(settings)) == 2
        await client("DELETE", f"{REPO}/manifests/{second}")
        await running.registry.collector.collect()
        assert objects(settings) == set()

    async def test_a_blob_that_another_repository_has_keeps_its_object(
        self, client: Client, running: Running, settings: Settings
    ) -> None:
        image = await client.push_image("latest", "keeps")
        await client.push_image("latest", "loses")
        await client("DELETE", f"/v2/loses/manifests/{image}")
        await running.registry.collector.collect()
        assert len(objects(settings)) == 2
        layer = digest_of(b"layer ")
        assert (await client("GET", f"/v2/loses/blobs/{layer}")).status == 404
        assert (await client("GET", f"/v2/keeps/blobs/{layer}")).status == 200

    async def test_a_push_between_two_collectors_keeps_its_object(
        self, client: Client, running: Running, settings: Settings
    ) -> None:
        digest = await client.push_blob(b"phoenix")
        registry = running.registry
        # The first collector stops between its decision and the removal.
        await decide(running)
        (doomed,) = await registry.metadata.garbage("", 10)
        # Another one finishes; the blob is pushed again; the first one goes on, twice even.
        assert (await registry.collector.collect()).blobs == 1
        assert objects(settings) == set()
        assert await client.push_blob(b"phoenix") == digest
        for _ in range(2):
            await registry.objects.remove(doomed)
            assert not await registry.metadata.forget_garbage(doomed)
        assert (await client("GET", f"{REPO}/blobs/{digest}")).body == b"phoenix"
        assert [each async for each in registry.collector.damaged()] == []

    async def test_a_push_between_decision_and_removal_keeps_its_object(
        self, client: Client, running: Running, settings: Settings
    ) -> None:
        location = await client.begin()
        await client("PATCH", location, b"phoenix")
        digest = await client.push_blob(b"phoenix")
        await decide(running)
        assert (await client("HEAD", f"{REPO}/blobs/{digest}")).status == 404
        assert (await client("PUT", f"{location}?digest={digest}")).status == 201
        for name in await running.registry.metadata.garbage("", 10):
            await running.registry.objects.remove(name)
        assert (await client("GET", f"{REPO}/blobs/{digest}")).body == b"phoenix"
        assert objects(settings) == {digest}

    async def test_of_two_pushes_of_one_blob_at_once_one_object_stays(
        self, client: Client, running: Running, settings: Settings
    ) -> None:
        metadata, store = running.registry.metadata, running.registry.objects
        digest = parse_digest(digest_of(b"twins"))
        uploads = [await begin_stage(client) for _ in range(2)]
        names = [await metadata.close_upload(each, digest) for each in uploads]
        assert len(set(names)) == 2
        for upload_id, name in zip(uploads, names, strict=True):
            record = await metadata.upload("test/repo", upload_id)
            assert record is not None
            stage = await store.open_stage(upload_id)
            await stage.publish(name, [b"twins"], hashlib.sha256())
            assert await metadata.commit_blob(record.upload, digest, name, 5)
            await stage.close()
        assert len(list((Path(settings.storage) / "blobs").glob("*/*/*"))) == 2
        for name in await metadata.garbage("", 10):
            await store.remove(name)
            await metadata.forget_garbage(name)
        assert len(list((Path(settings.storage) / "blobs").glob("*/*/*"))) == 1
        assert (await client("GET", f"{REPO}/blobs/{digest}")).body == b"twins"

    async def test_a_collector_that_died_half_way_is_followed_by_one_that_finishes(
        self, client: Client, running: Running, settings: Settings
    ) -> None:
        await client.push_blob(b"unlucky")
        await decide(running)
        assert objects(settings)
        assert (await running.registry.collector.collect()).blobs == 1
        assert objects(settings) == set()

    async def test_what_an_upload_published_before_it_died_is_collected(
        self, client: Client, running: Running, settings: Settings
    ) -> None:
        metadata, store = running.registry.metadata, running.registry.objects
        upload_id = await begin_stage(client)
        digest = parse_digest(digest_of(b"orphan"))
        name = await metadata.close_upload(upload_id, digest)
        stage = await store.open_stage(upload_id)
        await stage.publish(name, [b"orphan"], hashlib.sha256())
        await stage.close()
        assert objects(settings) == {digest}
        await running.registry.uploads.drop(upload_id)
        await running.registry.collector.collect()
        assert objects(settings) == set()

    async def test_an_upload_that_expired_while_it_published_is_refused_and_leaves_nothing(
        self, client: Client, running: Running, settings: Settings
    ) -> None:
        metadata, store = running.registry.metadata, running.registry.objects
        upload_id = await begin_stage(client)
        digest = parse_digest(digest_of(b"late"))
        name = await metadata.close_upload(upload_id, digest)
        record = await metadata.upload("test/repo", upload_id)
        assert record is not None
        stage = await store.open_stage(upload_id)
        await running.registry.uploads.drop(upload_id)
        await running.registry.collector.collect()
        (Path(settings.storage) / "uploads" / upload_id).touch()
        await stage.publish(name, [], hashlib.sha256(b"late"))
        await stage.close()
        with pytest.raises(UploadUnknown):
            await metadata.commit_blob(record.upload, digest, name, 4)
        await running.registry.collector.collect()
        assert objects(settings) == set()

    async def test_a_closing_upload_keeps_its_digest_from_collection(self, client: Client, running: Running) -> None:
        metadata = running.registry.metadata
        digest = await client.push_blob(b"contested")
        await metadata.close_upload(await begin_stage(client), digest)  # type: ignore[arg-type]
        assert (await running.registry.collector.collect()).blobs == 0


async def test_a_push_is_not_robbed_of_a_blob_that_it_was_told_exists(
    serve: Callable[..., Any], settings: Settings, client: Client, running: Running
) -> None:
    """Reviews are due in less than SOON_S here, so each HEAD puts them off again."""
    registry = running.registry
    soon = msgspec.structs.replace(settings, gc=Gc(interval_s=0, grace_s=300))
    client.url = (await serve(soon)).url
    digest = await client.push_blob(b"needed")
    first = await registry.metadata.blob("test/repo", digest)  # type: ignore[arg-type]
    assert (await client("HEAD", f"{REPO}/blobs/{digest}")).status == 200
    second = await registry.metadata.blob("test/repo", digest)  # type: ignore[arg-type]
    assert first is not None
    assert second is not None
    assert first.review_after is not None
    assert second.review_after is not None
    assert time.time() < first.review_after < second.review_after


async def test_uploads_that_nobody_goes_on_with_expire(
    serve: Callable[..., Any], settings: Settings, client: Client
) -> None:
    hasty = Settings(
        listen=settings.listen, storage=settings.storage, gc=Gc(interval_s=0, grace_s=60, upload_expiry_s=-1)
    )
    running = await serve(hasty)
    client.url = running.url
    location = await client.begin()
    await client("PATCH", location, b"half")
    (Path(settings.storage) / "uploads" / "11111111-1111-1111-1111-111111111111").write_bytes(b"stray")
    planned = (await running.registry.collector.plan()).uploads
    assert sorted(planned) == ["11111111-1111-1111-1111-111111111111", location.rpartition("/")[2]]
    assert (await running.registry.collector.collect()).uploads == len(planned) == 2
    assert list((Path(settings.storage) / "uploads").iterdir()) == []
    assert (await client("GET", location)).codes == ["BLOB_UPLOAD_UNKNOWN"]


async def test_an_upload_in_use_does_not_expire(client: Client, running: Running) -> None:
    location = await client.begin()
    await client("PATCH", location, b"half")
    assert (await running.registry.collector.collect()).uploads == 0
    assert (await client("GET", location)).status == 204


@pytest.mark.in_storage
async def test_a_damaged_blob_is_found(client: Client, running: Running, settings: Settings) -> None:
    good, bad, gone = [await client.push_blob(data) for data in (b"good", b"bad", b"gone")]
    kept_as(settings, bad).write_bytes(b"BAD")
    kept_as(settings, gone).unlink()
    found = [digest async for digest in running.registry.collector.damaged()]
    assert sorted(found) == sorted([bad, gone])
    assert good not in found


@pytest.mark.in_storage
async def test_a_damaged_blob_is_good_again_once_it_is_pushed(
    client: Client, running: Running, settings: Settings
) -> None:
    rotten = await client.push_blob(b"good")
    kept_as(settings, rotten).write_bytes(b"BAD!")
    assert (await client("GET", f"{REPO}/blobs/{rotten}")).body == b"BAD!"
    await client.push_blob(b"good")
    assert (await client("GET", f"{REPO}/blobs/{rotten}")).body == b"good"
    assert [each async for each in running.registry.collector.damaged()] == []
    assert len(list((Path(settings.storage) / "uploads").iterdir())) == 0


@pytest.mark.in_storage
@pytest.mark.parametrize("kind_of_storage", ["folder"], indirect=True)
async def test_whoever_pulls_what_is_gone_is_told_and_so_is_the_log(
    client: Client, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    digest = await client.push_blob(b"gone")
    kept_as(settings, digest).unlink()
    answer = await client("GET", f"{REPO}/blobs/{digest}")
    assert (answer.status, answer.codes) == (500, ["UNKNOWN"])
    told = f"the content of blob {digest} is missing or damaged here: push it again"
    assert answer.json["errors"][0]["message"] == told
    (record,) = (record for record in caplog.records if told in record.getMessage())
    assert record.exc_info is None


@pytest.mark.parametrize("kind_of_storage", ["folder"], indirect=True)
async def test_what_is_wrong_with_the_folder_is_told_as_one_line(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([errno.EROFS, errno.EACCES, errno.EIO, errno.ENOSPC, errno.ENOSPC])

    def fail(*given: object, **named: object) -> int:
        raise OSError(number := next(failures), os.strerror(number), "uploads/1")

    location = await client.begin()
    with monkeypatch.context() as patched:
        patched.setattr("scow.registry.folder.os.open", fail)
        for why in ("Read-only file system", "Permission denied", "Input/output error"):
            answer = await client("PATCH", location, bytes(100_000))
            assert (answer.status, answer.codes) == (503, ["UNAVAILABLE"])
            assert f"the registry's storage cannot be reached: uploads/1: {why}" in caplog.messages[-1]
        for _ in range(2):
            assert (await client("PATCH", location, bytes(100_000))).status == 507
    # Each push says so, and the log may be on that disk.
    assert len([message for message in caplog.messages if "no space left" in message]) == 1
    assert all(record.exc_info is None for record in caplog.records)
    assert (await client("PATCH", location, bytes(100_000))).status == 202


@pytest.mark.in_storage
@pytest.mark.parametrize("kind_of_storage", ["folder"], indirect=True)
async def test_the_check_names_who_has_what_is_damaged_and_lets_it_be_pushed_again(
    serve: Callable[..., Any], client: Client, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = Policy(repositories=["test/**"], immutable_tags=["v*"])
    client.url = (await serve(msgspec.structs.replace(settings, policies=[policy]))).url
    await client.push_image("v1")
    bad, good = digest_of(b"layer "), await client.push_blob(b"good")
    await client.push_blob(b"layer ", "other")
    kept_as(settings, bad).write_bytes(b"LAYER!")
    check = ["check", "--storage", settings.storage]
    assert await asyncio.to_thread(main, check) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0] in {f"damaged or missing: {bad} (in {names})" for names in ("test/repo, other", "other, test/repo")}
    assert told[1] == "1 damaged: each is whole again when it is pushed again"
    assert "--repair" in told[2]
    assert (await client("HEAD", f"{REPO}/blobs/{bad}")).status == 200  # so that no client pushes it
    assert await asyncio.to_thread(main, [*check, "--repair"]) == 1
    for repository in ("test/repo", "other"):
        assert (await client("HEAD", f"/v2/{repository}/blobs/{bad}")).status == 404
        await client.push_blob(b"layer ", repository)
        assert (await client("GET", f"/v2/{repository}/blobs/{bad}")).body == b"layer "
    assert (await client("GET", f"{REPO}/blobs/{good}")).body == b"good"
    assert await asyncio.to_thread(main, check) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "all blobs and manifests are sound"


@pytest.mark.in_storage
@pytest.mark.parametrize("kind_of_storage", ["folder"], indirect=True)
async def test_a_backup_of_a_registry_that_runs_is_one_that_serves(
    serve: Callable[..., Any], client: Client, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = await client.push_image("v1")
    again = tmp_path / "again"
    again.mkdir()
    backup = ["backup", str(again / DATABASE), "--storage", settings.storage]
    assert await asyncio.to_thread(main, backup) == 0
    assert sorted(path.name for path in again.iterdir()) == [DATABASE]
    assert (again / DATABASE).stat().st_mode & 0o777 == 0o600
    await client.push_image("v2", seed="later")
    shutil.copytree(Path(settings.storage) / "blobs", again / "blobs")
    assert await asyncio.to_thread(main, ["check", "--storage", str(again)]) == 0
    client.url = (await serve(msgspec.structs.replace(settings, storage=str(again)))).url
    assert (await client("GET", f"{REPO}/tags/list")).json["tags"] == ["v1"]
    assert (await client("GET", f"{REPO}/manifests/v1")).headers["Docker-Content-Digest"] == digest
    assert await asyncio.to_thread(main, backup) == 1
    assert f"{again / DATABASE}: is there already" in capsys.readouterr().err
    nowhere = str(tmp_path / "nowhere" / DATABASE)
    assert await asyncio.to_thread(main, ["backup", nowhere, "--storage", settings.storage]) == 1
    assert capsys.readouterr().err == f"scow registry: {nowhere}: No such file or directory\n"


async def test_a_damaged_manifest_is_whole_again_once_it_is_pushed(client: Client, running: Running) -> None:
    digest = await client.push_image("v1")
    good = (await client("GET", f"{REPO}/manifests/{digest}")).body
    database = running.registry._database
    await database.write(lambda session: session.run("UPDATE manifest SET data = ?", b"{}"))
    assert [each.digest async for each in running.registry.collector.damaged_manifests()] == [digest]
    assert (await client("PUT", f"{REPO}/manifests/v1", good, Content_Type=MANIFEST)).status == 201
    assert [each async for each in running.registry.collector.damaged_manifests()] == []
    assert (await client("GET", f"{REPO}/manifests/v1")).body == good


@pytest.mark.parametrize("kind_of_storage", ["folder"], indirect=True)
async def test_a_manifest_that_has_rotted_into_another_type_is_damaged(client: Client, running: Running) -> None:
    digest = await client.push_image("v1")
    await running.registry._database.write(lambda session: session.run("UPDATE manifest SET data = 'text'"))
    assert [each.digest async for each in running.registry.collector.damaged_manifests()] == [digest]


@pytest.mark.in_storage
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"goo")])
@pytest.mark.parametrize("steps", [False, True])
async def test_what_is_missing_or_cut_is_unknown_until_it_is_pushed(
    client: Client, settings: Settings, damage: Callable[[Path], Any], steps: bool
) -> None:
    digest = await client.push_blob(b"good")
    damage(kept_as(settings, digest))
    for method, status in (("HEAD", 404), ("GET", 500)):
        assert (await client(method, f"{REPO}/blobs/{digest}")).status == status
    assert (await client("POST", f"/v2/other/blobs/uploads/?mount={digest}&from=test/repo")).status == 202
    if steps:
        location = await client.begin()
        location = (await client("PATCH", location, b"go")).headers["Location"]
        assert (await client("PUT", f"{location}?digest={digest}", b"od")).status == 201
    else:
        await client.push_blob(b"good")
    assert (await client("HEAD", f"{REPO}/blobs/{digest}")).status == 200
    assert (await client("GET", f"{REPO}/blobs/{digest}")).body == b"good"


async def test_a_damaged_manifest_is_found(client: Client, running: Running) -> None:
    sound = [await client.push_image(tag, seed=tag) for tag in ("v1", "v2", "v3")]
    await client.push_image("v1", "other", seed="v1")
    assert [each async for each in running.registry.collector.damaged_manifests()] == []
    spoil = "UPDATE manifest SET data = ? WHERE digest = ? AND repository = (SELECT id FROM repository WHERE name = ?)"
    database = running.registry._database
    await database.write(lambda session: session.run(spoil, b"{}", sound[0], "other"))
    found = [each async for each in running.registry.collector.damaged_manifests()]
    assert [(each.repository, each.digest) for each in found] == [("other", sound[0])]


async def test_a_damaged_manifest_is_found_however_large_it_is(client: Client, running: Running) -> None:
    note = "x" * 500_000
    sound = await client.push_image("v1", annotations={"note": note})
    bad = await client.push_image("v2", annotations={"note": note + "y"})
    assert [each async for each in running.registry.collector.damaged_manifests()] == []
    spoil = "UPDATE manifest SET data = (SELECT data FROM manifest WHERE digest = ?) WHERE digest = ?"
    await running.registry._database.write(lambda session: session.run(spoil, sound, bad))
    assert [each.digest async for each in running.registry.collector.damaged_manifests()] == [bad]


@pytest.mark.parametrize("kind_of_storage", ["folder"], indirect=True)
async def test_a_damaged_database_is_told(tmp_path: Path, serve: Callable[..., Any], settings: Settings) -> None:
    running = await serve(settings)
    await running.registry.accounts.put("ann", Account("x" * 60_000))
    await running.server.aclose()
    await running.registry.aclose()
    check = [sys.executable, "-m", "scow.registry", "check", "--storage", settings.storage]
    path = Path(settings.storage) / DATABASE
    data = bytearray(path.read_bytes())
    data[-8192:] = bytes(8192)
    for damage, said in ((data, "damaged database: "), (b"nonsense" * 1000, "registry.db: cannot be used: ")):
        path.write_bytes(damage)
        done = await asyncio.to_thread(subprocess.run, check, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert said in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind_of_storage", ["folder"], indirect=True)
async def test_what_came_and_went_leaves_no_rows(
    serve: Callable[..., Any], settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What has ended need not be remembered.
    monkeypatch.setattr("scow.registry.collector.FRESH_S", -AHEAD_S - 1)
    running = await serve(msgspec.structs.replace(settings, gc=Gc(interval_s=0, grace_s=0)))
    client.url = running.url
    for seed in ("1", "2", "2"):
        await client.push_image("latest", seed=seed)
    await client.push_image("old", seed="3")
    await client("DELETE", f"{REPO}/manifests/old")
    for seed in ("1", "2", "3"):
        digest = digest_of(json.dumps(await client.image(seed=seed)).encode())
        assert (await client("DELETE", f"{REPO}/manifests/{digest}")).status == 202
    await client("DELETE", await client.begin())
    await running.registry.collector.collect()
    database = running.registry._database
    tables = [row[0] for row in await database.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
    left = {name: len(await database.rows(f"SELECT 1 FROM {name}")) for name in tables}
    assert {name: count for name, count in left.items() if count} == {"repository": 1, "secret": 1}


@pytest.mark.in_storage
@pytest.mark.parametrize("kind_of_storage", ["folder"], indirect=True)
async def test_blobs_of_earlier_versions_are_read_collected_and_pushed_again(
    serve: Callable[..., Any], settings: Settings, client: Client
) -> None:
    """Their objects were named by digest alone; `deleting` marked what a collector was about to remove."""
    root = Path(settings.storage) / "old"
    hasty = msgspec.structs.replace(settings, storage=str(root), gc=Gc(interval_s=0, grace_s=0))
    database = SqliteDatabase.open(root / DATABASE, STEPS[:2])
    kept, doomed = digest_of(b"kept"), digest_of(b"doomed")

    async def fill(session: Session) -> None:
        await session.run("INSERT INTO repository (id, name) VALUES (1, 'test/repo')")
        await session.run("INSERT INTO blob VALUES (?, 4, 0), (?, 6, 1)", kept, doomed)
        await session.run("INSERT INTO repository_blob VALUES (1, ?)", kept)
        await session.run("INSERT INTO gc_queue VALUES ('blob', 0, ?, 0)", doomed)

    await database.write(fill)
    await database.aclose()
    for data, digest in ((b"kept", kept), (b"doomed", doomed)):
        path = root / "blobs" / "sha256" / digest[7:9] / digest[7:]
        path.parent.mkdir(parents=True)
        path.write_bytes(data)  # a test's own file
    running = await serve(hasty)
    client.url = running.url
    assert (await client("GET", f"{REPO}/blobs/{kept}")).body == b"kept"
    assert await client.push_blob(b"doomed") == doomed
    assert (await running.registry.collector.collect()).blobs >= 1
    assert digest_of(b"kept") in objects(hasty)
    assert await client.push_blob(b"kept") == kept
    assert kept_as(hasty, kept).name == kept[7:]


_DYING = """
import asyncio, os, signal, sys
from scow.registry.collector import Collector
from scow.registry.folder import Folder
from scow.registry.registry import Registry
from scow.registry.settings import Gc, Names, Settings
from scow.registry.sql_metadata import SqlMetadata

storage, url, where = sys.argv[1:]
kind = Folder if where in ("remove",) else SqlMetadata
late = getattr(kind, where)

async def die(self, *args, **kwargs):
    if os.environ.get("WHEN") == "after":
        await late(self, *args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(kind, where, die)
async def collect():
    names = Names(url=url)
    registry = Registry.open(Settings(storage=storage, database=names, gc=Gc(interval_s=0, grace_s=0)))
    await registry.collector.collect()

asyncio.run(collect())
"""


@pytest.mark.in_storage
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["review", "remove", "forget_garbage"])
async def test_a_collector_killed_at_any_step_harms_no_push_and_leaves_no_orphan(
    step: str, when: str, serve: Callable[..., Any], settings: Settings, client: Client
) -> None:
    hasty = msgspec.structs.replace(settings, gc=Gc(interval_s=0, grace_s=0))
    running = await serve(hasty)
    client.url = running.url
    await client.push_image("latest")
    await client.push_blob(b"doomed")
    dying = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _DYING, settings.storage, settings.database.url, step, env={**os.environ, "WHEN": when}
    )
    assert await dying.wait() == -signal.SIGKILL
    digest = await client.push_blob(b"doomed")
    assert (await client("GET", f"{REPO}/blobs/{digest}")).body == b"doomed"
    await running.registry.collector.collect()
    assert [each async for each in running.registry.collector.damaged()] == []
    assert digest not in objects(settings)  # no grace: unused again
    assert len(objects(settings)) == 2
    manifest = (await client("GET", f"{REPO}/manifests/latest")).json
    assert objects(settings) == {part["digest"] for part in (manifest["config"], *manifest["layers"])}
