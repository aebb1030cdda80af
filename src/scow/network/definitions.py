"""What a network is defined to be, from the engine's settings or a user's request; nothing here touches the machine."""

import ipaddress
import itertools
import re
import secrets
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from scow.errors import Conflict, Forbidden, InvalidArgument, NotFound, NotSupported
from scow.linux.links import NAME_MAX
from scow.network import addresses, parents
from scow.network.model import (
    BRIDGE,
    HOST,
    IPVLAN,
    MACVLAN,
    NONE,
    OPTION_BINDING,
    OPTION_DEFAULT,
    OPTION_ICC,
    OPTION_MASQUERADE,
    OPTION_MTU,
    OPTION_NAME,
    OPTION_PARENT,
    OPTION_PREFIX,
    PREDEFINED,
    Network,
    NetworkRequest,
    NoSuchNetwork,
    Pool,
)

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_LINK_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_NOT_YET: Final = ("overlay",)


class NetworkExists(Conflict):
    def __init__(self, name: str) -> None:
        super().__init__(f"network with name {name} already exists")
        self.name = name


class BadPools(InvalidArgument):
    """Address pools of a request make no sense; all that is wrong is told at once."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("invalid network config:\n" + "\n".join(problems))


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine's configuration says about networks.

    `bridge_name` of the default bridge is derived from the engine id if empty; one that is there already is used with
    the addresses that it has. Otherwise its subnet is chosen from `default_pools` if there is neither `bip` (an address
    with prefix) nor `fixed_cidr` (the part of the subnet that containers get addresses of). `relays` carry what comes
    by IPv6 to containers without. `spare_sandboxes` bounds the pool of ready ones. Without `has_bridge` there is no
    network `bridge`.
    """

    has_bridge: bool = True
    bridge_name: str = ""
    bip: str = ""
    fixed_cidr: str = ""
    ipv6: bool = False
    bip6: str = ""
    fixed_cidr_v6: str = ""
    default_pools: tuple[tuple[str, int], ...] = addresses.DEFAULT_POOLS
    default_binding: str = ""
    mtu: int = 1500
    masquerade: bool = True
    inter_container: bool = True
    relays: bool = True
    spare_sandboxes: int = 4


def get_network(networks: Mapping[str, Network], ref: str) -> Network:
    """Find a network by name, id, or the beginning of an id. Raises NoSuchNetwork; InvalidArgument if ambiguous."""
    named = next((network for network in networks.values() if network.name == ref), None)
    found = named or networks.get(ref)
    if found is not None:
        return found
    matches = [network for network in networks.values() if ref and network.id.startswith(ref)]
    if len(matches) > 1:
        raise InvalidArgument(f"network {ref} is ambiguous ({len(matches)} matches found based on ID prefix)")
    if not matches:
        raise NoSuchNetwork(ref)
    return matches[0]


def linkless(name: str) -> Network:
    """Define `host` or `none`, whose driver is called null."""
    driver = "null" if name == NONE else name
    return Network(id=secrets.token_hex(32), name=name, driver=driver, created=datetime.now(UTC))


def default_bridge(
    settings: Settings,
    tag: str,
    before: Network | None,
    free: Mapping[int, addresses.Subnet],
    *,
    foreign_bridge: bool = False,
) -> Network:
    """Define the network `bridge`: a subnet is what is configured, else the one it had, else the one in `free`.

    `free` has a subnet for each version of IP that `wants_subnet`. Raises InvalidArgument.
    """
    bridge = _checked_link(settings.bridge_name or f"scow{tag}")
    pools = [_bridge_pool(settings.bip, settings.fixed_cidr, before, free, 4)]
    if settings.ipv6:
        pools.append(_bridge_pool(settings.bip6, settings.fixed_cidr_v6, before, free, 6))
    options = {
        OPTION_DEFAULT: "true",
        OPTION_ICC: str(settings.inter_container).lower(),
        OPTION_MASQUERADE: str(settings.masquerade).lower(),
        OPTION_BINDING: settings.default_binding or "0.0.0.0",
        OPTION_NAME: bridge,
        OPTION_MTU: str(settings.mtu),
    }
    return Network(
        id=before.id if before else secrets.token_hex(32),
        name=BRIDGE,
        driver=BRIDGE,
        created=before.created if before else datetime.now(UTC),
        bridge=bridge,
        foreign_bridge=foreign_bridge,
        pools=tuple(pools),
        enable_ipv6=settings.ipv6,
        options=options,
    )


