"""Networks that are only a configuration, and the address that ports are published at by default."""

import socket
import urllib.request

import pytest

from support.calls import eventually
from support.daemon import Daemon, Registry, folder, free_subnet
from support.docker_client import modern_docker
from support.machine import traces


def refusal(daemon: Daemon, *args: str) -> str:
    done = daemon.docker(*args, check=False)
    assert done.returncode != 0
    return done.stderr


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_a_network_takes_another_ones_configuration(engine: Daemon, client: str) -> None:
    run = getattr(engine, client)
    subnet = f"10.213.{free_subnet()}.0/24"
    option = ("-o", "com.docker.network.driver.mtu=1400")
    run("network", "create", "--config-only", "--subnet", subnet, "--label", "a=b", *option, "plan")
    try:
        run("network", "create", "--config-from", "plan", "real")
        found = engine.json("GET", "/networks/real")
        assert (found["ConfigFrom"], found["ConfigOnly"], found["Driver"]) == ({"Network": "plan"}, False, "bridge")
        assert found["IPAM"]["Config"][0]["Subnet"] == subnet
        assert (found["Labels"], found["Options"]) == ({"a": "b"}, {"com.docker.network.driver.mtu": "1400"})
        plan = engine.json("GET", "/networks/plan")
        assert (plan["ConfigOnly"], plan["Driver"], plan["IPAM"]["Config"]) == (True, "null", [{"Subnet": subnet}])
        assert (
            engine.docker("run", "--rm", "--network", "real", "busybox", "cat", "/sys/class/net/eth0/mtu").stdout
            == "1400\n"
        )
        assert "cannot join config-only network" in refusal(
            engine, "run", "--rm", "--network", "plan", "busybox", "true"
        )
        assert 'configuration network "plan" is in use' in refusal(engine, "network", "rm", "plan")
        said = refusal(engine, "network", "create", "--config-from", "plan", "--subnet", "10.99.0.0/24", "other")
        assert "user specified configurations are not supported" in said
        engine.docker("network", "rm", "real")
    finally:
        engine.clean()
        engine.docker("network", "rm", "plan")


def answers(host: str, port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as sock:
        return sock.connect_ex((host, port)) == 0


def test_ports_are_published_at_the_address_that_the_engine_is_told(registry: Registry) -> None:
    with folder() as path:
        daemon = Daemon(path, "--registry-mirror", f"http://{registry.address}", "--ip", "127.0.0.1").start()
        try:
            daemon.docker("pull", "-q", "busybox")
            serve = ("busybox", "sh", "-c", "echo hello > /index.html; exec httpd -f -p 80 -h /")
            daemon.docker("run", "-d", "--name", "box", "-p", "80", *serve)
            address = daemon.docker("port", "box", "80").stdout.strip()
            assert address.startswith("127.0.0.1:")
            host, port = address.split(":")
            eventually(lambda: answers(host, int(port)))  # the server listens a moment after its start
            with urllib.request.urlopen(f"http://{address}/", timeout=30) as reply:
                assert reply.read() == b"hello\n"
            daemon.clean()
        finally:
            daemon.stop()
        assert not traces(path)


@modern_docker
def test_what_an_attachment_asks_of_its_interface(engine: Daemon) -> None:
    subnet = f"10.213.{free_subnet()}.0/24"
    engine.docker("network", "create", "--subnet", subnet, "fine")
    try:
        options = (
            "name=fine,driver-opt=com.docker.network.endpoint.ifname=wan0,link-local-ip=169.254.7.7,"
            '"driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.rp_filter=2"'
        )
        engine.docker("run", "-d", "--name", "box", "--network", options, "busybox", "sleep", "600")
        shown = engine.docker("exec", "box", "ip", "address", "show", "wan0").stdout
        assert "169.254.7.7/16" in shown
        assert subnet.rpartition(".")[0] in shown
        read = "cat /proc/sys/net/ipv4/conf/wan0/log_martians /proc/sys/net/ipv4/conf/wan0/rp_filter"
        assert engine.docker("exec", "box", "sh", "-c", read).stdout == "1\n2\n"
        for option, words in (
            ("com.docker.network.endpoint.ifname=a/b", "invalid interface name: a/b"),
            ("com.docker.network.endpoint.sysctls=kernel.core_pattern=x", "invalid sysctl setting"),
        ):
            assert words in refusal(engine, "create", "--network", f"name=fine,driver-opt={option}", "busybox")
        said = refusal(
            engine,
            *("run", "--network", "name=fine,driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.no=1"),
            *("busybox", "true"),
        )
        assert "failed to set sysctl net/ipv4/conf/eth0/no=1" in said
    finally:
        engine.clean()
        engine.docker("network", "rm", "fine")
