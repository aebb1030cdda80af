"""macvlan and ipvlan: containers whose links are branches of a link of the machine."""

import json
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from scow.linux import netns
from scow.network.dns import message
from support.daemon import Daemon, free_subnet


def ip(*args: str) -> str:
    return subprocess.run(["ip", *args], check=True, capture_output=True, text=True).stdout


def links() -> set[str]:
    return set(os.listdir("/sys/class/net"))


@pytest.fixture
def parent() -> Iterator[str]:
    """One end of a veth pair, up, as a stand-in for the machine's network card."""
    name = f"sct{secrets.token_hex(3)}"
    ip("link", "add", name, "type", "veth", "peer", f"{name}p")
    for end in (name, f"{name}p"):
        ip("link", "set", end, "up")
    yield name
    # Both ends go with one, and that may have gone with a namespace that it was put into.
    subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)
    assert name not in links()


def can_have(parent: str, kind: str) -> bool:
    """Whether this machine's kernel has links of a kind."""
    more = ("id", "4000") if kind == "vlan" else ()
    done = subprocess.run(["ip", "link", "add", "link", parent, "name", f"{parent}x", "type", kind, *more], check=False)
    if done.returncode == 0:
        ip("link", "delete", f"{parent}x")
    return done.returncode == 0


def need(parent: str, kind: str) -> None:
    """Skip the test if this machine's kernel has no links of a kind."""
    if not can_have(parent, kind):
        pytest.skip(f"this machine's kernel has no {kind} links")


def default_route(daemon: Daemon, container: str) -> str:
    shown = daemon.docker("exec", container, "ip", "route").stdout.splitlines()
    return next((" ".join(line.split()) for line in shown if line.startswith("default")), "")


@pytest.fixture
def networks(engine: Daemon) -> Iterator[Daemon]:
    """The shared engine, without user-defined networks at the end of the test."""
    yield engine
    engine.clean()
    engine.json("POST", "/networks/prune")


def refusal(daemon: Daemon, *args: str) -> str:
    done = daemon.docker(*args, check=False)
    assert done.returncode != 0
    return done.stderr


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("macvlan", []),
        ("macvlan", ["-o", "macvlan_mode=bridge"]),
        ("ipvlan", []),
        ("ipvlan", ["-o", "ipvlan_mode=l3"]),
        ("ipvlan", ["-o", "ipvlan_mode=l3s"]),
    ],
)
def test_containers_on_one_parent_reach_each_other(
    networks: Daemon, parent: str, driver: str, options: list[str]
) -> None:
    need(parent, driver)
    number = free_subnet()
    subnet = ("--subnet", f"10.213.{number}.0/24")
    networks.docker("network", "create", "-d", driver, "-o", f"parent={parent}", *options, *subnet, "wire")
    for name, last in (("one", 10), ("two", 11)):
        address = f"10.213.{number}.{last}"
        networks.docker("run", "-d", "--network", "wire", "--ip", address, "--name", name, "busybox", "sleep", "600")
    assert "1 packets received" in networks.docker("exec", "one", "ping", "-c", "1", f"10.213.{number}.11").stdout
    routed = options and "l3" in options[1]
    route = default_route(networks, "one")
    assert route == ("default dev eth0 scope link" if routed else f"default via 10.213.{number}.1 dev eth0")
    inspected = networks.json("GET", "/networks/wire")
    assert {each["Name"] for each in inspected["Containers"].values()} == {"one", "two"}
    assert (inspected["Driver"], inspected["Options"]["parent"]) == (driver, parent)
    assert "already using parent interface" in refusal(
        networks, "network", "create", "-d", driver, "-o", f"parent={parent}", "again"
    )
    assert "1 packets received" in networks.docker("exec", "one", "ping", "-c", "1", "two").stdout
    assert "name = two.wire" in networks.docker("exec", "one", "nslookup", f"10.213.{number}.11").stdout
    networks.docker("network", "disconnect", "wire", "one")
    assert "eth0" not in networks.docker("exec", "one", "ip", "link").stdout
    networks.docker("network", "connect", "--ip", f"10.213.{number}.12", "wire", "one")
    assert "1 packets received" in networks.docker("exec", "two", "ping", "-c", "1", f"10.213.{number}.12").stdout


@contextmanager
def name_server(link: str, address: str) -> Iterator[None]:
    """Answer every question by UDP with 192.0.2.7, from a place that only `link` leads to."""
    namespace = netns.make(lambda fd: fd)
    ip("link", "set", link, "netns", f"/proc/{os.getpid()}/fd/{namespace}")

    def prepare() -> socket.socket:
        ip("address", "add", f"{address}/24", "dev", link)
        ip("link", "set", link, "up")
        return socket.socket(type=socket.SOCK_DGRAM)

    with netns.inside(namespace, prepare) as server:
        os.close(namespace)  # the socket keeps it
        server.bind((address, 53))
        server.settimeout(0.1)
        stopping = threading.Event()

        def serve() -> None:
            while not stopping.is_set():
                with suppress(TimeoutError):
                    data, client = server.recvfrom(4096)
                    server.sendto(
                        message.answer(message.parse_query(data), [(message.A, bytes([192, 0, 2, 7]))]), client
                    )

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        stopping.set()
        thread.join()


