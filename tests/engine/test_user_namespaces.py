"""`userns-remap`: root of a container is nobody on the machine, and all else is as ever."""

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemon import Daemon, Registry, folder
from support.machine import traces


@pytest.fixture(scope="module")
def remapped(registry: Registry) -> Iterator[Daemon]:
    """An engine with userns-remap; its image is busybox."""
    with folder() as path:
        path.chmod(0o711)
        flags = ["--userns-remap", "default", "--registry-mirror", f"http://{registry.address}"]
        daemon = Daemon(path, *flags).start()
        try:
            daemon.docker("pull", "-q", "busybox")
            yield daemon
        finally:
            daemon.clean()
            daemon.docker("volume", "prune", "-af", check=False)
            daemon.stop()
        assert not traces(path)


@pytest.fixture
def box(remapped: Daemon) -> Iterator[str]:
    """A running container with a volume at /v."""
    remapped.docker("run", "-d", "--name", "box", "-v", "data:/v", "busybox", "sleep", "60")
    yield "box"
    remapped.docker("rm", "-f", "box")
    remapped.docker("volume", "rm", "data")


def owner_of_process(engine: Daemon, box: str) -> int:
    pid = engine.json("GET", f"/containers/{box}/json")["State"]["Pid"]
    return Path(f"/proc/{pid}").stat().st_uid


def members(data: bytes) -> dict[str, tuple[int, int]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {entry.name: (entry.uid, entry.gid) for entry in archive}


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_root_of_a_container_is_nobody_on_the_machine(remapped: Daemon, runtime: str) -> None:
    remapped.docker("run", "-d", "--name", "rooted", "--runtime", runtime, "busybox", "sleep", "60")
    try:
        assert remapped.docker("exec", "rooted", "id", "-u").stdout == "0\n"
        assert owner_of_process(remapped, "rooted") >= 100000
    finally:
        remapped.docker("rm", "-f", "rooted")
    assert "name=userns" in remapped.json("GET", "/info")["SecurityOptions"]


@pytest.mark.parametrize("user", ["0:0", "33:44"])
def test_output_can_be_opened_by_name(remapped: Daemon, user: str) -> None:
    done = remapped.docker(
        "run", "--rm", "-u", user, "busybox", "sh", "-c", "echo out >/dev/stdout; echo err >/dev/stderr"
    )
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_files_have_their_own_ids_inside_and_on_disk(remapped: Daemon, box: str) -> None:
    remapped.docker("exec", box, "sh", "-c", "touch /f /v/f; chown 5:6 /f /v/f; echo 1.2.3.4 x >>/etc/hosts")
    assert remapped.docker("exec", box, "stat", "-c", "%u:%g", "/bin/busybox", "/f", "/v/f", "/etc/hosts").stdout == (
        "0:0\n5:6\n5:6\n0:0\n"
    )
    info = remapped.json("GET", "/volumes/data")
    on_disk = os.stat(f"{info['Mountpoint']}/f")
    assert (on_disk.st_uid, on_disk.st_gid) == (5, 6)
    assert (
        remapped.docker(
            "run", "--rm", "--userns", "host", "-v", "data:/v", "busybox", "stat", "-c", "%u:%g", "/v/f", "/bin/busybox"
        ).stdout
        == "5:6\n0:0\n"
    )


@pytest.mark.parametrize("running", [True, False])
def test_copies_have_the_owners_that_the_container_sees(
    remapped: Daemon, box: str, running: bool, tmp_path: Path
) -> None:
    remapped.docker("exec", box, "sh", "-c", "touch /f /v/f; chown 5:6 /f /v/f")
    if not running:
        remapped.docker("stop", "-t", "0", box)
    for path in ("/f", "/v/f"):
        assert members(remapped.request("GET", f"/containers/{box}/archive?path={path}")[1]) == {"f": (5, 6)}
    assert members(remapped.request("GET", f"/containers/{box}/export")[1])["f"] == (5, 6)
    (tmp_path / "new").write_text("new")
    for target in ("/new", "/v/new"):
        remapped.docker("cp", str(tmp_path / "new"), f"{box}:{target}")
    remapped.docker("start", box)
    assert remapped.docker("exec", box, "stat", "-c", "%u:%g", "/new", "/v/new").stdout == "0:0\n0:0\n"


def test_images_of_containers_and_builds_have_their_own_ids(remapped: Daemon, box: str, tmp_path: Path) -> None:
    remapped.docker("exec", box, "sh", "-c", "touch /f; chown 5:6 /f")
    remapped.docker("commit", box, "committed")
    assert remapped.docker("run", "--rm", "committed", "stat", "-c", "%u:%g", "/f").stdout == "5:6\n"
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\n"
        "RUN touch /made && chown 7:8 /made\n"
        "RUN --mount=type=cache,target=/c --mount=type=bind,target=/ctx --mount=type=secret,id=s "
        "touch /c/x && stat -c %u /c/x /ctx/Dockerfile /run/secrets/s > /owners\n"
    )
    (tmp_path / "secret").write_text("secret")
    remapped.scow("build", "-t", "built", "--secret", f"id=s,src={tmp_path / 'secret'}", str(tmp_path))
    seen = remapped.docker("run", "--rm", "built", "sh", "-c", "stat -c %u:%g /made; cat /owners").stdout
    assert seen == "7:8\n0\n0\n0\n"


def test_a_container_may_administer_its_own_network_but_not_the_machines(remapped: Daemon) -> None:
    script = "ip link set lo mtu 1000 && cat /sys/class/net/lo/mtu; ping -c1 127.0.0.1 >/dev/null && echo pong"
    assert (
        remapped.docker("run", "--rm", "--cap-add", "NET_ADMIN", "busybox", "sh", "-c", script).stdout == "1000\npong\n"
    )
    for flags in (["--privileged"], ["--net", "host"], ["--pid", "host"]):
        refused = remapped.docker("run", "--rm", *flags, "busybox", "true", check=False)
        assert "user namespaces" in refused.stderr
        remapped.docker("run", "--rm", "--userns", "host", *flags, "busybox", "true")


def test_folders_that_nobody_can_reach_are_refused() -> None:
    with folder() as path, pytest.raises(AssertionError, match=f"chmod o[+]x {path}"):
        Daemon(path, "--userns-remap", "default").start()


def test_containers_outlive_the_engine_and_a_change_of_its_mind(registry: Registry) -> None:
    with folder() as path:
        path.chmod(0o711)
        settings = path / "daemon.json"
        settings.write_text(json.dumps({"userns-remap": "default"}))
        daemon = Daemon(path, "--config-file", str(settings), "--registry-mirror", f"http://{registry.address}").start()
        try:
            daemon.docker("pull", "-q", "busybox")
            daemon.docker("run", "-d", "--name", "box", "busybox", "sleep", "60")
            daemon.kill()
            settings.write_text("{}")
            daemon.start()
            daemon.docker("exec", "box", "touch", "/f")
            assert members(daemon.request("GET", "/containers/box/archive?path=/f")[1]) == {"f": (0, 0)}
            assert owner_of_process(daemon, "box") >= 100000
            daemon.docker("restart", "-t", "0", "box")
            assert owner_of_process(daemon, "box") == 0
            assert daemon.docker("exec", "box", "stat", "-c", "%u", "/f").stdout == "0\n"
        finally:
            daemon.clean()
            daemon.stop()
        assert not traces(path)
