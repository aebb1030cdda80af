"""The same requests to our engine and to the dockerd that is installed: the same refusals, documents and events."""

import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support import dockerd
from support.daemon import Daemon, Registry, folder

VERSION = (
    subprocess.run([dockerd.PROGRAM, "--version"], capture_output=True, text=True, check=False).stdout
    if dockerd.PROGRAM
    else ""
)
pytestmark = pytest.mark.skipif(
    "20.10" not in VERSION or shutil.which("docker") is None,
    reason="there is no dockerd 20.10 to compare with",
)
API = "/v1.41"


@pytest.fixture(scope="module")
def theirs(registry: Registry) -> Iterator[dockerd.Dockerd]:
    with folder() as path, dockerd.running(path, f"http://{registry.address}") as daemon:
        daemon.docker("pull", "-q", "busybox")
        yield daemon


REFUSED_HOST_CONFIGS: list[dict[str, Any]] = [
    {"Memory": 4194304},
    {"Memory": 67108864, "MemorySwap": 33554432},
    {"Memory": -5},
    {"MemorySwap": 33554432},
    {"MemorySwappiness": 200},
    {"MemorySwappiness": -2},
    {"MemoryReservation": 1},
    {"MemoryReservation": 134217728, "Memory": 67108864},
    {"NanoCpus": 1000000000, "CpuQuota": 5000},
    {"NanoCpus": 1000000000, "CpuPeriod": 5000},
    {"CpuQuota": 5},
    {"CpuPeriod": 5},
    {"CpuPeriod": -1},
    {"CpusetCpus": "a"},
    {"CpusetCpus": "9999"},
    {"CpusetCpus": "1-0"},
    {"CpusetMems": "777"},
    {"OomScoreAdj": 2000},
    {"OomScoreAdj": -1001},
    {"ShmSize": -1},
    {"CapAdd": ["NOSUCH"]},
    {"CapDrop": ["bogus"]},
    {"AutoRemove": True, "RestartPolicy": {"Name": "always"}},
    {"LogConfig": {"Type": "json-file", "Config": {"bogus": "1"}}},
    {"LogConfig": {"Type": "json-file", "Config": {"mode": "bogus"}}},
    {"LogConfig": {"Type": "json-file", "Config": {"max-buffer-size": "1m"}}},
    {"LogConfig": {"Type": "json-file", "Config": {"mode": "non-blocking", "max-buffer-size": "x"}}},
    {"LogConfig": {"Type": "local", "Config": {"tag": "x"}}},
    {"LogConfig": {"Type": "journald", "Config": {"bogus": "x"}}},
    {"LogConfig": {"Type": "syslog", "Config": {"max-size": "1m"}}},
    {"LogConfig": {"Type": "syslog", "Config": {"cache-disabled": "bogus"}}},
    {"LogConfig": {"Type": "syslog", "Config": {"syslog-address": "x"}}},
    {"LogConfig": {"Type": "syslog", "Config": {"syslog-address": "unix:///nosuch"}}},
    {"LogConfig": {"Type": "syslog", "Config": {"syslog-facility": "99"}}},
    {"LogConfig": {"Type": "syslog", "Config": {"syslog-format": "bogus"}}},
    {"ExtraHosts": ["bogus"]},
    {"ExtraHosts": ["a:b"]},
    {"PidMode": "container:nosuch"},
    {"IpcMode": "container:nosuch"},
    {"VolumesFrom": ["nosuch"]},
    {"VolumesFrom": ["a:b:c"]},
    {"Links": ["nosuch"]},
    {"NetworkMode": "none", "Links": ["nosuch"]},
    {"NetworkMode": "host", "Links": ["a:b"]},
    {"CgroupnsMode": "bogus"},
    {"PortBindings": {"80/tcp": [{"HostPort": "abc"}]}},
    {"PortBindings": {"80/tcp": [{"HostPort": "80-70"}]}},
    {"PortBindings": {"80/tcp": [{"HostPort": "70000"}]}},
    {"Binds": ["rel/x:/d"]},
    {"Binds": ["/tmp:/x", "/var:/x"]},
    {"Mounts": [{"Type": "bogus", "Target": "/x"}]},
    {"Mounts": [{"Type": "bind", "Source": "/nosuchfolder", "Target": "/x"}]},
    {"Mounts": [{"Type": "bind", "Source": "/tmp", "Target": "x"}]},
    {"Mounts": [{"Type": "bind", "Target": "/x"}]},
    {"Mounts": [{"Type": "bind", "Source": "/tmp"}]},
    {"Mounts": [{"Type": "tmpfs", "Source": "/tmp", "Target": "/x"}]},
    {"Mounts": [{"Type": "volume", "Target": "/x", "BindOptions": {}}]},
    {"Mounts": [{"Target": "/x"}]},
]
REFUSED_CONFIGS: list[dict[str, Any]] = [
    {"Env": ["=x"]},
    {"Env": [""]},
    {"WorkingDir": "x"},
    {"Healthcheck": {"Interval": 5}},
    {"Healthcheck": {"Timeout": 1}},
    {"Healthcheck": {"StartPeriod": -1}},
    {"Healthcheck": {"Retries": -1}},
    {"Hostname": "x", "HostConfig": {"NetworkMode": "container:x"}},
    {"Hostname": "x", "HostConfig": {"UTSMode": "host"}},
    {"MacAddress": "02:42:ac:11:00:99", "HostConfig": {"NetworkMode": "host"}},
    {"Image": "nosuch"},
]
REFUSED_REQUESTS = """
POST /containers/nosuch/start
POST /containers/done/kill
POST /containers/done/pause
POST /containers/up/rename?name=done
POST /containers/up/rename?name=
POST /containers/up/rename?name=a/b
POST /containers/nosuch/rename?name=x1
POST /containers/nosuch/wait
DELETE /containers/nosuch
GET /containers/nosuch/json
GET /containers/nosuch/logs?stdout=1
GET /containers/up/logs
GET /containers/done/top
GET /containers/nosuch/changes
GET /containers/nosuch/stats?stream=0
GET /containers/nosuch/export
GET /containers/up/archive?path=/nosuch
GET /exec/nosuch/json
GET /containers/json?filters={"bogus":["x"]}
GET /containers/json?filters={"status":["bogus"]}
POST /containers/prune?filters={"bogus":["x"]}
""".strip().splitlines()


