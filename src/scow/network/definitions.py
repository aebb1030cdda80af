"""What a network is defined to be, from the engine's settings or a user's request; nothing here touches the machine."""

import re
import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from scow.errors import Conflict, Forbidden, InvalidArgument, NotFound, NotSupported
from scow.linux.links import NAME_MAX
from scow.network import addresses
from scow.network.model import (
    BRIDGE,
    NONE,
    OPTION_BINDING,
    OPTION_DEFAULT,
    OPTION_ICC,
    OPTION_MASQUERADE,
    OPTION_MTU,
    OPTION_NAME,
    PREDEFINED,
    Network,
    NetworkRequest,
    Pool,
)

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_LINK_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_NOT_YET: Final = ("macvlan", "ipvlan", "overlay")


class NetworkExists(Conflict):
    def __init__(self, name: str) -> None:
        super().__init__(f"network with name {name} already exists")
        self.name = name


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine's configuration says about networks.

    `bridge_name` of the default bridge is derived from the engine id if empty; so is its subnet chosen from
    `default_pools` if there is no `bip` (an address with prefix). `spare_sandboxes` bounds the pool of ready ones.
    """

    bridge_name: str = ""
    bip: str = ""
    default_pools: tuple[tuple[str, int], ...] = addresses.DEFAULT_POOLS
    default_binding: str = ""
    mtu: int = 1500
    masquerade: bool = True
    inter_container: bool = True
    spare_sandboxes: int = 4


def linkless(name: str) -> Network:
    """Define `host` or `none`, whose driver is called null."""
    driver = "null" if name == NONE else name
    return Network(id=secrets.token_hex(32), name=name, driver=driver, created=datetime.now(UTC))


def default_bridge(settings: Settings, tag: str, before: Network | None, free: addresses.Subnet | None) -> Network:
    """Define the network `bridge`: its subnet is `bip`, else the one it had, else `free`. Raises InvalidArgument."""
    bridge = _checked_link(settings.bridge_name or f"scow{tag}")
    if settings.bip:
        pool = addresses.parse_bip(settings.bip)
    elif free is not None:
        pool = addresses.complete(Pool(subnet=str(free), gateway=""))
    else:
        assert before is not None
        pool = before.pools[0]
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
        pools=(pool,),
        options=options,
    )


def user_defined(request: NetworkRequest, pools: tuple[Pool, ...]) -> Network:
    """Define a network that a user asked for; its bridge is named after its id, as docker's. Raises InvalidArgument."""
    network_id = secrets.token_hex(32)
    return Network(
        id=network_id,
        name=request.name,
        driver=BRIDGE,
        created=datetime.now(UTC),
        bridge=_checked_link(request.options.get(OPTION_NAME) or f"br-{network_id[:12]}"),
        pools=pools,
        enable_ipv6=request.enable_ipv6,
        internal=request.internal,
        attachable=request.attachable,
        options=request.options,
        labels=request.labels,
        ipam_driver=request.ipam_driver,
        ipam_options=request.ipam_options,
    )


def _checked_link(name: str) -> str:
    # The name is written into firewall scripts too, so nothing but plain characters may be in it.
    if len(name) > NAME_MAX or not _LINK_NAME.fullmatch(name):
        raise InvalidArgument(f"invalid bridge name: {name!r}")
    return name


def check(request: NetworkRequest, existing: Iterable[Network], pools: Sequence[Pool] = ()) -> None:
    """Refuse what can't be made beside what exists: Conflict, Forbidden, InvalidArgument, NotFound, NotSupported."""
    if request.name in PREDEFINED or request.name == "default":
        raise Forbidden(f"operation is not permitted on predefined {request.name} network")
    if not _NAME.fullmatch(request.name):
        raise InvalidArgument(f"invalid network name: {request.name!r}: use letters, digits, underscore, dot and dash")
    if request.driver in _NOT_YET:
        raise NotSupported(f"network driver {request.driver} is not supported yet")
    if request.driver != BRIDGE:
        raise NotFound(f'could not find plugin {request.driver}: plugin "{request.driver}" not found')
    for network in existing:
        if network.name == request.name:
            raise NetworkExists(request.name)
        if network.bridge and network.bridge == request.options.get(OPTION_NAME):
            raise Forbidden(f"bridge name {network.bridge} is used by network {network.name}")
        for other in network.pools:
            for pool in pools:
                _check_overlap(addresses.parse_subnet(pool.subnet), addresses.parse_subnet(other.subnet), network.name)


def _check_overlap(subnet: addresses.Subnet, other: addresses.Subnet, name: str) -> None:
    if addresses.overlap(subnet, other):
        raise addresses.PoolOverlap(subnet, other, f"network {name}")


def choose_pools(request: NetworkRequest, free: addresses.Subnet | None) -> tuple[Pool, ...]:
    """Complete the pools that were asked for; `free` is for the IPv4 pool if none is named. Raises BadAddress."""
    pools = [
        addresses.complete(msgspec.structs.replace(pool, subnet=pool.subnet or str(free))) for pool in request.pools
    ]
    versions = {addresses.parse_subnet(pool.subnet).version for pool in pools}
    if 4 not in versions:
        pools.insert(0, addresses.complete(Pool(subnet=str(free), gateway="")))
    if request.enable_ipv6 and 6 not in versions:
        # A random unique local prefix (RFC 4193), as docker 27 and later give.
        prefix = (b"\xfd" + secrets.token_bytes(5)).hex()
        pools.append(addresses.complete(Pool(subnet=f"{prefix[:4]}:{prefix[4:8]}:{prefix[8:]}::/64", gateway="")))
    return tuple(pools)
