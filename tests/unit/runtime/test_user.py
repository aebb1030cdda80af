"""Users and groups come from the image's files, and from nowhere else."""

import os
from pathlib import Path

import pytest

from scow.errors import InvalidArgument
from scow.runtime.user import ProcessUser, resolve_user

PASSWD = """\
# comment
root:x:0:0:root:/root:/bin/sh

ann:x:1000:1001:Ann:/home/ann:/bin/sh
broken
+nis
homeless:x:1002:1002::
1234:x:77:78::/odd:/bin/sh
"""
GROUP = "root:x:0:\nann:x:1001:\nstaff:x:50:bob,ann\nwheel:x:10:root\nlate:x:60:ann\n"


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    return root


@pytest.mark.parametrize(
    ("user", "groups", "expected"),
    [
        ("", (), (0, 0, (0, 10), "/root")),
        ("root", (), (0, 0, (0, 10), "/root")),
        ("0", (), (0, 0, (0, 10), "/root")),
        ("ann", (), (1000, 1001, (1001, 50, 60), "/home/ann")),
        ("1000", (), (1000, 1001, (1001, 50, 60), "/home/ann")),
        ("ann:staff", (), (1000, 50, (50,), "/home/ann")),
        ("ann:12", (), (1000, 12, (12,), "/home/ann")),
        ("ann:", (), (1000, 1001, (1001, 50, 60), "/home/ann")),
        ("4000", (), (4000, 0, (0,), "/")),
        ("4000:5000", (), (4000, 5000, (5000,), "/")),
        (":staff", (), (0, 50, (50,), "/root")),
        ("homeless", (), (1002, 1002, (1002,), "/")),
        ("1234", (), (1234, 0, (0,), "/")),  # digits are a number, whatever names there are
        ("ann", ("wheel", "99"), (1000, 1001, (1001, 50, 60, 10, 99), "/home/ann")),
        ("4000", ("staff",), (4000, 0, (0, 50), "/")),
    ],
)
def test_lookup(
    rootfs: Path, user: str, groups: tuple[str, ...], expected: tuple[int, int, tuple[int, ...], str]
) -> None:
    uid, gid, additional, home = expected
    assert resolve_user(rootfs, user, groups) == ProcessUser(uid=uid, gid=gid, additional_gids=additional, home=home)


@pytest.mark.parametrize(
    ("user", "groups", "words"),
    [
        ("bob", (), "unable to find user bob: no matching entries in passwd file"),
        ("ann:nogroup", (), "unable to find group nogroup: no matching entries in group file"),
        ("ann", ("nogroup",), "unable to find group nogroup: no matching entries in group file"),
        ("2147483648", (), "uids and gids must be in range 0-2147483647"),
        ("-1", (), "uids and gids must be in range 0-2147483647"),
        ("0:-1", (), "uids and gids must be in range 0-2147483647"),
        ("\u0663", (), "unable to find user \u0663"),
    ],
)
def test_what_is_not_there(rootfs: Path, user: str, groups: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        resolve_user(rootfs, user, groups)
    assert words in str(failure.value)


def test_an_image_without_files_has_numbers_only(tmp_path: Path) -> None:
    assert resolve_user(tmp_path, "").uid == 0
    assert resolve_user(tmp_path, "5:6") == ProcessUser(uid=5, gid=6, additional_gids=(6,), home="/")
    with pytest.raises(InvalidArgument, match="unable to find user ann"):
        resolve_user(tmp_path, "ann")


@pytest.mark.parametrize("target", ["/outside/passwd", "../../outside/passwd", "../../../../../../outside/passwd"])
def test_a_link_leads_nowhere_outside(rootfs: Path, tmp_path: Path, target: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_text("evil:x:666:666::/:\n")
    (rootfs / "etc/passwd").unlink()
    (rootfs / "etc/passwd").symlink_to(target.replace("/outside", str(outside), 1) if target[0] == "/" else target)
    with pytest.raises(InvalidArgument, match="unable to find user evil"):
        resolve_user(rootfs, "evil")


def test_an_absolute_link_is_taken_from_the_images_root(rootfs: Path) -> None:
    (rootfs / "etc/passwd").rename(rootfs / "users")
    (rootfs / "etc/passwd").symlink_to("/users")
    assert resolve_user(rootfs, "ann").uid == 1000


def test_a_linked_folder_stays_inside(rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("evil:x:666:666::/:\n")
    (rootfs / "etc").rename(rootfs / "other")
    (rootfs / "etc").symlink_to("../etc")
    with pytest.raises(InvalidArgument):
        resolve_user(rootfs, "evil")


def test_odd_things_in_a_files_place_are_no_files(rootfs: Path) -> None:
    path = rootfs / "etc/passwd"
    path.unlink()
    path.mkdir()
    assert resolve_user(rootfs, "7").uid == 7
    path.rmdir()
    os.mkfifo(path)
    assert resolve_user(rootfs, "7").uid == 7
    path.unlink()
    path.symlink_to("passwd")
    assert resolve_user(rootfs, "7").uid == 7
    path.unlink()
    path.write_bytes(b"\xff\xfe:x:5:5::/:\n" * 3)
    assert resolve_user(rootfs, "7").uid == 7
