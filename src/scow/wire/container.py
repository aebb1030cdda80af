"""Containers on the wire: what is asked for at creation, and what listing and inspecting one answers."""

from typing import Any, ClassVar

from msgspec import UNSET, UnsetType, field

from scow.oci.descriptor import Descriptor
from scow.wire.host_config import HostConfig, Resources, RestartPolicy
from scow.wire.message import Message, SparseMessage, StringList
from scow.wire.network import EndpointSettings, NetworkingConfig
from scow.wire.ports import PortMap
from scow.wire.times import NEVER


class HealthConfig(Message, frozen=True, kw_only=True):
    """How to probe a container; durations in nanoseconds, 0 means inherited."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset(
        {"test", "interval", "timeout", "start_period", "start_interval", "retries"}
    )

    test: StringList | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(Message, frozen=True, kw_only=True):
    """The part of a container's configuration that doesn't depend on the host."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset(
        {
            "exposed_ports",
            "healthcheck",
            "args_escaped",
            "network_disabled",
            "mac_address",
            "stop_signal",
            "stop_timeout",
            "shell",
        }
    )

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Any] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: StringList | None = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, Any] | None = None
    working_dir: str = ""
    entrypoint: StringList | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None  # seconds
    shell: StringList | None = None


class CreateRequest(ContainerConfig, frozen=True, kw_only=True):
    """The body of `POST /containers/create`: a container's configuration with the host's and networks' beside it."""

    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None


class CreateReply(Message, frozen=True, kw_only=True):
    """The answer to a creation."""

    id: str
    warnings: list[str] = field(default_factory=list)


class HealthcheckResult(Message, frozen=True, kw_only=True):
    """One run of a health probe."""

    start: str
    end: str
    exit_code: int
    output: str


class Health(Message, frozen=True, kw_only=True):
    """What the probes of a container said so far: `starting`, `healthy`, `unhealthy` or `none`."""

    status: str
    failing_streak: int = 0
    log: list[HealthcheckResult] = field(default_factory=list)


class ContainerState(Message, frozen=True, kw_only=True):
    """Whether a container runs, since when, and how it ended."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset({"health"})

    status: str = "created"  # created, running, paused, restarting, removing, exited, dead
    running: bool = False
    paused: bool = False
    restarting: bool = False
    oom_killed: bool = field(name="OOMKilled", default=False)
    dead: bool = False
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started_at: str = NEVER
    finished_at: str = NEVER
    health: Health | None = None


class MountPoint(Message, frozen=True, kw_only=True):
    """Something that is mounted in a container."""

    type: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    source: str = ""
    destination: str = ""
    driver: str | UnsetType = UNSET
    mode: str = ""
    rw: bool = field(name="RW", default=False)
    propagation: str = ""


class Port(Message, frozen=True, kw_only=True):
    """One open port in a list of containers."""

    ip: str | UnsetType = field(name="IP", default=UNSET)
    private_port: int
    public_port: int | UnsetType = UNSET
    type: str


class SummaryHostConfig(SparseMessage, frozen=True, kw_only=True):
    """What a list of containers tells of the host's side."""

    network_mode: str = ""
    annotations: dict[str, str] | None = None


class SummaryNetworkSettings(Message, frozen=True, kw_only=True):
    """A listed container's endpoints by network name."""

    networks: dict[str, EndpointSettings] = field(default_factory=dict)


class ContainerSummary(Message, frozen=True, kw_only=True):
    """One container in a list."""

    id: str
    names: list[str]
    image: str
    image_id: str = field(name="ImageID")
    image_manifest_descriptor: Descriptor | UnsetType = UNSET
    command: str
    created: int  # seconds since the epoch
    ports: list[Port] = field(default_factory=list)
    size_rw: int | UnsetType = UNSET
    size_root_fs: int | UnsetType = UNSET
    labels: dict[str, str] = field(default_factory=dict)
    state: str
    status: str
    host_config: SummaryHostConfig = field(default_factory=SummaryHostConfig)
    network_settings: SummaryNetworkSettings = field(default_factory=SummaryNetworkSettings)
    mounts: list[MountPoint] = field(default_factory=list)


