"""Every field of HostConfig and Config: set by the API, looked at from inside the container."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec
import pytest

from scow.linux.cgroup import ROOT, is_unified
from scow.wire.container import ContainerConfig
from scow.wire.host_config import HostConfig
from support.daemon import Daemon
from support.raw import frames

PARENT = f"scow-test-{hashlib.sha256(__file__.encode()).hexdigest()[:8]}"  # the same for all who collect the tests
DISK = next((f"/dev/{name}" for name in os.listdir("/sys/block") if os.path.exists(f"/dev/{name}")), "")


def group(old: str, new: str) -> str:
    """A command that shows a file of the container's control group, of version 1 or 2."""
    return f"cat /sys/fs/cgroup/{new if is_unified() else old}"


def either(old: str, new: str) -> str:
    """What version 1 or version 2 says."""
    return new if is_unified() else old


Row = tuple[dict[str, Any], str, str]
HOST: list[Row] = [
    # resources
    ({"Memory": 64 << 20}, group("memory/memory.limit_in_bytes", "memory.max"), "67108864"),
    (
        {"Memory": 64 << 20, "MemorySwap": 96 << 20},
        "cat /sys/fs/cgroup/memory.swap.max" if is_unified() else "cat /sys/fs/cgroup/memory/*memsw.limit* || echo -",
        either("100663296" if (ROOT / "memory/memory.memsw.limit_in_bytes").exists() else "-", "33554432"),
    ),
    ({"MemoryReservation": 32 << 20}, group("memory/memory.soft_limit_in_bytes", "memory.low"), "33554432"),
    ({"MemorySwappiness": 7}, group("memory/memory.swappiness", "memory.max"), either("7", "max")),
    (
        {"OomKillDisable": True, "Memory": 64 << 20},
        "head -1 /sys/fs/cgroup/memory/memory.oom_control" if not is_unified() else "echo -",
        either("oom_kill_disable 1", "-"),
    ),
    ({"CpuShares": 512}, group("cpu/cpu.shares", "cpu.weight"), either("512", "20")),
    ({"CpuPeriod": 50000}, group("cpu/cpu.cfs_period_us", "cpu.max"), either("50000", "max 50000")),
    ({"CpuQuota": 25000}, group("cpu/cpu.cfs_quota_us", "cpu.max"), either("25000", "25000 100000")),
    ({"NanoCpus": 500_000_000}, group("cpu/cpu.cfs_quota_us", "cpu.max"), either("50000", "50000 100000")),
    ({"CpusetCpus": "0"}, group("cpuset/cpuset.cpus", "cpuset.cpus"), "0"),
    ({"CpusetMems": "0"}, group("cpuset/cpuset.mems", "cpuset.mems"), "0"),
    ({"PidsLimit": 33}, group("pids/pids.max", "pids.max"), "33"),
    ({"PidsLimit": -1}, group("pids/pids.max", "pids.max"), "max"),
    ({"OomScoreAdj": 500}, "cat /proc/self/oom_score_adj", "500"),
    (
        {"Ulimits": [{"Name": "nofile", "Soft": 64, "Hard": 128}, {"Name": "core", "Soft": 0, "Hard": 0}]},
        "ulimit -Sn; ulimit -Hn; ulimit -Hc",
        "64\n128\n0",
    ),
    ({"CgroupParent": f"/{PARENT}/a"}, f"grep -c /{PARENT}/a/ /proc/self/cgroup > /dev/null && echo in it", "in it"),
    ({"CgroupParent": f"../{PARENT}"}, f"grep -c :/{PARENT}/ /proc/self/cgroup > /dev/null && echo in it", "in it"),
    ({"ShmSize": 8 << 20}, "grep -o '/dev/shm.*size=[0-9]*k' /proc/mounts | grep -o '[0-9]*k'", "8192k"),
    ({"Sysctls": {"net.core.somaxconn": "77"}}, "cat /proc/sys/net/core/somaxconn", "77"),
    # devices
    (
        {"Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}]},
        "stat -c %t,%T /dev/x",
        "1,3",
    ),
    ({"DeviceCgroupRules": ["c 10:229 rwm"]}, "echo allowed", "allowed"),
    # privileges
    ({"CapAdd": ["SYS_TIME"]}, "grep CapEff /proc/self/status | cut -f2", "00000000aa0425fb"),
    ({"CapDrop": ["CAP_CHOWN"]}, "grep CapEff /proc/self/status | cut -f2", "00000000a80425fa"),
    ({"Privileged": True}, "grep Seccomp: /proc/self/status | cut -f2; wc -c < /proc/keys > /dev/null", "0"),
    ({"SecurityOpt": ["no-new-privileges"]}, "grep NoNewPrivs /proc/self/status | cut -f2", "1"),
    (
        {"SecurityOpt": ["no-new-privileges=false", "seccomp=unconfined", "label=disable", "apparmor=unconfined"]},
        "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status | cut -f2",
        "0\n0",
    ),
    ({"MaskedPaths": [], "ReadonlyPaths": []}, "grep -c ' /proc/' /proc/mounts", "0"),
    ({"MaskedPaths": ["/etc/passwd"]}, "wc -c < /etc/passwd", "0"),
    ({"ReadonlyPaths": ["/etc"]}, "touch /etc/x 2>&1", "touch: /etc/x: Read-only file system"),
    (
        {"ReadonlyRootfs": True},
        "touch /x /etc/hosts /etc/resolv.conf /dev/shm/x 2>&1",
        "\n".join(f"touch: {path}: Read-only file system" for path in ("/x", "/etc/hosts", "/etc/resolv.conf")),
    ),
    ({"GroupAdd": ["extra", "77"]}, "id -G", "0 77 2000"),
    ({"UsernsMode": "host"}, "cat /proc/self/uid_map | sed 's/ \\+/ /g'", " 0 0 4294967295"),
    # namespaces
    ({"PidMode": "host"}, f"test -e /proc/{os.getpid()} && echo seen", "seen"),
    ({"IpcMode": "none"}, "grep -c /dev/shm /proc/mounts", "0"),
    ({"IpcMode": "shareable"}, "grep -c /dev/shm /proc/mounts", "1"),
    ({"UTSMode": "host"}, "hostname", os.uname().nodename),
    ({"CgroupnsMode": "private"}, "grep -c /scow /proc/self/cgroup", "0"),
    ({"CgroupnsMode": "host"}, "grep -q /scow /proc/self/cgroup; echo $?", "0"),
    ({"NetworkMode": "none"}, "ls /sys/class/net", "lo"),
    # names
    ({"Dns": ["192.0.2.1"], "DnsSearch": ["a.b"], "DnsOptions": ["ndots:2"]}, "cat /etc/resolv.conf",
     "nameserver 192.0.2.1\nsearch a.b\noptions ndots:2"),
    ({"ExtraHosts": ["a:192.0.2.2"]}, "grep 192.0.2.2 /etc/hosts", "192.0.2.2\ta"),
    # files
    ({"Binds": ["/proc/sys:/b:ro"]}, "cat /b/kernel/ostype", "Linux"),
    ({"Tmpfs": {"/t": "size=64k,mode=1770"}}, "stat -c %a /t; grep -o ' /t tmpfs .*size=64k' /proc/mounts | wc -l",
     "1770\n1"),
    ({"Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 65536, "Mode": 448}}]},
     "stat -c %a /t; grep -o ' /t tmpfs .*size=64k' /proc/mounts | wc -l", "700\n1"),
    ({"Mounts": [{"Type": "image", "Source": "busybox", "Target": "/i"}]}, "cat /i/data/seed; touch /i/x 2>&1",
     "seed\ntouch: /i/x: Read-only file system"),
    ({"Mounts": [{"Type": "image", "Source": "busybox", "Target": "/i", "ImageOptions": {"Subpath": "data"}}]},
     "ls /i", "seed"),
    ({"Mounts": [{"Type": "volume", "Target": "/data", "VolumeOptions": {"NoCopy": True}}]}, "ls /data | wc -l", "0"),
    # the rest
    ({"Init": True}, "cat /proc/1/comm", "docker-init"),
    ({"Runtime": ""}, "echo ran", "ran"),
    ({"AutoRemove": False, "PublishAllPorts": True, "PortBindings": {"80/tcp": []}}, "echo ran", "ran"),
    ({"Annotations": {"org.example.a": "b"}}, "echo ran", "ran"),
    ({"ConsoleSize": [10, 20], "RestartPolicy": {"Name": "no"}, "Isolation": "default"}, "echo ran", "ran"),
    ({"KernelMemory": 0, "KernelMemoryTCP": 0, "CpuCount": 2, "CpuPercent": 50}, "echo ran", "ran"),
    ({"LogConfig": {"Type": "local", "Config": {"max-size": "1m"}}}, "echo ran", "ran"),
]  # fmt: skip
for field, file in (
    ("BlkioDeviceReadBps", "read_bps_device"),
    ("BlkioDeviceWriteBps", "write_bps_device"),
    ("BlkioDeviceReadIOps", "read_iops_device"),
    ("BlkioDeviceWriteIOps", "write_iops_device"),
):
    if DISK:
        shows = group(f"blkio/blkio.throttle.{file}", "io.max")
        HOST.append(({field: [{"Path": DISK, "Rate": 1 << 20}]}, f"{shows} | grep -c 1048576", "1"))
CONFIG: list[Row] = [
    ({"Hostname": "h", "Domainname": "d.e"}, "hostname; cat /proc/sys/kernel/domainname; tail -1 /etc/hosts | cut -f2",
     "h\nd.e\nh.d.e h"),
    ({"User": "app:extra"}, "id -un; id -gn", "app\nextra"),
    ({"Env": ["A=1", "B=", "PATH=/bin"]}, 'echo "$A,$B,$PATH,${HOME}"', "1,,/bin,/root"),
    ({"WorkingDir": "/a/../b"}, "pwd", "/b"),
    ({"Entrypoint": ["sh", "-c"], "Cmd": ["echo $0", "x"]}, "", "x"),
    ({"Entrypoint": "pwd", "Cmd": []}, "", "/"),
    ({"Cmd": "pwd"}, "", "/"),
    ({"Tty": True}, "test -t 1 && echo terminal; echo $TERM", "terminal\nxterm"),
    ({"OpenStdin": True, "StdinOnce": True, "AttachStdin": True}, "echo waits for nobody", "waits for nobody"),
    ({"NetworkDisabled": True}, "ls /sys/class/net", "lo"),
    ({"MacAddress": "02:42:ac:11:00:99"}, "cat /sys/class/net/eth0/address", "02:42:ac:11:00:99"),
    ({"Volumes": {"/data": {}}}, "ls /data; grep -c ' /data ' /proc/mounts", "seed\n1"),
    ({"Volumes": {"data": {}}}, "ls /data; grep -c ' /data ' /proc/mounts", "seed\n1"),
    ({"Labels": {"a": "b"}, "ExposedPorts": {"80/tcp": {}}, "OnBuild": ["RUN x"], "ArgsEscaped": True},
     "echo ran", "ran"),
    ({"StopSignal": "SIGUSR1", "StopTimeout": 3, "Shell": ["/bin/sh", "-c"]}, "echo ran", "ran"),
    ({"AttachStdout": True, "AttachStderr": True, "Image": "busybox", "Healthcheck": {"Test": ["NONE"]}},
     "echo ran", "ran"),
]  # fmt: skip
ELSEWHERE: Final = {
    **dict.fromkeys(("BlkioWeight", "BlkioWeightDevice"), "needs a scheduler that weighs: test_bundle.py"),
    **dict.fromkeys(("CpuRealtimePeriod", "CpuRealtimeRuntime"), "needs a kernel with RT groups: test_bundle.py"),
    **dict.fromkeys(("IOMaximumIOps", "IOMaximumBandwidth", "StorageOpt"), "refused: test_requests.py"),
    **dict.fromkeys(("BlkioDeviceReadBps", "BlkioDeviceWriteBps"), "needs a disk"),
    **dict.fromkeys(("BlkioDeviceReadIOps", "BlkioDeviceWriteIOps"), "needs a disk"),
    **dict.fromkeys(("VolumeDriver", "VolumesFrom"), "volumes/"),
    **dict.fromkeys(("ContainerIDFile", "Cgroup"), "only shown again"),
    "DeviceRequests": "test_devices.py",
    "Links": "test_links.py",
}
"""Fields without a row, and why."""

ROWS: Final = [({"HostConfig": host}, *seen) for host, *seen in HOST] + [(config, *seen) for config, *seen in CONFIG]


@pytest.fixture(scope="module")
def outputs(shared_engine: Daemon) -> Iterator[list[str]]:
    """What the containers of all rows said, some of them at once."""

    def run(row: Any) -> str:
        asked, command, _ = row
        body = {"Image": "busybox", "Cmd": ["sh", "-c", command], **asked}
        id = shared_engine.json("POST", "/containers/create", body)["Id"]
        try:
            shared_engine.json("POST", f"/containers/{id}/start")
            shared_engine.json("POST", f"/containers/{id}/wait")
            query = "stdout=1&stderr=1"
            raw = shared_engine.request("GET", f"/containers/{id}/logs?{query}")[1]
        except AssertionError as error:
            return str(error)
        return (
            (raw.decode() if asked.get("Tty") else b"".join(data for _, data in frames(raw)).decode())
            .replace("\r\n", "\n")
            .strip("\n")
        )

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(run, ROWS))
    shared_engine.clean()
    yield found
    for folder in [hierarchy / PARENT for hierarchy in (ROOT, *ROOT.iterdir())]:
        for place in (folder / "a", folder):  # a parent that was asked for stays, as with dockerd
            if place.is_dir():
                place.rmdir()


@pytest.mark.parametrize("number", range(len(ROWS)), ids=lambda number: str(ROWS[number][0])[:60])
def test_a_field_is_seen_inside_the_container(outputs: list[str], number: int) -> None:
    assert outputs[number] == ROWS[number][2]


def test_every_field_has_a_row_or_a_reason() -> None:
    rows = {name for host, *_ in HOST for name in host} | {name for config, *_ in CONFIG for name in config}
    fields = {field.encode_name for kind in (HostConfig, ContainerConfig) for field in msgspec.structs.fields(kind)}
    assert fields - rows - set(ELSEWHERE) == set()