def _refusals(ours: Daemon, theirs: dockerd.Dockerd, method: str, path: str, body: Any = None) -> list[tuple[int, str]]:
    """Status and words of both, without capitals: dockerd has fewer of them in each version."""
    found = [engine.request(method, API + path, body) for engine in (ours, theirs)]
    assert all(status >= 400 for status, _ in found), found
    return [(status, re.sub(r"[0-9a-f]{64}", "ID", json.loads(data)["message"]).lower()) for status, data in found]


def _compare(ours: Daemon, theirs: dockerd.Dockerd, method: str, path: str, body: Any = None) -> None:
    first, second = _refusals(ours, theirs, method, path, body)
    assert first == second


@pytest.mark.parametrize("body", REFUSED_HOST_CONFIGS, ids=str)
def test_host_configs_are_refused_alike(engine: Daemon, theirs: dockerd.Dockerd, body: dict[str, Any]) -> None:
    _compare(engine, theirs, "POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": body})


@pytest.mark.parametrize("body", REFUSED_CONFIGS, ids=str)
def test_configs_are_refused_alike(engine: Daemon, theirs: dockerd.Dockerd, body: dict[str, Any]) -> None:
    _compare(engine, theirs, "POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], **body})


def test_requests_are_refused_alike(engine: Daemon, theirs: dockerd.Dockerd) -> None:
    for daemon in (engine, theirs):
        daemon.docker("run", "-d", "--name", "up", "busybox", "sleep", "600")
        daemon.docker("run", "--name", "done", "busybox", "true")
    try:
        found = {}
        for line in REFUSED_REQUESTS:
            method, path = line.split()
            quoted = path.replace('"', "%22").replace("{", "%7B").replace("}", "%7D")
            first, second = _refusals(engine, theirs, method, quoted)
            if first != second:
                found[line] = first, second
        assert not found, json.dumps(found, indent=1)
    finally:
        theirs.clean()


ASKED: dict[str, Any] = {
    "Image": "busybox",
    "Cmd": ["sleep", "100"],
    "Hostname": "h",
    "Domainname": "d",
    "User": "root",
    "Env": ["A=1"],
    "Labels": {"l": "1"},
    "WorkingDir": "/tmp",
    "StopSignal": "SIGINT",
    "StopTimeout": 3,
    "ExposedPorts": {"90/udp": {}},
    "Tty": True,
    "OpenStdin": True,
    "HostConfig": {
        "Memory": 64 << 20,
        "MemorySwap": 128 << 20,
        "MemoryReservation": 32 << 20,
        "MemorySwappiness": -1,
        "CpuShares": 512,
        "CpuPeriod": 100000,
        "CpuQuota": 50000,
        "CpusetCpus": "0",
        "CpusetMems": "0",
        "PidsLimit": 100,
        "OomScoreAdj": 500,
        "Ulimits": [{"Name": "nofile", "Soft": 64, "Hard": 128}],
        "Sysctls": {"net.core.somaxconn": "77"},
        "ShmSize": 8 << 20,
        "Tmpfs": {"/t": "size=1m"},
        "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "rw"}],
        "DeviceCgroupRules": ["c 7:* rmw"],
        "CapAdd": ["NET_ADMIN"],
        "CapDrop": ["CHOWN"],
        "ReadonlyRootfs": True,
        "SecurityOpt": ["no-new-privileges"],
        "PidMode": "host",
        "IpcMode": "shareable",
        "CgroupnsMode": "host",
        "GroupAdd": ["1234"],
        "ExtraHosts": ["a:1.2.3.4"],
        "Dns": ["9.9.9.9"],
        "DnsOptions": ["ndots:2"],
        "DnsSearch": ["x.y"],
        "Init": True,
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
        "NetworkMode": "none",
    },
}
DIFFERENT = re.compile(
    # What two engines can't have in common, and what dockerd has changed since 20.10 (in the second line).
    r"(Id|Created|Driver|GraphDriver.*|\w+Path|State\.Pid|State\.StartedAt|.*\.(EndpointID|NetworkID|Sandbox\w+)"
    r"|HostConfig\.(KernelMemory\w*|MaskedPaths|Runtime)|NetworkSettings\.Networks\.\w+\.(DNSNames|GwPriority))"
)


def _flat(document: object, path: str = "") -> dict[str, object]:
    if isinstance(document, dict) and document:
        found: dict[str, object] = {}
        for key, value in document.items():
            found |= _flat(value, f"{path}.{key}" if path else key)
        return found
    return {} if DIFFERENT.fullmatch(path) else {path: document}


def test_a_container_looks_the_same(engine: Daemon, theirs: dockerd.Dockerd) -> None:
    found = []
    for daemon in (engine, theirs):
        daemon.json("POST", f"{API}/containers/create?name=box", ASKED)
        daemon.json("POST", f"{API}/containers/box/start")
        found.append(_flat(daemon.json("GET", f"{API}/containers/box/json")))
    theirs.clean()
    assert found[0] == found[1]


LIVES = [
    ["run --name box busybox true"],
    ["run --rm --name box busybox true"],
    ["run -d --name box busybox sleep 600", "stop -t 0 box", "start box", "restart -t 0 box", "kill box"],
    ["run -d --name box busybox sleep 600", "exec box echo hi", "exec -d box true", "exec box sleep 0.5", "rm -f box"],
    ["run -d --name box busybox sleep 600", "pause box", "unpause box", "rename box other", "top other"],
    ["run -d --name box busybox sleep 600", "pause box", "stop -t 1 box", "rm box"],
    ["run -d --name box -v data:/v busybox sleep 600", "update --memory 32m --memory-swap 64m box", "rm -f box"],
    ["run -d --name box busybox sleep 600", "cp box:/etc/passwd -", "export box", "kill -s HUP box"],
    ["create --name box busybox nosuch", "start box", "rm box"],
]


@pytest.mark.parametrize("commands", LIVES, ids=str)
def test_lives_have_the_same_events(engine: Daemon, theirs: dockerd.Dockerd, commands: list[str]) -> None:
    found = []
    for daemon in (engine, theirs):
        since = time.time_ns()
        for command in commands:
            daemon.docker(*shlex.split(command), check=False)
        daemon.docker("create", "--name", "end", "busybox")
        found.append(_events(daemon, since))
    theirs.clean()
    assert found[0] == found[1]


def _events(daemon: Any, since: int) -> list[tuple[str, str, list[str]]]:
    """Type, action and names of attributes, up to the creation of `end`, which comes last.

    dockerd 28 gives networks and volumes back before it tells of the end (20.10 after it), and has `execDuration`.
    """
    end = time.time_ns()
    query = f"since={since // 10**9}.{since % 10**9:09d}&until={end // 10**9}.{end % 10**9:09d}"
    events = [json.loads(line) for line in daemon.request("GET", f"{API}/events?{query}")[1].splitlines()]
    assert events[-1]["Actor"]["Attributes"]["name"] == "end"
    # The end of a detached exec comes when it comes; all else of a container has an order.
    free = [event for event in events if event["Type"] in ("network", "volume") or event["Action"] == "exec_die"]
    ordered = [event for event in events if event["Type"] == "container" and event not in free]
    named = [(f"container {number}", event) for number, event in enumerate(ordered)]
    return sorted(
        (name, event["Action"], sorted(set(event["Actor"]["Attributes"]) - {"execDuration"}))
        for name, event in [*named, *((event["Type"], event) for event in free)]
    )
