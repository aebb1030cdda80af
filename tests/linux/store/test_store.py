"""The whole store: opened, left by a crash, opened again, with real layers under both snapshotters."""

import asyncio
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scow.linux import mount
from scow.oci.descriptor import Descriptor
from scow.oci.digest import DiffID, sha256
from scow.oci.media_types import OCI_LAYER_GZIP, Compression
from scow.oci.platform import Platform
from scow.store.images import Image
from scow.store.layers import Snapshotter
from scow.store.store import StateLost, Store, StoreInUse

NAME = "docker.io/library/x:latest"


def tar_of(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


async def pull(store: Store, files: dict[str, str], *, publish: bool = True) -> Image:
    """Do what a pull does, with one layer."""
    tar = tar_of(files)
    packed = gzip.compress(tar, mtime=0)
    blob = Descriptor(media_type=OCI_LAYER_GZIP, digest=sha256(packed), size=len(packed))
    diff_id = DiffID(sha256(tar))
    async with store.leases.hold():
        async with store.layers.writer(blob, Compression.GZIP, diff_id) as writer:
            await writer.write(packed)
            layer = await writer.finish()
        config = json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}}).encode()
        image = Image(
            id=await store.content.put(config),
            platform=Platform(os="linux", architecture="amd64"),
            diff_ids=(diff_id,),
            size=layer.files_size,
            stored_at=datetime.now(UTC),
        )
        if publish:
            await store.images.publish(image, name=NAME)
    return image


@pytest.fixture(params=["erofs", "overlay2"])
def snapshotter(request: pytest.FixtureRequest) -> Snapshotter:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def store(tmp_path: Path, snapshotter: Snapshotter) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "data", tmp_path / "exec", snapshotter)
    await store.reconcile()
    yield store
    for key in store.snapshots.keys():  # noqa: SIM118  # not a dict
        await store.snapshots.remove(key)
    await store.aclose()


async def test_from_bytes_to_a_root_file_system_and_back_to_nothing(store: Store, tmp_path: Path) -> None:
    image = await pull(store, {"hello": "world"})
    await store.snapshots.prepare("box", image.diff_ids)
    rootfs = await store.snapshots.mount("box")
    assert (rootfs / "hello").read_text() == "world"
    (rootfs / "written").write_text("12345")
    async with store.snapshots.view(image.diff_ids) as view:
        assert os.listdir(view) == ["hello"]
    assert (await store.collect()).size == 0
    usage = await store.usage()
    assert usage.snapshots == 5
    assert usage.layers > image.size == 5  # tars have headers
    assert usage.content == sum((await store.content.all()).values()) > 0

    await store.images.remove(image.id)
    collected = await store.collect()
    assert collected.layers == ()
    await store.snapshots.remove("box")
    collected = await store.collect()
    assert collected.layers == image.diff_ids
    assert collected.layers_size >= image.size
    usage = await store.usage()
    assert (usage.content, usage.layers, usage.snapshots) == (0, 0, 0)
    assert mount.mounts(tmp_path) == []


async def test_layers_stay_mounted_for_the_next_container_until_the_store_is_closed(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "data", tmp_path / "exec")
    image = await pull(store, {"hello": "world"})
    await store.snapshots.prepare("box", image.diff_ids)
    await store.snapshots.mount("box")
    both = mount.mounts(tmp_path)
    await store.snapshots.remove("box")
    warm = mount.mounts(tmp_path)
    assert [entry.fs_type for entry in both] == ["erofs", "overlay"]
    assert warm == both[:1]
    async with store.snapshots.view(image.diff_ids):
        pass
    assert mount.mounts(tmp_path) == warm
    await store.aclose()
    assert mount.mounts(tmp_path) == []


async def test_a_store_is_opened_once(store: Store, tmp_path: Path) -> None:
    for data_root, exec_root in (("data", "other"), ("other", "exec")):
        with pytest.raises(StoreInUse):
            await Store.open(tmp_path / data_root, tmp_path / exec_root)


async def test_stores_beside_each_other_do_not_meet(store: Store, tmp_path: Path, snapshotter: Snapshotter) -> None:
    image = await pull(store, {"hello": "world"})
    await store.snapshots.prepare("box", image.diff_ids)
    rootfs = await store.snapshots.mount("box")
    other = await Store.open(tmp_path / "data2", tmp_path / "exec2", snapshotter)
    await other.reconcile([])
    await other.collect()
    await pull(other, {"hello": "other"})
    await other.snapshots.prepare("box", other.images.all()[0].diff_ids)
    assert (await other.snapshots.mount("box") / "hello").read_text() == "other"
    await other.snapshots.remove("box")
    await other.aclose()
    assert (rootfs / "hello").read_text() == "world"


