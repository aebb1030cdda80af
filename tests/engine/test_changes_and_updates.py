"""What differs from the image, and limits that change while a container runs."""

import docker
import pytest

from scow.linux import cgroup
from scow.runtime.limits import limits_weight
from support.daemon import Daemon


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_diff_tells_what_was_added_changed_and_deleted(engine: Daemon, client: str) -> None:
    script = "mkdir /new && echo x >/new/file && echo y >>/data/seed && rm /etc/group && chmod 700 /home"
    box = engine.docker("create", "busybox", "sh", "-c", script).stdout.strip()
    assert getattr(engine, client)("diff", box).stdout == ""
    engine.docker("start", "-a", box)
    found = getattr(engine, client)("diff", box).stdout.splitlines()
    assert found == ["C /data/seed", "C /etc", "D /etc/group", "C /home", "A /new", "A /new/file"]


def test_a_run_alone_changes_nothing(engine: Daemon, docker_py: docker.DockerClient) -> None:
    box = engine.docker("run", "-d", "busybox", "sleep", "60").stdout.strip()
    assert docker_py.containers.get(box).diff() is None
    assert engine.request("GET", "/containers/nobody/changes")[0] == 404


def read_limit(box: str, daemon: Daemon, controller: str, v1: str, v2: str) -> str:
    pid = daemon.json("GET", f"/containers/{box}/json")["State"]["Pid"]
    with open(f"/proc/{pid}/cgroup") as file:
        lines = [line.strip().split(":", 2) for line in file]
    path = next(
        path for _, names, path in lines if controller in names.split(",") or (cgroup.is_unified() and not names)
    )
    folder = cgroup.controller_path(path, controller)
    return (folder / (v2 if cgroup.is_unified() else v1)).read_text().strip()


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_limits_change_while_the_container_runs(engine: Daemon, client: str) -> None:
    box = engine.docker("run", "-d", "-m", "64m", "busybox", "sleep", "60").stdout.strip()
    update = getattr(engine, client)
    assert update("update", "-m", "96m", "--memory-swap", "192m", "--pids-limit", "77", box).stdout == f"{box}\n"
    assert read_limit(box, engine, "memory", "memory.limit_in_bytes", "memory.max") == str(96 << 20)
    assert read_limit(box, engine, "pids", "pids.max", "pids.max") == "77"
    update("update", "--cpus", "0.5", "--restart", "on-failure:3", box)
    quota = read_limit(box, engine, "cpu", "cpu.cfs_quota_us", "cpu.max")
    assert quota.split()[0] == "50000"
    host = engine.json("GET", f"/containers/{box}/json")["HostConfig"]
    assert (host["Memory"], host["PidsLimit"], host["NanoCpus"]) == (96 << 20, 77, 500_000_000)
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    update("update", "--pids-limit", "-1", "--memory-swap", "-1", box)
    assert read_limit(box, engine, "pids", "pids.max", "pids.max") == "max"
    assert engine.json("GET", f"/containers/{box}/json")["HostConfig"]["PidsLimit"] is None


@pytest.mark.skipif(limits_weight(), reason="this machine can weigh block I/O")
def test_a_limit_that_the_machine_has_not_is_discarded_with_a_warning(engine: Daemon) -> None:
    body = {"Image": "busybox", "Cmd": ["sleep", "60"], "HostConfig": {"BlkioWeight": 300}}
    created = engine.json("POST", "/containers/create", body)
    updated = engine.json("POST", f"/containers/{created['Id']}/update", {"BlkioWeight": 200})
    for reply in (created, updated):
        assert [warning.endswith("Weight discarded.") for warning in reply["Warnings"]] == [True]
    assert engine.json("GET", f"/containers/{created['Id']}/json")["HostConfig"]["BlkioWeight"] == 0


def test_a_new_restart_policy_holds_at_the_next_exit(engine: Daemon, docker_py: docker.DockerClient) -> None:
    box = engine.docker("run", "-d", "busybox", "sleep", "60").stdout.strip()
    container = docker_py.containers.get(box)
    container.update(restart_policy={"Name": "always"})
    events = docker_py.events(decode=True, filters={"container": box, "event": "start"})
    container.exec_run("kill -9 1")
    engine.json("POST", f"/containers/{box}/restart?t=0")
    assert next(events)["Action"] == "start"
    events.close()


def test_updates_that_make_no_sense_are_refused(engine: Daemon) -> None:
    box = engine.docker("create", "-m", "64m", "--cpus", "1", "busybox", "true").stdout.strip()
    conflict = f"Cannot update container {box}: "
    for body, expected, words in (
        ({"Memory": 1024}, 400, "Minimum memory limit allowed is 6MB"),
        ({"Memory": 1 << 40}, 409, f"{conflict}Memory limit should be smaller than already set memoryswap limit"),
        ({"CpuPeriod": 100000}, 409, f"{conflict}Conflicting options: CPU Period cannot be updated as NanoCPUs has"),
        ({"RestartPolicy": {"Name": "sometimes"}}, 400, "invalid restart policy"),
        ({"Memory": "much"}, 400, "Memory"),
    ):
        status, answer = engine.request("POST", f"/containers/{box}/update", body)
        assert (status, words in answer.decode()) == (expected, True), answer
    assert engine.request("POST", "/containers/nobody/update", {})[0] == 404
    removed = engine.docker("create", "--rm", "busybox", "true").stdout.strip()
    status, answer = engine.request("POST", f"/containers/{removed}/update", {"RestartPolicy": {"Name": "always"}})
    assert (status, b"AutoRemove is enabled" in answer) == (400, True)
