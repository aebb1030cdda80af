"""What a container may be asked to be: docker's checks of configuration, with docker's words. Pure."""

import os
from collections.abc import Iterable
from typing import Final

from scow.engine.log_options import check_log_config
from scow.errors import InvalidArgument
from scow.linux.signals import parse_signal
from scow.network.files import parse_extra_host
from scow.runtime import capabilities
from scow.runtime.bundle import security_options
from scow.runtime.capabilities import container_capabilities
from scow.wire.container import ContainerConfig
from scow.wire.host_config import HostConfig
from scow.wire.network import NetworkingConfig

MINIMUM_MEMORY: Final = 6 << 20  # bytes
MOST_CPUS: Final = 8192
MEMORY_NODES: Final = "/sys/devices/system/node"
RESTART_POLICIES: Final = ("", "no", "always", "unless-stopped", "on-failure")
HEALTH_MINIMUM: Final = 1_000_000  # nanoseconds


def check_request(config: ContainerConfig, host: HostConfig, networking: NetworkingConfig | None) -> None:
    """Raise InvalidArgument for what makes no sense in a request.

    That is more than in a container: an image may expose ports, a namespace of another's bring a hostname with it.
    """
    check_container(config, host)
    _check_conflicts(config, host)
    for name, endpoint in ((networking.endpoints_config if networking else None) or {}).items():
        if not name:
            raise InvalidArgument("no network name was given for an endpoint")
        if endpoint is not None and endpoint.gw_priority and not isinstance(endpoint.gw_priority, int):
            raise InvalidArgument(f"invalid gateway priority for network {name}")


