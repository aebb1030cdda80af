"""One row of the state database that can't be read costs what it told, and keeps the engine from nothing else."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from scow.linux.process import identify, is_alive
from support.calls import eventually, inspect, run, state
from support.daemon import Daemon

NOT_JSON = b'{"broken'


def damage(engine: Daemon, table: str, column: str, key: str, value: str) -> None:
    """Spoil a row's document while the engine is killed, and start it again."""
    engine.kill()
    with closing(sqlite3.connect(engine.folder / "data/state.db")) as db, db:
        changed = db.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (NOT_JSON, value)).rowcount
    assert changed == 1
    engine.start()


def said(engine: Daemon) -> str:
    assert "Traceback" not in engine.log
    return engine.log


def test_a_running_container_runs_on_and_can_be_removed(own_engine: Daemon) -> None:
    id, other = run(own_engine, "sleep 60", "lost"), run(own_engine, "sleep 60", "other")
    pid = state(own_engine, id)["Pid"]
    damage(own_engine, "container", "record", "id", id)
    assert f"container {id} (lost): what the state database knows of it can't be read" in said(own_engine)
    assert (state(own_engine, id)["Status"], state(own_engine, id)["Pid"]) == ("running", pid)
    assert state(own_engine, other)["Status"] == "running"
    assert (own_engine.folder / "data/containers" / id / "damaged-record").read_bytes() == NOT_JSON
    own_engine.docker("rm", "-f", "lost")
    assert not Path(f"/proc/{pid}").exists()
    assert not list((own_engine.folder / "data/snapshots").glob(f"{id}*"))


def test_one_that_does_not_run_is_dead_with_what_it_wrote(own_engine: Daemon) -> None:
    id = run(own_engine, "echo words > /written", "lost")
    own_engine.docker("wait", "lost")
    damage(own_engine, "container", "record", "id", id)
    assert state(own_engine, id)["Status"] == "dead"
    assert "can only be removed" in state(own_engine, id)["Error"]
    assert (own_engine.folder / "data/snapshots" / id / "upper/written").read_text() == "words\n"
    assert "marked for removal" in own_engine.docker("start", "lost", check=False).stderr
    own_engine.docker("rm", "lost")
    own_engine.docker("run", "--rm", "--name", "lost", "busybox", "true")


def test_a_volume_keeps_its_content(own_engine: Daemon) -> None:
    own_engine.docker("volume", "create", "--label", "a=b", "kept")
    own_engine.docker("run", "--rm", "-v", "kept:/v", "busybox", "sh", "-c", "echo words > /v/file")
    damage(own_engine, "volume", "record", "name", "kept")
    assert "volume kept goes on without its labels" in said(own_engine)
    assert own_engine.docker("run", "--rm", "-v", "kept:/v", "busybox", "cat", "/v/file").stdout == "words\n"
    own_engine.docker("volume", "rm", "kept")


def test_a_volume_keeps_its_options_or_is_not_used(own_engine: Daemon) -> None:
    options = ("--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=1m")
    own_engine.docker("volume", "create", *options, "small")
    damage(own_engine, "volume", "record", "name", "small")
    assert own_engine.json("GET", "/volumes/small")["Options"] == {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}
    folder = own_engine.folder / "data/volumes/small"
    (folder / "opts.json").write_bytes(NOT_JSON)
    own_engine.kill()
    own_engine.start()
    for _ in range(2):  # a volume that is lost stays so, without its folder, and repaired, too
        refused = own_engine.docker("run", "--rm", "-v", "small:/v", "busybox", "true", check=False).stderr
        assert "volume small can't be used: its record is damaged" in refused
        assert own_engine.docker("volume", "ls", "-q").stdout.split() == ["small"]
        checked = own_engine.scow("system", "check", "--repair", check=False).stdout
        assert "its record is damaged, and what its driver was told is lost" in checked
        own_engine.kill()
        shutil.rmtree(folder, ignore_errors=True)
        own_engine.start()
    own_engine.docker("volume", "rm", "small")
    own_engine.docker("run", "--rm", "-v", "small:/v", "busybox", "true")


