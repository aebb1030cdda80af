"""A layer looks as GNU tar extracts it, whichever form it is kept in."""

import gzip
import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scow.oci.descriptor import Descriptor
from scow.oci.digest import sha256
from scow.oci.media_types import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Compression
from scow.store.content import Content
from scow.store.layers import Layer, LayerCorrupt, Layers
from support.trees import Facts, by_gnu_tar, facts, make_tar, one_of_everything


async def shown(layers: Layers, archive: Path) -> tuple[Layer, Facts]:
    layer = await layers.import_tar(archive)
    try:
        path = await layers.lower(layer.diff_id)
        try:
            return layer, facts(path)
        finally:
            await layers.release(layer.diff_id)
    finally:
        await layers.remove(layer.diff_id)


async def check(layers: Layers, archive: Path, tmp_path: Path) -> Layer:
    layer, ours = await shown(layers, archive)
    theirs = by_gnu_tar(archive, tmp_path / "gnu")
    ours.pop(b""), theirs.pop(b"")
    assert ours.keys() == theirs.keys()
    assert {path: fact for path, fact in ours.items() if theirs[path] != fact} == {
        path: fact for path, fact in theirs.items() if ours[path] != fact
    }
    return layer


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return one_of_everything(tmp_path / "tree")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--format=pax", "--xattrs", "--xattrs-include=*"), id="pax"),
        pytest.param(("--format=pax", "-S", "--sparse-version=0.0"), id="sparse 0.0"),
        pytest.param(("--format=pax", "-S", "--sparse-version=0.1"), id="sparse 0.1"),
        pytest.param(("--format=pax", "-S", "--sparse-version=1.0"), id="sparse 1.0"),
        pytest.param(("--format=gnu", "-S"), id="gnu"),
        pytest.param(("--format=gnu", "--sort=name", "--mtime=@1000", "-b1"), id="plain gnu"),
    ],
)
async def test_what_tar_writes_looks_as_tar_extracts_it(
    layers: Layers, tmp_path: Path, tree: Path, options: tuple[str, ...]
) -> None:
    archive = tmp_path / "a.tar"
    make_tar(archive, tree, *options)
    layer = await check(layers, archive, tmp_path)
    assert layer.format == ("dir" if layers.snapshotter == "overlay2" else "erofs")


async def test_v7_tar(layers: Layers, tmp_path: Path) -> None:
    top = tmp_path / "tree"
    (top / "d").mkdir(parents=True)
    (top / "d/file").write_text("old")
    os.link(top / "d/file", top / "link")
    os.symlink("d", top / "s")
    archive = tmp_path / "a.tar"
    make_tar(archive, top, "--format=v7")
    await check(layers, archive, tmp_path)


# Not configured, which takes longest; with set-user-ID programs, hard links, and many small files.
PACKAGES = (
    "base-files",
    "base-passwd",
    "bash",
    "coreutils",
    "dash",
    "dpkg",
    "libc6",
    "mount",
    "passwd",
    "perl-base",
    "tzdata",
)