def check_container(config: ContainerConfig, host: HostConfig) -> None:
    """Raise InvalidArgument for values that are out of range, contradict each other, or can't be had here."""
    _check_config(config)
    _check_resources(host)
    _check_restart(host)
    _check_namespaces(host)
    check_log_config(host.log_config)
    container_capabilities(host.cap_add, host.cap_drop, privileged=False, available=frozenset(capabilities.NAMES))
    if host.storage_opt:
        raise InvalidArgument("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
    if host.shm_size < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    security_options(host.security_opt)


def _check_config(config: ContainerConfig) -> None:
    for variable in config.env or []:
        if not variable.partition("=")[0]:
            raise InvalidArgument(f"invalid environment variable: {variable}")
        if "\0" in variable:
            raise InvalidArgument(f"invalid environment variable: {variable!r}: it contains a NUL byte")
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidArgument(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    if config.stop_signal:
        parse_signal(config.stop_signal)
    if len(config.hostname) > 63 and not config.hostname.isprintable():
        raise InvalidArgument(f"invalid hostname format: {config.hostname}")
    for port in config.exposed_ports or {}:
        parse_port(port)
    health = config.healthcheck
    if health is not None:
        for name, value in (
            ("Interval", health.interval),
            ("Timeout", health.timeout),
            ("StartPeriod", health.start_period),
            ("StartInterval", health.start_interval),
        ):
            if value and value < HEALTH_MINIMUM:
                raise InvalidArgument(f"{name} in Healthcheck cannot be less than 1ms")
        if health.retries < 0:
            raise InvalidArgument("Retries in Healthcheck cannot be negative")


def _check_resources(host: HostConfig) -> None:
    if host.memory and host.memory < MINIMUM_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if host.memory > 0 and 0 < host.memory_swap < host.memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if host.memory == 0 and host.memory_swap > 0:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if host.memory_swappiness is not None and not -1 <= host.memory_swappiness <= 100:
        raise InvalidArgument(f"Invalid value: {host.memory_swappiness}, valid memory swappiness range is 0-100")
    if host.memory_reservation and host.memory_reservation < MINIMUM_MEMORY:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if 0 < host.memory < host.memory_reservation:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit, see usage")
    for set_too, word in ((host.cpu_period, "Period"), (host.cpu_quota, "Quota")):
        if host.nano_cpus and set_too:
            raise InvalidArgument(f"Conflicting options: Nano CPUs and CPU {word} cannot both be set")
    for value, word in ((host.io_maximum_iops, "IOPs"), (host.io_maximum_bandwidth, "bandwidth")):
        if value:
            raise InvalidArgument(f"invalid QoS settings: linux does not support configuration of maximum {word}")
    cores = os.cpu_count() or 1
    if not 0 <= host.nano_cpus <= cores * 1_000_000_000:
        raise InvalidArgument(f"range of CPUs is from 0.01 to {cores}.00, as there are only {cores} CPUs available")
    if host.cpu_period and not 1_000 <= host.cpu_period <= 1_000_000:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < host.cpu_quota < 1_000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.cpu_shares < 0:
        raise InvalidArgument("shares: invalid argument")
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidArgument(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    for what, wanted, count in (("CPU", host.cpuset_cpus, cores), ("memory node", host.cpuset_mems, _memory_nodes())):
        if wanted:
            _check_set(what, wanted, count)
    for limit in host.ulimits or []:
        if limit.hard != -1 and (limit.soft > limit.hard or limit.soft == -1):
            raise InvalidArgument(
                f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}"
            )


def _memory_nodes() -> int:
    try:
        return sum(entry.startswith("node") and entry[4:].isdigit() for entry in os.listdir(MEMORY_NODES)) or 1
    except OSError:
        return 1  # a kernel without NUMA


def _check_set(what: str, text: str, count: int) -> None:
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if not low.isdigit() or (dash and not high.isdigit()) or (dash and int(high) < int(low)):
            raise InvalidArgument(
                f"Invalid value {text} for cpuset {'cpus' if what == 'CPU' else 'mems'}: invalid format: {part}"
            )
        if what == "CPU" and int(high or low) >= MOST_CPUS:
            raise InvalidArgument(f"Invalid value {text} for cpuset cpus: value of out range, maximum is {MOST_CPUS}")
        if int(high or low) >= count:
            raise InvalidArgument(
                f"Requested {what}s are not available - requested {text}, available: 0-{count - 1}"
                if count > 1
                else f"Requested {what}s are not available - requested {text}, available: 0"
            )


def _check_restart(host: HostConfig) -> None:
    policy = host.restart_policy
    if policy.name not in RESTART_POLICIES:
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{policy.name}'; use one of 'no', 'always', 'on-failure', or "
            "'unless-stopped'"
        )
    if policy.maximum_retry_count < 0:
        raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise InvalidArgument("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if host.auto_remove and policy.name not in ("", "no"):
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")


def _check_conflicts(config: ContainerConfig, host: HostConfig) -> None:
    mode = host.network_mode
    if mode.startswith("container:"):
        for wrong, name in (
            (config.hostname, "hostname and the network mode"),
            (host.links, "container type network can't be used with links. This would result in undefined behavior"),
            (host.dns, "dns and the network mode"),
            (host.extra_hosts, "custom host-to-IP mapping and the network mode"),
            (config.mac_address, "mac-address and the network mode"),
            (host.port_bindings, "port publishing and the container type network mode"),
            (host.publish_all_ports, "port publishing and the container type network mode"),
            (config.exposed_ports, "port exposing and the container type network mode"),
        ):
            if wrong:
                raise InvalidArgument(f"conflicting options: {name}")
    if mode == "host":
        if host.links:
            raise InvalidArgument(
                "conflicting options: host type networking can't be used with links. This would result in undefined "
                "behavior"
            )
        if config.mac_address:
            raise InvalidArgument("conflicting options: mac-address and the network mode")
    if host.uts_mode == "host" and config.hostname:
        raise InvalidArgument("conflicting options: hostname and the UTS mode")


def _check_namespaces(host: HostConfig) -> None:
    if host.network_mode == "container:":
        raise InvalidArgument("invalid network mode: invalid container format container:<name|id>")
    for entry in host.extra_hosts or []:
        parse_extra_host(entry, gateways=["0.0.0.0"])
    for mode, what in ((host.pid_mode, "PID"), (host.ipc_mode, "IPC"), (host.uts_mode, "UTS")):
        kind, colon, name = mode.partition(":")
        allowed = {"PID": ("", "host", "container"), "UTS": ("", "host")}.get(
            what, ("", "host", "private", "shareable", "none", "container")
        )
        if kind not in allowed or (kind == "container") != bool(colon) or (colon and not name):
            raise InvalidArgument(f"invalid {what} mode: {mode}")
    if host.cgroupns_mode not in ("", "host", "private"):
        raise InvalidArgument(f"invalid cgroup namespace mode: {host.cgroupns_mode}")
    if host.userns_mode not in ("", "host"):
        raise InvalidArgument(f"invalid USER mode: {host.userns_mode}")
    if host.isolation not in ("", "default"):
        raise InvalidArgument(f"invalid isolation '{host.isolation}' on linux")
    for port, bindings in (host.port_bindings or {}).items():
        parse_port(port)
        for binding in bindings or []:
            parse_host_ports(binding.host_port)


def parse_port(text: str) -> tuple[int, str]:
    """Read `80`, `80/tcp`. Raises InvalidArgument."""
    number, slash, protocol = text.partition("/")
    if slash and protocol.lower() not in ("tcp", "udp", "sctp"):
        raise InvalidArgument(f'invalid port specification: "{text}": invalid protocol: {protocol}')
    if not number.isdigit() or not 0 < int(number) <= 65535:
        raise InvalidArgument(f'invalid port specification: "{text}"')
    return int(number), protocol.lower() or "tcp"


def parse_host_ports(text: str) -> tuple[int, int]:
    """Read the host's side of a binding: "" (0, 0 for any), `8080` or `8000-8010`. Raises InvalidArgument."""
    if not text:
        return 0, 0
    low, dash, high = text.partition("-")
    if not low.isdigit() or (dash and not high.isdigit()):
        raise InvalidArgument(f'invalid port specification: "{text}"')
    first, last = int(low), int(high or low)
    if not 0 <= first <= last <= 65535:
        raise InvalidArgument(f'invalid port specification: "{text}"')
    return first, last


def check_filters(filters: Iterable[str], known: frozenset[str]) -> None:
    """Raise InvalidArgument for a filter that the endpoint doesn't have."""
    for name in filters:
        if name not in known:
            raise InvalidArgument(f"invalid filter '{name}'")
