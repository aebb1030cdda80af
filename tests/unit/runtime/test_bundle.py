"""config.json by docker's rules."""

import json
from pathlib import Path
from typing import Any

import pytest

from scow.errors import InvalidArgument, NotSupported
from scow.runtime import limits
from scow.runtime.bundle import BundleContext, BundleMount, make_spec, security_options
from scow.runtime.profile import MASKED_PATHS, READONLY_PATHS
from scow.runtime.selinux import Labels
from scow.runtime.user import ProcessUser
from scow.wire.container import ContainerConfig
from scow.wire.host_config import DeviceMapping, HostConfig, Ulimit


def spec_of(config: ContainerConfig | None = None, host: HostConfig | None = None, **context: Any) -> Any:
    given = {
        "id": "c",
        "rootfs": Path("/rootfs"),
        "args": ["/hello"],
        "user": ProcessUser(home="/root"),
        "hostname": "box",
        "network_namespace": Path("/run/netns/c"),
        "cgroups_path": "/scow/c",
        **context,
    }
    return json.loads(make_spec(config or ContainerConfig(), host or HostConfig(), BundleContext(**given)))


def mount_at(spec: Any, destination: str) -> Any:
    found = [mount for mount in spec["mounts"] if mount["destination"] == destination]
    return found[-1] if found else None


def namespaces(spec: Any) -> dict[str, str]:
    return {entry["type"]: entry.get("path", "") for entry in spec["linux"]["namespaces"]}


