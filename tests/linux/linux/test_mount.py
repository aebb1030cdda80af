"""Mounting, unmounting, mountinfo, and opening beneath a directory, against the real kernel."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.linux import mount

pytestmark = [pytest.mark.linux, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for entry in reversed(mount.mounts(tmp_path)):
        mount.unmount(entry.target, lazy=True)


def test_a_tmpfs_is_mounted_and_unmounted(here: Path) -> None:
    assert not mount.is_mount_point(here)
    mount.mount("none", here, "tmpfs", mount.MS_NOSUID, "size=64k")
    assert mount.is_mount_point(here)
    [entry] = mount.mounts(here)
    assert (entry.fs_type, entry.target) == ("tmpfs", str(here))
    assert "nosuid" in entry.options
    mount.unmount(here)
    assert not mount.is_mount_point(here)


def test_the_new_calls_mount_too(here: Path) -> None:
    with mount.FsContext("tmpfs") as context:
        context.set("size", "64k")
        context.flag("ro")
        context.mounted_at(here)
    with pytest.raises(OSError, match="Read-only"):
        (here / "file").touch()


def test_what_the_file_system_says_is_in_the_error(here: Path) -> None:
    with mount.FsContext("overlay") as context, pytest.raises(mount.MountFailed, match="nonsense") as failure:
        context.set("nonsense", "1")
    assert failure.value.errno == errno.EINVAL
    assert failure.value.messages


def test_a_file_system_that_does_not_exist_is_not_supported(here: Path) -> None:
    assert not mount.supported("no-such-fs")
    assert mount.supported("tmpfs")
    with pytest.raises(mount.MountFailed) as failure:
        mount.mount("none", here, "no-such-fs")
    assert failure.value.errno == errno.ENODEV


def test_odd_names_come_back_from_mountinfo(here: Path) -> None:
    odd = here / "a b\tc\\d\ne"
    odd.mkdir()
    mount.mount("none", odd, "tmpfs")
    assert [entry.target for entry in mount.mounts(here)] == [str(odd)]
    mount.unmount(odd)


def test_unmounting_nothing_says_so(here: Path) -> None:
    with pytest.raises(mount.UnmountFailed) as failure:
        mount.unmount(here)
    assert failure.value.errno == errno.EINVAL
    assert mount.ensure_unmounted(here) is False
    assert mount.ensure_unmounted(here / "absent") is False


def test_a_busy_mount_is_unmounted_lazily_when_it_must_go(here: Path) -> None:
    mount.mount("none", here, "tmpfs")
    with (here / "file").open("w"):
        with pytest.raises(mount.UnmountFailed) as failure:
            mount.unmount(here)
        assert failure.value.errno == errno.EBUSY
        assert mount.ensure_unmounted(here) is True
    assert not mount.is_mount_point(here)


def test_a_read_only_bind_refuses_writes(here: Path) -> None:
    source, target = here / "source", here / "target"
    source.mkdir()
    target.mkdir()
    mount.bind(source, target, read_only=True)
    assert mount.is_mount_point(target)
    (source / "file").touch()
    with pytest.raises(OSError, match="Read-only"):
        (target / "file").write_text("no")


def test_a_detached_copy_can_change_its_attributes_and_be_attached(here: Path) -> None:
    source, target = here / "source", here / "target"
    source.mkdir()
    target.mkdir()
    mount.bind(source, source)
    fd = mount.open_tree(source)
    try:
        mount.set_attributes(fd, add=mount.MOUNT_ATTR_RDONLY)
        mount.move_mount(fd, target)
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="Read-only"):
        (target / "file").touch()


def test_a_path_in_a_root_never_leaves_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (tmp_path / "secret").write_text("outside")
    (root / "secret").write_text("inside")
    (root / "etc" / "relative").symlink_to("../../secret")
    (root / "etc" / "absolute").symlink_to("/secret")
    for name in ("etc/relative", "etc/absolute", "../secret", "/secret", "/etc/../../secret"):
        fd = mount.open_in_root(root, name)
        with open(fd) as file:
            assert file.read() == "inside", name
    with pytest.raises(FileNotFoundError):
        mount.open_in_root(root, "absent")


def test_beneath_refuses_what_would_escape(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_PATH)
    try:
        with pytest.raises(OSError, match="cross-device") as refusal:
            mount.openat2(directory, "../x", os.O_RDONLY, resolve=mount.RESOLVE_BENEATH)
        assert refusal.value.errno == errno.EXDEV
    finally:
        os.close(directory)


def test_no_descriptor_is_left_behind(here: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with mount.FsContext("tmpfs") as context:
            context.mounted_at(here)
        mount.unmount(here)
        with mount.FsContext("overlay") as context, pytest.raises(mount.MountFailed):
            context.mounted_at(here)  # without the layers that it needs
    assert len(os.listdir("/proc/self/fd")) == before
