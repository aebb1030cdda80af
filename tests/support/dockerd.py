"""The real dockerd beside our engine, for tests that compare the two."""

import contextlib
import json
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.daemon import _run, _UnixConnection, free_subnet

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
PROGRAM = shutil.which("dockerd")


class Dockerd:
    """A dockerd with roots, socket and bridge of its own."""

    def __init__(self, folder: Path, bridge: str, mirror: str) -> None:
        self.socket = folder / "docker.sock"
        self.host = f"unix://{self.socket}"
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
        end = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            assert self.process.poll() is None, self._text.read_text()
            assert time.monotonic() < end, self._text.read_text()
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return self.request("GET", "/_ping")[0] == 200
        except OSError:
            return False

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """One raw API call: status and body."""
        connection = _UnixConnection(self.socket)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body: Any = None) -> Any:
        """One API call that has to succeed, its answer decoded."""
        status, data = self.request(method, path, body)
        assert status < 400, f"{method} {path}: {status} {data.decode()}"
        return json.loads(data) if data.strip() else None

    def docker(self, *args: str, input: bytes = b"", check: bool = True) -> "subprocess.CompletedProcess[str]":
        """The docker client."""
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "DOCKER_HOST": self.host, "HOME": str(self._folder)}
        return _run("docker", args, environment, input, check)

    def clean(self) -> None:
        """Remove all containers."""
        for container in self.json("GET", "/containers/json?all=1"):
            self.request("DELETE", f"/containers/{container['Id']}?force=1&v=1")

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
