"""User-defined networks by the API and both clients: made, joined, left, removed, as dockerd does."""

import json
import secrets
import subprocess
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from support.daemon import Daemon
from support.docker_client import modern_docker


@pytest.fixture(autouse=True)
def no_networks_left(engine: Daemon) -> Iterator[None]:
    yield
    engine.clean()
    for network in engine.json("GET", "/networks?filters=%7B%22type%22%3A%5B%22custom%22%5D%7D"):
        engine.json("DELETE", f"/networks/{network['Id']}")


def run(engine: Daemon, name: str, *flags: str) -> str:
    done = engine.docker("run", "-d", "--name", name, "--stop-timeout", "0", *flags, "busybox", "sleep", "600")
    return done.stdout.strip()


def settings(engine: Daemon, name: str) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = engine.json("GET", f"/containers/{name}/json")["NetworkSettings"]["Networks"]
    return found


def addresses(engine: Daemon, name: str) -> str:
    return engine.docker("exec", name, "ip", "-o", "addr").stdout


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_a_network_is_what_its_creator_asked_for(engine: Daemon, client: str) -> None:
    call = getattr(engine, client)
    flags = ("--subnet", "10.214.1.0/24", "--ip-range", "10.214.1.128/25", "--gateway", "10.214.1.254")
    flags += ("--aux-address", "router=10.214.1.200", "--internal", "--attachable", "--label", "a=b")
    made = call("network", "create", *flags, "-o", "com.docker.network.driver.mtu=1400", "mine").stdout.strip()
    (found,) = json.loads(call("network", "inspect", "mine").stdout)
    assert found["Id"] == made
    pool = {"Subnet": "10.214.1.0/24", "IPRange": "10.214.1.128/25", "Gateway": "10.214.1.254"}
    assert found["IPAM"]["Config"] == [pool | {"AuxiliaryAddresses": {"router": "10.214.1.200"}}]
    assert (found["Internal"], found["Attachable"], found["EnableIPv6"]) == (True, True, False)
    assert found["Labels"] == {"a": "b"}
    assert found["Options"] == {"com.docker.network.driver.mtu": "1400"}
    assert "mine" in call("network", "ls", "--filter", "label=a", "--format", "{{.Name}}").stdout.split()
    run(engine, "c1", "--network", "mine")
    assert "inet 10.214.1.129/24" in addresses(engine, "c1") or "inet 10.214.1.128/24" in addresses(engine, "c1")
    assert "mtu 1400" in engine.docker("exec", "c1", "ip", "link", "show", "eth0").stdout
    engine.docker("rm", "-f", "c1")
    assert call("network", "rm", "mine").stdout.strip() == "mine"
    assert call("network", "inspect", "mine", check=False).returncode == 1


def test_any_name_is_one_that_is_not_empty(engine: Daemon) -> None:
    for name in ("two words", "a/b", "\u00e9"):
        engine.docker("network", "create", name)
        assert json.loads(engine.docker("network", "inspect", name).stdout)[0]["Name"] == name
        assert engine.docker("run", "--rm", "--network", name, "busybox", "hostname", "-i").stdout.strip()
        engine.docker("network", "rm", name)


REFUSED = [
    ({"Name": "taken"}, 409, "network with name taken already exists"),
    ({"Name": "bridge"}, 403, "operation is not permitted on predefined bridge network"),
    ({"Name": "n", "Driver": "host"}, 403, 'only one instance of "host" network is allowed'),
    ({"Name": "n", "Driver": "nosuch"}, 404, 'could not find plugin nosuch: plugin "nosuch" not found'),
    ({"Name": ""}, 400, "name is empty"),
    ({"Name": "a\nb"}, 400, "invalid network name: 'a\\nb': it has control characters"),
    ({"Name": " "}, 400, "name is empty"),
    ({"Name": "n", "EnableIPv4": False}, 400, "IPv4 or IPv6 must be enabled"),
    ({"Name": "n", "Options": {"com.docker.network.driver.mtu": "many"}}, 400, "com.docker.network.driver.mtu"),
]
BAD_POOLS = [
    ({"Subnet": "10.214.2.1/24"}, "invalid subnet 10.214.2.1/24: it should be 10.214.2.0/24"),
    ({"Subnet": "nonsense"}, "invalid subnet nonsense: invalid CIDR block notation"),
    ({"Gateway": "10.214.2.1"}, "invalid subnet : invalid CIDR block notation"),
    (
        {"Subnet": "10.214.2.0/24", "Gateway": "10.9.0.1"},
        "invalid gateway 10.9.0.1: parent subnet 10.214.2.0/24 doesn't contain this address",
    ),
    (
        {"Subnet": "10.214.2.0/24", "IPRange": "10.214.0.0/16"},
        "invalid ip-range 10.214.0.0/16: CIDR block is bigger than its parent subnet 10.214.2.0/24",
    ),
    (
        {"Subnet": "10.214.2.0/24", "IPRange": "fd00::/64"},
        "invalid ip-range fd00::/64: parent subnet is an IPv4 block",
    ),
]
REFUSED += [
    ({"Name": "n", "IPAM": {"Config": [pool]}}, 400, f"invalid network config:\n{text}") for pool, text in BAD_POOLS
]
OVERLAP = "invalid pool request: Pool overlaps with other one on this address space"
REFUSED.append(({"Name": "n", "IPAM": {"Config": [{"Subnet": "10.214.3.128/25"}]}}, 403, OVERLAP))


