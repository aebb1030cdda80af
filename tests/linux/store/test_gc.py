"""Garbage collection: nothing in use goes, nothing unused stays, and pulls may run beside it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Container
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scow.errors import Conflict
from scow.oci.descriptor import Descriptor
from scow.oci.digest import DiffID, Digest, sha256
from scow.oci.media_types import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST
from scow.oci.platform import Platform
from scow.store.content import Content
from scow.store.gc import Collector
from scow.store.images import Image, Images
from scow.store.leases import Leases

LINUX = Platform(os="linux", architecture="amd64")


class KnownLayer(msgspec.Struct, frozen=True):
    diff_id: DiffID


class MemoryLayers:
    """Layers that are only known by name; some can be busy."""

    def __init__(self, folders: Any) -> None:
        self.folders = folders
        self.known: dict[DiffID, list[Descriptor]] = {}
        self.busy: set[DiffID] = set()

    def all(self) -> list[KnownLayer]:
        return [KnownLayer(diff_id) for diff_id in self.known]

    def known_blobs_of(self, diff_id: DiffID) -> list[Descriptor]:
        return self.known.get(diff_id, [])

    def is_dispensable(self, digest: Digest, staying: Container[str]) -> bool:
        return any(
            blob.digest == digest and diff_id in staying for diff_id, blobs in self.known.items() for blob in blobs
        )

    async def remove(self, diff_id: DiffID) -> int:
        if diff_id in self.busy:
            raise Conflict("busy")
        del self.known[diff_id]
        return 1000


class Yard:
    """A content store, a catalogue and layers, and images made of nothing for them."""

    def __init__(self, root: Path, boat: Any) -> None:
        (root / "ingest").mkdir()
        self.leases = Leases()
        self.content = Content(root / "blobs", root / "ingest", self.leases.touch)
        self.images = Images(boat.db, self.content)
        self.snapshots = boat.snapshots
        self.layers = MemoryLayers(boat.layers)
        self.points: dict[str, Callable[[], Awaitable[None]]] = {}
        self.collector = Collector(
            self.content, self.layers, self.images, self.snapshots, self.leases, pause=self._pause
        )

    async def _pause(self, point: str) -> None:
        action = self.points.pop(point, None)
        if action is not None:
            await action()

    async def add(self, name: str, layer_names: list[str], tag: str, *, publish: bool = True) -> Image:
        """Put all that a pull puts, in a pull's order, and publish it."""
        blobs = []
        diff_ids = []
        for layer in layer_names:
            blob = f"compressed {layer}".encode()
            digest = await self.content.put(blob)
            descriptor = Descriptor(media_type=OCI_LAYER_GZIP, digest=digest, size=len(blob))
            diff_id = DiffID(sha256(layer.encode()))
            if self.layers.folders.find(diff_id) is None:
                self.layers.folders.add(layer, {})
            self.layers.known[diff_id] = [descriptor]
            self.leases.touch(diff_id)
            blobs.append(descriptor)
            diff_ids.append(diff_id)
        config = json.dumps({"author": name, "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
        pointer = Descriptor(media_type=OCI_CONFIG, digest=await self.content.put(config), size=len(config))
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": pointer, "layers": blobs}
        data = msgspec.json.encode(document)
        manifest = Descriptor(media_type=OCI_MANIFEST, digest=await self.content.put(data), size=len(data))
        index = await self.content.put(
            msgspec.json.encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [manifest]})
        )
        image = Image(
            id=pointer.digest,
            manifest=manifest.digest,
            index=index,
            platform=LINUX,
            diff_ids=tuple(diff_ids),
            stored_at=datetime.now(UTC),
        )
        if publish:
            await self.images.publish(image, name=tag, repo_digests=[f"{tag.rpartition(':')[0]}@{index}"])
        return image

    async def everything(self) -> set[str]:
        return {*await self.content.all(), *self.layers.known}


@pytest.fixture
async def yard(tmp_path: Path, boat: Any) -> Yard:
    return Yard(tmp_path, boat)