def test_a_plain_container() -> None:
    spec = spec_of()
    assert spec["process"]["args"] == ["/hello"]
    assert spec["process"]["cwd"] == "/"
    assert spec["process"]["user"] == {"uid": 0, "gid": 0, "additionalGids": []}
    assert spec["process"]["terminal"] is False
    assert spec["process"]["noNewPrivileges"] is False
    assert "rlimits" not in spec["process"]
    assert "oomScoreAdj" not in spec["process"]
    assert spec["root"] == {"path": "/rootfs", "readonly": False}
    assert spec["hostname"] == "box"
    assert spec["linux"]["cgroupsPath"] == "/scow/c"
    assert spec["linux"]["maskedPaths"] == list(MASKED_PATHS)
    assert spec["linux"]["readonlyPaths"] == list(READONLY_PATHS)
    assert spec["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert namespaces(spec) == {"mount": "", "network": "/run/netns/c", "pid": "", "ipc": "", "uts": ""}
    assert [mount["destination"] for mount in spec["mounts"]] == [
        "/proc",
        "/dev",
        "/dev/pts",
        "/sys",
        "/sys/fs/cgroup",
        "/dev/mqueue",
        "/dev/shm",
    ]


@pytest.mark.parametrize(
    ("asked", "tty", "expected"),
    [
        (
            [],
            False,
            ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=box", "HOME=/root"],
        ),
        (["PATH=/x", "A="], True, ["PATH=/x", "HOSTNAME=box", "TERM=xterm", "A=", "HOME=/root"]),
        (["TERM=dumb", "HOME=/h"], True, [None, "HOSTNAME=box", "TERM=dumb", "HOME=/h"]),
        (["HOSTNAME"], False, [None, "HOME=/root"]),
    ],
)
def test_environment(asked: list[str], tty: bool, expected: list[str | None]) -> None:
    found = spec_of(ContainerConfig(env=asked, tty=tty))["process"]["env"]
    assert len(found) == len(expected)
    assert all(want in (None, got) for want, got in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("host", "context", "missing", "joined"),
    [
        (HostConfig(pid_mode="host"), {}, {"pid"}, {}),
        (HostConfig(ipc_mode="host"), {}, {"ipc"}, {}),
        (HostConfig(uts_mode="host"), {}, {"uts"}, {}),
        (HostConfig(), {"network_namespace": None}, {"network"}, {}),
        (HostConfig(), {"pid_namespace": Path("/proc/7/ns/pid")}, set(), {"pid": "/proc/7/ns/pid"}),
        (HostConfig(), {"ipc_namespace": Path("/proc/7/ns/ipc")}, set(), {"ipc": "/proc/7/ns/ipc"}),
        (HostConfig(cgroupns_mode="private"), {}, set(), {"cgroup": ""}),
    ],
)
def test_namespaces(host: HostConfig, context: dict[str, Any], missing: set[str], joined: dict[str, str]) -> None:
    found = namespaces(spec_of(host=host, **context))
    assert missing.isdisjoint(found)
    assert joined.items() <= found.items()


def test_the_hosts_name_is_left_alone_in_its_uts_namespace() -> None:
    spec = spec_of(ContainerConfig(domainname="d"), HostConfig(uts_mode="host"))
    assert "hostname" not in spec
    assert "kernel.domainname" not in spec["linux"].get("sysctl", {})


def test_sysctls_of_an_own_network_namespace() -> None:
    host = HostConfig(sysctls={"net.ipv4.ip_unprivileged_port_start": "1024", "kernel.shmmax": "1"})
    found = spec_of(ContainerConfig(domainname="example.org"), host)["linux"]["sysctl"]
    assert found["net.ipv4.ip_unprivileged_port_start"] == "1024"
    assert found["net.ipv4.ping_group_range"] == "0 2147483647"
    assert (found["kernel.domainname"], found["kernel.shmmax"]) == ("example.org", "1")
    assert "sysctl" not in spec_of(network_namespace=None)["linux"]


@pytest.mark.parametrize(
    ("host", "shm"),
    [
        (HostConfig(), {"type": "tmpfs", "source": "shm", "size": "size=67108864"}),
        (HostConfig(shm_size=1 << 20), {"type": "tmpfs", "source": "shm", "size": "size=1048576"}),
        (HostConfig(ipc_mode="host"), {"type": "bind", "source": "/dev/shm", "size": "rprivate"}),
        (HostConfig(ipc_mode="none"), None),
    ],
)
def test_shared_memory(host: HostConfig, shm: dict[str, str] | None) -> None:
    found = mount_at(spec_of(host=host), "/dev/shm")
    if shm is None:
        assert found is None
    else:
        assert {"type": found["type"], "source": found["source"], "size": found["options"][-1]} == shm


def test_a_mount_replaces_the_default_at_its_place_and_comes_after_its_parents(tmp_path: Path) -> None:
    mounts = [
        BundleMount(source=str(tmp_path), destination="/a/b/c"),
        BundleMount(source=str(tmp_path), destination="/a"),
        BundleMount(source=str(tmp_path), destination="/dev"),
    ]
    found = [mount["destination"] for mount in spec_of(mounts=mounts)["mounts"]]
    assert found == ["/proc", "/sys", "/sys/fs/cgroup", "/a", "/dev", "/a/b/c"]


def test_binds(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    link = tmp_path / "link"
    link.symlink_to("file")
    for mount, options in (
        (BundleMount(source=str(tmp_path), destination="/m"), ["rbind", "rprivate"]),
        (BundleMount(source=str(tmp_path), destination="/m", rw=False), ["rbind", "ro", "rro", "rprivate"]),
        (BundleMount(source=str(file), destination="/m", rw=False), ["rbind", "ro", "rprivate"]),
        (BundleMount(source=str(tmp_path), destination="/m", recursive=False, rw=False), ["bind", "ro", "rprivate"]),
        (BundleMount(source=str(tmp_path), destination="/m", propagation="rslave"), ["rbind", "rslave"]),
    ):
        assert mount_at(spec_of(mounts=[mount]), "/m")["options"] == options
    linked = mount_at(spec_of(mounts=[BundleMount(source=str(link), destination="/m")]), "/m")
    assert linked["source"] == str(file)


@pytest.mark.parametrize(
    ("propagations", "root"),
    [([], None), (["rprivate"], None), (["rslave"], "rslave"), (["slave", "shared"], "shared")],
)
def test_the_roots_propagation_allows_the_mounts(propagations: list[str], root: str | None) -> None:
    mounts = [BundleMount(source="/", destination=f"/m{at}", propagation=kind) for at, kind in enumerate(propagations)]
    assert spec_of(mounts=mounts)["linux"].get("rootfsPropagation") == root


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ["noexec", "nosuid", "nodev"]),
        (("size=1m", "exec", "mode=1777"), ["nosuid", "nodev", "size=1m", "exec", "mode=1777"]),
        (("size=1m", "size=2m", "dev", "nodev"), ["noexec", "nosuid", "size=2m", "nodev"]),
    ],
)
def test_the_last_tmpfs_option_counts(options: tuple[str, ...], expected: list[str]) -> None:
    mount = BundleMount(source="tmpfs", destination="/t", type="tmpfs", options=options)
    assert mount_at(spec_of(mounts=[mount]), "/t")["options"] == expected


