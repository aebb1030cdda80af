"""Copies as layers: what the tar says for each way to copy."""

import io
import os
import stat
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scow.build.compose import CannotCopy, Composer, Owner, parse_chmod
from scow.build.selection import select
from scow.build.trees import DirectoryTree
from scow.errors import InvalidArgument

ROOT = Owner(0, 0)


@pytest.fixture
def source(tmp_path: Path) -> DirectoryTree:
    top = tmp_path / "source"
    (top / "d/deep").mkdir(parents=True)
    (top / "a").write_text("aaa")
    (top / "a").chmod(0o640)
    (top / "d/b").write_text("b")
    os.link(top / "d/b", top / "d/b2")
    (top / "d/link").symlink_to("/etc/passwd")
    os.utime(top / "a", (1_000, 1_000))
    return DirectoryTree(top)


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    top = tmp_path / "lower"
    (top / "usr/lib").mkdir(parents=True)
    (top / "usr/lib").chmod(0o711)
    (top / "lib").symlink_to("usr/lib")
    (top / "file").write_text("")
    (top / "up").symlink_to("../../..")
    (top / "loose").symlink_to("/nowhere/at/all")
    return top


def layer(fill: Callable[[Composer], None], lower: Path | None, **options: int) -> dict[str, tarfile.TarInfo]:
    """The entries of what was composed, checked to be readable to the end."""
    reading, writing = os.pipe()
    found: list[bytes] = []

    def read() -> None:
        with os.fdopen(reading, "rb") as file:
            found.append(file.read())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        composer = Composer(writing, lower, **options)
        fill(composer)
        composer.finish()
    finally:
        os.close(writing)
        reader.join()
    with tarfile.open(fileobj=io.BytesIO(found[0])) as archive:
        return {entry.name: entry for entry in archive}


def test_a_file_gets_the_destination_as_its_name(source: DirectoryTree, lower: Path) -> None:
    entries = layer(lambda to: to.copy(source, select(source, "a"), "/x/y", owner=ROOT), lower, now=77)
    assert list(entries) == ["x", "x/y"]
    assert (entries["x/y"].size, entries["x/y"].mode, entries["x/y"].mtime) == (3, 0o640, 1_000)
    assert (entries["x"].mode, entries["x"].mtime) == (0o755, 77)


def test_a_destination_with_a_slash_is_a_directory(source: DirectoryTree, lower: Path) -> None:
    assert "x/a" in layer(lambda to: to.copy(source, select(source, "a"), "/x/", owner=ROOT), lower)


def test_a_directory_that_is_there_takes_the_file_and_keeps_its_mode(source: DirectoryTree, lower: Path) -> None:
    entries = layer(lambda to: to.copy(source, select(source, "a"), "/usr/lib", owner=ROOT), lower)
    assert list(entries) == ["usr", "usr/lib", "usr/lib/a"]
    assert entries["usr/lib"].mode == 0o711


def test_symlinks_to_the_destination_are_followed_inside_the_root(source: DirectoryTree, lower: Path) -> None:
    assert "usr/lib/a" in layer(lambda to: to.copy(source, select(source, "a"), "/lib/", owner=ROOT), lower)
    assert list(layer(lambda to: to.copy(source, select(source, "a"), "/up/", owner=ROOT), lower)) == ["a"]


def test_a_directory_means_what_is_in_it(source: DirectoryTree, lower: Path) -> None:
    entries = layer(lambda to: to.copy(source, select(source, "d"), "/x", owner=Owner(7, 8)), lower)
    assert list(entries) == ["x", "x/b", "x/b2", "x/deep", "x/link"]
    assert (entries["x/b2"].type, entries["x/b2"].linkname) == (tarfile.LNKTYPE, "x/b")
    assert entries["x/link"].linkname == "/etc/passwd"
    assert {(entry.uid, entry.gid) for entry in entries.values()} == {(7, 8)}


@pytest.mark.parametrize(("name", "to"), [("d", "/file"), ("a", "/file/"), ("a", "/file/x"), ("a", "/loose")])
def test_what_cannot_be_copied_is_refused(source: DirectoryTree, lower: Path, name: str, to: str) -> None:
    with pytest.raises(CannotCopy):
        layer(lambda composer: composer.copy(source, select(source, name), to, owner=ROOT), lower)


def test_without_looking_below_no_symlink_is_followed(source: DirectoryTree) -> None:
    assert "lib/a" in layer(lambda to: to.copy(source, select(source, "a"), "/lib/", owner=ROOT), None)


def test_no_time_is_later_than_the_epoch(source: DirectoryTree, lower: Path) -> None:
    entries = layer(lambda to: to.copy(source, select(source, "."), "/x/", owner=ROOT), lower, epoch=500, now=900)
    assert {entry.mtime for entry in entries.values()} == {500}


def test_a_working_directory_that_is_there_makes_nothing(lower: Path) -> None:
    assert layer(lambda to: to.directory("/lib", None), lower) == {}
    assert list(layer(lambda to: to.directory("/lib/new/er", None), lower)) == [
        "usr",
        "usr/lib",
        "usr/lib/new",
        "usr/lib/new/er",
    ]


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("755", 0o100600, 0o100755),
        ("04755", 0o100600, 0o104755),
        ("u=rwX,go=rX", 0o100600, 0o100644),
        ("u=rwX,go=rX", 0o040700, 0o040755),
        ("u=rwX,go=rX", 0o100700, 0o100755),
        ("a+x", 0o100644, 0o100755),
        ("+x", 0o100644, 0o100755),
        ("go-rwx", 0o100777, 0o100700),
        ("g=u", 0o100750, 0o100770),
        ("u+s,+t", 0o100755, 0o105755),
        ("u=rw,g+w-x", 0o100755, 0o100665),
    ],
)
def test_modes_in_both_notations(text: str, before: int, after: int) -> None:
    assert oct(parse_chmod(text)(before)) == oct(after)


@pytest.mark.parametrize("text", ["", "9", "u", "x=r", "u=q", "77777", "u=rw,", "rwx"])
def test_modes_that_make_no_sense(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid chmod parameter"):
        parse_chmod(text)


@given(st.integers(0, 0o7777), st.sampled_from(["a=r", "u+x", "go-w", "+X", "g=o"]))
def test_a_mode_never_changes_the_kind(mode: int, text: str) -> None:
    for kind in (stat.S_IFREG, stat.S_IFDIR):
        assert stat.S_IFMT(parse_chmod(text)(kind | mode)) == kind