def wants_subnet(settings: Settings, before: Network | None) -> list[int]:
    """The versions of IP for which a subnet has to be chosen for the network `bridge`."""
    had = {addresses.parse_subnet(pool.subnet).version for pool in before.pools} if before is not None else set()
    wanted = [4] if not (settings.bip or settings.fixed_cidr) else []
    if settings.ipv6 and not (settings.bip6 or settings.fixed_cidr_v6):
        wanted.append(6)
    return [version for version in wanted if version not in had]


def _bridge_pool(
    bip: str, fixed_cidr: str, before: Network | None, free: Mapping[int, addresses.Subnet], version: int
) -> Pool:
    if bip:
        pool = addresses.parse_bip(bip)
        return addresses.complete(msgspec.structs.replace(pool, ip_range=fixed_cidr))
    if fixed_cidr:
        return addresses.complete(Pool(subnet=fixed_cidr, gateway=""))
    if version in free:
        return addresses.complete(Pool(subnet=str(free[version]), gateway=""))
    assert before is not None
    return next(pool for pool in before.pools if addresses.parse_subnet(pool.subnet).version == version)


def bridge_of(network_id: str) -> str:
    """Name a network's bridge, unless its options do: as docker names it."""
    return f"br-{network_id[:12]}"


def user_defined(request: NetworkRequest, pools: tuple[Pool, ...]) -> Network:
    """Define a network that a user asked for; its bridge is named after its id, as docker's. Raises InvalidArgument."""
    network_id = secrets.token_hex(32)
    return Network(
        id=network_id,
        name=request.name,
        driver=request.driver,
        created=datetime.now(UTC),
        bridge=_checked_link(request.options.get(OPTION_NAME) or bridge_of(network_id))
        if request.driver == BRIDGE
        else "",
        pools=pools,
        enable_ipv4=request.enable_ipv4,
        enable_ipv6=request.enable_ipv6,
        internal=request.internal,
        attachable=request.attachable,
        options=request.options,
        labels=request.labels,
        ipam_driver=request.ipam_driver,
        ipam_options=request.ipam_options,
        config_from=request.config_from,
    )


def configuration(request: NetworkRequest) -> Network:
    """Define a network that is only a configuration for others. Raises InvalidArgument."""
    if request.internal or request.attachable:
        raise InvalidArgument(
            "configuration network can only contain network specific fields. Network operator fields like "
            "[ ingress | internal | attachable | scope ] are not supported."
        )
    if request.config_from:
        raise InvalidArgument("a configuration network cannot depend on another configuration network")
    problems = [problem for pool in request.pools for problem in _problems(pool, ipv6=request.enable_ipv6)]
    if problems:
        raise BadPools(problems)
    return Network(
        id=secrets.token_hex(32),
        name=request.name,
        driver="null",
        created=datetime.now(UTC),
        enable_ipv4=request.enable_ipv4,
        enable_ipv6=request.enable_ipv6,
        options=request.options,
        labels=request.labels,
        ipam_driver=request.ipam_driver,
        ipam_options=request.ipam_options,
        config_only=True,
        config_pools=request.pools,
    )


def configured(request: NetworkRequest, source: Network) -> NetworkRequest:
    """A request completed by a configuration. Raises InvalidArgument if it says more itself, Forbidden."""
    if not source.config_only:
        raise Forbidden(f"configuration network {source.name} is not a configuration network")
    if request.pools or request.options or request.enable_ipv6:
        raise InvalidArgument(
            "user specified configurations are not supported if the network depends on a configuration network"
        )
    return msgspec.structs.replace(
        request,
        pools=source.config_pools,
        enable_ipv4=source.enable_ipv4,
        enable_ipv6=source.enable_ipv6,
        options=source.options,
        labels={**source.labels, **request.labels},
        ipam_driver=source.ipam_driver,
        ipam_options=source.ipam_options,
        config_from=source.name,
    )