@pytest.mark.parametrize("option", ["loop", "size", "lowerdir=/etc", "exec=1"])
def test_an_option_that_tmpfs_has_not_is_refused(option: str) -> None:
    mount = BundleMount(source="tmpfs", destination="/t", type="tmpfs", options=(option,))
    with pytest.raises(InvalidArgument, match="invalid tmpfs option"):
        spec_of(mounts=[mount])


def test_privileged() -> None:
    spec = spec_of(host=HostConfig(privileged=True))
    assert "seccomp" not in spec["linux"]
    assert "maskedPaths" not in spec["linux"]
    assert "readonlyPaths" not in spec["linux"]
    assert spec["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "/dev/null" in {device["path"] for device in spec["linux"]["devices"]}
    assert "ro" not in mount_at(spec, "/sys")["options"] + mount_at(spec, "/sys/fs/cgroup")["options"]
    assert "CAP_SYS_ADMIN" in spec["process"]["capabilities"]["bounding"]


def test_privileged_with_a_read_only_root_still_writes_sys() -> None:
    spec = spec_of(host=HostConfig(privileged=True, readonly_rootfs=True))
    assert spec["root"]["readonly"] is True
    assert "ro" not in mount_at(spec, "/sys")["options"]


def test_empty_lists_of_paths_hide_nothing() -> None:
    spec = spec_of(host=HostConfig(masked_paths=[], readonly_paths=[]))
    assert (spec["linux"]["maskedPaths"], spec["linux"]["readonlyPaths"]) == ([], [])


def test_init_comes_first_but_not_in_a_foreign_pid_namespace() -> None:
    spec = spec_of(init=True, init_path="/bin/sh")
    assert spec["process"]["args"] == ["/sbin/docker-init", "--", "/hello"]
    assert mount_at(spec, "/sbin/docker-init")["options"][:2] == ["rbind", "ro"]
    assert spec_of(host=HostConfig(pid_mode="host"), init=True, init_path="/bin/sh")["process"]["args"] == ["/hello"]


def test_resources() -> None:
    host = HostConfig(
        memory=64 << 20,
        memory_reservation=32 << 20,
        nano_cpus=1_500_000_000,
        cpu_shares=512,
        cpuset_cpus="0",
        pids_limit=7,
    )
    found = spec_of(host=host)["linux"]["resources"]
    assert found["memory"] == {"limit": 64 << 20, "reservation": 32 << 20}
    assert found["cpu"] == {"shares": 512, "period": 100_000, "quota": 150_000, "cpus": "0"}
    assert found["pids"] == {"limit": 7}
    assert "pids" not in spec_of(host=HostConfig(pids_limit=-1))["linux"]["resources"]


def test_ulimits_of_the_request_replace_the_engines() -> None:
    defaults = [Ulimit(name="nofile", soft=10, hard=20), Ulimit(name="core", soft=0, hard=0)]
    spec = spec_of(host=HostConfig(ulimits=[Ulimit(name="nofile", soft=5, hard=6)]), default_ulimits=defaults)
    assert spec["process"]["rlimits"] == [
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6},
    ]
    with pytest.raises(InvalidArgument, match="invalid ulimit type: nofiles"):
        spec_of(host=HostConfig(ulimits=[Ulimit(name="nofiles", soft=5, hard=6)]))


