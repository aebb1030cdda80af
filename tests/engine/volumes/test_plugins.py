"""Volumes that a plugin keeps, and what becomes of them when it refuses, is slow or is gone."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.daemon import Daemon, Registry, folder
from support.docker_client import modern_docker
from support.machine import traces
from support.volume_plugin import VolumePlugin

PATIENCE_S = 4.0
"""Long enough for a plugin that answers on a busy machine."""


@pytest.fixture(scope="module")
def home(registry: Registry) -> Iterator[tuple[Daemon, Path]]:
    """An engine that looks for plugins in a folder of its own, and waits a while for them."""
    with folder() as path:
        (path / "plugins").mkdir()
        settings = {"plugin-directories": [str(path / "plugins")], "plugin-timeout": PATIENCE_S}
        (path / "daemon.json").write_text(json.dumps(settings))
        daemon = Daemon(
            path, "--registry-mirror", f"http://{registry.address}", "--config-file", str(path / "daemon.json")
        ).start()
        try:
            daemon.docker("pull", "-q", "busybox")
            yield daemon, path
            daemon.clean()
        finally:
            daemon.stop()
        assert not traces(path)


@pytest.fixture
def daemon(home: tuple[Daemon, Path]) -> Iterator[Daemon]:
    """The engine, without containers and volumes at the end of the test."""
    yield home[0]
    home[0].clean()
    for volume in home[0].json("GET", "/volumes")["Volumes"] or []:
        home[0].request("DELETE", f"/volumes/{volume['Name']}?force=1")


@pytest.fixture
def plugin(home: tuple[Daemon, Path], daemon: Daemon, tmp_path: Path) -> Iterator[VolumePlugin]:
    """A plugin called `shelf`."""
    found = VolumePlugin(home[1] / "plugins", "shelf", tmp_path)
    yield found
    daemon.clean()
    for name in [*found.volumes]:
        daemon.request("DELETE", f"/volumes/{name}?force=1")
    found.stop()


def message(daemon: Daemon, *args: str) -> str:
    done = daemon.docker(*args, check=False)
    assert done.returncode != 0
    return done.stderr


@modern_docker
def test_a_volume_from_its_creation_to_its_end(daemon: Daemon, plugin: VolumePlugin, tmp_path: Path) -> None:
    daemon.docker("volume", "create", "-d", "shelf", "-o", "size=big", "--label", "tier=db", "book")
    assert plugin.volumes == {"book": {"size": "big"}}
    found = daemon.json("GET", "/volumes/book")
    assert (found["Driver"], found["Scope"], found["Mountpoint"]) == ("shelf", "global", str(tmp_path / "book"))
    assert (found["Status"], found["Labels"], found["Options"]) == ({"healthy": True}, {"tier": "db"}, {"size": "big"})
    assert daemon.docker("volume", "ls", "-q", "-f", "driver=shelf").stdout.split() == ["book"]
    daemon.docker("run", "--rm", "-v", "book:/v", "busybox", "sh", "-c", "echo hi > /v/file")
    assert (tmp_path / "book/file").read_text() == "hi\n"
    assert plugin.mounts == {"book": set()}
    assert [call["ID"] for call in plugin.named("Mount")] == [call["ID"] for call in plugin.named("Unmount")]
    assert "shelf" in daemon.json("GET", "/info")["Plugins"]["Volume"]
    daemon.docker("volume", "prune", "-a", "-f")  # ours only
    daemon.docker("volume", "rm", "book")
    assert not plugin.volumes
    assert len(plugin.named("Capabilities")) <= 1  # it is asked once, by whichever test comes first


def test_containers_make_volumes_by_driver(daemon: Daemon, plugin: VolumePlugin) -> None:
    daemon.docker("create", "--volume-driver", "shelf", "-v", "page:/v", "-v", "/anonymous", "--name", "box", "busybox")
    assert len(plugin.volumes) == 2
    assert {mount["Driver"] for mount in daemon.json("GET", "/containers/box/json")["Mounts"]} == {"shelf"}
    daemon.docker("rm", "-v", "box")
    assert list(plugin.volumes) == ["page"]
    daemon.docker("create", "--mount", "src=other,dst=/v,volume-driver=shelf,volume-opt=a=b", "busybox")
    assert plugin.volumes["other"] == {"a": "b"}
    assert "volume name must be unique" in message(daemon, "volume", "create", "-d", "local", "other")


def test_volumes_that_only_the_plugin_knows_are_shown(daemon: Daemon, plugin: VolumePlugin) -> None:
    plugin.answer("VolumeDriver.Create", {"Name": "elsewhere"})
    assert "elsewhere" in daemon.docker("volume", "ls", "-q").stdout.split()
    assert daemon.json("GET", "/volumes/elsewhere")["Driver"] == "shelf"


def test_what_the_plugin_refuses_is_told(daemon: Daemon, plugin: VolumePlugin) -> None:
    plugin.refuse = "Create"
    assert "VolumeDriver.Create: no Create today" in message(daemon, "volume", "create", "-d", "shelf", "book")
    assert daemon.request("GET", "/volumes/book")[0] == 404
    plugin.refuse = "Mount"
    daemon.docker("volume", "create", "-d", "shelf", "book")
    said = message(daemon, "run", "--name", "box", "-v", "book:/v", "busybox", "true")
    assert "VolumeDriver.Mount: no Mount today" in said
    assert daemon.json("GET", "/containers/box/json")["State"]["Status"] == "created"


def test_a_slow_plugin_holds_up_nobody_else(daemon: Daemon, plugin: VolumePlugin) -> None:
    daemon.docker("volume", "create", "-d", "shelf", "book")
    plugin.hanging.clear()
    with ThreadPoolExecutor(2) as pool:
        asking, listing = (pool.submit(daemon.request, "GET", path) for path in ("/volumes/book", "/volumes"))
        assert daemon.docker("run", "--rm", "busybox", "echo", "goes on").stdout == "goes on\n"
    status, answer = asking.result()
    assert (status, b"VolumeDriver.Get: no answer in 4 seconds" in answer) == (503, True)
    listed = json.loads(listing.result()[1])
    assert any("no answer in 4 seconds" in warning for warning in listed["Warnings"])
    assert [volume["Name"] for volume in listed["Volumes"]] == ["book"]
    plugin.hanging.set()
    assert daemon.request("GET", "/volumes/book")[0] == 200


@modern_docker
def test_a_plugin_that_is_gone(daemon: Daemon, plugin: VolumePlugin) -> None:
    daemon.docker("volume", "create", "-d", "shelf", "book")
    plugin.stop()
    assert 'plugin "shelf" not found' in message(daemon, "run", "-v", "book:/v", "busybox", "true")
    daemon.clean()
    assert 'plugin "shelf" not found' in message(daemon, "volume", "rm", "book")
    daemon.docker("volume", "rm", "-f", "book")
    assert not daemon.json("GET", "/volumes")["Volumes"]


def test_mounts_are_given_back_after_a_kill(daemon: Daemon, plugin: VolumePlugin) -> None:
    daemon.docker("volume", "create", "-d", "shelf", "book")
    id = daemon.docker("run", "-d", "-v", "book:/v", "busybox", "sleep", "600").stdout.strip()
    daemon.kill()
    daemon.start()
    assert plugin.mounts["book"] == {id}
    daemon.docker("rm", "-f", id)
    assert plugin.mounts["book"] == set()


@pytest.mark.parametrize("kind", ["spec", "json"])
def test_a_plugin_can_be_named_by_a_file(
    daemon: Daemon, home: tuple[Daemon, Path], plugin: VolumePlugin, kind: str
) -> None:
    address = f"unix://{plugin.path}"
    file = home[1] / f"plugins/named.{kind}"
    file.write_text(address if kind == "spec" else json.dumps({"Name": "named", "Addr": address}))
    try:
        daemon.docker("volume", "create", "-d", "named", "book")
        assert "book" in plugin.volumes
        daemon.docker("volume", "rm", "book")
    finally:
        file.unlink()
