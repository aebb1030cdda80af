"""Subnets and addresses: which are given, which are refused."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scow.network.addresses import (
    DEFAULT_POOLS,
    AddressPool,
    AddressTaken,
    NoAddressLeft,
    PoolsExhausted,
    checked_mac,
    choose_subnet,
    complete,
    mac_of,
    parse_bip,
)
from scow.network.model import BadAddress, Pool


def test_the_first_default_pool_is_dockers() -> None:
    assert str(choose_subnet(DEFAULT_POOLS, [])) == "172.17.0.0/16"


def test_a_subnet_that_touches_a_route_of_the_machine_is_passed_over() -> None:
    taken = [ipaddress.ip_network("172.16.0.0/15"), ipaddress.ip_network("172.18.9.0/24"), ipaddress.ip_network("::/0")]
    assert str(choose_subnet(DEFAULT_POOLS, taken)) == "172.19.0.0/16"


def test_exhausted_pools_say_so() -> None:
    with pytest.raises(PoolsExhausted, match="fully subnetted"):
        choose_subnet([("10.1.0.0/24", 25)], [ipaddress.ip_network("10.1.0.0/16")])


def test_the_gateway_is_the_first_address_unless_it_is_given() -> None:
    assert complete(Pool(subnet="10.1.2.9/24", gateway="")).gateway == "10.1.2.1"
    assert complete(Pool(subnet="10.1.2.0/24", gateway="10.1.2.254")).gateway == "10.1.2.254"
    assert complete(Pool(subnet="10.1.0.0/16", gateway="", ip_range="10.1.5.0/24")).gateway == "10.1.5.0"


@pytest.mark.parametrize(
    "pool",
    [
        Pool(subnet="nonsense", gateway=""),
        Pool(subnet="10.1.0.0/24", gateway="10.2.0.1"),
        Pool(subnet="10.1.0.0/24", gateway="", ip_range="10.2.0.0/25"),
        Pool(subnet="10.1.0.0/24", gateway="", ip_range="fd00::/64"),
    ],
)
def test_pools_that_make_no_sense_are_refused(pool: Pool) -> None:
    with pytest.raises(BadAddress):
        complete(pool)


def test_bip_gives_subnet_and_gateway() -> None:
    assert parse_bip("10.9.3.1/24") == Pool(subnet="10.9.3.0/24", gateway="10.9.3.1")
    with pytest.raises(BadAddress):
        parse_bip("10.9.3.0/24")


def test_the_lowest_free_address_is_given_first_and_again() -> None:
    pool = AddressPool(Pool(subnet="10.1.0.0/24", gateway="10.1.0.1", auxiliary={"router": "10.1.0.3"}))
    first, second = pool.take(), pool.take()
    assert [str(first), str(second)] == ["10.1.0.2", "10.1.0.4"]
    pool.give_back(first)
    assert pool.take() == first
    assert str(pool.take()) == "10.1.0.5"


def test_a_static_address_is_given_once_and_within_the_subnet_only() -> None:
    pool = AddressPool(Pool(subnet="10.1.0.0/24", gateway="10.1.0.1"))
    pool.take("10.1.0.9")
    for taken in ("10.1.0.9", "10.1.0.1", "10.1.0.255"):
        with pytest.raises(AddressTaken, match="Address already in use"):
            pool.take(taken)
    with pytest.raises(BadAddress):
        pool.take("10.2.0.9")


def test_a_full_subnet_says_so() -> None:
    pool = AddressPool(Pool(subnet="10.1.0.0/30", gateway="10.1.0.1"))
    pool.take()
    with pytest.raises(NoAddressLeft):
        pool.take()


@given(st.lists(st.one_of(st.none(), st.integers(min_value=0, max_value=20)), max_size=60))
def test_no_address_is_ever_given_twice(steps: list[int | None]) -> None:
    pool = AddressPool(Pool(subnet="10.1.0.0/26", gateway="10.1.0.1"))
    held: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    for step in steps:
        if step is not None and step < len(held):
            pool.give_back(held.pop(step))
        elif len(held) < 61:
            address = pool.take()
            assert address not in held
            held.append(address)


def test_macs_are_derived_from_addresses_as_docker_does() -> None:
    assert mac_of(ipaddress.ip_address("172.17.0.2")) == "02:42:ac:11:00:02"


def test_given_macs_are_checked() -> None:
    assert checked_mac("02-42-AC-11-00-02") == "02:42:ac:11:00:02"
    for wrong in ("", "02:42", "01:00:5e:00:00:01", "02:42:ac:11:00:zz"):
        with pytest.raises(BadAddress):
            checked_mac(wrong)
