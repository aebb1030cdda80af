"""Images as archives: what comes in is what goes out, whatever form it has; what is wrong leaves nothing behind."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard

from scow.errors import ScowError
from scow.oci import media_types
from scow.oci.digest import Digest
from scow.oci.platform import Platform, host_platform
from scow.oci.reference import parse_reference
from scow.store.layer_errors import InvalidArchive
from scow.store.store import Store
from scow.transfer.load import Loaded, load
from scow.transfer.save import Wanted, plan, size_of
from scow.wire.progress import ProgressMessage

Files = dict[str, bytes | tarfile.TarInfo]

HOST = host_platform().architecture
OTHER = "s390x" if HOST != "s390x" else "amd64"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def tar(files: Mapping[str, bytes | tarfile.TarInfo]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


LAYERS = [tar({"etc/word": b"one\n", "big": bytes(range(256)) * 6000}), tar({"etc/other": b"two\n"})]


def config_of(layers: list[bytes], architecture: str = HOST, **fields: Any) -> bytes:
    return json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "created": "2026-01-02T03:04:05Z",
            "config": {"Cmd": ["sh"], "Labels": {"a": "b"}},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
            "history": [{"created_by": f"layer {number}"} for number in range(len(layers))],
            **fields,
        }
    ).encode()


def docker_archive(layers: list[bytes] = LAYERS, tags: list[str] | None = None) -> Files:
    """As docker up to 24 writes it: a folder for each layer, one of them a link to another's."""
    config = config_of(layers)
    files: Files = {f"{hashlib.sha256(config).hexdigest()}.json": config}
    for number, layer in enumerate(layers):
        files |= {f"{number}/VERSION": b"1.0", f"{number}/json": b"{}", f"{number}/layer.tar": layer}
    entry = {
        "Config": next(iter(files)),
        "RepoTags": ["lib/app:one", "app:two"] if tags is None else tags,
        "Layers": [f"{number}/layer.tar" for number in range(len(layers))],
    }
    return {**files, "manifest.json": json.dumps([entry]).encode()}


def pointer(data: bytes, media_type: str, **fields: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **fields}


def layout(*architectures: str, name: str = "docker.io/library/app:oci") -> Files:
    """An OCI layout of an index with an image for each architecture."""
    files: Files = {}

    def keep(data: bytes) -> bytes:
        files[f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"] = data
        return data

    entries = []
    for architecture in architectures:
        layers = [*LAYERS, tar({"machine": architecture.encode()})]
        config = keep(config_of(layers, architecture))
        blobs = [keep(gzip.compress(layer, 1, mtime=0)) for layer in layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "annotations": {"kept": "bit for bit"},
            "config": pointer(config, media_types.OCI_CONFIG),
            "layers": [pointer(blob, media_types.OCI_LAYER_GZIP) for blob in blobs],
        }
        data = keep(json.dumps(manifest, indent=1).encode())
        entries.append(pointer(data, media_types.OCI_MANIFEST, platform={"os": "linux", "architecture": architecture}))
    index = keep(json.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries}).encode())
    top = pointer(index, media_types.OCI_INDEX, annotations={"io.containerd.image.name": name})
    files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()
    return files


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


