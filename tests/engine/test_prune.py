"""Pruning containers, images and volumes."""

import json
from urllib.parse import quote

import docker
import pytest

from support.daemon import Daemon


def filters(**values: list[str]) -> str:
    return "filters=" + quote(json.dumps(values))


def test_stopped_containers_go_and_running_ones_stay(engine: Daemon, docker_py: docker.DockerClient) -> None:
    ended = engine.docker("create", "busybox", "true").stdout.strip()
    kept = engine.docker("create", "--label", "keep=1", "busybox", "true").stdout.strip()
    running = engine.docker("run", "-d", "busybox", "sleep", "60").stdout.strip()
    assert docker_py.containers.prune({"until": "24h"})["ContainersDeleted"] is None
    reply = docker_py.containers.prune({"label!": ["keep=1"]})
    assert reply["ContainersDeleted"] == [ended]
    left = {container.id for container in docker_py.containers.list(all=True)}
    assert left == {kept, running}


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_the_client_asks_before_it_prunes(engine: Daemon, client: str) -> None:
    run = getattr(engine, client)
    ended = engine.docker("create", "busybox", "true").stdout.strip()
    asked = run("container", "prune", input=b"n\n", check=False)
    assert "WARNING! This will remove all stopped containers." in asked.stdout
    assert ended in engine.docker("ps", "-aq", "--no-trunc").stdout
    done = run("container", "prune", input=b"y\n")
    assert f"Deleted Containers:\n{ended}\n\nTotal reclaimed space: " in done.stdout


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_images_without_tag_go_and_with_all_those_nobody_uses(engine: Daemon, client: str) -> None:
    run = getattr(engine, client)
    engine.docker("pull", "-q", "hello-world")
    run("image", "prune", "-f")
    assert "hello-world" in engine.docker("images").stdout
    box = engine.docker("create", "busybox", "true").stdout.strip()
    done = run("image", "prune", "-a", "-f")
    assert "untagged: hello-world:latest" in done.stdout
    assert "deleted: sha256:" in done.stdout
    assert "hello-world" not in engine.docker("images").stdout
    assert "busybox" in engine.docker("images").stdout
    assert box


def test_only_anonymous_volumes_go_unless_all_are_wanted(engine: Daemon) -> None:
    for volume in engine.json("GET", "/volumes")["Volumes"]:
        engine.request("DELETE", f"/volumes/{volume['Name']}")
    engine.docker("volume", "create", "named")
    anonymous = engine.docker("volume", "create").stdout.strip()
    assert engine.json("POST", "/v1.42/volumes/prune")["VolumesDeleted"] == [anonymous]
    wanted = filters(all=["true"], label=["no"])
    assert engine.json("POST", f"/v1.42/volumes/prune?{wanted}")["VolumesDeleted"] == []
    assert engine.json("POST", f"/v1.42/volumes/prune?{filters(all=['1'])}")["VolumesDeleted"] == ["named"]
    engine.docker("volume", "create", "named")
    assert engine.json("POST", "/v1.41/volumes/prune")["VolumesDeleted"] == ["named"]
    used = engine.docker("create", "-v", "used:/v", "busybox", "true").stdout.strip()
    assert "used" not in (engine.scow("volume", "prune", "-a", "-f").stdout)
    engine.docker("rm", used)
    assert "used" in engine.scow("volume", "prune", "-a", "-f").stdout


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_system_prune(engine: Daemon, client: str) -> None:
    ended = engine.docker("create", "-v", "/anonymous", "busybox", "true").stdout.strip()
    done = getattr(engine, client)("system", "prune", "-f")
    assert ended in done.stdout
    assert "Total reclaimed space:" in done.stdout


def test_bad_filters_are_refused(engine: Daemon) -> None:
    for noun, wanted in (
        ("containers", filters(nonsense=["1"])),
        ("images", filters(nonsense=["1"])),
        ("volumes", filters(until=["1h"])),
        ("volumes", filters(all=["maybe"])),
        ("images", filters(dangling=["maybe"])),
        ("containers", filters(until=["1h", "2h"])),
        ("containers", filters(until=["yesterday"])),
        ("containers", "filters=nonsense"),
    ):
        assert engine.request("POST", f"/{noun}/prune?{wanted}")[0] == 400, (noun, wanted)
