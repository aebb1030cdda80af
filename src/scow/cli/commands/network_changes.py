"""`scow network create`, `rm`, `connect`, `disconnect`, `prune` and `reload`."""

from __future__ import annotations

from scow.cli.command import Command
from scow.cli.container_config import pairs
from scow.cli.errors import CliError, EngineError
from scow.cli.flags import Flag, Options
from scow.cli.http import quote
from scow.cli.listing import encode_filters, filter_flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.session import Session


def create(session: Session, options: Options) -> None:
    """Create a network and print its ID."""
    request: dict[str, Any] = {
        "Name": options.args[0],
        "Driver": options.text("driver"),
        "Scope": options.text("scope"),
        "IPAM": {
            "Driver": options.text("ipam-driver"),
            "Options": pairs(options.texts("ipam-opt")),
            "Config": pools(options),
        },
        "Internal": options.flag("internal"),
        "Ingress": options.flag("ingress"),
        "Attachable": options.flag("attachable"),
        "ConfigOnly": options.flag("config-only"),
        "Options": pairs(options.texts("opt")),
        "Labels": pairs(options.texts("label")),
    }
    for flag, name in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")):
        if options.changed(flag):
            request[name] = options.flag(flag)
    if options.text("config-from"):
        request["ConfigFrom"] = {"Network": options.text("config-from")}
    session.print(str(session.engine.post("/networks/create", None, request)["Id"]))


def pools(options: Options) -> list[dict[str, Any]]:
    """Put ranges, gateways and auxiliary addresses to the subnets that contain them. Raises CliError."""
    import ipaddress

    def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        try:
            return ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise CliError(f"invalid CIDR address: {text}") from None

    subnets = options.texts("subnet")
    if len(subnets) < len(options.texts("ip-range")) or len(subnets) < len(options.texts("gateway")):
        raise CliError("every ip-range or gateway must have a corresponding subnet")
    found: dict[str, dict[str, Any]] = {}
    for subnet in subnets:
        for other in found:
            one, two = network(subnet), network(other)
            if one.version == two.version and one.overlaps(two):
                raise CliError("multiple overlapping subnet configuration is not supported")
        found[subnet] = {"Subnet": subnet}

    def put(address: str, key: str, what: str, twice: str) -> None:
        inside = network(address).network_address
        for subnet, pool in found.items():
            if inside in network(subnet):
                if key in pool:
                    raise CliError(f"cannot configure multiple {twice} ({address}, {pool[key]}) on the same subnet")
                pool[key] = address
                return
        raise CliError(f"no matching subnet for {what} {address}")

    for text in options.texts("ip-range"):
        put(text, "IPRange", "range", "ranges")
    for text in options.texts("gateway"):
        put(text, "Gateway", "gateway", "gateways")
    for name, text in pairs(options.texts("aux-address")).items():
        inside = network(text).network_address
        pool = next((pool for subnet, pool in found.items() if inside in network(subnet)), None)
        if pool is None:
            raise CliError(f"no matching subnet for aux-address {text}")
        pool.setdefault("AuxiliaryAddresses", {})[name] = text
    return list(found.values())


def rm(session: Session, options: Options) -> int:
    """Remove networks."""
    errors: list[str] = []
    for name in options.args:
        try:
            session.engine.call("DELETE", f"/networks/{quote(name)}")
        except CliError as error:
            if not (options.flag("force") and isinstance(error, EngineError) and error.status == 404):
                errors.append(error.message)
        else:
            session.print(name)
    if errors:
        raise CliError("\n".join(errors))
    return 0


def connect(session: Session, options: Options) -> None:
    """Connect a container to a network."""
    network, container = options.args
    address = {
        "IPv4Address": options.text("ip"),
        "IPv6Address": options.text("ip6"),
        "LinkLocalIPs": options.texts("link-local-ip"),
    }
    settings: dict[str, Any] = {
        "Aliases": options.texts("alias"),
        "Links": options.texts("link"),
        "DriverOpts": pairs(options.texts("driver-opt")),
        "GwPriority": options.number("gw-priority"),
    }
    if any(address.values()):
        settings["IPAMConfig"] = {name: value for name, value in address.items() if value}
    request = {"Container": container, "EndpointConfig": settings}
    session.engine.call("POST", f"/networks/{quote(network)}/connect", None, request)