async def test_running_snapshots_stay_mounted_over_a_restart(tmp_path: Path, snapshotter: Snapshotter) -> None:
    store = await Store.open(tmp_path / "data", tmp_path / "exec", snapshotter)
    image = await pull(store, {"hello": "world"})
    await store.snapshots.prepare("box", image.diff_ids)
    rootfs = await store.snapshots.mount("box")
    before = mount.mounts(tmp_path)
    await store.aclose()
    await store.aclose()
    assert mount.mounts(tmp_path) == before
    assert (rootfs / "hello").read_text() == "world"

    store = await Store.open(tmp_path / "data", tmp_path / "exec", snapshotter)
    assert await store.reconcile(["box"]) == []
    assert mount.mounts(tmp_path) == before
    assert store.images.resolve(NAME) == image.id
    assert await store.snapshots.mount("box") == rootfs
    await store.snapshots.remove("box")
    await store.aclose()
    assert mount.mounts(tmp_path) == []


async def test_garbage_of_a_failed_pull_goes_and_that_of_a_running_one_stays(store: Store) -> None:
    async with store.leases.hold():
        image = await pull(store, {"hello": "world"}, publish=False)
        await store.collect()
        assert store.layers.find(image.diff_ids[0]) is not None
        assert store.content.has(image.id)
        assert len(await store.content.all()) == 2
    collected = await store.collect()
    assert collected.layers == image.diff_ids
    assert await store.content.all() == {}


async def test_pulling_again_while_the_image_is_removed_ends_whole(store: Store) -> None:
    for turns in range(8):
        image = await pull(store, {"hello": "world"})
        await store.images.remove(image.id)
        collection = asyncio.create_task(store.collect())
        for _ in range(turns):
            await asyncio.sleep(0)
        image = await pull(store, {"hello": "world"})
        await collection
        await store.snapshots.prepare("box", image.diff_ids)
        assert ((await store.snapshots.mount("box")) / "hello").read_text() == "world"
        await store.images.config(image.id)
        await store.snapshots.remove("box")


ENGINE = """
    import asyncio, importlib.util, sys
    from pathlib import Path
    spec = importlib.util.spec_from_file_location("test_store", sys.argv[1])
    test_store = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(test_store)

    async def main():
        root = Path(sys.argv[2])
        store = await test_store.Store.open(root / "data", root / "exec")
        number = 0
        while True:
            image = await test_store.pull(store, {"hello": "world" * number})
            await store.snapshots.prepare(f"box{number}", image.diff_ids)
            await store.snapshots.mount(f"box{number}")
            if number % 3 == 2:
                await store.snapshots.remove(f"box{number - 1}")
            if number % 4 == 3:
                await store.images.remove(image.id)
                await store.collect()
            print(number, flush=True)
            number += 1
    asyncio.run(main())
"""


@pytest.mark.parametrize("rounds", [1, 4, 7])
async def test_an_engine_killed_at_work_leaves_what_the_next_one_puts_right(tmp_path: Path, rounds: int) -> None:
    child = await asyncio.to_thread(
        subprocess.Popen,
        [sys.executable, "-c", textwrap.dedent(ENGINE), __file__, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    for _ in range(rounds):
        assert await asyncio.to_thread(child.stdout.readline)
    child.send_signal(signal.SIGKILL)
    await asyncio.to_thread(child.wait)
    child.stdout.close()

    store = await Store.open(tmp_path / "data", tmp_path / "exec")
    known = store.snapshots.keys()
    await store.reconcile(known)
    for key in known:
        assert ((await store.snapshots.mount(key)) / "hello").exists()
    for image in store.images.all():
        assert [store.layers.find(diff_id) is not None for diff_id in image.diff_ids] == [True]
        await store.images.config(image.id)
    await store.collect()
    for image in store.images.all():
        await store.images.remove(image.id)
    await store.reconcile([])
    await store.collect()
    assert store.layers.all() == []
    assert await store.content.all() == {}
    await store.aclose()
    paths = store.paths
    for folder in (paths.ingest, paths.trash, paths.snapshots, paths.rootfs, paths.layer_mounts):
        assert await asyncio.to_thread(os.listdir, folder) == [], folder


async def test_data_whose_database_is_lost_is_left_alone(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "data", tmp_path / "exec")
    await store.snapshots.prepare("box", ())
    (store.snapshots.upper("box") / "written").write_text("words")
    await store.aclose()
    saved = (tmp_path / "data/state.db").rename(tmp_path / "saved.db")
    for _ in range(2):  # the file that the first attempt makes changes nothing
        with pytest.raises(StateLost, match="missing or empty, but there is data in snapshots beside it"):
            await Store.open(tmp_path / "data", tmp_path / "exec")
    saved.rename(tmp_path / "data/state.db")
    store = await Store.open(tmp_path / "data", tmp_path / "exec")
    assert (store.snapshots.upper("box") / "written").read_text() == "words"
    await store.snapshots.remove("box")
    await store.aclose()


async def test_a_database_may_begin_beside_data_that_can_be_pulled_again(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "data", tmp_path / "exec")
    await pull(store, {"hello": "world"})
    await store.aclose()
    (tmp_path / "data/state.db").unlink()
    store = await Store.open(tmp_path / "data", tmp_path / "exec")
    assert store.images.all() == []
    await store.aclose()
