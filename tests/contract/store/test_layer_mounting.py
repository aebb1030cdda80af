"""How an index gets mounted: by files or loop devices, whichever the kernel takes, and what if it takes none."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from scow.linux import loop, mount
from scow.oci.digest import DiffID
from scow.store.layer_mounts import MountMode, probe
from scow.store.layers import Layers
from support.images import tar

MakeLayers = Callable[..., Layers]
FILES = {"a/": b"", "a/file": b"content" * 1000, "a/link": "file"}


@pytest.fixture
def snapshotter() -> str:
    if os.geteuid() != 0 or not mount.supported("erofs"):
        pytest.skip("needs root and a kernel with EROFS")
    return "erofs"


@pytest.fixture
def loops() -> None:
    if not os.path.exists(loop.CONTROL):
        pytest.skip("needs loop devices: there is no /dev/loop-control")


def backing_files() -> set[str]:
    """The files behind the loop devices of the machine."""
    return {path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")}


async def add(layers: Layers, extra: bytes = b"") -> DiffID:
    async def source() -> AsyncIterator[bytes]:
        yield tar(FILES) + extra

    return (await layers.import_tar(source())).diff_id


def test_the_probe_finds_a_way_and_leaves_nothing(snapshotter: str, tmp_path: Path) -> None:
    assert probe(tmp_path) in (MountMode.FILES, MountMode.LOOP)
    assert os.listdir(tmp_path) == []
    assert not any(str(tmp_path) in name for name in backing_files())


@pytest.mark.usefixtures("loops")
async def test_layers_are_mounted_by_loop_devices_that_go_with_the_mount(
    make_layers: MakeLayers, store_root: Path
) -> None:
    layers = make_layers(mount_mode=MountMode.LOOP)
    diff_id = await add(layers)
    path = await layers.lower(diff_id)
    assert (path / "a/link").read_bytes() == FILES["a/file"]
    ours = {name for name in backing_files() if str(store_root) in name}
    assert {Path(name).name for name in ours} == {"index", "tar"}
    await layers.release(diff_id)
    assert not any(str(store_root) in name for name in backing_files())


@pytest.mark.usefixtures("loops")
async def test_many_loop_devices_at_once(make_layers: MakeLayers) -> None:
    layers = make_layers(mount_mode=MountMode.LOOP)
    diff_ids = [await add(layers, bytes(512 * count)) for count in range(1, 13)]
    paths = await asyncio.gather(*map(layers.lower, diff_ids))
    assert all((path / "a/file").read_bytes() == FILES["a/file"] for path in paths)
    await asyncio.gather(*map(layers.release, diff_ids))


@pytest.mark.usefixtures("loops")
async def test_a_tar_that_no_loop_device_shows_to_its_end_is_unpacked(make_layers: MakeLayers) -> None:
    layers = make_layers(mount_mode=MountMode.LOOP)
    diff_id = await add(layers, b"\0" * 100)
    path = await layers.lower(diff_id)
    assert (path / "a/link").read_bytes() == FILES["a/file"]
    assert layers.get(diff_id).format == "dir"
    await layers.release(diff_id)


async def test_a_layer_that_the_kernel_refuses_to_mount_is_unpacked_for_good(
    make_layers: MakeLayers, store_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layers = make_layers()
    diff_id = await add(layers)
    assert layers.get(diff_id).format == "erofs"
    index = store_root / "layers" / diff_id.replace(":", "/") / "index"
    index.write_bytes(bytes(4096))
    for make in (lambda: layers, lambda: layers, make_layers):
        again = make()
        path = await again.lower(diff_id)
        assert (path / "a/file").read_bytes() == FILES["a/file"]
        assert again.get(diff_id).format == "dir"
        await again.release(diff_id)
    assert sum("is unpacked instead" in record.message for record in caplog.records) == 1
    assert not index.exists()
    assert await layers.remove(diff_id)


async def test_without_any_way_to_mount_layers_are_unpacked_also_those_of_better_times(
    make_layers: MakeLayers,
) -> None:
    before = make_layers()
    old = await add(before)
    layers = make_layers(mount_mode=MountMode.NONE)
    new = await add(layers, bytes(512))
    for diff_id in (old, new):
        path = await layers.lower(diff_id)
        assert (path / "a/file").read_bytes() == FILES["a/file"]
        assert layers.get(diff_id).format == "dir"
        await layers.release(diff_id)
