"""What the configuration says about networks, moments in filters, and what a container asks of its attachments."""

from datetime import UTC, datetime

import pytest

from scow.engine.config import EngineConfig, InvalidConfig
from scow.engine.endpoints import InvalidEndpoint, check_endpoint, main_network, parse_link
from scow.engine.moments import parse_moment
from scow.engine.networks import network_settings
from scow.errors import InvalidArgument
from scow.network.model import Network, Pool
from scow.wire.network import EndpointIPAMConfig, EndpointSettings


def network(name: str, *pools: Pool, internal: bool = False) -> Network:
    return Network(
        id=name * 4, name=name, driver="bridge", created=datetime.now(UTC), bridge="br", pools=pools, internal=internal
    )


def test_default_address_pools_come_from_the_configuration() -> None:
    pools = ({"base": "10.5.0.0/16", "size": 24}, {"base": "fd00:5::/48", "size": 64})
    found = network_settings(EngineConfig(default_address_pools=pools))
    assert found.default_pools == (("10.5.0.0/16", 24), ("fd00:5::/48", 64))
    assert network_settings(EngineConfig()).default_pools[0] == ("172.17.0.0/16", 16)


@pytest.mark.parametrize(
    "pool", [{"base": "10.5.0.0/16", "size": 8}, {"base": "x", "size": 8}, {"base": "10.5.0.0/16"}, {"size": 8}, {}]
)
def test_address_pools_that_make_no_sense_are_refused(pool: dict[str, object]) -> None:
    with pytest.raises(InvalidConfig, match="invalid default address pool"):
        network_settings(EngineConfig(default_address_pools=(pool,)))


@pytest.mark.parametrize(
    ("text", "moment"),
    [("100", 100), ("100.5", 100.5), ("1970-01-01T00:02:00Z", 120), ("10m", 400), ("1h", -2600), ("1m30s", 910)],
)
def test_moments(text: str, moment: float) -> None:
    assert parse_moment(text, 1000) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "m", "10x"])
def test_other_words_are_no_moments(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_moment(text, 1000)


def test_links_name_a_container_and_perhaps_what_to_call_it() -> None:
    assert parse_link("db") == ("db", "db")
    assert parse_link("db:database") == ("database", "db")
    assert parse_link("/db:/web/database") == ("database", "db")
    with pytest.raises(InvalidArgument):
        parse_link(":x")


def test_ports_are_published_through_the_way_out() -> None:
    plain = EndpointSettings()
    both = {"b": (network("b"), plain), "a": (network("a"), plain)}
    assert main_network(both) == "a"
    assert main_network(both | {"b": (network("b"), EndpointSettings(gw_priority=1))}) == "b"
    assert main_network({"a": (network("a", internal=True), plain), "b": both["b"]}) == "b"
    assert main_network({}) == ""


STATIC = Pool(subnet="10.1.0.0/24", gateway="10.1.0.1")
CHOSEN = Pool(subnet="10.2.0.0/24", gateway="10.2.0.1", chosen=True)


@pytest.mark.parametrize(
    ("pool", "ipv4", "problem"),
    [
        (STATIC, "10.1.0.9", ""),
        (STATIC, "10.9.0.9", "no configured subnet or ip-range contain the IP address 10.9.0.9"),
        (STATIC, "fd00::1", "invalid IPv4 address: fd00::1"),
        (CHOSEN, "10.2.0.9", "only when connecting to networks with user configured subnets"),
    ],
)
def test_fixed_addresses_belong_to_subnets_that_a_user_chose(pool: Pool, ipv4: str, problem: str) -> None:
    asked = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address=ipv4))
    if not problem:
        check_endpoint(network("n", pool), asked)
        return
    with pytest.raises(InvalidEndpoint, match=problem):
        check_endpoint(network("n", pool), asked)


def test_the_default_bridge_has_neither_aliases_nor_fixed_addresses() -> None:
    asked = EndpointSettings(aliases=["web"], ipam_config=EndpointIPAMConfig(ipv4_address="10.1.0.9"))
    with pytest.raises(InvalidEndpoint) as refusal:
        check_endpoint(network("bridge", STATIC), asked)
    assert len(str(refusal.value).splitlines()) == 3
