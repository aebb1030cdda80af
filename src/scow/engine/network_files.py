"""The three files of a container that say who it is and whom it asks: /etc/hosts, /etc/hostname, /etc/resolv.conf."""

import asyncio
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from scow.engine.config import EngineConfig
from scow.engine.container import Container, ContainerTable
from scow.network.dns.forwarding import Upstream
from scow.network.files import (
    FALLBACK_IPV4,
    Resolver,
    asking,
    hostname_file,
    hosts_file,
    moved_hosts,
    parse_resolver,
    resolver_file,
    resolver_for,
)
from scow.network.model import Endpoint
from scow.network.networks import Networks

FILES: Final = {"/etc/resolv.conf": "resolv.conf", "/etc/hostname": "hostname", "/etc/hosts": "hosts"}
_WRITTEN: Final = "resolv.conf.written"  # /etc/resolv.conf as we wrote it last
MACHINE_RESOLVERS: Final = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))


async def write_network_files(
    container: Container,
    table: ContainerTable,
    networks: Networks,
    config: EngineConfig,
    links: Sequence[tuple[str, str]] = (),
) -> dict[str, Path]:
    """Write them for a run that is about to start; where each is to be mounted. Raises InvalidArgument.

    A container that shares another's network shares its files. `links` are addresses and names of linked containers.
    """
    host = container.record.host_config
    if host.network_mode.startswith("container:"):
        other = table.get(host.network_mode.partition(":")[2])
        return {
            destination: path
            for destination, name in FILES.items()
            if (path := other.folder / name).exists()  # a stat of a file that was just written
        }
    endpoints = networks.of_container(container.id)
    record = container.record
    shares = host.network_mode == "host"
    ours = networks.resolver_of(container.id)
    own = [endpoint.gateway for endpoint in endpoints if endpoint.gateway][:1]
    gateways = config.host_gateway_ips or tuple(filter(None, [config.host_gateway_ip])) or own
    hostname = record.config.hostname or (await asyncio.to_thread(_machine_name) if shares else "")

    def write() -> None:
        container.folder.mkdir(mode=0o710, parents=True, exist_ok=True)
        if shares and not host.extra_hosts:
            hosts = _read(Path("/etc/hosts")) or hosts_file(hostname)
        else:
            hosts = hosts_file(hostname, record.config.domainname, endpoints, host.extra_hosts or (), gateways, links)
        (container.folder / "hosts").write_text(hosts)
        (container.folder / "hostname").write_text(hostname_file(hostname))
        _write_resolver(container, config, ours)

    await asyncio.to_thread(write)
    return {destination: container.folder / name for destination, name in FILES.items()}


async def move_network_files(
    container: Container, networks: Networks, config: EngineConfig, before: Sequence[Endpoint]
) -> None:
    """Bring them up to date, in place, for a container that runs and was on other networks before.

    They are mounted in the container one by one, and what was written there by others stays: lines of /etc/hosts, and
    all of an /etc/resolv.conf that isn't as we left it.
    """
    record = container.record
    now = networks.of_container(container.id)
    left = [endpoint for endpoint in before if endpoint not in now]
    joined = [endpoint for endpoint in now if endpoint not in before]
    ours = networks.resolver_of(container.id)

    def write() -> None:
        path = container.folder / "hosts"
        path.write_text(moved_hosts(_read(path), record.config.hostname, record.config.domainname, left, joined))
        if _read(container.folder / _WRITTEN) in ("", _read(container.folder / "resolv.conf")):
            _write_resolver(container, config, ours)

    await asyncio.to_thread(write)


def _write_resolver(container: Container, config: EngineConfig, ours: str) -> None:
    host = container.record.host_config
    shares = host.network_mode == "host"
    resolver = resolver_for(
        _machine_resolver(shares),
        nameservers=tuple(host.dns or config.dns),
        search=tuple(host.dns_search or config.dns_search),
        options=tuple(host.dns_options or config.dns_opts),
        shares_network=shares,
    )
    if ours:
        resolver = asking(ours, resolver, host.dns_options or config.dns_opts)
    for name in ("resolv.conf", _WRITTEN):
        (container.folder / name).write_text(resolver_file(resolver))


def upstreams(container: Container | None, config: EngineConfig) -> tuple[Upstream, ...]:
    """The servers that a container's questions go to which no network of its own answers: its own, or the machine's."""
    asked = (container.record.host_config.dns if container is not None else None) or config.dns
    if asked:
        return tuple(map(Upstream, asked))
    found = _machine_resolver(True).nameservers or FALLBACK_IPV4
    return tuple(Upstream(address, here=_is_loopback(address)) for address in found)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _machine_resolver(shares_network: bool) -> Resolver:
    resolver = parse_resolver(_read(MACHINE_RESOLVERS[0]))
    if not shares_network and resolver.nameservers == ("127.0.0.53",):
        # systemd-resolved's stub can't be reached from a container; it writes down whom it asks itself.
        return parse_resolver(_read(MACHINE_RESOLVERS[1]))
    return resolver


def _machine_name() -> str:
    return Path("/proc/sys/kernel/hostname").read_text().strip()
