"""kill -9 of the engine between any two steps: restarted it tells the truth; everything can be used, or is gone.

That nothing is left behind (mounts, links, rules, groups, processes) is what `own_engine` checks at its end.
"""

import contextlib
import http.client
from pathlib import Path
from typing import Any

import pytest

from scow.linux import cgroup
from support.calls import container, create, eventually, inspect, state
from support.daemon import Daemon

OPEN = ("monitor.launched", "open.begun", "open.stored", "open.networked", "open.equipped", "open.recovered")
CREATE = ("create.volumes", "create.snapshot", "create.folder", "create.recorded")
BEFORE_THE_PROCESS = (
    *("start.recorded", "mount.layers", "mount.done", "connect.recorded", "connect.attached", "start.connected"),
    *("start.specified", "monitor.launched", "monitor.greeted"),
)
WITH_THE_PROCESS = ("start.created", "start.attached", "start.begun", "start.running")
EXIT = ("exit.seen", "exit.released", "exit.recorded")
STOP = ("stop.recorded", "stop.signalled")
REMOVE = ("remove.recorded", "remove.released", "remove.snapshot", "remove.forgotten")
PULL = ("pull.resolved", "pull.received", "pull.brought")


def killed_at(engine: Daemon, point: str, method: str, path: str, body: Any = None) -> None:
    """Make a call in which the engine is killed at a point, and start it again."""
    engine.at(point, "kill")
    with pytest.raises((OSError, http.client.HTTPException)):
        engine.request(method, path, body)
    engine.wait_killed()
    engine.start()


def runs_to_its_end(engine: Daemon, id: str, code: int) -> None:
    engine.json("POST", f"/containers/{id}/start")
    assert engine.json("POST", f"/containers/{id}/wait")["StatusCode"] == code


def mounted(engine: Daemon, id: str) -> bool:
    return str(engine.folder / "exec/rootfs" / id) in Path("/proc/mounts").read_text()


def test_a_start_of_the_engine(own_engine: Daemon) -> None:
    groups = set(cgroup.ROOT.glob("**/scow-check-*"))
    id = create(own_engine, "echo once")
    runs_to_its_end(own_engine, id, 0)
    for point in OPEN:
        own_engine.stop()
        own_engine.at(point, "kill")
        with pytest.raises(AssertionError, match="it ended with -9"):
            own_engine.start()
        own_engine.wait_killed()
        own_engine.start()
        assert state(own_engine, id)["Status"] == "exited", point
        assert own_engine.docker("run", "--rm", "busybox", "echo", "works").stdout == "works\n", point
        assert not list((own_engine.folder / "exec").glob("check-*")), point
        eventually(lambda: set(cgroup.ROOT.glob("**/scow-check-*")) <= groups)


def test_create(own_engine: Daemon) -> None:
    for point in CREATE:
        killed_at(own_engine, point, "POST", f"/containers/create?name={point}", container("exit 3"))
        known = [each["Names"] for each in own_engine.json("GET", "/containers/json?all=1")]
        if known:  # all of it is there, though the client was not told
            assert point == "create.recorded"
            runs_to_its_end(own_engine, point, 3)
        else:  # nothing of it is there: the name is free
            assert not own_engine.json("GET", "/volumes")["Volumes"]
            id = own_engine.json("POST", f"/containers/create?name={point}", container("exit 4"))["Id"]
            runs_to_its_end(own_engine, id, 4)
        own_engine.clean()
        assert not own_engine.json("GET", "/volumes")["Volumes"]
        assert not list((own_engine.folder / "data/containers").iterdir())


def test_start(own_engine: Daemon) -> None:
    for point in (*BEFORE_THE_PROCESS, *WITH_THE_PROCESS):
        id = create(own_engine, "echo once; while [ ! -e /keep/end ]; do sleep 0.05; done; exit 3")
        end = Path(inspect(own_engine, id)["Mounts"][0]["Source"]) / "end"
        killed_at(own_engine, point, "POST", f"/containers/{id}/start")
        found = state(own_engine, id)
        if point in WITH_THE_PROCESS:
            assert found["Status"] == "running", point
            assert Path(f"/proc/{found['Pid']}").exists(), point
            end.touch()
            assert own_engine.json("POST", f"/containers/{id}/wait")["StatusCode"] == 3, point
        else:
            assert found["Status"] == "created", point
            assert not mounted(own_engine, id), point
            end.touch()
            runs_to_its_end(own_engine, id, 3)
        assert own_engine.docker("logs", id).stdout == "once\n", point
        own_engine.clean()


def test_exit(own_engine: Daemon) -> None:
    for point in EXIT:
        id = create(own_engine, "exit 3")
        own_engine.at(point, "kill")
        with contextlib.suppress(OSError, http.client.HTTPException):  # the end may come before the answer
            own_engine.request("POST", f"/containers/{id}/start")
        own_engine.wait_killed()
        own_engine.start()
        found = state(own_engine, id)
        assert (found["Status"], found["ExitCode"], found["Pid"]) == ("exited", 3, 0), point
        assert not mounted(own_engine, id), point
        runs_to_its_end(own_engine, id, 3)
        own_engine.clean()


def test_stop(own_engine: Daemon) -> None:
    for point in STOP:
        id = create(
            own_engine, "trap 'exit 5' TERM; while true; do sleep 0.05; done", RestartPolicy={"Name": "unless-stopped"}
        )
        own_engine.json("POST", f"/containers/{id}/start")
        killed_at(own_engine, point, "POST", f"/containers/{id}/stop")
        assert own_engine.request("POST", f"/containers/{id}/stop")[0] in (204, 304), point
        found = state(own_engine, id)
        assert (found["Status"], found["ExitCode"]) == ("exited", 5), point
        own_engine.clean()


def test_remove(own_engine: Daemon) -> None:
    for point in REMOVE:
        for volumes in (1, 0):
            id = create(own_engine, "sleep 60")
            own_engine.json("POST", f"/containers/{id}/start")
            killed_at(own_engine, point, "DELETE", f"/containers/{id}?force=1&v={volumes}")
            assert own_engine.request("GET", f"/containers/{id}/json")[0] == 404, point
            assert not list((own_engine.folder / "data/containers").iterdir()), point
            # A removal without -v must not turn into one with it.
            kept = own_engine.json("GET", "/volumes")["Volumes"]
            assert len(kept) == 1 - volumes, (point, volumes)
            for volume in kept:
                own_engine.json("DELETE", f"/volumes/{volume['Name']}")


def test_pull(own_engine: Daemon) -> None:
    own_engine.json("DELETE", "/images/busybox?force=1")
    ingest = own_engine.folder / "data/ingest"
    for point in PULL:
        killed_at(own_engine, point, "POST", "/images/create?fromImage=busybox&tag=latest")
        assert not own_engine.json("GET", "/images/json"), point
        # Layers that were brought, and that no image needs, pass through the folder on their way out.
        eventually(lambda: not [path for path in ingest.rglob("*") if path.is_file()], point)
    own_engine.docker("pull", "-q", "busybox")
    assert own_engine.docker("run", "--rm", "busybox", "echo", "whole").stdout == "whole\n"