def test_an_image_is_what_its_config_tells(own_engine: Daemon) -> None:
    image = own_engine.json("GET", "/images/busybox/json")
    damage(own_engine, "images", "document", "id", image["Id"])
    assert f"image {image['Id']} goes on with what its config tells" in said(own_engine)
    assert own_engine.json("GET", "/images/busybox/json")["RootFS"] == image["RootFS"]
    assert own_engine.docker("run", "--rm", "busybox", "echo", "works").stdout == "works\n"
    own_engine.docker("pull", "-q", "busybox")
    pulled = own_engine.json("GET", "/images/busybox/json")
    assert {key: pulled[key] for key in pulled if key != "Metadata"} == {
        key: image[key] for key in image if key != "Metadata"
    }


@pytest.mark.parametrize("name", ["bridge", "mine"])
def test_a_network_can_be_made_again(own_engine: Daemon, name: str) -> None:
    own_engine.docker("network", "create", "--subnet", "10.212.7.0/24", "mine")
    bridge = f"br-{own_engine.json('GET', '/networks/mine')['Id'][:12]}"
    damage(own_engine, "networks", "data", "name", name)
    assert f"network {name}: what the state database knows" in said(own_engine)
    assert Path(f"/sys/class/net/{bridge}").exists() == (name != "mine")
    if name == "mine":
        own_engine.docker("network", "create", "--subnet", "10.212.7.0/24", "mine")
    assert own_engine.docker("run", "--rm", "--network", name, "busybox", "echo", "works").stdout == "works\n"
    own_engine.docker("network", "rm", "mine")


def test_an_endpoint_comes_back_with_the_next_start(own_engine: Daemon) -> None:
    id = run(own_engine, "sleep 60")
    damage(own_engine, "endpoints", "data", "container_id", id)
    assert f"an endpoint of container {id}: what the state database knows" in said(own_engine)
    own_engine.docker("restart", "-t", "0", id)
    assert inspect(own_engine, id)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]


def test_a_start_that_fails_leaves_the_networks_of_containers_alone(own_engine: Daemon) -> None:
    id = run(own_engine, "sleep 60")
    own_engine.kill()
    namespace = own_engine.folder / "exec/netns" / id
    with closing(sqlite3.connect(own_engine.folder / "data/state.db")) as db, db:
        db.execute("UPDATE migrations SET version = version + 1 WHERE component = 'containers'")
    with pytest.raises(AssertionError, match="use a newer Scow"):
        own_engine.start()
    assert namespace.exists()
    with closing(sqlite3.connect(own_engine.folder / "data/state.db")) as db, db:
        db.execute("UPDATE migrations SET version = version - 1 WHERE component = 'containers'")
    own_engine.start()
    assert own_engine.docker("exec", id, "ls", "/sys/class/net").stdout.split() == ["eth0", "lo"]


def test_a_lost_config_hides_no_other_image(own_engine: Daemon) -> None:
    lost = own_engine.json("GET", "/images/busybox/json")["Id"]
    own_engine.docker("commit", own_engine.docker("create", "busybox").stdout.strip(), "other")
    own_engine.kill()
    digits = lost.removeprefix("sha256:")
    (own_engine.folder / "data/blobs/sha256" / digits[:2] / digits).unlink()
    own_engine.start()
    shown = own_engine.docker("images", "--format", "{{.Repository}}").stdout.split()
    assert sorted(shown) == ["busybox", "other"]
    assert own_engine.docker("run", "--rm", "other", "echo", "works").stdout == "works\n"
    own_engine.docker("pull", "-q", "busybox")
    assert own_engine.docker("run", "--rm", "busybox", "echo", "works").stdout == "works\n"


def test_a_container_whose_bundle_was_removed_is_ended(own_engine: Daemon) -> None:
    id = run(own_engine, "sleep 60")
    process = identify(state(own_engine, id)["Pid"])
    assert process is not None
    own_engine.kill()
    shutil.rmtree(own_engine.folder / "exec/containers" / id)
    own_engine.start()
    eventually(lambda: not is_alive(process))
    eventually(lambda: state(own_engine, id)["Status"] == "exited")
    own_engine.json("POST", f"/containers/{id}/start")
    assert state(own_engine, id)["Status"] == "running"