def with_parent(network: Network, is_missing: Callable[[str], bool]) -> Network:
    """Say which parent a network's branches have, and whether it is made for it. Raises what `is_missing` raises.

    Without one a dummy link is made, so that nothing leaves the machine; then the network is internal.
    """
    parent = network.options.get(OPTION_PARENT, "")
    if not parent:
        made = f"dm-{network.id[:12]}"
        options = {**network.options, OPTION_PARENT: made}
        return msgspec.structs.replace(network, made_link=made, options=options, internal=True)
    return msgspec.structs.replace(network, made_link=parent) if is_missing(parent) else network


def interface_name(network: Network, wanted: str, used: Container[str]) -> str:
    """Name a container's next interface; `used` are those that it has. Raises InvalidArgument."""
    if wanted in used:
        raise InvalidArgument(f"interface name {wanted} is in use in the container already")
    prefix = network.options.get(OPTION_PREFIX) or "eth"
    return wanted or next(name for name in map(f"{prefix}{{}}".format, itertools.count()) if name not in used)


def _checked_link(name: str) -> str:
    # The name is written into firewall scripts too, so nothing but plain characters may be in it.
    if len(name) > NAME_MAX or not _LINK_NAME.fullmatch(name):
        raise InvalidArgument(f"invalid bridge name: {name!r}")
    return name


def check(request: NetworkRequest, existing: Iterable[Network], pools: Sequence[Pool] = ()) -> None:
    """Refuse what can't be made beside what exists: Conflict, Forbidden, InvalidArgument, NotFound, NotSupported."""
    if request.name in PREDEFINED or request.name == "default":
        raise Forbidden(f"operation is not permitted on predefined {request.name} network")
    if not request.name.strip():
        raise InvalidArgument("invalid name: name is empty")
    if _CONTROL.search(request.name):  # else anything goes, as with dockerd
        raise InvalidArgument(f"invalid network name: {request.name!r}: it has control characters")
    _check_drivers(request)
    _check_options(request.options)
    if request.driver != BRIDGE:
        parents.check(request.driver, request.options)
    if not request.enable_ipv4 and not request.enable_ipv6:
        raise InvalidArgument("IPv4 or IPv6 must be enabled")
    parent = request.options.get(OPTION_PARENT)
    for network in existing:
        if network.name == request.name:
            raise NetworkExists(request.name)
        if network.bridge and network.bridge == request.options.get(OPTION_NAME):
            raise Forbidden(f"bridge name {network.bridge} is used by network {network.name}")
        if network.branches and request.driver != BRIDGE and network.options[OPTION_PARENT] == parent:
            raise parents.ParentTaken(network, parent)
        for other in network.pools:
            for pool in pools:
                _check_overlap(addresses.parse_subnet(pool.subnet), addresses.parse_subnet(other.subnet), network.name)


def _check_drivers(request: NetworkRequest) -> None:
    if request.driver in _NOT_YET:
        raise NotSupported(f"network driver {request.driver} is not supported yet")
    if request.driver in (HOST, "null", NONE):
        only = "null" if request.driver == NONE else request.driver
        raise Forbidden(f'only one instance of "{only}" network is allowed')
    if request.driver not in (BRIDGE, MACVLAN, IPVLAN):
        raise NotFound(f'could not find plugin {request.driver}: plugin "{request.driver}" not found')
    if request.ipam_driver != "default":
        raise NotFound(f'could not find plugin {request.ipam_driver}: plugin "{request.ipam_driver}" not found')


def _check_options(options: dict[str, str]) -> None:
    for name in (OPTION_ICC, OPTION_MASQUERADE, OPTION_DEFAULT):
        value = options.get(name, "true")
        if value.lower() not in ("true", "false", "1", "0", "t", "f"):
            raise InvalidArgument(f"invalid value for {name}: {value!r} is neither true nor false")
    mtu = options.get(OPTION_MTU, "0")
    if not mtu.isdigit() or int(mtu) > 65535:
        raise InvalidArgument(f"invalid value for {OPTION_MTU}: {mtu!r}")
    if int(mtu) and int(mtu) < 68:
        raise InvalidArgument(f"invalid MTU number: {mtu}")
    prefix = options.get(OPTION_PREFIX, "")
    if prefix and (len(prefix) > NAME_MAX - 3 or not _LINK_NAME.fullmatch(prefix)):
        raise InvalidArgument(f"invalid value for {OPTION_PREFIX}: {prefix!r}")
    binding = options.get(OPTION_BINDING, "")
    if binding:
        addresses.parse_address(binding)
    for name in ("ipv4", "ipv6"):
        mode = options.get(f"com.docker.network.bridge.gateway_mode_{name}", "nat")
        if mode != "nat":
            raise NotSupported(f"gateway mode {mode} is not supported yet")


