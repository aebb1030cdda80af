"""Disk accounting that adds up, last use, and layers that are not kept compressed."""

import contextlib
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images
from support.calls import create, inspect
from support.daemon import Daemon, Registry, folder
from support.machine import traces


def on_disk(engine: Daemon) -> int:
    said = subprocess.run(["du", "-s", "-B1", str(engine.folder / "data")], capture_output=True, check=True).stdout
    return int(said.split()[0])


def parts(engine: Daemon) -> dict[str, int]:
    return {part["Name"]: part["Size"] for part in engine.json("GET", "/scow/system/df")["Parts"]}


def total(engine: Daemon) -> int:
    """What the engine says; asked until nothing was written between it and du."""
    size: int = engine.json("GET", "/scow/system/df")["Total"]
    return size


def settled(engine: Daemon) -> tuple[int, int]:
    """Ours and du's, taken when nothing changed in between: the database writes a little now and then."""
    for _ in range(50):
        os.sync()
        before = on_disk(engine)
        ours = total(engine)
        if on_disk(engine) == before:
            return ours, before
    raise AssertionError("the data root doesn't come to rest")


@contextlib.contextmanager
def engine_with(registry: Registry, *flags: str) -> Iterator[Daemon]:
    with folder() as path:
        daemon = Daemon(path, "--registry-mirror", f"http://{registry.address}", *flags).start()
        try:
            yield daemon
            daemon.clean()
        finally:
            daemon.stop()
        assert not traces(path)


def test_the_parts_add_up_to_what_du_says(own_engine: Daemon) -> None:
    ours, theirs = settled(own_engine)
    assert ours == theirs
    before = parts(own_engine)
    id = create(
        own_engine, "dd if=/dev/zero of=/written bs=1k count=300; echo said; echo kept >/v/kept", Binds=["vol:/v"]
    )
    own_engine.json("POST", f"/containers/{id}/start")
    own_engine.json("POST", f"/containers/{id}/wait")
    ours, theirs = settled(own_engine)
    assert ours == theirs
    after = parts(own_engine)
    assert after["writable layers"] - before["writable layers"] >= 300 << 10
    assert after["logs"] > before["logs"]
    assert after["volumes"] > before["volumes"]
    assert after["other"] == 0
    assert after["layers"] == before["layers"]


def test_an_uncompressed_blob_is_counted_once(registry: Registry, own_engine: Daemon) -> None:
    layer = images.tar({"big": os.urandom(1 << 20)})
    blob = images.blob("application/vnd.oci.image.layer.v1.tar", layer)
    built = images.build([layer])
    packed = built.blobs[1]
    manifest = images.document(
        "application/vnd.oci.image.manifest.v1+json",
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": built.blobs[0].descriptor,
            "layers": [blob.descriptor],
        },
    )
    assert packed.digest != blob.digest
    images.push(registry.address, "library/plain", images.BuiltImage([built.blobs[0], blob], manifest))
    before = parts(own_engine)
    own_engine.docker("pull", "-q", "plain")
    after = parts(own_engine)
    assert after["layers"] - before["layers"] >= 1 << 20
    assert after["compressed layers"] - before["compressed layers"] < 64 << 10
    ours, theirs = settled(own_engine)
    assert ours == theirs


def test_types_select_what_is_computed(own_engine: Daemon) -> None:
    found = own_engine.json("GET", "/system/df?type=volume")
    assert (found["Images"], found["Containers"], found["LayersSize"]) == (None, None, 0)
    status, said = own_engine.request("GET", "/system/df?type=nonsense")
    assert (status, b"unknown object type: nonsense" in said) == (400, True)
    old = own_engine.json("GET", "/v1.41/system/df?type=volume")
    assert old["BuilderSize"] == 0
    assert old["Images"][0]["VirtualSize"] == old["Images"][0]["Size"]


def test_both_clients_show_the_usage(own_engine: Daemon) -> None:
    theirs = own_engine.docker("system", "df").stdout
    ours = own_engine.scow("system", "df").stdout
    assert ours.startswith(theirs)
    assert "uncompressed layers" in ours
    listed = own_engine.scow("system", "df", "-v").stdout
    assert "LAST USED" in listed
    assert "Images space usage:" in own_engine.docker("system", "df", "-v").stdout


def last_used(engine: Daemon, name: str) -> str:
    id = engine.json("GET", f"/images/{name}/json")["Id"]
    uses = {each["Id"]: each["LastUsed"] for each in engine.json("GET", "/scow/system/df")["Images"]}
    return str(uses[id])


