"""A real engine and a real registry as processes of their own, for tests that speak to them as users do."""

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scow import points

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
CLEAN_TIMEOUT_S = 60.0


class Registry:
    """`scow registry serve` on a free port of loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ready = folder / "ready"
        self._log = (folder / "registry.log").open("wb")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "scow.registry", "serve", "--listen", "127.0.0.1:0"),
                *("--storage", str(folder / "storage"), "--ready-file", str(ready)),
            ],
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        wait_for(ready.exists, self.process, folder / "registry.log")
        self.address = ready.read_text().strip().removeprefix("http://").rstrip("/")

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(STOP_TIMEOUT_S)
        self._log.close()


class Socket:
    """Any engine behind a Unix socket: ours, or the one that it is compared with."""

    socket: Path

    @property
    def host(self) -> str:
        """What clients call it."""
        return f"unix://{self.socket}"

    def answers(self) -> bool:
        """Whether it is up."""
        try:
            return self.request("GET", "/_ping")[0] == 200
        except OSError:
            return False

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """One raw API call: status and body."""
        connection = UnixConnection(self.socket)
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

    def clean(self) -> None:
        """Remove all containers; those that are being removed already are waited for."""
        end = time.monotonic() + CLEAN_TIMEOUT_S
        while left := self.json("GET", "/containers/json?all=1"):
            said = [self.request("DELETE", f"/containers/{container['Id']}?force=1&v=1") for container in left]
            assert time.monotonic() < end, f"containers can't be removed: {said}"


class Daemon(Socket):
    """`scowd` with its own roots, socket and bridge; `kill` and `start` again as often as a test wants."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder = folder
        self.socket = folder / "scow.sock"
        self._flags = [
            *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
            *("--host", self.host, "--pidfile", str(folder / "scowd.pid"), "--bip", f"10.213.{free_subnet()}.1/24"),
            *flags,
        ]
        self.process: subprocess.Popen[bytes] | None = None
        self._orders = folder / "points"

    @property
    def log(self) -> str:
        """What the engine said so far."""
        return (self.folder / "scowd.log").read_text()

    def start(self) -> "Daemon":
        """Start it and wait until it answers."""
        with (self.folder / "scowd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scow.api.start", *self._flags],
                stdout=log,
                stderr=log,
                env={**os.environ, points.VARIABLE: str(self._orders)},
                start_new_session=True,
            )
        wait_for(self.answers, self.process, self.folder / "scowd.log")
        return self

    def stop(self) -> None:
        """Ask it to end, and wait for that."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(STOP_TIMEOUT_S)
        self.process = None

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(STOP_TIMEOUT_S)
        self.process = None

    def at(self, point: str, order: str) -> None:
        """Have the engine do as `scow.points` knows (kill, fail, hold) when it comes to a point."""
        new = self._orders.with_suffix(".new")
        new.write_text(f"{point} {order}")
        new.replace(self._orders)

    def go_on(self) -> None:
        """Withdraw what `at` ordered."""
        self._orders.unlink(missing_ok=True)

    def wait_held(self) -> None:
        """Wait until the engine is held at the point."""
        assert self.process is not None
        wait_for(self._orders.with_name("points.held").exists, self.process, self.folder / "scowd.log")

    def wait_killed(self) -> None:
        """Wait until the engine was killed at the point."""
        assert self.process is not None
        assert self.process.wait(STOP_TIMEOUT_S) == -signal.SIGKILL
        self.process = None
        self.go_on()

    # --- clients

    def environment(self) -> dict[str, str]:
        """For clients: this engine, and no configuration of whoever runs the tests."""
        return {
            **os.environ,
            "DOCKER_HOST": self.host,
            "SCOW_HOST": self.host,
            "DOCKER_CONFIG": str(self.folder / "client"),
            "HOME": str(self.folder),
        }

    def docker(self, *args: str, input: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[str]:
        """The real docker client."""
        return run_client("docker", args, self.environment(), input, check)

    def scow(self, *args: str, input: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Our own client."""
        return run_client(str(Path(sys.executable).with_name("scow")), args, self.environment(), input, check)


def run_client(
    program: str, args: tuple[str, ...], environment: dict[str, str], input: bytes, check: bool
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([program, *args], env=environment, input=input, capture_output=True, timeout=60, check=False)
    result = subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )
    if check:
        assert result.returncode == 0, f"{program} {' '.join(args)}: {result.returncode}\n{result.stderr}"
    return result


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except BaseException:
            self.sock.close()
            raise


def wait_for(
    condition: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path, timeout_s: float = START_TIMEOUT_S
) -> None:
    """Wait until a process that was started is ready. Fails if it ended, or is not ready in time, with its log."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"it ended with {process.returncode}: {log.read_text()}"
        assert time.monotonic() < end, f"it did not answer in {timeout_s} s: {log.read_text()}"
        time.sleep(0.02)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A short folder outside of pytest's, since socket paths are limited to 108 bytes."""
    path = Path(tempfile.mkdtemp(prefix="scow-t-", dir="/var/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def free_subnet() -> int:
    """A number N for which no link of this machine has 10.213.N.0/24: several test runs may go on beside each other.

    Of one run's processes each has its share, for what one of them has chosen takes a moment to be seen by the others.
    """
    routes = Path("/proc/net/fib_trie").read_text()
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = range(10 + worker, 250, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    return random.choice([number for number in share if f"10.213.{number}." not in routes])