async def test_what_images_reach_stays(yard: Yard) -> None:
    await yard.add("one", ["base", "top"], "docker.io/library/one:latest")
    before = await yard.everything()
    assert len(before) == 2 + 3 + 2
    collected = await yard.collector.collect()
    assert (collected.content, collected.layers, collected.size) == ((), (), 0)
    assert await yard.everything() == before


async def test_a_removed_image_takes_along_what_no_other_shares(yard: Yard) -> None:
    one = await yard.add("one", ["base", "top"], "docker.io/library/one:latest")
    kept = await yard.everything()
    two = await yard.add("two", ["base", "other"], "docker.io/library/two:latest")
    added = await yard.everything() - kept
    sizes = {digest: yard.content.path(digest).stat().st_blocks * 512 for digest in await yard.content.all()}
    await yard.images.remove(two.id)
    collected = await yard.collector.collect()
    assert {*collected.content, *collected.layers} == added
    assert collected.layers == (DiffID(sha256(b"other")),)
    assert collected.layers_size == 1000
    assert collected.content_size == sum(sizes[digest] for digest in collected.content)
    assert await yard.everything() == kept
    await yard.images.remove(one.id)
    await yard.collector.collect()
    assert await yard.everything() == set()


async def test_of_a_removed_image_alone_its_needs_are_collected(yard: Yard) -> None:
    first = await yard.add("first", ["base", "one"], "x:1")
    second = await yard.add("second", ["base", "two"], "x:2")
    stray = await yard.content.put(b"left by a pull that failed")
    needed = await yard.collector.needs_of(first)
    await yard.images.remove(first.id)
    collected = await yard.collector.collect(needed)
    assert collected.layers == (first.diff_ids[1],)
    assert first.id in collected.content
    left = await yard.everything()
    assert {stray, second.id, *second.diff_ids} <= left
    assert (await yard.collector.collect()).content == (stray,)


async def test_a_snapshots_layers_stay_when_its_image_goes(yard: Yard) -> None:
    one = await yard.add("one", ["base"], "docker.io/library/one:latest")
    await yard.snapshots.prepare("box", one.diff_ids)
    await yard.images.remove(one.id)
    collected = await yard.collector.collect()
    assert collected.layers == ()
    assert set(yard.layers.known) == set(one.diff_ids)
    await yard.snapshots.remove("box")
    assert (await yard.collector.collect()).layers == one.diff_ids


async def test_what_is_put_under_a_lease_stays_until_it_ends(yard: Yard) -> None:
    async with yard.leases.hold():
        await yard.add("one", ["base"], "docker.io/library/one:latest", publish=False)
        before = await yard.everything()
        await yard.collector.collect()
        assert await yard.everything() == before
    await yard.collector.collect()
    assert await yard.everything() == set()


async def test_a_lease_protects_by_name_what_is_still_to_come(yard: Yard) -> None:
    digest = await yard.content.put(b"found earlier")
    async with yard.leases.hold() as lease:
        lease.protect(digest)
        assert (await yard.collector.collect()).content == ()
    assert (await yard.collector.collect()).content == (digest,)


@pytest.mark.parametrize("point", ["listed", "reached", "removing"])
async def test_garbage_that_a_pull_finds_while_it_is_collected_stays(yard: Yard, point: str) -> None:
    digest = await yard.content.put(b"garbage so far")
    found = asyncio.Event()
    leave = asyncio.Event()

    async def pull() -> None:
        async with yard.leases.hold():
            assert yard.content.has(digest)
            found.set()
            await leave.wait()

    tasks: list[asyncio.Task[None]] = []

    async def during() -> None:
        tasks.append(asyncio.create_task(pull()))
        await found.wait()

    yard.points[point] = during
    await yard.collector.collect()
    assert yard.content.has(digest)
    leave.set()
    await asyncio.gather(*tasks)
    assert (await yard.collector.collect()).content == (digest,)


