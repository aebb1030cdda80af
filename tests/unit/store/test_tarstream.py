"""What the tar reader accepts, and the sentences with which it refuses. The corpus of hostile and broken archives."""

import random
import stat
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scow.store.erofs import NotExpressible, build_index
from scow.store.tarstream import LayerUnsupported, TarReader, parse_number, parse_pax, parse_time
from scow.store.tree import LayerCorrupt, LayerTree, Node, device_number, split_device_number


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", target: str = "", **fields: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + data + bytes(-len(data) % 512)


def patched(header: bytes, at: int, text: bytes) -> bytes:
    """A header with a field overwritten, its sum right again."""
    block = bytearray(header[:512])
    block[at : at + len(text)] = text
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + header[512:]


def read(data: bytes, piece: int = 1 << 20) -> LayerTree:
    reader = TarReader()
    for start in range(0, len(data), piece):
        reader.feed(data[start : start + piece])
    return reader.finish()


def paths(tree: LayerTree) -> list[str]:
    return [path.decode() for path, _ in tree.walk()][1:]


def test_a_number_is_octal_or_base_256() -> None:
    assert parse_number(b"0000644\0") == 0o644
    assert parse_number(b"   644 \0") == 0o644
    assert parse_number(b"644\0junk") == 0o644
    assert parse_number(bytes(8)) == 0
    assert parse_number(b"\x80\0\0\0\0\0\0\0\0\0\1\2") == 258
    assert parse_number(b"\xff" * 12) == -1
    for field in (b"0000689\0", b"-0000644", b"0x1\0\0\0\0\0"):
        with pytest.raises(LayerCorrupt, match="octal"):
            parse_number(field)


def test_a_pax_time_is_rounded_down() -> None:
    assert parse_time(b"12") == (12, 0)
    assert parse_time(b"1.5") == (1, 500_000_000)
    assert parse_time(b"1.0000000019") == (1, 1)
    assert parse_time(b"-1.5") == (-2, 500_000_000)
    assert parse_time(b"-1.0000000001") == (-2, 999_999_999)
    for text in (b"", b"1e9", b"nan", b"--1", b"9" * 30):
        with pytest.raises(LayerCorrupt, match="time"):
            parse_time(text)


def test_a_pax_record_has_its_length_in_front() -> None:
    assert parse_pax(b"12 a=b\nc=d\x00\n15 path=a\nb=\0c\n") == {b"a": b"b\nc=d\0", b"path": b"a\nb=\0c"}
    for data in (b"5 a=b\n", b"99 a=b\n", b"x a=b\n", b"0 a=b\n", b"6 a=bc", b"6 =bcd\n", b"7 abcd\n"):
        with pytest.raises(LayerCorrupt, match="pax"):
            parse_pax(data)


@pytest.mark.parametrize("piece", [1, 7, 511, 512, 513, 5000])
def test_pieces_may_be_of_any_size(piece: int) -> None:
    data = member("d", tarfile.DIRTYPE) + member("d/" + "n" * 200, data=b"x" * 1000) + member("z", data=b"y" * 512)
    tree = read(data + bytes(1024), piece)
    assert paths(tree) == ["d", "d/" + "n" * 200, "z"]
    assert tree.root.children[b"z"].payload == len(data) - 512


def test_what_follows_the_end_is_ignored() -> None:
    assert paths(read(member("a") + bytes(512) + b"garbage" * 1000)) == ["a"]


def test_an_end_without_zero_blocks_or_padding_is_let_pass() -> None:
    assert paths(read(member("a"))) == ["a"]
    assert paths(read(member("a", data=b"x" * 100)[: 512 + 100])) == ["a"]


