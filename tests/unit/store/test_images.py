"""The image catalogue: names point at images, changes are whole, and all of it survives a restart."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scow.oci.digest import DiffID, sha256
from scow.oci.platform import Platform
from scow.store.content import Content, NoSuchContent
from scow.store.database import Database
from scow.store.images import Image, Images, NoSuchImageID

NOW = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
LATEST = "docker.io/library/x:latest"
EDGE = "docker.io/library/x:edge"
REPO_DIGEST = f"docker.io/library/x@{sha256(b'manifest')}"


def config_of(number: int) -> bytes:
    document = {"os": "linux", "architecture": "amd64", "author": str(number), "rootfs": {"type": "layers"}}
    return json.dumps(document).encode()


def image(number: int, size: int = 10) -> Image:
    return Image(
        id=sha256(config_of(number)),
        manifest=sha256(b"manifest"),
        platform=Platform(os="linux", architecture="arm64", variant="v8"),
        diff_ids=(DiffID(sha256(b"layer")),),
        size=size,
        created=NOW,
        stored_at=NOW,
    )


@pytest.fixture
async def content(tmp_path: Path) -> Content:
    (tmp_path / "ingest").mkdir()
    content = Content(tmp_path / "blobs", tmp_path / "ingest")
    for number in (1, 2):
        await content.put(config_of(number))
    return content


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(tmp_path / "state.db")
    yield database
    await database.aclose()


@pytest.fixture
def images(db: Database, content: Content) -> Images:
    return Images(db, content)


async def test_a_published_image_is_found_by_all_its_names(images: Images) -> None:
    one = image(1)
    assert await images.publish(one, name=LATEST, repo_digests=[REPO_DIGEST]) is None
    assert images.find(one.id) == images.get(one.id) == one
    assert images.resolve(LATEST) == images.resolve(REPO_DIGEST) == one.id
    assert images.names(one.id) == [LATEST]
    assert images.digests(one.id) == [REPO_DIGEST]
    assert images.all_names() == {LATEST: one.id}
    digits = one.id.removeprefix("sha256:")
    assert images.by_prefix(digits[:6]) == images.by_prefix(one.id[:20]) == [one]
    assert images.by_prefix("zz") == []
    assert (await images.config(one.id)).author == "1"


async def test_the_catalogue_survives_a_restart(images: Images, db: Database, content: Content) -> None:
    one, two = image(1), image(2)
    await images.publish(one, name=LATEST, repo_digests=[REPO_DIGEST])
    await images.publish(two, name=EDGE)
    again = Images(db, content)
    assert {each.id: each for each in again.all()} == {one.id: one, two.id: two}
    assert again.names(one.id) == [LATEST]
    assert again.digests(one.id) == [REPO_DIGEST]
    assert again.resolve(EDGE) == two.id


async def test_a_tag_moves_and_tells_what_it_named_before(images: Images) -> None:
    one, two = image(1), image(2)
    await images.publish(one, name=LATEST)
    assert await images.publish(one, name=LATEST) is None
    assert await images.publish(two, name=LATEST) == one.id
    assert images.names(one.id) == []
    assert images.find(one.id) == one
    assert await images.tag(LATEST, one.id) == two.id
    assert await images.tag(EDGE, one.id) is None
    assert images.names(one.id) == [EDGE, LATEST]
    assert await images.untag(EDGE) == one.id
    assert await images.untag(EDGE) is None
    assert images.names(one.id) == [LATEST]


async def test_repository_digests_come_and_go(images: Images) -> None:
    one = image(1)
    await images.put(one)
    await images.tag(REPO_DIGEST, one.id)
    assert images.digests(one.id) == [REPO_DIGEST]
    assert await images.untag(REPO_DIGEST) == one.id
    assert await images.untag(REPO_DIGEST) is None
    assert images.digests(one.id) == []


async def test_removing_takes_the_names_along(images: Images, db: Database, content: Content) -> None:
    one = image(1)
    await images.publish(one, name=LATEST, repo_digests=[REPO_DIGEST])
    await images.config(one.id)
    assert await images.remove(one.id) == sorted([LATEST, REPO_DIGEST])
    for view in (images, Images(db, content)):
        assert view.all() == []
        assert view.resolve(LATEST) is None
        assert view.names(one.id) == view.digests(one.id) == []
        with pytest.raises(NoSuchImageID):
            await view.config(one.id)
    with pytest.raises(NoSuchImageID):
        await images.remove(one.id)


async def test_replacing_what_is_known_keeps_the_names(images: Images, db: Database, content: Content) -> None:
    await images.publish(image(1), name=LATEST)
    await images.put(image(1, size=99))
    for view in (images, Images(db, content)):
        assert view.get(image(1).id).size == 99
        assert view.names(image(1).id) == [LATEST]


async def test_names_never_point_at_nothing(images: Images) -> None:
    with pytest.raises(NoSuchImageID):
        await images.tag(LATEST, image(1).id)
    assert images.resolve(LATEST) is None
    with pytest.raises(NoSuchContent):
        await images.publish(image(3), name=LATEST)
    assert images.resolve(LATEST) is None


async def test_a_cancelled_change_leaves_memory_and_disk_alike(images: Images, db: Database, content: Content) -> None:
    await images.put(image(1))
    for _ in range(20):
        task = asyncio.ensure_future(images.tag(LATEST, image(1).id))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await images.put(image(1))  # a later commit: whatever was under way is done
        assert Images(db, content).names(image(1).id) == images.names(image(1).id)
        await images.untag(LATEST)