def test_what_can_not_be_made_is_refused_in_dockers_words(engine: Daemon) -> None:
    engine.docker("network", "create", "--subnet", "10.214.3.0/24", "taken")
    before = engine.json("GET", "/networks")
    for body, wanted, text in REFUSED:
        status, answer = engine.request("POST", "/networks/create", body)
        assert (status, text in json.loads(answer)["message"]) == (wanted, True), (body, status, answer)
    assert engine.json("GET", "/networks") == before


def test_networks_in_use_and_predefined_ones_are_not_removed(engine: Daemon) -> None:
    engine.docker("network", "create", "used")
    run(engine, "c1", "--network", "used")
    status, answer = engine.request("DELETE", "/networks/used")
    assert status == 403
    assert 'has active endpoints (name:"c1" id:"' in json.loads(answer)["message"]
    for name in ("bridge", "host", "none"):
        status, answer = engine.request("DELETE", f"/networks/{name}")
        assert (status, json.loads(answer)["message"]) == (
            403,
            f"{name} is a pre-defined network and cannot be removed",
        )
    assert engine.request("DELETE", "/networks/nosuch")[0] == 404
    engine.docker("stop", "c1")
    assert engine.request("DELETE", "/networks/used")[0] == 204  # nobody is attached, though c1 would like to be
    refused = engine.docker("start", "c1", check=False)
    assert "network used not found" in refused.stderr


def test_a_removed_network_can_be_made_again_at_once(engine: Daemon) -> None:
    named = ("-o", f"com.docker.network.bridge.name=rm{secrets.token_hex(3)}")
    for _ in range(3):
        engine.docker("network", "create", "--subnet", "10.214.4.0/24", *named, "n")
        run(engine, "c1", "--network", "n")
        assert "inet 10.214.4.2/24" in addresses(engine, "c1")
        engine.docker("rm", "-f", "c1")
        engine.docker("network", "rm", "n")


def test_a_running_container_joins_and_leaves_networks(engine: Daemon) -> None:
    engine.scow("network", "create", "--subnet", "10.214.5.0/24", "more")
    run(engine, "c1")
    engine.scow("network", "connect", "--ip", "10.214.5.77", "--alias", "other", "more", "c1")
    assert "inet 10.214.5.77/24" in addresses(engine, "c1")
    assert settings(engine, "c1")["more"]["IPAddress"] == "10.214.5.77"
    assert settings(engine, "c1")["more"]["Aliases"] == ["other"]
    assert "other" in str(settings(engine, "c1")["more"]["DNSNames"])
    (network,) = json.loads(engine.docker("network", "inspect", "more").stdout)
    assert [each["Name"] for each in network["Containers"].values()] == ["c1"]
    assert "10.214.5.77" in engine.docker("exec", "c1", "cat", "/etc/hosts").stdout
    again = engine.docker("network", "connect", "more", "c1", check=False)
    assert "endpoint with name c1 already exists in network more" in again.stderr
    engine.scow("network", "disconnect", "bridge", "c1")
    assert list(settings(engine, "c1")) == ["more"]
    assert "default via 10.214.5.1" in engine.docker("exec", "c1", "ip", "route").stdout
    engine.docker("restart", "-t", "0", "c1")
    assert "inet 10.214.5.77/24" in addresses(engine, "c1")
    engine.scow("network", "disconnect", "more", "c1")
    assert settings(engine, "c1") == {}
    assert "eth" not in addresses(engine, "c1")
    status, answer = engine.request("POST", "/networks/more/disconnect", {"Container": "c1"})
    assert status == 403
    assert "is not connected to network more" in json.loads(answer)["message"]


def test_a_stopped_container_joins_when_it_starts(engine: Daemon) -> None:
    engine.docker("network", "create", "--subnet", "10.214.6.0/24", "later")
    engine.docker("create", "--name", "c1", "busybox", "sleep", "600")
    engine.docker("network", "connect", "--ip", "10.214.6.9", "later", "c1")
    engine.docker("network", "disconnect", "bridge", "c1")
    engine.docker("start", "c1")
    assert "inet 10.214.6.9/24" in addresses(engine, "c1")
    assert list(settings(engine, "c1")) == ["later"]


