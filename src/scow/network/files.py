"""What a container finds in /etc/hosts, /etc/hostname and /etc/resolv.conf, as docker writes them."""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from scow.errors import InvalidArgument
from scow.network.model import Endpoint

_LOCALHOST: Final = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""

# dockerd's, for machines whose only resolvers listen on loopback, where a container can't reach them.
FALLBACK_IPV4: Final = ("8.8.8.8", "8.8.4.4")
FALLBACK_IPV6: Final = ("2001:4860:4860::8888", "2001:4860:4860::8844")
HOST_GATEWAY: Final = "host-gateway"


class Resolver(msgspec.Struct, frozen=True):
    """The directives of a resolv.conf that matter (resolv.conf(5))."""

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def hostname_file(hostname: str) -> str:
    """Return the content of /etc/hostname."""
    return f"{hostname}\n"


def hosts_file(
    hostname: str,
    domain: str = "",
    endpoints: Sequence[Endpoint] = (),
    extra: Iterable[str] = (),
    gateways: Sequence[str] = (),
    links: Iterable[tuple[str, str]] = (),
) -> str:
    """Return the content of /etc/hosts: loopback, `--add-host` entries, linked containers, then the container itself.

    `host-gateway` as an address means `gateways`, the machine as a container sees it. Raises InvalidArgument.
    """
    lines = [_LOCALHOST]
    for entry in extra:
        name, found = parse_extra_host(entry, gateways)
        lines += [f"{address}\t{name}\n" for address in found]
    lines += [f"{address}\t{names}\n" for address, names in links]
    return "".join([*lines, *_own_lines(hostname, domain, endpoints)])


def _own_lines(hostname: str, domain: str, endpoints: Iterable[Endpoint]) -> list[str]:
    names = f"{hostname}.{domain} {hostname}" if domain else hostname
    return [f"{address}\t{names}\n" for each in endpoints for address in (each.ip, each.ipv6) if address]


def moved_hosts(text: str, hostname: str, domain: str, left: Sequence[Endpoint], joined: Sequence[Endpoint]) -> str:
    """Return /etc/hosts after its container has left and joined networks; whatever else stands there stays."""
    gone = set(_own_lines(hostname, domain, left))
    lines = [line for line in text.splitlines(keepends=True) if line not in gone]
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return "".join([*lines, *(line for line in _own_lines(hostname, domain, joined) if line not in lines)])


def parse_extra_host(entry: str, gateways: Sequence[str] = ()) -> tuple[str, Sequence[str]]:
    """Split `name:address` or `name=address`; IPv6 addresses may stand in brackets. Raises InvalidArgument."""
    separator = "=" if "=" in entry else ":"
    name, found, address = entry.partition(separator)
    if not found or not name:
        raise InvalidArgument(f'bad format for add-host: "{entry}"')
    if address == HOST_GATEWAY:
        if not gateways:
            raise InvalidArgument("unable to derive the IP value for host-gateway")
        return name, gateways
    address = address.removeprefix("[").removesuffix("]")
    try:
        return name, [str(ipaddress.ip_address(address))]
    except ValueError as error:
        raise InvalidArgument(f'invalid IP address in add-host: "{address}"') from error


def parse_resolver(text: str) -> Resolver:
    """Read a resolv.conf; the last `search` (or `domain`) counts, as for the C library."""
    nameservers: list[str] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        match words:
            case ["nameserver", address, *_]:
                nameservers.append(address)
            case ["search" | "domain", *names] if names:
                search = tuple(names)
            case ["options", *more]:
                options.extend(more)
            case _:
                continue
    return Resolver(tuple(nameservers), search, tuple(options))


def resolver_for(
    machine: Resolver,
    *,
    nameservers: Sequence[str] = (),
    search: Sequence[str] = (),
    options: Sequence[str] = (),
    shares_network: bool = False,
    ipv6: bool = False,
) -> Resolver:
    """Decide what a container resolves by: what was asked for, else the machine's, without what it can't reach.

    With `shares_network` (`host`) the machine's loopback resolvers stay. `--dns-search .` means none.
    """
    servers = tuple(nameservers) or machine.nameservers
    if not nameservers and not shares_network:
        servers = tuple(server for server in servers if _reachable(server, ipv6))
        servers = servers or (*FALLBACK_IPV4, *(FALLBACK_IPV6 if ipv6 else ()))
    wanted = tuple(search) or machine.search
    return Resolver(servers, () if wanted == (".",) else wanted, tuple(options) or machine.options)


def asking(server: str, resolver: Resolver, options: Sequence[str]) -> Resolver:
    """Let a container ask the DNS server of its network, which asks `resolver`'s in turn.

    A name without dots is a container's first, so it isn't tried with the search domains before, unless the
    container's own `options` say so: docker's `ndots:0`.
    """
    kept = options or [option for option in resolver.options if not option.startswith("ndots:")]
    chosen = any(option.startswith("ndots:") for option in kept)
    return Resolver((server,), resolver.search, tuple(kept) if chosen else (*kept, "ndots:0"))


def _reachable(server: str, ipv6: bool) -> bool:
    try:
        address = ipaddress.ip_address(server.partition("%")[0])
    except ValueError:
        return False
    return not address.is_loopback and (address.version == 4 or ipv6)


def resolver_file(resolver: Resolver) -> str:
    """Return the content of /etc/resolv.conf."""
    lines = [f"nameserver {server}\n" for server in resolver.nameservers]
    if resolver.search:
        lines.append(f"search {' '.join(resolver.search)}\n")
    if resolver.options:
        lines.append(f"options {' '.join(resolver.options)}\n")
    return "".join(lines)
