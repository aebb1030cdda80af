"""What a container holds of the machine while it runs: its mounted file system, its network, its monitor.

`acquire` makes them in order and undoes all of it if a step fails; `release` gives everything back and may be called
at any time, also after a crash, since each part knows from its own record what there is to undo.
"""

import asyncio
import contextlib
import logging
import os
import posixpath
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from scow import points
from scow.engine import default_security, mount_points
from scow.engine.config import EngineConfig
from scow.engine.container import Container, ContainerTable
from scow.engine.container_mounts import ContainerMounts, container_of
from scow.engine.endpoints import endpoint_request, main_network, names_of
from scow.engine.links import Links
from scow.engine.log_limits import limits_of
from scow.engine.network_files import write_network_files
from scow.engine.record import ContainerRecord
from scow.engine.user_namespaces import UserNamespaces, give_streams
from scow.engine.validation import parse_host_ports, parse_port
from scow.errors import Conflict, ScowError
from scow.linux import cgroup
from scow.linux.group_moves import GroupMoves
from scow.network.model import Port, Sandbox
from scow.network.networks import Networks
from scow.runtime import cdi, controllers, selinux
from scow.runtime.attach import AttachStream
from scow.runtime.bundle import BundleContext, BundleMount, make_spec, security_options
from scow.runtime.exec import ExecProcess, ExecSpec, start_exec
from scow.runtime.monitor import Alive, Exit, Exited, Lost, Monitors, NoSuchRun
from scow.runtime.oci_runtime import OciRuntime
from scow.runtime.oom import OomWatch
from scow.runtime.selection import clear_checks
from scow.runtime.user import ProcessUser, resolve_user
from scow.store.overlay import Shift
from scow.store.store import Store
from scow.wire.container import ContainerConfig
from scow.wire.exec import ExecCreateRequest
from scow.wire.host_config import DeviceRequest, HostConfig

log = logging.getLogger(__name__)

RECOVERY_PATIENCE_S: Final = 2.0
T = TypeVar("T")
U = TypeVar("U")


