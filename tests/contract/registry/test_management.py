"""distribution-spec spec.md#content-management, and what collection may take away."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scow.registry.settings import Gc, Settings

from .conftest import Client, Running, digest_of

REPO = "/v2/test/repo"


def objects(settings: Settings) -> set[str]:
    root = Path(settings.storage) / "blobs"
    return {f"{path.parent.parent.name}:{path.name}" for path in root.glob("*/*/*")}


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


class TestCollection:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        """No grace: everything that is unused is due at once."""
        return Settings(listen=settings.listen, storage=settings.storage, gc=Gc(interval_s=0, grace_s=0))

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

    async def test_a_push_of_a_digest_that_is_being_deleted_waits_for_the_end(
        self, client: Client, running: Running
    ) -> None:
        digest = await client.push_blob(b"phoenix")
        registry = running.registry
        # Stop the collector at its most delicate place: the blob is marked, the object not yet removed.
        marked = None
        while marked is None:
            for review in await registry.metadata.due_reviews(10):
                marked = await registry.metadata.review(review) or marked
        assert marked == digest
        location = await client.begin()
        await client("PATCH", location, b"phoenix")
        assert not await registry.metadata.close_upload(location.rpartition("/")[2], marked)
        await registry.objects.remove(marked)
        await registry.metadata.forget_blob(marked)
        assert (await client("PUT", f"{location}?digest={digest}")).status == 201
        assert (await client("GET", f"{REPO}/blobs/{digest}")).body == b"phoenix"

    async def test_a_collector_that_died_half_way_is_followed_by_one_that_finishes(
        self, client: Client, running: Running, settings: Settings
    ) -> None:
        await client.push_blob(b"unlucky")
        for _ in range(2):
            for review in await running.registry.metadata.due_reviews(10):
                await running.registry.metadata.review(review)
        assert objects(settings)
        assert (await running.registry.collector.collect()).blobs == 1
        assert objects(settings) == set()

    async def test_a_closing_upload_keeps_its_digest_from_collection(self, client: Client, running: Running) -> None:
        metadata = running.registry.metadata
        digest = await client.push_blob(b"contested")
        location = await client.begin()
        assert await metadata.close_upload(location.rpartition("/")[2], digest)  # type: ignore[arg-type]
        assert (await running.registry.collector.collect()).blobs == 0


async def test_a_push_is_not_robbed_of_a_blob_that_it_was_told_exists(
    serve: Callable[..., Any], settings: Settings, client: Client, running: Running
) -> None:
    """Reviews are due in less than SOON_S here, so each HEAD puts them off again."""
    registry = running.registry
    soon = Settings(listen=settings.listen, storage=settings.storage, gc=Gc(interval_s=0, grace_s=2))
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
    assert (await running.registry.collector.collect()).uploads == 2
    assert list((Path(settings.storage) / "uploads").iterdir()) == []
    assert (await client("GET", location)).codes == ["BLOB_UPLOAD_UNKNOWN"]


async def test_an_upload_in_use_does_not_expire(client: Client, running: Running) -> None:
    location = await client.begin()
    await client("PATCH", location, b"half")
    assert (await running.registry.collector.collect()).uploads == 0
    assert (await client("GET", location)).status == 204


async def test_a_damaged_blob_is_found(client: Client, running: Running, settings: Settings) -> None:
    good, bad, gone = [await client.push_blob(data) for data in (b"good", b"bad", b"gone")]
    root = Path(settings.storage) / "blobs" / "sha256"
    (root / bad[7:9] / bad[7:]).write_bytes(b"BAD")
    (root / gone[7:9] / gone[7:]).unlink()
    found = [digest async for digest in running.registry.collector.damaged()]
    assert sorted(found) == sorted([bad, gone])
    assert good not in found