def test_a_network_is_asked_for_within_a_scope(engine: Daemon) -> None:
    assert engine.request("GET", "/networks/bridge?scope=local&verbose=true")[0] == 200
    assert engine.request("GET", "/networks/bridge?scope=swarm")[0] == 404
    status, answer = engine.request("GET", "/networks/bridge?verbose=maybe")
    assert (status, "invalid value for verbose: maybe" in answer.decode()) == (400, True)
    assert engine.request("GET", "/networks?filters=%7B%22dangling%22%3A%5B%22x%22%5D%7D")[0] == 400


def test_a_container_leaves_by_force_whatever_is_missing(own_engine: Daemon) -> None:
    own_engine.docker("network", "create", "-d", "macvlan", "n")
    run(own_engine, "c1", "--network", "n")
    refused = own_engine.docker("network", "disconnect", "--force", "n", "nosuch", check=False)
    assert "endpoint nosuch not found" in refused.stderr
    # Its namespace can't be found any more.
    found = own_engine.json("GET", "/containers/c1/json")["NetworkSettings"]["SandboxKey"]
    subprocess.run(["umount", "--lazy", found], check=True)
    assert own_engine.docker("network", "disconnect", "n", "c1", check=False).returncode != 0
    own_engine.docker("network", "disconnect", "--force", "n", "c1")
    assert own_engine.json("GET", "/networks/n")["Containers"] == {}
    own_engine.docker("rm", "-f", "c1")
    own_engine.docker("network", "rm", "n")


def test_a_stopped_container_may_be_connected_anew(engine: Daemon) -> None:
    engine.docker("network", "create", "--subnet", "10.214.9.0/24", "n")
    run(engine, "c1", "--network", "n")
    engine.docker("stop", "c1")
    engine.docker("network", "connect", "--ip", "10.214.9.9", "n", "c1")
    engine.docker("start", "c1")
    assert "inet 10.214.9.9/24" in addresses(engine, "c1")


def test_what_a_containers_mode_rules_out_is_refused(engine: Daemon) -> None:
    engine.docker("network", "create", "plain")
    run(engine, "hosted", "--network", "host")
    run(engine, "apart", "--network", "none")
    run(engine, "guest", "--network", "container:apart")
    for name, text in (
        ("hosted", "container sharing network namespace with another container or host cannot be connected"),
        ("apart", "container cannot be connected to multiple networks with one of the networks in private (none) mode"),
        ("guest", "container sharing network namespace with another container or host cannot be connected"),
    ):
        status, answer = engine.request("POST", "/networks/plain/connect", {"Container": name})
        assert (status, text in json.loads(answer)["message"]) == (400, True), answer
    body = {"Image": "busybox", "HostConfig": {"NetworkMode": "plain"}}
    wanted = {"IPAMConfig": {"IPv4Address": "10.1.2.3"}}
    status, answer = engine.request(
        "POST", "/containers/create", body | {"NetworkingConfig": {"EndpointsConfig": {"plain": wanted}}}
    )
    assert status == 400
    assert "only when connecting to networks with user configured subnets" in json.loads(answer)["message"]


def test_a_new_container_is_on_the_networks_that_are_named_and_on_no_other(engine: Daemon) -> None:
    engine.docker("network", "create", "plain")
    for mode, networks in (("default", ["plain"]), ("bridge", ["none"]), ("none", ["plain", "bridge"])):
        body = {
            "Image": "busybox",
            "HostConfig": {"NetworkMode": mode},
            "Cmd": ["sleep", "60"],
            "NetworkingConfig": {"EndpointsConfig": {name: {} for name in networks}},
        }
        box = engine.json("POST", "/containers/create", body)["Id"]
        engine.json("POST", f"/containers/{box}/start")
        assert set(engine.json("GET", f"/containers/{box}/json")["NetworkSettings"]["Networks"]) == set(networks)


def test_a_network_may_be_called_almost_anything(engine: Daemon) -> None:
    for name in ("two words", "team/front", "a:b", "-dash", "größe", 'q"uote', "50%", "what?", "../.."):
        engine.json("POST", "/networks/create", {"Name": name})
        assert engine.json("GET", f"/networks/{quote(name)}")["Name"] == name
        body = {"Image": "busybox", "Cmd": ["sleep", "60"], "HostConfig": {"NetworkMode": name}}
        box = engine.json("POST", "/containers/create", body)["Id"]
        engine.json("POST", f"/containers/{box}/start")
        for what in ("disconnect", "connect"):
            engine.json("POST", f"/networks/{quote(name)}/{what}", {"Container": box})
        assert list(settings(engine, box)) == [name]
        engine.json("DELETE", f"/containers/{box}?force=1")
        engine.json("DELETE", f"/networks/{quote(name, safe='')}")


