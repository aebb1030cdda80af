"""Creating a container: what was asked for, completed by its image and the engine's defaults, checked and recorded."""

import asyncio
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from scow import points
from scow.engine import validation
from scow.engine.config import EngineConfig
from scow.engine.container import Container, ContainerTable
from scow.engine.container_mounts import ContainerMounts
from scow.engine.endpoints import HOST_ONLY, NO_NETWORK, SHARES_NETWORK, check_endpoint, parse_link
from scow.engine.events import Events
from scow.engine.image_lookup import get_image
from scow.engine.merging import arguments, merge_config
from scow.engine.mount_points import IN_CONTAINER
from scow.engine.mounts import parse_volumes_from, resolve_mounts
from scow.engine.names import check_name, random_name
from scow.engine.record import ContainerRecord, MountRecord, now_ns
from scow.engine.user_namespaces import check_user_namespace
from scow.engine.volumes import Volumes
from scow.errors import InvalidArgument, NotFound
from scow.linux.cgroup import is_unified
from scow.network import model
from scow.network.networks import Networks
from scow.oci.digest import Digest
from scow.oci.image_config import ExecConfig
from scow.oci.platform import parse_platform, satisfies
from scow.runtime.limits import limits_weight
from scow.runtime.profile import MASKED_PATHS, READONLY_PATHS
from scow.store.store import Store
from scow.wire.container import ContainerConfig, CreateReply, CreateRequest
from scow.wire.host_config import HostConfig, LogConfig, RestartPolicy
from scow.wire.network import EndpointSettings