class Resources:
    """Makes and gives back what runs need. `on_exit` is called once for each run that ends."""

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        table: ContainerTable,
        networks: Networks,
        mounts: ContainerMounts,
        runtimes: dict[str, OciRuntime],
        default_runtime: str,
        security: default_security.DefaultSecurity,
        users: UserNamespaces | None,
    ) -> None:
        self.users = users
        self._config = config
        self.security = security
        self._base_labels: selinux.Labels | None = None
        self._store = store
        self._table = table
        self._networks = networks
        self.mounts = mounts
        self._patience_s: float | None = RECOVERY_PATIENCE_S  # until `reconcile`: a plugin must not delay the start
        self.runtimes = runtimes
        self.default_runtime = default_runtime
        self._cgroup = f"/scow-{config.engine_id}"
        self._moves = GroupMoves()
        self.on_exit: Callable[[Exit], None] = lambda ended: None
        self.on_oom: Callable[[str], None] = lambda id: None
        self._ooms = OomWatch(lambda id: self.on_oom(id))
        self.links = Links(table, self._bridge_address)
        self.before_run: Callable[[Container], Awaitable[None]] = _nothing
        self._monitors = Monitors(config.exec_root, runtimes[default_runtime], lambda ended: self.on_exit(ended))

    @classmethod
    async def open(
        cls,
        config: EngineConfig,
        store: Store,
        table: ContainerTable,
        networks: Networks,
        mounts: ContainerMounts,
        users: UserNamespaces | None,
        choosing: Awaitable[tuple[dict[str, OciRuntime], str]],
    ) -> "Resources":
        """Listen for exits of runs, by the runtimes that were found. Raises InvalidConfig for a seccomp profile that
        can't be read, and what `choosing` (`choose_runtimes`) raises."""
        security = await asyncio.to_thread(default_security.read, config)
        runtimes, default = await choosing
        resources = cls(config, store, table, networks, mounts, runtimes, default, security, users)
        if config.selinux_enabled:
            if selinux.is_enabled():
                resources._base_labels = await asyncio.to_thread(selinux.base_labels)
                mounts.labels = resources.labels
                store.snapshots.label = resources._label_of
            else:
                log.warning("selinux-enabled: this machine's kernel has SELinux switched off: containers get no labels")
        resources._monitors.open()
        return resources

    async def aclose(self) -> None:
        """Stop listening; containers run on. Without any, the engine's own group goes."""
        await self._monitors.aclose()
        self._ooms.close()
        if not any(container.state.live for container in self._table):
            await asyncio.to_thread(cgroup.remove, self._cgroup)
            await asyncio.to_thread(controllers.release)

    # --- a run

    def expect_processes(self) -> None:
        """Say that processes will be started in containers in a moment: what the kernel needs for it begins now."""
        self._moves.expect()

    async def acquire(self, container: Container, created: Callable[[Container], Awaitable[None]]) -> int:
        """Bring up one run and return its pid; `created` is awaited when the process exists and has not begun."""
        record = container.record
        self.links.check(container)
        self.expect_processes()
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._store.snapshots.unmount, record.id)
            undo.push_async_callback(self._networks.release, record.id)
            undo.push_async_callback(self.mounts.hide, record)
            rootfs, namespace = await _both(self._store.snapshots.mount(record.id), self._connect(container))
            await points.at("start.connected")
            groups = record.host_config.group_add or []
            user = await asyncio.to_thread(self._look, container, rootfs, groups)
            spec = await self._spec(container, rootfs, namespace, user)
            await points.at("start.specified")
            await self.before_run(container)
            await asyncio.to_thread(self.links.refresh, container)
            is_logged = record.host_config.log_config.type != "none"
            pid = await self._monitors.create(
                record.id,
                spec,
                terminal=record.config.tty,
                open_stdin=record.config.open_stdin,
                stdin_once=record.config.stdin_once,
                log_path=container.log_path if is_logged else None,
                log_max_size=limits_of(record.host_config.log_config).backstop,
                owner=shift[1:] if (shift := self._shift(record.host_config)) is not None else (0, 0),
                shm_size=record.host_config.shm_size if record.host_config.ipc_mode == "shareable" else None,
                runtime=self.runtimes.get(record.runtime),
            )
            undo.push_async_callback(self._monitors.delete, record.id)
            container.told_of_oom = self._ooms.watch(record.id, self._monitors.bundle(record.id))
            owner = self._outside(record.host_config, user)
            if owner is not None and not record.config.tty:
                await asyncio.to_thread(give_streams, pid, owner)
            await self.mounts.created(record.id)
            await points.at("start.created")
            await created(container)
            await points.at("start.attached")
            await self._monitors.start(record.id)
            await points.at("start.begun")
            undo.pop_all()
        return pid

    def _look(self, container: Container, rootfs: Path, groups: Sequence[str]) -> ProcessUser:
        """Find the user in a mounted file system, in which all is ready for a run afterwards. Blocks."""
        self.prepare(container, rootfs, runs=True)
        return resolve_user(rootfs, container.record.config.user, groups)

    def prepare(self, container: Container, rootfs: Path, *, runs: bool = False) -> None:
        """Before the first run, make what is mounted over in a mounted file system (see `mount_points`). Blocks."""
        # Shifted, what we make wouldn't be the container's: there it is left to the runtime.
        if not container.state.ever_started and self._shift(container.record.host_config) is None:
            mount_points.prepare(rootfs, container.record, runs=runs)

    async def release(self, container: Container) -> None:
        """Give back everything of a run that ended, or never came up. Idempotent."""
        group = self._group_of(container.record)
        await asyncio.gather(self._monitors.delete(container.id, group=group), self._networks.release(container.id))
        await self.mounts.hide(container.record, patience_s=self._patience_s)
        if container.id in set(self._store.snapshots.keys()):
            await self._store.snapshots.unmount(container.id)

    async def finish_start(self, container: Container) -> None:
        """Let a created process go, whose start an earlier engine process did not come to."""
        with contextlib.suppress(Exception):  # it may have begun already: then there is nothing to let go
            await self._monitors.start(container.id)

    async def probe(self, container: Container) -> Alive | Exited | Lost:
        """What became of a run that an earlier engine process began."""
        found = await self._monitors.probe(container.id)
        if isinstance(found, Alive):
            container.told_of_oom = self._ooms.watch(container.id, self._monitors.bundle(container.id))
        return found

    async def reconcile(self, live: Collection[str], ended: Collection[str] = ()) -> None:
        """Remove what is left of all runs but those that are `live`, or have `ended` and are still to be settled."""
        kept = {*live, *ended}
        self._patience_s = None
        await asyncio.to_thread(clear_checks, self._config.exec_root)
        snapshots = self._store.snapshots
        mounted = [key for key in snapshots.keys() if snapshots.mounted(key)]  # noqa: SIM118 - a method
        left = set(self._monitors.known_ids()) | {container_of(key) for key in mounted}
        for id in sorted(left - kept):
            try:
                await self._monitors.delete(id)
                for key in mounted:
                    if container_of(key) == id:
                        await snapshots.unmount(key)
            except (ScowError, OSError):
                log.exception("what is left of container %s could not be given back", id)

    # --- a running container

    async def attach(self, container: Container, *, stdin: bool) -> AttachStream:
        """Connect to what the container writes and, with `stdin`, reads: only then its end can end the input."""
        return await self._monitors.attach(container.id, stdin=stdin)

    def cut(self, container: Container) -> None:
        """End the output of all who are attached: one that doesn't read may hold the run's end up."""
        self._monitors.cut(container.id)

    async def kill(self, container: Container, number: int) -> None:
        """Signal the first process; nothing happens if it has ended meanwhile."""
        with contextlib.suppress(NoSuchRun):
            await self._monitors.kill(container.id, number)

    async def pause(self, container: Container) -> None:
        """Freeze all processes."""
        await self._monitors.pause(container.id)

    async def resume(self, container: Container) -> None:
        """Let frozen processes go on."""
        await self._monitors.resume(container.id)

    async def resize(self, container: Container, height: int, width: int) -> None:
        """Tell the terminal its size."""
        with contextlib.suppress(NoSuchRun):
            await self._monitors.resize(container.id, height, width)

    async def update(self, container: Container, limits: Mapping[str, object]) -> None:
        """Change a running container's limits: linux.resources of the runtime-spec. Raises RuntimeFailed."""
        await self._monitors.update(container.id, limits)

    async def lift_process_limit(self, container: Container) -> None:
        """Take a running container's limit of processes away, which crun can't. Raises OSError."""
        await asyncio.to_thread(cgroup.lift_process_limit, self.group(container))

    async def reopen_log(self, container: Container) -> None:
        """Have the log written to a new file. Raises NoSuchRun."""
        await self._monitors.reopen_log(container.id)

    def group(self, container: Container) -> str:
        """The running container's control group. Raises NoSuchRun."""
        return self._monitors.cgroups_path(container.id)

    async def pids(self, container: Container) -> list[int]:
        """All processes of the container."""
        return await asyncio.to_thread(cgroup.processes, self._monitors.cgroups_path(container.id))

    async def renamed(self, container: Container) -> None:
        """Let others on its networks find the container by its new name."""
        record = container.record
        await self._networks.rename(
            record.id,
            record.name,
            lambda endpoint: names_of(record, record.endpoints[endpoint.network_name]) if endpoint.names else (),
        )

    # --- the parts

    async def _connect(self, container: Container) -> Path | None:
        """Attach the container to its networks; the namespace's path, None for the machine's own."""
        record = container.record
        host = record.host_config
        mode = host.network_mode
        if mode.startswith("container:"):
            other = self._table.get(mode.partition(":")[2])
            if not other.state.live:
                raise Conflict(f"cannot join network of a non running container: {other.id}")
            return Path(f"/proc/{other.state.pid}/ns/net")
        attachments = {
            network.name: (network, asked)
            for network, asked in ((self._networks.get(name), asked) for name, asked in record.endpoints.items())
        }
        # Disconnected from all of them, a container has a loopback and nothing else.
        first = next((name for name, (network, _) in attachments.items() if mode in (name, network.id)), "")
        sandbox: Sandbox = await self._networks.sandbox(
            record.id, first or next(iter(attachments), "none"), machines=self._shift(host) is None
        )
        published, main = published_ports(container), main_network(attachments)
        for name, (network, asked) in sorted(attachments.items(), key=lambda item: item[0] != first):
            request = endpoint_request(record, network, asked)
            await self._networks.connect(sandbox, name, request, published if name == main else ())
        return sandbox.path

    async def _spec(self, container: Container, rootfs: Path, namespace: Path | None, user: ProcessUser) -> bytes:
        record = container.record
        host = record.host_config
        edits = await asyncio.to_thread(self._edits, host.device_requests) if host.device_requests else []
        mounts = await self._mounts(container)
        return make_spec(
            self._linked_config(container),
            host,
            BundleContext(
                id=record.id,
                rootfs=rootfs,
                args=record.args,
                user=user,
                hostname=self._hostname(container),
                mounts=tuple(mounts),
                network_namespace=namespace,
                cgroups_path=self._group_of(record),
                pid_namespace=self._joined(host.pid_mode, "pid"),
                ipc_namespace=self._joined(host.ipc_mode, "ipc"),
                user_namespace=shift.namespace if (shift := self._shift(host)) is not None else None,
                ids=self.users.ids if self.users is not None and shift is not None else None,
                shared_memory=self._shared_memory(container),
                default_ulimits=tuple(self._config.default_ulimits.values()),
                labels=self.labels(record),
                security=self.security.options(privileged=host.privileged),
                edits=edits,
                init=host.init if host.init is not None else self._config.init,
                init_path=self._config.init_path,
            ),
        )

    def _shift(self, host: HostConfig) -> Shift | None:
        return self.users.shift_of(host) if self.users is not None else None

    def _outside(self, host: HostConfig, user: ProcessUser) -> tuple[int, int] | None:
        return self.users.outside(host, user) if self.users is not None else None

    def labels(self, record: ContainerRecord) -> selinux.Labels | None:
        """The SELinux labels of a container; None where it has none."""
        if self._base_labels is None:
            return None
        return selinux.labels_of(record.id, security_options(record.host_config.security_opt).labels, self._base_labels)

    def _label_of(self, key: str) -> str:
        """Of the files in a snapshot: of its container, a build's by its key alone."""
        id = container_of(key)
        container = self._table.find_id(id)
        assert self._base_labels is not None
        found = selinux.labels_of(id, (), self._base_labels) if container is None else self.labels(container.record)
        return found.files if found is not None else ""

    def _group_of(self, record: ContainerRecord) -> str:
        above = cgroup_parent(record.host_config.cgroup_parent or self._config.cgroup_parent) or self._cgroup
        return f"{above}/{record.id}"

    def _edits(self, requests: Sequence[DeviceRequest]) -> list[cdi.Edits]:
        registry = cdi.Registry(self._config.cdi_spec_dirs)
        return registry.edits(registry.select(requests))

    def _bridge_address(self, id: str) -> str:
        found = [each.ip for each in self._networks.of_container(id) if each.network_name == "bridge"]
        return found[0] if found else ""

    def _linked_config(self, container: Container) -> ContainerConfig:
        """The configuration with variables of linked containers before its own."""
        config = container.record.config
        told = self.links.environment(container)
        return msgspec.structs.replace(config, env=[*told, *(config.env or ())]) if told else config

    def _hostname(self, container: Container) -> str:
        """A container that lives in another's network has the other's name."""
        mode = container.record.host_config.network_mode
        named = self._table.get(mode.partition(":")[2]) if mode.startswith("container:") else container
        return named.record.config.hostname

    def _joined(self, mode: str, kind: str) -> Path | None:
        """The namespace of another container that a mode `container:...` names."""
        if not mode.startswith("container:"):
            return None
        other = self._table.get(mode.partition(":")[2])
        if not other.state.live:
            raise Conflict(f"cannot join {kind.upper()} of a non running container: {other.id}")
        return Path(f"/proc/{other.state.pid}/ns/{kind}")

    def _shared_memory(self, container: Container) -> Path | None:
        """The /dev/shm that containers share: one's own to be shared, or another's to be joined."""
        mode = container.record.host_config.ipc_mode
        if mode == "shareable":
            return self._monitors.shared_memory(container.id)
        if mode.startswith("container:"):
            other = self._table.get(mode.partition(":")[2])
            if other.record.host_config.ipc_mode != "shareable":
                raise Conflict(
                    f"can't join IPC of container {other.id}: non-shareable IPC (hint: use IpcMode:shareable for the "
                    "donor container)"
                )
            return self._monitors.shared_memory(other.id)
        return None

    async def _mounts(self, container: Container) -> list[BundleMount]:
        record = container.record
        found: list[BundleMount] = []
        files = await write_network_files(
            container, self._table, self._networks, self._config, self.links.hosts(container)
        )
        shift = self._shift(record.host_config)
        if shift is not None:
            await asyncio.to_thread(_give, [path for path in files.values() if path.parent == container.folder], shift)
        taken = {mount.destination for mount in record.mounts}
        for destination, source in files.items():
            if destination not in taken:
                rw = not record.host_config.readonly_rootfs
                found.append(BundleMount(source=str(source), destination=destination, type="bind", rw=rw))
        return [*found, *await self.mounts.show(record)]

    # --- exec

    async def exec(
        self, container: Container, request: ExecCreateRequest, *, attached: bool, console_size: list[int] | None
    ) -> ExecProcess:
        """Run a command in a running container."""
        record = container.record
        self.expect_processes()
        rootfs = self._store.snapshots.mount_point(record.id)
        try:
            user = await asyncio.to_thread(resolve_user, rootfs, request.user or record.config.user, [])
        except ScowError as error:
            if self._monitors.is_ending(record.id):  # its file system may be gone
                raise NoSuchRun(record.id) from error
            raise
        return await start_exec(
            self._monitors,
            record.id,
            ExecSpec(
                args=tuple(request.cmd or ()),
                config=self._linked_config(container),
                host=record.host_config,
                user=user,
                env=tuple(request.env or ()),
                cwd=request.working_dir or record.config.working_dir or "/",
                tty=request.tty,
                privileged=request.privileged or record.host_config.privileged,
                attached=attached,
                stdin=request.attach_stdin,
                default_ulimits=tuple(self._config.default_ulimits.values()),
                owner=self._outside(record.host_config, user),
                selinux_label=labels.process if (labels := self.labels(record)) is not None else "",
                no_new_privileges=self.security.no_new_privileges,
                console_size=(console_size[0], console_size[1]) if console_size and len(console_size) == 2 else None,
            ),
        )


