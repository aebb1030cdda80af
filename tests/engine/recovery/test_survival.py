"""Containers outlive the engine; whatever is killed, the engine says afterwards what happened."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from scow.linux.process import identify
from scow.network.relays import has_ipv6
from support.calls import create, eventually, exists, inspect, run, state, wait
from support.daemon import Daemon
from support.ports import free_port


def record(engine: Daemon, id: str) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode((engine.folder / f"exec/containers/{id}/monitor.json").read_bytes())
    return found


def moment(text: str) -> datetime:
    """What a time of a state means, without the digits that are finer than Python's."""
    return datetime.fromisoformat(text[:26] + "+00:00")


def has_ended(pid: int) -> bool:
    """Whether there is no such process, or only its zombie."""
    return identify(pid) is None


def is_open(port: str, address: str = "127.0.0.1") -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, int(port)), 20) as probe:
        probe.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return bool(probe.recv(1))  # a relay takes connections that lead nowhere, too
    return False


def published(engine: Daemon, id: str) -> str:
    return str(inspect(engine, id)["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"])


def reboot(engine: Daemon) -> None:
    """What a power failure leaves: the data root, and nothing of what ran or was mounted."""
    engine.kill()
    root = engine.folder / "exec"
    for bundle in (root / "containers").glob("*/monitor.json"):
        known = msgspec.json.decode(bundle.read_bytes())
        for who in ("monitor", "container"):
            if known.get(who):
                with contextlib.suppress(ProcessLookupError):  # it has gone with the one whose processes it joined
                    os.kill(known[who]["pid"], signal.SIGKILL)
                eventually(lambda pid=known[who]["pid"]: has_ended(pid))
    lines = Path("/proc/mounts").read_text().splitlines()
    for mount in [line.split()[1] for line in lines if line.split()[1].startswith(str(root))][::-1]:
        subprocess.run(["umount", "-l", mount], check=True)
    shutil.rmtree(root)


def test_a_container_goes_on_while_the_engine_is_dead(own_engine: Daemon) -> None:
    # Nobody holds the port while the engine is dead: it is not one that engines beside it would choose.
    port = str(free_port("0.0.0.0"))
    body = {
        "Image": "busybox",
        "Cmd": [
            "sh",
            "-c",
            "httpd -p 80; n=0; while [ ! -e /end ]; do echo line $n; n=$((n+1)); sleep 0.05; done; exit 7",
        ],
        "ExposedPorts": {"80/tcp": {}},
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": port}]}},
    }
    id = own_engine.json("POST", "/containers/create", body)["Id"]
    own_engine.json("POST", f"/containers/{id}/start")
    before = state(own_engine, id)
    assert published(own_engine, id) == port
    addresses = ["127.0.0.1", *(["::1"] if has_ipv6() else [])]
    eventually(lambda: all(is_open(port, address) for address in addresses))
    lines = len(own_engine.docker("logs", id).stdout.splitlines())
    own_engine.kill()
    log = own_engine.folder / f"data/containers/{id}/{id}-json.log"
    size = log.stat().st_size
    eventually(lambda: log.stat().st_size > size + 200, "it stopped writing")
    assert is_open(port)
    own_engine.start()
    after = state(own_engine, id)
    assert (after["Status"], after["Pid"], after["StartedAt"]) == ("running", before["Pid"], before["StartedAt"])
    assert published(own_engine, id) == port
    assert all(is_open(port, address) for address in addresses)
    said = own_engine.docker("logs", id).stdout.splitlines()
    assert len(said) > lines
    assert said == [f"line {n}" for n in range(len(said))]
    assert own_engine.docker("exec", id, "echo", "still here").stdout == "still here\n"
    attached = subprocess.Popen(["docker", "attach", "--no-stdin", id], env=own_engine.environment(), stdout=-1)
    assert attached.stdout is not None
    assert attached.stdout.readline().startswith(b"line ")
    own_engine.docker("exec", id, "touch", "/end")
    assert attached.wait(60) == 7
    attached.stdout.close()
    assert wait(own_engine, id) == 7
    assert not is_open(port)


