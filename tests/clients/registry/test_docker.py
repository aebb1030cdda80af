"""dockerd pushes to the registry, mounts across repositories and pulls."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Process


class Docker:
    """The docker client against a dockerd of our own."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def __call__(self, *arguments: str, check: bool = True, data: bytes | None = None) -> str:
        command = ["docker", "-H", f"unix://{self._socket}", *arguments]
        done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=60)
        assert not check or done.returncode == 0, done.stderr
        return (done.stdout + done.stderr).decode()


@pytest.fixture
def docker() -> Iterator[Docker]:
    if shutil.which("dockerd") is None or shutil.which("docker") is None:
        pytest.skip("dockerd is not installed")
    root = Path(tempfile.mkdtemp(prefix="dockerd"))
    flags = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs"]
    where = [
        f"--data-root={root}/data",
        f"--exec-root={root}/exec",
        f"--pidfile={root}/pid",
        f"--host=unix://{root}/sock",
    ]
    with (root / "log").open("wb") as log:
        daemon = subprocess.Popen(["dockerd", *flags, *where], stdout=log, stderr=log)
    client = Docker(root / "sock")
    try:
        deadline = time.monotonic() + 30
        while "Server" not in client("version", check=False):
            if daemon.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"dockerd does not run here: {(root / 'log').read_text()[-300:]}")
            time.sleep(0.2)
        yield client
    finally:
        daemon.terminate()
        daemon.wait(30)
        shutil.rmtree(root, ignore_errors=True)


def test_docker_pushes_mounts_and_pulls(registry: Process, docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(range(256)) * 10_000)
    tar = subprocess.run(["tar", "-C", tmp_path, "-c", "data"], check=True, capture_output=True).stdout
    one, two = f"{registry.host}/lib/one:v1", f"{registry.host}/lib/two:v2"
    docker("import", "-", one, data=tar)
    assert ": Pushed" in docker("push", one)
    docker("tag", one, two)
    assert ": Mounted from lib/one" in docker("push", two)
    docker("rmi", one, two)
    assert f"Status: Downloaded newer image for {two}" in docker("pull", two)
    assert f"manifest for {registry.host}/lib/one:other not found" in docker(
        "pull", f"{registry.host}/lib/one:other", check=False
    )