def test_an_image_is_used_by_its_containers_and_that_survives_a_restart(own_engine: Daemon) -> None:
    came = last_used(own_engine, "busybox")
    id = create(own_engine, "true")
    created = last_used(own_engine, "busybox")
    assert created > came
    own_engine.json("POST", f"/containers/{id}/start")
    own_engine.json("POST", f"/containers/{id}/wait")
    assert last_used(own_engine, "busybox") >= created
    own_engine.request("DELETE", f"/containers/{id}?force=1")
    own_engine.stop()
    own_engine.start()
    assert last_used(own_engine, "busybox")[:19] >= created[:19]  # kept in whole seconds
    own_engine.kill()
    own_engine.start()
    assert last_used(own_engine, "busybox")[:19] >= created[:19]


def test_images_are_pruned_by_their_last_use(registry: Registry, own_engine: Daemon) -> None:
    images.push(registry.address, "library/unused", images.build([images.tar({"f": os.urandom(200_000)})]))
    own_engine.docker("pull", "-q", "unused")
    kept = own_engine.scow("system", "prune", "-af", "--filter", "unused-for=1h").stdout
    assert "Total reclaimed space: 0B" in kept
    create(own_engine, "true", name="user")
    before = parts(own_engine)
    said = own_engine.scow("image", "prune", "-af", "--filter", "unused-for=0s").stdout
    assert "untagged: unused:latest" in said
    assert "busybox" not in said
    after = parts(own_engine)
    assert before["layers"] - after["layers"] >= 200_000
    assert before["compressed layers"] - after["compressed layers"] >= 200_000
    refused = own_engine.scow("system", "prune", "-f", "--volumes", "--filter", "unused-for=1h", check=False)
    assert 'The "unused-for" filter is not supported with "--volumes"' in refused.stderr
    assert inspect(own_engine, "user")["Name"] == "/user"


def test_what_a_prune_says_that_it_freed_was_freed(registry: Registry, own_engine: Daemon) -> None:
    images.push(registry.address, "library/much", images.build([images.tar({"f": os.urandom(3_000_000)})]))
    own_engine.docker("pull", "-q", "much")
    before = parts(own_engine)
    said = own_engine.json("POST", '/images/prune?filters={"dangling":["false"]}')
    after = parts(own_engine)
    kinds = ("layers", "indexes", "compressed layers", "documents")
    freed = sum(before[kind] - after[kind] for kind in kinds)
    # Directories stay or go beside the files, which are what is counted.
    assert 0 <= freed - said["SpaceReclaimed"] <= 64 << 10


def test_without_compressed_layers_pushes_and_runs_still_work(registry: Registry) -> None:
    name = f"{registry.address}/again/busybox"
    with engine_with(registry, "--keep-compressed-layers=false") as engine:
        engine.docker("pull", "-q", "busybox")
        assert parts(engine)["compressed layers"] == 0
        manifest = engine.json("GET", "/images/busybox/json")["RepoDigests"][0].rpartition("@")[2]
        assert engine.docker("run", "--rm", "busybox", "echo", "works").stdout == "works\n"
        engine.docker("tag", "busybox", name)
        said = engine.docker("push", name).stdout
        assert manifest in said
        saved = engine.folder / "saved.tar"
        engine.docker("save", "-o", str(saved), "busybox")
        with tarfile.open(saved) as archive:
            assert f"blobs/sha256/{manifest.removeprefix('sha256:')}" in archive.getnames()
        engine.docker("image", "prune", "-f")  # brings a collection about
        assert parts(engine)["compressed layers"] == 0
        assert "all is as it should be" in engine.scow("system", "check", "--store").stdout


@pytest.mark.parametrize("point", ["gc.listed", "gc.reached", "gc.removing", "gc.removed"])
def test_a_collection_that_was_killed_is_finished_by_the_next_engine(
    registry: Registry, own_engine: Daemon, point: str
) -> None:
    images.push(registry.address, "library/leaving", images.build([images.tar({"f": os.urandom(100_000)})]))
    own_engine.docker("pull", "-q", "leaving")
    own_engine.at(point, "kill")
    with contextlib.suppress(OSError, Exception):
        own_engine.request("DELETE", "/images/leaving")
    own_engine.wait_killed()
    own_engine.start()
    said = own_engine.scow("system", "check", "--store", "--repair").stdout
    assert "left" not in said
    assert "all is as it should be" in own_engine.scow("system", "check", "--store").stdout
    ours, theirs = settled(own_engine)
    assert ours == theirs
    assert Path(own_engine.folder / "data" / "ingest").exists()
    assert own_engine.docker("run", "--rm", "busybox", "echo", "fine").stdout == "fine\n"
