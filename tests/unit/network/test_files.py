"""The files that a container is given to find itself and others by name."""

import pytest

from scow.errors import InvalidArgument
from scow.network.files import (
    Resolver,
    hostname_file,
    hosts_file,
    parse_extra_host,
    parse_resolver,
    resolver_file,
    resolver_for,
)
from scow.network.model import Endpoint

ENDPOINT = Endpoint(id="e", network_id="n", network_name="bridge", container_id="c", ip="172.17.0.2", ipv6="fd00::2")


def test_hosts_names_the_container_by_its_addresses() -> None:
    text = hosts_file("box", "example.org", [ENDPOINT])
    assert text.startswith("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
    assert text.endswith("172.17.0.2\tbox.example.org box\nfd00::2\tbox.example.org box\n")


def test_extra_hosts_come_before_the_container_itself() -> None:
    text = hosts_file("box", endpoints=[ENDPOINT], extra=["db:10.0.0.9", "gw:host-gateway"], gateways=["172.17.0.1"])
    assert text.index("10.0.0.9\tdb\n") < text.index("172.17.0.1\tgw\n") < text.index("172.17.0.2\tbox\n")


@pytest.mark.parametrize(
    ("entry", "parsed"),
    [
        ("a:1.2.3.4", ("a", ["1.2.3.4"])),
        ("a=1.2.3.4", ("a", ["1.2.3.4"])),
        ("a:::1", ("a", ["::1"])),
        ("a:[::1]", ("a", ["::1"])),
        ("a=[fe80::1]", ("a", ["fe80::1"])),
    ],
)
def test_extra_hosts_are_written_in_several_ways(entry: str, parsed: tuple[str, list[str]]) -> None:
    assert parse_extra_host(entry) == parsed


@pytest.mark.parametrize("entry", ["a", ":1.2.3.4", "a:nonsense", "a:host-gateway"])
def test_extra_hosts_that_make_no_sense_are_refused(entry: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_extra_host(entry)


def test_the_machines_resolvers_are_taken_over_without_those_on_loopback() -> None:
    machine = parse_resolver("# c\nnameserver 127.0.0.53\nnameserver 10.0.0.2 ; x\nsearch a b\noptions ndots:2\n")
    assert resolver_file(resolver_for(machine)) == "nameserver 10.0.0.2\nsearch a b\noptions ndots:2\n"


def test_public_resolvers_stand_in_when_the_machines_listen_on_loopback_only() -> None:
    machine = parse_resolver("nameserver 127.0.0.53\nnameserver ::1\n")
    assert resolver_for(machine).nameservers == ("8.8.8.8", "8.8.4.4")
    assert len(resolver_for(machine, ipv6=True).nameservers) == 4


def test_a_container_in_the_machines_network_keeps_the_loopback_resolver() -> None:
    machine = Resolver(("127.0.0.53",))
    assert resolver_for(machine, shares_network=True) == machine


def test_what_is_asked_for_replaces_each_directive_on_its_own() -> None:
    machine = Resolver(("10.0.0.2",), ("a",), ("ndots:2",))
    assert resolver_for(machine, nameservers=["127.0.0.1"]) == Resolver(("127.0.0.1",), ("a",), ("ndots:2",))
    assert resolver_for(machine, search=["."], options=["rotate"]) == Resolver(("10.0.0.2",), (), ("rotate",))


def test_hostname_ends_its_line() -> None:
    assert hostname_file("box") == "box\n"