BROKEN: dict[str, tuple[bytes, str]] = {
    "leads out": (member("../x"), "leads out of the layer"),
    "leads out later": (member("a/../../x"), "leads out of the layer"),
    "link leads out": (member("l", tarfile.LNKTYPE, target="../../etc/shadow"), "leads out of the layer"),
    "no such link target": (member("l", tarfile.LNKTYPE, target="f"), "the layer has no such file"),
    "link to itself": (member("l", tarfile.LNKTYPE, target="l"), "the layer has no such file"),
    "circle of links": (
        member("a", tarfile.LNKTYPE, target="b") + member("b", tarfile.LNKTYPE, target="a"),
        "the layer has no such file",
    ),
    "link to a directory": (
        member("d", tarfile.DIRTYPE) + member("l", tarfile.LNKTYPE, target="d"), "that is a directory"
    ),
    "circle of symlinks": (
        member("a", tarfile.SYMTYPE, target="b") + member("b", tarfile.SYMTYPE, target="a") + member("a/f"),
        "too many symlinks",
    ),
    "empty symlink": (member("s", tarfile.SYMTYPE), "target of 0 bytes"),
    "long symlink": (member("s", tarfile.SYMTYPE, target="x" * 4096), "target of 4096 bytes"),
    "long name": (member("n" * 256), "a name of 256 bytes"),
    "long path": (member("d/" * 2100 + "f"), "a path of"),
    "no name": (patched(member("x"), 0, b"\0"), "without a name"),
    "root is a file": (member("."), "root is not a directory"),
    "file as parent": (member("f") + member("f/x"), "not a directory"),
    "NUL in a path": (member("a", pax_headers={"path": "a\0b"}), "NUL"),
    "not a tar": (random.Random(1).randbytes(2048), "no tar header at byte 0"),
    "damaged later": (member("a") + b"x" * 512, "no tar header at byte 512"),
    "negative size": (patched(member("f"), 124, b"\xff" * 12), "a size of -1"),
    "absurd size": (patched(member("f"), 124, b"\x80" + b"\xff" * 11), "a size of"),
    "negative pax size": (member("f", pax_headers={"size": "-5"}), "a size of -5"),
    "owner out of range": (member("f", pax_headers={"uid": "4294967295"}), "out of range"),
    "device out of range": (member("c", tarfile.CHRTYPE, devmajor=5000), "device number"),
    "nameless whiteout": (member(".wh."), "hides nothing"),
    "whiteout of the parent": (member("a/.wh..."), "hides nothing"),
    "huge pax header": (patched(member("x", b"x"), 124, b"77777777777"), "extended header of"),
    "truncated in data": (member("f", data=b"x" * 2000)[:1500], "truncated"),
    "truncated in a header": (member("f")[:300], "truncated"),
    "truncated after a pax header": (member("n" * 200)[:1024], "truncated"),
    "sparse out of order": (
        member("f", data=b"12", pax_headers={"GNU.sparse.size": "9", "GNU.sparse.map": "5,1,3,1"}), "out of order"
    ),
    "sparse beyond its size": (
        member("f", data=b"12", pax_headers={"GNU.sparse.size": "3", "GNU.sparse.map": "5,2"}), "does not fit"
    ),
    "sparse with other data": (
        member("f", data=b"12", pax_headers={"GNU.sparse.size": "30", "GNU.sparse.map": "5,12"}), "does not fit"
    ),
    "sparse map without end": (
        member("f", data=b"9" * 20000, pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                                                    "GNU.sparse.realsize": "3"}), "truncated|damaged|number"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_and_hostile_archives_are_refused_by_a_clear_sentence(name: str) -> None:
    data, words = BROKEN[name]
    with pytest.raises(LayerCorrupt, match=words):
        read(data)


def test_a_continued_volume_is_unsupported() -> None:
    with pytest.raises(LayerUnsupported, match="volume"):
        read(patched(member("f"), 156, b"M"))


def test_names_are_resolved_inside_the_layer() -> None:
    data = member("/abs") + member("./a//b/../c") + member("up", tarfile.SYMTYPE, target="../../..") + member("up/f")
    assert paths(read(data)) == ["a", "a/c", "abs", "f", "up"]


def test_a_layers_size_is_that_of_its_files_each_counted_once() -> None:
    tree = read(
        member("d/", tarfile.DIRTYPE)
        + member("d/file", data=b"12345")
        + member("d/same", tarfile.LNKTYPE, target="d/file")
        + member("link", tarfile.SYMTYPE, target="d/file")
        + member("d/twice", data=b"replaced by what follows")
        + member("d/twice", data=b"1")
        + member("d/.wh.gone")
    )
    assert tree.files_size() == 5 + len("d/file") + 1


def test_overlay_marks_of_the_archive_are_dropped() -> None:
    marks = {"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.a": "b"}
    assert read(member("f", pax_headers=marks)).root.children[b"f"].xattrs == {b"user.a": b"b"}


def test_later_globals_replace_earlier_ones() -> None:
    make: Callable[[dict[str, str]], bytes] = tarfile.TarInfo.create_pax_global_header
    tree = read(
        make({"mtime": "5"}) + member("a", mtime=1) + make({"mtime": "6"}) + member("b", pax_headers={"uid": "7"})
    )
    assert tree.root.children[b"a"].mtime == 5
    assert (tree.root.children[b"b"].mtime, tree.root.children[b"b"].uid) == (6, 7)


def test_device_numbers_are_packed_as_the_kernel_does() -> None:
    for pair in ((0, 0), (5, 1), (259, 70000), (4095, (1 << 20) - 1)):
        assert split_device_number(device_number(*pair)) == pair


def test_a_file_of_several_terabytes_has_an_index() -> None:
    tree = LayerTree()
    tree.add(b"hole", Node(stat.S_IFREG | 0o644, 0, 0, 0, 0, 5 << 40, (), None))
    assert len(build_index(tree, 512)) < 4096


def test_an_attribute_of_an_unknown_family_is_not_expressible() -> None:
    tree = LayerTree()
    tree.add(b"f", Node(stat.S_IFREG | 0o644, 0, 0, 0, 0, 0, 512, {b"btrfs.compression": b"zstd"}))
    with pytest.raises(NotExpressible, match="btrfs"):
        build_index(tree, 512)


def test_a_tar_beyond_the_numbers_of_blocks_is_not_expressible() -> None:
    with pytest.raises(NotExpressible, match="more blocks"):
        build_index(LayerTree(), 2 << 40)


WHOLE = (
    member("d", tarfile.DIRTYPE)
    + member("d/" + "n" * 150, data=b"x" * 700)
    + member("l", tarfile.LNKTYPE, target="d/x")
)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255), st.integers(0, len(WHOLE)), st.integers(1, 3000))
def test_damage_is_refused_or_read_but_never_something_else(at: int, value: int, length: int, piece: int) -> None:
    data = bytearray(WHOLE)
    data[at] = value
    try:
        tree = read(bytes(data[:length]), piece)
        build_index(tree, length)
    except LayerCorrupt:
        pass
