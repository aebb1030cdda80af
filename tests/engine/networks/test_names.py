"""Containers find each other by name on user-defined networks, in a real engine with real resolvers."""

import json
import re
import socket
from collections.abc import Iterator

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


def address(engine: Daemon, name: str, network: str) -> str:
    return str(engine.json("GET", f"/containers/{name}/json")["NetworkSettings"]["Networks"][network]["IPAddress"])


def looked_up(engine: Daemon, container: str, name: str) -> set[str]:
    """The IPv4 addresses that a name has for a container; the server's own isn't among them."""
    found = engine.docker("exec", container, "nslookup", "-type=a", name, check=False).stdout
    answers = found.partition("\n\n")[2]
    return set(re.findall(r"^Address: (\d+\.\d+\.\d+\.\d+)$", answers, re.MULTILINE))


def reaches(engine: Daemon, container: str, name: str) -> bool:
    return engine.docker("exec", container, "ping", "-c", "1", "-W", "10", name, check=False).returncode == 0


def test_containers_are_found_by_name_alias_short_id_and_hostname(engine: Daemon) -> None:
    engine.docker("network", "create", "n")
    found = run(engine, "web", "--network", "n", "--network-alias", "www", "--hostname", "host1")
    run(engine, "asker", "--network", "n")
    for name in ("web", "www", "WEB", found[:12], "host1", "web.n"):
        assert reaches(engine, "asker", name), name
    where = address(engine, "web", "n")
    assert "name = web.n" in engine.docker("exec", "asker", "nslookup", where).stdout
    assert reaches(engine, "web", "web")


def test_several_with_one_alias_are_all_told(engine: Daemon) -> None:
    engine.docker("network", "create", "n")
    for number in range(3):
        run(engine, f"worker{number}", "--network", "n", "--network-alias", "worker")
    run(engine, "asker", "--network", "n")
    everyone = {address(engine, f"worker{number}", "n") for number in range(3)}
    assert looked_up(engine, "asker", "worker") == everyone
    engine.docker("rm", "-f", "worker0")
    assert len(looked_up(engine, "asker", "worker")) == 2


@modern_docker
def test_names_are_known_on_shared_networks_only(engine: Daemon) -> None:
    engine.docker("network", "create", "front")
    engine.docker("network", "create", "--internal", "back")
    run(engine, "web", "--network", "front")
    run(engine, "db", "--network", "back")
    run(engine, "middle", "--network", "front", "--network", "back")
    run(engine, "alone")
    assert not looked_up(engine, "web", "db")
    assert not looked_up(engine, "db", "web")
    assert reaches(engine, "middle", "db")
    assert reaches(engine, "db", "middle")
    assert reaches(engine, "web", "middle")
    assert "nameserver" in engine.docker("exec", "alone", "cat", "/etc/resolv.conf").stdout
    assert not looked_up(engine, "alone", "web")


def test_an_internal_network_reaches_nothing_of_the_machine(engine: Daemon) -> None:
    engine.docker("network", "create", "--internal", "in")
    run(engine, "c1", "--network", "in")
    run(engine, "c2", "--network", "in")
    assert reaches(engine, "c1", "c2")
    gateway = json.loads(engine.docker("network", "inspect", "in").stdout)[0]["IPAM"]["Config"][0]["Gateway"]
    with socket.create_server((gateway, 0)) as service:
        service.setblocking(False)
        port = str(service.getsockname()[1])
        engine.docker("exec", "c1", "nc", "-w", "1", gateway, port, check=False)
        with pytest.raises(BlockingIOError):
            service.accept()
        run(engine, "c3")
        engine.docker("exec", "-d", "c3", "nc", gateway, port)
        service.settimeout(60)
        service.accept()[0].close()  # from a network that isn't internal


def test_joining_and_renaming_change_names_at_once(engine: Daemon) -> None:
    engine.docker("network", "create", "n")
    run(engine, "web")
    run(engine, "asker")
    before = engine.docker("exec", "asker", "cat", "/etc/resolv.conf").stdout
    engine.docker("network", "connect", "--alias", "late", "n", "web")
    engine.docker("network", "connect", "n", "asker")
    resolver = engine.docker("exec", "asker", "cat", "/etc/resolv.conf").stdout
    assert "nameserver 127.0.0.11\n" in resolver
    assert "ndots:0" in resolver
    assert looked_up(engine, "asker", "late") == {address(engine, "web", "n")}
    engine.docker("rename", "web", "other")
    assert looked_up(engine, "asker", "other") == {address(engine, "other", "n")}
    assert not looked_up(engine, "asker", "web")
    engine.docker("network", "disconnect", "n", "asker")
    assert engine.docker("exec", "asker", "cat", "/etc/resolv.conf").stdout == before


def test_what_is_written_in_a_container_outlives_its_moves(engine: Daemon) -> None:
    engine.docker("network", "create", "n")
    run(engine, "db")
    run(engine, "web", "--link", "db:database", "--add-host", "far:192.0.2.1")
    engine.docker("exec", "web", "sh", "-c", "echo '192.0.2.2 mine' >> /etc/hosts")
    before = engine.docker("exec", "web", "cat", "/etc/hosts").stdout
    engine.docker("network", "connect", "n", "web")
    now = engine.docker("exec", "web", "cat", "/etc/hosts").stdout
    assert now.startswith(before)
    assert now.removeprefix(before).startswith(address(engine, "web", "n") + "\t")
    engine.docker("exec", "web", "sh", "-c", "echo 'nameserver 192.0.2.3' > /etc/resolv.conf")
    engine.docker("network", "disconnect", "n", "web")
    assert engine.docker("exec", "web", "cat", "/etc/hosts").stdout == before
    assert engine.docker("exec", "web", "cat", "/etc/resolv.conf").stdout == "nameserver 192.0.2.3\n"


def test_questions_go_on_to_the_servers_that_a_container_asked_for(engine: Daemon) -> None:
    engine.docker("network", "create", "n")
    run(engine, "web", "--network", "n", "--dns", "127.0.0.99", "--dns-search", "example.com")
    resolver = engine.docker("exec", "web", "cat", "/etc/resolv.conf").stdout
    assert "127.0.0.99" not in resolver
    assert "search example.com" in resolver
    failed = engine.docker("exec", "web", "nslookup", "nowhere.test", check=False).stdout
    assert "SERVFAIL" in failed or "can't" in failed


def test_names_are_known_again_after_a_kill_when_the_engine_answers(own_engine: Daemon) -> None:
    own_engine.docker("network", "create", "n")
    run(own_engine, "web", "--network", "n")
    run(own_engine, "asker", "--network", "n")
    assert reaches(own_engine, "asker", "web")
    own_engine.kill()
    own_engine.start()
    assert reaches(own_engine, "asker", "web")
    own_engine.clean()
    own_engine.docker("network", "rm", "n")
