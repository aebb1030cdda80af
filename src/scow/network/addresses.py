"""Which subnet a network gets, and which address an endpoint."""

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from scow.errors import Conflict, Forbidden, Unavailable
from scow.network.model import IPVLAN, BadAddress, Endpoint, Network, Pool

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# dockerd's default-address-pools (moby libnetwork/ipamutils): base, size of a network.
DEFAULT_POOLS: Final[tuple[tuple[str, int], ...]] = (
    ("172.17.0.0/16", 16),
    ("172.18.0.0/16", 16),
    ("172.19.0.0/16", 16),
    ("172.20.0.0/14", 16),
    ("172.24.0.0/14", 16),
    ("172.28.0.0/14", 16),
    ("192.168.0.0/16", 20),
)


class PoolsExhausted(Unavailable):
    def __init__(self) -> None:
        super().__init__("all predefined address pools have been fully subnetted")


class PoolOverlap(Forbidden):
    """A subnet that was asked for belongs to something else already."""

    def __init__(self, subnet: Subnet, other: Subnet, holder: str) -> None:
        super().__init__(
            "invalid pool request: Pool overlaps with other one on this address space:"
            f" {subnet} with {other} of {holder}"
        )


class NoAddressLeft(Unavailable):
    def __init__(self, subnet: Subnet) -> None:
        super().__init__(f"no available IPv{subnet.version} addresses on this network's address pools: {subnet}")


class AddressTaken(Conflict):
    def __init__(self, address: Address) -> None:
        super().__init__(f"Address already in use: {address}")
        self.address = address


def parse_address(text: str) -> Address:
    """Parse one address. Raises BadAddress."""
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise BadAddress(f"invalid IP address: {text}") from error


def parse_subnet(text: str) -> Subnet:
    """Parse a subnet in CIDR form; host bits are dropped, as docker does. Raises BadAddress."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise BadAddress(f"invalid subnet {text}: {error}") from error


def parse_bip(text: str) -> Pool:
    """Parse `--bip`: the bridge's own address with its prefix, for instance 10.9.0.1/24. Raises BadAddress."""
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError as error:
        raise BadAddress(f"failed to parse bip {text}: {error}") from error
    if interface.ip == interface.network.network_address:
        raise BadAddress(f"failed to parse bip {text}: it names a network, not the bridge's address in it")
    return Pool(subnet=str(interface.network), gateway=str(interface.ip))


def candidates(pools: Sequence[tuple[str, int]]) -> Iterator[Subnet]:
    """Yield the networks that default pools can give, in order."""
    for base, size in pools:
        network = parse_subnet(base)
        if size < network.prefixlen:
            raise BadAddress(f"invalid address pool {base}: size {size} is larger than the pool")
        yield from network.subnets(new_prefix=size)


def choose_subnet(pools: Sequence[tuple[str, int]], taken: Iterable[Subnet], version: int = 4) -> Subnet:
    """Return the first network of the pools that touches none of `taken`. Raises PoolsExhausted."""
    others = [subnet for subnet in taken if subnet.version == version]
    for candidate in candidates(pools):
        if candidate.version == version and not any(overlap(candidate, other) for other in others):
            return candidate
    raise PoolsExhausted


def overlap(one: Subnet, other: Subnet) -> bool:
    return one.version == other.version and one.overlaps(other)


def complete(pool: Pool) -> Pool:
    """Check a pool and fill in its gateway: the range's or subnet's first address, as docker. Raises BadAddress."""
    subnet = parse_subnet(pool.subnet)
    if pool.ip_range:
        inner = parse_subnet(pool.ip_range)
        if inner.version != subnet.version or not inner.subnet_of(subnet):  # type: ignore[arg-type]  # same version
            raise BadAddress(f"invalid ip-range {pool.ip_range}: it is not within subnet {subnet}")
    if pool.gateway:
        if parse_address(pool.gateway) not in subnet:
            raise BadAddress(f"no matching subnet for gateway {pool.gateway}")
        gateway = pool.gateway
    else:
        start = parse_subnet(pool.ip_range) if pool.ip_range else subnet
        first = start.network_address
        gateway = str(first + 1 if first == subnet.network_address else first)
    return Pool(
        subnet=str(subnet), gateway=gateway, ip_range=pool.ip_range, auxiliary=pool.auxiliary, chosen=pool.chosen
    )