class Creation:
    """Makes records and writable layers of new containers."""

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        table: ContainerTable,
        volumes: Volumes,
        mounts: ContainerMounts,
        networks: Networks,
        events: Events,
        runtimes: Mapping[str, object],
        default_runtime: str,
        *,
        remapped: bool,
    ) -> None:
        self._remapped = remapped
        self._config = config
        self._store = store
        self._table = table
        self._volumes = volumes
        self._mounts = mounts
        self._networks = networks
        self._events = events
        self._runtimes = runtimes
        self._default_runtime = default_runtime

    async def create(self, request: CreateRequest, name: str | None, platform: str | None) -> CreateReply:
        """Create a container. Raises NoSuchImage, NameInUse, and InvalidArgument for what can't be."""
        if name:
            name = check_name(name)
        asked, host = _split(request)
        wanted = parse_platform(platform) if platform else None
        validation.check_request(asked, host, request.networking_config)
        image, image_exec, found = None, ExecConfig(), None
        if asked.image:
            found = get_image(self._store.images, asked.image)
            if wanted is not None and not satisfies(found.platform, wanted):
                raise NotFound(
                    f"image with reference {asked.image} was found but its platform ({found.platform}) does not "
                    f"match the specified platform ({wanted})"
                )
            image = found.id
            image_exec = (await self._store.images.config(found.id)).exec
        config = merge_config(asked, image_exec)
        args = arguments(config)
        host, warnings = self._complete(config, host)
        validation.check_container(config, host)
        id = secrets.token_hex(32)
        if not config.hostname and host.network_mode != "host":
            joined = host.network_mode.startswith("container:")
            named = self._named(host.network_mode.partition(":")[2]).record.config.hostname if joined else id[:12]
            config = msgspec.structs.replace(config, hostname=named)
        mounts = self._mounts.resolved(resolve_mounts(config, host, self._inherited(host)))
        endpoints = self._endpoints(host, request)
        links = self._links(host)
        name = name or random_name(self._table.is_name_taken)
        self._table.reserve(name)
        try:
            async with self._volumes.claimed(mounts), AsyncExitStack() as undo:
                await self._make_sources(mounts)
                drafts = await self._volumes.draft(mounts)
                undo.push_async_callback(self._volumes.discard, drafts)
                await points.at("create.volumes")
                diff_ids = found.diff_ids if found else ()
                undo.push_async_callback(self._store.snapshots.remove, id)
                await self._store.snapshots.prepare(id, diff_ids)
                await points.at("create.snapshot")
                await self._mounts.prepare_images(id, mounts, undo)
                await self._mounts.fill(mounts, drafts, diff_ids)
                folder = self._table.folder(id)
                undo.push_async_callback(asyncio.to_thread, shutil.rmtree, folder, True)
                await asyncio.to_thread(_make_files, folder, self._store.snapshots.upper(id))
                await points.at("create.folder")
                container = await self._table.add(
                    ContainerRecord(
                        id=id,
                        name=name,
                        created_at=now_ns(),
                        config=config,
                        host_config=host,
                        image=image,
                        manifest=Digest(found.manifest) if found and found.manifest else None,
                        image_name=asked.image,
                        args=args,
                        diff_ids=tuple(diff_ids),
                        mounts=tuple(self._mounts.completed(mounts)),
                        endpoints=endpoints,
                        links=links,
                        runtime=host.runtime,
                    ),
                    self._volumes.inserting(drafts),
                )
                self._volumes.adopt(drafts)
                undo.pop_all()
        finally:
            self._table.release(name)
        await points.at("create.recorded")
        self._events.emit("container", "create", id, attributes_of(container))
        return CreateReply(id=id, warnings=warnings)

    def _complete(self, config: ContainerConfig, host: HostConfig) -> tuple[HostConfig, list[str]]:
        """Fill in the engine's defaults; what they mean for the caller comes as warnings."""
        host, warnings = discarded(host)
        mode = host.network_mode
        if mode in ("", "default", "bridge"):  # whoever asks for a bridge that isn't there gets none, as with dockerd
            mode = self._config.default_network
        if config.network_disabled:
            mode = "none"
        if self._remapped:
            check_user_namespace(msgspec.structs.replace(host, network_mode=mode))
        if host.runtime and host.runtime not in self._runtimes:
            raise InvalidArgument(f"unknown or invalid runtime name: {host.runtime}")
        unified = is_unified()
        privileged = host.privileged
        if mode in ("host", "none") and (host.port_bindings or host.publish_all_ports):
            warnings.append("Published ports are discarded when using host network mode") if mode == "host" else None
        changes: dict[str, object] = {
            "network_mode": mode,
            "runtime": host.runtime or self._default_runtime,
            "ipc_mode": host.ipc_mode or self._config.default_ipc_mode,
            "cgroupns_mode": host.cgroupns_mode
            or self._config.default_cgroupns_mode
            or ("private" if unified and not privileged else "host"),
            "shm_size": host.shm_size or self._config.default_shm_size,
            "log_config": self._log_config(host),
            "restart_policy": host.restart_policy if host.restart_policy.name else RestartPolicy(name="no"),
            "masked_paths": _paths(host.masked_paths, MASKED_PATHS, privileged),
            "readonly_paths": _paths(host.readonly_paths, READONLY_PATHS, privileged),
        }
        warnings += _unmet(host)
        for name in ("network_mode", "ipc_mode", "pid_mode"):
            kind, colon, ref = str(changes.get(name, getattr(host, name))).partition(":")
            if kind == "container" and colon:
                changes[name] = f"container:{self._named(ref).id}"  # whatever it is called later
        if host.oom_kill_disable is None and not unified:
            changes["oom_kill_disable"] = False
        elif host.oom_kill_disable is not None and unified:
            changes["oom_kill_disable"] = None
            if host.oom_kill_disable:
                warnings.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
        if privileged or host.ipc_mode == "host" or host.pid_mode == "host":
            changes["security_opt"] = list(dict.fromkeys([*(host.security_opt or []), "label=disable"]))
        if host.memory > 0 and host.memory_swap == 0:
            changes["memory_swap"] = host.memory * 2
        if host.memory_swappiness == -1:  # docker's client says so when nothing was asked for
            changes["memory_swappiness"] = None
        if host.pids_limit is not None and host.pids_limit <= 0:
            changes["pids_limit"] = None
        return msgspec.structs.replace(host, **changes), warnings

    def _log_config(self, host: HostConfig) -> LogConfig:
        if host.log_config.type:
            return LogConfig(type=host.log_config.type, config=host.log_config.config or {})
        return LogConfig(
            type=self._config.log_driver, config={**self._config.log_opts, **(host.log_config.config or {})}
        )

    def _inherited(self, host: HostConfig) -> list[MountRecord]:
        found: list[MountRecord] = []
        for spec in host.volumes_from or []:
            ref, read_only = parse_volumes_from(spec)
            source = self._named(ref)
            found += [
                msgspec.structs.replace(mount, rw=mount.rw and not read_only, mode="")
                for mount in source.record.mounts
                if mount.type != "tmpfs"
            ]
        return found

    def _named(self, ref: str) -> Container:
        """A container that the request names. Raises InvalidArgument: clients take 404 as a missing image, and pull."""
        try:
            return self._table.get(ref)
        except NotFound as error:
            raise InvalidArgument(str(error)) from error

    def _links(self, host: HostConfig) -> dict[str, str]:
        """The links of the default bridge: alias -> the linked container's ID. Raises InvalidArgument."""
        found: dict[str, str] = {}
        if host.network_mode.startswith("container:") or self._networks.get(host.network_mode).resolves:
            return found
        for link in host.links or ():
            alias, ref = parse_link(link)
            try:
                child = self._table.get(ref)
            except NotFound as error:
                raise InvalidArgument(f"could not get container for {ref}: {error}") from error
            if child.record.host_config.network_mode == "host":
                raise InvalidArgument("conflicting options: host type networking can't be used with links")
            found[alias] = child.id
        return found

    async def _make_sources(self, mounts: list[MountRecord]) -> None:
        for mount in mounts:
            if mount.type == "bind" and mount.create_source:
                await asyncio.to_thread(_make_source, mount.source)

    def _endpoints(self, host: HostConfig, request: CreateRequest) -> dict[str, EndpointSettings]:
        """The attachments asked for, by network name; if there are none, the network mode's.

        Raises InvalidArgument for networks that can't be had together.
        """
        asked = (request.networking_config.endpoints_config if request.networking_config else None) or {}
        endpoints = {name: settings or EndpointSettings() for name, settings in asked.items()}
        for name in ("default", "bridge"):
            if name in endpoints:
                endpoints[self._config.default_network] = endpoints.pop(name)
        mode = host.network_mode
        if mode.startswith("container:"):
            self._named(mode.partition(":")[2])
            if len(endpoints) > 1:
                raise InvalidArgument(SHARES_NETWORK)
            return {}
        try:
            main = self._networks.get(mode).name
            endpoints = {self._networks.get(name).name: settings for name, settings in endpoints.items()}
        except NotFound as error:
            raise InvalidArgument(str(error)) from error  # clients take 404 as a missing image, and pull
        endpoints = endpoints or {main: EndpointSettings()}
        for name, settings in endpoints.items():
            check_endpoint(self._networks.get(name), settings)
        if len(endpoints) > 1 and model.NONE in endpoints:
            raise InvalidArgument(NO_NETWORK)
        if (mode == model.HOST or model.HOST in endpoints) and (main != model.HOST or set(endpoints) != {model.HOST}):
            raise InvalidArgument(HOST_ONLY)
        return endpoints


