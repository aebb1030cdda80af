"""The real dockerd beside our engine, for tests that compare the two."""

import contextlib
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support.daemon import Socket, free_subnet, run_client, wait_for

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
PROGRAM = shutil.which("dockerd")


class Dockerd(Socket):
    """A dockerd with roots, socket and bridge of its own."""

    def __init__(self, folder: Path, bridge: str, mirror: str) -> None:
        self.socket = folder / "docker.sock"
        self._log = (folder / "dockerd.log").open("wb")
        self._text = folder / "dockerd.log"
        self._folder = folder
        self.process = subprocess.Popen(
            [
                *(str(PROGRAM), "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
                *("--host", self.host, "--pidfile", str(folder / "dockerd.pid"), "--bridge", bridge),
                *("--registry-mirror", mirror, "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
                *("--ip-masq=false", "--config-file", str(folder / "daemon.json"), "--storage-driver", "overlay2"),
            ],
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        wait_for(self.answers, self.process, self._text, START_TIMEOUT_S)

    def docker(self, *args: str, input: bytes = b"", check: bool = True) -> "subprocess.CompletedProcess[str]":
        """The docker client."""
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "DOCKER_HOST": self.host, "HOME": str(self._folder)}
        return run_client("docker", args, environment, input, check)

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(STOP_TIMEOUT_S)
        self._log.close()


@contextlib.contextmanager
def running(folder: Path, mirror: str) -> Iterator[Dockerd]:
    """A dockerd, and the bridge that it uses: it can't have one of a name of its own."""
    (folder / "daemon.json").write_text("{}")
    bridge = f"dkr{secrets.token_hex(4)}"
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "addr", "add", f"10.213.{free_subnet()}.1/24", "dev", bridge], check=True)
        dockerd = Dockerd(folder, bridge, mirror)
        try:
            yield dockerd
        finally:
            dockerd.clean()
            dockerd.stop()
    finally:
        subprocess.run(["ip", "link", "delete", bridge], check=True)
