"""What the engine tells about itself: ping, version, info, disk usage, and a check of credentials."""

from typing import Any, ClassVar

from msgspec import field

from scow.wire.container import ContainerSummary
from scow.wire.image import ImageSummary
from scow.wire.message import Message, SparseMessage
from scow.wire.volume import Volume


class VersionPlatform(Message, frozen=True, kw_only=True):
    """The product's name."""

    name: str


class ComponentVersion(Message, frozen=True, kw_only=True):
    """One part of the engine, with details as strings."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset({"details"})

    name: str
    version: str
    details: dict[str, str] | None = None


class Version(Message, frozen=True, kw_only=True):
    """The answer to `GET /version`; the flat fields repeat the engine component's."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset({"kernel_version", "experimental", "build_time"})

    platform: VersionPlatform
    components: list[ComponentVersion]
    version: str
    api_version: str
    min_api_version: str = field(name="MinAPIVersion")
    git_commit: str
    go_version: str
    os: str
    arch: str
    kernel_version: str = ""
    experimental: bool = False
    build_time: str = ""


class PluginsInfo(Message, frozen=True, kw_only=True):
    """Drivers by kind."""

    volume: list[str] | None = None
    network: list[str] | None = None
    authorization: list[str] | None = None
    log: list[str] | None = None


class IndexInfo(Message, frozen=True, kw_only=True):
    """How one registry is reached."""

    name: str
    mirrors: list[str] = field(default_factory=list)
    secure: bool = True
    official: bool = False


class RegistryServiceConfig(Message, frozen=True, kw_only=True):
    """How registries are reached."""

    insecure_registry_cidrs: list[str] | None = field(name="InsecureRegistryCIDRs", default=None)
    index_configs: dict[str, IndexInfo] = field(default_factory=dict)
    mirrors: list[str] | None = None


class RuntimeInfo(SparseMessage, frozen=True, kw_only=True, rename="camel"):
    """An OCI runtime that containers can ask for."""

    path: str = ""
    runtime_args: list[str] | None = None
    status: dict[str, str] | None = None


class SwarmInfo(Message, frozen=True, kw_only=True):
    """That this engine is no part of a swarm."""

    node_id: str = field(name="NodeID", default="")
    node_addr: str = ""
    local_node_state: str = "inactive"
    control_available: bool = False
    error: str = ""
    remote_managers: list[dict[str, Any]] | None = None


class Commit(Message, frozen=True, kw_only=True):
    """The exact version of a program that the engine uses."""

    id: str = field(name="ID", default="")


class AddressPool(Message, frozen=True, kw_only=True):
    """Where networks without a subnet of their own get one from."""

    base: str
    size: int


class FirewallInfo(SparseMessage, frozen=True, kw_only=True):
    """How the engine talks to the firewall."""

    driver: str
    info: list[list[str]] | None = None


class Info(Message, frozen=True, kw_only=True):
    """The answer to `GET /info`."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset(
        {
            "system_status",
            "os_version",
            "default_address_pools",
            "firewall_backend",
            "product_license",
            "cdi_spec_dirs",
            "containerd",
        }
    )

    id: str = field(name="ID")
    containers: int = 0
    containers_running: int = 0
    containers_paused: int = 0
    containers_stopped: int = 0
    images: int = 0
    driver: str = ""
    driver_status: list[list[str]] = field(default_factory=list)
    system_status: list[list[str]] | None = None
    plugins: PluginsInfo = field(default_factory=PluginsInfo)
    memory_limit: bool = False
    swap_limit: bool = False
    cpu_cfs_period: bool = False
    cpu_cfs_quota: bool = False
    cpu_shares: bool = field(name="CPUShares", default=False)
    cpu_set: bool = field(name="CPUSet", default=False)
    pids_limit: bool = False
    ipv4_forwarding: bool = field(name="IPv4Forwarding", default=True)
    debug: bool = False
    n_fd: int = field(name="NFd", default=0)
    oom_kill_disable: bool = False
    n_goroutines: int = 0
    system_time: str = ""
    logging_driver: str = "json-file"
    cgroup_driver: str = "cgroupfs"
    cgroup_version: str = "2"
    n_events_listener: int = 0
    kernel_version: str = ""
    operating_system: str = ""
    os_version: str = field(name="OSVersion", default="")
    os_type: str = field(name="OSType", default="linux")
    architecture: str = ""
    index_server_address: str = "https://index.docker.io/v1/"
    registry_config: RegistryServiceConfig = field(default_factory=RegistryServiceConfig)
    ncpu: int = field(name="NCPU", default=0)
    mem_total: int = 0
    generic_resources: list[dict[str, Any]] | None = None
    docker_root_dir: str = ""
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    name: str = ""
    labels: list[str] = field(default_factory=list)
    experimental_build: bool = False
    server_version: str = ""
    runtimes: dict[str, RuntimeInfo] = field(default_factory=dict)
    default_runtime: str = ""
    swarm: SwarmInfo = field(default_factory=SwarmInfo)
    live_restore_enabled: bool = False
    isolation: str = ""
    init_binary: str = ""
    containerd_commit: Commit = field(default_factory=Commit)
    runc_commit: Commit = field(default_factory=Commit)
    init_commit: Commit = field(default_factory=Commit)
    security_options: list[str] = field(default_factory=list)
    product_license: str = ""
    default_address_pools: list[AddressPool] | None = None
    firewall_backend: FirewallInfo | None = None
    cdi_spec_dirs: list[str] = field(name="CDISpecDirs", default_factory=list)
    discovered_devices: list[dict[str, Any]] | None = None
    containerd: dict[str, Any] | None = None
    warnings: list[str] | None = None


class DiskUsage(Message, frozen=True, kw_only=True):
    """The answer to `GET /system/df`; None where the kind wasn't asked for."""

    layers_size: int = 0
    images: list[ImageSummary] | None = None
    containers: list[ContainerSummary] | None = None
    volumes: list[Volume] | None = None
    build_cache: list[dict[str, Any]] | None = None


class AuthConfig(Message, frozen=True, kw_only=True, rename="lower"):
    """The body of `POST /auth`: credentials that a client wants to have checked."""

    username: str = ""
    password: str = ""
    auth: str = ""
    email: str = ""
    server_address: str = field(name="serveraddress", default="")
    identity_token: str = field(name="identitytoken", default="")
    registry_token: str = field(name="registrytoken", default="")


class AuthReply(Message, frozen=True, kw_only=True):
    """The outcome of a check of credentials; the identity token replaces the password."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset({"identity_token"})

    status: str
    identity_token: str = ""