def _split(request: CreateRequest) -> tuple[ContainerConfig, HostConfig]:
    fields = {name: getattr(request, name) for name in ContainerConfig.__struct_fields__}
    return ContainerConfig(**fields), request.host_config or HostConfig()


def discarded(host: HostConfig) -> tuple[HostConfig, list[str]]:
    """The configuration without what this machine can't do, and what was left out, in docker's words."""
    found, changes = [], dict[str, Any]()
    if host.blkio_weight and not limits_weight():
        found.append("Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.")
        changes["blkio_weight"] = 0
    if host.blkio_weight_device and not limits_weight():
        found.append(
            "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. "
            "Weight-device discarded."
        )
        changes["blkio_weight_device"] = []
    return msgspec.structs.replace(host, **changes), found


def _unmet(host: HostConfig) -> list[str]:
    """What was asked for and is dangerous, or has no effect on Linux, in docker's words."""
    found = []
    if host.oom_kill_disable and host.memory == 0:
        found.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system "
            "running out of resources."
        )
    if host.cpu_percent > 0:
        found.append("linux does not support CPU percent. Percent discarded.")
    return found


def _paths(asked: list[str] | None, default: tuple[str, ...], privileged: bool) -> list[str] | None:
    if asked is not None:
        return asked
    return None if privileged else list(default)


def _make_files(folder: Path, upper: Path) -> None:
    folder.mkdir(0o710, parents=True)
    os.close(os.open(f"{upper}{IN_CONTAINER}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o755))


def _make_source(path: str) -> None:
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        return  # a file: binding it is fine
    except OSError as error:
        raise InvalidArgument(
            f"error while creating mount source path '{path}': mkdir {path}: {error.strerror}"
        ) from error


def attributes_of(container: Container) -> dict[str, str]:
    """What events of a container carry: its labels, image and name."""
    return {
        **(container.record.config.labels or {}),
        "image": container.record.image_name,
        "name": container.name,
    }