class GraphDriver(Message, frozen=True, kw_only=True):
    """Which snapshotter holds a file system, and what it tells about it."""

    data: dict[str, str] | None = None
    name: str = ""


class Address(Message, frozen=True, kw_only=True):
    """An address with its prefix length."""

    addr: str = ""
    prefix_len: int = 0


class NetworkSettings(Message, frozen=True, kw_only=True):
    """A container's sandbox, its published ports and endpoints; the flat fields repeat the default network's."""

    bridge: str = ""
    sandbox_id: str = field(name="SandboxID", default="")
    sandbox_key: str = ""
    ports: PortMap = field(default_factory=dict)
    hairpin_mode: bool = False
    link_local_ipv6_address: str = field(name="LinkLocalIPv6Address", default="")
    link_local_ipv6_prefix_len: int = field(name="LinkLocalIPv6PrefixLen", default=0)
    secondary_ip_addresses: list[Address] | None = field(name="SecondaryIPAddresses", default=None)
    secondary_ipv6_addresses: list[Address] | None = field(name="SecondaryIPv6Addresses", default=None)
    endpoint_id: str = field(name="EndpointID", default="")
    gateway: str = ""
    global_ipv6_address: str = field(name="GlobalIPv6Address", default="")
    global_ipv6_prefix_len: int = field(name="GlobalIPv6PrefixLen", default=0)
    ip_address: str = field(name="IPAddress", default="")
    ip_prefix_len: int = field(name="IPPrefixLen", default=0)
    ipv6_gateway: str = field(name="IPv6Gateway", default="")
    mac_address: str = ""
    networks: dict[str, EndpointSettings] = field(default_factory=dict)


class ContainerInspect(Message, frozen=True, kw_only=True):
    """All that there is to know about one container."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset({"size_rw", "size_root_fs", "image_manifest_descriptor"})

    id: str
    created: str
    path: str
    args: list[str] = field(default_factory=list)
    state: ContainerState
    image: str
    resolv_conf_path: str = ""
    hostname_path: str = ""
    hosts_path: str = ""
    log_path: str = ""
    name: str
    restart_count: int = 0
    driver: str = ""
    platform: str = "linux"
    mount_label: str = ""
    process_label: str = ""
    app_armor_profile: str = ""
    exec_ids: list[str] | None = field(name="ExecIDs", default=None)
    host_config: HostConfig
    graph_driver: GraphDriver = field(default_factory=GraphDriver)
    size_rw: int | None = None
    size_root_fs: int | None = None
    mounts: list[MountPoint] = field(default_factory=list)
    config: ContainerConfig
    network_settings: NetworkSettings
    image_manifest_descriptor: Descriptor | None = None


class UpdateRequest(Resources, frozen=True, kw_only=True):
    """What of an existing container's host side is to change; a zero value means no change."""

    restart_policy: RestartPolicy | None = None


class UpdateReply(Message, frozen=True, kw_only=True):
    """What an update has to say."""

    warnings: list[str] | None = None


class PruneContainersReply(Message, frozen=True, kw_only=True):
    """The containers that a prune removed, and the bytes that it freed."""

    containers_deleted: list[str] | None = None
    space_reclaimed: int = 0


class WaitError(Message, frozen=True, kw_only=True):
    """Why a wait, or the container's start, failed."""

    message: str


class WaitReply(Message, frozen=True, kw_only=True):
    """How a container ended."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset({"error"})

    status_code: int
    error: WaitError | None = None


class TopReply(Message, frozen=True, kw_only=True):
    """The processes of a container, as `ps` tells them."""

    processes: list[list[str]]
    titles: list[str]
