"""The engines that are measured, each a process with its own folders, socket and subnet."""

import abc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

from bench.http import Api, ApiError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.002
# Of the last one: where compiled modules may not be kept, each start would compile all of Scow.
_NOT_INHERITED = ("DOCKER_CONTEXT", "CONTAINER_HOST", "PYTHONDONTWRITEBYTECODE")


class Failed(Exception):
    """A program that is measured, or needed for it, did not come up."""


class Program:
    """A server of ours or of others, with its log."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def wait_for(self, answers: Callable[[], object]) -> None:
        """Return as soon as `answers()` is true. Raises Failed."""
        end = time.monotonic() + START_TIMEOUT_S
        while not answers():
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > end:
                raise Failed(f"{self.folder.name} did not come up: {self.said()}")
            time.sleep(POLL_S)

    def said(self) -> str:
        """The end of its log."""
        return (self.folder / "log").read_text(errors="replace")[-1500:]

    def stop(self) -> None:
        """End it; idempotent."""
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Registry(Program):
    """Scow's registry, from which every engine pulls."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "registry")
        ready = self.folder / "ready"
        self.launch(
            [
                *(sys.executable, "-m", "scow.registry", "serve", "--listen", "127.0.0.1:0"),
                *("--storage", str(self.folder / "storage"), "--ready-file", str(ready)),
            ]
        )
        self.wait_for(lambda: ready.exists() and ready.read_text().strip())
        self.address = ready.read_text().strip().removeprefix("http://").rstrip("/")


class Engine(Program, abc.ABC):
    """An engine that speaks Docker's API on a Unix socket."""

    name: ClassVar[str]

    def __init__(self, folder: Path, registry: str, number: int) -> None:
        super().__init__(folder, self.name)
        self.registry = registry
        self.subnet = f"10.214.{number}.1/24"
        self.port = 28080 + number  # for what is published on each of them at once
        self.socket = self.folder / "s"
        self.api = Api(self.socket)
        (self.folder / "client").mkdir()
        (self.folder / "client" / "config.json").write_text("{}")  # podman's client wants it to exist

    @classmethod
    @abc.abstractmethod
    def missing(cls) -> str:
        """What is not installed of what it needs; empty if all is there."""

    @abc.abstractmethod
    def command(self) -> list[str]:
        """The command line that starts it."""

    def client(self, *arguments: str) -> list[str]:
        """The command line of its own client."""
        return ["docker", *arguments]

    def environment(self) -> dict[str, str]:
        """Of all clients, and of the engine."""
        host = f"unix://{self.socket}"
        return {
            **{key: value for key, value in os.environ.items() if key not in _NOT_INHERITED},
            "DOCKER_HOST": host,
            "SCOW_HOST": host,
            "DOCKER_CONFIG": str(self.folder / "client"),
        }

    def image(self, name: str) -> str:
        """How an image of ours is called here."""
        return f"{self.registry}/bench/{name}"

    def start(self, path: str = "/_ping") -> float:
        """Start it; the seconds from there to its first answer."""
        begun = time.perf_counter()
        self.launch(self.command(), self.environment())
        self.wait_for(lambda: self._answers(path))
        return time.perf_counter() - begun

    def _answers(self, path: str) -> bool:
        try:
            self.api.call("GET", path)
        except (OSError, ApiError):
            self.api.close()
            return False
        return True

    def stop(self) -> None:
        self.api.close()
        super().stop()

    def pull(self, name: str) -> None:
        """Pull by the API, to the end. Raises Failed."""
        said = self.api.call("POST", f"/v1.41/images/create?fromImage={self.image(name)}&tag=latest")
        if b'"error' in said:
            raise Failed(f"{self.name} cannot pull {name}: {said[-400:].decode(errors='replace')}")

    def processes(self) -> set[int]:
        """Its own processes and monitors, without what runs in containers."""
        mark = str(self.folder)
        assert self.process is not None
        return set(processes_of(self.process.pid)) | {
            pid for pid, command in _commands() if mark in command and str(os.getpid()) != str(pid)
        }

    def memory(self) -> int:
        """Bytes of them all, shared pages divided among those who share them (PSS)."""
        return sum(pss(pid) for pid in self.processes())

    def clean(self) -> None:
        """Remove all containers."""
        for container in self.api.json("GET", "/v1.41/containers/json?all=1"):
            self.api.remove(container["Id"])


class Scow(Engine):
    name = "scow"

    @classmethod
    def missing(cls) -> str:
        return ""

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "scow.api.start", "--host", f"unix://{self.socket}", "--bip", self.subnet),
            *("--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec")),
            *("--pidfile", str(self.folder / "pid"), "--log-level", "warn"),
        ]

    def client(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("scow")), *arguments]


class Dockerd(Engine):
    name = "dockerd"

    @classmethod
    def missing(cls) -> str:
        return _not_found("dockerd", "containerd", "docker")

    def command(self) -> list[str]:
        configuration = self.folder / "daemon.json"
        configuration.write_text("{}")
        return [
            *("dockerd", "-H", f"unix://{self.socket}", "--bip", self.subnet, "-p", str(self.folder / "pid")),
            *("--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec")),
            *("--config-file", str(configuration), "--cgroup-parent", f"/bench-{self.folder.parent.name}"),
            *("--log-level", "error"),
        ]


class Podman(Engine):
    name = "podman"

    @classmethod
    def missing(cls) -> str:
        return _not_found("podman", "conmon")

    def _program(self) -> list[str]:
        return [
            *("podman", "--root", str(self.folder / "data"), "--runroot", str(self.folder / "run")),
            *("--tmpdir", str(self.folder / "tmp"), "--cgroup-manager", "cgroupfs"),
            *(("--runtime", "runc") if shutil.which("runc") else ()),
        ]

    def command(self) -> list[str]:
        return [*self._program(), "system", "service", "--time", "0", f"unix://{self.socket}"]

    def client(self, *arguments: str) -> list[str]:
        return [*self._program(), *arguments]

    def environment(self) -> dict[str, str]:
        registries = self.folder / "registries.conf"
        registries.write_text(f'[[registry]]\nlocation = "{self.registry}"\ninsecure = true\n')
        configuration = self.folder / "containers.conf"
        configuration.write_text(f'[network]\nnetwork_config_dir = "{self.folder / "net"}"\n')
        return {
            **super().environment(),
            "CONTAINERS_REGISTRIES_CONF": str(registries),
            "CONTAINERS_CONF": str(configuration),
        }


ALL: tuple[type[Engine], ...] = (Scow, Dockerd, Podman)


def _not_found(*programs: str) -> str:
    return ", ".join(program for program in programs if shutil.which(program) is None)


def _commands() -> Iterable[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue


def processes_of(pid: int) -> Iterable[int]:
    """A process and all its descendants."""
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from processes_of(int(child))
    except OSError:
        return


def pss(pid: int) -> int:
    """Proportional set size of a process, in bytes."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


def end_all() -> None:
    """End whatever is left in this process namespace but us and its first process."""
    mine = {1, os.getpid(), os.getppid()}
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid, _ in list(_commands()):
            if pid not in mine:
                try:
                    os.kill(pid, number)
                except OSError:
                    continue
        time.sleep(0.3)
