"""What the engine tells about itself and its machine. Engine API, /info, /version, /auth."""

import asyncio
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import scow
from scow.engine.config import EngineConfig
from scow.engine.container import ContainerTable
from scow.engine.events import Events
from scow.engine.log_options import OPTIONS
from scow.linux.cgroup import is_unified
from scow.oci.platform import host_platform
from scow.runtime.oci_runtime import OciRuntime
from scow.runtime.selinux import is_enabled as selinux_is_enabled
from scow.store.store import Store
from scow.transfer.credentials import Credentials
from scow.transfer.login import authenticate
from scow.transfer.registries import Registries
from scow.wire.system import (
    AuthConfig,
    AuthReply,
    Commit,
    ComponentVersion,
    FirewallInfo,
    IndexInfo,
    Info,
    PluginsInfo,
    RegistryServiceConfig,
    RuntimeInfo,
    Version,
    VersionPlatform,
)
from scow.wire.times import format_time

API_VERSION: Final = "1.50"
MIN_API_VERSION: Final = "1.24"
DOCKER_VERSION: Final = "28.2.2"
"""The dockerd whose behaviour is spoken. Clients compare `ServerVersion` as docker's: ours stands in Components."""


def without_password(url: str) -> str:
    """A URL as it may be shown: name and password are crossed out, as dockerd does."""
    scheme, mark, rest = url.rpartition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}{mark}{'xxxxx:xxxxx' if user else ''}{at}{host}"