def test_a_server_for_names_is_asked_from_the_containers_place(networks: Daemon, parent: str) -> None:
    number = free_subnet()
    subnet = ("--subnet", f"10.213.{number}.0/24")
    networks.docker("network", "create", "-d", "macvlan", "-o", f"parent={parent}", *subnet, "wire")
    with name_server(f"{parent}p", f"10.213.{number}.53"):
        # The machine has no address on this wire, so it can't ask in the container's stead.
        asking = ("run", "--rm", "--network", "wire", "--dns", f"10.213.{number}.53", "busybox", "nslookup", "far.test")
        assert "192.0.2.7" in networks.docker(*asking, check=False).stdout


def test_a_vlan_is_made_and_goes_with_its_network(networks: Daemon, parent: str) -> None:
    need(parent, "vlan")
    networks.docker("network", "create", "-d", "macvlan", "-o", f"parent={parent}.50", "tagged")
    (found,) = json.loads(ip("-j", "-d", "link", "show", f"{parent}.50"))
    assert found["linkinfo"]["info_data"]["id"] == 50
    networks.docker("network", "rm", "tagged")
    networks.docker("network", "create", "-d", "ipvlan", "-o", f"parent={parent}.51", "other")  # waits for it
    assert f"{parent}.50" not in links()


def test_branches_have_ipv6_too(networks: Daemon, parent: str) -> None:
    subnets = ("--subnet", f"10.213.{free_subnet()}.0/24", "--subnet", "fd12:3::/64", "--ipv6")
    networks.docker("network", "create", "-d", "macvlan", "-o", f"parent={parent}", *subnets, "wire")
    networks.docker("run", "-d", "--network", "wire", "--name", "one", "busybox", "sleep", "600")
    networks.docker("run", "-d", "--network", "wire", "--ip6", "fd12:3::22", "--name", "two", "busybox", "sleep", "600")
    assert "Address: fd12:3::22" in networks.docker("exec", "one", "nslookup", "-type=aaaa", "two").stdout
    assert "1 packets received" in networks.docker("exec", "one", "ping", "-6", "-c", "1", "fd12:3::22").stdout


def test_a_parent_that_was_there_stays(networks: Daemon, parent: str) -> None:
    networks.docker("network", "create", "-d", "macvlan", "-o", f"parent={parent}", "wire")
    networks.docker("network", "rm", "wire")
    networks.docker("network", "create", "-d", "macvlan", "-o", f"parent={parent}", "again")
    assert parent in links()


def test_without_parent_nothing_leads_out(networks: Daemon) -> None:
    networks.docker("network", "create", "-d", "macvlan", "inner")
    found = networks.json("GET", "/networks/inner")
    assert found["Internal"] is True
    assert found["Options"]["parent"] in links()
    networks.docker("run", "-d", "--network", "inner", "--name", "one", "busybox", "sleep", "600")
    assert default_route(networks, "one") == ""


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-d", "macvlan", "-o", "parent=nothere0"], "parent interface was not found on the host: nothere0"),
        (["-d", "macvlan", "-o", "parent=nothere0.5"], "parent interface was not found on the host: nothere0"),
        (["-d", "macvlan", "-o", "parent=lo"], "loopback interface is not a valid macvlan parent link"),
        (["-d", "macvlan", "-o", "macvlan_mode=odd"], "requested macvlan mode 'odd' is not valid"),
        (["-d", "ipvlan", "-o", "ipvlan_mode=l4"], "requested ipvlan mode 'l4' is not valid"),
    ],
)
def test_what_cannot_be_is_refused(engine: Daemon, args: list[str], words: str) -> None:
    assert words in refusal(engine, "network", "create", *args, "bad")
    assert not [name for name in links() if name.startswith("nothere0")]
    assert engine.request("GET", "/networks/bad")[0] == 404


def test_what_the_kernel_does_not_have_is_told_at_once(engine: Daemon, parent: str) -> None:
    if can_have(parent, "ipvlan"):
        pytest.skip("this machine's kernel has ipvlan links")
    words = refusal(engine, "network", "create", "-d", "ipvlan", "-o", f"parent={parent}", "wire")
    assert "this machine's kernel has no ipvlan links" in words
    assert engine.request("GET", "/networks/wire")[0] == 404


def test_branches_live_through_a_kill(own_engine: Daemon, parent: str) -> None:
    own_engine.docker("network", "create", "-d", "macvlan", "-o", f"parent={parent}", "wire")
    own_engine.docker("run", "-d", "--network", "wire", "--name", "one", "busybox", "sleep", "600")
    address = own_engine.json("GET", "/containers/one/json")["NetworkSettings"]["Networks"]["wire"]["IPAddress"]
    own_engine.kill()
    own_engine.start()
    own_engine.docker("run", "--rm", "--network", "wire", "busybox", "ping", "-c", "1", address)
    own_engine.docker("rm", "-f", "one")
    own_engine.docker("network", "rm", "wire")
    own_engine.docker("network", "create", "-d", "macvlan", "inner")
    made = own_engine.json("GET", "/networks/inner")["Options"]["parent"]
    own_engine.kill()
    ip("link", "delete", made)
    own_engine.start()
    assert made in links()
    own_engine.docker("network", "rm", "inner")
    own_engine.stop()
    assert made not in links()
