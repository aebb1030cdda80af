"""Several engines on one machine, and machines on which an engine can't work: each is told in a sentence."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.linux import cgroup
from support import images
from support.calls import eventually, run, state
from support.daemon import Daemon, Registry, folder
from support.machine import traces


@pytest.fixture
def second(registry: Registry) -> Iterator[Daemon]:
    """Another engine beside `own_engine`."""
    with folder() as path:
        daemon = Daemon(path, "--registry-mirror", f"http://{registry.address}").start()
        try:
            daemon.docker("pull", "-q", "busybox")
            yield daemon
            daemon.clean()
        finally:
            daemon.stop()
        assert not traces(path)


def refused(where: Path, *flags: str, **environment: str) -> str:
    """Start an engine that can't; what it says."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "scow.api.daemon", "--data-root", str(where / "data")),
            *("--exec-root", str(where / "exec"), "--host", f"unix://{where}/other.sock", *flags),
        ],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_engines_beside_each_other_do_not_meet(own_engine: Daemon, second: Daemon) -> None:
    mine, other = run(own_engine, "sleep 60", "same"), run(second, "sleep 60", "same")
    assert len(own_engine.json("GET", "/containers/json?all=1")) == 1
    own_engine.kill()
    own_engine.start()
    second.stop()
    assert state(own_engine, mine)["Status"] == "running"
    assert own_engine.docker("run", "--rm", "busybox", "echo", "works").stdout == "works\n"
    second.start()
    assert state(second, other)["Status"] == "running"


def test_an_engine_that_ends_leaves_controllers_that_another_uses(own_engine: Daemon, second: Daemon) -> None:
    run(second, "sleep 60")
    own_engine.stop()
    assert second.docker("run", "--rm", "busybox", "echo", "works").stdout == "works\n"
    second.clean()
    assert second.docker("run", "--rm", "busybox", "echo", "works").stdout == "works\n"
    assert not cgroup.stray_controllers()
    own_engine.start()


def test_an_engine_without_containers_leaves_nothing_at_its_end(own_engine: Daemon) -> None:
    own_engine.docker("run", "--rm", "busybox", "true")
    own_engine.stop()
    assert not traces(own_engine.folder)
    assert not own_engine.socket.exists()
    assert not (own_engine.folder / "scowd.pid").exists()


def test_a_data_root_has_one_engine(own_engine: Daemon) -> None:
    assert "in use by another engine" in refused(own_engine.folder)
    elsewhere = refused(own_engine.folder, "--exec-root", str(own_engine.folder / "exec2"))
    assert "in use by another engine" in elsewhere
    assert own_engine.docker("run", "--rm", "busybox", "echo", "works").stdout == "works\n"


def test_a_pid_file_of_a_living_engine_is_respected(own_engine: Daemon) -> None:
    said = refused(own_engine.folder, "--pidfile", str(own_engine.folder / "scowd.pid"))
    assert f"process with PID {own_engine.process.pid} is still running" in said  # type: ignore[union-attr]  # it runs


def test_a_socket_of_a_living_engine_is_respected(own_engine: Daemon) -> None:
    with folder() as path:
        said = refused(path, "--host", own_engine.host)
    assert "another process is listening there already" in said


def test_a_machine_without_a_runtime_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = refused(tmp_path, PATH=str(tmp_path / "empty"))
    assert "no OCI runtime works on this machine" in said
    assert not traces(tmp_path)


def test_an_unknown_runtime_is_told(tmp_path: Path) -> None:
    assert "not installed" in refused(tmp_path, "--default-runtime", "kata")
    assert not traces(tmp_path)


def test_a_data_root_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "Not a directory" in refused(tmp_path, "--data-root", str(tmp_path / "file/data"))


@contextlib.contextmanager
def on_small_disk(registry: Registry, size: str) -> Iterator[tuple[Daemon, Path]]:
    """An engine whose data root is a file system of `size`, which mount(8) reads; with that folder."""
    with folder() as path:
        data = path / "data"
        data.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", data], check=True)
        daemon = Daemon(path, "--registry-mirror", f"http://{registry.address}").start()
        try:
            yield daemon, data
        finally:
            daemon.stop()
            subprocess.run(["umount", "-l", data], check=True)
        assert not traces(path)


def test_a_full_disk_is_told_and_nothing_breaks(registry: Registry) -> None:
    big = images.build([images.tar({**images.busybox_files(), "big": os.urandom(24 << 20)})])
    images.push(registry.address, "library/big", big)
    with on_small_disk(registry, "16m") as (daemon, data):
        pull = daemon.docker("pull", "big", check=False)
        assert pull.returncode == 1
        assert "no space left on device" in pull.stderr
        daemon.docker("pull", "-q", "busybox")
        id = run(daemon, "dd if=/dev/zero of=/fill bs=1M; sleep 60")
        eventually(lambda: os.statvfs(data).f_bavail == 0)
        assert state(daemon, id)["Status"] == "running"
        daemon.json("DELETE", f"/containers/{id}?force=1&v=1")  # which is what frees the disk
        eventually(lambda: os.statvfs(data).f_bavail > 0)
        assert daemon.docker("run", "--rm", "busybox", "echo", "works").stdout == "works\n"
        daemon.kill()
        daemon.start()
        assert daemon.docker("run", "--rm", "busybox", "echo", "again").stdout == "again\n"
        daemon.clean()


def test_an_engine_starts_on_a_full_disk_so_that_it_can_free_some(registry: Registry) -> None:
    with on_small_disk(registry, "24m") as (daemon, data):
        eventually((data / "reserve").exists)
        daemon.docker("pull", "-q", "busybox")
        id = run(daemon, "dd if=/dev/urandom of=/big bs=1M count=8", "fat")
        daemon.docker("wait", "fat")
        daemon.kill()  # with all that was recorded in the log of the database still
        fill(data / "fill")
        assert os.statvfs(data).f_bfree == 0
        daemon.start()
        assert f"{data} is full" in daemon.log
        assert state(daemon, id)["Status"] == "exited"
        daemon.docker("rm", "fat")
        eventually(lambda: os.statvfs(data).f_bfree << 12 > 8 << 20)
        assert daemon.docker("run", "--rm", "busybox", "echo", "works").stdout == "works\n"
        (data / "fill").unlink()
        daemon.stop()
        daemon.start()
        eventually((data / "reserve").exists)


def fill(file: Path) -> None:
    """Take all room that there is."""
    with file.open("wb", buffering=0) as big, contextlib.suppress(OSError):
        while True:
            big.write(bytes(4096))
