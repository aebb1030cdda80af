"""Containers in the words of the Engine API: ports, mounts, networks, states, and how long ago things were. Pure."""

import time
from collections.abc import Sequence
from typing import Final

from msgspec import UNSET

from scow.engine.record import ContainerRecord, MountRecord, State
from scow.network.model import Endpoint
from scow.wire.container import ContainerState, Health, MountPoint, Port
from scow.wire.network import EndpointSettings
from scow.wire.ports import PortBinding, PortMap
from scow.wire.times import NEVER, format_time

SHOWN_STATUS: Final = {"starting": "created"}


def status_word(state: State) -> str:
    """The state as docker names it."""
    return SHOWN_STATUS.get(state.status, state.status)


def wire_state(state: State, health: Health | None = None) -> ContainerState:
    """The state for inspect."""
    status = status_word(state)
    return ContainerState(
        status=status,
        running=state.live or status == "restarting",
        paused=status == "paused",
        restarting=status == "restarting",
        oom_killed=state.oom_killed,
        dead=status == "dead",
        pid=state.pid,
        exit_code=state.exit_code,
        error=state.error,
        started_at=format_time(state.started_at) if state.started_at else NEVER,
        finished_at=format_time(state.finished_at) if state.finished_at else NEVER,
        health=health,
    )


def status_text(state: State, now_ns: int | None = None, health: Health | None = None) -> str:
    """The column STATUS of `docker ps`: `Up 3 seconds (healthy)`, `Exited (0) 2 minutes ago`."""
    now = time.time_ns() if now_ns is None else now_ns
    status = status_word(state)
    if state.live:
        up = f"Up {human_duration((now - state.started_at) / 1e9)}"
        if status == "paused":
            return f"{up} (Paused)"
        if health is None:
            return up
        return f"{up} (health: starting)" if health.status == "starting" else f"{up} ({health.status})"
    if status == "restarting":
        return f"Restarting ({state.exit_code}) {human_duration((now - state.finished_at) / 1e9)} ago"
    if status == "removing":
        return "Removal In Progress"
    if status == "dead":
        return "Dead"
    if not state.started_at:
        return "Created"
    if not state.finished_at:
        return ""
    return f"Exited ({state.exit_code}) {human_duration((now - state.finished_at) / 1e9)} ago"


def human_duration(seconds: float) -> str:
    """Docker's rough words for a duration: `Less than a second`, `About a minute`, `5 hours`, `3 weeks`."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"


def command_text(args: Sequence[str]) -> str:
    """The command as one line, arguments with spaces or quotes in quotes, as docker lists it."""
    if not args:
        return ""
    return " ".join([args[0], *(_quoted(arg) for arg in args[1:])])


def _quoted(arg: str) -> str:
    if arg and not any(char in " \t\n'\"\\$`;&|<>(){}*?[]!#~" for char in arg):
        return arg
    return "'" + arg.replace("'", "'\\''") + "'"


def mount_point(mount: MountRecord, source: str) -> MountPoint:
    """A mount for inspect and list; `source` is where its content is on the machine."""
    if mount.type == "volume":
        return MountPoint(
            type="volume",
            name=mount.name,
            source=source,
            destination=mount.destination,
            driver=mount.driver or "local",
            mode=mount.mode,
            rw=mount.rw,
            propagation="",
        )
    return MountPoint(
        type=mount.type,
        name=mount.source if mount.type == "image" else UNSET,
        source=source,
        destination=mount.destination,
        driver=UNSET,
        mode=mount.mode,
        rw=mount.rw,
        propagation=mount.propagation,
    )


def endpoint_settings(asked: EndpointSettings, endpoint: Endpoint | None, network_id: str) -> EndpointSettings:
    """An attachment for inspect and list: what was asked for, with what it got while the container runs."""
    if endpoint is None:
        return EndpointSettings(
            ipam_config=asked.ipam_config,
            links=asked.links,
            aliases=asked.aliases,
            driver_opts=asked.driver_opts,
            gw_priority=asked.gw_priority,
            network_id=network_id,
        )
    return EndpointSettings(
        ipam_config=asked.ipam_config,
        links=asked.links,
        aliases=asked.aliases,
        mac_address=endpoint.mac,
        driver_opts=asked.driver_opts,
        gw_priority=asked.gw_priority,
        network_id=endpoint.network_id,
        endpoint_id=endpoint.id,
        gateway=endpoint.gateway,
        ip_address=endpoint.ip,
        ip_prefix_len=endpoint.prefix,
        dns_names=list(endpoint.names) or None,
        ipv6_gateway=endpoint.ipv6_gateway,
        global_ipv6_address=endpoint.ipv6,
        global_ipv6_prefix_len=endpoint.ipv6_prefix,
    )


def port_map(record: ContainerRecord, endpoints: Sequence[Endpoint]) -> PortMap:
    """NetworkSettings.Ports: exposed ports with None, published ones with where they are reachable."""
    if not any(endpoint.ip or endpoint.ipv6 for endpoint in endpoints):
        return {}  # nobody can reach it
    found: PortMap = {port: None for port in record.config.exposed_ports or {}}
    for endpoint in endpoints:
        for port in endpoint.ports:
            bindings = found.setdefault(f"{port.container_port}/{port.protocol}", None) or []
            bindings.append(PortBinding(host_ip=port.host_ip, host_port=str(port.host_port)))
            found[f"{port.container_port}/{port.protocol}"] = bindings
    return dict(sorted(found.items()))


def port_list(record: ContainerRecord, endpoints: Sequence[Endpoint]) -> list[Port]:
    """The ports of a list entry."""
    found: list[Port] = []
    for name, bindings in port_map(record, endpoints).items():
        number, _, protocol = name.partition("/")
        if bindings:
            found += [
                Port(ip=binding.host_ip, private_port=int(number), public_port=int(binding.host_port), type=protocol)
                for binding in bindings
            ]
        elif number.isdigit():
            found.append(Port(private_port=int(number), type=protocol or "tcp"))
    return found
