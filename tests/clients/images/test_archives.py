"""Images to and fro between Scow, dockerd, podman and skopeo: by archives and layouts, with all that is in them."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.daemon import Daemon, Registry, folder

from . import forms
from .conftest import inspect, needs
from .test_odd_layers import LOOK, LOWER, SEEN, UPPER
from .test_pulls import fresh

CONFIG = {
    "Labels": {"some.label": "with = and ü", "empty": ""},
    "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 3_000_000_000, "Retries": 2},
    "ExposedPorts": {"80/tcp": {}},
    "Volumes": {"/data": {}},
    "WorkingDir": "/below",
    "User": "0:0",
    "StopSignal": "SIGUSR1",
    "Entrypoint": ["/bin/sh", "-c"],
    "Cmd": ["echo hi"],
}
KEPT = ("Labels", "Healthcheck", "ExposedPorts", "Volumes", "WorkingDir", "User", "StopSignal", "Entrypoint", "Cmd")


def command(*words: str | Path) -> None:
    done = subprocess.run(list(map(str, words)), capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr.decode()}"


@pytest.fixture(scope="module")
def dockerd() -> Iterator[str]:
    """A dockerd of our own, without a network; the address of its socket."""
    needs("dockerd")
    with folder() as root:
        flags = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs"]
        where = [f"--data-root={root}/data", f"--exec-root={root}/exec", f"--pidfile={root}/pid"]
        with (root / "log").open("wb") as log:
            process = subprocess.Popen(
                ["dockerd", *flags, *where, f"--host=unix://{root}/sock"], stdout=log, stderr=log
            )
        try:
            end = time.monotonic() + 60
            while subprocess.run(["docker", "-H", f"unix://{root}/sock", "version"], capture_output=True).returncode:
                if process.poll() is not None or time.monotonic() > end:
                    pytest.skip(f"dockerd does not run here: {(root / 'log').read_text()[-300:]}")
                time.sleep(0.2)
            yield f"unix://{root}/sock"
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture
def work() -> Iterator[Path]:
    """A short folder: podman's roots may have 50 characters."""
    with folder() as path:
        yield path


@pytest.fixture(params=["dockerd", "podman", "podman-oci", "skopeo", "skopeo-oci", "skopeo-dir"])
def pass_on(request: pytest.FixtureRequest, work: Path) -> Callable[[Path, Path, str], None]:
    """Takes an archive in and gives it out again, with one of the peers in one of its forms."""
    tool, _, form = request.param.partition("-")
    needs(tool)
    if tool == "dockerd":
        host = request.getfixturevalue("dockerd")

        def by_dockerd(source: Path, target: Path, name: str) -> None:
            command("docker", "-H", host, "load", "-i", source)
            command("docker", "-H", host, "save", "-o", target, name)
            command("docker", "-H", host, "rmi", "-f", name)

        return by_dockerd
    if tool == "podman":
        podman = ["podman", "--root", f"{work}/root", "--runroot", f"{work}/run", "--storage-driver", "vfs"]

        def by_podman(source: Path, target: Path, name: str) -> None:
            command(*podman, "load", "-q", "-i", source)
            kind = "oci-archive" if form else "docker-archive"
            command(*podman, "save", "-q", "--format", kind, "-o", target, name)
            command(*podman, "rmi", "-f", name)

        return by_podman

    def by_skopeo(source: Path, target: Path, name: str) -> None:
        copy = ["skopeo", "--insecure-policy", "copy", "-q"]
        if form == "oci":
            command(*copy, f"oci-archive:{source}:latest", f"oci-archive:{target}:{name}")
        elif form == "dir":
            command(*copy, f"oci-archive:{source}", f"oci:{work}/layout:{name}")
            command("tar", "-C", f"{work}/layout", "-cf", target, ".")
        else:
            command(*copy, f"docker-archive:{source}:{name}", f"docker-archive:{target}:{name}")

    return by_skopeo


def described(engine: Daemon, ref: str) -> dict[str, Any]:
    """What must survive: the config's parts, the history, and the layers' tars with every attribute in them."""
    seen: dict[str, Any] = inspect(engine, ref)
    config = seen["Config"]
    history = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}} {{.Comment}}", ref).stdout
    return {
        **{key: config.get(key) for key in KEPT},
        "layers": seen["RootFS"]["Layers"],
        "created": seen["Created"],
        "author": seen["Author"],
        "architecture": seen["Architecture"],
        "history": history.splitlines(),
    }


def test_images_survive_the_way_to_others_and_back(
    engine: Daemon, registry: Registry, work: Path, pass_on: Callable[[Path, Path, str], None]
) -> None:
    name = f"localhost/{fresh()}:latest"
    source = f"{registry.address}/{fresh()}"
    made = forms.make([*forms.box(), LOWER, UPPER], config=CONFIG)
    forms.push(registry.address, source.partition("/")[2], "latest", with_history(made))
    engine.docker("pull", "-q", source)
    engine.docker("tag", source, name)
    before = described(engine, name)
    assert len(before["history"]) == 4  # one of them made no layer
    engine.scow("save", "-o", str(work / "out.tar"), name)
    pass_on(work / "out.tar", work / "back.tar", name)
    engine.docker("rmi", source, name)
    assert f"Loaded image: {name}" in engine.scow("load", "-q", "-i", str(work / "back.tar")).stdout
    try:
        assert described(engine, name) == before
        look = engine.docker("run", "--rm", "-w", "/", name, LOOK)
        assert look.stdout.splitlines() == SEEN.splitlines()
    finally:
        engine.docker("rmi", "-f", name)


def with_history(made: forms.Made) -> forms.Made:
    """The same image with a history, one step of which made no layer."""
    config = json.loads(made.blobs[0].data)
    steps = [{"created": "2026-01-02T03:04:05Z", "created_by": f"step {number}"} for number in range(4)]
    steps[2] |= {"empty_layer": True, "comment": "nothing changed"}
    config |= {"history": steps[: len(made.blobs)], "created": "2026-01-02T03:04:05Z", "author": "somebody"}
    described_ = forms.document(made.blobs[0].media_type, config)
    return forms.Made(forms.manifest_of(described_, made.blobs[1:]), [described_, *made.blobs[1:]])