def cgroup_parent(asked: str) -> str:
    """The group below which a container's is to be, absolute and without `..`; "" if none is asked for."""
    return posixpath.normpath(f"/{asked}").rstrip("/") if asked.strip("/") else ""


def _give(files: Sequence[Path], shift: Shift) -> None:
    """Let a container's root own files that are mounted into it."""
    for path in files:
        os.chown(path, shift.uid, shift.gid)


async def _nothing(container: Container) -> None:
    """Nothing has to be looked at before a run."""


async def _both(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """Await two steps at once; if one fails or we are cancelled, the other has come to its end too when this raises."""
    one, two = asyncio.ensure_future(first), asyncio.ensure_future(second)
    try:
        return await asyncio.gather(one, two)
    finally:
        for task in (one, two):
            task.cancel()
        await asyncio.gather(one, two, return_exceptions=True)


def published_ports(container: Container) -> list[Port]:
    """What a container's port bindings, and `-P`, ask to be published."""
    host = container.record.host_config
    found: list[Port] = []
    for name, bindings in (host.port_bindings or {}).items():
        number, protocol = parse_port(name)
        for binding in bindings or []:
            first, last = parse_host_ports(binding.host_port)
            found.append(
                Port(
                    container_port=number,
                    protocol=protocol,
                    host_ip=binding.host_ip,
                    host_port=first,
                    last_host_port=last if last != first else 0,
                )
            )
    if host.publish_all_ports:
        for name in container.record.config.exposed_ports or {}:
            if name not in (host.port_bindings or {}):
                number, protocol = parse_port(name)
                found.append(Port(container_port=number, protocol=protocol))
    return found
