"""Snapshots on the real overlayfs: prepare, mount, unmount, remove, views, and what a crash leaves."""

import asyncio
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from scow.errors import InvalidArgument
from scow.linux import mount
from scow.oci.digest import DiffID, sha256
from scow.store.overlay import overlay_by_options
from scow.store.snapshots import (
    LayerMissing,
    NoSuchSnapshot,
    SnapshotExists,
    Snapshots,
    tree_size,
    unique,
)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


async def test_a_snapshot_shows_its_layers_and_keeps_what_is_written(boat: Any) -> None:
    base = boat.layers.add("base", {"etc/name": "base", "both": "base"})
    top = boat.layers.add("top", {"both": "top"})
    await boat.snapshots.prepare("box", [base, top])
    assert boat.snapshots.diff_ids("box") == (base, top)
    assert not boat.snapshots.mounted("box")
    rootfs = await boat.snapshots.mount("box")
    assert boat.snapshots.mounted("box")
    assert (rootfs / "both").read_text() == "top"
    (rootfs / "etc/name").write_text("changed")
    (rootfs / "both").unlink()
    assert await boat.snapshots.mount("box") == rootfs
    assert boat.layers.held == {base: 1, top: 1}
    await boat.snapshots.unmount("box")
    await boat.snapshots.unmount("box")
    assert boat.layers.held == {}
    assert not rootfs.exists()
    rootfs = await boat.snapshots.mount("box")
    assert (rootfs / "etc/name").read_text() == "changed"
    assert not (rootfs / "both").exists()
    assert (boat.layers.folder(base) / "etc/name").read_text() == "base"
    assert (boat.snapshots.upper("box") / "etc/name").read_text() == "changed"


async def test_removing_ends_all_of_it(boat: Any) -> None:
    base = boat.layers.add("base", {"file": "x"})
    await boat.snapshots.prepare("box", [base])
    rootfs = await boat.snapshots.mount("box")
    (rootfs / "tree/of").mkdir(parents=True)
    await boat.snapshots.remove("box")
    await boat.snapshots.remove("box")
    await boat.trash.aclose()
    assert boat.layers.held == {}
    assert names(boat.root / "snapshots") == names(boat.root / "rootfs") == names(boat.root / "trash") == []
    assert boat.snapshots.keys() == []
    for refused in (boat.snapshots.mount("box"), boat.snapshots.unmount("box"), boat.snapshots.usage("box")):
        with pytest.raises(NoSuchSnapshot):
            await refused


async def test_no_layers_at_all_is_an_empty_file_system(boat: Any) -> None:
    await boat.snapshots.prepare("scratch", [])
    rootfs = await boat.snapshots.mount("scratch")
    assert names(rootfs) == []
    (rootfs / "file").write_text("x")
    async with boat.snapshots.view([]) as view:
        assert names(view) == []


@pytest.mark.parametrize("count", [1, 127, 300])
async def test_a_stack_of_many_layers_is_mounted_in_order(boat: Any, count: int) -> None:
    stack = [boat.layers.add(f"{n}", {f"file{n}": str(n), "same": str(n)}) for n in range(count)]
    await boat.snapshots.prepare("x" * 64, stack)
    rootfs = await boat.snapshots.mount("x" * 64)
    assert len(names(rootfs)) == count + 1
    assert (rootfs / "same").read_text() == str(count - 1)


async def test_the_old_mount_call_does_the_same_with_127_layers(tmp_path: Path) -> None:
    lowers = [tmp_path / ("layer" * 20) / str(number) for number in range(127)]
    for number, lower in enumerate(lowers):
        lower.mkdir(parents=True)
        (lower / "same").write_text(str(number))
    for name in ("upper", "work", "here"):
        (tmp_path / name).mkdir()
    overlay_by_options(tmp_path / "here", lowers, upper=tmp_path / "upper", work=tmp_path / "work")
    try:
        assert (tmp_path / "here/same").read_text() == "126"
        (tmp_path / "here/new").write_text("x")
    finally:
        mount.unmount(tmp_path / "here")
    assert (tmp_path / "upper/new").exists()


async def test_a_layer_that_appears_twice_counts_where_it_is_topmost(boat: Any) -> None:
    one = boat.layers.add("one", {"both": "one", "a": "1"})
    two = boat.layers.add("two", {"both": "two"})
    assert unique([one, two, one]) == (two, one)
    await boat.snapshots.prepare("box", [one, two, one])
    rootfs = await boat.snapshots.mount("box")
    assert (rootfs / "both").read_text() == "one"
    await boat.snapshots.unmount("box")
    assert boat.layers.held == {}


