"""What `run` and its flags do to a process: seen from inside the container, by docker's client."""

import json
import os
import re
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import docker
import pytest

from support.calls import eventually
from support.daemon import Daemon
from support.docker_client import modern_docker

CASES: Sequence[tuple[str, list[str], str]] = [
    ("a command's output", ["busybox", "echo", "hi"], "hi\n"),
    ("the image's command", ["-e", "A=1", "busybox", "sh", "-c", "echo $A"], "1\n"),
    ("a working directory that is made", ["-w", "/new/dir", "busybox", "pwd"], "/new/dir\n"),
    ("a user by name", ["-u", "app", "busybox", "id"], "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)\n"),
    ("a user by numbers", ["-u", "12:34", "busybox", "id"], "uid=12 gid=34 groups=34\n"),
    ("more groups", ["-u", "app", "--group-add", "99", "busybox", "id", "-G"], "1000 99 2000\n"),
    ("an entrypoint", ["--entrypoint", "echo", "busybox", "x", "y"], "x y\n"),
    ("no entrypoint", ["--entrypoint", "", "busybox", "echo", "e"], "e\n"),
    ("a hostname", ["-h", "myhost", "busybox", "hostname"], "myhost\n"),
    ("the machine's UTS", ["--uts", "host", "busybox", "hostname"], f"{socket.gethostname()}\n"),
    (
        "a soft and a hard limit",
        ["--ulimit", "nofile=100:200", "busybox", "sh", "-c", "ulimit -Sn; ulimit -Hn"],
        "100\n200\n",
    ),
    (
        "a sysctl",
        ["--sysctl", "net.ipv4.ip_forward=1", "busybox", "cat", "/proc/sys/net/ipv4/ip_forward"],
        "1\n",
    ),
    ("no network", ["--network", "none", "busybox", "ls", "/sys/class/net"], "lo\n"),
    ("an init", ["--init", "busybox", "cat", "/proc/1/comm"], "docker-init\n"),
    ("added hosts", ["--add-host", "x:1.2.3.4", "busybox", "grep", "1.2.3.4", "/etc/hosts"], "1.2.3.4\tx\n"),
    (
        "name servers",
        ["--dns", "9.9.9.9", "--dns-search", "a.b", "--dns-opt", "ndots:3", "busybox", "cat", "/etc/resolv.conf"],
        "nameserver 9.9.9.9\nsearch a.b\noptions ndots:3\n",
    ),
    (
        "default capabilities",
        ["busybox", "grep", "CapEff", "/proc/self/status"],
        "CapEff:\t00000000a80425fb\n",
    ),
    (
        "added and dropped capabilities",
        ["--cap-add", "sys_time", "--cap-drop", "CHOWN", "busybox", "grep", "CapEff", "/proc/self/status"],
        "CapEff:\t00000000aa0425fa\n",
    ),
    ("no capability", ["--cap-drop", "ALL", "busybox", "grep", "CapEff", "/proc/self/status"], f"CapEff:\t{0:016x}\n"),
    ("none for a user", ["-u", "app", "busybox", "grep", "CapEff", "/proc/self/status"], f"CapEff:\t{0:016x}\n"),
    ("seccomp", ["busybox", "grep", "Seccomp:", "/proc/self/status"], "Seccomp:\t2\n"),
    (
        "no seccomp",
        ["--security-opt", "seccomp=unconfined", "busybox", "grep", "Seccomp:", "/proc/self/status"],
        "Seccomp:\t0\n",
    ),
    (
        "no new privileges",
        ["--security-opt", "no-new-privileges", "busybox", "grep", "NoNewPrivs", "/proc/self/status"],
        "NoNewPrivs:\t1\n",
    ),
    ("a masked file", ["busybox", "wc", "-c", "/proc/keys"], "0 /proc/keys\n"),
    ("a masked folder", ["busybox", "ls", "/sys/firmware"], ""),
    (
        "/dev/shm's size",
        ["--shm-size", "8m", "busybox", "sh", "-c", "mount | grep -o '/dev/shm.*size=[0-9]*k' | grep -o '[0-9]*k'"],
        "8192k\n",
    ),
    (
        "a temporary file system",
        [
            "--read-only",
            "--tmpfs",
            "/t:size=1m",
            "busybox",
            "sh",
            "-c",
            "touch /t/x; mount | grep -o ' /t .*size=1024k'",
        ],
        " /t type tmpfs (rw,nosuid,nodev,noexec,relatime,size=1024k\n",
    ),
    ("a device", ["--device", "/dev/null:/dev/foo", "busybox", "stat", "-c", "%t,%T", "/dev/foo"], "1,3\n"),
    ("rules for devices", ["--device-cgroup-rule", "c 10:* rwm", "busybox", "echo", "x"], "x\n"),
    ("a volume takes over what the image has there", ["-v", "/data", "busybox", "ls", "/data"], "seed\n"),
    ("a volume that does not", ["-v", "seedless:/data:nocopy", "busybox", "ls", "/data"], ""),
]