class Loader:
    """Loads archives and keeps what was said."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.said: list[ProgressMessage] = []

    async def __call__(self, data: bytes | Files, platform: Platform | None = None) -> list[Loaded]:
        self.said = []
        archive = data if isinstance(data, bytes) else tar(data)
        return await load(pieces(archive), store=self.store, emit=self.said.append, platform=platform)

    @property
    def words(self) -> str:
        return "".join(each.stream for each in self.said)

    @property
    def layers(self) -> set[str]:
        return {each.id for each in self.said if each.status == "Loading layer"}


@pytest.fixture
def loading(store: Store) -> Loader:
    return Loader(store)


@pytest.fixture
async def second(tmp_path: Path) -> AsyncIterator[Loader]:
    store = await Store.open(tmp_path / "second", tmp_path / "second-exec", "erofs")
    yield Loader(store)
    await store.aclose()


async def saved(store: Store, platform: Platform | None = None) -> bytes:
    wanted = []
    for image in sorted(store.images.all(), key=lambda each: each.id):
        names = tuple(parse_reference(name) for name in store.images.names(image.id))
        wanted.append(Wanted("it", image, names))
    parts = await plan(store, wanted, platform)
    data = b"".join(part if isinstance(part, bytes) else part[0].read_bytes() for part in parts)
    assert len(data) == size_of(parts)
    return data


def names_in(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_archives_come_in_compressed_or_not(loading: Loader, compression: str) -> None:
    loaded = await loading(COMPRESSIONS[compression](tar(docker_archive())))
    assert [each.familiar for each in loaded[0].names] == ["lib/app:one", "app:two"]
    assert loading.words == "Loaded image: lib/app:one\nLoaded image: app:two\n"
    assert len(loading.layers) == 2
    image = loaded[0].image
    assert [tar_of(loading.store, each) for each in image.diff_ids] == LAYERS
    assert image.size == 256 * 6000 + len("one\n") + len("two\n")
    assert loading.store.images.digests(image.id) == []  # no registry has said anything


def tar_of(store: Store, diff_id: str) -> bytes:
    return (store.paths.layers / diff_id.replace(":", "/") / "tar").read_bytes()


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_layers_in_dockers_archives_may_be_compressed(loading: Loader, compression: str) -> None:
    files = docker_archive()
    files["0/layer.tar"] = COMPRESSIONS[compression](LAYERS[0])
    image = (await loading(files))[0].image
    assert tar_of(loading.store, image.diff_ids[0]) == LAYERS[0]


async def test_a_layer_may_be_a_link_to_another_and_have_no_name(loading: Loader) -> None:
    files = docker_archive([LAYERS[0], LAYERS[0], LAYERS[0]], tags=[])
    files["1/layer.tar"] = link("1/layer.tar", "../0/layer.tar")
    files["2/layer.tar"] = link("2/layer.tar", "0/layer.tar", tarfile.LNKTYPE)
    loaded = await loading(files)
    assert loading.words == f"Loaded image ID: {loaded[0].image.id}\n"
    assert len(loading.layers) == 1
    assert len(loaded[0].image.diff_ids) == 3


async def test_archives_of_old_docker_get_the_configs_that_they_lack(loading: Loader) -> None:
    base, top = "a" * 64, "b" * 64
    step = {"created": "2014-05-06T07:08:09Z", "container_config": {"Cmd": ["/bin/sh", "-c", "make it"]}}
    files: Files = {
        f"{base}/json": json.dumps({"id": base, **step, "os": "linux", "architecture": HOST}).encode(),
        f"{base}/layer.tar": LAYERS[0],
        f"{top}/json": json.dumps(
            {"id": top, "parent": base, **step, "os": "linux", "architecture": HOST, "config": {"Cmd": ["run"]}}
        ).encode(),
        f"{top}/layer.tar": LAYERS[1],
        "repositories": json.dumps({"old/app": {"v1": top}}).encode(),
    }
    image = (await loading(files))[0].image
    assert loading.words == "Loaded image: old/app:v1\n"
    config = await loading.store.images.config(image.id)
    assert config.exec.cmd == ["run"]
    assert list(config.diff_ids) == [digest_of(layer) for layer in LAYERS]
    assert config.history is not None
    assert [each.created_by for each in config.history] == ["/bin/sh -c make it"] * 2


async def test_a_layout_keeps_its_manifests_bit_for_bit_through_load_and_save(loading: Loader, second: Loader) -> None:
    files = layout(HOST, OTHER)
    image = (await loading(files))[0].image
    top = json.loads(bytes(files["index.json"]))["manifests"][0]["digest"]  # type: ignore[arg-type]
    assert image.index == top
    assert loading.store.images.digests(image.id) == [f"docker.io/library/app@{top}"]
    data = await saved(loading.store)
    blobs = {name for name in files if name.startswith("blobs/")}
    assert blobs <= set(names_in(data))  # those of the other platform, too
    again = (await second(data))[0].image
    assert (again.id, again.index, again.manifest) == (image.id, image.index, image.manifest)
    assert await saved(second.store) == data
    for name in blobs:
        assert (await second.store.content.get(Digest(f"sha256:{name.rpartition('/')[2]}"))) == files[name]


async def test_one_platform_of_several_is_loaded_or_saved(loading: Loader, second: Loader) -> None:
    there = Platform(os="linux", architecture=OTHER)
    image = (await loading(layout(HOST, OTHER), there))[0].image
    assert image.platform == there
    with pytest.raises(ScowError, match="no image for the platform linux/riscv64"):
        await loading(layout(HOST, OTHER), Platform(os="linux", architecture="riscv64"))
    await second(layout(HOST, OTHER))
    alone = await saved(second.store, there)
    with tarfile.open(fileobj=io.BytesIO(alone)) as archive:
        listed = archive.extractfile("manifest.json")
        assert listed is not None
        config = json.load(listed)[0]["Config"]
    assert config == f"blobs/sha256/{image.id.partition(':')[2]}"
    with pytest.raises(ScowError, match="does not provide the specified platform"):
        await saved(second.store, Platform(os="linux", architecture="riscv64"))


async def test_an_image_without_manifest_is_saved_with_its_tars_and_stays_without(
    loading: Loader, second: Loader
) -> None:
    image = (await loading(docker_archive()))[0].image
    data = await saved(loading.store)
    assert {f"blobs/{digest_of(layer).replace(':', '/')}" for layer in LAYERS} <= set(names_in(data))
    again = (await second(data))[0].image
    assert again.id == image.id
    assert again.manifest == ""  # or its layers would be pushed uncompressed for ever
    assert await saved(second.store) == data


async def test_what_is_here_is_not_taken_again(loading: Loader) -> None:
    files = layout(HOST)
    first = await loading(files)
    assert len(loading.layers) == 3
    tars = {path: path.stat().st_ino for path in loading.store.paths.layers.rglob("tar")}
    assert (await loading(files))[0].image == first[0].image
    assert loading.layers == set()
    assert {path: path.stat().st_ino for path in loading.store.paths.layers.rglob("tar")} == tars


async def test_a_name_goes_over_to_the_image_that_came_last(loading: Loader) -> None:
    old = (await loading(docker_archive(tags=["app:two"])))[0].image
    new = (await loading(docker_archive(LAYERS[:1], tags=["app:two"])))[0].image
    assert loading.words == (
        f"The image app:two already exists, renaming the old one with ID {old.id} to empty string\n"
        "Loaded image: app:two\n"
    )
    assert loading.store.images.names(old.id) == []
    assert loading.store.images.names(new.id) == ["docker.io/library/app:two"]


def without(files: Files, name: str) -> Files:
    return {key: value for key, value in files.items() if key != name}


def with_entry(**fields: Any) -> Files:
    files = docker_archive()
    entry = json.loads(bytes(files["manifest.json"]))[0]  # type: ignore[arg-type]
    return {**files, "manifest.json": json.dumps([{**entry, **fields}]).encode()}


def damaged(files: Files, size: int) -> Files:
    """A layout one blob of which has another byte."""
    name = next(key for key, value in files.items() if key.startswith("blobs/") and len(bytes(value)) > size)  # type: ignore[arg-type]
    data = bytes(files[name])  # type: ignore[arg-type]
    return {**files, name: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]}


def device(name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = tarfile.CHRTYPE
    return entry


HOSTILE: dict[str, tuple[bytes | Files, str]] = {
    "nothing": (b"", "it is empty"),
    "text": (b"this is not an archive\n", "it is not a tar"),
    "much text": (b"this is not an archive\n" * 1000, "it is not a tar"),
    "an empty tar": (bytes(10240), "does not contain a manifest.json"),
    "a file system": ({"etc/passwd": b"root"}, "does not contain a manifest.json"),
    "a truncated tar": (tar(docker_archive())[:300_000], "it is truncated"),
    "truncated gzip": (gzip.compress(tar(docker_archive()))[:-20], "truncated"),
    "damaged gzip": (gzip.compress(tar(docker_archive()))[:-8] + bytes(8), "damaged gzip"),
    "gzip of text": (gzip.compress(b"text" * 1000), "it is not a tar"),
    "a way out in a name": ({"../../etc/cron.d/x": b"x", **docker_archive()}, "leads out of it"),
    "a way out in the manifest": (with_entry(Layers=["../../etc/passwd", "1/layer.tar"]), "leads out of it"),
    "a way out by a link": (
        {**docker_archive(), "1/layer.tar": link("1/layer.tar", "../../../etc/passwd")},
        "leads out of it",
    ),
    "a link to the host": ({**docker_archive(), "1/layer.tar": link("1/layer.tar", "/etc/passwd")}, "no file 1/layer"),
    "a circle of links": (
        {**docker_archive(), "1/layer.tar": link("1/layer.tar", "x"), "1/x": link("1/x", "layer.tar")},
        "circles",
    ),
    "a device": ({**docker_archive(), "dev": device("dev")}, "neither file, directory nor link"),
    "a missing layer": (without(docker_archive(), "1/layer.tar"), "it has no file 1/layer.tar"),
    "another layer": ({**docker_archive(), "1/layer.tar": tar({"evil": b"x"})}, "diff ID mismatch"),
    "a layer that is no tar": (
        docker_archive([LAYERS[0], b"no tar at all, but its digest is right" * 20]),
        "no tar header",
    ),
    "too few layers": (with_entry(Layers=["0/layer.tar"]), "layers from manifest don't match"),
    "no config": (with_entry(Config="absent.json"), "it has no file absent.json"),
    "a config that is none": (with_entry(Config="0/VERSION"), "invalid image config"),
    "an invalid tag": (with_entry(RepoTags=["UPPER:case"]), "invalid tag"),
    "a tag without a tag": (with_entry(RepoTags=["app"]), "invalid tag"),
    "a manifest that is none": ({**docker_archive(), "manifest.json": b'{"a": 1}'}, "manifest.json: Expected"),
    "no JSON": ({**docker_archive(), "manifest.json": b"[" * 100_000}, "invalid archive: manifest.json"),
    "no images": ({"manifest.json": b"[]"}, "it has no images"),
    "a damaged blob": (damaged(layout(HOST), 3000), "is damaged"),
    "a damaged manifest": (damaged(layout(HOST), 500), "is damaged"),
    "a missing blob": (
        {name: data for name, data in layout(HOST).items() if not bytes(data).startswith(b"\x1f\x8b")},  # type: ignore[arg-type]
        "it has no blob",
    ),
    "a huge index": ({"index.json": b" " * (9 << 20)}, "are allowed"),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_what_is_wrong_is_told_and_leaves_nothing_behind(loading: Loader, case: str) -> None:
    data, words = HOSTILE[case]
    with pytest.raises(ScowError, match=words):
        await loading(data)
    store = loading.store
    assert store.images.all() == []
    assert list(store.paths.ingest.iterdir()) == []
    await store.collect()
    assert store.layers.all() == []
    assert await store.content.all() == {}


async def test_no_archive_inflates_beyond_the_limit(loading: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scow.store.intake.INFLATION_LIMIT", 20 << 20)
    bomb = gzip.compress(tar({"0/layer.tar": bytes(64 << 20)}))
    with pytest.raises(InvalidArchive, match="inflates to more than 20971520 bytes"):
        await loading(bomb)
    assert list(loading.store.paths.ingest.iterdir()) == []


async def test_whoever_stops_sending_leaves_nothing_behind(loading: Loader) -> None:
    async def hangs_up() -> AsyncIterator[bytes]:
        yield tar(docker_archive())[:200_000]
        raise ConnectionResetError("the client is gone")

    with pytest.raises(ConnectionResetError):
        await load(hangs_up(), store=loading.store, emit=loading.said.append)
    assert list(loading.store.paths.ingest.iterdir()) == []
    assert (await loading(docker_archive()))[0].image.size  # the workers are all there
