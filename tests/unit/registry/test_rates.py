"""What workers know together about clients: buckets of requests, wrong passwords."""

import os

import pytest

from scow.registry import shared
from scow.registry.errors import TooManyRequests
from scow.registry.passwords import Delays
from scow.registry.rates import Rates
from scow.registry.settings import Limits
from scow.registry.shared import SharedTable

LIMITS = Limits(requests_per_s=2, burst=3)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("scow.registry.rates.time.monotonic", lambda: now[0])
    return now


def taken(limit: Rates, address: str) -> int:
    """How many requests in a row pass."""
    for count in range(100):
        try:
            limit.take(address)
        except TooManyRequests:
            return count
    return 100


def test_a_bucket_fills_again_at_its_rate_and_not_beyond(clock: list[float]) -> None:
    limit = Rates(LIMITS)
    assert taken(limit, "10.0.0.1") == 3
    clock[0] += 0.5
    assert taken(limit, "10.0.0.1") == 1
    clock[0] += 3600
    assert taken(limit, "10.0.0.1") == 3
    assert taken(Rates(Limits()), "10.0.0.1") == 100


def test_addresses_have_buckets_of_their_own_but_a_network_of_ipv6_has_one(clock: list[float]) -> None:
    limit = Rates(LIMITS)
    assert [taken(limit, f"10.0.0.{number}") for number in range(9)] == [3] * 9
    assert taken(limit, "::ffff:10.0.0.1") == 0
    assert taken(limit, "::ffff:10.0.1.1") == 3
    assert (taken(limit, "2001:db8::1"), taken(limit, "2001:db8::9"), taken(limit, "2001:db8:0:1::1")) == (3, 0, 3)
    assert (taken(limit, "fe80::1%eth0"), taken(limit, ""), taken(limit, "no:address")) == (3, 3, 3)


def test_processes_share_buckets(clock: list[float]) -> None:
    buckets = SharedTable()
    mine = Rates(LIMITS, buckets)
    mine.take("10.0.0.1")
    child = os.fork()
    if child == 0:
        os._exit(taken(Rates(LIMITS, buckets), "10.0.0.1"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert taken(mine, "10.0.0.1") == 0


def test_a_crowd_of_addresses_takes_the_places_of_full_buckets_first(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "_SETS", 1)
    limit = Rates(LIMITS)
    assert taken(limit, "10.0.0.1") == 3
    for number in range(50):
        limit.take(f"10.1.0.{number}")
        clock[0] += 1 / 64
    assert taken(limit, "10.0.0.1") == 1  # 50/64 s have brought it one; the others' buckets were fuller


def test_wrong_passwords_are_remembered_by_all_for_a_while(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scow.registry.passwords.time.monotonic", lambda: clock[0])
    failures = SharedTable()
    one, other = Delays(failures), Delays(failures)
    delays = []
    for worker in (one, other, one, other, one):
        worker.failed("address a", "name n")
        delays.append(other.delay_s("address a", "name m"))
    assert delays == [0, 0, 0.5, 1, 2]
    assert one.delay_s("address b", "name n") == 2
    for _ in range(2000):
        one.failed("name n")
    assert other.delay_s("name n") == 8
    other.succeeded("name n")
    assert one.delay_s("name n") == 0
    clock[0] += 601
    assert one.delay_s("address a") == 0
