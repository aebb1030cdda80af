"""Registries of two makes, an engine that knows them, and images of odd kinds, for pulls and pushes by real clients."""

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import bcrypt
import pytest

from support.daemon import Daemon, Registry, folder
from support.machine import traces
from support.ports import free_port

USER, PASSWORD = "captain", "ahoy-1234"


class DebianRegistry:
    """distribution, as Debian packages it."""

    def __init__(self, path: Path, listen: str = "127.0.0.1", config: str = "") -> None:
        self.address = f"{listen}:{free_port(listen)}"
        path.mkdir(parents=True, exist_ok=True)
        text = f"""
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {path}/storage}}, delete: {{enabled: true}}}}
http:
  addr: {self.address}
{config}
"""
        (path / "config.yml").write_text(text)
        self._log = (path / "log").open("wb")
        self.process = subprocess.Popen(
            ["docker-registry", "serve", str(path / "config.yml")], stdout=self._log, stderr=self._log
        )
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(self.address.split(":")):  # type: ignore[arg-type]
                return
            assert self.process.poll() is None, (path / "log").read_text()
            assert time.monotonic() < end, "docker-registry doesn't listen"
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        self._log.close()


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@pytest.fixture(scope="session")
def debian_registry() -> Iterator[DebianRegistry]:
    needs("docker-registry")
    with folder() as path:
        server = DebianRegistry(path)
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(params=["scow", "distribution"])
def either_registry(request: pytest.FixtureRequest) -> Registry | DebianRegistry:
    """Ours, then the reference implementation."""
    name = "registry" if request.param == "scow" else "debian_registry"
    return request.getfixturevalue(name)  # type: ignore[no-any-return]  # pytest's are Any


@pytest.fixture(scope="session")
def htpasswd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("htpasswd") / "htpasswd"
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(5)).decode().replace("$2b$", "$2y$")
    file.write_text(f"{USER}:{hashed}\n")
    return file


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts engines with flags of the test's own, and sees to it that nothing of them is left."""
    with contextlib.ExitStack() as stack:

        def make(*flags: str, **environment: str) -> Daemon:
            path = stack.enter_context(folder())
            daemon = Daemon(path, *flags)
            made.append(daemon)
            before = {name: os.environ.get(name) for name in environment}
            os.environ.update(environment)
            try:
                daemon.start()
            finally:
                for name, value in before.items():
                    os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
            return daemon

        made: list[Daemon] = []
        try:
            yield make
        finally:
            for daemon in made:
                if daemon.process is not None:
                    daemon.clean()
                daemon.stop()
        left = [line for daemon in made for line in traces(daemon.folder)]
        assert not left, f"the engine left behind: {left}"


@pytest.fixture(scope="session")
def far_address() -> Iterator[str]:
    """An address of this machine that isn't loopback's 127.0.0.0/8, so that no client takes it for harmless."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to add an address")
    address = f"10.199.{os.getpid() % 250}.1"
    subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    yield address
    subprocess.run(["ip", "address", "del", f"{address}/32", "dev", "lo"], check=True)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory, far_address: str) -> tuple[Path, Path]:
    """A certificate for the far address, its own authority, and its key."""
    needs("openssl")
    home = tmp_path_factory.mktemp("tls")
    subject = ["-subj", "/CN=registry", "-addext", f"subjectAltName=IP:{far_address}"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    files = ["-days", "2", "-keyout", str(home / "key.pem"), "-out", str(home / "cert.pem")]
    subprocess.run([*command, *files, *subject], check=True, capture_output=True)
    return home / "cert.pem", home / "key.pem"


def fetch(url: str, *, accept: str = "*/*", user: str = "") -> tuple[bytes, str]:
    """GET a URL: the body, and the digest that its header tells."""
    headers = {"Accept": accept}
    if user:
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        return answer.read(), answer.headers.get("Docker-Content-Digest", "")


def inspect(engine: Daemon, ref: str) -> dict[str, object]:
    return json.loads(engine.docker("image", "inspect", ref).stdout)[0]  # type: ignore[no-any-return]
