"""Who is really asking when a proxy stands in between: X-Forwarded-For, -Proto and -Host of trusted proxies.

Anybody can send these headers, so they count only on connections from the configured networks, and of a chain of
addresses the last one that is no proxy of ours.
"""

import ipaddress
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec
from multidict import MultiMapping

from scow.registry.settings import SettingsInvalid

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

CHAIN_LIMIT: Final = 32
"""Addresses of a chain that are looked at."""


class Origin(msgspec.Struct, frozen=True):
    """Where a request comes from. Scheme and host are empty unless a trusted proxy has named them."""

    address: str
    scheme: str = ""
    host: str = ""


class Proxies:
    """The proxies that are trusted."""

    def __init__(self, networks: Sequence[str]) -> None:
        """`networks` are addresses and networks (`10.0.0.0/8`). Raises SettingsInvalid."""
        self._networks: list[Network] = []
        for text in networks:
            try:
                self._networks.append(ipaddress.ip_network(text, strict=False))
            except ValueError as error:
                raise SettingsInvalid("proxies", f"{text} is no address and no network") from error

    def origin(self, peer: str, headers: MultiMapping[str]) -> Origin:
        """The origin of a request on a connection from `peer`."""
        if not self._networks or not self._trusts(_address(peer)):
            return Origin(peer)
        found = peer
        chain = _values(headers, "X-Forwarded-For")
        for text in reversed(chain[-CHAIN_LIMIT:]):
            address = _address(text.strip())
            if address is None:
                break  # nothing to the left of a forgery is worth more
            found = str(address)
            if not self._trusts(address):
                break
        scheme = _values(headers, "X-Forwarded-Proto")[-1].strip().lower()
        host = _values(headers, "X-Forwarded-Host")[-1].strip()
        return Origin(found, scheme if scheme in ("http", "https") else "", host if is_host(host) else "")

    def _trusts(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def _values(headers: MultiMapping[str], name: str) -> list[str]:
    # Some proxies, haproxy for one, leave what the client has sent and put a line of their own behind it.
    return ",".join(headers.getall(name, [])).split(",")


def is_host(text: str) -> bool:
    """Whether it can stand in a URL as host and port."""
    if not (0 < len(text) < 300 and text.isascii() and all(c.isalnum() or c in ".-:[]" for c in text)):
        return False
    try:
        parts = urlsplit(f"//{text}")
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # half a bracket, or a port that is none
        return False


def _address(text: str) -> Address | None:
    # Some proxies add the port.
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address