class AddressPool:
    """The addresses of one subnet; owned by the event loop. The lowest free one is handed out first."""

    def __init__(self, pool: Pool) -> None:
        self.subnet = parse_subnet(pool.subnet)
        self.range = parse_subnet(pool.ip_range) if pool.ip_range else self.subnet
        self._reserved = {self.subnet.network_address, parse_address(pool.gateway)}
        self._reserved.update(parse_address(text) for text in pool.auxiliary.values())
        if self.subnet.version == 4 and self.subnet.prefixlen < 31:
            self._reserved.add(self.subnet.broadcast_address)
        self._used: set[Address] = set()
        # Everything below this one is used or reserved, so that forty containers don't search forty times.
        self._floor = int(self.range.network_address)

    def take(self, wanted: str = "") -> Address:
        """Take an address. Raises BadAddress (not of this subnet), AddressTaken, NoAddressLeft."""
        if wanted:
            return self._take_this(parse_address(wanted))
        last = int(self.range.broadcast_address)
        kind = type(self.subnet.network_address)
        for number in range(self._floor, last + 1):
            address = kind(number)
            if address not in self._used and address not in self._reserved:
                self._used.add(address)
                self._floor = number + 1
                return address
        raise NoAddressLeft(self.subnet)

    def _take_this(self, address: Address) -> Address:
        if address not in self.subnet:
            raise BadAddress(f"invalid address {address}: It does not belong to any of this network's subnets")
        if address in self._used or address in self._reserved:
            raise AddressTaken(address)
        self._used.add(address)
        return address

    def adopt(self, address: Address) -> None:
        """Mark an address as used by an endpoint that was there before the engine."""
        self._used.add(address)

    def give_back(self, address: Address) -> None:
        self._used.discard(address)
        if address in self.range:
            self._floor = min(self._floor, int(address))


class NetworkAddresses:
    """The addresses of one network: its pools, of which an endpoint gets one IPv4 and, if there is one, one IPv6."""

    def __init__(self, pools: Iterable[Pool]) -> None:
        self._pools = [AddressPool(pool) for pool in pools]

    def take(self, ipv4: str = "", ipv6: str = "") -> list[Address]:
        """Take an address of each version, all or none. Raises BadAddress, AddressTaken, NoAddressLeft."""
        taken: list[Address] = []
        try:
            for version, wanted in ((4, ipv4), (6, ipv6)):
                pool = self._choose(version, wanted)
                if pool is not None:
                    taken.append(pool.take(wanted))
        except BaseException:
            self.give_back(taken)
            raise
        return taken

    def _choose(self, version: int, wanted: str) -> AddressPool | None:
        pools = [pool for pool in self._pools if pool.subnet.version == version]
        if not wanted:
            return pools[0] if pools else None
        address = parse_address(wanted)
        for pool in pools:
            if address in pool.subnet:
                return pool
        raise BadAddress(f"invalid address {address}: It does not belong to any of this network's subnets")

    def adopt(self, held: Iterable[Address]) -> None:
        """Mark addresses as used by endpoints that were there before the engine."""
        for address in held:
            for pool in self._pools:
                if address in pool.subnet:
                    pool.adopt(address)

    def give_back(self, held: Iterable[Address]) -> None:
        for address in held:
            for pool in self._pools:
                if address in pool.subnet:
                    pool.give_back(address)


def mac_of(address: Address) -> str:
    """Derive a MAC as docker does: 02:42 and the four bytes of an IPv4 address, the last four of an IPv6 one.

    An address that is used again thus keeps its MAC, and no neighbour's ARP cache goes stale.
    """
    return (b"\x02\x42" + address.packed[-4:]).hex(":")


def checked_mac(text: str) -> str:
    """Normalise a MAC address that a user gave. Raises BadAddress."""
    parts = text.replace("-", ":").split(":")
    try:
        packed = bytes(int(part, 16) for part in parts)
    except ValueError:
        packed = b""
    if len(packed) != 6 or packed[0] & 1:
        raise BadAddress(f"invalid MAC address: {text}")
    return packed.hex(":")


def placed(endpoint: Endpoint, network: Network, taken: list[Address], mac: str) -> Endpoint:
    """Return an endpoint with the addresses that were taken for it, their gateways, and its MAC. Raises BadAddress."""
    changes: dict[str, str | int] = {}
    for address in taken:
        pool = next(pool for pool in network.pools if address in parse_subnet(pool.subnet))
        prefix = parse_subnet(pool.subnet).prefixlen
        gateway = "" if network.internal or network.routed else pool.gateway
        if address.version == 4:
            changes |= {"ip": str(address), "prefix": prefix, "gateway": gateway}
        else:
            changes |= {"ipv6": str(address), "ipv6_prefix": prefix, "ipv6_gateway": gateway}
    if network.driver == IPVLAN:  # the parent's, for all of them
        return msgspec.structs.replace(endpoint, **changes)
    changes["mac"] = checked_mac(mac) if mac else mac_of(taken[0])
    return msgspec.structs.replace(endpoint, **changes)
