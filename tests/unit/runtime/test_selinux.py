"""SELinux labels of containers, by docker's options and the machine's policy."""

import errno
import os
from pathlib import Path

import pytest

from scow.errors import InvalidArgument
from scow.runtime import selinux
from scow.runtime.selinux import FILE, PROCESS, Labels, base_labels, is_enabled, labels_of, level_of, relabel

BASE = Labels(PROCESS, FILE)
ID = "a" * 64


def test_selinux_is_on_where_its_file_system_is(tmp_path: Path) -> None:
    assert not is_enabled(tmp_path)
    (tmp_path / "enforce").write_text("0")
    assert is_enabled(tmp_path)


def test_the_machines_policy_names_the_labels(tmp_path: Path) -> None:
    assert base_labels(tmp_path) == BASE
    contexts = tmp_path / "mls" / "contexts"
    contexts.mkdir(parents=True)
    (tmp_path / "config").write_text("# a remark\nSELINUX=enforcing\nSELINUXTYPE=mls\n")
    (contexts / "lxc_contexts").write_text('process = "u:r:p:s0"\nfile = "u:r:f:s0"\nother = "x"\n')
    assert base_labels(tmp_path) == ("u:r:p:s0", "u:r:f:s0")


def test_each_container_has_categories_of_its_own() -> None:
    level = level_of(ID)
    found = labels_of(ID, (), BASE)
    assert found == (f"system_u:system_r:container_t:{level}", f"system_u:object_r:container_file_t:{level}")
    assert found.shared_files == "system_u:object_r:container_file_t:s0"
    first, second = (int(each.removeprefix("c")) for each in level.removeprefix("s0:").split(","))
    assert 0 <= first < second < 1024
    assert level_of("b" * 64) != level


@pytest.mark.parametrize(
    ("options", "process", "files"),
    [
        (["type:svirt_t"], "system_u:system_r:svirt_t:", "system_u:object_r:container_file_t:"),
        (["filetype:data_t"], "system_u:system_r:container_t:", "system_u:object_r:data_t:"),
        (["user:u", "role:r"], "u:r:container_t:", "u:object_r:container_file_t:"),
    ],
)
def test_options_replace_parts(options: list[str], process: str, files: str) -> None:
    assert labels_of(ID, options, BASE) == (process + level_of(ID), files + level_of(ID))
    assert labels_of(ID, [*options, "level:s0:c1,c2"], BASE) == (f"{process}s0:c1,c2", f"{files}s0:c1,c2")


def test_labels_can_be_done_without() -> None:
    assert labels_of(ID, ["disable"], BASE) is None


@pytest.mark.parametrize("option", ["enable", "type:", "colour:red", ""])
def test_options_that_mean_nothing_are_refused(option: str) -> None:
    with pytest.raises(InvalidArgument, match="bad label option"):
        labels_of(ID, [option], BASE)


def test_all_below_a_place_is_labelled_and_links_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, bytes] = {}

    def set_label(path: str, name: str, value: bytes, *, follow_symlinks: bool) -> None:
        assert (name, follow_symlinks) == ("security.selinux", False)
        given[os.path.relpath(path, tmp_path)] = value

    monkeypatch.setattr(selinux.os, "setxattr", set_label)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    (tmp_path / "link").symlink_to("/etc")
    relabel(str(tmp_path), "u:r:f:s0")
    assert given == {name: b"u:r:f:s0\0" for name in (".", "folder", "folder/file", "link")}


def test_file_systems_without_labels_stay_and_the_machines_own_places_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, name: str, value: bytes, *, follow_symlinks: bool) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(selinux.os, "setxattr", refuse)
    relabel(str(tmp_path), "u:r:f:s0")
    with pytest.raises(InvalidArgument, match="relabeling of /etc is not allowed"):
        relabel("/etc", "u:r:f:s0")
