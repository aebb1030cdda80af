"""What an engine is told at its start: flags of `scowd` over `daemon.json` over defaults. dockerd's names and keys."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from scow.engine import foreign_keys
from scow.engine.cache_limits import GcConfig, rules
from scow.engine.log_limits import parse_size
from scow.errors import InvalidArgument
from scow.runtime.cdi import SPEC_DIRS
from scow.wire.host_config import Ulimit

log = logging.getLogger(__name__)

DATA_ROOT = Path("/var/lib/scow")
EXEC_ROOT = Path("/run/scow")
CONFIG_FILE = Path("/etc/scow/daemon.json")
NO_BRIDGE = "none"
"""As the value of `bridge`: there is no default bridge."""

Count = Annotated[int, msgspec.Meta(ge=0)]


class InvalidConfig(InvalidArgument):
    """The configuration file, or its combination with the flags, makes no sense."""


class RuntimeConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A runtime that containers can ask for by name."""

    path: str = ""  # its program, or the name of one in the PATH; "" is the runtime's own name
    runtime_args: tuple[str, ...] = ()


class ProxyConfig(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """HTTP proxies for what the engine itself fetches: the key `proxies` of daemon.json."""

    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""

    def completed(self, environment: Mapping[str, str]) -> "ProxyConfig":
        """Take what isn't configured from the usual variables, in capitals or not, as dockerd does."""
        return ProxyConfig(
            **{
                name: getattr(self, name) or environment.get(name.upper()) or environment.get(name) or ""
                for name in self.__struct_fields__
            }
        )


class Entitlements(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """What builds may be allowed: dockerd's key `builder.entitlements`, with its defaults."""

    network_host: bool = True
    security_insecure: bool = False

    def names(self) -> list[str]:
        """Those that are on, as builds name them."""
        return [name.replace("_", ".") for name in self.__struct_fields__ if getattr(self, name)]


class BuilderConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How images are built: the key `builder` of daemon.json."""

    entitlements: Entitlements = Entitlements()
    gc: GcConfig = GcConfig()


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that an engine is configured with; field names are daemon.json's keys in snake case."""

    data_root: Path = DATA_ROOT
    exec_root: Path = EXEC_ROOT
    hosts: tuple[str, ...] = ()
    pidfile: Path | None = None
    proxies: ProxyConfig = ProxyConfig()
    registry_mirrors: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    default_runtime: str = ""
    runtimes: dict[str, RuntimeConfig] = {}
    storage_driver: str = ""
    bip: str = ""
    bridge: str = ""
    ip: str = ""  # the machine's address at which ports are published unless something else is said
    fixed_cidr: str = ""  # the part of the default bridge's subnet that containers get addresses of
    ipv6: bool = False  # of the default bridge
    bip6: str = ""
    fixed_cidr_v6: str = ""
    icc: bool = True  # whether containers on the default bridge reach each other
    ip_masq: bool = True
    userland_proxy: bool = True  # whether ports are reached at IPv6 addresses of the machine if containers have none
    default_address_pools: tuple[dict[str, Any], ...] = ()
    default_network_opts: dict[str, dict[str, str]] = {}  # options of new networks, by driver
    host_gateway_ips: tuple[str, ...] = ()  # what `host-gateway` means for containers
    host_gateway_ip: str = ""
    mtu: int = 0
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_opts: tuple[str, ...] = ()
    log_level: Literal["debug", "info", "warn", "error", "fatal"] = "info"
    log_format: Literal["text", "json"] = "text"
    log_driver: str = "json-file"
    log_opts: dict[str, str] = {}
    tls: bool = False
    tlsverify: bool = False
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""
    userns_remap: str = ""
    live_restore: bool = True
    labels: tuple[str, ...] = ()
    plugin_directories: tuple[str, ...] = ("/run/docker/plugins", "/etc/docker/plugins", "/usr/lib/docker/plugins")
    plugin_timeout: float = 30.0  # seconds that a volume plugin gets for an answer
    default_ulimits: dict[str, Ulimit] = {}
    default_shm_size: int = 64 << 20  # bytes
    default_ipc_mode: Literal["private", "shareable"] = "private"
    default_cgroupns_mode: Literal["", "private", "host"] = ""
    cgroup_parent: str = ""
    no_new_privileges: bool = False
    selinux_enabled: bool = False
    seccomp_profile: str = ""  # a file, `builtin` (or "") or `unconfined`
    oom_score_adjust: int = 0  # of the engine itself
    init: bool = False
    init_path: str = ""
    builder: BuilderConfig = BuilderConfig()
    layer_compression: Literal["gzip", "zstd"] = "gzip"  # Scow's own: of layers that were made here, when pushed
    keep_compressed_layers: bool = True  # Scow's own: without, a layer is kept as its tar alone
    max_concurrent_downloads: Count = 3  # 0 is no limit
    max_concurrent_uploads: Count = 5  # 0 is no limit
    max_download_attempts: Annotated[int, msgspec.Meta(ge=1)] = 5  # of uploads, too
    shutdown_timeout: int = 15  # seconds
    cdi_spec_dirs: tuple[str, ...] = SPEC_DIRS
    debug: bool = False
    group: str = "docker"
    experimental: bool = False
    min_api_version: str = ""
    metrics_addr: str = ""

    @property
    def default_network(self) -> str:
        """The network of containers that ask for none."""
        return "none" if self.bridge == NO_BRIDGE else "bridge"

    @property
    def engine_id(self) -> str:
        """Eight hexadecimal digits that tell this engine's links, tables and cgroups from other engines'.

        They follow from the data root, so that a restarted engine finds what it made.
        """
        return hashlib.sha256(str(self.data_root.resolve()).encode()).hexdigest()[:8]


KEYS = {field.replace("_", "-"): field for field in EngineConfig.__struct_fields__}


def read_config_file(path: Path, *, required: bool) -> dict[str, Any]:
    """Read `daemon.json` as a mapping of field names. Raises InvalidConfig; a missing file is empty unless required."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        if required:
            raise InvalidConfig(f"unable to configure the engine with file {path}: no such file") from error
        return {}
    except OSError as error:
        raise InvalidConfig(f"unable to configure the engine with file {path}: {error.strerror}") from error
    if not data.strip():
        return {}
    try:
        document = json.loads(data)
    except ValueError as error:
        raise InvalidConfig(f"unable to configure the engine with file {path}: {error}") from error
    if not isinstance(document, dict):
        raise InvalidConfig(f"unable to configure the engine with file {path}: it is not a JSON object")
    try:
        document, told = foreign_keys.check(document)
    except InvalidArgument as error:
        raise InvalidConfig(f"unable to configure the engine with file {path}: {error}") from error
    for each in told:
        log.warning("%s: %s", path, each)
    unknown = sorted(set(document) - set(KEYS))
    if unknown:
        raise InvalidConfig(
            f"unable to configure the engine with file {path}: the following directives don't match any configuration "
            f"option: {', '.join(unknown)}"
        )
    values = {KEYS[key]: value for key, value in document.items()}
    size = values.get("default_shm_size")
    if isinstance(size, str):
        try:
            values["default_shm_size"] = parse_size(size)
        except InvalidArgument as error:
            raise InvalidConfig(
                f"unable to configure the engine with file {path}: default-shm-size: {error}"
            ) from error
    return values


def make_config(
    flags: dict[str, Any], file: dict[str, Any], environment: Mapping[str, str] | None = None
) -> EngineConfig:
    """Combine flags that were given with the file's keys and the environment's proxies.

    Raises InvalidConfig for a key given as a flag and in the file, as dockerd does.
    """
    twice = sorted(name for name in flags if name in file and flags[name] != file[name])
    if twice:
        listed = ", ".join(
            f"{name.replace('_', '-')}: (from flag: {flags[name]}, from file: {file[name]})" for name in twice
        )
        raise InvalidConfig(
            "unable to configure the engine: the following directives are specified both as a flag and in the "
            f"configuration file: {listed}"
        )
    try:
        config = msgspec.convert({**file, **flags}, EngineConfig, strict=False, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        raise InvalidConfig(f"unable to configure the engine: {_of_keys(str(error))}") from error
    check_api_version(config.min_api_version)
    try:
        rules(config.builder.gc, 0)
    except InvalidArgument as error:
        raise InvalidConfig(f"unable to configure the engine: builder.gc: {error}") from error
    return msgspec.structs.replace(config, proxies=config.proxies.completed(environment or {}))


def _of_keys(complaint: str) -> str:
    """What msgspec says of `$.data_root`, said of the key `data-root`."""
    what, _, place = complaint.partition(" - at `$.")
    field, dot, inner = place.rstrip("`").partition(".")
    return f"{field.replace('_', '-')}{dot}{inner}: {what}" if place else complaint


def check_api_version(text: str) -> None:
    """Raises InvalidConfig for a `min-api-version` that isn't one of those that are served."""
    major, dot, minor = text.partition(".")
    if text and not (dot and major == "1" and minor.isdigit() and 24 <= int(minor) <= 50):
        raise InvalidConfig(f"unable to configure the engine: min-api-version: {text!r} is none of 1.24 to 1.50")


def _decode_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str | Path):
        return Path(value).absolute()  # conmon and the runtime work in folders of their own
    raise NotImplementedError(f"{kind} is no type of a configuration key")  # msgspec's word for "not mine"
