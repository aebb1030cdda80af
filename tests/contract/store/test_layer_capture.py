"""A layer made from a directory says the same as the directory, and is the same layer whenever it is made."""

import asyncio
import contextlib
import io
import os
import socket
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from scow.linux import mount
from scow.oci.digest import sha256
from scow.store.layers import EMPTY_LAYER, Layer, Layers, LayerUnsupported
from scow.store.overlay import overlay
from support.trees import Facts, by_gnu_tar, facts, make_tar, one_of_everything


def in_seconds(found: Facts) -> Facts:
    """The facts with times cut to whole seconds, as layers have them."""
    return {
        path: (*fact[:4], int(str(fact[4])) // 10**9 if fact[4] is not None else None, *fact[5:])
        for path, fact in found.items()
    }


def without_root(found: Facts) -> Facts:
    return {path: fact for path, fact in found.items() if path}


async def tar_of(layers: Layers, layer: Layer) -> bytes:
    return await asyncio.to_thread((await layers.tar(layer.diff_id)).read_bytes)


async def shown(layers: Layers, layer: Layer) -> Facts:
    path = await layers.lower(layer.diff_id)
    try:
        return facts(path)
    finally:
        await layers.release(layer.diff_id)


async def names(layers: Layers, layer: Layer) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(await tar_of(layers, layer)), errors="surrogateescape") as archive:
        return [entry.name + ("/" if entry.isdir() else "") for entry in archive]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return one_of_everything(tmp_path / "tree")


async def test_a_layer_shows_what_the_directory_shows(layers: Layers, tree: Path) -> None:
    layer = await layers.capture(tree)
    assert in_seconds(without_root(await shown(layers, layer))) == in_seconds(without_root(facts(tree)))
    assert layer.format == ("dir" if layers.snapshotter == "overlay2" else "erofs")


async def test_gnu_tar_extracts_from_its_tar_what_was_in_the_directory(
    layers: Layers, tree: Path, tmp_path: Path
) -> None:
    layer = await layers.capture(tree)
    extracted = by_gnu_tar(await layers.tar(layer.diff_id), tmp_path / "gnu")
    assert in_seconds(without_root(extracted)) == in_seconds(without_root(facts(tree)))


async def test_python_reads_the_entries_that_gnu_tar_would_write(layers: Layers, tree: Path, tmp_path: Path) -> None:
    layer = await layers.capture(tree)
    make_tar(tmp_path / "gnu.tar", tree, "--format=pax", "--sort=name")
    with tarfile.open(tmp_path / "gnu.tar", errors="surrogateescape") as archive:
        theirs = sorted(entry.name.removeprefix("./") + ("/" if entry.isdir() else "") for entry in archive)
    assert sorted(await names(layers, layer)) == [name for name in theirs if name != "./"]


async def test_reading_the_tar_back_gives_the_same_layer_and_index(
    layers: Layers, make_layers: Callable[..., Layers], tree: Path, store_root: Path
) -> None:
    layer = await layers.capture(tree)
    tar = await layers.tar(layer.diff_id)
    data, index = tar.read_bytes(), tar.with_name("index")
    ours = index.read_bytes() if index.exists() else None
    assert sha256(data) == layer.diff_id
    await layers.remove(layer.diff_id)
    again = await layers.import_tar(_written(store_root / "copy.tar", data))
    assert again == layer
    assert (index.read_bytes() if index.exists() else None) == ours


async def test_the_same_tree_gives_the_same_layer(layers: Layers, tree: Path, tmp_path: Path) -> None:
    first = await layers.capture(tree)
    copy = tmp_path / "copy"
    await asyncio.to_thread(subprocess.run, ["cp", "-a", "--sparse=never", tree, copy], check=True)
    assert await layers.capture(copy) == first


async def test_an_untouched_directory_gives_the_empty_layer(layers: Layers, tmp_path: Path) -> None:
    (tmp_path / "upper").mkdir(mode=0o755)
    layer = await layers.capture(tmp_path / "upper")
    assert (layer.diff_id, layer.entries) == (EMPTY_LAYER, 0)


async def test_what_was_removed_and_replaced_in_an_overlay_stays_so(layers: Layers, tmp_path: Path) -> None:
    base, upper, work, merged = (tmp_path / name for name in ("base", "upper", "work", "merged"))
    for folder in (base / "kept", base / "replaced", base / "removed", upper, work, merged):
        folder.mkdir(parents=True)
    for path in ("file", "kept/file", "replaced/old", "removed/file"):
        (base / path).write_text("base")
    base_layer = await layers.capture(base)
    overlay(merged, [base], upper=upper, work=work)
    try:
        (merged / "file").unlink()
        (merged / "kept/file").unlink()
        (merged / "replaced/old").unlink()
        (merged / "replaced").rmdir()
        (merged / "replaced").mkdir()
        (merged / "replaced/new").write_text("new")
        (merged / "removed/file").unlink()
        (merged / "removed").rmdir()
        expected = without_root(facts(merged))
    finally:
        await asyncio.to_thread(_unmount, merged)
    layer = await layers.capture(upper)
    assert sorted(await names(layers, layer)) == [
        ".wh.file", ".wh.removed", "kept/", "kept/.wh.file", "replaced/", "replaced/.wh..wh..opq", "replaced/new",
    ]  # fmt: skip
    lowers = [await layers.lower(each.diff_id) for each in (base_layer, layer)]
    try:
        overlay(merged, lowers)
        try:
            assert in_seconds(without_root(facts(merged))) == in_seconds(expected)
        finally:
            await asyncio.to_thread(_unmount, merged)
    finally:
        for each in (base_layer, layer):
            await layers.release(each.diff_id)


