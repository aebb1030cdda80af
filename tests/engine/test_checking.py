"""`scow system check`: damage of every kind is found, and what can be repaired is, without making anything worse."""

import os
import shutil
from pathlib import Path

import pytest

from scow.oci.digest import encoded
from support import images
from support.calls import create, run, wait
from support.daemon import Daemon, Registry

GOOD = "all is as it should be"


@pytest.fixture
def store(own_engine: Daemon, registry: Registry) -> Daemon:
    """An engine with an image of its own, of two layers."""
    base = images.tar({**images.busybox_files(), "etc/motd": b"hello\n"})
    top = images.tar({"data/": b"", "data/more": os.urandom(300_000)})
    images.push(registry.address, "library/two", images.build([base, top]))
    own_engine.docker("pull", "-q", "two")
    return own_engine


def diff_ids(engine: Daemon) -> list[str]:
    found: list[str] = engine.json("GET", "/images/two/json")["RootFS"]["Layers"]
    return found


def layer(engine: Daemon, number: int) -> Path:
    return engine.folder / "data" / "layers" / "sha256" / encoded(diff_ids(engine)[number])


def blobs(engine: Daemon) -> list[Path]:
    """Compressed layers, the largest first."""
    found = [each for each in (engine.folder / "data" / "blobs").rglob("*") if each.is_file()]
    return sorted(
        (each for each in found if each.read_bytes()[:2] == b"\x1f\x8b"), key=lambda each: -each.stat().st_size
    )