class System:
    """Answers about the whole."""

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        registries: Registries,
        table: ContainerTable,
        events: Events,
        runtimes: dict[str, OciRuntime],
        default_runtime: str,
        driver: str,
        volume_drivers: Callable[[], Sequence[str]],
    ) -> None:
        self._volume_drivers = volume_drivers
        self._config = config
        self._store = store
        self._registries = registries
        self._table = table
        self._events = events
        self._runtimes = runtimes
        self._default_runtime = default_runtime
        self._driver = driver
        self._runtime_version = ""

    def reconfigure(self, config: EngineConfig) -> None:
        """Tell of another configuration from now on."""
        self._config = config

    async def version(self) -> Version:
        """GET /version."""
        uname = os.uname()
        architecture = host_platform().architecture
        runtime = self._runtimes[self._default_runtime]
        details = {
            "ApiVersion": API_VERSION,
            "Arch": architecture,
            "BuildTime": "",
            "Experimental": "true" if self._config.experimental else "false",
            "GitCommit": "",
            "GoVersion": f"python{platform.python_version()}",
            "KernelVersion": uname.release,
            "MinAPIVersion": self._config.min_api_version or MIN_API_VERSION,
            "Os": "linux",
            "ScowVersion": scow.__version__,
        }
        return Version(
            platform=VersionPlatform(name=f"Scow Engine {scow.__version__}"),
            components=[
                ComponentVersion(name="Engine", version=DOCKER_VERSION, details=details),
                ComponentVersion(name="scow", version=scow.__version__, details={"GitCommit": ""}),
                ComponentVersion(name=runtime.name, version=await self._version_of(runtime), details={"GitCommit": ""}),
            ],
            version=DOCKER_VERSION,
            api_version=API_VERSION,
            min_api_version=self._config.min_api_version or MIN_API_VERSION,
            git_commit="",
            go_version=f"python{platform.python_version()}",
            os="linux",
            arch=architecture,
            kernel_version=uname.release,
            experimental=self._config.experimental,
            build_time="",
        )

    async def info(self) -> Info:
        """GET /info."""
        states = [container.state for container in self._table]
        running = sum(state.status == "running" for state in states)
        paused = sum(state.status == "paused" for state in states)
        uname = os.uname()
        policy = self._registries.policy
        runtime_version = await self._version_of(self._runtimes[self._default_runtime])
        unified = is_unified()
        memory, descriptors, system = await asyncio.to_thread(_machine)
        security = [f"name=seccomp,profile={self._config.seccomp_profile or 'builtin'}"]
        if self._config.selinux_enabled and selinux_is_enabled():
            security.append("name=selinux")
        if self._config.userns_remap:
            security.append("name=userns")
        if self._config.no_new_privileges:
            security.append("name=no-new-privileges")
        if unified:
            security.append("name=cgroupns")
        return Info(
            experimental_build=self._config.experimental,
            id=self._config.engine_id,
            containers=len(states),
            containers_running=running,
            containers_paused=paused,
            containers_stopped=len(states) - running - paused,
            images=len(self._store.images.all()),
            driver=self._driver,
            driver_status=[
                ["Backing Filesystem", "extfs"],
                ["Layers", "mounted" if self._driver == "erofs" else "unpacked"],
            ],
            plugins=PluginsInfo(
                volume=list(self._volume_drivers()),
                network=["bridge", "host", "ipvlan", "macvlan", "null"],
                authorization=None,
                log=sorted(OPTIONS),
            ),
            memory_limit=True,
            swap_limit=True,
            cpu_cfs_period=True,
            cpu_cfs_quota=True,
            cpu_shares=True,
            cpu_set=True,
            pids_limit=True,
            ipv4_forwarding=True,
            debug=self._config.debug,
            n_fd=descriptors,
            n_goroutines=len(asyncio.all_tasks()),
            system_time=format_time(time.time_ns()),
            logging_driver=self._config.log_driver,
            cgroup_driver="cgroupfs",
            cgroup_version="2" if unified else "1",
            n_events_listener=self._events.listeners,
            kernel_version=uname.release,
            operating_system=system,
            architecture=uname.machine,
            registry_config=RegistryServiceConfig(
                insecure_registry_cidrs=policy.insecure_networks,
                index_configs={
                    "docker.io": IndexInfo(
                        name="docker.io", mirrors=list(self._config.registry_mirrors), secure=True, official=True
                    ),
                    **{host: IndexInfo(name=host, secure=False) for host in policy.insecure_hosts},
                },
                mirrors=list(self._config.registry_mirrors),
            ),
            ncpu=os.cpu_count() or 1,
            mem_total=memory,
            docker_root_dir=str(self._config.data_root),
            http_proxy=without_password(self._config.proxies.http_proxy),
            https_proxy=without_password(self._config.proxies.https_proxy),
            no_proxy=self._config.proxies.no_proxy,
            name=uname.nodename,
            labels=list(self._config.labels),
            server_version=DOCKER_VERSION,
            runtimes={
                name: RuntimeInfo(path=str(runtime.path), runtime_args=list(runtime.arguments) or None)
                for name, runtime in self._runtimes.items()
            },
            default_runtime=self._default_runtime,
            live_restore_enabled=True,
            init_binary="catatonit",
            containerd_commit=Commit(),
            runc_commit=Commit(id=runtime_version),
            init_commit=Commit(),
            security_options=security,
            cdi_spec_dirs=list(self._config.cdi_spec_dirs),
            firewall_backend=FirewallInfo(driver="nftables"),
            warnings=None,
        )

    async def _version_of(self, runtime: OciRuntime) -> str:
        """The default runtime's version, asked of it once."""
        if not self._runtime_version:
            process = await asyncio.create_subprocess_exec(
                runtime.path, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
            )
            output, _ = await process.communicate()
            # `crun version 1.8.1`, `runc version 1.1.5+ds1`
            words = output.decode(errors="replace").split()
            self._runtime_version = words[2] if len(words) > 2 else "unknown"
        return self._runtime_version

    async def auth(self, credentials: AuthConfig) -> AuthReply:
        """POST /auth: check credentials with their registry."""
        status, token = await authenticate(
            Credentials(
                username=credentials.username,
                password=credentials.password,
                server_address=credentials.server_address,
                identity_token=credentials.identity_token,
                registry_token=credentials.registry_token,
            ),
            self._registries,
        )
        return AuthReply(status=status, identity_token=token)


def _machine() -> tuple[int, int, str]:
    """Memory in bytes, open descriptors of this process, and the distribution's name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    descriptors = len(os.listdir("/proc/self/fd"))
    name = "Linux"
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        if Path(path).exists():
            for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("PRETTY_NAME="):
                    name = line.partition("=")[2].strip('"')
            break
    return memory, descriptors, name