async def test_mount_points_that_a_runtime_made_are_left_out(layers: Layers, tmp_path: Path) -> None:
    base, upper = tmp_path / "base", tmp_path / "upper"
    (base / "etc").mkdir(parents=True)
    (base / "etc/hosts").touch()
    for folder in ("etc", "dev/pts", "proc", "run/secrets/deep", "sys", "mine"):
        (upper / folder).mkdir(parents=True)
    for name in ("etc/hosts", "etc/resolv.conf", "dev/console", ".dockerenv", "run/secrets/deep/key"):
        (upper / name).touch()
    stubs = ["/dev", "/dev/pts", "/dev/console", "/proc", "/sys", "/etc/resolv.conf", "/etc/hosts", "/.dockerenv",
             "/run/secrets/deep/key"]  # fmt: skip
    layer = await layers.capture(upper, base=base, stubs=stubs)
    assert await names(layers, layer) == ["etc/", "etc/hosts", "mine/"]
    (upper / "etc/hosts").unlink()
    (upper / "mine").rmdir()
    assert (await layers.capture(upper, base=base, stubs=stubs)).diff_id == EMPTY_LAYER
    # Written to, they are somebody's files.
    (upper / "etc/resolv.conf").write_text("nameserver 192.0.2.1")
    (upper / "dev/pts/mine").touch()
    layer = await layers.capture(upper, base=base, stubs=stubs)
    assert await names(layers, layer) == ["dev/", "dev/pts/", "dev/pts/mine", "etc/", "etc/resolv.conf"]


async def test_the_root_directory_is_told_when_it_is_not_the_usual_one(layers: Layers, tmp_path: Path) -> None:
    base, upper = tmp_path / "base", tmp_path / "upper"
    base.mkdir(mode=0o755)
    upper.mkdir()
    upper.chmod(0o1700)
    os.chown(upper, 5, 6)
    layer = await layers.capture(upper, base=base)
    assert await names(layers, layer) == ["./"]
    assert (await shown(layers, layer))[b""][:3] == (oct(stat.S_IFDIR | 0o1700), 5, 6)
    assert (await layers.capture(upper, base=upper)).diff_id == EMPTY_LAYER
    (upper / "file").touch()
    assert await names(layers, await layers.capture(upper, base=upper)) == ["./", "file"]


async def test_sockets_and_marks_of_the_host_are_left_out(layers: Layers, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server, contextlib.chdir(upper):
        server.bind("socket")
    (upper / "file").touch()
    (upper / "folder").mkdir()
    os.setxattr(upper / "folder", "trusted.overlay.origin", b"x")
    os.setxattr(upper / "file", "user.kept", b"y")
    layer = await layers.capture(upper)
    assert await names(layers, layer) == ["file", "folder/"]
    found = await shown(layers, layer)
    assert (found[b"file"][8], found[b"folder"][8]) == ({"user.kept": b"y"}, {})


async def test_times_are_no_later_than_asked(layers: Layers, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    (upper / "folder").mkdir(parents=True)
    for name, time in (("early", 5), ("late", 5000)):
        (upper / name).touch()
        os.utime(upper / name, (time, time))
    layer = await layers.capture(upper, clamp_mtime=1000)
    found = {path: int(str(fact[4])) // 10**9 for path, fact in without_root(await shown(layers, layer)).items()}
    assert found == {b"early": 5, b"late": 1000, b"folder": 1000}


@pytest.mark.parametrize("snapshotter", ["erofs"], indirect=True)  # unpacked, it would be 9 GiB of zeros
async def test_sizes_times_and_owners_beyond_the_old_limits(layers: Layers, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    with (upper / "huge").open("wb") as file:
        file.truncate(9 << 30)
        os.pwrite(file.fileno(), b"end", (9 << 30) - 3)
    (upper / "odd").touch()
    os.chown(upper / "odd", 1 << 31, 1 << 30)
    os.utime(upper / "odd", (-86400, -86400))
    layer = await layers.capture(upper)
    tar = await layers.tar(layer.diff_id)
    assert layer.size > 9 << 30
    assert tar.stat().st_blocks * 512 < 1 << 20
    path = await layers.lower(layer.diff_id)
    try:
        with (path / "huge").open("rb") as file:
            assert os.fstat(file.fileno()).st_size == 9 << 30
            assert os.pread(file.fileno(), 10, (9 << 30) - 5) == b"\0\0end"
        odd = (path / "odd").stat()
        assert (odd.st_uid, odd.st_gid, odd.st_mtime) == (1 << 31, 1 << 30, -86400)
    finally:
        await layers.release(layer.diff_id)


async def test_a_name_that_would_mean_a_removal_is_refused(layers: Layers, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    (upper / "folder").mkdir(parents=True)
    (upper / "folder/.wh.file").touch()
    with pytest.raises(LayerUnsupported, match=r"folder/\.wh\.file"):
        await layers.capture(upper)


async def test_a_path_too_long_for_a_layer_is_refused(layers: Layers, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    here = os.open(upper, os.O_RDONLY)
    for _ in range(18):
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(LayerUnsupported, match="a path of"):
        await layers.capture(upper)


async def test_a_deep_tree_is_no_trouble(layers: Layers, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    (upper / "/".join("d" * 900)).mkdir(parents=True)
    layer = await layers.capture(upper)
    assert layer.entries == 900


def _unmount(path: Path) -> None:
    mount.unmount(path)


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