def spoil(path: Path, at: int = 2000) -> None:
    """Turn a byte around, as a disk might."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0xFF]))


def check(engine: Daemon, *flags: str) -> str:
    return engine.scow("system", "check", "--store", *flags, check=False).stdout


def repaired(engine: Daemon, problem: str) -> str:
    """Expect the check to find `problem`, and to repair it; what it said."""
    done = engine.scow("system", "check", "--store", check=False)
    assert done.returncode == 1
    assert problem in done.stdout
    assert "PROBLEM" in done.stdout
    said = check(engine, "--repair")
    assert f"repaired  {problem}" in said
    assert "PROBLEM" not in said
    assert GOOD in check(engine)
    assert engine.docker("run", "--rm", "two", "cat", "/etc/motd").stdout == "hello\n"
    return said


def test_a_whole_store_is_found_whole(store: Daemon) -> None:
    create(store, "true", Binds=["vol:/v"])
    done = store.scow("system", "check", "--store")
    assert GOOD in done.stdout
    assert GOOD in check(store, "--repair")


def test_a_damaged_index_is_made_again_from_its_tar(store: Daemon) -> None:
    spoil(layer(store, 0) / "index", 1500)
    assert "of two:latest" in repaired(store, f"index {diff_ids(store)[0]}: ")


def test_a_missing_index_is_made_again(store: Daemon) -> None:
    (layer(store, 1) / "index").unlink()
    repaired(store, f"index {diff_ids(store)[1]}: missing")


def test_a_damaged_tar_is_made_again_from_its_blob(store: Daemon, registry: Registry) -> None:
    spoil(layer(store, 1) / "tar")
    repaired(store, f"layer {diff_ids(store)[1]}: its bytes have")


def test_a_layer_whose_tar_and_blob_are_damaged_is_fetched_again(store: Daemon) -> None:
    spoil(layer(store, 1) / "tar")
    (layer(store, 0) / "tar").unlink()
    for blob in blobs(store):
        spoil(blob, 30)
    said = repaired(store, f"layer {diff_ids(store)[1]}: its bytes have")
    assert f"repaired  layer {diff_ids(store)[0]}: missing" in said


def test_damaged_blobs_and_documents_are_fetched_again(store: Daemon) -> None:
    config = store.json("GET", "/images/two/json")["Id"]
    path = store.folder / "data" / "blobs" / "sha256" / encoded(config)[:2] / encoded(config)
    spoil(path, 5)
    spoil(blobs(store)[0], 40)
    said = repaired(store, f"document {config}: it is damaged")
    assert "blob sha256:" in said
    path.unlink()
    repaired(store, f"document {config}: it is missing")


def test_what_no_registry_gives_back_stays_as_it_is(store: Daemon) -> None:
    tar = layer(store, 1) / "tar"
    spoil(tar)
    for blob in blobs(store):
        spoil(blob, 30)
    digest = store.json("GET", "/images/two/json")["RepoDigests"][0]
    store.docker("tag", "two", "other:latest")
    store.docker("rmi", "two:latest", digest, check=False)
    before = tar.read_bytes()
    done = store.scow("system", "check", "--store", "--repair", check=False)
    assert done.returncode == 1
    assert "PROBLEM  layer" in done.stdout
    assert tar.read_bytes() == before
    # The rest works on.
    assert store.docker("run", "--rm", "other", "cat", "/etc/motd").stdout == "hello\n"


def test_containers_that_run_on_a_damaged_layer_are_told_and_new_ones_see_the_repair(store: Daemon) -> None:
    store.docker("run", "-d", "--name", "runs", "two", "sleep", "1000")
    tar = layer(store, 0) / "tar"
    spoil(tar, tar.read_bytes().index(b"hello\n"))
    said = check(store, "--repair")
    assert "running on it: runs" in said
    assert "restarted" in said
    assert store.docker("run", "--rm", "two", "cat", "/etc/motd").stdout == "hello\n"
    assert store.docker("exec", "runs", "true").returncode == 0
    assert GOOD in check(store)


@pytest.mark.parametrize("file", ["tar", "index"])
def test_an_engine_starts_although_a_running_containers_layer_is_gone(store: Daemon, file: str) -> None:
    store.docker("run", "-d", "--name", "runs", "two", "sleep", "1000")
    lost = layer(store, 1) / file
    store.kill()
    lost.unlink()
    store.start()
    assert store.docker("exec", "runs", "true").returncode == 0  # what is mounted stays
    check(store, "--repair")
    store.docker("rm", "-f", "runs")
    assert store.docker("run", "--rm", "two", "cat", "/etc/motd").stdout == "hello\n"
    assert GOOD in check(store)


def test_leftovers_are_found_and_removed_and_what_is_foreign_is_left(store: Daemon) -> None:
    data = store.folder / "data"
    orphans = [
        data / "layers" / "sha256" / ("ab" * 32),
        data / "snapshots" / "nobody",
        data / "containers" / ("cd" * 32),
        data / "volumes" / "forgotten",
        data / "blobs" / "sha256" / "zz",
    ]
    for orphan in orphans:
        orphan.mkdir(parents=True)
    (orphans[-1] / "odd").write_text("odd")
    for path in (*orphans, orphans[-1] / "odd"):
        os.utime(path, (1, 1))
    foreign = data / "mine"
    foreign.write_text("mine")
    said = check(store, "--repair")
    for orphan in orphans[:-1]:
        assert f"repaired  file {orphan}: nothing refers to it" in said
        assert not orphan.exists()
    assert not (orphans[-1] / "odd").exists()
    assert f"PROBLEM  file {foreign}: it is not of this engine" in said
    assert foreign.read_text() == "mine"
    foreign.unlink()
    assert GOOD in check(store)


def test_a_container_without_its_writable_layer_can_be_started_again(store: Daemon) -> None:
    id = create(store, "echo works >/x; cat /x", name="bare")
    shutil.rmtree(store.folder / "data" / "snapshots" / id)
    assert "container bare: its writable layer is gone" in check(store)
    assert "repaired" in check(store, "--repair")
    store.json("POST", f"/containers/{id}/start")
    assert wait(store, id) == 0


def test_a_check_goes_on_beside_work_but_not_beside_another(store: Daemon) -> None:
    id = run(store, "sleep 0.2; exit 3")
    assert GOOD in check(store)
    assert wait(store, id) == 3
    assert GOOD in check(store)


def test_unpacked_layers_are_checked_against_their_tars(registry: Registry, own_engine: Daemon) -> None:
    # The engine with EROFS can't be asked to unpack: another one, with the other driver, is.
    from support.daemon import folder
    from support.machine import traces

    with folder() as path:
        engine = Daemon(path, "--registry-mirror", f"http://{registry.address}", "-s", "overlay2").start()
        try:
            engine.docker("pull", "-q", "busybox")
            assert GOOD in check(engine)
            root = next((path / "data" / "layers" / "sha256").iterdir()) / "root"
            (root / "data" / "seed").write_text("sown")
            said = check(engine)
            assert "/data/seed" in said
            assert "repaired" in check(engine, "--repair")
            assert GOOD in check(engine)
            assert engine.docker("run", "--rm", "busybox", "cat", "/data/seed").stdout == "seed\n"
            engine.clean()
        finally:
            engine.stop()
        assert not traces(path)