def debian_root(target: Path) -> None:
    codename = next(
        (line.split("=")[1].strip().strip('"') for line in Path("/etc/os-release").read_text().splitlines()
         if line.startswith("VERSION_CODENAME=")), "")  # fmt: skip
    sources = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    packages = f"--include={','.join(PACKAGES)}"
    command = [
        "mmdebstrap",
        "--variant=extract",
        packages,
        codename,
        str(target),
        *map(str, filter(Path.exists, sources)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        pytest.skip(f"mmdebstrap can't make a root here: {done.stderr.strip().splitlines()[-1:]}")


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed")
    archive = tmp_path_factory.mktemp("debian") / "root.tar"
    debian_root(archive)
    return archive


async def test_a_debian_root(layers: Layers, tmp_path: Path, debian: Path) -> None:
    layer = await check(layers, debian, tmp_path)
    assert layer.entries > 3000


class Archive:
    """An archive made member by member, for what no tar would write."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()

    def add(
        self, name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", target: str = "", **fields: object
    ) -> "Archive":
        info = tarfile.TarInfo(name)
        info.type, info.size, info.linkname, info.mtime = kind, len(data), target, 1_600_000_000
        info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
        for key, value in fields.items():
            setattr(info, key, value)
        self._buffer.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        self._buffer.write(data + bytes(-len(data) % 512))
        return self

    def raw(self, data: bytes) -> "Archive":
        self._buffer.write(data)
        return self

    def bytes(self, end: bool = True) -> bytes:
        return self._buffer.getvalue() + (bytes(1024) if end else b"")


def big(archive: Archive) -> Archive:
    return archive.add("f", data=b"1").add("d", tarfile.DIRTYPE).add("f", data=b"two")


ODD: dict[str, Callable[[Archive], Archive]] = {
    "a file twice": big,
    "a directory twice": lambda a: a.add("d", tarfile.DIRTYPE).add("d/f").add("d", tarfile.DIRTYPE, mode=0o700),
    "missing parents": lambda a: a.add("a/b/c", data=b"x").add("a/b", tarfile.DIRTYPE).add("a", tarfile.DIRTYPE),
    "absolute and dotted names": lambda a: a.add("/abs", data=b"1").add("./x//y/./z", data=b"2").add("x/y", b"5"),
    "link to an earlier file that is replaced": (
        lambda a: a.add("f", data=b"old").add("l", tarfile.LNKTYPE, target="f").add("f", data=b"new")
    ),
    "link to a symlink": (
        lambda a: a.add("s", tarfile.SYMTYPE, target="nowhere").add("l", tarfile.LNKTYPE, target="s")
    ),
    "a file replaced by a symlink": lambda a: a.add("f", data=b"1").add("f", tarfile.SYMTYPE, target="x"),
    "a name over 100 bytes": lambda a: a.add("p" * 90 + "/" + "q" * 90, data=b"x").add("p" * 90, b"5"),
    "pax globals": lambda a: a.raw(
        tarfile.TarInfo.create_pax_global_header({"comment": "hi", "mtime": "1500000000.25"})
    ).add("f", data=b"x"),
    "negative and fractional times": lambda a: a.add("f", mtime=-1.25).add("g", mtime=1.000000001),
    "large owners": lambda a: a.add("f", uid=3_000_000_000, gid=2_097_152),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
async def test_odd_archives_look_as_tar_extracts_them(layers: Layers, tmp_path: Path, name: str) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(ODD[name](Archive()).bytes())
    layer, ours = await shown(layers, archive)
    theirs = by_gnu_tar(archive, tmp_path / "gnu")
    if name == "missing parents" or name == "absolute and dotted names":
        ours.pop(b"x", None), theirs.pop(b"x", None)  # tar gives the time of now to a parent that it makes up
    ours.pop(b""), theirs.pop(b"")
    assert ours == theirs
    assert layer.entries


NAMES = st.sampled_from(["a", "b", "c", "a/a", "a/b", "b/a", "b/c", "a/b/c", "./c/a", "d" * 120, "a/" + "e" * 200])
MEMBERS = st.lists(
    st.tuples(
        NAMES,
        st.sampled_from(["file", "dir", "fifo", "chr"]),
        st.binary(max_size=1200),
        st.integers(0, 0o7777),
        st.integers(-(1 << 31), 1 << 33),
        st.integers(0, (1 << 32) - 2),
    ),
    max_size=14,
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(members=MEMBERS)
async def test_generated_archives(
    layers: Layers, tmp_path: Path, members: list[tuple[str, str, bytes, int, int, int]]
) -> None:
    archive = Archive()
    kinds: dict[str, str] = {}
    types = {"file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "fifo": tarfile.FIFOTYPE, "chr": tarfile.CHRTYPE}
    parents = ("a", "b", "c", "a/b")
    for parent in parents:
        archive.add(parent, tarfile.DIRTYPE)
        kinds[parent] = "dir"
    for name, kind, data, mode, mtime, owner in members:
        clean = name.removeprefix("./")
        if (kinds.setdefault(clean, kind) == "dir") != (kind == "dir"):
            continue  # tar itself refuses to put a file in place of a full directory
        archive.add(name, types[kind], data if kind == "file" else b"", mode=mode, mtime=mtime, uid=owner, gid=owner)
    path = tmp_path / "generated.tar"
    path.write_bytes(archive.bytes())
    await check(layers, path, tmp_path)


async def test_whiteouts_and_opaque_directories_become_overlay_marks(layers: Layers, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    members = Archive().add("d", tarfile.DIRTYPE).add("d/.wh.gone").add("d/sub", tarfile.DIRTYPE).add("d/sub/f")
    members.add("d/sub/.wh..wh..opq").add("new", tarfile.DIRTYPE).add(".wh.new").add(".wh.back").add("back")
    archive.write_bytes(members.add(".wh..wh.plnk", tarfile.DIRTYPE).bytes())
    _, ours = await shown(layers, archive)
    assert sorted(ours) == [b"", b"back", b"d", b"d/gone", b"d/sub", b"d/sub/f", b"new"]
    assert stat.S_ISCHR(int(str(ours[b"d/gone"][0]), 8))
    assert ours[b"d/gone"][6] == 0
    assert ours[b"d/sub"][8] == {"trusted.overlay.opaque": b"y"}
    assert ours[b"new"][8] == {"trusted.overlay.opaque": b"y"}
    assert ours[b"d"][8] == {}
    assert stat.S_ISREG(int(str(ours[b"back"][0]), 8))


async def test_a_link_may_come_before_its_target(layers: Layers, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(
        Archive()
        .add("l", tarfile.LNKTYPE, target="m")
        .add("m", tarfile.LNKTYPE, target="f")
        .add("f", data=b"x")
        .bytes()
    )
    _, ours = await shown(layers, archive)
    assert [ours[name][5] for name in (b"l", b"m", b"f")] == [3, 3, 3]


async def test_a_parent_that_is_a_symlink_is_followed_inside_the_layer(layers: Layers, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    members = Archive().add("usr/lib", tarfile.DIRTYPE).add("lib", tarfile.SYMTYPE, target="/../usr/lib")
    archive.write_bytes(members.add("lib/x", data=b"x").add("lib/y/z").bytes())
    _, ours = await shown(layers, archive)
    assert {b"usr/lib/x", b"usr/lib/y/z", b"lib"} <= ours.keys()


async def test_a_file_gives_way_to_a_directory_and_a_directory_to_a_file(layers: Layers, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    members = Archive().add("a").add("a/b", data=b"1").raw(b"")
    with pytest.raises(LayerCorrupt, match="not a directory"):
        await layers.import_tar(_written(archive, members.bytes()))
    members = Archive().add("d/x/y").add("d").add("f").add("f", tarfile.DIRTYPE).add("f/g", data=b"1")
    _, ours = await shown(layers, _written(archive, members.bytes()))
    assert sorted(ours) == [b"", b"d", b"f", b"f/g"]


@pytest.mark.parametrize("content", [b"", bytes(1024), bytes(10240)])
async def test_a_layer_without_entries(layers: Layers, tmp_path: Path, content: bytes) -> None:
    layer, ours = await shown(layers, _written(tmp_path / "a.tar", content))
    assert list(ours) == [b""]
    assert layer.entries == 0


async def test_sparse_data_that_is_not_aligned_is_unpacked(layers: Layers, tmp_path: Path) -> None:
    pax = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "s", "GNU.sparse.size": "5000",
           "GNU.sparse.numblocks": "3",
           "GNU.sparse.map": "10,20,100,3000,5000,0"}  # fmt: skip
    data = b"a" * 20 + b"b" * 3000
    archive = _written(tmp_path / "a.tar", Archive().add("GNUSparseFile.0/s", data=data, pax_headers=pax).bytes())
    layer, ours = await shown(layers, archive)
    # No tar writes such a map. Its segments follow each other without padding, as Go (so docker) reads them.
    whole = bytes(10) + b"a" * 20 + bytes(70) + b"b" * 3000 + bytes(1900)
    assert ours[b"s"][7] == hashlib.sha256(whole).hexdigest()
    assert layer.format == "dir"


@pytest.mark.parametrize(
    ("compress", "media_type"),
    [
        (lambda data: data, OCI_LAYER),
        (gzip.compress, OCI_LAYER_GZIP),
        (lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]) + bytes(100), OCI_LAYER_GZIP),
        (zstandard.compress, OCI_LAYER_ZSTD),
        (lambda data: zstandard.compress(data[:700]) + zstandard.compress(data[700:]), OCI_LAYER_ZSTD),
    ],
    ids=["none", "gzip", "gzip members", "zstd", "zstd frames"],
)
@pytest.mark.parametrize("size", [100, 3_000_000])
async def test_a_blob_is_kept_as_content_and_its_layer_is_the_same_however_compressed(
    layers: Layers, compress: Callable[[bytes], bytes], media_type: str, size: int
) -> None:
    tar = Archive().add("f", data=os.urandom(size)).bytes()
    blob = compress(tar)
    descriptor = Descriptor(media_type=media_type, digest=sha256(blob), size=len(blob))
    async with layers.writer(descriptor, None, None) as writer:
        for start in range(0, len(blob), 50_000):
            await writer.write(blob[start : start + 50_000])
        assert writer.offset == len(blob)
        layer = await writer.finish()
    assert layer.diff_id == sha256(tar)
    assert (await layers.tar(layer.diff_id)).read_bytes() == tar
    assert [d.digest for d in layers.blobs(layer.diff_id)] == [descriptor.digest]
    assert layers.find_by_blob(descriptor.digest) == layer
    path = await layers.lower(layer.diff_id)
    assert (path / "f").stat().st_size == size
    await layers.release(layer.diff_id)


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
async def test_compressing_a_layer_gives_the_same_blob_again(
    layers: Layers, content: Content, compression: Compression
) -> None:
    tar = Archive().add("f", data=b"text" * 400_000).bytes()

    async def source():  # type: ignore[no-untyped-def]
        yield tar

    layer = await layers.import_tar(source())
    blob = await layers.compress(layer.diff_id, compression)
    assert blob.size < len(tar) // 10
    assert await layers.compress(layer.diff_id, compression) == blob
    stored = content.path(blob.digest).read_bytes()
    inflated = gzip.decompress(stored) if compression is Compression.GZIP else (
        zstandard.ZstdDecompressor().decompressobj().decompress(stored))  # fmt: skip
    assert inflated == tar


async def test_layers_are_compressed_as_the_store_was_told(make_layers: Callable[..., Layers], tmp_path: Path) -> None:
    layers = make_layers(compression=Compression.ZSTD)
    layer = await layers.import_tar(_written(tmp_path / "a.tar", Archive().add("f").bytes()))
    assert (await layers.compress(layer.diff_id)).media_type == OCI_LAYER_ZSTD
    assert (await layers.compress(layer.diff_id, Compression.GZIP)).media_type == OCI_LAYER_GZIP


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