def test_an_exit_that_nobody_saw_is_told_afterwards(own_engine: Daemon) -> None:
    id = run(own_engine, "while [ ! -e /keep/end ]; do sleep 0.02; done; exit 9")
    volume = Path(inspect(own_engine, id)["Mounts"][0]["Source"])
    exit_file = own_engine.folder / "exec/exits" / id
    own_engine.kill()
    (volume / "end").touch()
    eventually(exit_file.exists)
    written = exit_file.stat().st_mtime
    own_engine.start()
    found = state(own_engine, id)
    assert (found["Status"], found["ExitCode"], found["Pid"], found["Error"]) == ("exited", 9, 0, "")
    finished = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(written))
    assert found["FinishedAt"].startswith(finished)


def test_a_paused_container_stays_paused(own_engine: Daemon) -> None:
    id = run(own_engine, "sleep 60")
    own_engine.json("POST", f"/containers/{id}/pause")
    own_engine.kill()
    own_engine.start()
    assert state(own_engine, id)["Status"] == "paused"
    own_engine.json("POST", f"/containers/{id}/unpause")
    assert state(own_engine, id)["Status"] == "running"
    own_engine.json("POST", f"/containers/{id}/kill")
    assert wait(own_engine, id) == 137


def test_the_end_of_a_monitor_ends_its_container_with_a_reason(own_engine: Daemon) -> None:
    for down in (False, True):
        id = run(own_engine, "sleep 60")
        pids = record(own_engine, id)
        if down:
            own_engine.kill()
        os.kill(pids["monitor"]["pid"], signal.SIGKILL)
        if down:
            eventually(lambda pids=pids: has_ended(pids["monitor"]["pid"]))
            own_engine.start()
        assert wait(own_engine, id) == (255 if down else 137)
        found = state(own_engine, id)
        assert found["Status"] == "exited"
        assert "monitor" in found["Error"], down
        assert has_ended(pids["container"]["pid"])
        own_engine.json("POST", f"/containers/{id}/start")
        assert state(own_engine, id)["Status"] == "running"


def test_the_end_of_the_first_process_is_an_exit(own_engine: Daemon) -> None:
    id = run(own_engine, "sleep 60")
    os.kill(state(own_engine, id)["Pid"], signal.SIGKILL)
    assert wait(own_engine, id) == 137


def test_an_exec_whose_runtime_is_killed_has_ended(own_engine: Daemon) -> None:
    id = run(own_engine, "sleep 60")
    body = {"Cmd": ["sleep", "50"], "AttachStdout": True}
    exec_id = own_engine.json("POST", f"/containers/{id}/exec", body)["Id"]
    own_engine.json("POST", f"/exec/{exec_id}/start", {"Detach": True})
    pid = own_engine.json("GET", f"/exec/{exec_id}/json")["Pid"]
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert b"exec" in Path(f"/proc/{parent}/cmdline").read_bytes()
    os.kill(parent, signal.SIGKILL)
    eventually(lambda: not own_engine.json("GET", f"/exec/{exec_id}/json")["Running"])
    assert own_engine.json("GET", f"/exec/{exec_id}/json")["ExitCode"] == 137
    assert state(own_engine, id)["Status"] == "running"