def _check_overlap(subnet: addresses.Subnet, other: addresses.Subnet, name: str) -> None:
    if addresses.overlap(subnet, other):
        raise addresses.PoolOverlap(subnet, other, f"network {name}")


def choose_pools(request: NetworkRequest, free: Callable[[int], addresses.Subnet]) -> tuple[Pool, ...]:
    """Check and complete the pools that were asked for; `free` gives a subnet of a version where none is named.

    Raises BadPools, PoolsExhausted, PoolOverlap.
    """
    problems = [problem for pool in request.pools for problem in _problems(pool, ipv6=request.enable_ipv6)]
    if problems:
        raise BadPools(problems)
    pools: list[Pool] = []
    for pool in request.pools:
        if pool.subnet:
            if addresses.parse_subnet(pool.subnet).version == 6 and not request.enable_ipv6:
                continue  # docker ignores it
            pools.append(addresses.complete(pool))
    for one, other in itertools.combinations([addresses.parse_subnet(pool.subnet) for pool in pools], 2):
        _check_overlap(one, other, f"{request.name} itself")
    versions = {addresses.parse_subnet(pool.subnet).version for pool in pools}
    if request.enable_ipv4 and 4 not in versions:
        pools.insert(0, addresses.complete(Pool(subnet=str(free(4)), gateway="", chosen=True)))
    if request.enable_ipv6 and 6 not in versions:
        pools.append(addresses.complete(Pool(subnet=str(free(6)), gateway="", chosen=True)))
    return tuple(pools)


def random_local_prefix() -> addresses.Subnet:
    """A random unique local prefix (RFC 4193), as docker 27 and later give networks with IPv6."""
    prefix = (b"\xfd" + secrets.token_bytes(5)).hex()
    return addresses.parse_subnet(f"{prefix[:4]}:{prefix[4:8]}:{prefix[8:]}::/64")


def _problems(pool: Pool, *, ipv6: bool) -> list[str]:
    """What is wrong with a pool, in docker's words (moby api/types/network/ipam.go)."""
    if not pool.subnet:
        wrong = bool(pool.gateway or pool.ip_range or pool.auxiliary)
        return [f"invalid subnet {pool.subnet}: invalid CIDR block notation"] if wrong else []
    try:
        interface = ipaddress.ip_interface(pool.subnet)
    except ValueError:
        interface = None
    if interface is None or "/" not in pool.subnet:
        return [f"invalid subnet {pool.subnet}: invalid CIDR block notation"]
    subnet = interface.network
    found: list[str] = []
    if subnet.version == 6 and not ipv6:
        return found
    if interface.ip != subnet.network_address:
        found.append(f"invalid subnet {pool.subnet}: it should be {subnet}")
    if pool.ip_range:
        found += [f"invalid ip-range {pool.ip_range}: {problem}" for problem in _range_problems(pool.ip_range, subnet)]
    if pool.gateway:
        found += [f"invalid gateway {pool.gateway}: {problem}" for problem in _address_problems(pool.gateway, subnet)]
    for name, text in pool.auxiliary.items():
        found += [f"invalid auxiliary address {name}: {problem}" for problem in _address_problems(text, subnet)]
    return found


def _range_problems(text: str, subnet: addresses.Subnet) -> list[str]:
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        return ["invalid CIDR block notation"]
    inner = interface.network
    if inner.version != subnet.version:
        return [f"parent subnet is an IPv{subnet.version} block"]
    found = []
    if interface.ip != inner.network_address:
        found.append(f"it should be {inner}")
    if inner.prefixlen < subnet.prefixlen:
        found.append(f"CIDR block is bigger than its parent subnet {subnet}")
    if not subnet.overlaps(inner):
        found.append(f"parent subnet {subnet} doesn't contain ip-range")
    return found


def _address_problems(text: str, subnet: addresses.Subnet) -> list[str]:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ["invalid address"]
    if address.version != subnet.version:
        return [f"parent subnet is an IPv{subnet.version} block"]
    return [] if address in subnet else [f"parent subnet {subnet} doesn't contain this address"]
