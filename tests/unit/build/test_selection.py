"""Which files COPY means."""

import contextlib
import io
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from scow.build.context import take_tar
from scow.build.selection import Keep, NothingFound, Selected, digest, everything, kept_below, select
from scow.build.trees import ContextRefused, DirectoryTree, SpooledTree, Tree
from scow.errors import InvalidArgument


def packed(files: Mapping[str, bytes | str | None], mtime: int = 0) -> bytes:
    """A tar: bytes are files, a text is a symlink's target, None a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mtime, entry.mode = mtime, 0o755 if content is None else 0o644
            if content is None:
                entry.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
            else:
                entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


FILES: dict[str, bytes | str | None] = {
    "a.txt": b"a",
    "b.txt": b"b",
    "c.md": b"c",
    "d": None,
    "d/e.txt": b"e",
    "d/f": None,
    "d/f/g.txt": b"g",
    "link": "d/e.txt",
    "away": "../../../a.txt",
    "round": "round",
    "to-d": "d",
}


@pytest.fixture(params=["spooled", "directory"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tree]:
    if request.param == "spooled":
        spooled = take_tar(io.BytesIO(packed(FILES)), tmp_path / "spool")
        yield spooled
        spooled.close()
        return
    top = tmp_path / "top"
    top.mkdir()
    for name, content in FILES.items():
        if content is None:
            (top / name).mkdir()
        elif isinstance(content, str):
            (top / name).symlink_to(content)
        else:
            (top / name).write_bytes(content)
    yield DirectoryTree(top)


def names(selected: list[Selected]) -> list[tuple[str, str]]:
    return [(each.path.decode(), each.name.decode()) for each in selected]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("a.txt", [("a.txt", "a.txt")]),
        ("/a.txt", [("a.txt", "a.txt")]),
        ("./d/../b.txt", [("b.txt", "b.txt")]),
        ("../../b.txt", [("b.txt", "b.txt")]),
        ("d", [("d", "")]),
        (".", [("", "")]),
        ("/", [("", "")]),
        ("*.txt", [("a.txt", "a.txt"), ("b.txt", "b.txt")]),
        ("[ab].txt", [("a.txt", "a.txt"), ("b.txt", "b.txt")]),
        ("[^a].txt", [("b.txt", "b.txt")]),
        ("?.md", [("c.md", "c.md")]),
        ("d/*", [("d/e.txt", "e.txt"), ("d/f", "")]),
        ("*/e.txt", [("d/e.txt", "e.txt"), ("d/e.txt", "e.txt")]),
        ("link", [("d/e.txt", "link")]),
        ("away", [("a.txt", "away")]),
        ("to-d/e.txt", [("d/e.txt", "e.txt")]),
        ("to-d", [("d", "")]),
    ],
)
def test_a_source_means(tree: Tree, source: str, found: list[tuple[str, str]]) -> None:
    assert names(select(tree, source)) == found


@pytest.mark.parametrize("source", ["nope", "a.txt/b", "*.nope", "d/nope"])
def test_what_is_not_there_is_an_error(tree: Tree, source: str) -> None:
    with pytest.raises(NothingFound):
        select(tree, source)


def test_a_round_of_symlinks_is_refused(tree: Tree) -> None:
    with pytest.raises(ContextRefused, match="too many levels of symbolic links"):
        select(tree, "round")


def test_a_bad_pattern_is_refused(tree: Tree) -> None:
    with pytest.raises(InvalidArgument, match="syntax error in pattern"):
        select(tree, "[a")


def test_parents_keep_their_names_from_the_pivot_on(tree: Tree) -> None:
    (one,) = select(tree, "d/f/g.txt", parents=True)
    assert (one.name, [name for name, _ in one.parents]) == (b"d/f/g.txt", [b"d", b"d/f"])
    (one,) = select(tree, "d/./f/g.txt", parents=True)
    assert (one.name, [name for name, _ in one.parents]) == (b"f/g.txt", [b"f"])


def test_what_is_kept_out_is_not_there(tree: Tree) -> None:
    keep: Keep = lambda path, node: not path.startswith(b"d/f") and path != b"a.txt"  # noqa: E731 - a table's row
    assert names(select(tree, "*.txt", keep)) == [("b.txt", "b.txt")]
    with pytest.raises(NothingFound):
        select(tree, "a.txt", keep)
    (folder,) = select(tree, "d", keep)
    assert [path for path, _ in kept_below(tree, folder.path, folder.node, keep)] == [b"d/e.txt"]


@pytest.mark.parametrize("pattern", ["*a" * 60 + "b", "**" * 40 + "a*b", "?" * 200 + "*" * 200])
def test_no_pattern_takes_long(tmp_path: Path, pattern: str) -> None:
    spooled = take_tar(io.BytesIO(packed({"a" * 200: b""})), tmp_path / "long")
    try:
        began = time.monotonic()
        with contextlib.suppress(NothingFound):
            select(spooled, pattern)
        assert time.monotonic() - began < 1
    finally:
        spooled.close()


def key(content: bytes, folder: Path, **changes: int) -> str:
    spooled: SpooledTree = take_tar(io.BytesIO(content), folder)
    try:
        return digest(spooled, select(spooled, "."), everything, owners=False)
    finally:
        spooled.close()


def test_a_digest_follows_content_and_modes_but_not_times(tmp_path: Path) -> None:
    same = key(packed({"x": b"1"}, mtime=5), tmp_path / "1")
    assert key(packed({"x": b"1"}, mtime=9), tmp_path / "2") == same
    others = [{"x": b"2"}, {"y": b"1"}, {"x": b"1", "y": b""}, {"x": "1"}, {"x": None}]
    keys = {key(packed(files), tmp_path / f"o{number}") for number, files in enumerate(others)}
    assert len(keys) == len(others)
    assert same not in keys


def test_a_symlink_that_leads_nowhere_is_copied_as_it_is_where_a_pattern_matches_it(tmp_path: Path) -> None:
    tree = take_tar(io.BytesIO(packed({"a.l": "nowhere", "b.l": b"b"})), tmp_path)
    found = select(tree, "*.l")
    assert [(each.name, each.node.payload if each.node.is_symlink else None) for each in found] == [
        (b"a.l", b"nowhere"),
        (b"b.l", None),
    ]
    tree.close()