def test_after_a_reboot_policies_decide_what_runs(own_engine: Daemon) -> None:
    policies: dict[str, dict[str, Any]] = {
        "none": {},
        "always": {"RestartPolicy": {"Name": "always"}},
        "unless-stopped": {"RestartPolicy": {"Name": "unless-stopped"}},
        "on-failure": {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}},
    }
    ids = {name: run(own_engine, "sleep 60", name, **host) for name, host in policies.items()}
    stopped = {
        name: run(own_engine, "exec sleep 60", f"stopped-{name}", **policies[name])
        for name in ("always", "unless-stopped", "on-failure")
    }
    for id in stopped.values():
        own_engine.json("POST", f"/containers/{id}/stop?t=0")
    joins = {"RestartPolicy": {"Name": "always"}, "NetworkMode": "container:always", "PidMode": "container:always"}
    joined = run(own_engine, "sleep 60", "joined", **joins)
    temporary = run(own_engine, "sleep 60", "temporary", AutoRemove=True)
    own_engine.docker(
        "run", "-d", "--name", "named", "-v", "things:/things", "busybox", "sh", "-c", "echo x >/things/x; sleep 60"
    )
    eventually((own_engine.folder / "data/volumes/things/_data/x").exists)
    reboot(own_engine)
    own_engine.start()
    assert not exists(own_engine, temporary)
    lost = state(own_engine, ids["none"])
    assert (lost["Status"], lost["ExitCode"], lost["Pid"]) == ("exited", 255, 0)
    assert lost["Error"]
    for name in ("always", "unless-stopped", "on-failure"):
        eventually(lambda name=name: state(own_engine, ids[name])["Status"] == "running", name)
    eventually(lambda: state(own_engine, stopped["always"])["Status"] == "running")  # as docker: it forgets the stop
    eventually(lambda: state(own_engine, joined)["Status"] == "running", "what it joins was not started first")
    assert state(own_engine, stopped["unless-stopped"])["Status"] == "exited"
    assert state(own_engine, stopped["on-failure"])["Status"] == "exited"
    assert (own_engine.folder / "data/volumes/things/_data/x").read_text() == "x\n"
    assert own_engine.docker("exec", ids["always"], "echo", "works").stdout == "works\n"


def test_a_back_off_goes_on_in_the_next_engine(own_engine: Daemon) -> None:
    id = run(own_engine, "exit 3", RestartPolicy={"Name": "always"})
    eventually(lambda: inspect(own_engine, id)["RestartCount"] >= 4 and state(own_engine, id)["Restarting"])
    before = inspect(own_engine, id)
    own_engine.stop()
    own_engine.start()
    eventually(lambda: state(own_engine, id)["StartedAt"] != before["State"]["StartedAt"])
    after = inspect(own_engine, id)
    waited = moment(after["State"]["StartedAt"]) - moment(before["State"]["FinishedAt"])
    assert waited.total_seconds() > 1.5  # the fifth wait is 1.6 s, the first 0.1
    assert after["RestartCount"] > before["RestartCount"]


def test_a_stopped_engine_leaves_containers_and_their_network_alone(own_engine: Daemon) -> None:
    port = str(free_port("0.0.0.0"))
    output = own_engine.docker("run", "-d", "-p", f"{port}:80", "busybox", "httpd", "-f", "-p", "80").stdout.strip()
    eventually(lambda: is_open(port))
    own_engine.stop()
    assert is_open(port)
    own_engine.start()
    assert is_open(port)
    assert state(own_engine, output)["Status"] == "running"


def test_a_removal_waits_for_nobody_that_is_gone(own_engine: Daemon) -> None:
    id = create(own_engine, "sleep 60")
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(own_engine.socket))
    connection.request("POST", f"/containers/{id}/wait?condition=removed")
    own_engine.json("DELETE", f"/containers/{id}?v=1")
    assert msgspec.json.decode(connection.getresponse().read())["StatusCode"] == 0
    connection.close()


def test_a_rotation_that_a_kill_cut_off_is_finished(own_engine: Daemon) -> None:
    flags = ["--log-opt", "max-size=2k", "--log-opt", "max-file=9"]
    own_engine.at("logs.shifted", "kill")
    script = "seq 1 200; while [ ! -e /go ]; do sleep 0.1; done; seq 201 400; sleep 600"
    box = own_engine.docker("create", *flags, "busybox", "sh", "-c", script).stdout.strip()
    own_engine.docker("start", box, check=False)  # it may be killed before it answers
    own_engine.wait_killed()
    own_engine.start()
    log = own_engine.folder / "data/containers" / box / f"{box}-json.log"
    eventually(log.exists)
    own_engine.docker("exec", box, "touch", "/go")
    eventually(log.with_name(f"{log.name}.2").exists)
    eventually(lambda: "\n400\n" in own_engine.docker("logs", box).stdout)
    assert own_engine.docker("logs", box).stdout == "".join(f"{number}\n" for number in range(1, 401))
