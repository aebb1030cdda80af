"""What can't be created, with docker's statuses and words. A 404 stands for a missing image only: clients pull then."""

import json
from typing import Any

import pytest

from support.daemon import Daemon


def _log(driver: str, options: dict[str, str]) -> dict[str, Any]:
    return {"LogConfig": {"Type": driver, "Config": options}}


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"Image": "nosuch"}, 404, "No such image: nosuch:latest"),
    ({"Image": "Bad Name"}, 400, "invalid reference format"),
    ({}, 400, "config cannot be empty in order to create a container"),
    ({"Image": 1}, 400, "cannot unmarshal number into Go struct field"),
    ({"Image": "busybox", "Env": [1]}, 400, "cannot unmarshal number into Go struct field"),
    ({"Image": "busybox", "Labels": ["x"]}, 400, "cannot unmarshal array into Go struct field"),
    ({"Image": "busybox", "HostConfig": {"Memory": "x"}}, 400, "cannot unmarshal string into Go struct field"),
    ({"Image": "busybox", "Env": ["=x"]}, 400, "invalid environment variable: =x"),
    ({"Image": "busybox", "WorkingDir": "x"}, 400, "the working directory 'x' is invalid, it needs to be an absolute"),
    ({"Image": "busybox", "StopSignal": "BOGUS"}, 400, "invalid signal: BOGUS"),
    ({"Image": "busybox", "Healthcheck": {"Interval": 5}}, 400, "Interval in Healthcheck cannot be less than 1ms"),
    ({"Image": "busybox", "Healthcheck": {"Retries": -1}}, 400, "Retries in Healthcheck cannot be negative"),
    ({"NetworkMode": "container:nosuch"}, 400, "No such container: nosuch"),
    ({"NetworkMode": "nosuch"}, 400, "network nosuch not found"),
    ({"NetworkMode": "container:"}, 400, "invalid container format container:<name|id>"),
    ({"VolumesFrom": ["nosuch"]}, 400, "No such container: nosuch"),
    ({"Links": ["nosuch"]}, 400, "could not get container for nosuch: No such container: nosuch"),
    ({"Memory": 4 << 20}, 400, "Minimum memory limit allowed is 6MB"),
    ({"Memory": 64 << 20, "MemorySwap": 32 << 20}, 400, "Minimum memoryswap limit should be larger than memory limit"),
    ({"MemorySwap": 32 << 20}, 400, "You should always set the Memory limit when using Memoryswap limit, see usage"),
    ({"MemorySwappiness": 200}, 400, "Invalid value: 200, valid memory swappiness range is 0-100"),
    ({"NanoCpus": 10**12}, 400, "range of CPUs is from 0.01 to"),
    ({"NanoCpus": 10**9, "CpuQuota": 5000}, 400, "Conflicting options: Nano CPUs and CPU Quota cannot"),
    ({"CpuQuota": 5}, 400, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
    ({"CpuPeriod": 5}, 400, "CPU cfs period can not be less than 1ms (i.e. 1000)"),
    ({"CpuShares": -1}, 400, "shares: invalid argument"),
    ({"CpusetCpus": "a"}, 400, "Invalid value a for cpuset cpus: invalid format: a"),
    ({"CpusetCpus": "999"}, 400, "Requested CPUs are not available - requested 999, available: 0"),
    ({"OomScoreAdj": 2000}, 400, "Invalid value 2000, range for oom score adj is [-1000, 1000]"),
    ({"ShmSize": -1}, 400, "SHM size can not be less than 0"),
    ({"Ulimits": [{"Name": "nofile", "Soft": 3, "Hard": 2}]}, 400, "ulimit soft limit must be less than or equal to"),
    ({"CapAdd": ["NOSUCH"]}, 400, 'invalid CapAdd: unknown capability: "CAP_NOSUCH"'),
    ({"StorageOpt": {"size": "1G"}}, 400, "--storage-opt is supported only for overlay over xfs with 'pquota'"),
    ({"RestartPolicy": {"Name": "bogus"}}, 400, "invalid restart policy: unknown policy 'bogus'"),
    (
        {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}},
        400,
        "invalid restart policy: maximum retry count can only be used with 'on-failure'",
    ),
    (
        {"AutoRemove": True, "RestartPolicy": {"Name": "always"}},
        400,
        "can't create 'AutoRemove' container with restart policy",
    ),
    ({"LogConfig": {"Type": "bogus"}}, 400, "no log driver named 'bogus' is registered"),
    (_log("json-file", {"bogus": "1"}), 400, "unknown log opt 'bogus' for json-file log driver"),
    (_log("json-file", {"max-size": "abc"}), 400, "invalid size: 'abc'"),
    (_log("json-file", {"max-size": "0"}), 400, "max-size must be a positive number"),
    (_log("json-file", {"max-file": "0"}), 400, "max-file cannot be less than 1"),
    (_log("json-file", {"max-file": "x"}), 400, 'strconv.Atoi: parsing "x": invalid syntax'),
    (_log("json-file", {"compress": "true"}), 400, "compress cannot be true when max-file is less than 2"),
    (_log("local", {"max-file": "1"}), 400, "compression cannot be enabled when max file count is 1"),
    (_log("local", {"compress": "maybe"}), 400, 'strconv.ParseBool: parsing "maybe": invalid syntax'),
    (_log("json-file", {"mode": "bogus"}), 400, "logger: logging mode not supported: bogus"),
    (_log("json-file", {"max-buffer-size": "1m"}), 400, "option is only supported with 'mode=non-blocking'"),
    (
        _log("json-file", {"mode": "non-blocking", "max-buffer-size": "x"}),
        400,
        "error parsing option max-buffer-size: invalid size: 'x'",
    ),
    (_log("local", {"tag": "x"}), 400, "unknown log opt 'tag' for log driver local"),
    (_log("journald", {"bogus": "x"}), 400, "unknown log opt 'bogus' for journald log driver"),
    (_log("syslog", {"max-size": "1m"}), 400, "unknown log opt 'max-size' for syslog log driver"),
    (_log("syslog", {"cache-disabled": "bogus"}), 400, "invalid value for option cache-disabled: bogus"),
    (_log("syslog", {"syslog-address": "x"}), 400, "syslog-address should be in form proto://address, got x"),
    (_log("syslog", {"syslog-address": "unix:///nosuch"}), 400, "stat /nosuch: no such file or directory"),
    (_log("syslog", {"syslog-facility": "99"}), 400, "invalid syslog facility"),
    (_log("syslog", {"syslog-format": "bogus"}), 400, "Invalid syslog format"),
    ({"ExtraHosts": ["bogus"]}, 400, 'bad format for add-host: "bogus"'),
    ({"ExtraHosts": ["a:b"]}, 400, 'invalid IP address in add-host: "b"'),
    ({"PidMode": "container:nosuch"}, 400, "No such container: nosuch"),
    ({"IpcMode": "container:nosuch"}, 400, "No such container: nosuch"),
    (
        {"NetworkMode": "none", "Links": ["nosuch"]},
        400,
        "could not get container for nosuch: No such container: nosuch",
    ),
    (
        {"NetworkMode": "host", "Links": ["a:b"]},
        400,
        "conflicting options: host type networking can't be used with links",
    ),
    ({"CpusetMems": "77"}, 400, "Requested memory nodes are not available - requested 77, available: 0"),
    ({"IOMaximumIOps": 5}, 400, "linux does not support configuration of maximum IOPs"),
    ({"NanoCpus": 10**9, "CpuPeriod": 5000}, 400, "Conflicting options: Nano CPUs and CPU Period cannot both be set"),
    ({"Runtime": "bogus"}, 400, "unknown or invalid runtime name: bogus"),
    ({"Isolation": "hyperv"}, 400, "invalid isolation"),
    ({"SecurityOpt": ["bogus"]}, 400, 'invalid --security-opt 1: "bogus"'),
    ({"SecurityOpt": ["foo=bar"]}, 400, 'invalid --security-opt 2: "foo=bar"'),
    ({"SecurityOpt": ["no-new-privileges=maybe"]}, 400, 'invalid --security-opt 2: "no-new-privileges=maybe"'),
    ({"PidMode": "bogus"}, 400, "invalid PID mode: bogus"),
    ({"IpcMode": "bogus"}, 400, "invalid IPC mode: bogus"),
    ({"UTSMode": "bogus"}, 400, "invalid UTS mode: bogus"),
    ({"CgroupnsMode": "bogus"}, 400, "invalid cgroup namespace mode: bogus"),
    ({"UsernsMode": "bogus"}, 400, "invalid USER mode: bogus"),
    ({"PortBindings": {"80/tcp": [{"HostPort": "abc"}]}}, 400, 'invalid port specification: "abc"'),
    ({"PortBindings": {"99999/tcp": []}}, 400, 'invalid port specification: "99999/tcp"'),
    ({"Binds": ["rel/x:/d"]}, 400, 'create rel/x: "rel/x" includes invalid characters for a local volume name'),
    ({"Binds": ["/a:/b:zz"]}, 400, "invalid mode: zz"),
    (
        {"Binds": ["/:/"]},
        400,
        "invalid volume specification: '/:/': invalid mount config for type \"bind\": "
        "invalid specification: destination can't be '/'",
    ),
    ({"Binds": ["/tmp:/x", "/var:/x"]}, 400, "Duplicate mount point: /x"),
    (
        {"Mounts": [{"Type": "bogus", "Target": "/x"}]},
        400,
        'invalid mount config for type "bogus": mount type unknown',
    ),
    (
        {"Mounts": [{"Type": "bind", "Source": "/nosuchfolder", "Target": "/x"}]},
        400,
        'invalid mount config for type "bind": bind source path does not exist: /nosuchfolder',
    ),
    (
        {"Mounts": [{"Type": "bind", "Source": "/tmp", "Target": "x"}]},
        400,
        "invalid mount path: 'x' mount path must be absolute",
    ),
    (
        {"Mounts": [{"Type": "tmpfs", "Source": "/tmp", "Target": "/x"}]},
        400,
        'invalid mount config for type "tmpfs": field Source must not be specified',
    ),
]


