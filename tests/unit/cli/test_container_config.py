"""From the flags of run to the create request."""

import os
from pathlib import Path
from typing import Any

import pytest

from scow.cli.container_config import make_request
from scow.cli.container_flags import CONTAINER_FLAGS
from scow.cli.errors import CliError, FlagError
from scow.cli.flags import parse


def request(*words: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    return make_request(parse(CONTAINER_FLAGS, words, interspersed=False), environment or {})


def host(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = request(*words, "image")["HostConfig"]
    return found


def test_flags_end_at_the_image() -> None:
    made = request("--rm", "image", "ls", "--rm=false")
    assert made["Image"] == "image"
    assert made["Cmd"] == ["ls", "--rm=false"]
    assert made["HostConfig"]["AutoRemove"] is True


def test_output_is_attached_and_stdin_when_interactive() -> None:
    plain, interactive = request("image"), request("-i", "image")
    assert [plain[f"Attach{name}"] for name in ("Stdin", "Stdout", "Stderr")] == [False, True, True]
    assert interactive["AttachStdin"]
    assert interactive["OpenStdin"]
    assert interactive["StdinOnce"]
    only = request("-a", "stdout", "image")
    assert [only[f"Attach{name}"] for name in ("Stdin", "Stdout", "Stderr")] == [False, True, False]


@pytest.mark.parametrize(
    ("text", "bindings"),
    [
        ("80", {"80/tcp": [{"HostIp": "", "HostPort": ""}]}),
        ("8080:80", {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}),
        ("127.0.0.1:8080:80/udp", {"80/udp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}),
        ("127.0.0.1::80", {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}),
        ("[::1]:8080:80", {"80/tcp": [{"HostIp": "::1", "HostPort": "8080"}]}),
        ("80-81:90-91", {"90/tcp": [{"HostIp": "", "HostPort": "80"}], "91/tcp": [{"HostIp": "", "HostPort": "81"}]}),
        ("8000-8010:80", {"80/tcp": [{"HostIp": "", "HostPort": "8000-8010"}]}),
        ("published=8080,target=80", {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}),
    ],
)
def test_ports(text: str, bindings: dict[str, Any]) -> None:
    assert host("-p", text)["PortBindings"] == bindings
    assert set(request("-p", text, "image")["ExposedPorts"]) == set(bindings)


@pytest.mark.parametrize("text", ["xx", "1:2:3:4:", "80-90:80-81", "70000", "80/foo"])
def test_other_ports_are_refused(text: str) -> None:
    with pytest.raises(CliError, match=r"invalid|no port"):
        host("-p", text)


def test_volumes_are_binds_or_anonymous() -> None:
    made = request("-v", "/a:/b:ro", "-v", "name:/c", "-v", "/d", "-v", "./e:/e", "image")
    assert made["HostConfig"]["Binds"] == ["/a:/b:ro", "name:/c", f"{os.getcwd()}/e:/e"]
    assert made["Volumes"] == {"/d": {}}


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("volume-nocopy,volume-subpath=a", {"VolumeOptions": {"NoCopy": True, "Subpath": "a"}}),
        ("volume-label=a=1,volume-label=b", {"VolumeOptions": {"Labels": {"a": "1", "b": ""}}}),
        (
            "volume-driver=local,volume-opt=type=nfs,volume-opt=o=ro",
            {"VolumeOptions": {"DriverConfig": {"Name": "local", "Options": {"type": "nfs", "o": "ro"}}}},
        ),
        (
            'source=v,"volume-opt=o=uid=1,gid=2"',
            {"Source": "v", "VolumeOptions": {"DriverConfig": {"Options": {"o": "uid=1,gid=2"}}}},
        ),
        ("type=image,src=i,image-subpath=/a", {"Type": "image", "Source": "i", "ImageOptions": {"Subpath": "/a"}}),
        ("type=bind,src=/a,bind-recursive=enabled", {"Type": "bind", "Source": "/a"}),
        ("type=bind,bind-recursive=disabled", {"Type": "bind", "BindOptions": {"NonRecursive": True}}),
        ("type=bind,bind-recursive=writable", {"Type": "bind", "BindOptions": {"ReadOnlyNonRecursive": True}}),
        ("type=bind,bind-recursive=readonly", {"Type": "bind", "BindOptions": {"ReadOnlyForceRecursive": True}}),
        ("type=bind,bind-nonrecursive=0", {"Type": "bind", "BindOptions": {"NonRecursive": False}}),
        (
            "type=BIND,bind-create-src,ro=false",
            {"Type": "bind", "ReadOnly": False, "BindOptions": {"CreateMountpoint": True}},
        ),
        ("consistency=Cached,readonly", {"Consistency": "cached", "ReadOnly": True}),
    ],
)
def test_every_key_of_a_mount_has_its_place(text: str, mount: dict[str, object]) -> None:
    assert host("--mount", f"{text},target=/t")["Mounts"] == [{"Type": "volume", "Target": "/t"} | mount]


def test_mounts() -> None:
    assert host("--mount", "type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave")["Mounts"] == [
        {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True, "BindOptions": {"Propagation": "rslave"}}
    ]
    assert host("--mount", "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770")["Mounts"] == [
        {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770}}
    ]
    assert host("--tmpfs", "/run:size=1m", "--tmpfs", "/x")["Tmpfs"] == {"/run": "size=1m", "/x": ""}


@pytest.mark.parametrize("text", ["type=bind,src=/a", "type=bind,foo=1,dst=/b", "type=volume,dst=/x,tmpfs-size=1m"])
def test_other_mounts_are_refused(text: str) -> None:
    with pytest.raises(FlagError, match='for "--mount" flag'):
        host("--mount", text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--mount", "target=/x,foo=1"), "unexpected key 'foo' in 'foo=1'"),
        (("--mount", "type=tmpfs,dst=/x,tmpfs-size=big"), "invalid value for tmpfs-size: big"),
        (("--mount", "type=tmpfs,dst=/x,tmpfs-mode=9"), "invalid value for tmpfs-mode: 9"),
        (("--mount", "dst=/x,readonly=perhaps"), "invalid value for readonly: perhaps"),
        (("--mount", "type=bind,dst=/x,bind-recursive=a"), "invalid value for bind-recursive: a \\(must be"),
        (("--mount", "dst=/x,target"), "invalid field 'target' must be a key=value pair"),
        (("--mount", "type=bind,dst=/x,volume-nocopy"), "cannot mix 'volume-\\*' options with mount type 'bind'"),
        (("--dns", "nine"), "IP address is not correctly formatted: nine"),
    ],
)
def test_refusals_are_dockers(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(FlagError, match=said):
        host(*words)


def test_limits_carry_their_units() -> None:
    made = host(
        "-m", "64m", "--cpus", "1.5", "--pids-limit", "10", "--shm-size", "1g", "--memory-swap", "-1", "-c", "512"
    )
    assert made["Memory"] == 64 << 20
    assert made["NanoCpus"] == 1_500_000_000
    assert made["PidsLimit"] == 10
    assert made["ShmSize"] == 1 << 30
    assert made["MemorySwap"] == -1
    assert made["CpuShares"] == 512


def test_environment_comes_from_files_flags_and_ours(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# a comment\nA=1\nMISSING\nOURS\n\n")
    made = request("--env-file", str(file), "-e", "B=2", "-e", "OURS", "-e", "GONE", "image", environment={"OURS": "x"})
    assert made["Env"] == ["A=1", "OURS=x", "B=2", "OURS=x", "GONE"]


def test_networks_and_their_settings() -> None:
    assert host()["NetworkMode"] == "default"
    assert request("image")["NetworkingConfig"] == {"EndpointsConfig": {}}
    made = request("--network", "name=net,alias=a", "--ip", "10.0.0.9", "--network-alias", "b", "image")
    assert made["HostConfig"]["NetworkMode"] == "net"
    assert made["NetworkingConfig"]["EndpointsConfig"] == {
        "net": {"Aliases": ["b"], "IPAMConfig": {"IPv4Address": "10.0.0.9"}}
    }


def test_the_rest_of_the_flags() -> None:
    made = request(
        "-h", "box", "-u", "1:2", "-w", "/w", "--entrypoint", "", "-l", "a=b", "--restart", "on-failure:3", "--init",
        "--cap-add", "NET_ADMIN", "--device", "/dev/fuse", "--ulimit", "nofile=1:2", "--add-host", "h=1.2.3.4",
        "--gpus", "all", "--health-cmd", "true", "--health-interval", "5s", "--sysctl", "a.b=1", "--log-opt", "x=y",
        "--security-opt", "systempaths=unconfined", "image",
    )  # fmt: skip
    hostconfig = made["HostConfig"]
    assert (made["Hostname"], made["User"], made["WorkingDir"], made["Entrypoint"]) == ("box", "1:2", "/w", [""])
    assert made["Labels"] == {"a": "b"}
    assert made["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "Interval": 5 * 10**9}
    assert hostconfig["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert hostconfig["Init"] is True
    assert hostconfig["Devices"] == [
        {"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"}
    ]
    assert hostconfig["Ulimits"] == [{"Name": "nofile", "Soft": 1, "Hard": 2}]
    assert hostconfig["ExtraHosts"] == ["h:1.2.3.4"]
    assert hostconfig["DeviceRequests"][0]["Count"] == -1
    assert hostconfig["Sysctls"] == {"a.b": "1"}
    assert hostconfig["LogConfig"]["Config"] == {"x": "y"}
    assert hostconfig["MaskedPaths"] == []


def test_contradictions_are_refused() -> None:
    with pytest.raises(CliError, match="cannot specify both --restart and --rm"):
        request("--rm", "--restart", "always", "image")
    with pytest.raises(CliError, match="conflicts with --health"):
        request("--no-healthcheck", "--health-cmd", "x", "image")