def disconnect(session: Session, options: Options) -> None:
    """Disconnect a container from a network."""
    network, container = options.args
    request = {"Container": container, "Force": options.flag("force")}
    session.engine.call("POST", f"/networks/{quote(network)}/disconnect", None, request)


PRUNE_WARNING = "WARNING! This will remove all custom networks not used by at least one container."


def prune(session: Session, options: Options) -> int:
    """Remove networks that nothing is attached to."""
    if not options.flag("force"):
        import sys

        sys.stdout.write(f"{PRUNE_WARNING}\nAre you sure you want to continue? [y/N] ")
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise CliError("network prune has been cancelled")
    filters = encode_filters(options.texts("filter"))
    answer = session.engine.post("/networks/prune", {"filters": filters} if filters else None)
    deleted = answer.get("NetworksDeleted") or []
    if deleted:
        session.print("\n".join(["Deleted Networks:", *deleted, ""]))
    return 0


def reload(session: Session, options: Options) -> None:
    """Have the engine write its firewall rules again."""
    try:
        session.engine.call("POST", "/scow/networks/reload")
    except EngineError as error:
        if error.status == 404:
            raise CliError("this engine is not Scow: it cannot write its firewall rules again") from None
        raise


COMMANDS = {
    "create": Command(
        create,
        "NETWORK",
        (
            Flag("attachable", "", "bool", "Enable manual container attachment"),
            Flag("aux-address", "", "map", "Auxiliary IPv4 or IPv6 addresses used by Network driver", shown="map[]"),
            Flag("config-from", "", "string", "The network from which to copy the configuration"),
            Flag("config-only", "", "bool", "Create a configuration only network"),
            Flag("driver", "d", "string", "Driver to manage the Network", default="bridge", shown='"bridge"'),
            Flag("gateway", "", "strings", "IPv4 or IPv6 Gateway for the master subnet"),
            Flag("ingress", "", "bool", "Create swarm routing-mesh network"),
            Flag("internal", "", "bool", "Restrict external access to the network"),
            Flag("ip-range", "", "strings", "Allocate container ip from a sub-range"),
            Flag("ipam-driver", "", "string", "IP Address Management Driver", default="default", shown='"default"'),
            Flag("ipam-opt", "", "map", "Set IPAM driver specific options", shown="map[]"),
            Flag("ipv4", "", "bool", "Enable or disable IPv4 address assignment", default=True, shown="true"),
            Flag("ipv6", "", "bool", "Enable or disable IPv6 address assignment"),
            Flag("label", "", "list", "Set metadata on a network"),
            Flag("opt", "o", "map", "Set driver specific options", shown="map[]"),
            Flag("scope", "", "string", "Control the network's scope"),
            Flag("subnet", "", "strings", "Subnet in CIDR format that represents a network segment"),
        ),
        1,
        1,
    ),
    "rm": Command(
        rm,
        "NETWORK [NETWORK...]",
        (Flag("force", "f", "bool", "Do not error if the network does not exist"),),
        1,
        None,
    ),
    "connect": Command(
        connect,
        "NETWORK CONTAINER",
        (
            Flag("alias", "", "strings", "Add network-scoped alias for the container"),
            Flag("driver-opt", "", "strings", "driver options for the network"),
            Flag("gw-priority", "", "int", "Highest gw-priority provides the default gateway", default=0),
            Flag("ip", "", "string", 'IPv4 address (e.g., "172.30.100.104")'),
            Flag("ip6", "", "string", 'IPv6 address (e.g., "2001:db8::33")'),
            Flag("link", "", "list", "Add link to another container"),
            Flag("link-local-ip", "", "strings", "Add a link-local address for the container"),
        ),
        2,
        2,
    ),
    "disconnect": Command(
        disconnect,
        "NETWORK CONTAINER",
        (Flag("force", "f", "bool", "Force the container to disconnect from a network"),),
        2,
        2,
    ),
    "prune": Command(
        prune,
        "",
        (
            filter_flag('Provide filter values (e.g. "until=<timestamp>")'),
            Flag("force", "f", "bool", "Do not prompt for confirmation"),
        ),
    ),
    "reload": Command(reload, long="Write the engine's firewall rules again, after another program removed them"),
}
