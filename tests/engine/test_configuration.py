"""Keys of daemon.json that dockerd has, seen from inside containers."""

import http.client
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.linux import cgroup
from support.calls import eventually
from support.daemon import Daemon, Registry, folder, free_subnet
from support.machine import traces
from support.web import Quiet, serving

PROFILE = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
}


def recorder(folder: Path) -> Path:
    """A runtime that writes down what it is called with."""
    program = folder / "recorder"
    runtime = shutil.which("crun") or shutil.which("runc")
    program.write_text(f'#!/bin/sh\necho "$*" >>{folder}/calls\nexec {runtime} "$@"\n')
    program.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def configured(registry: Registry) -> Iterator[Daemon]:
    """An engine with a daemon.json of many keys; its image is busybox."""
    with folder() as path:
        profile = path / "profile.json"
        profile.write_text(json.dumps(PROFILE))
        keys = {
            "cgroup-parent": f"/scow-test-parent-{path.name}",
            "default-address-pools": [{"base": f"10.214.{free_subnet()}.0/24", "size": 28}],
            "default-ipc-mode": "shareable",
            "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1400"}},
            "builder": {"gc": {"policy": [{"maxUsedSpace": "1MB"}]}},
            "default-shm-size": "7m",
            "features": {"buildkit": True},
            "host-gateway-ips": ["10.1.2.3", "fd00::3"],
            "icc": False,
            "ipv6": True,
            "fixed-cidr-v6": "fd00:dead:beef::/64",
            "log-format": "json",
            "metrics-addr": "127.0.0.1:0",
            "max-download-attempts": 1,
            "min-api-version": "1.44",
            "no-new-privileges": True,
            "runtimes": {"recorded": {"path": str(recorder(path)), "runtimeArgs": ["--debug"]}},
            "seccomp-profile": str(profile),
            "userland-proxy": False,
        }
        (path / "daemon.json").write_text(json.dumps(keys))
        daemon = Daemon(
            path, "--config-file", str(path / "daemon.json"), "--registry-mirror", f"http://{registry.address}"
        ).start()
        try:
            daemon.docker("pull", "-q", "busybox")
            yield daemon
        finally:
            daemon.clean()
            daemon.stop()
            cgroup.remove(keys["cgroup-parent"])
        assert not traces(path)


def output(engine: Daemon, *words: str) -> str:
    return engine.docker("run", "--rm", *words).stdout


def test_containers_are_made_by_the_defaults(configured: Daemon) -> None:
    script = "df -m /dev/shm | tail -1 | awk '{print $2}'; grep NoNewPrivs /proc/self/status; cat /proc/self/cgroup"
    size, privileges, *groups = output(configured, "busybox", "sh", "-c", script).splitlines()
    assert (size, privileges.split()) == ("7", ["NoNewPrivs:", "1"])
    assert any("/scow-test-parent-" in group for group in groups)
    assert "NoNewPrivs:\t0" in output(
        configured, "--security-opt", "no-new-privileges=false", "busybox", "grep", "NoNewPrivs", "/proc/self/status"
    )


def test_the_engines_seccomp_profile_holds_unless_another_is_asked_for(configured: Daemon) -> None:
    refused = configured.docker("run", "--rm", "busybox", "mkdir", "/x", check=False)
    assert "not supported" in refused.stderr
    for option in (["--security-opt", "seccomp=unconfined"], ["--privileged"]):
        output(configured, *option, "busybox", "mkdir", "/x")


def test_commands_in_a_container_gain_no_privileges_either(configured: Daemon) -> None:
    configured.docker("run", "-d", "--name", "box", "busybox", "sleep", "60")
    assert configured.docker("exec", "box", "grep", "NoNewPrivs", "/proc/self/status").stdout.split()[1] == "1"
    configured.docker("rm", "-f", "box")


def test_runtimes_get_their_arguments_whatever_they_are_asked_for(configured: Daemon) -> None:
    configured.docker("run", "-d", "--name", "box", "--runtime", "recorded", "busybox", "sleep", "60")
    configured.docker("exec", "box", "true")
    configured.docker("update", "--memory", "64m", "--memory-swap", "64m", "box")
    configured.docker("rm", "-f", "box")
    calls = (configured.folder / "calls").read_text().splitlines()
    assert [line for line in calls if "--debug" not in line.split()] == []
    assert {"create", "exec", "update"} <= {word for line in calls for word in line.split()}
    assert configured.json("GET", "/info")["Runtimes"]["recorded"]["runtimeArgs"] == ["--debug"]


