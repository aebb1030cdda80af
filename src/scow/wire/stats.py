"""Resource usage of a container on the wire. Engine API, GET /containers/{id}/stats."""

import msgspec

from scow.wire.times import NEVER


class ThrottlingData(msgspec.Struct, frozen=True, kw_only=True):
    """How often the CPU quota held the container back; time in nanoseconds."""

    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0


class CpuUsage(msgspec.Struct, frozen=True, kw_only=True):
    """CPU time in nanoseconds; by CPU only from cgroup v1."""

    total_usage: int = 0
    percpu_usage: list[int] | msgspec.UnsetType = msgspec.UNSET
    usage_in_kernelmode: int = 0
    usage_in_usermode: int = 0


class CpuStats(msgspec.Struct, frozen=True, kw_only=True):
    """The container's CPU time beside the machine's."""

    cpu_usage: CpuUsage = CpuUsage()
    system_cpu_usage: int | msgspec.UnsetType = msgspec.UNSET
    online_cpus: int | msgspec.UnsetType = msgspec.UNSET
    throttling_data: ThrottlingData = ThrottlingData()


class MemoryStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Memory in bytes; `max_usage` and `failcnt` only from cgroup v1."""

    usage: int = 0
    max_usage: int = 0
    stats: dict[str, int] = {}
    failcnt: int = 0
    limit: int = 0


class PidsStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many processes there are, and may be."""

    current: int = 0
    limit: int = 0


class BlkioEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One counter of a block device."""

    major: int
    minor: int
    op: str
    value: int


class BlkioStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of block devices; most only from cgroup v1."""

    io_service_bytes_recursive: list[BlkioEntry] | None = None
    io_serviced_recursive: list[BlkioEntry] | None = None
    io_queue_recursive: list[BlkioEntry] | None = None
    io_service_time_recursive: list[BlkioEntry] | None = None
    io_wait_time_recursive: list[BlkioEntry] | None = None
    io_merged_recursive: list[BlkioEntry] | None = None
    io_time_recursive: list[BlkioEntry] | None = None
    sectors_recursive: list[BlkioEntry] | None = None


class NetworkStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one of the container's interfaces."""

    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


class StorageStats(msgspec.Struct, frozen=True, kw_only=True):
    """Of other systems than Linux."""


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """One sample, with the CPU's part of the one before."""

    name: str
    id: str
    read: str = NEVER
    preread: str = NEVER
    pids_stats: PidsStats = PidsStats()
    blkio_stats: BlkioStats = BlkioStats()
    num_procs: int = 0
    storage_stats: StorageStats = StorageStats()
    cpu_stats: CpuStats = CpuStats()
    precpu_stats: CpuStats = CpuStats()
    memory_stats: MemoryStats = MemoryStats()
    networks: dict[str, NetworkStats] | msgspec.UnsetType = msgspec.UNSET
