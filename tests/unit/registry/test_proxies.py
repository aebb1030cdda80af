"""Which address counts when proxies stand in between."""

import pytest
from multidict import CIMultiDict

from scow.registry.proxies import Origin, Proxies, is_host
from scow.registry.settings import SettingsInvalid

PROXIES = Proxies(["10.0.0.0/8", "192.0.2.7", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "chain", "address"),
    [
        ("10.0.0.1", "203.0.113.5", "203.0.113.5"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.5, 10.9.9.9", "203.0.113.5"),  # what stands left of it is anybody's word
        ("fd00::1", "2001:db8::5", "2001:db8::5"),
        ("::ffff:10.0.0.1", "203.0.113.5:4711", "203.0.113.5"),
        ("10.0.0.1", "[2001:db8::5]:4711", "2001:db8::5"),
        ("10.0.0.1", "10.0.0.2, 10.0.0.3", "10.0.0.2"),
        ("10.0.0.1", "203.0.113.5, unknown, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("192.0.2.8", "203.0.113.5", "192.0.2.8"),
        ("", "203.0.113.5", ""),
    ],
)
def test_the_last_address_that_is_no_proxy_of_ours_counts(peer: str, chain: str, address: str) -> None:
    assert PROXIES.origin(peer, CIMultiDict({"X-Forwarded-For": chain})).address == address


def test_scheme_and_host_are_believed_of_proxies_alone() -> None:
    said = CIMultiDict(
        {"X-Forwarded-Proto": "http, https", "X-Forwarded-Host": "hub.example:8443", "X-Forwarded-For": "1.2.3.4"}
    )
    assert PROXIES.origin("10.1.1.1", said) == Origin("1.2.3.4", "https", "hub.example:8443")
    assert PROXIES.origin("1.1.1.1", said) == Origin("1.1.1.1")
    wrong = CIMultiDict({"X-Forwarded-Proto": "javascript", "X-Forwarded-Host": 'evil"/,realm="x'})
    assert PROXIES.origin("10.1.1.1", wrong) == Origin("10.1.1.1")


def test_a_proxy_that_adds_a_line_of_its_own_is_believed_rather_than_the_client() -> None:
    forged = [("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "evil.example")]
    added = [("X-Forwarded-For", "203.0.113.5"), ("X-Forwarded-Proto", "http"), ("X-Forwarded-Host", "hub.example")]
    assert PROXIES.origin("10.1.1.1", CIMultiDict(forged + added)) == Origin("203.0.113.5", "http", "hub.example")


@pytest.mark.parametrize("host", ["hub", "hub.example:8443", "10.0.0.1:5000", "[::1]", "[2001:db8::1]:5000"])
def test_hosts(host: str) -> None:
    assert is_host(host)


@pytest.mark.parametrize(
    "host", ["", "[::1", "::1]", "a:b:c", "hub:99999", "hub:x", 'x"y', "a/b", "a b", "x" * 300, ":5000"]
)
def test_what_is_no_host(host: str) -> None:
    assert not is_host(host)


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(SettingsInvalid, match=r"proxies: 10\.0\.0\.0/40 is no address and no network"):
        Proxies(["10.0.0.0/40"])
