"""The part of a container's configuration that depends on the host: resources, mounts, namespaces, security."""

from typing import Any, ClassVar

from msgspec import field

from scow.wire.message import Message, SparseMessage, StringList
from scow.wire.ports import PortMap


class RestartPolicy(Message, frozen=True, kw_only=True):
    """What to do when a container has ended: `no`, `always`, `unless-stopped` or `on-failure`."""

    name: str = ""
    maximum_retry_count: int = 0


class LogConfig(Message, frozen=True, kw_only=True):
    """Which log driver is asked for, and its options."""

    type: str = ""
    config: dict[str, str] | None = None


class Ulimit(Message, frozen=True, kw_only=True):
    """A resource limit of the container's processes; -1 means unlimited."""

    name: str = ""
    hard: int = 0
    soft: int = 0


class DeviceMapping(Message, frozen=True, kw_only=True):
    """A device of the host that the container sees; permissions of `rwm`."""

    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Message, frozen=True, kw_only=True):
    """Devices asked for by capability instead of path (GPUs, CDI)."""

    driver: str = ""
    count: int = 0
    device_ids: list[str] | None = field(name="DeviceIDs", default=None)
    capabilities: list[list[str]] | None = None
    options: dict[str, str] | None = None


class WeightDevice(Message, frozen=True, kw_only=True):
    """A device's relative share of block I/O."""

    path: str = ""
    weight: int = 0


class ThrottleDevice(Message, frozen=True, kw_only=True):
    """A device's limit, in bytes or operations per second."""

    path: str = ""
    rate: int = 0


class BindOptions(SparseMessage, frozen=True, kw_only=True):
    """How a path of the host is bound."""

    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class DriverConfig(SparseMessage, frozen=True, kw_only=True):
    """A volume's driver and its options."""

    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(SparseMessage, frozen=True, kw_only=True):
    """How a volume is made and mounted."""

    no_copy: bool = False
    labels: dict[str, str] | None = None
    subpath: str = ""
    driver_config: DriverConfig | None = None


class ImageOptions(SparseMessage, frozen=True, kw_only=True):
    """Which part of an image is mounted."""

    subpath: str = ""


class TmpfsOptions(SparseMessage, frozen=True, kw_only=True):
    """A tmpfs: size in bytes, mode as a number, mount options as [key] or [key, value]."""

    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] | None = None


class Mount(SparseMessage, frozen=True, kw_only=True):
    """A mount that is asked for: `bind`, `volume`, `tmpfs`, `image`, `npipe` or `cluster`."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    cluster_options: dict[str, Any] | None = None


class Resources(Message, frozen=True, kw_only=True):
    """A container's share of the machine. Memory in bytes, CPU periods and quotas in microseconds."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset({"kernel_memory", "kernel_memory_tcp", "init"})

    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = field(name="BlkioDeviceReadIOps", default=None)
    blkio_device_write_iops: list[ThrottleDevice] | None = field(name="BlkioDeviceWriteIOps", default=None)
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None
    device_requests: list[DeviceRequest] | None = None
    kernel_memory: int = 0
    kernel_memory_tcp: int = field(name="KernelMemoryTCP", default=0)
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = field(name="IOMaximumIOps", default=0)
    io_maximum_bandwidth: int = field(name="IOMaximumBandwidth", default=0)


class HostConfig(Resources, frozen=True, kw_only=True):
    """What a container gets of the host."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = Resources.OMIT_EMPTY | {
        "annotations",
        "mounts",
        "tmpfs",
        "storage_opt",
        "sysctls",
        "runtime",
        "init",
    }

    binds: list[str] | None = None
    container_id_file: str = field(name="ContainerIDFile", default="")
    log_config: LogConfig = field(default_factory=LogConfig)
    network_mode: str = ""
    port_bindings: PortMap | None = None
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    console_size: list[int] = field(default_factory=lambda: [0, 0])  # rows, columns
    annotations: dict[str, str] | None = None
    cap_add: StringList | None = None
    cap_drop: StringList | None = None
    cgroupns_mode: str = ""
    dns: list[str] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = field(name="UTSMode", default="")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    mounts: list[Mount] | None = None
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    init: bool | None = None