async def test_the_root_directory_begins_as_the_image_has_it_and_then_is_the_containers(boat: Any) -> None:
    base = boat.layers.add("base", {"file": "x"})
    os.chmod(boat.layers.folder(base), 0o555)
    os.chown(boat.layers.folder(base), 12, 34)
    await boat.snapshots.prepare("box", [base])
    rootfs = await boat.snapshots.mount("box")
    status = rootfs.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o555, 12, 34)
    rootfs.chmod(0o700)
    await boat.snapshots.unmount("box")
    assert stat.S_IMODE((await boat.snapshots.mount("box")).stat().st_mode) == 0o700


async def test_a_view_is_read_only_and_ends_with_its_block(boat: Any) -> None:
    base = boat.layers.add("base", {"file": "x"})
    top = boat.layers.add("top", {"other": "y"})
    for stack in ([base], [base, top]):
        async with boat.snapshots.view(stack) as view:
            assert (view / "file").read_text() == "x"
            assert set(stack) == boat.snapshots.used_diff_ids()
            with pytest.raises(OSError, match="Read-only"):
                (view / "new").touch()
        assert boat.layers.held == {}
        assert not view.exists()
    with pytest.raises(ZeroDivisionError):
        async with boat.snapshots.view([base]):
            raise ZeroDivisionError
    assert boat.layers.held == {}
    assert boat.snapshots.used_diff_ids() == set()


async def test_preparing_again_is_the_same_only_for_the_same_layers(boat: Any) -> None:
    base = boat.layers.add("base", {"file": "x"})
    await boat.snapshots.prepare("box", [base])
    await boat.snapshots.prepare("box", [base])
    with pytest.raises(SnapshotExists):
        await boat.snapshots.prepare("box", [])


@pytest.mark.parametrize("key", ["", ".", "..", "a/b", "view-1", ".hidden", "x" * 201, "nul\0"])
async def test_keys_that_cannot_name_a_directory_are_refused(boat: Any, key: str) -> None:
    with pytest.raises(InvalidArgument):
        await boat.snapshots.prepare(key, [])


async def test_mounting_at_once_mounts_once(boat: Any) -> None:
    base = boat.layers.add("base", {"file": "x"})
    await boat.snapshots.prepare("box", [base])
    await asyncio.gather(*(boat.snapshots.mount("box") for _ in range(8)))
    assert len(mount.mounts(boat.root)) == 1
    assert boat.layers.held == {base: 1}


