"""Shares and limits: HostConfig's resources and ulimits as the runtime wants them.

runtime-spec config-linux.md#control-groups and config.md#posix-process. What the machine can't limit is left out, as
docker does with a warning.
"""

import os
import resource
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final

from scow.errors import InvalidArgument, NotSupported
from scow.linux import cgroup
from scow.runtime.capabilities import bounding_set
from scow.wire.host_config import Resources, ThrottleDevice, Ulimit

CPU_PERIOD_US: Final = 100_000
_UNLIMITED: Final = 2**64 - 1

ULIMITS: Final = {
    "core": resource.RLIMIT_CORE,
    "cpu": resource.RLIMIT_CPU,
    "data": resource.RLIMIT_DATA,
    "fsize": resource.RLIMIT_FSIZE,
    "locks": 10,
    "memlock": resource.RLIMIT_MEMLOCK,
    "msgqueue": resource.RLIMIT_MSGQUEUE,
    "nice": resource.RLIMIT_NICE,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    "rss": resource.RLIMIT_RSS,
    "rtprio": resource.RLIMIT_RTPRIO,
    "rttime": resource.RLIMIT_RTTIME,
    "sigpending": resource.RLIMIT_SIGPENDING,
    "stack": resource.RLIMIT_STACK,
}


class InvalidUlimit(InvalidArgument):
    """No limit has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"invalid ulimit type: {name}")
        self.name = name


class LimitNotRaised(NotSupported):
    """Raising a limit needs a capability that some machines don't give."""

    def __init__(self, name: str, wanted: int, own: int) -> None:
        super().__init__(
            f"cannot set ulimit {name} to {wanted}: the engine's own hard limit is {own}, and it lacks "
            "CAP_SYS_RESOURCE to raise it"
        )
        self.name = name


def rlimits(asked: Sequence[Ulimit] | None, defaults: Iterable[Ulimit] = ()) -> list[dict[str, Any]]:
    """process.rlimits: only what was asked for, or is the engine's default. Raises InvalidUlimit, LimitNotRaised."""
    chosen = {limit.name.lower(): limit for limit in (*defaults, *(asked or ()))}
    found = []
    for name, limit in sorted(chosen.items()):
        number = ULIMITS.get(name)
        if number is None:
            raise InvalidUlimit(limit.name)
        own = resource.getrlimit(number)[1]
        if (
            own != resource.RLIM_INFINITY
            and (limit.hard < 0 or limit.hard > own)
            and "CAP_SYS_RESOURCE" not in bounding_set()
        ):
            raise LimitNotRaised(name, limit.hard, own)
        found.append({"type": f"RLIMIT_{name.upper()}", "soft": _rlim(limit.soft), "hard": _rlim(limit.hard)})
    return found


def _rlim(value: int) -> int:
    return _UNLIMITED if value < 0 else value


def resources(host: Resources) -> dict[str, Any]:
    """linux.resources without devices."""
    found: dict[str, Any] = {}
    for name, section in (("memory", _memory(host)), ("cpu", _cpu(host)), ("blockIO", _block_io(host))):
        if section:
            found[name] = section
    if host.pids_limit is not None and host.pids_limit > 0:
        found["pids"] = {"limit": host.pids_limit}
    return found


def _memory(host: Resources) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if host.memory > 0:
        found["limit"] = host.memory
    if host.memory_reservation > 0:
        found["reservation"] = host.memory_reservation
    if host.memory_swap != 0 and _limits_swap():
        found["swap"] = host.memory_swap
    if host.memory_swappiness is not None and host.memory_swappiness >= 0 and not cgroup.is_unified():
        found["swappiness"] = host.memory_swappiness
    if host.oom_kill_disable and not cgroup.is_unified():
        found["disableOOMKiller"] = True
    return found


def _cpu(host: Resources) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if host.cpu_shares > 0:
        found["shares"] = host.cpu_shares
    if host.nano_cpus > 0:
        found["period"] = CPU_PERIOD_US
        found["quota"] = host.nano_cpus * CPU_PERIOD_US // 1_000_000_000
    if host.cpu_period:
        found["period"] = host.cpu_period
    if host.cpu_quota:
        found["quota"] = host.cpu_quota
    if host.cpu_realtime_period:
        found["realtimePeriod"] = host.cpu_realtime_period
    if host.cpu_realtime_runtime:
        found["realtimeRuntime"] = host.cpu_realtime_runtime
    if host.cpuset_cpus:
        found["cpus"] = host.cpuset_cpus
    if host.cpuset_mems:
        found["mems"] = host.cpuset_mems
    return found


def _block_io(host: Resources) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if limits_weight():
        if host.blkio_weight:
            found["weight"] = host.blkio_weight
        if host.blkio_weight_device:
            found["weightDevice"] = [{**_device(item.path), "weight": item.weight} for item in host.blkio_weight_device]
    for name, items in (
        ("throttleReadBpsDevice", host.blkio_device_read_bps),
        ("throttleWriteBpsDevice", host.blkio_device_write_bps),
        ("throttleReadIOPSDevice", host.blkio_device_read_iops),
        ("throttleWriteIOPSDevice", host.blkio_device_write_iops),
    ):
        if items:
            found[name] = [_throttle(item) for item in items]
    return found


def _throttle(item: ThrottleDevice) -> dict[str, Any]:
    return {**_device(item.path), "rate": item.rate}


def _device(path: str) -> dict[str, int]:
    try:
        number = os.stat(path).st_rdev
    except OSError as error:
        raise InvalidArgument(f"stat {path}: {(error.strerror or '').lower()}") from error
    return {"major": os.major(number), "minor": os.minor(number)}


@cache
def _limits_swap() -> bool:
    return cgroup.is_unified() or (cgroup.ROOT / "memory/memory.memsw.limit_in_bytes").exists()


@cache
def limits_weight() -> bool:
    """Whether the machine can weigh block I/O."""
    if cgroup.is_unified():
        return True
    return any((cgroup.ROOT / "blkio" / name).exists() for name in ("blkio.weight", "blkio.bfq.weight"))