@pytest.mark.parametrize(("args", "output"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_what_a_container_sees(engine: Daemon, args: list[str], output: str) -> None:
    done = engine.docker("run", "--rm", *args)
    assert (done.stdout, done.stderr) == (output, "")


ENDS: Sequence[tuple[list[str], int, str]] = [
    (["busybox", "sh", "-c", "exit 7"], 7, ""),
    (["busybox", "nosuch"], 127, 'exec: "nosuch": executable file not found in $PATH'),
    (["busybox", "/etc"], 126, 'exec: "/etc": permission denied'),
    (["--read-only", "busybox", "touch", "/x"], 1, "touch: /x: Read-only file system\n"),
    (["busybox", "mount", "-t", "tmpfs", "x", "/tmp"], 1, "mount: permission denied (are you root?)\n"),
    (["--foo", "busybox"], 125, "unknown flag: --foo"),
    (["-u", "nosuch", "busybox", "id"], 125, "unable to find user nosuch: no matching entries in passwd file"),
    (["-u", "root:nosuch", "busybox", "id"], 125, "unable to find group nosuch: no matching entries in group file"),
]


@pytest.mark.parametrize("client", ["docker", "scow"])
@pytest.mark.parametrize(("args", "code", "words"), ENDS, ids=lambda value: None)
def test_how_a_run_ends_is_the_client_s_exit_code(
    engine: Daemon, args: list[str], code: int, words: str, client: str
) -> None:
    done = getattr(engine, client)("run", "--rm", *args, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert engine.json("GET", "/containers/json?all=1") == []


def test_binds_are_made_written_and_kept_read_only(engine: Daemon, tmp_path: Path) -> None:
    made = tmp_path / "made" / "here"
    engine.docker("run", "--rm", "-v", f"{made}:/d", "busybox", "sh", "-c", "echo x > /d/f")
    assert (made / "f").read_text() == "x\n"
    engine.docker("run", "--rm", "-v", f"{made}/f:/one", "busybox", "sh", "-c", "echo y > /one")
    assert (made / "f").read_text() == "y\n"
    refused = engine.docker("run", "--rm", "-v", f"{made}:/d:ro", "busybox", "touch", "/d/g", check=False)
    assert refused.stderr == "touch: /d/g: Read-only file system\n"


@modern_docker
def test_a_named_volume_outlives_containers_and_is_held_by_them(engine: Daemon) -> None:
    engine.docker("run", "--name", "holder", "-v", "kept:/v", "busybox", "sh", "-c", "echo x > /v/f")
    held = engine.docker("volume", "rm", "kept", check=False)
    assert "remove kept: volume is in use - [" in held.stderr
    engine.docker("rm", "holder")
    assert engine.docker("run", "--rm", "-v", "kept:/v", "busybox", "cat", "/v/f").stdout == "x\n"
    engine.docker("volume", "rm", "kept")
    assert engine.docker("volume", "rm", "kept", check=False).stderr.endswith("get kept: no such volume\n")


def test_anonymous_volumes_go_with_rm_v(engine: Daemon) -> None:
    engine.docker("run", "--name", "anon", "-v", "/data", "busybox")
    (mount,) = engine.json("GET", "/containers/anon/json")["Mounts"]
    assert engine.request("GET", f"/volumes/{mount['Name']}")[0] == 200
    engine.docker("rm", "-v", "anon")
    assert engine.request("GET", f"/volumes/{mount['Name']}")[0] == 404


def test_many_containers_fill_one_volume_once(engine: Daemon, docker_py: docker.DockerClient) -> None:
    made = [docker_py.containers.create("busybox", "ls /data", volumes=["crowd:/data"]) for _ in range(4)]
    for container in made:
        container.start()
    assert [container.wait()["StatusCode"] for container in made] == [0] * 4
    assert [container.logs() for container in made] == [b"seed\n"] * 4
    engine.clean()
    engine.docker("volume", "rm", "crowd")


def test_published_ports_answer_on_loopback(engine: Daemon) -> None:
    engine.docker("run", "-d", "--name", "web", "-p", "127.0.0.1::80", "busybox", "httpd", "-f", "-h", "/etc")
    shown = engine.docker("port", "web").stdout
    found = re.fullmatch(r"80/tcp -> 127\.0\.0\.1:(\d+)\n", shown)
    assert found

    def answer() -> bytes:
        with suppress(ConnectionError), socket.create_connection(("127.0.0.1", int(found[1])), 60) as connection:
            connection.sendall(b"GET /group HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: connection.recv(4096), b""))
        return b""  # it doesn't listen yet

    eventually(lambda: b"extra:x:2000:app" in answer())
    taken = engine.docker("run", "--rm", "-p", f"127.0.0.1:{found[1]}:80", "busybox", check=False)
    assert taken.returncode == 125
    assert f"Bind for 127.0.0.1:{found[1]} failed: port is already allocated" in taken.stderr


def test_namespaces_of_another_container_are_joined(engine: Daemon) -> None:
    engine.docker("run", "-d", "--name", "one", "--ipc", "shareable", "-h", "first", "busybox", "sleep", "60")
    joined = ["run", "--rm", "--pid", "container:one", "--ipc", "container:one", "--network", "container:one"]
    done = engine.docker(*joined, "busybox", "sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline; hostname")
    assert done.stdout == "sleep 60 first\n"
    private = engine.docker("run", "-d", "--name", "two", "busybox", "sleep", "60").stdout.strip()
    refused = engine.docker("run", "--rm", "--ipc", "container:two", "busybox", check=False)
    assert f"{private}: non-shareable IPC" in refused.stderr


def test_limits_reach_the_control_group(engine: Daemon) -> None:
    limits = ["-m", "64m", "--cpus", "0.5", "--pids-limit", "50", "--cpuset-cpus", "0", "--cpu-shares", "512"]
    script = """cd /sys/fs/cgroup
        cat memory/memory.limit_in_bytes memory.max cpu/cpu.cfs_quota_us cpu.max pids/pids.max pids.max 2>/dev/null"""
    words = engine.docker("run", "--rm", *limits, "busybox", "sh", "-c", script, check=False).stdout.split()
    assert words in (["67108864", "50000", "50"], ["67108864", "50000", "100000", "50"])


def test_a_container_that_takes_too_much_memory_is_killed_and_says_so(engine: Daemon) -> None:
    done = engine.docker(
        "run", "--name", "fat", "-m", "8m", "busybox", "sh", "-c", "x=$(yes | head -c 50000000)", check=False
    )
    assert done.returncode in (137, 2)
    state = engine.json("GET", "/containers/fat/json")["State"]
    assert (state["OOMKilled"], state["ExitCode"]) == (True, done.returncode)


def test_privileged_containers_have_devices_and_all_capabilities(engine: Daemon) -> None:
    done = engine.docker(
        "run", "--rm", "--privileged", "busybox", "sh", "-c", "ls -d /dev/kmsg; grep CapEff /proc/1/status"
    )
    with open("/proc/self/status") as status:
        own = next(line for line in status if line.startswith("CapEff"))
    expected = "/dev/kmsg\n" if os.path.exists("/dev/kmsg") else ""
    assert done.stdout == expected + own


def test_an_image_is_named_by_its_id_too(engine: Daemon) -> None:
    id = engine.docker("images", "-q", "--no-trunc", "busybox").stdout.strip()
    for ref in (id, id.removeprefix("sha256:"), id.removeprefix("sha256:")[:12]):
        assert engine.docker("run", "--rm", ref, "echo", "by id").stdout == "by id\n"


def test_a_list_names_the_image_as_long_as_the_name_means_it(engine: Daemon) -> None:
    engine.docker("tag", "busybox", "moving:1")
    engine.docker("run", "-d", "--name", "here", "moving:1", "sleep", "60")
    assert engine.docker("ps", "--format", "{{.Image}}").stdout == "moving:1\n"
    engine.docker("rmi", "-f", "moving:1")
    id = engine.docker("images", "-q", "busybox").stdout
    assert engine.docker("ps", "--format", "{{.Image}}").stdout == id
    assert engine.docker("inspect", "-f", "{{.Config.Image}}", "here").stdout == "moving:1\n"


def test_a_container_can_be_told_by_its_dockerenv_which_is_no_change(engine: Daemon) -> None:
    done = engine.docker("run", "--name", "box", "busybox", "sh", "-c", "stat -c %a,%s /.dockerenv; df / | tail -1")
    assert done.stdout.split()[:2] == ["755,0", "overlay"]
    assert engine.docker("diff", "box").stdout == ""
    assert engine.docker("start", "-a", "box").returncode == 0


def test_what_cannot_propagate_is_refused(engine: Daemon, tmp_path: Path) -> None:
    subprocess.run(["mount", "--bind", "--make-private", str(tmp_path), str(tmp_path)], check=True)
    try:
        for mode, words in (("rshared", "not a shared mount"), ("slave", "not a shared or slave mount")):
            done = engine.docker("run", "--rm", "-v", f"{tmp_path}:/b:{mode}", "busybox", "true", check=False)
            assert f"path {tmp_path} is mounted on {tmp_path} but it is {words}" in done.stderr
        subprocess.run(["mount", "--make-shared", str(tmp_path)], check=True)
        shown = engine.docker("run", "--rm", "-v", f"{tmp_path}:/b:rshared", "busybox", "cat", "/proc/self/mountinfo")
        assert re.search(r" /b rw\S* shared:", shown.stdout)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_joined_container_may_expose_ports_by_its_image_and_follows_a_rename(engine: Daemon) -> None:
    id = engine.docker("run", "-d", "--name", "base", "-h", "first", "busybox", "sleep", "60").stdout.strip()
    engine.docker("commit", "-c", "EXPOSE 80", "base", "exposing")
    engine.docker("create", "--name", "joined", "--network", "container:base", "--pid", "container:base", "exposing")
    engine.docker("rename", "base", "renamed")
    engine.docker("start", "joined")
    found = engine.json("GET", "/containers/joined/json")
    modes = found["HostConfig"]["NetworkMode"], found["HostConfig"]["PidMode"]
    assert (modes, found["Config"]["Hostname"]) == ((f"container:{id}", f"container:{id}"), "first")
    engine.json("POST", "/containers/joined/update", {"CpuShares": 100})
    engine.docker("run", "-d", "--name", "named", "--uts", "host", "busybox", "sleep", "60")
    engine.json("POST", "/containers/named/update", {"CpuShares": 100})
    engine.clean()
    engine.docker("rmi", "exposing")


def test_a_container_gets_the_engines_socket_and_credentials_on_request(engine: Daemon, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auths": {"registry.example": {"auth": "YTpi"}}}')
    scow = ("--config", str(tmp_path), "run", "--rm", "--use-api-socket")
    script = 'cat "$DOCKER_CONFIG/config.json"; test -S /var/run/docker.sock'
    shown = engine.scow(*scow, "busybox", "sh", "-c", script).stdout
    assert json.loads(shown) == {"auths": {"registry.example": {"auth": "YTpi"}}}
    own = engine.scow(
        *scow, "-e", "DOCKER_CONFIG=/own", "busybox", "sh", "-c", "echo $DOCKER_CONFIG; ls /run/secrets || :"
    )
    assert own.stdout == "/own\n"


def test_containers_get_the_proxies_of_the_clients_settings_but_for_those_named(engine: Daemon, tmp_path: Path) -> None:
    proxies = {"httpProxy": "http://proxy.example:3128", "noProxy": "localhost"}
    (tmp_path / "config.json").write_text(json.dumps({"proxies": {"default": proxies}}))
    command = (
        "--config",
        str(tmp_path),
        "run",
        "--rm",
        "-e",
        "no_proxy=own",
        "busybox",
        "sh",
        "-c",
        "env | grep -i prox",
    )
    shown = [sorted(client(*command).stdout.splitlines()) for client in (engine.scow, engine.docker)]
    wanted = ["HTTP_PROXY=http://proxy.example:3128", "NO_PROXY=localhost"]
    assert shown == [[*wanted, "http_proxy=http://proxy.example:3128", "no_proxy=own"]] * 2


def test_builds_get_the_proxies_of_the_clients_settings_but_for_those_named(engine: Daemon, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"proxies": {"default": {"httpsProxy": "http://proxy.example:3128"}}}')
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo $https_proxy,$HTTPS_PROXY > /found\n")
    own = ("--build-arg", "https_proxy=own")
    engine.scow("--config", str(tmp_path), "build", "-q", "-t", "proxied", *own, str(tmp_path))
    assert engine.docker("run", "--rm", "proxied", "cat", "/found").stdout == "own,http://proxy.example:3128\n"
    engine.docker("rmi", "proxied")