async def test_cancelling_leaves_it_mounted_or_not_but_never_half(boat: Any) -> None:
    base = boat.layers.add("base", {"file": "x"})
    await boat.snapshots.prepare("box", [base])
    for turns in range(12):
        task = asyncio.ensure_future(boat.snapshots.mount("box"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        is_mounted = boat.snapshots.mounted("box")
        assert len(mount.mounts(boat.root)) == int(is_mounted)
        assert boat.layers.held == ({base: 1} if is_mounted else {})
        await boat.snapshots.unmount("box")


async def test_a_failing_mount_gives_the_layers_back(boat: Any) -> None:
    base = boat.layers.add("base", {"file": "x"})
    await boat.snapshots.prepare("box", [base])
    shutil.rmtree(boat.layers.folder(base))
    with pytest.raises(LayerMissing):
        await boat.snapshots.prepare("other", [base])
    with pytest.raises((mount.MountFailed, FileNotFoundError)):
        await boat.snapshots.mount("box")
    assert boat.layers.held == {}
    assert mount.mounts(boat.root) == []


async def test_a_busy_snapshot_is_unmounted_all_the_same(boat: Any) -> None:
    await boat.snapshots.prepare("box", [])
    rootfs = await boat.snapshots.mount("box")
    with (rootfs / "open").open("w"):
        await boat.snapshots.unmount("box")
        assert not rootfs.exists()


async def test_usage_counts_files_once_and_only_what_was_written(boat: Any) -> None:
    base = boat.layers.add("base", {"file": "x" * 1000})
    await boat.snapshots.prepare("box", [base])
    rootfs = await boat.snapshots.mount("box")
    assert await boat.snapshots.usage("box") == 0
    (rootfs / "dir").mkdir()
    (rootfs / "dir/a").write_bytes(b"x" * 5000)
    os.link(rootfs / "dir/a", rootfs / "b")
    assert await boat.snapshots.usage("box") == await boat.snapshots.total_usage() == 5000
    assert tree_size(boat.root / "absent") == 0


async def test_after_a_crash_live_mounts_are_adopted_with_their_layers(boat: Any) -> None:
    base = boat.layers.add("base", {"file": "x"})
    await boat.snapshots.prepare("live", [base])
    await boat.snapshots.prepare("idle", [base])
    rootfs = await boat.snapshots.mount("live")
    (rootfs / "written").write_text("before")
    await boat.crash()
    assert await boat.snapshots.reconcile(["live", "idle"]) == []
    assert boat.layers.held == {base: 1}
    assert boat.snapshots.mounted("live")
    assert not boat.snapshots.mounted("idle")
    assert await boat.snapshots.mount("live") == rootfs
    assert (rootfs / "written").read_text() == "before"
    await boat.snapshots.unmount("live")
    assert boat.layers.held == {}


async def test_after_a_reboot_snapshots_are_mounted_again_on_demand(boat: Any) -> None:
    base = boat.layers.add("base", {"file": "x"})
    await boat.snapshots.prepare("box", [base])
    rootfs = await boat.snapshots.mount("box")
    (rootfs / "written").write_text("before")
    mount.unmount(rootfs)
    shutil.rmtree(boat.root / "rootfs")
    (boat.root / "rootfs").mkdir()
    await boat.crash()
    await boat.snapshots.reconcile()
    assert (await boat.snapshots.mount("box") / "written").read_text() == "before"


async def test_after_a_crash_what_nobody_knows_goes(boat: Any) -> None:
    base = boat.layers.add("base", {"file": "x"})
    for key in ("kept", "unknown"):
        await boat.snapshots.prepare(key, [base])
        await boat.snapshots.mount(key)
    stray = boat.root / "rootfs" / "view-stray"
    stray.mkdir()
    mount.mount("none", stray, "tmpfs")
    (boat.root / "rootfs" / "leftover").mkdir()
    (boat.root / "snapshots" / "rowless" / "upper").mkdir(parents=True)
    (boat.root / "trash" / "half-deleted").mkdir()
    shutil.rmtree(boat.root / "snapshots" / "unknown", ignore_errors=True)
    await boat.crash()
    await boat.trash.empty()
    assert await boat.snapshots.reconcile(["kept"]) == ["unknown"]
    await boat.trash.aclose()
    assert [entry.target for entry in mount.mounts(boat.root)] == [str(boat.root / "rootfs" / "kept")]
    assert names(boat.root / "rootfs") == names(boat.root / "snapshots") == ["kept"]
    await boat.crash()
    assert boat.snapshots.keys() == ["kept"]


async def test_a_mount_taken_away_behind_our_back_is_made_again(boat: Any) -> None:
    base = boat.layers.add("base", {"file": "x"})
    await boat.snapshots.prepare("box", [base])
    mount.unmount(await boat.snapshots.mount("box"))
    assert not boat.snapshots.mounted("box")
    assert ((await boat.snapshots.mount("box")) / "file").exists()
    assert boat.layers.held == {base: 1}


def test_stacks_without_twins_are_as_they_were() -> None:
    stack = tuple(DiffID(sha256(bytes([number]))) for number in range(5))
    assert unique(stack) == stack
    assert unique(()) == ()


async def test_the_layers_that_were_used_last_are_kept_within_the_limit(boat: Any) -> None:
    layers = [boat.layers.add(f"{number}", {"file": "x"}) for number in range(3)]
    warm = Snapshots(
        boat.root / "snapshots", boat.root / "rootfs", boat.root / "empty", boat.layers, boat.db, boat.trash, 2
    )
    for diff_id in (*layers, layers[1]):
        async with warm.view([diff_id]):
            pass
    assert boat.layers.held == {layers[1]: 1, layers[2]: 1}
    assert await warm.cool(layers[2])
    assert not await warm.cool(layers[2])
    await warm.cool_all()
    assert boat.layers.held == {}


async def test_a_snapshot_that_somebody_reads_stays_mounted_when_it_is_unmounted(boat: Any) -> None:
    base = boat.layers.add("base", {"file": "x"})
    await boat.snapshots.prepare("box", [base])
    rootfs = await boat.snapshots.mount("box")
    async with boat.snapshots.kept_mounted("box"), boat.snapshots.kept_mounted("box"):
        await boat.snapshots.unmount("box")
        assert (rootfs / "file").read_text() == "x"
        assert boat.layers.held == {base: 1}
    assert mount.mounts(boat.root) == []
    assert boat.layers.held == {}


async def test_a_snapshot_that_somebody_read_stays_mounted_for_who_mounted_it(boat: Any) -> None:
    await boat.snapshots.prepare("box", [])
    async with boat.snapshots.kept_mounted("box") as rootfs:
        await boat.snapshots.mount("box")
    assert boat.snapshots.mounted("box")
    await boat.crash()
    await boat.snapshots.reconcile(["box"])
    async with boat.snapshots.kept_mounted("box") as rootfs:
        pass
    assert mount.is_mount_point(rootfs)
    async with boat.snapshots.kept_mounted("box"):
        await boat.snapshots.remove("box")
    assert not rootfs.exists()


async def test_what_was_written_where_a_snapshot_had_been_mounted_does_not_keep_it(boat: Any) -> None:
    await boat.snapshots.prepare("box", [])
    rootfs = await boat.snapshots.mount("box")
    mount.unmount(rootfs)
    (rootfs / "etc").mkdir()
    await boat.snapshots.remove("box")
    assert not rootfs.exists()