@pytest.mark.parametrize(("body", "status", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_refused(engine: Daemon, body: dict[str, Any], status: int, words: str) -> None:
    config = {"Image", "Env", "Labels", "WorkingDir", "StopSignal", "Healthcheck", "HostConfig"}
    if body and not config & set(body):
        body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": body}
    found, answer = engine.request("POST", "/v1.50/containers/create", body)
    assert (found, words in json.loads(answer)["message"]) == (status, True), answer
    assert engine.json("GET", "/containers/json?all=1") == []


def test_nulls_are_absent(engine: Daemon) -> None:
    nulls = ["Binds", "PortBindings", "RestartPolicy", "LogConfig", "CapAdd", "Mounts", "Tmpfs", "Sysctls", "Ulimits"]
    body = {"Image": "busybox", "Cmd": ["true"], "Env": None, "Labels": None, "Entrypoint": None}
    engine.json("POST", "/v1.50/containers/create", {**body, "HostConfig": dict.fromkeys(nulls)})


def test_defaults_are_docker_s(engine: Daemon) -> None:
    id = engine.json("POST", "/v1.50/containers/create", {"Image": "busybox"})["Id"]
    found = engine.json("GET", f"/v1.50/containers/{id}/json")
    host = found["HostConfig"]
    for key, value in {
        "NetworkMode": "bridge",
        "IpcMode": "private",
        "PidMode": "",
        "ShmSize": 64 << 20,
        "Privileged": False,
        "AutoRemove": False,
        "Binds": None,
        "CapAdd": None,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "ConsoleSize": [0, 0],
        "Memory": 0,
        "PidsLimit": None,
        "Init": None,
    }.items():
        if key in host or value is not None:
            assert host[key] == value, key
    assert host["LogConfig"]["Type"] == "json-file"
    assert "/proc/kcore" in host["MaskedPaths"]
    assert "/proc/sys" in host["ReadonlyPaths"]
    assert (found["Config"]["Hostname"], found["Config"]["Cmd"]) == (id[:12], ["sh"])
    assert found["State"]["StartedAt"] == found["State"]["FinishedAt"] == "0001-01-01T00:00:00Z"


@pytest.mark.parametrize("version", ["1.30", "1.50"])
@pytest.mark.parametrize(
    ("ref", "status"), [("Bad", 400), ("nosuch", 404), ("x@sha256:12", 400), (f"sha256:{'0' * 64}", 404)]
)
def test_image_names(engine: Daemon, version: str, ref: str, status: int) -> None:
    for method, path in (
        ("GET", f"/images/{ref}/json"),
        ("DELETE", f"/images/{ref}"),
        ("GET", f"/images/{ref}/history"),
    ):
        assert engine.request(method, f"/v{version}{path}")[0] == status