def test_a_registry_is_asked_as_often_as_the_configuration_says(configured: Daemon) -> None:
    asked: list[str] = []

    class Overloaded(Quiet):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(503)

    with serving(Overloaded) as address:
        refused = configured.docker("pull", f"{address}/x", check=False)
    assert refused.returncode != 0
    assert len(asked) == 1


def test_containers_on_the_default_bridge_are_apart_without_icc(configured: Daemon) -> None:
    configured.docker("run", "-d", "--name", "server", "busybox", "sh", "-c", "echo hi >/i; httpd -f -p 80 -h /")
    address = configured.json("GET", "/containers/server/json")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    asked = configured.docker("run", "--rm", "busybox", "wget", "-T", "1", "-qO-", f"http://{address}/i", check=False)
    assert asked.returncode != 0
    configured.docker("rm", "-f", "server")


def test_the_default_bridge_has_ipv6_addresses_of_the_range(configured: Daemon) -> None:
    assert "fd00:dead:beef::" in output(configured, "busybox", "ip", "-6", "addr", "show", "eth0")


def test_host_gateway_means_what_the_configuration_says(configured: Daemon) -> None:
    hosts = output(configured, "--add-host", "machine:host-gateway", "busybox", "cat", "/etc/hosts")
    assert "10.1.2.3\tmachine\nfd00::3\tmachine\n" in hosts


def test_new_networks_take_pools_and_options(configured: Daemon) -> None:
    configured.docker("network", "create", "own")
    own = configured.json("GET", "/networks/own")
    assert own["IPAM"]["Config"][0]["Subnet"].endswith("/28")
    assert own["Options"]["com.docker.network.driver.mtu"] == "1400"
    assert "mtu 1400" in output(configured, "--network", "own", "busybox", "ip", "link", "show", "eth0")
    configured.docker("network", "rm", "own")


def test_old_versions_of_the_api_are_refused(configured: Daemon) -> None:
    assert configured.request("GET", "/v1.44/info")[0] == 200
    status, body = configured.request("GET", "/v1.43/info")
    assert (status, json.loads(body)["message"]) == (
        400,
        "client version 1.43 is too old. Minimum supported API version is 1.44, please upgrade your client to a newer "
        "version",
    )
    assert configured.json("GET", "/version")["MinAPIVersion"] == "1.44"


def test_the_log_is_lines_of_json_that_name_the_address_of_the_metrics(configured: Daemon) -> None:
    lines = [json.loads(line) for line in configured.log.splitlines() if line.startswith("{")]
    address = next(line["msg"].split("//")[1].split("/")[0] for line in lines if line["msg"].startswith("metrics at"))
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    assert 'engine_daemon_container_states_containers{state="running"} 0' in text
    assert "features has no effect" in configured.log


def test_without_a_default_bridge_containers_have_no_network(registry: Registry) -> None:
    with folder() as path:
        daemon = Daemon(path, "--bridge", "none", "--registry-mirror", f"http://{registry.address}").start()
        try:
            assert {network["Name"] for network in daemon.json("GET", "/networks")} == {"host", "none"}
            daemon.docker("pull", "-q", "busybox")
            for options in ([], ["--network", "bridge"]):
                links = daemon.docker("run", "--rm", *options, "busybox", "ls", "/sys/class/net").stdout.split()
                assert links == ["lo"]
        finally:
            daemon.stop()
        assert not traces(path)


def test_a_profile_that_is_no_json_keeps_the_engine_from_starting(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text("{")
    with folder() as path:
        daemon = Daemon(path, "--seccomp-profile", str(profile))
        with pytest.raises(AssertionError, match="seccomp-profile"):
            daemon.start()


def test_the_build_cache_is_trimmed_when_a_build_has_ended(configured: Daemon) -> None:
    dockerfile = b"FROM busybox\nRUN head -c 3000000 /dev/urandom > /large\nRUN echo > /small\nRUN false"
    failed = configured.docker("build", "-", input=dockerfile, check=False)
    assert "Step 4/4" in failed.stdout

    def cached() -> list[str]:
        return [each["Description"] for each in configured.json("GET", "/system/df?type=build-cache")["BuildCache"]]

    eventually(lambda: not any("large" in step for step in cached()))
    assert [step for step in cached() if "small" in step], "what was used last stays"
