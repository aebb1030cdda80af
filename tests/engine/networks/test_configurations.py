"""Networks that are only a configuration, and the address that ports are published at by default."""

import urllib.request

import pytest

from support.daemon import Daemon, Registry, folder, free_subnet
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


def test_ports_are_published_at_the_address_that_the_engine_is_told(registry: Registry) -> None:
    with folder() as path:
        daemon = Daemon(path, "--registry-mirror", f"http://{registry.address}", "--ip", "127.0.0.1").start()
        try:
            daemon.docker("pull", "-q", "busybox")
            serve = ("busybox", "sh", "-c", "echo hello > /index.html; exec httpd -f -p 80 -h /")
            daemon.docker("run", "-d", "--name", "box", "-p", "80", *serve)
            address = daemon.docker("port", "box", "80").stdout.strip()
            assert address.startswith("127.0.0.1:")
            with urllib.request.urlopen(f"http://{address}/", timeout=30) as reply:
                assert reply.read() == b"hello\n"
            daemon.clean()
        finally:
            daemon.stop()
        assert not traces(path)
