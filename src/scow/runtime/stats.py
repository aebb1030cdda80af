"""What a container uses of the machine, read from its control groups and its network namespace. It blocks."""

import os
from functools import cache
from pathlib import Path
from typing import Final

from scow.linux import cgroup
from scow.wire.stats import (
    BlkioEntry,
    BlkioStats,
    CpuStats,
    CpuUsage,
    MemoryStats,
    NetworkStats,
    PidsStats,
    ThrottlingData,
)

_NS: Final = 1_000_000_000
_TICK_NS: Final = _NS // os.sysconf("SC_CLK_TCK")
_UNLIMITED: Final = 2**64 - 1


def cpu(path: str) -> CpuStats:
    """CPU time of the group `path`, and of the machine."""
    system, online = _system_cpu()
    if cgroup.is_unified():
        values = _pairs(cgroup.controller_path(path, "cpu") / "cpu.stat")
        usage = CpuUsage(
            total_usage=values.get("usage_usec", 0) * 1000,
            usage_in_kernelmode=values.get("system_usec", 0) * 1000,
            usage_in_usermode=values.get("user_usec", 0) * 1000,
        )
        throttled_ns = values.get("throttled_usec", 0) * 1000
    else:
        folder = cgroup.controller_path(path, "cpuacct")
        spent = _pairs(folder / "cpuacct.stat")
        usage = CpuUsage(
            total_usage=_number(folder / "cpuacct.usage"),
            percpu_usage=[int(word) for word in _text(folder / "cpuacct.usage_percpu").split()],
            usage_in_kernelmode=spent.get("system", 0) * _TICK_NS,
            usage_in_usermode=spent.get("user", 0) * _TICK_NS,
        )
        values = _pairs(cgroup.controller_path(path, "cpu") / "cpu.stat")
        throttled_ns = values.get("throttled_time", 0)
    throttling = ThrottlingData(
        periods=values.get("nr_periods", 0),
        throttled_periods=values.get("nr_throttled", 0),
        throttled_time=throttled_ns,
    )
    return CpuStats(cpu_usage=usage, system_cpu_usage=system, online_cpus=online, throttling_data=throttling)


def memory(path: str) -> MemoryStats:
    """Memory of the group; no limit is shown as the machine's memory."""
    folder = cgroup.controller_path(path, "memory")
    values = _pairs(folder / "memory.stat")
    if cgroup.is_unified():
        limit = _number(folder / "memory.max", _UNLIMITED)
        failures = _pairs(folder / "memory.events").get("oom", 0)
        return MemoryStats(
            usage=_number(folder / "memory.current"), stats=values, limit=min(limit, machine_memory()), failcnt=failures
        )
    limit = _number(folder / "memory.limit_in_bytes", _UNLIMITED)
    return MemoryStats(
        usage=_number(folder / "memory.usage_in_bytes"),
        max_usage=_number(folder / "memory.max_usage_in_bytes"),
        stats=values,
        failcnt=_number(folder / "memory.failcnt"),
        limit=min(limit, machine_memory()),
    )


def pids(path: str) -> PidsStats:
    """Processes and threads of the group."""
    folder = cgroup.controller_path(path, "pids")
    # What "max" looks like differs between the versions, as it does in docker.
    limit = _number(folder / "pids.max", _UNLIMITED if cgroup.is_unified() else 0)
    return PidsStats(current=_number(folder / "pids.current"), limit=limit)


def block_io(path: str) -> BlkioStats:
    """Counters of block devices."""
    folder = cgroup.controller_path(path, "blkio")
    if cgroup.is_unified():
        entries: list[BlkioEntry] = []
        for line in _text(folder / "io.stat").splitlines():
            device, *fields = line.split()
            major, minor = (int(number) for number in device.split(":"))
            counts = dict(field.split("=", 1) for field in fields)
            entries += [
                BlkioEntry(major=major, minor=minor, op=op, value=int(counts.get(key, 0)))
                for op, key in (("read", "rbytes"), ("write", "wbytes"))
            ]
        return BlkioStats(io_service_bytes_recursive=entries)
    return BlkioStats(
        io_service_bytes_recursive=_counters(folder, "throttle.io_service_bytes", "io_service_bytes"),
        io_serviced_recursive=_counters(folder, "throttle.io_serviced", "io_serviced"),
        io_queue_recursive=_counters(folder, "io_queued"),
        io_service_time_recursive=_counters(folder, "io_service_time"),
        io_wait_time_recursive=_counters(folder, "io_wait_time"),
        io_merged_recursive=_counters(folder, "io_merged"),
        io_time_recursive=_counters(folder, "time"),
        sectors_recursive=_counters(folder, "sectors"),
    )


def networks(pid: int) -> dict[str, NetworkStats]:
    """Counters of the interfaces that the process `pid` sees, without the loopback."""
    found: dict[str, NetworkStats] = {}
    for line in _text(Path(f"/proc/{pid}/net/dev")).splitlines()[2:]:
        name, _, rest = line.partition(":")
        counts = [int(word) for word in rest.split()]
        if name.strip() == "lo" or len(counts) < 12:
            continue
        found[name.strip()] = NetworkStats(
            rx_bytes=counts[0],
            rx_packets=counts[1],
            rx_errors=counts[2],
            rx_dropped=counts[3],
            tx_bytes=counts[8],
            tx_packets=counts[9],
            tx_errors=counts[10],
            tx_dropped=counts[11],
        )
    return found


@cache
def machine_memory() -> int:
    """All memory of the machine, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _counters(folder: Path, *names: str) -> list[BlkioEntry]:
    for name in names:
        for suffix in ("_recursive", ""):
            lines = _text(folder / f"blkio.{name}{suffix}").splitlines()
            entries = [entry for entry in map(_counter, lines) if entry is not None]
            if entries:
                return entries
    return []


def _counter(line: str) -> BlkioEntry | None:
    device, *rest = line.split()
    if ":" not in device or not rest:
        return None  # the total
    major, minor = (int(number) for number in device.split(":"))
    return BlkioEntry(major=major, minor=minor, op=rest[0] if len(rest) > 1 else "", value=int(rest[-1]))


def _system_cpu() -> tuple[int, int]:
    """The machine's CPU time in nanoseconds, and how many CPUs are online."""
    with open("/proc/stat") as file:
        total = sum(int(word) for word in file.readline().split()[1:8]) * _TICK_NS
        online = 0
        for line in file:
            if not line.startswith("cpu"):
                break
            online += 1
    return total, online


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the group is gone, or the kernel has no such counter
        return ""


def _number(path: Path, otherwise: int = 0) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else otherwise


def _pairs(path: Path) -> dict[str, int]:
    lines = (line.split() for line in _text(path).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdigit()}
