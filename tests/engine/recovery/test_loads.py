"""Loads that are cut off, fail, or meet a garbage collection: all of an archive's images come, or nothing does."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.calls import eventually
from support.daemon import Daemon


@pytest.fixture
def archive(own_engine: Daemon, tmp_path: Path) -> str:
    """An archive of busybox, which the engine itself has no longer."""
    file = str(tmp_path / "box.tar")
    own_engine.scow("save", "-o", file, "busybox")
    own_engine.docker("rmi", "busybox")
    return file


def assert_nothing_came(engine: Daemon) -> None:
    assert engine.json("GET", "/images/json?all=1") == []
    assert_nothing_is_in_the_making(engine)


def assert_nothing_is_in_the_making(engine: Daemon) -> None:
    """What nobody needs any more passes through the folder, too, when the engine removes it soon after its start."""
    eventually(lambda: not list((engine.folder / "data" / "ingest").iterdir()))


def loads(engine: Daemon, archive: str) -> None:
    assert engine.docker("load", "-i", archive).stdout == "Loaded image: busybox:latest\n"
    assert engine.docker("run", "--rm", "busybox", "echo", "here").stdout == "here\n"


def test_a_killed_engine_has_loaded_nothing(own_engine: Daemon, archive: str) -> None:
    for point in ("load.arrived", "load.brought"):
        own_engine.at(point, "kill")
        own_engine.scow("load", "-i", archive, check=False)
        own_engine.wait_killed()
        own_engine.start()
        assert_nothing_came(own_engine)
    loads(own_engine, archive)


def test_a_full_disk_is_told_and_nothing_stays(own_engine: Daemon, archive: str) -> None:
    own_engine.at("load.brought", "fail")
    failed = own_engine.scow("load", "-i", archive, check=False)
    own_engine.go_on()
    assert (failed.returncode, "no space left on device" in failed.stderr) == (1, True)
    assert_nothing_came(own_engine)
    loads(own_engine, archive)


@pytest.fixture
def held(own_engine: Daemon, archive: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A load whose layers have come, and which waits before it makes anything visible."""
    own_engine.at("load.brought", "hold")
    scow = Path(sys.executable).with_name("scow")
    with subprocess.Popen(
        [scow, "load", "-i", archive], env=own_engine.environment(), stdout=subprocess.PIPE
    ) as process:
        own_engine.wait_held()
        yield process


def test_garbage_collection_spares_what_a_load_has_brought(
    own_engine: Daemon, held: "subprocess.Popen[bytes]", archive: str
) -> None:
    own_engine.docker("image", "prune", "-af")
    own_engine.go_on()
    said, _ = held.communicate(timeout=60)
    assert said == b"Loaded image: busybox:latest\n"
    assert own_engine.docker("run", "--rm", "busybox", "echo", "here").stdout == "here\n"


def test_whoever_hangs_up_leaves_nothing_behind(
    own_engine: Daemon, held: "subprocess.Popen[bytes]", archive: str
) -> None:
    held.kill()
    held.wait()
    own_engine.go_on()
    # Either the load was cancelled or it had come to its end: never anything in between.
    own_engine.stop()
    own_engine.start()
    assert_nothing_is_in_the_making(own_engine)
    images = own_engine.json("GET", "/images/json?all=1")
    assert [image["RepoTags"] for image in images] in ([], [["busybox:latest"]])
    loads(own_engine, archive)
