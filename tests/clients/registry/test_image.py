"""The registry's own image: built by `scow build` from the tree, run by Scow, used by docker and skopeo.

The base is a root of Debian's packages, since no registry of images may be in reach; wheels come by the machine's own
pip, and the build has them over the network from a server beside it, as from a private package index.
"""

import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support import debian, images
from support.daemon import Daemon, Registry, UnixConnection, folder
from support.machine import traces

ROOT = Path(__file__).parents[3]
PACKAGES = ("python3-minimal", "python3-venv", "dash", "coreutils")
CHECK = ("registry", "check", "--config", "/etc/scow/registry.toml")


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def download_wheels(folder: Path, version: str) -> None:
    """What the tree needs to be installed by Python `version`. Skips where no package index answers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    command = [sys.executable, "-m", "pip", "download", "-q", "--retries", "1", "--only-binary", ":all:"]
    try:
        done = subprocess.run(
            [*command, "--python-version", version, "-d", str(folder), *wanted],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("no package index answers in time")
    if done.returncode:
        pytest.skip(f"no package index answers: {done.stderr.strip()[-300:]}")


def base_and_wheels(work: Path) -> bytes:
    """A layer that can run Python, and a folder `wheels`."""
    (work / "packages").mkdir()
    (work / "wheels").mkdir()
    try:
        found = [re.fullmatch(r"python(3\.\d+)", name) for name in debian.closure(PACKAGES)]
        version = next(match[1] for match in found if match)
        with ThreadPoolExecutor() as threads:
            wheels = threads.submit(download_wheels, work / "wheels", version)
            layer = debian.root_layer(work / "packages", PACKAGES)
            wheels.result()
    except debian.NoPackages as reason:
        pytest.skip(str(reason))
    return layer


def build(engine: Daemon, wheels: Path, work: Path) -> str:
    """Build `scow-registry`; what the build said."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(wheels)))
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        index = f"http://127.0.0.1:{server.server_port}/"
        (work / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {index}\n")
        done = subprocess.run(
            [
                *(Path(sys.executable).with_name("scow"), "build", "-t", "scow-registry", "--network", "host"),
                *("--build-arg", "BASE=python:debian", "--build-arg", "EXTRAS="),
                *("--secret", f"id=pip.conf,src={work / 'pip.conf'}"),
                *("-f", ROOT / "packaging/registry/Dockerfile", ROOT),
            ],
            env=engine.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def engine() -> Iterator[Daemon]:
    """An engine that has the image `scow-registry`."""
    with tempfile.TemporaryDirectory(prefix="scow-image-", dir="/var/tmp") as made, folder() as here, folder() as there:
        work = Path(made)
        layer = base_and_wheels(work)
        source = Registry(here)
        daemon = Daemon(there, "--registry-mirror", f"http://{source.address}")
        try:
            paths = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            images.push(source.address, "library/python", images.build([layer], {"Env": [paths]}), "debian")
            said = build(daemon.start(), work / "wheels", work)
            assert "Successfully tagged scow-registry:latest" in said
            yield daemon
            daemon.clean()
        finally:
            daemon.stop()
            source.stop()
        left = traces(there)
        assert not left, f"the engine left behind: {left}"


def run(engine: Daemon, name: str, *flags: str, port: str = "5000") -> str:
    """Run the image until its check of health says that it is healthy; the address at which it is published."""
    health = ("--health-start-interval", "200ms", "--health-start-period", "2m")
    engine.scow("run", "-d", "--name", name, *health, "-p", f"127.0.0.1::{port}", *flags, "scow-registry")
    filters = json.dumps({"event": ["health_status"], "container": [name]})
    connection = UnixConnection(engine.socket)
    try:
        connection.request("GET", f"/v1.41/events?since=1&filters={urllib.parse.quote(filters)}")
        event = json.loads(connection.getresponse().readline())
    finally:
        connection.close()
    assert event["Action"] == "health_status: healthy", engine.scow("logs", name).stderr
    return engine.scow("port", name, port).stdout.strip()


def test_the_image_says_how_it_is_run(engine: Daemon) -> None:
    config = engine.json("GET", "/images/scow-registry/json")["Config"]
    assert (config["User"], config["StopSignal"]) == ("10001:10001", "SIGTERM")
    assert (list(config["Volumes"]), list(config["ExposedPorts"])) == (["/var/lib/registry"], ["5000/tcp"])
    assert config["Healthcheck"]["Test"][:4] == ["CMD", "/opt/scow/bin/scow", "registry", "ready"]
    # Neither the package index nor pip is in it.
    look = "import importlib.util as u, os; print(u.find_spec('pip'), os.path.exists('/etc/pip.conf'), os.getuid())"
    program = ("--rm", "--entrypoint", "/opt/scow/bin/python", "scow-registry", "-c", look)
    assert engine.scow("run", *program).stdout == "None False 10001\n"
    assert "127.0.0.1" not in json.dumps(engine.json("GET", "/images/scow-registry/history"))


def test_docker_pushes_and_skopeo_pulls_across_containers(engine: Daemon, tmp_path: Path) -> None:
    first = run(engine, "first", "-v", "data:/var/lib/registry")
    name = f"{first}/team/registry:1"
    engine.docker("tag", "scow-registry", name)
    digest = re.findall(r"digest: (sha256:\w+)", engine.docker("push", name).stdout)[0]
    engine.docker("rmi", name)
    engine.docker("stop", "first")
    assert engine.json("GET", "/containers/first/json")["State"]["ExitCode"] == 0
    engine.docker("rm", "first")

    second = run(engine, "second", "-v", "data:/var/lib/registry", "--read-only")
    assert engine.docker("exec", "second", "/opt/scow/bin/scow", *CHECK).stdout == "all blobs and manifests are sound\n"
    pulled = engine.docker("pull", f"{second}/team/registry@{digest}").stdout
    assert f"Digest: {digest}" in pulled
    engine.docker("rmi", f"{second}/team/registry@{digest}")
    if shutil.which("skopeo") is not None:
        source = f"docker://{second}/team/registry:1"
        copied = ["skopeo", "copy", "-q", "--src-tls-verify=false", source, f"dir:{tmp_path}/copy"]
        subprocess.run(copied, check=True, capture_output=True, timeout=60)
        assert json.loads((tmp_path / "copy/manifest.json").read_text())["layers"]
    engine.docker("rm", "-f", "second")
    engine.docker("volume", "rm", "data")


def test_the_environment_configures_it(engine: Daemon) -> None:
    address = run(
        *(engine, "set", "-e", "SCOW_REGISTRY_READ_ONLY=true", "-e", "SCOW_REGISTRY_WORKERS=1"),
        *("-e", "SCOW_REGISTRY_LISTEN=0.0.0.0:5001"),
        port="5001",
    )
    asked = urllib.request.Request(f"http://{address}/v2/a/b/blobs/uploads/", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=30)
    with refused.value:
        assert refused.value.code == 405
        assert json.loads(refused.value.read())["errors"][0]["code"] == "UNSUPPORTED"
    engine.scow("rm", "-f", "set")
    wrong = engine.scow("run", "--rm", "-e", "SCOW_REGISTRY_LISTN=x", "scow-registry", check=False)
    assert wrong.returncode == 1
    assert "LISTN" in wrong.stderr.upper()