@pytest.mark.parametrize(
    ("mode", "networks", "text"),
    [
        ("bridge", ["bridge", "none"], "one of the networks in private (none) mode"),
        ("none", ["none", "bridge"], "one of the networks in private (none) mode"),
        ("host", ["host", "bridge"], "disconnected from host network or connected to host network"),
        ("bridge", ["host"], "disconnected from host network or connected to host network"),
        ("container:base", ["bridge", "none"], "container sharing network namespace with another container"),
    ],
)
def test_networks_that_cannot_be_had_together_are_refused(
    engine: Daemon, mode: str, networks: list[str], text: str
) -> None:
    run(engine, "base")
    body = {"Image": "busybox", "HostConfig": {"NetworkMode": mode}}
    body["NetworkingConfig"] = {"EndpointsConfig": {name: {} for name in networks}}
    status, answer = engine.request("POST", "/containers/create", body)
    assert (status, text in json.loads(answer)["message"]) == (400, True), answer


def test_published_ports_move_when_their_network_is_left(engine: Daemon) -> None:
    engine.docker("network", "create", "front")
    engine.docker("network", "create", "back")
    run(engine, "web", "--network", "front", "-p", "127.0.0.1::80")
    (binding,) = engine.json("GET", "/containers/web/json")["NetworkSettings"]["Ports"]["80/tcp"]
    engine.docker("network", "connect", "back", "web")
    engine.docker("network", "disconnect", "front", "web")
    assert engine.json("GET", "/containers/web/json")["NetworkSettings"]["Ports"]["80/tcp"] == [binding]


@modern_docker
def test_the_highest_priority_is_the_way_out(engine: Daemon) -> None:
    engine.docker("network", "create", "--subnet", "10.214.7.0/24", "a")
    engine.docker("network", "create", "--subnet", "10.214.8.0/24", "b")
    run(engine, "c1", "--network", "a", "--network", "name=b,gw-priority=1")
    assert "default via 10.214.8.1" in engine.docker("exec", "c1", "ip", "route").stdout
    run(engine, "c2", "--network", "b", "--network", "a")
    assert "default via 10.214.7.1" in engine.docker("exec", "c2", "ip", "route").stdout


def test_prune_removes_what_nobody_is_attached_to(engine: Daemon) -> None:
    for name in ("used", "kept", "gone"):
        engine.docker("network", "create", "--label", f"is={name}", name)
    run(engine, "c1", "--network", "used")
    assert engine.scow("network", "prune", "-f", "--filter", "until=1h").stdout == ""
    assert engine.scow("network", "prune", "-f", "--filter", "label!=is=kept").stdout == "Deleted Networks:\ngone\n\n"
    assert engine.docker("network", "prune", "-f").stdout.split() == ["Deleted", "Networks:", "kept"]


def test_events_tell_of_networks_and_attachments(engine: Daemon) -> None:
    before = engine.json("GET", "/info")["SystemTime"]
    engine.docker("network", "create", "n")
    container = run(engine, "c1", "--network", "n")
    engine.docker("rm", "-f", "c1")
    engine.docker("network", "rm", "n")
    after = engine.json("GET", "/info")["SystemTime"]
    flags = ("--filter", "type=network", "--format", "{{json .}}", "--since", before, "--until", after)
    events = [json.loads(line) for line in engine.docker("events", *flags).stdout.splitlines()]
    assert [event["Action"] for event in events] == ["create", "connect", "disconnect", "destroy"]
    assert events[0]["Actor"]["Attributes"] == {"name": "n", "type": "bridge"}
    assert events[1]["Actor"]["Attributes"] == {"name": "n", "type": "bridge", "container": container}


@modern_docker
def test_ipv6_and_fixed_addresses(engine: Daemon) -> None:
    engine.docker("network", "create", "--ipv6", "--subnet", "fd12:3456::/64", "--subnet", "10.214.9.0/24", "six")
    flags = ("--network", "six", "--ip", "10.214.9.5", "--ip6", "fd12:3456::5", "--mac-address", "02:aa:bb:cc:dd:ee")
    run(engine, "c1", *flags)
    found = settings(engine, "c1")["six"]
    assert (found["IPAddress"], found["GlobalIPv6Address"]) == ("10.214.9.5", "fd12:3456::5")
    assert found["MacAddress"] == "02:aa:bb:cc:dd:ee"
    run(engine, "c2", "--network", "six")
    engine.docker("exec", "c2", "ping", "-6", "-c", "1", "fd12:3456::5")
    engine.docker("network", "create", "--ipv4=false", "--ipv6", "only6")
    run(engine, "c3", "--network", "only6")
    assert settings(engine, "c3")["only6"]["IPAddress"] == ""
    assert str(settings(engine, "c3")["only6"]["GlobalIPv6Address"]).startswith("fd")