@pytest.mark.parametrize("point", ["listed", "reached", "removing", "removed"])
async def test_an_image_published_while_garbage_is_collected_is_whole(yard: Yard, point: str) -> None:
    garbage = await yard.content.put(b"plain garbage")

    async def during() -> None:
        async with yard.leases.hold():
            await yard.add("one", ["base"], "docker.io/library/one:latest")

    yard.points[point] = during
    await yard.collector.collect()
    await yard.collector.collect()
    assert not yard.content.has(garbage)
    image = yard.images.all()[0]
    assert set(yard.layers.known) == set(image.diff_ids)
    assert len(await yard.content.all()) == 4


@pytest.mark.parametrize("point", ["reached", "removing"])
async def test_a_container_created_while_its_image_is_collected_keeps_its_layers(yard: Yard, point: str) -> None:
    one = await yard.add("one", ["base"], "docker.io/library/one:latest")
    await yard.images.remove(one.id)

    async def during() -> None:
        await yard.snapshots.prepare("box", one.diff_ids)

    yard.points[point] = during
    assert (await yard.collector.collect()).layers == ()
    assert set(yard.layers.known) == set(one.diff_ids)


async def test_what_cannot_be_removed_does_not_stop_the_rest(yard: Yard) -> None:
    one = await yard.add("one", ["base", "top"], "docker.io/library/one:latest")
    yard.layers.busy.add(one.diff_ids[0])
    await yard.images.remove(one.id)
    assert (await yard.collector.collect()).layers == one.diff_ids[1:]


async def test_a_manifest_of_another_platform_that_is_here_stays_with_its_index(yard: Yard) -> None:
    other = await yard.add("other", ["foreign"], "docker.io/library/other:latest", publish=False)
    index = await yard.content.put(
        msgspec.json.encode(
            {
                "schemaVersion": 2,
                "mediaType": OCI_INDEX,
                "manifests": [
                    Descriptor(media_type=OCI_MANIFEST, digest=Digest(other.manifest), size=1),
                    Descriptor(media_type=OCI_MANIFEST, digest=sha256(b"never pulled"), size=1),
                ],
            }
        )
    )
    one = await yard.add("one", ["base"], "docker.io/library/one:latest")
    await yard.images.tag(f"docker.io/library/one@{index}", one.id)
    await yard.collector.collect()
    assert yard.content.has(index)
    assert yard.content.has(Digest(other.manifest))
    assert yard.content.has(other.id)


async def test_compressed_forms_go_when_they_are_not_to_be_kept_but_not_under_a_lease(yard: Yard) -> None:
    one = await yard.add("one", ["base", "top"], "docker.io/library/one:latest")
    spare = Collector(yard.content, yard.layers, yard.images, yard.snapshots, yard.leases, keep_compressed=False)
    blobs = {blob.digest for known in yard.layers.known.values() for blob in known}
    async with yard.leases.hold():
        assert all(yard.content.has(digest) for digest in blobs)
        assert (await spare.collect()).content == ()
    collected = await spare.collect()
    assert (set(collected.content), collected.layers) == (blobs, ())
    assert yard.content.has(one.id)
    assert yard.content.has(Digest(one.manifest))


async def test_compressed_forms_stay_when_their_layers_go(yard: Yard) -> None:
    other = await yard.add("other", ["theirs"], "docker.io/library/other:latest", publish=False)
    manifest = Descriptor(media_type=OCI_MANIFEST, digest=Digest(other.manifest), size=1)
    index = await yard.content.put(
        msgspec.json.encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [manifest]})
    )
    one = await yard.add("one", ["base"], "docker.io/library/one:latest")
    await yard.images.tag(f"docker.io/library/one@{index}", one.id)
    (blob,) = yard.layers.known[other.diff_ids[0]]
    spare = Collector(yard.content, yard.layers, yard.images, yard.snapshots, yard.leases, keep_compressed=False)
    assert (await spare.collect()).layers == other.diff_ids
    assert yard.content.has(blob.digest)