def test_a_limit_that_cannot_be_raised_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "bounding_set", frozenset)
    monkeypatch.setattr(limits.resource, "getrlimit", lambda number: (100, 100))
    with pytest.raises(NotSupported, match=r"cannot set ulimit nofile to 200: .* 100.*CAP_SYS_RESOURCE"):
        limits.rlimits([Ulimit(name="nofile", soft=100, hard=200)])
    assert limits.rlimits([Ulimit(name="nofile", soft=100, hard=100)])


def test_devices_and_rules() -> None:
    host = HostConfig(
        devices=[DeviceMapping(path_on_host="/dev/null", path_in_container="/dev/void", cgroup_permissions="r")],
        device_cgroup_rules=["c 10:* rwm"],
    )
    linux = spec_of(host=host)["linux"]
    assert [(device["path"], device["major"], device["minor"]) for device in linux["devices"]] == [("/dev/void", 1, 3)]
    assert linux["resources"]["devices"][-2:] == [
        {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"},
        {"allow": True, "type": "c", "major": 10, "access": "rwm"},
    ]


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (HostConfig(devices=[DeviceMapping(path_on_host="/dev/nowhere")]), '"/dev/nowhere": no such file or directory'),
        (HostConfig(devices=[DeviceMapping(path_on_host="/etc/passwd")]), '"/etc/passwd": not a device node'),
        (HostConfig(device_cgroup_rules=["c 1:3"]), "invalid device cgroup rule format: 'c 1:3'"),
        (HostConfig(security_opt=["seccomp={"]), "Decoding seccomp profile failed"),
        (HostConfig(cap_add=["NOPE"]), 'invalid CapAdd: unknown capability: "CAP_NOPE"'),
    ],
)
def test_what_docker_refuses(host: HostConfig, words: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        spec_of(host=host)
    assert words in str(failure.value)


@pytest.mark.parametrize(
    ("options", "no_new_privileges", "seccomp"),
    [
        (None, False, ""),
        (["no-new-privileges"], True, ""),
        (["no-new-privileges:true"], True, ""),
        (["no-new-privileges=false"], False, ""),
        (["seccomp=unconfined", "label=disable", "apparmor=unconfined"], False, "unconfined"),
        (["seccomp:unconfined"], False, "unconfined"),
        (['seccomp={"defaultAction": "SCMP_ACT_ALLOW"}'], False, '{"defaultAction": "SCMP_ACT_ALLOW"}'),
    ],
)
def test_security_options(options: list[str] | None, no_new_privileges: bool, seccomp: str) -> None:
    found = security_options(options)
    assert (found.no_new_privileges, found.seccomp) == (no_new_privileges, seccomp)


@pytest.mark.parametrize("option", ["nonsense", "seccomp", "no-new-privileges=maybe", "other=x"])
def test_security_options_that_do_not_exist(option: str) -> None:
    with pytest.raises(InvalidArgument, match=r"invalid --security-opt [12]"):
        security_options([option])


def test_a_profile_of_ones_own_holds_even_when_privileged() -> None:
    host = HostConfig(privileged=True, security_opt=['seccomp={"defaultAction": "SCMP_ACT_ALLOW"}'])
    assert spec_of(host=host)["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ALLOW"


def test_selinux_labels_are_of_the_process_and_of_what_the_runtime_mounts() -> None:
    spec = spec_of(labels=Labels("u:r:p:s0:c1,c2", "u:r:f:s0:c1,c2"))
    assert (spec["process"]["selinuxLabel"], spec["linux"]["mountLabel"]) == ("u:r:p:s0:c1,c2", "u:r:f:s0:c1,c2")
    plain = spec_of()
    assert "selinuxLabel" not in plain["process"]
    assert "mountLabel" not in plain["linux"]
    assert security_options(["label=type:t", "label=level:s0:c1,c2"]).labels == ("type:t", "level:s0:c1,c2")
